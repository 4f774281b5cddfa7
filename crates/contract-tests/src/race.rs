//! Runs tasks that start at the same moment, for the races of all suites.

use std::sync::Arc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Tasks in a race.
pub const RACERS: u8 = 64;

/// Runs a task per racer. All start at once; results come in the order in which the tasks finish.
///
/// # Panics
/// If a task does.
pub async fn race<T, F>(racer: impl Fn(u8) -> F + Send) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    race_all((0..RACERS).map(racer)).await
}

/// Runs these futures as tasks. All start at once; results come in the order in which the tasks finish.
///
/// # Panics
/// If a task does.
pub async fn race_all<T, F>(racers: impl IntoIterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let racers: Vec<_> = racers.into_iter().collect();
    let start = Arc::new(Barrier::new(racers.len()));
    let mut tasks = JoinSet::new();
    for run in racers {
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            start.wait().await;
            run.await
        });
    }
    tasks.join_all().await
}

/// The gap between check and act in the suites' negative controls. A caller waits in it until another caller arrives,
/// so that no lucky schedule hides the race.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Gap(tokio::sync::watch::Sender<usize>);

#[cfg(test)]
impl Default for Gap {
    fn default() -> Self {
        Self(tokio::sync::watch::Sender::new(0))
    }
}

#[cfg(test)]
impl Gap {
    /// How long a caller waits for another caller: longer than a task usually waits for a core of a busy machine, and
    /// short enough for tests with sequential calls.
    const WAIT_MAX: std::time::Duration = std::time::Duration::from_millis(20);

    pub(crate) async fn wait_for_others(&self) {
        let mut arrivals = self.0.subscribe();
        let mut n_arrived = 0;
        self.0.send_modify(|n| {
            *n += 1;
            n_arrived = *n;
        });
        // No caller arrives after the last one of a race, which goes on after the timeout.
        drop(tokio::time::timeout(Self::WAIT_MAX, arrivals.wait_for(|n| *n > n_arrived)).await);
    }
}
