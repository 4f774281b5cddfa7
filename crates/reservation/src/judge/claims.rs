//! The claims of a batch: how their keys were used before, and which subjects the commands of the batch create under
//! them.

use std::collections::HashMap;

use usher_kernel::{AccountId, Claim, Fingerprint, KeyUse};

/// The keys of a batch. `S` is the id of a subject, `T` what a repetition is answered from.
#[derive(Debug)]
pub(super) struct Claims<'a, S, T> {
    known: HashMap<(AccountId, &'a str), Known<T>>,
    writes: ClaimWrites<'a, S>,
}

#[derive(Debug)]
enum Known<T> {
    ForRequest(Fingerprint, T),
    ForOtherRequest,
}

/// The claims that a batch leaves in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimWrites<'a, S> {
    /// The new claims, each with its subject and of a key of its own.
    pub new: Vec<(&'a Claim, S)>,
    /// Whether the store holds expired claims under keys of the batch. Drop them before the new claims are stored.
    pub any_expired: bool,
}

/// The key of a claim was used for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyMismatch;

impl<'a, S, T> Claims<'a, S, T> {
    /// The claims of a batch, each with the earlier use of its key.
    pub(super) fn new(uses: impl IntoIterator<Item = (&'a Claim, KeyUse<T>)>) -> Self {
        let (mut known, mut any_expired) = (HashMap::new(), false);
        for (claim, earlier) in uses {
            let key = (claim.account, claim.key.as_str());
            match earlier {
                KeyUse::Unused => {}
                KeyUse::Expired => any_expired = true,
                KeyUse::OtherRequest => {
                    known.entry(key).or_insert(Known::ForOtherRequest);
                }
                // Of two commands with one key, only the one with the stored fingerprint knows the subject.
                KeyUse::SameRequest(subject) => {
                    known.insert(key, Known::ForRequest(claim.fingerprint, subject));
                }
            }
        }
        Self { known, writes: ClaimWrites { new: Vec::new(), any_expired } }
    }

    /// What a repetition of the request is answered from. `None`: the key is unused.
    pub(super) fn get(&self, claim: &'a Claim) -> Option<Result<&T, KeyMismatch>> {
        match self.known.get(&(claim.account, claim.key.as_str()))? {
            Known::ForRequest(fingerprint, subject) if *fingerprint == claim.fingerprint => Some(Ok(subject)),
            Known::ForRequest(..) | Known::ForOtherRequest => Some(Err(KeyMismatch)),
        }
    }

    /// Uses the key of a claim: `subject` is stored, and later commands with the same request are answered from
    /// `known`.
    pub(super) fn use_for(&mut self, claim: &'a Claim, subject: S, known: T) {
        self.known.insert((claim.account, claim.key.as_str()), Known::ForRequest(claim.fingerprint, known));
        self.writes.new.push((claim, subject));
    }

    /// The claims to store.
    pub(super) fn into_writes(self) -> ClaimWrites<'a, S> {
        self.writes
    }
}
