//! Holding seats: a batch of commands in one transaction, judged in memory one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sea_orm::prelude::Uuid;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter};
use usher_kernel::{AccountId, Claim, Fingerprint, IdempotencyKey, Money, PerformanceId, SeatId, Timestamp};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{HoldCommand, HoldOutcome};
use usher_reservation::{Reservation, ReservedSeat, State};

use super::rows;
use super::seats::{self, Change, SeatHolding, SeatState};
use crate::database::ROWS_PER_STATEMENT;
use crate::entities::{ended_passes, reservations};
use crate::error::{CorruptRow, Failure};
use crate::idempotency::{self, Found, Operation};

/// What was made under a claim, if it was a hold.
pub(super) async fn find(
    db: &impl ConnectionTrait,
    claim: &Claim,
    now: Timestamp,
) -> Result<Option<HoldOutcome>, Failure> {
    match idempotency::find(db, claim, Operation::Hold, now).await? {
        Found::Nothing => Ok(None),
        Found::Mismatch => Ok(Some(HoldOutcome::KeyMismatch)),
        Found::Made(id) => {
            let made = rows::find_all(db, [id]).await?.pop();
            let made = made.ok_or_else(|| CorruptRow::new("idempotency_keys", "subject_id", id))?;
            Ok(Some(HoldOutcome::Replayed(made.at(now))))
        }
    }
}

pub(super) async fn hold_all(tx: &DatabaseTransaction, commands: &[HoldCommand]) -> Result<Vec<HoldOutcome>, Failure> {
    let mut desk = Desk::open(tx, commands).await?;
    let outcomes = commands.iter().map(|command| desk.judge(command)).collect::<Result<_, _>>()?;
    desk.close(tx).await?;
    Ok(outcomes)
}

type Buyer = (PerformanceId, AccountId);

/// What is known while a batch is judged. Each judgement sees what the ones before it took.
struct Desk<'a> {
    claims: HashMap<(AccountId, &'a IdempotencyKey), Kept>,
    seats: HashMap<(PerformanceId, SeatId), SeatState>,
    buyers: HashMap<Buyer, Vec<Owned>>,
    ended: HashSet<(PerformanceId, u64)>,
    new: Vec<Reservation>,
    kept: Vec<(&'a Claim, Uuid, Timestamp)>,
    changes: Vec<Change>,
}

/// A claim that is kept.
enum Kept {
    For(Fingerprint, Box<Reservation>),
    ForAnother,
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
    /// Reads all that the judgement needs: buyers first, so that what is read after is not changed by a twin.
    async fn open(tx: &DatabaseTransaction, commands: &'a [HoldCommand]) -> Result<Self, Failure> {
        let buyers: BTreeSet<Buyer> = commands.iter().map(|command| (command.performance, command.account)).collect();
        rows::lock_buyers(tx, &buyers).await?;
        let mut desk = Self {
            claims: find_claims(tx, commands).await?,
            seats: HashMap::new(),
            buyers: HashMap::new(),
            ended: HashSet::new(),
            new: Vec::new(),
            kept: Vec::new(),
            changes: Vec::new(),
        };
        let mut by_performance: BTreeMap<PerformanceId, Vec<&HoldCommand>> = BTreeMap::new();
        for command in commands {
            by_performance.entry(command.performance).or_default().push(command);
        }
        for (performance, commands) in &by_performance {
            desk.read_buyers(tx, *performance, commands).await?;
            desk.read_ended_passes(tx, *performance, commands).await?;
        }
        for (performance, commands) in &by_performance {
            let names: BTreeSet<_> = commands.iter().flat_map(|command| &command.seats).collect();
            let names: Vec<_> = names.into_iter().collect();
            for state in seats::lock(tx, *performance, &names).await? {
                desk.seats.insert((*performance, state.seat.clone()), state);
            }
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
        for some in commands.chunks(ROWS_PER_STATEMENT) {
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
        for some in commands.chunks(ROWS_PER_STATEMENT) {
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

    fn judge(&mut self, command: &'a HoldCommand) -> Result<HoldOutcome, CorruptRow> {
        match self.claims.get(&(command.claim.account, &command.claim.key)) {
            Some(Kept::For(fingerprint, made)) if *fingerprint == command.claim.fingerprint => {
                return Ok(HoldOutcome::Replayed(made.as_ref().clone().at(command.now)));
            }
            Some(_) => return Ok(HoldOutcome::KeyMismatch),
            None => {}
        }
        let mut wanted = Vec::with_capacity(command.seats.len());
        let mut unknown = Vec::new();
        for (position, seat) in command.seats.iter().enumerate() {
            match self.seats.get(&(command.performance, seat.clone())) {
                Some(state) => wanted.push(state),
                None => unknown.push(position),
            }
        }
        if !unknown.is_empty() {
            return Ok(HoldOutcome::UnknownSeats(unknown));
        }
        let PassNumber(pass) = command.pass;
        if self.ended.contains(&(command.performance, pass)) {
            return Ok(HoldOutcome::PassUsed);
        }
        let buyer = (command.performance, command.account);
        let owned = || self.buyers.get(&buyer).into_iter().flatten().filter(|owned| owned.counts(command.now));
        if owned().any(|owned| owned.pass == pass && owned.is_under_way) {
            return Ok(HoldOutcome::PassBusy);
        }
        let taken = wanted.iter().filter(|state| !state.is_free(command.now));
        let taken: Vec<_> = taken.map(|state| state.seat.clone()).collect();
        if !taken.is_empty() {
            return Ok(HoldOutcome::Taken(taken));
        }
        let n_seats = owned().map(|owned| owned.n_seats).sum::<usize>() + wanted.len();
        if u32::try_from(n_seats).is_ok_and(|n_seats| n_seats <= command.seat_limit) {
            let reservation = new_reservation(command, &wanted)?;
            self.take(command, &reservation);
            Ok(HoldOutcome::Held(reservation))
        } else {
            Ok(HoldOutcome::LimitReached)
        }
    }

    fn take(&mut self, command: &'a HoldCommand, reservation: &Reservation) {
        let to = SeatHolding::Held(reservation.id, reservation.held_until);
        for seat in &command.seats {
            let state = self.seats.get_mut(&(command.performance, seat.clone()));
            self.changes.extend(state.map(|state| state.change(to, command.now)));
        }
        self.buyers.entry((command.performance, command.account)).or_default().push(Owned {
            pass: command.pass.0,
            n_seats: reservation.seats.len(),
            is_under_way: true,
            held_until: Some(reservation.held_until),
        });
        let kept = Kept::For(command.claim.fingerprint, Box::new(reservation.clone()));
        self.claims.insert((command.claim.account, &command.claim.key), kept);
        self.kept.push((&command.claim, reservation.id.uuid(), command.now));
        self.new.push(reservation.clone());
    }

    /// Writes what was decided.
    async fn close(self, tx: &DatabaseTransaction) -> Result<(), Failure> {
        if self.new.is_empty() {
            return Ok(());
        }
        idempotency::keep_all(tx, Operation::Hold, &self.kept).await?;
        rows::insert(tx, &self.new).await?;
        seats::write(tx, &self.changes).await
    }
}

/// The claims of the commands that were kept before.
async fn find_claims<'a>(
    tx: &DatabaseTransaction,
    commands: &'a [HoldCommand],
) -> Result<HashMap<(AccountId, &'a IdempotencyKey), Kept>, Failure> {
    let claims: Vec<_> = commands.iter().map(|command| (&command.claim, command.now)).collect();
    let found = idempotency::find_all(tx, Operation::Hold, &claims).await?;
    let made = found.iter().filter_map(|found| match found {
        Found::Made(id) => Some(*id),
        Found::Nothing | Found::Mismatch => None,
    });
    let made: BTreeSet<_> = made.collect();
    let made = if made.is_empty() { Vec::new() } else { rows::find_all(tx, made).await? };
    let made: HashMap<_, _> = made.into_iter().map(|reservation| (reservation.id.uuid(), reservation)).collect();
    let mut kept = HashMap::new();
    for (command, found) in commands.iter().zip(found) {
        let key = (command.claim.account, &command.claim.key);
        match found {
            Found::Nothing => {}
            Found::Mismatch => {
                kept.entry(key).or_insert(Kept::ForAnother);
            }
            Found::Made(id) => {
                let made = made.get(&id).ok_or_else(|| CorruptRow::new("idempotency_keys", "subject_id", id))?;
                // Of two commands with one key, the one with the right fingerprint knows what it was made for.
                kept.insert(key, Kept::For(command.claim.fingerprint, Box::new(made.clone())));
            }
        }
    }
    Ok(kept)
}

/// The price is the database's, never the client's.
fn new_reservation(command: &HoldCommand, seats: &[&SeatState]) -> Result<Reservation, CorruptRow> {
    let mut total: Option<Money> = None;
    let mut reserved = Vec::with_capacity(seats.len());
    for state in seats {
        let sum = total.map_or(Ok(state.price), |total| total.plus(state.price));
        let corrupt =
            |_| CorruptRow::new("seats", "price_amount", format!("({}, {})", command.performance, state.seat));
        total = Some(sum.map_err(corrupt)?);
        let SeatState { seat, grade, price, .. } = (*state).clone();
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
