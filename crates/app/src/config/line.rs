//! The section `line`.

use std::path::PathBuf;

use serde::Deserialize;

use super::secret::Secret;

/// Where lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineBackend {
    /// In this process, for one server.
    Memory,
    /// On Redis or Valkey, for any number of servers.
    Redis,
}

/// The lines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Where they are kept.
    pub backend: LineBackend,
    /// The Redis server; its URL may hold a password.
    pub redis_url: Secret,
    /// How often people are admitted, in ms.
    pub tick_ms: u64,
    /// Who was not seen for this long is away.
    pub presence_window_s: u64,
    /// The most people inside.
    pub capacity: u32,
    /// The most people admitted in a second.
    pub rate_per_s: u32,
    /// How long a pass is good.
    pub pass_ttl_s: u64,
    /// How long before the sale people can join.
    pub lobby_s: u64,
    /// Where to record what the line's store answers, as configured; see [`super::Settings::history`].
    pub history: PathBuf,
}
