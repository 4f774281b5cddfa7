//! Random calls and losses of a small line, compared with a model of its promises.

use std::collections::HashMap;

use proptest::prelude::*;
use usher_kernel::PerformanceId;
use usher_queue::LineView;
use usher_queue::view::Limit;

use super::*;

const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const N_ACCOUNTS: u8 = 6;
const CAPACITY: u32 = 3;
const BLOCK: u64 = 20;
const PASS_TTL: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(8);

#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    /// The owner of one of the tokens given out polls, as [`poll`] does it.
    Poll(prop::sample::Index),
    Leave(prop::sample::Index),
    /// A reservation uses up a pass, or an operator ends it.
    EndPass(prop::sample::Index),
    /// A server merges the accounts that it saw: one bit each.
    Merge(u8),
    Admit(u32),
    Wait(u64),
    Refresh,
    SetGate(Gate),
    /// The line is lost. `known` has a bit for each live pass that is known; the others may be shown later.
    Lose {
        known: u8,
        hold_ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let token = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..N_ACCOUNTS).prop_map(Step::Join),
        6 => token().prop_map(Step::Poll),
        2 => token().prop_map(Step::Leave),
        2 => token().prop_map(Step::EndPass),
        4 => any::<u8>().prop_map(Step::Merge),
        8 => (0_u32..5).prop_map(Step::Admit),
        6 => (0_u64..4_000).prop_map(Step::Wait),
        4 => Just(Step::Refresh),
        1 => prop_oneof![Just(Gate::Open), Just(Gate::Open), Just(Gate::Shut)].prop_map(Step::SetGate),
        1 => (any::<u8>(), 0_u64..3_000).prop_map(|(known, hold_ms)| Step::Lose { known, hold_ms }),
    ]
}

/// The part that survives a loss: the passes granted, and the places that ended.
#[derive(Default)]
struct Ledger {
    granted: HashMap<PlaceNumber, Grant>,
    ended: HashMap<PlaceNumber, Resolution>,
}

impl Ledger {
    fn live(&self, now: Timestamp) -> Vec<Grant> {
        let is_live = |grant: &&Grant| grant.is_live(now) && !self.ended.contains_key(&grant.number);
        let mut live: Vec<_> = self.granted.values().filter(is_live).copied().collect();
        live.sort_by_key(|grant| grant.number);
        live
    }
}

struct World {
    line: Line,
    ledger: Ledger,
    now: Timestamp,
    terms: AdmitTerms,
    ceiling: u64,
    /// The tokens given out.
    places: Vec<Place>,
    /// The last number that each account was given.
    current: HashMap<AccountHash, PlaceNumber>,
    view: LineView,
}

fn account(index: u8) -> AccountHash {
    AccountHash::from_bytes([index; 16])
}

/// Resolves a place token as a server does, with a re-entry from the ledger if the line does not know it.
fn poll(line: &mut Line, ledger: &Ledger, now: Timestamp, place: Place) -> Resolution {
    let resolve = |line: &mut Line| line.resolve(now, &[place])[0];
    match (resolve(line), ledger.ended.get(&place.number)) {
        (Resolution::Unknown, Some(ended)) => *ended,
        (Resolution::Unknown, None) => {
            line.re_enter(now, &[ReEntry { place, grant: ledger.granted.get(&place.number).copied() }]);
            resolve(line)
        }
        (answer, _) => answer,
    }
}

impl World {
    fn new(rate_per_s: u32) -> Self {
        let terms = AdmitTerms {
            gate: Gate::Open,
            capacity: CAPACITY,
            rate_per_s,
            tick: Duration::from_secs(1),
            pass_ttl: PASS_TTL,
            presence_window: WINDOW,
        };
        let now = Timestamp::from_unix_ms(1_000_000);
        Self {
            line: Line::open(Epoch::new(1), now, &Contribution::default()),
            ledger: Ledger::default(),
            now,
            terms,
            ceiling: BLOCK,
            places: Vec::new(),
            current: HashMap::new(),
            view: LineView::default(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Join(index) => self.join(account(*index)),
            Step::Poll(token) => self.with_token(*token, |world, place| {
                let answer = poll(&mut world.line, &world.ledger, world.now, place);
                world.note(place.account, answer);
            }),
            Step::Leave(token) => self.with_token(*token, |world, place| {
                let answer = poll(&mut world.line, &world.ledger, world.now, place);
                world.note(place.account, answer);
                let outcome = world.line.leave(world.now, &place);
                let is_there = world.current.get(&place.account) == Some(&place.number);
                assert_eq!(outcome != LeaveOutcome::NotThere, is_there, "{place:?}: {outcome:?}");
                if is_there {
                    world.end(place);
                }
            }),
            Step::EndPass(token) => self.with_token(*token, |world, place| {
                if world.ledger.granted.contains_key(&place.number) {
                    world.line.end_pass(world.now, place.number);
                    world.end(place);
                }
            }),
            Step::Merge(bits) => {
                let seen = |index: &u8| bits & (1 << index) != 0;
                let numbers = (0..N_ACCOUNTS).filter(seen).filter_map(|index| self.current.get(&account(index)));
                self.line.mark_present(self.now, WINDOW, &numbers.map(|number| number.get()).collect());
            }
            Step::Admit(examine_max) => self.admit(*examine_max),
            Step::Wait(ms) => self.wait(Duration::from_millis(*ms)),
            Step::Refresh => self.refresh(),
            Step::SetGate(gate) => self.terms.gate = *gate,
            Step::Lose { known, hold_ms } => self.lose(*known, Duration::from_millis(*hold_ms)),
        }
        self.check();
    }

    fn with_token(&mut self, token: prop::sample::Index, act: impl FnOnce(&mut Self, Place)) {
        if !self.places.is_empty() {
            let place = *token.get(&self.places);
            act(self, place);
        }
    }

    fn join(&mut self, account: AccountHash) {
        let join =
            |world: &mut Self| world.line.join(world.now, &world.terms, PlaceNumber::new(world.ceiling), &[account])[0];
        let mut outcome = join(self);
        if outcome == JoinOutcome::CeilingReached {
            self.ceiling += BLOCK;
            outcome = join(self);
        }
        let number_of = |standing| match standing {
            Standing::Waiting(number) => number,
            Standing::Admitted(grant) => grant.number,
        };
        let before = self.current.get(&account);
        match outcome {
            JoinOutcome::Joined(standing) => {
                let number = number_of(standing);
                assert!(before.is_none_or(|before| *before <= self.line.inherited), "{before:?} was forgotten");
                assert!(number.get() <= self.ceiling);
                assert!(self.places.iter().all(|place| place.number < number), "{number} is no new number");
                self.places.push(Place { performance: PERFORMANCE, number, account });
                self.current.insert(account, number);
                if let Standing::Admitted(grant) = standing {
                    self.grant(grant);
                }
            }
            JoinOutcome::Already(Standing::Waiting(number)) => assert_eq!(before, Some(&number)),
            // An account that joined anew after a loss may get its pass from before the loss.
            JoinOutcome::Already(Standing::Admitted(grant)) => {
                assert!(self.has_granted(&grant));
                self.current.insert(account, grant.number);
            }
            JoinOutcome::CeilingReached => panic!("the ceiling was just raised"),
        }
    }

    /// Notes the number in an answer to an account.
    fn note(&mut self, account: AccountHash, answer: Resolution) {
        match answer {
            Resolution::Waiting { number, .. } | Resolution::Admitted(Grant { number, .. }) => {
                self.current.insert(account, number);
            }
            Resolution::Done | Resolution::Expired | Resolution::Unknown => {}
        }
    }

    fn has_granted(&self, grant: &Grant) -> bool {
        self.ledger.granted.get(&grant.number) == Some(grant)
    }

    fn grant(&mut self, grant: Grant) {
        assert_eq!(grant.expires_at, self.now.plus(PASS_TTL));
        assert!(!self.ledger.ended.contains_key(&grant.number), "{grant:?} has ended");
        assert_eq!(self.ledger.granted.insert(grant.number, grant), None, "granted again");
    }

    fn end(&mut self, place: Place) {
        self.ledger.ended.insert(place.number, Resolution::Done);
        if self.current.get(&place.account) == Some(&place.number) {
            self.current.remove(&place.account);
        }
    }

    fn admit(&mut self, examine_max: u32) {
        let admission = self.line.admit(self.now, &self.terms, examine_max);
        assert!(admission.examined <= examine_max);
        assert!(admission.granted.is_sorted_by_key(|grant| grant.number), "{admission:?}");
        if let (Some(last), Some(waits)) = (admission.granted.last(), self.line.waiting.min()) {
            assert!(last.number.get() < waits, "{waits} waits, but {admission:?}");
        }
        admission.granted.into_iter().for_each(|grant| self.grant(grant));
        if admission.more {
            let examined = self.line.clone().admit(self.now, &self.terms, 1).examined;
            assert_eq!(examined, 1, "more was said, but there is nothing to do");
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now.plus(span);
        let (now, granted, ended) = (self.now, &self.ledger.granted, &mut self.ledger.ended);
        self.current.retain(|_, number| {
            let has_expired = granted.get(number).is_some_and(|grant| !grant.is_live(now));
            if has_expired {
                ended.insert(*number, Resolution::Expired);
            }
            !has_expired
        });
    }

    fn refresh(&mut self) {
        let changes = self.line.changes(self.now, self.view.cursor());
        assert!(changes.counts.serving >= self.view.counts().serving, "serving went back");
        let after = self.view.clone().with(changes, Limit::Room, self.now);
        for Place { number, .. } in &self.places {
            let (Some(now), Some(before)) = (after.position(*number), self.view.position(*number)) else {
                assert!(
                    self.view.position(*number).is_some() || after.position(*number).is_none(),
                    "{number} was called"
                );
                continue;
            };
            assert!((1..=before).contains(&now), "{number} went from {before} to {now}");
        }
        self.view = after;
    }

    /// Loses the line, and opens the next epoch from the view, however old it is.
    fn lose(&mut self, known: u8, hold: Duration) {
        let live = self.ledger.live(self.now);
        let mut gone = self.view.gone().clone();
        gone.insert_range(self.view.counts().issued.get() + 1..=self.ceiling);
        let is_known = |(index, _): &(usize, &Grant)| known & (1 << index) != 0;
        let contribution = Contribution {
            start: PlaceNumber::new(self.ceiling),
            serving: self.view.counts().serving,
            gone,
            active: live.iter().enumerate().filter(is_known).map(|(_, grant)| *grant).collect(),
            reserved: u32::try_from(live.len()).unwrap(),
            reserved_until: live.iter().map(|grant| grant.expires_at).max(),
            holds_until: Some(self.now.plus(hold)),
        };
        self.ceiling += BLOCK;
        self.line = Line::open(self.line.epoch().next(), self.now, &contribution);
        self.line.contribute(self.now, &contribution);
    }

    fn check(&self) {
        assert_adds_up(&self.line);
        let n_live = self.ledger.live(self.now).len();
        assert!(n_live <= CAPACITY as usize, "{n_live} have a pass");
        for place in &self.places {
            let answer = poll(&mut self.line.clone(), &self.ledger, self.now, *place);
            if let Some(ended) = self.ledger.ended.get(&place.number) {
                // A line of a later epoch does not know the place, and may answer with the account's present one.
                let is_of_another = match answer {
                    Resolution::Waiting { number, .. } => number < place.number,
                    Resolution::Admitted(grant) => grant.number != place.number && self.has_granted(&grant),
                    Resolution::Done | Resolution::Expired | Resolution::Unknown => false,
                };
                let is_forgotten = place.number <= self.line.inherited && is_of_another;
                assert!(answer == *ended || is_forgotten, "{place:?} has ended: {answer:?}");
            } else if self.current.get(&place.account) == Some(&place.number) {
                let stands_there = match answer {
                    Resolution::Waiting { number, .. } => number == place.number,
                    Resolution::Admitted(grant) => grant.account == place.account && self.has_granted(&grant),
                    Resolution::Done | Resolution::Expired | Resolution::Unknown => false,
                };
                assert!(stands_there, "{place:?} was lost: {answer:?}");
            }
        }
    }
}

/// Checks that each account has one spot, and that all indices agree.
fn assert_adds_up(line: &Line) {
    let mut line = line.clone();
    line.advance(line.now);
    let n_waiting = line.spots.values().filter(|spot| matches!(spot, Spot::Waiting(_))).count() as u64;
    let n_away = line.spots.values().filter(|spot| matches!(spot, Spot::Away(_))).count() as u64;
    assert_eq!(line.spots.len(), line.holders.len());
    assert_eq!((n_waiting, n_away), (line.waiting.len(), line.n_away));
    assert_eq!(line.spots.len() as u64, n_waiting + n_away + line.expiries.len() as u64);
    for (account, spot) in &line.spots {
        assert_eq!(line.holders.get(&spot.number()), Some(account));
        match spot {
            Spot::Waiting(number) => assert!(line.waiting.contains(number.get())),
            Spot::Away(number) => assert!(!line.waiting.contains(number.get()) && *number <= line.serving),
            Spot::Inside(grant) => {
                assert!(line.expiries.contains(&(grant.expires_at, grant.number)) && grant.number <= line.serving);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_order_room_and_places_hold(
        rate_per_s in prop_oneof![Just(0_u32), 1_u32..4],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(rate_per_s);
        steps.iter().for_each(|step| world.take(step));
    }
}

/// The ledger rules this out; if it happens, the line must stay consistent.
#[test]
fn a_number_is_not_taken_from_the_account_that_has_it() {
    let now = Timestamp::from_unix_ms(1_000_000);
    let start = PlaceNumber::new(BLOCK);
    let mut line = Line::open(Epoch::new(1), now, &Contribution { start, ..Contribution::default() });
    let place = |index| Place { performance: PERFORMANCE, number: PlaceNumber::new(7), account: account(index) };
    let entry = |index| ReEntry { place: place(index), grant: None };

    line.re_enter(now, &[entry(1), entry(2)]);

    let waits = Resolution::Waiting { number: PlaceNumber::new(7), ahead: 0 };
    assert_eq!(line.resolve(now, &[place(1), place(2)]), [waits, Resolution::Unknown]);
    assert_adds_up(&line);
}
