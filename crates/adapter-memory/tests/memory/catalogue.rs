//! The contract of [`CatalogueRepository`].

use std::sync::Arc;

use usher_adapter_memory::{MemoryCatalogueRepository, MemoryReservationRepository};
use usher_concert::CatalogueRepository;
use usher_contract_tests::catalogue_repository::Fixture;
use usher_contract_tests::catalogue_repository_contract;
use usher_kernel::{PerformanceId, Timestamp};
use usher_reservation::SeatStatus;
use usher_reservation::ports::{ReservationRepository as _, SeatFilter};

use crate::Memory;

impl Fixture for Memory {
    async fn fresh() -> Self {
        Self::new()
    }

    fn repository(&self) -> Arc<dyn CatalogueRepository> {
        Arc::new(MemoryCatalogueRepository::new(self.0.clone()))
    }

    async fn seats(&self, performance: PerformanceId) -> Vec<(SeatStatus, u32)> {
        let reservations = MemoryReservationRepository::new(self.0.clone());
        let all = SeatFilter { limit: 200, ..SeatFilter::default() };
        let seats = reservations.seats(performance, &all, Timestamp::EPOCH).await.unwrap();
        seats.into_iter().map(|seat| (seat.status, seat.version)).collect()
    }
}

catalogue_repository_contract!(Memory);
