//! Admission policies: how many people are inside, how fast they are admitted, and how long passes last.

use std::time::Duration;

use usher_kernel::{Timestamp, Violation, Violations};

use crate::pace;

/// The state that an operator sets a line to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineState {
    /// People join and are admitted.
    Open,
    /// People join and wait.
    Paused,
    /// No one joins, and no one is admitted.
    Closed,
}

impl LineState {
    /// The state's name, in the API and in stores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Closed => "closed",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Paused, Self::Closed].into_iter().find(|state| state.as_str() == name)
    }
}

/// The admission policy of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionPolicy {
    /// The most people inside at any instant.
    pub capacity: u32,
    /// The most people admitted in a second; 0 is no limit.
    pub rate_per_s: u32,
    /// How long a pass is valid.
    pub pass_ttl: Duration,
    /// A person who did not poll for this long is away: skipped, without losing the place.
    pub presence_window: Duration,
    /// The state that the operator set.
    pub state: LineState,
}

/// A change to a policy. Values that are `None` stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyPatch {
    /// The new capacity.
    pub capacity: Option<u32>,
    /// The new rate.
    pub rate_per_s: Option<u32>,
    /// The new lifetime of passes.
    pub pass_ttl: Option<Duration>,
    /// The new presence window.
    pub presence_window: Option<Duration>,
    /// The new state.
    pub state: Option<LineState>,
}

impl PolicyPatch {
    /// Both changes in one: this one, then a later one over it.
    #[must_use]
    pub fn then(self, later: &Self) -> Self {
        Self {
            capacity: later.capacity.or(self.capacity),
            rate_per_s: later.rate_per_s.or(self.rate_per_s),
            pass_ttl: later.pass_ttl.or(self.pass_ttl),
            presence_window: later.presence_window.or(self.presence_window),
            state: later.state.or(self.state),
        }
    }
}

impl AdmissionPolicy {
    /// The largest capacity, and the largest rate.
    pub const COUNT_MAX: u32 = 1_000_000;
    /// The longest pass and the longest presence window, in seconds.
    pub const SPAN_S_MAX: u64 = 86_400;

    /// This policy with the patch applied.
    #[must_use]
    pub fn with(self, patch: &PolicyPatch) -> Self {
        Self {
            capacity: patch.capacity.unwrap_or(self.capacity),
            rate_per_s: patch.rate_per_s.unwrap_or(self.rate_per_s),
            pass_ttl: patch.pass_ttl.unwrap_or(self.pass_ttl),
            presence_window: patch.presence_window.unwrap_or(self.presence_window),
            state: patch.state.unwrap_or(self.state),
        }
    }

    /// Judges a patch: the changes to store and the policy that they make. `self` is the default policy, and `before`
    /// are the changes that were stored so far.
    ///
    /// # Errors
    /// A violation for each value of the policy that would break a rule.
    pub fn patched(self, before: PolicyPatch, patch: &PolicyPatch) -> Result<(PolicyPatch, Self), Vec<Violation>> {
        let after = before.then(patch);
        let policy = self.with(&after);
        policy.validate().map(|()| (after, policy))
    }

    /// Checks the policy's rules.
    ///
    /// # Errors
    /// A violation for each value that breaks a rule, under its name in the API.
    pub fn validate(&self) -> Result<(), Vec<Violation>> {
        let mut violations = Violations::none();
        let max = Self::COUNT_MAX;
        violations.check(self.capacity <= max, "capacity", format!("must be 0 to {max}"));
        violations.check(self.rate_per_s <= max, "rate_per_s", format!("must be 0 (no limit) to {max}"));
        let ttl_is_fine = (1..=Self::SPAN_S_MAX).contains(&self.pass_ttl.as_secs());
        violations.check(ttl_is_fine, "pass_ttl_s", format!("must be 1 to {}", Self::SPAN_S_MAX));
        let shortest = pace::PRESENCE_WINDOW_MIN.as_secs();
        let window_is_fine = (shortest..=Self::SPAN_S_MAX).contains(&self.presence_window.as_secs());
        let rule = format!("must be {shortest} to {}, which leaves time for two polls", Self::SPAN_S_MAX);
        violations.check(window_is_fine, "presence_window_s", rule);
        violations.into_result()
    }
}

/// The state of a sale, as people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaleState {
    /// The sale opens later.
    Scheduled,
    /// Seats are being sold.
    Open,
    /// Seats are sold to the people inside; no one else is admitted for now.
    Paused,
    /// The sale is over.
    Closed,
    /// No seat is available or held. The sale is open again when seats come back.
    SoldOut,
}

impl SaleState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Scheduled, Self::Open, Self::Paused, Self::Closed, Self::SoldOut];

    /// The state's name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Closed => "closed",
            Self::SoldOut => "sold_out",
        }
    }
}

/// The sale of a performance, as far as the line needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sale {
    /// The first moment of the sale.
    pub opens_at: Timestamp,
    /// The first moment after the sale.
    pub closes_at: Timestamp,
    /// Whether no seat is available or held.
    pub is_sold_out: bool,
}

impl Sale {
    /// The state of the sale at `now`, given the state that the operator set.
    #[must_use]
    pub fn state(&self, line: LineState, now: Timestamp) -> SaleState {
        if now >= self.closes_at || line == LineState::Closed {
            SaleState::Closed
        } else if now < self.opens_at {
            SaleState::Scheduled
        } else if self.is_sold_out {
            SaleState::SoldOut
        } else if line == LineState::Paused {
            SaleState::Paused
        } else {
            SaleState::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: AdmissionPolicy = AdmissionPolicy {
        capacity: 1,
        rate_per_s: 0,
        pass_ttl: Duration::from_secs(300),
        presence_window: Duration::from_secs(90),
        state: LineState::Open,
    };

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let patch = PolicyPatch { capacity: Some(7), ..PolicyPatch::default() };

        assert_eq!(POLICY.with(&patch), AdmissionPolicy { capacity: 7, ..POLICY });
    }

    #[test]
    fn of_two_patches_the_later_one_wins_where_both_name_a_value() {
        let earlier = PolicyPatch { capacity: Some(7), rate_per_s: Some(3), ..PolicyPatch::default() };
        let later = PolicyPatch { capacity: Some(9), state: Some(LineState::Paused), ..PolicyPatch::default() };

        let both = earlier.then(&later);

        assert_eq!(both, PolicyPatch { rate_per_s: Some(3), ..later });
        assert_eq!(POLICY.with(&both), POLICY.with(&earlier).with(&later));
    }

    #[test]
    fn a_window_too_short_for_the_polls_is_refused() {
        let policy = AdmissionPolicy { presence_window: Duration::from_secs(5), ..POLICY };

        assert_eq!(policy.validate().unwrap_err()[0].field, "presence_window_s");
        assert_eq!(POLICY.validate(), Ok(()));
    }

    #[test]
    fn the_state_of_a_sale_follows_from_time_operator_and_seats() {
        let at = Timestamp::from_unix_ms;
        let sale = Sale { opens_at: at(10), closes_at: at(20), is_sold_out: false };
        let gone = Sale { is_sold_out: true, ..sale };

        assert_eq!(sale.state(LineState::Open, at(9)), SaleState::Scheduled);
        assert_eq!(sale.state(LineState::Open, at(10)), SaleState::Open);
        assert_eq!(sale.state(LineState::Paused, at(10)), SaleState::Paused);
        assert_eq!(gone.state(LineState::Paused, at(10)), SaleState::SoldOut);
        assert_eq!(gone.state(LineState::Open, at(20)), SaleState::Closed);
        assert_eq!(sale.state(LineState::Closed, at(9)), SaleState::Closed);
    }
}
