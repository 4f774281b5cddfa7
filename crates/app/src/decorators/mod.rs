//! Decorators: each wraps a port and adds one thing to it (batches, metrics, a history). A decorated port keeps the
//! port's contract, so each decorator passes the suite of what it wraps.

// A decorator forwards every method: a default that is inherited would go past what is decorated.
#![deny(clippy::missing_trait_methods)]

pub mod batched_line;
pub mod batcher;
pub mod group_commit;
pub mod observed;
pub mod recorded;
