//! A simulated payment gateway, for the demo and for tests. It takes no money; the token selects what it does.
//!
//! It keeps a durable log of its own, as a real gateway does. So a server that was killed during a payment can ask for
//! the end of the payment. The log is a port, which the adapter that stores the seats implements too.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use usher_kernel::{AttemptId, Money, StoreError, Timestamp};

use crate::ports::{ChargeOutcome, ChargeStatus, GatewayError, PaymentGateway, PaymentToken};

/// How long the gateway takes to answer a charge with the slow token.
pub const SLOW: Duration = Duration::from_secs(2);

/// The state of an attempt in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeState {
    /// The charge was captured.
    Captured,
    /// The charge was declined.
    Declined,
    /// The attempt was cancelled before its charge arrived.
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
            // A charge that arrives after its cancellation takes no money.
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
    /// The attempt. The log has at most one entry for it.
    pub attempt: AttemptId,
    /// The amount of the charge; `None` if the attempt was cancelled before its charge arrived.
    pub amount: Option<Money>,
    /// The state of the attempt.
    pub state: ChargeState,
    /// When it was charged or cancelled.
    pub at: Timestamp,
    /// When the money was refunded.
    pub refunded_at: Option<Timestamp>,
}

/// Keeps the log of a [`SimulatedGateway`], and its timer.
///
/// # Contract
/// 1. `record` writes the first entry of an attempt: of any number of concurrent calls one writes, and all return the
///    entry that was written.
/// 2. `refund` writes the time of the first refund. Later calls change nothing.
#[async_trait]
pub trait ChargeLog: Send + Sync + 'static {
    /// Finds the entry of an attempt.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(&self, attempt: AttemptId) -> Result<Option<Charge>, StoreError>;

    /// Writes an entry, unless the log has one for the attempt. Returns the entry in the log.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn record(&self, charge: Charge) -> Result<Charge, StoreError>;

    /// Records that the money of an attempt was refunded.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn refund(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError>;

    /// Waits for a time, as for a slow network. A port, because a domain has no timer.
    async fn pause(&self, span: Duration);
}

/// The behaviour that a token selects.
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

/// The attempt has no money to refund.
#[derive(Debug, thiserror::Error)]
#[error("the attempt was not captured")]
struct NotCaptured;

/// The gateway took the money, but its answer was lost.
#[derive(Debug, thiserror::Error)]
#[error("the simulated gateway fails after the capture")]
struct AnswerLost;

/// The simulated gateway.
#[derive(Clone)]
pub struct SimulatedGateway {
    log: Arc<dyn ChargeLog>,
}

impl SimulatedGateway {
    /// Creates a gateway with this log.
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
            // A token of another gateway is declined.
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
