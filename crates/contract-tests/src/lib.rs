//! The port suites: the sole definition of what a correct adapter is; and servers to run on. For tests and the load driver only.

#![expect(clippy::unwrap_used, reason = "a suite is a test, and fails where it is")]

pub mod account_repository;
pub mod catalogue_repository;
pub mod line_ledger;
pub mod line_store;
pub mod mysql_server;
pub mod mysql_watcher;
pub mod network;
pub mod policy_repository;
mod process;
pub mod race;
pub mod redis_server;
pub mod reservation_repository;
pub mod reservation_schedules;
pub mod simulated_gateway;
