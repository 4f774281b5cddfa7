//! Holds and releases.

use super::*;

fn request() -> HoldRequest {
    let seats = SeatWish::Named(vec![SEAT.into()]);
    HoldRequest { performance: PERFORMANCE, account: ACCOUNT, pass: Some("pass".into()), seats, claim: claim() }
}

/// The sale is in this phase, and the gate says this of the pass.
fn at_the_gate(phase: SalePhase, pass: GateOutcome) -> Mocks {
    let mut mocks = Mocks::default();
    mocks.sales.expect_terms().once().return_once(move |_, _| Ok(Some(SaleTerms { phase, ..TERMS })));
    mocks.gate.expect_check().once().return_const(pass);
    mocks
}

fn admitted() -> Mocks {
    at_the_gate(SalePhase::Open, GateOutcome::Admitted(PASS))
}

#[tokio::test]
async fn a_request_for_no_seat_calls_no_port() {
    for seats in [SeatWish::Named(Vec::new()), SeatWish::Best { count: 0, grade: None }] {
        let refused = Mocks::default().service().hold(HoldRequest { seats, ..request() }).await;

        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_hold_whose_terms_cannot_be_read_asks_neither_the_gate_nor_the_store() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.sales.expect_terms().once().return_once(move |_, _| Err(failure));

        mocks.service().hold(request()).await
    })
    .await;
}

#[tokio::test]
async fn a_hold_of_an_unknown_performance_asks_neither_the_gate_nor_the_store() {
    let mut mocks = Mocks::default();
    mocks.sales.expect_terms().once().return_once(|_, _| Ok(None));

    is_refused(&mocks.service().hold(request()).await, Error::NotFound);
}

#[tokio::test]
async fn a_hold_without_a_pass_asks_neither_the_gate_nor_the_store() {
    let mut mocks = Mocks::default();
    mocks.sales.expect_terms().once().return_once(|_, _| Ok(Some(TERMS)));

    is_refused(&mocks.service().hold(HoldRequest { pass: None, ..request() }).await, Error::PassRequired);
}

#[tokio::test]
async fn a_hold_that_the_gate_or_the_sale_refuses_does_not_reach_the_store() {
    for (phase, pass, expected) in [
        (SalePhase::Open, GateOutcome::Invalid, Error::PassInvalid),
        (SalePhase::Open, GateOutcome::Mismatch, Error::PassMismatch),
        (SalePhase::Closed, GateOutcome::Invalid, Error::PassInvalid),
        (SalePhase::NotOpen, GateOutcome::Admitted(PASS), Error::SaleNotOpen),
    ] {
        is_refused(&at_the_gate(phase, pass).service().hold(request()).await, expected);
    }
}

/// The pass has expired or the sale is over. A hold is answered only if it was made before.
const TOO_LATE: [(SalePhase, GateOutcome); 2] =
    [(SalePhase::Open, GateOutcome::Expired), (SalePhase::Closed, GateOutcome::Admitted(PASS))];

#[tokio::test]
async fn a_repeated_hold_that_cannot_be_looked_up_is_not_refused_as_too_late() {
    for (phase, pass) in TOO_LATE {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = at_the_gate(phase, pass);
            let find = mocks.reservations.expect_find_hold().once();
            find.withf(|of, now| *of == claim() && *now == NOW).return_once(move |_, _| Err(failure));

            mocks.service().hold(request()).await
        })
        .await;
    }
}

#[tokio::test]
async fn a_hold_that_comes_too_late_and_was_not_made_before_holds_nothing() {
    for ((phase, pass), expected) in TOO_LATE.into_iter().zip([Error::PassExpired, Error::SaleClosed]) {
        let mut mocks = at_the_gate(phase, pass);
        mocks.reservations.expect_find_hold().once().return_once(|_, _| Ok(None));

        is_refused(&mocks.service().hold(request()).await, expected);
    }
}

#[tokio::test]
async fn a_hold_that_the_store_failed_to_make_is_tried_once() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = admitted();
        mocks.reservations.expect_hold().once().return_once(move |_, _| Err(failure));

        mocks.service().hold(request()).await
    })
    .await;
}

#[tokio::test]
async fn a_hold_that_the_store_does_not_answer_is_corrupt_and_not_missing() {
    let mut mocks = admitted();
    mocks.reservations.expect_hold().once().return_once(|_, _| Ok(Vec::new()));

    is_corrupt(&mocks.service().hold(request()).await, "reservation.hold");
}

#[tokio::test]
async fn a_release_that_the_store_failed_to_make_is_tried_once() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.reservations.expect_release_all().once().return_once(move |_, _| Err(failure));

        mocks.service().release(RESERVATION, ACCOUNT).await
    })
    .await;
}

#[tokio::test]
async fn a_release_that_the_store_does_not_answer_is_corrupt_and_not_missing() {
    let mut mocks = Mocks::default();
    mocks.reservations.expect_release_all().once().return_once(|_, _| Ok(Vec::new()));

    is_corrupt(&mocks.service().release(RESERVATION, ACCOUNT).await, "reservation.release");
}
