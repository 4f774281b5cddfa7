//! Rate limits: per account, per client address, and per place.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use usher_kernel::Timestamp;

use super::problem::Problem;

/// A rate limit per key, with a burst (GCRA).
pub(super) struct PerKey<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone> PerKey<K> {
    /// Every so many checks, keys that were idle for long enough are dropped, so that the memory stays in proportion to
    /// the traffic.
    const FORGET_EVERY: u32 = 1 << 16;

    /// At most `burst` at once, and `per_s` a second.
    pub(super) fn new(per_s: NonZeroU32, burst: NonZeroU32) -> Self {
        let clock = DefaultClock::default();
        let limiter = RateLimiter::dashmap_with_clock(Quota::per_second(per_s).allow_burst(burst), clock.clone());
        Self { limiter, clock, checks: AtomicU32::new(0) }
    }

    /// Admits one more request, or tells when to retry.
    pub(super) fn check(&self, key: &K) -> Result<(), Problem> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % Self::FORGET_EVERY == Self::FORGET_EVERY - 1 {
            self.limiter.retain_recent();
        }
        let verdict = self.limiter.check_key(key);
        verdict.map_err(|until| Problem::too_many_requests(until.wait_time_from(self.clock.now())))
    }
}

/// The address or network that is limited: one IPv6 customer has a whole /64 network.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        },
    }
}

/// A rate limit on polls per place, in a fixed amount of memory: an array of counters, indexed by the hash of the
/// place's token. Places that share a counter share its limit, which is enough for twenty honest places: each polls at
/// most every two seconds.
pub(super) struct PerPlace {
    /// When each counter would be empty: the theoretical arrival time of GCRA, in ms.
    empty_at_ms: Box<[AtomicI64]>,
    /// Keyed at random, so that a client cannot aim at another place's counter.
    hasher: RandomState,
}

impl PerPlace {
    const COUNTERS: usize = 1 << 16;
    const BURST: i64 = 40;
    const INTERVAL_MS: i64 = 100;

    /// All counters empty.
    pub(super) fn new() -> Self {
        let empty_at_ms = (0..Self::COUNTERS).map(|_| AtomicI64::new(0)).collect();
        Self { empty_at_ms, hasher: RandomState::new() }
    }

    /// Admits one more poll, or tells when to retry.
    pub(super) fn check(&self, place: &str, now: Timestamp) -> Result<(), Problem> {
        let hash = self.hasher.hash_one(place) % Self::COUNTERS as u64;
        let counter = &self.empty_at_ms[usize::try_from(hash).unwrap_or(0)];
        let after_this = |empty_at_ms: i64| empty_at_ms.max(now.unix_ms()) + Self::INTERVAL_MS;
        let longest = now.unix_ms() + Self::BURST * Self::INTERVAL_MS;
        let fits = |empty_at_ms| Some(after_this(empty_at_ms)).filter(|&after| after <= longest);
        let passed = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        passed.map(drop).map_err(|empty_at_ms| {
            let wait_ms = u64::try_from(after_this(empty_at_ms) - longest).unwrap_or(0);
            Problem::too_many_requests(Duration::from_millis(wait_ms))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::ProblemCode;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

    #[test]
    fn a_place_may_poll_in_a_burst_and_then_at_its_rate() {
        let places = PerPlace::new();

        let passed = (0..100).filter(|_| places.check("p", NOW).is_ok()).count();
        let passed_later = (0..100).filter(|_| places.check("p", NOW.plus(Duration::from_secs(1))).is_ok()).count();

        assert_eq!((passed, passed_later), (40, 10));
        assert!(places.check("q", NOW).is_ok());
    }

    #[test]
    fn an_impatient_place_is_told_when_to_come_back() {
        let places = PerPlace::new();
        while places.check("p", NOW).is_ok() {}

        let refusal = places.check("p", NOW).unwrap_err();

        assert_eq!(refusal.code(), ProblemCode::TooManyRequests);
        assert!(places.check("p", NOW.plus(Duration::from_millis(100))).is_ok());
    }

    #[test]
    fn a_key_may_come_in_a_burst_and_others_are_not_counted_with_it() {
        let limit = PerKey::new(NonZeroU32::MIN, NonZeroU32::new(5).unwrap());

        let passed = (0..20).filter(|_| limit.check(&1).is_ok()).count();

        assert_eq!(passed, 5);
        assert!(limit.check(&2).is_ok());
    }

    #[test]
    fn an_ipv6_customer_is_one_client() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();

        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }
}
