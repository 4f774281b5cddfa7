//! The judge: decides every hold, payment and lapse from facts. Knows no store: an adapter locks and reads the facts,
//! calls the judge, and writes its decisions, each write guarded by the version that was read.
//!
//! A call judges a batch of commands one after the other, all at one time `now`. Each command sees the decisions on the
//! commands before it.

use std::fmt;

use usher_kernel::{PerformanceId, SeatId};

pub mod claims;
pub mod hold;
pub mod holdings;
pub mod lapse;
pub mod payment;
pub mod seat;

pub use claims::ClaimWrites;
pub use holdings::{HoldingWrites, Holdings};
pub use seat::{SeatChange, SeatHolding, SeatState};

/// Why a batch cannot be judged by these facts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// A seat changed between the first look and the lock. Roll back, read the facts again, and judge again.
    #[error("seat {0} changed between the first look and the lock")]
    Stale(SeatKey),
    /// Facts that cannot all be true: a row is damaged.
    #[error("`{fact}` of {subject} contradicts the other facts")]
    Contradiction {
        /// The fact, by the name of its field.
        fact: &'static str,
        /// The thing that the fact describes: its kind and its id, such as `reservation 0199…`.
        subject: String,
    },
}

/// A seat of a performance, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatKey {
    /// The performance.
    pub performance: PerformanceId,
    /// The seat.
    pub seat: SeatId,
}

impl fmt::Display for SeatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.performance, self.seat)
    }
}

/// A contradiction in a fact about a subject: `subject` names its kind, `id` which one.
fn contradiction(fact: &'static str, subject: &'static str, id: impl fmt::Display) -> FactsError {
    FactsError::Contradiction { fact, subject: format!("{subject} {id}") }
}
