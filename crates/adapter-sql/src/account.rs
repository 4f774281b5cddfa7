//! Accounts in SQL. The unique index on the mail address decides which account has it.

use async_trait::async_trait;
use sea_orm::{ColumnTrait, DatabaseConnection, EntityTrait, IntoActiveModel, QueryFilter, SqlErr};
use usher_account::{Account, AccountRepository, AddAccountOutcome, Email, PasswordHash, Role};
use usher_kernel::{AccountId, StoreError, Timestamp};

use crate::Database;
use crate::database::Transaction;
use crate::entities::accounts::{Column, Entity, Model};
use crate::error::{CorruptRow, Failure};
use crate::row::Row;

/// Accounts in SQL.
#[derive(Clone, Debug)]
pub struct SqlAccountRepository {
    database: Database,
}

impl SqlAccountRepository {
    /// The accounts of this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl AccountRepository for SqlAccountRepository {
    #[tracing::instrument(skip_all, name = "sql.account.add")]
    async fn add(&self, account: &Account, password_hash: &PasswordHash) -> Result<AddAccountOutcome, StoreError> {
        let row = Model {
            id: account.id.uuid(),
            email: account.email.as_str().to_owned(),
            name: account.name.clone(),
            role: account.role.as_str().to_owned(),
            password_hash: password_hash.expose().to_owned(),
            created_at: account.created_at.unix_ms(),
        };
        let insert = |tx: Transaction| {
            let row = row.clone().into_active_model();
            async move {
                let inserted = Entity::insert(row).exec_without_returning(&*tx).await;
                match inserted.map_err(|error| (error.sql_err(), error)) {
                    Ok(_) => Ok(AddAccountOutcome::Added),
                    // Of the two unique columns only the address can conflict: ids are never generated twice.
                    Err((Some(SqlErr::UniqueConstraintViolation(_)), _)) => Ok(AddAccountOutcome::EmailTaken),
                    Err((_, error)) => Err(error.into()),
                }
            }
        };
        self.database.write("account.add", insert).await
    }

    async fn find(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        let select = async |db: &DatabaseConnection| {
            let row = Entity::find_by_id(id.uuid()).one(db).await?;
            Ok(row.map(account).transpose()?)
        };
        self.database.read("account.find", select).await
    }

    async fn find_by_email(&self, email: &Email) -> Result<Option<(Account, PasswordHash)>, StoreError> {
        let select = async |db: &DatabaseConnection| {
            let Some(row) = Entity::find().filter(Column::Email.eq(email.as_str())).one(db).await? else {
                return Ok(None);
            };
            let password_hash = PasswordHash::new(row.password_hash.as_str());
            Ok::<_, Failure>(Some((account(row)?, password_hash)))
        };
        self.database.read("account.find_by_email", select).await
    }
}

fn account(stored: Model) -> Result<Account, CorruptRow> {
    let row = Row::new("accounts", &stored.id);
    Ok(Account {
        id: AccountId::from_uuid(stored.id),
        email: row.known("email", Email::parse(&stored.email))?,
        role: row.known("role", Role::from_name(&stored.role))?,
        created_at: Timestamp::from_unix_ms(stored.created_at),
        name: stored.name,
    })
}
