//! A race at the opening of a sale: an operator replaces the map just before it, and buyers hold seats just after it.

use std::time::Duration;

use usher_adapter_sql::{SqlCatalogueRepository, SqlReservationRepository};
use usher_concert::{CatalogueRepository as _, ReplaceSeatsOutcome, SeatMap, SectionPlan};
use usher_contract_tests::race::{RACERS, race};
use usher_contract_tests::reservation_repository::seed_through;
use usher_kernel::{AccountId, Claim, Fingerprint, Money, PerformanceId, ReservationId, Timestamp};
use usher_reservation::Reservation;
use usher_reservation::audit;
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, ReservationHistory as _, ReservationRepository as _, SeatWish,
};

use crate::backend::{Backend, On, on_every_database};

on_every_database! {
    a_map_replaced_as_the_sale_opens_takes_no_seat_from_a_buyer
}

/// In each round, the calls arrive in another order.
const ROUNDS: u8 = 20;
const BEFORE: Timestamp = Timestamp::EPOCH;
const AFTER: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

/// Seats `A-1-1` and on, one for each racer, at this price.
fn map(price: i64) -> SeatMap {
    let price = Money::new(price, "KRW".parse().unwrap()).unwrap();
    let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: u16::from(RACERS), grade: "R".into(), price };
    SeatMap::from_sections(&[section]).unwrap()
}

fn wish(performance: PerformanceId, round: u8, n: u8) -> HoldCommand {
    let mut id = [n; 16];
    id[0] = round;
    HoldCommand {
        id: ReservationId::from_bytes(id),
        performance,
        account: AccountId::from_bytes(id),
        pass: PassNumber(u64::from(n)),
        seats: SeatWish::Named(vec![format!("A-1-{}", n + 1).parse().unwrap()]),
        seat_limit: 1,
        hold_ttl: Duration::from_secs(300),
        claim: Claim {
            account: AccountId::from_bytes(id),
            key: "hold".parse().unwrap(),
            fingerprint: Fingerprint([n; 32]),
        },
    }
}

enum Told {
    Replaced(ReplaceSeatsOutcome),
    Held(Reservation),
}

async fn a_map_replaced_as_the_sale_opens_takes_no_seat_from_a_buyer<B: Backend>() {
    let fixture = On::<B>::new().await;
    let catalogue = SqlCatalogueRepository::new(fixture.database.clone());
    let reservations = SqlReservationRepository::new(fixture.database.clone());
    for round in 1..=ROUNDS {
        let performance = PerformanceId::from_bytes([round; 16]);
        seed_through(&catalogue, performance, &map(100)).await;

        let told = race(|n| {
            let (catalogue, reservations) = (catalogue.clone(), reservations.clone());
            async move {
                // The operator's call is somewhere in the middle of the others.
                if n == round {
                    return Told::Replaced(catalogue.replace_seats(performance, &map(200), BEFORE).await.unwrap());
                }
                match reservations.hold(&[wish(performance, round, n)], AFTER).await.unwrap().remove(0) {
                    HoldOutcome::Held(held) => Told::Held(held),
                    refused => panic!("no two buyers want the same seat: {refused:?}"),
                }
            }
        })
        .await;

        let mut held = Vec::new();
        let mut replaced = None;
        for told in told {
            match told {
                Told::Held(one) => held.push(one),
                Told::Replaced(outcome) => replaced = Some(outcome),
            }
        }
        let price = match replaced {
            Some(ReplaceSeatsOutcome::Replaced { map_version: 2 }) => 200,
            Some(ReplaceSeatsOutcome::Locked) => 100,
            other => panic!("{other:?}"),
        };
        assert!(held.iter().all(|held| held.total.amount() == price), "seats are sold at the prices of the stored map");
        let stored = catalogue.seat_map(performance).await.unwrap().unwrap();
        assert_eq!((stored.version, stored.map), (if price == 200 { 2 } else { 1 }, map(price)));
        let history = reservations.history(performance).await.unwrap();
        assert_eq!(audit::check(&history).contradictions, [""; 0], "every buyer whose hold succeeded has the seat");
        for held in held {
            let owner = history.seats.iter().find(|record| record.seat == held.seats[0].seat).unwrap().owner;
            assert_eq!(owner, Some(held.id));
        }
    }
}
