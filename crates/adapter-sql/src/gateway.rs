//! A payment gateway that takes no money: for the demo and for tests. It keeps a durable log of its own, as a real one
//! does, so that a server that was killed in the middle of a payment can ask what became of it.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter};
use usher_kernel::{AttemptId, Money, Timestamp};
use usher_reservation::ports::{ChargeOutcome, ChargeStatus, GatewayError, PaymentGateway, PaymentToken};

use crate::Database;
use crate::entities::simulated_charges::{ActiveModel, Column, Entity};
use crate::error::{CorruptRow, Failure, inserted_first};

/// The simulated gateway and its log. What it does is written on the token.
#[derive(Clone, Debug)]
pub struct SqlSimulatedGateway {
    database: Database,
}

/// How long a slow gateway takes to answer.
const SLOW: Duration = Duration::from_secs(2);

const CAPTURED: &str = "captured";
const DECLINED: &str = "declined";

/// The tokens that it gives out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Capture,
    Decline,
    CaptureSlowly,
    CaptureAndFail,
}

impl Script {
    fn of(token: &PaymentToken) -> Option<Self> {
        match token.0.as_str() {
            "tok_ok" => Some(Self::Capture),
            "tok_declined" => Some(Self::Decline),
            "tok_slow" => Some(Self::CaptureSlowly),
            "tok_timeout_after_capture" => Some(Self::CaptureAndFail),
            _ => None,
        }
    }
}

/// There is nothing to give back.
#[derive(Debug, thiserror::Error)]
#[error("the attempt was not captured")]
struct NotCaptured;

/// The answer was lost on its way.
#[derive(Debug, thiserror::Error)]
#[error("the simulated gateway fails after the capture")]
struct AnswerLost;

impl SqlSimulatedGateway {
    /// The gateway whose log is in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }

    /// What the log says of an attempt.
    async fn logged(&self, attempt: AttemptId) -> Result<Option<ChargeOutcome>, GatewayError> {
        let logged = self.database.read("gateway.status", |db| async move {
            let row = Entity::find_by_id(attempt.uuid()).one(db).await?;
            row.map(|row| outcome(attempt, &row.outcome)).transpose().map_err(Failure::from)
        });
        logged.await.map_err(no_answer)
    }

    /// Writes an outcome down, unless there is one already. Answers the one that holds.
    async fn log(
        &self,
        attempt: AttemptId,
        amount: Money,
        outcome: ChargeOutcome,
        now: Timestamp,
    ) -> Result<ChargeOutcome, GatewayError> {
        let logged = self.database.write("gateway.charge", |tx| async move {
            if let Some(row) = Entity::find_by_id(attempt.uuid()).one(&*tx).await? {
                return Ok(self::outcome(attempt, &row.outcome)?);
            }
            let name = match outcome {
                ChargeOutcome::Captured => CAPTURED,
                ChargeOutcome::Declined => DECLINED,
            };
            let row = ActiveModel {
                attempt_id: Set(attempt.uuid()),
                amount: Set(amount.amount()),
                currency: Set(amount.currency().to_string()),
                outcome: Set(name.to_owned()),
                charged_at: Set(now.unix_ms()),
                refunded_at: Set(None),
            };
            let insert = Entity::insert(row).exec_without_returning(&*tx).await;
            insert.map_err(inserted_first("simulated_charges"))?;
            Ok(outcome)
        });
        logged.await.map_err(no_answer)
    }
}

fn outcome(attempt: AttemptId, name: &str) -> Result<ChargeOutcome, CorruptRow> {
    match name {
        CAPTURED => Ok(ChargeOutcome::Captured),
        DECLINED => Ok(ChargeOutcome::Declined),
        _ => Err(CorruptRow::new("simulated_charges", "outcome", attempt)),
    }
}

fn no_answer(error: impl std::error::Error + Send + Sync + 'static) -> GatewayError {
    GatewayError(Box::new(error))
}

#[async_trait]
impl PaymentGateway for SqlSimulatedGateway {
    fn accepts(&self, token: &PaymentToken) -> bool {
        Script::of(token).is_some()
    }

    async fn charge(
        &self,
        attempt: AttemptId,
        amount: Money,
        token: &PaymentToken,
        now: Timestamp,
    ) -> Result<ChargeOutcome, GatewayError> {
        let script = Script::of(token);
        let wish = match script {
            // A token of somebody else's pays for nothing.
            None | Some(Script::Decline) => ChargeOutcome::Declined,
            Some(Script::Capture | Script::CaptureSlowly | Script::CaptureAndFail) => ChargeOutcome::Captured,
        };
        let outcome = self.log(attempt, amount, wish, now).await?;
        match script {
            Some(Script::CaptureSlowly) => {
                #[expect(clippy::disallowed_methods, reason = "it simulates a slow network")]
                tokio::time::sleep(SLOW).await;
                Ok(outcome)
            }
            Some(Script::CaptureAndFail) => Err(no_answer(AnswerLost)),
            None | Some(Script::Capture | Script::Decline) => Ok(outcome),
        }
    }

    async fn status(&self, attempt: AttemptId) -> Result<ChargeStatus, GatewayError> {
        Ok(self.logged(attempt).await?.map_or(ChargeStatus::Unheard, ChargeStatus::Ended))
    }

    async fn refund(&self, attempt: AttemptId, _amount: Money, now: Timestamp) -> Result<(), GatewayError> {
        if self.logged(attempt).await? != Some(ChargeOutcome::Captured) {
            return Err(no_answer(NotCaptured));
        }
        let refunded = self.database.write("gateway.refund", |tx| async move {
            let update = Entity::update_many()
                .set(ActiveModel { refunded_at: Set(Some(now.unix_ms())), ..Default::default() })
                .filter(Column::AttemptId.eq(attempt.uuid()))
                .filter(Column::RefundedAt.is_null());
            update.exec(&*tx).await?;
            Ok(())
        });
        refunded.await.map_err(no_answer)
    }
}
