//! The durable ports on real databases: SQLite files, and a MariaDB or MySQL server.

#![cfg(test)]

mod account;
mod audit;
mod backend;
mod catalogue;
mod charge_log;
mod faults;
mod ledger;
mod log_in;
mod opening;
mod policy;
mod reservation;
mod statement_counts;
mod sweeping;
