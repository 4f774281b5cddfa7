//! The driver's own time. It is the time of the servers too, which are on the same machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use usher_kernel::Timestamp;

/// How often a condition is looked at.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The present time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "people look at the time of day")]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Measures a span, whatever happens to the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins to measure.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "measuring is what the driver is for")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long it runs already.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Lets a span pass in which somebody does nothing: a person between two polls, a schedule between two kills.
#[expect(clippy::disallowed_methods, reason = "people wait; conditions are waited for with `eventually`")]
pub async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

/// Waits until `condition` answers something, and passes it on; nothing, if it does not within `at_most`.
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
