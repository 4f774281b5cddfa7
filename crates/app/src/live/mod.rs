//! State in memory that many clients share: seat boards, seat maps, open streams. Knows nothing of HTTP.

pub mod boards;
pub mod geometries;
pub mod readiness;
pub mod shared_json;
pub mod streams;
