//! The port suites: the sole definition of what a correct adapter is. For tests and benchmarks only.

#![expect(clippy::unwrap_used, reason = "a panic fails the test where it is")]

pub mod account_repository;
pub mod catalogue_repository;
pub mod line_ledger;
pub mod line_store;
pub mod policy_repository;
pub mod race;
pub mod reservation_repository;
pub mod reservation_schedules;
pub mod simulated_gateway;
