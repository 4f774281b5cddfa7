//! The catalogue's use cases: reading it, and adding to it.

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
    /// Creates the service.
    #[must_use]
    pub fn new(catalogue: Arc<dyn CatalogueRepository>, clock: Arc<dyn Clock>, ids: Arc<dyn IdGenerator>) -> Self {
        Self { catalogue, clock, ids }
    }

    /// Adds a concert, once per claim.
    ///
    /// # Errors
    /// [`Error::IdempotencyMismatch`], [`Error::Store`].
    #[tracing::instrument(skip_all, name = "concert.add_concert")]
    pub async fn add_concert(&self, wish: NewConcert, claim: &Claim) -> Result<Concert, Error> {
        let concert = wish.into_concert(ConcertId::from_uuid(self.ids.next_uuid()));
        let outcome = self.catalogue.add_concert(&concert, claim, self.clock.now()).await?;
        added(outcome, concert)
    }

    /// Adds a performance of a concert, once per claim.
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

    /// The performances whose line is live: from `lobby` before the sale opens until it closes.
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

#[cfg(test)]
mod tests {
    use usher_kernel::store::every_failure_is_told;
    use usher_kernel::{AccountId, CountedIds, Fingerprint, ManualClock, Money, Timestamp};

    use super::*;
    use crate::ports::MockCatalogueRepository;
    use crate::{SaleTimes, SectionPlan};

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000_000_000);
    const CONCERT: ConcertId = ConcertId::from_bytes([1; 16]);
    const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([2; 16]);

    /// A service whose catalogue expects what `expect` says, and no other call.
    fn service(expect: impl FnOnce(&mut MockCatalogueRepository)) -> Service {
        let mut catalogue = MockCatalogueRepository::new();
        expect(&mut catalogue);
        Service::new(Arc::new(catalogue), Arc::new(ManualClock::new(NOW)), Arc::new(CountedIds::default()))
    }

    fn claim() -> Claim {
        let account = AccountId::from_bytes([3; 16]);
        Claim { account, key: "a-key".parse().unwrap(), fingerprint: Fingerprint([0; 32]) }
    }

    fn page<Id>() -> Page<Id> {
        Page { after: None, limit: Page::<Id>::LIMIT_MAX }
    }

    #[tokio::test]
    async fn a_concert_that_could_not_be_stored_is_not_answered() {
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_add_concert().once().return_once(move |_, _, _| Err(failure));
            });

            service.add_concert(NewConcert::new("title", "", "venue", 90).unwrap(), &claim()).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_performance_that_could_not_be_stored_is_not_answered() {
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_add_performance().once().return_once(move |_, _, _| Err(failure));
            });
            let sale = SaleTimes { opens_at: NOW, closes_at: NOW.plus(Duration::from_secs(60)) };
            let wish = NewPerformance::new(NOW, sale, 4, Duration::from_secs(60)).unwrap();

            service.add_performance(CONCERT, wish, &claim()).await
        })
        .await;
    }

    #[tokio::test]
    async fn seats_that_could_not_be_replaced_are_not_called_replaced_or_locked() {
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_replace_seats().once().return_once(move |_, _, _| Err(failure));
            });

            let price = Money::new(100, "KRW".parse().unwrap()).unwrap();
            let section = SectionPlan { name: "A".into(), rows: 1, seats_per_row: 1, grade: "R".into(), price };

            service.replace_seats(PERFORMANCE, &SeatMap::from_sections(&[section]).unwrap()).await
        })
        .await;
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_called_missing() {
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_concert().once().return_once(move |_| Err(failure));
            });

            service.concert(CONCERT).await
        })
        .await;
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_performance().once().return_once(move |_| Err(failure));
            });

            service.performance(PERFORMANCE).await
        })
        .await;
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_seat_map().once().return_once(move |_| Err(failure));
            });

            service.seat_map(PERFORMANCE).await
        })
        .await;
    }

    #[tokio::test]
    async fn lists_that_cannot_be_read_are_not_called_empty() {
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_concerts().once().return_once(move |_| Err(failure));
            });

            service.concerts(page()).await
        })
        .await;
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_performances_on_sale().once().return_once(move |_, _| Err(failure));
            });

            service.performances_on_sale(Duration::ZERO).await
        })
        .await;
    }

    #[tokio::test]
    async fn performances_are_not_listed_when_their_concert_cannot_be_read() {
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                catalogue.expect_concert().once().return_once(move |_| Err(failure));
            });

            service.performances(CONCERT, page()).await
        })
        .await;
    }

    #[tokio::test]
    async fn performances_that_cannot_be_read_are_not_called_empty() {
        every_failure_is_told(Error::Store, async |failure| {
            let service = service(|catalogue| {
                let concert = NewConcert::new("title", "", "venue", 90).unwrap().into_concert(CONCERT);
                catalogue.expect_concert().once().return_once(|_| Ok(Some(concert)));
                catalogue.expect_performances().once().return_once(move |_, _| Err(failure));
            });

            service.performances(CONCERT, page()).await
        })
        .await;
    }
}
