//! Reads: reservations of an account, and lists and counts of seats.

use super::*;

/// 11.
pub async fn what_belongs_to_another_account_is_not_found<F: Fixture>() {
    let stage = Stage::<F>::with_seats(1).await;
    let mine = stage.held(&stage.wish(1, &["A-1-1"])).await;
    let other = account(2);
    let pay = PayCommand { account: other, claim: claim(2, "confirm", 1), ..stage.payment(1) };

    assert_eq!(stage.repository.find(mine.id, other, NOW).await.unwrap(), None);
    assert_eq!(stage.repository.list(other, None, 10, NOW).await.unwrap(), []);
    assert_eq!(stage.repository.release(mine.id, other, NOW).await.unwrap(), ReleaseOutcome::NotFound);
    assert_eq!(stage.begin(&pay).await, PayOutcome::NotFound);
    let its_key = Claim { account: other, ..stage.wish(1, &[]).claim };
    assert_eq!(stage.repository.find_hold(&its_key, NOW).await.unwrap(), None);
    assert_eq!(stage.repository.find(mine.id, account(1), NOW).await.unwrap(), Some(mine));
    stage.close().await;
}

/// Pages of an account's reservations, as they read at `now`.
pub async fn reservations_come_in_pages_in_the_order_of_ids<F: Fixture>() {
    let stage = Stage::<F>::with_seats(5).await;
    for n in [4, 2, 5, 1, 3] {
        let wish = HoldCommand {
            account: account(1),
            seat_limit: 10,
            claim: claim(1, &format!("key-{n}"), n),
            ..stage.wish(n, &[&format!("A-1-{n}")])
        };
        stage.held(&wish).await;
    }
    let page = async |after: Option<u32>, limit, now| -> Vec<Reservation> {
        let after = after.map(|n| ReservationId::from_bytes(id(n)));
        stage.repository.list(account(1), after, limit, now).await.unwrap()
    };
    let ids = |page: &[Reservation]| page.iter().map(|one| *one.id.as_bytes()).collect::<Vec<_>>();

    assert_eq!(ids(&page(None, 2, NOW).await), [id(1), id(2)]);
    assert_eq!(ids(&page(Some(2), 10, NOW).await), [id(3), id(4), id(5)]);
    assert_eq!(page(Some(5), 10, NOW).await, []);
    let lapsed = page(None, 10, NOW.plus(HOLD_TTL)).await;
    assert!(lapsed.iter().all(|reservation| reservation.state == State::Expired));
    stage.close().await;
}

/// 3: lists and counts as they read at `now`, the board as it is stored.
pub async fn seats_are_listed_counted_and_drawn_as_they_are<F: Fixture>() {
    let fixture = F::fresh().await;
    let performance = PerformanceId::from_bytes(id(1));
    let map = SeatMap::from_sections(&[section("B", 3, "VIP", 9), section("A", 2, "R", 5)]).unwrap();
    fixture.seed(performance, &map).await;
    let stage = Stage::new(fixture, performance);
    stage.sold(1, &["B-1-3"]).await;
    stage.held(&stage.wish(2, &["A-1-1"])).await;
    let list = async |filter: SeatFilter, now| -> Vec<String> {
        let seats = stage.repository.seats(performance, &filter, now).await.unwrap();
        seats.into_iter().map(|one| one.seat.to_string()).collect()
    };
    let all = SeatFilter { limit: 201, ..SeatFilter::default() };
    let of = |status| SeatFilter { status: Some(status), ..all.clone() };
    let lapse = NOW.plus(HOLD_TTL);

    assert_eq!(list(all.clone(), NOW).await, ["B-1-1", "B-1-2", "B-1-3", "A-1-1", "A-1-2"]);
    assert_eq!(list(SeatFilter { limit: 2, ..all.clone() }, NOW).await, ["B-1-1", "B-1-2"]);
    assert_eq!(list(SeatFilter { after: Some(2), ..all.clone() }, NOW).await, ["A-1-1", "A-1-2"]);
    assert_eq!(list(SeatFilter { grade: Some("R".into()), ..all.clone() }, NOW).await, ["A-1-1", "A-1-2"]);
    assert_eq!(list(of(SeatStatus::Sold), NOW).await, ["B-1-3"]);
    assert_eq!(list(of(SeatStatus::Held), NOW).await, ["A-1-1"]);
    assert_eq!(list(of(SeatStatus::Held), lapse).await, [""; 0]);
    assert_eq!(list(of(SeatStatus::Available), lapse).await, ["B-1-1", "B-1-2", "A-1-1", "A-1-2"]);
    let first = stage.repository.seats(performance, &all, NOW).await.unwrap().remove(0);
    assert_eq!((first.index, first.section.as_str(), first.row, first.number), (0, "B", 1, 1));
    assert_eq!((first.grade.as_str(), first.price.amount()), ("VIP", 9));

    assert_eq!(stage.counts(NOW).await, SeatCounts { total: 5, available: 3, held: 1, sold: 1 });
    assert_eq!(stage.counts(lapse).await, SeatCounts { total: 5, available: 4, held: 0, sold: 1 });
    let nothing = stage.repository.seat_counts(&[PerformanceId::from_bytes(id(9))], NOW).await.unwrap();
    assert_eq!(nothing, [SeatCounts::default()]);

    use SeatStatus::{Available, Held, Sold};
    let drawn = stored_statuses(&*stage.events, performance).await;
    assert_eq!(drawn, [Available, Available, Sold, Held, Available]);
    stage.close().await;
}
