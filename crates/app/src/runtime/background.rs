//! Steps that a server takes again and again, until it stops.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The background tasks of one server. Stopping lets each finish the step it is in.
#[derive(Clone, Default)]
pub struct Background {
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Background {
    /// Takes a step every `period`, first at once. A step that fails is taken again; only the first failure of a row is
    /// logged, and the recovery, so that an outage is two lines and not a flood.
    pub fn every<S, F, E>(&self, name: &'static str, period: Duration, mut step: S)
    where
        S: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send,
    {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            let mut interval = tokio::time::interval(period);
            // After a stall, one step catches up with all that were missed.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut is_failing = false;
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    _ = interval.tick() => {}
                }
                match step().await {
                    Ok(()) if is_failing => tracing::info!(step = name, "works again"),
                    Err(error) if !is_failing => tracing::error!(step = name, %error, "fails; trying again"),
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

    /// Stops all tasks, and waits for the steps they are in, `at_most` so long.
    pub async fn stop(&self, at_most: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(at_most, self.tasks.wait()).await.is_err() {
            tracing::warn!("a background task did not stop in time");
        }
    }
}
