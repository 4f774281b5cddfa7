//! The durable ports on the store that the configuration names: a database, or the memory of this process.

use std::sync::Arc;

use usher_account::ports::AccountRepository;
use usher_adapter_memory::{
    self as memory, MemoryAccountRepository, MemoryCatalogueRepository, MemoryChargeLog, MemoryLineLedger,
    MemoryPolicyRepository, MemoryReservationRepository,
};
use usher_adapter_sql::{
    self as sql, SqlAccountRepository, SqlCatalogueRepository, SqlChargeLog, SqlLineLedger, SqlPolicyRepository,
    SqlReservationRepository,
};
use usher_concert::ports::CatalogueRepository;
use usher_kernel::StoreError;
use usher_queue::ports::{LineLedger, PolicyRepository};
use usher_reservation::ChargeLog;
use usher_reservation::ports::{ReservationRepository, SeatEvents};

use crate::config::Settings;
use crate::runtime::schema::{self, SchemaError};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database cannot be opened.
    #[error("the database cannot be opened")]
    Database(#[from] StoreError),
    /// The schema is not the one that this binary needs.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The durable ports, all on one store.
pub struct Durable {
    pub(crate) accounts: Arc<dyn AccountRepository>,
    pub(crate) catalogue: Arc<dyn CatalogueRepository>,
    pub(crate) charges: Arc<dyn ChargeLog>,
    pub(crate) ledger: Arc<dyn LineLedger>,
    pub(crate) policies: Arc<dyn PolicyRepository>,
    pub(crate) reservations: Arc<dyn ReservationRepository>,
    pub(crate) seat_events: Arc<dyn SeatEvents>,
    pub(crate) store: Store,
}

/// The store behind the ports, for readiness checks.
pub(crate) enum Store {
    Memory(memory::Database),
    Sql(sql::Database),
}

impl Store {
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(database) => database.ping(),
            Self::Sql(database) => database.ping().await,
        }
    }
}

impl Durable {
    /// Opens the store that the configuration names, with its schema up to date.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        if settings.store.is_memory() {
            tracing::warn!(
                "store.url is memory://: accounts, concerts, seats and sales are lost when this process ends. \
                 Set store.url to a sqlite:// or mysql:// database to keep them"
            );
            return Ok(Self::in_memory(memory::Database::new()));
        }
        let database = sql::Database::open(&settings.database()).await?;
        schema::bring_up_to_date(&database).await?;
        Ok(Self::in_sql(database))
    }

    /// The ports in the memory of this process.
    #[must_use]
    pub fn in_memory(database: memory::Database) -> Self {
        let reservations = Arc::new(MemoryReservationRepository::new(database.clone()));
        Self {
            accounts: Arc::new(MemoryAccountRepository::new(database.clone())),
            catalogue: Arc::new(MemoryCatalogueRepository::new(database.clone())),
            charges: Arc::new(MemoryChargeLog::new(database.clone())),
            ledger: Arc::new(MemoryLineLedger::new(database.clone())),
            policies: Arc::new(MemoryPolicyRepository::new(database.clone())),
            seat_events: Arc::<MemoryReservationRepository>::clone(&reservations),
            reservations,
            store: Store::Memory(database),
        }
    }

    /// The ports on a database whose schema is up to date.
    #[must_use]
    pub fn in_sql(database: sql::Database) -> Self {
        let reservations = Arc::new(SqlReservationRepository::new(database.clone()));
        Self {
            accounts: Arc::new(SqlAccountRepository::new(database.clone())),
            catalogue: Arc::new(SqlCatalogueRepository::new(database.clone())),
            charges: Arc::new(SqlChargeLog::new(database.clone())),
            ledger: Arc::new(SqlLineLedger::new(database.clone())),
            policies: Arc::new(SqlPolicyRepository::new(database.clone())),
            seat_events: Arc::<SqlReservationRepository>::clone(&reservations),
            reservations,
            store: Store::Sql(database),
        }
    }
}
