//! Proves from a recorded history that a line kept its word: in order, within capacity and rate, everybody once, nobody
//! lost. Pure: it reads what the store answered the servers and what the servers answered people, and says every
//! contradiction between them.
//!
//! Calls overlap, servers die between doing and telling, and clocks tell milliseconds. So nothing is taken for sure but
//! what every order of the calls that fits their beginnings and ends has in common: what is found is wrong, whatever was
//! on the way. All times are of one machine's clock.

#[cfg(test)]
mod example;
mod history;
mod order;
mod passes;

use std::collections::HashMap;

use usher_kernel::Timestamp;

pub use self::history::{Answer, History, Loss, Person, Recorded, ServerLife, Terms, Told};
use self::passes::Pass;

/// What an audit looked at, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many people were checked.
    pub n_people: usize,
    /// How many answers to them.
    pub n_told: usize,
    /// How many passes were granted.
    pub n_grants: usize,
    /// How many of them a second time: the known exception after a loss, see [`check`].
    pub n_granted_again: usize,
    /// How many people were told that their pass ran out whose grant was not recorded, because a server was killed or
    /// the store did not answer.
    pub n_unrecorded: usize,
    /// In how many epochs the line was open.
    pub n_epochs: usize,
    /// Every contradiction, in words.
    pub contradictions: Vec<String>,
}

/// Checks a history of one line. Takes O(n log n) of all that was recorded and told.
///
/// - **Capacity**: at no instant are more passes live than `capacity`. A pass is live from its grant until it runs out,
///   or until its owner *sent* word that they leave.
/// - **Rate**: in no span of time more are admitted than rate x span + 1 + rate x tick (docs/adr/0008). Each epoch
///   begins with a full bucket.
/// - **Nobody twice**: one grant for each number, and one live pass for each account.
/// - **Numbers**: one account for each number; and who was answered before somebody else came has the lower one.
/// - **Order**: nobody is admitted before someone with a lower number who waited and was present meanwhile: whose place
///   the store had confirmed before the admission began and confirmed or admitted after it ended, and who was seen
///   within the presence window all along. After a loss, also nobody before someone who was told to ask again later
///   than that, and has not been asked for more.
/// - **Positions**: the position of a place never rises on one server.
/// - **Nobody lost**: who kept asking was admitted, or waits, or gave up. Nobody is told that a pass ran out that was
///   not granted, nor that they left who did not.
///
/// The known exception after a loss: a grant that was not saved to the ledger before the store was lost is forgotten
/// (docs/adr/0004). Its place waits again, and is granted again under a later expiry. That is legal only for grants of
/// the last moments before a loss: those of `saved_within` before it, and those of a server that was killed within
/// `saved_within` after it granted them. A forgotten pass takes no room from the loss on. Findings count them.
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
    /// In the order of numbers, then of grants.
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
