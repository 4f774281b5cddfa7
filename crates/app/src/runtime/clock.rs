//! The system's clock: the only place that reads the wall clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::UNIX_EPOCH;

use usher_kernel::{Clock, Timestamp};

/// The system's clock. It never goes back while the process runs.
#[derive(Debug, Default)]
pub struct SystemClock {
    latest_ms: AtomicI64,
}

impl SystemClock {
    /// The system's clock.
    #[must_use]
    pub const fn new() -> Self {
        Self { latest_ms: AtomicI64::new(0) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that all others ask")]
        let since_epoch = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_ms(self.latest_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let clock = SystemClock::new();
        clock.latest_ms.store(i64::MAX, Ordering::Relaxed);

        assert_eq!(clock.now().unix_ms(), i64::MAX);
    }
}
