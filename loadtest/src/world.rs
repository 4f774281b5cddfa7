//! What benchmarks and proofs are made of: servers, a Redis, a sale, people, and the time.

pub mod clock;
pub mod hall;
pub mod passes;
pub mod people;
pub mod redis;
pub mod sale;
pub mod servers;
