//! The section `store`.

use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigError;
use super::secret::Secret;

/// URL of the store in the memory of the process.
const MEMORY: &str = "memory://";

/// The store of everything durable: a database, or the memory of the process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// The URL, as configured; see [`super::Settings::database`].
    pub url: Secret,
    /// A file with this URL instead.
    pub url_file: PathBuf,
    /// The most connections to the database.
    pub max_connections: u32,
    /// How long a call waits for a connection, in ms.
    pub acquire_timeout_ms: u64,
    /// Whether holds, payments and releases that arrive together share transactions.
    pub group_commit: bool,
}

impl Store {
    /// Whether the store is in memory, and lost when the process ends.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.url.text() == MEMORY
    }

    /// Whether it is an SQLite file.
    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        self.url.text().starts_with("sqlite://")
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let require = ConfigError::require;
        let url = self.url.text();
        let is_known = self.is_sqlite() || url.starts_with("mysql://") || self.is_memory();
        require(is_known, "store.url", "must begin with sqlite:// or mysql://, or be memory://")?;
        require((1..=10_000).contains(&self.max_connections), "store.max_connections", "must be 1 to 10000")?;
        let wait_is_fine = (100..=60_000).contains(&self.acquire_timeout_ms);
        require(wait_is_fine, "store.acquire_timeout_ms", "must be 100 to 60000")
    }
}
