//! Why a catalogue call is refused.

use usher_kernel::{StoreError, Violation};

/// A refusal that the caller can act on, or a store that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks a rule; each violation names its field.
    #[error("{} field(s) are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// No such concert, or no such performance.
    #[error("no such concert or performance")]
    NotFound,
    /// The sale is open: seats and prices stay as they are.
    #[error("the sale is open, seats cannot be changed any more")]
    SeatsLocked,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
