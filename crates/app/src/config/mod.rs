//! Configuration: the embedded defaults, then a file, then the environment. The only module that reads the environment.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use config::{Config, Environment, File, FileFormat};
use ipnet::IpNet;
use rand::Rng as _;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use usher_concert::{NewPerformance, SaleDefaults};
use usher_queue::{AdmissionPolicy, LineState};

const DEFAULTS: &str = include_str!("../default.toml");
/// How long a server may take to put a line into a shared store once the ledger told it to: one command, which is given
/// up after two seconds, but takes milliseconds. Who is slower than this costs the line a gap in its numbers.
const OPENING_GRACE: Duration = Duration::from_secs(1);
const SECRET_LEN_MIN: usize = 32;
const SECRET_FILE: &str = "usher.secret";

/// Why the configuration is refused, in one line.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// Says that the value of `key` is refused because of `reason`.
    pub fn invalid(key: &str, reason: impl fmt::Display) -> Self {
        Self(format!("{key}: {reason}"))
    }
}

impl From<config::ConfigError> for ConfigError {
    fn from(error: config::ConfigError) -> Self {
        Self(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// A secret. Printed nowhere.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret's bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The secret as text, for a driver that wants a URL.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn require_length(&self, key: &str) -> Result<(), ConfigError> {
        if self.0.len() < SECRET_LEN_MIN {
            return Err(ConfigError::invalid(key, format!("must be at least {SECRET_LEN_MIN} bytes")));
        }
        Ok(())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(..)")
    }
}

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP server.
    pub http: Http,
    /// The metrics' own listener.
    pub metrics: Metrics,
    /// Files.
    pub data: Data,
    /// The lines.
    pub line: Line,
    /// The database.
    pub store: Store,
    /// Reservations.
    pub reservation: Reservation,
    /// Identities.
    pub auth: Auth,
    /// The log.
    pub log: Log,
}

/// The HTTP server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where to listen.
    pub bind: SocketAddr,
    /// Threads that answer requests; 0 is one per core.
    pub workers: usize,
    /// Proxies that are believed.
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
    /// How long a client may take nothing of what it is sent.
    pub send_timeout_ms: u32,
    /// How long requests may take to end after SIGTERM.
    pub shutdown_timeout_s: u64,
}

/// The metrics' own listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where /metrics is served; `None`: with everything else.
    #[serde(deserialize_with = "address_or_nothing")]
    pub bind: Option<SocketAddr>,
}

/// Files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Where they are kept.
    pub dir: PathBuf,
}

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
    /// Where to record what the line's store answers, as configured; see [`Settings::history`].
    pub history: PathBuf,
}

/// The database.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Where it is, as configured; see [`Settings::database`].
    pub url: Secret,
    /// Connections to it.
    pub max_connections: u32,
    /// How long a call waits for one of them, in ms.
    pub acquire_timeout_ms: u64,
    /// Whether holds that arrive together commit together.
    pub group_commit: bool,
}

/// Reservations.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// How long a hold lasts.
    pub hold_ttl_s: u64,
    /// Seats per account.
    pub seats_per_buyer: u32,
}

/// Identities.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// What tokens are signed with, as configured; see [`Settings::secret`].
    pub secret: Secret,
    /// The secret before it.
    pub secret_previous: Secret,
    /// How long an access token is good.
    pub token_ttl_s: u64,
    /// Passwords hashed at once.
    pub hash_threads: usize,
    /// Passwords that may wait to be hashed.
    pub hash_queue: usize,
}

/// The log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// For whom.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// For whom the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// Some networks. Written as a list, or, for the environment, with commas.
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
            parsed.ok_or_else(|| E::custom(format!("{text:?} is no address and no network")))
        }

        deserializer.deserialize_any(ListOrText)
    }
}

fn address_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(de::Error::custom) }
}

impl Settings {
    /// The configuration of this process.
    ///
    /// # Errors
    /// [`ConfigError`] for what cannot be read, is not known, or contradicts itself.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_from(file, environment())
    }

    fn load_from(file: Option<&Path>, environment: Environment) -> Result<Self, ConfigError> {
        let mut layers = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(path) = file {
            layers = layers.add_source(File::from(path).format(FileFormat::Toml));
        }
        let settings: Self = layers.add_source(environment).build()?.try_deserialize()?;
        settings.validate()?;
        Ok(settings)
    }

    /// Checks the rules between the values.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first value that breaks one.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let require = |fine: bool, key: &str, rule: &str| {
            if fine { Ok(()) } else { Err(ConfigError::invalid(key, rule)) }
        };
        require(self.http.max_in_flight > 0, "http.max_in_flight", "must be at least 1")?;
        require(self.http.max_connections > 0, "http.max_connections", "must be at least 1")?;
        let rule = "must be below http.max_connections: what is no stream needs connections too";
        require(self.http.streams_max < self.http.max_connections, "http.streams_max", rule)?;
        require(self.http.head_timeout_ms > 0, "http.head_timeout_ms", "must be at least 1")?;
        require(self.http.body_timeout_ms > 0, "http.body_timeout_ms", "must be at least 1")?;
        require(self.http.send_timeout_ms > 0, "http.send_timeout_ms", "must be at least 1")?;
        let has_redis_url = !self.line.redis_url.is_empty();
        match self.line.backend {
            LineBackend::Memory => require(!has_redis_url, "line.redis_url", "is set, but line.backend is `memory`")?,
            LineBackend::Redis => require(has_redis_url, "line.redis_url", "must be set: line.backend is `redis`")?,
        }
        require((10..=10_000).contains(&self.line.tick_ms), "line.tick_ms", "must be 10 to 10000")?;
        if let Err(violations) = self.admission_policy().validate()
            && let Some(first) = violations.first()
        {
            return Err(ConfigError::invalid(&format!("line.{}", first.field), &first.message));
        }
        let url = self.store.url.0.as_str();
        let is_known = url.starts_with("sqlite:") || url.starts_with("mysql://");
        require(is_known, "store.url", "must begin with sqlite:// or mysql://")?;
        require(self.store.max_connections > 0, "store.max_connections", "must be at least 1")?;
        let wait_is_fine = (100..=60_000).contains(&self.store.acquire_timeout_ms);
        require(wait_is_fine, "store.acquire_timeout_ms", "must be 100 to 60000")?;
        let ttl_is_fine = NewPerformance::HOLD_TTL_S.contains(&self.reservation.hold_ttl_s);
        require(ttl_is_fine, "reservation.hold_ttl_s", "must be 1 to 3600")?;
        let limit_is_fine = NewPerformance::SEATS_PER_BUYER.contains(&self.reservation.seats_per_buyer);
        require(limit_is_fine, "reservation.seats_per_buyer", "must be 1 to 100")?;
        require(self.auth.token_ttl_s > 0, "auth.token_ttl_s", "must be at least 1")?;
        require(self.auth.hash_threads <= 1_024, "auth.hash_threads", "must be at most 1024")?;
        require(self.auth.hash_queue <= 1_000_000, "auth.hash_queue", "must be at most 1000000")?;
        if self.auth.secret.is_empty() {
            let rule = "must be set (at least 32 bytes): only an in-process line with SQLite makes its own";
            require(self.is_embedded(), "auth.secret", rule)?;
        } else {
            self.auth.secret.require_length("auth.secret")?;
        }
        if !self.auth.secret_previous.is_empty() {
            self.auth.secret_previous.require_length("auth.secret_previous")?;
        }
        Ok(())
    }

    /// Whether nothing is shared with another server.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.line.backend == LineBackend::Memory && self.store.url.0.starts_with("sqlite:")
    }

    /// How lines admit where no operator said otherwise.
    #[must_use]
    pub const fn admission_policy(&self) -> AdmissionPolicy {
        AdmissionPolicy {
            capacity: self.line.capacity,
            rate_per_s: self.line.rate_per_s,
            pass_ttl: Duration::from_secs(self.line.pass_ttl_s),
            presence_window: Duration::from_secs(self.line.presence_window_s),
            state: LineState::Open,
        }
    }

    /// What performances get where their operator says nothing.
    #[must_use]
    pub const fn sale_defaults(&self) -> SaleDefaults {
        SaleDefaults {
            seat_limit_per_buyer: self.reservation.seats_per_buyer,
            hold_ttl: Duration::from_secs(self.reservation.hold_ttl_s),
        }
    }

    /// The database, and how much of it to use.
    #[must_use]
    pub fn database(&self) -> usher_adapter_sql::Settings {
        usher_adapter_sql::Settings {
            url: self.store_url(),
            max_connections: self.store.max_connections,
            acquire_timeout: Duration::from_millis(self.store.acquire_timeout_ms),
        }
    }

    /// What the line's service is set to.
    #[must_use]
    pub const fn line_service(&self) -> usher_queue::Settings {
        usher_queue::Settings {
            default_policy: self.admission_policy(),
            lobby: Duration::from_secs(self.line.lobby_s),
            tick: Duration::from_millis(self.line.tick_ms),
            opening_grace: match self.line.backend {
                LineBackend::Memory => Duration::ZERO,
                LineBackend::Redis => OPENING_GRACE,
            },
        }
    }

    /// Where to record what the line's store answers, if anywhere.
    #[must_use]
    pub fn history(&self) -> Option<PathBuf> {
        let path = &self.line.history;
        (!path.as_os_str().is_empty()).then(|| self.data.dir.join(path))
    }

    /// How long an access token is good.
    #[must_use]
    pub const fn token_ttl(&self) -> Duration {
        Duration::from_secs(self.auth.token_ttl_s)
    }

    /// The database's address, with a relative SQLite path taken from the data folder.
    #[must_use]
    pub fn store_url(&self) -> String {
        let url = self.store.url.0.as_str();
        match url.strip_prefix("sqlite://") {
            Some(path) if !path.starts_with('/') && !path.starts_with(':') => {
                format!("sqlite://{}", self.data.dir.join(path).display())
            }
            _ => url.to_owned(),
        }
    }

    /// The secret that tokens are signed with: the configured one, or the one kept in the data folder, which is made
    /// there the first time.
    ///
    /// # Errors
    /// [`ConfigError`] if the folder cannot be read or written.
    pub fn secret(&self) -> Result<Secret, ConfigError> {
        if !self.auth.secret.is_empty() {
            return Ok(self.auth.secret.clone());
        }
        let path = self.data.dir.join(SECRET_FILE);
        let secret = kept_secret(&path).map_err(|error| {
            ConfigError::invalid("auth.secret", format!("not set, and {}: {error}", path.display()))
        })?;
        secret.require_length(&path.display().to_string())?;
        Ok(secret)
    }

    /// The secret before, if there was one.
    #[must_use]
    pub fn secret_previous(&self) -> Option<&Secret> {
        Some(&self.auth.secret_previous).filter(|secret| !secret.is_empty())
    }
}

fn environment() -> Environment {
    Environment::with_prefix("USHER").prefix_separator("__").separator("__")
}

/// Reads the secret kept at `path`, or makes one there that only its owner can read. Of two processes that start at
/// once, one makes it, and both read it.
fn kept_secret(path: &Path) -> io::Result<Secret> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        kept => return kept.map(|text| Secret(text.trim_end().to_owned())),
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let secret = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; SECRET_LEN_MIN]>());
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    // A link is made whole, or not at all where the name is taken.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::read_to_string(path).map(Secret),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn load(file: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usher.toml");
        fs::write(&path, file).unwrap();
        let variables = variables.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        Settings::load_from(Some(&path), environment().source(Some(variables)))
    }

    fn refusal(file: &str, variables: &[(&str, &str)]) -> String {
        load(file, variables).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        let settings = load("", &[]).unwrap();

        assert_eq!(settings.http.bind, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(settings.metrics.bind, None);
        assert_eq!(settings.store_url(), "sqlite://./usher.db");
        assert!(settings.is_embedded());
    }

    #[test]
    fn the_environment_beats_the_file_and_the_file_beats_the_defaults() {
        let file = "[http]\nbind = \"0.0.0.0:1\"\n[line]\ncapacity = 5\n";

        let settings = load(file, &[("USHER__HTTP__BIND", "0.0.0.0:2"), ("USHER__LINE__RATE_PER_S", "7")]).unwrap();

        assert_eq!(settings.http.bind, "0.0.0.0:2".parse().unwrap());
        assert_eq!((settings.line.capacity, settings.line.rate_per_s, settings.line.tick_ms), (5, 7, 250));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for (file, variables) in [("[http]\nbimd = \"x\"\n", &[][..]), ("", &[("USHER__HTTP__BIMD", "x")][..])] {
            let refusal = refusal(file, variables);

            assert!(refusal.contains("bimd") && !refusal.contains('\n'), "{refusal}");
        }
        assert!(refusal("[htp]\n", &[]).contains("htp"));
    }

    #[test]
    fn wrong_values_are_refused_under_their_key() {
        for (variable, value, key) in [
            ("USHER__HTTP__BIND", "nowhere", "http.bind"),
            ("USHER__HTTP__MAX_IN_FLIGHT", "0", "http.max_in_flight"),
            ("USHER__HTTP__STREAMS_MAX", "20000", "http.streams_max"),
            ("USHER__HTTP__SEND_TIMEOUT_MS", "0", "http.send_timeout_ms"),
            ("USHER__HTTP__TRUSTED_PROXIES", "10.0.0.0/8, nowhere", "http.trusted_proxies"),
            ("USHER__METRICS__BIND", "nowhere", "metrics.bind"),
            ("USHER__LINE__BACKEND", "redis", "line.redis_url"),
            ("USHER__LINE__BACKEND", "paper", "line.backend"),
            ("USHER__LINE__REDIS_URL", "redis://x", "line.redis_url"),
            ("USHER__LINE__PRESENCE_WINDOW_S", "5", "line.presence_window_s"),
            ("USHER__LINE__CAPACITY", "many", "line.capacity"),
            ("USHER__STORE__URL", "postgres://x", "store.url"),
            ("USHER__STORE__GROUP_COMMIT", "perhaps", "store.group_commit"),
            ("USHER__STORE__ACQUIRE_TIMEOUT_MS", "0", "store.acquire_timeout_ms"),
            ("USHER__RESERVATION__HOLD_TTL_S", "0", "reservation.hold_ttl_s"),
            ("USHER__AUTH__SECRET", "too short", "auth.secret"),
            ("USHER__AUTH__SECRET_PREVIOUS", "too short", "auth.secret_previous"),
            ("USHER__STORE__URL", "mysql://x", "auth.secret"),
            ("USHER__LOG__FORMAT", "xml", "log.format"),
        ] {
            let refusal = refusal("", &[(variable, value)]);

            assert!(refusal.contains(key) && !refusal.contains('\n'), "{variable}={value}: {refusal}");
        }
    }

    #[test]
    fn trusted_proxies_are_a_list_or_a_text_with_commas() {
        let expected = Networks(vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()]);

        let listed = load("[http]\ntrusted_proxies = [\"10.0.0.0/8\", \"127.0.0.1\"]\n", &[]).unwrap();
        let in_text = load("", &[("USHER__HTTP__TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1")]).unwrap();

        assert_eq!(listed.http.trusted_proxies, expected);
        assert_eq!(in_text.http.trusted_proxies, expected);
    }

    #[test]
    fn a_secret_of_digits_stays_what_it_is() {
        let secret = "01234567890123456789012345678901234567";

        let settings = load("", &[("USHER__AUTH__SECRET", secret)]).unwrap();

        assert_eq!(settings.secret().unwrap().expose(), secret.as_bytes());
    }

    #[test]
    fn the_made_secret_is_kept_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = load("", &[]).unwrap();
        settings.data.dir = folder.path().join("data");

        let first = settings.secret().unwrap();

        assert!(first.expose().len() >= SECRET_LEN_MIN);
        assert_eq!(settings.secret().unwrap(), first);
        let mode = fs::metadata(settings.data.dir.join(SECRET_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&settings.data.dir).unwrap().count(), 1);
    }

    #[test]
    fn secrets_and_database_passwords_are_not_printed() {
        let secret = "correct horse battery staple, and more";
        let variables = [("USHER__AUTH__SECRET", secret), ("USHER__STORE__URL", "mysql://u:hunter2@db/usher")];

        let printed = format!("{:?}", load("", &variables).unwrap());

        assert!(!printed.contains("horse") && !printed.contains("hunter2"), "{printed}");
    }
}
