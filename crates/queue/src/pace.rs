//! Poll intervals, and the estimated wait (ETA).

use std::time::Duration;

use usher_kernel::Timestamp;

use crate::PlaceNumber;

/// The shortest poll interval, before jitter: at the front of the line.
pub const POLL_AFTER_MIN: Duration = Duration::from_secs(2);
/// The longest poll interval, before jitter: far back.
pub const POLL_AFTER_MAX: Duration = Duration::from_secs(30);
/// Each position adds this to the poll interval, which is longest from 2,800 people ahead on.
const POLL_AFTER_PER_POSITION: Duration = Duration::from_millis(10);
/// Jitter changes an interval by up to a quarter either way, so that people who joined together do not poll together.
const JITTER_PERCENT: u32 = 25;
/// How often a server merges the presence that it recorded into the store.
pub const MERGE_INTERVAL: Duration = Duration::from_secs(1);
/// After a loss, admission waits this much longer than the last poll that is due: the poll may meet a server that is
/// not ready, which asks for a retry in a second, and takes some time on the network.
pub const LATE_BY_MAX: Duration = Duration::from_secs(2);
/// The shortest presence window: it has room for two polls at the shortest interval, with jitter, and one merge.
pub const PRESENCE_WINDOW_MIN: Duration = Duration::from_secs(6);

const _: () = assert!(
    2 * with_jitter(POLL_AFTER_MIN).as_millis() + MERGE_INTERVAL.as_millis() <= PRESENCE_WINDOW_MIN.as_millis(),
    "two polls and a merge fit into the shortest window"
);

/// The interval with the largest jitter.
const fn with_jitter(interval: Duration) -> Duration {
    match interval.saturating_mul(100 + JITTER_PERCENT).checked_div(100) {
        Some(longest) => longest,
        None => interval,
    }
}

/// The longest poll interval under a presence window, before jitter. The window has room for two polls and a merge,
/// whatever the jitter.
#[must_use]
pub fn poll_after_max(presence_window: Duration) -> Duration {
    let fits_twice = presence_window.saturating_sub(MERGE_INTERVAL) * 100 / (2 * (100 + JITTER_PERCENT));
    fits_twice.clamp(POLL_AFTER_MIN, POLL_AFTER_MAX)
}

/// The longest poll interval, with jitter, that a person may have been given while `n_waiting` people waited.
#[must_use]
pub fn longest_poll_after(n_waiting: u64, presence_window: Duration) -> Duration {
    with_jitter(base(n_waiting, presence_window))
}

fn base(position: u64, presence_window: Duration) -> Duration {
    let positions = u32::try_from(position).unwrap_or(u32::MAX);
    let by_distance = POLL_AFTER_MIN.saturating_add(POLL_AFTER_PER_POSITION.saturating_mul(positions));
    by_distance.min(poll_after_max(presence_window))
}

/// The poll interval for a place: it grows with the position, and each poll gets another jitter.
#[must_use]
pub fn poll_after(position: u64, number: PlaceNumber, now: Timestamp, presence_window: Duration) -> Duration {
    let base_ms = u64::try_from(base(position, presence_window).as_millis()).unwrap_or(u64::MAX);
    let spread_ms = base_ms * u64::from(JITTER_PERCENT) / 100;
    let roll = mix(number.get() ^ now.unix_ms().unsigned_abs().rotate_left(32));
    Duration::from_millis(base_ms - spread_ms + roll % (2 * spread_ms + 1))
}

/// Spreads nearby numbers evenly: the finaliser of `SplitMix64` (Steele, Lea, Flood 2014).
const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The estimated wait, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eta {
    /// Probably not sooner than this.
    pub low_s: u64,
    /// Probably not later than this.
    pub high_s: u64,
}

/// The range extends this far to either side of the expected wait, so it is half as wide as the wait is long.
const ETA_SPREAD: f64 = 0.25;

/// The range around an expected wait.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float to int casts saturate; never negative"
)]
pub fn eta(wait: Duration) -> Eta {
    let wait_s = wait.as_secs_f64();
    let (low_s, high_s) = (wait_s * (1.0 - ETA_SPREAD), wait_s * (1.0 + ETA_SPREAD));
    Eta { low_s: low_s.round() as u64, high_s: high_s.round() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(90);

    #[test]
    fn poll_intervals_are_short_in_front_and_long_far_back() {
        let now = Timestamp::from_unix_ms(1_000_000);

        for n in 0..1_000 {
            let front = poll_after(1, PlaceNumber::new(n), now, WINDOW);
            let back = poll_after(1_000_000, PlaceNumber::new(n), now, WINDOW);
            assert!((1_500..=2_520).contains(&front.as_millis()), "{front:?}");
            assert!((22_500..=37_500).contains(&back.as_millis()), "{back:?}");
        }
    }

    #[test]
    fn people_who_joined_together_poll_spread_over_the_whole_jitter() {
        let now = Timestamp::from_unix_ms(1_000_000);
        let mut tenths = [0_u32; 10];

        for n in 0..10_000 {
            let ms = poll_after(1_000_000, PlaceNumber::new(n), now, WINDOW).as_millis();
            tenths[usize::try_from((ms - 22_500) / 1_501).unwrap()] += 1;
        }

        assert!(tenths.iter().all(|&count| (800..=1_200).contains(&count)), "{tenths:?}");
    }

    #[test]
    fn two_polls_and_a_merge_fit_into_every_window() {
        for window_s in PRESENCE_WINDOW_MIN.as_secs()..=200 {
            let window = Duration::from_secs(window_s);

            assert!(2 * longest_poll_after(u64::MAX, window) + MERGE_INTERVAL <= window, "{window_s} s");
        }
    }

    #[test]
    fn no_poll_interval_is_longer_than_the_longest() {
        for n in 0..1_000 {
            let number = PlaceNumber::new(n);
            assert!(poll_after(n, number, Timestamp::EPOCH, WINDOW) <= longest_poll_after(n, WINDOW), "{n}");
        }
    }

    #[test]
    fn an_eta_is_a_range_half_as_wide_as_the_wait() {
        assert_eq!(eta(Duration::from_secs(100)), Eta { low_s: 75, high_s: 125 });
        assert_eq!(eta(Duration::ZERO), Eta { low_s: 0, high_s: 0 });
    }
}
