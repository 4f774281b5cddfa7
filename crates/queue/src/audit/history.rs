//! The history of one line, as recorded by its servers and by the people in it.

use std::time::Duration;

use usher_kernel::Timestamp;

use crate::{AccountHash, Epoch, Grant, PlaceNumber, PlaceState};

/// One run of one server process. Each restart begins another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerLife(pub u32);

/// The terms that the line has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The most people inside at any instant.
    pub capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    pub rate_per_s: u32,
    /// How often the scheduler runs.
    pub tick: Duration,
    /// How long a pass is valid.
    pub pass_ttl: Duration,
    /// A person who was not seen for this long is away.
    pub presence_window: Duration,
    /// How long a running server may take to save a grant to the ledger.
    pub saved_within: Duration,
}

/// A fact from a store's answer to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The line is open in the epoch.
    Opened,
    /// The account waits at this number: it joined, came back, or waited all along.
    Waits {
        /// The place's number.
        number: PlaceNumber,
        /// The place's account.
        account: AccountHash,
    },
    /// This call made the grant.
    Admitted(Grant),
    /// The grant was made by an earlier call.
    Inside(Grant),
    /// The place neither waits nor is inside: it left, or its pass was used up or expired.
    Over {
        /// The place's number.
        number: PlaceNumber,
        /// The place's account.
        account: AccountHash,
    },
    /// This call removed a place from the line, or ended its pass.
    Left(PlaceNumber),
    /// This call merged the places that the server saw since its call before.
    Merged,
    /// The store did not answer a join or an admission, so its effect is unknown.
    Unanswered,
}

/// A fact from a store's answer, as recorded by the server that made the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The server that made the call.
    pub by: ServerLife,
    /// The epoch in which the store answered.
    pub epoch: Epoch,
    /// The `now` of the call.
    pub now: Timestamp,
    /// When the call began.
    pub began: Timestamp,
    /// When its answer arrived.
    pub ended: Timestamp,
    /// The answer.
    pub answer: Answer,
}

/// A server's answer to a person about their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The server that answered. `None` if the server restarted meanwhile, so that the run is unknown.
    pub by: Option<ServerLife>,
    /// When the request was sent.
    pub sent: Timestamp,
    /// When the answer arrived.
    pub answered: Timestamp,
    /// The place's number.
    pub number: PlaceNumber,
    /// The place's state.
    pub state: PlaceState,
    /// The position, 1 for the next place; 0 if the place does not wait.
    pub position: u64,
    /// When to poll again.
    pub poll_after: Duration,
    /// When the pass expires, if the place is inside.
    pub pass_until: Option<Timestamp>,
}

/// One person, with an account of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The person's account.
    pub account: AccountHash,
    /// When they sent their first join, whether or not it was answered.
    pub came: Timestamp,
    /// The answers that they got, in order. The first names their place.
    pub told: Vec<Told>,
    /// When they first sent a request to leave, whether or not it was answered.
    pub left: Option<Timestamp>,
    /// Whether they kept polling until the place was over, or the recording ended.
    pub kept_asking: bool,
}

/// A loss of the store, caused by the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The store held the line until this time.
    pub began: Timestamp,
    /// The store did not hold the line from this time on.
    pub ended: Timestamp,
}

/// The whole history of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The store's answers, in any order.
    pub recorded: Vec<Recorded>,
    /// The people, and the answers that they got.
    pub people: Vec<Person>,
    /// The servers that were killed, and when.
    pub killed: Vec<(ServerLife, Timestamp)>,
    /// The losses of the store, in order.
    pub losses: Vec<Loss>,
}
