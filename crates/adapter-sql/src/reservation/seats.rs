//! Reads and updates the rows of seats, under optimistic locking: an update names the version that was read.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DerivePartialModel, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};
use sea_orm::{prelude::Expr, prelude::Uuid};
use usher_kernel::{PerformanceId, ReservationId, SeatId, Timestamp};
use usher_reservation::SeatStatus;
use usher_reservation::judge::{SeatChange, SeatHolding, SeatState};

use crate::entities::{seat_events, seats};
use crate::error::{CorruptRow, Failure};
use crate::row::Row;
use crate::statements::{each, insert_all, padded, powers};

#[derive(DerivePartialModel)]
#[sea_orm(entity = "seats::Entity")]
struct SeatRow {
    seat: String,
    grade: String,
    price_amount: i64,
    currency: String,
    status: String,
    reservation_id: Option<Uuid>,
    held_until: Option<i64>,
    version: i64,
}

/// Reads seats of a performance and locks them, in the order of the primary key.
pub(super) async fn lock(
    tx: &DatabaseTransaction,
    performance: PerformanceId,
    names: &[&SeatId],
) -> Result<Vec<SeatState>, Failure> {
    select(tx, performance, names, QuerySelect::lock_exclusive).await
}

/// Reads seats of a performance without a lock.
pub(super) async fn look_at(
    tx: &DatabaseTransaction,
    performance: PerformanceId,
    names: &[&SeatId],
) -> Result<Vec<SeatState>, Failure> {
    select(tx, performance, names, |rows| rows).await
}

async fn select(
    tx: &DatabaseTransaction,
    performance: PerformanceId,
    names: &[&SeatId],
    locked: impl Fn(Select<seats::Entity>) -> Select<seats::Entity> + Send,
) -> Result<Vec<SeatState>, Failure> {
    let mut states = Vec::with_capacity(names.len());
    for some in padded(names) {
        let rows = seats::Entity::find()
            .filter(seats::Column::PerformanceId.eq(performance.uuid()))
            .filter(seats::Column::Seat.is_in(some.iter().map(|seat| seat.as_str())))
            .order_by_asc(seats::Column::Seat);
        for row in locked(rows).into_partial_model::<SeatRow>().all(tx).await? {
            states.push(state(performance, row)?);
        }
    }
    Ok(states)
}

fn state(performance: PerformanceId, model: SeatRow) -> Result<SeatState, CorruptRow> {
    let key = format!("({performance}, {})", model.seat);
    let row = Row::new("seats", &key);
    Ok(SeatState {
        performance,
        seat: row.parse("seat", &model.seat)?,
        price: row.money("price_amount", model.price_amount, &model.currency)?,
        holding: holding(row, &model.status, model.reservation_id, model.held_until)?,
        version: row.number("version", model.version)?,
        grade: model.grade,
    })
}

/// The holding that the columns of a seat describe.
pub(super) fn holding(
    row: Row<'_>,
    status: &str,
    owner: Option<Uuid>,
    held_until: Option<i64>,
) -> Result<SeatHolding, CorruptRow> {
    let status = row.known("status", SeatStatus::from_name(status))?;
    let (owner, held_until) = (owner.map(ReservationId::from_uuid), held_until.map(Timestamp::from_unix_ms));
    row.known("status", SeatHolding::from_stored(status, owner, held_until))
}

/// Writes changes of seats, and an event for each. Each seat must still have the version that was read.
///
/// Two changes of one seat in one call are a conflict: the caller then runs its commands one by one.
pub(super) async fn write(tx: &DatabaseTransaction, changes: &[SeatChange], at: Timestamp) -> Result<(), Failure> {
    // Seats that go to one status from one version share a statement: in most calls, all of them do.
    let mut groups: BTreeMap<_, Vec<&SeatChange>> = BTreeMap::new();
    for change in changes {
        groups.entry((change.performance, change.after.status().code(), change.version)).or_default().push(change);
    }
    for ((performance, _, version), mut group) in groups {
        group.sort_unstable_by(|one, other| one.seat.cmp(&other.seat));
        let seat = (seats::Column::Seat, |change: &&SeatChange| change.seat.as_str().into());
        for some in powers(&group) {
            let update = seats::Entity::update_many()
                .col_expr(seats::Column::Status, Expr::value(some[0].after.status().as_str()))
                .col_expr(seats::Column::Version, Expr::value(i64::from(version)))
                .col_expr(
                    seats::Column::ReservationId,
                    each(some, seat, |change| change.after.owner().map(ReservationId::uuid).into()),
                )
                .col_expr(
                    seats::Column::HeldUntil,
                    each(some, seat, |change| change.after.held_until().map(Timestamp::unix_ms).into()),
                )
                .filter(seats::Column::PerformanceId.eq(performance.uuid()))
                .filter(seats::Column::Seat.is_in(some.iter().map(|change| change.seat.as_str())))
                .filter(seats::Column::Version.eq(i64::from(version) - 1));
            if update.exec(tx).await?.rows_affected != some.len() as u64 {
                return Err(Failure::Conflict { table: "seats" });
            }
        }
    }
    let events = changes.iter().map(|change| seat_events::ActiveModel {
        performance_id: Set(change.performance.uuid()),
        seat: Set(change.seat.to_string()),
        version: Set(i64::from(change.version)),
        status: Set(change.after.status().as_str().to_owned()),
        owner: Set(change.after.owner().map(ReservationId::uuid)),
        owner_before: Set(change.before.owner().map(ReservationId::uuid)),
        held_until: Set(change.after.held_until().map(Timestamp::unix_ms)),
        at: Set(at.unix_ms()),
        ..seat_events::ActiveModel::default()
    });
    let events: Vec<_> = events.collect();
    Ok(insert_all(tx, &events).await?)
}
