//! Servers to test on: Redis, Valkey, MySQL and MariaDB, each ended with the test that started it. For tests and load
//! drivers only; knows nothing of Usher.

#![expect(clippy::unwrap_used, reason = "a panic fails the test where it is")]

pub mod container;
mod guard;
pub mod mysql_server;
pub mod mysql_watcher;
pub mod network;
pub mod redis_server;
pub mod shared;
mod source;
