//! Password hashing with Argon2id, with a limit on running and on waiting calls. More calls are refused at once, so
//! that a flood of log-ins does not slow down the line.

use std::error::Error;
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::{self, PasswordHash as Phc, PasswordHasher as _, PasswordVerifier as _, SaltString};
use async_trait::async_trait;
use rand::Rng as _;
use tokio::sync::Semaphore;
use usher_account::{HashingError, Password, PasswordHash, PasswordHasher};

/// Hashes passwords with Argon2id (RFC 9106) under the parameters that OWASP recommends: 19 MiB, 2 passes, 1 lane.
#[derive(Debug)]
pub struct Argon2Hasher {
    /// Permits of running and waiting calls.
    admitted: Arc<Semaphore>,
    /// Permits of running calls.
    running: Arc<Semaphore>,
    /// Verified if there is no account, so that the answer takes as long.
    dummy: PasswordHash,
}

impl Argon2Hasher {
    /// A pool that hashes `threads` passwords at once and lets `queue` more wait.
    ///
    /// # Errors
    /// [`HashingError::Corrupt`] if the dummy password cannot be hashed.
    pub fn new(threads: usize, queue: usize) -> Result<Self, HashingError> {
        Ok(Self {
            admitted: Arc::new(Semaphore::new(threads + queue)),
            running: Arc::new(Semaphore::new(threads)),
            dummy: hash(&Password::new("nobody has this password")).map_err(corrupt)?,
        })
    }

    /// Runs slow work on a blocking thread, as soon as a permit is free.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, password_hash::Error> + Send + 'static,
    ) -> Result<T, HashingError> {
        let place = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| HashingError::Overloaded)?;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(corrupt)?;
        // The work owns the permits, because it goes on if its caller is dropped.
        let done = tokio::task::spawn_blocking(move || {
            let _permits = (place, turn);
            work()
        });
        done.await.map_err(corrupt)?.map_err(corrupt)
    }
}

fn hash(password: &Password) -> Result<PasswordHash, password_hash::Error> {
    let salt = SaltString::encode_b64(&rand::rng().random::<[u8; 16]>())?;
    let phc = Argon2::default().hash_password(password.expose().as_bytes(), &salt)?;
    Ok(PasswordHash::new(phc.to_string()))
}

fn corrupt(error: impl Error + Send + Sync + 'static) -> HashingError {
    HashingError::Corrupt(Box::new(error))
}

#[async_trait]
impl PasswordHasher for Argon2Hasher {
    async fn hash(&self, password: Password) -> Result<PasswordHash, HashingError> {
        self.in_turn(move || hash(&password)).await
    }

    async fn verify(&self, password: Password, hash: Option<PasswordHash>) -> Result<bool, HashingError> {
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.dummy.clone());
        let matches = self.in_turn(move || {
            let phc = Phc::new(hash.expose())?;
            match Argon2::default().verify_password(password.expose().as_bytes(), &phc) {
                Ok(()) => Ok(true),
                Err(password_hash::Error::Password) => Ok(false),
                Err(error) => Err(error),
            }
        });
        Ok(matches.await? && exists)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn a_hash_matches_its_password_and_no_other() {
        let hasher = Argon2Hasher::new(1, 8).unwrap();
        let hash = hasher.hash(Password::new("correct horse")).await.unwrap();

        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.expose());
        assert!(hasher.verify(Password::new("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify(Password::new("wrong horse"), Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn without_an_account_no_password_matches() {
        let hasher = Argon2Hasher::new(1, 8).unwrap();

        assert!(!hasher.verify(Password::new("nobody has this password"), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_hash_that_is_none_is_an_error_and_not_a_mismatch() {
        let hasher = Argon2Hasher::new(1, 8).unwrap();

        let verified = hasher.verify(Password::new("x"), Some(PasswordHash::new("plain text"))).await;

        assert!(matches!(verified, Err(HashingError::Corrupt(_))), "{verified:?}");
    }

    #[tokio::test]
    async fn who_finds_the_queue_full_is_refused_at_once_and_all_others_are_served() {
        let hasher = Argon2Hasher::new(1, 2).unwrap();

        let outcomes = join_all((0..10).map(|_| hasher.hash(Password::new("correct horse")))).await;

        let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(HashingError::Overloaded))).count();
        assert_eq!((refused, outcomes.iter().filter(|outcome| outcome.is_ok()).count()), (7, 3));
        assert!(hasher.hash(Password::new("correct horse")).await.is_ok());
    }
}
