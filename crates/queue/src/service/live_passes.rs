//! The passes that a gate saw live a moment ago: a shop asks for each of its requests, and asks the same again and again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use usher_kernel::{PerformanceId, Timestamp};

use crate::PlaceNumber;

/// How long a pass counts as live without another look. A pass that another server ends stays open for this long.
const LIVE_FOR: Duration = Duration::from_secs(1);
/// The most passes that are remembered: more than one server answers for in [`LIVE_FOR`].
const PASSES_MAX: usize = 100_000;

type Key = (PerformanceId, PlaceNumber);

/// The passes that were seen live within [`LIVE_FOR`]. A pass that this server ends is forgotten at once.
#[derive(Debug, Default)]
pub(super) struct LivePasses(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    passes: HashMap<Key, Timestamp>,
    n_ended: u64,
}

/// The passes that had ended when a look at the ledger began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look(u64);

impl LivePasses {
    /// Whether the pass was seen live a moment ago. If not, the caller looks into the ledger.
    pub(super) fn find(&self, pass: Key, now: Timestamp) -> Result<(), Look> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.passes.get(&pass) {
            Some(at) if *at <= now && now < at.plus(LIVE_FOR) => Ok(()),
            Some(_) | None => Err(Look(seen.n_ended)),
        }
    }

    /// Notes that a look found the pass live, unless a pass ended since the look began: it may be this one.
    pub(super) fn note(&self, pass: Key, look: Look, now: Timestamp) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.n_ended != look.0 {
            return;
        }
        if seen.passes.len() >= PASSES_MAX {
            seen.passes.retain(|_, at| now < at.plus(LIVE_FOR));
        }
        if seen.passes.len() < PASSES_MAX {
            seen.passes.insert(pass, now);
        }
    }

    /// Forgets a pass that ends.
    pub(super) fn end(&self, pass: Key) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.n_ended += 1;
        seen.passes.remove(&pass);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASS: Key = (PerformanceId::from_bytes([1; 16]), PlaceNumber::new(7));
    const OTHER: Key = (PerformanceId::from_bytes([1; 16]), PlaceNumber::new(8));

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn seen(passes: &LivePasses, pass: Key, now: Timestamp) {
        let look = passes.find(pass, now).unwrap_err();
        passes.note(pass, look, now);
    }

    #[test]
    fn a_pass_counts_as_live_for_a_second() {
        let passes = LivePasses::default();
        seen(&passes, PASS, at(1_000));

        assert!(passes.find(PASS, at(1_000)).is_ok() && passes.find(PASS, at(1_999)).is_ok());
        assert!(passes.find(PASS, at(2_000)).is_err(), "a second is over");
        assert!(passes.find(PASS, at(999)).is_err(), "the clock ran back");
        assert!(passes.find(OTHER, at(1_000)).is_err());
    }

    #[test]
    fn a_pass_that_ends_is_forgotten_at_once() {
        let passes = LivePasses::default();
        seen(&passes, PASS, at(1_000));
        seen(&passes, OTHER, at(1_000));

        passes.end(PASS);

        assert!(passes.find(PASS, at(1_001)).is_err());
        assert!(passes.find(OTHER, at(1_001)).is_ok());
    }

    #[test]
    fn a_pass_that_ends_during_the_look_is_not_noted() {
        let passes = LivePasses::default();
        let look = passes.find(PASS, at(1_000)).unwrap_err();

        passes.end(PASS);
        passes.note(PASS, look, at(1_000));

        assert!(passes.find(PASS, at(1_001)).is_err());
    }

    #[test]
    fn the_memory_is_bounded_and_old_passes_make_room() {
        let passes = LivePasses::default();
        let many = PASSES_MAX as u64 + 10;
        for n in 0..many {
            seen(&passes, (PASS.0, PlaceNumber::new(n)), at(1_000));
        }
        assert_eq!(passes.0.lock().unwrap().passes.len(), PASSES_MAX);

        seen(&passes, (PASS.0, PlaceNumber::new(many)), at(2_000));

        assert_eq!(passes.0.lock().unwrap().passes.len(), 1);
    }
}
