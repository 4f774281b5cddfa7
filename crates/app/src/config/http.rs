//! The section `http`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::error::ConfigError;

/// The most threads that the framework (actix-server) starts for one listener.
const WORKERS_MAX: usize = 512;

/// The HTTP server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where to listen.
    pub bind: SocketAddr,
    /// A second address with the same routes and threads of its own, for holds and confirms. `None`: there is none.
    #[serde(deserialize_with = "address_or_nothing")]
    pub purchase_bind: Option<SocketAddr>,
    /// Whether the server has the page that shows the API document.
    pub swagger_ui: bool,
    /// Threads that answer requests; 0 is one per core.
    pub workers: usize,
    /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted.
    pub trusted_proxies: Networks,
    /// Connections at once.
    pub max_connections: usize,
    /// Requests being answered at once.
    pub max_in_flight: usize,
    /// Streams open at once.
    pub streams_max: usize,
    /// Requests a second from one client address; 0 is no limit.
    pub requests_per_address_per_s: u32,
    /// How long a request's head may take to arrive.
    pub head_timeout_ms: u64,
    /// How long a request's body may take to arrive.
    pub body_timeout_ms: u64,
    /// How long a client may accept no data, or be unreachable, before its connection is closed.
    pub send_timeout_ms: u32,
    /// How long requests may take to end after SIGTERM.
    pub shutdown_timeout_s: u64,
    /// How long the server accepts requests after SIGTERM, while it reports that it is not ready.
    pub drain_s: u64,
}

impl Http {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let require = ConfigError::require;
        require(self.workers <= WORKERS_MAX, "http.workers", &format!("must be at most {WORKERS_MAX}"))?;
        require(self.max_in_flight > 0, "http.max_in_flight", "must be at least 1")?;
        require(self.max_connections > 0, "http.max_connections", "must be at least 1")?;
        let rule = "must be below http.max_connections: other requests need connections too";
        require(self.streams_max < self.max_connections, "http.streams_max", rule)?;
        require(self.head_timeout_ms > 0, "http.head_timeout_ms", "must be at least 1")?;
        require(self.body_timeout_ms > 0, "http.body_timeout_ms", "must be at least 1")?;
        require(self.send_timeout_ms > 0, "http.send_timeout_ms", "must be at least 1")?;
        require(self.drain_s <= 3_600, "http.drain_s", "must be at most 3600")
    }
}

/// Networks, written as a list or, for the environment, as a text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<IpNet>);

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrText;

        impl<'de> Visitor<'de> for ListOrText {
            type Value = Networks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("addresses or networks")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Networks, E> {
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(network)
                    .collect::<Result<_, _>>()
                    .map(Networks)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Networks, A::Error> {
                let mut networks = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    networks.push(network(&text)?);
                }
                Ok(Networks(networks))
            }
        }

        fn network<E: de::Error>(text: &str) -> Result<IpNet, E> {
            let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            parsed.ok_or_else(|| E::custom(format!("{text:?} is neither an address nor a network")))
        }

        deserializer.deserialize_any(ListOrText)
    }
}

fn address_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(de::Error::custom) }
}
