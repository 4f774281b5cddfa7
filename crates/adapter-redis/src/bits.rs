//! Converts sets of numbers to bitmaps of Redis, and back: bit n is number n, and the first bit of a byte is its
//! highest.

use roaring::{RoaringBitmap, RoaringTreemap};

/// The highest number that a bitmap of Redis can hold: its strings end at 512 MB.
pub(crate) const NUMBER_MAX: u64 = u32::MAX as u64;

/// A longer gap between two numbers ends a segment: its zeros would cost more than a new segment, for which a script
/// makes a call of its own.
const GAP_MAX_BYTES: u64 = 256;
/// The longest segment.
const SEGMENT_MAX_BYTES: usize = 64 * 1024;
/// How much of a bitmap goes to one script call, to bound its time. It covers a line of four million numbers.
const STRETCH_BYTES: u64 = 512 * 1024;

/// A part of a bitmap in which bits are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its offset in the bitmap, in bytes.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// The segments of the bitmap of a set, in order. Numbers above [`NUMBER_MAX`] are left out. O(numbers).
pub(crate) fn segments(numbers: &RoaringTreemap) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for number in numbers.iter().take_while(|number| *number <= NUMBER_MAX) {
        let (byte, bit) = (number / 8, 0x80 >> (number % 8));
        let room = segments.last_mut().and_then(|segment| {
            let index = usize::try_from(byte - segment.offset).ok()?;
            let is_near = byte - segment.offset < segment.bytes.len() as u64 + GAP_MAX_BYTES;
            (is_near && index < SEGMENT_MAX_BYTES).then_some((segment, index))
        });
        match room {
            Some((segment, index)) => {
                if segment.bytes.len() <= index {
                    segment.bytes.resize(index + 1, 0);
                }
                segment.bytes[index] |= bit;
            }
            None => segments.push(Segment { offset: byte, bytes: vec![bit] }),
        }
    }
    segments
}

/// Groups segments into stretches, one for each script call. No segments make one empty stretch, because the call still
/// checks the epoch.
pub(crate) fn stretches(segments: &[Segment]) -> Vec<&[Segment]> {
    let in_one = |one: &Segment, other: &Segment| one.offset / STRETCH_BYTES == other.offset / STRETCH_BYTES;
    let stretches: Vec<_> = segments.chunk_by(in_one).collect();
    if stretches.is_empty() { vec![segments] } else { stretches }
}

/// The set that a bitmap represents. O(size of the bitmap).
pub(crate) fn numbers(bitmap: &[u8]) -> RoaringTreemap {
    let lowest_first: Vec<u8> = bitmap.iter().map(|byte| byte.reverse_bits()).collect();
    let bitmap = RoaringBitmap::from_lsb0_bytes(0, &lowest_first);
    // A treemap with an empty part does not equal an empty treemap.
    RoaringTreemap::from_bitmaps((!bitmap.is_empty()).then_some((0, bitmap)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bitmap in Redis after all segments are written.
    fn written(segments: &[Segment]) -> Vec<u8> {
        let mut bitmap = Vec::new();
        for Segment { offset, bytes } in segments {
            let start = usize::try_from(*offset).unwrap();
            bitmap.resize(bitmap.len().max(start + bytes.len()), 0);
            bitmap[start..start + bytes.len()].copy_from_slice(bytes);
        }
        bitmap
    }

    #[test]
    fn the_first_bit_of_a_byte_is_its_highest() {
        let set: RoaringTreemap = [0, 7, 8, 9_000].into_iter().collect();

        let expected = [Segment { offset: 0, bytes: vec![0x81, 0x80] }, Segment { offset: 1_125, bytes: vec![0x80] }];
        assert_eq!(segments(&set), expected);
    }

    #[test]
    fn a_long_run_is_cut_into_segments() {
        let set: RoaringTreemap = (1..=3_000_000).collect();

        let segments = segments(&set);

        assert_eq!(segments.len(), 6);
        assert!(segments.iter().all(|segment| segment.bytes.len() <= SEGMENT_MAX_BYTES));
        assert_eq!(numbers(&written(&segments)), set);
    }

    #[test]
    fn stretches_are_bounded_and_there_is_always_one() {
        let of_a_stretch = STRETCH_BYTES * 8;
        let sparse: RoaringTreemap = (0..2 * of_a_stretch).step_by(100_000).collect();
        let segments = segments(&sparse);

        let lengths: Vec<_> = stretches(&segments).into_iter().map(<[_]>::len).collect();

        assert_eq!(lengths, [42, 42]);
        assert_eq!(stretches(&[]), [&[]]);
    }

    #[test]
    fn numbers_that_redis_cannot_hold_are_left_out() {
        let set: RoaringTreemap = [NUMBER_MAX, NUMBER_MAX + 1].into_iter().collect();

        assert_eq!(segments(&set), [Segment { offset: NUMBER_MAX / 8, bytes: vec![1] }]);
    }

    proptest! {
        #[test]
        fn written_segments_are_read_back_as_the_same_set(set in prop::collection::btree_set(0_u64..200_000, 0..300)) {
            let set: RoaringTreemap = set.into_iter().collect();
            prop_assert_eq!(numbers(&written(&segments(&set))), set);
        }
    }
}
