//! The set of gone numbers (G): all of them, and the last additions one by one.

use std::collections::VecDeque;

use roaring::RoaringTreemap;
use usher_queue::ports::{Cursor, GoneChanges};
use usher_queue::{Epoch, PlaceNumber};

/// Most additions that are kept one by one. A server reads them every quarter second. It lags by more only after a long
/// pause, or if very many places left at once; then the whole set is the shorter answer.
const RECENT_MAX: usize = 4_096;

/// G: a set that only grows, with a cursor over its growth.
#[derive(Clone, Debug)]
pub(crate) struct Gone {
    all: RoaringTreemap,
    recent: VecDeque<PlaceNumber>,
    /// The cursor before the first of `recent`.
    recent_from: u64,
}

impl Gone {
    /// The set at the beginning of an epoch. Cursors start at epoch x 2^32, so that a cursor of an earlier epoch is
    /// always too old.
    pub(crate) fn new(epoch: Epoch, all: RoaringTreemap) -> Self {
        Self { all, recent: VecDeque::new(), recent_from: epoch.get() << 32 }
    }

    /// Adds one number. O(log n).
    pub(crate) fn insert(&mut self, number: PlaceNumber) {
        if !self.all.insert(number.get()) {
            return;
        }
        self.recent.push_back(number);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
            self.recent_from += 1;
        }
    }

    /// Adds a set. Unless it adds nothing new, the next read of every server gets all of G.
    pub(crate) fn merge(&mut self, more: &RoaringTreemap) {
        if more.is_subset(&self.all) {
            return;
        }
        self.all |= more;
        self.recent_from = self.cursor().0 + 1;
        self.recent.clear();
    }

    /// The cursor after the last addition.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor(self.recent_from + self.recent.len() as u64)
    }

    /// The additions since a cursor. O(changes), or O(size of the bitmap) for an old cursor.
    pub(crate) fn since(&self, cursor: Cursor) -> GoneChanges {
        let known = cursor.0.checked_sub(self.recent_from).and_then(|known| usize::try_from(known).ok());
        match known {
            Some(known) if known <= self.recent.len() => {
                GoneChanges::Since(self.recent.iter().skip(known).copied().collect())
            }
            Some(_) | None => GoneChanges::All(self.all.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone() -> Gone {
        Gone::new(Epoch::new(1), RoaringTreemap::new())
    }

    #[test]
    fn a_reader_is_told_only_what_is_new() {
        let mut gone = gone();
        gone.insert(PlaceNumber::new(7));
        let cursor = gone.cursor();

        gone.insert(PlaceNumber::new(7));
        gone.insert(PlaceNumber::new(9));

        assert_eq!(gone.since(cursor), GoneChanges::Since(vec![PlaceNumber::new(9)]));
    }

    #[test]
    fn a_reader_who_fell_behind_the_recent_is_told_everything() {
        let mut gone = gone();
        let cursor = gone.cursor();
        let n_added = RECENT_MAX as u64 + 1;

        for number in 1..=n_added {
            gone.insert(PlaceNumber::new(number));
        }

        assert_eq!(gone.since(cursor), GoneChanges::All((1..=n_added).collect()));
        assert_eq!(gone.recent.len(), RECENT_MAX);
    }

    #[test]
    fn a_set_that_is_merged_reaches_every_reader() {
        let mut gone = gone();
        let cursor = gone.cursor();
        let more: RoaringTreemap = (5..=6).collect();

        gone.merge(&more);

        assert_eq!(gone.since(cursor), GoneChanges::All(more.clone()));
        let caught_up = gone.cursor();
        gone.merge(&more);
        assert_eq!(gone.since(caught_up), GoneChanges::Since(vec![]));
    }

    #[test]
    fn a_cursor_from_another_epoch_is_no_cursor() {
        let old = Gone::new(Epoch::new(2), RoaringTreemap::new()).cursor();
        let mut new = Gone::new(Epoch::new(3), RoaringTreemap::new());
        new.insert(PlaceNumber::new(1));

        assert_eq!(new.since(old), GoneChanges::All((1..=1).collect()));
        assert_eq!(Gone::new(Epoch::new(1), RoaringTreemap::new()).since(old), GoneChanges::All(RoaringTreemap::new()));
    }
}
