//! Seat maps: the seats of a performance, their positions and their prices. Immutable per version.

use std::collections::{HashMap, HashSet};

use usher_kernel::{Currency, Money, SeatId, Violation};

/// One seat of a map. Its position in the map's list is its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatPlan {
    /// The seat's name.
    pub seat: SeatId,
    /// Its section.
    pub section: String,
    /// Its row, from 1 at the front.
    pub row: u16,
    /// Its number in the row, from 1.
    pub number: u16,
    /// Its grade, e.g. `VIP`.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// Position across the hall, in half seats; 0 is the middle of the row.
    pub x: i32,
    /// Distance from the stage, in rows; there is a gap of one row between sections.
    pub y: i32,
}

/// A rectangular section of seats, as an operator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionPlan {
    /// The section's name.
    pub name: String,
    /// How many rows.
    pub rows: u16,
    /// How many seats in each row.
    pub seats_per_row: u16,
    /// The grade of all its seats.
    pub grade: String,
    /// The price of each seat.
    pub price: Money,
}

/// One seat of an operator's file, before it has a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatLine {
    /// Where it was read, e.g. `line 7`. Violations name this.
    pub origin: String,
    /// The section.
    pub section: String,
    /// The row.
    pub row: u16,
    /// The number in the row.
    pub number: u16,
    /// The grade.
    pub grade: String,
    /// The price.
    pub price: Money,
}

/// All seats of a performance, in index order: by section as the operator listed them, then by row, then by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatMap(Vec<SeatPlan>);

/// A seat map with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedSeatMap {
    /// The version, raised by one with each map of the performance.
    pub version: u32,
    /// The map.
    pub map: SeatMap,
}

impl SeatMap {
    /// The most seats of a performance. The largest stadium in use has 114,000.
    pub const SEATS_MAX: usize = 120_000;

    /// A map made of rectangular sections.
    ///
    /// # Errors
    /// A violation for each section that breaks a rule, as `sections[i].field`.
    pub fn from_sections(sections: &[SectionPlan]) -> Result<Self, Vec<Violation>> {
        let total: usize = sections.iter().map(|s| usize::from(s.rows) * usize::from(s.seats_per_row)).sum();
        // Checked before a line per seat is allocated: a few bytes of JSON can ask for 6 x 10^9 seats.
        if total > Self::SEATS_MAX {
            return Err(vec![too_many("sections")]);
        }
        let mut violations = Vec::new();
        for (i, section) in sections.iter().enumerate() {
            for (field, count) in [("rows", section.rows), ("seats_per_row", section.seats_per_row)] {
                if !(1..=SeatId::NUMBER_MAX).contains(&count) {
                    violations.push(Violation::new(format!("sections[{i}].{field}"), "must be 1 to 9999"));
                }
            }
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        let lines = sections.iter().enumerate().flat_map(|(i, section)| {
            let seats = (1..=section.rows).flat_map(move |row| (1..=section.seats_per_row).map(move |n| (row, n)));
            seats.map(move |(row, number)| SeatLine {
                origin: format!("sections[{i}]"),
                section: section.name.clone(),
                row,
                number,
                grade: section.grade.clone(),
                price: section.price,
            })
        });
        Self::from_lines(lines.collect())
    }

    /// A map made of single seats, in any order.
    ///
    /// # Errors
    /// A violation for each seat that breaks a rule, named by its origin; 100 at most.
    pub fn from_lines(lines: Vec<SeatLine>) -> Result<Self, Vec<Violation>> {
        const VIOLATIONS_MAX: usize = 100;
        if lines.is_empty() {
            return Err(vec![Violation::new("sections", "must name at least one seat")]);
        }
        if lines.len() > Self::SEATS_MAX {
            return Err(vec![too_many("sections")]);
        }
        let mut violations = Vec::new();
        let mut seen = HashSet::with_capacity(lines.len());
        let mut order: HashMap<String, usize> = HashMap::new();
        let mut currency: Option<Currency> = None;
        let mut seats = Vec::with_capacity(lines.len());
        for line in lines {
            let mut refuse = |message: &str| {
                if violations.len() < VIOLATIONS_MAX
                    && violations.last().is_none_or(|last: &Violation| last.field != line.origin)
                {
                    violations.push(Violation::new(line.origin.clone(), message));
                }
            };
            let Ok(seat) = SeatId::new(&line.section, line.row, line.number) else {
                refuse("section must be 1 to 16 letters or digits, row and number 1 to 9999");
                continue;
            };
            if line.grade.trim().is_empty() || line.grade.chars().count() > 32 {
                refuse("grade must be 1 to 32 characters");
            }
            if *currency.get_or_insert(line.price.currency()) != line.price.currency() {
                refuse("all seats must be priced in one currency");
            }
            if !seen.insert(seat.clone()) {
                refuse("this seat is named twice");
            }
            let next = order.len();
            order.entry(line.section.clone()).or_insert(next);
            let SeatLine { section, row, number, grade, price, .. } = line;
            seats.push(SeatPlan { seat, section, row, number, grade, price, x: 0, y: 0 });
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        seats.sort_by_key(|seat| (order[&seat.section], seat.row, seat.number));
        place(&mut seats);
        Ok(Self(seats))
    }

    /// The map that a store kept, in index order.
    #[must_use]
    pub const fn from_stored(seats: Vec<SeatPlan>) -> Self {
        Self(seats)
    }

    /// The seats in index order.
    #[must_use]
    pub fn seats(&self) -> &[SeatPlan] {
        &self.0
    }
}

fn too_many(field: &str) -> Violation {
    Violation::new(field, format!("a performance has at most {} seats", SeatMap::SEATS_MAX))
}

/// Centres each row at x = 0, and puts each row one step further from the stage than the row before.
fn place(seats: &mut [SeatPlan]) {
    let mut y = -1;
    let mut section_before = None;
    for row in seats.chunk_by_mut(|a, b| a.section == b.section && a.row == b.row) {
        let Some(first) = row.first() else { continue };
        let section = first.section.clone();
        let new_section = section_before.as_ref().is_some_and(|before| *before != section);
        y += if new_section { 2 } else { 1 };
        section_before = Some(section);
        let widest = row.iter().map(|seat| i32::from(seat.number)).max().unwrap_or(0);
        for seat in row {
            seat.x = 2 * i32::from(seat.number) - (widest + 1);
            seat.y = y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, rows: u16, seats_per_row: u16, currency: &str) -> SectionPlan {
        let price = Money::new(100, currency.parse().unwrap()).unwrap();
        SectionPlan { name: name.into(), rows, seats_per_row, grade: "R".into(), price }
    }

    #[test]
    fn seats_come_in_the_order_of_sections_rows_and_numbers() {
        let map = SeatMap::from_sections(&[section("B", 1, 2, "KRW"), section("A", 2, 1, "KRW")]).unwrap();

        let names: Vec<_> = map.seats().iter().map(|seat| seat.seat.as_str()).collect();
        assert_eq!(names, ["B-1-1", "B-1-2", "A-1-1", "A-2-1"]);
    }

    #[test]
    fn rows_are_centred_and_sections_have_a_gap_between_them() {
        let map = SeatMap::from_sections(&[section("A", 1, 2, "KRW"), section("B", 2, 1, "KRW")]).unwrap();

        let places: Vec<_> = map.seats().iter().map(|seat| (seat.x, seat.y)).collect();
        assert_eq!(places, [(-1, 0), (1, 0), (0, 2), (0, 3)]);
    }

    #[test]
    fn a_bad_section_is_named() {
        let refused = |sections: &[SectionPlan]| SeatMap::from_sections(sections).unwrap_err()[0].field.clone();

        assert_eq!(refused(&[]), "sections");
        assert_eq!(refused(&[section("A", 1, 1, "KRW"), section("B", 0, 1, "KRW")]), "sections[1].rows");
        assert_eq!(refused(&[section("A", 1, 1, "KRW"), section("A", 1, 1, "KRW")]), "sections[1]");
        assert_eq!(refused(&[section("A", 1, 1, "KRW"), section("B", 1, 1, "EUR")]), "sections[1]");
        assert_eq!(refused(&[section("A-B", 1, 1, "KRW")]), "sections[0]");
        assert_eq!(refused(&[section("A", 9_999, 9_999, "KRW")]), "sections");
    }
}
