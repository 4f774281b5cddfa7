//! How a store fails. Business refusals are outcomes, never errors.

use std::error::Error;
use std::fmt;

/// What went wrong underneath, kept for the log.
pub type Source = Box<dyn Error + Send + Sync>;

/// The technology behind a port failed. The only error that an adapter returns.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, or refuses to work now. Trying later may help.
    #[error("{operation}: the store is unavailable")]
    Unavailable {
        /// The port's method, e.g. `reservation.hold`.
        operation: &'static str,
        /// The driver's error.
        source: Source,
    },
    /// No answer in time. The effect may have happened, or may still happen.
    #[error("{operation}: the store did not answer in time")]
    Timeout {
        /// The port's method.
        operation: &'static str,
        /// The driver's error.
        source: Source,
    },
    /// Other calls were quicker, time and again; there was no effect. Trying again may help, and helps best alone.
    #[error("{operation}: other calls were quicker")]
    Conflict {
        /// The port's method.
        operation: &'static str,
        /// What it lost.
        source: Source,
    },
    /// The store holds, or was asked for, what cannot be. A bug or a damaged row; repeating will not help.
    #[error("{operation}: the store contradicts itself")]
    Corrupt {
        /// The port's method.
        operation: &'static str,
        /// Which table, column and row.
        source: Source,
    },
}

impl StoreError {
    /// One error of each kind, for tests of what holds for all of them.
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

    /// Whether the same call may succeed later.
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

/// Makes a call with a port that fails in each way there is, for tests of a service: the call is refused with that failure,
/// `wrapped` in the service's error.
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
