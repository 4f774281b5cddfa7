//! The name of a seat.

use std::fmt;
use std::str::FromStr;

/// A seat's name, unique in its performance: `SECTION-ROW-NUMBER`, e.g. `A-12-7`.
///
/// Sections are letters and digits only, so that a name can be parsed in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(Box<str>);

/// The text is not a seat name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a seat is SECTION-ROW-NUMBER, e.g. A-12-7: up to 16 letters or digits, and two numbers from 1 to 9999")]
pub struct InvalidSeatId;

impl SeatId {
    /// The longest section name, in characters.
    pub const SECTION_LEN_MAX: usize = 16;
    /// The highest row, and the highest number in a row.
    pub const NUMBER_MAX: u16 = 9_999;
    /// The longest seat name, in bytes.
    pub const LEN_MAX: usize = Self::SECTION_LEN_MAX + 2 * (1 + 4);

    /// Names the seat `number` of `row` of `section`.
    ///
    /// # Errors
    /// [`InvalidSeatId`] if the section is not 1 to 16 ASCII letters or digits, or a number is not 1 to 9,999.
    pub fn new(section: &str, row: u16, number: u16) -> Result<Self, InvalidSeatId> {
        let section_is_fine = (1..=Self::SECTION_LEN_MAX).contains(&section.len())
            && section.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let in_bounds = |n| (1..=Self::NUMBER_MAX).contains(&n);
        if section_is_fine && in_bounds(row) && in_bounds(number) {
            Ok(Self(format!("{section}-{row}-{number}").into()))
        } else {
            Err(InvalidSeatId)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SeatId {
    type Err = InvalidSeatId;

    fn from_str(text: &str) -> Result<Self, InvalidSeatId> {
        let mut parts = text.split('-');
        let (Some(section), Some(row), Some(number), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidSeatId);
        };
        let parse = |digits: &str| digits.parse::<u16>().map_err(|_| InvalidSeatId);
        let seat = Self::new(section, parse(row)?, parse(number)?)?;
        // `A-012-7` and `A-+12-7` contain valid numbers as well, but a seat has exactly one name.
        if seat.as_str() == text { Ok(seat) } else { Err(InvalidSeatId) }
    }
}

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_has_one_name() {
        assert_eq!("A-12-7".parse(), SeatId::new("A", 12, 7));
        for text in ["", "A-12", "A-012-7", "A-+1-7", "A-0-7", "A-1-10000", "-1-1", "A B-1-1", "A-1-1-1", "ä-1-1"] {
            assert_eq!(text.parse::<SeatId>(), Err(InvalidSeatId), "{text}");
        }
    }
}
