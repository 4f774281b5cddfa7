//! Takes payments: locks and reads the facts, asks [`judge::payment`], and writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::prelude::{Expr, Uuid};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};
use usher_kernel::{AttemptId, KeyUse, Operation, PerformanceId, ReservationId, Timestamp};
use usher_reservation::Reservation;
use usher_reservation::judge;
use usher_reservation::judge::payment::{
    Attempt, AttemptEnd, AttemptState, BeginFacts, BeginWrites, SettleFacts, SettleWrites,
};
use usher_reservation::model::PassNumber;
use usher_reservation::ports::{LIST_MAX, PayCommand, PayOutcome, RefundDue, SettleCommand, Settled, Unsettled};

use super::{locked, rows};
use crate::entities::{ended_passes, payment_attempts, refunds, reservations, sold};
use crate::error::{CorruptRow, Failure};
use crate::idempotency;
use crate::row::Row;
use crate::statements::{insert_all, padded, powers};

/// The payment attempt is in progress.
const PENDING: &str = "pending";
/// The gateway captured the money, and it paid for the seats.
const CAPTURED: &str = "captured";
/// The gateway declined the charge.
const DECLINED: &str = "declined";
/// The gateway never received the charge.
const UNHEARD: &str = "unheard";
/// The gateway captured the money, and it is refunded: there is a row in `refunds`.
const REFUNDED: &str = "refunded";

pub(super) async fn begin_all(
    tx: &DatabaseTransaction,
    commands: &[PayCommand],
    now: Timestamp,
) -> Result<Vec<PayOutcome>, Failure> {
    let ids = commands.iter().map(|command| command.reservation).collect();
    let holdings = locked::lock(tx, &ids).await?;
    let facts = BeginFacts { claims: find_claims(tx, commands, now).await?, holdings };
    let (outcomes, writes) = judge::payment::begin_all(commands, facts, now);
    let BeginWrites { claims, attempts, holdings } = writes;
    idempotency::store(tx, Operation::Confirm, claims, AttemptId::uuid, now).await?;
    let begun: Vec<_> = attempts.iter().map(|attempt| begun(attempt, now)).collect();
    insert_all(tx, &begun).await?;
    locked::write(tx, &holdings, now).await?;
    Ok(outcomes)
}

fn begun(attempt: &Attempt, now: Timestamp) -> payment_attempts::ActiveModel {
    payment_attempts::ActiveModel {
        id: Set(attempt.id.uuid()),
        reservation_id: Set(attempt.reservation.uuid()),
        amount: Set(attempt.amount.amount()),
        currency: Set(attempt.amount.currency().to_string()),
        state: Set(PENDING.to_owned()),
        ordinal: Set(None),
        created_at: Set(now.unix_ms()),
        ended_at: Set(None),
    }
}

/// The earlier uses of the commands' keys: the attempts that began under them, with their reservations.
async fn find_claims(
    tx: &DatabaseTransaction,
    commands: &[PayCommand],
    now: Timestamp,
) -> Result<Vec<KeyUse<(Attempt, Reservation)>>, Failure> {
    let claims: Vec<_> = commands.iter().map(|command| &command.claim).collect();
    let uses = idempotency::find_all(tx, Operation::Confirm, &claims, now).await?;
    let attempts = find_attempts(tx, uses.iter().filter_map(|earlier| earlier.subject()).collect()).await?;
    let ids: BTreeSet<_> = attempts.values().map(|attempt| attempt.reservation.uuid()).collect();
    let reservations = rows::find_all(tx, ids).await?;
    let reservations: HashMap<_, _> = reservations.into_iter().map(|made| (made.id, made)).collect();
    let find = |id| {
        let attempt = attempts.get(&id).copied();
        let reservation = attempt.and_then(|attempt| reservations.get(&attempt.reservation)).cloned();
        let lost = || CorruptRow::new("idempotency_keys", "subject_id", id).into();
        attempt.zip(reservation).ok_or_else(lost)
    };
    uses.into_iter().map(|earlier| earlier.try_map(find)).collect()
}

pub(super) async fn settle_all(
    tx: &DatabaseTransaction,
    commands: &[SettleCommand],
    now: Timestamp,
) -> Result<Vec<Option<Settled>>, Failure> {
    let ids: BTreeSet<_> = commands.iter().map(|command| command.attempt.uuid()).collect();
    // The reservation of an attempt never changes.
    let attempts = find_attempts(tx, ids.clone()).await?;
    let paid_for = attempts.values().map(|attempt| attempt.reservation).collect();
    let holdings = locked::lock(tx, &paid_for).await?;
    // Read again under the locks: the transaction that held them before may have ended some attempts.
    let attempts = find_attempts(tx, ids).await?.into_values().collect();
    let (outcomes, writes) = judge::payment::settle_all(commands, SettleFacts { attempts, holdings }, now)?;
    write_settled(tx, writes, now).await?;
    Ok(outcomes)
}

async fn write_settled(tx: &DatabaseTransaction, writes: SettleWrites, now: Timestamp) -> Result<(), Failure> {
    let SettleWrites { holdings, sales, ended_passes, refunds, freed_claims, attempts } = writes;
    locked::write(tx, &holdings, now).await?;
    let sold = sales.into_iter().map(|sale| sold::ActiveModel {
        performance_id: Set(sale.performance.uuid()),
        seat: Set(sale.ticket.seat.to_string()),
        reservation_id: Set(sale.reservation.uuid()),
        ticket_id: Set(sale.ticket.id.uuid()),
        code: Set(sale.ticket.code),
        sold_at: Set(now.unix_ms()),
    });
    insert_all(tx, &Vec::from_iter(sold)).await?;
    end_passes(tx, &ended_passes, now).await?;
    let refunds = refunds.into_iter().map(|due| refunds::ActiveModel {
        attempt_id: Set(due.attempt.uuid()),
        amount: Set(due.amount.amount()),
        currency: Set(due.amount.currency().to_string()),
        due_at: Set(now.unix_ms()),
        sent_at: Set(None),
    });
    insert_all(tx, &Vec::from_iter(refunds)).await?;
    for (account, attempt) in freed_claims {
        idempotency::forget(tx, account, Operation::Confirm, attempt.uuid()).await?;
    }
    end_all(tx, attempts, now).await
}

/// Ends passes. Skips those that have ended before.
async fn end_passes(
    tx: &DatabaseTransaction,
    passes: &[(PerformanceId, PassNumber)],
    now: Timestamp,
) -> Result<(), Failure> {
    let key = [ended_passes::Column::PerformanceId, ended_passes::Column::Number];
    let rows = passes.iter().map(|(performance, pass)| {
        Ok(ended_passes::ActiveModel {
            performance_id: Set(performance.uuid()),
            number: Set(Row::new("ended_passes", performance).number("number", pass.0)?),
            ended_at: Set(now.unix_ms()),
        })
    });
    for some in padded(&rows.collect::<Result<Vec<_>, CorruptRow>>()?) {
        let insert = ended_passes::Entity::insert_many(some);
        let insert = insert.on_conflict(OnConflict::columns(key).do_nothing_on(key).to_owned());
        insert.exec_without_returning(tx).await?;
    }
    Ok(())
}

/// Writes the ends of attempts. Each row must still have the state that was read.
async fn end_all(tx: &DatabaseTransaction, ends: Vec<AttemptEnd>, now: Timestamp) -> Result<(), Failure> {
    use payment_attempts::Column;
    let mut groups: BTreeMap<_, Vec<AttemptId>> = BTreeMap::new();
    for AttemptEnd { attempt, before, after } in ends {
        let ((before, _), after) = (columns(attempt, before)?, columns(attempt, after)?);
        groups.entry((before, after)).or_default().push(attempt);
    }
    for ((before, (after, ordinal)), group) in groups {
        for some in powers(&group) {
            let update = payment_attempts::Entity::update_many()
                .col_expr(Column::State, Expr::value(after))
                .col_expr(Column::Ordinal, Expr::value(ordinal))
                .col_expr(Column::EndedAt, Expr::value(now.unix_ms()))
                .filter(Column::Id.is_in(some.iter().map(|attempt| attempt.uuid())))
                .filter(Column::State.eq(before));
            if update.exec(tx).await?.rows_affected != some.len() as u64 {
                return Err(Failure::Conflict { table: "payment_attempts" });
            }
        }
    }
    Ok(())
}

/// The columns `state` and `ordinal` of an attempt.
fn columns(attempt: AttemptId, state: AttemptState) -> Result<(&'static str, Option<i32>), CorruptRow> {
    Ok(match state {
        AttemptState::Pending => (PENDING, None),
        AttemptState::Captured => (CAPTURED, None),
        AttemptState::Declined { ordinal } => {
            let corrupt = |_| CorruptRow::new("payment_attempts", "ordinal", attempt);
            (DECLINED, Some(ordinal.try_into().map_err(corrupt)?))
        }
        AttemptState::Unheard => (UNHEARD, None),
        AttemptState::Refunded => (REFUNDED, None),
    })
}

async fn find_attempts(db: &impl ConnectionTrait, ids: BTreeSet<Uuid>) -> Result<HashMap<Uuid, Attempt>, Failure> {
    let (ids, mut found) = (Vec::from_iter(ids), HashMap::new());
    for some in padded(&ids) {
        let rows = payment_attempts::Entity::find().filter(payment_attempts::Column::Id.is_in(some)).all(db);
        for model in rows.await? {
            found.insert(model.id, attempt(&model)?);
        }
    }
    Ok(found)
}

/// An attempt, from its row.
pub(super) fn attempt(model: &payment_attempts::Model) -> Result<Attempt, CorruptRow> {
    let row = Row::new("payment_attempts", &model.id);
    let state = match model.state.as_str() {
        PENDING => AttemptState::Pending,
        CAPTURED => AttemptState::Captured,
        DECLINED => {
            let ordinal = row.number("ordinal", row.known("ordinal", model.ordinal)?)?;
            AttemptState::Declined { ordinal }
        }
        UNHEARD => AttemptState::Unheard,
        REFUNDED => AttemptState::Refunded,
        _ => return Err(row.corrupt("state")),
    };
    Ok(Attempt {
        id: AttemptId::from_uuid(model.id),
        reservation: ReservationId::from_uuid(model.reservation_id),
        amount: row.money("amount", model.amount, &model.currency)?,
        state,
    })
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
    Ok(due.iter().filter_map(Unsettled::of).collect())
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
