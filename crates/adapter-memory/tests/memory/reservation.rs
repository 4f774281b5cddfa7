//! The contracts of [`ReservationRepository`], [`SeatEvents`] and [`ReservationHistory`], and the random schedules.

use std::sync::Arc;

use usher_adapter_memory::{MemoryCatalogueRepository, MemoryLineLedger, MemoryReservationRepository};
use usher_concert::SeatMap;
use usher_contract_tests::reservation_repository::{Fixture, seed_through};
use usher_contract_tests::{reservation_repository_contract, reservation_schedules};
use usher_kernel::{PerformanceId, Timestamp};
use usher_queue::PlaceNumber;
use usher_queue::ports::LineLedger as _;
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{ReservationHistory, ReservationRepository, SeatEvents};

use crate::Memory;

impl Memory {
    fn reservations(&self) -> Arc<MemoryReservationRepository> {
        Arc::new(MemoryReservationRepository::new(self.0.clone()))
    }
}

impl Fixture for Memory {
    async fn fresh() -> Self {
        Self::new()
    }

    fn repository(&self) -> Arc<dyn ReservationRepository> {
        self.reservations()
    }

    fn events(&self) -> Arc<dyn SeatEvents> {
        self.reservations()
    }

    fn history(&self) -> Arc<dyn ReservationHistory> {
        self.reservations()
    }

    async fn seed(&self, performance: PerformanceId, map: &SeatMap) {
        seed_through(&MemoryCatalogueRepository::new(self.0.clone()), performance, map).await;
    }

    async fn leave(&self, performance: PerformanceId, pass: PassNumber, now: Timestamp) {
        let ledger = MemoryLineLedger::new(self.0.clone());
        ledger.end_pass(performance, PlaceNumber::new(pass.0), now).await.unwrap();
    }
}

reservation_repository_contract!(Memory);
reservation_schedules!(Memory);
