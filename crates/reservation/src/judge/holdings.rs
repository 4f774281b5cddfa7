//! Reservations that are to change, with their seats: judged in memory one after the other, and written all at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use usher_kernel::{PerformanceId, ReservationId, SeatId};

use super::seat::{SeatChange, SeatHolding, SeatState};
use crate::{Reservation, State};

/// Reservations and their seats, locked by the adapter.
#[derive(Debug)]
pub struct Holdings {
    reservations: BTreeMap<ReservationId, Entry>,
    seats: HashMap<(PerformanceId, SeatId), SeatState>,
    changes: Vec<SeatChange>,
}

#[derive(Debug)]
struct Entry {
    reservation: Reservation,
    /// The version that was read.
    read: u32,
}

/// What changed of reservations and their seats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldingWrites {
    /// The changed reservations, each with the version that its row must still have.
    pub reservations: Vec<(Reservation, u32)>,
    /// The changed seats.
    pub seats: Vec<SeatChange>,
}

impl Holdings {
    /// Reservations as they were read, with the seats that [`Self::seats_of`] named.
    #[must_use]
    pub fn new(
        reservations: impl IntoIterator<Item = Reservation>,
        seats: impl IntoIterator<Item = SeatState>,
    ) -> Self {
        let entry = |reservation: Reservation| {
            let read = reservation.version;
            (reservation.id, Entry { reservation, read })
        };
        let seats = seats.into_iter().map(|state| ((state.performance, state.seat.clone()), state));
        Self {
            reservations: reservations.into_iter().map(entry).collect(),
            seats: seats.collect(),
            changes: Vec::new(),
        }
    }

    /// The seats that the judge needs: those of reservations that are held or being paid, in the order of the primary
    /// key.
    #[must_use]
    pub fn seats_of<'a>(
        reservations: impl IntoIterator<Item = &'a Reservation>,
    ) -> BTreeMap<PerformanceId, BTreeSet<&'a SeatId>> {
        let mut seats: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for reservation in reservations {
            if matches!(reservation.state, State::Held | State::Paying(_)) {
                let names = reservation.seats.iter().map(|reserved| &reserved.seat);
                seats.entry(reservation.performance).or_default().extend(names);
            }
        }
        seats
    }

    /// A reservation, with the changes so far.
    pub(super) fn get(&self, id: ReservationId) -> Option<&Reservation> {
        self.reservations.get(&id).map(|entry| &entry.reservation)
    }

    /// All reservations, with the changes so far.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Reservation> {
        self.reservations.values().map(|entry| &entry.reservation)
    }

    /// Whether every seat of a reservation passes a test.
    pub(super) fn all_seats(&self, reservation: &Reservation, test: impl Fn(&SeatState) -> bool) -> bool {
        let state = |seat: &SeatId| self.seats.get(&(reservation.performance, seat.clone()));
        reservation.seats.iter().all(|reserved| state(&reserved.seat).is_some_and(&test))
    }

    /// Replaces a reservation by its changed form.
    pub(super) fn put(&mut self, changed: Reservation) {
        if let Some(entry) = self.reservations.get_mut(&changed.id) {
            entry.reservation = changed;
        }
    }

    /// Changes those seats of a reservation that pass a test.
    pub(super) fn change_seats(
        &mut self,
        reservation: &Reservation,
        test: impl Fn(&SeatState) -> bool,
        to: SeatHolding,
    ) {
        for reserved in &reservation.seats {
            let state = self.seats.get_mut(&(reservation.performance, reserved.seat.clone()));
            self.changes.extend(state.filter(|state| test(state)).map(|state| state.change(to)));
        }
    }

    /// Puts a reservation that is held or being paid, and brings the seats that are its own to its `held_until`.
    pub(super) fn put_holding(&mut self, reservation: Reservation) {
        let to = SeatHolding::Held(reservation.id, reservation.held_until);
        self.change_seats(&reservation, |state| state.is_held_by(reservation.id) && state.holding != to, to);
        self.put(reservation);
    }

    /// Puts a reservation that ended without a sale, and frees the seats that are still its own.
    pub(super) fn put_ended(&mut self, ended: Reservation) {
        self.change_seats(&ended, |state| state.is_held_by(ended.id), SeatHolding::Nobody);
        self.put(ended);
    }

    /// What changed.
    pub(super) fn into_writes(self) -> HoldingWrites {
        let changed = self.reservations.into_values().filter(|entry| entry.reservation.version != entry.read);
        let reservations = changed.map(|Entry { reservation, read }| (reservation, read)).collect();
        HoldingWrites { reservations, seats: self.changes }
    }
}
