//! Opening a line in the store, and moving on to the next epoch when the store has lost it.

use std::sync::atomic::Ordering;

use usher_kernel::PerformanceId;

use super::line::Line;
use super::tick::EXAMINE_MAX;
use super::{Ports, Service};
use crate::ports::{At, Cursor, InEpoch, Superseded};
use crate::{Epoch, Error};

/// How many numbers the ledger reserves at a time: 10,000 joins cost one SQL write. A loss of the store leaves a gap of
/// at most this many numbers.
pub(super) const BLOCK: u64 = 10_000;

const _: () = assert!(BLOCK >= 2 * EXAMINE_MAX as u64);

impl<T> InEpoch<T> {
    /// The answer. A lost line is unavailable until a tick has opened it again.
    pub(super) fn current(self) -> Result<T, Error> {
        match self {
            Self::Current(answer) => Ok(answer),
            Self::Lost => Err(Error::LineUnavailable),
        }
    }
}

impl Service {
    /// Whether the line of a performance is open on this server, so that calls need not open it first. Callers must let
    /// an opening run to its end: the ledger hears of it before the store does, and all servers take an opening that
    /// stops in between for a loss.
    #[must_use]
    pub fn is_open(&self, performance: PerformanceId) -> bool {
        self.0.lines.load().get(&performance).is_some_and(|line| self.holds(line))
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch::new(self.0.epoch.load(Ordering::Acquire))
    }

    /// Opens the line if the store does not hold it in this server's epoch.
    pub(super) async fn ensure_open(&self, line: &Line) -> Result<(), Error> {
        if self.holds(line) {
            return Ok(());
        }
        let _one_at_a_time = self.0.opening.lock().await;
        let now = self.0.ports.clock.now();
        if !self.holds(line) && line.has_just_failed_to_open(now) {
            return Err(Error::LineUnavailable);
        }
        let opened = self.open_line(line).await;
        if opened.is_err() {
            line.note_failed_to_open(now);
        }
        opened
    }

    async fn open_line(&self, line: &Line) -> Result<(), Error> {
        // A loss, or a newer epoch of another server, takes another round. Each round is in a newer epoch.
        for _ in 0..4 {
            if self.holds(line) {
                return Ok(());
            }
            if self.epoch() == Epoch::ZERO {
                self.adopt(self.0.ports.ledger.epoch().await?).await?;
            }
            self.open_in_epoch(line, self.epoch()).await?;
        }
        Err(Error::LineUnavailable)
    }

    /// Whether the line is open in this server's epoch.
    pub(super) fn holds(&self, line: &Line) -> bool {
        line.epoch() == self.epoch() && line.epoch() != Epoch::ZERO
    }

    pub(super) async fn adopt(&self, found: Epoch) -> Result<(), Error> {
        let epoch = if found == Epoch::ZERO { self.0.ports.ledger.begin_epoch(found).await? } else { found };
        self.0.epoch.fetch_max(epoch.get(), Ordering::AcqRel);
        Ok(())
    }

    async fn open_in_epoch(&self, line: &Line, epoch: Epoch) -> Result<(), Error> {
        let Ports { ledger, store, clock, .. } = &self.0.ports;
        let now = clock.now();
        let opening = match ledger.open_line(line.performance, epoch, BLOCK, now).await? {
            Superseded::No(opening) => opening,
            Superseded::By(newer) => return self.adopt(newer).await,
        };
        let at = At { performance: line.performance, epoch, now };
        let contribution = line.contribution(&opening, now);
        let is_there = if opening.is_first {
            store.open(at, &contribution).await.map(InEpoch::Current)
        } else {
            store.contribute(at, &contribution).await
        };
        if is_there.map_err(Error::LineStore)? == InEpoch::Current(()) {
            let answers = store.refresh(epoch, now, &[(line.performance, Cursor::default())]).await;
            if let Some(InEpoch::Current(changes)) = answers.map_err(Error::LineStore)?.into_iter().next() {
                line.opened(epoch, opening.ceiling, changes, now);
                tracing::info!(performance = %line.performance, epoch = epoch.get(), "the line is open");
                return Ok(());
            }
        }
        if !opening.is_first && line.may_be_opening(epoch, now, self.0.settings.opening_grace) {
            return Err(Error::LineUnavailable);
        }
        // The line was opened in this epoch and is not in the store, so it is lost. The first server to notice begins
        // the next epoch.
        let next = ledger.begin_epoch(epoch).await?;
        // Normal after a restart of a server whose lines are in process; otherwise worth a look.
        tracing::info!(performance = %line.performance, epoch = next.get(), "the line's store is empty, rebuilding the line");
        self.adopt(next).await
    }

    /// Notes that the store lost a line, so that the next [`Self::ensure_open`] opens it again.
    pub(super) fn lost(&self, line: &Line) -> Error {
        line.close();
        Error::LineUnavailable
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::OPENING_PAUSE;
    use usher_kernel::StoreError;
    use usher_kernel::store::every_failure_is_told;

    use super::super::scene::{ACCOUNT, CALLED, CEILING, EPOCH, LINE, Mocks, OTHER_LINE, Server, changes};
    use super::*;
    use crate::PlaceNumber;
    use crate::ports::{LineMark, Opening};

    /// A server that believes in [`EPOCH`], and knows a line that is not open in it.
    fn server_of_a_closed_line(mocks: Mocks) -> Server {
        let server = mocks.server();
        server.open(OTHER_LINE);
        server.know(LINE);
        server
    }

    async fn open(server: &Server) -> Result<(), Error> {
        server.service.ensure_open(&server.line(LINE)).await
    }

    fn is_open(server: &Server) -> bool {
        server.service.is_open(LINE)
    }

    /// The ledger's answer to a server that opens the line.
    fn opening(is_first: bool) -> Superseded<Opening> {
        let start = PlaceNumber::ZERO;
        Superseded::No(Opening { is_first, start, ceiling: CEILING, mark: LineMark::default(), live: Vec::new() })
    }

    /// Opens a line on a server that knows no epoch yet, with a ledger that fails as `fail` says.
    async fn every_failed_beginning_is_told(fail: fn(&mut Mocks, StoreError)) {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            fail(&mut mocks, failure);
            let server = mocks.server();
            server.know(LINE);

            let opened = open(&server).await;

            assert_eq!(server.service.epoch(), Epoch::ZERO);
            opened
        })
        .await;
    }

    #[tokio::test]
    async fn a_server_that_cannot_read_the_epoch_opens_nothing() {
        every_failed_beginning_is_told(|mocks, failure| {
            mocks.ledger.expect_epoch().once().return_once(move || Err(failure));
        })
        .await;
    }

    #[tokio::test]
    async fn a_server_that_cannot_begin_the_first_epoch_opens_nothing() {
        every_failed_beginning_is_told(|mocks, failure| {
            mocks.ledger.expect_epoch().once().return_once(|| Ok(Epoch::ZERO));
            mocks.ledger.expect_begin_epoch().once().return_once(move |_| Err(failure));
        })
        .await;
    }

    /// Opens the line with a port that fails in each way there is, as `fail` says. The line stays closed, in its epoch.
    async fn every_failed_opening_is_told(wrapped: fn(StoreError) -> Error, fail: fn(&mut Mocks, StoreError)) {
        every_failure_is_told(wrapped, async |failure| {
            let mut mocks = Mocks::default();
            fail(&mut mocks, failure);
            let server = server_of_a_closed_line(mocks);

            let opened = open(&server).await;

            assert_eq!((is_open(&server), server.service.epoch()), (false, EPOCH));
            opened
        })
        .await;
    }

    #[tokio::test]
    async fn a_line_that_the_ledger_does_not_open_is_not_put_into_the_store() {
        every_failed_opening_is_told(Error::Store, |mocks, failure| {
            mocks.ledger.expect_open_line().once().return_once(move |_, _, _, _| Err(failure));
        })
        .await;
    }

    #[tokio::test]
    async fn a_store_that_fails_to_open_a_line_has_not_lost_it() {
        every_failed_opening_is_told(Error::LineStore, |mocks, failure| {
            mocks.ledger.expect_open_line().once().return_once(|_, _, _, _| Ok(opening(true)));
            mocks.store.expect_open().once().return_once(move |_, _| Err(failure));
        })
        .await;
    }

    #[tokio::test]
    async fn a_store_that_fails_to_take_a_contribution_has_not_lost_the_line() {
        every_failed_opening_is_told(Error::LineStore, |mocks, failure| {
            mocks.ledger.expect_open_line().once().return_once(|_, _, _, _| Ok(opening(false)));
            mocks.store.expect_contribute().once().return_once(move |_, _| Err(failure));
        })
        .await;
    }

    #[tokio::test]
    async fn a_line_that_was_opened_and_cannot_be_read_is_opened_by_the_next_try_in_the_same_epoch() {
        every_failure_is_told(Error::LineStore, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_open_line().once().return_once(|_, _, _, _| Ok(opening(true)));
            mocks.store.expect_open().once().return_once(|_, _| Ok(()));
            mocks.store.expect_refresh().once().return_once(move |_, _, _| Err(failure));
            mocks.ledger.expect_open_line().once().return_once(|_, _, _, _| Ok(opening(false)));
            mocks.store.expect_contribute().once().return_once(|_, _| Ok(InEpoch::Current(())));
            mocks.store.expect_refresh().once().return_once(|_, _, _| Ok(vec![InEpoch::Current(changes(CALLED))]));
            let server = server_of_a_closed_line(mocks);

            let refused = open(&server).await;

            assert!(!is_open(&server));
            server.clock.advance(OPENING_PAUSE);
            open(&server).await.unwrap();
            assert_eq!((is_open(&server), server.service.epoch()), (true, EPOCH));
            refused
        })
        .await;
    }

    #[tokio::test]
    async fn a_lost_line_stays_in_its_epoch_when_the_ledger_cannot_begin_the_next() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_open_line().once().return_once(|_, _, _, _| Ok(opening(false)));
            mocks.store.expect_contribute().once().return_once(|_, _| Ok(InEpoch::Lost));
            mocks.ledger.expect_begin_epoch().once().return_once(move |_| Err(failure));
            let server = mocks.open_server();
            server.line(LINE).close();

            let opened = open(&server).await;

            assert_eq!((is_open(&server), server.service.epoch()), (false, EPOCH));
            opened
        })
        .await;
    }

    #[tokio::test]
    async fn a_line_that_failed_to_open_is_not_tried_again_before_the_pause_is_over() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.ledger.expect_open_line().once().return_once(move |_, _, _, _| Err(failure));
            mocks.ledger.expect_open_line().once().return_once(|_, _, _, _| Ok(opening(true)));
            mocks.store.expect_open().once().return_once(|_, _| Ok(()));
            mocks.store.expect_refresh().once().return_once(|_, _, _| Ok(vec![InEpoch::Current(changes(CALLED))]));
            let server = server_of_a_closed_line(mocks);

            let refused = open(&server).await;

            let at_once = server.service.join(LINE, ACCOUNT).await;
            assert!(matches!(at_once, Err(Error::LineUnavailable)));
            server.clock.advance(OPENING_PAUSE);
            open(&server).await.unwrap();
            refused
        })
        .await;
    }
}
