//! Reads reservations, seats and their history. Makes no decision about a seat.

use std::collections::{BTreeSet, HashMap, HashSet};

use sea_orm::prelude::{Expr, Uuid};
use sea_orm::sea_query::{CaseStatement, Func, Query, SelectStatement};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait, FromQueryResult, QueryFilter,
    QueryOrder, QuerySelect,
};
use usher_kernel::{AccountId, AttemptId, PerformanceId, ReservationId, SeatId, Timestamp};
use usher_reservation::audit::{
    AttemptRecord, ChargeRecord, History, RefundRecord, ReservationRecord, SaleRecord, SeatEvent, SeatRecord,
};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{PAGE_MAX, SeatFilter};
use usher_reservation::{Reservation, Seat, SeatCounts, SeatStatus};

use super::seats::holding;
use super::{payment, rows};
use crate::charge_log;
use crate::entities::{
    ended_passes, payment_attempts, refunds, reservation_seats, reservations, seat_events, seats, simulated_charges,
    sold,
};
use crate::error::{CorruptRow, Failure};
use crate::row::Row;

pub(super) async fn find(
    db: &impl ConnectionTrait,
    reservation: ReservationId,
    account: AccountId,
    now: Timestamp,
) -> Result<Option<Reservation>, Failure> {
    let found = rows::find_all(db, [reservation.uuid()]).await?.pop();
    Ok(found.filter(|found| found.account == account).map(|found| found.at(now)))
}

pub(super) async fn list(
    db: &impl ConnectionTrait,
    account: AccountId,
    after: Option<ReservationId>,
    limit: u64,
    now: Timestamp,
) -> Result<Vec<Reservation>, Failure> {
    use reservations::Column;
    let mut page = reservations::Entity::find()
        .filter(Column::AccountId.eq(account.uuid()))
        .order_by_asc(Column::Id)
        .limit(limit.min(PAGE_MAX));
    if let Some(after) = after {
        page = page.filter(Column::Id.gt(after.uuid()));
    }
    let page = rows::load(db, &page.all(db).await?).await?;
    Ok(page.into_iter().map(|reservation| reservation.at(now)).collect())
}

pub(super) async fn seats(
    db: &impl ConnectionTrait,
    performance: PerformanceId,
    filter: &SeatFilter,
    now: Timestamp,
) -> Result<Vec<Seat>, Failure> {
    use seats::Column;
    let mut page = seats::Entity::find()
        .filter(Column::PerformanceId.eq(performance.uuid()))
        .order_by_asc(Column::SeatIndex)
        .limit(filter.limit.min(PAGE_MAX));
    if let Some(after) = filter.after {
        page = page.filter(Column::SeatIndex.gt(i64::from(after)));
    }
    if let Some(grade) = &filter.grade {
        page = page.filter(Column::Grade.eq(grade.as_str()));
    }
    let is = |status: SeatStatus| Column::Status.eq(status.as_str());
    page = match filter.status {
        None => page,
        Some(SeatStatus::Available) => {
            let lapsed = Condition::all().add(is(SeatStatus::Held)).add(Column::HeldUntil.lte(now.unix_ms()));
            page.filter(Condition::any().add(is(SeatStatus::Available)).add(lapsed))
        }
        Some(SeatStatus::Held) => page.filter(is(SeatStatus::Held)).filter(Column::HeldUntil.gt(now.unix_ms())),
        Some(SeatStatus::Sold) => page.filter(is(SeatStatus::Sold)),
    };
    let page = page.all(db).await?.into_iter().map(|model| seat(model, now));
    Ok(page.collect::<Result<_, _>>()?)
}

fn seat(model: seats::Model, now: Timestamp) -> Result<Seat, CorruptRow> {
    let key = format!("({}, {})", model.performance_id, model.seat);
    let row = Row::new("seats", &key);
    let status = holding(row, &model.status, model.reservation_id, model.held_until)?.status_at(now);
    Ok(Seat {
        index: row.number("seat_index", model.seat_index)?,
        seat: row.parse("seat", &model.seat)?,
        row: row.number("row_no", model.row_no)?,
        number: row.number("number", model.number)?,
        price: row.money("price_amount", model.price_amount, &model.currency)?,
        status,
        version: row.number("version", model.version)?,
        section: model.section,
        grade: model.grade,
    })
}

#[derive(FromQueryResult)]
struct Count {
    performance_id: Uuid,
    status: String,
    n: i64,
    n_lapsed: i64,
}

pub(super) async fn seat_counts(
    db: &impl ConnectionTrait,
    performances: &[PerformanceId],
    now: Timestamp,
) -> Result<Vec<SeatCounts>, Failure> {
    use seats::Column;
    let lapsed = CaseStatement::new().case(Column::HeldUntil.lte(now.unix_ms()), 1);
    let counts = seats::Entity::find()
        .select_only()
        .column(Column::PerformanceId)
        .column(Column::Status)
        .column_as(Column::Status.count(), "n")
        .column_as(Expr::from(Func::count(lapsed)), "n_lapsed")
        .filter(Column::PerformanceId.is_in(performances.iter().map(|performance| performance.uuid())))
        .group_by(Column::PerformanceId)
        .group_by(Column::Status)
        .into_model::<Count>();
    let mut counted: HashMap<Uuid, SeatCounts> = HashMap::with_capacity(performances.len());
    for count in counts.all(db).await? {
        let row = Row::new("seats", &count.performance_id);
        let n: u64 = row.number("status", count.n)?;
        let n_lapsed: u64 = row.number("held_until", count.n_lapsed)?;
        let counts = counted.entry(count.performance_id).or_default();
        counts.total += n;
        match row.known("status", SeatStatus::from_name(&count.status))? {
            SeatStatus::Available => counts.available += n,
            SeatStatus::Held => {
                counts.held += n - n_lapsed;
                counts.available += n_lapsed;
            }
            SeatStatus::Sold => counts.sold += n,
        }
    }
    let in_order = performances.iter().map(|performance| counted.get(&performance.uuid()).copied());
    Ok(in_order.map(Option::unwrap_or_default).collect())
}

/// Reads the history of a performance. `tx` must be a snapshot.
pub(super) async fn history(tx: &DatabaseTransaction, performance: PerformanceId) -> Result<History, Failure> {
    let of = performance.uuid();
    let events = seat_events::Entity::find()
        .filter(seat_events::Column::PerformanceId.eq(of))
        .filter(seat_events::Column::Seat.ne(seat_events::WHOLE_MAP))
        .order_by_asc(seat_events::Column::Id);
    let events = events.all(tx).await?.iter().map(event).collect::<Result<_, _>>()?;
    let records = seats::Entity::find().filter(seats::Column::PerformanceId.eq(of)).order_by_asc(seats::Column::Seat);
    let records = records.all(tx).await?.iter().map(seat_record).collect::<Result<_, _>>()?;
    let sales = sold::Entity::find().filter(sold::Column::PerformanceId.eq(of)).order_by_asc(sold::Column::Seat);
    let sales = sales.all(tx).await?.into_iter().map(|model| {
        let seat = Row::new("sold", &model.seat).parse("seat", &model.seat)?;
        Ok(SaleRecord { seat, reservation: ReservationId::from_uuid(model.reservation_id) })
    });
    Ok(History {
        performance,
        events,
        seats: records,
        sales: sales.collect::<Result<_, CorruptRow>>()?,
        reservations: reservation_records(tx, of).await?,
        attempts: attempts(tx, of).await?,
        refunds: refund_records(tx, of).await?,
        charges: charges(tx, of).await?,
        ended_passes: ended(tx, of).await?,
    })
}

fn event(model: &seat_events::Model) -> Result<SeatEvent, CorruptRow> {
    let row = Row::new("seat_events", &model.id);
    Ok(SeatEvent {
        id: row.number("id", model.id)?,
        seat: row.parse("seat", &model.seat)?,
        version: row.number("version", model.version)?,
        status: row.known("status", SeatStatus::from_name(&model.status))?,
        owner: model.owner.map(ReservationId::from_uuid),
        owner_before: model.owner_before.map(ReservationId::from_uuid),
        held_until: model.held_until.map(Timestamp::from_unix_ms),
        at: Timestamp::from_unix_ms(model.at),
    })
}

fn seat_record(model: &seats::Model) -> Result<SeatRecord, CorruptRow> {
    let key = format!("({}, {})", model.performance_id, model.seat);
    let row = Row::new("seats", &key);
    Ok(SeatRecord {
        seat: row.parse("seat", &model.seat)?,
        version: row.number("version", model.version)?,
        status: row.known("status", SeatStatus::from_name(&model.status))?,
        owner: model.reservation_id.map(ReservationId::from_uuid),
    })
}

/// The ids of a performance's reservations.
fn reservations_of(performance: Uuid) -> SelectStatement {
    Query::select()
        .column(reservations::Column::Id)
        .from(reservations::Entity)
        .cond_where(reservations::Column::PerformanceId.eq(performance))
        .to_owned()
}

async fn reservation_records(tx: &DatabaseTransaction, performance: Uuid) -> Result<Vec<ReservationRecord>, Failure> {
    let rows = reservation_seats::Entity::find()
        .filter(reservation_seats::Column::ReservationId.in_subquery(reservations_of(performance)))
        .order_by_asc(reservation_seats::Column::ReservationId)
        .order_by_asc(reservation_seats::Column::Ordinal);
    let mut seats: HashMap<Uuid, Vec<SeatId>> = HashMap::new();
    for model in rows.all(tx).await? {
        let seat = Row::new("reservation_seats", &model.reservation_id).parse("seat", &model.seat)?;
        seats.entry(model.reservation_id).or_default().push(seat);
    }
    let models = reservations::Entity::find()
        .filter(reservations::Column::PerformanceId.eq(performance))
        .order_by_asc(reservations::Column::Id);
    let record = |model: reservations::Model| {
        Ok(ReservationRecord {
            id: ReservationId::from_uuid(model.id),
            pass: PassNumber(Row::new("reservations", &model.id).number("pass_number", model.pass_number)?),
            confirmed_by: model.attempt_id.filter(|_| model.state == rows::CONFIRMED).map(AttemptId::from_uuid),
            seats: seats.remove(&model.id).unwrap_or_default(),
            total: model.total_amount,
        })
    };
    Ok(models.all(tx).await?.into_iter().map(record).collect::<Result<_, CorruptRow>>()?)
}

/// The ids of the payment attempts for a performance's reservations.
fn attempts_of(performance: Uuid) -> SelectStatement {
    Query::select()
        .column(payment_attempts::Column::Id)
        .from(payment_attempts::Entity)
        .cond_where(payment_attempts::Column::ReservationId.in_subquery(reservations_of(performance)))
        .to_owned()
}

async fn attempts(tx: &DatabaseTransaction, performance: Uuid) -> Result<Vec<AttemptRecord>, Failure> {
    let models = payment_attempts::Entity::find()
        .filter(payment_attempts::Column::ReservationId.in_subquery(reservations_of(performance)))
        .order_by_asc(payment_attempts::Column::Id);
    let attempts = models.all(tx).await?;
    let record = |model| payment::attempt(model).map(|attempt| AttemptRecord::of(&attempt));
    Ok(attempts.iter().map(record).collect::<Result<_, _>>()?)
}

async fn refund_records(tx: &DatabaseTransaction, performance: Uuid) -> Result<Vec<RefundRecord>, Failure> {
    let models = refunds::Entity::find()
        .filter(refunds::Column::AttemptId.in_subquery(attempts_of(performance)))
        .order_by_asc(refunds::Column::AttemptId);
    let refunds = models.all(tx).await?.into_iter().map(|model| RefundRecord {
        attempt: AttemptId::from_uuid(model.attempt_id),
        amount: model.amount,
        is_sent: model.sent_at.is_some(),
    });
    Ok(refunds.collect())
}

async fn charges(tx: &DatabaseTransaction, performance: Uuid) -> Result<Vec<ChargeRecord>, Failure> {
    let models = simulated_charges::Entity::find()
        .filter(simulated_charges::Column::AttemptId.in_subquery(attempts_of(performance)))
        .order_by_asc(simulated_charges::Column::AttemptId);
    let charges = models.all(tx).await?.into_iter().map(|model| ChargeRecord {
        attempt: AttemptId::from_uuid(model.attempt_id),
        amount: model.amount,
        is_captured: charge_log::is_captured(&model),
        is_refunded: model.refunded_at.is_some(),
    });
    Ok(charges.collect())
}

async fn ended(tx: &DatabaseTransaction, performance: Uuid) -> Result<HashSet<PassNumber>, Failure> {
    let rows = ended_passes::Entity::find().filter(ended_passes::Column::PerformanceId.eq(performance));
    let ended = rows.all(tx).await?.into_iter().map(|model| {
        let number = Row::new("ended_passes", &model.number).number("number", model.number)?;
        Ok(PassNumber(number))
    });
    Ok(ended.collect::<Result<_, CorruptRow>>()?)
}

/// Payment attempts that do not exist, although a refund names them, or a charge that was not refunded.
pub(super) async fn strays(tx: &DatabaseTransaction) -> Result<Vec<AttemptId>, Failure> {
    let known = || Query::select().column(payment_attempts::Column::Id).from(payment_attempts::Entity).to_owned();
    let refunds = refunds::Entity::find().filter(refunds::Column::AttemptId.not_in_subquery(known()));
    let charges = simulated_charges::Entity::find()
        .filter(simulated_charges::Column::AttemptId.not_in_subquery(known()))
        .filter(simulated_charges::Column::RefundedAt.is_null());
    let refunds = refunds.all(tx).await?.into_iter().map(|model| model.attempt_id);
    let charges = charges.all(tx).await?.into_iter().filter(charge_log::is_captured).map(|model| model.attempt_id);
    let strays: BTreeSet<_> = refunds.chain(charges).map(AttemptId::from_uuid).collect();
    Ok(strays.into_iter().collect())
}
