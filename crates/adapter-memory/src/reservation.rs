//! Seats and reservations in memory: each method locks the database, reads the facts, lets [`usher_reservation::judge`]
//! decide, and writes the decisions, all under one guard.

mod payments;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use async_trait::async_trait;
use usher_kernel::{
    AccountId, AttemptId, Claim, KeyUse, Money, Operation, PerformanceId, ReservationId, SeatId, StoreError, Timestamp,
};
use usher_reservation::audit::{ChargeRecord, History, ReservationRecord};
use usher_reservation::judge::hold::{self, Desk, Progress};
use usher_reservation::judge::payment::{self, Attempt, BeginFacts, SettleFacts};
use usher_reservation::judge::{HoldingWrites, Holdings, SeatState, lapse};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{
    EVENTS_MAX, HoldCommand, HoldOutcome, LIST_MAX, PAGE_MAX, PayCommand, PayOutcome, RefundDue, ReleaseCommand,
    ReleaseOutcome, ReservationHistory, ReservationRepository, SeatEvents, SeatFilter, SeatWish, SettleCommand,
    Settled, Unsettled,
};
use usher_reservation::simulated::{Charge, ChargeState};
use usher_reservation::{BoardEvent, BoardRecord, Reservation, Seat, SeatCounts, State};

pub(crate) use self::payments::Payments;
pub(crate) use self::table::Reservations;
use crate::Database;
use crate::database::{Contradiction, Tables, corrupt};
use crate::seats::SeatTable;

/// Seats and reservations in memory.
#[derive(Clone, Debug)]
pub struct MemoryReservationRepository {
    database: Database,
}

impl MemoryReservationRepository {
    /// A repository of the seats and reservations in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

/// Facts for the judge.
impl Tables {
    fn states<'a>(&self, names: impl IntoIterator<Item = (PerformanceId, &'a SeatId)>) -> Vec<SeatState> {
        names.into_iter().filter_map(|(performance, seat)| self.seats.state(performance, seat)).collect()
    }

    fn hold_facts(&self, commands: &[HoldCommand], now: Timestamp) -> Result<hold::Facts, Contradiction> {
        let claims = commands.iter().map(|command| self.held_under(&command.claim, now));
        let buyers: HashSet<_> = commands.iter().map(|command| (command.performance, command.account)).collect();
        let has_ended = |(performance, pass): &(PerformanceId, PassNumber)| {
            self.ended_passes.get(performance).is_some_and(|ended| ended.contains(&pass.0))
        };
        let named: BTreeSet<_> = commands
            .iter()
            .filter_map(|command| match &command.seats {
                SeatWish::Named(names) => Some(names.iter().map(|name| (command.performance, name))),
                SeatWish::Best { .. } => None,
            })
            .flatten()
            .collect();
        let chosen = commands.iter().filter(|command| command.seats.n_chosen() > 0);
        let hall = |command: &HoldCommand| Some((command.performance, self.seats.of(command.performance)?.hall()));
        Ok(hold::Facts {
            claims: claims.collect::<Result<_, _>>()?,
            buyers: buyers.into_iter().map(|buyer| (buyer, self.reservations.owned_by(buyer))).collect(),
            ended_passes: commands.iter().map(|it| (it.performance, it.pass)).filter(has_ended).collect(),
            seats: self.states(named),
            halls: chosen.filter_map(hall).collect(),
        })
    }

    /// The earlier use of a key for a hold.
    fn held_under(&self, claim: &Claim, now: Timestamp) -> Result<KeyUse<Reservation>, Contradiction> {
        self.claims.find(claim, Operation::Hold, now).try_map(|id| {
            let made = self.reservations.get(ReservationId::from_bytes(id));
            made.cloned().ok_or(Contradiction("the reservation of a claim is missing"))
        })
    }

    /// The earlier use of a key for a payment.
    fn paid_under(&self, claim: &Claim, now: Timestamp) -> Result<KeyUse<(Attempt, Reservation)>, Contradiction> {
        self.claims.find(claim, Operation::Confirm, now).try_map(|id| {
            let attempt = self.payments.attempt(AttemptId::from_bytes(id)).copied();
            let paid_for = attempt.and_then(|attempt| self.reservations.get(attempt.reservation));
            attempt.zip(paid_for.cloned()).ok_or(Contradiction("the payment of a claim is missing"))
        })
    }

    fn holdings(&self, ids: impl IntoIterator<Item = ReservationId>) -> Holdings {
        let ids: BTreeSet<_> = ids.into_iter().collect();
        let reservations: Vec<_> = ids.into_iter().filter_map(|id| self.reservations.get(id).cloned()).collect();
        let seats = self.states(by_name(Holdings::seats_of(&reservations)));
        Holdings::new(reservations, seats)
    }
}

fn by_name(seats: BTreeMap<PerformanceId, BTreeSet<&SeatId>>) -> impl Iterator<Item = (PerformanceId, &SeatId)> {
    seats.into_iter().flat_map(|(performance, seats)| seats.into_iter().map(move |seat| (performance, seat)))
}

/// Writes of the judge's decisions. Each is checked as a whole before anything is written.
impl Tables {
    fn check(&self, writes: &HoldingWrites) -> Result<(), Contradiction> {
        self.reservations.check(&writes.reservations)?;
        self.seats.check(&writes.seats)
    }

    fn write(&mut self, writes: HoldingWrites, now: Timestamp) {
        for (reservation, _) in writes.reservations {
            self.reservations.put(reservation);
        }
        self.seats.write(&writes.seats);
        self.events.changed(writes.seats, now);
    }
}

#[async_trait]
impl ReservationRepository for MemoryReservationRepository {
    async fn hold(&self, commands: &[HoldCommand], now: Timestamp) -> Result<Vec<HoldOutcome>, StoreError> {
        let operation = "reservation.hold";
        let tables = &mut *self.database.lock(operation)?;
        let facts = tables.hold_facts(commands, now).map_err(corrupt(operation))?;
        let mut desk = Desk::new(commands.iter().collect(), facts, now);
        while let Progress::NeedFacts(wanted) = desk.decide().map_err(corrupt(operation))? {
            let seats = tables.seats.of(wanted.performance);
            desk.learn(&wanted, seats.map(|seats| seats.free(&wanted, now)).unwrap_or_default());
        }
        let chosen = tables.states(by_name(desk.seats_to_lock()));
        let (outcomes, writes) = desk.close(chosen).map_err(corrupt(operation))?;
        let changes = HoldingWrites { reservations: Vec::new(), seats: writes.seats };
        tables.check(&changes).map_err(corrupt(operation))?;
        for (claim, id) in writes.claims.new {
            tables.claims.keep(claim, Operation::Hold, *id.as_bytes(), now);
        }
        for reservation in writes.reservations {
            tables.reservations.put(reservation);
        }
        tables.write(changes, now);
        Ok(outcomes)
    }

    async fn find_hold(&self, claim: &Claim, now: Timestamp) -> Result<Option<HoldOutcome>, StoreError> {
        let operation = "reservation.find_hold";
        let earlier = self.database.lock(operation)?.held_under(claim, now).map_err(corrupt(operation))?;
        Ok(hold::repeated(earlier, now))
    }

    async fn begin_payments(&self, commands: &[PayCommand], now: Timestamp) -> Result<Vec<PayOutcome>, StoreError> {
        let operation = "reservation.begin_payment";
        let tables = &mut *self.database.lock(operation)?;
        let claims = commands.iter().map(|command| tables.paid_under(&command.claim, now));
        let claims = claims.collect::<Result<_, _>>().map_err(corrupt(operation))?;
        let facts = BeginFacts { claims, holdings: tables.holdings(commands.iter().map(|it| it.reservation)) };
        let (outcomes, writes) = payment::begin_all(commands, facts, now);
        tables.check(&writes.holdings).map_err(corrupt(operation))?;
        for (claim, attempt) in writes.claims.new {
            tables.claims.keep(claim, Operation::Confirm, *attempt.as_bytes(), now);
        }
        for attempt in writes.attempts {
            tables.payments.begin(attempt);
        }
        tables.write(writes.holdings, now);
        Ok(outcomes)
    }

    async fn resolve_early(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        let tables = &mut *self.database.lock("reservation.resolve_early")?;
        let paid_for = tables.payments.attempt(attempt).map(|attempt| attempt.reservation);
        let paying = paid_for.and_then(|id| tables.reservations.get(id)).cloned();
        if let Some(earlier) = paying.and_then(|paying| paying.resolve_early(attempt, now)) {
            tables.reservations.put(earlier);
        }
        Ok(())
    }

    async fn settle_all(&self, commands: &[SettleCommand], now: Timestamp) -> Result<Vec<Option<Settled>>, StoreError> {
        let operation = "reservation.settle";
        let tables = &mut *self.database.lock(operation)?;
        let ids: BTreeSet<_> = commands.iter().map(|command| command.attempt).collect();
        let attempts: Vec<_> = ids.into_iter().filter_map(|id| tables.payments.attempt(id).copied()).collect();
        let holdings = tables.holdings(attempts.iter().map(|attempt| attempt.reservation));
        let facts = SettleFacts { attempts, holdings };
        let (outcomes, writes) = payment::settle_all(commands, facts, now).map_err(corrupt(operation))?;
        tables.check(&writes.holdings).map_err(corrupt(operation))?;
        tables.payments.check(&writes).map_err(corrupt(operation))?;
        tables.payments.end(&writes, now);
        for (performance, pass) in writes.ended_passes {
            tables.ended_passes.entry(performance).or_default().insert(pass.0);
        }
        for (account, attempt) in writes.freed_claims {
            tables.claims.forget(account, Operation::Confirm, *attempt.as_bytes());
        }
        tables.write(writes.holdings, now);
        Ok(outcomes)
    }

    async fn release_all(
        &self,
        commands: &[ReleaseCommand],
        now: Timestamp,
    ) -> Result<Vec<ReleaseOutcome>, StoreError> {
        let operation = "reservation.release";
        let tables = &mut *self.database.lock(operation)?;
        let holdings = tables.holdings(commands.iter().map(|command| command.reservation));
        let (outcomes, writes) = lapse::release_all(commands, holdings, now);
        tables.check(&writes).map_err(corrupt(operation))?;
        tables.write(writes, now);
        Ok(outcomes)
    }

    async fn expire_lapsed(&self, now: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let operation = "reservation.expire_lapsed";
        let tables = &mut *self.database.lock(operation)?;
        let lapsed: Vec<_> = tables.reservations.lapsed(now).take(at_most(limit, LIST_MAX)).map(|it| it.id).collect();
        let (n_expired, writes) = lapse::expire_all(tables.holdings(lapsed), now);
        let n_expired = u32::try_from(n_expired).map_err(corrupt(operation))?;
        tables.check(&writes).map_err(corrupt(operation))?;
        tables.write(writes, now);
        Ok(n_expired)
    }

    async fn unsettled(&self, now: Timestamp, limit: u32) -> Result<Vec<Unsettled>, StoreError> {
        let reservations = &self.database.lock("reservation.unsettled")?.reservations;
        let overdue = reservations.overdue(now).take(at_most(limit, LIST_MAX));
        Ok(overdue.filter_map(Unsettled::of).collect())
    }

    async fn refunds_due(&self, limit: u32) -> Result<Vec<RefundDue>, StoreError> {
        let payments = &self.database.lock("reservation.refunds_due")?.payments;
        Ok(payments.refunds_due().take(at_most(limit, LIST_MAX)).collect())
    }

    async fn refund_sent(&self, attempt: AttemptId, _now: Timestamp) -> Result<(), StoreError> {
        self.database.lock("reservation.refund_sent")?.payments.refund_sent(attempt);
        Ok(())
    }

    async fn find(
        &self,
        reservation: ReservationId,
        account: AccountId,
        now: Timestamp,
    ) -> Result<Option<Reservation>, StoreError> {
        let reservations = &self.database.lock("reservation.find")?.reservations;
        let own = reservations.get(reservation).filter(|found| found.account == account);
        Ok(own.map(|found| found.clone().at(now)))
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<ReservationId>,
        limit: u64,
        now: Timestamp,
    ) -> Result<Vec<Reservation>, StoreError> {
        let reservations = &self.database.lock("reservation.list")?.reservations;
        let page = reservations.of_account(account, after).take(at_most(limit, PAGE_MAX));
        Ok(page.map(|reservation| reservation.clone().at(now)).collect())
    }

    async fn seats(
        &self,
        performance: PerformanceId,
        filter: &SeatFilter,
        now: Timestamp,
    ) -> Result<Vec<Seat>, StoreError> {
        let seats = &self.database.lock("reservation.seats")?.seats;
        let filtered = seats.of(performance).into_iter().flat_map(|seats| seats.filtered(filter, now));
        Ok(filtered.take(at_most(filter.limit, PAGE_MAX)).collect())
    }

    async fn seat_counts(&self, performances: &[PerformanceId], now: Timestamp) -> Result<Vec<SeatCounts>, StoreError> {
        let seats = &self.database.lock("reservation.seat_counts")?.seats;
        let counts = performances.iter().map(|id| seats.of(*id).map(|seats| seats.counts(now)).unwrap_or_default());
        Ok(counts.collect())
    }
}

#[async_trait]
impl SeatEvents for MemoryReservationRepository {
    async fn board(&self, performance: PerformanceId, n_events: u32) -> Result<Option<BoardRecord>, StoreError> {
        let tables = self.database.lock("reservation.board")?;
        let Tables { catalogue, events, seats, .. } = &*tables;
        let Some(map_version) = catalogue.map_version(performance) else { return Ok(None) };
        Ok(Some(BoardRecord {
            map_version,
            seats: seats.of(performance).map(SeatTable::standings).unwrap_or_default(),
            events: events.latest_of(seats, performance, at_most(n_events, EVENTS_MAX)),
        }))
    }

    async fn events(&self, after: u64, missing: &[u64], limit: u32) -> Result<Vec<BoardEvent>, StoreError> {
        let tables = self.database.lock("reservation.events")?;
        Ok(tables.events.read(&tables.seats, after, missing, at_most(limit, EVENTS_MAX)))
    }

    /// The latest event: ids are assigned and events written under one lock, so no event is ever open.
    async fn settled_event(&self) -> Result<u64, StoreError> {
        Ok(self.database.lock("reservation.settled_event")?.events.latest())
    }
}

#[async_trait]
impl ReservationHistory for MemoryReservationRepository {
    async fn history(&self, performance: PerformanceId) -> Result<History, StoreError> {
        let tables = self.database.lock("reservation.history")?;
        let Tables { charges, ended_passes, events, payments, reservations, seats, .. } = &*tables;
        let reservations: Vec<_> = reservations.of_performance(performance).map(record).collect();
        let attempts: Vec<_> =
            reservations.iter().flat_map(|reservation| payments.attempts_of(reservation.id)).collect();
        let ended = ended_passes.get(&performance).into_iter().flatten();
        Ok(History {
            performance,
            events: events.history(performance),
            seats: seats.of(performance).map(SeatTable::records).unwrap_or_default(),
            sales: payments.sales_of(performance).collect(),
            refunds: attempts.iter().filter_map(|attempt| payments.refund_of(attempt.id)).collect(),
            charges: attempts.iter().filter_map(|attempt| charges.get(&attempt.id).map(charge_record)).collect(),
            ended_passes: ended.copied().map(PassNumber).collect(),
            attempts,
            reservations,
        })
    }
}

fn record(reservation: &Reservation) -> ReservationRecord {
    ReservationRecord {
        id: reservation.id,
        pass: reservation.pass,
        confirmed_by: match reservation.state {
            State::Confirmed { attempt, .. } => Some(attempt),
            State::Held | State::Paying(_) | State::Released | State::Expired => None,
        },
        seats: reservation.seats.iter().map(|reserved| reserved.seat.clone()).collect(),
        total: reservation.total.amount(),
    }
}

fn charge_record(charge: &Charge) -> ChargeRecord {
    ChargeRecord {
        attempt: charge.attempt,
        amount: charge.amount.map_or(0, Money::amount),
        is_captured: charge.state == ChargeState::Captured,
        is_refunded: charge.refunded_at.is_some(),
    }
}

/// The caller's limit, up to the port's maximum.
fn at_most<N: Ord>(asked: N, max: N) -> usize
where
    usize: TryFrom<N>,
{
    usize::try_from(asked.min(max)).unwrap_or(usize::MAX)
}
