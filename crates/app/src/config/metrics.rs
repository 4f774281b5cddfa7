//! The section `metrics`.

use std::net::SocketAddr;

use serde::Deserialize;

/// The listener of metrics and health.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// The address of /metrics, /healthz and /readyz. If its port is taken, the server takes the next free one.
    pub bind: SocketAddr,
}
