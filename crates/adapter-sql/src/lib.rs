//! The durable ports through sea-orm, on SQLite and MySQL. The only crate that names sea-orm entities.

mod account;
mod catalogue;
mod database;
mod entities;
mod error;
mod gateway;
mod idempotency;
mod ledger;
mod policy;
mod reservation;
mod row;
mod statements;

pub use account::SqlAccountRepository;
pub use catalogue::SqlCatalogueRepository;
pub use database::{Database, Settings};
pub use gateway::SqlSimulatedGateway;
pub use ledger::SqlLineLedger;
pub use policy::SqlPolicyRepository;
pub use reservation::SqlReservationRepository;
