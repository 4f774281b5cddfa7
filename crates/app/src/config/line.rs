//! The section `line`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use usher_queue::{AdmissionPolicy, LineState};

use super::error::ConfigError;
use super::secret::Secret;

/// How long a server may take to open a line in a shared store after it did so in the ledger. This is one command,
/// which takes milliseconds and times out after two seconds. A slower server causes a gap in the line's numbers.
const OPENING_GRACE: Duration = Duration::from_secs(1);

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
    /// A file with this URL instead.
    pub redis_url_file: PathBuf,
    /// How often people are admitted, in ms.
    pub tick_ms: u64,
    /// People who did not poll for this long are away.
    pub presence_window_s: u64,
    /// The most people inside.
    pub capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    pub rate_per_s: u32,
    /// How long a pass is valid.
    pub pass_ttl_s: u64,
    /// How long before the sale people can join.
    pub lobby_s: u64,
    /// The file that records the answers of the line's store, as configured; see [`super::Settings::history`].
    pub history: PathBuf,
}

impl Line {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let require = ConfigError::require;
        let has_redis_url = !self.redis_url.is_empty();
        match self.backend {
            LineBackend::Memory => require(!has_redis_url, "line.redis_url", "is set, but line.backend is `memory`")?,
            LineBackend::Redis => require(has_redis_url, "line.redis_url", "must be set: line.backend is `redis`")?,
        }
        require((10..=10_000).contains(&self.tick_ms), "line.tick_ms", "must be 10 to 10000")?;
        let violations = self.admission_policy().validate().err().unwrap_or_default();
        violations
            .first()
            .map_or(Ok(()), |first| Err(ConfigError::invalid(&format!("line.{}", first.field), &first.message)))
    }

    /// The admission policy of lines that no operator changed.
    #[must_use]
    pub const fn admission_policy(&self) -> AdmissionPolicy {
        AdmissionPolicy {
            capacity: self.capacity,
            rate_per_s: self.rate_per_s,
            pass_ttl: Duration::from_secs(self.pass_ttl_s),
            presence_window: Duration::from_secs(self.presence_window_s),
            state: LineState::Open,
        }
    }

    /// The settings of the line's service.
    #[must_use]
    pub const fn service(&self) -> usher_queue::Settings {
        usher_queue::Settings {
            default_policy: self.admission_policy(),
            lobby: Duration::from_secs(self.lobby_s),
            tick: Duration::from_millis(self.tick_ms),
            opening_grace: match self.backend {
                LineBackend::Memory => Duration::ZERO,
                LineBackend::Redis => OPENING_GRACE,
            },
        }
    }
}
