//! Background tasks: steps that a server repeats until it stops.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The background tasks of one server. When they are stopped, each finishes its current step.
#[derive(Clone, Default)]
pub struct Background {
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Background {
    /// Runs a step now and every `period`. A failed step is repeated with the next period. Logs only the first failure
    /// of a series and the recovery, so that an outage is two lines.
    pub fn every<S, F, E>(&self, name: &'static str, period: Duration, mut step: S)
    where
        S: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send,
    {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            let mut interval = tokio::time::interval(period);
            // After a stall, one step replaces all missed ones.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut is_failing = false;
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    _ = interval.tick() => {}
                }
                match step().await {
                    Ok(()) if is_failing => tracing::info!(step = name, "a background step works again"),
                    Err(error) if !is_failing => {
                        tracing::warn!(step = name, %error, "a background step fails, and is tried again");
                    }
                    Ok(()) | Err(_) => continue,
                }
                is_failing = !is_failing;
            }
        });
    }

    /// Runs one task that ends when its token is cancelled.
    pub fn run<F>(&self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.stopping.clone()));
    }

    /// The tasks that [`Self::stop`] waits for.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Stops all tasks, and waits for their current steps, but no longer than `at_most`.
    pub async fn stop(&self, at_most: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(at_most, self.tasks.wait()).await.is_err() {
            tracing::warn!("a background task did not stop in time");
        }
    }
}
