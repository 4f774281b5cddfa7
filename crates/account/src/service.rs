//! Sign-up and log-in.

use std::sync::Arc;

use usher_kernel::{AccountId, Clock, IdGenerator, StoreError};

use crate::{
    Account, AccountRepository, AddAccountOutcome, Credentials, Email, Error, HashingError, PasswordHasher, Role,
    SignUp,
};

/// The account use cases.
#[derive(Clone)]
pub struct Service {
    accounts: Arc<dyn AccountRepository>,
    hasher: Arc<dyn PasswordHasher>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGenerator>,
}

impl Service {
    /// Puts the service together.
    #[must_use]
    pub fn new(
        accounts: Arc<dyn AccountRepository>,
        hasher: Arc<dyn PasswordHasher>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdGenerator>,
    ) -> Self {
        Self { accounts, hasher, clock, ids }
    }

    /// Makes an account.
    ///
    /// # Errors
    /// [`Error::EmailTaken`], [`Error::Overloaded`], [`Error::Store`].
    #[tracing::instrument(skip_all, name = "account.sign_up")]
    pub async fn sign_up(&self, wish: SignUp, role: Role) -> Result<Account, Error> {
        let password_hash = self.hasher.hash(wish.password).await.map_err(hashing_failed)?;
        let account = Account {
            id: AccountId::from_uuid(self.ids.next_uuid()),
            email: wish.email,
            name: wish.name,
            role,
            created_at: self.clock.now(),
        };
        match self.accounts.add(&account, &password_hash).await? {
            AddAccountOutcome::Added => Ok(account),
            AddAccountOutcome::EmailTaken => Err(Error::EmailTaken),
        }
    }

    /// Finds the account that the credentials belong to.
    ///
    /// # Errors
    /// [`Error::InvalidCredentials`], [`Error::Overloaded`], [`Error::Store`].
    #[tracing::instrument(skip_all, name = "account.log_in")]
    pub async fn log_in(&self, credentials: Credentials) -> Result<Account, Error> {
        let found = match Email::parse(&credentials.email) {
            Some(email) => self.accounts.find_by_email(&email).await?,
            None => None,
        };
        let (account, hash) = found.unzip();
        let matches = self.hasher.verify(credentials.password, hash).await.map_err(hashing_failed)?;
        account.filter(|_| matches).ok_or(Error::InvalidCredentials)
    }

    /// The account with this id.
    ///
    /// # Errors
    /// [`Error::NotFound`] also for the identities that others vouch for, [`Error::Store`].
    pub async fn find(&self, id: AccountId) -> Result<Account, Error> {
        self.accounts.find(id).await?.ok_or(Error::NotFound)
    }
}

fn hashing_failed(error: HashingError) -> Error {
    match error {
        HashingError::Overloaded => Error::Overloaded,
        HashingError::Corrupt(source) => Error::Store(StoreError::Corrupt { operation: "account.verify", source }),
    }
}
