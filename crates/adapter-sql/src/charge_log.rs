//! The log of the simulated payment gateway in SQL.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter};
use usher_kernel::{AttemptId, Money, StoreError, Timestamp};
use usher_reservation::simulated::{Charge, ChargeLog, ChargeState};

use crate::Database;
use crate::entities::simulated_charges::{ActiveModel, Column, Entity, Model};
use crate::error::{CorruptRow, inserted_first};
use crate::row::Row;

/// The log of the simulated payment gateway in SQL.
#[derive(Clone, Debug)]
pub struct SqlChargeLog {
    database: Database,
}

impl SqlChargeLog {
    /// The log in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl ChargeLog for SqlChargeLog {
    async fn find(&self, attempt: AttemptId) -> Result<Option<Charge>, StoreError> {
        let found = self.database.read("gateway.find", |db| async move {
            let row = Entity::find_by_id(attempt.uuid()).one(db).await?;
            Ok(row.as_ref().map(charge).transpose()?)
        });
        found.await
    }

    async fn record(&self, charge: Charge) -> Result<Charge, StoreError> {
        let recorded = self.database.write("gateway.record", |tx| async move {
            if let Some(row) = Entity::find_by_id(charge.attempt.uuid()).one(&*tx).await? {
                return Ok(self::charge(&row)?);
            }
            let row = ActiveModel {
                attempt_id: Set(charge.attempt.uuid()),
                amount: Set(charge.amount.map_or(0, Money::amount)),
                currency: Set(charge.amount.map(|amount| amount.currency().to_string()).unwrap_or_default()),
                outcome: Set(charge.state.as_str().to_owned()),
                charged_at: Set(charge.at.unix_ms()),
                refunded_at: Set(charge.refunded_at.map(Timestamp::unix_ms)),
            };
            let insert = Entity::insert(row).exec_without_returning(&*tx).await;
            insert.map_err(inserted_first("simulated_charges"))?;
            Ok(charge)
        });
        recorded.await
    }

    async fn refund(&self, attempt: AttemptId, now: Timestamp) -> Result<(), StoreError> {
        let refunded = self.database.write("gateway.refund", |tx| async move {
            let update = Entity::update_many()
                .set(ActiveModel { refunded_at: Set(Some(now.unix_ms())), ..Default::default() })
                .filter(Column::AttemptId.eq(attempt.uuid()))
                .filter(Column::RefundedAt.is_null());
            update.exec(&*tx).await?;
            Ok(())
        });
        refunded.await
    }

    async fn pause(&self, span: Duration) {
        #[expect(clippy::disallowed_methods, reason = "the gateway simulates this wait")]
        tokio::time::sleep(span).await;
    }
}

/// Whether a row says that money was taken.
pub(crate) fn is_captured(row: &Model) -> bool {
    row.outcome == ChargeState::Captured.as_str()
}

fn charge(stored: &Model) -> Result<Charge, CorruptRow> {
    let row = Row::new("simulated_charges", &stored.attempt_id);
    let amount = |currency: &str| row.money("amount", stored.amount, currency);
    Ok(Charge {
        attempt: AttemptId::from_uuid(stored.attempt_id),
        // An attempt that was cancelled before its charge has no currency.
        amount: Some(stored.currency.as_str()).filter(|currency| !currency.is_empty()).map(amount).transpose()?,
        state: row.known("outcome", ChargeState::from_name(&stored.outcome))?,
        at: Timestamp::from_unix_ms(stored.charged_at),
        refunded_at: stored.refunded_at.map(Timestamp::from_unix_ms),
    })
}
