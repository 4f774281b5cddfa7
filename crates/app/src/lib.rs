//! The server: HTTP in front, adapters behind, the domains between them. The only crate that knows HTTP, JSON and the
//! environment.

pub mod bridge;
pub mod cli;
pub mod composition;
pub mod config;
pub mod decorators;
pub mod demo;
pub mod durable;
pub mod http;
pub mod identity;
pub mod live;
pub mod runtime;
