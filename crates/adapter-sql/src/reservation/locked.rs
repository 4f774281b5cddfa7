//! Reservations read in order to change them, with their seats: locked in one order, changed in memory one after the other,
//! and written all at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::prelude::Uuid;
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use usher_kernel::{AccountId, PerformanceId, ReservationId, SeatId, Timestamp};
use usher_reservation::{Reservation, State};

use super::rows;
use super::seats::{self, Change, SeatHolding, SeatState};
use crate::database::has_one_writer;
use crate::entities::reservations;
use crate::error::Failure;
use crate::statements::padded;

/// Reservations that nobody else changes meanwhile.
pub(super) struct Locked {
    reservations: BTreeMap<ReservationId, Entry>,
    seats: HashMap<(PerformanceId, SeatId), SeatState>,
    changes: Vec<Change>,
}

struct Entry {
    reservation: Reservation,
    /// The version that it was read with.
    read: u32,
}

impl Locked {
    /// Locks those of the reservations that there are: their buyers first, then their own rows, then the seats of those that
    /// are held or being paid; each in the order of the primary key.
    pub(super) async fn open(tx: &DatabaseTransaction, ids: &BTreeSet<ReservationId>) -> Result<Self, Failure> {
        use reservations::Column;
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        if !has_one_writer(tx) {
            // Whose a reservation is never changes, so that needs no lock.
            let mut buyers = BTreeSet::new();
            for some in padded(&ids) {
                let rows = reservations::Entity::find()
                    .select_only()
                    .columns([Column::PerformanceId, Column::AccountId])
                    .filter(Column::Id.is_in(some))
                    .into_tuple::<(Uuid, Uuid)>();
                let pair =
                    |(performance, account)| (PerformanceId::from_uuid(performance), AccountId::from_uuid(account));
                buyers.extend(rows.all(tx).await?.into_iter().map(pair));
            }
            rows::lock_buyers(tx, &buyers).await?;
        }
        let mut reservations = BTreeMap::new();
        for some in padded(&ids) {
            // By their ids alone: found through another index, they would be locked in its order, which is not how others
            // come to them.
            let rows =
                reservations::Entity::find().filter(Column::Id.is_in(some)).order_by_asc(Column::Id).lock_exclusive();
            for reservation in rows::load(tx, &rows.all(tx).await?).await? {
                let read = reservation.version;
                reservations.insert(reservation.id, Entry { reservation, read });
            }
        }
        let mut locked = Self { reservations, seats: HashMap::new(), changes: Vec::new() };
        locked.lock_seats(tx).await?;
        Ok(locked)
    }

    async fn lock_seats(&mut self, tx: &DatabaseTransaction) -> Result<(), Failure> {
        let mut names: BTreeMap<PerformanceId, BTreeSet<&SeatId>> = BTreeMap::new();
        for Entry { reservation, .. } in self.reservations.values() {
            if matches!(reservation.state, State::Held | State::Paying(_)) {
                let seats = reservation.seats.iter().map(|reserved| &reserved.seat);
                names.entry(reservation.performance).or_default().extend(seats);
            }
        }
        for (performance, names) in names {
            let names: Vec<_> = names.into_iter().collect();
            for state in seats::lock(tx, performance, &names).await? {
                self.seats.insert((performance, state.seat.clone()), state);
            }
        }
        Ok(())
    }

    /// A reservation, as it is by now.
    pub(super) fn get(&self, id: ReservationId) -> Option<&Reservation> {
        self.reservations.get(&id).map(|entry| &entry.reservation)
    }

    /// All that are locked, as they were read.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Reservation> {
        self.reservations.values().map(|entry| &entry.reservation)
    }

    /// Whether all seats of a reservation are so.
    pub(super) fn all_seats(&self, reservation: &Reservation, are: impl Fn(&SeatState) -> bool) -> bool {
        let state = |seat: &SeatId| self.seats.get(&(reservation.performance, seat.clone()));
        reservation.seats.iter().all(|reserved| state(&reserved.seat).is_some_and(&are))
    }

    /// Puts a changed reservation in the place of what it was.
    pub(super) fn put(&mut self, changed: Reservation) {
        if let Some(entry) = self.reservations.get_mut(&changed.id) {
            entry.reservation = changed;
        }
    }

    /// Changes those seats of a reservation that are so.
    pub(super) fn change_seats(
        &mut self,
        reservation: &Reservation,
        are: impl Fn(&SeatState) -> bool,
        to: SeatHolding,
        at: Timestamp,
    ) {
        for reserved in &reservation.seats {
            let state = self.seats.get_mut(&(reservation.performance, reserved.seat.clone()));
            self.changes.extend(state.filter(|state| are(state)).map(|state| state.change(to, at)));
        }
    }

    /// Brings the seats that are the reservation's own to its time.
    pub(super) fn hold_until(&mut self, reservation: &Reservation, at: Timestamp) {
        let (id, until) = (reservation.id, reservation.held_until);
        let differs = |state: &SeatState| state.is_held_by(id) && state.held_until != Some(until);
        self.change_seats(reservation, differs, SeatHolding::Held(id, until), at);
    }

    /// Writes what changed.
    pub(super) async fn write(self, tx: &DatabaseTransaction) -> Result<(), Failure> {
        let changed = self.reservations.into_values().filter(|entry| entry.reservation.version != entry.read);
        let changed: Vec<_> = changed.map(|Entry { reservation, read }| (reservation, read)).collect();
        rows::update(tx, &changed).await?;
        seats::write(tx, &self.changes).await
    }
}
