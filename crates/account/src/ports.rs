//! The ports of accounts: their repository, and the password hasher.

use std::fmt;

use async_trait::async_trait;
use usher_kernel::{AccountId, StoreError};

use crate::{Account, Email, Password};

/// A password hash in PHC string format, e.g. `$argon2id$...`. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Box<str>);

impl PasswordHash {
    /// Wraps a hash in PHC string format.
    #[must_use]
    pub fn new(phc: impl Into<Box<str>>) -> Self {
        Self(phc.into())
    }

    /// The hash, for stores and hashers.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// The outcome of adding an account.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddAccountOutcome {
    /// The account is stored.
    Added,
    /// Another account has its mail address. Nothing is stored.
    EmailTaken,
}

/// Keeps accounts.
///
/// # Contract
/// 1. `add` is atomic: of any number of concurrent calls with one mail address, exactly one stores its account.
/// 2. An account that was added is found by its id and by its mail address, complete, and with its password hash.
/// 3. An account that was never added is not found.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait AccountRepository: Send + Sync + 'static {
    /// Stores a new account, unless its mail address is taken.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn add(&self, account: &Account, password_hash: &PasswordHash) -> Result<AddAccountOutcome, StoreError>;

    /// The account with this id.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(&self, id: AccountId) -> Result<Option<Account>, StoreError>;

    /// The account with this mail address, and its password hash.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find_by_email(&self, email: &Email) -> Result<Option<(Account, PasswordHash)>, StoreError>;
}

/// Failures to hash or check a password.
#[derive(Debug, thiserror::Error)]
pub enum HashingError {
    /// The queue of passwords to hash is full.
    #[error("too many passwords are waiting to be hashed")]
    Overloaded,
    /// The stored hash is malformed.
    #[error("a stored password hash cannot be read")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Hashes passwords, slowly by design, and never on the threads that answer requests.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait PasswordHasher: Send + Sync + 'static {
    /// The hash of a password, salted.
    ///
    /// # Errors
    /// [`HashingError::Overloaded`] if its queue is full.
    async fn hash(&self, password: Password) -> Result<PasswordHash, HashingError>;

    /// Whether the hash is of this password. Without a hash, as for an unknown account, it answers `false` after the
    /// same time, so that the time does not tell which mail addresses have accounts.
    ///
    /// # Errors
    /// See [`HashingError`].
    async fn verify(&self, password: Password, hash: Option<PasswordHash>) -> Result<bool, HashingError>;
}
