//! The catalogue in memory: concerts, performances, and the seats of their maps.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;
use usher_concert::judge::{self, SeatUse};
use usher_concert::{
    AddOutcome, CatalogueRepository, Concert, Page, Performance, ReplaceSeatsOutcome, SeatMap, VersionedSeatMap,
};
use usher_kernel::{Claim, ConcertId, Operation, PerformanceId, StoreError, Timestamp};

use crate::Database;
use crate::database::{Contradiction, corrupt};
use crate::seats::SeatTable;

/// Concerts and performances, in the order of their ids.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    concerts: BTreeMap<ConcertId, Concert>,
    performances: BTreeMap<PerformanceId, Performance>,
}

impl Catalogue {
    /// The version of a performance's seat map.
    pub(crate) fn map_version(&self, performance: PerformanceId) -> Option<u32> {
        self.performances.get(&performance).map(|performance| performance.map_version)
    }
}

/// The catalogue in memory.
#[derive(Clone, Debug)]
pub struct MemoryCatalogueRepository {
    database: Database,
}

impl MemoryCatalogueRepository {
    /// A repository of the catalogue in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl CatalogueRepository for MemoryCatalogueRepository {
    async fn add_concert(
        &self,
        concert: &Concert,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<AddOutcome<Concert>, StoreError> {
        let operation = "catalogue.add_concert";
        let tables = &mut *self.database.lock(operation)?;
        let concerts = &mut tables.catalogue.concerts;
        let earlier = tables.claims.find(claim, Operation::AddConcert, now);
        let judged =
            judge::add(earlier.try_map(|id| first(operation, concerts.get(&ConcertId::from_bytes(id))))?, true);
        if judged == AddOutcome::Added {
            concerts.insert(concert.id, concert.clone());
            tables.claims.keep(claim, Operation::AddConcert, *concert.id.as_bytes(), now);
        }
        Ok(judged)
    }

    async fn add_performance(
        &self,
        performance: &Performance,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<AddOutcome<Performance>, StoreError> {
        let operation = "catalogue.add_performance";
        let tables = &mut *self.database.lock(operation)?;
        let Catalogue { concerts, performances } = &mut tables.catalogue;
        let earlier = tables.claims.find(claim, Operation::AddPerformance, now);
        let earlier = earlier.try_map(|id| first(operation, performances.get(&PerformanceId::from_bytes(id))))?;
        let judged = judge::add(earlier, concerts.contains_key(&performance.concert));
        if judged == AddOutcome::Added {
            performances.insert(performance.id, performance.clone());
            tables.claims.keep(claim, Operation::AddPerformance, *performance.id.as_bytes(), now);
        }
        Ok(judged)
    }

    async fn concert(&self, id: ConcertId) -> Result<Option<Concert>, StoreError> {
        Ok(self.database.lock("catalogue.concert")?.catalogue.concerts.get(&id).cloned())
    }

    async fn concerts(&self, page: Page<ConcertId>) -> Result<Vec<Concert>, StoreError> {
        let concerts = &self.database.lock("catalogue.concerts")?.catalogue.concerts;
        Ok(rows_after(concerts, page.after).take(limit(page.limit)).cloned().collect())
    }

    async fn performance(&self, id: PerformanceId) -> Result<Option<Performance>, StoreError> {
        Ok(self.database.lock("catalogue.performance")?.catalogue.performances.get(&id).cloned())
    }

    async fn performances(
        &self,
        concert: ConcertId,
        page: Page<PerformanceId>,
    ) -> Result<Vec<Performance>, StoreError> {
        let performances = &self.database.lock("catalogue.performances")?.catalogue.performances;
        let of_concert = rows_after(performances, page.after).filter(|performance| performance.concert == concert);
        Ok(of_concert.take(limit(page.limit)).cloned().collect())
    }

    async fn performances_on_sale(&self, now: Timestamp, lobby: Duration) -> Result<Vec<Performance>, StoreError> {
        let performances = &self.database.lock("catalogue.performances_on_sale")?.catalogue.performances;
        let has_line = |performance: &&Performance| performance.sale.has_line(now, lobby);
        Ok(performances.values().filter(has_line).cloned().collect())
    }

    async fn replace_seats(
        &self,
        performance: PerformanceId,
        map: &SeatMap,
        now: Timestamp,
    ) -> Result<ReplaceSeatsOutcome, StoreError> {
        let tables = &mut *self.database.lock("catalogue.replace_seats")?;
        let seats = tables.seats.of(performance).map_or(SeatUse::Untouched, SeatTable::seat_use);
        let found = tables.catalogue.performances.get_mut(&performance);
        let outcome = judge::replace_seats(found.as_deref(), seats, now);
        if let (ReplaceSeatsOutcome::Replaced { map_version }, Some(found)) = (outcome, found) {
            found.map_version = map_version;
            tables.seats.replace(performance, map);
            tables.events.new_map(performance, map_version, now);
        }
        Ok(outcome)
    }

    async fn seat_map(&self, performance: PerformanceId) -> Result<Option<VersionedSeatMap>, StoreError> {
        let tables = self.database.lock("catalogue.seat_map")?;
        let Some(found) = tables.catalogue.performances.get(&performance) else { return Ok(None) };
        let map = tables.seats.of(performance).map_or_else(|| SeatMap::from_stored(Vec::new()), SeatTable::map);
        Ok(Some(VersionedSeatMap { version: found.map_version, map }))
    }
}

/// The concert or performance that an earlier request with the same claim added.
fn first<T: Clone>(operation: &'static str, found: Option<&T>) -> Result<T, StoreError> {
    found.cloned().ok_or(Contradiction("the subject of a claim is missing")).map_err(corrupt(operation))
}

fn rows_after<Id: Ord, T>(rows: &BTreeMap<Id, T>, after: Option<Id>) -> impl Iterator<Item = &T> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    rows.range((start, Bound::Unbounded)).map(|(_, row)| row)
}

/// The number of rows to read: the page, and one more that tells whether another page follows.
fn limit(asked: u64) -> usize {
    usize::try_from(asked.min(Page::<()>::LIMIT_MAX + 1)).unwrap_or(usize::MAX)
}
