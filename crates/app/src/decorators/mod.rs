//! Decorators: each wraps a port and adds one thing to it (batches, metrics, a history). A decorated port keeps the
//! port's contract, so each decorator passes the suite of what it wraps.

// A decorator forwards every method: an inherited default would bypass the decorated port.
#![deny(clippy::missing_trait_methods)]

pub mod batched_line;
pub mod group_commit;
pub mod observed;
pub mod recorded;
