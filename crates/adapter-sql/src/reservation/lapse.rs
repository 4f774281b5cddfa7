//! How a hold ends without a sale: its buyer gives it back, or its time runs out.

use sea_orm::prelude::Uuid;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use usher_kernel::{ReservationId, StoreError, Timestamp};
use usher_reservation::ports::{ReleaseCommand, ReleaseOutcome};
use usher_reservation::{Reservation, State};

use super::locked::Locked;
use super::rows;
use super::seats::SeatHolding;
use crate::Database;
use crate::entities::reservations;
use crate::error::Failure;

pub(super) async fn release_all(
    tx: &DatabaseTransaction,
    commands: &[ReleaseCommand],
) -> Result<Vec<ReleaseOutcome>, Failure> {
    let ids = commands.iter().map(|command| command.reservation).collect();
    let mut locked = Locked::open(tx, &ids).await?;
    let outcomes = commands.iter().map(|command| release(&mut locked, command)).collect();
    locked.write(tx).await?;
    Ok(outcomes)
}

fn release(locked: &mut Locked, command: &ReleaseCommand) -> ReleaseOutcome {
    let own = locked.get(command.reservation).filter(|reservation| reservation.account == command.account);
    let Some(held) = own else { return ReleaseOutcome::NotFound };
    if held.state == State::Released {
        return ReleaseOutcome::AlreadyReleased;
    }
    match held.clone().release(command.now) {
        Ok(released) => {
            free(locked, released.clone(), command.now);
            ReleaseOutcome::Released(released)
        }
        Err(refusal) => ReleaseOutcome::Refused(refusal),
    }
}

/// A reservation has ended: the seats that are still its own are anybody's.
fn free(locked: &mut Locked, ended: Reservation, now: Timestamp) {
    locked.change_seats(&ended, |state| state.is_held_by(ended.id), SeatHolding::Nobody, now);
    locked.put(ended);
}

const EXPIRE: &str = "reservation.expire_lapsed";
/// The most reservations that expire in one call, and in one transaction: it is in the buyers' way.
const EXPIRE_MAX: u32 = 1_000;
const EXPIRE_TOGETHER: usize = 100;

pub(super) async fn expire(database: &Database, now: Timestamp, limit: u32) -> Result<u32, StoreError> {
    let mut lapsed = database.read(EXPIRE, |db| lapsed(db, now, limit.min(EXPIRE_MAX))).await?;
    // Every sweeper takes its locks in one order.
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
    let mut locked = Locked::open(tx, &ids.iter().copied().collect()).await?;
    // Some may have been paid, released or expired since they were found.
    let expired: Vec<_> = locked.iter().filter_map(|held| held.clone().expire(now).ok()).collect();
    let n_expired = u32::try_from(expired.len()).map_err(|_| Failure::Overdue)?;
    for reservation in expired {
        free(&mut locked, reservation, now);
    }
    locked.write(tx).await?;
    Ok(n_expired)
}
