//! The section `store`.

use serde::Deserialize;

use super::secret::Secret;

/// The database.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Where it is, as configured; see [`super::Settings::database`].
    pub url: Secret,
    /// Connections to it.
    pub max_connections: u32,
    /// How long a call waits for one of them, in ms.
    pub acquire_timeout_ms: u64,
    /// Whether holds that arrive together commit together.
    pub group_commit: bool,
}
