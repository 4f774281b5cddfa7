//! The contract of [`PaymentGateway`] on the simulated one. The numbers are those of the contract.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use usher_adapter_sql::SqlSimulatedGateway;
use usher_contract_tests::race::race;
use usher_kernel::{AttemptId, Money, Timestamp};
use usher_reservation::ports::{ChargeOutcome, ChargeStatus, PaymentGateway, PaymentToken};

use crate::backend::{Backend, On, on_every_database};

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const ATTEMPT: AttemptId = AttemptId::from_bytes([1; 16]);

fn token(name: &str) -> PaymentToken {
    PaymentToken(name.into())
}

fn amount() -> Money {
    Money::new(150_000, "KRW".parse().unwrap()).unwrap()
}

async fn fresh<B: Backend>() -> (On<B>, Arc<SqlSimulatedGateway>) {
    let fixture = On::new().await;
    let gateway = Arc::new(SqlSimulatedGateway::new(fixture.database.clone()));
    (fixture, gateway)
}

async fn n_logged(fixture: &On<impl Backend>, condition: &str) -> i64 {
    let db = fixture.database.writer();
    let sql = format!("SELECT COUNT(*) FROM simulated_charges WHERE {condition}");
    let count = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
    count.unwrap().try_get_by(0).unwrap()
}

on_every_database! {
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

async fn it_accepts_its_own_tokens_only<B: Backend>() {
    let (_fixture, gateway) = fresh::<B>().await;

    for name in ["tok_ok", "tok_declined", "tok_slow", "tok_timeout_after_capture"] {
        assert!(gateway.accepts(&token(name)), "{name}");
    }
    for name in ["", "tok", "tok_OK", "tok_ok "] {
        assert!(!gateway.accepts(&token(name)), "{name}");
    }
}

/// 1, as a race.
async fn however_often_an_attempt_is_charged_the_money_is_taken_once<B: Backend>() {
    let (fixture, gateway) = fresh::<B>().await;

    let outcomes = race(|n| {
        let gateway = Arc::clone(&gateway);
        // Whatever the later ones say: the first answer is the answer.
        let token = token(if n % 2 == 0 { "tok_ok" } else { "tok_declined" });
        async move { gateway.charge(ATTEMPT, amount(), &token, NOW).await.unwrap() }
    })
    .await;

    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    assert_eq!(n_logged(&fixture, "1 = 1").await, 1);
}

/// 2.
async fn the_status_tells_what_became_of_an_attempt<B: Backend>() {
    let (_fixture, gateway) = fresh::<B>().await;
    let other = AttemptId::from_bytes([2; 16]);

    let captured = gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap();
    let declined = gateway.charge(other, amount(), &token("tok_declined"), NOW).await.unwrap();

    assert_eq!((captured, declined), (ChargeOutcome::Captured, ChargeOutcome::Declined));
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Captured));
    assert_eq!(gateway.status(other).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Declined));
    assert_eq!(gateway.status(AttemptId::from_bytes([3; 16])).await.unwrap(), ChargeStatus::Unheard);
}

/// 2: the server that asks need not be the one that charged.
async fn a_capture_whose_answer_was_lost_is_known_to_the_next_server<B: Backend>() {
    let (fixture, gateway) = fresh::<B>().await;

    let lost = gateway.charge(ATTEMPT, amount(), &token("tok_timeout_after_capture"), NOW).await;

    assert!(lost.is_err());
    let next_server = SqlSimulatedGateway::new(fixture.database.clone());
    assert_eq!(next_server.status(ATTEMPT).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Captured));
}

/// 2.
async fn a_slow_gateway_answers_after_two_seconds_and_knows_meanwhile<B: Backend>() {
    let (_fixture, gateway) = fresh::<B>().await;
    let slow = token("tok_slow");
    let mut charge = Box::pin(gateway.charge(ATTEMPT, amount(), &slow, NOW));

    let early = tokio::time::timeout(Duration::from_millis(1_900), &mut charge).await;

    assert!(early.is_err(), "no answer yet");
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), ChargeStatus::Ended(ChargeOutcome::Captured));
    assert_eq!(charge.await.unwrap(), ChargeOutcome::Captured);
}

/// 3.
async fn only_what_was_captured_is_given_back_and_only_once<B: Backend>() {
    let (fixture, gateway) = fresh::<B>().await;
    let declined = AttemptId::from_bytes([2; 16]);
    let outcomes = [
        gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap(),
        gateway.charge(declined, amount(), &token("tok_declined"), NOW).await.unwrap(),
    ];
    assert_eq!(outcomes, [ChargeOutcome::Captured, ChargeOutcome::Declined]);

    gateway.refund(ATTEMPT, amount(), NOW).await.unwrap();
    gateway.refund(ATTEMPT, amount(), NOW.plus(Duration::from_secs(1))).await.unwrap();

    assert!(gateway.refund(declined, amount(), NOW).await.is_err());
    assert!(gateway.refund(AttemptId::from_bytes([3; 16]), amount(), NOW).await.is_err());
    assert_eq!(n_logged(&fixture, "refunded_at IS NOT NULL").await, 1);
    assert_eq!(n_logged(&fixture, &format!("refunded_at = {}", NOW.unix_ms())).await, 1, "and it stays given back");
}

/// 4.
async fn an_attempt_cancelled_before_its_charge_is_declined_when_it_comes<B: Backend>() {
    let (fixture, gateway) = fresh::<B>().await;

    let cancelled = gateway.cancel(ATTEMPT, NOW).await.unwrap();
    let late = gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap();

    assert_eq!((cancelled, late), (ChargeStatus::Unheard, ChargeOutcome::Declined));
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), ChargeStatus::Unheard);
    assert_eq!(n_logged(&fixture, "outcome = 'captured'").await, 0);
}

/// 4.
async fn cancelling_an_attempt_that_ended_tells_how_and_changes_nothing<B: Backend>() {
    let (_fixture, gateway) = fresh::<B>().await;
    assert_eq!(gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap(), ChargeOutcome::Captured);

    let cancelled = gateway.cancel(ATTEMPT, NOW).await.unwrap();

    assert_eq!(cancelled, ChargeStatus::Ended(ChargeOutcome::Captured));
    assert_eq!(gateway.status(ATTEMPT).await.unwrap(), cancelled);
}

/// 4, as a race.
async fn of_a_charge_and_a_cancellation_at_once_both_are_told_which_came_first<B: Backend>() {
    let (_fixture, gateway) = fresh::<B>().await;

    let was_charged = race(|n| {
        let gateway = Arc::clone(&gateway);
        async move {
            if n % 2 == 0 {
                gateway.charge(ATTEMPT, amount(), &token("tok_ok"), NOW).await.unwrap() == ChargeOutcome::Captured
            } else {
                gateway.cancel(ATTEMPT, NOW).await.unwrap() == ChargeStatus::Ended(ChargeOutcome::Captured)
            }
        }
    })
    .await;

    assert!(was_charged.iter().all(|answer| *answer == was_charged[0]), "{was_charged:?}");
}
