//! The connections to Redis: every setting, and why; and what its failures mean to a port's caller.

use std::time::Duration;

use fred::clients::Pool;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike as _;
use fred::types::config::{Config, ReconnectError, ReconnectPolicy, UnresponsiveConfig};
use fred::types::{Builder, InfoKind, RespVersion};
use usher_kernel::StoreError;

/// Redis runs one script at a time. The connections spread what is read and written over the cores, and keep a few small
/// calls from waiting behind the bytes of a large one.
const CONNECTIONS: usize = 4;
/// A script takes milliseconds. Who waits for longer is better told so than kept; fred's default is for ever.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// To connect, or to log in. Short, because Sentinel may have named a server that is not there any more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that owes an answer for this long is dead, whatever TCP says: connect again. Longer than the command
/// timeout, so that one slow script does not cost the others their connection.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(5);
const UNRESPONSIVE_CHECK: Duration = Duration::from_secs(1);
/// Callers batch what comes at once, so that more than this in one connection's buffer is a Redis that cannot keep up:
/// refuse at once. fred's default is no bound.
const COMMANDS_BUFFERED_MAX: usize = 4_096;
/// A server that comes back is found within this; jitter keeps all servers from coming at the same moment.
const RECONNECT_DELAY_MAX_MS: u32 = 2_000;
const RECONNECT_DELAY_MIN_MS: u32 = 100;
const RECONNECT_JITTER_MS: u32 = 100;
/// What a server says that is not the one to write to any more, or not yet: the connection stands, and would stay where
/// it is. Behind Sentinel, in a cluster or behind a name, connecting again finds the right one.
const RECONNECT_ERRORS: [ReconnectError; 4] =
    [ReconnectError::ReadOnly, ReconnectError::Loading, ReconnectError::MasterDown, ReconnectError::ClusterDown];
/// The only one under which Redis refuses to write rather than throw a line away.
const POLICY_WITHOUT_EVICTION: &str = "noeviction";

/// Why the line's store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is none that fred knows, or nobody answers there.
    #[error("cannot connect to Redis")]
    Redis(#[from] Error),
    /// Redis would throw lines away when its memory is full.
    #[error("redis must run with maxmemory-policy {POLICY_WITHOUT_EVICTION}, or it may evict the line: it is {policy}")]
    Evicts {
        /// The policy that it runs with.
        policy: String,
    },
}

/// Connects, and checks that Redis keeps what it is given.
///
/// The URL's scheme is `redis`, `rediss` (TLS), either with `-cluster` or `-sentinel` behind it.
pub(crate) async fn connect(url: &str) -> Result<Pool, ConnectError> {
    let mut config = Config::from_url(url)?;
    // A wrong URL or password is told at once; later losses are for the reconnect policy.
    config.fail_fast = true;
    // Scripts answer with arrays, numbers, strings and nil: RESP3 has nothing to add.
    config.version = RespVersion::RESP2;
    let pool = Builder::from_config(config)
        .with_performance_config(|performance| performance.default_command_timeout = COMMAND_TIMEOUT)
        .with_connection_config(|connection| {
            // fred's default sends a command up to three times when connections break: what was sent may have run.
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = COMMANDS_BUFFERED_MAX;
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE_AFTER), interval: UNRESPONSIVE_CHECK };
            // Small commands must not wait for one another.
            connection.tcp.nodelay = Some(true);
            // A password that is changed while servers run is a loss of the connection, not the end of the client.
            connection.reconnect_on_auth_error = true;
            connection.reconnect_errors = RECONNECT_ERRORS.to_vec();
        })
        // 0 attempts: never give up.
        .set_policy(reconnect_policy())
        .build_pool(CONNECTIONS)?;
    pool.init().await?;
    let memory: String = pool.info(Some(InfoKind::Memory)).await?;
    match memory.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim) {
        Some(POLICY_WITHOUT_EVICTION) => {}
        Some(policy) => return Err(ConnectError::Evicts { policy: policy.to_owned() }),
        None => tracing::warn!("redis does not say whether it evicts; it must run with maxmemory-policy noeviction"),
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

/// What the caller of `operation` is told. A refusal had no effect; where the answer is missing, nobody knows.
pub(crate) fn convert(operation: &'static str, error: Error) -> StoreError {
    // An `ERR` comes from a script that asks for what cannot be, a `WRONGTYPE` from a key that is not what it should be.
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
    fn a_failure_says_whether_anything_may_have_happened() {
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
    fn a_script_that_is_not_there_is_told_apart() {
        assert!(is_unknown_script(&Error::new(ErrorKind::Unknown, "NOSCRIPT No matching script.")));
        assert!(!is_unknown_script(&Error::new(ErrorKind::Unknown, "ERR unknown command")));
    }
}
