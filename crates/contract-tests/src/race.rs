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

/// The gap between looking and acting that the suites' negative controls have. Whoever is in it stays until somebody
/// else is there too, so that no lucky schedule hides the race.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Gap(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl Gap {
    /// How often others are let run before a caller believes that it is alone.
    const YIELDS_MAX: u32 = 100;

    pub(crate) async fn wait_for_others(&self) {
        use std::sync::atomic::Ordering::SeqCst;

        let n_arrived = self.0.fetch_add(1, SeqCst) + 1;
        for _ in 0..Self::YIELDS_MAX {
            if self.0.load(SeqCst) > n_arrived {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}
