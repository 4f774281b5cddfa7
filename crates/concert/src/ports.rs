//! What the catalogue needs from outside.

use std::time::Duration;

use async_trait::async_trait;
use usher_kernel::{Claim, ConcertId, PerformanceId, StoreError, Timestamp};

use crate::{Concert, Performance, SeatMap, VersionedSeatMap};

/// One page of a list, in the order of ids (which is the order of making).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<Id> {
    /// The last id of the page before; `None` starts at the beginning.
    pub after: Option<Id>,
    /// How many at most, 1 to [`Page::LIMIT_MAX`] (plus one, to see whether more follow).
    pub limit: u64,
}

impl<Id> Page<Id> {
    /// The longest page.
    pub const LIMIT_MAX: u64 = 200;
}

/// What became of something new under an idempotency key.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddOutcome<T> {
    /// It is stored.
    Added,
    /// The same request came before and made this; nothing new is stored.
    Replayed(T),
    /// The key was used for another request; nothing is stored.
    KeyMismatch,
    /// What it should belong to does not exist; nothing is stored.
    ParentMissing,
}

/// What became of a new seat map.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceSeatsOutcome {
    /// It replaces the one before, and has this version.
    Replaced {
        /// One more than the version before.
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
/// 1. `add_concert` and `add_performance` store the thing and the claim together: of any number of calls with one
///    claim at once, exactly one adds, and the others are told what it added.
/// 2. A claim with another fingerprint is a mismatch while the first is kept ([`Claim::KEPT_FOR`]).
/// 3. Nothing is stored under a refusal; the claim neither.
/// 4. `replace_seats` is all or nothing, and makes every seat available, at version 1. It is refused from `sale.opens_at`
///    on, and once any seat was held: whoever holds one while it runs either keeps it or has held it of the new map.
/// 5. Lists come in the order of ids, each thing once.
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

    /// The performances whose line is open: from `lobby` before the sale opens until it closes.
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
