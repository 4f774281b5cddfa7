//! The state that one server keeps of one line, to answer people without asking the store.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use roaring::RoaringTreemap;
use usher_kernel::{PerformanceId, Timestamp};

use super::Stats;
use crate::pace;
use crate::policy::{Sale, SaleState};
use crate::ports::{AdmitTerms, Contribution, Gate, LineChanges, LineMark, Opening};
use crate::view::Limit;
use crate::{AdmissionPolicy, Epoch, Grant, LineView, PlaceNumber};

/// For how long calls are refused after a failure to open the line. Shorter than any tick, which tries again.
pub(super) const OPENING_PAUSE: Duration = Duration::from_millis(50);

/// A live performance's sale and policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveSale {
    pub(super) sale: Sale,
    pub(super) policy: AdmissionPolicy,
}

impl LiveSale {
    pub(super) fn state(&self, now: Timestamp) -> SaleState {
        self.sale.state(self.policy.state, now)
    }

    fn gate(&self, now: Timestamp) -> Gate {
        match self.state(now) {
            SaleState::Open => Gate::Open,
            SaleState::Scheduled | SaleState::Paused | SaleState::Closed | SaleState::SoldOut => Gate::Shut,
        }
    }

    fn limit(&self, n_active: u64, now: Timestamp) -> Limit {
        let AdmissionPolicy { capacity, rate_per_s, .. } = self.policy;
        match self.gate(now) {
            Gate::Shut => Limit::Shut,
            Gate::Open if rate_per_s > 0 && n_active < u64::from(capacity) => Limit::Rate,
            Gate::Open => Limit::Room,
        }
    }

    fn terms(&self, tick: Duration, now: Timestamp) -> AdmitTerms {
        let gate = self.gate(now);
        let AdmissionPolicy { capacity, rate_per_s, pass_ttl, presence_window, state: _ } = self.policy;
        AdmitTerms { gate, capacity, rate_per_s, tick, pass_ttl, presence_window }
    }
}

/// One line on one server. Locks are held for single operations, never across an await.
pub(super) struct Line {
    pub(super) performance: PerformanceId,
    live: ArcSwap<LiveSale>,
    view: ArcSwap<LineView>,
    /// The epoch that the line was opened in here; 0 while it is not open.
    epoch: AtomicU64,
    opening: Mutex<OpeningAttempts>,
    /// When the last of the polls is due that this server told people to make.
    polls_due_until_ms: AtomicI64,
    ceiling: AtomicU64,
    is_raising: AtomicBool,
    /// The places that were seen since the last merge.
    seen: Mutex<RoaringTreemap>,
    /// The places from earlier epochs that are known to be back in the store.
    entered: Mutex<RoaringTreemap>,
    /// The places that left through this server, or got a pass from it, while its view does not show that yet.
    settled: Mutex<RoaringTreemap>,
    unsaved: Mutex<Unsaved>,
    /// Whether the last save of grants failed.
    is_behind: AtomicBool,
}

/// Held by the one call that raises the ceiling. Dropping it lets another call try, also when the call is cancelled.
pub(super) struct Raising<'a>(&'a Line);

impl Drop for Raising<'_> {
    fn drop(&mut self) {
        self.0.is_raising.store(false, Ordering::Release);
    }
}

/// Results of earlier attempts to open the line.
#[derive(Default)]
struct OpeningAttempts {
    /// The last epoch in which the line was open on this server.
    held: Epoch,
    /// An epoch in which another server opened the line, and since when the line is known to be missing from the store.
    missing: Option<(Epoch, Timestamp)>,
    failed_at: Option<Timestamp>,
}

#[derive(Default)]
struct Unsaved {
    granted: Vec<Grant>,
    /// The places whose grants were noted in this epoch, so that each grant is saved once.
    noted: RoaringTreemap,
    saved: LineMark,
}

impl Line {
    pub(super) fn new(performance: PerformanceId, live: LiveSale) -> Self {
        Self {
            performance,
            live: ArcSwap::from_pointee(live),
            view: ArcSwap::default(),
            epoch: AtomicU64::new(0),
            opening: Mutex::default(),
            polls_due_until_ms: AtomicI64::new(0),
            ceiling: AtomicU64::new(0),
            is_raising: AtomicBool::new(false),
            seen: Mutex::default(),
            entered: Mutex::default(),
            settled: Mutex::default(),
            unsaved: Mutex::default(),
            is_behind: AtomicBool::new(false),
        }
    }

    pub(super) fn live_sale(&self) -> LiveSale {
        **self.live.load()
    }

    pub(super) fn set_live_sale(&self, live: LiveSale) {
        self.live.store(live.into());
    }

    pub(super) fn set_policy(&self, policy: AdmissionPolicy) {
        self.live.rcu(|live| LiveSale { policy, ..**live });
    }

    /// The current terms of admission. The gate is shut while grants cannot be saved: a loss of the store would forget
    /// them, so there must never be more of them than one tick grants.
    pub(super) fn terms(&self, tick: Duration, now: Timestamp) -> AdmitTerms {
        let terms = self.live_sale().terms(tick, now);
        if self.is_behind() { AdmitTerms { gate: Gate::Shut, ..terms } } else { terms }
    }

    fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Acquire)
    }

    pub(super) fn view(&self) -> arc_swap::Guard<std::sync::Arc<LineView>> {
        self.view.load()
    }

    pub(super) fn stats(&self) -> Stats {
        let view = self.view();
        Stats { counts: *view.counts(), admitted_per_s: view.admitted_per_s() }
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch.load(Ordering::Acquire))
    }

    /// What this server knows of the line from before an epoch. If it is the server that opens the line, this includes
    /// what the ledger knows.
    pub(super) fn contribution(&self, opening: &Opening, now: Timestamp) -> Contribution {
        let view = self.view();
        let active = lock(&self.unsaved).granted.iter().filter(|grant| grant.is_live(now)).copied().collect();
        // Admission waits for all polls that are due, so that no one is overtaken by people who poll earlier.
        let due = Timestamp::from_unix_ms(self.polls_due_until_ms.load(Ordering::Acquire));
        let own = Contribution {
            serving: view.counts().serving,
            gone: view.gone().clone(),
            active,
            holds_until: (due > now).then(|| due.plus(pace::LATE_BY_MAX)),
            ..Contribution::default()
        };
        if opening.is_first { self.with_the_ledgers(own, opening, now) } else { own }
    }

    fn with_the_ledgers(&self, own: Contribution, opening: &Opening, now: Timestamp) -> Contribution {
        let (view, mark) = (self.view(), &opening.mark);
        let issued = mark.issued.max(view.counts().issued);
        let mut gone = own.gone;
        if issued < opening.start {
            gone.insert_range(issued.get() + 1..=opening.start.get());
        }
        let waited = mark.waiting.max(view.counts().waiting + view.counts().away);
        let longest = pace::longest_poll_after(waited, self.live_sale().policy.presence_window);
        let reserved_until = mark.active_until.filter(|&until| until > now);
        Contribution {
            start: opening.start,
            serving: mark.serving.max(own.serving),
            gone,
            active: [own.active.as_slice(), opening.live.as_slice()].concat(),
            reserved: reserved_until.map_or(0, |_| u32::try_from(mark.active).unwrap_or(u32::MAX)),
            reserved_until,
            // People who waited, on any server, get the time of one poll to come back. If no one waited, nothing is on
            // hold.
            holds_until: own.holds_until.max((waited > 0).then(|| now.plus(longest).plus(pace::LATE_BY_MAX))),
        }
    }

    /// Notes that the line is open in `epoch`, and begins a new view.
    pub(super) fn opened(&self, epoch: Epoch, ceiling: PlaceNumber, changes: LineChanges, now: Timestamp) {
        lock(&self.entered).clear();
        // A grant of the epoch before may be granted again in this one, and must then be saved again.
        lock(&self.unsaved).noted.clear();
        *lock(&self.opening) = OpeningAttempts { held: epoch, ..OpeningAttempts::default() };
        self.raise_ceiling(ceiling);
        self.view.store(LineView::default().with(changes, Limit::Shut, now).into());
        self.epoch.store(epoch.get(), Ordering::Release);
    }

    /// Whether opening the line failed so recently that a call is refused at once instead of waiting for another try.
    pub(super) fn has_just_failed_to_open(&self, now: Timestamp) -> bool {
        lock(&self.opening).failed_at.is_some_and(|at| now.since(at) < OPENING_PAUSE)
    }

    pub(super) fn note_failed_to_open(&self, now: Timestamp) {
        lock(&self.opening).failed_at = Some(now);
    }

    /// Whether another server, which opened the line in `epoch`, may still be about to put it into the store. False
    /// once this server has seen the line in the store in that epoch, or after `grace`.
    pub(super) fn may_be_opening(&self, epoch: Epoch, now: Timestamp, grace: Duration) -> bool {
        let mut opening = lock(&self.opening);
        if opening.held == epoch {
            return false;
        }
        let since = match opening.missing {
            Some((missing, since)) if missing == epoch => since,
            Some(_) | None => opening.missing.insert((epoch, now)).1,
        };
        now.since(since) < grace
    }

    /// Notes that the store lost the line.
    pub(super) fn close(&self) {
        self.epoch.store(0, Ordering::Release);
    }

    pub(super) fn apply(&self, changes: LineChanges, now: Timestamp) {
        let limit = if self.is_behind() { Limit::Shut } else { self.live_sale().limit(changes.counts.active, now) };
        let view = LineView::clone(&self.view.load()).with(changes, limit, now);
        let mut settled = lock(&self.settled);
        *settled -= view.gone();
        settled.remove_range(..=view.counts().serving.get());
        self.view.store(view.into());
    }

    pub(super) fn ceiling(&self) -> PlaceNumber {
        PlaceNumber::new(self.ceiling.load(Ordering::Acquire))
    }

    pub(super) fn raise_ceiling(&self, ceiling: PlaceNumber) {
        self.ceiling.fetch_max(ceiling.get(), Ordering::AcqRel);
    }

    /// Lets one caller at a time raise the ceiling ahead of need, until it drops the answer. `None` for all others.
    pub(super) fn begin_raising(&self) -> Option<Raising<'_>> {
        (!self.is_raising.swap(true, Ordering::AcqRel)).then_some(Raising(self))
    }

    pub(super) fn note_seen(&self, number: PlaceNumber) {
        lock(&self.seen).insert(number.get());
    }

    /// Notes that a person was told to poll again at `due`.
    pub(super) fn note_poll_due(&self, due: Timestamp) {
        // Most polls are due before the latest one. Then this writes nothing, and other threads keep the value in
        // cache.
        if self.polls_due_until_ms.load(Ordering::Relaxed) < due.unix_ms() {
            self.polls_due_until_ms.fetch_max(due.unix_ms(), Ordering::AcqRel);
        }
    }

    pub(super) fn take_seen(&self) -> RoaringTreemap {
        std::mem::take(&mut *lock(&self.seen))
    }

    pub(super) fn put_back_seen(&self, seen: RoaringTreemap) {
        *lock(&self.seen) |= seen;
    }

    pub(super) fn note_entered(&self, number: PlaceNumber) {
        if number <= self.view().counts().inherited {
            lock(&self.entered).insert(number.get());
        }
    }

    /// Notes that the place does not wait any more, although the view may show it until the next refresh.
    pub(super) fn note_settled(&self, number: PlaceNumber) {
        if number > self.view().counts().serving {
            lock(&self.settled).insert(number.get());
        }
    }

    /// Whether the view alone can answer for a place that was not called yet. It cannot if the place left or is inside,
    /// if it came back into a gap (which looks the same), or if it is from before a loss and was not seen since.
    pub(super) fn knows(&self, number: PlaceNumber) -> bool {
        let view = self.view();
        let n = number.get();
        let has_entered = number > view.counts().inherited || lock(&self.entered).contains(n);
        has_entered && !view.gone().contains(n) && !lock(&self.settled).contains(n)
    }

    /// Notes grants that have to be saved. These are the grants that this server made, and those that it tells people
    /// of: the server that made them may have died before it could save them.
    pub(super) fn note_granted(&self, granted: &[Grant]) {
        let Unsaved { granted: unsaved, noted, .. } = &mut *lock(&self.unsaved);
        unsaved.extend(granted.iter().filter(|grant| noted.insert(grant.number.get())));
    }

    /// Notes that saving these grants failed, and shuts the gate until a save succeeds.
    pub(super) fn note_failed_to_save(&self, granted: &[Grant]) {
        self.put_back_granted(granted);
        if !granted.is_empty() {
            self.is_behind.store(true, Ordering::Release);
        }
    }

    /// Puts grants back that were not saved.
    pub(super) fn put_back_granted(&self, granted: &[Grant]) {
        lock(&self.unsaved).granted.extend_from_slice(granted);
    }

    /// Takes what has to be saved: the mark and the new grants. `None` if the ledger is up to date.
    pub(super) fn unsaved(&self, now: Timestamp) -> Option<(LineMark, Vec<Grant>)> {
        let counts = *self.view().counts();
        let mut unsaved = lock(&self.unsaved);
        let before = unsaved.saved;
        let mark = LineMark {
            serving: counts.serving,
            issued: counts.issued,
            waiting: counts.waiting + counts.away,
            active: counts.active,
            active_until: before.active_until,
        };
        if unsaved.granted.is_empty() && mark == before {
            return None;
        }
        // A pass granted now would expire last.
        let latest = (mark.active > 0).then(|| now.plus(self.live_sale().policy.pass_ttl));
        let mark = LineMark { active_until: before.active_until.max(latest), ..mark };
        Some((mark, std::mem::take(&mut unsaved.granted)))
    }

    pub(super) fn saved(&self, mark: LineMark) {
        lock(&self.unsaved).saved = mark;
        self.is_behind.store(false, Ordering::Release);
    }
}

/// Ignores poison: no panic under one of these locks can leave an inconsistent state behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
