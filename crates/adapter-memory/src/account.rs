//! Accounts in memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use async_trait::async_trait;
use usher_account::{Account, AccountRepository, AddAccountOutcome, Email, PasswordHash};
use usher_kernel::{AccountId, StoreError};

use crate::Database;

/// Accounts, each with its password hash.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_id: HashMap<AccountId, (Account, PasswordHash)>,
    by_email: HashMap<Email, AccountId>,
}

/// Accounts in memory.
#[derive(Clone, Debug)]
pub struct MemoryAccountRepository {
    database: Database,
}

impl MemoryAccountRepository {
    /// A repository of the accounts in this database.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

#[async_trait]
impl AccountRepository for MemoryAccountRepository {
    async fn add(&self, account: &Account, password_hash: &PasswordHash) -> Result<AddAccountOutcome, StoreError> {
        let accounts = &mut self.database.lock("account.add")?.accounts;
        match accounts.by_email.entry(account.email.clone()) {
            Entry::Occupied(_) => Ok(AddAccountOutcome::EmailTaken),
            Entry::Vacant(free) => {
                free.insert(account.id);
                accounts.by_id.insert(account.id, (account.clone(), password_hash.clone()));
                Ok(AddAccountOutcome::Added)
            }
        }
    }

    async fn find(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        let accounts = &self.database.lock("account.find")?.accounts;
        Ok(accounts.by_id.get(&id).map(|(account, _)| account.clone()))
    }

    async fn find_by_email(&self, email: &Email) -> Result<Option<(Account, PasswordHash)>, StoreError> {
        let accounts = &self.database.lock("account.find_by_email")?.accounts;
        Ok(accounts.by_email.get(email).and_then(|id| accounts.by_id.get(id)).cloned())
    }
}
