//! Batches calls: while one batch is under way, the next one gathers. A call that arrives while none is under way is
//! sent at once.

use std::iter;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use usher_kernel::StoreError;

use crate::runtime::background::Background;

type Waiting<C, O> = (C, oneshot::Sender<Result<O, StoreError>>);

/// Collects single calls into batches.
pub struct Batcher<C, O> {
    operation: &'static str,
    waiting: mpsc::Sender<Waiting<C, O>>,
}

/// The limits of a batcher.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most calls in one batch.
    pub batch_max: usize,
    /// The most calls that wait for the next batch; more fail with [`StoreError::Unavailable`].
    pub waiting_max: usize,
}

impl<C: Send + 'static, O: Send + 'static> Batcher<C, O> {
    /// Starts a task that passes the batches to `serve`, one after the other. `serve` returns the answers in the order
    /// of the calls. The task ends with the background tasks, between two batches.
    #[must_use]
    pub fn new<F>(
        operation: &'static str,
        bounds: Bounds,
        background: &Background,
        serve: impl Fn(Vec<C>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<Result<O, StoreError>>> + Send + 'static,
    {
        let (waiting, queue) = mpsc::channel(bounds.waiting_max);
        background.run(|stopping| serve_batches(serve, queue, bounds.batch_max, stopping));
        Self { operation, waiting }
    }

    /// Makes a call with the next batch.
    ///
    /// # Errors
    /// The error of `serve`; [`StoreError::Unavailable`] if too many calls wait, or the server stops.
    pub async fn call(&self, call: C) -> Result<O, StoreError> {
        let (answer, outcome) = oneshot::channel();
        self.waiting.try_send((call, answer)).map_err(|error| self.unavailable(error.to_string()))?;
        outcome.await.map_err(|error| self.unavailable(error.to_string()))?
    }

    fn unavailable(&self, source: String) -> StoreError {
        StoreError::Unavailable { operation: self.operation, source: source.into() }
    }
}

async fn serve_batches<C, O, F>(
    serve: impl Fn(Vec<C>) -> F + Send,
    mut queue: mpsc::Receiver<Waiting<C, O>>,
    batch_max: usize,
    stopping: CancellationToken,
) where
    F: Future<Output = Vec<Result<O, StoreError>>> + Send,
{
    let mut batch = Vec::with_capacity(batch_max);
    while let Some(1..) = stopping.run_until_cancelled(queue.recv_many(&mut batch, batch_max)).await {
        // Drops calls whose caller stopped waiting before the batch was sent.
        let (calls, answers): (Vec<_>, Vec<_>) = batch.drain(..).filter(|(_, answer)| !answer.is_closed()).unzip();
        if calls.is_empty() {
            continue;
        }
        for (answer, outcome) in answers.into_iter().zip(serve(calls).await) {
            // The caller may have stopped waiting. The outcome is stored, and a repeated request finds it.
            drop(answer.send(outcome));
        }
    }
}

/// Copies a failure for each of the `count` calls that shared it.
pub(crate) fn share<O>(error: &StoreError, count: usize) -> Vec<Result<O, StoreError>> {
    iter::repeat_with(|| copy(error)).take(count).map(Err).collect()
}

/// Copies a failure. The copy has its causes as text, because errors cannot be cloned.
pub(crate) fn copy(error: &StoreError) -> StoreError {
    // Skips the text of the error itself, because the copy has the same text.
    let causes = iter::successors(std::error::Error::source(error), |cause| cause.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let (operation, source) = (error.operation(), text.into());
    match error {
        StoreError::Unavailable { .. } => StoreError::Unavailable { operation, source },
        StoreError::Timeout { .. } => StoreError::Timeout { operation, source },
        StoreError::Conflict { .. } => StoreError::Conflict { operation, source },
        StoreError::Corrupt { .. } => StoreError::Corrupt { operation, source },
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    const BOUNDS: Bounds = Bounds { batch_max: 3, waiting_max: 4 };

    /// A batcher that records its batches, and waits for a permit before it answers each.
    struct Scene {
        batcher: Arc<Batcher<u32, u32>>,
        batches: Arc<Mutex<Vec<Vec<u32>>>>,
        permits: Arc<Semaphore>,
        background: Background,
    }

    fn scene() -> Scene {
        let (batches, permits) = (Arc::<Mutex<Vec<Vec<u32>>>>::default(), Arc::new(Semaphore::new(0)));
        let background = Background::default();
        let (noted, permit) = (Arc::clone(&batches), Arc::clone(&permits));
        let batcher = Batcher::new("test.call", BOUNDS, &background, move |calls: Vec<u32>| {
            noted.lock().unwrap().push(calls.clone());
            let permit = Arc::clone(&permit);
            async move {
                permit.acquire().await.unwrap().forget();
                calls.into_iter().map(|call| Ok(call * 10)).collect()
            }
        });
        Scene { batcher: Arc::new(batcher), batches, permits, background }
    }

    impl Scene {
        fn call(&self, call: u32) -> tokio::task::JoinHandle<Result<u32, StoreError>> {
            let batcher = Arc::clone(&self.batcher);
            self.background.tasks().spawn(async move { batcher.call(call).await })
        }

        /// Lets every task run until it waits.
        async fn settle(&self) {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }

        fn batches(&self) -> Vec<Vec<u32>> {
            self.batches.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn one_alone_goes_at_once_and_what_comes_meanwhile_goes_together() {
        let scene = scene();

        let first = scene.call(1);
        scene.settle().await;
        assert_eq!(scene.batches(), [vec![1]]);
        let others: Vec<_> = (2..6).map(|call| scene.call(call)).collect();
        scene.settle().await;
        scene.permits.add_permits(3);

        assert_eq!(first.await.unwrap().unwrap(), 10);
        for (other, answer) in others.into_iter().zip([20, 30, 40, 50]) {
            assert_eq!(other.await.unwrap().unwrap(), answer);
        }
        assert_eq!(scene.batches(), [vec![1], vec![2, 3, 4], vec![5]]);
    }

    #[tokio::test]
    async fn who_gave_up_before_the_batch_left_is_not_in_it() {
        let scene = scene();
        let first = scene.call(1);
        scene.settle().await;
        let (impatient, patient) = (scene.call(2), scene.call(3));
        scene.settle().await;

        impatient.abort();
        scene.settle().await;
        scene.permits.add_permits(2);

        assert_eq!((first.await.unwrap().unwrap(), patient.await.unwrap().unwrap()), (10, 30));
        assert_eq!(scene.batches(), [vec![1], vec![3]]);
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused_at_once() {
        let scene = scene();
        let under_way = scene.call(1);
        scene.settle().await;
        let waiting: Vec<_> = (2..6).map(|call| scene.call(call)).collect();
        scene.settle().await;

        let refused = scene.batcher.call(6).await;

        assert!(matches!(refused, Err(StoreError::Unavailable { operation: "test.call", .. })));
        scene.permits.add_permits(3);
        assert!(under_way.await.unwrap().is_ok());
        for call in waiting {
            assert!(call.await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn a_server_that_stops_finishes_the_batch_under_way_and_refuses_the_rest() {
        let scene = scene();
        let under_way = scene.call(1);
        scene.settle().await;
        let waiting = scene.call(2);
        scene.settle().await;

        scene.permits.add_permits(2);
        scene.background.stop(Duration::from_secs(5)).await;

        assert_eq!(under_way.await.unwrap().unwrap(), 10);
        assert!(waiting.await.unwrap().is_err());
    }

    #[test]
    fn a_shared_failure_is_each_ones_own() {
        let error = StoreError::Timeout { operation: "test.call", source: "no answer".into() };

        let shared = share::<()>(&error, 2);

        assert_eq!(shared.len(), 2);
        for copy in shared {
            let copy = copy.unwrap_err();
            assert!(matches!(copy, StoreError::Timeout { operation: "test.call", .. }));
            assert_eq!(copy.source().unwrap().to_string(), "no answer");
        }
    }
}
