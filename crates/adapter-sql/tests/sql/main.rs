//! The durable ports on real databases: SQLite files, and a MariaDB or MySQL server.

#![cfg(test)]

mod account;
mod backend;
mod catalogue;
mod gateway;
mod ledger;
mod opening;
mod policy;
mod reservation;
