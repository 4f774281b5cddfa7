//! Work that goes on when its client disconnects. The framework drops the handler of a reset connection wherever it
//! waits, which can interrupt a transaction, so each change runs in its own task.

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::problem::Problem;
use crate::live::boards::Boards;

/// Runs changes to their end, even if the client disconnects, on a runtime that outlives the HTTP server.
#[derive(Clone, Debug)]
pub struct Detached {
    tasks: TaskTracker,
    runtime: Handle,
}

impl Detached {
    /// Runs work on `runtime`. A shutdown waits for `tasks`.
    #[must_use]
    pub const fn new(tasks: TaskTracker, runtime: Handle) -> Self {
        Self { tasks, runtime }
    }

    /// Runs `work` to its end. Returns its outcome, if the caller still waits.
    ///
    /// # Errors
    /// The problem of `work`; an internal error if it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let task = self.tasks.spawn_on(work.in_current_span(), &self.runtime);
        task.await.unwrap_or_else(|error| Err(Problem::internal(&error)))
    }

    /// Runs a change of seats to its end. Each later request to `boards` shows the change, also after an error.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) async fn change_seats<T: Send + 'static>(
        &self,
        boards: &Boards,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let boards = boards.clone();
        self.run(async move {
            let outcome = work.await;
            boards.stir();
            outcome
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Notify, oneshot};
    use usher_adapter_memory::{Database, MemoryCatalogueRepository, MemoryReservationRepository};
    use usher_concert::ports::CatalogueRepository as _;
    use usher_concert::{SeatMap, SectionPlan};
    use usher_contract_tests::reservation_repository::seed_through;
    use usher_kernel::{ManualClock, Money, PerformanceId, Timestamp};

    use super::*;
    use crate::http::problem::ProblemCode;
    use crate::runtime::background::Background;

    fn detached() -> (TaskTracker, Detached) {
        let tasks = TaskTracker::new();
        (tasks.clone(), Detached::new(tasks, Handle::current()))
    }

    #[tokio::test]
    async fn work_goes_on_when_its_caller_is_dropped() {
        let (_, detached) = detached();
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (done, is_done) = oneshot::channel();
        let work = {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            async move {
                begun.notify_one();
                go_on.notified().await;
                done.send(()).map_err(|()| Problem::overloaded())
            }
        };

        tokio::select! {
            biased;
            _ = detached.run(work) => unreachable!("the work waits"),
            () = begun.notified() => {}
        }
        go_on.notify_one();

        assert_eq!(is_done.await, Ok(()));
    }

    #[tokio::test]
    async fn a_change_of_seats_shows_even_if_its_caller_is_dropped() {
        let performance = PerformanceId::from_bytes([1; 16]);
        let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
        let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 2, grade: "R".into(), price };
        let map = SeatMap::from_sections(&[section]).unwrap();
        let database = Database::new();
        let catalogue = MemoryCatalogueRepository::new(database.clone());
        seed_through(&catalogue, performance, &map).await;
        let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
        let background = Background::default();
        let boards = Boards::new(Arc::new(MemoryReservationRepository::new(database)), clock, &background);
        assert_eq!(boards.open(performance).await.unwrap().picture().map_version, 1);
        let (tasks, detached) = detached();
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let change = {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            async move {
                begun.notify_one();
                go_on.notified().await;
                let replaced = catalogue.replace_seats(performance, &map, Timestamp::EPOCH).await;
                Ok(replaced.map_err(usher_concert::Error::from)?)
            }
        };

        tokio::select! {
            biased;
            _ = detached.change_seats(&boards, change) => unreachable!("the change waits"),
            () = begun.notified() => {}
        }
        go_on.notify_one();
        tasks.close();
        tasks.wait().await;

        assert_eq!(boards.open(performance).await.unwrap().picture().map_version, 2);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let (_, detached) = detached();

        let outcome = detached.run::<()>(async { unreachable!("on purpose") }).await;

        assert_eq!(outcome.unwrap_err().code(), ProblemCode::Internal);
    }

    #[tokio::test]
    async fn whoever_shuts_down_can_wait_for_the_work() {
        let (tasks, detached) = detached();
        let go_on = Arc::new(Notify::new());
        let work = {
            let go_on = Arc::clone(&go_on);
            async move {
                go_on.notified().await;
                Ok(())
            }
        };

        let (outcome, ()) = tokio::join!(detached.run(work), async {
            tokio::task::yield_now().await;
            assert_eq!(tasks.len(), 1);
            tasks.close();
            go_on.notify_one();
            tasks.wait().await;
        });

        assert!(outcome.is_ok());
    }
}
