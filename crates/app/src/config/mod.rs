//! Configuration: the embedded defaults, then a file, then the environment. The only module that reads the environment.

mod auth;
mod data;
mod error;
mod http;
mod line;
mod log;
mod metrics;
mod reservation;
mod secret;
mod store;

use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, Environment, File, FileFormat};
use serde::Deserialize;

pub use self::auth::Auth;
pub use self::data::Data;
pub use self::error::ConfigError;
pub use self::http::{Http, Networks};
pub use self::line::{Line, LineBackend};
pub use self::log::{Log, LogFormat};
pub use self::metrics::Metrics;
pub use self::reservation::Reservation;
pub use self::secret::Secret;
use self::secret::kept_secret;
pub use self::store::Store;

const DEFAULTS: &str = include_str!("../default.toml");
const SECRET_FILE: &str = "usher.secret";
/// The settings that a file may hold: `KEY_file` names it. Container engines hand secrets over as files.
const FROM_FILES: [&str; 4] = ["auth.secret", "auth.secret_previous", "line.redis_url", "store.url"];

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP server.
    pub http: Http,
    /// The metrics' own listener.
    pub metrics: Metrics,
    /// The server's files.
    pub data: Data,
    /// The lines.
    pub line: Line,
    /// The store of everything but the line.
    pub store: Store,
    /// Reservations.
    pub reservation: Reservation,
    /// Access tokens and password hashing.
    pub auth: Auth,
    /// The log.
    pub log: Log,
}

impl Settings {
    /// Loads the configuration of this process.
    ///
    /// # Errors
    /// [`ConfigError`] for an unreadable value, an unknown key or a contradiction.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_from(file, environment())
    }

    fn load_from(file: Option<&Path>, environment: Environment) -> Result<Self, ConfigError> {
        let mut named = Config::builder();
        if let Some(path) = file {
            named = named.add_source(File::from(path).format(FileFormat::Toml));
        }
        let named = named.add_source(environment).build()?;
        let mut layers = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        for key in FROM_FILES {
            if let Some(value) = value_in_file(&named, key)? {
                layers = layers.set_override(key, value)?;
            }
        }
        let settings: Self = layers.add_source(named).build()?.try_deserialize()?;
        settings.validate()?;
        Ok(settings)
    }

    /// Checks every section, and then the rules between sections.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first value that breaks a rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.http.validate()?;
        self.line.validate()?;
        self.store.validate()?;
        self.reservation.validate()?;
        self.auth.validate()?;
        let is_shared = self.line.backend == LineBackend::Redis;
        let rule = "is memory://, which one server keeps for itself, but line.backend is `redis`, which servers share: set \
                    store.url to a mysql:// database, or line.backend to `memory`";
        ConfigError::require(!(is_shared && self.store.is_memory()), "store.url", rule)?;
        let rule = "must be set (at least 32 bytes): only an in-process line with SQLite or memory:// makes its own";
        ConfigError::require(self.is_embedded() || !self.auth.secret.is_empty(), "auth.secret", rule)
    }

    /// Whether the server shares neither its line nor its store with another server.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        let is_own_store = self.store.is_memory() || self.store.is_sqlite();
        self.line.backend == LineBackend::Memory && is_own_store
    }

    /// The settings of the database.
    #[must_use]
    pub fn database(&self) -> usher_adapter_sql::Settings {
        usher_adapter_sql::Settings {
            url: self.store_url(),
            max_connections: self.store.max_connections,
            acquire_timeout: Duration::from_millis(self.store.acquire_timeout_ms),
        }
    }

    /// The file that records the answers of the line's store, if one is configured.
    #[must_use]
    pub fn history(&self) -> Option<PathBuf> {
        let path = &self.line.history;
        (!path.as_os_str().is_empty()).then(|| self.data.dir.join(path))
    }

    /// The SQLite file, if the store is one.
    #[must_use]
    pub fn sqlite_file(&self) -> Option<PathBuf> {
        let url = self.store_url();
        let path = url.strip_prefix("sqlite://")?;
        Some(path.split('?').next().unwrap_or(path).into())
    }

    /// The URL of the database. A relative SQLite path starts at the data folder.
    #[must_use]
    pub fn store_url(&self) -> String {
        let url = self.store.url.text();
        match url.strip_prefix("sqlite://") {
            Some(path) if !path.starts_with('/') && !path.starts_with(':') => {
                format!("sqlite://{}", self.data.dir.join(path).display())
            }
            _ => url.to_owned(),
        }
    }

    /// The secret that signs tokens: the configured one, or the one in the data folder, which the first call makes.
    /// With a store in memory, each call makes a new secret, because no token outlives the process.
    ///
    /// # Errors
    /// [`ConfigError`] if the folder cannot be read or written.
    pub fn secret(&self) -> Result<Secret, ConfigError> {
        if !self.auth.secret.is_empty() {
            return Ok(self.auth.secret.clone());
        }
        if self.store.is_memory() {
            return Ok(Secret::random());
        }
        let path = self.data.dir.join(SECRET_FILE);
        let secret = kept_secret(&path).map_err(|error| {
            ConfigError::invalid("auth.secret", format!("not set, and {}: {error}", path.display()))
        })?;
        secret.require_length(&path.display().to_string())?;
        Ok(secret)
    }

    /// The previous secret, if one is configured.
    #[must_use]
    pub fn secret_previous(&self) -> Option<&Secret> {
        Some(&self.auth.secret_previous).filter(|secret| !secret.is_empty())
    }
}

/// The value of a setting, if its file is named.
fn value_in_file(named: &Config, key: &str) -> Result<Option<String>, ConfigError> {
    let file_key = format!("{key}_file");
    let is_set = |key: &str| named.get_string(key).is_ok_and(|value| !value.is_empty());
    if !is_set(&file_key) {
        return Ok(None);
    }
    ConfigError::require(!is_set(key), &file_key, &format!("is set, and {key}, too: set one of them"))?;
    let path = named.get_string(&file_key)?;
    let text =
        std::fs::read_to_string(&path).map_err(|error| ConfigError::invalid(&file_key, format!("{path}: {error}")))?;
    let value = text.trim_end();
    ConfigError::require(!value.is_empty(), &file_key, &format!("{path} is empty"))?;
    Ok(Some(value.to_owned()))
}

fn environment() -> Environment {
    Environment::with_prefix("USHER").prefix_separator("__").separator("__")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::secret::SECRET_LEN_MIN;
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
        assert_eq!(settings.metrics.bind, "127.0.0.1:9464".parse().unwrap());
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
            ("USHER__HTTP__WORKERS", "513", "http.workers"),
            ("USHER__STORE__MAX_CONNECTIONS", "4294967295", "store.max_connections"),
            ("USHER__HTTP__SEND_TIMEOUT_MS", "0", "http.send_timeout_ms"),
            ("USHER__HTTP__TRUSTED_PROXIES", "10.0.0.0/8, nowhere", "http.trusted_proxies"),
            ("USHER__METRICS__BIND", "nowhere", "metrics.bind"),
            ("USHER__LINE__BACKEND", "redis", "line.redis_url"),
            ("USHER__LINE__BACKEND", "paper", "line.backend"),
            ("USHER__LINE__REDIS_URL", "redis://x", "line.redis_url"),
            ("USHER__LINE__PRESENCE_WINDOW_S", "5", "line.presence_window_s"),
            ("USHER__LINE__CAPACITY", "many", "line.capacity"),
            ("USHER__STORE__URL", "postgres://x", "store.url"),
            ("USHER__STORE__URL", "memory://x", "store.url"),
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
    fn secrets_and_urls_are_read_from_the_files_that_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let secret = "a secret that servers share, of 32 bytes and more";
        let in_file = file("secret", &format!("{secret}\n"));
        let url = file("url", "mysql://usher:hunter2@db/usher\n");
        let redis = file("redis", "redis://cache\n");

        let settings = load(
            &format!("[store]\nurl_file = \"{url}\"\n"),
            &[
                ("USHER__AUTH__SECRET_FILE", &in_file),
                ("USHER__AUTH__SECRET_PREVIOUS_FILE", &in_file),
                ("USHER__LINE__BACKEND", "redis"),
                ("USHER__LINE__REDIS_URL_FILE", &redis),
            ],
        )
        .unwrap();

        assert_eq!(settings.secret().unwrap().text(), secret);
        assert_eq!(settings.secret_previous().unwrap().text(), secret);
        assert_eq!(settings.store_url(), "mysql://usher:hunter2@db/usher");
        assert_eq!(settings.line.redis_url.text(), "redis://cache");

        let both = refusal("", &[("USHER__AUTH__SECRET_FILE", &in_file), ("USHER__AUTH__SECRET", secret)]);
        assert!(both.contains("auth.secret_file: is set, and auth.secret, too"), "{both}");
        let both = refusal("[store]\nurl = \"sqlite://x.db\"\n", &[("USHER__STORE__URL_FILE", &url)]);
        assert!(both.contains("store.url_file: is set, and store.url, too"), "{both}");
        let empty = refusal("", &[("USHER__STORE__URL_FILE", &file("empty", "\n"))]);
        assert!(empty.contains("store.url_file") && empty.contains("is empty"), "{empty}");
        let missing = refusal("", &[("USHER__STORE__URL_FILE", "/nowhere/url")]);
        assert!(missing.contains("store.url_file: /nowhere/url: ") && !missing.contains('\n'), "{missing}");
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
    fn a_store_in_memory_is_for_an_in_process_line() {
        let shared = [
            ("USHER__STORE__URL", "memory://"),
            ("USHER__LINE__BACKEND", "redis"),
            ("USHER__LINE__REDIS_URL", "redis://x"),
            ("USHER__AUTH__SECRET", "a secret that servers share, of 32 bytes and more"),
        ];

        let refusal = refusal("", &shared);

        assert!(refusal.contains("store.url: is memory://") && !refusal.contains('\n'), "{refusal}");
        assert!(refusal.contains("set store.url to a mysql:// database, or line.backend to `memory`"), "{refusal}");
        assert!(load("", &shared[..1]).unwrap().is_embedded());
    }

    #[test]
    fn a_store_in_memory_leaves_no_secret_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = load("", &[("USHER__STORE__URL", "memory://")]).unwrap();
        settings.data.dir = folder.path().to_owned();

        let (one, other) = (settings.secret().unwrap(), settings.secret().unwrap());

        assert!(one.expose().len() >= SECRET_LEN_MIN && one != other);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn secrets_and_database_passwords_are_not_printed() {
        let secret = "correct horse battery staple, and more";
        let variables = [("USHER__AUTH__SECRET", secret), ("USHER__STORE__URL", "mysql://u:hunter2@db/usher")];

        let printed = format!("{:?}", load("", &variables).unwrap());

        assert!(!printed.contains("horse") && !printed.contains("hunter2"), "{printed}");
    }
}
