//! How a hold ends without a sale: its buyer gives it back, or its time runs out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::prelude::Uuid;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use usher_kernel::{AccountId, PerformanceId, ReservationId, SeatId, StoreError, Timestamp};
use usher_reservation::ports::ReleaseOutcome;
use usher_reservation::{Reservation, State};

use super::rows;
use super::seats::{self, SeatHolding};
use crate::Database;
use crate::entities::reservations;
use crate::error::{CorruptRow, Failure};

pub(super) async fn release(
    tx: &DatabaseTransaction,
    reservation: ReservationId,
    account: AccountId,
    now: Timestamp,
) -> Result<ReleaseOutcome, Failure> {
    let Some(held) = rows::lock(tx, reservation).await?.filter(|reservation| reservation.account == account) else {
        return Ok(ReleaseOutcome::NotFound);
    };
    if held.state == State::Released {
        return Ok(ReleaseOutcome::AlreadyReleased);
    }
    let read = held.version;
    let released = match held.release(now) {
        Ok(released) => released,
        Err(refusal) => return Ok(ReleaseOutcome::Refused(refusal)),
    };
    rows::update(tx, &released, read).await?;
    free(tx, std::slice::from_ref(&released), now).await?;
    Ok(ReleaseOutcome::Released(released))
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

async fn lapsed(db: &impl ConnectionTrait, now: Timestamp, limit: u32) -> Result<Vec<Uuid>, Failure> {
    use reservations::Column;
    let lapsed = reservations::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::State.eq(rows::HELD))
        .filter(Column::HeldUntil.lte(now.unix_ms()))
        .order_by_asc(Column::HeldUntil)
        .limit(u64::from(limit));
    Ok(lapsed.into_tuple().all(db).await?)
}

async fn expire_all(tx: &DatabaseTransaction, ids: &[Uuid], now: Timestamp) -> Result<u32, Failure> {
    use reservations::Column;
    // By their ids alone: found through the index of what lapses, they would be locked in the order of that index first,
    // which is not how others come to them.
    let found = reservations::Entity::find()
        .filter(Column::Id.is_in(ids.iter().copied()))
        .order_by_asc(Column::Id)
        .lock_exclusive();
    // Some may have been paid, released or expired since they were found.
    let mut still_held = found.all(tx).await?;
    still_held.retain(|model| model.state == rows::HELD && model.held_until <= now.unix_ms());
    let mut expired = Vec::with_capacity(ids.len());
    for held in rows::load(tx, &still_held).await? {
        let (id, read) = (held.id, held.version);
        let one = held.expire(now).map_err(|_| CorruptRow::new("reservations", "state", id))?;
        rows::update(tx, &one, read).await?;
        expired.push(one);
    }
    free(tx, &expired, now).await?;
    u32::try_from(expired.len()).map_err(|_| Failure::Overdue)
}

/// Frees the seats that are still these reservations' own.
async fn free(tx: &DatabaseTransaction, ended: &[Reservation], now: Timestamp) -> Result<(), Failure> {
    let mut names: BTreeMap<PerformanceId, BTreeSet<&SeatId>> = BTreeMap::new();
    let mut owners: HashMap<(PerformanceId, &SeatId), BTreeSet<ReservationId>> = HashMap::new();
    for reservation in ended {
        for reserved in &reservation.seats {
            names.entry(reservation.performance).or_default().insert(&reserved.seat);
            owners.entry((reservation.performance, &reserved.seat)).or_default().insert(reservation.id);
        }
    }
    let mut changes = Vec::new();
    for (performance, names) in names {
        let names: Vec<_> = names.into_iter().collect();
        for mut state in seats::lock(tx, performance, &names).await? {
            let is_own = owners
                .get(&(performance, &state.seat))
                .is_some_and(|owners| owners.iter().any(|owner| state.is_held_by(*owner)));
            if is_own {
                changes.push(state.change(SeatHolding::Nobody, now));
            }
        }
    }
    seats::write(tx, &changes).await
}
