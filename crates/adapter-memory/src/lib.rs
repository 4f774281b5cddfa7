//! The line's store in one process. A real adapter: one lock guard per method.

mod gone;
mod line;
mod presence;
mod rate;
mod store;

pub use store::MemoryLineStore;
