//! Proofs of the seats: servers that share a database sell each seat once, and every acknowledged purchase survives,
//! whatever happens to the database and to the clients.

mod aborted;
mod disturbed;
mod rush;
mod shop;
mod stage;
mod sweepers;

pub(super) use aborted::aborted_holds;
pub(super) use disturbed::{database_frozen, database_killed};
pub(super) use rush::seat_rush;
pub(super) use sweepers::sweepers;
