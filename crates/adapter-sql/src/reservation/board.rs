//! Reads the data of the seat boards in memory: the seats of one performance, and the events of all.

use std::time::Duration;

use sea_orm::prelude::Uuid;
use sea_orm::{
    ColumnTrait, DatabaseConnection, DatabaseTransaction, EntityTrait, FromQueryResult, JoinType, QueryFilter,
    QueryOrder, QuerySelect, RelationDef, Select,
};
use usher_kernel::{PerformanceId, Timestamp};
use usher_reservation::board::{BoardChange, SeatStanding};
use usher_reservation::ports::EVENTS_MAX;
use usher_reservation::{BoardEvent, BoardRecord, SeatStatus};

use crate::entities::{performances, seat_events, seats};
use crate::error::{CorruptRow, Failure};
use crate::row::Row;
use crate::statements::padded;

/// An event is settled once it is this much older than the latest one: no transaction with an event before it is still
/// open. The time of an event is that of its command. The command may wait for its batch and be tried three times, for
/// 5 s each, before the event gets its id. Transactions with events before it take 5 s at most, too.
const SETTLED_AFTER: Duration = Duration::from_secs(30);

#[derive(FromQueryResult)]
struct SeatRow {
    status: String,
    version: i64,
}

/// An event, with the index of its seat in the current map.
#[derive(FromQueryResult)]
struct EventRow {
    id: i64,
    performance_id: Uuid,
    seat: String,
    version: i64,
    status: String,
    seat_index: Option<i32>,
}

/// Reads the board of a performance. `tx` must be a snapshot.
pub(super) async fn read(
    tx: &DatabaseTransaction,
    performance: PerformanceId,
    n_events: u32,
) -> Result<Option<BoardRecord>, Failure> {
    let key = Row::new("performances", &performance);
    let Some(model) = performances::Entity::find_by_id(performance.uuid()).one(tx).await? else { return Ok(None) };
    let map_version = key.number("map_version", model.map_version)?;
    let rows = seats::Entity::find()
        .select_only()
        .columns([seats::Column::Status, seats::Column::Version])
        .filter(seats::Column::PerformanceId.eq(performance.uuid()))
        .order_by_asc(seats::Column::SeatIndex)
        .into_model::<SeatRow>();
    let row = Row::new("seats", &performance);
    let seats = rows.all(tx).await?.into_iter().map(|seat| standing(row, &seat.status, seat.version));
    let seats = seats.collect::<Result<_, _>>()?;
    let latest = located()
        .filter(seat_events::Column::PerformanceId.eq(performance.uuid()))
        .order_by_desc(seat_events::Column::Id)
        .limit(u64::from(n_events.min(EVENTS_MAX)))
        .into_model::<EventRow>();
    let events = latest.all(tx).await?.iter().rev().map(event).collect::<Result<_, _>>()?;
    Ok(Some(BoardRecord { map_version, seats, events }))
}

pub(super) async fn events(
    db: &DatabaseConnection,
    after: u64,
    missing: &[u64],
    limit: u32,
) -> Result<Vec<BoardEvent>, Failure> {
    use seat_events::Column;
    // No id is higher than `i64::MAX`, so no event follows it.
    let id = |id: u64| i64::try_from(id).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    for some in padded(missing) {
        let some = located().filter(Column::Id.is_in(some.iter().map(|missing| id(*missing)))).order_by_asc(Column::Id);
        found.extend(some.into_model::<EventRow>().all(db).await?);
    }
    let next = located().filter(Column::Id.gt(id(after))).order_by_asc(Column::Id);
    found.extend(next.limit(u64::from(limit.min(EVENTS_MAX))).into_model::<EventRow>().all(db).await?);
    Ok(found.iter().map(event).collect::<Result<_, _>>()?)
}

pub(super) async fn settled_event(db: &DatabaseConnection) -> Result<u64, Failure> {
    use seat_events::Column;
    let latest = || seat_events::Entity::find().order_by_desc(Column::Id).limit(1);
    let Some(newest) = latest().one(db).await? else { return Ok(0) };
    let long_ago = Timestamp::from_unix_ms(newest.at).minus(SETTLED_AFTER);
    let settled = latest().filter(Column::At.lte(long_ago.unix_ms())).one(db).await?.map_or(0, |event| event.id);
    Ok(Row::new("seat_events", &settled).number("id", settled)?)
}

/// Selects events, each with the index of its seat in the map. The event of a whole map has no seat.
fn located() -> Select<seat_events::Entity> {
    let its_seat: RelationDef = seat_events::Entity::belongs_to(seats::Entity)
        .from((seat_events::Column::PerformanceId, seat_events::Column::Seat))
        .to((seats::Column::PerformanceId, seats::Column::Seat))
        .into();
    let of_event = [
        seat_events::Column::Id,
        seat_events::Column::PerformanceId,
        seat_events::Column::Seat,
        seat_events::Column::Version,
        seat_events::Column::Status,
    ];
    seat_events::Entity::find()
        .select_only()
        .columns(of_event)
        .column(seats::Column::SeatIndex)
        .join(JoinType::LeftJoin, its_seat)
}

fn event(model: &EventRow) -> Result<BoardEvent, CorruptRow> {
    let row = Row::new("seat_events", &model.id);
    let change = if model.seat == seat_events::WHOLE_MAP {
        BoardChange::Map { map_version: row.number("version", model.version)? }
    } else {
        let index = model.seat_index.map(|index| row.number("seat_index", index)).transpose()?;
        BoardChange::Seat { index, now: standing(row, &model.status, model.version)? }
    };
    Ok(BoardEvent {
        id: row.number("id", model.id)?,
        performance: PerformanceId::from_uuid(model.performance_id),
        change,
    })
}

fn standing(row: Row<'_>, status: &str, version: i64) -> Result<SeatStanding, CorruptRow> {
    let status = row.known("status", SeatStatus::from_name(status))?;
    Ok(SeatStanding { status, version: row.number("version", version)? })
}
