//! Statements about many rows, of few lengths: a database prepares each length of each statement, and a connection keeps
//! them prepared only if there are not too many. To prepare a statement takes a round trip, and to forget one delays the
//! next by the 40 ms of a delayed acknowledgement, because the driver leaves Nagle's algorithm on (sqlx 0.9).

use std::iter;

use sea_orm::prelude::Expr;
use sea_orm::sea_query::{CaseStatement, Value};
use sea_orm::{ColumnTrait, ExprTrait};

/// How many rows a statement writes, or names, at most: SQLite takes 32,766 values, and no row has more than 16; nor does it
/// read deeper than 1,000 alternatives.
pub(crate) const ROWS_PER_STATEMENT: usize = 512;
/// How many rows a statement changes at most, where it names each a few times.
pub(crate) const ROWS_PER_UPDATE: usize = 128;
/// How many statements a connection keeps prepared: each of those about many rows in ten lengths. MySQL keeps 16,382 of them
/// for all connections together (`max_prepared_stmt_count`).
pub(crate) const PREPARED_MAX: usize = 320;

/// Lists for statements that may name a row more than once: as long as the next power of two, by repeating the last.
pub(crate) fn padded<T: Clone + Send + Sync>(items: &[T]) -> impl Iterator<Item = Vec<T>> + Send {
    items.chunks(ROWS_PER_STATEMENT).map(|some| {
        let fill = some.last().into_iter().cycle().take(some.len().next_power_of_two() - some.len());
        some.iter().chain(fill).cloned().collect()
    })
}

/// Lists for statements that must name each row once: as long as a power of two, `max` at most, which is one too.
pub(crate) fn powers<T: Sync>(rows: &[T], max: usize) -> impl Iterator<Item = &[T]> + Send {
    let mut rest = rows;
    iter::from_fn(move || {
        let exponent = rest.len().checked_ilog2()?;
        let (some, others) = rest.split_at(usize::min(1 << exponent, max));
        rest = others;
        Some(some)
    })
}

/// The value of a column of each of some rows, which are found by a key.
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
    fn padded_lists_repeat_their_last() {
        let lists: Vec<_> = padded(&[1, 2, 3, 4, 5]).collect();

        assert_eq!(lists, [[1, 2, 3, 4, 5, 5, 5, 5]]);
        assert_eq!(padded::<u8>(&[]).count(), 0);
        let lengths: Vec<_> = padded(&[0; 1_025]).map(|list| list.len()).collect();
        assert_eq!(lengths, [512, 512, 1]);
    }

    #[test]
    fn rows_go_in_powers_of_two_and_each_once() {
        let rows: Vec<_> = (0..300).collect();

        let lists: Vec<_> = powers(&rows, 128).collect();

        assert_eq!(lists.iter().map(|list| list.len()).collect::<Vec<_>>(), [128, 128, 32, 8, 4]);
        assert_eq!(lists.concat(), rows);
        assert_eq!(powers::<u8>(&[], 128).count(), 0);
    }
}
