//! Places in a line, and the grants that admit them.

use std::fmt;

use sha2::{Digest, Sha256};
use usher_kernel::{AccountId, PerformanceId, Timestamp};

/// A place's number in its line: unique, increasing, never reused. The first is 1.
///
/// Numbers stay below 2^53, so that a sorted set's score (a double) keeps them exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceNumber(u64);

impl PlaceNumber {
    /// The number before the first: no place has it.
    pub const ZERO: Self = Self(0);

    /// The place number `n`.
    #[must_use]
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for PlaceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the lives of a line in the store. Each loss of the store begins a new epoch; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Before the first epoch: no line is open in it.
    pub const ZERO: Self = Self(0);

    /// The epoch number `n`.
    #[must_use]
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A pseudonym of an account: 16 bytes, from which the account's id cannot be found.
///
/// It is the truncated SHA-256 of the account's id, without a key, so that it does not change with the keys. Ids hold
/// 74 random bits (UUIDv7), too many to try them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountHash([u8; 16]);

impl AccountHash {
    /// The hash of an account.
    #[must_use]
    pub fn of(account: AccountId) -> Self {
        let digest = Sha256::new().chain_update(b"usher account v1").chain_update(account.as_bytes()).finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self(hash)
    }

    /// The hash with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for AccountHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The place of one account in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The performance that the line is for.
    pub performance: PerformanceId,
    /// The place's number.
    pub number: PlaceNumber,
    /// The account that the place belongs to.
    pub account: AccountHash,
}

/// The admission of a place. It holds all that a pass says, so every server signs the same pass from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The place that was admitted.
    pub number: PlaceNumber,
    /// The account that the place belongs to.
    pub account: AccountHash,
    /// The pass is good while `now < expires_at`.
    pub expires_at: Timestamp,
}

impl Grant {
    /// Whether the pass is still valid.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}
