//! Queries that select by time or status, compared with the functions of the domain.

use std::collections::BTreeMap;

use usher_reservation::judge::SeatHolding;
use usher_reservation::judge::hold::Owned;

use super::*;

/// Reservations of each kind; their deadlines are a millisecond apart.
const STEPS: u32 = 5;

/// One buyer's seats in every state: held and being paid, with deadlines a millisecond apart, sold, released, and free.
async fn stocked<F: Fixture>() -> Stage<F> {
    let stage = Stage::<F>::with_seats(16).await;
    let held = |n: u32| HoldCommand {
        account: account(1),
        claim: claim(1, &format!("hold-{n}"), n),
        seat_limit: 100,
        hold_ttl: MS * (1 + (n - 1) % STEPS),
        ..stage.wish(n, &[&format!("A-1-{n}")])
    };
    let pay = |n: u32| PayCommand {
        account: account(1),
        claim: claim(1, &format!("pay-{n}"), n),
        resolve_after: MS * (1 + (n - 1) % STEPS),
        ..stage.payment(n)
    };
    for n in 1..=2 * STEPS + 2 {
        stage.held(&held(n)).await;
    }
    for n in STEPS + 1..=2 * STEPS + 1 {
        stage.begun(&pay(n)).await;
    }
    assert!(matches!(stage.settle(2 * STEPS + 1, &captured(1, 1), NOW).await, Some(Settled::Confirmed(_))));
    let released = stage.repository.release(ReservationId::from_bytes(id(2 * STEPS + 2)), account(1), NOW).await;
    assert!(matches!(released.unwrap(), ReleaseOutcome::Released(_)));
    stage
}

impl<F: Fixture> Stage<F> {
    /// The holding of each seat that has an event, as it is stored.
    async fn holdings(&self) -> BTreeMap<SeatId, SeatHolding> {
        let events = self.history().await.events.into_iter();
        let holding = |event: audit::SeatEvent| {
            let stored = SeatHolding::from_stored(event.status, event.owner, event.held_until);
            (event.seat, stored.unwrap())
        };
        events.map(holding).collect()
    }

    /// The buyer's reservations, as they are stored.
    async fn stored(&self) -> Vec<Reservation> {
        self.repository.list(account(1), None, 201, Timestamp::EPOCH).await.unwrap()
    }
}

/// 13: lists, counts, overdue payments, the limit and the free seats, at every instant around every deadline.
pub async fn queries_select_what_the_rules_say_of_the_stored_values<F: Fixture>() {
    let stage = stocked::<F>().await;
    let (holdings, stored) = (stage.holdings().await, stage.stored().await);
    let everything = SeatFilter { limit: 201, ..SeatFilter::default() };
    let all = stage.repository.seats(stage.performance, &everything, NOW).await.unwrap();
    let instants = (0..=STEPS + 1).map(|n| MS * n).chain([MINUTE - MS, MINUTE, MINUTE + MS]);

    for now in instants.map(|span| NOW.plus(span)) {
        let status = |seat: &SeatId| holdings.get(seat).map_or(SeatStatus::Available, |one| one.status_at(now));
        let mut counts = SeatCounts { total: all.len() as u64, ..SeatCounts::default() };
        for wanted in SeatStatus::ALL {
            let expected: Vec<_> = all.iter().map(|one| &one.seat).filter(|seat| status(seat) == wanted).collect();
            let filter = SeatFilter { status: Some(wanted), ..everything.clone() };
            let found = stage.repository.seats(stage.performance, &filter, now).await.unwrap();
            assert_eq!(found.iter().map(|one| &one.seat).collect::<Vec<_>>(), expected, "{wanted:?} at {now:?}");
            assert!(found.iter().all(|one| one.status == wanted), "{wanted:?} at {now:?}");
            let count = match wanted {
                SeatStatus::Available => &mut counts.available,
                SeatStatus::Held => &mut counts.held,
                SeatStatus::Sold => &mut counts.sold,
            };
            *count = expected.len() as u64;
        }
        assert_eq!(stage.counts(now).await, counts);

        let overdue = stored.iter().filter_map(|one| match one.state {
            State::Paying(payment) if payment.is_overdue(now) => Some(payment.attempt),
            _ => None,
        });
        let mut unsettled: Vec<_> = stage.repository.unsettled(now, 100).await.unwrap();
        unsettled.sort_unstable_by_key(|one| one.attempt);
        assert_eq!(unsettled.iter().map(|one| one.attempt).collect::<Vec<_>>(), overdue.collect::<Vec<_>>());

        let owned = stored.iter().filter_map(Owned::of).filter(|owned| owned.counts_at(now));
        let n_owned = u32::try_from(owned.map(|owned| owned.n_seats).sum::<usize>()).unwrap();
        let limited = |seat_limit| HoldCommand { account: account(1), seat_limit, ..stage.wish(90, &["A-1-16"]) };
        assert_eq!(stage.hold_at(now, &limited(n_owned)).await, HoldOutcome::LimitReached, "at {now:?}");
        let n_free = u32::try_from(counts.available).unwrap();
        let too_many = HoldCommand { seat_limit: 100, ..stage.best(91, n_free + 1, None) };
        assert_eq!(stage.hold_at(now, &too_many).await, HoldOutcome::NotEnoughSeats, "at {now:?}");
    }
    assert_eq!(stage.stored().await, stored, "looking changed nothing");
    stage.close().await;
}

/// 12 and 13: the best seats are chosen among exactly the free ones, lapsed holds included.
pub async fn the_best_seats_are_chosen_among_all_that_are_free<F: Fixture>() {
    for span in [MS * 3, MINUTE] {
        let (stage, now) = (stocked::<F>().await, NOW.plus(span));
        let holdings = stage.holdings().await;
        let is_free = |seat: &SeatId| holdings.get(seat).is_none_or(|one| one.status_at(now) == SeatStatus::Available);
        let free: Vec<_> = (1..=16).map(|n| seat(&format!("A-1-{n}"))).filter(is_free).collect();
        let count = u32::try_from(free.len()).unwrap();

        let held = stage.held_at(now, &HoldCommand { seat_limit: 100, ..stage.best(91, count, None) }).await;

        let mut chosen: Vec<_> = held.seats.into_iter().map(|reserved| reserved.seat).collect();
        chosen.sort_by_key(|name| free.iter().position(|one| one == name));
        assert_eq!(chosen, free);
        stage.close().await;
    }
}

/// 10 and 13: the sweeper expires exactly the holds that have lapsed.
pub async fn the_sweeper_expires_exactly_what_has_lapsed<F: Fixture>() {
    let stage = stocked::<F>().await;

    for span in (0..=STEPS + 1).map(|n| MS * n) {
        let now = NOW.plus(span);
        let lapsed = stage.stored().await.into_iter().filter(|one| one.clone().expire(now).is_ok());
        let n_lapsed = u32::try_from(lapsed.count()).unwrap();
        assert_eq!(stage.repository.expire_lapsed(now, 1_000).await.unwrap(), n_lapsed, "at {now:?}");
    }
    assert!(stage.stored().await.iter().all(|one| one.state != State::Held));
    stage.close().await;
}
