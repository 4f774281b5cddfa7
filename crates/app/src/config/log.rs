//! The section `log`.

use serde::Deserialize;

/// The log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The format of the lines.
    pub format: LogFormat,
    /// Which events are logged, in the syntax of `EnvFilter`.
    pub filter: String,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    Pretty,
    /// JSON for machines.
    Json,
}
