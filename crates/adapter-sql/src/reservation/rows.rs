//! Converts reservations to rows, and back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::prelude::{Expr, Uuid};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
};
use usher_kernel::{AccountId, AttemptId, PerformanceId, ReservationId, SeatId, TicketId, Timestamp};
use usher_reservation::model::PassNumber;
use usher_reservation::{Payment, Reservation, ReservedSeat, State, Ticket};

use crate::database::has_one_writer;
use crate::entities::{buyers, reservation_seats, reservations, sold};
use crate::error::{CorruptRow, Failure};
use crate::row::Row;
use crate::statements::{each, insert_all, padded, powers};

pub(super) const HELD: &str = "held";
pub(super) const PAYING: &str = "paying";
pub(super) const CONFIRMED: &str = "confirmed";
const RELEASED: &str = "released";
const EXPIRED: &str = "expired";

/// Locks the rows of buyers in the order of the primary key, and creates missing ones. So the requests of one buyer in
/// one performance run one after the other.
pub(super) async fn lock_buyers(
    tx: &DatabaseTransaction,
    buyers: &BTreeSet<(PerformanceId, AccountId)>,
) -> Result<(), Failure> {
    if has_one_writer(tx) {
        return Ok(());
    }
    let rows = buyers.iter().map(|(performance, account)| buyers::ActiveModel {
        performance_id: Set(performance.uuid()),
        account_id: Set(account.uuid()),
    });
    let rows: Vec<_> = rows.collect();
    let key = [buyers::Column::PerformanceId, buyers::Column::AccountId];
    // On MySQL this overwrites an existing row with itself, which locks it.
    let on_conflict = OnConflict::columns(key).do_nothing_on(key).to_owned();
    for some in padded(&rows) {
        let insert = buyers::Entity::insert_many(some).on_conflict(on_conflict.clone());
        insert.exec_without_returning(tx).await?;
    }
    Ok(())
}

/// Reads reservations by their ids. Answers in no particular order.
pub(super) async fn find_all(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = Uuid> + Send,
) -> Result<Vec<Reservation>, Failure> {
    let (ids, mut models) = (Vec::from_iter(ids), Vec::new());
    for some in padded(&ids) {
        models.extend(reservations::Entity::find().filter(reservations::Column::Id.is_in(some)).all(db).await?);
    }
    load(db, &models).await
}

/// Completes reservations with their seats and tickets. Answers in the order of the rows.
pub(super) async fn load(
    db: &impl ConnectionTrait,
    models: &[reservations::Model],
) -> Result<Vec<Reservation>, Failure> {
    let mut seats: HashMap<Uuid, Vec<ReservedSeat>> = HashMap::with_capacity(models.len());
    let mut tickets: HashMap<Uuid, HashMap<SeatId, Ticket>> = HashMap::new();
    let ids: Vec<_> = models.iter().map(|model| model.id).collect();
    for some in padded(&ids) {
        let rows = reservation_seats::Entity::find()
            .filter(reservation_seats::Column::ReservationId.is_in(some))
            .order_by_asc(reservation_seats::Column::ReservationId)
            .order_by_asc(reservation_seats::Column::Ordinal);
        for row in rows.all(db).await? {
            seats.entry(row.reservation_id).or_default().push(reserved_seat(row)?);
        }
    }
    let confirmed: Vec<_> = models.iter().filter(|model| model.state == CONFIRMED).map(|model| model.id).collect();
    for some in padded(&confirmed) {
        for row in sold::Entity::find().filter(sold::Column::ReservationId.is_in(some)).all(db).await? {
            let seat: SeatId = Row::new("sold", &row.seat).parse("seat", &row.seat)?;
            let ticket = Ticket { id: TicketId::from_uuid(row.ticket_id), seat: seat.clone(), code: row.code };
            tickets.entry(row.reservation_id).or_default().insert(seat, ticket);
        }
    }
    let complete = models.iter().map(|model| {
        let seats = seats.remove(&model.id).unwrap_or_default();
        let tickets = tickets.remove(&model.id).unwrap_or_default();
        reservation(model, seats, tickets)
    });
    Ok(complete.collect::<Result<_, _>>()?)
}

fn reserved_seat(model: reservation_seats::Model) -> Result<ReservedSeat, CorruptRow> {
    let key = format!("({}, {})", model.reservation_id, model.ordinal);
    let row = Row::new("reservation_seats", &key);
    let price = row.money("price_amount", model.price_amount, &model.currency)?;
    Ok(ReservedSeat { seat: row.parse("seat", &model.seat)?, grade: model.grade, price })
}

fn reservation(
    model: &reservations::Model,
    seats: Vec<ReservedSeat>,
    mut tickets: HashMap<SeatId, Ticket>,
) -> Result<Reservation, CorruptRow> {
    let row = Row::new("reservations", &model.id);
    let n_seats: usize = row.number("n_seats", model.n_seats)?;
    if seats.len() != n_seats {
        return Err(row.corrupt("n_seats"));
    }
    let attempt = || row.known("attempt_id", model.attempt_id.map(AttemptId::from_uuid));
    let state = match model.state.as_str() {
        HELD => State::Held,
        PAYING => {
            let resolve_at = row.known("resolve_at", model.resolve_at.map(Timestamp::from_unix_ms))?;
            State::Paying(Payment { attempt: attempt()?, resolve_at })
        }
        CONFIRMED => {
            let at = row.known("confirmed_at", model.confirmed_at.map(Timestamp::from_unix_ms))?;
            let tickets = seats.iter().map(|reserved| tickets.remove(&reserved.seat));
            let tickets = row.known("state", tickets.collect())?;
            State::Confirmed { attempt: attempt()?, at, tickets }
        }
        RELEASED => State::Released,
        EXPIRED => State::Expired,
        _ => return Err(row.corrupt("state")),
    };
    Ok(Reservation {
        id: ReservationId::from_uuid(model.id),
        performance: PerformanceId::from_uuid(model.performance_id),
        account: AccountId::from_uuid(model.account_id),
        pass: PassNumber(row.number("pass_number", model.pass_number)?),
        seats,
        total: row.money("total_amount", model.total_amount, &model.currency)?,
        created_at: Timestamp::from_unix_ms(model.created_at),
        held_until: Timestamp::from_unix_ms(model.held_until),
        held_until_original: Timestamp::from_unix_ms(model.held_until_original),
        declined: row.number("declined", model.declined)?,
        version: row.number("version", model.version)?,
        state,
    })
}

/// Stores new reservations with their seats.
pub(super) async fn insert(tx: &DatabaseTransaction, new: &[Reservation]) -> Result<(), Failure> {
    let rows = new.iter().map(|reservation| {
        let (row, changeable) = (Row::new("reservations", &reservation.id), Changeable::of(reservation)?);
        Ok(reservations::ActiveModel {
            id: Set(reservation.id.uuid()),
            performance_id: Set(reservation.performance.uuid()),
            account_id: Set(reservation.account.uuid()),
            pass_number: Set(row.number("pass_number", reservation.pass.0)?),
            n_seats: Set(row.number("n_seats", reservation.seats.len())?),
            total_amount: Set(reservation.total.amount()),
            currency: Set(reservation.total.currency().to_string()),
            created_at: Set(reservation.created_at.unix_ms()),
            held_until_original: Set(reservation.held_until_original.unix_ms()),
            held_until: Set(changeable.held_until),
            declined: Set(changeable.declined),
            version: Set(changeable.version),
            state: Set(changeable.state.to_owned()),
            attempt_id: Set(changeable.attempt_id),
            resolve_at: Set(changeable.resolve_at),
            confirmed_at: Set(changeable.confirmed_at),
        })
    });
    let rows: Vec<_> = rows.collect::<Result<_, CorruptRow>>()?;
    insert_all(tx, &rows).await?;
    let seats = new.iter().flat_map(|reservation| {
        reservation.seats.iter().zip(0..).map(|(reserved, ordinal)| reservation_seats::ActiveModel {
            reservation_id: Set(reservation.id.uuid()),
            ordinal: Set(ordinal),
            seat: Set(reserved.seat.to_string()),
            grade: Set(reserved.grade.clone()),
            price_amount: Set(reserved.price.amount()),
            currency: Set(reserved.price.currency().to_string()),
        })
    });
    let seats: Vec<_> = seats.collect();
    Ok(insert_all(tx, &seats).await?)
}

/// Stores changed reservations. Each row must still have the version that was read.
pub(super) async fn update(tx: &DatabaseTransaction, changed: &[(Reservation, u32)]) -> Result<(), Failure> {
    use reservations::Column;
    // Reservations that go to one state from one version share a statement: in most calls, all of them do.
    let mut groups: BTreeMap<_, Vec<(Uuid, Changeable)>> = BTreeMap::new();
    for (reservation, read) in changed {
        let row = Changeable::of(reservation)?;
        let group = groups.entry((row.state, *read, row.version, row.declined)).or_default();
        group.push((reservation.id.uuid(), row));
    }
    for ((state, read, version, declined), group) in groups {
        let id = (Column::Id, |(id, _): &(Uuid, Changeable)| (*id).into());
        for some in powers(&group) {
            let update = reservations::Entity::update_many()
                .col_expr(Column::State, Expr::value(state))
                .col_expr(Column::Version, Expr::value(version))
                .col_expr(Column::Declined, Expr::value(declined))
                .col_expr(Column::HeldUntil, each(some, id, |(_, row)| row.held_until.into()))
                .col_expr(Column::AttemptId, each(some, id, |(_, row)| row.attempt_id.into()))
                .col_expr(Column::ResolveAt, each(some, id, |(_, row)| row.resolve_at.into()))
                .col_expr(Column::ConfirmedAt, each(some, id, |(_, row)| row.confirmed_at.into()))
                .filter(Column::Id.is_in(some.iter().map(|(id, _)| *id)))
                .filter(Column::Version.eq(i64::from(read)));
            if update.exec(tx).await?.rows_affected != some.len() as u64 {
                return Err(Failure::Conflict { table: "reservations" });
            }
        }
    }
    Ok(())
}

/// The columns of a reservation that change over its lifetime.
struct Changeable {
    held_until: i64,
    declined: i32,
    version: i64,
    state: &'static str,
    attempt_id: Option<Uuid>,
    resolve_at: Option<i64>,
    confirmed_at: Option<i64>,
}

impl Changeable {
    fn of(reservation: &Reservation) -> Result<Self, CorruptRow> {
        let (state, attempt, resolve_at, confirmed_at) = match &reservation.state {
            State::Held => (HELD, None, None, None),
            State::Paying(payment) => (PAYING, Some(payment.attempt), Some(payment.resolve_at), None),
            State::Confirmed { attempt, at, tickets: _ } => (CONFIRMED, Some(*attempt), None, Some(*at)),
            State::Released => (RELEASED, None, None, None),
            State::Expired => (EXPIRED, None, None, None),
        };
        Ok(Self {
            held_until: reservation.held_until.unix_ms(),
            declined: Row::new("reservations", &reservation.id).number("declined", reservation.declined)?,
            version: i64::from(reservation.version),
            state,
            attempt_id: attempt.map(AttemptId::uuid),
            resolve_at: resolve_at.map(Timestamp::unix_ms),
            confirmed_at: confirmed_at.map(Timestamp::unix_ms),
        })
    }
}
