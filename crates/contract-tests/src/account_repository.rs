//! The contract suite of [`AccountRepository`]. Numbers refer to the items of its contract.

use std::sync::Arc;

use usher_account::{Account, AccountRepository, AddAccountOutcome, Email, PasswordHash, Role};
use usher_kernel::{AccountId, Timestamp};

use crate::race::race;

/// Gives each test a repository of its own.
pub trait Fixture: Send + Sync + Sized + 'static {
    /// A fixture with an empty repository, which lives as long as the fixture.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// The repository.
    fn repository(&self) -> Arc<dyn AccountRepository>;
}

/// Generates the suite's tests for a [`Fixture`].
#[macro_export]
macro_rules! account_repository_contract {
    ($fixture:ty) => {
        $crate::account_repository_contract! { $fixture:
            of_many_accounts_with_one_mail_address_one_is_stored
            an_account_with_a_taken_mail_address_is_not_stored
            what_was_added_is_found_whole
            mail_addresses_that_look_alike_are_different
            what_was_never_added_is_not_found
        }
    };
    ($fixture:ty: $($item:ident)*) => {$(
        #[::tokio::test(flavor = "multi_thread")]
        async fn $item() {
            $crate::account_repository::$item::<$fixture>().await;
        }
    )*};
}

/// 1, as a race.
pub async fn of_many_accounts_with_one_mail_address_one_is_stored<F: Fixture>() {
    let fixture = F::fresh().await;

    let outcomes = race(|n| {
        let repository = fixture.repository();
        async move {
            let account = account(n, "ann@example.org");
            let outcome = repository.add(&account, &password_hash(n)).await.unwrap();
            (account, outcome)
        }
    })
    .await;

    let (added, refused): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|(_, outcome)| *outcome == AddAccountOutcome::Added);
    assert_eq!(added.len(), 1, "one account is added");
    let stored = fixture.repository().find_by_email(&email("ann@example.org")).await.unwrap();
    assert_eq!(stored.map(|(account, _)| account).as_ref(), Some(&added[0].0), "and it is the one that is stored");
    for (account, _) in refused {
        assert_eq!(fixture.repository().find(account.id).await.unwrap(), None, "the others are not");
    }
}

/// 1, with sequential calls.
pub async fn an_account_with_a_taken_mail_address_is_not_stored<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let (first, second) = (account(1, "ann@example.org"), account(2, "ann@example.org"));

    let outcomes = [
        repository.add(&first, &password_hash(1)).await.unwrap(),
        repository.add(&second, &password_hash(2)).await.unwrap(),
    ];

    assert_eq!(outcomes, [AddAccountOutcome::Added, AddAccountOutcome::EmailTaken]);
    let stored = repository.find_by_email(&first.email).await.unwrap();
    assert_eq!(stored, Some((first, password_hash(1))));
    assert_eq!(repository.find(second.id).await.unwrap(), None);
}

/// 2.
pub async fn what_was_added_is_found_whole<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let ann = Account { role: Role::Operator, name: "🎻".repeat(100), ..account(1, "ann@example.org") };
    let longest_address = format!("{}@example.org", "b".repeat(Email::LEN_MAX - "@example.org".len()));
    let bob = account(2, &longest_address);

    for (n, account) in [(1, &ann), (2, &bob)] {
        assert_eq!(repository.add(account, &password_hash(n)).await.unwrap(), AddAccountOutcome::Added);
    }

    for (n, account) in [(1, ann), (2, bob)] {
        assert_eq!(repository.find(account.id).await.unwrap().as_ref(), Some(&account));
        let found = repository.find_by_email(&account.email).await.unwrap();
        assert_eq!(found, Some((account, password_hash(n))));
    }
}

/// 1 and 2: a database that ignores accents in a comparison would let one person log in as another.
pub async fn mail_addresses_that_look_alike_are_different<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    let alike = ["jose@example.org", "josé@example.org", "strasse@example.org", "straße@example.org"];

    for (n, address) in (0..).zip(alike) {
        assert_eq!(repository.find_by_email(&email(address)).await.unwrap(), None, "{address}");
        let outcome = repository.add(&account(n, address), &password_hash(n)).await.unwrap();
        assert_eq!(outcome, AddAccountOutcome::Added, "{address}");
    }

    for (n, address) in (0..).zip(alike) {
        let found = repository.find_by_email(&email(address)).await.unwrap();
        assert_eq!(found, Some((account(n, address), password_hash(n))));
    }
}

/// 3.
pub async fn what_was_never_added_is_not_found<F: Fixture>() {
    let fixture = F::fresh().await;
    let repository = fixture.repository();
    assert_eq!(
        repository.add(&account(1, "ann@example.org"), &password_hash(1)).await.unwrap(),
        AddAccountOutcome::Added
    );

    assert_eq!(repository.find(AccountId::from_bytes([2; 16])).await.unwrap(), None);
    assert_eq!(repository.find_by_email(&email("bob@example.org")).await.unwrap(), None);
}

fn account(n: u8, address: &str) -> Account {
    Account {
        id: AccountId::from_bytes([n; 16]),
        email: email(address),
        name: format!("Person {n}"),
        role: Role::Buyer,
        created_at: Timestamp::from_unix_ms(1_700_000_000_000 + i64::from(n)),
    }
}

fn email(address: &str) -> Email {
    Email::parse(address).unwrap()
}

fn password_hash(n: u8) -> PasswordHash {
    // As long as a hash with the default parameters of argon2.
    PasswordHash::new(format!("$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIG1pbmU${n:043}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use usher_kernel::StoreError;

    use super::*;
    use crate::race::Gap;

    /// Checks that the address is free, and adds the account after other callers could check too.
    #[derive(Default)]
    struct CheckThenAct(Mutex<Vec<(Account, PasswordHash)>>, Gap);

    #[async_trait]
    impl AccountRepository for CheckThenAct {
        async fn add(&self, account: &Account, password_hash: &PasswordHash) -> Result<AddAccountOutcome, StoreError> {
            if self.find_by_email(&account.email).await?.is_some() {
                return Ok(AddAccountOutcome::EmailTaken);
            }
            self.1.wait_for_others().await;
            self.0.lock().unwrap().push((account.clone(), password_hash.clone()));
            Ok(AddAccountOutcome::Added)
        }

        async fn find(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
            Ok(self.0.lock().unwrap().iter().map(|(account, _)| account).find(|account| account.id == id).cloned())
        }

        async fn find_by_email(&self, email: &Email) -> Result<Option<(Account, PasswordHash)>, StoreError> {
            Ok(self.0.lock().unwrap().iter().find(|(account, _)| account.email == *email).cloned())
        }
    }

    struct Control(Arc<CheckThenAct>);

    impl Fixture for Control {
        async fn fresh() -> Self {
            Self(Arc::default())
        }

        fn repository(&self) -> Arc<dyn AccountRepository> {
            Arc::<CheckThenAct>::clone(&self.0)
        }
    }

    #[tokio::test]
    #[should_panic(expected = "one account is added")]
    async fn checking_before_adding_is_rejected() {
        of_many_accounts_with_one_mail_address_one_is_stored::<Control>().await;
    }

    #[tokio::test]
    async fn only_the_race_rejects_the_control() {
        an_account_with_a_taken_mail_address_is_not_stored::<Control>().await;
        what_was_added_is_found_whole::<Control>().await;
        mail_addresses_that_look_alike_are_different::<Control>().await;
        what_was_never_added_is_not_found::<Control>().await;
    }
}
