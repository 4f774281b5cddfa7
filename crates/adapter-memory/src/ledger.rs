//! The ledger of the lines in memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use usher_kernel::{PerformanceId, StoreError, Timestamp};
use usher_queue::ports::{LineLedger, LineMark, Opening, PastGrant, Superseded};
use usher_queue::{Epoch, Grant, PlaceNumber};

use crate::Database;
use crate::database::{Contradiction, corrupt};

/// Lines by performance, and the epoch that they open in.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    epoch: Epoch,
    lines: HashMap<PerformanceId, Line>,
}

/// The part of a line that survives a loss of its store.
#[derive(Debug, Default)]
struct Line {
    /// The last epoch in which it was opened.
    epoch: Epoch,
    /// The ceiling before it was opened in that epoch.
    start: PlaceNumber,
    ceiling: PlaceNumber,
    mark: LineMark,
    grants: BTreeMap<PlaceNumber, Grant>,
}

/// Numbers of passes that were used up, or whose owner left, by performance. Shared with the reservations.
pub(crate) type EndedPasses = HashMap<PerformanceId, HashSet<u64>>;

impl Ledger {
    /// Runs `act` on a line, unless the ledger is in another epoch than the caller's (`mine`).
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the line was not opened in the epoch: the caller has no numbers to reserve or save.
    fn in_epoch<T>(
        &mut self,
        operation: &'static str,
        performance: PerformanceId,
        mine: Epoch,
        act: impl FnOnce(&mut Line) -> T,
    ) -> Result<Superseded<T>, StoreError> {
        if self.epoch != mine {
            return Ok(Superseded::By(self.epoch));
        }
        let line = self.lines.get_mut(&performance).filter(|line| line.epoch == mine);
        let line = line.ok_or(Contradiction("the line was not opened in this epoch")).map_err(corrupt(operation))?;
        Ok(Superseded::No(act(line)))
    }
}

impl Line {
    /// Opens the line in an epoch. Returns whether this call is the first to do so.
    fn open(&mut self, epoch: Epoch, block: u64) -> bool {
        let is_first = self.epoch < epoch;
        if is_first {
            self.epoch = epoch;
            self.start = self.ceiling;
            self.ceiling = raised(self.ceiling, block);
        }
        is_first
    }

    fn save(&mut self, mark: &LineMark, granted: &[Grant]) {
        let (serving, issued) = (self.mark.serving.max(mark.serving), self.mark.issued.max(mark.issued));
        self.mark = LineMark { serving, issued, ..*mark };
        self.grants.extend(granted.iter().map(|grant| (grant.number, *grant)));
    }
}

const fn raised(ceiling: PlaceNumber, block: u64) -> PlaceNumber {
    PlaceNumber::new(ceiling.get() + block)
}

/// The ledger of the lines in memory.
#[derive(Clone, Debug)]
pub struct MemoryLineLedger {
    database: Database,
}

impl MemoryLineLedger {
    /// The ledger in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl LineLedger for MemoryLineLedger {
    async fn epoch(&self) -> Result<Epoch, StoreError> {
        Ok(self.database.lock("ledger.epoch")?.ledger.epoch)
    }

    async fn begin_epoch(&self, seen: Epoch) -> Result<Epoch, StoreError> {
        let ledger = &mut self.database.lock("ledger.begin_epoch")?.ledger;
        if ledger.epoch == seen {
            ledger.epoch = seen.next();
        }
        Ok(ledger.epoch)
    }

    async fn open_line(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        block: u64,
        now: Timestamp,
    ) -> Result<Superseded<Opening>, StoreError> {
        let tables = &mut *self.database.lock("ledger.open_line")?;
        if tables.ledger.epoch != epoch {
            return Ok(Superseded::By(tables.ledger.epoch));
        }
        let line = tables.ledger.lines.entry(performance).or_default();
        let is_first = line.open(epoch, block);
        let ended = tables.ended_passes.get(&performance);
        let has_ended = |grant: &Grant| ended.is_some_and(|ended| ended.contains(&grant.number.get()));
        let live = line.grants.values().filter(|grant| grant.is_live(now) && !has_ended(grant)).copied().collect();
        let Line { start, ceiling, mark, .. } = *line;
        Ok(Superseded::No(Opening { is_first, start, ceiling, mark, live }))
    }

    async fn reserve(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        seen: PlaceNumber,
        block: u64,
    ) -> Result<Superseded<PlaceNumber>, StoreError> {
        let operation = "ledger.reserve";
        self.database.lock(operation)?.ledger.in_epoch(operation, performance, epoch, |line| {
            if line.ceiling == seen {
                line.ceiling = raised(seen, block);
            }
            line.ceiling
        })
    }

    async fn save(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        mark: &LineMark,
        granted: &[Grant],
    ) -> Result<Superseded<()>, StoreError> {
        let operation = "ledger.save";
        let ledger = &mut self.database.lock(operation)?.ledger;
        ledger.in_epoch(operation, performance, epoch, |line| line.save(mark, granted))
    }

    async fn end_pass(
        &self,
        performance: PerformanceId,
        number: PlaceNumber,
        _now: Timestamp,
    ) -> Result<(), StoreError> {
        let ended = &mut self.database.lock("ledger.end_pass")?.ended_passes;
        ended.entry(performance).or_default().insert(number.get());
        Ok(())
    }

    async fn past_grants(
        &self,
        performance: PerformanceId,
        numbers: &[PlaceNumber],
    ) -> Result<Vec<PastGrant>, StoreError> {
        let tables = self.database.lock("ledger.past_grants")?;
        let ended = tables.ended_passes.get(&performance);
        let line = tables.ledger.lines.get(&performance);
        let told = numbers.iter().map(|number| {
            let granted = line.and_then(|line| line.grants.get(number)).copied();
            PastGrant::of(granted, ended.is_some_and(|ended| ended.contains(&number.get())))
        });
        Ok(told.collect())
    }
}
