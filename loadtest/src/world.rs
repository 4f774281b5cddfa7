//! What benchmarks and proofs share: server processes, a Redis client, a sale, people with their passes, and the clock.

pub mod clock;
pub mod hall;
pub mod passes;
pub mod people;
pub mod redis;
pub mod sale;
pub mod servers;
