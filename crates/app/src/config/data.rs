//! The section `data`.

use std::path::PathBuf;

use serde::Deserialize;

/// The server's files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The folder of the SQLite database and the secret.
    pub dir: PathBuf,
}
