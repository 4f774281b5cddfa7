//! Reads the facts for choosing the best seats. The positions of a hall's seats are read once and cached. Every
//! transaction reads anew which of them are free, as far as the judge asks for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sea_orm::{
    ColumnTrait, Condition, DatabaseTransaction, DerivePartialModel, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use usher_kernel::{PerformanceId, Timestamp};
use usher_reservation::SeatStatus;
use usher_reservation::best::{Hall, HallSeat};
use usher_reservation::judge::hold::{FreeSeatsFound, FreeSeatsWanted};

use crate::entities::seats::{Column, Entity};
use crate::error::Failure;
use crate::row::Row;

/// The most halls in the cache. A hall of regular rows takes some KB. The worst possible hall (120,000 seats, no two of
/// them adjacent) takes 12 MB.
const HALLS_MAX: usize = 32;

/// A cache of halls, the most recently read first.
#[derive(Debug, Default)]
pub(super) struct Halls(Mutex<VecDeque<KnownHall>>);

/// A hall in the cache. A new map of the performance has a higher version.
#[derive(Debug)]
struct KnownHall {
    performance: PerformanceId,
    map_version: i32,
    hall: Arc<Hall>,
}

impl Halls {
    /// The hall of a performance, in this version of its map. Reads it if it is not in the cache.
    pub(super) async fn get(
        &self,
        tx: &DatabaseTransaction,
        performance: PerformanceId,
        map_version: i32,
    ) -> Result<Arc<Hall>, Failure> {
        if let Some(hall) = self.find(performance, map_version) {
            return Ok(hall);
        }
        let hall = Arc::new(read_hall(tx, performance).await?);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.performance != performance);
        known.truncate(HALLS_MAX - 1);
        known.push_front(KnownHall { performance, map_version, hall: Arc::clone(&hall) });
        Ok(hall)
    }

    fn find(&self, performance: PerformanceId, map_version: i32) -> Option<Arc<Hall>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|one| one.performance == performance && one.map_version == map_version)?;
        Some(Arc::clone(&found.hall))
    }
}

#[derive(DerivePartialModel)]
#[sea_orm(entity = "Entity")]
struct HallRow {
    seat_index: i32,
    section: String,
    row_no: i32,
    number: i32,
    grade: String,
    price_amount: i64,
    x: i32,
}

async fn read_hall(tx: &DatabaseTransaction, performance: PerformanceId) -> Result<Hall, Failure> {
    let rows = Entity::find()
        .filter(Column::PerformanceId.eq(performance.uuid()))
        .order_by_asc(Column::SeatIndex)
        .into_partial_model::<HallRow>();
    let mut seats = Vec::new();
    for (index, model) in rows.all(tx).await?.into_iter().enumerate() {
        let key = format!("({performance}, index {})", model.seat_index);
        let row = Row::new("seats", &key);
        // The choice refers to seats by their index in this list.
        row.known("seat_index", usize::try_from(model.seat_index).ok().filter(|stored| *stored == index))?;
        seats.push(HallSeat {
            row: row.number("row_no", model.row_no)?,
            number: row.number("number", model.number)?,
            section: model.section,
            grade: model.grade,
            price: model.price_amount,
            x: model.x,
        });
    }
    Ok(Hall::new(seats))
}

/// Reads the free seats that the judge asks for, from the front.
///
/// The selection is [`SeatHolding::status_at`](usher_reservation::judge::SeatHolding::status_at) in SQL: available, or
/// held and lapsed at `now`.
pub(super) async fn read_free(
    tx: &DatabaseTransaction,
    wanted: &FreeSeatsWanted,
    now: Timestamp,
) -> Result<FreeSeatsFound, Failure> {
    let is = |status: SeatStatus| Column::Status.eq(status.as_str());
    // Two statements, because the index alone answers each, and the first without sorting.
    let available = Condition::all().add(is(SeatStatus::Available)).add(Column::HeldUntil.is_null());
    let lapsed = Condition::all().add(is(SeatStatus::Held)).add(Column::HeldUntil.lte(now.unix_ms()));
    let mut found = FreeSeatsFound::default();
    for which in [available, lapsed] {
        let some: Vec<(i32, Option<i64>)> = Entity::find()
            .select_only()
            .columns([Column::SeatIndex, Column::HeldUntil])
            .filter(Column::PerformanceId.eq(wanted.performance.uuid()))
            .filter(which)
            .filter(Column::Grade.eq(&wanted.grade_name))
            .filter(Column::SeatIndex.gte(i64::from(wanted.first)))
            .order_by_asc(Column::SeatIndex)
            .limit(wanted.limit)
            .into_tuple()
            .all(tx)
            .await?;
        let is_all = (some.len() as u64) < wanted.limit;
        let row = Row::new("seats", &wanted.performance);
        for (index, held_until) in some {
            found.seats.push((row.number("seat_index", index)?, held_until.map(Timestamp::from_unix_ms)));
        }
        if let Some((last, _)) = found.seats.last().filter(|_| !is_all) {
            found.known_before = Some(found.known_before.map_or(last + 1, |before| before.min(last + 1)));
        }
    }
    Ok(found)
}
