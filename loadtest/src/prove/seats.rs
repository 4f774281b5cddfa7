//! Proofs about the seats: servers that share a database sell each seat once, to whoever rushes for it, and what a buyer was
//! told stands, whatever happens to the database and to those who ask.

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
