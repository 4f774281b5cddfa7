//! What a server keeps in memory for the people who look at it now. Knows nothing of HTTP.

pub mod boards;
pub mod geometries;
pub mod shared_json;
pub mod streams;
