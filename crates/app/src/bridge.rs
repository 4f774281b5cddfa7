//! The ports between domains: each is owned by one domain and implemented with another.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use usher_concert::ports::CatalogueRepository;
use usher_concert::{Performance, SaleTimes};
use usher_kernel::{AccountId, PerformanceId, StoreError, Timestamp};
use usher_queue::policy::{Sale, SaleState};
use usher_queue::ports::SaleCalendar;
use usher_queue::{PassCheck, PlaceNumber};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{AdmissionGate, GateOutcome, ReservationRepository, SaleDesk, SalePhase, SaleTerms};

/// Tells the line when sales are, from the catalogue and the seats.
pub struct CatalogueCalendar {
    /// When sales open and close.
    pub catalogue: Arc<dyn CatalogueRepository>,
    /// Whether seats are left.
    pub reservations: Arc<dyn ReservationRepository>,
}

impl CatalogueCalendar {
    async fn sales(
        &self,
        performances: &[Performance],
        now: Timestamp,
    ) -> Result<Vec<(PerformanceId, Sale)>, StoreError> {
        let ids: Vec<_> = performances.iter().map(|performance| performance.id).collect();
        let counts = self.reservations.seat_counts(&ids, now).await?;
        let sale = |(performance, counts): (&Performance, &usher_reservation::SeatCounts)| {
            let SaleTimes { opens_at, closes_at } = performance.sale;
            (performance.id, Sale { opens_at, closes_at, is_sold_out: counts.is_sold_out() })
        };
        Ok(performances.iter().zip(&counts).map(sale).collect())
    }
}

#[async_trait]
impl SaleCalendar for CatalogueCalendar {
    async fn live(&self, now: Timestamp, lobby: Duration) -> Result<Vec<(PerformanceId, Sale)>, StoreError> {
        let performances = self.catalogue.performances_on_sale(now, lobby).await?;
        self.sales(&performances, now).await
    }

    async fn find(&self, performance: PerformanceId, now: Timestamp) -> Result<Option<Sale>, StoreError> {
        let Some(performance) = self.catalogue.performance(performance).await? else { return Ok(None) };
        let sales = self.sales(&[performance], now).await?;
        Ok(sales.first().map(|&(_, sale)| sale))
    }
}

/// Tells the seats the terms of sales, from the catalogue and the line's policies.
pub struct CatalogueDesk {
    catalogue: Arc<dyn CatalogueRepository>,
    line: usher_queue::Service,
    /// A cache without expiry, because a performance's terms never change.
    known: RwLock<HashMap<PerformanceId, Performance>>,
}

impl CatalogueDesk {
    /// The most performances in the cache. One more clears it.
    const KNOWN_MAX: usize = 10_000;

    /// Creates the desk with an empty cache.
    #[must_use]
    pub fn new(catalogue: Arc<dyn CatalogueRepository>, line: usher_queue::Service) -> Self {
        Self { catalogue, line, known: RwLock::default() }
    }

    async fn performance(&self, id: PerformanceId) -> Result<Option<Performance>, StoreError> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Some(known.clone()));
        }
        let found = self.catalogue.performance(id).await?;
        if let Some(performance) = &found {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= Self::KNOWN_MAX {
                known.clear();
            }
            known.insert(id, performance.clone());
        }
        Ok(found)
    }
}

#[async_trait]
impl SaleDesk for CatalogueDesk {
    async fn terms(&self, performance: PerformanceId, now: Timestamp) -> Result<Option<SaleTerms>, StoreError> {
        let Some(performance) = self.performance(performance).await? else { return Ok(None) };
        let SaleTimes { opens_at, closes_at } = performance.sale;
        let phase = match self.line.sale_state(performance.id, opens_at, closes_at, now) {
            SaleState::Scheduled => SalePhase::NotOpen,
            // A pause stops admissions, but admitted buyers go on buying. After the last seat is sold, seats may come
            // back.
            SaleState::Open | SaleState::Paused | SaleState::SoldOut => SalePhase::Open,
            SaleState::Closed => SalePhase::Closed,
        };
        Ok(Some(SaleTerms { phase, seat_limit: performance.seat_limit_per_buyer, hold_ttl: performance.hold_ttl }))
    }
}

/// Tells the seats which buyers are admitted, from the line's passes.
pub struct LineGate(pub usher_queue::Service);

#[async_trait]
impl AdmissionGate for LineGate {
    fn check(&self, pass: &str, account: AccountId, performance: PerformanceId, now: Timestamp) -> GateOutcome {
        match self.0.check_pass(pass, account, performance, now) {
            PassCheck::Live(number) => GateOutcome::Admitted(PassNumber(number.get())),
            PassCheck::Invalid => GateOutcome::Invalid,
            PassCheck::Mismatch => GateOutcome::Mismatch,
            PassCheck::Expired => GateOutcome::Expired,
        }
    }

    async fn pass_used(&self, performance: PerformanceId, pass: PassNumber) {
        if let Err(error) = self.0.pass_used(performance, PlaceNumber::new(pass.0)).await {
            tracing::warn!(%performance, error = %error, "a used pass keeps its room until it expires");
        }
    }
}
