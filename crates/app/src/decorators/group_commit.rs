//! Group commit, a decorator of the reservation repository: holds that arrive together share a transaction, and so do
//! payments and releases.
//!
//! While one batch commits, the next one gathers. A command that arrives while none commits runs at once.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, try_join_all};
use usher_kernel::{AccountId, AttemptId, Claim, PerformanceId, ReservationId, StoreError, Timestamp};
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, RefundDue, ReleaseCommand, ReleaseOutcome, ReservationRepository,
    SeatFilter, SettleCommand, Settled, Unsettled, the_only,
};
use usher_reservation::{Reservation, Seat, SeatCounts};

use crate::runtime::background::Background;
use crate::runtime::batcher::{self, Batcher, Bounds};

/// A transaction of more commands may outlast the lock timeout of others that wait for its seats.
const BOUNDS: Bounds = Bounds { batch_max: 256, waiting_max: 4_096 };

/// A reservation repository that commits holds, payments and releases in batches, one kind in each.
pub struct GroupCommit {
    inner: Arc<dyn ReservationRepository>,
    holds: Batcher<Timed<HoldCommand>, HoldOutcome>,
    beginnings: Batcher<Timed<PayCommand>, PayOutcome>,
    settlements: Batcher<Timed<SettleCommand>, Option<Settled>>,
    releases: Batcher<Timed<ReleaseCommand>, ReleaseOutcome>,
}

impl GroupCommit {
    /// Wraps a repository. The tasks that send the batches end with the background tasks, between two batches.
    #[must_use]
    pub fn new(inner: Arc<dyn ReservationRepository>, background: &Background) -> Self {
        Self {
            holds: together("reservation.hold", &inner, background, |repository, commands, now| {
                Box::pin(async move { repository.hold(commands, now).await })
            }),
            beginnings: together("reservation.begin_payment", &inner, background, |repository, commands, now| {
                Box::pin(async move { repository.begin_payments(commands, now).await })
            }),
            settlements: together("reservation.settle", &inner, background, |repository, commands, now| {
                Box::pin(async move { repository.settle_all(commands, now).await })
            }),
            releases: together("reservation.release", &inner, background, |repository, commands, now| {
                Box::pin(async move { repository.release_all(commands, now).await })
            }),
            inner,
        }
    }
}

/// A command, and the time of its call.
type Timed<C> = (C, Timestamp);

/// A method of the repository that takes several commands.
type Verb<C, O> =
    for<'a> fn(&'a dyn ReservationRepository, &'a [C], Timestamp) -> BoxFuture<'a, Result<Vec<O>, StoreError>>;

/// Runs commands in one transaction. After a failure that one command may have caused, runs each command in its own
/// transaction, so that only that one fails.
fn together<C, O>(
    operation: &'static str,
    inner: &Arc<dyn ReservationRepository>,
    background: &Background,
    verb: Verb<C, O>,
) -> Batcher<Timed<C>, O>
where
    C: Send + Sync + 'static,
    O: Send + 'static,
{
    let repository = Arc::clone(inner);
    Batcher::new(operation, BOUNDS, background, move |batch: Vec<Timed<C>>| {
        let repository = Arc::clone(&repository);
        async move {
            let (commands, times): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            // The latest time, because time must not go back for the command that arrived last.
            let now = times.into_iter().max().unwrap_or(Timestamp::EPOCH);
            match verb(&*repository, &commands, now).await {
                Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
                Err(StoreError::Conflict { .. } | StoreError::Corrupt { .. }) if commands.len() > 1 => {
                    let mut outcomes = Vec::with_capacity(commands.len());
                    for command in commands.chunks(1) {
                        let alone = verb(&*repository, command, now).await;
                        outcomes.push(alone.and_then(|outcomes| the_only(operation, outcomes)));
                    }
                    outcomes
                }
                Err(error) => batcher::share(&error, commands.len()),
            }
        }
    })
}

/// Adds commands to the next batches, and waits for all their outcomes.
async fn call_all<C, O>(batcher: &Batcher<Timed<C>, O>, commands: &[C], now: Timestamp) -> Result<Vec<O>, StoreError>
where
    C: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    try_join_all(commands.iter().map(|command| batcher.call((command.clone(), now)))).await
}

#[async_trait]
impl ReservationRepository for GroupCommit {
    async fn hold(&self, commands: &[HoldCommand], now: Timestamp) -> Result<Vec<HoldOutcome>, StoreError> {
        call_all(&self.holds, commands, now).await
    }

    async fn find_hold(&self, claim: &Claim, now: Timestamp) -> Result<Option<HoldOutcome>, StoreError> {
        self.inner.find_hold(claim, now).await
    }

    async fn begin_payments(&self, commands: &[PayCommand], now: Timestamp) -> Result<Vec<PayOutcome>, StoreError> {
        call_all(&self.beginnings, commands, now).await
    }

    async fn resolve_early(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        self.inner.resolve_early(attempt, now).await
    }

    async fn settle_all(&self, commands: &[SettleCommand], now: Timestamp) -> Result<Vec<Option<Settled>>, StoreError> {
        call_all(&self.settlements, commands, now).await
    }

    async fn release_all(
        &self,
        commands: &[ReleaseCommand],
        now: Timestamp,
    ) -> Result<Vec<ReleaseOutcome>, StoreError> {
        call_all(&self.releases, commands, now).await
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
}
