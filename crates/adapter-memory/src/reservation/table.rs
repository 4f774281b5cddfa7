//! Reservations in memory, indexed by account, by buyer, and by deadline.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use usher_kernel::{AccountId, PerformanceId, ReservationId, Timestamp};
use usher_reservation::judge::hold::{Buyer, Owned};
use usher_reservation::{Reservation, State};

use crate::database::Contradiction;

/// Reservations by id.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    by_id: BTreeMap<ReservationId, Reservation>,
    of_account: HashMap<AccountId, BTreeSet<ReservationId>>,
    /// Reservations that count against the seat limit or a pass, unless they have lapsed.
    of_buyer: HashMap<Buyer, BTreeSet<ReservationId>>,
    /// Holds, by the time at which they lapse.
    held: BTreeSet<(Timestamp, ReservationId)>,
    /// Payments under way, by the time from which any server asks the gateway.
    paying: BTreeSet<(Timestamp, ReservationId)>,
}

impl Reservations {
    /// The reservation with this id.
    pub(crate) fn get(&self, id: ReservationId) -> Option<&Reservation> {
        self.by_id.get(&id)
    }

    /// The reservations of an account, in the order of ids.
    pub(crate) fn of_account(
        &self,
        account: AccountId,
        after: Option<ReservationId>,
    ) -> impl Iterator<Item = &Reservation> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.of_account.get(&account);
        ids.into_iter().flat_map(move |ids| ids.range((start, Bound::Unbounded))).filter_map(|id| self.get(*id))
    }

    /// The reservations of a performance, in the order of ids.
    pub(crate) fn of_performance(&self, performance: PerformanceId) -> impl Iterator<Item = &Reservation> {
        self.by_id.values().filter(move |reservation| reservation.performance == performance)
    }

    /// A buyer's reservations that may count against the seat limit or a pass.
    pub(crate) fn owned_by(&self, buyer: Buyer) -> Vec<Owned> {
        let ids = self.of_buyer.get(&buyer).into_iter().flatten();
        ids.filter_map(|id| self.get(*id).and_then(Owned::of)).collect()
    }

    /// The holds that have lapsed at `now`, the earliest deadline first.
    pub(crate) fn lapsed(&self, now: Timestamp) -> impl Iterator<Item = &Reservation> {
        self.held.iter().take_while(move |(until, _)| *until <= now).filter_map(|(_, id)| self.get(*id))
    }

    /// The reservations whose payment is overdue at `now`, the earliest deadline first.
    pub(crate) fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &Reservation> {
        self.paying.iter().take_while(move |(at, _)| *at <= now).filter_map(|(_, id)| self.get(*id))
    }

    /// Checks that each reservation has the version that the judge read.
    pub(crate) fn check(&self, changed: &[(Reservation, u32)]) -> Result<(), Contradiction> {
        let is_as_read =
            |(changed, read): &(Reservation, u32)| self.get(changed.id).is_some_and(|stored| stored.version == *read);
        if changed.iter().all(is_as_read) {
            Ok(())
        } else {
            Err(Contradiction("a reservation has another version than it was judged by"))
        }
    }

    /// Stores a reservation, and updates the indices.
    pub(crate) fn put(&mut self, reservation: Reservation) {
        let Reservation { id, performance, account, .. } = reservation;
        if let Some(before) = self.by_id.get(&id) {
            match due(before) {
                Some(Due::Lapse(at)) => self.held.remove(&(at, id)),
                Some(Due::Resolve(at)) => self.paying.remove(&(at, id)),
                None => false,
            };
        }
        match due(&reservation) {
            Some(Due::Lapse(at)) => self.held.insert((at, id)),
            Some(Due::Resolve(at)) => self.paying.insert((at, id)),
            None => false,
        };
        self.of_account.entry(account).or_default().insert(id);
        let of_buyer = self.of_buyer.entry((performance, account)).or_default();
        if Owned::of(&reservation).is_some() {
            of_buyer.insert(id);
        } else {
            of_buyer.remove(&id);
        }
        self.by_id.insert(id, reservation);
    }
}

/// The deadline of a reservation.
enum Due {
    Lapse(Timestamp),
    Resolve(Timestamp),
}

fn due(reservation: &Reservation) -> Option<Due> {
    match &reservation.state {
        State::Held => Some(Due::Lapse(reservation.held_until)),
        State::Paying(payment) => Some(Due::Resolve(payment.resolve_at)),
        State::Confirmed { .. } | State::Released | State::Expired => None,
    }
}
