//! Parses the values of a row. The error for an invalid value names its table, column and row.

use std::fmt::Display;
use std::str::FromStr;

use usher_kernel::Money;

use crate::error::CorruptRow;

/// A row whose values are parsed.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    table: &'static str,
    key: &'a (dyn Display + Sync),
}

impl<'a> Row<'a> {
    /// The row of `table` with this primary key.
    pub(crate) fn new(table: &'static str, key: &'a (dyn Display + Sync)) -> Self {
        Self { table, key }
    }

    /// The error for an invalid value in a column.
    pub(crate) fn corrupt(&self, column: &'static str) -> CorruptRow {
        CorruptRow::new(self.table, column, self.key)
    }

    /// A value that must be present and known.
    pub(crate) fn known<T>(&self, column: &'static str, value: Option<T>) -> Result<T, CorruptRow> {
        value.ok_or_else(|| self.corrupt(column))
    }

    /// A number within the bounds of its type.
    pub(crate) fn number<N, T: TryFrom<N>>(&self, column: &'static str, number: N) -> Result<T, CorruptRow> {
        T::try_from(number).map_err(|_| self.corrupt(column))
    }

    /// A value that is parsed from a text.
    pub(crate) fn parse<T: FromStr>(&self, column: &'static str, text: &str) -> Result<T, CorruptRow> {
        text.parse().map_err(|_| self.corrupt(column))
    }

    /// An amount, with its currency in the column `currency`.
    pub(crate) fn money(&self, column: &'static str, amount: i64, currency: &str) -> Result<Money, CorruptRow> {
        let currency = self.parse("currency", currency)?;
        Money::new(amount, currency).map_err(|_| self.corrupt(column))
    }
}
