//! Holding seats: a batch of commands in one transaction, decided on in memory one after the other.
//!
//! On a database that servers share, batches that choose seats of a performance have it for themselves: nobody else takes
//! seats of it meanwhile, so that what they see free is theirs to choose from. Batches of named seats run side by side, and
//! whoever names a seat that is seen to be somebody's is refused before anything is locked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryFilter, QuerySelect, Statement,
};
use usher_kernel::{AccountId, Claim, KeyUse, Money, Operation, PerformanceId, SeatId, Timestamp};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{HoldCommand, HoldOutcome, SeatWish};
use usher_reservation::{Reservation, ReservedSeat, State};

use super::hall::{Choosing, Halls};
use super::rows;
use super::seats::{self, SeatHolding, SeatState};
use crate::database::has_one_writer;
use crate::entities::{ended_passes, performances, reservations};
use crate::error::{CorruptRow, Failure};
use crate::idempotency::{self, Claims, KeyMismatch};
use crate::statements::padded;

/// What was made under a claim, if it was a hold.
pub(super) async fn find(
    db: &impl ConnectionTrait,
    claim: &Claim,
    now: Timestamp,
) -> Result<Option<HoldOutcome>, Failure> {
    match idempotency::find(db, claim, Operation::Hold, now).await? {
        KeyUse::Unused | KeyUse::Expired => Ok(None),
        KeyUse::OtherRequest => Ok(Some(HoldOutcome::KeyMismatch)),
        KeyUse::SameRequest(id) => {
            let made = rows::find_all(db, [id]).await?.pop();
            let made = made.ok_or_else(|| CorruptRow::new("idempotency_keys", "subject_id", id))?;
            Ok(Some(HoldOutcome::Replayed(made.at(now))))
        }
    }
}

pub(super) async fn hold_all(
    tx: &DatabaseTransaction,
    halls: &Halls,
    commands: &[HoldCommand],
) -> Result<Vec<HoldOutcome>, Failure> {
    let refused = refuse_at_sight(tx, commands).await?;
    let left = commands.iter().zip(&refused).filter(|(_, refused)| refused.is_none());
    let (left, mut decided) = (Vec::from_iter(left.map(|(command, _)| command)), Vec::new());
    if !left.is_empty() {
        let mut desk = Desk::open(tx, halls, &left).await?;
        let mut decisions = Vec::with_capacity(left.len());
        for command in &left {
            decisions.push(desk.decide(tx, command, decisions.len()).await?);
        }
        decided = desk.close(tx, &left, decisions).await?;
    }
    let mut decided = decided.into_iter();
    Ok(refused.into_iter().filter_map(|refused| refused.or_else(|| decided.next())).collect())
}

/// Answers those who name a seat that somebody has, with no lock: a crowd that wants one seat is in nobody's way, and leaves
/// nothing behind.
///
/// The seats are looked at first. Who sees seats taken by the same request, sent before, finds its claim after that.
async fn refuse_at_sight(
    tx: &DatabaseTransaction,
    commands: &[HoldCommand],
) -> Result<Vec<Option<HoldOutcome>>, Failure> {
    let mut refused: Vec<_> = commands.iter().map(|_| None).collect();
    // With one writer, what is seen without a lock is what is seen with it.
    if has_one_writer(tx) {
        return Ok(refused);
    }
    let mut seats = HashMap::new();
    for (performance, commands) in by_performance(commands) {
        let states = seats::look_at(tx, performance, &named(&commands)).await?;
        seats.extend(states.into_iter().map(SeatState::keyed));
    }
    let is_taken = |command: &HoldCommand| match &command.seats {
        SeatWish::Named(names) => {
            let state = |name: &SeatId| seats.get(&(command.performance, name.clone()));
            names.iter().any(|name| state(name).is_some_and(|state| !state.is_free(command.now)))
        }
        SeatWish::Best { .. } => false,
    };
    let (positions, hopeless): (Vec<_>, Vec<_>) =
        commands.iter().enumerate().filter(|(_, command)| is_taken(command)).unzip();
    if hopeless.is_empty() {
        return Ok(refused);
    }
    let mut desk = Desk { seats, ..Desk::read(tx, &hopeless, BTreeMap::new()).await? };
    for (position, command) in positions.into_iter().zip(hopeless) {
        if let Decision::Nothing(outcome) = desk.decide(tx, command, position).await? {
            refused[position] = Some(outcome);
        }
    }
    Ok(refused)
}

fn by_performance<'a>(
    commands: impl IntoIterator<Item = &'a HoldCommand>,
) -> BTreeMap<PerformanceId, Vec<&'a HoldCommand>> {
    let mut by_performance = BTreeMap::<_, Vec<_>>::new();
    for command in commands {
        by_performance.entry(command.performance).or_default().push(command);
    }
    by_performance
}

/// The seats that are named, in the order of the primary key.
fn named<'a>(commands: &[&'a HoldCommand]) -> Vec<&'a SeatId> {
    let names = commands.iter().filter_map(|command| match &command.seats {
        SeatWish::Named(names) => Some(names),
        SeatWish::Best { .. } => None,
    });
    BTreeSet::from_iter(names.flatten()).into_iter().collect()
}

type Buyer = (PerformanceId, AccountId);

/// What is decided on a command.
enum Decision {
    /// It changes nothing, and this is its answer.
    Nothing(HoldOutcome),
    /// It gets these seats.
    Seats(Vec<SeatId>),
    /// It is the same request as the command at this position, which gets its seats.
    Twin(usize),
}

/// What is known while a batch is decided on. Each decision sees what the ones before it took.
struct Desk<'a> {
    claims: Claims<'a, Made>,
    seats: HashMap<(PerformanceId, SeatId), SeatState>,
    choosing: BTreeMap<PerformanceId, Choosing>,
    buyers: HashMap<Buyer, Vec<Owned>>,
    ended: HashSet<(PerformanceId, u64)>,
    /// The seats that were decided away, and until when.
    taken: HashMap<(PerformanceId, SeatId), Timestamp>,
}

/// What was made under a claim.
enum Made {
    Before(Box<Reservation>),
    /// By the command at this position.
    Now(usize),
}

/// What of a buyer's reservation counts against the limit, and against the pass.
struct Owned {
    pass: u64,
    n_seats: usize,
    /// Whether the pass can carry no other reservation meanwhile.
    is_under_way: bool,
    /// `None`: it does not lapse.
    held_until: Option<Timestamp>,
}

impl Owned {
    fn counts(&self, now: Timestamp) -> bool {
        self.held_until.is_none_or(|until| now < until)
    }
}

impl<'a> Desk<'a> {
    /// Reads all that the decisions need, and locks it: performances and buyers first, so that what is read after is not
    /// changed by a rival or a twin.
    async fn open(tx: &DatabaseTransaction, halls: &Halls, commands: &[&'a HoldCommand]) -> Result<Self, Failure> {
        let by_performance = by_performance(commands.iter().copied());
        let mut choosing = BTreeMap::new();
        for (performance, commands) in &by_performance {
            if let Some(begun) = take_turn(tx, halls, *performance, commands).await? {
                choosing.insert(*performance, begun);
            }
        }
        let buyers: BTreeSet<Buyer> = commands.iter().map(|command| (command.performance, command.account)).collect();
        rows::lock_buyers(tx, &buyers).await?;
        let mut desk = Self::read(tx, commands, choosing).await?;
        for (performance, commands) in &by_performance {
            let names = named(commands);
            // Where seats are chosen, all are locked in one order when it is known which.
            let states = if desk.choosing.is_empty() {
                seats::lock(tx, *performance, &names).await?
            } else {
                seats::look_at(tx, *performance, &names).await?
            };
            desk.seats.extend(states.into_iter().map(SeatState::keyed));
        }
        Ok(desk)
    }

    /// Reads what the decisions need of those who ask.
    async fn read(
        tx: &DatabaseTransaction,
        commands: &[&'a HoldCommand],
        choosing: BTreeMap<PerformanceId, Choosing>,
    ) -> Result<Self, Failure> {
        let mut desk = Self {
            claims: find_claims(tx, commands).await?,
            seats: HashMap::new(),
            choosing,
            buyers: HashMap::new(),
            ended: HashSet::new(),
            taken: HashMap::new(),
        };
        for (performance, commands) in by_performance(commands.iter().copied()) {
            desk.read_buyers(tx, performance, &commands).await?;
            desk.read_ended_passes(tx, performance, &commands).await?;
        }
        Ok(desk)
    }

    async fn read_buyers(
        &mut self,
        tx: &DatabaseTransaction,
        performance: PerformanceId,
        commands: &[&HoldCommand],
    ) -> Result<(), Failure> {
        use reservations::Column;
        for some in padded(commands) {
            let rows = reservations::Entity::find()
                .filter(Column::PerformanceId.eq(performance.uuid()))
                .filter(Column::AccountId.is_in(some.iter().map(|command| command.account.uuid())))
                .filter(Column::State.is_in([rows::HELD, rows::PAYING, rows::CONFIRMED]));
            for model in rows.all(tx).await? {
                let corrupt = |column| CorruptRow::new("reservations", column, model.id);
                let owned = Owned {
                    pass: model.pass_number.try_into().map_err(|_| corrupt("pass_number"))?,
                    n_seats: model.n_seats.try_into().map_err(|_| corrupt("n_seats"))?,
                    is_under_way: model.state != rows::CONFIRMED,
                    held_until: (model.state == rows::HELD).then(|| Timestamp::from_unix_ms(model.held_until)),
                };
                let buyer = (performance, AccountId::from_uuid(model.account_id));
                self.buyers.entry(buyer).or_default().push(owned);
            }
        }
        Ok(())
    }

    async fn read_ended_passes(
        &mut self,
        tx: &DatabaseTransaction,
        performance: PerformanceId,
        commands: &[&HoldCommand],
    ) -> Result<(), Failure> {
        use ended_passes::Column;
        for some in padded(commands) {
            // A number beyond the column was never given out, so it did not end.
            let numbers = some.iter().filter_map(|command| i64::try_from(command.pass.0).ok());
            let rows = ended_passes::Entity::find()
                .filter(Column::PerformanceId.eq(performance.uuid()))
                .filter(Column::Number.is_in(numbers));
            let ended = rows.all(tx).await?;
            self.ended.extend(ended.into_iter().filter_map(|row| Some((performance, row.number.try_into().ok()?))));
        }
        Ok(())
    }

    async fn decide(
        &mut self,
        tx: &DatabaseTransaction,
        command: &'a HoldCommand,
        position: usize,
    ) -> Result<Decision, Failure> {
        match self.claims.get(&command.claim) {
            Some(Ok(Made::Before(made))) => {
                return Ok(Decision::Nothing(HoldOutcome::Replayed(made.as_ref().clone().at(command.now))));
            }
            Some(Ok(Made::Now(position))) => return Ok(Decision::Twin(*position)),
            Some(Err(KeyMismatch)) => return Ok(Decision::Nothing(HoldOutcome::KeyMismatch)),
            None => {}
        }
        let decision = match &command.seats {
            SeatWish::Named(names) => self.find_named(command, names),
            SeatWish::Best { count, grade } => self.choose(tx, command, *count, grade.as_deref()).await?,
        };
        if let Decision::Seats(seats) = &decision {
            self.take(command, seats, position);
        }
        Ok(decision)
    }

    fn find_named(&self, command: &HoldCommand, names: &[SeatId]) -> Decision {
        let refusal = self
            .refuse_unknown(command, names)
            .or_else(|| self.refuse_pass(command))
            .or_else(|| self.refuse_taken(command, names))
            .or_else(|| self.refuse_over_limit(command, names.len()));
        refusal.map_or_else(|| Decision::Seats(names.to_vec()), Decision::Nothing)
    }

    async fn choose(
        &mut self,
        tx: &DatabaseTransaction,
        command: &HoldCommand,
        count: u32,
        grade: Option<&str>,
    ) -> Result<Decision, Failure> {
        let hall = self.choosing.get(&command.performance).map(|choosing| choosing.hall());
        let grade = grade.map(|name| hall.and_then(|hall| hall.grade(name)));
        let refusal = (grade == Some(None))
            .then_some(HoldOutcome::UnknownGrade)
            .or_else(|| self.refuse_pass(command))
            .or_else(|| self.refuse_over_limit(command, count as usize));
        if let Some(refusal) = refusal {
            return Ok(Decision::Nothing(refusal));
        }
        let chosen = match self.choosing.get_mut(&command.performance) {
            Some(choosing) => choosing.choose(tx, count, grade.flatten(), command.now).await?,
            None => None,
        };
        Ok(chosen.map_or(Decision::Nothing(HoldOutcome::NotEnoughSeats), Decision::Seats))
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
            let was_taken = self.taken.get(&key).is_some_and(|until| command.now < *until);
            !was_taken && self.seats.get(&key).is_some_and(|state| state.is_free(command.now))
        };
        let taken: Vec<_> = names.iter().filter(|name| !is_free(name)).cloned().collect();
        (!taken.is_empty()).then_some(HoldOutcome::Taken(taken))
    }

    fn refuse_pass(&self, command: &HoldCommand) -> Option<HoldOutcome> {
        let PassNumber(pass) = command.pass;
        if self.ended.contains(&(command.performance, pass)) {
            return Some(HoldOutcome::PassUsed);
        }
        let is_busy = self.owned(command).any(|owned| owned.pass == pass && owned.is_under_way);
        is_busy.then_some(HoldOutcome::PassBusy)
    }

    fn refuse_over_limit(&self, command: &HoldCommand, n_wanted: usize) -> Option<HoldOutcome> {
        let n_seats = self.owned(command).map(|owned| owned.n_seats).sum::<usize>() + n_wanted;
        let is_within = u32::try_from(n_seats).is_ok_and(|n_seats| n_seats <= command.seat_limit);
        (!is_within).then_some(HoldOutcome::LimitReached)
    }

    /// What counts of the buyer's reservations.
    fn owned(&self, command: &HoldCommand) -> impl Iterator<Item = &Owned> {
        let (buyer, now) = ((command.performance, command.account), command.now);
        self.buyers.get(&buyer).into_iter().flatten().filter(move |owned| owned.counts(now))
    }

    fn take(&mut self, command: &'a HoldCommand, seats: &[SeatId], position: usize) {
        for seat in seats {
            let key = (command.performance, seat.clone());
            if let Some(choosing) = self.choosing.get_mut(&command.performance) {
                choosing.take(seat, command.held_until);
            }
            self.taken.insert(key, command.held_until);
        }
        self.buyers.entry((command.performance, command.account)).or_default().push(Owned {
            pass: command.pass.0,
            n_seats: seats.len(),
            is_under_way: true,
            held_until: Some(command.held_until),
        });
        self.claims.keep(&command.claim, command.id.uuid(), command.now, Made::Now(position));
    }

    /// Locks what was chosen, and writes what was decided.
    async fn close(
        mut self,
        tx: &DatabaseTransaction,
        commands: &[&HoldCommand],
        decisions: Vec<Decision>,
    ) -> Result<Vec<HoldOutcome>, Failure> {
        if !self.choosing.is_empty() {
            let taken: BTreeSet<_> = self.taken.keys().collect();
            let taken: Vec<_> = taken.into_iter().collect();
            for some in taken.chunk_by(|(one, _), (other, _)| one == other) {
                let names: Vec<_> = some.iter().map(|(_, name)| name).collect();
                let states = seats::lock(tx, some[0].0, &names).await?;
                self.seats.extend(states.into_iter().map(SeatState::keyed));
            }
        }
        let (mut new, mut changes) = (Vec::new(), Vec::new());
        let mut outcomes = Vec::with_capacity(commands.len());
        for (command, decision) in commands.iter().zip(decisions) {
            outcomes.push(match decision {
                Decision::Nothing(outcome) => outcome,
                Decision::Twin(position) => match &outcomes[position] {
                    HoldOutcome::Held(made) => HoldOutcome::Replayed(made.clone().at(command.now)),
                    other => other.clone(),
                },
                Decision::Seats(names) => {
                    let reservation = new_reservation(command, &names, &self.seats)?;
                    let to = SeatHolding::Held(reservation.id, reservation.held_until);
                    for name in names {
                        let state = self.seats.get_mut(&(command.performance, name));
                        changes.extend(state.map(|state| state.change(to, command.now)));
                    }
                    new.push(reservation.clone());
                    HoldOutcome::Held(reservation)
                }
            });
        }
        if !new.is_empty() {
            self.claims.write(tx).await?;
            rows::insert(tx, &new).await?;
            seats::write(tx, &changes).await?;
        }
        Ok(outcomes)
    }
}

/// Takes a turn at a performance, before anything else is locked: alone if seats of it are to be chosen, which then
/// begins, and else along with others that take what they name.
async fn take_turn(
    tx: &DatabaseTransaction,
    halls: &Halls,
    performance: PerformanceId,
    commands: &[&HoldCommand],
) -> Result<Option<Choosing>, Failure> {
    let counts = commands.iter().filter_map(|command| match command.seats {
        SeatWish::Best { count, .. } => Some(u64::from(count)),
        SeatWish::Named(_) => None,
    });
    let n_wanted: u64 = counts.sum();
    if n_wanted == 0 {
        if !has_one_writer(tx) {
            // MariaDB does not know `FOR SHARE`.
            let shared = "SELECT id FROM performances WHERE id = ? LOCK IN SHARE MODE";
            let shared = Statement::from_sql_and_values(DbBackend::MySql, shared, [performance.uuid().into()]);
            tx.query_one_raw(shared).await?;
        }
        return Ok(None);
    }
    let map_version = performances::Entity::find_by_id(performance.uuid())
        .select_only()
        .column(performances::Column::MapVersion)
        .lock_exclusive()
        .into_tuple()
        .one(tx)
        .await?;
    let Some(map_version) = map_version else { return Ok(None) };
    let hall = halls.get(tx, performance, map_version).await?;
    let latest = commands.iter().map(|command| command.now).max().unwrap_or(Timestamp::EPOCH);
    Ok(Some(Choosing::new(performance, hall, n_wanted, latest)))
}

/// What was made under the commands' claims before.
async fn find_claims<'a>(tx: &DatabaseTransaction, commands: &[&'a HoldCommand]) -> Result<Claims<'a, Made>, Failure> {
    let claims: Vec<_> = commands.iter().map(|command| (&command.claim, command.now)).collect();
    let found = idempotency::find_all(tx, Operation::Hold, &claims).await?;
    let made: BTreeSet<_> = found.iter().filter_map(|found| found.subject()).collect();
    let made = rows::find_all(tx, made).await?;
    let made: HashMap<_, _> = made.into_iter().map(|reservation| (reservation.id.uuid(), reservation)).collect();
    Claims::new(Operation::Hold, claims.iter().map(|(claim, _)| *claim).zip(found), |id| {
        let made = made.get(&id).ok_or_else(|| CorruptRow::new("idempotency_keys", "subject_id", id))?;
        Ok(Made::Before(Box::new(made.clone())))
    })
}

/// The price is the database's, never the client's.
fn new_reservation(
    command: &HoldCommand,
    names: &[SeatId],
    states: &HashMap<(PerformanceId, SeatId), SeatState>,
) -> Result<Reservation, Failure> {
    let mut total: Option<Money> = None;
    let mut reserved = Vec::with_capacity(names.len());
    for name in names {
        // Somebody may have had it before it was locked.
        let state = states.get(&(command.performance, name.clone())).filter(|state| state.is_free(command.now));
        let SeatState { seat, grade, price, .. } = state.ok_or(Failure::Conflict { table: "seats" })?.clone();
        let sum = total.map_or(Ok(price), |total| total.plus(price));
        let corrupt = |_| CorruptRow::new("seats", "price_amount", format!("({}, {seat})", command.performance));
        total = Some(sum.map_err(corrupt)?);
        reserved.push(ReservedSeat { seat, grade, price });
    }
    Ok(Reservation {
        id: command.id,
        performance: command.performance,
        account: command.account,
        pass: command.pass,
        seats: reserved,
        total: total.ok_or_else(|| CorruptRow::new("reservations", "n_seats", command.id))?,
        created_at: command.now,
        held_until: command.held_until,
        held_until_original: command.held_until,
        declined: 0,
        version: 1,
        state: State::Held,
    })
}
