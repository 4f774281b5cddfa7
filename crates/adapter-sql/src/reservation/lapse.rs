//! Ends holds without a sale: locks the reservations, and writes what [`judge::lapse`] decides.

use sea_orm::prelude::Uuid;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use usher_kernel::{ReservationId, StoreError, Timestamp};
use usher_reservation::judge;
use usher_reservation::ports::{LIST_MAX, ReleaseCommand, ReleaseOutcome};

use super::{locked, rows};
use crate::Database;
use crate::entities::reservations;
use crate::error::Failure;

pub(super) async fn release_all(
    tx: &DatabaseTransaction,
    commands: &[ReleaseCommand],
    now: Timestamp,
) -> Result<Vec<ReleaseOutcome>, Failure> {
    let ids = commands.iter().map(|command| command.reservation).collect();
    let holdings = locked::lock(tx, &ids).await?;
    let (outcomes, writes) = judge::lapse::release_all(commands, holdings, now);
    locked::write(tx, &writes, now).await?;
    Ok(outcomes)
}

const EXPIRE: &str = "reservation.expire_lapsed";
/// The most reservations that expire in one transaction: its locks block buyers.
const EXPIRE_TOGETHER: usize = 100;

pub(super) async fn expire(database: &Database, now: Timestamp, limit: u32) -> Result<u32, StoreError> {
    let mut lapsed = database.read(EXPIRE, |db| lapsed(db, now, limit.min(LIST_MAX))).await?;
    // Sorted, so that all sweepers take their locks in one order.
    lapsed.sort_unstable();
    let mut n_expired = 0;
    for some in lapsed.chunks(EXPIRE_TOGETHER) {
        n_expired += database.write(EXPIRE, |tx| async move { expire_all(&tx, some, now).await }).await?;
    }
    Ok(n_expired)
}

async fn lapsed(db: &impl ConnectionTrait, now: Timestamp, limit: u32) -> Result<Vec<ReservationId>, Failure> {
    use reservations::Column;
    let lapsed = reservations::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::State.eq(rows::HELD))
        .filter(Column::HeldUntil.lte(now.unix_ms()))
        .order_by_asc(Column::HeldUntil)
        .limit(u64::from(limit));
    let lapsed: Vec<Uuid> = lapsed.into_tuple().all(db).await?;
    Ok(lapsed.into_iter().map(ReservationId::from_uuid).collect())
}

async fn expire_all(tx: &DatabaseTransaction, ids: &[ReservationId], now: Timestamp) -> Result<u32, Failure> {
    let holdings = locked::lock(tx, &ids.iter().copied().collect()).await?;
    let (n_expired, writes) = judge::lapse::expire_all(holdings, now);
    locked::write(tx, &writes, now).await?;
    u32::try_from(n_expired).map_err(|_| Failure::Overdue)
}
