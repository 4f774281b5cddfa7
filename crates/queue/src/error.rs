//! Why a call to the line is refused.

use std::time::Duration;

use usher_kernel::{StoreError, Timestamp, Violation};

/// A refusal that the caller can act on, or a store that failed.
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
    /// The place token is missing, damaged, or not ours.
    #[error("the place token is not valid")]
    PlaceInvalid,
    /// The place is in another line.
    #[error("the place belongs to another performance")]
    PlaceMismatch,
    /// The place is polled far faster than it was asked to.
    #[error("the place is polled too fast")]
    PolledTooFast {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The pass is missing, damaged, expired, used up, or for another performance. A gate does not say which.
    #[error("not admitted")]
    NotAdmitted,
    /// A policy breaks a rule; each violation names its value.
    #[error("{} value(s) of the policy are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// The line's store was lost and is not back yet, or every reserved number is taken and no more can be had.
    #[error("the line cannot be used now")]
    LineUnavailable,
    /// A durable store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The line's own store failed.
    #[error("the line's store failed")]
    LineStore(#[source] StoreError),
}
