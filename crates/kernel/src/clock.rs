//! Ports for the two sources of non-determinism: the time, and new ids.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use crate::Timestamp;

/// Tells the time. Services ask it once per command and pass `now` on; stores never read a clock.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The present time. Never goes back on one server.
    fn now(&self) -> Timestamp;
}

/// Generates ids and secrets that cannot be guessed.
pub trait IdGenerator: Send + Sync + fmt::Debug + 'static {
    /// A new UUID, unique, increasing with time (RFC 9562, version 7).
    fn next_uuid(&self) -> Uuid;

    /// A secret code for a ticket: 26 characters of Crockford base 32, 130 random bits.
    fn next_code(&self) -> String;
}

/// Clock for tests. It stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.unix_ms()))
    }

    /// Moves the clock forward.
    pub fn advance(&self, span: Duration) {
        self.0.store(self.now().plus(span).unix_ms(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}

/// Id generator for tests. Counts 1, 2, 3, and so on.
#[derive(Debug, Default)]
pub struct CountedIds(AtomicU64);

impl CountedIds {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl IdGenerator for CountedIds {
    fn next_uuid(&self) -> Uuid {
        Uuid::from_u128(self.next().into())
    }

    fn next_code(&self) -> String {
        format!("{:026}", self.next())
    }
}
