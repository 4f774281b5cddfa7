//! The lines of one process, behind one lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, StoreError, Timestamp};
use usher_queue::ports::{
    Admission, AdmitTerms, At, Contribution, Cursor, InEpoch, JoinOutcome, LeaveOutcome, LineChanges, LineStore,
    ReEntry, Resolution,
};
use usher_queue::{AccountHash, Epoch, Place, PlaceNumber};

use crate::line::Line;

/// Keeps the lines in this process. They are lost when it ends; a [`LineStore`] may lose its lines.
///
/// A standard mutex, not an async one: each method locks it once and never awaits under the lock, so that the method is
/// atomic. A full batch or an admission holds the lock longest, for some hundred microseconds.
#[derive(Default)]
pub struct MemoryLineStore {
    lines: Mutex<HashMap<PerformanceId, Line>>,
}

impl MemoryLineStore {
    /// A store without lines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self, operation: &'static str) -> Result<MutexGuard<'_, HashMap<PerformanceId, Line>>, StoreError> {
        // A line that a panic left half changed must not admit people.
        self.lines
            .lock()
            .map_err(|_| StoreError::Corrupt { operation, source: "a panic left a line half changed".into() })
    }

    fn in_line<T>(
        &self,
        operation: &'static str,
        at: At,
        act: impl FnOnce(&mut Line) -> T,
    ) -> Result<InEpoch<T>, StoreError> {
        Ok(in_epoch(&mut *self.lock(operation)?, at.performance, at.epoch, act))
    }
}

fn in_epoch<T>(
    lines: &mut HashMap<PerformanceId, Line>,
    performance: PerformanceId,
    epoch: Epoch,
    act: impl FnOnce(&mut Line) -> T,
) -> InEpoch<T> {
    match lines.get_mut(&performance) {
        Some(line) if line.epoch() == epoch => InEpoch::Current(act(line)),
        Some(_) | None => InEpoch::Lost,
    }
}

#[async_trait]
impl LineStore for MemoryLineStore {
    async fn open(&self, at: At, contribution: &Contribution) -> Result<(), StoreError> {
        match self.lock("line.open")?.entry(at.performance) {
            Entry::Vacant(vacant) => {
                vacant.insert(Line::open(at.epoch, at.now, contribution));
            }
            Entry::Occupied(mut line) if line.get().epoch() < at.epoch => {
                line.insert(Line::open(at.epoch, at.now, contribution));
            }
            Entry::Occupied(mut line) if line.get().epoch() == at.epoch => {
                line.get_mut().contribute(at.now, contribution);
            }
            // Another server opened a newer epoch. The next call of this server is answered `Lost`.
            Entry::Occupied(_) => {}
        }
        Ok(())
    }

    async fn contribute(&self, at: At, contribution: &Contribution) -> Result<InEpoch<()>, StoreError> {
        self.in_line("line.contribute", at, |line| line.contribute(at.now, contribution))
    }

    async fn join(
        &self,
        at: At,
        terms: &AdmitTerms,
        ceiling: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError> {
        self.in_line("line.join", at, |line| line.join(at.now, terms, ceiling, accounts))
    }

    async fn resolve(&self, at: At, places: &[Place]) -> Result<InEpoch<Vec<Resolution>>, StoreError> {
        self.in_line("line.resolve", at, |line| line.resolve(at.now, places))
    }

    async fn re_enter(&self, at: At, entries: &[ReEntry]) -> Result<InEpoch<()>, StoreError> {
        self.in_line("line.re_enter", at, |line| line.re_enter(at.now, entries))
    }

    async fn leave(&self, at: At, place: Place) -> Result<InEpoch<LeaveOutcome>, StoreError> {
        self.in_line("line.leave", at, |line| line.leave(at.now, &place))
    }

    async fn end_pass(&self, at: At, number: PlaceNumber) -> Result<InEpoch<()>, StoreError> {
        self.in_line("line.end_pass", at, |line| line.end_pass(at.now, number))
    }

    async fn mark_present(
        &self,
        at: At,
        presence_window: Duration,
        seen: &RoaringTreemap,
    ) -> Result<InEpoch<()>, StoreError> {
        self.in_line("line.mark_present", at, |line| line.mark_present(at.now, presence_window, seen))
    }

    async fn admit(&self, at: At, terms: &AdmitTerms, examine_max: u32) -> Result<InEpoch<Admission>, StoreError> {
        self.in_line("line.admit", at, |line| line.admit(at.now, terms, examine_max))
    }

    async fn refresh(
        &self,
        epoch: Epoch,
        now: Timestamp,
        lines: &[(PerformanceId, Cursor)],
    ) -> Result<Vec<InEpoch<LineChanges>>, StoreError> {
        let mut held = self.lock("line.refresh")?;
        let changes = |&(performance, cursor): &(PerformanceId, Cursor)| {
            in_epoch(&mut held, performance, epoch, |line| line.changes(now, cursor))
        };
        Ok(lines.iter().map(changes).collect())
    }
}
