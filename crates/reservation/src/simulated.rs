//! A payment gateway that takes no money: for the demo and for tests. What it does is written on the token.
//!
//! It keeps a durable log of its own, as a real gateway does, so that a server that was killed in the middle of a payment
//! can ask what became of the payment. The log is a port; the adapter that keeps the seats keeps the log too.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use usher_kernel::{AttemptId, Money, StoreError, Timestamp};

use crate::ports::{ChargeOutcome, ChargeStatus, GatewayError, PaymentGateway, PaymentToken};

/// How long the gateway takes to answer a charge with the slow token.
pub const SLOW: Duration = Duration::from_secs(2);

/// How an attempt stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeState {
    /// The money was taken.
    Captured,
    /// The charge was declined.
    Declined,
    /// The attempt was cancelled before its charge came.
    Cancelled,
}

impl ChargeState {
    const ALL: [Self; 3] = [Self::Captured, Self::Declined, Self::Cancelled];

    /// The state's name in stores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    const fn outcome(self) -> ChargeOutcome {
        match self {
            Self::Captured => ChargeOutcome::Captured,
            // A charge that comes after its cancellation takes no money.
            Self::Declined | Self::Cancelled => ChargeOutcome::Declined,
        }
    }

    const fn status(self) -> ChargeStatus {
        match self {
            Self::Captured => ChargeStatus::Ended(ChargeOutcome::Captured),
            Self::Declined => ChargeStatus::Ended(ChargeOutcome::Declined),
            Self::Cancelled => ChargeStatus::Unheard,
        }
    }
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The attempt; the log has one entry of it at most.
    pub attempt: AttemptId,
    /// The amount asked for; `None` if the attempt was cancelled before its charge came.
    pub amount: Option<Money>,
    /// How the attempt stands.
    pub state: ChargeState,
    /// When it was charged or cancelled.
    pub at: Timestamp,
    /// When the money went back.
    pub refunded_at: Option<Timestamp>,
}

/// The log of a [`SimulatedGateway`], and its timer.
///
/// # Contract
/// 1. `record` writes the first entry of an attempt: of any number of callers at once one writes, and all are told the
///    entry that holds.
/// 2. `refund` writes the time of the first refund; later calls change nothing.
#[async_trait]
pub trait ChargeLog: Send + Sync + 'static {
    /// The entry of an attempt.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(&self, attempt: AttemptId) -> Result<Option<Charge>, StoreError>;

    /// Writes an entry, unless the log has one of the attempt. Answers the entry that holds.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn record(&self, charge: Charge) -> Result<Charge, StoreError>;

    /// Writes down that the money of an attempt went back.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn refund(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError>;

    /// Waits as long as a slow network would. A domain has no timer.
    async fn pause(&self, span: Duration);
}

/// What a token makes the gateway do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The attempt has no money to give back.
#[derive(Debug, thiserror::Error)]
#[error("the attempt was not captured")]
struct NotCaptured;

/// The answer was lost on its way.
#[derive(Debug, thiserror::Error)]
#[error("the simulated gateway fails after the capture")]
struct AnswerLost;

/// The gateway over its log.
#[derive(Clone)]
pub struct SimulatedGateway {
    log: Arc<dyn ChargeLog>,
}

impl SimulatedGateway {
    /// The gateway with this log.
    #[must_use]
    pub fn new(log: Arc<dyn ChargeLog>) -> Self {
        Self { log }
    }

    async fn find(&self, attempt: AttemptId) -> Result<Option<ChargeState>, GatewayError> {
        let found = self.log.find(attempt).await.map_err(no_answer)?;
        Ok(found.map(|charge| charge.state))
    }

    async fn record(
        &self,
        attempt: AttemptId,
        amount: Option<Money>,
        state: ChargeState,
        at: Timestamp,
    ) -> Result<ChargeState, GatewayError> {
        let charge = Charge { attempt, amount, state, at, refunded_at: None };
        Ok(self.log.record(charge).await.map_err(no_answer)?.state)
    }
}

fn no_answer(error: impl std::error::Error + Send + Sync + 'static) -> GatewayError {
    GatewayError(Box::new(error))
}

#[async_trait]
impl PaymentGateway for SimulatedGateway {
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
        let wanted = match script {
            // The token of another gateway pays for nothing.
            None | Some(Script::Decline) => ChargeState::Declined,
            Some(Script::Capture | Script::CaptureSlowly | Script::CaptureAndFail) => ChargeState::Captured,
        };
        let state = self.record(attempt, Some(amount), wanted, now).await?;
        match script {
            Some(Script::CaptureSlowly) => self.log.pause(SLOW).await,
            Some(Script::CaptureAndFail) => return Err(no_answer(AnswerLost)),
            None | Some(Script::Capture | Script::Decline) => {}
        }
        Ok(state.outcome())
    }

    async fn status(&self, attempt: AttemptId) -> Result<ChargeStatus, GatewayError> {
        Ok(self.find(attempt).await?.map_or(ChargeStatus::Unheard, ChargeState::status))
    }

    async fn cancel(&self, attempt: AttemptId, now: Timestamp) -> Result<ChargeStatus, GatewayError> {
        Ok(self.record(attempt, None, ChargeState::Cancelled, now).await?.status())
    }

    async fn refund(&self, attempt: AttemptId, _amount: Money, now: Timestamp) -> Result<(), GatewayError> {
        if self.find(attempt).await? != Some(ChargeState::Captured) {
            return Err(no_answer(NotCaptured));
        }
        self.log.refund(attempt, now).await.map_err(no_answer)
    }
}
