//! The section `auth`.

use serde::Deserialize;

use super::secret::Secret;

/// Identities.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// What tokens are signed with, as configured; see [`super::Settings::secret`].
    pub secret: Secret,
    /// The secret before it.
    pub secret_previous: Secret,
    /// How long an access token is good.
    pub token_ttl_s: u64,
    /// Passwords hashed at once.
    pub hash_threads: usize,
    /// Passwords that may wait to be hashed.
    pub hash_queue: usize,
}
