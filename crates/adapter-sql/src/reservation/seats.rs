//! The seats' own rows: read for a change, and changed under the guard of their versions.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, DerivePartialModel, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};
use sea_orm::{prelude::Expr, prelude::Uuid};
use usher_kernel::{Money, PerformanceId, ReservationId, SeatId, Timestamp};
use usher_reservation::SeatStatus;

use crate::entities::{seat_events, seats};
use crate::error::{CorruptRow, Failure};
use crate::row::Row;
use crate::statements::{each, insert_all, padded, powers};

/// What of a seat decides who gets it.
#[derive(Clone, Debug)]
pub(super) struct SeatState {
    pub(super) performance: PerformanceId,
    pub(super) seat: SeatId,
    pub(super) grade: String,
    pub(super) price: Money,
    pub(super) status: SeatStatus,
    pub(super) owner: Option<ReservationId>,
    pub(super) held_until: Option<Timestamp>,
    pub(super) version: u32,
}

impl SeatState {
    /// The seat under its primary key.
    pub(super) fn keyed(self) -> ((PerformanceId, SeatId), Self) {
        ((self.performance, self.seat.clone()), self)
    }

    /// Whether anybody may take it: nobody has it, or the hold on it has lapsed.
    pub(super) fn is_free(&self, now: Timestamp) -> bool {
        match self.status {
            SeatStatus::Available => true,
            SeatStatus::Held => self.held_until.is_none_or(|until| now >= until),
            SeatStatus::Sold => false,
        }
    }

    /// Whether this reservation holds it, lapsed or not.
    pub(super) fn is_held_by(&self, reservation: ReservationId) -> bool {
        self.status == SeatStatus::Held && self.owner == Some(reservation)
    }

    /// Changes the seat, and tells what is to be written of it.
    pub(super) fn change(&mut self, to: SeatHolding, at: Timestamp) -> Change {
        let (status, owner, held_until) = match to {
            SeatHolding::Nobody => (SeatStatus::Available, None, None),
            SeatHolding::Held(owner, until) => (SeatStatus::Held, Some(owner), Some(until)),
            SeatHolding::Sold(owner) => (SeatStatus::Sold, Some(owner), None),
        };
        let before =
            std::mem::replace(self, Self { status, owner, held_until, version: self.version + 1, ..self.clone() });
        Change { after: self.clone(), owner_before: before.owner, at }
    }
}

/// Whose a seat becomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum SeatHolding {
    Nobody,
    Held(ReservationId, Timestamp),
    Sold(ReservationId),
}

/// One change of one seat.
#[derive(Clone, Debug)]
pub(super) struct Change {
    after: SeatState,
    owner_before: Option<ReservationId>,
    at: Timestamp,
}

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

/// Reads seats of a performance in order to change them, in the order of the primary key, and locks them.
pub(super) async fn lock(
    tx: &DatabaseTransaction,
    performance: PerformanceId,
    names: &[&SeatId],
) -> Result<Vec<SeatState>, Failure> {
    select(tx, performance, names, QuerySelect::lock_exclusive).await
}

/// Reads seats of a performance, and leaves them to everybody.
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
        grade: model.grade,
        price: row.money("price_amount", model.price_amount, &model.currency)?,
        status: row.known("status", SeatStatus::from_name(&model.status))?,
        owner: model.reservation_id.map(ReservationId::from_uuid),
        held_until: model.held_until.map(Timestamp::from_unix_ms),
        version: row.number("version", model.version)?,
    })
}

/// Writes changes of seats, each if the seat still has the version it was read with, and an event for each.
///
/// A seat that changes twice at once is refused as a conflict: the caller then changes them one after the other.
pub(super) async fn write(tx: &DatabaseTransaction, changes: &[Change]) -> Result<(), Failure> {
    // Seats that go to one status from one version share a statement: mostly, that is all of them.
    let mut groups: BTreeMap<_, Vec<&Change>> = BTreeMap::new();
    for change in changes {
        let SeatState { performance, status, version, .. } = change.after;
        groups.entry((performance, status.code(), version)).or_default().push(change);
    }
    for ((performance, _, version), mut group) in groups {
        group.sort_unstable_by(|one, other| one.after.seat.cmp(&other.after.seat));
        let seat = (seats::Column::Seat, |change: &&Change| change.after.seat.as_str().into());
        for some in powers(&group) {
            let update = seats::Entity::update_many()
                .col_expr(seats::Column::Status, Expr::value(some[0].after.status.as_str()))
                .col_expr(seats::Column::Version, Expr::value(i64::from(version)))
                .col_expr(
                    seats::Column::ReservationId,
                    each(some, seat, |change| change.after.owner.map(ReservationId::uuid).into()),
                )
                .col_expr(
                    seats::Column::HeldUntil,
                    each(some, seat, |change| change.after.held_until.map(Timestamp::unix_ms).into()),
                )
                .filter(seats::Column::PerformanceId.eq(performance.uuid()))
                .filter(seats::Column::Seat.is_in(some.iter().map(|change| change.after.seat.as_str())))
                .filter(seats::Column::Version.eq(i64::from(version) - 1));
            if update.exec(tx).await?.rows_affected != some.len() as u64 {
                return Err(Failure::Conflict { table: "seats" });
            }
        }
    }
    let events = changes.iter().map(|Change { after, owner_before, at }| seat_events::ActiveModel {
        performance_id: Set(after.performance.uuid()),
        seat: Set(after.seat.to_string()),
        version: Set(i64::from(after.version)),
        status: Set(after.status.as_str().to_owned()),
        owner: Set(after.owner.map(ReservationId::uuid)),
        owner_before: Set(owner_before.map(ReservationId::uuid)),
        held_until: Set(after.held_until.map(Timestamp::unix_ms)),
        at: Set(at.unix_ms()),
        ..seat_events::ActiveModel::default()
    });
    let events: Vec<_> = events.collect();
    Ok(insert_all(tx, &events).await?)
}
