//! The load driver: servers of its own under crowds of its own, to measure what they can do and to prove what they keep.
//! Sees a server as its clients do; never part of one.

pub mod bench;
pub mod prove;
pub mod world;
