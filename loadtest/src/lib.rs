//! The load driver: starts servers, sends them crowds over HTTP, measures them, and checks what they promise. Sees a
//! server as its clients and its operator do; never part of one.

pub mod bench;
pub mod prove;
pub mod world;
