//! The memory adapters pass the suites of their ports.

#![cfg(test)]

mod account;
mod catalogue;
mod charge_log;
mod ledger;
mod line_store;
mod policy;
mod reservation;

use usher_adapter_memory::Database;

/// A fixture with an empty database for each test.
struct Memory(Database);

impl Memory {
    fn new() -> Self {
        Self(Database::new())
    }
}
