//! Chooses the best of the free seats of a hall. Pure: knows neither buyers nor the store of the seats.
//!
//! A *run* is a stretch of seats of one grade with consecutive numbers in one row of one section. A *block* is the
//! requested number of free seats, side by side in one run. The choice is, in this order:
//!
//! 1. A block of the most expensive grade that has one. Within a grade, the block that leaves the fewest single seats
//!    (free, without a free neighbour in their run); then the block nearest to the front; then the block nearest to the
//!    middle of its row.
//! 2. If there is no block: pieces of the most expensive grade with enough free seats. The longest piece comes first,
//!    chosen as a block is. Then follows, until there are enough seats, the longest piece still needed, near the first.
//! 3. If no grade has enough free seats: all seats of the most expensive grade, then of the next, in pieces as above.
//!
//! So a request is refused only if too few seats are free. A request that names a grade gets no other grade.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use usher_kernel::{SeatId, Timestamp};

use crate::model::has_lapsed;

/// A seat of a hall, with the properties that decide how good it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HallSeat {
    /// The section.
    pub section: String,
    /// The row.
    pub row: u16,
    /// The number in the row.
    pub number: u16,
    /// The grade.
    pub grade: String,
    /// The price, in minor units of the hall's currency.
    pub price: i64,
    /// The position across the hall in half seats, 0 at the middle of the row. Neighbours are two apart.
    pub x: i32,
}

/// The seats of a hall. Immutable, and small if the rows are regular.
#[derive(Clone, Debug)]
pub struct Hall {
    /// The runs, in the order of their seats' indices.
    runs: Vec<Run>,
    /// The runs of each row, by the common prefix of its seats' names: `SECTION-ROW`.
    rows: HashMap<String, Range<usize>>,
    /// The names of the grades, the most expensive first.
    grades: Vec<String>,
    n_seats: u32,
}

/// A grade of a hall, as its position from the most expensive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grade(usize);

#[derive(Clone, Debug)]
struct Run {
    section: String,
    row: u16,
    grade: Grade,
    n_seats: u32,
    /// The number of its first seat.
    number: u16,
    index: u32,
    x: i32,
    /// Its row in the hall, from 0 at the front, and the index of that row's first seat.
    row_of_hall: u32,
    row_index: u32,
}

impl Run {
    const fn end(&self) -> u32 {
        self.index + self.n_seats
    }
}

impl Hall {
    /// Creates the hall with these seats in index order: the front row first, each row by its numbers.
    #[must_use]
    pub fn new(seats: impl IntoIterator<Item = HallSeat>) -> Self {
        let mut hall = Self { runs: Vec::new(), rows: HashMap::new(), grades: Vec::new(), n_seats: 0 };
        let mut prices: Vec<i64> = Vec::new();
        for seat in seats {
            let grade = hall.grade(&seat.grade).unwrap_or_else(|| {
                hall.grades.push(seat.grade.clone());
                prices.push(seat.price);
                Grade(hall.grades.len() - 1)
            });
            prices[grade.0] = prices[grade.0].max(seat.price);
            hall.push(seat, grade);
        }
        // The sort is stable: of two grades at one price, the one that comes first in the hall stays first.
        let mut order: Vec<_> = (0..prices.len()).collect();
        order.sort_by_key(|&grade| Reverse(prices[grade]));
        let mut grade_at = vec![Grade(0); order.len()];
        for (position, &grade) in order.iter().enumerate() {
            grade_at[grade] = Grade(position);
        }
        for run in &mut hall.runs {
            run.grade = grade_at[run.grade.0];
        }
        hall.grades = order.iter().map(|&grade| std::mem::take(&mut hall.grades[grade])).collect();
        hall
    }

    fn push(&mut self, seat: HallSeat, grade: Grade) {
        let index = self.n_seats;
        self.n_seats += 1;
        let (row_of_hall, row_index) = match self.runs.last_mut() {
            None => (0, index),
            Some(last) if last.section != seat.section || last.row != seat.row => (last.row_of_hall + 1, index),
            Some(last) => {
                if last.grade == grade && u32::from(last.number) + last.n_seats == u32::from(seat.number) {
                    last.n_seats += 1;
                    return;
                }
                (last.row_of_hall, last.row_index)
            }
        };
        let HallSeat { section, row, number, x, .. } = seat;
        let n_runs = self.runs.len();
        self.rows.entry(format!("{section}-{row}")).or_insert(n_runs..n_runs).end = n_runs + 1;
        self.runs.push(Run { section, row, grade, n_seats: 1, number, index, x, row_of_hall, row_index });
    }

    /// The grade with this name.
    #[must_use]
    pub fn grade(&self, name: &str) -> Option<Grade> {
        self.grades.iter().position(|grade| grade == name).map(Grade)
    }

    /// The name of a grade of this hall.
    #[must_use]
    pub fn grade_name(&self, grade: Grade) -> &str {
        &self.grades[grade.0]
    }

    /// The name of the seat with this index.
    #[must_use]
    pub fn seat(&self, index: u32) -> Option<SeatId> {
        let run = self.run(index)?;
        let number = u16::try_from(u32::from(run.number) + (index - run.index)).ok()?;
        SeatId::new(&run.section, run.row, number).ok()
    }

    /// The index of the seat with this name.
    #[must_use]
    pub fn index(&self, seat: &SeatId) -> Option<u32> {
        let (row, number) = seat.as_str().rsplit_once('-')?;
        let number: u32 = number.parse().ok()?;
        let runs = &self.runs[self.rows.get(row)?.clone()];
        let run = runs.iter().rfind(|run| u32::from(run.number) <= number)?;
        Some(run.index + (number - u32::from(run.number))).filter(|index| *index < run.end())
    }

    /// The run with the seat at this index.
    fn run(&self, index: u32) -> Option<&Run> {
        let behind = self.runs.partition_point(|run| run.index <= index);
        self.runs[..behind].last().filter(|run| index < run.end())
    }
}

/// The known free seats of a hall: of each grade, those up to some index.
#[derive(Clone, Debug)]
pub struct FreeSeats {
    grades: Vec<KnownSeats>,
    /// Seats that were taken since, known or not, and the time until which they are.
    taken: HashMap<u32, Timestamp>,
}

#[derive(Clone, Debug, Default)]
struct KnownSeats {
    /// The free seats, with the time from which they are free if their hold lapses.
    free_from: BTreeMap<u32, Option<Timestamp>>,
    /// Seats below this index that are not in `free_from` are not free.
    known_before: u32,
}

impl FreeSeats {
    /// The free seats of a hall of which none is known yet.
    #[must_use]
    pub fn unknown(hall: &Hall) -> Self {
        Self { grades: vec![KnownSeats::default(); hall.grades.len()], taken: HashMap::new() }
    }

    /// The index from which the free seats of a grade are unknown.
    #[must_use]
    pub fn known_before(&self, grade: Grade) -> u32 {
        self.grades[grade.0].known_before
    }

    /// Adds all free seats of a grade from the known ones up to `known_before`, and the seats that become free at a
    /// time when their hold lapses.
    pub fn learn(
        &mut self,
        grade: Grade,
        seats: impl IntoIterator<Item = (u32, Option<Timestamp>)>,
        known_before: u32,
    ) {
        let known = &mut self.grades[grade.0];
        for (index, free_from) in seats {
            let taken = self.taken.get(&index).copied();
            known.free_from.insert(index, taken.or(free_from));
        }
        known.known_before = known_before;
    }

    /// Takes a seat until a time.
    pub fn take(&mut self, index: u32, until: Timestamp) {
        self.taken.insert(index, until);
        for known in &mut self.grades {
            if let Some(free_from) = known.free_from.get_mut(&index) {
                *free_from = Some(until);
            }
        }
    }

    /// The pieces of a grade, in index order. Only of rows that are known whole: other rows may have a longer piece, or
    /// a better one.
    fn pieces<'a>(&'a self, hall: &'a Hall, grade: Grade, now: Timestamp) -> impl Iterator<Item = Piece<'a>> {
        let KnownSeats { free_from, known_before } = &self.grades[grade.0];
        let end = hall.run(*known_before).map_or(hall.n_seats, |run| run.row_index);
        let free = free_from.range(..end).filter(move |(_, from)| from.is_none_or(|from| has_lapsed(from, now)));
        let mut free = free.map(|(&index, _)| index).peekable();
        std::iter::from_fn(move || {
            let first = free.next()?;
            let run = hall.run(first)?;
            let mut n_seats = 1;
            while free.next_if(|&next| next == first + n_seats && next < run.end()).is_some() {
                n_seats += 1;
            }
            Some(Piece { run, first, n_seats })
        })
    }

    fn is_known(&self, hall: &Hall, grade: Grade) -> bool {
        self.known_before(grade) >= hall.n_seats
    }
}

/// As many free seats side by side as possible: their neighbours in the run are not free.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    run: &'a Run,
    first: u32,
    n_seats: u32,
}

/// Some neighbouring seats of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    first: u32,
    n_seats: u32,
}

/// A position in the hall: a row, and twice the distance from the middle in half seats.
#[derive(Clone, Copy, Debug)]
struct Spot {
    row: u32,
    x: i32,
}

const FRONT_CENTRE: Spot = Spot { row: 0, x: 0 };

/// The rank of a block among those of its grade and size. The lowest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    n_singles_left: u32,
    rows_away: u32,
    across: u32,
    first: u32,
}

impl Piece<'_> {
    const fn end(&self) -> u32 {
        self.first + self.n_seats
    }

    fn spot(&self, Block { first, n_seats }: Block) -> Spot {
        let x_of = |index: u32| self.run.x.saturating_add_unsigned(2 * (index - self.run.index));
        Spot { row: self.run.row_of_hall, x: x_of(first).saturating_add(x_of(first + n_seats - 1)) }
    }

    fn rank(&self, block: Block, near: Spot) -> Rank {
        let spot = self.spot(block);
        let is_single = |n_left: u32| u32::from(n_left == 1);
        Rank {
            n_singles_left: is_single(block.first - self.first) + is_single(self.end() - block.first - block.n_seats),
            rows_away: spot.row.abs_diff(near.row),
            across: spot.x.abs_diff(near.x),
            first: block.first,
        }
    }

    /// Its best block of this size, unless the piece is shorter.
    fn best(&self, n_seats: u32, near: Spot) -> Option<(Rank, Block)> {
        let last = self.end().checked_sub(n_seats)?;
        let blocks = (self.first..=last).map(|first| Block { first, n_seats });
        blocks.map(|block| (self.rank(block, near), block)).min_by_key(|(rank, _)| *rank)
    }
}

/// The result of choosing the best seats.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The seats, by index, in index order.
    Seats(Vec<u32>),
    /// Fewer seats are free.
    NotEnough,
    /// The choice needs more seats of this grade. The caller adds them with [`FreeSeats::learn`] and chooses again.
    Unknown(Grade),
}

/// Chooses the best `count` seats that are free at `now`, of one grade or of any.
pub fn choose(hall: &Hall, free: &FreeSeats, count: u32, grade: Option<Grade>, now: Timestamp) -> Choice {
    let grades = grade.map_or_else(|| (0..hall.grades.len()).map(Grade).collect(), |grade| vec![grade]);
    for &grade in &grades {
        match best_block(hall, free, count, grade, now) {
            Ok(Some(block)) => return Choice::Seats((block.first..block.first + block.n_seats).collect()),
            Ok(None) => {}
            Err(Unknown(grade)) => return Choice::Unknown(grade),
        }
    }
    let pieces: Vec<Vec<Piece<'_>>> = grades.iter().map(|&grade| free.pieces(hall, grade, now).collect()).collect();
    let n_free = |pieces: &Vec<Piece<'_>>| pieces.iter().map(|piece| piece.n_seats).sum::<u32>();
    let mut seats = if let Some(of_one_grade) = pieces.iter().find(|pieces| n_free(pieces) >= count) {
        gather(of_one_grade.clone(), count)
    } else {
        let mut n_wanted = count;
        let across_grades = pieces.into_iter().flat_map(|pieces| {
            let some = gather(pieces, n_wanted);
            n_wanted = n_wanted.saturating_sub(u32::try_from(some.len()).unwrap_or(u32::MAX));
            some
        });
        across_grades.collect()
    };
    if u32::try_from(seats.len()) != Ok(count) {
        return Choice::NotEnough;
    }
    seats.sort_unstable();
    Choice::Seats(seats)
}

/// Too few seats of this grade are known.
struct Unknown(Grade);

fn best_block(
    hall: &Hall,
    free: &FreeSeats,
    count: u32,
    grade: Grade,
    now: Timestamp,
) -> Result<Option<Block>, Unknown> {
    let mut best: Option<(Rank, Block)> = None;
    let leaves_no_single = |best: &Option<(Rank, Block)>| best.is_some_and(|(rank, _)| rank.n_singles_left == 0);
    for piece in free.pieces(hall, grade, now) {
        // Pieces are ordered from the front, so no later piece is better.
        if best.is_some_and(|(rank, _)| rank.n_singles_left == 0 && rank.rows_away < piece.run.row_of_hall) {
            break;
        }
        best = best.into_iter().chain(piece.best(count, FRONT_CENTRE)).min_by_key(|(rank, _)| *rank);
    }
    if leaves_no_single(&best) || free.is_known(hall, grade) {
        Ok(best.map(|(_, block)| block))
    } else {
        Err(Unknown(grade))
    }
}

/// Takes `count` seats from these pieces, or all if there are fewer: as few pieces as possible, near each other.
fn gather(mut pieces: Vec<Piece<'_>>, count: u32) -> Vec<u32> {
    let (mut seats, mut n_wanted, mut near) = (Vec::new(), count, FRONT_CENTRE);
    while let Some(longest) = pieces.iter().map(|piece| piece.n_seats).max().filter(|_| n_wanted > 0) {
        let n_seats = longest.min(n_wanted);
        let blocks = pieces.iter().enumerate().filter_map(|(i, piece)| {
            let (rank, block) = piece.best(n_seats, near)?;
            Some((rank, block, i))
        });
        let Some((_, block, i)) = blocks.min_by_key(|(rank, ..)| *rank) else { break };
        let piece = pieces.swap_remove(i);
        if seats.is_empty() {
            near = piece.spot(block);
        }
        let end = block.first + n_seats;
        let left = [(piece.first, block.first), (end, piece.end())];
        let left = left.into_iter().filter(|(first, end)| first < end);
        pieces.extend(left.map(|(first, end)| Piece { run: piece.run, first, n_seats: end - first }));
        seats.extend(block.first..end);
        n_wanted -= n_seats;
    }
    seats
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

    /// The seats of one row, numbered from 1: `V` and `R` are grades, `.` is a gap.
    fn row(section: &str, row: u16, plan: &str) -> Vec<HallSeat> {
        let widest = i32::try_from(plan.len()).unwrap();
        let seats = (1_u16..).zip(plan.chars()).filter(|(_, kind)| *kind != '.').map(|(number, kind)| {
            let price = if kind == 'V' { 200 } else { 100 };
            let x = 2 * i32::from(number) - (widest + 1);
            HallSeat { section: section.into(), row, number, grade: kind.into(), price, x }
        });
        seats.collect()
    }

    /// A hall of one section, and the free ones of its seats: those in capital letters.
    struct Stage {
        seats: Vec<HallSeat>,
        hall: Hall,
        is_free: Vec<bool>,
    }

    impl Stage {
        fn new(plans: &[&str]) -> Self {
            let rows = (1..).zip(plans).map(|(number, plan)| row("A", number, &plan.to_uppercase()));
            let letters = plans.iter().flat_map(|plan| plan.chars()).filter(|letter| *letter != '.');
            Self::of(rows.flatten().collect(), letters.map(char::is_uppercase).collect())
        }

        fn of(seats: Vec<HallSeat>, is_free: Vec<bool>) -> Self {
            let hall = Hall::new(seats.clone());
            Self { seats, hall, is_free }
        }

        /// The choice of a caller that learns `step` seats at a time.
        fn choose_by(&self, step: usize, count: u32, grade: Option<&str>) -> Option<Vec<u32>> {
            let mut free = FreeSeats::unknown(&self.hall);
            let grade = grade.map(|name| self.hall.grade(name).unwrap());
            loop {
                match choose(&self.hall, &free, count, grade, NOW) {
                    Choice::Seats(seats) => return Some(seats),
                    Choice::NotEnough => return None,
                    Choice::Unknown(grade) => {
                        let from = usize::try_from(free.known_before(grade)).unwrap();
                        assert!(from < self.seats.len(), "everything is known");
                        let some = (from..self.seats.len()).take(step);
                        let name = self.hall.grade_name(grade);
                        let some = some.filter(|&i| self.is_free[i] && self.seats[i].grade == name);
                        let known_before = u32::try_from(from + step).unwrap();
                        free.learn(grade, some.map(|i| (u32::try_from(i).unwrap(), None)), known_before);
                    }
                }
            }
        }

        fn named(&self, seats: Option<Vec<u32>>) -> Vec<String> {
            seats.into_iter().flatten().map(|index| self.hall.seat(index).unwrap().to_string()).collect()
        }

        fn best(&self, count: u32, grade: Option<&str>) -> Vec<String> {
            self.named(self.choose_by(1_000, count, grade))
        }
    }

    #[test]
    fn the_middle_of_the_front_row_is_best() {
        let stage = Stage::new(&["VVVVVVVVVV", "VVVVVVVVVV"]);

        assert_eq!(stage.best(2, None), ["A-1-5", "A-1-6"]);
        assert_eq!(stage.best(3, None), ["A-1-4", "A-1-5", "A-1-6"]);
        assert_eq!(stage.best(10, None).len(), 10);
    }

    #[test]
    fn the_most_expensive_grade_comes_first_unless_one_is_named() {
        let stage = Stage::new(&["RRRRRR", "VVVVVV"]);

        assert_eq!(stage.best(2, None), ["A-2-3", "A-2-4"]);
        assert_eq!(stage.best(2, Some("R")), ["A-1-3", "A-1-4"]);
        assert_eq!(stage.best(7, Some("R")), [""; 0], "never of another grade");
    }

    #[test]
    fn a_grade_is_as_expensive_as_its_most_expensive_seat() {
        let mut stage = Stage::new(&["RRRR", "VVVV"]);
        stage.seats[3].price = 300;
        stage.hall = Hall::new(stage.seats.clone());

        assert_eq!(stage.best(4, None)[0], "A-1-1");
    }

    #[test]
    fn a_block_that_leaves_no_single_seat_is_preferred() {
        assert_eq!(Stage::new(&["VVV", "vVVv"]).best(2, None), ["A-2-2", "A-2-3"], "a row further back");
        assert_eq!(Stage::new(&["vVVVv", "vRRVV"]).best(2, None), ["A-2-4", "A-2-5"], "at the side");
        assert_eq!(Stage::new(&["VVV", "RRRR"]).best(2, None), ["A-1-1", "A-1-2"], "not a lower grade");
        assert_eq!(Stage::new(&["VVVVV"]).best(1, None), ["A-1-3"], "in the middle of five, two are left on each side");
        assert_eq!(Stage::new(&["VVVV"]).best(1, None), ["A-1-1"], "at the side of four");
    }

    #[test]
    fn seats_of_two_grades_or_beyond_an_aisle_are_not_side_by_side() {
        assert_eq!(Stage::new(&["VRVR", "RR"]).best(2, None), ["A-2-1", "A-2-2"]);
        assert_eq!(Stage::new(&["V.V", "VV"]).best(2, None), ["A-2-1", "A-2-2"]);
    }

    #[test]
    fn a_group_without_a_block_gets_few_pieces_near_each_other() {
        let stage = Stage::new(&["VVvvv", "vvvVv", "Vvvvv", "VVVvv"]);

        assert_eq!(stage.best(4, None), ["A-3-1", "A-4-1", "A-4-2", "A-4-3"]);
        assert_eq!(stage.best(5, None), ["A-1-1", "A-1-2", "A-4-1", "A-4-2", "A-4-3"]);
    }

    #[test]
    fn a_block_of_a_lower_grade_is_preferred_to_pieces_of_a_higher_one() {
        let stage = Stage::new(&["VVvVVvVVvVV", "RRR"]);

        assert_eq!(stage.best(3, None), ["A-2-1", "A-2-2", "A-2-3"]);
        assert_eq!(stage.best(4, None), ["A-1-1", "A-1-2", "A-1-4", "A-1-5"], "pieces of one grade");
        assert_eq!(stage.best(9, None).len(), 9, "and then of several");
        assert_eq!(stage.best(11, None).len(), 11);
        assert_eq!(stage.best(12, None), [""; 0]);
    }

    #[test]
    fn a_seat_is_free_again_when_its_hold_has_lapsed() {
        let hall = Hall::new(row("A", 1, "VV"));
        let mut free = FreeSeats::unknown(&hall);
        free.take(0, NOW);
        free.learn(Grade(0), [(0, None), (1, Some(NOW))], 2);
        let before = NOW.minus(std::time::Duration::from_millis(1));

        assert_eq!(choose(&hall, &free, 1, None, before), Choice::NotEnough);
        assert_eq!(choose(&hall, &free, 2, None, NOW), Choice::Seats(vec![0, 1]));
        free.take(1, NOW.plus(std::time::Duration::from_millis(1)));
        assert_eq!(choose(&hall, &free, 1, None, NOW), Choice::Seats(vec![0]));
        assert_eq!(choose(&hall, &free, 2, None, NOW), Choice::NotEnough);
    }

    #[test]
    fn a_good_block_in_front_needs_no_more_seats_to_be_known() {
        let stage = Stage::new(&["VVVV", "VVVV", "VVVV"]);
        let mut free = FreeSeats::unknown(&stage.hall);
        assert_eq!(choose(&stage.hall, &free, 2, None, NOW), Choice::Unknown(Grade(0)));

        free.learn(Grade(0), [(0, None), (1, None), (2, None)], 3);
        assert_eq!(choose(&stage.hall, &free, 2, None, NOW), Choice::Unknown(Grade(0)), "half a row is known");
        free.learn(Grade(0), [(3, None), (4, None)], 5);

        assert_eq!(choose(&stage.hall, &free, 2, None, NOW), Choice::Seats(vec![0, 1]));
        assert_eq!(choose(&stage.hall, &free, 4, None, NOW), Choice::Seats(vec![0, 1, 2, 3]));
    }

    /// The rules of the choice, written by looking at all seats, each with its grade, row and neighbours by name.
    struct Oracle<'a>(&'a Stage);

    impl Oracle<'_> {
        fn grades(&self, wanted: Option<&str>) -> Vec<&str> {
            // The more expensive grade first.
            let has_free = |grade: &&str| wanted.is_none_or(|wanted| wanted == *grade);
            ["V", "R"].into_iter().filter(has_free).collect()
        }

        fn free_of(&self, grade: &str) -> Vec<usize> {
            let Stage { seats, is_free, .. } = self.0;
            (0..seats.len()).filter(|&i| is_free[i] && seats[i].grade == grade).collect()
        }

        fn neighbour(&self, of: usize, step: i32) -> Option<usize> {
            let seat = &self.0.seats[of];
            let is_it = |other: &HallSeat| {
                (&other.section, other.row, &other.grade) == (&seat.section, seat.row, &seat.grade)
                    && i32::from(other.number) == i32::from(seat.number) + step
            };
            self.0.seats.iter().position(is_it)
        }

        fn blocks(&self, grade: &str, count: u32) -> Vec<Vec<usize>> {
            let from = |first: usize| -> Option<Vec<usize>> {
                let steps = 0..i32::try_from(count).unwrap();
                let block: Option<Vec<_>> = steps.map(|step| self.neighbour(first, step)).collect();
                block.filter(|block| block.iter().all(|&i| self.0.is_free[i]))
            };
            self.free_of(grade).into_iter().filter_map(from).collect()
        }

        fn rank(&self, block: &[usize]) -> (usize, usize, i32, usize) {
            let seats = &self.0.seats;
            let is_free = |i: Option<usize>| i.is_some_and(|i| self.0.is_free[i] && !block.contains(&i));
            let is_single = |i: &usize| !is_free(self.neighbour(*i, -1)) && !is_free(self.neighbour(*i, 1));
            let beside = [self.neighbour(block[0], -1), self.neighbour(block[block.len() - 1], 1)];
            let beside = beside.into_iter().flatten().filter(|&i| is_free(Some(i)));
            let n_singles = beside.filter(is_single).count();
            let mut rows: Vec<_> = seats.iter().map(|seat| (&seat.section, seat.row)).collect();
            rows.dedup();
            let first = &seats[block[0]];
            let row = rows.iter().position(|row| *row == (&first.section, first.row)).unwrap();
            let x: i32 = block.iter().map(|&i| seats[i].x).sum();
            (n_singles, row, x.abs(), block[0])
        }
    }

    fn some_row() -> impl Strategy<Value = String> {
        prop_oneof![
            3 => "V{1,9}",
            2 => "R{1,9}",
            1 => "V{1,4}\\.V{1,4}",
            1 => "R{1,3}V{1,4}R{1,3}",
            1 => "[VR.]{1,8}",
        ]
    }

    fn some_stage() -> impl Strategy<Value = Stage> {
        let rows = prop::collection::vec(some_row(), 1..6);
        let hall = (rows, any::<bool>()).prop_map(|(rows, has_sections)| {
            let name = |i: u16| if has_sections && i.is_multiple_of(2) { ("B", i) } else { ("A", i) };
            let seats = (1..).zip(&rows).flat_map(|(i, plan)| row(name(i).0, name(i).1, plan));
            seats.collect::<Vec<_>>()
        });
        let with_free = (hall, prop_oneof![Just(0.3), Just(0.6), Just(0.9), Just(1.0)]);
        with_free.prop_flat_map(|(seats, share)| {
            let is_free = prop::collection::vec(prop::bool::weighted(share), seats.len());
            is_free.prop_map(move |is_free| Stage::of(seats.clone(), is_free))
        })
    }

    impl std::fmt::Debug for Stage {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let seats = self.seats.iter().zip(&self.is_free);
            let seats = seats.map(|(seat, is_free)| {
                let mark = if *is_free { "" } else { " taken" };
                format!("{}-{}-{} {}{mark}", seat.section, seat.row, seat.number, seat.grade)
            });
            f.debug_list().entries(seats).finish()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_choice_is_the_best_there_is(
            stage in some_stage(),
            count in 1_u32..7,
            grade in prop_oneof![2 => Just(None), 1 => Just(Some("V")), 1 => Just(Some("R"))],
            step in 1_usize..12,
        ) {
            let grade = grade.filter(|name| stage.hall.grade(name).is_some());
            let oracle = Oracle(&stage);
            let grades = oracle.grades(grade);

            let chosen = stage.choose_by(step, count, grade);

            prop_assert_eq!(&chosen, &stage.choose_by(1_000, count, grade), "however much is known");
            let n_free: Vec<u32> =
                grades.iter().map(|grade| u32::try_from(oracle.free_of(grade).len()).unwrap()).collect();
            let Some(chosen) = chosen else {
                prop_assert!(n_free.iter().sum::<u32>() < count, "refused with {n_free:?} free");
                return Ok(());
            };
            let chosen: Vec<_> = chosen.iter().map(|&i| usize::try_from(i).unwrap()).collect();
            prop_assert_eq!(chosen.len(), usize::try_from(count).unwrap());
            prop_assert!(chosen.is_sorted_by(|one, other| one < other), "each once");
            prop_assert!(chosen.iter().all(|&i| stage.is_free[i]));
            let blocks = grades.iter().map(|grade| oracle.blocks(grade, count)).find(|blocks| !blocks.is_empty());
            if let Some(best) = blocks.into_iter().flatten().min_by_key(|block| oracle.rank(block)) {
                prop_assert_eq!(chosen, best);
                return Ok(());
            }
            let of = |grade: &str| u32::try_from(chosen.iter().filter(|&&i| stage.seats[i].grade == grade).count());
            let n_chosen: Vec<u32> = grades.iter().map(|grade| of(grade).unwrap()).collect();
            let mut n_wanted = count;
            let first_with_enough = n_free.iter().position(|n| *n >= count);
            let expected: Vec<u32> = (0..grades.len()).map(|i| match first_with_enough {
                Some(first) => if i == first { count } else { 0 },
                None => {
                    let n = n_free[i].min(n_wanted);
                    n_wanted -= n;
                    n
                }
            }).collect();
            prop_assert_eq!(n_chosen, expected);
        }

        #[test]
        fn a_hall_finds_its_seats_by_index_and_by_name(stage in some_stage()) {
            for (index, seat) in (0..).zip(&stage.seats) {
                let name = SeatId::new(&seat.section, seat.row, seat.number).unwrap();
                prop_assert_eq!(stage.hall.index(&name), Some(index));
                prop_assert_eq!(stage.hall.seat(index), Some(name));
            }
            prop_assert_eq!(stage.hall.seat(u32::try_from(stage.seats.len()).unwrap()), None);
            let names: Vec<_> = stage.seats.iter().map(|seat| (&*seat.section, seat.row, seat.number)).collect();
            for (section, row, number) in (0..7).flat_map(|row| (1..11).map(move |number| ("A", row + 1, number))) {
                let name = SeatId::new(section, row, number).unwrap();
                prop_assert_eq!(stage.hall.index(&name).is_some(), names.contains(&(section, row, number)));
            }
        }
    }
}
