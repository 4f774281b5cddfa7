//! Halls to sell: their sections, as an operator plans them, and the names of their seats.

use serde_json::{Value, json};
use usher_concert::SectionPlan;
use usher_kernel::Money;

/// Seats in a row; a section with fewer seats has one shorter row.
pub const ROW_SEATS: usize = 50;
/// Seats in each of the [`sections`] of a hall.
pub const SECTION_SEATS: usize = 100 * ROW_SEATS;
/// Price of each seat, in won.
const PRICE: i64 = 1_000;

/// A section with at least `n_seats` seats: full rows, or one shorter row.
///
/// # Panics
/// If the rows do not fit into a `u16`.
#[must_use]
pub fn section(name: impl Into<String>, n_seats: usize, grade: &str) -> SectionPlan {
    let small = |count: usize| u16::try_from(count).expect("rows and seats fit into a u16");
    let price = Money::new(PRICE, "KRW".parse().expect("a currency")).expect("a price");
    SectionPlan {
        name: name.into(),
        rows: small(n_seats.div_ceil(ROW_SEATS)),
        seats_per_row: small(ROW_SEATS.min(n_seats)),
        grade: grade.into(),
        price,
    }
}

/// The name of the n-th seat of a section, from 0.
#[must_use]
pub fn seat_of(section: &str, n: usize) -> String {
    format!("{section}-{}-{}", n / ROW_SEATS + 1, n % ROW_SEATS + 1)
}

/// Equal sections with at least `n_seats` seats in all.
#[must_use]
pub fn sections(n_seats: usize) -> Vec<SectionPlan> {
    (0..n_seats.div_ceil(SECTION_SEATS)).map(|n| section(section_name(n), SECTION_SEATS, "R")).collect()
}

/// The name of the n-th seat of a hall of [`sections`], from 0.
#[must_use]
pub fn seat(n: usize) -> String {
    seat_of(&section_name(n / SECTION_SEATS), n % SECTION_SEATS)
}

fn section_name(n: usize) -> String {
    format!("S{n}")
}

/// The body of the operator's PUT of these sections.
pub(super) fn as_put(sections: &[SectionPlan]) -> Value {
    let section = |plan: &SectionPlan| {
        json!({"name": plan.name, "rows": plan.rows, "seats_per_row": plan.seats_per_row, "grade": plan.grade,
               "price": {"amount": plan.price.amount(), "currency": plan.price.currency().to_string()}})
    };
    json!({"sections": sections.iter().map(section).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use usher_concert::SeatMap;

    use super::*;

    /// The seats of a plan, in the order of its seat map.
    fn seats_of(sections: &[SectionPlan]) -> Vec<String> {
        let map = SeatMap::from_sections(sections).unwrap();
        map.seats().iter().map(|plan| plan.seat.to_string()).collect()
    }

    #[test]
    fn seats_of_a_section_are_numbered_in_the_order_of_its_map() {
        let expected: Vec<_> = (0..120).map(|n| seat_of("A", n)).collect();

        assert_eq!(seats_of(&[section("A", 120, "A")])[..120], expected);
        assert_eq!(seats_of(&[section("H", 1, "H")]), ["H-1-1"]);
    }

    #[test]
    fn seats_of_a_hall_are_numbered_in_the_order_of_its_map() {
        let seats = seats_of(&sections(SECTION_SEATS + 1));

        assert_eq!(seats.len(), 2 * SECTION_SEATS);
        assert_eq!(seats, (0..seats.len()).map(seat).collect::<Vec<_>>());
    }
}
