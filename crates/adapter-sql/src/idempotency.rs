//! What was made under which idempotency key.
//!
//! A claim is looked up first and kept last, both in the transaction of the effect. Two twins that both found nothing
//! meet at the primary key: the later one rolls back, runs again, and finds the earlier one's claim.

use std::collections::HashMap;

use sea_orm::prelude::Uuid;
use sea_orm::{ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter};
use usher_kernel::{AccountId, Claim, Fingerprint, KeyUse, Operation, StoredClaim, Timestamp};

use crate::entities::idempotency_keys::{ActiveModel, Column, Entity, Model};
use crate::error::{CorruptRow, Failure, inserted_first};
use crate::statements::{insert_all, padded};

/// Looks up how the key of a claim was used before.
pub(crate) async fn find(
    db: &impl ConnectionTrait,
    claim: &Claim,
    operation: Operation,
    now: Timestamp,
) -> Result<KeyUse<Uuid>, Failure> {
    Ok(find_all(db, operation, &[(claim, now)]).await?.pop().unwrap_or(KeyUse::Unused))
}

/// The rows of these claims, each by its primary key. Accounts and keys as two lists would be tried crosswise: 65,000 pairs
/// for a batch of 256, which takes MySQL a third of a second.
fn of<'a>(claims: impl Iterator<Item = &'a Claim>) -> Condition {
    claims.fold(Condition::any(), |any, claim| {
        any.add(Column::AccountId.eq(claim.account.uuid()).and(Column::IdemKey.eq(claim.key.as_str())))
    })
}

/// Looks up how the keys of claims were used before; answers in their order.
pub(crate) async fn find_all(
    db: &impl ConnectionTrait,
    operation: Operation,
    claims: &[(&Claim, Timestamp)],
) -> Result<Vec<KeyUse<Uuid>>, Failure> {
    let mut stored = HashMap::with_capacity(claims.len());
    for some in padded(claims) {
        let rows = Entity::find().filter(of(some.iter().map(|(claim, _)| *claim)));
        stored.extend(rows.all(db).await?.into_iter().map(|row| ((row.account_id, row.idem_key.clone()), row)));
    }
    let found = claims.iter().map(|&(claim, now)| {
        let stored = stored.get(&(claim.account.uuid(), claim.key.as_str().to_owned()));
        Ok(claim.compare(operation, stored.map(stored_claim).transpose()?, now))
    });
    found.collect()
}

fn stored_claim(stored: &Model) -> Result<StoredClaim<Uuid>, CorruptRow> {
    let corrupt = |_| CorruptRow::new("idempotency_keys", "fingerprint", stored.subject_id);
    Ok(StoredClaim {
        fingerprint: Fingerprint(stored.fingerprint.as_slice().try_into().map_err(corrupt)?),
        operation: Operation::from_name(&stored.operation),
        subject: stored.subject_id,
        stored_at: Timestamp::from_unix_ms(stored.created_at),
    })
}

/// Stores a claim whose key [`find`] found [`KeyUse::Unused`] or [`KeyUse::Expired`].
pub(crate) async fn keep(
    db: &impl ConnectionTrait,
    claim: &Claim,
    operation: Operation,
    subject: Uuid,
    now: Timestamp,
) -> Result<(), Failure> {
    let claims = [(claim, subject, now)];
    forget_over(db, &claims).await?;
    keep_all(db, operation, &claims).await
}

/// Deletes those of the claims that are expired.
async fn forget_over(db: &impl ConnectionTrait, claims: &[(&Claim, Uuid, Timestamp)]) -> Result<(), Failure> {
    let Some(now) = claims.iter().map(|&(.., now)| now).min() else { return Ok(()) };
    for some in padded(claims) {
        let over = Entity::delete_many()
            .filter(of(some.iter().map(|(claim, ..)| *claim)))
            .filter(Column::CreatedAt.lte(now.minus(Claim::KEPT_FOR).unix_ms()));
        over.exec(db).await?;
    }
    Ok(())
}

/// Keeps claims that there is no row of, each of another key.
async fn keep_all(
    db: &impl ConnectionTrait,
    operation: Operation,
    claims: &[(&Claim, Uuid, Timestamp)],
) -> Result<(), Failure> {
    let rows = claims.iter().map(|&(claim, subject, now)| ActiveModel {
        account_id: Set(claim.account.uuid()),
        idem_key: Set(claim.key.as_str().to_owned()),
        fingerprint: Set(claim.fingerprint.0.to_vec()),
        operation: Set(operation.as_str().to_owned()),
        subject_id: Set(subject),
        created_at: Set(now.unix_ms()),
    });
    let rows: Vec<_> = rows.collect();
    insert_all(db, &rows).await.map_err(inserted_first("idempotency_keys"))
}

/// The claims of a batch of commands: what was made under them before, and what the earlier commands make for the later.
pub(crate) struct Claims<'a, T> {
    operation: Operation,
    known: HashMap<(AccountId, &'a str), Known<T>>,
    new: Vec<(&'a Claim, Uuid, Timestamp)>,
    /// Whether rows may be in the way of the new ones.
    any_over: bool,
}

enum Known<T> {
    For(Fingerprint, T),
    ForAnother,
}

/// The key of a claim was used for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyMismatch;

impl<'a, T: Sync> Claims<'a, T> {
    /// The claims of commands, with what [`find_all`] found of each; `made` tells what it was.
    pub(crate) fn new(
        operation: Operation,
        found: impl IntoIterator<Item = (&'a Claim, KeyUse<Uuid>)>,
        mut made: impl FnMut(Uuid) -> Result<T, Failure>,
    ) -> Result<Self, Failure> {
        let (mut known, mut any_over) = (HashMap::new(), false);
        for (claim, found) in found {
            let key = (claim.account, claim.key.as_str());
            match found {
                KeyUse::Unused => {}
                KeyUse::Expired => any_over = true,
                KeyUse::OtherRequest => {
                    known.entry(key).or_insert(Known::ForAnother);
                }
                // Of two commands with one key, the one with the right fingerprint knows what it was made for.
                KeyUse::SameRequest(subject) => {
                    known.insert(key, Known::For(claim.fingerprint, made(subject)?));
                }
            }
        }
        Ok(Self { operation, known, new: Vec::new(), any_over })
    }

    /// What was made under a claim, if anything was under its key.
    pub(crate) fn get(&self, claim: &'a Claim) -> Option<Result<&T, KeyMismatch>> {
        match self.known.get(&(claim.account, claim.key.as_str()))? {
            Known::For(fingerprint, made) if *fingerprint == claim.fingerprint => Some(Ok(made)),
            Known::For(..) | Known::ForAnother => Some(Err(KeyMismatch)),
        }
    }

    /// Notes what is made under a claim.
    pub(crate) fn keep(&mut self, claim: &'a Claim, subject: Uuid, now: Timestamp, made: T) {
        self.known.insert((claim.account, claim.key.as_str()), Known::For(claim.fingerprint, made));
        self.new.push((claim, subject, now));
    }

    /// Writes down what was noted.
    pub(crate) async fn write(mut self, db: &impl ConnectionTrait) -> Result<(), Failure> {
        // In the order of the primary key, so that two batches with the same keys wait for each other in one order.
        self.new.sort_by_key(|(claim, ..)| (claim.account, claim.key.as_str()));
        if self.any_over {
            forget_over(db, &self.new).await?;
        }
        keep_all(db, self.operation, &self.new).await
    }
}

/// Frees the claim under which something was made.
pub(crate) async fn forget(
    db: &impl ConnectionTrait,
    account: AccountId,
    operation: Operation,
    subject: Uuid,
) -> Result<(), Failure> {
    let of_account = Column::AccountId.eq(account.uuid());
    let of_subject = Column::Operation.eq(operation.as_str()).and(Column::SubjectId.eq(subject));
    Entity::delete_many().filter(of_account).filter(of_subject).exec(db).await?;
    Ok(())
}
