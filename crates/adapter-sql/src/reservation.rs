//! The [`ReservationRepository`] on SQL, with [`SeatEvents`] and [`ReservationHistory`]: each method is one unit of
//! work. Decides nothing: `usher_reservation::judge` does.
//!
//! Every unit takes its locks in one order: performance, buyer, reservation, seats. Then it writes the rows for which
//! other units do not wait for long: claims, sold, events. SQLite needs no row locks: its writers run one after the
//! other.

mod board;
mod hall;
mod hold;
mod lapse;
mod locked;
mod payment;
mod reading;
mod rows;
mod seats;

use std::sync::Arc;

use async_trait::async_trait;
use usher_kernel::{AccountId, AttemptId, Claim, PerformanceId, ReservationId, StoreError, Timestamp};
use usher_reservation::audit::History;
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, RefundDue, ReleaseCommand, ReleaseOutcome, ReservationHistory,
    ReservationRepository, SeatEvents, SeatFilter, SettleCommand, Settled, Unsettled,
};
use usher_reservation::{BoardEvent, BoardRecord, Reservation, Seat, SeatCounts};

use crate::Database;

/// Seats and reservations in a database.
#[derive(Clone, Debug)]
pub struct SqlReservationRepository {
    database: Database,
    halls: Arc<hall::Halls>,
}

impl SqlReservationRepository {
    /// The repository in this database.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database, halls: Arc::default() }
    }

    /// Payment attempts that do not exist, although a refund names them, or a charge of the simulated gateway that was
    /// not refunded. No performance's history contains them.
    ///
    /// # Errors
    /// [`StoreError`] if the database failed.
    pub async fn strays(&self) -> Result<Vec<AttemptId>, StoreError> {
        let operation = "reservation.strays";
        self.database.snapshot(operation, |tx| async move { reading::strays(&tx).await }).await
    }
}

#[async_trait]
impl ReservationRepository for SqlReservationRepository {
    #[tracing::instrument(skip_all, name = "sql.reservation.hold", fields(n_commands = commands.len()))]
    async fn hold(&self, commands: &[HoldCommand], now: Timestamp) -> Result<Vec<HoldOutcome>, StoreError> {
        let (operation, halls) = ("reservation.hold", &self.halls);
        self.database.write(operation, |tx| async move { hold::hold_all(&tx, halls, commands, now).await }).await
    }

    async fn find_hold(&self, claim: &Claim, now: Timestamp) -> Result<Option<HoldOutcome>, StoreError> {
        let operation = "reservation.find_hold";
        self.database.read(operation, |db| hold::find(db, claim, now)).await
    }

    #[tracing::instrument(skip_all, name = "sql.reservation.begin_payments", fields(n_commands = commands.len()))]
    async fn begin_payments(&self, commands: &[PayCommand], now: Timestamp) -> Result<Vec<PayOutcome>, StoreError> {
        let operation = "reservation.begin_payment";
        self.database.write(operation, |tx| async move { payment::begin_all(&tx, commands, now).await }).await
    }

    async fn resolve_early(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        let operation = "reservation.resolve_early";
        self.database.write(operation, |tx| async move { payment::resolve_early(&tx, attempt, now).await }).await
    }

    #[tracing::instrument(skip_all, name = "sql.reservation.settle_all", fields(n_commands = commands.len()))]
    async fn settle_all(&self, commands: &[SettleCommand], now: Timestamp) -> Result<Vec<Option<Settled>>, StoreError> {
        let operation = "reservation.settle";
        self.database.write(operation, |tx| async move { payment::settle_all(&tx, commands, now).await }).await
    }

    #[tracing::instrument(skip_all, name = "sql.reservation.release_all", fields(n_commands = commands.len()))]
    async fn release_all(
        &self,
        commands: &[ReleaseCommand],
        now: Timestamp,
    ) -> Result<Vec<ReleaseOutcome>, StoreError> {
        let operation = "reservation.release";
        self.database.write(operation, |tx| async move { lapse::release_all(&tx, commands, now).await }).await
    }

    #[tracing::instrument(skip_all, name = "sql.reservation.expire_lapsed")]
    async fn expire_lapsed(&self, now: Timestamp, limit: u32) -> Result<u32, StoreError> {
        lapse::expire(&self.database, now, limit).await
    }

    async fn unsettled(&self, now: Timestamp, limit: u32) -> Result<Vec<Unsettled>, StoreError> {
        self.database.read("reservation.unsettled", |db| payment::unsettled(db, now, limit)).await
    }

    async fn refunds_due(&self, limit: u32) -> Result<Vec<RefundDue>, StoreError> {
        self.database.read("reservation.refunds_due", |db| payment::refunds_due(db, limit)).await
    }

    async fn refund_sent(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        let operation = "reservation.refund_sent";
        self.database.write(operation, |tx| async move { payment::refund_sent(&tx, attempt, now).await }).await
    }

    async fn find(
        &self,
        reservation: ReservationId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Option<Reservation>, StoreError> {
        self.database.read("reservation.find", |db| reading::find(db, reservation, account, now)).await
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<ReservationId>,
        limit: u64,
        now: Timestamp,
    ) -> Result<Vec<Reservation>, StoreError> {
        self.database.read("reservation.list", |db| reading::list(db, account, after, limit, now)).await
    }

    async fn seats(
        &self,
        performance: PerformanceId,
        filter: &SeatFilter,
        now: Timestamp,
    ) -> Result<Vec<Seat>, StoreError> {
        self.database.read("reservation.seats", |db| reading::seats(db, performance, filter, now)).await
    }

    async fn seat_counts(&self, performances: &[PerformanceId], now: Timestamp) -> Result<Vec<SeatCounts>, StoreError> {
        self.database.read("reservation.seat_counts", |db| reading::seat_counts(db, performances, now)).await
    }
}

#[async_trait]
impl SeatEvents for SqlReservationRepository {
    #[tracing::instrument(skip_all, name = "sql.reservation.board")]
    async fn board(&self, performance: PerformanceId, n_events: u32) -> Result<Option<BoardRecord>, StoreError> {
        let operation = "reservation.board";
        self.database.snapshot(operation, |tx| async move { board::read(&tx, performance, n_events).await }).await
    }

    async fn events(&self, after: u64, missing: &[u64], limit: u32) -> Result<Vec<BoardEvent>, StoreError> {
        self.database.read("reservation.events", |db| board::events(db, after, missing, limit)).await
    }

    async fn settled_event(&self) -> Result<u64, StoreError> {
        self.database.read("reservation.settled_event", board::settled_event).await
    }
}

#[async_trait]
impl ReservationHistory for SqlReservationRepository {
    #[tracing::instrument(skip_all, name = "sql.reservation.history")]
    async fn history(&self, performance: PerformanceId) -> Result<History, StoreError> {
        let operation = "reservation.history";
        self.database.snapshot(operation, |tx| async move { reading::history(&tx, performance).await }).await
    }
}
