//! One line as plain data: the places that wait, are away, are inside, or have ended. No lock, no clock, no I/O.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use roaring::RoaringTreemap;
use usher_kernel::Timestamp;
use usher_queue::ports::{
    Admission, AdmitTerms, Contribution, Cursor, Gate, JoinOutcome, LeaveOutcome, LineChanges, LineCounts, ReEntry,
    Resolution, Standing,
};
use usher_queue::{AccountHash, Epoch, Grant, Place, PlaceNumber};

use crate::gone::Gone;
use crate::presence::Presence;
use crate::rate::TokenBucket;

/// The state of an account in the line. It has one at a time.
#[derive(Clone, Copy, Debug)]
enum Spot {
    Waiting(PlaceNumber),
    Away(PlaceNumber),
    Inside(Grant),
}

impl Spot {
    const fn number(&self) -> PlaceNumber {
        match self {
            Self::Waiting(number) | Self::Away(number) => *number,
            Self::Inside(grant) => grant.number,
        }
    }
}

/// The line of one performance in one epoch.
///
/// Each method takes the caller's time, but the line's own time never goes back. Each first ends the passes that have
/// expired: O(log n) a pass. The numbers of waiting people are a bitmap: the lowest number, and the rank of any number,
/// cost O(containers), one per 65,536 places.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    epoch: Epoch,
    now: Timestamp,
    /// The highest number given out.
    issued: PlaceNumber,
    /// Numbers up to this one were given out in earlier epochs.
    inherited: PlaceNumber,
    /// The highest ceiling that any call named.
    ceiling: PlaceNumber,
    serving: PlaceNumber,
    spots: HashMap<AccountHash, Spot>,
    /// The account of each number in `spots`.
    holders: HashMap<PlaceNumber, AccountHash>,
    /// The numbers in `spots` that wait.
    waiting: RoaringTreemap,
    /// How many accounts in `spots` are away.
    n_away: u64,
    /// The deadlines of the passes in `spots`.
    expiries: BTreeSet<(Timestamp, PlaceNumber)>,
    /// Places that left, or whose pass was used up.
    done: RoaringTreemap,
    /// Places whose pass expired.
    expired: RoaringTreemap,
    gone: Gone,
    presence: Presence,
    bucket: TokenBucket,
    /// How many places were inside before a loss, as last saved; they keep their room until `reserved_until`.
    reserved: u32,
    reserved_until: Option<Timestamp>,
    /// How many passes from before a loss were shown again.
    n_shown_again: u32,
    holds_until: Option<Timestamp>,
    admitted_total: u64,
}

impl Line {
    /// A new line in an epoch.
    pub(crate) fn open(epoch: Epoch, now: Timestamp, contribution: &Contribution) -> Self {
        let mut line = Self {
            epoch,
            now,
            issued: PlaceNumber::ZERO,
            inherited: PlaceNumber::ZERO,
            ceiling: PlaceNumber::ZERO,
            serving: PlaceNumber::ZERO,
            spots: HashMap::new(),
            holders: HashMap::new(),
            waiting: RoaringTreemap::new(),
            n_away: 0,
            expiries: BTreeSet::new(),
            done: RoaringTreemap::new(),
            expired: RoaringTreemap::new(),
            gone: Gone::new(epoch, contribution.gone.clone()),
            presence: Presence::new(now),
            bucket: TokenBucket::full(now),
            reserved: 0,
            reserved_until: None,
            n_shown_again: 0,
            holds_until: None,
            admitted_total: 0,
        };
        line.contribute(now, contribution);
        line
    }

    /// The epoch in which the line was opened.
    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Adds a server's knowledge from before the epoch.
    pub(crate) fn contribute(&mut self, now: Timestamp, contribution: &Contribution) {
        self.advance(now);
        self.inherited = self.inherited.max(contribution.start);
        self.issued = self.issued.max(contribution.start);
        self.serving = self.serving.max(contribution.serving);
        self.gone.merge(&contribution.gone);
        self.reserved = self.reserved.max(contribution.reserved);
        self.reserved_until = self.reserved_until.max(contribution.reserved_until);
        self.holds_until = self.holds_until.max(contribution.holds_until);
        for &grant in &contribution.active {
            if grant.is_live(self.now) && self.may_return(grant.number, grant.account) {
                self.show_again(grant);
            }
        }
    }

    /// Gives each account a place, in order. O(log n) each.
    pub(crate) fn join(
        &mut self,
        now: Timestamp,
        terms: &AdmitTerms,
        ceiling: PlaceNumber,
        accounts: &[AccountHash],
    ) -> Vec<JoinOutcome> {
        self.advance(now);
        self.presence.set_window(terms.presence_window);
        self.ceiling = self.ceiling.max(ceiling);
        accounts.iter().map(|&account| self.join_one(terms, account)).collect()
    }

    fn join_one(&mut self, terms: &AdmitTerms, account: AccountHash) -> JoinOutcome {
        match self.spots.get(&account).copied() {
            Some(Spot::Inside(grant)) => JoinOutcome::Already(Standing::Admitted(grant)),
            Some(Spot::Waiting(number) | Spot::Away(number)) => {
                self.wait_at(number, account);
                JoinOutcome::Already(Standing::Waiting(number))
            }
            None if self.issued >= self.ceiling => JoinOutcome::CeilingReached,
            None => {
                self.issued = self.issued.next();
                let number = self.issued;
                if self.waiting.is_empty() && self.room(terms) > 0 {
                    return JoinOutcome::Joined(Standing::Admitted(self.grant(number, account, terms)));
                }
                self.wait_at(number, account);
                JoinOutcome::Joined(Standing::Waiting(number))
            }
        }
    }

    /// Looks places up, and takes those that were away back into the line. O(log n) each.
    pub(crate) fn resolve(&mut self, now: Timestamp, places: &[Place]) -> Vec<Resolution> {
        self.advance(now);
        places.iter().map(|place| self.resolve_one(place)).collect()
    }

    fn resolve_one(&mut self, &Place { number, account, .. }: &Place) -> Resolution {
        if self.done.contains(number.get()) {
            return Resolution::Done;
        }
        if self.expired.contains(number.get()) {
            return Resolution::Expired;
        }
        let is_inherited = number <= self.inherited;
        match self.spots.get(&account).copied() {
            Some(Spot::Inside(grant)) => Resolution::Admitted(grant),
            Some(Spot::Waiting(current) | Spot::Away(current)) if current <= number || !is_inherited => {
                self.wait_at(current, account);
                Resolution::Waiting { number: current, ahead: self.waiting.rank(current.get()) - 1 }
            }
            // A lower number from before a loss may replace the account's present one, but only the ledger knows
            // whether its pass was used up.
            Some(Spot::Waiting(_) | Spot::Away(_)) | None if is_inherited || number > self.issued => {
                Resolution::Unknown
            }
            // This place gave way to another place of the account, and that one has ended, too.
            Some(Spot::Waiting(_) | Spot::Away(_)) | None => Resolution::Done,
        }
    }

    /// Puts places from before a loss back into the line. O(log n) each.
    pub(crate) fn re_enter(&mut self, now: Timestamp, entries: &[ReEntry]) {
        self.advance(now);
        entries.iter().for_each(|entry| self.re_enter_one(entry));
    }

    fn re_enter_one(&mut self, &ReEntry { place: Place { number, account, .. }, grant }: &ReEntry) {
        if !self.may_return(number, account) {
            return;
        }
        match grant.map(|Grant { expires_at, .. }| Grant { number, account, expires_at }) {
            Some(grant) if grant.is_live(self.now) => self.show_again(grant),
            Some(_) => {
                self.expired.insert(number.get());
                if self.holders.contains_key(&number) {
                    self.lift(account);
                }
            }
            None => {
                let current = self.spots.get(&account).map_or(number, Spot::number);
                if current != number {
                    self.vacate(current.max(number));
                }
                self.wait_at(current.min(number), account);
            }
        }
    }

    /// Removes a place, or ends its pass. O(log n).
    pub(crate) fn leave(&mut self, now: Timestamp, place: &Place) -> LeaveOutcome {
        self.advance(now);
        match self.spots.get(&place.account).copied() {
            Some(spot) if spot.number() == place.number => {
                self.finish(place.number);
                match spot {
                    Spot::Waiting(_) | Spot::Away(_) => LeaveOutcome::LeftTheLine,
                    Spot::Inside(_) => LeaveOutcome::EndedPass,
                }
            }
            Some(_) | None => LeaveOutcome::NotThere,
        }
    }

    /// Ends the pass of a number, even if the line does not know it. O(log n).
    pub(crate) fn end_pass(&mut self, now: Timestamp, number: PlaceNumber) {
        self.advance(now);
        if number <= self.issued {
            self.finish(number);
        }
    }

    /// Marks the places present that a server saw. O(size of the bitmap).
    pub(crate) fn mark_present(&mut self, now: Timestamp, presence_window: Duration, seen: &RoaringTreemap) {
        self.advance(now);
        self.presence.set_window(presence_window);
        self.presence.merge(self.now, seen);
    }

    /// Admits the next people, lowest numbers first. O(`examine_max` x log n).
    pub(crate) fn admit(&mut self, now: Timestamp, terms: &AdmitTerms, examine_max: u32) -> Admission {
        self.advance(now);
        self.presence.set_window(terms.presence_window);
        let skips_absent = self.presence.is_trusted(self.now, terms.presence_window);
        let mut room = self.room(terms);
        let mut admission = Admission::default();
        while room > 0
            && admission.examined < examine_max
            && let Some((number, account)) = self.first_waiting()
        {
            admission.examined += 1;
            if skips_absent && !self.presence.has_seen(self.now, terms.presence_window, number) {
                self.serving = self.serving.max(number);
                self.put(account, Spot::Away(number));
            } else {
                admission.granted.push(self.grant(number, account, terms));
                room -= 1;
            }
        }
        admission.more = room > 0 && !self.waiting.is_empty();
        admission
    }

    /// The changes since a cursor. O(changes), or O(size of the bitmap) for an old cursor.
    pub(crate) fn changes(&mut self, now: Timestamp, cursor: Cursor) -> LineChanges {
        self.advance(now);
        LineChanges { cursor: self.gone.cursor(), gone: self.gone.since(cursor), counts: self.counts() }
    }

    fn counts(&self) -> LineCounts {
        LineCounts {
            serving: self.serving,
            issued: self.issued,
            inherited: self.inherited,
            waiting: self.waiting.len(),
            returned: self.waiting.rank(self.serving.get()),
            away: self.n_away,
            active: self.expiries.len() as u64,
            admitted_total: self.admitted_total,
            holds_until: self.holds_until.filter(|&until| self.now < until),
        }
    }

    /// Advances the time to `now`, and ends the passes that have expired.
    fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        while let Some(&(expires_at, number)) = self.expiries.first()
            && expires_at <= self.now
        {
            self.expiries.pop_first();
            self.expired.insert(number.get());
            if let Some(&account) = self.holders.get(&number) {
                self.lift(account);
            }
        }
    }

    /// How many places may be admitted now.
    fn room(&mut self, terms: &AdmitTerms) -> u32 {
        if terms.gate == Gate::Shut {
            self.bucket.pause(self.now);
            return 0;
        }
        let by_rate = self.bucket.fill(self.now, terms);
        if self.holds_until.is_some_and(|until| self.now < until) {
            return 0;
        }
        // Passes from before a loss that were not shown again may still be: their room stays taken.
        let is_reserved = self.reserved_until.is_some_and(|until| self.now < until);
        let n_unseen = if is_reserved { self.reserved.saturating_sub(self.n_shown_again) } else { 0 };
        let n_active = u32::try_from(self.expiries.len()).unwrap_or(u32::MAX);
        terms.capacity.saturating_sub(n_active).saturating_sub(n_unseen).min(by_rate)
    }

    fn first_waiting(&self) -> Option<(PlaceNumber, AccountHash)> {
        let number = PlaceNumber::new(self.waiting.min()?);
        self.holders.get(&number).map(|&account| (number, account))
    }

    /// Admits an account at its number, and takes a token of the rate.
    fn grant(&mut self, number: PlaceNumber, account: AccountHash, terms: &AdmitTerms) -> Grant {
        let grant = Grant { number, account, expires_at: self.now.plus(terms.pass_ttl) };
        self.put(account, Spot::Inside(grant));
        self.serving = self.serving.max(number);
        self.bucket.take();
        self.admitted_total += 1;
        grant
    }

    /// Whether a place from before a loss may come back: it has not ended, no other account has its number, and its
    /// account is not inside.
    fn may_return(&self, number: PlaceNumber, account: AccountHash) -> bool {
        let has_ended = self.done.contains(number.get()) || self.expired.contains(number.get());
        let is_taken = self.holders.get(&number).is_some_and(|&holder| holder != account);
        let is_inside = matches!(self.spots.get(&account), Some(Spot::Inside(_)));
        number <= self.inherited && !has_ended && !is_taken && !is_inside
    }

    /// Puts a place with a live pass from before a loss back inside.
    fn show_again(&mut self, grant: Grant) {
        self.n_shown_again += 1;
        // This number was called, so all lower ones were.
        self.serving = self.serving.max(grant.number);
        if let Some(other) = self.put(grant.account, Spot::Inside(grant))
            && other.number() != grant.number
        {
            self.vacate(other.number());
        }
    }

    /// Lets an account wait at a number, and marks it present.
    fn wait_at(&mut self, number: PlaceNumber, account: AccountHash) {
        self.presence.mark(self.now, number);
        self.put(account, Spot::Waiting(number));
    }

    /// Ends a place. It does not come back.
    fn finish(&mut self, number: PlaceNumber) {
        self.done.insert(number.get());
        self.vacate(number);
        if let Some(&account) = self.holders.get(&number) {
            self.lift(account);
        }
    }

    /// Adds a number to G, if it is above `serving`: no place will wait at it again.
    fn vacate(&mut self, number: PlaceNumber) {
        if number > self.serving {
            self.gone.insert(number);
        }
    }

    /// Moves an account to a spot, and returns the spot that it had.
    fn put(&mut self, account: AccountHash, spot: Spot) -> Option<Spot> {
        let before = self.lift(account);
        match spot {
            Spot::Waiting(number) => {
                self.waiting.insert(number.get());
            }
            Spot::Away(_) => self.n_away += 1,
            Spot::Inside(grant) => {
                self.expiries.insert((grant.expires_at, grant.number));
            }
        }
        self.holders.insert(spot.number(), account);
        self.spots.insert(account, spot);
        before
    }

    /// Removes an account, and returns the spot that it had.
    fn lift(&mut self, account: AccountHash) -> Option<Spot> {
        let spot = self.spots.remove(&account)?;
        self.holders.remove(&spot.number());
        match spot {
            Spot::Waiting(number) => {
                self.waiting.remove(number.get());
            }
            Spot::Away(_) => self.n_away -= 1,
            Spot::Inside(grant) => {
                self.expiries.remove(&(grant.expires_at, grant.number));
            }
        }
        Some(spot)
    }
}

#[cfg(test)]
mod tests;
