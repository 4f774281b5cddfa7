//! Sweeps.

use super::*;

const OTHER_ATTEMPT: AttemptId = AttemptId::from_bytes([6; 16]);

fn price() -> Money {
    reservation(State::Held).total
}

impl Mocks {
    fn expect_expire_lapsed(&mut self, answer: Result<u32, StoreError>) {
        let expire = self.reservations.expect_expire_lapsed().once();
        expire.withf(|now, _| *now == NOW).return_once(|_, _| answer);
    }

    /// These payments are overdue.
    fn expect_unsettled(&mut self, attempts: &[AttemptId]) {
        let unsettled = attempts.iter().map(|&attempt| Unsettled { attempt, n_seats: 1 }).collect();
        self.reservations.expect_unsettled().once().return_once(|_, _| Ok(unsettled));
    }

    /// The gateway is told to cancel the attempt, once, and answers this.
    fn expect_cancel(&mut self, of: AttemptId, answer: Result<ChargeStatus, GatewayError>) {
        let cancel = self.payments.expect_cancel().once();
        cancel.withf(move |attempt, now| (*attempt, *now) == (of, NOW)).return_once(|_, _| answer);
    }

    /// These refunds are due.
    fn expect_refunds_due(&mut self, attempts: &[AttemptId]) {
        let due = attempts.iter().map(|&attempt| RefundDue { attempt, amount: price() }).collect();
        self.reservations.expect_refunds_due().once().return_once(|_| Ok(due));
    }

    /// The gateway is told to refund the attempt, once, and answers this.
    fn expect_refund(&mut self, of: AttemptId, answer: Result<(), GatewayError>) {
        let refund = self.payments.expect_refund().once();
        refund.withf(move |attempt, amount, _| (*attempt, *amount) == (of, price())).return_once(|_, _, _| answer);
    }

    /// The refund is marked as sent, once, and the store answers this.
    fn expect_refund_sent(&mut self, of: AttemptId, answer: Result<(), StoreError>) {
        let sent = self.reservations.expect_refund_sent().once();
        sent.withf(move |attempt, now| (*attempt, *now) == (of, NOW)).return_once(|_, _| answer);
    }

    /// The gateway never heard of the payment, and it is settled.
    fn expect_settled(&mut self) {
        self.expect_cancel(ATTEMPT, Ok(ChargeStatus::Unheard));
        self.expect_settle(ATTEMPT, |verdict| *verdict == Verdict::Unheard, Ok(vec![Some(Settled::GivenUp)]));
    }

    /// The refund is sent, and marked as sent.
    fn expect_refunded(&mut self) {
        self.expect_refund(ATTEMPT, Ok(()));
        self.expect_refund_sent(ATTEMPT, Ok(()));
    }
}

#[tokio::test]
async fn a_payment_that_the_gateway_does_not_end_is_not_settled_and_the_others_are() {
    for status in [Ok(ChargeStatus::Pending), Err(no_answer())] {
        let mut mocks = Mocks::default();
        mocks.expect_expire_lapsed(Ok(0));
        mocks.expect_unsettled(&[OTHER_ATTEMPT, ATTEMPT]);
        mocks.expect_cancel(OTHER_ATTEMPT, status);
        mocks.expect_settled();
        mocks.expect_refunds_due(&[]);

        let swept = mocks.service().sweep().await.unwrap();

        assert_eq!(swept, Swept { n_settled: 1, ..Swept::default() });
    }
}

#[tokio::test]
async fn a_payment_that_a_sweep_finds_captured_uses_its_pass_up_once() {
    let mut mocks = Mocks::default();
    mocks.expect_expire_lapsed(Ok(0));
    mocks.expect_unsettled(&[ATTEMPT]);
    mocks.expect_cancel(ATTEMPT, Ok(ChargeStatus::Ended(ChargeOutcome::Captured)));
    mocks.expect_settle(ATTEMPT, is_captured, Ok(vec![Some(Settled::Confirmed(confirmed()))]));
    mocks.expect_pass_used();
    mocks.expect_refunds_due(&[]);

    assert_eq!(mocks.service().sweep().await.unwrap(), Swept { n_settled: 1, ..Swept::default() });
}

#[tokio::test]
async fn a_refund_that_the_gateway_does_not_confirm_is_not_marked_as_sent_and_the_others_go() {
    let mut mocks = Mocks::default();
    mocks.expect_expire_lapsed(Ok(0));
    mocks.expect_unsettled(&[]);
    mocks.expect_refunds_due(&[OTHER_ATTEMPT, ATTEMPT]);
    mocks.expect_refund(OTHER_ATTEMPT, Err(no_answer()));
    mocks.expect_refunded();

    assert_eq!(mocks.service().sweep().await.unwrap(), Swept { n_refunded: 1, ..Swept::default() });
}

#[tokio::test]
async fn holds_that_could_not_expire_keep_no_payment_and_no_refund_from_being_looked_after() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.expect_expire_lapsed(Err(failure));
        mocks.expect_unsettled(&[ATTEMPT]);
        mocks.expect_settled();
        mocks.expect_refunds_due(&[ATTEMPT]);
        mocks.expect_refunded();

        mocks.service().sweep().await
    })
    .await;
}

#[tokio::test]
async fn payments_that_cannot_be_listed_are_not_cancelled_and_refunds_are_sent() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.expect_expire_lapsed(Ok(1));
        mocks.reservations.expect_unsettled().once().return_once(|_, _| Err(failure));
        mocks.expect_refunds_due(&[ATTEMPT]);
        mocks.expect_refunded();

        mocks.service().sweep().await
    })
    .await;
}

#[tokio::test]
async fn a_payment_whose_end_could_not_be_stored_fails_alone() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.expect_expire_lapsed(Ok(1));
        mocks.expect_unsettled(&[OTHER_ATTEMPT, ATTEMPT]);
        mocks.expect_cancel(OTHER_ATTEMPT, Ok(ChargeStatus::Ended(ChargeOutcome::Captured)));
        mocks.expect_settle(OTHER_ATTEMPT, is_captured, Err(failure));
        mocks.expect_settled();
        mocks.expect_refunds_due(&[ATTEMPT]);
        mocks.expect_refunded();

        mocks.service().sweep().await
    })
    .await;
}

#[tokio::test]
async fn a_payment_that_the_store_does_not_know_or_answer_when_it_ends_fails_alone() {
    for answer in [Vec::new(), vec![None]] {
        let mut mocks = Mocks::default();
        mocks.expect_expire_lapsed(Ok(0));
        mocks.expect_unsettled(&[OTHER_ATTEMPT, ATTEMPT]);
        mocks.expect_cancel(OTHER_ATTEMPT, Ok(ChargeStatus::Ended(ChargeOutcome::Captured)));
        mocks.expect_settle(OTHER_ATTEMPT, is_captured, Ok(answer));
        mocks.expect_settled();
        mocks.expect_refunds_due(&[]);

        is_corrupt(&mocks.service().sweep().await, "reservation.settle");
    }
}

#[tokio::test]
async fn refunds_that_cannot_be_listed_are_not_sent() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.expect_expire_lapsed(Ok(1));
        mocks.expect_unsettled(&[ATTEMPT]);
        mocks.expect_settled();
        mocks.reservations.expect_refunds_due().once().return_once(|_| Err(failure));

        mocks.service().sweep().await
    })
    .await;
}

#[tokio::test]
async fn a_refund_that_could_not_be_marked_as_sent_fails_alone() {
    every_failure_is_told(Error::Store, async |failure| {
        let mut mocks = Mocks::default();
        mocks.expect_expire_lapsed(Ok(1));
        mocks.expect_unsettled(&[]);
        mocks.expect_refunds_due(&[OTHER_ATTEMPT, ATTEMPT]);
        mocks.expect_refund(OTHER_ATTEMPT, Ok(()));
        mocks.expect_refund_sent(OTHER_ATTEMPT, Err(failure));
        mocks.expect_refunded();

        mocks.service().sweep().await
    })
    .await;
}
