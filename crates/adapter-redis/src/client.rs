//! The connections to Redis: every setting with its reason, and the conversion of errors to [`StoreError`].

use std::time::Duration;

use fred::clients::Pool;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike as _;
use fred::types::config::{Config, ReconnectError, ReconnectPolicy, UnresponsiveConfig};
use fred::types::{Builder, InfoKind, RespVersion};
use usher_kernel::StoreError;

/// Redis runs one script at a time. Several connections spread the network I/O over the cores, and keep small calls
/// from waiting behind the bytes of a large one.
const CONNECTIONS: usize = 4;
/// A script takes milliseconds, so a call that takes this long fails. fred's default is no timeout.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout for connecting and for logging in. Short, because Sentinel may name a server that is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that owes an answer for this long is dead, even if TCP keeps it open: the client reconnects. Longer
/// than the command timeout, so that one slow script does not cost the other calls their connection.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(5);
const UNRESPONSIVE_CHECK: Duration = Duration::from_secs(1);
/// Callers batch concurrent requests, so more commands than this in one connection's buffer mean that Redis cannot keep
/// up. The client then refuses calls at once. fred's default is no bound.
const COMMANDS_BUFFERED_MAX: usize = 4_096;
/// The longest pause between two attempts to reconnect. Jitter keeps servers from reconnecting at the same moment.
const RECONNECT_DELAY_MAX_MS: u32 = 2_000;
const RECONNECT_DELAY_MIN_MS: u32 = 100;
const RECONNECT_JITTER_MS: u32 = 100;
/// The errors of a server that is no longer the primary, or not ready yet. Its connection works, so the client would
/// keep it. Reconnecting finds the primary, through Sentinel, a cluster or a host name.
const RECONNECT_ERRORS: [ReconnectError; 4] =
    [ReconnectError::ReadOnly, ReconnectError::Loading, ReconnectError::MasterDown, ReconnectError::ClusterDown];
/// The only policy under which a full Redis refuses writes instead of evicting a line.
const POLICY_WITHOUT_EVICTION: &str = "noeviction";

/// Why the connection to the line's store failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is not one of fred's, or no server answers there.
    #[error("cannot connect to Redis")]
    Redis(#[from] Error),
    /// Redis would evict lines when its memory is full.
    #[error("redis may evict the line: its maxmemory-policy is {policy}, set it to {POLICY_WITHOUT_EVICTION}")]
    Evicts {
        /// The policy of the server.
        policy: String,
    },
}

/// Connects, and checks that Redis does not evict.
///
/// The URL's scheme is `redis` or `rediss` (TLS), optionally with the suffix `-cluster` or `-sentinel`.
pub(crate) async fn connect(url: &str) -> Result<Pool, ConnectError> {
    let mut config = Config::from_url(url)?;
    // A wrong URL or password fails at once. The reconnect policy handles later losses.
    config.fail_fast = true;
    // Scripts answer with arrays, numbers, strings and nil: RESP3 adds nothing.
    config.version = RespVersion::RESP2;
    let pool = Builder::from_config(config)
        .with_performance_config(|performance| performance.default_command_timeout = COMMAND_TIMEOUT)
        .with_connection_config(|connection| {
            // fred's default sends a command up to three times when connections break, but the first may have run.
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = COMMANDS_BUFFERED_MAX;
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE_AFTER), interval: UNRESPONSIVE_CHECK };
            // Nagle's algorithm would let small commands wait for one another.
            connection.tcp.nodelay = Some(true);
            // A password change while servers run costs the connection, not the client.
            connection.reconnect_on_auth_error = true;
            connection.reconnect_errors = RECONNECT_ERRORS.to_vec();
        })
        // 0 attempts: the client never stops reconnecting.
        .set_policy(reconnect_policy())
        .build_pool(CONNECTIONS)?;
    pool.init().await?;
    let memory: String = pool.info(Some(InfoKind::Memory)).await?;
    match memory.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim) {
        Some(POLICY_WITHOUT_EVICTION) => {}
        Some(policy) => return Err(ConnectError::Evicts { policy: policy.to_owned() }),
        None => tracing::warn!("redis does not report its maxmemory-policy; make sure that it is noeviction"),
    }
    Ok(pool)
}

fn reconnect_policy() -> ReconnectPolicy {
    let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_DELAY_MIN_MS, RECONNECT_DELAY_MAX_MS, 2);
    policy.set_jitter(RECONNECT_JITTER_MS);
    policy
}

/// Whether the server does not know the script: it forgot it, or never had it.
pub(crate) fn is_unknown_script(error: &Error) -> bool {
    error.details().starts_with("NOSCRIPT")
}

/// The error of `operation`. A refused call had no effect. If the answer is missing, the effect is unknown.
pub(crate) fn convert(operation: &'static str, error: Error) -> StoreError {
    // `ERR` comes from a script with an invalid call, `WRONGTYPE` from a key of the wrong type.
    let is_bug = ["ERR ", "WRONGTYPE "].iter().any(|start| error.details().starts_with(start))
        || *error.kind() == ErrorKind::Parse;
    let is_unknown = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled);
    let source = Box::new(error);
    if is_bug {
        StoreError::Corrupt { operation, source }
    } else if is_unknown {
        StoreError::Timeout { operation, source }
    } else {
        StoreError::Unavailable { operation, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_whether_the_call_may_have_had_an_effect() {
        let failed = |kind, details: &'static str| convert("line.join", Error::new(kind, details));

        assert!(matches!(failed(ErrorKind::Timeout, "Request timed out."), StoreError::Timeout { .. }));
        assert!(matches!(failed(ErrorKind::IO, "connection reset"), StoreError::Timeout { .. }));
        assert!(matches!(failed(ErrorKind::Backpressure, "Max command queue"), StoreError::Unavailable { .. }));
        assert!(matches!(failed(ErrorKind::Unknown, "OOM command not allowed"), StoreError::Unavailable { .. }));
        assert!(matches!(failed(ErrorKind::Unknown, "LOADING Redis is loading"), StoreError::Unavailable { .. }));
        assert!(matches!(failed(ErrorKind::Unknown, "ERR user_script:3: no such"), StoreError::Corrupt { .. }));
        assert!(matches!(failed(ErrorKind::InvalidArgument, "WRONGTYPE Operation"), StoreError::Corrupt { .. }));
    }

    #[test]
    fn an_unknown_script_is_recognized() {
        assert!(is_unknown_script(&Error::new(ErrorKind::Unknown, "NOSCRIPT No matching script.")));
        assert!(!is_unknown_script(&Error::new(ErrorKind::Unknown, "ERR unknown command")));
    }
}
