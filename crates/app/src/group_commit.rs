//! Holds that arrive together share a transaction, and so do payments and releases: a decorator of the reservation
//! repository.
//!
//! While one batch commits, the next gathers. A command that comes alone waits for nobody.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, try_join_all};
use usher_kernel::{AccountId, AttemptId, Claim, PerformanceId, ReservationId, StoreError, Timestamp};
use usher_reservation::audit::History;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, RefundDue, ReleaseCommand, ReleaseOutcome, ReservationRepository,
    SeatFilter, SettleCommand, Settled, Unsettled,
};
use usher_reservation::{BoardEvent, BoardRecord, Reservation, Seat, SeatCounts};

use crate::background::Background;
use crate::batcher::{self, Batcher, Bounds};

/// More commands in one transaction make it longer than the lock timeout of those who wait for its seats.
const BOUNDS: Bounds = Bounds { batch_max: 256, waiting_max: 4_096 };

/// A reservation repository whose holds, payments and releases travel together, each with its like.
pub struct GroupCommit {
    inner: Arc<dyn ReservationRepository>,
    holds: Batcher<HoldCommand, HoldOutcome>,
    beginnings: Batcher<PayCommand, PayOutcome>,
    settlements: Batcher<SettleCommand, Option<Settled>>,
    releases: Batcher<ReleaseCommand, ReleaseOutcome>,
}

impl GroupCommit {
    /// Wraps a repository. The tasks that feed it end with the background tasks, between two batches.
    #[must_use]
    pub fn new(inner: Arc<dyn ReservationRepository>, background: &Background) -> Self {
        Self {
            holds: together("reservation.hold", &inner, background, |repository, commands| {
                Box::pin(async move { repository.hold(commands).await })
            }),
            beginnings: together("reservation.begin_payment", &inner, background, |repository, commands| {
                Box::pin(async move { repository.begin_payments(commands).await })
            }),
            settlements: together("reservation.settle", &inner, background, |repository, commands| {
                Box::pin(async move { repository.settle_all(commands).await })
            }),
            releases: together("reservation.release", &inner, background, |repository, commands| {
                Box::pin(async move { repository.release_all(commands).await })
            }),
            inner,
        }
    }
}

/// A verb of the repository.
type Verb<C, O> = for<'a> fn(&'a dyn ReservationRepository, &'a [C]) -> BoxFuture<'a, Result<Vec<O>, StoreError>>;

/// Runs commands in one transaction. Where that fails for what may be the fault of one of them, they go one by one, so that
/// it fails alone.
fn together<C, O>(
    operation: &'static str,
    inner: &Arc<dyn ReservationRepository>,
    background: &Background,
    verb: Verb<C, O>,
) -> Batcher<C, O>
where
    C: Send + Sync + 'static,
    O: Send + 'static,
{
    let repository = Arc::clone(inner);
    Batcher::new(operation, BOUNDS, background, move |commands: Vec<C>| {
        let repository = Arc::clone(&repository);
        async move {
            match verb(&*repository, &commands).await {
                Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
                Err(StoreError::Conflict { .. } | StoreError::Corrupt { .. }) if commands.len() > 1 => {
                    let mut outcomes = Vec::with_capacity(commands.len());
                    for command in commands.chunks(1) {
                        let alone = verb(&*repository, command).await;
                        outcomes.extend(
                            alone.map_or_else(|error| vec![Err(error)], |one| one.into_iter().map(Ok).collect()),
                        );
                    }
                    outcomes
                }
                Err(error) => batcher::share(&error, commands.len()),
            }
        }
    })
}

/// Makes several calls with the batches that come.
async fn call_all<C, O>(batcher: &Batcher<C, O>, commands: &[C]) -> Result<Vec<O>, StoreError>
where
    C: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    try_join_all(commands.iter().map(|command| batcher.call(command.clone()))).await
}

#[async_trait]
impl ReservationRepository for GroupCommit {
    async fn hold(&self, commands: &[HoldCommand]) -> Result<Vec<HoldOutcome>, StoreError> {
        call_all(&self.holds, commands).await
    }

    async fn find_hold(&self, claim: &Claim, now: Timestamp) -> Result<Option<HoldOutcome>, StoreError> {
        self.inner.find_hold(claim, now).await
    }

    async fn begin_payments(&self, commands: &[PayCommand]) -> Result<Vec<PayOutcome>, StoreError> {
        call_all(&self.beginnings, commands).await
    }

    async fn resolve_early(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        self.inner.resolve_early(attempt, now).await
    }

    async fn settle_all(&self, commands: &[SettleCommand]) -> Result<Vec<Option<Settled>>, StoreError> {
        call_all(&self.settlements, commands).await
    }

    async fn release_all(&self, commands: &[ReleaseCommand]) -> Result<Vec<ReleaseOutcome>, StoreError> {
        call_all(&self.releases, commands).await
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
