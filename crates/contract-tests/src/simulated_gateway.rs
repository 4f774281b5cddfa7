//! The contract suite of [`SimulatedGateway`], for every [`ChargeLog`]. Numbers refer to the items of the contract of
//! [`PaymentGateway`].

use std::sync::Arc;
use std::time::Duration;

use usher_kernel::{AttemptId, Money, Timestamp};
use usher_reservation::ports::{ChargeOutcome, ChargeStatus, PaymentGateway, PaymentToken};
use usher_reservation::simulated::{ChargeState, SLOW};
use usher_reservation::{ChargeLog, SimulatedGateway};

use crate::race::race;

/// Gives each test a log of its own.
pub trait Fixture: Send + Sync + Sized + 'static {
    /// A fixture with an empty log, which lives as long as the fixture.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// The log.
    fn log(&self) -> Arc<dyn ChargeLog>;
}

/// Generates the suite's tests for a [`Fixture`].
#[macro_export]
macro_rules! simulated_gateway_contract {
    ($fixture:ty) => {
        $crate::simulated_gateway_contract! { $fixture:
            it_accepts_its_own_tokens_only
            however_often_an_attempt_is_charged_the_money_is_taken_once
            the_status_tells_what_became_of_an_attempt
            a_capture_whose_answer_was_lost_is_known_to_the_next_server
            a_slow_gateway_answers_after_two_seconds_and_knows_meanwhile
            only_what_was_captured_is_given_back_and_only_once
            an_attempt_cancelled_before_its_charge_is_declined_when_it_comes
            cancelling_an_attempt_that_ended_tells_how_and_changes_nothing
            of_a_charge_and_a_cancellation_at_once_both_are_told_which_came_first
        }
    };
    ($fixture:ty: $($item:ident)*) => {$(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $item() {
            $crate::simulated_gateway::$item::<$fixture>().await;
        }
    )*};
}

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const ATTEMPT: AttemptId = AttemptId::from_bytes([1; 16]);

fn token(name: &str) -> PaymentToken {
    PaymentToken(name.into())
}

fn amount() -> Money {
    Money::new(150_000, "KRW".parse().unwrap()).unwrap()
}

async fn fresh<F: Fixture>() -> (F, SimulatedGateway) {
    let fixture = F::fresh().await;
    let gateway = SimulatedGateway::new(fixture.log());
    (fixture, gateway)
}

/// The gateway accepts its own tokens, and no other text.
pub async fn it_accepts_its_own_tokens_only<F: Fixture>() {
    let (_fixture, gateway) = fresh::<F>().await;

    for name in ["tok_ok", "tok_declined", "tok_slow", "tok_timeout_after_capture"] {
        assert!(gateway.accepts(&token(name)), "{name}");
    }
    for name in ["", "tok", "tok_OK", "tok_ok "] {
        assert!(!gateway.accepts(&token(name)), "{name}");
    }
}

/// 1, as a race.
pub async fn however_often_an_attempt_is_charged_the_money_is_taken_once<F: Fixture>() {
    let (fixture, gateway) = fresh::<F>().await;

    let outcomes = race(|n| {
        let gateway = gateway.clone();
        // The answer to the first charge stands, whatever tokens the others have.
        let token = token(if n % 2 == 0 { "tok_ok" } else { "tok_declined" });
        async move { gateway.charge(ATTEMPT, amount(), &token, NOW).await.unwrap() }
    })
    .await;

    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "all are told one outcome: {outcomes:?}");
    let entry = fixture.log().find(ATTEMPT).await.unwrap().unwrap();
    let expected = if outcomes[0] == ChargeOutcome::Captured { ChargeState::Captured } else { ChargeState::Declined };
    assert_eq!((entry.state, entry.amount), (expected, Some(amount())), "and the log has it");
}

/// 2.
pub async fn the_status_tells_what_became_of_an_attempt<F: Fixture>() {
    let (_fixture, gateway) = fresh::<F>().await;
    let other = AttemptId::from_bytes([2; 16]);

    let captured = gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap();
    let declined = gateway.charge(other, amount(), &token("tok_declined"), NOW).await.unwrap();

    assert_eq!((captured, declined), (ChargeOutcome::Captured, ChargeOutcome::Declined));
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Captured));
    assert_eq!(gateway.status(other).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Declined));
    assert_eq!(gateway.status(AttemptId::from_bytes([3; 16])).await.unwrap(), ChargeStatus::Unheard);
}

/// 2: another server than the one that charged may ask.
pub async fn a_capture_whose_answer_was_lost_is_known_to_the_next_server<F: Fixture>() {
    let (fixture, gateway) = fresh::<F>().await;

    let lost = gateway.charge(ATTEMPT, amount(), &token("tok_timeout_after_capture"), NOW).await;

    assert!(lost.is_err());
    let next_server = SimulatedGateway::new(fixture.log());
    assert_eq!(next_server.status(ATTEMPT).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Captured));
}

/// 2.
pub async fn a_slow_gateway_answers_after_two_seconds_and_knows_meanwhile<F: Fixture>() {
    let (_fixture, gateway) = fresh::<F>().await;
    let slow = token("tok_slow");
    let mut charge = Box::pin(gateway.charge(ATTEMPT, amount(), &slow, NOW));

    let early = tokio::time::timeout(SLOW - Duration::from_millis(100), &mut charge).await;

    assert!(early.is_err(), "no answer yet");
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Captured));
    assert_eq!(charge.await.unwrap(), ChargeOutcome::Captured);
}

/// 3.
pub async fn only_what_was_captured_is_given_back_and_only_once<F: Fixture>() {
    let (fixture, gateway) = fresh::<F>().await;
    let (declined, unknown) = (AttemptId::from_bytes([2; 16]), AttemptId::from_bytes([3; 16]));
    let outcomes = [
        gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap(),
        gateway.charge(declined, amount(), &token("tok_declined"), NOW).await.unwrap(),
    ];
    assert_eq!(outcomes, [ChargeOutcome::Captured, ChargeOutcome::Declined]);

    gateway.refund(ATTEMPT, amount(), NOW).await.unwrap();
    gateway.refund(ATTEMPT, amount(), NOW.plus(Duration::from_secs(1))).await.unwrap();

    assert!(gateway.refund(declined, amount(), NOW).await.is_err());
    assert!(gateway.refund(unknown, amount(), NOW).await.is_err());
    let refunded_at = async |attempt| fixture.log().find(attempt).await.unwrap().map(|charge| charge.refunded_at);
    assert_eq!(refunded_at(ATTEMPT).await, Some(Some(NOW)), "the first refund stands");
    assert_eq!(refunded_at(declined).await, Some(None));
    assert_eq!(refunded_at(unknown).await, None);
}

/// 4.
pub async fn an_attempt_cancelled_before_its_charge_is_declined_when_it_comes<F: Fixture>() {
    let (fixture, gateway) = fresh::<F>().await;

    let cancelled = gateway.cancel(ATTEMPT, NOW).await.unwrap();
    let late = gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap();

    assert_eq!((cancelled, late), (ChargeStatus::Unheard, ChargeOutcome::Declined));
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), ChargeStatus::Unheard);
    let entry = fixture.log().find(ATTEMPT).await.unwrap().unwrap();
    assert_eq!((entry.state, entry.amount), (ChargeState::Cancelled, None));
}

/// 4.
pub async fn cancelling_an_attempt_that_ended_tells_how_and_changes_nothing<F: Fixture>() {
    let (fixture, gateway) = fresh::<F>().await;
    assert_eq!(gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap(), ChargeOutcome::Captured);

    let cancelled = gateway.cancel(ATTEMPT, NOW).await.unwrap();

    assert_eq!(cancelled, ChargeStatus::Ended(ChargeOutcome::Captured));
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), cancelled);
    let entry = fixture.log().find(ATTEMPT).await.unwrap().unwrap();
    assert_eq!((entry.state, entry.amount), (ChargeState::Captured, Some(amount())));
}

/// 4, as a race.
pub async fn of_a_charge_and_a_cancellation_at_once_both_are_told_which_came_first<F: Fixture>() {
    let (_fixture, gateway) = fresh::<F>().await;

    let was_charged = race(|n| {
        let gateway = gateway.clone();
        async move {
            if n % 2 == 0 {
                gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap() == ChargeOutcome::Captured
            } else {
                gateway.cancel(ATTEMPT, NOW).await.unwrap() == ChargeStatus::Ended(ChargeOutcome::Captured)
            }
        }
    })
    .await;

    assert!(was_charged.iter().all(|answer| *answer == was_charged[0]), "all are told which came first");
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use usher_kernel::StoreError;
    use usher_reservation::simulated::Charge;

    use super::*;
    use crate::race::Gap;

    /// Checks that the log has no entry, and writes one after other callers could check too.
    #[derive(Default)]
    struct CheckThenAct(Mutex<Vec<Charge>>, Gap);

    #[async_trait]
    impl ChargeLog for CheckThenAct {
        async fn find(&self, attempt: AttemptId) -> Result<Option<Charge>, StoreError> {
            Ok(self.0.lock().unwrap().iter().find(|charge| charge.attempt == attempt).copied())
        }

        async fn record(&self, charge: Charge) -> Result<Charge, StoreError> {
            if let Some(recorded) = self.find(charge.attempt).await? {
                return Ok(recorded);
            }
            self.1.wait_for_others().await;
            self.0.lock().unwrap().push(charge);
            Ok(charge)
        }

        async fn refund(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
            let mut charges = self.0.lock().unwrap();
            let captured = charges.iter_mut().filter(|charge| charge.attempt == attempt);
            captured.for_each(|charge| charge.refunded_at = charge.refunded_at.or(Some(now)));
            Ok(())
        }

        async fn pause(&self, span: Duration) {
            #[expect(clippy::disallowed_methods, reason = "the wait is what the gateway simulates")]
            tokio::time::sleep(span).await;
        }
    }

    struct Control(Arc<CheckThenAct>);

    impl Fixture for Control {
        async fn fresh() -> Self {
            Self(Arc::default())
        }

        fn log(&self) -> Arc<dyn ChargeLog> {
            Arc::<CheckThenAct>::clone(&self.0)
        }
    }

    #[tokio::test]
    #[should_panic(expected = "all are told one outcome")]
    async fn checking_before_recording_is_rejected_by_racing_charges() {
        however_often_an_attempt_is_charged_the_money_is_taken_once::<Control>().await;
    }

    #[tokio::test]
    #[should_panic(expected = "all are told which came first")]
    async fn checking_before_recording_is_rejected_by_a_charge_and_a_cancellation() {
        of_a_charge_and_a_cancellation_at_once_both_are_told_which_came_first::<Control>().await;
    }

    #[tokio::test]
    async fn only_the_races_reject_the_control() {
        it_accepts_its_own_tokens_only::<Control>().await;
        the_status_tells_what_became_of_an_attempt::<Control>().await;
        a_capture_whose_answer_was_lost_is_known_to_the_next_server::<Control>().await;
        a_slow_gateway_answers_after_two_seconds_and_knows_meanwhile::<Control>().await;
        only_what_was_captured_is_given_back_and_only_once::<Control>().await;
        an_attempt_cancelled_before_its_charge_is_declined_when_it_comes::<Control>().await;
        cancelling_an_attempt_that_ended_tells_how_and_changes_nothing::<Control>().await;
    }
}
