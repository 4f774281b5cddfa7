//! Many tasks that start at the same moment: what every suite's race is run with.

use std::sync::Arc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// How many take part in a race.
pub const RACERS: u8 = 64;

/// Runs a task per racer, all set off at once. Answers in the order in which they finish.
///
/// # Panics
/// If one of them does.
pub async fn race<T, F>(racer: impl Fn(u8) -> F + Send) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    race_all((0..RACERS).map(racer)).await
}

/// Runs all of these as tasks, all set off at once. Answers in the order in which they finish.
///
/// # Panics
/// If one of them does.
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

/// The gap between check and act that the suites' negative controls have. A caller stays in it until another caller
/// arrives, so that no lucky schedule hides the race.
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
    /// How long a caller waits for another one before it goes on alone: longer than a busy machine mostly keeps a task
    /// waiting, and short enough for suites that call one after the other.
    const WAIT_MAX: std::time::Duration = std::time::Duration::from_millis(20);

    pub(crate) async fn wait_for_others(&self) {
        let mut arrivals = self.0.subscribe();
        let mut n_arrived = 0;
        self.0.send_modify(|n| {
            *n += 1;
            n_arrived = *n;
        });
        // The last caller of a race stays alone, and goes on when the time is over.
        drop(tokio::time::timeout(Self::WAIT_MAX, arrivals.wait_for(|n| *n > n_arrived)).await);
    }
}
