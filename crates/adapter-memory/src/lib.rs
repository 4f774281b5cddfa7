//! The line's store and the durable ports in one process. A real adapter: one lock guard per method.

mod account;
mod charge_log;
mod database;
mod gone;
mod ledger;
mod line;
mod policy;
mod presence;
mod rate;
mod store;

pub use account::MemoryAccountRepository;
pub use charge_log::MemoryChargeLog;
pub use database::Database;
pub use ledger::MemoryLineLedger;
pub use policy::MemoryPolicyRepository;
pub use store::MemoryLineStore;
