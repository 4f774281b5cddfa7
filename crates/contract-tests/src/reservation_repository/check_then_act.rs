//! The negative controls: stores with a gap between check and act. The suite must reject them.

use std::sync::Mutex;

use super::best_seats::{RUSH, nobody_is_refused_while_seats_are_free};
use super::races::one_gets_the_seat;
use super::*;
use crate::race::Gap;

/// Checks that the seat is free, and takes it after other callers could check too.
#[derive(Default)]
struct CheckThenAct {
    owner: Mutex<Option<ReservationId>>,
    gap: Gap,
}

impl CheckThenAct {
    async fn hold(&self, command: HoldCommand) -> HoldOutcome {
        let is_free = self.owner.lock().unwrap().is_none();
        // As long as a database takes to answer the check.
        self.gap.wait_for_others().await;
        if !is_free {
            return HoldOutcome::Taken(vec![seat("A-1-1")]);
        }
        *self.owner.lock().unwrap() = Some(command.id);
        HoldOutcome::Held(reservation(&command))
    }
}

fn reservation(command: &HoldCommand) -> Reservation {
    let price = Money::new(PRICE, "KRW".parse().unwrap()).unwrap();
    Reservation {
        id: command.id,
        performance: command.performance,
        account: command.account,
        pass: command.pass,
        seats: vec![usher_reservation::ReservedSeat { seat: seat("A-1-1"), grade: "VIP".into(), price }],
        total: price,
        created_at: NOW,
        held_until: NOW.plus(command.hold_ttl),
        held_until_original: NOW.plus(command.hold_ttl),
        declined: 0,
        version: 1,
        state: State::Held,
    }
}

fn wish(n: u32) -> HoldCommand {
    HoldCommand {
        id: ReservationId::from_bytes(id(n)),
        performance: PerformanceId::from_bytes(id(1)),
        account: account(n),
        pass: PassNumber(u64::from(n)),
        seats: named(&["A-1-1"]),
        seat_limit: 4,
        hold_ttl: HOLD_TTL,
        claim: claim(n, "hold", n),
    }
}

#[tokio::test]
#[should_panic(expected = "one gets the seat")]
async fn holding_by_what_was_seen_is_rejected() {
    let control = Arc::new(CheckThenAct::default());
    let commands = (1..=1_000).map(wish).collect();

    let outcomes = hold_at_once(commands, |command| {
        let control = Arc::clone(&control);
        async move { control.hold(command).await }
    })
    .await;

    one_gets_the_seat(&outcomes, "A-1-1");
}

/// Chooses the first free block before it takes the lock, so that concurrent callers choose the same block.
#[derive(Default)]
struct ChooseThenTake {
    n_taken: Mutex<u32>,
    gap: Gap,
}

impl ChooseThenTake {
    async fn hold(&self, count: u32) -> (u32, HoldOutcome) {
        let seen = *self.n_taken.lock().unwrap();
        self.gap.wait_for_others().await;
        let mut n_taken = self.n_taken.lock().unwrap();
        if *n_taken != seen {
            return (count, HoldOutcome::NotEnoughSeats);
        }
        *n_taken += count;
        let price = Money::new(PRICE, "KRW".parse().unwrap()).unwrap();
        let seats = (seen..seen + count).map(|i| usher_reservation::ReservedSeat {
            seat: seat(&format!("A-1-{}", i + 1)),
            grade: "VIP".into(),
            price,
        });
        (count, HoldOutcome::Held(Reservation { seats: seats.collect(), ..reservation(&wish(1)) }))
    }
}

#[tokio::test]
#[should_panic(expected = "are refused while seats are free")]
async fn choosing_before_the_step_that_takes_is_rejected() {
    let control = Arc::new(ChooseThenTake::default());
    let rushing = (0..RUSH).map(|n| {
        let control = Arc::clone(&control);
        async move { control.hold(n % 4 + 1).await }
    });

    let outcomes = race_all(rushing).await;

    nobody_is_refused_while_seats_are_free(&outcomes, 1_600);
}

#[tokio::test]
async fn only_the_rush_rejects_the_control() {
    let control = ChooseThenTake::default();

    let outcomes = [control.hold(2).await, control.hold(3).await];

    assert_eq!(nobody_is_refused_while_seats_are_free(&outcomes, 10), 5);
}

#[tokio::test]
async fn only_the_race_rejects_the_control() {
    let control = CheckThenAct::default();

    let outcomes = [control.hold(wish(1)).await, control.hold(wish(2)).await];

    one_gets_the_seat(&outcomes, "A-1-1");
}
