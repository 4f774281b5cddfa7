//! Decorators of the line's ports, for stores that are a round trip away: calls that arrive together share a round
//! trip.
//!
//! A call for one person fails after 400 ms if the store does not answer. Its command may still run, and repeating it
//! does no harm.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, join_all};
use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, StoreError, Timestamp};
use usher_queue::ports::{
    Admission, AdmitTerms, At, Contribution, Cursor, InEpoch, JoinOutcome, LeaveOutcome, LineChanges, LineLedger,
    LineMark, LineStore, Opening, PastGrant, ReEntry, Resolution, Superseded,
};
use usher_queue::{AccountHash, Epoch, Grant, Place, PlaceNumber};

use crate::runtime::background::Background;
use crate::runtime::batcher::{self, Batcher, Bounds};

/// Half of the time in which an answer seems immediate to a person: the other half is for the way to the client.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// A batch is as long as one script takes. The queue is longer than the default number of requests in flight.
const BOUNDS: Bounds = Bounds { batch_max: 500, waiting_max: 16_384 };

/// A call about some items of one line.
struct Call<K, I> {
    key: K,
    items: Vec<I>,
}

type Together<K, I, A> = Batcher<Call<K, I>, A>;

/// An answer to a group of calls.
trait Answer: Sized + Send + 'static {
    /// Splits the answer among calls with `n_items` each, in their order.
    fn split(self, n_items: Vec<usize>) -> Vec<Self>;
}

/// An answer with one element for each item.
impl<O: Send + 'static> Answer for Vec<O> {
    fn split(self, n_items: Vec<usize>) -> Vec<Self> {
        let mut parts = self.into_iter();
        n_items.into_iter().map(|n| parts.by_ref().take(n).collect()).collect()
    }
}

/// A bare confirmation, the same for every call.
impl Answer for () {
    fn split(self, n_items: Vec<usize>) -> Vec<Self> {
        vec![(); n_items.len()]
    }
}

impl<A: Answer> Answer for InEpoch<A> {
    fn split(self, n_items: Vec<usize>) -> Vec<Self> {
        match self {
            Self::Current(answer) => answer.split(n_items).into_iter().map(Self::Current).collect(),
            Self::Lost => n_items.into_iter().map(|_| Self::Lost).collect(),
        }
    }
}

/// One result, the same for every call.
impl<T: Clone + Send + 'static> Answer for Superseded<T> {
    fn split(self, n_items: Vec<usize>) -> Vec<Self> {
        vec![self; n_items.len()]
    }
}

/// Merges the calls whose keys go together into one call.
fn together<K, I, A>(
    operation: &'static str,
    background: &Background,
    goes_with: fn(&K, &K) -> bool,
    run: impl Fn(K, Vec<I>) -> BoxFuture<'static, Result<A, StoreError>> + Send + Sync + 'static,
) -> Together<K, I, A>
where
    K: Send + 'static,
    I: Send + 'static,
    A: Answer,
{
    let run = Arc::new(run);
    Batcher::new(operation, BOUNDS, background, move |calls: Vec<Call<K, I>>| {
        let run = Arc::clone(&run);
        async move {
            let n_calls = calls.len();
            let groups = join_all(Group::of(calls, goes_with).into_iter().map(async |Group { key, items, shares }| {
                let answer = run(key, items).await;
                split(answer, shares)
            }));
            let mut answers: Vec<_> = std::iter::repeat_with(|| None).take(n_calls).collect();
            for (call, answer) in groups.await.into_iter().flatten() {
                answers[call] = Some(answer);
            }
            answers.into_iter().flatten().collect()
        }
    })
}

/// Calls that go together, merged.
struct Group<K, I> {
    key: K,
    items: Vec<I>,
    /// For each call, its index in the batch and the number of its items.
    shares: Vec<(usize, usize)>,
}

impl<K, I> Group<K, I> {
    fn of(calls: Vec<Call<K, I>>, goes_with: fn(&K, &K) -> bool) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for (call, Call { key, items }) in calls.into_iter().enumerate() {
            let share = (call, items.len());
            match groups.iter_mut().find(|group| goes_with(&group.key, &key)) {
                Some(group) => {
                    group.items.extend(items);
                    group.shares.push(share);
                }
                None => groups.push(Self { key, items, shares: vec![share] }),
            }
        }
        groups
    }
}

/// Splits a group's answer into one part for each call, with the call's index in the batch.
fn split<A: Answer>(answer: Result<A, StoreError>, shares: Vec<(usize, usize)>) -> Vec<(usize, Result<A, StoreError>)> {
    let (calls, n_items): (Vec<_>, Vec<_>) = shares.into_iter().unzip();
    let parts = match answer {
        Ok(answer) => answer.split(n_items).into_iter().map(Ok).collect(),
        Err(error) => batcher::share(&error, calls.len()),
    };
    calls.into_iter().zip(parts).collect()
}

/// Fails a call that the store does not answer within [`ANSWER_WITHIN`].
async fn promptly<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let silent = |elapsed| StoreError::Timeout { operation, source: Box::new(elapsed) };
    tokio::time::timeout(ANSWER_WITHIN, call).await.map_err(silent)?
}

/// The line, terms and ceiling of a join.
type JoinKey = (At, AdmitTerms, PlaceNumber);

fn same_line(one: &At, other: &At) -> bool {
    // The times may differ: the calls of one batch count as simultaneous.
    one.performance == other.performance && one.epoch == other.epoch
}

/// A line's store whose callers share its round trips.
pub struct BatchedLineStore {
    inner: Arc<dyn LineStore>,
    joins: Together<JoinKey, AccountHash, InEpoch<Vec<JoinOutcome>>>,
    resolves: Together<At, Place, InEpoch<Vec<Resolution>>>,
    re_entries: Together<At, ReEntry, InEpoch<()>>,
}

impl BatchedLineStore {
    /// Wraps a store. The tasks that send the batches end with the background tasks.
    #[must_use]
    pub fn new(inner: Arc<dyn LineStore>, background: &Background) -> Self {
        let store = Arc::clone(&inner);
        let same_terms =
            |one: &JoinKey, other: &JoinKey| same_line(&one.0, &other.0) && one.1 == other.1 && one.2 == other.2;
        let joins = together("line.join", background, same_terms, move |(at, terms, ceiling): JoinKey, accounts| {
            let store = Arc::clone(&store);
            Box::pin(async move { store.join(at, &terms, ceiling, &accounts).await })
        });
        let store = Arc::clone(&inner);
        let resolves = together("line.resolve", background, same_line, move |at, places: Vec<Place>| {
            let store = Arc::clone(&store);
            Box::pin(async move { store.resolve(at, &places).await })
        });
        let store = Arc::clone(&inner);
        let re_entries = together("line.re_enter", background, same_line, move |at, entries: Vec<ReEntry>| {
            let store = Arc::clone(&store);
            Box::pin(async move { store.re_enter(at, &entries).await })
        });
        Self { inner, joins, resolves, re_entries }
    }
}

#[async_trait]
impl LineStore for BatchedLineStore {
    async fn open(&self, at: At, contribution: &Contribution) -> Result<(), StoreError> {
        self.inner.open(at, contribution).await
    }

    async fn contribute(&self, at: At, contribution: &Contribution) -> Result<InEpoch<()>, StoreError> {
        self.inner.contribute(at, contribution).await
    }

    async fn join(
        &self,
        at: At,
        terms: &AdmitTerms,
        ceiling: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError> {
        let call = Call { key: (at, *terms, ceiling), items: accounts.to_vec() };
        promptly("line.join", self.joins.call(call)).await
    }

    async fn resolve(&self, at: At, places: &[Place]) -> Result<InEpoch<Vec<Resolution>>, StoreError> {
        promptly("line.resolve", self.resolves.call(Call { key: at, items: places.to_vec() })).await
    }

    async fn re_enter(&self, at: At, entries: &[ReEntry]) -> Result<InEpoch<()>, StoreError> {
        promptly("line.re_enter", self.re_entries.call(Call { key: at, items: entries.to_vec() })).await
    }

    async fn leave(&self, at: At, place: Place) -> Result<InEpoch<LeaveOutcome>, StoreError> {
        promptly("line.leave", self.inner.leave(at, place)).await
    }

    async fn end_pass(&self, at: At, number: PlaceNumber) -> Result<InEpoch<()>, StoreError> {
        promptly("line.end_pass", self.inner.end_pass(at, number)).await
    }

    async fn mark_present(
        &self,
        at: At,
        presence_window: Duration,
        seen: &RoaringTreemap,
    ) -> Result<InEpoch<()>, StoreError> {
        self.inner.mark_present(at, presence_window, seen).await
    }

    async fn admit(&self, at: At, terms: &AdmitTerms, examine_max: u32) -> Result<InEpoch<Admission>, StoreError> {
        self.inner.admit(at, terms, examine_max).await
    }

    async fn refresh(
        &self,
        epoch: Epoch,
        now: Timestamp,
        lines: &[(PerformanceId, Cursor)],
    ) -> Result<Vec<InEpoch<LineChanges>>, StoreError> {
        self.inner.refresh(epoch, now, lines).await
    }
}

/// A raise of a line's ceiling: the line, its epoch, the ceiling that the caller saw, and the raise.
type ReserveKey = (PerformanceId, Epoch, PlaceNumber, u64);

/// A ledger whose callers share look-ups of past grants, which all clients need after a loss, and raises of a ceiling,
/// which all joins reach together. The batches run in a task of their own, so a dropped call interrupts no transaction.
pub struct BatchedLineLedger {
    inner: Arc<dyn LineLedger>,
    reserves: Together<ReserveKey, (), Superseded<PlaceNumber>>,
    past_grants: Together<PerformanceId, PlaceNumber, Vec<PastGrant>>,
}

impl BatchedLineLedger {
    /// Wraps a ledger. The tasks that send the batches end with the background tasks.
    #[must_use]
    pub fn new(inner: Arc<dyn LineLedger>, background: &Background) -> Self {
        let ledger = Arc::clone(&inner);
        let reserves = together("ledger.reserve", background, ReserveKey::eq, move |key: ReserveKey, _: Vec<()>| {
            let ((line, epoch, seen, block), ledger) = (key, Arc::clone(&ledger));
            Box::pin(async move { ledger.reserve(line, epoch, seen, block).await })
        });
        let ledger = Arc::clone(&inner);
        let same_line = |one: &PerformanceId, other: &PerformanceId| one == other;
        let past_grants = together("ledger.past_grants", background, same_line, move |line, numbers: Vec<_>| {
            let ledger = Arc::clone(&ledger);
            Box::pin(async move { ledger.past_grants(line, &numbers).await })
        });
        Self { inner, reserves, past_grants }
    }
}

#[async_trait]
impl LineLedger for BatchedLineLedger {
    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.inner.epoch().await
    }

    async fn begin_epoch(&self, seen: Epoch) -> Result<Epoch, StoreError> {
        self.inner.begin_epoch(seen).await
    }

    async fn open_line(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        block: u64,
        now: Timestamp,
    ) -> Result<Superseded<Opening>, StoreError> {
        self.inner.open_line(performance, epoch, block, now).await
    }

    async fn reserve(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        seen: PlaceNumber,
        block: u64,
    ) -> Result<Superseded<PlaceNumber>, StoreError> {
        self.reserves.call(Call { key: (performance, epoch, seen, block), items: Vec::new() }).await
    }

    async fn save(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        mark: &LineMark,
        granted: &[Grant],
    ) -> Result<Superseded<()>, StoreError> {
        self.inner.save(performance, epoch, mark, granted).await
    }

    async fn end_pass(
        &self,
        performance: PerformanceId,
        number: PlaceNumber,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.end_pass(performance, number, now).await
    }

    async fn past_grants(
        &self,
        performance: PerformanceId,
        numbers: &[PlaceNumber],
    ) -> Result<Vec<PastGrant>, StoreError> {
        self.past_grants.call(Call { key: performance, items: numbers.to_vec() }).await
    }
}
