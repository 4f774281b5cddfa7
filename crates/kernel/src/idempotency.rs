//! Making a call safe to repeat: the caller's key, and the fingerprint of what it was used for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{AccountId, Timestamp};

/// The caller's `Idempotency-Key`: 1 to 255 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// A text that cannot be an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to 255 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const LEN_MAX: usize = 255;

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        if (1..=Self::LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidIdempotencyKey)
        }
    }
}

// The key is the caller's secret handle on an answer, so it stays out of logs.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(..)")
    }
}

/// SHA-256 of method, path and raw body: what a key was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// A caller's claim that a request is the only one, or a repetition, under its key.
///
/// A store keeps it in the transaction of the effect, and only with an outcome worth repeating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Keys of different accounts never meet.
    pub account: AccountId,
    /// The caller's key.
    pub key: IdempotencyKey,
    /// What the key is used for.
    pub fingerprint: Fingerprint,
}

impl Claim {
    /// How long an outcome can be repeated.
    pub const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

    /// Whether a claim stored at `stored_at` has run out.
    #[must_use]
    pub fn is_over(stored_at: Timestamp, now: Timestamp) -> bool {
        now >= stored_at.plus(Self::KEPT_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_visible_ascii_within_bounds() {
        assert!("a".repeat(255).parse::<IdempotencyKey>().is_ok());
        for text in ["", "a b", "ä", "a\n", &"a".repeat(256)] {
            assert_eq!(text.parse::<IdempotencyKey>(), Err(InvalidIdempotencyKey), "{text}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let key: IdempotencyKey = "secret".parse().unwrap();

        assert_eq!(format!("{key:?}"), "IdempotencyKey(..)");
    }
}
