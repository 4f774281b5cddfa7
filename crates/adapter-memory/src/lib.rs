//! The line's store and the durable ports in one process. A real adapter: one lock guard per method.

mod account;
mod catalogue;
mod charge_log;
mod claims;
mod database;
mod gone;
mod ledger;
mod line;
mod policy;
mod presence;
mod rate;
mod reservation;
mod seats;
mod store;

pub use account::MemoryAccountRepository;
pub use catalogue::MemoryCatalogueRepository;
pub use charge_log::MemoryChargeLog;
pub use database::Database;
pub use ledger::MemoryLineLedger;
pub use policy::MemoryPolicyRepository;
pub use reservation::MemoryReservationRepository;
pub use store::MemoryLineStore;
