//! Reservations, seats and counts that are read.

use super::*;

fn page() -> SeatFilter {
    SeatFilter { limit: 200, ..SeatFilter::default() }
}

#[tokio::test]
async fn a_reservation_that_cannot_be_read_is_not_called_missing() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.reservations.expect_find().once().return_once(move |_, _, _| Err(failure));

        mocks.service().find(RESERVATION, ACCOUNT).await
    })
    .await;
}

#[tokio::test]
async fn reservations_that_cannot_be_read_are_not_called_none() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.reservations.expect_list().once().return_once(move |_, _, _, _| Err(failure));

        mocks.service().list(ACCOUNT, None, 50).await
    })
    .await;
}

#[tokio::test]
async fn seats_are_not_read_when_their_performance_cannot_be() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.sales.expect_terms().once().return_once(move |_, _| Err(failure));

        mocks.service().seats(PERFORMANCE, &page()).await
    })
    .await;
}

#[tokio::test]
async fn seats_of_an_unknown_performance_are_not_read() {
    let mut mocks = Mocks::default();
    mocks.sales.expect_terms().once().return_once(|_, _| Ok(None));

    is_refused(&mocks.service().seats(PERFORMANCE, &page()).await, Error::NotFound);
}

#[tokio::test]
async fn seats_that_cannot_be_read_are_not_called_none() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.sales.expect_terms().once().return_once(|_, _| Ok(Some(TERMS)));
        mocks.reservations.expect_seats().once().return_once(move |_, _, _| Err(failure));

        mocks.service().seats(PERFORMANCE, &page()).await
    })
    .await;
}

#[tokio::test]
async fn seats_that_cannot_be_counted_are_not_called_none() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.reservations.expect_seat_counts().once().return_once(move |_, _| Err(failure));

        mocks.service().seat_counts(PERFORMANCE).await
    })
    .await;
}

#[tokio::test]
async fn seats_that_the_store_does_not_count_are_corrupt_and_not_none() {
    let mut mocks = Mocks::default();
    mocks.reservations.expect_seat_counts().once().return_once(|_, _| Ok(Vec::new()));

    is_corrupt(&mocks.service().seat_counts(PERFORMANCE).await, "reservation.seat_counts");
}
