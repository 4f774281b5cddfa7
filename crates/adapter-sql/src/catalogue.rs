//! The catalogue in SQL: concerts, performances, and the seats of their maps.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, EntityTrait, ExprTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect,
};
use usher_concert::judge::{self, SEAT_VERSION_FIRST, SeatUse};
use usher_concert::{
    AddOutcome, CatalogueRepository, Concert, Page, Performance, ReplaceSeatsOutcome, SaleTimes, SeatMap, SeatPlan,
    VersionedSeatMap,
};
use usher_kernel::{Claim, ConcertId, Operation, PerformanceId, StoreError, Timestamp};
use usher_reservation::SeatStatus;

use crate::Database;
use crate::database::{LARGE_UNIT_MAX, Transaction};
use crate::entities::{concerts, performances, seat_events, seats};
use crate::error::{CorruptRow, Failure};
use crate::idempotency;
use crate::row::Row;
use crate::statements::insert_all;

/// The catalogue in SQL.
#[derive(Clone, Debug)]
pub struct SqlCatalogueRepository {
    database: Database,
}

impl SqlCatalogueRepository {
    /// The catalogue of this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl CatalogueRepository for SqlCatalogueRepository {
    #[tracing::instrument(skip_all, name = "sql.catalogue.add_concert")]
    async fn add_concert(
        &self,
        concert: &Concert,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<AddOutcome<Concert>, StoreError> {
        let add = |tx: Transaction| async move {
            let earlier = idempotency::find(&*tx, claim, Operation::AddConcert, now).await?;
            let first = match earlier.subject() {
                Some(id) => find_concert(&*tx, ConcertId::from_uuid(id)).await?,
                None => None,
            };
            let earlier = earlier.try_map(|id| Row::new("concerts", &id).known("id", first))?;
            let judged = judge::add(earlier, true);
            if judged == AddOutcome::Added {
                let row = concert_row(concert)?.into_active_model();
                concerts::Entity::insert(row).exec_without_returning(&*tx).await?;
                idempotency::keep(&*tx, claim, Operation::AddConcert, concert.id.uuid(), now).await?;
            }
            Ok(judged)
        };
        self.database.write("catalogue.add_concert", add).await
    }

    #[tracing::instrument(skip_all, name = "sql.catalogue.add_performance")]
    async fn add_performance(
        &self,
        performance: &Performance,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<AddOutcome<Performance>, StoreError> {
        let add = |tx: Transaction| async move {
            let earlier = idempotency::find(&*tx, claim, Operation::AddPerformance, now).await?;
            let first = match earlier.subject() {
                Some(id) => find_performance(&*tx, PerformanceId::from_uuid(id)).await?,
                None => None,
            };
            let earlier = earlier.try_map(|id| Row::new("performances", &id).known("id", first))?;
            let judged = judge::add(earlier, find_concert(&*tx, performance.concert).await?.is_some());
            if judged == AddOutcome::Added {
                let row = performance_row(performance)?.into_active_model();
                performances::Entity::insert(row).exec_without_returning(&*tx).await?;
                idempotency::keep(&*tx, claim, Operation::AddPerformance, performance.id.uuid(), now).await?;
            }
            Ok(judged)
        };
        self.database.write("catalogue.add_performance", add).await
    }

    async fn concert(&self, id: ConcertId) -> Result<Option<Concert>, StoreError> {
        self.database.read("catalogue.concert", |db| find_concert(db, id)).await
    }

    async fn concerts(&self, page: Page<ConcertId>) -> Result<Vec<Concert>, StoreError> {
        let select = async |db: &DatabaseConnection| {
            let mut rows = concerts::Entity::find().order_by_asc(concerts::Column::Id).limit(limit(page.limit));
            if let Some(after) = page.after {
                rows = rows.filter(concerts::Column::Id.gt(after.uuid()));
            }
            Ok(rows.all(db).await?.into_iter().map(concert).collect::<Result<_, _>>()?)
        };
        self.database.read("catalogue.concerts", select).await
    }

    async fn performance(&self, id: PerformanceId) -> Result<Option<Performance>, StoreError> {
        self.database.read("catalogue.performance", |db| find_performance(db, id)).await
    }

    async fn performances(
        &self,
        concert: ConcertId,
        page: Page<PerformanceId>,
    ) -> Result<Vec<Performance>, StoreError> {
        use performances::{Column, Entity};
        let select = async |db: &DatabaseConnection| {
            let of_concert = Column::ConcertId.eq(concert.uuid());
            let mut rows = Entity::find().filter(of_concert).order_by_asc(Column::Id).limit(limit(page.limit));
            if let Some(after) = page.after {
                rows = rows.filter(Column::Id.gt(after.uuid()));
            }
            Ok(rows.all(db).await?.iter().map(performance).collect::<Result<_, _>>()?)
        };
        self.database.read("catalogue.performances", select).await
    }

    async fn performances_on_sale(&self, now: Timestamp, lobby: Duration) -> Result<Vec<Performance>, StoreError> {
        use performances::{Column, Entity};
        let select = async |db: &DatabaseConnection| {
            let rows = Entity::find()
                .filter(Column::SaleOpensAt.lte(now.plus(lobby).unix_ms()))
                .filter(Column::SaleClosesAt.gt(now.unix_ms()))
                .order_by_asc(Column::Id);
            Ok(rows.all(db).await?.iter().map(performance).collect::<Result<_, _>>()?)
        };
        self.database.read("catalogue.performances_on_sale", select).await
    }

    #[tracing::instrument(skip_all, name = "sql.catalogue.replace_seats")]
    async fn replace_seats(
        &self,
        performance: PerformanceId,
        map: &SeatMap,
        now: Timestamp,
    ) -> Result<ReplaceSeatsOutcome, StoreError> {
        use performances::{Column, Entity};
        let replace = |tx: Transaction| async move {
            // Judges without a lock first, so that a refused replacement does not block buyers.
            let seen = find_performance(&*tx, performance).await?;
            let early = judge::replace_seats(seen.as_ref(), seat_use(&*tx, performance).await?, now);
            if !matches!(early, ReplaceSeatsOutcome::Replaced { .. }) {
                return Ok(early);
            }
            // Other replacements and holds of named seats wait here, until this transaction ends.
            let locked = Entity::find_by_id(performance.uuid()).lock_exclusive().one(&*tx).await?;
            let locked = locked.as_ref().map(self::performance).transpose()?;
            // The delete waits for holds in progress, and then skips their seats, whose version has risen.
            let of_performance = seats::Column::PerformanceId.eq(performance.uuid());
            let untouched = seats::Column::Version.eq(i64::from(SEAT_VERSION_FIRST));
            seats::Entity::delete_many().filter(of_performance.and(untouched)).exec(&*tx).await?;
            let judged = judge::replace_seats(locked.as_ref(), seat_use(&*tx, performance).await?, now);
            let ReplaceSeatsOutcome::Replaced { map_version } = judged else {
                // A hold came first. The retry sees it in its first judgement.
                return Err(Failure::Conflict { table: "seats" });
            };
            Entity::update_many()
                .col_expr(Column::MapVersion, Expr::value(map_version))
                .filter(Column::Id.eq(performance.uuid()))
                .exec(&*tx)
                .await?;
            let rows = (0..).zip(map.seats()).map(|(index, plan)| seat_row(performance, index, plan));
            let rows = rows.map(|row| row.map(IntoActiveModel::into_active_model));
            insert_all(&*tx, &rows.collect::<Result<Vec<_>, _>>()?).await?;
            let event = new_map_event(performance, map_version, now);
            seat_events::Entity::insert(event).exec_without_returning(&*tx).await?;
            Ok(judged)
        };
        self.database.write_within(LARGE_UNIT_MAX, "catalogue.replace_seats", replace).await
    }

    async fn seat_map(&self, performance: PerformanceId) -> Result<Option<VersionedSeatMap>, StoreError> {
        use seats::{Column, Entity};
        let select = |tx: Transaction| async move {
            let Some(found) = find_performance(&*tx, performance).await? else { return Ok(None) };
            let of_performance = Column::PerformanceId.eq(performance.uuid());
            let rows = Entity::find().filter(of_performance).order_by_asc(Column::SeatIndex).all(&*tx).await?;
            let plans = rows.into_iter().map(seat_plan).collect::<Result<_, _>>()?;
            Ok(Some(VersionedSeatMap { version: found.map_version, map: SeatMap::from_stored(plans) }))
        };
        self.database.snapshot("catalogue.seat_map", select).await
    }
}

/// Caps a page at its maximum plus one row, which tells whether another page follows.
fn limit(asked: u64) -> u64 {
    Ord::min(asked, Page::<()>::LIMIT_MAX + 1)
}

async fn find_concert(db: &impl ConnectionTrait, id: ConcertId) -> Result<Option<Concert>, Failure> {
    let row = concerts::Entity::find_by_id(id.uuid()).one(db).await?;
    Ok(row.map(concert).transpose()?)
}

async fn find_performance(db: &impl ConnectionTrait, id: PerformanceId) -> Result<Option<Performance>, Failure> {
    let row = performances::Entity::find_by_id(id.uuid()).one(db).await?;
    Ok(row.as_ref().map(performance).transpose()?)
}

/// Whether a seat of the current map was ever held.
async fn seat_use(db: &impl ConnectionTrait, performance: PerformanceId) -> Result<SeatUse, Failure> {
    let held = seats::Entity::find()
        .select_only()
        .column(seats::Column::Version)
        .filter(seats::Column::PerformanceId.eq(performance.uuid()))
        .filter(seats::Column::Version.ne(i64::from(SEAT_VERSION_FIRST)))
        .limit(1)
        .into_tuple::<i64>();
    Ok(held.one(db).await?.map_or(SeatUse::Untouched, |_| SeatUse::Held))
}

fn concert(stored: concerts::Model) -> Result<Concert, CorruptRow> {
    let row = Row::new("concerts", &stored.id);
    Ok(Concert {
        id: ConcertId::from_uuid(stored.id),
        running_time_min: row.number("running_time_min", stored.running_time_min)?,
        title: stored.title,
        description: stored.description,
        venue: stored.venue,
    })
}

fn concert_row(concert: &Concert) -> Result<concerts::Model, CorruptRow> {
    let row = Row::new("concerts", &concert.id);
    Ok(concerts::Model {
        id: concert.id.uuid(),
        title: concert.title.clone(),
        description: concert.description.clone(),
        venue: concert.venue.clone(),
        running_time_min: row.number("running_time_min", concert.running_time_min)?,
    })
}

fn performance(stored: &performances::Model) -> Result<Performance, CorruptRow> {
    let row = Row::new("performances", &stored.id);
    let at = Timestamp::from_unix_ms;
    Ok(Performance {
        id: PerformanceId::from_uuid(stored.id),
        concert: ConcertId::from_uuid(stored.concert_id),
        starts_at: at(stored.starts_at),
        sale: SaleTimes { opens_at: at(stored.sale_opens_at), closes_at: at(stored.sale_closes_at) },
        seat_limit_per_buyer: row.number("seat_limit_per_buyer", stored.seat_limit_per_buyer)?,
        hold_ttl: Duration::from_millis(row.number("hold_ttl_ms", stored.hold_ttl_ms)?),
        map_version: row.number("map_version", stored.map_version)?,
    })
}

fn performance_row(performance: &Performance) -> Result<performances::Model, CorruptRow> {
    let row = Row::new("performances", &performance.id);
    Ok(performances::Model {
        id: performance.id.uuid(),
        concert_id: performance.concert.uuid(),
        starts_at: performance.starts_at.unix_ms(),
        sale_opens_at: performance.sale.opens_at.unix_ms(),
        sale_closes_at: performance.sale.closes_at.unix_ms(),
        seat_limit_per_buyer: row.number("seat_limit_per_buyer", performance.seat_limit_per_buyer)?,
        hold_ttl_ms: row.number("hold_ttl_ms", performance.hold_ttl.as_millis())?,
        map_version: row.number("map_version", performance.map_version)?,
    })
}

fn seat_plan(stored: seats::Model) -> Result<SeatPlan, CorruptRow> {
    let key = format!("{}, {}", stored.performance_id, stored.seat);
    let row = Row::new("seats", &key);
    Ok(SeatPlan {
        seat: row.parse("seat", &stored.seat)?,
        row: row.number("row_no", stored.row_no)?,
        number: row.number("number", stored.number)?,
        price: row.money("price_amount", stored.price_amount, &stored.currency)?,
        section: stored.section,
        grade: stored.grade,
        x: stored.x,
        y: stored.y,
    })
}

/// The event that tells followers of the seats that the whole map was replaced.
fn new_map_event(performance: PerformanceId, map_version: u32, now: Timestamp) -> seat_events::ActiveModel {
    seat_events::ActiveModel {
        performance_id: Set(performance.uuid()),
        seat: Set(seat_events::WHOLE_MAP.to_owned()),
        version: Set(i64::from(map_version)),
        status: Set(SeatStatus::Available.as_str().to_owned()),
        owner: Set(None),
        owner_before: Set(None),
        held_until: Set(None),
        at: Set(now.unix_ms()),
        ..seat_events::ActiveModel::default()
    }
}

/// The row of a new seat, which was never held.
fn seat_row(performance: PerformanceId, index: usize, plan: &SeatPlan) -> Result<seats::Model, CorruptRow> {
    Ok(seats::Model {
        performance_id: performance.uuid(),
        seat: plan.seat.as_str().to_owned(),
        seat_index: Row::new("seats", &plan.seat).number("seat_index", index)?,
        section: plan.section.clone(),
        row_no: plan.row.into(),
        number: plan.number.into(),
        grade: plan.grade.clone(),
        price_amount: plan.price.amount(),
        currency: plan.price.currency().to_string(),
        x: plan.x,
        y: plan.y,
        status: SeatStatus::Available.as_str().to_owned(),
        reservation_id: None,
        held_until: None,
        version: SEAT_VERSION_FIRST.into(),
    })
}
