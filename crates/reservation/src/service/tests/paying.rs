//! Confirmations, and repeated ones whose payment is under way.

use super::*;

/// A reservation whose payment any server may resolve from `resolve_at` on.
fn paying(resolve_at: Timestamp) -> Reservation {
    reservation(State::Paying(Payment { attempt: ATTEMPT, resolve_at }))
}

/// The gateway accepts the token, and the store answers the beginning of the payment like this.
fn asked_to_begin(answer: Result<Vec<PayOutcome>, StoreError>) -> Mocks {
    let mut mocks = Mocks::default();
    mocks.payments.expect_accepts().once().return_const(true);
    mocks.reservations.expect_begin_payments().once().return_once(|_, _| answer);
    mocks
}

/// The payment has begun, and the gateway answers the charge like this.
fn charged(answer: Result<ChargeOutcome, GatewayError>) -> Mocks {
    let mut mocks = asked_to_begin(Ok(vec![PayOutcome::Begun(paying(NOW.plus(RESOLVE_AFTER)))]));
    let charge = mocks.payments.expect_charge().once();
    charge.withf(|attempt, amount, _, now| (*attempt, amount.amount(), *now) == (ATTEMPT, 100, NOW));
    charge.return_once(|_, _, _, _| answer);
    mocks
}

/// The payment began a moment ago in another call, and the gateway says this of it.
fn in_flight(status: Result<ChargeStatus, GatewayError>) -> Mocks {
    let reservation = paying(NOW.plus(Duration::from_millis(1)));
    let mut mocks = asked_to_begin(Ok(vec![PayOutcome::InFlight { reservation }]));
    mocks.payments.expect_status().once().withf(|attempt| *attempt == ATTEMPT).return_once(|_| status);
    mocks
}

/// The payment began long ago in another call, and the gateway says this when it is cancelled.
fn overdue(status: Result<ChargeStatus, GatewayError>) -> Mocks {
    let mut mocks = asked_to_begin(Ok(vec![PayOutcome::InFlight { reservation: paying(NOW) }]));
    let cancel = mocks.payments.expect_cancel().once();
    cancel.withf(|attempt, now| (*attempt, *now) == (ATTEMPT, NOW)).return_once(|_, _| status);
    mocks
}

async fn confirm(mocks: Mocks) -> Result<Reservation, Error> {
    mocks.service().confirm(RESERVATION, ACCOUNT, PaymentToken("token".into()), claim()).await
}

#[tokio::test]
async fn a_token_that_the_gateway_does_not_accept_begins_no_payment() {
    let mut mocks = Mocks::default();
    mocks.payments.expect_accepts().once().return_const(false);

    let refused = confirm(mocks).await;

    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn a_payment_that_could_not_begin_is_not_charged() {
    every_failure_is_told(Error::Store, async |failure| confirm(asked_to_begin(Err(failure))).await).await;
}

#[tokio::test]
async fn a_payment_whose_beginning_the_store_does_not_answer_is_corrupt_and_not_charged() {
    is_corrupt(&confirm(asked_to_begin(Ok(Vec::new()))).await, "reservation.begin_payment");
}

#[tokio::test]
async fn a_payment_that_was_refused_or_ended_before_is_not_charged() {
    for (outcome, expected) in [
        (PayOutcome::KeyMismatch, Error::IdempotencyMismatch),
        (PayOutcome::NotFound, Error::NotFound),
        (PayOutcome::Refused(TransitionError::HoldExpired), Error::HoldExpired),
        (PayOutcome::Refused(TransitionError::WrongState), Error::WrongState),
        (PayOutcome::Refused(TransitionError::NoAttemptsLeft), Error::WrongState),
        (PayOutcome::Replayed(declined(1)), Error::PaymentDeclined { attempts_left: 2 }),
        (PayOutcome::Replayed(Settled::Refunded), Error::HoldExpired),
        (PayOutcome::Replayed(Settled::GivenUp), Error::PaymentUnavailable),
    ] {
        is_refused(&confirm(asked_to_begin(Ok(vec![outcome]))).await, expected);
    }
}

#[tokio::test]
async fn a_charge_without_an_answer_is_neither_repeated_nor_settled_and_any_server_may_resolve_it_at_once() {
    let mut mocks = charged(Err(no_answer()));
    let resolve_early = mocks.reservations.expect_resolve_early().once();
    resolve_early.withf(|attempt, now| (*attempt, *now) == (ATTEMPT, NOW)).return_once(|_, _| Ok(()));

    is_refused(&confirm(mocks).await, Error::PaymentUnavailable);
}

#[tokio::test]
async fn a_charge_without_an_answer_that_cannot_be_resolved_early_is_still_a_payment_to_be_resolved() {
    for failure in StoreError::of_each_kind("reservation.resolve_early") {
        let mut mocks = charged(Err(no_answer()));
        mocks.reservations.expect_resolve_early().once().return_once(|_, _| Err(failure));

        is_refused(&confirm(mocks).await, Error::PaymentUnavailable);
    }
}

#[tokio::test]
async fn a_payment_whose_end_could_not_be_stored_is_settled_once_and_uses_up_no_pass() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = charged(Ok(ChargeOutcome::Captured));
        mocks.expect_settle(ATTEMPT, is_captured, Err(failure));

        confirm(mocks).await
    })
    .await;
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = charged(Ok(ChargeOutcome::Declined));
        mocks.expect_settle(ATTEMPT, |verdict| *verdict == Verdict::Declined, Err(failure));

        confirm(mocks).await
    })
    .await;
}

#[tokio::test]
async fn a_payment_that_the_store_does_not_know_or_answer_when_it_ends_is_corrupt_and_uses_up_no_pass() {
    for answer in [Vec::new(), vec![None]] {
        let mut mocks = charged(Ok(ChargeOutcome::Captured));
        mocks.expect_settle(ATTEMPT, is_captured, Ok(answer));

        is_corrupt(&confirm(mocks).await, "reservation.settle");
    }
}

#[tokio::test]
async fn a_payment_that_did_not_buy_its_seats_uses_up_no_pass() {
    for (settled, expected) in [
        (declined(3), Error::PaymentDeclined { attempts_left: 0 }),
        (Settled::Refunded, Error::HoldExpired),
        (Settled::GivenUp, Error::PaymentUnavailable),
    ] {
        let mut mocks = charged(Ok(ChargeOutcome::Captured));
        mocks.expect_settle(ATTEMPT, is_captured, Ok(vec![Some(settled)]));

        is_refused(&confirm(mocks).await, expected);
    }
}

#[tokio::test]
async fn a_confirmed_payment_uses_its_pass_up_once() {
    let mut mocks = charged(Ok(ChargeOutcome::Captured));
    mocks.expect_settle(ATTEMPT, is_captured, Ok(vec![Some(Settled::Confirmed(confirmed()))]));
    mocks.expect_pass_used();

    assert_eq!(confirm(mocks).await.unwrap(), confirmed());
}

#[tokio::test]
async fn a_repeated_confirm_that_the_gateway_does_not_answer_charges_and_settles_nothing() {
    for mocks in [in_flight(Err(no_answer())), overdue(Err(no_answer()))] {
        is_refused(&confirm(mocks).await, Error::PaymentUnavailable);
    }
}

#[tokio::test]
async fn a_repeated_confirm_of_a_payment_under_way_charges_and_settles_nothing() {
    for mocks in
        [in_flight(Ok(ChargeStatus::Pending)), in_flight(Ok(ChargeStatus::Unheard)), overdue(Ok(ChargeStatus::Pending))]
    {
        is_refused(&confirm(mocks).await, Error::IdempotencyInFlight);
    }
}

#[tokio::test]
async fn a_repeated_confirm_whose_end_could_not_be_stored_settles_once_and_uses_up_no_pass() {
    type Asked = fn(Result<ChargeStatus, GatewayError>) -> Mocks;
    type Expected = fn(&Verdict) -> bool;
    let (captured, declined) = (ChargeOutcome::Captured, ChargeOutcome::Declined);
    let cases: [(Asked, ChargeStatus, Expected); 5] = [
        (in_flight, ChargeStatus::Ended(captured), is_captured),
        (in_flight, ChargeStatus::Ended(declined), |verdict| *verdict == Verdict::Declined),
        (overdue, ChargeStatus::Ended(captured), is_captured),
        (overdue, ChargeStatus::Ended(declined), |verdict| *verdict == Verdict::Declined),
        (overdue, ChargeStatus::Unheard, |verdict| *verdict == Verdict::Unheard),
    ];
    for (asked, status, expected) in cases {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = asked(Ok(status));
            mocks.expect_settle(ATTEMPT, expected, Err(failure));

            confirm(mocks).await
        })
        .await;
    }
}

fn declined(ordinal: u32) -> Settled {
    Settled::Declined { ordinal, reservation: RESERVATION }
}
