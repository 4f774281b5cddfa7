//! The section `auth`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::secret::Secret;

/// Access tokens and password hashing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The secret that signs tokens, as configured; see [`super::Settings::secret`].
    pub secret: Secret,
    /// A file with this secret instead.
    pub secret_file: PathBuf,
    /// The previous secret, whose tokens stay valid.
    pub secret_previous: Secret,
    /// A file with the previous secret instead.
    pub secret_previous_file: PathBuf,
    /// How long an access token is valid.
    pub token_ttl_s: u64,
    /// Passwords hashed at once; 0 is half of the cores.
    pub hash_threads: usize,
    /// Passwords that may wait to be hashed.
    pub hash_queue: usize,
}

impl Auth {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let require = ConfigError::require;
        require(self.token_ttl_s > 0, "auth.token_ttl_s", "must be at least 1")?;
        require(self.hash_threads <= 1_024, "auth.hash_threads", "must be at most 1024")?;
        require(self.hash_queue <= 1_000_000, "auth.hash_queue", "must be at most 1000000")?;
        for (secret, key) in [(&self.secret, "auth.secret"), (&self.secret_previous, "auth.secret_previous")] {
            if !secret.is_empty() {
                secret.require_length(key)?;
            }
        }
        Ok(())
    }

    /// How long an access token is valid.
    #[must_use]
    pub const fn token_ttl(&self) -> Duration {
        Duration::from_secs(self.token_ttl_s)
    }
}
