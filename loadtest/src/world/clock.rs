//! The driver's clock. The servers run on the same machine, so they read the same time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use usher_kernel::Timestamp;

/// How often [`eventually`] checks its condition.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The current time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Measures a span with the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the driver measures time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Sleeps, where the pause itself is the behaviour: a client between two polls, a schedule between two kills.
#[expect(clippy::disallowed_methods, reason = "the pause is the behaviour; use `eventually` to wait for a condition")]
pub async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

/// Calls `condition` until it returns a value, and returns that; `None` after `at_most`.
pub async fn eventually<T, F>(at_most: Duration, mut condition: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let tries = async {
        loop {
            if let Some(answer) = condition().await {
                return answer;
            }
            pass(TRY_AGAIN_AFTER).await;
        }
    };
    tokio::time::timeout(at_most, tries).await.ok()
}
