//! The port of the catalogue.

use std::time::Duration;

use async_trait::async_trait;
use usher_kernel::{Claim, ConcertId, PerformanceId, StoreError, Timestamp};

use crate::{Concert, Performance, SeatMap, VersionedSeatMap};

/// One page of a list, in the order of ids, which is the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<Id> {
    /// The last id of the page before; `None` for the first page.
    pub after: Option<Id>,
    /// The most items, 1 to [`Page::LIMIT_MAX`], and one more to find out whether another page follows.
    pub limit: u64,
}

impl<Id> Page<Id> {
    /// The longest page.
    pub const LIMIT_MAX: u64 = 200;
}

/// The outcome of adding an item under an idempotency key.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddOutcome<T> {
    /// The item is stored.
    Added,
    /// The request is a retry, and its first attempt stored this item. Nothing new is stored.
    Replayed(T),
    /// The key was used for another request. Nothing is stored.
    KeyMismatch,
    /// The item's parent does not exist. Nothing is stored.
    ParentMissing,
}

/// The outcome of replacing a seat map.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceSeatsOutcome {
    /// The new map is stored.
    Replaced {
        /// The version of the new map, one above that of the map before.
        map_version: u32,
    },
    /// The sale is open; nothing changed.
    Locked,
    /// No such performance.
    NotFound,
}

/// Keeps concerts, performances and seat maps.
///
/// # Contract
/// 1. `add_concert` and `add_performance` store the item and the claim together. Of any number of concurrent calls with
///    one claim, exactly one adds, and the others get what it added.
/// 2. A claim with another fingerprint is a mismatch while the first is kept ([`Claim::KEPT_FOR`]).
/// 3. A refused call stores nothing, and no claim.
/// 4. `replace_seats` is all or nothing, and makes every seat available, at version 1. It is refused from
///    `sale.opens_at` on, and once any seat was held. A concurrent hold either keeps its seat, which locks the map, or
///    gets its seat from the new map.
/// 5. Lists are in the order of ids, and contain each item once.
/// 6. `performances_on_sale` names exactly those with `opens_at - lobby <= now < closes_at`.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait CatalogueRepository: Send + Sync + 'static {
    /// Stores a new concert under a claim.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn add_concert(
        &self,
        concert: &Concert,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<AddOutcome<Concert>, StoreError>;

    /// Stores a new performance under a claim.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn add_performance(
        &self,
        performance: &Performance,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<AddOutcome<Performance>, StoreError>;

    /// The concert with this id.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn concert(&self, id: ConcertId) -> Result<Option<Concert>, StoreError>;

    /// A page of all concerts.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn concerts(&self, page: Page<ConcertId>) -> Result<Vec<Concert>, StoreError>;

    /// The performance with this id.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn performance(&self, id: PerformanceId) -> Result<Option<Performance>, StoreError>;

    /// A page of a concert's performances.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn performances(&self, concert: ConcertId, page: Page<PerformanceId>)
    -> Result<Vec<Performance>, StoreError>;

    /// The performances whose line is live: from `lobby` before the sale opens until it closes.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn performances_on_sale(&self, now: Timestamp, lobby: Duration) -> Result<Vec<Performance>, StoreError>;

    /// Replaces all seats of a performance.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn replace_seats(
        &self,
        performance: PerformanceId,
        map: &SeatMap,
        now: Timestamp,
    ) -> Result<ReplaceSeatsOutcome, StoreError>;

    /// The seat map of a performance; `None` if there is no such performance. Before the first map: version 0, no seat.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn seat_map(&self, performance: PerformanceId) -> Result<Option<VersionedSeatMap>, StoreError>;
}
