//! The ports of the line: its store, its durable ledger, its policies, and the calendar of sales.
//!
//! Stores never read a clock: `now` is an argument, and scripts of a remote store use max(now, last seen).

use std::time::Duration;

use async_trait::async_trait;
use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, StoreError, Timestamp};

use crate::policy::Sale;
use crate::{AccountHash, AdmissionPolicy, Epoch, Grant, Place, PlaceNumber, PolicyPatch};

/// The line, the epoch and the time that a call is made with.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The performance that the line is for.
    pub performance: PerformanceId,
    /// The epoch that the caller believes in.
    pub epoch: Epoch,
    /// The caller's time.
    pub now: Timestamp,
}

/// An answer, unless the store has lost the line.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InEpoch<T> {
    /// The store holds the line in the caller's epoch, and did what the call asks for.
    Current(T),
    /// The store does not hold the line in the caller's epoch, and did nothing. Either it lost the line, or another
    /// server noticed the loss and began the next epoch.
    Lost,
}

/// Whether a line admits people now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Admits people as capacity and rate allow.
    Open,
    /// Admits no one: before or after the sale, while it is paused or sold out, or while grants cannot be saved. The
    /// token bucket of the rate does not fill meanwhile.
    Shut,
}

/// The terms under which a line admits people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitTerms {
    /// Whether the line admits people.
    pub gate: Gate,
    /// The most people inside at any instant.
    pub capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    pub rate_per_s: u32,
    /// The token bucket of the rate holds 1 + rate x tick.
    pub tick: Duration,
    /// How long a pass is valid.
    pub pass_ttl: Duration,
    /// A person who was not seen for this long is away.
    pub presence_window: Duration,
}

/// The standing of an account in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Waits at this number.
    Waiting(PlaceNumber),
    /// Is inside.
    Admitted(Grant),
}

/// The outcome of a join.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// A new place.
    Joined(Standing),
    /// The account has this place already. If it was away, it is back.
    Already(Standing),
    /// Every number up to the ceiling is taken, and the ledger has to raise it. The store did nothing.
    CeilingReached,
}

/// The state of a place, looked up in the store.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The account waits. If it was away, the same step took it back.
    Waiting {
        /// The account's number. If the token is of another place of the account, this is the lower number.
        number: PlaceNumber,
        /// How many people wait before it.
        ahead: u64,
    },
    /// The account is inside.
    Admitted(Grant),
    /// This place left, or its pass was used up.
    Done,
    /// This place's pass ran out unused.
    Expired,
    /// The store does not know the place, which is from an earlier epoch.
    Unknown,
}

/// A place from before a loss, to be put back into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReEntry {
    /// The place, with the number that it had.
    pub place: Place,
    /// The grant of its pass, if the ledger knows one that is still valid.
    pub grant: Option<Grant>,
}

/// The outcome of leaving.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveOutcome {
    /// The place waited, or was away.
    LeftTheLine,
    /// The place was inside. Its room is free at once.
    EndedPass,
    /// The place had left before, or never existed.
    NotThere,
}

/// The result of one call of `admit`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The grants of the places that were admitted, in the order of their numbers.
    pub granted: Vec<Grant>,
    /// How many places were examined.
    pub examined: u32,
    /// Whether another call could admit more at once.
    pub more: bool,
}

/// How far a view has read the changes of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// Changes of the set of gone numbers (G): numbers above `serving` whose places left, and the gaps that losses made.
#[derive(Clone, Debug, PartialEq)]
pub enum GoneChanges {
    /// The numbers that were added since the cursor.
    Since(Vec<PlaceNumber>),
    /// All of G: the cursor is the first, or too old.
    All(RoaringTreemap),
}

/// Changes of a line, from which a server updates its view to answer polls.
#[derive(Clone, Debug, PartialEq)]
pub struct LineChanges {
    /// Where the next read continues.
    pub cursor: Cursor,
    /// The changes of G.
    pub gone: GoneChanges,
    /// The numbers and counts of the line.
    pub counts: LineCounts,
}

/// The numbers and counts of a line at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// The highest number ever called. It never falls.
    pub serving: PlaceNumber,
    /// The highest number ever given out.
    pub issued: PlaceNumber,
    /// Places up to this number are from earlier epochs.
    pub inherited: PlaceNumber,
    /// How many places wait.
    pub waiting: u64,
    /// How many of the waiting have a number up to `serving`: they were away, came back, and go first.
    pub returned: u64,
    /// How many places are away.
    pub away: u64,
    /// How many places are inside.
    pub active: u64,
    /// How many places were admitted in this epoch.
    pub admitted_total: u64,
    /// Admission is on hold until this time: after a loss, people who waited get the time to come back.
    pub holds_until: Option<Timestamp>,
}

/// A server's knowledge of a line from before an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contribution {
    /// The ceiling of the epoch before. The first number given out is the next one.
    pub start: PlaceNumber,
    /// The highest number ever called.
    pub serving: PlaceNumber,
    /// The numbers above `serving` at which no place waits.
    pub gone: RoaringTreemap,
    /// The grants of the places that were inside.
    pub active: Vec<Grant>,
    /// How many places were inside when the ledger last saved the line. Their room stays taken until `reserved_until`,
    /// whether or not they are among `active`.
    pub reserved: u32,
    /// When the last of the saved passes expires.
    pub reserved_until: Option<Timestamp>,
    /// Admission is on hold until this time. Of several contributions in one epoch, the latest time applies.
    pub holds_until: Option<Timestamp>,
}

/// Keeps the lines: the places that wait, are away, or are inside. Fast, and may be lost.
///
/// # Contract
/// 1. Each method is atomic. An account waits, or is away, or is inside: never two of these.
/// 2. Before [`open`](Self::open), and in another epoch than the line's, every method answers [`InEpoch::Lost`] and
///    does nothing. `contribute`, and a second `open` in the same epoch, add to what the store knows (`serving` = max,
///    `gone` and `active` = union) and take nothing back.
/// 3. `join` gives numbers in the order of the calls, each number once, none above the highest `ceiling` that any call
///    named. An account that has a place keeps it, however often it joins.
/// 4. `join` admits at once only if no place waits, `admit` would have room and rate, and admission is not on hold.
/// 5. `admit` takes the lowest waiting numbers first, puts places away that were not seen within the presence window,
///    and grants in the same step. It never lets more than `capacity` be inside. Passes from before a loss count: of
///    the `reserved`, those that were not shown again count as inside until `reserved_until`. A call examines at most
///    `examine_max` places.
/// 6. Over any span, `admit` and `join` together admit at most rate x span + 1 + rate x tick; and waiting people are
///    admitted at the rate, even if that is less than one person a tick.
/// 7. A pass is valid while `now < expires_at`; then its room is free by itself. `leave` frees the room at once. A
///    place whose pass ended either way is not admitted again.
/// 8. A place that is away keeps its number, and goes first when it comes back by `join` or `resolve`.
/// 9. `serving` only rises. G only grows; it contains each number above `serving` whose place left.
/// 10. A place that was admitted, or merged as present, within the window is not skipped. After more than a quarter
///     window without merges, no place is skipped until merges covered one full window.
/// 11. `re_enter` puts a place back under its own number. It does nothing for an account that is inside. Of two places
///     of one account, the one with the lower number stays.
/// 12. Every method may be repeated without harm.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait LineStore: Send + Sync + 'static {
    /// Opens a line in an epoch. Only the server that the ledger chose may call it: a line that is opened twice gives
    /// out numbers twice.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn open(&self, at: At, contribution: &Contribution) -> Result<(), StoreError>;

    /// Adds what this server knows to a line that another server opened in this epoch.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn contribute(&self, at: At, contribution: &Contribution) -> Result<InEpoch<()>, StoreError>;

    /// Gives each account a place. `ceiling` is the highest number that the ledger has reserved.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed. Each account may or may not have joined, and joining again is safe.
    async fn join(
        &self,
        at: At,
        terms: &AdmitTerms,
        ceiling: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError>;

    /// Looks places up, marks them present, and takes places that were away back into the line.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn resolve(&self, at: At, places: &[Place]) -> Result<InEpoch<Vec<Resolution>>, StoreError>;

    /// Puts places from before a loss back into the line, and marks them present.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn re_enter(&self, at: At, entries: &[ReEntry]) -> Result<InEpoch<()>, StoreError>;

    /// Removes a place from the line, or ends its pass.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn leave(&self, at: At, place: Place) -> Result<InEpoch<LeaveOutcome>, StoreError>;

    /// Ends the pass of a place, and frees its room. For callers that do not know the account.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn end_pass(&self, at: At, number: PlaceNumber) -> Result<InEpoch<()>, StoreError>;

    /// Marks places present that a server saw since its last merge.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn mark_present(
        &self,
        at: At,
        presence_window: Duration,
        seen: &RoaringTreemap,
    ) -> Result<InEpoch<()>, StoreError>;

    /// Admits the next places, and examines at most `examine_max` of them.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn admit(&self, at: At, terms: &AdmitTerms, examine_max: u32) -> Result<InEpoch<Admission>, StoreError>;

    /// Reads the changes since the cursors, for all lines in one round trip. Answers are in the order of `lines`.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn refresh(
        &self,
        epoch: Epoch,
        now: Timestamp,
        lines: &[(PerformanceId, Cursor)],
    ) -> Result<Vec<InEpoch<LineChanges>>, StoreError>;
}

/// How far a line has come, as last saved in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineMark {
    /// The highest number ever called.
    pub serving: PlaceNumber,
    /// The highest number ever given out.
    pub issued: PlaceNumber,
    /// How many places waited or were away.
    pub waiting: u64,
    /// How many places were inside.
    pub active: u64,
    /// When the last of their passes expires.
    pub active_until: Option<Timestamp>,
}

/// The ledger's answer to a server that opens a line in an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whether this call opened the line in the epoch. If an earlier call did, and the store does not hold the line,
    /// then the store lost it, and the line must open in the next epoch: opening it twice in one epoch would give out
    /// numbers twice.
    pub is_first: bool,
    /// The ceiling of the epoch before. The first number given out is the next one.
    pub start: PlaceNumber,
    /// The highest number that may be given out.
    pub ceiling: PlaceNumber,
    /// How far the line had come, as last saved.
    pub mark: LineMark,
    /// The grants whose passes have neither expired nor ended.
    pub live: Vec<Grant>,
}

/// The outcome of a ledger call that names its epoch.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Superseded<T> {
    /// The epoch is current, and the call was done.
    No(T),
    /// The ledger is in this newer epoch, and did nothing.
    By(Epoch),
}

/// The pass of a place, as far as the ledger knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PastGrant {
    /// No admission of the place was saved.
    Never,
    /// The place was admitted.
    Granted(Grant),
    /// The pass was used up, or the place left.
    Ended,
}

impl PastGrant {
    /// The pass of a place that was granted or not, and ended or not. A pass that ended may never have been saved.
    #[must_use]
    pub fn of(granted: Option<Grant>, has_ended: bool) -> Self {
        match granted {
            _ if has_ended => Self::Ended,
            Some(grant) => Self::Granted(grant),
            None => Self::Never,
        }
    }
}

/// Keeps the durable part of the lines, which survives a loss of the [`LineStore`].
///
/// # Contract
/// 1. `begin_epoch` is a compare-and-set: of any number of callers that saw the same epoch, one raises it by one. All
///    get the epoch that is current afterwards.
/// 2. A line opens once per epoch. It starts at its ceiling, which then rises by one block. Every further `open_line`
///    in that epoch gets the same start, and `is_first: false`. No number is given out in two epochs.
/// 3. `reserve` is a compare-and-set on the ceiling that the caller saw, and answers the ceiling that is current
///    afterwards.
/// 4. `save` never lowers `serving` or `issued`, and stores mark and grants together or not at all.
/// 5. In an older epoch than the ledger's, `open_line`, `reserve` and `save` do nothing and answer the newer epoch.
/// 6. `end_pass` may be repeated. `past_grants` answers in the order of `numbers`; an ended pass is `Ended`, whether or
///    not its grant was saved.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait LineLedger: Send + Sync + 'static {
    /// The current epoch.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn epoch(&self) -> Result<Epoch, StoreError>;

    /// Begins the epoch after `seen`, unless another server did already. Answers the epoch that is current afterwards.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn begin_epoch(&self, seen: Epoch) -> Result<Epoch, StoreError>;

    /// Opens a line in an epoch, and reserves its first `block` of numbers.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn open_line(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        block: u64,
        now: Timestamp,
    ) -> Result<Superseded<Opening>, StoreError>;

    /// Raises the ceiling from `seen` by `block`, unless another server did already. Answers the ceiling that is
    /// current afterwards.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn reserve(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        seen: PlaceNumber,
        block: u64,
    ) -> Result<Superseded<PlaceNumber>, StoreError>;

    /// Saves how far a line has come, and the grants since the last save.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn save(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        mark: &LineMark,
        granted: &[Grant],
    ) -> Result<Superseded<()>, StoreError>;

    /// Notes that the pass of a place is used up, or that the place left. From then on, holds with the pass are
    /// refused.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn end_pass(&self, performance: PerformanceId, number: PlaceNumber, now: Timestamp)
    -> Result<(), StoreError>;

    /// The passes of these places, at most 1,000 a call.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn past_grants(
        &self,
        performance: PerformanceId,
        numbers: &[PlaceNumber],
    ) -> Result<Vec<PastGrant>, StoreError>;
}

/// Keeps the changes that operators made to admission policies.
///
/// # Contract
/// 1. Values that were never patched are those of the default. A patch changes only the values that it names,
///    atomically.
/// 2. `patch` does not store an invalid policy, and answers the violations.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait PolicyRepository: Send + Sync + 'static {
    /// The policy of a line.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(&self, performance: PerformanceId, default: &AdmissionPolicy) -> Result<AdmissionPolicy, StoreError>;

    /// Changes the policy of a line. Answers the whole policy, or its violations.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn patch(
        &self,
        performance: PerformanceId,
        default: &AdmissionPolicy,
        patch: &PolicyPatch,
    ) -> Result<Result<AdmissionPolicy, Vec<usher_kernel::Violation>>, StoreError>;
}

/// Knows the sales, and so the lines. Implemented by a bridge to the catalogue and the seats.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait SaleCalendar: Send + Sync + 'static {
    /// The performances whose line is live: from `lobby` before the sale opens until it closes.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn live(&self, now: Timestamp, lobby: Duration) -> Result<Vec<(PerformanceId, Sale)>, StoreError>;

    /// The sale of one performance; `None` if there is no such performance.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(&self, performance: PerformanceId, now: Timestamp) -> Result<Option<Sale>, StoreError>;
}
