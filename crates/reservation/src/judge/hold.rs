//! Judging holds: a batch of commands, one after the other, each all or nothing.
//!
//! 1. [`hopeless`] selects the commands that name a taken seat; a [`Desk`] refuses them before anything is locked.
//! 2. A [`Desk`] with the facts that were read under locks decides the others. Where the server chooses the seats, it
//!    asks for free seats piece by piece ([`Progress::NeedFacts`]).
//! 3. [`Desk::seats_to_lock`] names the seats that were chosen; [`Desk::close`] compares them once they are locked, and
//!    answers with outcomes and writes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use usher_kernel::{AccountId, KeyUse, Money, PerformanceId, ReservationId, SeatId, Timestamp};

use super::claims::{ClaimWrites, Claims, KeyMismatch};
use super::seat::{SeatChange, SeatHolding, SeatState};
use super::{FactsError, SeatKey, contradiction};
use crate::best::{self, Choice, FreeSeats, Grade, Hall};
use crate::model::{PassNumber, has_lapsed};
use crate::ports::{HoldCommand, HoldOutcome, SeatWish};
use crate::{Reservation, ReservedSeat, State};

/// A buyer: an account in one performance.
pub type Buyer = (PerformanceId, AccountId);

/// What the judge needs to know of a batch.
#[derive(Debug, Default)]
pub struct Facts {
    /// The earlier use of each command's key, in the order of the commands.
    pub claims: Vec<KeyUse<Reservation>>,
    /// The reservations of the commands' buyers.
    pub buyers: HashMap<Buyer, Vec<Owned>>,
    /// Those of the commands' passes that have ended.
    pub ended_passes: HashSet<(PerformanceId, PassNumber)>,
    /// The seats that the commands name, as far as they exist.
    pub seats: Vec<SeatState>,
    /// The halls in which the server chooses seats. Nobody else takes seats there meanwhile.
    pub halls: BTreeMap<PerformanceId, Arc<Hall>>,
}

/// What of a buyer's reservation counts against the seat limit, and against its pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The pass that it was made under.
    pub pass: PassNumber,
    /// How many seats it has.
    pub n_seats: usize,
    /// How long it counts.
    pub counts: Counts,
}

/// How long a reservation counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// It is held: until its hold lapses. Its pass is busy.
    Until(Timestamp),
    /// It is being paid: until the payment ends. Its pass is busy.
    WhilePaying,
    /// It is confirmed: for ever. Its pass has ended.
    ForEver,
}

impl Owned {
    /// What of a reservation counts. `None`: it ended without a sale.
    #[must_use]
    pub fn of(reservation: &Reservation) -> Option<Self> {
        let counts = match reservation.state {
            State::Held => Counts::Until(reservation.held_until),
            State::Paying(_) => Counts::WhilePaying,
            State::Confirmed { .. } => Counts::ForEver,
            State::Released | State::Expired => return None,
        };
        Some(Self { pass: reservation.pass, n_seats: reservation.seats.len(), counts })
    }

    /// Whether it counts against the limit at `now`.
    #[must_use]
    pub fn counts_at(&self, now: Timestamp) -> bool {
        match self.counts {
            Counts::Until(until) => !has_lapsed(until, now),
            Counts::WhilePaying | Counts::ForEver => true,
        }
    }

    fn is_busy(&self, pass: PassNumber) -> bool {
        match self.counts {
            Counts::Until(_) | Counts::WhilePaying => self.pass == pass,
            Counts::ForEver => false,
        }
    }
}

/// Free seats that the judge asks for: the first ones of a grade, in index order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeSeatsWanted {
    /// The performance.
    pub performance: PerformanceId,
    /// The name of the grade.
    pub grade_name: String,
    /// The lowest index to look at.
    pub first: u32,
    /// How many are enough.
    pub limit: u64,
    grade: Grade,
}

/// All free seats of a grade between [`FreeSeatsWanted::first`] and an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeSeatsFound {
    /// Their indices; and since when each is free, if a lapsed hold is on it.
    pub seats: Vec<(u32, Option<Timestamp>)>,
    /// The index below which all free seats are in the list. `None`: the list goes to the end of the hall.
    pub known_before: Option<u32>,
}

/// How far a desk came.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Every command is decided.
    Done,
    /// Read these free seats, tell them to [`Desk::learn`], and decide on.
    NeedFacts(FreeSeatsWanted),
}

/// What a batch of holds changes.
#[derive(Debug, PartialEq, Eq)]
pub struct HoldWrites<'a> {
    /// The new reservations.
    pub reservations: Vec<Reservation>,
    /// The changed seats.
    pub seats: Vec<SeatChange>,
    /// The claims.
    pub claims: ClaimWrites<'a, ReservationId>,
}

/// The positions of those commands that name a taken seat: whatever else is known, they get no seat now.
#[must_use]
pub fn hopeless(commands: &[HoldCommand], seats: &[SeatState], now: Timestamp) -> Vec<usize> {
    let taken = seats.iter().filter(|state| !state.is_free(now));
    let taken: HashSet<_> = taken.map(|state| (state.performance, &state.seat)).collect();
    let names_taken = |command: &HoldCommand| match &command.seats {
        SeatWish::Named(names) => names.iter().any(|name| taken.contains(&(command.performance, name))),
        SeatWish::Best { .. } => false,
    };
    commands.iter().enumerate().filter(|(_, command)| names_taken(command)).map(|(position, _)| position).collect()
}

/// The answer to a hold whose key was used before, without a new judgement. `None`: the key is unused.
#[must_use]
pub fn repeated(earlier: KeyUse<Reservation>, now: Timestamp) -> Option<HoldOutcome> {
    match earlier {
        KeyUse::Unused | KeyUse::Expired => None,
        KeyUse::OtherRequest => Some(HoldOutcome::KeyMismatch),
        KeyUse::SameRequest(made) => Some(HoldOutcome::Replayed(made.at(now))),
    }
}

/// The decision on a command.
#[derive(Debug)]
enum Decision {
    /// It changes nothing, and this is its answer.
    Nothing(HoldOutcome),
    /// It gets these seats.
    Seats(Vec<SeatId>),
    /// It repeats the command at this position, which gets its seats.
    Twin(usize),
}

/// A command's decision, or what the desk must know first.
#[derive(Debug)]
enum Step {
    Decided(Decision),
    NeedFacts(FreeSeatsWanted),
}

/// A command that changes nothing, and its answer.
const fn nothing(outcome: HoldOutcome) -> Step {
    Step::Decided(Decision::Nothing(outcome))
}

/// What was made under a claim.
#[derive(Debug)]
enum Made {
    /// This reservation, by an earlier call.
    Before(Box<Reservation>),
    /// The reservation of the command at this position.
    Now(usize),
}

/// A batch while it is judged.
#[derive(Debug)]
pub struct Desk<'a> {
    now: Timestamp,
    commands: Vec<&'a HoldCommand>,
    decisions: Vec<Decision>,
    claims: Claims<'a, ReservationId, Made>,
    buyers: HashMap<Buyer, Vec<Owned>>,
    ended_passes: HashSet<(PerformanceId, PassNumber)>,
    seats: HashMap<(PerformanceId, SeatId), SeatState>,
    choosing: BTreeMap<PerformanceId, Choosing>,
    /// The seats that were decided away, and until when.
    taken: HashMap<(PerformanceId, SeatId), Timestamp>,
}

impl<'a> Desk<'a> {
    /// A batch, and what is known of it.
    #[must_use]
    pub fn new(commands: Vec<&'a HoldCommand>, facts: Facts, now: Timestamp) -> Self {
        let Facts { claims, buyers, ended_passes, seats, halls } = facts;
        let before = |earlier| match earlier {
            KeyUse::Unused => KeyUse::Unused,
            KeyUse::Expired => KeyUse::Expired,
            KeyUse::SameRequest(made) => KeyUse::SameRequest(Made::Before(Box::new(made))),
            KeyUse::OtherRequest => KeyUse::OtherRequest,
        };
        let uses = commands.iter().map(|command| &command.claim).zip(claims.into_iter().map(before));
        let choosing = halls.into_iter().map(|(performance, hall)| {
            let in_hall = commands.iter().filter(|command| command.performance == performance);
            (performance, Choosing::new(hall, in_hall.map(|command| command.seats.n_chosen()).sum()))
        });
        Self {
            now,
            decisions: Vec::with_capacity(commands.len()),
            claims: Claims::new(uses),
            buyers,
            ended_passes,
            seats: seats.into_iter().map(|state| ((state.performance, state.seat.clone()), state)).collect(),
            choosing: choosing.collect(),
            taken: HashMap::new(),
            commands,
        }
    }

    /// Decides on the commands, in their order, until all are decided or the judge needs to know more.
    ///
    /// # Errors
    /// [`FactsError::Contradiction`] if the free seats that were read are not seats of the hall.
    pub fn decide(&mut self) -> Result<Progress, FactsError> {
        while let Some(&command) = self.commands.get(self.decisions.len()) {
            let decision = match self.decide_on(command)? {
                Step::Decided(decision) => decision,
                Step::NeedFacts(wanted) => return Ok(Progress::NeedFacts(wanted)),
            };
            if let Decision::Seats(seats) = &decision {
                self.take(command, seats);
            }
            self.decisions.push(decision);
        }
        Ok(Progress::Done)
    }

    /// Learns of the free seats that it asked for.
    pub fn learn(&mut self, wanted: &FreeSeatsWanted, found: FreeSeatsFound) {
        if let Some(choosing) = self.choosing.get_mut(&wanted.performance) {
            choosing.learn(wanted.grade, found);
        }
    }

    /// The answers to those commands that change nothing, in the order of the commands.
    #[must_use]
    pub fn into_refusals(self) -> Vec<Option<HoldOutcome>> {
        let refusal = |decision| match decision {
            Decision::Nothing(outcome) => Some(outcome),
            Decision::Seats(_) | Decision::Twin(_) => None,
        };
        self.decisions.into_iter().map(refusal).collect()
    }

    /// The seats to lock before the desk is closed, in the order of the primary key: all that it gives away, if it
    /// chose any of them. Seats that commands name are locked before they are decided on, unless seats are chosen
    /// beside them.
    #[must_use]
    pub fn seats_to_lock(&self) -> BTreeMap<PerformanceId, BTreeSet<&SeatId>> {
        let mut seats: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        if !self.choosing.is_empty() {
            for (performance, seat) in self.taken.keys() {
                seats.entry(*performance).or_default().insert(seat);
            }
        }
        seats
    }

    /// The outcomes, in the order of the commands, and the writes. `locked`: the seats of [`Self::seats_to_lock`], as
    /// they are now that they are locked.
    ///
    /// # Errors
    /// [`FactsError::Stale`] if a seat was taken before it was locked; [`FactsError::Contradiction`] if prices do not
    /// add up.
    pub fn close(mut self, locked: Vec<SeatState>) -> Result<(Vec<HoldOutcome>, HoldWrites<'a>), FactsError> {
        self.seats.extend(locked.into_iter().map(|state| ((state.performance, state.seat.clone()), state)));
        let (mut reservations, mut changes) = (Vec::new(), Vec::new());
        let mut outcomes = Vec::with_capacity(self.commands.len());
        for (command, decision) in self.commands.iter().zip(self.decisions) {
            outcomes.push(match decision {
                Decision::Nothing(outcome) => outcome,
                Decision::Twin(position) => match &outcomes[position] {
                    HoldOutcome::Held(made) => HoldOutcome::Replayed(made.clone().at(self.now)),
                    other => other.clone(),
                },
                Decision::Seats(names) => {
                    let reservation = new_reservation(command, &names, &self.seats, self.now)?;
                    let to = SeatHolding::Held(reservation.id, reservation.held_until);
                    for name in names {
                        let state = self.seats.get_mut(&(command.performance, name));
                        changes.extend(state.map(|state| state.change(to)));
                    }
                    reservations.push(reservation.clone());
                    HoldOutcome::Held(reservation)
                }
            });
        }
        let claims = self.claims.into_writes();
        Ok((outcomes, HoldWrites { reservations, seats: changes, claims }))
    }

    fn decide_on(&mut self, command: &'a HoldCommand) -> Result<Step, FactsError> {
        match self.claims.get(&command.claim) {
            Some(Ok(Made::Before(made))) => {
                let made = made.as_ref().clone().at(self.now);
                return Ok(nothing(HoldOutcome::Replayed(made)));
            }
            Some(Ok(Made::Now(position))) => return Ok(Step::Decided(Decision::Twin(*position))),
            Some(Err(KeyMismatch)) => return Ok(nothing(HoldOutcome::KeyMismatch)),
            None => {}
        }
        match &command.seats {
            SeatWish::Named(names) => Ok(Step::Decided(self.find_named(command, names))),
            SeatWish::Best { count, grade } => self.choose(command, *count, grade.as_deref()),
        }
    }

    fn find_named(&self, command: &HoldCommand, names: &[SeatId]) -> Decision {
        let refusal = self
            .refuse_unknown(command, names)
            .or_else(|| self.refuse_pass(command))
            .or_else(|| self.refuse_taken(command, names))
            .or_else(|| self.refuse_over_limit(command, names.len()));
        refusal.map_or_else(|| Decision::Seats(names.to_vec()), Decision::Nothing)
    }

    fn choose(&self, command: &HoldCommand, count: u32, grade: Option<&str>) -> Result<Step, FactsError> {
        let choosing = self.choosing.get(&command.performance);
        let grade = grade.map(|name| choosing.and_then(|choosing| choosing.hall.grade(name)));
        let refusal = (grade == Some(None))
            .then_some(HoldOutcome::UnknownGrade)
            .or_else(|| self.refuse_pass(command))
            .or_else(|| self.refuse_over_limit(command, count as usize));
        if let Some(refusal) = refusal {
            return Ok(nothing(refusal));
        }
        let Some(choosing) = choosing else { return Ok(nothing(HoldOutcome::NotEnoughSeats)) };
        match best::choose(&choosing.hall, &choosing.free, count, grade.flatten(), self.now) {
            Choice::Seats(indices) => {
                let names: Option<_> = indices.into_iter().map(|index| choosing.hall.seat(index)).collect();
                let names =
                    names.ok_or_else(|| contradiction("seat_index", "a seat of performance", command.performance))?;
                Ok(Step::Decided(Decision::Seats(names)))
            }
            Choice::NotEnough => Ok(nothing(HoldOutcome::NotEnoughSeats)),
            Choice::Unknown(grade) => Ok(Step::NeedFacts(choosing.wanted(command.performance, grade))),
        }
    }

    fn refuse_unknown(&self, command: &HoldCommand, names: &[SeatId]) -> Option<HoldOutcome> {
        let is_unknown = |name: &SeatId| !self.seats.contains_key(&(command.performance, name.clone()));
        let unknown = names.iter().enumerate().filter(|(_, name)| is_unknown(name));
        let unknown: Vec<_> = unknown.map(|(position, _)| position).collect();
        (!unknown.is_empty()).then_some(HoldOutcome::UnknownSeats(unknown))
    }

    fn refuse_taken(&self, command: &HoldCommand, names: &[SeatId]) -> Option<HoldOutcome> {
        let is_free = |name: &SeatId| {
            let key = (command.performance, name.clone());
            let was_taken = self.taken.get(&key).is_some_and(|until| !has_lapsed(*until, self.now));
            !was_taken && self.seats.get(&key).is_some_and(|state| state.is_free(self.now))
        };
        let taken: Vec<_> = names.iter().filter(|name| !is_free(name)).cloned().collect();
        (!taken.is_empty()).then_some(HoldOutcome::Taken(taken))
    }

    fn refuse_pass(&self, command: &HoldCommand) -> Option<HoldOutcome> {
        if self.ended_passes.contains(&(command.performance, command.pass)) {
            return Some(HoldOutcome::PassUsed);
        }
        self.owned(command).any(|owned| owned.is_busy(command.pass)).then_some(HoldOutcome::PassBusy)
    }

    fn refuse_over_limit(&self, command: &HoldCommand, n_wanted: usize) -> Option<HoldOutcome> {
        let n_seats = self.owned(command).map(|owned| owned.n_seats).sum::<usize>() + n_wanted;
        let is_within = u32::try_from(n_seats).is_ok_and(|n_seats| n_seats <= command.seat_limit);
        (!is_within).then_some(HoldOutcome::LimitReached)
    }

    /// The buyer's reservations that count now.
    fn owned(&self, command: &HoldCommand) -> impl Iterator<Item = &Owned> {
        let owned = self.buyers.get(&(command.performance, command.account));
        owned.into_iter().flatten().filter(|owned| owned.counts_at(self.now))
    }

    fn take(&mut self, command: &'a HoldCommand, seats: &[SeatId]) {
        let until = self.now.plus(command.hold_ttl);
        for seat in seats {
            if let Some(choosing) = self.choosing.get_mut(&command.performance) {
                choosing.take(seat, until);
            }
            self.taken.insert((command.performance, seat.clone()), until);
        }
        let owned = Owned { pass: command.pass, n_seats: seats.len(), counts: Counts::Until(until) };
        self.buyers.entry((command.performance, command.account)).or_default().push(owned);
        self.claims.use_for(&command.claim, command.id, Made::Now(self.decisions.len()));
    }
}

/// The price is the store's, never the client's.
fn new_reservation(
    command: &HoldCommand,
    names: &[SeatId],
    seats: &HashMap<(PerformanceId, SeatId), SeatState>,
    now: Timestamp,
) -> Result<Reservation, FactsError> {
    let mut total: Option<Money> = None;
    let mut reserved = Vec::with_capacity(names.len());
    for name in names {
        // Another buyer may have taken it before it was locked.
        let state = seats.get(&(command.performance, name.clone())).filter(|state| state.is_free(now));
        let Some(SeatState { seat, grade, price, .. }) = state.cloned() else {
            return Err(FactsError::Stale(SeatKey { performance: command.performance, seat: name.clone() }));
        };
        let sum = total.map_or(Ok(price), |total| total.plus(price));
        total = Some(sum.map_err(|_| contradiction("price_amount", "seat", &seat))?);
        reserved.push(ReservedSeat { seat, grade, price });
    }
    let held_until = now.plus(command.hold_ttl);
    Ok(Reservation {
        id: command.id,
        performance: command.performance,
        account: command.account,
        pass: command.pass,
        seats: reserved,
        total: total.ok_or_else(|| contradiction("n_seats", "reservation", command.id))?,
        created_at: now,
        held_until,
        held_until_original: held_until,
        declined: 0,
        version: 1,
        state: State::Held,
    })
}

/// How many free seats are read at first: some rows in front, also for buyers who want few seats.
const READ_AT_LEAST: u64 = 256;

/// The seats of a hall while the judge chooses among them.
#[derive(Debug)]
struct Choosing {
    hall: Arc<Hall>,
    free: FreeSeats,
    /// How many seats to read the next time.
    n_to_read: u64,
}

impl Choosing {
    fn new(hall: Arc<Hall>, n_wanted: u64) -> Self {
        let free = FreeSeats::unknown(&hall);
        Self { hall, free, n_to_read: READ_AT_LEAST.max(2 * n_wanted) }
    }

    fn take(&mut self, seat: &SeatId, until: Timestamp) {
        if let Some(index) = self.hall.index(seat) {
            self.free.take(index, until);
        }
    }

    fn wanted(&self, performance: PerformanceId, grade: Grade) -> FreeSeatsWanted {
        FreeSeatsWanted {
            performance,
            grade_name: self.hall.grade_name(grade).to_owned(),
            first: self.free.known_before(grade),
            limit: self.n_to_read,
            grade,
        }
    }

    fn learn(&mut self, grade: Grade, found: FreeSeatsFound) {
        let known_before = found.known_before.unwrap_or(u32::MAX);
        self.free.learn(grade, found.seats.into_iter().filter(|(index, _)| *index < known_before), known_before);
        self.n_to_read *= 2;
    }
}
