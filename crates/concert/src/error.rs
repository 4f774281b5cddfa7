//! Errors of the catalogue's use cases.

use usher_kernel::{StoreError, Violation};

/// The reasons to refuse a call, each of which the caller can act on, and failures of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks rules; each violation names the field.
    #[error("{} field(s) are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// No such concert, or no such performance.
    #[error("no such concert or performance")]
    NotFound,
    /// The sale has opened, or a seat was held: seats and prices can no longer change.
    #[error("the seats can no longer be changed, as the sale has begun")]
    SeatsLocked,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
