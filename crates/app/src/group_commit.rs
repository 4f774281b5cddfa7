//! Holds that arrive together share a transaction: a decorator of the reservation repository.
//!
//! While one batch commits, the next gathers. A hold that comes alone waits for nobody.

use std::sync::Arc;

use async_trait::async_trait;
use usher_kernel::{AccountId, AttemptId, Claim, PerformanceId, ReservationId, StoreError, Timestamp};
use usher_reservation::audit::History;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, RefundDue, ReleaseOutcome, ReservationRepository, SeatFilter,
    Settled, Unsettled, Verdict,
};
use usher_reservation::{BoardEvent, BoardRecord, Reservation, Seat, SeatCounts};

use crate::background::Background;
use crate::batcher::{self, Batcher, Bounds};

/// More holds in one transaction make it longer than the lock timeout of those who wait for its seats.
const BOUNDS: Bounds = Bounds { batch_max: 256, waiting_max: 4_096 };

/// A reservation repository whose holds travel together.
pub struct GroupCommit {
    inner: Arc<dyn ReservationRepository>,
    holds: Batcher<HoldCommand, HoldOutcome>,
}

impl GroupCommit {
    /// Wraps a repository. The task that feeds it ends with the background tasks, between two batches.
    #[must_use]
    pub fn new(inner: Arc<dyn ReservationRepository>, background: &Background) -> Self {
        let repository = Arc::clone(&inner);
        let holds = Batcher::new("reservation.hold", BOUNDS, background, move |commands: Vec<HoldCommand>| {
            let repository = Arc::clone(&repository);
            async move {
                match repository.hold(&commands).await {
                    Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
                    Err(error) => batcher::share(&error, commands.len()),
                }
            }
        });
        Self { inner, holds }
    }
}

#[async_trait]
impl ReservationRepository for GroupCommit {
    async fn hold(&self, commands: &[HoldCommand]) -> Result<Vec<HoldOutcome>, StoreError> {
        futures_util::future::try_join_all(commands.iter().map(|command| self.holds.call(command.clone()))).await
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

    async fn board(&self, performance: PerformanceId, n_events: u32) -> Result<Option<BoardRecord>, StoreError> {
        self.inner.board(performance, n_events).await
    }

    async fn events(&self, after: u64, missing: &[u64], limit: u32) -> Result<Vec<BoardEvent>, StoreError> {
        self.inner.events(after, missing, limit).await
    }

    async fn settled_event(&self) -> Result<u64, StoreError> {
        self.inner.settled_event().await
    }

    async fn history(&self, performance: PerformanceId) -> Result<History, StoreError> {
        self.inner.history(performance).await
    }
}
