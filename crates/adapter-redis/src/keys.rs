//! All keys of a line. Scripts create no other keys, and never search for keys by pattern.
//!
//! All begin with `usher:{<performance>}:`. The braces are a hash tag, which puts the keys of one line into one slot of
//! a cluster. The members of sets are the 16 bytes of an [`AccountHash`](usher_queue::AccountHash). A bitmap has one
//! bit for each number of the line, from the first on, and 2^32 - 1 at most.
//!
//! | # | key | type | holds | size |
//! |---|---|---|---|---|
//! | 1 | `line` | hash | the fields of the line, see below | 19 fields |
//! | 2 | `waiting` | sorted set | the accounts that wait, by number | 126 bytes each |
//! | 3 | `away` | sorted set | the accounts that are away, by number | 126 bytes each |
//! | 4 | `inside` | sorted set | the accounts that are inside, by number | 126 bytes each; at most the capacity |
//! | 5 | `expiries` | sorted set | the same accounts, by the time at which their pass expires | the same |
//! | 6 | `done` | bitmap | the numbers that left, or whose pass was used up | a bit a number |
//! | 7 | `expired` | bitmap | the numbers whose pass expired | a bit a number |
//! | 8 | `gone` | bitmap | G: the numbers that left before they were called, and the gaps of losses | a bit a number |
//! | 9 | `recent` | list | the last additions to G, oldest first | 4,096 numbers at most |
//! | 10 | `merging` | string | the bits that a running script adds; deleted before it ends | a bit a number |
//! | 11-18 | `seen:0` ... `seen:7` | bitmap | presence buckets, a quarter window each | a bit a number; usually 6 of them |
//!
//! The fields of `line`:
//! - `epoch` and `life`: the epoch in which the line was opened, and the run of the server that held it then. If either
//!   differs from the current one, the line is lost.
//! - `now`: the latest time of a call.
//! - `issued`, `inherited`, `ceiling` (at most 2^32 - 1), `serving`, `admitted_total`, `reserved`, `reserved_until` and
//!   `holds_until`: as in the port.
//! - `shown_again`: how many of the `reserved` passes from before a loss were shown again.
//! - `rate_level` and `rate_filled_at`: the level of the token bucket, in thousandths, and when it was last filled. A
//!   level below 0 means that the bucket was never used.
//! - `gone_count`: how many changes G has had. It is the cursor of readers.
//! - `window`, `complete_since` and `merged_at`: the presence window, the time since which every person that was seen
//!   is in a bucket, and the time of the last merge.
//! - `buckets`: the slot, the start and the last use of each presence bucket, oldest first.
//!
//! Each key expires 30 days after the last merge of presence. That collects garbage; nothing depends on it.

use usher_kernel::PerformanceId;

/// The suffixes of the keys, in the order of the scripts' KEYS.
const NAMES: [&str; 18] = [
    "line", "waiting", "away", "inside", "expiries", "done", "expired", "gone", "recent", "merging", "seen:0",
    "seen:1", "seen:2", "seen:3", "seen:4", "seen:5", "seen:6", "seen:7",
];

/// The keys of a line. Every script gets all of them.
pub(crate) fn of(performance: PerformanceId) -> Vec<String> {
    NAMES.iter().map(|name| format!("usher:{{{performance}}}:{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_line_share_one_hash_tag() {
        let performance = PerformanceId::from_bytes([7; 16]);

        for key in of(performance) {
            let tag = key.split_once('{').unwrap().1.split_once('}').unwrap().0;
            assert_eq!(tag, performance.to_string(), "{key}");
        }
    }
}
