//! People who wait in a line on Redis, put there through the line's port, and what can be done with them.
//! Knows nothing of servers.

use std::ops::Range;
use std::time::Duration;

use usher_adapter_redis::RedisLineStore;
use usher_kernel::{AccountId, PerformanceId, Timestamp};
use usher_loadtest::bench::Outcome;
use usher_queue::ports::{AdmitTerms, At, Contribution, Gate, InEpoch, JoinOutcome, LineStore as _, Standing};
use usher_queue::{AccountHash, Epoch, PlaceNumber};

/// Above all numbers of any crowd. The ledger knows nothing of this crowd, so a server whose ledger is behind must not be
/// kept from taking joins until it has caught up, block by block.
const CEILING: PlaceNumber = PlaceNumber::new(100_000_000);

/// How many join in one call, as a batching server might send them.
const SLICE: u64 = 500;

/// A line on Redis.
pub(crate) struct Crowd {
    /// Its store.
    pub(crate) store: RedisLineStore,
    /// The line, its epoch, and the driver's time.
    pub(crate) at: At,
    /// Nobody is let in while people join; how the rest goes is a benchmark's to say.
    pub(crate) terms: AdmitTerms,
    /// How many joined.
    pub(crate) n_joined: u64,
}

impl Crowd {
    /// A line of its own, just opened.
    ///
    /// # Errors
    /// If Redis fails.
    pub(crate) async fn open(url: &str, performance: PerformanceId, now: Timestamp) -> Outcome<Self> {
        let crowd = Self::attach(url, At { performance, epoch: Epoch::new(1), now }).await?;
        crowd.store.open(crowd.at, &Contribution::default()).await?;
        Ok(crowd)
    }

    /// A line that somebody else opened.
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

    /// Lets more people join, until there are `n_people`.
    ///
    /// # Errors
    /// If Redis fails, or somebody does not wait where they should.
    pub(crate) async fn join_up_to(&mut self, n_people: u64) -> Outcome<()> {
        let (ceiling, terms) = (CEILING, AdmitTerms { gate: Gate::Shut, ..self.terms });
        while self.n_joined < n_people {
            let next = self.n_joined + 1..(self.n_joined + SLICE).min(n_people) + 1;
            let outcomes = current(self.store.join(self.at, &terms, ceiling, &accounts(next.clone())).await?)?;
            for (number, outcome) in next.clone().zip(outcomes) {
                if outcome != JoinOutcome::Joined(Standing::Waiting(PlaceNumber::new(number))) {
                    return Err(format!("person {number} was to wait at that number, but {outcome:?}").into());
                }
            }
            self.n_joined = next.end - 1;
        }
        Ok(())
    }
}

/// What the store answers while it holds the line.
///
/// # Errors
/// If it lost the line.
pub(crate) fn current<T>(answer: InEpoch<T>) -> Outcome<T> {
    match answer {
        InEpoch::Current(answer) => Ok(answer),
        InEpoch::Lost => Err("Redis lost the line".into()),
    }
}

/// The account of the person who joins as number `n`.
#[must_use]
pub(crate) fn account(n: u64) -> AccountHash {
    AccountHash::of(AccountId::from_bytes(u128::from(n).to_be_bytes()))
}

/// Those of a range of people.
#[must_use]
pub(crate) fn accounts(people: Range<u64>) -> Vec<AccountHash> {
    people.map(account).collect()
}
