//! The section `data`.

use std::path::PathBuf;

use serde::Deserialize;

/// Files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Where they are kept.
    pub dir: PathBuf,
}
