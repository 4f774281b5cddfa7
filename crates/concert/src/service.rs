//! Browsing the catalogue, and filling it.

use std::sync::Arc;
use std::time::Duration;

use usher_kernel::{Claim, Clock, ConcertId, IdGenerator, PerformanceId};

use crate::{
    AddOutcome, CatalogueRepository, Concert, Error, NewConcert, NewPerformance, Page, Performance,
    ReplaceSeatsOutcome, SeatMap, VersionedSeatMap,
};

/// The catalogue's use cases.
#[derive(Clone)]
pub struct Service {
    catalogue: Arc<dyn CatalogueRepository>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
}

impl Service {
    /// Puts the service together.
    #[must_use]
    pub fn new(catalogue: Arc<dyn CatalogueRepository>, clock: Arc<dyn Clock>, ids: Arc<dyn IdGenerator>) -> Self {
        Self { catalogue, clock, ids }
    }

    /// Makes a concert, once per claim.
    ///
    /// # Errors
    /// [`Error::IdempotencyMismatch`], [`Error::Store`].
    #[tracing::instrument(skip_all, name = "concert.add_concert")]
    pub async fn add_concert(&self, wish: NewConcert, claim: &Claim) -> Result<Concert, Error> {
        let concert = wish.into_concert(ConcertId::from_uuid(self.ids.next_uuid()));
        let outcome = self.catalogue.add_concert(&concert, claim, self.clock.now()).await?;
        added(outcome, concert)
    }

    /// Makes a performance of a concert, once per claim.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such concert, [`Error::IdempotencyMismatch`], [`Error::Store`].
    #[tracing::instrument(skip_all, name = "concert.add_performance")]
    pub async fn add_performance(
        &self,
        concert: ConcertId,
        wish: NewPerformance,
        claim: &Claim,
    ) -> Result<Performance, Error> {
        let performance = wish.into_performance(PerformanceId::from_uuid(self.ids.next_uuid()), concert);
        let outcome = self.catalogue.add_performance(&performance, claim, self.clock.now()).await?;
        added(outcome, performance)
    }

    /// Replaces the seats of a performance whose sale is not open yet.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::SeatsLocked`], [`Error::Store`].
    #[tracing::instrument(skip_all, name = "concert.replace_seats")]
    pub async fn replace_seats(&self, performance: PerformanceId, map: &SeatMap) -> Result<(), Error> {
        match self.catalogue.replace_seats(performance, map, self.clock.now()).await? {
            ReplaceSeatsOutcome::Replaced { .. } => Ok(()),
            ReplaceSeatsOutcome::Locked => Err(Error::SeatsLocked),
            ReplaceSeatsOutcome::NotFound => Err(Error::NotFound),
        }
    }

    /// The concert with this id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn concert(&self, id: ConcertId) -> Result<Concert, Error> {
        self.catalogue.concert(id).await?.ok_or(Error::NotFound)
    }

    /// A page of all concerts.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn concerts(&self, page: Page<ConcertId>) -> Result<Vec<Concert>, Error> {
        Ok(self.catalogue.concerts(page).await?)
    }

    /// The performance with this id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn performance(&self, id: PerformanceId) -> Result<Performance, Error> {
        self.catalogue.performance(id).await?.ok_or(Error::NotFound)
    }

    /// A page of a concert's performances.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such concert, [`Error::Store`].
    pub async fn performances(&self, concert: ConcertId, page: Page<PerformanceId>) -> Result<Vec<Performance>, Error> {
        self.concert(concert).await?;
        Ok(self.catalogue.performances(concert, page).await?)
    }

    /// The performances whose line is open: from `lobby` before the sale opens until it closes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn performances_on_sale(&self, lobby: Duration) -> Result<Vec<Performance>, Error> {
        Ok(self.catalogue.performances_on_sale(self.clock.now(), lobby).await?)
    }

    /// The seat map of a performance.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn seat_map(&self, performance: PerformanceId) -> Result<VersionedSeatMap, Error> {
        self.catalogue.seat_map(performance).await?.ok_or(Error::NotFound)
    }
}

fn added<T>(outcome: AddOutcome<T>, new: T) -> Result<T, Error> {
    match outcome {
        AddOutcome::Added => Ok(new),
        AddOutcome::Replayed(first) => Ok(first),
        AddOutcome::KeyMismatch => Err(Error::IdempotencyMismatch),
        AddOutcome::ParentMissing => Err(Error::NotFound),
    }
}
