//! Errors of the account use cases.

use usher_kernel::{StoreError, Violation};

/// The reasons to refuse a call, each of which the caller can act on, and failures of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks rules; each violation names the field.
    #[error("{} field(s) of the account are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// Another account has this mail address.
    #[error("the mail address belongs to another account")]
    EmailTaken,
    /// No account has this mail address and password. Does not tell which of them is wrong.
    #[error("mail address or password is wrong")]
    InvalidCredentials,
    /// No such account.
    #[error("no such account")]
    NotFound,
    /// Too many log-ins and sign-ups at once. A later retry may succeed.
    #[error("too many passwords are being hashed")]
    Overloaded,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
