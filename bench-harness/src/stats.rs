//! Statistics of comparisons: bootstrap intervals for ratios, over paired rounds and within one run.
//!
//! Owner: `gate`, `compare`; pure arithmetic. Invariants: the resampling has a fixed seed, so that the same data
//! always give the same interval; ratios are averaged on the log scale, so that A against B is the inverse of B
//! against A; quantiles are read from pooled samples, never averaged inside a round.
//! Must not: give an interval where there is nothing to resample.

use crate::random::Random;

/// Bootstrap resamples of rounds.
const RESAMPLES: usize = 20_000;
/// Bootstrap resamples of the intervals of a run: each reads quantiles of the whole.
const BLOCK_RESAMPLES: usize = 2_000;
/// Parts a run is cut into at most: longer runs get longer parts.
const PARTS_MAX: usize = 64;
/// Fewest intervals of a run that are resampled.
pub(crate) const PARTS_MIN: usize = 8;
/// Degrees of freedom at which Student's t is as good as normal.
const NORMAL_DEGREES: usize = 2_000;

/// A ratio with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RatioInterval {
    /// Geometric mean of the rounds, or the ratio of the whole runs.
    pub(crate) ratio: f64,
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

impl RatioInterval {
    /// Distance of the farther end from the ratio, as a share of it.
    pub(crate) fn width(&self) -> f64 {
        (self.high / self.ratio - 1.0).max(1.0 - self.low / self.ratio)
    }

    /// The same interval around another ratio.
    pub(crate) fn around(self, ratio: f64) -> Self {
        Self { ratio, low: self.low / self.ratio * ratio, high: self.high / self.ratio * ratio }
    }

    /// The same interval of the inverse ratio.
    #[cfg(test)]
    pub(crate) fn inverse(self) -> Self {
        Self { ratio: 1.0 / self.ratio, low: 1.0 / self.high, high: 1.0 / self.low }
    }

    /// Whether 1 lies outside.
    pub(crate) fn excludes_one(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }
}

/// P(|T| < t) for Student's t with whole degrees of freedom: the finite sums over powers of a cosine.
fn t_inside(t: f64, degrees: usize) -> f64 {
    let angle = (t / (degrees as f64).sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let first = if degrees.is_multiple_of(2) { 2 } else { 3 };
    let mut term = if first == 2 { 1.0 } else { cos };
    let mut sum = if degrees == 1 { 0.0 } else { term };
    let mut k = first;
    while k < degrees {
        term *= cos * cos * (k - 1) as f64 / k as f64;
        sum += term;
        k += 2;
    }
    if first == 2 { sin * sum } else { std::f64::consts::FRAC_2_PI * (angle + sin * sum) }
}

/// The t beyond which, to both sides together, lies `error_probability`.
pub(crate) fn t_two_sided(error_probability: f64, degrees: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if t_inside(middle, degrees) < 1.0 - error_probability { low = middle } else { high = middle }
    }
    high
}

/// By how much a percentile interval of `count` samples is too narrow: resampling sees n - 1 of n parts of the
/// variance, and knows nothing of the error of the variance itself (Hesterberg 2015, "expanded percentile").
fn widening(count: usize, error_probability: f64) -> f64 {
    let degrees = count.saturating_sub(1).max(1);
    let student = t_two_sided(error_probability, degrees) / t_two_sided(error_probability, NORMAL_DEGREES);
    (count as f64 / degrees as f64).sqrt() * student.max(1.0)
}

/// The interval of `centre` (log scale) from its resampled values.
fn interval(centre: f64, mut resampled: Vec<f64>, count: usize, error_probability: f64) -> RatioInterval {
    resampled.sort_by(f64::total_cmp);
    let widen = widening(count, error_probability);
    let at = |share: f64| {
        let value = resampled[((resampled.len() - 1) as f64 * share).round() as usize];
        (centre + (value - centre) * widen).exp()
    };
    let (low, high) = (at(error_probability / 2.0), at(1.0 - error_probability / 2.0));
    // Rounding of logarithms must not put the estimate outside of its own interval.
    let ratio = centre.exp();
    RatioInterval { ratio, low: low.min(ratio), high: high.max(ratio) }
}

/// The mean ratio of paired rounds and its interval; `None` without rounds. One round has no interval: (0, inf).
pub(crate) fn paired(ratios: &[f64], error_probability: f64) -> Option<RatioInterval> {
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let count = logs.len();
    let mean = logs.iter().sum::<f64>() / count as f64;
    match count {
        0 => return None,
        1 => return Some(RatioInterval { ratio: mean.exp(), low: 0.0, high: f64::INFINITY }),
        _ => {}
    }
    let mut random = Random(0x5eed);
    let means = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| logs[random.below(count)]).sum::<f64>() / count as f64)
        .collect();
    Some(interval(mean, means, count, error_probability))
}

/// The samples of a run, cut into consecutive parts, ready to be resampled.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// Distinct values, ascending.
    values: Vec<u64>,
    /// For each part the count of each value.
    counts: Vec<Vec<u64>>,
    /// Intervals that went into the parts.
    intervals: usize,
}

impl Parts {
    /// Parts from the `(value, count)` lists of consecutive intervals of equal length.
    pub(crate) fn new(intervals: &[&[(u64, u64)]]) -> Self {
        let mut values: Vec<u64> = intervals.iter().flat_map(|pairs| pairs.iter().map(|p| p.0)).collect();
        values.sort_unstable();
        values.dedup();
        let group = intervals.len().div_ceil(PARTS_MAX).max(1);
        let mut counts = vec![vec![0; values.len()]; intervals.len().div_ceil(group)];
        for (index, pairs) in intervals.iter().enumerate() {
            for (value, count) in *pairs {
                let at = values.binary_search(value).expect("every value was collected above");
                counts[index / group][at] += count;
            }
        }
        Self { values, counts, intervals: intervals.len() }
    }

    /// How many parts there are.
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Sample count, then the quantiles, of the parts named, each as often as it is named.
    fn read(&self, chosen: impl Iterator<Item = usize>, quantiles: &[f64]) -> Vec<f64> {
        let mut sum = vec![0u64; self.values.len()];
        for part in chosen {
            for (total, count) in sum.iter_mut().zip(&self.counts[part]) {
                *total += count;
            }
        }
        let total: u64 = sum.iter().sum();
        let mut out = vec![total as f64];
        let mut quantiles = quantiles.iter().map(|q| ((total as f64 * q).ceil() as u64).max(1)).peekable();
        let mut seen = 0;
        for (value, count) in self.values.iter().zip(&sum) {
            seen += count;
            while quantiles.next_if(|wanted| *wanted <= seen).is_some() {
                out.push((*value).max(1) as f64);
            }
        }
        out.extend(quantiles.map(|_| f64::NAN));
        out
    }

    /// A circular moving-block resample: neighbouring seconds stay together, as their noise does.
    fn resample(&self, random: &mut Random, quantiles: &[f64]) -> Vec<f64> {
        let count = self.len();
        let block = (count as f64).cbrt().ceil() as usize;
        let starts: Vec<usize> = (0..count.div_ceil(block)).map(|_| random.below(count)).collect();
        self.read((0..count).map(|k| (starts[k / block] + k % block) % count), quantiles)
    }
}

/// Ratios `b / a` of sample counts and of quantiles (ascending), with intervals from the noise inside the two runs
/// only; `None` when a run has too few intervals or no samples.
pub(crate) fn within_runs(
    a: &Parts,
    b: &Parts,
    quantiles: &[f64],
    error_probability: f64,
) -> Option<Vec<RatioInterval>> {
    let count = a.len().min(b.len());
    if count < PARTS_MIN {
        return None;
    }
    let ratio = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| (b / a).ln()).collect() };
    let centre = ratio(&a.read(0..a.len(), quantiles), &b.read(0..b.len(), quantiles));
    if centre.iter().any(|value| !value.is_finite()) {
        return None;
    }
    // Counts of runs of different lengths are compared per interval.
    let lengths = (a.intervals as f64 / b.intervals as f64).ln();
    let mut random = Random(0x5eed);
    let mut resampled: Vec<Vec<f64>> = vec![Vec::with_capacity(BLOCK_RESAMPLES); centre.len()];
    for _ in 0..BLOCK_RESAMPLES {
        let values = ratio(&a.resample(&mut random, quantiles), &b.resample(&mut random, quantiles));
        for ((into, value), centre) in resampled.iter_mut().zip(values).zip(&centre) {
            into.push(if value.is_finite() { value } else { *centre });
        }
    }
    let intervals = centre.iter().zip(resampled).enumerate().map(|(index, (centre, values))| {
        let shift = if index == 0 { lengths } else { 0.0 };
        let values = values.into_iter().map(|value| value + shift).collect();
        interval(centre + shift, values, count, error_probability)
    });
    Some(intervals.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_t_agrees_with_the_tables() {
        for (error, degrees, table) in
            [(0.05, 1, 12.706), (0.05, 2, 4.303), (0.05, 4, 2.776), (0.01, 9, 3.250), (0.05, 30, 2.042)]
        {
            let t = t_two_sided(error, degrees);
            assert!((t - table).abs() < 0.001, "{error} {degrees}: {t}");
        }
        assert!((t_two_sided(0.05, NORMAL_DEGREES) - 1.961).abs() < 0.001);
    }

    #[test]
    fn a_ratio_and_its_inverse_agree() {
        let ratios = [1.1, 0.95, 1.2, 1.05, 1.0, 1.3];
        let inverse: Vec<f64> = ratios.iter().map(|ratio| 1.0 / ratio).collect();
        let (a, b) = (paired(&ratios, 0.05).unwrap(), paired(&inverse, 0.05).unwrap().inverse());
        assert!((a.ratio - b.ratio).abs() < 1e-9);
        assert!((a.low / b.low - 1.0).abs() < 0.01 && (a.high / b.high - 1.0).abs() < 0.01, "{a:?} {b:?}");
    }

    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        for count in [5, 6, 10] {
            let mut missed = 0;
            for seed in 0..300 {
                let mut random = Random(seed * 7919 + count as u64);
                let ratios: Vec<f64> = (0..count)
                    .map(|_| ((0..12).map(|_| random.unit()).sum::<f64>() - 6.0) * 0.03)
                    .map(|noise| (0.1 + noise).exp())
                    .collect();
                let judged = paired(&ratios, 0.05).unwrap();
                missed += usize::from(judged.low > 0.1f64.exp() || judged.high < 0.1f64.exp());
            }
            // 15 expected of 300.
            assert!((5..=24).contains(&missed), "{missed} of 300 missed with {count} rounds");
        }
    }

    #[test]
    fn quantiles_of_parts_are_those_of_all_samples() {
        let intervals: Vec<Vec<(u64, u64)>> = (0..100u64).map(|k| vec![(k + 1, 1), (1000 + k, 1)]).collect();
        let slices: Vec<&[(u64, u64)]> = intervals.iter().map(Vec::as_slice).collect();
        let parts = Parts::new(&slices);
        assert!(parts.len() <= PARTS_MAX && parts.len() >= PARTS_MAX / 2);
        assert_eq!(parts.read(0..parts.len(), &[0.01, 0.5, 0.995, 1.0]), [200.0, 2.0, 100.0, 1098.0, 1099.0]);
        assert!(within_runs(&parts, &Parts::new(&slices[..3]), &[0.5], 0.05).is_none());
    }
}
