//! Idempotency keys, and the claims that used them.
//!
//! A transaction looks its claim up first, and stores it together with its effect. If two requests with one key both
//! find nothing, the primary key lets only one of them insert. The other rolls back, runs again, and finds the claim.

use std::collections::HashMap;

use sea_orm::prelude::Uuid;
use sea_orm::{ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter};
use usher_kernel::{AccountId, Claim, Fingerprint, KeyUse, Operation, StoredClaim, Timestamp};
use usher_reservation::judge::ClaimWrites;

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
    Ok(find_all(db, operation, &[claim], now).await?.pop().unwrap_or(KeyUse::Unused))
}

/// Selects the rows of these claims, each by its primary key. With one list of accounts and one of keys, MySQL would
/// try every pair: 65,000 for a batch of 256, which takes a third of a second.
fn of<'a>(claims: impl Iterator<Item = &'a Claim>) -> Condition {
    claims.fold(Condition::any(), |any, claim| {
        any.add(Column::AccountId.eq(claim.account.uuid()).and(Column::IdemKey.eq(claim.key.as_str())))
    })
}

/// Looks up how the keys of claims were used before. Answers in the order of the claims.
pub(crate) async fn find_all(
    db: &impl ConnectionTrait,
    operation: Operation,
    claims: &[&Claim],
    now: Timestamp,
) -> Result<Vec<KeyUse<Uuid>>, Failure> {
    let mut stored = HashMap::with_capacity(claims.len());
    for some in padded(claims) {
        let rows = Entity::find().filter(of(some.into_iter()));
        stored.extend(rows.all(db).await?.into_iter().map(|row| ((row.account_id, row.idem_key.clone()), row)));
    }
    let uses = claims.iter().map(|claim| {
        let stored = stored.get(&(claim.account.uuid(), claim.key.as_str().to_owned()));
        Ok(claim.compare(operation, stored.map(stored_claim).transpose()?, now))
    });
    uses.collect()
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
    store(db, operation, ClaimWrites { new: vec![(claim, subject)], any_expired: true }, |subject| subject, now).await
}

/// Deletes those of the claims that are expired at `now` ([`Claim::is_over`]).
async fn delete_expired(db: &impl ConnectionTrait, claims: &[(&Claim, Uuid)], now: Timestamp) -> Result<(), Failure> {
    for some in padded(claims) {
        let expired = Entity::delete_many()
            .filter(of(some.iter().map(|(claim, _)| *claim)))
            .filter(Column::CreatedAt.lte(now.minus(Claim::KEPT_FOR).unix_ms()));
        expired.exec(db).await?;
    }
    Ok(())
}

/// Inserts claims whose keys are not stored yet, each key once.
async fn insert(
    db: &impl ConnectionTrait,
    operation: Operation,
    claims: &[(&Claim, Uuid)],
    now: Timestamp,
) -> Result<(), Failure> {
    let rows = claims.iter().map(|&(claim, subject)| ActiveModel {
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

/// Stores the claims of a batch, in the order of the primary key, so that batches with the same keys take their locks
/// in one order.
pub(crate) async fn store<S: Copy + Send + Sync>(
    db: &impl ConnectionTrait,
    operation: Operation,
    writes: ClaimWrites<'_, S>,
    uuid: impl Fn(S) -> Uuid + Send,
    now: Timestamp,
) -> Result<(), Failure> {
    let ClaimWrites { new, any_expired } = writes;
    let mut claims: Vec<_> = new.into_iter().map(|(claim, subject)| (claim, uuid(subject))).collect();
    claims.sort_by_key(|(claim, _)| (claim.account, claim.key.as_str()));
    if any_expired {
        delete_expired(db, &claims, now).await?;
    }
    insert(db, operation, &claims, now).await
}

/// Deletes the claim under which a subject was created, and so frees its key.
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
