//! Decorators: each wraps a port and adds one thing to it (batches, metrics, a history). A decorated port keeps the
//! port's contract, so each decorator passes the suite of what it wraps.

pub mod batched_line;
pub mod batcher;
pub mod group_commit;
pub mod observed;
pub mod recorded;
