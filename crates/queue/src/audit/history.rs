//! What happened to one line, as its servers and the people in it recorded it.

use std::time::Duration;

use usher_kernel::Timestamp;

use crate::{AccountHash, Epoch, Grant, PlaceNumber, PlaceState};

/// One life of one server process: another one after each restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerLife(pub u32);

/// What the line promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The most people inside at any instant.
    pub capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    pub rate_per_s: u32,
    /// How often the scheduler runs.
    pub tick: Duration,
    /// How long a pass is good.
    pub pass_ttl: Duration,
    /// Who was not seen for this long is away.
    pub presence_window: Duration,
    /// How long a server that lives may take to save a grant to the ledger.
    pub saved_within: Duration,
}

/// What a store told a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The line is open in the epoch.
    Opened,
    /// The account waits at this number: it joined, came back, or was there all along.
    Waits {
        /// Where.
        number: PlaceNumber,
        /// Who.
        account: AccountHash,
    },
    /// This call admitted someone.
    Admitted(Grant),
    /// Someone was inside already.
    Inside(Grant),
    /// The place waits no more and is not inside: it left, its pass was used up or ran out.
    Over {
        /// Where.
        number: PlaceNumber,
        /// Who.
        account: AccountHash,
    },
    /// This call took a place out of the line, or ended its pass.
    Left(PlaceNumber),
    /// This call told the store whom the server saw since its call before.
    Merged,
    /// Nobody knows what this call did: a join or an admission that the store did not answer.
    Unanswered,
}

/// One answer of a store, as the server that asked recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Who asked.
    pub by: ServerLife,
    /// The epoch in which the store answered.
    pub epoch: Epoch,
    /// The time that the call gave the store.
    pub now: Timestamp,
    /// When the call began.
    pub began: Timestamp,
    /// When its answer was there.
    pub ended: Timestamp,
    /// The answer.
    pub answer: Answer,
}

/// What a server answered someone about their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// By which server. `None` where it died and came back meanwhile, so that nobody knows.
    pub by: Option<ServerLife>,
    /// When the question was sent.
    pub sent: Timestamp,
    /// When the answer was there.
    pub answered: Timestamp,
    /// The place's number.
    pub number: PlaceNumber,
    /// Where it stands.
    pub state: PlaceState,
    /// 1 is next; 0 for those who do not wait.
    pub position: u64,
    /// When to ask again.
    pub poll_after: Duration,
    /// When the pass runs out, of someone inside.
    pub pass_until: Option<Timestamp>,
}

/// One person, with an account that nobody else uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Who.
    pub account: AccountHash,
    /// When they first asked for a place, whether or not that was answered.
    pub came: Timestamp,
    /// What they were answered, in order: the first is their place.
    pub told: Vec<Told>,
    /// When they first sent word that they leave, whether or not that was answered.
    pub left: Option<Timestamp>,
    /// Whether they went on asking until they were told the end of it, or the recording ended.
    pub kept_asking: bool,
}

/// A destruction of the store by the experiment: it began and ended at these times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Until then the store held the line.
    pub began: Timestamp,
    /// From then on it did not.
    pub ended: Timestamp,
}

/// Everything that happened to one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What the store answered, in any order.
    pub recorded: Vec<Recorded>,
    /// Who came, and what they were told.
    pub people: Vec<Person>,
    /// Which servers were killed, and when.
    pub killed: Vec<(ServerLife, Timestamp)>,
    /// When the store was destroyed, in order.
    pub losses: Vec<Loss>,
}
