//! Properties of the judge alone, over a world that stores what it writes: one owner per seat, limits, twins, complete
//! conflicts, the order of arrival, best seats without a herd, and money that ends once.

#![expect(clippy::unwrap_used, reason = "a test fails where it is")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use usher_kernel::{
    AccountId, AttemptId, Claim, Fingerprint, Money, Operation, PerformanceId, ReservationId, SeatId, StoredClaim,
    TicketId, Timestamp,
};
use usher_reservation::best::{Hall, HallSeat};
use usher_reservation::judge::hold::{Desk, Facts, FreeSeatsFound, FreeSeatsWanted, Owned, Progress, hopeless};
use usher_reservation::judge::payment::{self, Attempt, AttemptState, BeginFacts, SettleFacts};
use usher_reservation::judge::{HoldingWrites, Holdings, SeatChange, SeatHolding, SeatState, lapse};
use usher_reservation::model::{PassNumber, TransitionError};
use usher_reservation::ports::{
    HoldCommand, HoldOutcome, PayCommand, PayOutcome, ReleaseCommand, ReleaseOutcome, SeatWish, SettleCommand, Settled,
    Verdict,
};
use usher_reservation::{Reservation, SeatStatus, State};

const PERFORMANCE: PerformanceId = PerformanceId::from_bytes([1; 16]);
const START: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const HOLD_TTL: Duration = Duration::from_secs(300);
const SEAT_LIMIT: u32 = 4;
const BUYERS: u8 = 4;

/// A store in its simplest form. It checks every guard that a database would check.
#[derive(Clone)]
struct World {
    hall: Arc<Hall>,
    seats: BTreeMap<SeatId, SeatState>,
    reservations: BTreeMap<ReservationId, Reservation>,
    attempts: BTreeMap<AttemptId, Attempt>,
    holds: HashMap<(AccountId, String), StoredClaim<ReservationId>>,
    payments: HashMap<(AccountId, String), StoredClaim<AttemptId>>,
    ended_passes: HashSet<(PerformanceId, PassNumber)>,
    sold: BTreeMap<SeatId, ReservationId>,
    refunds: BTreeMap<AttemptId, Money>,
    captured: BTreeSet<AttemptId>,
    now: Timestamp,
}

impl World {
    /// A hall of some rows of `A`, graded `VIP` in the first row and `R` behind it.
    fn new(rows: u16, seats_per_row: u16) -> Self {
        let currency = "KRW".parse().unwrap();
        let grade = |row: u16| if row == 1 { ("VIP", 200) } else { ("R", 100) };
        let (mut hall, mut seats) = (Vec::new(), BTreeMap::new());
        for (row, number) in (1..=rows).flat_map(|row| (1..=seats_per_row).map(move |number| (row, number))) {
            let (name, price) = grade(row);
            let x = 2 * i32::from(number) - i32::from(seats_per_row) - 1;
            hall.push(HallSeat { section: "A".into(), row, number, grade: name.into(), price, x });
            let seat = SeatId::new("A", row, number).unwrap();
            let state = SeatState {
                performance: PERFORMANCE,
                seat: seat.clone(),
                grade: name.into(),
                price: Money::new(price, currency).unwrap(),
                holding: SeatHolding::Nobody,
                version: 1,
            };
            seats.insert(seat, state);
        }
        Self {
            hall: Arc::new(Hall::new(hall)),
            seats,
            reservations: BTreeMap::new(),
            attempts: BTreeMap::new(),
            holds: HashMap::new(),
            payments: HashMap::new(),
            ended_passes: HashSet::new(),
            sold: BTreeMap::new(),
            refunds: BTreeMap::new(),
            captured: BTreeSet::new(),
            now: START,
        }
    }

    fn hold(&mut self, commands: &[HoldCommand]) -> Vec<HoldOutcome> {
        let seats: Vec<_> = self.seats.values().cloned().collect();
        let hopeless = hopeless(commands, &seats, self.now);
        let claims = commands.iter().map(|command| {
            let stored = self.holds.get(&key(&command.claim)).copied();
            let earlier = command.claim.compare(Operation::Hold, stored, self.now);
            earlier.try_map(|id| Ok::<_, ()>(self.reservations[&id].clone())).unwrap()
        });
        let mut buyers: HashMap<_, Vec<_>> = HashMap::new();
        for reservation in self.reservations.values() {
            if let Some(owned) = Owned::of(reservation) {
                buyers.entry((reservation.performance, reservation.account)).or_default().push(owned);
            }
        }
        let facts = Facts {
            claims: claims.collect(),
            buyers,
            ended_passes: self.ended_passes.clone(),
            seats,
            halls: BTreeMap::from([(PERFORMANCE, Arc::clone(&self.hall))]),
        };
        let mut desk = Desk::new(commands.iter().collect(), facts, self.now);
        while let Progress::NeedFacts(wanted) = desk.decide().unwrap() {
            let found = self.free_seats(&wanted);
            desk.learn(&wanted, found);
        }
        let locked = desk.seats_to_lock().into_values().flatten().map(|seat| self.seats[seat].clone()).collect();
        let (outcomes, writes) = desk.close(locked).unwrap();
        for (claim, subject) in writes.claims.new {
            let stored = stored(claim, Operation::Hold, subject, self.now);
            let before = self.holds.insert(key(claim), stored);
            assert!(before.is_none_or(|before| Claim::is_over(before.stored_at, self.now)), "a key is used once");
        }
        for reservation in writes.reservations {
            assert_eq!(self.reservations.insert(reservation.id, reservation), None);
        }
        self.change(writes.seats);
        let n_refused = hopeless.iter().filter(|&&position| matches!(outcomes[position], HoldOutcome::Held(_))).count();
        assert_eq!(n_refused, 0, "a command that names a taken seat is not held");
        outcomes
    }

    /// The first `limit` free seats of the grade; like a database, it stops in the middle of a row.
    fn free_seats(&self, wanted: &FreeSeatsWanted) -> FreeSeatsFound {
        let mut free: Vec<_> = self
            .seats
            .values()
            .filter(|state| state.grade == wanted.grade_name && state.is_free(self.now))
            .map(|state| (self.hall.index(&state.seat).unwrap(), state.holding.held_until()))
            .filter(|(index, _)| *index >= wanted.first)
            .collect();
        free.sort_unstable();
        let limit = usize::try_from(wanted.limit).unwrap();
        let is_all = free.len() <= limit;
        free.truncate(limit);
        let known_before = free.last().filter(|_| !is_all).map(|(last, _)| last + 1);
        FreeSeatsFound { seats: free, known_before }
    }

    fn holdings(&self, ids: impl IntoIterator<Item = ReservationId>) -> Holdings {
        let ids: BTreeSet<_> = ids.into_iter().collect();
        let found: Vec<_> = ids.iter().filter_map(|id| self.reservations.get(id).cloned()).collect();
        let seats = Holdings::seats_of(&found).into_values().flatten().map(|seat| self.seats[seat].clone());
        let seats: Vec<_> = seats.collect();
        Holdings::new(found, seats)
    }

    fn begin(&mut self, commands: &[PayCommand]) -> Vec<PayOutcome> {
        let claims = commands.iter().map(|command| {
            let stored = self.payments.get(&key(&command.claim)).copied();
            let earlier = command.claim.compare(Operation::Confirm, stored, self.now);
            let made =
                |id| Ok::<_, ()>((self.attempts[&id], self.reservations[&self.attempts[&id].reservation].clone()));
            earlier.try_map(made).unwrap()
        });
        let holdings = self.holdings(commands.iter().map(|command| command.reservation));
        let facts = BeginFacts { claims: claims.collect(), holdings };
        let (outcomes, writes) = payment::begin_all(commands, facts, self.now);
        for (claim, subject) in writes.claims.new {
            self.payments.insert(key(claim), stored(claim, Operation::Confirm, subject, self.now));
        }
        for attempt in writes.attempts {
            assert_eq!(self.attempts.insert(attempt.id, attempt), None);
        }
        self.write(writes.holdings);
        outcomes
    }

    fn settle(&mut self, commands: &[SettleCommand]) -> Vec<Option<Settled>> {
        let ids: BTreeSet<_> = commands.iter().map(|command| command.attempt).collect();
        let attempts: Vec<_> = ids.iter().filter_map(|id| self.attempts.get(id).copied()).collect();
        let holdings = self.holdings(attempts.iter().map(|attempt| attempt.reservation));
        let (outcomes, writes) = payment::settle_all(commands, SettleFacts { attempts, holdings }, self.now).unwrap();
        for command in commands {
            if matches!(command.verdict, Verdict::Captured(_)) && self.attempts.contains_key(&command.attempt) {
                self.captured.insert(command.attempt);
            }
        }
        self.write(writes.holdings);
        for sale in writes.sales {
            assert_eq!(self.sold.insert(sale.ticket.seat, sale.reservation), None, "a seat is sold once");
        }
        self.ended_passes.extend(writes.ended_passes);
        for due in writes.refunds {
            assert_eq!(self.refunds.insert(due.attempt, due.amount), None, "one refund per attempt");
        }
        for (account, attempt) in writes.freed_claims {
            self.payments.retain(|(owner, _), stored| *owner != account || stored.subject != attempt);
        }
        for end in writes.attempts {
            let attempt = self.attempts.get_mut(&end.attempt).unwrap();
            assert_eq!(attempt.state, end.before);
            attempt.state = end.after;
        }
        outcomes
    }

    fn release(&mut self, commands: &[ReleaseCommand]) -> Vec<ReleaseOutcome> {
        let holdings = self.holdings(commands.iter().map(|command| command.reservation));
        let (outcomes, writes) = lapse::release_all(commands, holdings, self.now);
        self.write(writes);
        outcomes
    }

    fn expire(&mut self) -> usize {
        let (n_expired, writes) = lapse::expire_all(self.holdings(self.reservations.keys().copied()), self.now);
        self.write(writes);
        n_expired
    }

    fn write(&mut self, writes: HoldingWrites) {
        for (reservation, read) in writes.reservations {
            let before = self.reservations.insert(reservation.id, reservation).unwrap();
            assert_eq!(before.version, read);
        }
        self.change(writes.seats);
    }

    fn change(&mut self, changes: Vec<SeatChange>) {
        for change in changes {
            let state = self.seats.get_mut(&change.seat).unwrap();
            assert_eq!((state.version + 1, state.holding), (change.version, change.before));
            assert!(state.is_free(self.now) || state.holding.owner().is_some());
            (state.holding, state.version) = (change.after, change.version);
        }
    }

    /// What must be true at any time.
    fn check(&self) {
        for state in self.seats.values() {
            let Some(owner) = state.holding.owner() else { continue };
            let reservation = &self.reservations[&owner];
            assert!(reservation.seats.iter().any(|reserved| reserved.seat == state.seat), "the owner lists its seat");
            let is_sold = state.holding.status() == SeatStatus::Sold;
            assert_eq!(is_sold, matches!(reservation.state, State::Confirmed { .. }), "{state:?} of {reservation:?}");
            assert_eq!(self.sold.get(&state.seat), is_sold.then_some(&owner));
        }
        for reservation in self.reservations.values() {
            let owns = |seat: &SeatId| self.seats[seat].holding.owner() == Some(reservation.id);
            if matches!(reservation.state, State::Held) && self.now < reservation.held_until {
                assert!(reservation.seats.iter().all(|reserved| owns(&reserved.seat)), "a live hold owns its seats");
            }
            if let State::Confirmed { tickets, .. } = &reservation.state {
                assert_eq!(tickets.len(), reservation.seats.len());
                assert!(self.ended_passes.contains(&(PERFORMANCE, reservation.pass)), "its pass is used up");
            }
        }
        for buyer in 0..BUYERS {
            let all = self.reservations.values().filter(|one| one.account == account(buyer));
            let counted: Vec<_> =
                all.filter(|one| one.is_live(self.now) || matches!(one.state, State::Confirmed { .. })).collect();
            let n_seats: usize = counted.iter().map(|one| one.seats.len()).sum();
            assert!(n_seats <= SEAT_LIMIT as usize, "buyer {buyer} has {n_seats} seats");
            let mut passes = HashSet::new();
            assert!(counted.iter().all(|one| passes.insert(one.pass)), "a pass carries one reservation");
        }
        for attempt in self.attempts.values() {
            let was_captured = self.captured.contains(&attempt.id);
            let is_sold = attempt.state == AttemptState::Captured;
            let is_refunded = self.refunds.get(&attempt.id) == Some(&attempt.amount);
            assert_eq!((is_sold as u8) + (is_refunded as u8), was_captured as u8, "money is a sale or goes back");
        }
    }
}

fn key(claim: &Claim) -> (AccountId, String) {
    (claim.account, claim.key.as_str().to_owned())
}

fn stored<S>(claim: &Claim, operation: Operation, subject: S, now: Timestamp) -> StoredClaim<S> {
    StoredClaim { fingerprint: claim.fingerprint, operation: Some(operation), subject, stored_at: now }
}

fn account(buyer: u8) -> AccountId {
    AccountId::from_bytes([buyer + 1; 16])
}

fn id(n: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// One step of a schedule. Numbers name what exists by then, as far as anything does.
#[derive(Clone, Debug)]
enum Step {
    Hold(Vec<Wish>),
    Begin(Vec<(u8, u8)>),
    Settle(Vec<(u8, Said)>),
    Release(Vec<(u8, u8)>),
    Expire,
    Wait(Duration),
}

#[derive(Clone, Debug)]
struct Wish {
    buyer: u8,
    pass: u8,
    key: u8,
    seats: SeatWish<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Said {
    Captured,
    Declined,
    Unheard,
}

fn wish() -> impl Strategy<Value = Wish> {
    let named = prop::collection::btree_set(0_u8..12, 1..=3).prop_map(|seats| SeatWish::Named(Vec::from_iter(seats)));
    let grade = prop_oneof![Just(None), Just(Some("VIP".to_owned())), Just(Some("R".to_owned()))];
    let best = (1_u32..=3, grade).prop_map(|(count, grade)| SeatWish::Best { count, grade });
    let seats = prop_oneof![3 => named, 2 => best];
    (0..BUYERS, 0_u8..2, 0_u8..6, seats).prop_map(|(buyer, pass, key, seats)| Wish { buyer, pass, key, seats })
}

fn step() -> impl Strategy<Value = Step> {
    let said = prop_oneof![3 => Just(Said::Captured), 1 => Just(Said::Declined), 1 => Just(Said::Unheard)];
    prop_oneof![
        4 => prop::collection::vec(wish(), 1..=6).prop_map(Step::Hold),
        3 => prop::collection::vec((any::<u8>(), 0_u8..3), 1..=3).prop_map(Step::Begin),
        3 => prop::collection::vec((any::<u8>(), said), 1..=3).prop_map(Step::Settle),
        1 => prop::collection::vec((any::<u8>(), 0..BUYERS), 1..=3).prop_map(Step::Release),
        1 => Just(Step::Expire),
        2 => prop_oneof![Just(1), Just(HOLD_TTL.as_secs() - 1), Just(HOLD_TTL.as_secs()), Just(90_000)]
            .prop_map(|secs| Step::Wait(Duration::from_secs(secs))),
    ]
}

/// Turns steps into commands with ids of their own.
struct Script {
    n_ids: u32,
    seats: Vec<SeatId>,
}

impl Script {
    fn new(world: &World) -> Self {
        Self { n_ids: 0, seats: world.seats.keys().cloned().collect() }
    }

    fn next(&mut self) -> [u8; 16] {
        self.n_ids += 1;
        id(self.n_ids)
    }

    fn hold(&mut self, wish: &Wish) -> HoldCommand {
        let seats = match &wish.seats {
            SeatWish::Named(picks) => {
                let names = picks.iter().map(|pick| self.seats[usize::from(*pick) % self.seats.len()].clone());
                let mut seen = BTreeSet::new();
                SeatWish::Named(names.filter(|name| seen.insert(name.clone())).collect())
            }
            SeatWish::Best { count, grade } => SeatWish::Best { count: *count, grade: grade.clone() },
        };
        let mut fingerprint = [0; 32];
        for (byte, text) in fingerprint.iter_mut().zip(format!("{seats:?}").bytes().rev()) {
            *byte = text;
        }
        let account = account(wish.buyer);
        HoldCommand {
            id: ReservationId::from_bytes(self.next()),
            performance: PERFORMANCE,
            account,
            pass: PassNumber(u64::from(wish.buyer) * 2 + u64::from(wish.pass) + 1),
            seats,
            seat_limit: SEAT_LIMIT,
            hold_ttl: HOLD_TTL,
            claim: Claim {
                account,
                key: format!("hold-{}", wish.key).parse().unwrap(),
                fingerprint: Fingerprint(fingerprint),
            },
        }
    }

    fn run(&mut self, world: &mut World, step: &Step) {
        let pick = |n: u8, len: usize| (len > 0).then(|| usize::from(n) % len);
        match step {
            Step::Hold(wishes) => {
                let commands: Vec<_> = wishes.iter().map(|wish| self.hold(wish)).collect();
                check_holds(world, &commands);
            }
            Step::Begin(payments) => {
                let known: Vec<_> = world.reservations.values().map(|one| (one.id, one.account)).collect();
                let commands = payments.iter().filter_map(|(which, key)| {
                    let (reservation, account) = known[pick(*which, known.len())?];
                    let mut fingerprint = [0; 32];
                    fingerprint[..16].copy_from_slice(reservation.as_bytes());
                    Some(PayCommand {
                        reservation,
                        account,
                        attempt: AttemptId::from_bytes(self.next()),
                        resolve_after: Duration::from_secs(10),
                        claim: Claim {
                            account,
                            key: format!("pay-{key}").parse().unwrap(),
                            fingerprint: Fingerprint(fingerprint),
                        },
                    })
                });
                let commands: Vec<_> = commands.collect();
                alike(world, &commands, World::begin);
            }
            Step::Settle(ends) => {
                let known: Vec<_> = world.attempts.values().copied().collect();
                let commands = ends.iter().filter_map(|(which, said)| {
                    let attempt = known[pick(*which, known.len())?];
                    let n_seats = world.reservations[&attempt.reservation].seats.len();
                    let verdict = match said {
                        Said::Captured => Verdict::Captured(
                            (0..n_seats).map(|_| (TicketId::from_bytes(self.next()), "CODE".into())).collect(),
                        ),
                        Said::Declined => Verdict::Declined,
                        Said::Unheard => Verdict::Unheard,
                    };
                    Some(SettleCommand { attempt: attempt.id, verdict })
                });
                let commands: Vec<_> = commands.collect();
                alike(world, &commands, World::settle);
            }
            Step::Release(releases) => {
                let known: Vec<_> = world.reservations.keys().copied().collect();
                let commands = releases.iter().filter_map(|(which, buyer)| {
                    let reservation = known[pick(*which, known.len())?];
                    Some(ReleaseCommand { reservation, account: account(*buyer) })
                });
                let commands: Vec<_> = commands.collect();
                alike(world, &commands, World::release);
            }
            Step::Expire => {
                let n_lapsed = world
                    .reservations
                    .values()
                    .filter(|one| matches!(one.state, State::Held) && world.now >= one.held_until);
                let n_lapsed = n_lapsed.count();
                assert_eq!(world.expire(), n_lapsed);
                assert_eq!(world.expire(), 0, "only once");
            }
            Step::Wait(span) => world.now = world.now.plus(*span),
        }
        world.check();
    }
}

/// A batch is judged as its commands are one by one.
fn alike<C, O: PartialEq + std::fmt::Debug>(world: &mut World, commands: &[C], call: fn(&mut World, &[C]) -> Vec<O>) {
    let mut other = world.clone();
    let one_by_one: Vec<_> = commands.chunks(1).flat_map(|one| call(&mut other, one)).collect();

    let together = call(world, commands);

    assert_eq!(together, one_by_one);
    assert_eq!(
        world.seats.values().map(|state| (state.holding, state.version)).collect::<Vec<_>>(),
        other.seats.values().map(|state| (state.holding, state.version)).collect::<Vec<_>>()
    );
    assert_eq!(world.reservations, other.reservations);
}

/// Holds are answered as one by one; every refusal is true, and names all conflicts.
fn check_holds(world: &mut World, commands: &[HoldCommand]) {
    let mut other = world.clone();
    let mut one_by_one = Vec::new();
    for command in commands {
        let before = other.clone();
        let outcome = other.hold(std::slice::from_ref(command)).remove(0);
        let is_taken = |name: &&SeatId| !before.seats[*name].is_free(before.now);
        match (&outcome, &command.seats) {
            (HoldOutcome::Held(made), SeatWish::Named(names)) => {
                assert_eq!(
                    made.seats.iter().map(|one| &one.seat).collect::<Vec<_>>(),
                    names.iter().collect::<Vec<_>>()
                );
                assert_eq!(names.iter().find(is_taken), None);
            }
            (HoldOutcome::Held(made), SeatWish::Best { count, grade }) => {
                assert_eq!(made.seats.len(), *count as usize);
                assert!(made.seats.iter().all(|one| grade.as_ref().is_none_or(|grade| one.grade == *grade)));
                assert_eq!(made.seats.iter().map(|one| &one.seat).find(is_taken), None);
            }
            (HoldOutcome::Taken(taken), SeatWish::Named(names)) => {
                assert_eq!(taken.iter().collect::<Vec<_>>(), names.iter().filter(is_taken).collect::<Vec<_>>());
            }
            (HoldOutcome::NotEnoughSeats, SeatWish::Best { count, grade }) => {
                let of_grade = |state: &&SeatState| grade.as_ref().is_none_or(|grade| state.grade == *grade);
                let free = before.seats.values().filter(of_grade).filter(|state| state.is_free(before.now));
                assert!(free.count() < *count as usize);
            }
            (HoldOutcome::Taken(_) | HoldOutcome::NotEnoughSeats, _) => panic!("{outcome:?} to {command:?}"),
            (HoldOutcome::UnknownSeats(_) | HoldOutcome::UnknownGrade, _) => panic!("every name is known: {command:?}"),
            (
                HoldOutcome::Replayed(_)
                | HoldOutcome::KeyMismatch
                | HoldOutcome::PassUsed
                | HoldOutcome::PassBusy
                | HoldOutcome::LimitReached,
                _,
            ) => {}
        }
        one_by_one.push(outcome);
    }

    let together = world.hold(commands);

    assert_eq!(together, one_by_one);
    assert_eq!(world.reservations, other.reservations);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The invariants hold after every batch, and a batch is judged as its commands are one by one, in their order.
    #[test]
    fn whatever_is_asked_for_the_rules_hold(steps in prop::collection::vec(step(), 1..=40)) {
        let mut world = World::new(3, 4);
        let mut script = Script::new(&world);
        for step in &steps {
            script.run(&mut world, step);
        }
    }

    /// Of commands with one claim in one batch, the first is held and the others are told of it.
    #[test]
    fn twins_share_one_reservation(n in 2_usize..20, seats in wish()) {
        let mut world = World::new(3, 4);
        let mut script = Script::new(&world);
        let first = script.hold(&seats);
        let twins = (1..n).map(|_| HoldCommand { id: ReservationId::from_bytes(script.next()), ..first.clone() });
        let commands: Vec<_> = std::iter::once(first.clone()).chain(twins).collect();

        let outcomes = world.hold(&commands);

        let HoldOutcome::Held(made) = &outcomes[0] else { panic!("{outcomes:?}") };
        prop_assert_eq!(made.id, first.id);
        prop_assert!(outcomes[1..].iter().all(|outcome| *outcome == HoldOutcome::Replayed(made.clone())));
        prop_assert_eq!(world.reservations.len(), 1);
    }

    /// Buyers who leave the choice to the server all get seats while enough are free, in a hall that is read piece by piece.
    #[test]
    fn best_seats_never_herd(counts in prop::collection::vec(1_u32..=4, 100..200)) {
        let mut world = World::new(30, 20);
        let mut script = Script::new(&world);
        let commands: Vec<_> = counts.iter().map(|&count| {
            let wish = Wish { buyer: 0, pass: 0, key: 0, seats: SeatWish::Best { count, grade: None } };
            let (command, n) = (script.hold(&wish), script.n_ids);
            let account = AccountId::from_bytes(id(n));
            let claim = Claim { account, ..command.claim };
            HoldCommand { account, pass: PassNumber(u64::from(n)), claim, ..command }
        }).collect();
        let mut n_free = 600_u32;

        for (count, outcome) in counts.iter().zip(world.hold(&commands)) {
            if *count <= n_free {
                let HoldOutcome::Held(made) = outcome else { panic!("{n_free} seats are free: {outcome:?}") };
                prop_assert_eq!(made.seats.len(), *count as usize);
                n_free -= count;
            } else {
                prop_assert_eq!(outcome, HoldOutcome::NotEnoughSeats);
            }
        }
        let owned = world.seats.values().filter(|state| state.holding.owner().is_some()).count();
        prop_assert_eq!(owned, 600 - n_free as usize, "each seat went to one buyer");
    }
}

#[test]
fn a_key_is_good_for_one_request() {
    let mut world = World::new(1, 2);
    let mut script = Script::new(&world);
    let command = script.hold(&Wish { buyer: 0, pass: 0, key: 0, seats: SeatWish::Named(vec![0]) });

    assert!(matches!(world.hold(std::slice::from_ref(&command))[..], [HoldOutcome::Held(_)]));
    assert!(matches!(world.hold(std::slice::from_ref(&command))[..], [HoldOutcome::Replayed(_)]));
    let other = HoldCommand { claim: Claim { fingerprint: Fingerprint([9; 32]), ..command.claim.clone() }, ..command };
    assert_eq!(world.hold(&[other]), [HoldOutcome::KeyMismatch]);
}

/// Only clocks that differ can bring this about: a rival with a later clock took over a seat of a hold that is still live
/// by this clock.
#[test]
fn a_payment_needs_every_seat_of_its_hold() {
    let mut world = World::new(1, 2);
    let mut script = Script::new(&world);
    let held = script.hold(&Wish { buyer: 0, pass: 0, key: 0, seats: SeatWish::Named(vec![0, 1]) });
    assert!(matches!(world.hold(std::slice::from_ref(&held))[..], [HoldOutcome::Held(_)]));
    let rival = ReservationId::from_bytes([9; 16]);
    let state = world.seats.first_entry().unwrap().into_mut();
    state.holding = SeatHolding::Held(rival, START.plus(2 * HOLD_TTL));
    let pay = PayCommand {
        reservation: held.id,
        account: held.account,
        attempt: AttemptId::from_bytes([1; 16]),
        resolve_after: Duration::from_secs(10),
        claim: Claim { key: "pay".parse().unwrap(), ..held.claim },
    };

    let outcomes = world.begin(&[pay]);

    assert_eq!(outcomes, [PayOutcome::Refused(TransitionError::HoldExpired)]);
    assert!(world.attempts.is_empty() && world.payments.is_empty());
}
