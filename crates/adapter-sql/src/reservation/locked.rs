//! Locks reservations and their seats in one order, and writes their changes together.

use std::collections::BTreeSet;

use sea_orm::prelude::Uuid;
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use usher_kernel::{AccountId, PerformanceId, ReservationId, Timestamp};
use usher_reservation::judge::{HoldingWrites, Holdings};

use super::{rows, seats};
use crate::database::has_one_writer;
use crate::entities::reservations;
use crate::error::Failure;
use crate::statements::padded;

/// Locks the reservations that exist: their buyers first, then their own rows, then the seats of those that are held or
/// being paid; each in the order of the primary key.
pub(super) async fn lock(tx: &DatabaseTransaction, ids: &BTreeSet<ReservationId>) -> Result<Holdings, Failure> {
    use reservations::Column;
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    if !has_one_writer(tx) {
        // The account of a reservation never changes, so this read needs no lock.
        let mut buyers = BTreeSet::new();
        for some in padded(&ids) {
            let rows = reservations::Entity::find()
                .select_only()
                .columns([Column::PerformanceId, Column::AccountId])
                .filter(Column::Id.is_in(some))
                .into_tuple::<(Uuid, Uuid)>();
            let pair = |(performance, account)| (PerformanceId::from_uuid(performance), AccountId::from_uuid(account));
            buyers.extend(rows.all(tx).await?.into_iter().map(pair));
        }
        rows::lock_buyers(tx, &buyers).await?;
    }
    let mut found = Vec::with_capacity(ids.len());
    for some in padded(&ids) {
        // Selects by id alone. Through another index, the rows would be locked in its order, which differs from that of
        // other transactions.
        let rows =
            reservations::Entity::find().filter(Column::Id.is_in(some)).order_by_asc(Column::Id).lock_exclusive();
        found.extend(rows::load(tx, &rows.all(tx).await?).await?);
    }
    let mut states = Vec::new();
    for (performance, names) in Holdings::seats_of(&found) {
        states.extend(seats::lock(tx, performance, &Vec::from_iter(names)).await?);
    }
    Ok(Holdings::new(found, states))
}

/// Writes the judge's changes. Each row must still have the version that was read.
pub(super) async fn write(tx: &DatabaseTransaction, writes: &HoldingWrites, now: Timestamp) -> Result<(), Failure> {
    rows::update(tx, &writes.reservations).await?;
    seats::write(tx, &writes.seats, now).await
}
