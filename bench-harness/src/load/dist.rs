//! Random choices with known laws: record sizes, keys, and the partition a key belongs to.
//!
//! Owner: the main thread, while a workload is prepared; nothing here runs while it is measured. Invariants: the same
//! seed gives the same load; a key goes to the partition that Kafka's own clients choose. Must not: use a clock or the
//! system's randomness.

use serde::{Deserialize, Serialize};

use crate::error::{BenchError, Result};
use crate::limits::{KEYS_MAX, RECORD_BYTES_MAX};
use crate::random::Random;

/// How large record values are, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "distribution", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Sizes {
    /// All the same.
    Fixed {
        /// Bytes.
        bytes: usize,
    },
    /// Every size of a range is as likely as the others.
    Uniform {
        /// Least.
        min: usize,
        /// Largest.
        max: usize,
    },
    /// The logarithm is normal: many small ones, few large ones.
    Lognormal {
        /// Half of the values are smaller.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
        /// Larger values are cut to this.
        max: usize,
    },
    /// Given sizes with given weights.
    Histogram {
        /// `[bytes, weight]` pairs.
        steps: Vec<(usize, f64)>,
    },
}

impl Sizes {
    /// Refuses what cannot be drawn from.
    pub(crate) fn check(&self) -> Result<()> {
        let good = match self {
            Self::Fixed { bytes } => *bytes <= RECORD_BYTES_MAX,
            Self::Uniform { min, max } => min <= max && *max <= RECORD_BYTES_MAX,
            Self::Lognormal { median, sigma, max } => {
                *median >= 1.0
                    && median.is_finite()
                    && (0.0..10.0).contains(sigma)
                    && *max <= RECORD_BYTES_MAX
            }
            Self::Histogram { steps } => {
                let sum: f64 = steps.iter().map(|(_, weight)| weight).sum();
                let each = |(bytes, weight): &(usize, f64)| *bytes <= RECORD_BYTES_MAX && *weight >= 0.0;
                sum > 0.0 && sum.is_finite() && steps.iter().all(each)
            }
        };
        if good { Ok(()) } else { Err(BenchError::Usage(format!("record sizes make no sense: {self:?}"))) }
    }

    /// The next size.
    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        match self {
            Self::Fixed { bytes } => *bytes,
            Self::Uniform { min, max } => min + (random.unit() * (max - min + 1) as f64) as usize,
            Self::Lognormal { median, sigma, max } => {
                ((median * (sigma * random.normal()).exp()) as usize).clamp(1, (*max).max(1))
            }
            Self::Histogram { steps } => {
                let sum: f64 = steps.iter().map(|(_, weight)| weight).sum();
                let mut left = random.unit() * sum;
                for (bytes, weight) in steps {
                    left -= weight;
                    if left < 0.0 {
                        return *bytes;
                    }
                }
                steps[steps.len() - 1].0
            }
        }
    }

    /// Mean size in bytes, from a sample where there is no formula.
    pub(crate) fn mean(&self) -> f64 {
        match self {
            Self::Fixed { bytes } => *bytes as f64,
            _ => {
                let mut random = Random(1);
                let draws = 20_000;
                (0..draws).map(|_| self.draw(&mut random) as f64).sum::<f64>() / f64::from(draws)
            }
        }
    }
}

/// Which keys records have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(tag = "distribution", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Keys {
    /// None: partitions take turns.
    #[default]
    None,
    /// All keys are as likely.
    Uniform {
        /// Distinct keys.
        count: usize,
    },
    /// The k-th key is as likely as `1 / k^theta`.
    Zipf {
        /// Distinct keys.
        count: usize,
        /// Skew; 0 is uniform, 0.99 that of YCSB.
        theta: f64,
    },
}

/// Draws key numbers.
#[derive(Debug)]
pub(crate) enum KeyPicker {
    /// Of so many.
    Uniform(usize),
    /// By the running sum of the probabilities.
    Table(Vec<f64>),
}

impl Keys {
    /// A picker, or `None` for records without keys.
    ///
    /// # Errors
    /// Without a key to choose, with too many, or with a skew that is no number.
    pub(crate) fn picker(&self) -> Result<Option<KeyPicker>> {
        let count = match self {
            Self::None => return Ok(None),
            Self::Uniform { count } | Self::Zipf { count, .. } => *count,
        };
        if count == 0 || count > KEYS_MAX {
            return Err(BenchError::Usage(format!("1 to {KEYS_MAX} keys, not {count}")));
        }
        match self {
            Self::Zipf { theta, .. } if !(0.0..=10.0).contains(theta) => {
                Err(BenchError::Usage(format!("a zipf theta of {theta} makes no sense")))
            }
            Self::Zipf { theta, .. } => {
                let mut sum = 0.0;
                let table = (1..=count).map(|rank| {
                    sum += (rank as f64).powf(-theta);
                    sum
                });
                Ok(Some(KeyPicker::Table(table.collect())))
            }
            _ => Ok(Some(KeyPicker::Uniform(count))),
        }
    }
}

impl KeyPicker {
    /// The number of the next key; the most frequent is 0.
    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        match self {
            Self::Uniform(count) => ((random.unit() * *count as f64) as usize).min(count - 1),
            Self::Table(table) => {
                let wanted = random.unit() * table[table.len() - 1];
                table.partition_point(|sum| *sum <= wanted).min(table.len() - 1)
            }
        }
    }
}

/// The bytes of a key: its number, spread so that frequent keys are not neighbours.
pub(crate) fn key_bytes(number: usize) -> [u8; 16] {
    let mixed = Random(number as u64).next();
    let mut out = *b"key-000000000000";
    for (index, byte) in out[4..].iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(mixed >> (index * 4)) as usize & 15];
    }
    out
}

/// Murmur2 with the seed Kafka's clients use: decides the partition of a keyed record.
pub(crate) fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key, as the default partitioner of Kafka's clients chooses it.
pub(crate) fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pearson's statistic over its degrees of freedom: near 1 when the law holds, and far above when not.
    fn misfit(counts: &[u64], expected: &[f64]) -> f64 {
        let sum: f64 =
            counts.iter().zip(expected).map(|(got, want)| (*got as f64 - want).powi(2) / want).sum();
        sum / (counts.len() - 1) as f64
    }

    #[test]
    fn murmur2_is_kafkas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn keys_follow_their_law() {
        let draws = 200_000u64;
        for theta in [0.0, 0.5, 0.99, 1.5] {
            let keys =
                if theta == 0.0 { Keys::Uniform { count: 50 } } else { Keys::Zipf { count: 50, theta } };
            let picker = keys.picker().unwrap().unwrap();
            let mut random = Random(7);
            let mut counts = [0u64; 50];
            for _ in 0..draws {
                counts[picker.draw(&mut random)] += 1;
            }
            let weights: Vec<f64> = (1..=50).map(|rank| f64::from(rank).powf(-theta)).collect();
            let sum: f64 = weights.iter().sum();
            let expected: Vec<f64> = weights.iter().map(|weight| weight / sum * draws as f64).collect();
            assert!(misfit(&counts, &expected) < 1.6, "theta {theta}: {}", misfit(&counts, &expected));
            let flat = vec![draws as f64 / 50.0; 50];
            assert_eq!(misfit(&counts, &flat) < 1.6, theta == 0.0, "the test can tell laws apart");
        }
        assert!(Keys::Zipf { count: 0, theta: 1.0 }.picker().is_err());
        assert!(Keys::None.picker().unwrap().is_none());
    }

    #[test]
    fn keys_spread_evenly_over_partitions() {
        let mut counts = [0u64; 12];
        for number in 0..60_000 {
            counts[partition_of(&key_bytes(number), 12)] += 1;
        }
        assert!(misfit(&counts, &[5_000.0; 12]) < 3.0, "{counts:?}");
    }

    #[test]
    fn sizes_follow_their_law() {
        let mut random = Random(3);
        let mut draws = |sizes: &Sizes| -> Vec<usize> {
            sizes.check().unwrap();
            let mut all: Vec<usize> = (0..100_000).map(|_| sizes.draw(&mut random)).collect();
            all.sort_unstable();
            all
        };
        let uniform = draws(&Sizes::Uniform { min: 10, max: 19 });
        let mut counts = [0u64; 10];
        uniform.iter().for_each(|bytes| counts[bytes - 10] += 1);
        assert!(misfit(&counts, &[10_000.0; 10]) < 3.0, "{counts:?}");
        let lognormal = draws(&Sizes::Lognormal { median: 500.0, sigma: 1.0, max: 100_000 });
        // Quantiles of the normal law: e^(0.6745 sigma) is the upper quartile.
        for (at, exact) in [(25_000, 500.0 / 1.963), (50_000, 500.0), (75_000, 500.0 * 1.963)] {
            assert!((lognormal[at] as f64 / exact - 1.0).abs() < 0.03, "{} for {exact}", lognormal[at]);
        }
        let steps = vec![(100, 3.0), (1_000, 1.0)];
        let sizes = Sizes::Histogram { steps };
        let small = draws(&sizes).iter().filter(|bytes| **bytes == 100).count();
        assert!((small as f64 / 75_000.0 - 1.0).abs() < 0.02, "{small}");
        assert!((sizes.mean() / 325.0 - 1.0).abs() < 0.03);
        assert!(Sizes::Uniform { min: 2, max: 1 }.check().is_err());
        assert!(Sizes::Histogram { steps: Vec::new() }.check().is_err());
    }
}
