//! Holding seats: a batch of commands in one transaction. Locks and reads the facts, asks [`judge::hold`], and writes.
//!
//! On a database that servers share, a batch that chooses seats of a performance locks the performance. No other batch
//! takes seats of it meanwhile, so every seat that the batch reads as free stays free. Batches of named seats run side
//! by side. A command that names a taken seat is refused before any lock is taken.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryFilter, QuerySelect, Statement,
};
use usher_kernel::{AccountId, Claim, KeyUse, Operation, PerformanceId, ReservationId, SeatId, Timestamp};
use usher_reservation::Reservation;
use usher_reservation::best::Hall;
use usher_reservation::judge;
use usher_reservation::judge::hold::{Buyer, Counts, Desk, Facts, HoldWrites, Owned, Progress};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{HoldCommand, HoldOutcome, SeatWish};

use super::hall::{self, Halls};
use super::{rows, seats};
use crate::database::has_one_writer;
use crate::entities::{ended_passes, performances, reservations};
use crate::error::{CorruptRow, Failure};
use crate::idempotency;
use crate::row::Row;
use crate::statements::padded;

/// The outcome of the hold that used a claim, if there is one.
pub(super) async fn find(
    db: &impl ConnectionTrait,
    claim: &Claim,
    now: Timestamp,
) -> Result<Option<HoldOutcome>, Failure> {
    let earlier = find_claims(db, &[claim], now).await?.pop();
    Ok(earlier.and_then(|earlier| judge::hold::repeated(earlier, now)))
}

pub(super) async fn hold_all(
    tx: &DatabaseTransaction,
    halls: &Halls,
    commands: &[HoldCommand],
    now: Timestamp,
) -> Result<Vec<HoldOutcome>, Failure> {
    let refused = refuse_at_sight(tx, commands, now).await?;
    let left = commands.iter().zip(&refused).filter(|(_, refused)| refused.is_none());
    let left = Vec::from_iter(left.map(|(command, _)| command));
    let decided = if left.is_empty() { Vec::new() } else { decide(tx, halls, left, now).await? };
    let mut decided = decided.into_iter();
    Ok(refused.into_iter().filter_map(|refused| refused.or_else(|| decided.next())).collect())
}

/// Refuses commands that name a taken seat, without a lock: a crowd that wants one seat blocks no transaction and
/// writes nothing.
///
/// Reads the seats before the claims. A retry that sees its seats taken by its own first attempt therefore finds its
/// claim.
async fn refuse_at_sight(
    tx: &DatabaseTransaction,
    commands: &[HoldCommand],
    now: Timestamp,
) -> Result<Vec<Option<HoldOutcome>>, Failure> {
    let mut refused: Vec<_> = commands.iter().map(|_| None).collect();
    // With one writer there are no row locks to avoid.
    if has_one_writer(tx) {
        return Ok(refused);
    }
    let mut seats = Vec::new();
    for (performance, commands) in by_performance(commands) {
        seats.extend(seats::look_at(tx, performance, &named(&commands)).await?);
    }
    let positions = judge::hold::hopeless(commands, &seats, now);
    if positions.is_empty() {
        return Ok(refused);
    }
    let hopeless: Vec<_> = positions.iter().map(|&position| &commands[position]).collect();
    let facts = Facts { seats, ..read_facts(tx, &hopeless, now).await? };
    let mut desk = Desk::new(hopeless, facts, now);
    // The desk asks for no free seats: these commands name theirs.
    let Progress::Done = desk.decide()? else { return Ok(refused) };
    for (position, refusal) in positions.into_iter().zip(desk.into_refusals()) {
        refused[position] = refusal;
    }
    Ok(refused)
}

/// Locks and reads the facts, lets the judge decide, and writes. Locks performances and buyers first, so that no
/// competing or repeated request changes the facts that are read after them.
async fn decide(
    tx: &DatabaseTransaction,
    halls: &Halls,
    commands: Vec<&HoldCommand>,
    now: Timestamp,
) -> Result<Vec<HoldOutcome>, Failure> {
    let by_performance = by_performance(commands.iter().copied());
    let mut chosen_from = BTreeMap::new();
    for (performance, commands) in &by_performance {
        if let Some(hall) = take_turn(tx, halls, *performance, commands).await? {
            chosen_from.insert(*performance, hall);
        }
    }
    let buyers: BTreeSet<Buyer> = commands.iter().map(|command| (command.performance, command.account)).collect();
    rows::lock_buyers(tx, &buyers).await?;
    let mut facts = read_facts(tx, &commands, now).await?;
    for (performance, commands) in &by_performance {
        let names = named(commands);
        // If the judge chooses seats, all seats are locked after the choice, in one order.
        facts.seats.extend(if chosen_from.is_empty() {
            seats::lock(tx, *performance, &names).await?
        } else {
            seats::look_at(tx, *performance, &names).await?
        });
    }
    facts.halls = chosen_from;
    let mut desk = Desk::new(commands, facts, now);
    while let Progress::NeedFacts(wanted) = desk.decide()? {
        let found = hall::read_free(tx, &wanted, now).await?;
        desk.learn(&wanted, found);
    }
    let mut locked = Vec::new();
    for (performance, names) in desk.seats_to_lock() {
        locked.extend(seats::lock(tx, performance, &Vec::from_iter(names)).await?);
    }
    let (outcomes, writes) = desk.close(locked)?;
    write(tx, writes, now).await?;
    Ok(outcomes)
}

async fn write(tx: &DatabaseTransaction, writes: HoldWrites<'_>, now: Timestamp) -> Result<(), Failure> {
    let HoldWrites { reservations, seats, claims } = writes;
    if reservations.is_empty() {
        return Ok(());
    }
    idempotency::store(tx, Operation::Hold, claims, ReservationId::uuid, now).await?;
    rows::insert(tx, &reservations).await?;
    seats::write(tx, &seats, now).await
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

/// The seats that commands name, in the order of the primary key.
fn named<'a>(commands: &[&'a HoldCommand]) -> Vec<&'a SeatId> {
    let names = commands.iter().filter_map(|command| match &command.seats {
        SeatWish::Named(names) => Some(names),
        SeatWish::Best { .. } => None,
    });
    BTreeSet::from_iter(names.flatten()).into_iter().collect()
}

/// Reads what the judge needs to know of the commands' claims, buyers and passes.
async fn read_facts(tx: &DatabaseTransaction, commands: &[&HoldCommand], now: Timestamp) -> Result<Facts, Failure> {
    let claims: Vec<_> = commands.iter().map(|command| &command.claim).collect();
    let mut facts = Facts { claims: find_claims(tx, &claims, now).await?, ..Facts::default() };
    for (performance, commands) in by_performance(commands.iter().copied()) {
        facts.buyers.extend(read_buyers(tx, performance, &commands).await?);
        facts.ended_passes.extend(read_ended_passes(tx, performance, &commands).await?);
    }
    Ok(facts)
}

/// The buyers' reservations that may count ([`Owned::of`]): held, paying or confirmed.
async fn read_buyers(
    tx: &DatabaseTransaction,
    performance: PerformanceId,
    commands: &[&HoldCommand],
) -> Result<HashMap<Buyer, Vec<Owned>>, Failure> {
    use reservations::Column;
    // Each account once: the reservations of one in two statements would count twice.
    let accounts: BTreeSet<_> = commands.iter().map(|command| command.account.uuid()).collect();
    let (accounts, mut buyers) = (Vec::from_iter(accounts), HashMap::<_, Vec<_>>::new());
    for some in padded(&accounts) {
        let rows = reservations::Entity::find()
            .filter(Column::PerformanceId.eq(performance.uuid()))
            .filter(Column::AccountId.is_in(some))
            .filter(Column::State.is_in([rows::HELD, rows::PAYING, rows::CONFIRMED]));
        for model in rows.all(tx).await? {
            let row = Row::new("reservations", &model.id);
            let counts = match model.state.as_str() {
                rows::HELD => Counts::Until(Timestamp::from_unix_ms(model.held_until)),
                rows::PAYING => Counts::WhilePaying,
                rows::CONFIRMED => Counts::ForEver,
                _ => return Err(row.corrupt("state").into()),
            };
            let pass = PassNumber(row.number("pass_number", model.pass_number)?);
            let owned = Owned { pass, n_seats: row.number("n_seats", model.n_seats)?, counts };
            buyers.entry((performance, AccountId::from_uuid(model.account_id))).or_default().push(owned);
        }
    }
    Ok(buyers)
}

async fn read_ended_passes(
    tx: &DatabaseTransaction,
    performance: PerformanceId,
    commands: &[&HoldCommand],
) -> Result<HashSet<(PerformanceId, PassNumber)>, Failure> {
    use ended_passes::Column;
    let mut ended = HashSet::new();
    for some in padded(commands) {
        // A number beyond the column's range was never given out, so no pass with it has ended.
        let numbers = some.iter().filter_map(|command| i64::try_from(command.pass.0).ok());
        let rows = ended_passes::Entity::find()
            .filter(Column::PerformanceId.eq(performance.uuid()))
            .filter(Column::Number.is_in(numbers));
        let numbers = rows.all(tx).await?.into_iter().filter_map(|row| row.number.try_into().ok());
        ended.extend(numbers.map(|number| (performance, PassNumber(number))));
    }
    Ok(ended)
}

/// Locks a performance, before any other lock. Takes an exclusive lock and answers the hall if the judge chooses seats
/// of it. Otherwise takes a shared lock, so that batches of named seats run side by side.
async fn take_turn(
    tx: &DatabaseTransaction,
    halls: &Halls,
    performance: PerformanceId,
    commands: &[&HoldCommand],
) -> Result<Option<Arc<Hall>>, Failure> {
    if commands.iter().all(|command| command.seats.n_chosen() == 0) {
        if !has_one_writer(tx) {
            // MariaDB does not support `FOR SHARE`.
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
    Ok(Some(halls.get(tx, performance, map_version).await?))
}

/// The earlier uses of the claims' keys, with the reservations that they created, in the order of the claims.
async fn find_claims(
    db: &impl ConnectionTrait,
    claims: &[&Claim],
    now: Timestamp,
) -> Result<Vec<KeyUse<Reservation>>, Failure> {
    let uses = idempotency::find_all(db, Operation::Hold, claims, now).await?;
    let made: BTreeSet<_> = uses.iter().filter_map(|earlier| earlier.subject()).collect();
    let made = rows::find_all(db, made).await?;
    let made: HashMap<_, _> = made.into_iter().map(|reservation| (reservation.id.uuid(), reservation)).collect();
    let find = |id| {
        let made = made.get(&id).cloned();
        made.ok_or_else(|| CorruptRow::new("idempotency_keys", "subject_id", id).into())
    };
    uses.into_iter().map(|earlier| earlier.try_map(find)).collect()
}
