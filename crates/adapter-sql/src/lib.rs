//! The durable ports through sea-orm, on SQLite and MySQL. The only crate that names sea-orm entities.

mod account;
mod catalogue;
mod charge_log;
mod database;
mod entities;
mod error;
mod idempotency;
mod ledger;
mod policy;
mod reservation;
mod row;
mod statements;

pub use account::SqlAccountRepository;
pub use catalogue::SqlCatalogueRepository;
pub use charge_log::SqlChargeLog;
pub use database::{Database, MigrationLock, Settings};
pub use ledger::SqlLineLedger;
pub use policy::SqlPolicyRepository;
pub use reservation::SqlReservationRepository;
