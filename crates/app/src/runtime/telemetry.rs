//! The log: structured lines on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{self, ConfigError, LogFormat};

/// Starts logging. Only the first call of a process has an effect, so that tests may start many servers.
///
/// # Errors
/// [`ConfigError`] if `log.filter` cannot be read.
pub fn init(log: &config::Log) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| ConfigError::invalid("log.filter", error))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let first = match log.format {
        LogFormat::Pretty => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // A logger of an earlier call stays.
    drop(first);
    Ok(())
}
