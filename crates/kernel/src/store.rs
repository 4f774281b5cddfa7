//! Errors of stores. A refusal by a business rule is an outcome, not an error.

use std::error::Error;
use std::fmt;

/// The cause, for the log.
pub type Source = Box<dyn Error + Send + Sync>;

/// The technology behind a port failed. The only error that an adapter returns.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or refuses to work now. A retry may succeed.
    #[error("{operation}: the store is unavailable")]
    Unavailable {
        /// The port's method, e.g. `reservation.hold`.
        operation: &'static str,
        /// The driver's error.
        source: Source,
    },
    /// The store did not answer in time. The effect may have happened, or may still happen.
    #[error("{operation}: the store did not answer in time")]
    Timeout {
        /// The port's method.
        operation: &'static str,
        /// The driver's error.
        source: Source,
    },
    /// Concurrent calls got in the way of every attempt; there was no effect. A retry may succeed, best in a batch of
    /// its own.
    #[error("{operation}: gave up after conflicts with concurrent calls")]
    Conflict {
        /// The port's method.
        operation: &'static str,
        /// The conflict.
        source: Source,
    },
    /// The stored data or the arguments are invalid: a bug, or a damaged row. A retry does not help.
    #[error("{operation}: invalid data in the store")]
    Corrupt {
        /// The port's method.
        operation: &'static str,
        /// The table, column and row.
        source: Source,
    },
}

impl StoreError {
    /// One error of each kind, for tests that must hold for all kinds.
    #[must_use]
    pub fn of_each_kind(operation: &'static str) -> [Self; 4] {
        let source = || Source::from("the test says so");
        [
            Self::Unavailable { operation, source: source() },
            Self::Timeout { operation, source: source() },
            Self::Conflict { operation, source: source() },
            Self::Corrupt { operation, source: source() },
        ]
    }

    /// Whether a retry of the same call may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } | Self::Conflict { .. } => true,
            Self::Corrupt { .. } => false,
        }
    }

    /// The port's method that failed.
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        match self {
            Self::Unavailable { operation, .. }
            | Self::Timeout { operation, .. }
            | Self::Conflict { operation, .. }
            | Self::Corrupt { operation, .. } => operation,
        }
    }
}

/// For tests of a service: runs `call` once with each kind of failure for a mocked port to return, and asserts that
/// `call` returns the same failure, `wrapped` in the service's error.
pub async fn every_failure_is_told<T, E: fmt::Debug>(
    wrapped: fn(StoreError) -> E,
    call: impl AsyncFn(StoreError) -> Result<T, E>,
) {
    let all = || StoreError::of_each_kind("a.port");
    for (failure, expected) in all().into_iter().zip(all()) {
        let told = call(failure).await.err();
        assert_eq!(format!("{told:?}"), format!("{:?}", Some(wrapped(expected))));
    }
}
