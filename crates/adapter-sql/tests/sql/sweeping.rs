//! Buyers and sweepers that compete for the same seats.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use usher_adapter_sql::{SqlCatalogueRepository, SqlReservationRepository};
use usher_concert::{SeatMap, SectionPlan};
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{AccountId, Claim, Fingerprint, Money, PerformanceId, ReservationId, Timestamp};
use usher_reservation::audit;
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, ReleaseOutcome, ReservationHistory as _, ReservationRepository as _,
    ReservationRepositoryExt as _, SeatWish,
};

use crate::backend::{Backend, On, on_every_database};

on_every_database! {
    sweepers_and_buyers_of_the_same_seats_never_see_a_deadlock
}

const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const BUYERS: u32 = 8;
const SWEEPERS: u32 = 2;
const TURNS: u32 = 60;
/// Few seats, so that all buyers compete.
const SEATS: u32 = 24;
const SEATS_PER_HOLD: u32 = 3;

/// A clock that advances by a millisecond on each read.
struct Time(AtomicI64);

impl Time {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

fn wish(buyer: u32, turn: u32) -> HoldCommand {
    let n = buyer * TURNS + turn;
    let account = AccountId::from_bytes(u128::from(buyer).to_be_bytes());
    // Each command starts at another seat and names its seats backwards, so the commands impose no order of locks.
    let seats = (0..SEATS_PER_HOLD).rev().map(|i| (n * 7 + i * 5) % SEATS + 1);
    HoldCommand {
        id: ReservationId::from_bytes(u128::from(u64::MAX - u64::from(n)).to_be_bytes()),
        performance: PERFORMANCE,
        account,
        pass: PassNumber(u64::from(n)),
        seats: SeatWish::Named(seats.map(|seat| format!("A-1-{seat}").parse().unwrap()).collect()),
        seat_limit: 1_000,
        // Short, so that most holds lapse while the other buyers look for seats.
        hold_ttl: Duration::from_millis(20),
        claim: Claim { account, key: format!("hold-{n}").parse().unwrap(), fingerprint: Fingerprint([0; 32]) },
    }
}

/// LESSONS S15. Buyers and sweepers take their locks in one order. A unit that still loses a race is rolled back and
/// runs again.
async fn sweepers_and_buyers_of_the_same_seats_never_see_a_deadlock<B: Backend>() {
    let fixture = On::<B>::new().await;
    let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
    let seats_per_row = u16::try_from(SEATS).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row, grade: "R".into(), price };
    let map = SeatMap::from_sections(&[section]).unwrap();
    seed_through(&SqlCatalogueRepository::new(fixture.database.clone()), PERFORMANCE, &map).await;
    let repository = SqlReservationRepository::new(fixture.database.clone());
    let time = Time(AtomicI64::new(1_700_000_000_000));
    let (n_buying, n_taken, n_expired) = (AtomicU32::new(BUYERS), AtomicU32::new(0), AtomicU32::new(0));

    let buyer = async |buyer: u32| {
        for turn in 0..TURNS {
            let outcome = repository.hold_one(&wish(buyer, turn), time.now()).await.unwrap();
            match outcome {
                HoldOutcome::Held(held) if turn.is_multiple_of(4) => {
                    let released = repository.release(held.id, held.account, time.now()).await.unwrap();
                    assert!(!matches!(released, ReleaseOutcome::NotFound), "{released:?}");
                }
                HoldOutcome::Held(_) => {}
                HoldOutcome::Taken(_) => drop(n_taken.fetch_add(1, Ordering::SeqCst)),
                other => panic!("{other:?}"),
            }
        }
        n_buying.fetch_sub(1, Ordering::SeqCst);
    };
    let sweeper = async || {
        while n_buying.load(Ordering::SeqCst) > 0 {
            let n = repository.expire_lapsed(time.now(), 100).await.unwrap();
            n_expired.fetch_add(n, Ordering::SeqCst);
        }
    };
    tokio::join!(join_all((0..BUYERS).map(buyer)), join_all((0..SWEEPERS).map(|_| sweeper())));

    assert!(n_taken.into_inner() > 0 && n_expired.into_inner() > 0, "buyers and sweepers competed");
    let history = repository.history(PERFORMANCE).await.unwrap();
    assert_eq!(audit::check(&history).contradictions, [""; 0]);
}
