//! Why a configuration is refused.

use std::fmt;

/// Why the configuration is refused, in one line.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// The value of `key` is refused because of `reason`.
    pub fn invalid(key: &str, reason: impl fmt::Display) -> Self {
        Self(format!("{key}: {reason}"))
    }

    /// Refuses the value of `key` with `rule`, unless `is_kept`.
    pub(super) fn require(is_kept: bool, key: &str, rule: &str) -> Result<(), Self> {
        if is_kept { Ok(()) } else { Err(Self::invalid(key, rule)) }
    }
}

impl From<config::ConfigError> for ConfigError {
    fn from(error: config::ConfigError) -> Self {
        Self(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
