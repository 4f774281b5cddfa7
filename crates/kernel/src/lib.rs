//! The types that every crate shares: typed ids, time, money, store errors. No I/O, no runtime, no serde.

pub mod clock;
pub mod id;
pub mod idempotency;
pub mod money;
pub mod seat;
pub mod store;
pub mod time;
pub mod violation;

pub use clock::{Clock, CountedIds, IdGenerator, ManualClock};
pub use id::{AccountId, AttemptId, ConcertId, InvalidId, PerformanceId, ReservationId, TicketId};
pub use idempotency::{Claim, Fingerprint, IdempotencyKey, KeyUse, Operation, StoredClaim};
pub use money::{Currency, Money};
pub use seat::SeatId;
pub use store::StoreError;
pub use time::Timestamp;
pub use violation::{Violation, Violations};
