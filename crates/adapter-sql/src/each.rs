//! Many rows in one `UPDATE`: those that go to one value share it, and the others are told apart by their key.

use sea_orm::prelude::Expr;
use sea_orm::sea_query::{CaseStatement, Value};
use sea_orm::{ColumnTrait, ExprTrait};

/// How many rows a statement changes at most, where it names each a few times.
pub(crate) const ROWS_PER_UPDATE: usize = 100;

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
