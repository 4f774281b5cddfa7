//! What one server knows of a line: enough to answer polls without asking anybody. Pure.

use roaring::RoaringTreemap;
use usher_kernel::Timestamp;

use crate::PlaceNumber;
use crate::ports::{Cursor, GoneChanges, LineChanges, LineCounts};

/// A server's picture of one line, some milliseconds old.
///
/// For a number above `serving`: `position = number - serving - |gone between|`. As `serving` only rises and the gone
/// only grow, a position never rises.
#[derive(Clone, Debug, Default)]
pub struct LineView {
    cursor: Cursor,
    counts: LineCounts,
    gone: RoaringTreemap,
    gone_up_to_serving: u64,
    rate: AdmissionRate,
}

impl LineView {
    /// Where to read on from.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The line's numbers and counts.
    #[must_use]
    pub const fn counts(&self) -> &LineCounts {
        &self.counts
    }

    /// The numbers above `serving` that nobody waits at.
    #[must_use]
    pub const fn gone(&self) -> &RoaringTreemap {
        &self.gone
    }

    /// The admissions a second, measured over the last half minute.
    #[must_use]
    pub const fn admitted_per_s(&self) -> f64 {
        self.rate.per_s
    }

    /// The position of a number that was not called yet: 1 is next. `None` for those that were called.
    #[must_use]
    pub fn position(&self, number: PlaceNumber) -> Option<u64> {
        let distance = number.get().checked_sub(self.counts.serving.get()).filter(|&distance| distance > 0)?;
        // The number itself does not count: a place that came back after a loss may stand in a gap.
        let gone_between = self.gone.rank(number.get() - 1) - self.gone_up_to_serving;
        Some(distance - gone_between)
    }

    /// How many stand before a number that was not called yet: those with lower numbers, and those who came back.
    #[must_use]
    pub fn ahead(&self, number: PlaceNumber) -> Option<u64> {
        self.position(number).map(|position| position - 1 + self.counts.returned)
    }

    /// This view with what changed since.
    #[must_use]
    pub fn with(mut self, changes: LineChanges, now: Timestamp) -> Self {
        let LineChanges { cursor, gone, counts } = changes;
        self.rate.observe(counts.admitted_total, now);
        match gone {
            GoneChanges::Since(numbers) => self.gone.extend(numbers.iter().map(|number| number.get())),
            GoneChanges::All(all) => self.gone |= all,
        }
        // What was called is of no more interest, and the bitmap stays small.
        self.gone.remove_range(..=counts.serving.get());
        self.gone_up_to_serving = self.gone.rank(counts.serving.get());
        self.cursor = cursor;
        self.counts = counts;
        self
    }
}

/// Admissions a second as an exponential moving average with a time constant of ten seconds.
#[derive(Clone, Copy, Debug, Default)]
struct AdmissionRate {
    per_s: f64,
    seen: Option<(u64, Timestamp)>,
}

impl AdmissionRate {
    const TIME_CONSTANT_S: f64 = 10.0;
    /// Shorter spans only repeat the noise of single ticks.
    const SPAN_MIN_S: f64 = 0.9;

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn observe(&mut self, admitted_total: u64, now: Timestamp) {
        let Some((before, at)) = self.seen else {
            self.seen = Some((admitted_total, now));
            return;
        };
        let span_s = now.since(at).as_secs_f64();
        if span_s < Self::SPAN_MIN_S {
            return;
        }
        // A new epoch counts from 0 again: that is no negative rate.
        let latest = admitted_total.saturating_sub(before) as f64 / span_s;
        let weight = 1.0 - (-span_s / Self::TIME_CONSTANT_S).exp();
        self.per_s = if self.per_s == 0.0 { latest } else { self.per_s + weight * (latest - self.per_s) };
        self.seen = Some((admitted_total, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(serving: u64, issued: u64, gone: &[u64]) -> LineChanges {
        let counts = LineCounts {
            serving: PlaceNumber::new(serving),
            issued: PlaceNumber::new(issued),
            ..LineCounts::default()
        };
        let gone = GoneChanges::Since(gone.iter().copied().map(PlaceNumber::new).collect());
        LineChanges { cursor: Cursor(0), gone, counts }
    }

    fn positions(view: &LineView, numbers: &[u64]) -> Vec<Option<u64>> {
        numbers.iter().map(|&n| view.position(PlaceNumber::new(n))).collect()
    }

    #[test]
    fn a_position_counts_the_numbers_between_that_still_wait() {
        let view = LineView::default().with(changes(10, 20, &[12, 13]), Timestamp::EPOCH);

        assert_eq!(positions(&view, &[10, 11, 14, 20]), [None, Some(1), Some(2), Some(8)]);
    }

    #[test]
    fn the_next_person_is_at_position_one_whoever_left() {
        let view = LineView::default().with(changes(0, 9, &[1, 2, 3]), Timestamp::EPOCH);

        assert_eq!(positions(&view, &[4]), [Some(1)]);
    }

    #[test]
    fn a_place_that_came_back_into_a_gap_has_a_position() {
        let view = LineView::default().with(changes(0, 9, &[4, 5, 6]), Timestamp::EPOCH);

        assert_eq!(positions(&view, &[3, 5, 7]), [Some(3), Some(4), Some(4)]);
    }

    #[test]
    fn positions_reach_over_a_block_that_a_loss_left_empty() {
        let mut all = RoaringTreemap::new();
        all.insert_range(1_001..=10_000);
        let loss = LineChanges { gone: GoneChanges::All(all), ..changes(0, 10_005, &[]) };
        let view = LineView::default().with(loss, Timestamp::EPOCH);

        assert_eq!(positions(&view, &[1_000, 10_001]), [Some(1_000), Some(1_001)]);
    }

    #[test]
    fn the_rate_follows_what_is_admitted() {
        let mut view = LineView::default();
        for second in 0..60 {
            let mut changes = changes(0, 0, &[]);
            changes.counts.admitted_total = u64::try_from(second).unwrap() * 20;
            view = view.with(changes, Timestamp::from_unix_ms(second * 1_000));
        }

        assert!((view.admitted_per_s() - 20.0).abs() < 0.5, "{}", view.admitted_per_s());
    }
}
