//! The tables, one module each. The migrations define the columns: ids are 16 bytes, times are Unix ms.

#![expect(unreachable_pub, reason = "sea-orm's derive makes public items of a private module")]

pub mod accounts;
pub mod admission_policies;
pub mod buyers;
pub mod concerts;
pub mod ended_passes;
pub mod idempotency_keys;
pub mod line_epoch;
pub mod line_grants;
pub mod lines;
pub mod payment_attempts;
pub mod performances;
pub mod refunds;
pub mod reservation_seats;
pub mod reservations;
pub mod seat_events;
pub mod seats;
pub mod simulated_charges;
pub mod sold;
