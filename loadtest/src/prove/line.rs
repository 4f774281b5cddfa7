//! Proofs of the line: servers that share a Redis admit a crowd in order and within its limits, whatever fails.

mod disturbed;
mod history;
mod quiet;
mod stage;
mod undisturbed;

pub(super) use disturbed::{failover, flushed, killed_servers, redis_killed, redis_stopped};
pub(super) use quiet::quiet_polls;
pub(super) use undisturbed::{four_servers, monitor};
