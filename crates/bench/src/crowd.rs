//! Crowds in a line on Redis, put there through the line's port. Knows nothing of servers.

use std::ops::Range;
use std::time::Duration;

use usher_adapter_redis::RedisLineStore;
use usher_kernel::{AccountId, PerformanceId, Timestamp};
use usher_loadtest::bench::Outcome;
use usher_queue::ports::{AdmitTerms, At, Contribution, Gate, InEpoch, JoinOutcome, LineStore as _, Standing};
use usher_queue::{AccountHash, Epoch, PlaceNumber};

/// The ceiling for joins, above the numbers of any crowd. The ledger does not know of this crowd; with a ceiling as low
/// as the ledger's, a server could take no join until it had raised that, block by block.
const CEILING: PlaceNumber = PlaceNumber::new(100_000_000);

/// Joins in one call, as a batching server may send them.
const SLICE: u64 = 500;

/// A crowd in a line on Redis.
pub(crate) struct Crowd {
    /// The line's store.
    pub(crate) store: RedisLineStore,
    /// The line, its epoch, and the time that the store is given.
    pub(crate) at: At,
    /// The admission terms. The gate is shut while people join; a benchmark opens it.
    pub(crate) terms: AdmitTerms,
    /// How many people have joined.
    pub(crate) n_joined: u64,
}

impl Crowd {
    /// Opens a new line.
    ///
    /// # Errors
    /// If Redis fails.
    pub(crate) async fn open(url: &str, performance: PerformanceId, now: Timestamp) -> Outcome<Self> {
        let crowd = Self::attach(url, At { performance, epoch: Epoch::new(1), now }).await?;
        crowd.store.open(crowd.at, &Contribution::default()).await?;
        Ok(crowd)
    }

    /// Attaches to a line that a server has opened.
    ///
    /// # Errors
    /// If Redis fails.
    pub(crate) async fn attach(url: &str, at: At) -> Outcome<Self> {
        let terms = AdmitTerms {
            gate: Gate::Shut,
            capacity: u32::MAX,
            rate_per_s: 0,
            tick: Duration::from_millis(250),
            pass_ttl: Duration::from_secs(300),
            presence_window: Duration::from_secs(90),
        };
        Ok(Self { store: RedisLineStore::connect(url).await?, at, terms, n_joined: 0 })
    }

    /// Joins more people, up to `n_people` in all.
    ///
    /// # Errors
    /// If Redis fails, or a person gets another number than the next.
    pub(crate) async fn join_up_to(&mut self, n_people: u64) -> Outcome<()> {
        let (ceiling, terms) = (CEILING, AdmitTerms { gate: Gate::Shut, ..self.terms });
        while self.n_joined < n_people {
            let next = self.n_joined + 1..(self.n_joined + SLICE).min(n_people) + 1;
            let outcomes = current(self.store.join(self.at, &terms, ceiling, &accounts(next.clone())).await?)?;
            for (number, outcome) in next.clone().zip(outcomes) {
                if outcome != JoinOutcome::Joined(Standing::Waiting(PlaceNumber::new(number))) {
                    return Err(format!("the join of person {number} is answered {outcome:?}").into());
                }
            }
            self.n_joined = next.end - 1;
        }
        Ok(())
    }
}

/// The answer of a store that holds the line.
///
/// # Errors
/// If the store has lost the line.
pub(crate) fn current<T>(answer: InEpoch<T>) -> Outcome<T> {
    match answer {
        InEpoch::Current(answer) => Ok(answer),
        InEpoch::Lost => Err("Redis lost the line".into()),
    }
}

/// The account of the person with number `n`.
#[must_use]
pub(crate) fn account(n: u64) -> AccountHash {
    AccountHash::of(AccountId::from_bytes(u128::from(n).to_be_bytes()))
}

/// The accounts of a range of people.
#[must_use]
pub(crate) fn accounts(people: Range<u64>) -> Vec<AccountHash> {
    people.map(account).collect()
}
