//! Paying: an attempt begins, ends once, and leaves either sold seats, or a hold, or a refund.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::prelude::{Expr, Uuid};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use usher_kernel::{AccountId, AttemptId, Operation, ReservationId, TicketId, Timestamp};
use usher_reservation::model::TransitionError;
use usher_reservation::ports::{PayCommand, PayOutcome, RefundDue, SettleCommand, Settled, Unsettled, Verdict};
use usher_reservation::{Payment, Reservation, State, Ticket};

use super::locked::Locked;
use super::rows;
use super::seats::SeatHolding;
use crate::entities::{ended_passes, payment_attempts, refunds, reservations, sold};
use crate::error::{CorruptRow, Failure};
use crate::idempotency::{self, Claims, KeyMismatch};
use crate::row::Row;
use crate::statements::{each, insert_all, padded, powers};

/// It is under way.
const PENDING: &str = "pending";
/// The money was taken, and paid for the seats.
pub(super) const CAPTURED: &str = "captured";
/// The gateway declined.
const DECLINED: &str = "declined";
/// The gateway never heard of it.
const UNHEARD: &str = "unheard";
/// The money was taken, and goes back: there is a row in `refunds`.
pub(super) const REFUNDED: &str = "refunded";

/// The most rows of a list for the sweepers.
const LIST_MAX: u32 = 1_000;

pub(super) async fn begin_all(tx: &DatabaseTransaction, commands: &[PayCommand]) -> Result<Vec<PayOutcome>, Failure> {
    let ids = commands.iter().map(|command| command.reservation).collect();
    let mut locked = Locked::open(tx, &ids).await?;
    let mut claims = find_claims(tx, commands).await?;
    let mut begun = Vec::new();
    let outcomes: Vec<_> = commands
        .iter()
        .map(|command| match claims.get(&command.claim) {
            Some(Ok(before)) => before.clone(),
            Some(Err(KeyMismatch)) => PayOutcome::KeyMismatch,
            None => {
                let outcome = begin(&mut locked, command);
                if let PayOutcome::Begun(paying) = &outcome {
                    begun.push(pending(command, paying));
                    let twin = PayOutcome::InFlight { reservation: paying.clone() };
                    claims.keep(&command.claim, command.attempt.uuid(), command.now, twin);
                }
                outcome
            }
        })
        .collect();
    claims.write(tx).await?;
    insert_all(tx, &begun).await?;
    locked.write(tx).await?;
    Ok(outcomes)
}

fn begin(locked: &mut Locked, command: &PayCommand) -> PayOutcome {
    let own = locked.get(command.reservation).filter(|reservation| reservation.account == command.account);
    let Some(held) = own else { return PayOutcome::NotFound };
    let payment = Payment { attempt: command.attempt, resolve_at: command.resolve_at };
    let paying = match held.clone().begin_payment(payment, command.now) {
        Ok(paying) => paying,
        Err(refusal) => return PayOutcome::Refused(refusal),
    };
    if !locked.all_seats(&paying, |state| state.is_held_by(paying.id)) {
        return PayOutcome::Refused(TransitionError::HoldExpired);
    }
    locked.hold_until(&paying, command.now);
    locked.put(paying.clone());
    PayOutcome::Begun(paying)
}

fn pending(command: &PayCommand, paying: &Reservation) -> payment_attempts::ActiveModel {
    payment_attempts::ActiveModel {
        id: Set(command.attempt.uuid()),
        reservation_id: Set(paying.id.uuid()),
        amount: Set(paying.total.amount()),
        currency: Set(paying.total.currency().to_string()),
        state: Set(PENDING.to_owned()),
        ordinal: Set(None),
        created_at: Set(command.now.unix_ms()),
        ended_at: Set(None),
    }
}

/// What became of the attempts that began under the commands' claims.
async fn find_claims<'a>(
    tx: &DatabaseTransaction,
    commands: &'a [PayCommand],
) -> Result<Claims<'a, PayOutcome>, Failure> {
    let claims: Vec<_> = commands.iter().map(|command| (&command.claim, command.now)).collect();
    let found = idempotency::find_all(tx, Operation::Confirm, &claims).await?;
    let subjects: BTreeSet<_> = found.iter().filter_map(|found| found.subject()).collect();
    let attempts = find_attempts(tx, subjects).await?;
    let ids: BTreeSet<_> = attempts.values().map(|row| row.reservation_id).collect();
    let reservations = rows::find_all(tx, ids).await?;
    let reservations: HashMap<_, _> = reservations.into_iter().map(|made| (made.id.uuid(), made)).collect();
    let now = commands.iter().map(|command| command.now).max().unwrap_or(Timestamp::EPOCH);
    let replay = |attempt| {
        let row = attempts.get(&attempt);
        let reservation = row.and_then(|row| reservations.get(&row.reservation_id)).cloned();
        let lost = || CorruptRow::new("idempotency_keys", "subject_id", attempt);
        let (row, reservation) = row.zip(reservation).ok_or_else(lost)?;
        if row.state == PENDING {
            return Ok(PayOutcome::InFlight { reservation });
        }
        Ok(PayOutcome::Replayed(ended(row, reservation.at(now))?))
    };
    Claims::new(Operation::Confirm, claims.iter().map(|(claim, _)| *claim).zip(found), replay)
}

pub(super) async fn settle_all(
    tx: &DatabaseTransaction,
    commands: &[SettleCommand],
) -> Result<Vec<Option<Settled>>, Failure> {
    let ids: BTreeSet<_> = commands.iter().map(|command| command.attempt.uuid()).collect();
    // Which reservation an attempt is for never changes.
    let attempts = find_attempts(tx, ids.clone()).await?;
    let paid_for = attempts.values().map(|row| ReservationId::from_uuid(row.reservation_id)).collect();
    let locked = Locked::open(tx, &paid_for).await?;
    // Read again: whoever had the locks before may have ended some.
    let attempts = find_attempts(tx, ids).await?;
    let mut till = Till { attempts, locked, ends: HashMap::new(), entries: Entries::default() };
    let outcomes = commands.iter().map(|command| till.settle(command)).collect::<Result<_, _>>()?;
    till.close(tx).await?;
    Ok(outcomes)
}

/// Where attempts end. What each leaves is written for all of them at once.
struct Till {
    attempts: HashMap<Uuid, payment_attempts::Model>,
    locked: Locked,
    ends: HashMap<Uuid, End>,
    entries: Entries,
}

/// An attempt ended.
struct End {
    attempt: Uuid,
    before: String,
    after: &'static str,
    ordinal: Option<i32>,
    at: Timestamp,
}

/// What is written down when attempts end.
#[derive(Default)]
struct Entries {
    sold: Vec<sold::ActiveModel>,
    ended_passes: Vec<ended_passes::ActiveModel>,
    refunds: Vec<refunds::ActiveModel>,
    /// Whose claims are free again, by their attempts.
    forgotten: Vec<(AccountId, Uuid)>,
}

impl Till {
    fn settle(&mut self, command: &SettleCommand) -> Result<Option<Settled>, CorruptRow> {
        let SettleCommand { attempt, verdict, now } = command;
        let Some(row) = self.attempts.get(&attempt.uuid()).cloned() else { return Ok(None) };
        let reservation = self.locked.get(ReservationId::from_uuid(row.reservation_id)).cloned();
        let lost = || CorruptRow::new("payment_attempts", "reservation_id", attempt);
        let reservation = reservation.ok_or_else(lost)?;
        let settled = match (row.state.as_str(), verdict) {
            (PENDING, Verdict::Captured(tickets)) => self.capture(&row, reservation, tickets, *now)?,
            (PENDING, Verdict::Declined) => {
                let held = reservation.decline(*attempt).map_err(|_| not_paying(*attempt))?;
                let (ordinal, reservation) = (held.declined, held.id);
                self.back_to_hold(held, *now);
                self.end(&row, DECLINED, Some(ordinal), *now)?;
                Settled::Declined { ordinal, reservation }
            }
            (PENDING, Verdict::Unheard) => {
                let held = reservation.give_up_payment(*attempt).map_err(|_| not_paying(*attempt))?;
                self.entries.forgotten.push((held.account, row.id));
                self.back_to_hold(held, *now);
                self.end(&row, UNHEARD, None, *now)?;
                Settled::GivenUp
            }
            // The money came after all. What the attempt was for has gone on without it.
            (DECLINED | UNHEARD, Verdict::Captured(_)) => self.refund(&row, *now)?,
            _ => ended(&row, reservation.at(*now))?,
        };
        Ok(Some(settled))
    }

    fn capture(
        &mut self,
        row: &payment_attempts::Model,
        reservation: Reservation,
        tickets: &[(TicketId, String)],
        now: Timestamp,
    ) -> Result<Settled, CorruptRow> {
        let attempt = AttemptId::from_uuid(row.id);
        let id = reservation.id;
        if !self.locked.all_seats(&reservation, |state| state.is_held_by(id) || state.is_free(now)) {
            let held = reservation.give_up_payment(attempt).map_err(|_| not_paying(attempt))?;
            self.back_to_hold(held, now);
            return self.refund(row, now);
        }
        if tickets.len() != reservation.seats.len() {
            return Err(CorruptRow::new("sold", "ticket_id", id));
        }
        let tickets = reservation.seats.iter().zip(tickets);
        let tickets: Vec<_> =
            tickets.map(|(seat, (id, code))| Ticket { id: *id, seat: seat.seat.clone(), code: code.clone() }).collect();
        self.entries.sold.extend(tickets.iter().map(|ticket| sold::ActiveModel {
            performance_id: Set(reservation.performance.uuid()),
            seat: Set(ticket.seat.to_string()),
            reservation_id: Set(id.uuid()),
            ticket_id: Set(ticket.id.uuid()),
            code: Set(ticket.code.clone()),
            sold_at: Set(now.unix_ms()),
        }));
        self.entries.ended_passes.push(ended_passes::ActiveModel {
            performance_id: Set(reservation.performance.uuid()),
            number: Set(rows::pass_number(&reservation)?),
            ended_at: Set(now.unix_ms()),
        });
        let confirmed = reservation.confirm(attempt, tickets, now).map_err(|_| not_paying(attempt))?;
        self.locked.change_seats(&confirmed, |_| true, SeatHolding::Sold(id), now);
        self.locked.put(confirmed.clone());
        self.end(row, CAPTURED, None, now)?;
        Ok(Settled::Confirmed(confirmed))
    }

    /// A hold goes on as before its payment.
    fn back_to_hold(&mut self, held: Reservation, now: Timestamp) {
        self.locked.hold_until(&held, now);
        self.locked.put(held);
    }

    /// The money goes back. One row per attempt: its primary key sees to it.
    fn refund(&mut self, row: &payment_attempts::Model, now: Timestamp) -> Result<Settled, CorruptRow> {
        self.entries.refunds.push(refunds::ActiveModel {
            attempt_id: Set(row.id),
            amount: Set(row.amount),
            currency: Set(row.currency.clone()),
            due_at: Set(now.unix_ms()),
            sent_at: Set(None),
        });
        self.end(row, REFUNDED, None, now)?;
        Ok(Settled::Refunded)
    }

    fn end(
        &mut self,
        row: &payment_attempts::Model,
        after: &'static str,
        ordinal: Option<u32>,
        at: Timestamp,
    ) -> Result<(), CorruptRow> {
        let corrupt = |_| CorruptRow::new("payment_attempts", "ordinal", row.id);
        let ordinal = ordinal.map(i32::try_from).transpose().map_err(corrupt)?;
        // One that ends and is refunded in one batch is written once, over what was read.
        let before = self.ends.remove(&row.id).map_or_else(|| row.state.clone(), |earlier| earlier.before);
        self.ends.insert(row.id, End { attempt: row.id, before, after, ordinal, at });
        if let Some(row) = self.attempts.get_mut(&row.id) {
            after.clone_into(&mut row.state);
            row.ordinal = ordinal;
        }
        Ok(())
    }

    async fn close(self, tx: &DatabaseTransaction) -> Result<(), Failure> {
        let Self { attempts: _, locked, ends, entries } = self;
        let Entries { sold, ended_passes, refunds, forgotten } = entries;
        locked.write(tx).await?;
        insert_all(tx, &sold).await?;
        end_passes(tx, ended_passes).await?;
        insert_all(tx, &refunds).await?;
        for (account, attempt) in forgotten {
            idempotency::forget(tx, account, Operation::Confirm, attempt).await?;
        }
        end_all(tx, ends.into_values()).await
    }
}

/// How an attempt ended.
fn ended(row: &payment_attempts::Model, reservation: Reservation) -> Result<Settled, CorruptRow> {
    let attempt = AttemptId::from_uuid(row.id);
    let column = Row::new("payment_attempts", &attempt);
    match row.state.as_str() {
        CAPTURED => Ok(Settled::Confirmed(reservation)),
        DECLINED => {
            let ordinal = column.number("ordinal", column.known("ordinal", row.ordinal)?)?;
            Ok(Settled::Declined { ordinal, reservation: reservation.id })
        }
        UNHEARD => Ok(Settled::GivenUp),
        REFUNDED => Ok(Settled::Refunded),
        _ => Err(column.corrupt("state")),
    }
}

fn not_paying(attempt: AttemptId) -> CorruptRow {
    CorruptRow::new("payment_attempts", "state", attempt)
}

/// The passes are used up; some may have been left before.
async fn end_passes(tx: &DatabaseTransaction, rows: Vec<ended_passes::ActiveModel>) -> Result<(), Failure> {
    let key = [ended_passes::Column::PerformanceId, ended_passes::Column::Number];
    for some in padded(&rows) {
        let insert = ended_passes::Entity::insert_many(some);
        let insert = insert.on_conflict(OnConflict::columns(key).do_nothing_on(key).to_owned());
        insert.exec_without_returning(tx).await?;
    }
    Ok(())
}

/// Writes down how attempts ended, each if it is as it was read.
async fn end_all(tx: &DatabaseTransaction, ends: impl Iterator<Item = End> + Send) -> Result<(), Failure> {
    use payment_attempts::Column;
    let mut groups: BTreeMap<_, Vec<End>> = BTreeMap::new();
    for end in ends {
        groups.entry((end.before.clone(), end.after, end.ordinal)).or_default().push(end);
    }
    for ((before, after, ordinal), group) in groups {
        let id = (Column::Id, |end: &End| end.attempt.into());
        for some in powers(&group) {
            let update = payment_attempts::Entity::update_many()
                .col_expr(Column::State, Expr::value(after))
                .col_expr(Column::Ordinal, Expr::value(ordinal))
                .col_expr(Column::EndedAt, each(some, id, |end| end.at.unix_ms().into()))
                .filter(Column::Id.is_in(some.iter().map(|end| end.attempt)))
                .filter(Column::State.eq(before.as_str()));
            if update.exec(tx).await?.rows_affected != some.len() as u64 {
                return Err(Failure::Conflict { table: "payment_attempts" });
            }
        }
    }
    Ok(())
}

async fn find_attempts(
    db: &impl ConnectionTrait,
    ids: BTreeSet<Uuid>,
) -> Result<HashMap<Uuid, payment_attempts::Model>, Failure> {
    let (ids, mut found) = (Vec::from_iter(ids), HashMap::new());
    for some in padded(&ids) {
        let rows = payment_attempts::Entity::find().filter(payment_attempts::Column::Id.is_in(some)).all(db);
        found.extend(rows.await?.into_iter().map(|row| (row.id, row)));
    }
    Ok(found)
}

pub(super) async fn resolve_early(tx: &DatabaseTransaction, attempt: AttemptId, now: Timestamp) -> Result<(), Failure> {
    use reservations::Column;
    let Some(row) = payment_attempts::Entity::find_by_id(attempt.uuid()).one(tx).await? else { return Ok(()) };
    let early = reservations::ActiveModel { resolve_at: Set(Some(now.unix_ms())), ..Default::default() };
    let update = reservations::Entity::update_many()
        .set(early)
        .filter(Column::Id.eq(row.reservation_id))
        .filter(Column::AttemptId.eq(attempt.uuid()))
        .filter(Column::State.eq(rows::PAYING))
        .filter(Column::ResolveAt.gt(now.unix_ms()));
    update.exec(tx).await?;
    Ok(())
}

pub(super) async fn unsettled(
    db: &impl ConnectionTrait,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Unsettled>, Failure> {
    use reservations::Column;
    let due = reservations::Entity::find()
        .filter(Column::State.eq(rows::PAYING))
        .filter(Column::ResolveAt.lte(now.unix_ms()))
        .order_by_asc(Column::ResolveAt)
        .limit(u64::from(limit.min(LIST_MAX)));
    let due = rows::load(db, &due.all(db).await?).await?;
    let due = due.into_iter().filter_map(|reservation| match reservation.state {
        State::Paying(payment) => Some(Unsettled { attempt: payment.attempt, n_seats: reservation.seats.len() }),
        State::Held | State::Confirmed { .. } | State::Released | State::Expired => None,
    });
    Ok(due.collect())
}

pub(super) async fn refunds_due(db: &impl ConnectionTrait, limit: u32) -> Result<Vec<RefundDue>, Failure> {
    let due = refunds::Entity::find()
        .filter(refunds::Column::SentAt.is_null())
        .order_by_asc(refunds::Column::DueAt)
        .limit(u64::from(limit.min(LIST_MAX)));
    let due = due.all(db).await?.into_iter().map(|model| {
        let attempt = AttemptId::from_uuid(model.attempt_id);
        let amount = Row::new("refunds", &attempt).money("amount", model.amount, &model.currency)?;
        Ok(RefundDue { attempt, amount })
    });
    due.collect()
}

pub(super) async fn refund_sent(tx: &DatabaseTransaction, attempt: AttemptId, now: Timestamp) -> Result<(), Failure> {
    let update = refunds::Entity::update_many()
        .set(refunds::ActiveModel { sent_at: Set(Some(now.unix_ms())), ..Default::default() })
        .filter(refunds::Column::AttemptId.eq(attempt.uuid()))
        .filter(refunds::Column::SentAt.is_null());
    update.exec(tx).await?;
    Ok(())
}
