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
    /// Creates the service.
    #[must_use]
    pub fn new(
        accounts: Arc<dyn AccountRepository>,
        hasher: Arc<dyn PasswordHasher>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdGenerator>,
    ) -> Self {
        Self { accounts, hasher, clock, ids }
    }

    /// Creates an account.
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
    /// [`Error::NotFound`], also for an identity of an external token issuer; [`Error::Store`].
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

#[cfg(test)]
mod tests {
    use usher_kernel::store::every_failure_is_told;
    use usher_kernel::{CountedIds, ManualClock, Timestamp};

    use super::*;
    use crate::ports::{MockAccountRepository, MockPasswordHasher};
    use crate::{Password, PasswordHash};

    const EMAIL: &str = "ann@example.org";

    /// The ports of a service, none of which expects a call.
    #[derive(Default)]
    struct Mocks {
        accounts: MockAccountRepository,
        hasher: MockPasswordHasher,
    }

    impl Mocks {
        fn service(self) -> Service {
            let clock = ManualClock::new(Timestamp::from_unix_ms(1_000_000_000_000));
            let ids = Arc::new(CountedIds::default());
            Service::new(Arc::new(self.accounts), Arc::new(self.hasher), Arc::new(clock), ids)
        }
    }

    fn password() -> Password {
        Password::new("correct horse")
    }

    fn sign_up() -> SignUp {
        SignUp::new(EMAIL, password(), "Ann").unwrap()
    }

    fn credentials() -> Credentials {
        Credentials { email: EMAIL.into(), password: password() }
    }

    fn corrupt() -> HashingError {
        HashingError::Corrupt("not a hash".into())
    }

    #[tokio::test]
    async fn an_account_whose_password_could_not_be_hashed_is_not_stored() {
        let sign_up_failing = async |error| {
            let mut mocks = Mocks::default();
            mocks.hasher.expect_hash().once().return_once(move |_| Err(error));
            mocks.service().sign_up(sign_up(), Role::Buyer).await
        };

        assert!(matches!(sign_up_failing(HashingError::Overloaded).await, Err(Error::Overloaded)));
        assert!(matches!(sign_up_failing(corrupt()).await, Err(Error::Store(StoreError::Corrupt { .. }))));
    }

    #[tokio::test]
    async fn an_account_that_could_not_be_stored_is_not_answered() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.hasher.expect_hash().once().return_once(|_| Ok(PasswordHash::new("$hash")));
            mocks.accounts.expect_add().once().return_once(move |_, _| Err(failure));

            mocks.service().sign_up(sign_up(), Role::Buyer).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_log_in_whose_account_cannot_be_read_is_refused_without_calling_the_password_wrong_or_hashing_it() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.accounts.expect_find_by_email().once().return_once(move |_| Err(failure));

            mocks.service().log_in(credentials()).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_log_in_whose_password_could_not_be_checked_is_refused_without_calling_it_wrong() {
        let log_in_failing = async |error| {
            let mut mocks = Mocks::default();
            mocks.accounts.expect_find_by_email().once().return_once(|_| Ok(None));
            mocks.hasher.expect_verify().once().return_once(move |_, _| Err(error));
            mocks.service().log_in(credentials()).await
        };

        assert!(matches!(log_in_failing(HashingError::Overloaded).await, Err(Error::Overloaded)));
        assert!(matches!(log_in_failing(corrupt()).await, Err(Error::Store(StoreError::Corrupt { .. }))));
    }

    #[tokio::test]
    async fn an_account_that_cannot_be_read_is_not_called_missing() {
        every_failure_is_told(Error::Store, async |failure| {
            let mut mocks = Mocks::default();
            mocks.accounts.expect_find().once().return_once(move |_| Err(failure));

            mocks.service().find(AccountId::from_bytes([1; 16])).await
        })
        .await;
    }
}
