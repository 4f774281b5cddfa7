//! The server: HTTP in front, adapters behind, the domains between them. The only crate that knows HTTP, JSON and the
//! environment.

pub mod background;
pub mod batched_line;
pub mod batcher;
pub mod boards;
pub mod bridge;
pub mod cli;
pub mod composition;
pub mod config;
pub mod demo;
pub mod group_commit;
pub mod http;
pub mod identity;
pub mod ids;
pub mod metrics;
pub mod observed;
pub mod password;
pub mod problem;
pub mod recorded;
pub mod schema;

pub mod streams;
pub mod telemetry;
