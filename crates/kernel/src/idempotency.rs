//! Idempotency of calls: the client's key, the fingerprint of the request that it was used for, and the rule that
//! distinguishes a retry from another request.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{AccountId, Timestamp};

/// The client's `Idempotency-Key`: 1 to 255 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// The text is not a valid idempotency key.
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

// With the key, a client can get a stored answer again: it is a secret, and stays out of logs.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(..)")
    }
}

/// SHA-256 of method, path and raw body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// A key together with the request that it is used for. A retry makes the same claim; another request under the same
/// key makes a different one.
///
/// A store writes the claim in the same transaction as the effect, and only for outcomes that a retry must get again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The account that the key belongs to. Accounts do not share keys.
    pub account: AccountId,
    /// The client's key.
    pub key: IdempotencyKey,
    /// The request that the key is used for.
    pub fingerprint: Fingerprint,
}

impl Claim {
    /// How long a retry gets the same outcome.
    pub const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

    /// Whether a claim stored at `stored_at` has expired.
    #[must_use]
    pub fn is_over(stored_at: Timestamp, now: Timestamp) -> bool {
        now >= stored_at.plus(Self::KEPT_FOR)
    }

    /// Compares the claim of an operation with the claim that a store holds under the same key.
    pub fn compare<S>(&self, operation: Operation, stored: Option<StoredClaim<S>>, now: Timestamp) -> KeyUse<S> {
        let Some(stored) = stored else { return KeyUse::Unused };
        if Self::is_over(stored.stored_at, now) {
            KeyUse::Expired
        } else if stored.fingerprint == self.fingerprint && stored.operation == Some(operation) {
            KeyUse::SameRequest(stored.subject)
        } else {
            KeyUse::OtherRequest
        }
    }
}

/// The operation that a key was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creating a concert.
    AddConcert,
    /// Creating a performance.
    AddPerformance,
    /// Holding seats: the subject is the reservation.
    Hold,
    /// Paying: the subject is the attempt.
    Confirm,
}

impl Operation {
    const ALL: [Self; 4] = [Self::AddConcert, Self::AddPerformance, Self::Hold, Self::Confirm];

    /// The operation's name in stores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddConcert => "add-concert",
            Self::AddPerformance => "add-performance",
            Self::Hold => "hold",
            Self::Confirm => "confirm",
        }
    }

    /// The operation with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == name)
    }
}

/// A claim as a store holds it, without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredClaim<S> {
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// The operation; `None` if a later version of Usher wrote one that this version does not know.
    pub operation: Option<Operation>,
    /// The subject that the request created.
    pub subject: S,
    /// When the claim was stored.
    pub stored_at: Timestamp,
}

/// How the key of a claim was used before.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse<S> {
    /// Never.
    Unused,
    /// More than [`Claim::KEPT_FOR`] ago. The store still holds that claim, and has to drop it before it stores another.
    Expired,
    /// For the same request, which created this subject.
    SameRequest(S),
    /// For another request.
    OtherRequest,
}

impl<S> KeyUse<S> {
    /// The subject, if the same request created one.
    #[must_use]
    pub fn subject(self) -> Option<S> {
        match self {
            Self::SameRequest(subject) => Some(subject),
            Self::Unused | Self::Expired | Self::OtherRequest => None,
        }
    }

    /// The same use, of the subject's value instead of its id.
    ///
    /// # Errors
    /// The error of `find`.
    pub fn try_map<T, E>(self, find: impl FnOnce(S) -> Result<T, E>) -> Result<KeyUse<T>, E> {
        Ok(match self {
            Self::Unused => KeyUse::Unused,
            Self::Expired => KeyUse::Expired,
            Self::SameRequest(subject) => KeyUse::SameRequest(find(subject)?),
            Self::OtherRequest => KeyUse::OtherRequest,
        })
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
    fn a_repeated_request_is_told_from_another_one_for_a_day() {
        let claim = Claim {
            account: AccountId::from_bytes([1; 16]),
            key: "key".parse().unwrap(),
            fingerprint: Fingerprint([2; 32]),
        };
        let stored_at = Timestamp::from_unix_ms(1_000);
        let stored = |operation, fingerprint| {
            Some(StoredClaim { fingerprint: Fingerprint(fingerprint), operation, subject: 7, stored_at })
        };
        let last = stored_at.plus(Claim::KEPT_FOR).minus(Duration::from_millis(1));
        let over = stored_at.plus(Claim::KEPT_FOR);
        let hold = Some(Operation::Hold);

        for (stored, now, expected) in [
            (None, last, KeyUse::Unused),
            (stored(hold, [2; 32]), last, KeyUse::SameRequest(7)),
            (stored(hold, [2; 32]), over, KeyUse::Expired),
            (stored(hold, [3; 32]), last, KeyUse::OtherRequest),
            (stored(hold, [3; 32]), over, KeyUse::Expired),
            (stored(Some(Operation::Confirm), [2; 32]), last, KeyUse::OtherRequest),
            (stored(None, [2; 32]), last, KeyUse::OtherRequest),
        ] {
            assert_eq!(claim.compare(Operation::Hold, stored, now), expected, "{stored:?}");
        }
    }

    #[test]
    fn every_operation_is_read_back_by_its_name() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.as_str()), Some(operation));
        }
        assert_eq!(Operation::from_name("refund"), None);
    }

    #[test]
    fn a_key_is_not_printed() {
        let key: IdempotencyKey = "secret".parse().unwrap();

        assert_eq!(format!("{key:?}"), "IdempotencyKey(..)");
    }
}
