//! The numbers that were seen lately. Knows numbers and times, nothing of lines.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use roaring::RoaringTreemap;
use usher_kernel::Timestamp;
use usher_queue::{PlaceNumber, pace};

/// A bucket spans a quarter of the window, so a number counts as present up to a quarter too long, never too short.
const BUCKETS_PER_WINDOW: u32 = 4;

/// The numbers seen, in buckets of a quarter window.
///
/// Each bucket has its own times, so that the window may change.
#[derive(Clone, Debug)]
pub(crate) struct Presence {
    /// The window of the last call.
    window: Duration,
    /// Oldest first.
    earlier: VecDeque<Bucket>,
    current: Bucket,
    /// Every number seen since then is in a bucket.
    complete_since: Timestamp,
    merged_at: Timestamp,
}

#[derive(Clone, Debug)]
struct Bucket {
    began_at: Timestamp,
    last_at: Timestamp,
    seen: RoaringTreemap,
}

impl Bucket {
    fn new(now: Timestamp) -> Self {
        Self { began_at: now, last_at: now, seen: RoaringTreemap::new() }
    }
}

impl Presence {
    /// No number was seen yet.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            window: pace::PRESENCE_WINDOW_MIN,
            earlier: VecDeque::new(),
            current: Bucket::new(now),
            complete_since: now,
            merged_at: now,
        }
    }

    /// Sets the presence window.
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// Marks one number as seen. O(log n).
    pub(crate) fn mark(&mut self, now: Timestamp, number: PlaceNumber) {
        self.seen_at(now).insert(number.get());
    }

    /// Adds the numbers that a server saw. O(size of the bitmaps).
    pub(crate) fn merge(&mut self, now: Timestamp, seen: &RoaringTreemap) {
        if now.since(self.merged_at) > self.window / BUCKETS_PER_WINDOW {
            // Polls since the last merge may be unknown.
            self.complete_since = now;
        }
        self.merged_at = now;
        *self.seen_at(now) |= seen;
    }

    /// Whether a number that is in no bucket was certainly not seen within the window.
    pub(crate) fn is_trusted(&self, now: Timestamp, window: Duration) -> bool {
        let merges_go_on = now.since(self.merged_at) <= window / BUCKETS_PER_WINDOW;
        merges_go_on && self.complete_since <= now.minus(window)
    }

    /// Whether a place was seen within the window. O(log n).
    pub(crate) fn has_seen(&self, now: Timestamp, window: Duration, number: PlaceNumber) -> bool {
        let from = now.minus(window);
        let buckets = self.earlier.iter().chain([&self.current]);
        buckets.into_iter().any(|bucket| from <= bucket.last_at && bucket.seen.contains(number.get()))
    }

    /// The set for numbers seen now. Begins a bucket if the current one is full, and drops buckets before the window.
    fn seen_at(&mut self, now: Timestamp) -> &mut RoaringTreemap {
        if now.since(self.current.began_at) >= self.window / BUCKETS_PER_WINDOW {
            self.earlier.push_back(mem::replace(&mut self.current, Bucket::new(now)));
            let from = now.minus(self.window);
            while let Some(dropped) = self.earlier.pop_front_if(|bucket| bucket.last_at < from) {
                let kept_since = dropped.last_at.plus(Duration::from_millis(1));
                self.complete_since = self.complete_since.max(kept_since);
            }
        }
        self.current.last_at = now;
        &mut self.current.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(8);
    const SECOND: Duration = Duration::from_secs(1);
    const NUMBER: PlaceNumber = PlaceNumber::new(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_ms(second * 1_000)
    }

    /// A presence with an empty merge each second, up to a time.
    fn merged_until(second: i64) -> Presence {
        let mut presence = Presence::new(at(0));
        presence.set_window(WINDOW);
        (0..=second).for_each(|second| presence.merge(at(second), &RoaringTreemap::new()));
        presence
    }

    #[test]
    fn presence_lasts_a_window_and_at_most_a_bucket_longer() {
        for offset in 0..8 {
            let mut presence = merged_until(offset);
            presence.mark(at(offset), NUMBER);
            for second in 0..=8 {
                presence.merge(at(offset + second), &RoaringTreemap::new());
                assert!(presence.has_seen(at(offset + second), WINDOW, NUMBER), "{offset} + {second} s");
            }

            assert!(!presence.has_seen(at(offset + 10), WINDOW, NUMBER), "{offset} s");
        }
    }

    #[test]
    fn only_the_buckets_that_cover_the_window_are_kept() {
        let presence = merged_until(1_000);

        assert!(presence.earlier.len() <= 5, "{} buckets", presence.earlier.len());
        assert!(presence.is_trusted(at(1_000), WINDOW));
    }

    #[test]
    fn a_silence_is_forgiven_for_a_full_window() {
        let mut presence = merged_until(20);
        assert!(presence.is_trusted(at(22), WINDOW));
        assert!(!presence.is_trusted(at(23), WINDOW));

        for second in 23..=31 {
            presence.merge(at(second), &RoaringTreemap::new());
            assert_eq!(presence.is_trusted(at(second), WINDOW), second == 31, "{second} s");
        }
    }

    #[test]
    fn a_longer_window_is_trusted_once_all_of_it_was_kept() {
        let longer = WINDOW * 4;
        let mut presence = merged_until(100);
        presence.set_window(longer);

        assert!(presence.is_trusted(at(100), WINDOW));
        assert!(!presence.is_trusted(at(100), longer));
        (101..=140).for_each(|second| presence.merge(at(second), &RoaringTreemap::new()));
        assert!(presence.is_trusted(at(140), longer));
    }

    #[test]
    fn a_shorter_window_forgets_sooner() {
        let mut presence = merged_until(20);
        presence.mark(at(20), NUMBER);
        presence.set_window(WINDOW / 4);

        presence.merge(at(23), &RoaringTreemap::new());

        assert!(!presence.has_seen(at(23), WINDOW / 4, NUMBER));
        assert!(presence.current.began_at > at(20).plus(SECOND));
    }
}
