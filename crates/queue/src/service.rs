//! The line's use cases, and the steps that a server takes for its lines in the background.
//!
//! Whatever a poll needs is in the line's [`LineView`](crate::LineView); only places that were called, and places from before a loss, ask
//! the store.

mod line;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use futures_util::lock::Mutex;
use usher_kernel::{AccountId, Clock, PerformanceId, StoreError, Timestamp};

use self::line::{Line, LiveSale};
use crate::pace::{self, Eta};
use crate::policy::{Sale, SaleState};
use crate::ports::{
    At, Cursor, InEpoch, JoinOutcome, LeaveOutcome, LineCounts, LineLedger, LineStore, PastGrant, PolicyRepository,
    ReEntry, Resolution, SaleCalendar, Standing, Superseded,
};
use crate::token::Pass;
use crate::{AccountHash, AdmissionPolicy, Epoch, Error, Grant, LineState, Place, PlaceNumber, PolicyPatch, TokenKeys};

/// What the service is set to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The policy of lines whose operator said nothing.
    pub default_policy: AdmissionPolicy,
    /// How long before the sale opens people can join.
    pub lobby: Duration,
    /// How often [`Service::tick`] is called.
    pub tick: Duration,
    /// How long a line may take from the ledger's word to being in the store, where another server opens it. Not there for
    /// longer, it is lost. Zero where no other server shares the store.
    pub opening_grace: Duration,
}

/// How many numbers are reserved at a time. A loss of the store leaves a gap of at most this many (DESIGN: 10,000 joins
/// are one SQL write).
const BLOCK: u64 = 10_000;
/// How many places one call of the scheduler looks at: a remote store answers nobody else meanwhile. Redis takes some
/// 10 us for each, and a call may take 15 ms of it where the machine is busy with other things too.
pub const EXAMINE_MAX: u32 = 800;
/// How many calls of the scheduler one tick makes for one line, so that no line starves the others.
const ADMIT_CALLS_MAX: u32 = 20;

const _: () = assert!(BLOCK >= 2 * EXAMINE_MAX as u64);

/// Where a place stands, as its owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceState {
    /// Waits.
    Waiting,
    /// Is inside.
    Admitted,
    /// Booked, or left.
    Done,
    /// The pass ran out unused.
    Expired,
}

impl PlaceState {
    /// The state's name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Admitted => "admitted",
            Self::Done => "done",
            Self::Expired => "expired",
        }
    }
}

/// A signed pass. Printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct PassToken {
    /// The token.
    pub token: String,
    /// It is good while `now < expires_at`.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for PassToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// What the owner of a place is told.
#[derive(Clone, PartialEq, Eq)]
pub struct PlaceStatus {
    /// The place token.
    pub place: String,
    /// The place's number.
    pub number: PlaceNumber,
    /// Where it stands.
    pub state: PlaceState,
    /// 1 is next; 0 for those who do not wait.
    pub position: u64,
    /// How many stand before it, those who came back included.
    pub ahead: u64,
    /// When to ask again.
    pub poll_after: Duration,
    /// How long the wait will be, if that can be told.
    pub eta: Option<Eta>,
    /// The pass of someone inside.
    pub pass: Option<PassToken>,
    /// Whether seats are being sold.
    pub sale_state: SaleState,
}

/// A place, and whether it is a new one.
#[derive(Clone, PartialEq, Eq)]
pub struct Joined {
    /// What its owner is told.
    pub status: PlaceStatus,
    /// Whether the account had none before.
    pub is_new: bool,
}

/// What an operator is told of a line.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// The line's numbers and counts.
    pub counts: LineCounts,
    /// The admissions a second, measured.
    pub admitted_per_s: f64,
}

/// What a pass is found to be.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassCheck {
    /// Good, as far as the token itself tells.
    Live(PlaceNumber),
    /// Not ours.
    Invalid,
    /// Another account's, or another performance's.
    Mismatch,
    /// Ran out.
    Expired,
}

/// The line's use cases.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// What the service needs from outside.
pub struct Ports {
    /// Who waits, who is inside.
    pub store: Arc<dyn LineStore>,
    /// What survives the loss of the store.
    pub ledger: Arc<dyn LineLedger>,
    /// What operators changed.
    pub policies: Arc<dyn PolicyRepository>,
    /// Which lines there are.
    pub calendar: Arc<dyn SaleCalendar>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

struct Inner {
    ports: Ports,
    keys: TokenKeys,
    settings: Settings,
    /// The epoch that this server believes in.
    epoch: AtomicU64,
    lines: ArcSwap<HashMap<PerformanceId, Arc<Line>>>,
    /// Opening lines and changing epochs is for one task of this server at a time: two that open one new line at once
    /// would each take the other for a loss.
    opening: Mutex<()>,
}

impl Service {
    /// Puts the service together.
    #[must_use]
    pub fn new(ports: Ports, keys: TokenKeys, settings: Settings) -> Self {
        let (epoch, lines) = (AtomicU64::new(0), ArcSwap::default());
        Self(Arc::new(Inner { ports, keys, settings, epoch, lines, opening: Mutex::new(()) }))
    }

    /// Whether the line of a performance is open on this server: then nothing asked of it has to open it first. An opening
    /// is to be run to its end, for the ledger hears of it before the store does, and one given up in between is taken for
    /// a loss.
    #[must_use]
    pub fn is_open(&self, performance: PerformanceId) -> bool {
        self.0.lines.load().get(&performance).is_some_and(|line| self.holds(line))
    }

    /// Gives the account a place, or tells which one it has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::SaleNotOpen`], [`Error::SaleClosed`], [`Error::LineUnavailable`], or a store's.
    #[tracing::instrument(skip_all, name = "line.join", level = "debug", fields(%performance))]
    pub async fn join(&self, performance: PerformanceId, account: AccountId) -> Result<Joined, Error> {
        let (line, now) = (self.line(performance).await?, self.0.ports.clock.now());
        let live = line.live_sale();
        self.require_joinable(&live, now)?;
        let account = AccountHash::of(account);
        let outcome = self.join_below_ceiling(&line, &live, account, now).await?;
        let (standing, is_new) = match outcome {
            JoinOutcome::Joined(standing) => (standing, true),
            JoinOutcome::Already(standing) => (standing, false),
            JoinOutcome::CeilingReached => return Err(Error::LineUnavailable),
        };
        let status = match standing {
            Standing::Admitted(grant) => self.admitted(&line, grant, now),
            Standing::Waiting(number) => {
                let place = Place { performance, number, account };
                match self.waiting_by_view(&line, place, now) {
                    Some(status) => status,
                    None => self.ask(&line, place, now).await?,
                }
            }
        };
        Ok(Joined { status, is_new })
    }

    /// Tells where a place stands. Costs the store nothing while the place was not called.
    ///
    /// # Errors
    /// [`Error::PlaceInvalid`], [`Error::PlaceMismatch`], [`Error::SaleClosed`], [`Error::LineUnavailable`], or a store's.
    pub async fn poll(&self, performance: PerformanceId, place_token: &str) -> Result<PlaceStatus, Error> {
        let place = self.verified_place(performance, place_token)?;
        let (line, now) = (self.line(performance).await?, self.0.ports.clock.now());
        if line.knows(place.number)
            && let Some(status) = self.waiting_by_view(&line, place, now)
        {
            return Ok(status);
        }
        self.ask(&line, place, now).await
    }

    /// Gives a place up: out of the line, or out of the sale. May be repeated.
    ///
    /// # Errors
    /// [`Error::PlaceInvalid`], [`Error::PlaceMismatch`], or a store's.
    #[tracing::instrument(skip_all, name = "line.leave", fields(%performance))]
    pub async fn leave(&self, performance: PerformanceId, place_token: &str) -> Result<(), Error> {
        let place = self.verified_place(performance, place_token)?;
        let now = self.0.ports.clock.now();
        // The ledger first: if the second step is lost, the room comes free when the pass runs out; the other way
        // round, a pass that was given up would still open seats.
        self.0.ports.ledger.end_pass(performance, place.number, now).await?;
        match self.line(performance).await {
            Ok(line) => {
                let left = self.0.ports.store.leave(self.at(&line, now), place).await.map_err(Error::LineStore)?;
                line.note_settled(place.number);
                match left {
                    InEpoch::Current(LeaveOutcome::LeftTheLine | LeaveOutcome::EndedPass | LeaveOutcome::NotThere) => {
                        Ok(())
                    }
                    InEpoch::Lost => Err(Error::LineUnavailable),
                }
            }
            Err(Error::SaleClosed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a pass lets its bearer in. Every refusal looks the same.
    ///
    /// # Errors
    /// [`Error::NotAdmitted`], or a store's.
    pub async fn gate(&self, performance: PerformanceId, pass_token: Option<&str>) -> Result<(), Error> {
        let pass = pass_token.and_then(|token| self.0.keys.verify_pass(token)).ok_or(Error::NotAdmitted)?;
        if pass.performance != performance || !pass.grant.is_live(self.0.ports.clock.now()) {
            return Err(Error::NotAdmitted);
        }
        match self.0.ports.ledger.past_grants(performance, &[pass.grant.number]).await?.first() {
            Some(PastGrant::Ended) => Err(Error::NotAdmitted),
            Some(PastGrant::Never | PastGrant::Granted(_)) | None => Ok(()),
        }
    }

    /// Checks a pass for signature, owner, performance and time. Asks no store.
    pub fn check_pass(&self, token: &str, account: AccountId, performance: PerformanceId, now: Timestamp) -> PassCheck {
        match self.0.keys.verify_pass(token) {
            None => PassCheck::Invalid,
            Some(Pass { performance: theirs, grant })
                if theirs != performance || grant.account != AccountHash::of(account) =>
            {
                PassCheck::Mismatch
            }
            Some(Pass { grant, .. }) if grant.is_live(now) => PassCheck::Live(grant.number),
            Some(Pass { .. }) => PassCheck::Expired,
        }
    }

    /// Frees the room of a pass that was used up. The ledger knows already: that was written with the sale.
    ///
    /// # Errors
    /// A store's; then the room comes free when the pass runs out.
    pub async fn pass_used(&self, performance: PerformanceId, number: PlaceNumber) -> Result<(), Error> {
        let line = self.line(performance).await?;
        let at = self.at(&line, self.0.ports.clock.now());
        match self.0.ports.store.end_pass(at, number).await.map_err(Error::LineStore)? {
            InEpoch::Current(()) => Ok(()),
            InEpoch::Lost => Err(Error::LineUnavailable),
        }
    }

    /// The admission policy of a line.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a store's.
    pub async fn policy(&self, performance: PerformanceId) -> Result<AdmissionPolicy, Error> {
        self.sale(performance).await?;
        self.stored_policy(performance).await
    }

    /// Changes the admission policy of a line: here at once, on other servers within a second.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], or a store's.
    #[tracing::instrument(skip_all, name = "line.patch_policy", fields(%performance))]
    pub async fn patch_policy(
        &self,
        performance: PerformanceId,
        patch: &PolicyPatch,
    ) -> Result<AdmissionPolicy, Error> {
        self.sale(performance).await?;
        let default = &self.0.settings.default_policy;
        let policy = self.0.ports.policies.patch(performance, default, patch).await?.map_err(Error::Invalid)?;
        if let Some(line) = self.0.lines.load().get(&performance) {
            line.set_policy(policy);
        }
        Ok(policy)
    }

    /// Whether the line's store answers. With no line there is nothing to ask it, and nothing that it is needed for.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = self.0.lines.load().values().next().map(|line| (line.performance, line.view().cursor()));
        let now = self.0.ports.clock.now();
        self.0.ports.store.refresh(self.epoch(), now, asked.as_slice()).await.map(|_| ())
    }

    /// What a line looks like now.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a store's.
    pub async fn stats(&self, performance: PerformanceId) -> Result<Stats, Error> {
        match self.line(performance).await {
            Ok(line) => Ok(line.stats()),
            Err(Error::SaleNotOpen { .. } | Error::SaleClosed) => {
                Ok(Stats { counts: LineCounts::default(), admitted_per_s: 0.0 })
            }
            Err(error) => Err(error),
        }
    }

    /// What every line of this server looks like now.
    #[must_use]
    pub fn stats_of_all(&self) -> Vec<(PerformanceId, Stats)> {
        self.0.lines.load().iter().map(|(&performance, line)| (performance, line.stats())).collect()
    }

    /// Whether a performance's seats are being sold. Of a line that is not live, the times alone tell.
    #[must_use]
    pub fn sale_state(&self, performance: PerformanceId, opens_at: Timestamp, closes_at: Timestamp) -> SaleState {
        let now = self.0.ports.clock.now();
        match self.0.lines.load().get(&performance) {
            Some(line) => line.live_sale().state(now),
            None => Sale { opens_at, closes_at, is_sold_out: false }.state(LineState::Open, now),
        }
    }

    /// Learns which lines are live, and their sales and policies. Called every second.
    ///
    /// # Errors
    /// A store's.
    #[tracing::instrument(skip_all, name = "line.refresh_calendar", level = "debug")]
    pub async fn refresh_calendar(&self) -> Result<(), Error> {
        let Ports { calendar, clock, .. } = &self.0.ports;
        let mut live = HashMap::new();
        for (performance, sale) in calendar.live(clock.now(), self.0.settings.lobby).await? {
            live.insert(performance, LiveSale { sale, policy: self.stored_policy(performance).await? });
        }
        self.0.lines.rcu(|lines| {
            live.iter()
                .map(|(&performance, &live)| {
                    let line = lines.get(&performance).cloned();
                    (performance, line.unwrap_or_else(|| Arc::new(Line::new(performance, live))))
                })
                .collect::<HashMap<_, _>>()
        });
        let lines = self.0.lines.load();
        for (performance, live) in live {
            if let Some(line) = lines.get(&performance) {
                line.set_live_sale(live);
            }
        }
        Ok(())
    }

    /// One step of the scheduler for every live line: admits, reads what changed, saves how far it came.
    ///
    /// # Errors
    /// A store's; the next tick goes on where this one stopped.
    #[tracing::instrument(skip_all, name = "line.tick", level = "debug")]
    pub async fn tick(&self) -> Result<(), Error> {
        let lines: Vec<_> = self.0.lines.load().values().cloned().collect();
        let admitted = join_all(lines.iter().map(async |line| {
            self.ensure_open(line).await?;
            self.admit(line).await
        }));
        let (mut open, mut errors) = (Vec::new(), Vec::new());
        for (line, admitted) in lines.iter().zip(admitted.await) {
            match admitted {
                Ok(()) => open.push(line),
                Err(error) => errors.push(error),
            }
        }
        let refreshed = self.refresh(&open).await;
        let saved = join_all(open.iter().map(|line| self.save(line))).await;
        // One line's trouble is not the others'. Whoever calls every tick says when it begins and when it ends.
        errors.extend(std::iter::once(refreshed).chain(saved).filter_map(Result::err));
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// Tells the store whom this server saw. Called every [`pace::MERGE_INTERVAL`].
    ///
    /// # Errors
    /// A store's.
    #[tracing::instrument(skip_all, name = "line.merge_presence", level = "debug")]
    pub async fn merge_presence(&self) -> Result<(), Error> {
        let lines: Vec<_> = self.0.lines.load().values().cloned().collect();
        for line in lines.iter().filter(|line| self.holds(line)) {
            let window = line.live_sale().policy.presence_window;
            let seen = line.take_seen();
            let at = self.at(line, self.0.ports.clock.now());
            match self.0.ports.store.mark_present(at, window, &seen).await {
                Ok(InEpoch::Current(())) => {}
                // The line opens again with the next tick, and who waits is seen again.
                Ok(InEpoch::Lost) => line.put_back_seen(seen),
                Err(error) => {
                    line.put_back_seen(seen);
                    return Err(Error::LineStore(error));
                }
            }
        }
        Ok(())
    }

    fn epoch(&self) -> Epoch {
        Epoch::new(self.0.epoch.load(Ordering::Acquire))
    }

    fn at(&self, line: &Line, now: Timestamp) -> At {
        At { performance: line.performance, epoch: line.epoch(), now }
    }

    fn verified_place(&self, performance: PerformanceId, token: &str) -> Result<Place, Error> {
        let place = self.0.keys.verify_place(token).ok_or(Error::PlaceInvalid)?;
        if place.performance == performance { Ok(place) } else { Err(Error::PlaceMismatch) }
    }

    async fn sale(&self, performance: PerformanceId) -> Result<Sale, Error> {
        let Ports { calendar, clock, .. } = &self.0.ports;
        calendar.find(performance, clock.now()).await?.ok_or(Error::NotFound)
    }

    async fn stored_policy(&self, performance: PerformanceId) -> Result<AdmissionPolicy, Error> {
        Ok(self.0.ports.policies.find(performance, &self.0.settings.default_policy).await?)
    }

    fn require_joinable(&self, live: &LiveSale, now: Timestamp) -> Result<(), Error> {
        let joinable_from = live.sale.opens_at.minus(self.0.settings.lobby);
        if live.state(now) == SaleState::Closed {
            Err(Error::SaleClosed)
        } else if now < joinable_from {
            Err(Error::SaleNotOpen { joinable_from })
        } else {
            Ok(())
        }
    }

    /// The open line of a performance. One that the calendar has not shown yet is looked up.
    async fn line(&self, performance: PerformanceId) -> Result<Arc<Line>, Error> {
        let known = self.0.lines.load().get(&performance).cloned();
        let line = match known {
            Some(line) => line,
            None => {
                let sale = self.sale(performance).await?;
                let live = LiveSale { sale, policy: self.stored_policy(performance).await? };
                self.require_joinable(&live, self.0.ports.clock.now())?;
                self.0.lines.rcu(|lines| {
                    let mut lines = HashMap::clone(lines);
                    lines.entry(performance).or_insert_with(|| Arc::new(Line::new(performance, live)));
                    lines
                });
                self.0.lines.load().get(&performance).cloned().ok_or(Error::SaleClosed)?
            }
        };
        self.ensure_open(&line).await?;
        Ok(line)
    }

    async fn join_below_ceiling(
        &self,
        line: &Line,
        live: &LiveSale,
        account: AccountHash,
        now: Timestamp,
    ) -> Result<JoinOutcome, Error> {
        let terms = live.terms(self.0.settings.tick, now);
        // The ceiling may rise under us while we ask for it; three times means that the ledger does not let it rise.
        for _ in 0..3 {
            let ceiling = line.ceiling();
            let accounts = [account];
            let joined = self.0.ports.store.join(self.at(line, now), &terms, ceiling, &accounts);
            let outcome = match joined.await.map_err(Error::LineStore)? {
                InEpoch::Current(outcomes) => outcomes.into_iter().next().ok_or(Error::LineUnavailable)?,
                InEpoch::Lost => return Err(Error::LineUnavailable),
            };
            let number = match outcome {
                JoinOutcome::CeilingReached => {
                    self.raise_ceiling(line, ceiling).await?;
                    continue;
                }
                JoinOutcome::Joined(standing) | JoinOutcome::Already(standing) => match standing {
                    Standing::Waiting(number) => number,
                    Standing::Admitted(grant) => grant.number,
                },
            };
            if number.get() + BLOCK / 2 > ceiling.get()
                && let Some(_raising) = line.begin_raising()
                && let Err(error) = self.raise_ceiling(line, ceiling).await
            {
                tracing::warn!(performance = %line.performance, error = %error, "joins go on up to the ceiling");
            }
            return Ok(outcome);
        }
        Err(Error::LineUnavailable)
    }

    async fn raise_ceiling(&self, line: &Line, seen: PlaceNumber) -> Result<(), Error> {
        match self.0.ports.ledger.reserve(line.performance, line.epoch(), seen, BLOCK).await? {
            Superseded::No(ceiling) => {
                line.raise_ceiling(ceiling);
                Ok(())
            }
            Superseded::By(_) => Err(Error::LineUnavailable),
        }
    }

    /// The answer to someone not called yet, from what this server knows.
    fn waiting_by_view(&self, line: &Line, place: Place, now: Timestamp) -> Option<PlaceStatus> {
        let view = line.view();
        let (position, ahead) = (view.position(place.number)?, view.ahead(place.number)?);
        line.note_seen(place.number);
        Some(self.waiting(line, place, position, ahead, now))
    }

    /// The answer to someone who was called, or was here before a loss: the store and the ledger know.
    async fn ask(&self, line: &Line, place: Place, now: Timestamp) -> Result<PlaceStatus, Error> {
        let at = self.at(line, now);
        // Twice: what the store does not know re-enters, and is then known.
        for _ in 0..2 {
            let resolved = self.0.ports.store.resolve(at, &[place]).await.map_err(Error::LineStore)?;
            let InEpoch::Current(resolutions) = resolved else { return Err(Error::LineUnavailable) };
            let resolution = resolutions.into_iter().next().ok_or(Error::LineUnavailable)?;
            match resolution {
                Resolution::Waiting { number, ahead } => {
                    line.note_entered(place.number);
                    let place = Place { number, ..place };
                    let status = self.waiting_by_view(line, place, now);
                    return Ok(status.unwrap_or_else(|| self.waiting(line, place, 1, ahead, now)));
                }
                Resolution::Admitted(grant) => return Ok(self.admitted(line, grant, now)),
                Resolution::Done => return Ok(self.over(line, place, PlaceState::Done, now)),
                Resolution::Expired => return Ok(self.over(line, place, PlaceState::Expired, now)),
                Resolution::Unknown => {
                    let past = self.0.ports.ledger.past_grants(line.performance, &[place.number]).await?;
                    let grant = match past.first() {
                        Some(PastGrant::Ended) => return Ok(self.over(line, place, PlaceState::Done, now)),
                        Some(PastGrant::Granted(grant)) if !grant.is_live(now) => {
                            return Ok(self.over(line, place, PlaceState::Expired, now));
                        }
                        Some(PastGrant::Granted(grant)) => Some(*grant),
                        Some(PastGrant::Never) | None => None,
                    };
                    let entry = ReEntry { place, grant };
                    if self.0.ports.store.re_enter(at, &[entry]).await.map_err(Error::LineStore)? == InEpoch::Lost {
                        return Err(Error::LineUnavailable);
                    }
                }
            }
        }
        Err(Error::LineUnavailable)
    }

    fn waiting(&self, line: &Line, place: Place, position: u64, ahead: u64, now: Timestamp) -> PlaceStatus {
        let (live, view) = (line.live_sale(), line.view());
        let sale_state = live.state(now);
        let (distance, eta) = match sale_state {
            SaleState::Open => (ahead + 1, view.wait(ahead + 1).map(pace::eta)),
            SaleState::Scheduled => (ahead + 1, None),
            // Nothing moves: asking often would tell nobody anything.
            SaleState::Paused | SaleState::Closed | SaleState::SoldOut => (u64::MAX, None),
        };
        let poll_after = pace::poll_after(distance, place.number, now, live.policy.presence_window);
        line.note_poll_due(now.plus(poll_after));
        PlaceStatus {
            place: self.0.keys.sign_place(place),
            number: place.number,
            state: PlaceState::Waiting,
            position,
            ahead,
            poll_after,
            eta,
            pass: None,
            sale_state,
        }
    }

    fn admitted(&self, line: &Line, grant: Grant, now: Timestamp) -> PlaceStatus {
        let place = Place { performance: line.performance, number: grant.number, account: grant.account };
        line.note_settled(grant.number);
        line.note_granted(&[grant]);
        let token = self.0.keys.sign_pass(line.performance, grant);
        let pass = Some(PassToken { token, expires_at: grant.expires_at });
        PlaceStatus { pass, ..self.over(line, place, PlaceState::Admitted, now) }
    }

    /// The answer to someone who does not wait any more.
    fn over(&self, line: &Line, place: Place, state: PlaceState, now: Timestamp) -> PlaceStatus {
        let live = line.live_sale();
        PlaceStatus {
            place: self.0.keys.sign_place(place),
            number: place.number,
            state,
            position: 0,
            ahead: 0,
            poll_after: pace::poll_after(u64::MAX, place.number, now, live.policy.presence_window),
            eta: None,
            pass: None,
            sale_state: live.state(now),
        }
    }

    /// Makes sure that the store holds the line in the epoch that this server believes in.
    async fn ensure_open(&self, line: &Line) -> Result<(), Error> {
        if self.holds(line) {
            return Ok(());
        }
        let _one_at_a_time = self.0.opening.lock().await;
        let now = self.0.ports.clock.now();
        if !self.holds(line) && line.has_just_failed_to_open(now) {
            return Err(Error::LineUnavailable);
        }
        let opened = self.open_line(line).await;
        if opened.is_err() {
            line.note_failed_to_open(now);
        }
        opened
    }

    async fn open_line(&self, line: &Line) -> Result<(), Error> {
        // A loss, or another server's newer epoch, sends us round again; each round is a newer epoch.
        for _ in 0..4 {
            if self.holds(line) {
                return Ok(());
            }
            if self.epoch() == Epoch::ZERO {
                self.adopt(self.0.ports.ledger.epoch().await?).await?;
            }
            self.open_in_epoch(line, self.epoch()).await?;
        }
        Err(Error::LineUnavailable)
    }

    /// Whether the line was opened in the epoch that this server believes in.
    fn holds(&self, line: &Line) -> bool {
        line.epoch() == self.epoch() && line.epoch() != Epoch::ZERO
    }

    async fn adopt(&self, found: Epoch) -> Result<(), Error> {
        let epoch = if found == Epoch::ZERO { self.0.ports.ledger.begin_epoch(found).await? } else { found };
        self.0.epoch.fetch_max(epoch.get(), Ordering::AcqRel);
        Ok(())
    }

    async fn open_in_epoch(&self, line: &Line, epoch: Epoch) -> Result<(), Error> {
        let Ports { ledger, store, clock, .. } = &self.0.ports;
        let now = clock.now();
        let opening = match ledger.open_line(line.performance, epoch, BLOCK, now).await? {
            Superseded::No(opening) => opening,
            Superseded::By(newer) => return self.adopt(newer).await,
        };
        let at = At { performance: line.performance, epoch, now };
        let contribution = line.contribution(&opening, now);
        let is_there = if opening.is_first {
            store.open(at, &contribution).await.map(InEpoch::Current)
        } else {
            store.contribute(at, &contribution).await
        };
        if is_there.map_err(Error::LineStore)? == InEpoch::Current(()) {
            let answers = store.refresh(epoch, now, &[(line.performance, Cursor::default())]).await;
            if let Some(InEpoch::Current(changes)) = answers.map_err(Error::LineStore)?.into_iter().next() {
                line.opened(epoch, opening.ceiling, changes, now);
                tracing::info!(performance = %line.performance, epoch = epoch.get(), "the line is open");
                return Ok(());
            }
        }
        if !opening.is_first && line.may_be_opening(epoch, now, self.0.settings.opening_grace) {
            return Err(Error::LineUnavailable);
        }
        // Opened in this epoch and not there: lost. Whoever sees it first begins the next epoch.
        let next = ledger.begin_epoch(epoch).await?;
        // After a restart of an in-process line that is how it goes; otherwise it is worth a look.
        tracing::info!(performance = %line.performance, epoch = next.get(), "the line's store is empty, rebuilding the line");
        self.adopt(next).await
    }

    /// Notes that the store has lost a line, so that the next [`Self::ensure_open`] rebuilds it.
    fn lost(&self, line: &Line) -> Error {
        line.close();
        Error::LineUnavailable
    }

    async fn admit(&self, line: &Line) -> Result<(), Error> {
        let (live, now) = (line.live_sale(), self.0.ports.clock.now());
        let terms = live.terms(self.0.settings.tick, now);
        for _ in 0..ADMIT_CALLS_MAX {
            let admitted = self.0.ports.store.admit(self.at(line, now), &terms, EXAMINE_MAX);
            match admitted.await.map_err(Error::LineStore)? {
                InEpoch::Lost => return Err(self.lost(line)),
                InEpoch::Current(admission) => {
                    line.note_granted(&admission.granted);
                    if !admission.more {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what changed of all lines, in one round trip.
    async fn refresh(&self, lines: &[&Arc<Line>]) -> Result<(), Error> {
        let (epoch, now) = (self.epoch(), self.0.ports.clock.now());
        // One that was just opened in a newer epoch than the others is read anew already.
        let lines: Vec<_> = lines.iter().filter(|line| line.epoch() == epoch).collect();
        let asked: Vec<_> = lines.iter().map(|line| (line.performance, line.view().cursor())).collect();
        let answers = self.0.ports.store.refresh(epoch, now, &asked).await.map_err(Error::LineStore)?;
        let mut refreshed = Ok(());
        for (line, answer) in lines.iter().zip(answers) {
            match answer {
                InEpoch::Current(changes) => line.apply(changes, now),
                InEpoch::Lost => refreshed = Err(self.lost(line)),
            }
        }
        refreshed
    }

    async fn save(&self, line: &Line) -> Result<(), Error> {
        let Some((mark, granted)) = line.unsaved(self.0.ports.clock.now()) else { return Ok(()) };
        let saved = self.0.ports.ledger.save(line.performance, line.epoch(), &mark, &granted).await;
        match saved {
            Ok(Superseded::No(())) => {
                line.saved(mark);
                Ok(())
            }
            Ok(Superseded::By(newer)) => {
                line.put_back_granted(&granted);
                self.adopt(newer).await
            }
            Err(error) => {
                line.put_back_granted(&granted);
                Err(Error::Store(error))
            }
        }
    }
}
