//! Admission policies in SQL. Stores only the values that operators changed; the others stay those of the default.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ActiveModelTrait, DatabaseConnection, EntityTrait, IntoActiveModel, QuerySelect};
use usher_kernel::{PerformanceId, StoreError, Violation};
use usher_queue::ports::PolicyRepository;
use usher_queue::{AdmissionPolicy, LineState, PolicyPatch};

use crate::Database;
use crate::database::Transaction;
use crate::entities::admission_policies::{Entity, Model};
use crate::error::{CorruptRow, inserted_first};
use crate::row::Row;

/// Admission policies in SQL.
#[derive(Clone, Debug)]
pub struct SqlPolicyRepository {
    database: Database,
}

impl SqlPolicyRepository {
    /// The policies of this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl PolicyRepository for SqlPolicyRepository {
    async fn find(&self, performance: PerformanceId, default: &AdmissionPolicy) -> Result<AdmissionPolicy, StoreError> {
        let select = async |db: &DatabaseConnection| {
            let row = Entity::find_by_id(performance.uuid()).one(db).await?;
            Ok(default.with(&changes(row.as_ref())?))
        };
        self.database.read("policy.find", select).await
    }

    #[tracing::instrument(skip_all, name = "sql.policy.patch")]
    async fn patch(
        &self,
        performance: PerformanceId,
        default: &AdmissionPolicy,
        patch: &PolicyPatch,
    ) -> Result<Result<AdmissionPolicy, Vec<Violation>>, StoreError> {
        let change = |tx: Transaction| async move {
            // Concurrent calls wait here for the lock of the row. If there is no row, the primary key lets one of them
            // insert it.
            let before = Entity::find_by_id(performance.uuid()).lock_exclusive().one(&*tx).await?;
            let (after, policy) = match default.patched(changes(before.as_ref())?, patch) {
                Ok(patched) => patched,
                Err(violations) => return Ok(Err(violations)),
            };
            let row = row(performance, &after).into_active_model().reset_all();
            if before.is_some() {
                Entity::update(row).exec_without_returning(&*tx).await?;
            } else {
                let insert = Entity::insert(row).exec_without_returning(&*tx).await;
                insert.map_err(inserted_first("admission_policies"))?;
            }
            Ok(Ok(policy))
        };
        self.database.write("policy.patch", change).await
    }
}

/// The row that stores these changes. They are valid, so spans are a day at most.
fn row(performance: PerformanceId, changes: &PolicyPatch) -> Model {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Model {
        performance_id: performance.uuid(),
        capacity: changes.capacity.map(i64::from),
        rate_per_s: changes.rate_per_s.map(i64::from),
        pass_ttl_ms: changes.pass_ttl.map(ms),
        presence_window_ms: changes.presence_window.map(ms),
        state: changes.state.map(|state| state.as_str().to_owned()),
    }
}

/// The changes that a row stores; none if there is no row.
fn changes(stored: Option<&Model>) -> Result<PolicyPatch, CorruptRow> {
    let Some(stored) = stored else { return Ok(PolicyPatch::default()) };
    let row = Row::new("admission_policies", &stored.performance_id);
    let count = |column, n: Option<i64>| n.map(|n| row.number(column, n)).transpose();
    let span = |column, ms: Option<i64>| ms.map(|ms| row.number(column, ms).map(Duration::from_millis)).transpose();
    let state = |name: &String| row.known("state", LineState::from_name(name));
    Ok(PolicyPatch {
        capacity: count("capacity", stored.capacity)?,
        rate_per_s: count("rate_per_s", stored.rate_per_s)?,
        pass_ttl: span("pass_ttl_ms", stored.pass_ttl_ms)?,
        presence_window: span("presence_window_ms", stored.presence_window_ms)?,
        state: stored.state.as_ref().map(state).transpose()?,
    })
}
