//! Random ids and ticket codes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng as _;
use usher_kernel::{Clock, IdGenerator};
use uuid::Uuid;

/// Makes UUIDs of version 7 and ticket codes.
#[derive(Debug)]
pub struct RandomIds {
    clock: Arc<dyn Clock>,
    /// The latest id's 48 bits of time, then its 12 bits of order.
    latest: AtomicU64,
}

/// The bits of `rand_a`: random at the first id of a millisecond, counting from there (RFC 9562, 6.2, method 1).
const ORDER_BITS: u32 = 12;
/// Crockford's base 32: no letter that reads like a digit.
const CODE_ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CODE_LEN: usize = 26;

impl RandomIds {
    /// Makes ids that increase with this clock.
    #[must_use]
    pub const fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, latest: AtomicU64::new(0) }
    }

    /// A stamp above every earlier stamp, even if the clock stands still.
    fn next_stamp(&self, order: u64) -> u64 {
        let now_ms = u64::try_from(self.clock.now().unix_ms()).unwrap_or(0);
        let fresh = (now_ms << ORDER_BITS) | order;
        let before =
            self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| Some(fresh.max(latest + 1)));
        // The update never declines, so this is the stamp that it stored.
        fresh.max(before.unwrap_or_else(|latest| latest) + 1)
    }
}

impl IdGenerator for RandomIds {
    fn next_uuid(&self) -> Uuid {
        let mut rng = rand::rng();
        let stamp = self.next_stamp(rng.random_range(0..1 << ORDER_BITS));
        let [.., order_high, order_low] = (stamp & ((1 << ORDER_BITS) - 1)).to_be_bytes();
        let mut bytes: [u8; 10] = rng.random();
        bytes[..2].copy_from_slice(&[order_high, order_low]);
        uuid::Builder::from_unix_timestamp_millis(stamp >> ORDER_BITS, &bytes).into_uuid()
    }

    fn next_code(&self) -> String {
        let mut rng = rand::rng();
        (0..CODE_LEN).map(|_| char::from(CODE_ALPHABET[rng.random_range(0..CODE_ALPHABET.len())])).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use usher_kernel::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn ids_increase_even_while_the_clock_stands_still() {
        let ids = RandomIds::new(Arc::new(ManualClock::new(Timestamp::from_unix_ms(1_700_000_000_000))));

        let made: Vec<_> = (0..10_000).map(|_| ids.next_uuid()).collect();

        assert!(made.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn an_id_is_a_uuid_of_version_7_that_tells_its_time() {
        let ids = RandomIds::new(Arc::new(ManualClock::new(Timestamp::from_unix_ms(1_700_000_000_123))));

        let id = ids.next_uuid();

        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.as_u128() >> 80, 1_700_000_000_123);
    }

    #[test]
    fn codes_are_long_and_differ() {
        let ids = RandomIds::new(Arc::new(ManualClock::new(Timestamp::from_unix_ms(1_700_000_000_000))));

        let codes: HashSet<_> = (0..1_000).map(|_| ids.next_code()).collect();

        assert_eq!(codes.len(), 1_000);
        assert!(
            codes.iter().all(|code| code.len() == CODE_LEN && code.bytes().all(|byte| CODE_ALPHABET.contains(&byte)))
        );
    }
}
