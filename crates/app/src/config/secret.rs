//! Secrets, which are never printed, and the secret that a server makes for itself.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::{fmt, fs};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng as _;
use serde::Deserialize;

use super::error::ConfigError;

pub(super) const SECRET_LEN_MIN: usize = 32;

/// A secret. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Makes a secret of 256 random bits.
    pub(super) fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; SECRET_LEN_MIN]>()))
    }

    /// The secret's bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The secret as text, for a driver that needs a URL.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether no secret is configured.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn require_length(&self, key: &str) -> Result<(), ConfigError> {
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

/// Reads the secret at `path`, or makes one there that only the file's owner can read. If two processes start at once,
/// one makes the secret and both read it.
pub(super) fn kept_secret(path: &Path) -> io::Result<Secret> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        kept => return kept.map(|text| Secret(text.trim_end().to_owned())),
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(Secret::random().expose())?;
    file.sync_all()?;
    // A hard link appears with its whole content, and fails if the name exists.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::read_to_string(path).map(Secret),
    }
}
