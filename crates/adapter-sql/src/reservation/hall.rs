//! What the choice of the best seats looks at: where the seats of a hall are, which is read once and kept, and which of
//! them are free, which is read anew in every transaction, and no further than it matters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sea_orm::{
    ColumnTrait, Condition, DatabaseTransaction, DerivePartialModel, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use usher_kernel::{PerformanceId, SeatId, Timestamp};
use usher_reservation::SeatStatus;
use usher_reservation::best::{self, Choice, FreeSeats, Grade, Hall, HallSeat};

use crate::entities::seats::{Column, Entity};
use crate::error::Failure;
use crate::row::Row;

/// How many halls are kept. One of regular rows takes some KB, the worst that can be made (120,000 seats, none beside
/// another) 12 MB.
const HALLS_MAX: usize = 32;

/// The halls that seats were chosen from lately.
#[derive(Debug, Default)]
pub(super) struct Halls(Mutex<VecDeque<KnownHall>>);

/// A performance's hall. A later map of its seats has a higher version.
#[derive(Debug)]
struct KnownHall {
    performance: PerformanceId,
    map_version: i32,
    hall: Arc<Hall>,
}

impl Halls {
    /// The hall of a performance in this version.
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
        // Seats are known to the choice by their place in this list.
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

/// The seats of a performance, while a batch chooses among them.
pub(super) struct Choosing {
    performance: PerformanceId,
    hall: Arc<Hall>,
    free: FreeSeats,
    /// Holds that lapse until then may be taken over.
    latest: Timestamp,
    /// How many seats are read the next time.
    n_to_read: u64,
}

/// Some rows in front, also for those who want few seats.
const READ_AT_LEAST: u64 = 256;

impl Choosing {
    /// Begins to choose `n_wanted` seats in all.
    pub(super) fn new(performance: PerformanceId, hall: Arc<Hall>, n_wanted: u64, latest: Timestamp) -> Self {
        let free = FreeSeats::unknown(&hall);
        Self { performance, hall, free, latest, n_to_read: READ_AT_LEAST.max(2 * n_wanted) }
    }

    /// Where the seats are.
    pub(super) fn hall(&self) -> &Hall {
        &self.hall
    }

    /// Takes a seat until a time.
    pub(super) fn take(&mut self, seat: &SeatId, until: Timestamp) {
        if let Some(index) = self.hall.index(seat) {
            self.free.take(index, until);
        }
    }

    /// The best seats that are free at `now`. `None`: so many are not free.
    pub(super) async fn choose(
        &mut self,
        tx: &DatabaseTransaction,
        count: u32,
        grade: Option<Grade>,
        now: Timestamp,
    ) -> Result<Option<Vec<SeatId>>, Failure> {
        loop {
            match best::choose(&self.hall, &self.free, count, grade, now) {
                Choice::Seats(seats) => {
                    let names: Option<_> = seats.into_iter().map(|index| self.hall.seat(index)).collect();
                    return Ok(Some(Row::new("seats", &self.performance).known("seat", names)?));
                }
                Choice::NotEnough => return Ok(None),
                Choice::Unknown(grade) => self.read_on(tx, grade).await?,
            }
        }
    }

    /// Reads the next free seats of a grade, from the front.
    async fn read_on(&mut self, tx: &DatabaseTransaction, grade: Grade) -> Result<(), Failure> {
        let is = |status: SeatStatus| Column::Status.eq(status.as_str());
        // Two statements, because each finds its seats in the index alone, and the first finds them in order.
        let available = Condition::all().add(is(SeatStatus::Available)).add(Column::HeldUntil.is_null());
        let lapsed = Condition::all().add(is(SeatStatus::Held)).add(Column::HeldUntil.lte(self.latest.unix_ms()));
        let (mut seats, mut known_before) = (Vec::new(), u32::MAX);
        for which in [available, lapsed] {
            let some: Vec<(i32, Option<i64>)> = Entity::find()
                .select_only()
                .columns([Column::SeatIndex, Column::HeldUntil])
                .filter(Column::PerformanceId.eq(self.performance.uuid()))
                .filter(which)
                .filter(Column::Grade.eq(self.hall.grade_name(grade)))
                .filter(Column::SeatIndex.gte(i64::from(self.free.known_before(grade))))
                .order_by_asc(Column::SeatIndex)
                .limit(self.n_to_read)
                .into_tuple()
                .all(tx)
                .await?;
            let is_all = (some.len() as u64) < self.n_to_read;
            let row = Row::new("seats", &self.performance);
            for (index, held_until) in some {
                seats.push((row.number("seat_index", index)?, held_until.map(Timestamp::from_unix_ms)));
            }
            if let Some((last, _)) = seats.last().filter(|_| !is_all) {
                known_before = known_before.min(last + 1);
            }
        }
        self.free.learn(grade, seats.into_iter().filter(|(index, _)| *index < known_before), known_before);
        self.n_to_read *= 2;
        Ok(())
    }
}
