//! Log-linear buckets: 32 to each power of two, so that a bucket is at most 1/32 of its value wide.
//!
//! Owner: nobody; pure functions. Invariants: every value has exactly one bucket; values from 2^36 ns (68 s) on
//! share the last one; a power of two is always a bucket's lower bound.
//! It must not hold state.

/// Buckets to each power of two.
const SUB_BUCKETS: usize = 1 << SUB_BITS;
const SUB_BITS: u32 = 5;
/// Values from this power of two on share the last bucket.
const TOP_BITS: u32 = 36;

/// Buckets of one histogram.
pub const BUCKETS: usize = ((TOP_BITS - SUB_BITS + 1) as usize) * SUB_BUCKETS;

/// The bucket of a value.
pub fn bucket_of(value: u64) -> usize {
    if value < SUB_BUCKETS as u64 {
        return value as usize;
    }
    let power = 63 - value.leading_zeros();
    let shift = power - SUB_BITS;
    // The leading one is bit 5 of the shifted value: it makes the step from one power to the next.
    let bucket = ((shift as usize) << SUB_BITS) + (value >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

/// The largest value of a bucket (of the last: of the range it would have).
pub fn bucket_top(bucket: usize) -> u64 {
    let step = bucket >> SUB_BITS;
    if step == 0 {
        return bucket as u64;
    }
    let shift = step - 1;
    let lead = ((bucket & (SUB_BUCKETS - 1)) | SUB_BUCKETS) as u64;
    ((lead + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_and_are_narrow() {
        let mut below = None;
        for bucket in 0..BUCKETS {
            let top = bucket_top(bucket);
            let bottom = below.map_or(0, |below: u64| below + 1);
            assert_eq!((bucket_of(bottom), bucket_of(top)), (bucket, bucket));
            assert!(top - bottom <= bottom / 32, "{bottom} to {top}");
            below = Some(top);
        }
        assert_eq!(below, Some((1 << TOP_BITS) - 1));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        for power in 0..TOP_BITS {
            assert_ne!(bucket_of((1u64 << power) - 1), bucket_of(1 << power));
        }
    }
}
