//! Why an account call is refused.

use usher_kernel::{StoreError, Violation};

/// A refusal that the caller can act on, or a store that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks a rule; each violation names its field.
    #[error("{} field(s) of the account are not valid", .0.len())]
    Invalid(Vec<Violation>),
    /// Another account has this mail address.
    #[error("the mail address belongs to another account")]
    EmailTaken,
    /// No account has this mail address and password. Which of them is wrong is not said.
    #[error("mail address or password is wrong")]
    InvalidCredentials,
    /// No such account.
    #[error("no such account")]
    NotFound,
    /// Too many log-ins and sign-ups at once; come back later.
    #[error("too many passwords are being hashed")]
    Overloaded,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
