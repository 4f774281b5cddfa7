//! Errors of the line's use cases.

use std::time::Duration;

use usher_kernel::{StoreError, Timestamp, Violation};

/// The reasons to refuse a call, each of which the caller can act on, and failures of stores.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such performance.
    #[error("no such performance")]
    NotFound,
    /// The line opens later.
    #[error("the line is not open yet")]
    SaleNotOpen {
        /// When joining becomes possible.
        joinable_from: Timestamp,
    },
    /// The sale is over.
    #[error("the sale is over")]
    SaleClosed,
    /// The place token is missing, or malformed, or its signature is wrong.
    #[error("the place token is not valid")]
    PlaceInvalid,
    /// The place is in another line.
    #[error("the place belongs to another performance")]
    PlaceMismatch,
    /// The client polls the place far more often than it was told to.
    #[error("the place is polled too fast")]
    PolledTooFast {
        /// When to poll again.
        retry_after: Duration,
    },
    /// The pass is missing, malformed, expired, used up, or for another performance. A gate does not tell which.
    #[error("not admitted")]
    NotAdmitted,
    /// A policy breaks rules; each violation names the value.
    #[error("{} value(s) of the policy are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// The store lost the line, which is not open again yet; or all reserved numbers are taken, and the ledger reserves
    /// no more.
    #[error("the line is not available now")]
    LineUnavailable,
    /// A durable store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The line's store failed.
    #[error("the line's store failed")]
    LineStore(#[source] StoreError),
}
