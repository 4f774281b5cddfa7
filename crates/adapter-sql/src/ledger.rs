//! The durable part of the lines, in SQL.
//!
//! A line's row holds the epoch in which the line is open, and every update names the epoch of its caller. So a late
//! call of an older epoch changes nothing, even if the next epoch began after the call had checked it.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sea_orm::sea_query::{CaseStatement, Expr, OnConflict, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
};
use usher_kernel::{PerformanceId, StoreError, Timestamp};
use usher_queue::ports::{LineLedger, LineMark, Opening, PastGrant, Superseded};
use usher_queue::{AccountHash, Epoch, Grant, PlaceNumber};

use crate::Database;
use crate::database::Transaction;
use crate::entities::{ended_passes, line_epoch, line_grants, lines};
use crate::error::{CorruptRow, Failure, inserted_first};
use crate::row::Row;
use crate::statements::padded;

/// Keeps the durable part of the lines in SQL.
#[derive(Clone, Debug)]
pub struct SqlLineLedger {
    database: Database,
}

impl SqlLineLedger {
    /// The ledger of this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl LineLedger for SqlLineLedger {
    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.database.read("ledger.epoch", present_epoch).await
    }

    #[tracing::instrument(skip_all, name = "sql.ledger.begin_epoch")]
    async fn begin_epoch(&self, seen: Epoch) -> Result<Epoch, StoreError> {
        use line_epoch::{Column, Entity};
        let begin = |tx: Transaction| async move {
            Entity::update_many()
                .col_expr(Column::Epoch, Expr::value(stored(seen.next().get())))
                .filter(Column::Id.eq(EPOCH_ROW))
                .filter(Column::Epoch.eq(stored(seen.get())))
                .exec(&*tx)
                .await?;
            present_epoch(&*tx).await
        };
        self.database.write("ledger.begin_epoch", begin).await
    }

    #[tracing::instrument(skip_all, name = "sql.ledger.open_line")]
    async fn open_line(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        block: u64,
        now: Timestamp,
    ) -> Result<Superseded<Opening>, StoreError> {
        use lines::{Column, Entity};
        let open = |tx: Transaction| async move {
            if let Some(newer) = other_epoch(&*tx, epoch).await? {
                return Ok(Superseded::By(newer));
            }
            // Concurrent calls wait here for the lock of the row. If there is no row, the primary key lets one of them
            // insert it.
            let before = Entity::find_by_id(performance.uuid()).lock_exclusive().one(&*tx).await?;
            let (is_first, line) = match before {
                Some(before) if before.epoch >= stored(epoch.get()) => (false, before),
                Some(before) => {
                    let ceiling = before.ceiling + stored(block);
                    let line = lines::Model { epoch: stored(epoch.get()), start: before.ceiling, ceiling, ..before };
                    Entity::update_many()
                        .col_expr(Column::Epoch, Expr::value(line.epoch))
                        .col_expr(Column::Start, Expr::value(line.start))
                        .col_expr(Column::Ceiling, Expr::value(line.ceiling))
                        .filter(Column::PerformanceId.eq(performance.uuid()))
                        .filter(Column::Epoch.eq(before.epoch))
                        .exec(&*tx)
                        .await?;
                    (true, line)
                }
                None => {
                    let line = new_line(performance, epoch, block);
                    let insert = Entity::insert(line.clone().into_active_model()).exec_without_returning(&*tx).await;
                    insert.map_err(inserted_first("lines"))?;
                    (true, line)
                }
            };
            match in_epoch(performance, epoch, Some(line))? {
                Superseded::No(line) => {
                    let live = live_grants(&*tx, performance, now).await?;
                    Ok(Superseded::No(opening(is_first, &line, live)?))
                }
                Superseded::By(newer) => Ok(Superseded::By(newer)),
            }
        };
        self.database.write("ledger.open_line", open).await
    }

    #[tracing::instrument(skip_all, name = "sql.ledger.reserve")]
    async fn reserve(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        seen: PlaceNumber,
        block: u64,
    ) -> Result<Superseded<PlaceNumber>, StoreError> {
        use lines::{Column, Entity};
        let raise = |tx: Transaction| async move {
            if let Some(newer) = other_epoch(&*tx, epoch).await? {
                return Ok(Superseded::By(newer));
            }
            Entity::update_many()
                .col_expr(Column::Ceiling, Expr::value(stored(seen.get()) + stored(block)))
                .filter(Column::PerformanceId.eq(performance.uuid()))
                .filter(Column::Epoch.eq(stored(epoch.get())))
                .filter(Column::Ceiling.eq(stored(seen.get())))
                .exec(&*tx)
                .await?;
            let line = Entity::find_by_id(performance.uuid()).one(&*tx).await?;
            match in_epoch(performance, epoch, line)? {
                Superseded::No(line) => {
                    let ceiling = Row::new("lines", &performance).number("ceiling", line.ceiling)?;
                    Ok(Superseded::No(PlaceNumber::new(ceiling)))
                }
                Superseded::By(newer) => Ok(Superseded::By(newer)),
            }
        };
        self.database.write("ledger.reserve", raise).await
    }

    #[tracing::instrument(skip_all, name = "sql.ledger.save")]
    async fn save(
        &self,
        performance: PerformanceId,
        epoch: Epoch,
        mark: &LineMark,
        granted: &[Grant],
    ) -> Result<Superseded<()>, StoreError> {
        use lines::{Column, Entity};
        let save = |tx: Transaction| async move {
            if let Some(newer) = other_epoch(&*tx, epoch).await? {
                return Ok(Superseded::By(newer));
            }
            let saved = Entity::update_many()
                .col_expr(Column::Serving, raised(Column::Serving, mark.serving))
                .col_expr(Column::Issued, raised(Column::Issued, mark.issued))
                .col_expr(Column::Waiting, Expr::value(stored(mark.waiting)))
                .col_expr(Column::Active, Expr::value(stored(mark.active)))
                .col_expr(Column::ActiveUntil, Expr::value(mark.active_until.map(Timestamp::unix_ms)))
                .filter(Column::PerformanceId.eq(performance.uuid()))
                .filter(Column::Epoch.eq(stored(epoch.get())))
                .exec(&*tx)
                .await?;
            if saved.rows_affected == 0 {
                let line = Entity::find_by_id(performance.uuid()).one(&*tx).await?;
                return match in_epoch(performance, epoch, line)? {
                    // The line was opened after the update had looked for it.
                    Superseded::No(_) => Err(Failure::Conflict { table: "lines" }),
                    Superseded::By(newer) => Ok(Superseded::By(newer)),
                };
            }
            for some in padded(granted) {
                save_grants(&*tx, performance, &some).await?;
            }
            Ok(Superseded::No(()))
        };
        self.database.write("ledger.save", save).await
    }

    #[tracing::instrument(skip_all, name = "sql.ledger.end_pass")]
    async fn end_pass(
        &self,
        performance: PerformanceId,
        number: PlaceNumber,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        use ended_passes::{Column, Entity, Model};
        let end = |tx: Transaction| async move {
            let row =
                Model { performance_id: performance.uuid(), number: stored(number.get()), ended_at: now.unix_ms() };
            let key = [Column::PerformanceId, Column::Number];
            let unless_ended = OnConflict::columns(key).do_nothing_on(key).to_owned();
            let row = row.into_active_model();
            Entity::insert(row).on_conflict(unless_ended).exec_without_returning(&*tx).await?;
            Ok(())
        };
        self.database.write("ledger.end_pass", end).await
    }

    async fn past_grants(
        &self,
        performance: PerformanceId,
        numbers: &[PlaceNumber],
    ) -> Result<Vec<PastGrant>, StoreError> {
        self.database.read("ledger.past_grants", |db| past_grants(db, performance, numbers)).await
    }
}

/// The primary key of the only row of `line_epoch`.
const EPOCH_ROW: i32 = 1;

async fn present_epoch(db: &impl ConnectionTrait) -> Result<Epoch, Failure> {
    let stored = line_epoch::Entity::find_by_id(EPOCH_ROW).one(db).await?;
    let row = Row::new("line_epoch", &EPOCH_ROW);
    let stored = row.known("id", stored)?;
    Ok(Epoch::new(row.number("epoch", stored.epoch)?))
}

/// The ledger's epoch, if it differs from the caller's.
async fn other_epoch(db: &impl ConnectionTrait, mine: Epoch) -> Result<Option<Epoch>, Failure> {
    Ok(Some(present_epoch(db).await?).filter(|present| *present != mine))
}

/// A line's row, unless the line is open in a newer epoch. A row of an older epoch is a mistake of the caller, which
/// did not open the line: it has no numbers to reserve or save.
fn in_epoch(
    performance: PerformanceId,
    mine: Epoch,
    line: Option<lines::Model>,
) -> Result<Superseded<lines::Model>, Failure> {
    let row = Row::new("lines", &performance);
    let line = row.known("performance_id", line)?;
    let epoch = Epoch::new(row.number("epoch", line.epoch)?);
    match epoch.cmp(&mine) {
        Ordering::Less => Err(row.corrupt("epoch").into()),
        Ordering::Equal => Ok(Superseded::No(line)),
        Ordering::Greater => Ok(Superseded::By(epoch)),
    }
}

fn new_line(performance: PerformanceId, epoch: Epoch, block: u64) -> lines::Model {
    lines::Model {
        performance_id: performance.uuid(),
        epoch: stored(epoch.get()),
        start: 0,
        ceiling: stored(block),
        serving: 0,
        issued: 0,
        waiting: 0,
        active: 0,
        active_until: None,
    }
}

fn opening(is_first: bool, line: &lines::Model, live: Vec<Grant>) -> Result<Opening, CorruptRow> {
    let row = Row::new("lines", &line.performance_id);
    let place = |column, number| row.number(column, number).map(PlaceNumber::new);
    Ok(Opening {
        is_first,
        start: place("start", line.start)?,
        ceiling: place("ceiling", line.ceiling)?,
        mark: LineMark {
            serving: place("serving", line.serving)?,
            issued: place("issued", line.issued)?,
            waiting: row.number("waiting", line.waiting)?,
            active: row.number("active", line.active)?,
            active_until: line.active_until.map(Timestamp::from_unix_ms),
        },
        live,
    })
}

async fn live_grants(
    db: &impl ConnectionTrait,
    performance: PerformanceId,
    now: Timestamp,
) -> Result<Vec<Grant>, Failure> {
    use line_grants::{Column, Entity};
    let ended = Query::select()
        .column(ended_passes::Column::Number)
        .from(ended_passes::Entity)
        .and_where(ended_passes::Column::PerformanceId.eq(performance.uuid()))
        .to_owned();
    let rows = Entity::find()
        .filter(Column::PerformanceId.eq(performance.uuid()))
        .filter(Column::ExpiresAt.gt(now.unix_ms()))
        .filter(Column::Number.not_in_subquery(ended))
        .order_by_asc(Column::Number)
        .all(db)
        .await?;
    Ok(rows.iter().map(grant).collect::<Result<_, _>>()?)
}

async fn save_grants(db: &impl ConnectionTrait, performance: PerformanceId, grants: &[Grant]) -> Result<(), Failure> {
    use line_grants::{Column, Entity, Model};
    let rows = grants.iter().map(|grant| {
        let row = Model {
            performance_id: performance.uuid(),
            number: stored(grant.number.get()),
            account_hash: grant.account.as_bytes().to_vec(),
            expires_at: grant.expires_at.unix_ms(),
        };
        row.into_active_model()
    });
    let key = [Column::PerformanceId, Column::Number];
    let again = OnConflict::columns(key).update_column(Column::ExpiresAt).to_owned();
    Entity::insert_many(rows).on_conflict(again).exec_without_returning(db).await?;
    Ok(())
}

async fn past_grants(
    db: &impl ConnectionTrait,
    performance: PerformanceId,
    numbers: &[PlaceNumber],
) -> Result<Vec<PastGrant>, Failure> {
    let asked: Vec<_> = numbers.iter().map(|number| stored(number.get())).collect();
    let (mut granted, mut ended) = (Vec::new(), Vec::new());
    for some in padded(&asked) {
        let rows = line_grants::Entity::find()
            .filter(line_grants::Column::PerformanceId.eq(performance.uuid()))
            .filter(line_grants::Column::Number.is_in(some.iter().copied()));
        granted.extend(rows.all(db).await?);
        // Read last, so that a pass which ends between the two reads counts as ended.
        let rows = ended_passes::Entity::find()
            .filter(ended_passes::Column::PerformanceId.eq(performance.uuid()))
            .filter(ended_passes::Column::Number.is_in(some));
        ended.extend(rows.all(db).await?);
    }
    let granted: HashMap<_, _> = granted.iter().map(|row| (row.number, row)).collect();
    let ended: HashSet<_> = ended.iter().map(|row| row.number).collect();
    let told = asked.into_iter().map(|number| {
        let granted = granted.get(&number).map(|row| grant(row)).transpose()?;
        Ok(PastGrant::of(granted, ended.contains(&number)))
    });
    told.collect()
}

fn grant(row: &line_grants::Model) -> Result<Grant, CorruptRow> {
    let key = format!("{}, {}", row.performance_id, row.number);
    let columns = Row::new("line_grants", &key);
    let account = columns.known("account_hash", row.account_hash.as_slice().try_into().ok())?;
    Ok(Grant {
        number: PlaceNumber::new(columns.number("number", row.number)?),
        account: AccountHash::from_bytes(account),
        expires_at: Timestamp::from_unix_ms(row.expires_at),
    })
}

/// A number or a count as a column value. Both stay below 2^53.
const fn stored(n: u64) -> i64 {
    n.cast_signed()
}

/// The higher of a column and a number.
fn raised(column: lines::Column, to: PlaceNumber) -> Expr {
    let to = stored(to.get());
    CaseStatement::new().case(Expr::col(column).lt(to), to).finally(Expr::col(column)).into()
}
