//! Splits statements about many rows into statements of a few lengths, none of them long.
//!
//! The driver leaves Nagle's algorithm on (sqlx 0.9.0), so the second of two small writes waits up to 40 ms for the
//! acknowledgement of the first. It writes twice in a row when its cache of prepared statements is full, and when a
//! statement takes more than one TLS record (16 KiB).

use std::iter;

use sea_orm::prelude::Expr;
use sea_orm::sea_query::{CaseStatement, Value};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, ExprTrait, IntoActiveModel};

/// The most rows that a statement names. With a seat of 26 letters each, or an account and a key of 36, they fit into
/// 16 KiB.
const NAMED_MAX: usize = 256;
/// The most rows that a statement writes. With 16 values each, or a few values named several times, they fit into 16
/// KiB. Also, for each row that an update changes, the database searches the values of all rows.
const WRITTEN_MAX: usize = 64;
/// The most prepared statements that a connection caches. Each statement about many rows has up to ten lengths. MySQL
/// allows 16,382 for all connections together (`max_prepared_stmt_count`).
pub(crate) const PREPARED_MAX: usize = 320;

/// Splits items into lists, for statements that may name a row more than once. Pads each list to a power of two by
/// repeating its last item.
pub(crate) fn padded<T: Clone + Send + Sync>(items: &[T]) -> impl Iterator<Item = Vec<T>> + Send {
    items.chunks(NAMED_MAX).map(|some| {
        let fill = some.last().into_iter().cycle().take(some.len().next_power_of_two() - some.len());
        some.iter().chain(fill).cloned().collect()
    })
}

/// Splits rows into lists, for statements that must name each row once. The length of each list is a power of two.
pub(crate) fn powers<T: Sync>(rows: &[T]) -> impl Iterator<Item = &[T]> + Send {
    let mut rest = rows;
    iter::from_fn(move || {
        let exponent = rest.len().checked_ilog2()?;
        let (some, others) = rest.split_at(usize::min(1 << exponent, WRITTEN_MAX));
        rest = others;
        Some(some)
    })
}

/// Inserts rows that do not exist yet.
pub(crate) async fn insert_all<A>(db: &impl ConnectionTrait, rows: &[A]) -> Result<(), DbErr>
where
    A: ActiveModelTrait + Send + Sync,
    <A::Entity as EntityTrait>::Model: IntoActiveModel<A>,
{
    for some in powers(rows) {
        A::Entity::insert_many(some.to_vec()).exec_without_returning(db).await?;
    }
    Ok(())
}

/// The new value of a column in an update of several rows, each of them found by a key.
pub(crate) fn each<R>(rows: &[R], key: (impl ColumnTrait, impl Fn(&R) -> Value), value: impl Fn(&R) -> Value) -> Expr {
    let (column, key) = key;
    let mut values = rows.iter().map(&value);
    let first = values.next().unwrap_or(Value::BigInt(None));
    if values.all(|value| value == first) {
        return Expr::value(first);
    }
    let cases = rows.iter().fold(CaseStatement::new(), |cases, row| {
        cases.case(Expr::col(column.as_column_ref()).eq(key(row)), Expr::value(value(row)))
    });
    cases.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_lists_repeat_their_last_item() {
        let lists: Vec<_> = padded(&[1, 2, 3, 4, 5]).collect();

        assert_eq!(lists, [[1, 2, 3, 4, 5, 5, 5, 5]]);
        assert_eq!(padded::<u8>(&[]).count(), 0);
        let lengths: Vec<_> = padded(&[0; 513]).map(|list| list.len()).collect();
        assert_eq!(lengths, [256, 256, 1]);
    }

    #[test]
    fn each_row_is_in_one_list_and_lengths_are_powers_of_two() {
        let rows: Vec<_> = (0..172).collect();

        let lists: Vec<_> = powers(&rows).collect();

        assert_eq!(lists.iter().map(|list| list.len()).collect::<Vec<_>>(), [64, 64, 32, 8, 4]);
        assert_eq!(lists.concat(), rows);
        assert_eq!(powers::<u8>(&[]).count(), 0);
    }
}
