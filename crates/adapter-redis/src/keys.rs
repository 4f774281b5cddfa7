//! Every key of a line. There is no other, and none is ever looked for by pattern.
//!
//! All begin with `usher:{<performance>}:`; the braces are a hash tag, so that the keys of one line are in one slot of a
//! cluster. The members of sets are the 16 bytes of an [`AccountHash`](usher_queue::AccountHash).
//! Numbers are bits of bitmaps: an eighth of a byte each, from the first of the line on, and 2^32 - 1 at most.
//!
//! | # | key | type | holds | size |
//! |---|---|---|---|---|
//! | 1 | `line` | hash | the numbers of the line, see below | 19 fields |
//! | 2 | `waiting` | sorted set | who waits, by number | 126 bytes each |
//! | 3 | `away` | sorted set | who is away, by number | 126 bytes each |
//! | 4 | `inside` | sorted set | who is inside, by number | 126 bytes each; as many as fit inside |
//! | 5 | `expiries` | sorted set | who is inside, by when the pass runs out | the same |
//! | 6 | `done` | bitmap | the numbers that left, or whose pass was used up | a bit a number |
//! | 7 | `expired` | bitmap | the numbers whose pass ran out | a bit a number |
//! | 8 | `gone` | bitmap | G | a bit a number |
//! | 9 | `recent` | list | the last additions to G, oldest first | 4,096 numbers at most |
//! | 10 | `merging` | string | what a script is just adding to a bitmap; never there between scripts | a bit a number |
//! | 11-18 | `seen:0` ... `seen:7` | bitmap | the presence buckets, a quarter window each, in turn | a bit a number; 6 of them, as a rule |
//!
//! The fields of `line`: `epoch` and `life` (the epoch it was opened in, and the run of the server that held it then:
//! other ones mean that the line was lost), `now` (the latest time it was told), `issued`, `inherited`, `ceiling` (never
//! above 2^32 - 1), `serving`, `admitted_total`, `reserved` and `reserved_until`, `shown_again` (how many passes of before
//! the loss were), `holds_until`, `rate_level` (of the token bucket, in thousandths; below 0 it was never used) and
//! `rate_filled_at`, `gone_count` (how many changes G saw: the cursor of readers), `window`, `complete_since` and
//! `merged_at` (presence: its length, since when everybody seen is in a bucket, and the last merge), `buckets` (slot,
//! beginning and last use of each bucket, oldest first).
//!
//! Each key expires 30 days after the last merge of presence. That collects garbage; nothing depends on it.

use usher_kernel::PerformanceId;

/// The last parts of the keys, in the order in which scripts are told them.
const NAMES: [&str; 18] = [
    "line", "waiting", "away", "inside", "expiries", "done", "expired", "gone", "recent", "merging", "seen:0",
    "seen:1", "seen:2", "seen:3", "seen:4", "seen:5", "seen:6", "seen:7",
];

/// The keys of a line, for every script alike.
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
