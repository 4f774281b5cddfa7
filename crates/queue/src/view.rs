//! A server's view of a line, which answers polls without a call to any store. Pure.

use std::time::Duration;

use roaring::RoaringTreemap;
use usher_kernel::Timestamp;

use crate::PlaceNumber;
use crate::ports::{Cursor, GoneChanges, LineChanges, LineCounts};

/// A server's snapshot of one line, one tick old at most while ticks succeed.
///
/// For a number above `serving`: `position = number - serving - |gone between|`. `serving` only rises and the set of
/// gone numbers only grows, so a position never rises.
#[derive(Clone, Debug, Default)]
pub struct LineView {
    cursor: Cursor,
    counts: LineCounts,
    gone: RoaringTreemap,
    gone_up_to_serving: u64,
    rate: AdmissionRate,
    calls: CallHistory,
}

impl LineView {
    /// Where the next read of changes continues.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The line's numbers and counts.
    #[must_use]
    pub const fn counts(&self) -> &LineCounts {
        &self.counts
    }

    /// The numbers above `serving` at which no place waits.
    #[must_use]
    pub const fn gone(&self) -> &RoaringTreemap {
        &self.gone
    }

    /// Admissions a second, measured over the last half minute.
    #[must_use]
    pub const fn admitted_per_s(&self) -> f64 {
        self.rate.per_s
    }

    /// The position of a number that was not called yet: 1 is next. `None` for a number that was called.
    #[must_use]
    pub fn position(&self, number: PlaceNumber) -> Option<u64> {
        let distance = number.get().checked_sub(self.counts.serving.get()).filter(|&distance| distance > 0)?;
        // Leaves out the number itself, which may be gone too: after a loss, a place can come back into a gap.
        let gone_between = self.gone.rank(number.get() - 1) - self.gone_up_to_serving;
        Some(distance - gone_between)
    }

    /// How many places go before a number that was not called yet: lower numbers that wait, and returned places.
    #[must_use]
    pub fn ahead(&self, number: PlaceNumber) -> Option<u64> {
        self.position(number).map(|position| position - 1 + self.counts.returned)
    }

    /// The expected wait at a position, if the line moves on as it did. `None` while it did not move.
    #[must_use]
    pub fn wait(&self, position: u64) -> Option<Duration> {
        self.calls.wait(position)
    }

    /// This view with the changes applied. `limit` is what kept the line from calling more places meanwhile.
    #[must_use]
    pub fn with(mut self, changes: LineChanges, limit: Limit, now: Timestamp) -> Self {
        let LineChanges { cursor, gone, counts } = changes;
        self.rate.observe(counts.admitted_total, now);
        match gone {
            GoneChanges::Since(numbers) => self.gone.extend(numbers.iter().map(|number| number.get())),
            GoneChanges::All(all) => self.gone |= all,
        }
        let n_called = counts.serving.get().saturating_sub(self.counts.serving.get());
        let n_gone = self.gone.rank(counts.serving.get()) - self.gone_up_to_serving;
        let n_called = n_called.saturating_sub(n_gone);
        let limit = if counts.holds_until.is_some() { Limit::Shut } else { limit };
        let n_admitted = counts.admitted_total.saturating_sub(self.counts.admitted_total);
        let n_ended = (n_admitted + self.counts.active).saturating_sub(counts.active);
        self.calls.observe(limit.keeps_up(n_called, n_admitted, n_ended), limit, now);
        // Drops the numbers that were called, which keeps the bitmap small.
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
    /// The shortest span to measure. A shorter one shows the noise of single ticks.
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
        // In a new epoch the count starts from 0 again, which must not read as a negative rate.
        let latest = admitted_total.saturating_sub(before) as f64 / span_s;
        let weight = 1.0 - (-span_s / Self::TIME_CONSTANT_S).exp();
        self.per_s = if self.per_s == 0.0 { latest } else { self.per_s + weight * (latest - self.per_s) };
        self.seen = Some((admitted_total, now));
    }
}

/// What limits how many places are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The gate is shut: no place is called.
    Shut,
    /// The rate: there is room for more people.
    Rate,
    /// The room: a place is called when a pass ends.
    Room,
}

impl Limit {
    /// How many of the called places show the pace at which the line will move on. Places that filled empty room do
    /// not: that happens only once.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn keeps_up(self, n_called: u64, n_admitted: u64, n_ended: u64) -> f64 {
        match self {
            Self::Shut => 0.0,
            Self::Rate => n_called as f64,
            Self::Room if n_admitted == 0 => n_called as f64,
            Self::Room => n_called as f64 * n_ended.min(n_admitted) as f64 / n_admitted as f64,
        }
    }
}

/// History of calls, from which waits are estimated. The expected wait at a position is the time that the last calls of
/// that many places took. So an estimate of five minutes rests on the last five minutes, and that of the next place on
/// the last seconds.
#[derive(Clone, Debug, Default)]
struct CallHistory {
    seen_at: Option<Timestamp>,
    latest: Calls,
    /// Oldest first. Older samples are further apart.
    samples: Vec<Calls>,
}

/// A number of called places, and the time in which the line was calling.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    count: f64,
    span_ms: u64,
}

impl CallHistory {
    /// The shortest span to estimate from. A shorter one shows the noise of single ticks.
    const SPAN_MIN_MS: u64 = 10_000;
    /// The shortest history to estimate from. A shorter one is little more than one tick.
    const SPAN_FIRST_MS: u64 = 2_000;
    const BETWEEN_SAMPLES_MS: u64 = 1_000;
    /// Room for four minutes by the second and for hours by the minute, in 8 KB.
    const SAMPLES_MAX: usize = 512;

    fn observe(&mut self, n_called: f64, limit: Limit, now: Timestamp) {
        // The first view has no earlier one to measure from.
        let Some(seen_at) = self.seen_at.replace(now) else { return };
        if limit == Limit::Shut {
            return;
        }
        let elapsed_ms = u64::try_from(now.since(seen_at).as_millis()).unwrap_or(u64::MAX);
        self.latest.count += n_called;
        self.latest.span_ms = self.latest.span_ms.saturating_add(elapsed_ms);
        let last = self.samples.last().map_or(0, |sample| sample.span_ms);
        if self.latest.span_ms - last >= Self::BETWEEN_SAMPLES_MS {
            self.samples.push(self.latest);
        }
        if self.samples.len() > Self::SAMPLES_MAX {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index > Self::SAMPLES_MAX / 2 || index % 2 == 0
            });
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn wait(&self, position: u64) -> Option<Duration> {
        let (Calls { count, span_ms }, position) = (self.latest, position as f64);
        // The latest sample since which enough places were called, or the whole history.
        let is_enough =
            |sample: &Calls| count - sample.count >= position && span_ms - sample.span_ms >= Self::SPAN_MIN_MS;
        let from = self.samples[..self.samples.partition_point(is_enough)].last().copied().unwrap_or_default();
        let (calls, took_ms) = (count - from.count, span_ms - from.span_ms);
        if calls <= 0.0 || took_ms < Self::SPAN_FIRST_MS {
            return None;
        }
        Some(Duration::from_millis(took_ms).mul_f64(position / calls))
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
        let view = LineView::default().with(changes(10, 20, &[12, 13]), Limit::Rate, Timestamp::EPOCH);

        assert_eq!(positions(&view, &[10, 11, 14, 20]), [None, Some(1), Some(2), Some(8)]);
    }

    #[test]
    fn the_next_person_is_at_position_one_although_others_left() {
        let view = LineView::default().with(changes(0, 9, &[1, 2, 3]), Limit::Rate, Timestamp::EPOCH);

        assert_eq!(positions(&view, &[4]), [Some(1)]);
    }

    #[test]
    fn a_place_that_came_back_into_a_gap_has_a_position() {
        let view = LineView::default().with(changes(0, 9, &[4, 5, 6]), Limit::Rate, Timestamp::EPOCH);

        assert_eq!(positions(&view, &[3, 5, 7]), [Some(3), Some(4), Some(4)]);
    }

    #[test]
    fn positions_reach_over_a_block_that_a_loss_left_empty() {
        let mut all = RoaringTreemap::new();
        all.insert_range(1_001..=10_000);
        let loss = LineChanges { gone: GoneChanges::All(all), ..changes(0, 10_005, &[]) };
        let view = LineView::default().with(loss, Limit::Rate, Timestamp::EPOCH);

        assert_eq!(positions(&view, &[1_000, 10_001]), [Some(1_000), Some(1_001)]);
    }

    #[test]
    fn the_rate_follows_what_is_admitted() {
        let mut view = LineView::default();
        for second in 0..60 {
            let mut changes = changes(0, 0, &[]);
            changes.counts.admitted_total = u64::try_from(second).unwrap() * 20;
            view = view.with(changes, Limit::Rate, Timestamp::from_unix_ms(second * 1_000));
        }

        assert!((view.admitted_per_s() - 20.0).abs() < 0.5, "{}", view.admitted_per_s());
    }

    /// The view of a line that calls the given number of places in each second.
    fn after_seconds(per_second: impl Iterator<Item = (u64, Limit)>) -> LineView {
        let (mut view, mut serving) = (LineView::default(), 0);
        for (second, (called, limit)) in (0..).zip(per_second) {
            serving += called;
            view = view.with(changes(serving, 1_000_000, &[]), limit, Timestamp::from_unix_ms(second * 1_000));
        }
        view
    }

    fn waits_s(view: &LineView, positions: &[u64]) -> Vec<Option<u64>> {
        let rounded = |wait: Duration| (wait + Duration::from_millis(500)).as_secs();
        positions.iter().map(|&position| view.wait(position).map(rounded)).collect()
    }

    #[test]
    fn an_expected_wait_is_the_time_that_as_many_calls_took_last() {
        let view = after_seconds((0..600).map(|second| (if second < 400 { 10 } else { 20 }, Limit::Rate)));

        assert_eq!(waits_s(&view, &[1, 200, 4_000, 8_000]), [Some(0), Some(10), Some(200), Some(600)]);
    }

    #[test]
    fn an_expected_wait_counts_the_bursts_that_it_spans() {
        let view = after_seconds((0..=630).map(|second| (if second % 60 == 0 { 600 } else { 0 }, Limit::Rate)));

        // The last 3,000 calls were the bursts at 360 to 600 s, in the 271 s since 359 s. The next will be those at 660
        // to 900 s.
        assert_eq!(waits_s(&view, &[3_000]), [Some(271)]);
    }

    #[test]
    fn time_behind_a_shut_gate_does_not_count_in_an_expected_wait() {
        let paused = |second| (100..500).contains(&second);
        let view = after_seconds((0..600).map(|s| if paused(s) { (0, Limit::Shut) } else { (10, Limit::Rate) }));

        assert_eq!(waits_s(&view, &[1_500]), [Some(150)]);
    }

    #[test]
    fn calls_that_fill_empty_room_do_not_count_in_an_expected_wait() {
        let (mut view, mut admitted) = (LineView::default(), 0);
        for second in 0..100 {
            // First a thousand at once, then ten a second as ten people leave.
            admitted += if second == 1 { 1_000 } else { 10 };
            let mut changes = changes(admitted, 1_000_000, &[]);
            changes.counts.admitted_total = admitted;
            changes.counts.active = if second == 0 { 10 } else { 1_000 };
            view = view.with(changes, Limit::Room, Timestamp::from_unix_ms(second * 1_000));
        }

        assert_eq!(waits_s(&view, &[500, 5_000]), [Some(50), Some(500)]);
    }

    #[test]
    fn a_line_that_did_not_move_has_no_expected_wait() {
        assert_eq!(LineView::default().wait(1), None);
        assert_eq!(after_seconds((0..100).map(|_| (0, Limit::Rate))).wait(1), None);
    }

    #[test]
    fn a_history_of_a_day_is_bounded_and_still_right() {
        let view = after_seconds((0..86_400).map(|_| (3, Limit::Rate)));

        assert!(view.calls.samples.len() <= CallHistory::SAMPLES_MAX);
        assert_eq!(waits_s(&view, &[300, 30_000]), [Some(100), Some(10_000)]);
    }
}
