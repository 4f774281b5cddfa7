//! A token bucket that bounds the rate of admissions over any span.

use std::time::Duration;

use usher_kernel::Timestamp;
use usher_queue::ports::AdmitTerms;

/// One token, the cost of an admission, in thousandths: a rate per second times milliseconds, without rounding.
const TOKEN_MILLI: u64 = 1_000;

/// Starts full, holds 1 + rate x tick, and fills at the rate. The one token above rate x tick keeps the fraction that a
/// tick leaves over: without it, 3 a second at four ticks a second would be 2 (docs/adr/0008).
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    /// `None` before the first use: a full bucket, of any size.
    level_milli: Option<u64>,
    filled_at: Timestamp,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn full(now: Timestamp) -> Self {
        Self { level_milli: None, filled_at: now }
    }

    /// Skips the time since the last call: the bucket does not fill.
    pub(crate) fn pause(&mut self, now: Timestamp) {
        self.filled_at = now;
    }

    /// Fills the bucket up to `now`, and returns how many places may be admitted.
    pub(crate) fn fill(&mut self, now: Timestamp, terms: &AdmitTerms) -> u32 {
        let elapsed = now.since(self.filled_at);
        self.filled_at = now;
        if terms.rate_per_s == 0 {
            return u32::MAX;
        }
        let milli_over = |span: Duration| {
            u64::try_from(span.as_millis()).unwrap_or(u64::MAX).saturating_mul(u64::from(terms.rate_per_s))
        };
        let size_milli = milli_over(terms.tick).saturating_add(TOKEN_MILLI);
        let level_milli =
            self.level_milli.map_or(size_milli, |level| level.saturating_add(milli_over(elapsed)).min(size_milli));
        self.level_milli = Some(level_milli);
        u32::try_from(level_milli / TOKEN_MILLI).unwrap_or(u32::MAX)
    }

    /// Takes the token of one admission.
    pub(crate) fn take(&mut self) {
        self.level_milli = self.level_milli.map(|level| level.saturating_sub(TOKEN_MILLI));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use usher_queue::ports::Gate;

    use super::*;

    fn terms(rate_per_s: u32, tick_ms: u64) -> AdmitTerms {
        AdmitTerms {
            gate: Gate::Open,
            capacity: u32::MAX,
            rate_per_s,
            tick: Duration::from_millis(tick_ms),
            pass_ttl: Duration::from_secs(300),
            presence_window: Duration::from_secs(90),
        }
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        assert_eq!(TokenBucket::full(Timestamp::EPOCH).fill(Timestamp::EPOCH, &terms(0, 250)), u32::MAX);
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_than_rate_and_bucket_are_taken(
            rate_per_s in 1_u32..2_000,
            tick_ms in 1_u64..2_000,
            calls in prop::collection::vec((0_u64..1_500, 0_u32..400), 1..60),
        ) {
            let terms = terms(rate_per_s, tick_ms);
            let mut bucket = TokenBucket::full(Timestamp::EPOCH);
            let mut now = Timestamp::EPOCH;
            let mut taken = Vec::new();
            for (wait_ms, wanted) in calls {
                now = now.plus(Duration::from_millis(wait_ms));
                let n_taken = bucket.fill(now, &terms).min(wanted);
                (0..n_taken).for_each(|_| bucket.take());
                taken.push((now, u64::from(n_taken)));
            }

            let rate = u64::from(rate_per_s);
            let size_milli = rate * tick_ms + 1_000;
            for (first, (from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (until, n_taken) in &taken[first..] {
                    sum += n_taken;
                    let span_ms = u64::try_from(until.since(*from).as_millis()).unwrap();
                    prop_assert!(sum * 1_000 <= rate * span_ms + size_milli, "{sum} within {span_ms} ms");
                }
            }
        }
    }
}
