//! Holds that arrive together share a transaction: a decorator of the reservation repository.
//!
//! While one batch commits, the next gathers. A hold that comes alone waits for nobody.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use usher_kernel::{AccountId, AttemptId, Claim, PerformanceId, ReservationId, StoreError, Timestamp};
use usher_reservation::audit::History;
use usher_reservation::model::Availability;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, RefundDue, ReleaseOutcome, ReservationRepository, SeatFilter,
    Settled, Unsettled, Verdict,
};
use usher_reservation::{Reservation, Seat, SeatCounts};

use crate::background::Background;

/// The most holds in one transaction: more make it longer than the lock timeout of those who wait for its seats.
const BATCH_MAX: usize = 256;
/// The most holds that wait for a transaction; more are told to come back.
const WAITING_MAX: usize = 4_096;

type Answer = oneshot::Sender<Result<HoldOutcome, StoreError>>;

/// A reservation repository whose holds travel together.
pub struct GroupCommit {
    inner: Arc<dyn ReservationRepository>,
    waiting: mpsc::Sender<(HoldCommand, Answer)>,
}

impl GroupCommit {
    /// Wraps a repository. The task that feeds it ends with the background tasks, between two batches.
    #[must_use]
    pub fn new(inner: Arc<dyn ReservationRepository>, background: &Background) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        background.run(|stopping| commit_batches(Arc::clone(&inner), queue, stopping));
        Self { inner, waiting }
    }

    async fn hold_one(&self, command: &HoldCommand) -> Result<HoldOutcome, StoreError> {
        let (answer, outcome) = oneshot::channel();
        self.waiting.try_send((command.clone(), answer)).map_err(|error| unavailable(error.to_string()))?;
        outcome.await.map_err(|error| unavailable(error.to_string()))?
    }
}

async fn commit_batches(
    inner: Arc<dyn ReservationRepository>,
    mut queue: mpsc::Receiver<(HoldCommand, Answer)>,
    stopping: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while let Some(1..) = stopping.run_until_cancelled(queue.recv_many(&mut batch, BATCH_MAX)).await {
        let (commands, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let outcomes = match inner.hold(&commands).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) => share(&error, answers.len()),
        };
        for (answer, outcome) in answers.into_iter().zip::<Vec<_>>(outcomes) {
            // Whoever asked may be gone; the outcome stands, and a repeated request finds it.
            drop(answer.send(outcome));
        }
    }
}

/// One failure for everybody who shared the transaction.
fn share(error: &StoreError, count: usize) -> Vec<Result<HoldOutcome, StoreError>> {
    let text = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    let copy = || {
        let (operation, source) = (error.operation(), text.clone().into());
        match error {
            StoreError::Unavailable { .. } => StoreError::Unavailable { operation, source },
            StoreError::Timeout { .. } => StoreError::Timeout { operation, source },
            StoreError::Corrupt { .. } => StoreError::Corrupt { operation, source },
        }
    };
    std::iter::repeat_with(copy).take(count).map(Err).collect()
}

fn unavailable(source: String) -> StoreError {
    StoreError::Unavailable { operation: "reservation.hold", source: source.into() }
}

#[async_trait]
impl ReservationRepository for GroupCommit {
    async fn hold(&self, commands: &[HoldCommand]) -> Result<Vec<HoldOutcome>, StoreError> {
        futures_util::future::try_join_all(commands.iter().map(|command| self.hold_one(command))).await
    }

    async fn find_hold(&self, claim: &Claim, now: Timestamp) -> Result<Option<HoldOutcome>, StoreError> {
        self.inner.find_hold(claim, now).await
    }

    async fn begin_payment(&self, command: &PayCommand) -> Result<PayOutcome, StoreError> {
        self.inner.begin_payment(command).await
    }

    async fn resolve_early(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        self.inner.resolve_early(attempt, now).await
    }

    async fn settle(
        &self,
        attempt: AttemptId,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Option<Settled>, StoreError> {
        self.inner.settle(attempt, verdict, now).await
    }

    async fn release(
        &self,
        reservation: ReservationId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<ReleaseOutcome, StoreError> {
        self.inner.release(reservation, account, now).await
    }

    async fn expire_lapsed(&self, now: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.inner.expire_lapsed(now, limit).await
    }

    async fn unsettled(&self, now: Timestamp, limit: u32) -> Result<Vec<Unsettled>, StoreError> {
        self.inner.unsettled(now, limit).await
    }

    async fn refunds_due(&self, limit: u32) -> Result<Vec<RefundDue>, StoreError> {
        self.inner.refunds_due(limit).await
    }

    async fn refund_sent(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        self.inner.refund_sent(attempt, now).await
    }

    async fn find(
        &self,
        reservation: ReservationId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Option<Reservation>, StoreError> {
        self.inner.find(reservation, account, now).await
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<ReservationId>,
        limit: u64,
        now: Timestamp,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.inner.list(account, after, limit, now).await
    }

    async fn seats(
        &self,
        performance: PerformanceId,
        filter: &SeatFilter,
        now: Timestamp,
    ) -> Result<Vec<Seat>, StoreError> {
        self.inner.seats(performance, filter, now).await
    }

    async fn seat_counts(&self, performances: &[PerformanceId], now: Timestamp) -> Result<Vec<SeatCounts>, StoreError> {
        self.inner.seat_counts(performances, now).await
    }

    async fn availability(&self, performance: PerformanceId) -> Result<Availability, StoreError> {
        self.inner.availability(performance).await
    }

    async fn history(&self, performance: PerformanceId) -> Result<History, StoreError> {
        self.inner.history(performance).await
    }
}
