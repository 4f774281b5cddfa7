//! The section `metrics`.

use std::net::SocketAddr;

use serde::Deserialize;
use serde::de::{self, Deserializer};

/// The metrics' own listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where /metrics is served; `None`: on `http.bind`.
    #[serde(deserialize_with = "address_or_nothing")]
    pub bind: Option<SocketAddr>,
}

fn address_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(de::Error::custom) }
}
