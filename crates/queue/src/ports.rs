//! What the line needs from outside: its store, its durable ledger, its policies, and the sale it belongs to.
//!
//! Stores never read a clock: `now` is an argument, and scripts of a remote store use max(now, last seen).

use std::time::Duration;

use async_trait::async_trait;
use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, StoreError, Timestamp};

use crate::policy::Sale;
use crate::{AccountHash, AdmissionPolicy, Epoch, Grant, Place, PlaceNumber, PolicyPatch};

/// Which line a call is about, in which life of the store, and when.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Whose line.
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
    /// The store holds the line in the caller's epoch, and did as it was told.
    Current(T),
    /// The store does not hold the line in the caller's epoch; nothing was done. Either it lost everything, or another
    /// server saw that and went on to the next epoch.
    Lost,
}

/// Whether anybody is let in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// As capacity and rate allow.
    Open,
    /// Nobody: before the sale, paused, sold out or over. The rate's bucket does not fill meanwhile.
    Shut,
}

/// Under which terms people are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitTerms {
    /// Whether anybody is let in.
    pub gate: Gate,
    /// The most people inside at any instant.
    pub capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    pub rate_per_s: u32,
    /// The token bucket of the rate holds 1 + rate x tick.
    pub tick: Duration,
    /// How long a pass is good.
    pub pass_ttl: Duration,
    /// Who was not seen for this long is away.
    pub presence_window: Duration,
}

/// Where someone stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Waits at this number.
    Waiting(PlaceNumber),
    /// Is inside.
    Admitted(Grant),
}

/// What became of a wish to join.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// A new place.
    Joined(Standing),
    /// The account had a place already: this one. If it was away, it is back.
    Already(Standing),
    /// Every number up to the ceiling is taken; nothing was done. The ledger has to raise it.
    CeilingReached,
}

/// What a place token finds.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The account waits, at its number (the lower one, if it came with the token of another place). If it was away,
    /// it is back, in the same step.
    Waiting {
        /// The number the account waits at.
        number: PlaceNumber,
        /// How many wait before it.
        ahead: u64,
    },
    /// The account is inside.
    Admitted(Grant),
    /// This place left, or its pass was used up.
    Done,
    /// This place's pass ran out unused.
    Expired,
    /// The store knows nothing of the place: it is older than this epoch.
    Unknown,
}

/// A place from before a loss that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReEntry {
    /// The place, with its own number.
    pub place: Place,
    /// Its pass, if the ledger says that it was inside and still is.
    pub grant: Option<Grant>,
}

/// What became of a place that leaves.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveOutcome {
    /// It waited, or was away.
    LeftTheLine,
    /// It was inside; its room is free at once.
    EndedPass,
    /// It was gone already, or never there.
    NotThere,
}

/// What one call of the scheduler did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Who was admitted, in order of their numbers.
    pub granted: Vec<Grant>,
    /// How many places were looked at.
    pub examined: u32,
    /// Whether more could be admitted by another call at once.
    pub more: bool,
}

/// How far a server's view has read the changes of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// What changed among the numbers that are gone (G): those above `serving` that left, and the gaps made by a loss.
#[derive(Clone, Debug, PartialEq)]
pub enum GoneChanges {
    /// These came since the cursor.
    Since(Vec<PlaceNumber>),
    /// The cursor is too old, or the first: this is all of G.
    All(RoaringTreemap),
}

/// What a server needs to answer polls by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct LineChanges {
    /// Where to read on next time.
    pub cursor: Cursor,
    /// What was added to G.
    pub gone: GoneChanges,
    /// The numbers and counts of the line.
    pub counts: LineCounts,
}

/// The numbers and counts of a line at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// The highest number ever called; it only rises.
    pub serving: PlaceNumber,
    /// The highest number ever given out.
    pub issued: PlaceNumber,
    /// Places up to this one are from earlier epochs.
    pub inherited: PlaceNumber,
    /// How many wait.
    pub waiting: u64,
    /// How many of them have a number up to `serving`: they came back, and go first.
    pub returned: u64,
    /// How many are away.
    pub away: u64,
    /// How many are inside.
    pub active: u64,
    /// How many were admitted in this epoch.
    pub admitted_total: u64,
    /// Nobody is admitted before this time: after a loss, those who waited are given the time to come back.
    pub holds_until: Option<Timestamp>,
}

/// What a server knows of a line's time before an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contribution {
    /// The first number given out is the one after this: the ceiling of the epoch before.
    pub start: PlaceNumber,
    /// The highest number ever called.
    pub serving: PlaceNumber,
    /// The numbers above `serving` that nobody waits at.
    pub gone: RoaringTreemap,
    /// Who was inside.
    pub active: Vec<Grant>,
    /// How many were inside, as last saved: their room stays taken until `reserved_until`, whether or not they are
    /// among `active`.
    pub reserved: u32,
    /// When the last saved pass runs out.
    pub reserved_until: Option<Timestamp>,
    /// Nobody is admitted before this time. Of several contributions in one epoch, the latest time holds.
    pub holds_until: Option<Timestamp>,
}

/// Keeps the lines: who waits, who is away, who is inside. Fast, and may be lost.
///
/// # Contract
/// 1. Each method is atomic. Waiting, away and inside exclude each other per account.
/// 2. Before [`open`](Self::open), and with another epoch than the one it opened in, every method answers
///    [`InEpoch::Lost`] and does nothing. `contribute`, and opening again in the same epoch, add to what is known
///    (`serving` = max, `gone` and `active` = union) and take nothing back.
/// 3. `join` gives numbers in the order of the calls, each once, none above `ceiling` (the highest it was ever told);
///    an account that has a place keeps it, however often and from wherever it joins.
/// 4. `join` admits at once only if nobody waits, `admit` would have room and rate, and nothing holds.
/// 5. `admit` takes the lowest waiting numbers first, skips (puts away) those not seen within the presence window,
///    grants in the same step, and never lets more than `capacity` be inside, passes of before a loss included: those of
///    the `reserved` that were not shown again count as inside until `reserved_until`. It looks at no more than
///    `examine_max` places a call.
/// 6. Over any time, `admit` and `join` together admit at most rate x time + 1 + rate x tick; and people
///    who wait are admitted at the rate, whatever fraction of a person a tick is worth.
/// 7. A pass is live while `now < expires_at`; then its room is free by itself. `leave` frees it at once. A pass that
///    ended either way is never granted again.
/// 8. Someone away keeps the number, and is first when back (`join` or `resolve`).
/// 9. `serving` only rises. G only grows; a number above `serving` that leaves is in it.
/// 10. Who was admitted or merged as present within the window is not skipped. After a silence of more than a quarter
///     window without merges, nobody is skipped until one full window was seen.
/// 11. `re_enter` puts a place back under its own number. It does nothing for an account that is inside; of two places
///     of one account the lower number stays.
/// 12. Every method may be repeated without harm.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait LineStore: Send + Sync + 'static {
    /// Opens a line in an epoch. For the one server that the ledger told to: a line opened twice gives numbers twice.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn open(&self, at: At, contribution: &Contribution) -> Result<(), StoreError>;

    /// Adds to what is known of a line that another server opened in this epoch.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn contribute(&self, at: At, contribution: &Contribution) -> Result<InEpoch<()>, StoreError>;

    /// Gives each account a place. `ceiling` is the highest number that the ledger has reserved.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed; each may or may not have joined, and joining again is safe.
    async fn join(
        &self,
        at: At,
        terms: &AdmitTerms,
        ceiling: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Result<InEpoch<Vec<JoinOutcome>>, StoreError>;

    /// Finds out where places stand, marks them present, and takes those who were away back into the line.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn resolve(&self, at: At, places: &[Place]) -> Result<InEpoch<Vec<Resolution>>, StoreError>;

    /// Takes places from before a loss back, and marks them present.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn re_enter(&self, at: At, entries: &[ReEntry]) -> Result<InEpoch<()>, StoreError>;

    /// Takes a place out of the line, or ends its pass.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn leave(&self, at: At, place: Place) -> Result<InEpoch<LeaveOutcome>, StoreError>;

    /// Ends the pass of a place whose account the caller does not know, and frees its room.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn end_pass(&self, at: At, number: PlaceNumber) -> Result<InEpoch<()>, StoreError>;

    /// Merges the numbers that a server saw since its last merge.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn mark_present(
        &self,
        at: At,
        presence_window: Duration,
        seen: &RoaringTreemap,
    ) -> Result<InEpoch<()>, StoreError>;

    /// Admits the next people, looking at no more than `examine_max` places.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn admit(&self, at: At, terms: &AdmitTerms, examine_max: u32) -> Result<InEpoch<Admission>, StoreError>;

    /// Reads what changed since the cursors, for all lines in one round trip; answers in the order asked.
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

/// What the ledger last heard of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineMark {
    /// The highest number ever called.
    pub serving: PlaceNumber,
    /// The highest number ever given out.
    pub issued: PlaceNumber,
    /// How many waited or were away.
    pub waiting: u64,
    /// How many were inside.
    pub active: u64,
    /// When the last of their passes runs out.
    pub active_until: Option<Timestamp>,
}

/// What a line opens with in a new epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whether this call opened the line in the epoch. If an earlier one did and the store does not hold the line, the
    /// store lost it, and the line must open in the next epoch instead: opening twice in one would give out numbers twice.
    pub is_first: bool,
    /// The first number given out is the one after this: the ceiling of the epoch before.
    pub start: PlaceNumber,
    /// The highest number that may be given out.
    pub ceiling: PlaceNumber,
    /// What the ledger last heard of the line before.
    pub mark: LineMark,
    /// The grants whose passes neither ran out nor ended.
    pub live: Vec<Grant>,
}

/// What became of a call that names its epoch.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Superseded<T> {
    /// The epoch is the ledger's; done.
    No(T),
    /// The ledger is in this newer epoch; nothing was done.
    By(Epoch),
}

/// What the ledger knows of a place's pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PastGrant {
    /// It was never admitted, as far as was saved.
    Never,
    /// It was admitted.
    Granted(Grant),
    /// Its pass was used up, or it left.
    Ended,
}

/// The durable side of the lines: what must survive the loss of the [`LineStore`].
///
/// # Contract
/// 1. `begin_epoch` is a compare-and-set: of any number of callers who saw the same epoch, one moves it on by one; all
///    are told the epoch that holds afterwards.
/// 2. A line opens once per epoch, starting at its ceiling, which then moves by one block. Every further `open_line` in
///    that epoch is told the same start, and that it is not the first. No number is given out in two epochs.
/// 3. `reserve` is a compare-and-set on the ceiling seen, and tells the ceiling that holds afterwards.
/// 4. `save` never lowers `serving` or `issued`, and stores mark and grants together or not at all.
/// 5. Under an older epoch than the ledger's, `open_line`, `reserve` and `save` do nothing and name the newer one.
/// 6. `end_pass` may be repeated. `past_grants` answers in the order asked; an ended pass is `Ended`, whether or not its
///    grant was saved.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait LineLedger: Send + Sync + 'static {
    /// The present epoch.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn epoch(&self) -> Result<Epoch, StoreError>;

    /// Moves on to the epoch after `seen`, unless someone did already. Answers the epoch that holds afterwards.
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

    /// Raises the ceiling from `seen` by `block`, unless someone did already. Answers the ceiling that holds.
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

    /// Saves how far a line has come, and the passes granted since the last time.
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

    /// Notes that a place's pass is used up, or that its owner left. A hold is refused from then on.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn end_pass(&self, performance: PerformanceId, number: PlaceNumber, now: Timestamp)
    -> Result<(), StoreError>;

    /// What is known of the passes of these places; at most 1,000 a call.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn past_grants(
        &self,
        performance: PerformanceId,
        numbers: &[PlaceNumber],
    ) -> Result<Vec<PastGrant>, StoreError>;
}

/// Keeps what operators changed of the admission policies.
///
/// # Contract
/// 1. A value never patched is the default's; a patch changes only what it names, atomically.
/// 2. `patch` refuses to store a policy that is not valid, and says why.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait PolicyRepository: Send + Sync + 'static {
    /// The policy of a line.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(&self, performance: PerformanceId, default: &AdmissionPolicy) -> Result<AdmissionPolicy, StoreError>;

    /// Changes the policy of a line. Answers the whole policy, or what is wrong with it.
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

/// Tells which lines there are and when their sales are. Bridged to the catalogue and the seats.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait SaleCalendar: Send + Sync + 'static {
    /// The performances whose line is open: from `lobby` before the sale opens until it closes.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn live(&self, now: Timestamp, lobby: Duration) -> Result<Vec<(PerformanceId, Sale)>, StoreError>;

    /// The sale of one performance, if there is such a performance.
    ///
    /// # Errors
    /// [`StoreError`] if the store failed.
    async fn find(&self, performance: PerformanceId, now: Timestamp) -> Result<Option<Sale>, StoreError>;
}
