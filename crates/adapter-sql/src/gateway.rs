//! A payment gateway that takes no money: for the demo and for tests. It keeps a durable log of its own, as a real one
//! does, so that a server that was killed in the middle of a payment can ask what became of it.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter};
use usher_kernel::{AttemptId, Money, Timestamp};
use usher_reservation::ports::{ChargeOutcome, ChargeStatus, GatewayError, PaymentGateway, PaymentToken};

use crate::Database;
use crate::entities::simulated_charges::{ActiveModel, Column, Entity, Model};
use crate::error::{CorruptRow, Failure, inserted_first};

/// The simulated gateway and its log. What it does is written on the token.
#[derive(Clone, Debug)]
pub struct SqlSimulatedGateway {
    database: Database,
}

/// How long a slow gateway takes to answer.
const SLOW: Duration = Duration::from_secs(2);

/// What the log says of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Captured,
    Declined,
    /// It was cancelled before it was charged.
    Cancelled,
}

impl Entry {
    const ALL: [Self; 3] = [Self::Captured, Self::Declined, Self::Cancelled];

    const fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
        }
    }

    fn read(attempt: AttemptId, name: &str) -> Result<Self, CorruptRow> {
        let entry = Self::ALL.into_iter().find(|entry| entry.name() == name);
        entry.ok_or_else(|| CorruptRow::new("simulated_charges", "outcome", attempt))
    }

    const fn status(self) -> ChargeStatus {
        match self {
            Self::Captured => ChargeStatus::Ended(ChargeOutcome::Captured),
            Self::Declined => ChargeStatus::Ended(ChargeOutcome::Declined),
            Self::Cancelled => ChargeStatus::Unheard,
        }
    }
}

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
    async fn logged(&self, attempt: AttemptId) -> Result<Option<Entry>, GatewayError> {
        let logged = self.database.read("gateway.status", |db| async move {
            let row = Entity::find_by_id(attempt.uuid()).one(db).await?;
            row.map(|row| Entry::read(attempt, &row.outcome)).transpose().map_err(Failure::from)
        });
        logged.await.map_err(no_answer)
    }

    /// Writes down what became of an attempt, unless that is written already. Answers what holds.
    async fn log(
        &self,
        attempt: AttemptId,
        amount: Option<Money>,
        entry: Entry,
        now: Timestamp,
    ) -> Result<Entry, GatewayError> {
        let logged = self.database.write("gateway.log", |tx| async move {
            if let Some(row) = Entity::find_by_id(attempt.uuid()).one(&*tx).await? {
                return Ok(Entry::read(attempt, &row.outcome)?);
            }
            let row = ActiveModel {
                attempt_id: Set(attempt.uuid()),
                amount: Set(amount.map_or(0, Money::amount)),
                // Of what was cancelled, nothing is charged in no currency.
                currency: Set(amount.map(|amount| amount.currency().to_string()).unwrap_or_default()),
                outcome: Set(entry.name().to_owned()),
                charged_at: Set(now.unix_ms()),
                refunded_at: Set(None),
            };
            let insert = Entity::insert(row).exec_without_returning(&*tx).await;
            insert.map_err(inserted_first("simulated_charges"))?;
            Ok(entry)
        });
        logged.await.map_err(no_answer)
    }
}

/// Whether the log says that money was taken.
pub(crate) fn is_captured(row: &Model) -> bool {
    row.outcome == Entry::Captured.name()
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
            None | Some(Script::Decline) => Entry::Declined,
            Some(Script::Capture | Script::CaptureSlowly | Script::CaptureAndFail) => Entry::Captured,
        };
        let outcome = match self.log(attempt, Some(amount), wish, now).await? {
            Entry::Captured => ChargeOutcome::Captured,
            Entry::Declined | Entry::Cancelled => ChargeOutcome::Declined,
        };
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
        Ok(self.logged(attempt).await?.map_or(ChargeStatus::Unheard, Entry::status))
    }

    async fn cancel(&self, attempt: AttemptId, now: Timestamp) -> Result<ChargeStatus, GatewayError> {
        Ok(self.log(attempt, None, Entry::Cancelled, now).await?.status())
    }

    async fn refund(&self, attempt: AttemptId, _amount: Money, now: Timestamp) -> Result<(), GatewayError> {
        if self.logged(attempt).await? != Some(Entry::Captured) {
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
