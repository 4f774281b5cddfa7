//! Paying: an attempt begins, ends once, and leaves either sold seats, or a hold, or a refund.

use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use usher_kernel::{AttemptId, ReservationId, TicketId, Timestamp};
use usher_reservation::model::TransitionError;
use usher_reservation::ports::{PayCommand, PayOutcome, RefundDue, Settled, Unsettled, Verdict};
use usher_reservation::{Payment, Reservation, State, Ticket};

use super::rows;
use super::seats::{self, SeatHolding, SeatState};
use crate::entities::{ended_passes, payment_attempts, refunds, reservations, sold};
use crate::error::{CorruptRow, Failure};
use crate::idempotency::{self, Found, Operation};
use crate::row::Row;

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

pub(super) async fn begin(tx: &DatabaseTransaction, command: &PayCommand) -> Result<PayOutcome, Failure> {
    let PayCommand { reservation, account, attempt, now, resolve_at, claim } = command;
    let locked = rows::lock(tx, *reservation).await?;
    match idempotency::find(tx, claim, Operation::Confirm, *now).await? {
        Found::Nothing => {}
        Found::Mismatch => return Ok(PayOutcome::KeyMismatch),
        Found::Made(before) => return replay(tx, AttemptId::from_uuid(before), *now).await,
    }
    let Some(held) = locked.filter(|reservation| reservation.account == *account) else {
        return Ok(PayOutcome::NotFound);
    };
    let read = held.version;
    let paying = match held.begin_payment(Payment { attempt: *attempt, resolve_at: *resolve_at }, *now) {
        Ok(paying) => paying,
        Err(refusal) => return Ok(PayOutcome::Refused(refusal)),
    };
    let states = seats::lock_of(tx, &paying).await?;
    if !states.iter().all(|state| state.is_held_by(paying.id)) {
        return Ok(PayOutcome::Refused(TransitionError::HoldExpired));
    }
    idempotency::keep(tx, claim, Operation::Confirm, attempt.uuid(), *now).await?;
    let row = payment_attempts::ActiveModel {
        id: Set(attempt.uuid()),
        reservation_id: Set(paying.id.uuid()),
        amount: Set(paying.total.amount()),
        currency: Set(paying.total.currency().to_string()),
        state: Set(PENDING.to_owned()),
        ordinal: Set(None),
        created_at: Set(now.unix_ms()),
        ended_at: Set(None),
    };
    payment_attempts::Entity::insert(row).exec_without_returning(tx).await?;
    rows::update(tx, &paying, read).await?;
    hold_until(tx, &paying, states, *now).await?;
    Ok(PayOutcome::Begun(paying))
}

/// What became of an attempt that began under the same claim.
async fn replay(tx: &DatabaseTransaction, attempt: AttemptId, now: Timestamp) -> Result<PayOutcome, Failure> {
    let lost = || CorruptRow::new("idempotency_keys", "subject_id", attempt);
    let row = find_attempt(tx, attempt).await?.ok_or_else(lost)?;
    let reservation = rows::find_all(tx, [row.reservation_id]).await?.pop().ok_or_else(lost)?;
    if row.state == PENDING {
        return Ok(PayOutcome::InFlight { reservation });
    }
    Ok(PayOutcome::Replayed(ended(&row, reservation.at(now))?))
}

pub(super) async fn settle(
    tx: &DatabaseTransaction,
    attempt: AttemptId,
    verdict: &Verdict,
    now: Timestamp,
) -> Result<Option<Settled>, Failure> {
    let Some(row) = find_attempt(tx, attempt).await? else { return Ok(None) };
    let lost = || CorruptRow::new("payment_attempts", "reservation_id", attempt);
    let reservation = rows::lock(tx, ReservationId::from_uuid(row.reservation_id)).await?.ok_or_else(lost)?;
    // Read again: whoever had the lock before may have ended it.
    let row = find_attempt(tx, attempt).await?.ok_or_else(lost)?;
    let settled = match (row.state.as_str(), verdict) {
        (PENDING, Verdict::Captured(tickets)) => capture(tx, &row, reservation, tickets, now).await?,
        (PENDING, Verdict::Declined) => decline(tx, &row, reservation, now).await?,
        (PENDING, Verdict::Unheard) => give_up(tx, &row, reservation, now).await?,
        // The money came after all. What the attempt was for has gone on without it.
        (DECLINED | UNHEARD, Verdict::Captured(_)) => {
            refund(tx, &row, now).await?;
            Settled::Refunded
        }
        _ => ended(&row, reservation.at(now))?,
    };
    Ok(Some(settled))
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

async fn capture(
    tx: &DatabaseTransaction,
    row: &payment_attempts::Model,
    reservation: Reservation,
    tickets: &[(TicketId, String)],
    now: Timestamp,
) -> Result<Settled, Failure> {
    let attempt = AttemptId::from_uuid(row.id);
    let read = reservation.version;
    let states = seats::lock_of(tx, &reservation).await?;
    let are_ours = states.iter().all(|state| state.is_held_by(reservation.id) || state.is_free(now));
    if !are_ours {
        let held = reservation.give_up_payment(attempt).map_err(|_| not_paying(attempt))?;
        rows::update(tx, &held, read).await?;
        hold_until(tx, &held, states, now).await?;
        refund(tx, row, now).await?;
        return Ok(Settled::Refunded);
    }
    if tickets.len() != reservation.seats.len() {
        return Err(CorruptRow::new("sold", "ticket_id", reservation.id).into());
    }
    let tickets = reservation.seats.iter().zip(tickets);
    let tickets: Vec<_> =
        tickets.map(|(seat, (id, code))| Ticket { id: *id, seat: seat.seat.clone(), code: code.clone() }).collect();
    let confirmed = reservation.confirm(attempt, tickets.clone(), now).map_err(|_| not_paying(attempt))?;
    rows::update(tx, &confirmed, read).await?;
    let sales = states.into_iter().map(|mut state| state.change(SeatHolding::Sold(confirmed.id), now));
    seats::write(tx, &sales.collect::<Vec<_>>()).await?;
    let tickets = tickets.into_iter().map(|ticket| sold::ActiveModel {
        performance_id: Set(confirmed.performance.uuid()),
        seat: Set(ticket.seat.to_string()),
        reservation_id: Set(confirmed.id.uuid()),
        ticket_id: Set(ticket.id.uuid()),
        code: Set(ticket.code),
        sold_at: Set(now.unix_ms()),
    });
    sold::Entity::insert_many(tickets).exec_without_returning(tx).await?;
    end_pass(tx, &confirmed, now).await?;
    end_attempt(tx, row, CAPTURED, None, now).await?;
    Ok(Settled::Confirmed(confirmed))
}

async fn decline(
    tx: &DatabaseTransaction,
    row: &payment_attempts::Model,
    reservation: Reservation,
    now: Timestamp,
) -> Result<Settled, Failure> {
    let attempt = AttemptId::from_uuid(row.id);
    let read = reservation.version;
    let held = reservation.decline(attempt).map_err(|_| not_paying(attempt))?;
    back_to_hold(tx, &held, read, now).await?;
    end_attempt(tx, row, DECLINED, Some(held.declined), now).await?;
    Ok(Settled::Declined { ordinal: held.declined, reservation: held.id })
}

async fn give_up(
    tx: &DatabaseTransaction,
    row: &payment_attempts::Model,
    reservation: Reservation,
    now: Timestamp,
) -> Result<Settled, Failure> {
    let attempt = AttemptId::from_uuid(row.id);
    let read = reservation.version;
    let held = reservation.give_up_payment(attempt).map_err(|_| not_paying(attempt))?;
    back_to_hold(tx, &held, read, now).await?;
    idempotency::forget(tx, held.account, Operation::Confirm, row.id).await?;
    end_attempt(tx, row, UNHEARD, None, now).await?;
    Ok(Settled::GivenUp)
}

/// Writes down that a hold goes on as before its payment.
async fn back_to_hold(tx: &DatabaseTransaction, held: &Reservation, read: u32, now: Timestamp) -> Result<(), Failure> {
    rows::update(tx, held, read).await?;
    let states = seats::lock_of(tx, held).await?;
    hold_until(tx, held, states, now).await
}

fn not_paying(attempt: AttemptId) -> CorruptRow {
    CorruptRow::new("payment_attempts", "state", attempt)
}

/// Brings the seats that are still the reservation's own to its time.
async fn hold_until(
    tx: &DatabaseTransaction,
    reservation: &Reservation,
    states: Vec<SeatState>,
    now: Timestamp,
) -> Result<(), Failure> {
    let to = SeatHolding::Held(reservation.id, reservation.held_until);
    let differs = |state: &SeatState| state.held_until != Some(reservation.held_until);
    let own = states.into_iter().filter(|state| state.is_held_by(reservation.id) && differs(state));
    let changes: Vec<_> = own.map(|mut state| state.change(to, now)).collect();
    seats::write(tx, &changes).await
}

/// The pass is used up; it may have been left before.
async fn end_pass(tx: &DatabaseTransaction, confirmed: &Reservation, now: Timestamp) -> Result<(), Failure> {
    let key = [ended_passes::Column::PerformanceId, ended_passes::Column::Number];
    let row = ended_passes::ActiveModel {
        performance_id: Set(confirmed.performance.uuid()),
        number: Set(rows::pass_number(confirmed)?),
        ended_at: Set(now.unix_ms()),
    };
    let insert = ended_passes::Entity::insert_many([row]);
    let insert = insert.on_conflict(OnConflict::columns(key).do_nothing_on(key).to_owned());
    insert.exec_without_returning(tx).await?;
    Ok(())
}

/// One row per attempt: its primary key sees to it.
async fn refund(tx: &DatabaseTransaction, row: &payment_attempts::Model, now: Timestamp) -> Result<(), Failure> {
    let refund = refunds::ActiveModel {
        attempt_id: Set(row.id),
        amount: Set(row.amount),
        currency: Set(row.currency.clone()),
        due_at: Set(now.unix_ms()),
        sent_at: Set(None),
    };
    refunds::Entity::insert(refund).exec_without_returning(tx).await?;
    end_attempt(tx, row, REFUNDED, None, now).await
}

async fn end_attempt(
    tx: &DatabaseTransaction,
    row: &payment_attempts::Model,
    state: &str,
    ordinal: Option<u32>,
    now: Timestamp,
) -> Result<(), Failure> {
    let corrupt = |_| CorruptRow::new("payment_attempts", "ordinal", row.id);
    let end = payment_attempts::ActiveModel {
        state: Set(state.to_owned()),
        ordinal: Set(ordinal.map(i32::try_from).transpose().map_err(corrupt)?),
        ended_at: Set(Some(now.unix_ms())),
        ..payment_attempts::ActiveModel::default()
    };
    let update = payment_attempts::Entity::update_many()
        .set(end)
        .filter(payment_attempts::Column::Id.eq(row.id))
        .filter(payment_attempts::Column::State.eq(row.state.as_str()));
    if update.exec(tx).await?.rows_affected == 1 {
        Ok(())
    } else {
        Err(Failure::Conflict { table: "payment_attempts" })
    }
}

async fn find_attempt(
    db: &impl ConnectionTrait,
    attempt: AttemptId,
) -> Result<Option<payment_attempts::Model>, Failure> {
    Ok(payment_attempts::Entity::find_by_id(attempt.uuid()).one(db).await?)
}

pub(super) async fn resolve_early(tx: &DatabaseTransaction, attempt: AttemptId, now: Timestamp) -> Result<(), Failure> {
    use reservations::Column;
    let Some(row) = find_attempt(tx, attempt).await? else { return Ok(()) };
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
