//! Audits the recorded history of a line: order, capacity, rate, each person admitted once, and no one lost. Pure. It
//! compares the store's answers to the servers with the servers' answers to people, and reports each contradiction.
//!
//! Calls overlap, servers die between an effect and its answer, and clocks have a resolution of a millisecond. The
//! audit therefore takes only those facts for certain that hold in every order of the calls that fits their start and
//! end times. So each finding is a fault, whatever messages were on the way. All times are of one machine's clock.

#[cfg(test)]
mod example;
mod history;
mod order;
mod passes;

use std::collections::HashMap;

use usher_kernel::Timestamp;

pub use self::history::{Answer, History, Loss, Person, Recorded, ServerLife, Terms, Told};
use self::passes::Pass;

/// The result of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many people were checked.
    pub n_people: usize,
    /// How many answers these people got.
    pub n_told: usize,
    /// How many passes were granted.
    pub n_grants: usize,
    /// How many of the passes were granted a second time: the known exception after a loss, see [`check`].
    pub n_granted_again: usize,
    /// How many people were told that their pass expired although no grant of it was recorded, because a server was
    /// killed or the store did not answer.
    pub n_unrecorded: usize,
    /// In how many epochs the line was open.
    pub n_epochs: usize,
    /// Every contradiction, in words.
    pub contradictions: Vec<String>,
}

/// Checks a history of one line. Takes O(n log n) in the number of records and answers.
///
/// - **Capacity**: at most `capacity` passes are valid at any instant. A pass is valid from its grant until it expires,
///   or until its owner *sent* the request to leave.
/// - **Rate**: any span of time admits at most rate x span + 1 + rate x tick people (docs/adr/0008). Each epoch begins
///   with a full bucket.
/// - **Once**: each number has one grant, and each account has one valid pass.
/// - **Numbers**: each number has one account. A person who got a number before another person came has the lower one.
/// - **Order**: no admission overtakes a lower number that waited and was present meanwhile. That is certain if the
///   store confirmed the place before the admission began, confirmed or admitted it after the admission ended, and if
///   the place was seen within the presence window all along. After a loss, no admission overtakes a place whose owner
///   was told to poll later than that, and has not polled yet.
/// - **Positions**: the position of a place never rises on one server.
/// - **No one lost**: a person who kept polling was admitted, or waits, or left. No one is told that a pass expired
///   which was not granted, or that they left when they did not.
///
/// Known exception: a loss of the store forgets grants that were not saved to the ledger before (docs/adr/0004). The
/// place waits again, and is granted again with a later expiry. This is legal only for grants of the last moments
/// before a loss: those made within `saved_within` before it, and those of a server that was killed within
/// `saved_within` after it made them. A forgotten pass takes no room from the loss on. Findings count these passes.
#[must_use]
pub fn check(history: &History, terms: &Terms) -> Findings {
    let mut audit = Audit::new(history, *terms);
    audit.capacity();
    audit.rate();
    audit.nobody_twice();
    audit.numbers();
    audit.positions();
    audit.nobody_lost();
    audit.order();
    audit.findings
}

struct Audit<'a> {
    history: &'a History,
    terms: Terms,
    /// Ordered by number, then by expiry.
    passes: Vec<Pass>,
    killed: HashMap<ServerLife, Timestamp>,
    findings: Findings,
}

impl<'a> Audit<'a> {
    fn new(history: &'a History, terms: Terms) -> Self {
        let findings = Findings {
            n_people: history.people.len(),
            n_told: history.people.iter().map(|person| person.told.len()).sum(),
            ..Findings::default()
        };
        let killed = history.killed.iter().copied().collect();
        let mut audit = Self { history, terms, passes: Vec::new(), killed, findings };
        audit.passes = audit.gather_passes();
        audit.findings.n_grants = audit.passes.len();
        audit
    }

    fn contradict(&mut self, what: String) {
        self.findings.contradictions.push(what);
    }
}

#[cfg(test)]
mod tests {
    use super::example::accepts;
    use super::*;

    #[test]
    fn a_history_without_contradictions_passes_and_is_counted() {
        let findings = accepts(|_| {});

        let expected = Findings { n_people: 5, n_told: 26, n_grants: 5, n_epochs: 2, ..Findings::default() };
        assert_eq!(findings, expected);
    }
}
