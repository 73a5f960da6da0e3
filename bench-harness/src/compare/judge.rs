//! From two runs to figures, intervals and verdicts.
//!
//! Owner: `compare`. Invariants: rounds are compared in pairs, in their order; a quantile is read from all samples
//! of its round; all verdicts of a comparison share one error probability (Bonferroni); with too few rounds
//! only the noise inside the runs is seen, and the method says so.
//! Must not: call a difference real that is smaller than the tolerance, or decide what the data cannot.

use serde::Serialize;

use crate::hlog::{self, Counts, Interval};
use crate::runs::{Phase, Run, primary_tags};
use crate::stats::{self, Parts, RatioInterval};

/// Fewest paired rounds whose spread stands for that of all runs.
pub(crate) const ROUNDS_MIN: usize = 5;
/// Quantiles compared; the largest value is shown beside them and never judged.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
/// Samples beyond a quantile that a round must have for it to be judged.
const SAMPLES_BEYOND_MIN: f64 = 10.0;
/// Metrics without which a comparison is not decided.
const DECIDING: [&str; 3] = ["records/s", "p50", "p99"];

/// What the intervals come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// Paired rounds: sees what differs from run to run.
    PairedRounds,
    /// The one-second intervals of the runs: does not.
    WithinRuns,
    /// One number on each side.
    None,
}

/// What a metric comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Better, by more than the tolerance and the noise.
    Faster,
    /// The interval holds 1 and is narrow, or the difference is below the tolerance.
    NoDifference,
    /// The interval is too wide to tell.
    Undecided,
    /// Worse.
    Slower,
    /// Not judged: too few samples, or the largest value.
    Shown,
}

/// How strict to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Probability of any false verdict when nothing differs.
    pub(crate) error_probability: f64,
    /// Differences below this share are none.
    pub(crate) tolerance: f64,
    /// Intervals wider than this share decide nothing.
    pub(crate) width_max: f64,
    /// Pairs from which rounds are resampled.
    pub(crate) rounds_min: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self { error_probability: 0.05, tolerance: 0.01, width_max: 0.1, rounds_min: ROUNDS_MIN }
    }
}

/// One figure of one phase on both sides.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// Phase of the base.
    pub(crate) phase: String,
    /// Kind of latency; `None` for throughput.
    pub(crate) tag: Option<String>,
    /// Name of the figure.
    pub(crate) metric: &'static str,
    /// The base: median of its rounds.
    pub(crate) base: f64,
    /// The other one's.
    pub(crate) other: f64,
    /// Other over base: mean of the pairs.
    pub(crate) ratio: f64,
    /// Ends of its interval; `None` without one.
    pub(crate) interval: Option<(f64, f64)>,
    /// In words.
    pub(crate) verdict: Verdict,
}

/// A metric before it is judged.
struct Measured {
    phase: String,
    tag: Option<String>,
    metric: &'static str,
    higher_is_better: bool,
    judged: bool,
    base: Vec<f64>,
    other: Vec<f64>,
    /// Position among the within-run intervals of its tag.
    within: Option<(usize, usize)>,
}

/// The intervals of one tag on both sides, for resampling inside the runs.
type Pair = (Parts, Parts);

/// All rows of a comparison, and how their intervals were found.
pub(crate) fn judge(
    base: &Run,
    other: &Run,
    phases: &[(String, String)],
    tag: Option<&str>,
    rules: &Rules,
) -> (Vec<Row>, Method) {
    let mut measured = Vec::new();
    let mut parts: Vec<Pair> = Vec::new();
    for (left, right) in phases {
        measure(base, other, (left, right), tag, &mut measured, &mut parts);
    }
    let pairs = base.rounds.len().min(other.rounds.len());
    let judged = measured.iter().filter(|metric| metric.judged).count().max(1);
    let share = rules.error_probability / judged as f64;
    if pairs >= rules.rounds_min.max(2) {
        let rows = measured.iter().map(|metric| {
            let ratios: Vec<f64> =
                metric.base.iter().zip(&metric.other).map(|(base, other)| other / base).collect();
            row(metric, stats::paired(&ratios, share), rules)
        });
        return (rows.collect(), Method::PairedRounds);
    }
    let quantiles: Vec<f64> = QUANTILES.iter().map(|(_, q)| *q).chain([1.0]).collect();
    let within: Vec<Option<Vec<RatioInterval>>> =
        parts.iter().map(|(a, b)| stats::within_runs(a, b, &quantiles, share)).collect();
    let method = if within.iter().any(Option::is_some) { Method::WithinRuns } else { Method::None };
    let rows = measured.iter().map(|metric| {
        let found = metric.within.and_then(|(tag, at)| within[tag].as_ref().map(|list| list[at]));
        // Of throughput the summary has the exact figure; the number of samples only shows its noise.
        let centre = median(&metric.other) / median(&metric.base);
        let found = found.map(|found| if metric.tag.is_none() { found.around(centre) } else { found });
        row(metric, found, rules)
    });
    (rows.collect(), method)
}

fn median(values: &[f64]) -> f64 {
    crate::suite::median(&mut values.to_vec()).unwrap_or(f64::NAN)
}

fn row(metric: &Measured, found: Option<RatioInterval>, rules: &Rules) -> Row {
    let (base, other) = (median(&metric.base), median(&metric.other));
    let interval = found.filter(|found| found.low > 0.0 && found.high.is_finite());
    let ratio = found.map_or(other / base, |found| found.ratio);
    let verdict = match interval {
        _ if !metric.judged => Verdict::Shown,
        None => Verdict::Undecided,
        Some(found) if found.excludes_one() => {
            let better = (ratio > 1.0) == metric.higher_is_better;
            match (ratio.ln().abs() < (1.0 + rules.tolerance).ln(), better) {
                (true, _) => Verdict::NoDifference,
                (false, true) => Verdict::Faster,
                (false, false) => Verdict::Slower,
            }
        }
        Some(found) if found.width() > rules.width_max => Verdict::Undecided,
        Some(_) => Verdict::NoDifference,
    };
    Row {
        phase: metric.phase.clone(),
        tag: metric.tag.clone(),
        metric: metric.metric,
        base,
        other,
        ratio,
        interval: interval.map(|found| (found.low, found.high)),
        verdict,
    }
}

/// Collects the figures of one phase that both sides have.
fn measure(
    base: &Run,
    other: &Run,
    (left, right): (&str, &str),
    tag: Option<&str>,
    out: &mut Vec<Measured>,
    parts: &mut Vec<Pair>,
) {
    let (a, b) = (base.phase(left), other.phase(right));
    let pairs = a.len().min(b.len());
    if pairs == 0 {
        return;
    }
    let (a, b) = (&a[..pairs], &b[..pairs]);
    let tags = common_tags(base, other, (left, right), a[0].is_open_loop() && b[0].is_open_loop(), tag);
    let first_part = parts.len();
    for (in_a, in_b) in &tags {
        let histograms: Vec<_> =
            a.iter().zip(b).filter_map(|(a, b)| Some((a.pooled(in_a)?, b.pooled(in_b)?))).collect();
        if histograms.is_empty() {
            continue;
        }
        parts.push((parts_of(a, in_a), parts_of(b, in_b)));
        let named = QUANTILES.iter().copied().chain([("max", 1.0)]).enumerate();
        for (index, (metric, quantile)) in named {
            let read = |samples: &Counts| hlog::quantile(samples, quantile).max(1) as f64;
            let total = |samples: &Counts| samples.iter().map(|(_, count)| count).sum::<u64>();
            let enough = histograms
                .iter()
                .all(|(a, b)| total(a).min(total(b)) as f64 * (1.0 - quantile) >= SAMPLES_BEYOND_MIN);
            out.push(Measured {
                phase: left.to_owned(),
                tag: Some(if in_a == in_b { in_a.clone() } else { format!("{in_a}/{in_b}") }),
                metric,
                higher_is_better: false,
                judged: enough && metric != "max",
                base: histograms.iter().map(|(a, _)| read(a)).collect(),
                other: histograms.iter().map(|(_, b)| read(b)).collect(),
                within: Some((parts.len() - 1, index + 1)),
            });
        }
    }
    let rates: Vec<(f64, f64)> =
        a.iter().zip(b).filter_map(|(a, b)| Some((a.records_per_s()?, b.records_per_s()?))).collect();
    if rates.len() == pairs && rates.iter().all(|(a, b)| *a > 0.0 && *b > 0.0) {
        let at = out.iter().position(|metric| metric.phase == left).unwrap_or(out.len());
        out.insert(
            at,
            Measured {
                phase: left.to_owned(),
                tag: None,
                metric: "records/s",
                higher_is_better: true,
                judged: true,
                base: rates.iter().map(|(a, _)| *a).collect(),
                other: rates.iter().map(|(_, b)| *b).collect(),
                // The number of samples stands for that of records: requests are of one size.
                within: (parts.len() > first_part).then_some((first_part, 0)),
            },
        );
    }
}

fn parts_of(phases: &[&Phase], tag: &str) -> Parts {
    let logs = phases.iter().filter_map(|phase| phase.log.as_ref()).filter(|log| log.timed);
    let intervals: Vec<&Interval> = logs.filter_map(|log| log.tags.get(tag)).flatten().collect();
    let slices: Vec<&[(u64, u64)]> = intervals.iter().map(|interval| interval.counts.as_slice()).collect();
    Parts::new(&slices)
}

/// The tags to compare: the one asked for, else those that stand for the phase on both sides, else the first of each.
fn common_tags(
    base: &Run,
    other: &Run,
    (left, right): (&str, &str),
    open_loop: bool,
    wanted: Option<&str>,
) -> Vec<(String, String)> {
    if let Some(wanted) = wanted {
        return vec![(wanted.to_owned(), wanted.to_owned())];
    }
    let a = primary_tags(&base.tags(left), open_loop);
    let b = primary_tags(&other.tags(right), open_loop);
    let both: Vec<(String, String)> =
        a.iter().filter(|tag| b.contains(tag)).map(|tag| (tag.clone(), tag.clone())).collect();
    match (both.is_empty(), a.first(), b.first()) {
        (true, Some(a), Some(b)) => vec![(a.clone(), b.clone())],
        _ => both,
    }
}

/// The comparison as a whole: slower if anything is, undecided if something that decides is, faster if anything is.
pub(crate) fn overall(rows: &[Row]) -> Verdict {
    let any = |verdict: Verdict| rows.iter().any(|row| row.verdict == verdict);
    let open = rows.iter().any(|row| row.verdict == Verdict::Undecided && DECIDING.contains(&row.metric));
    let nothing = rows.iter().all(|row| row.verdict == Verdict::Shown);
    match () {
        () if any(Verdict::Slower) => Verdict::Slower,
        () if open || nothing => Verdict::Undecided,
        () if any(Verdict::Faster) => Verdict::Faster,
        () => Verdict::NoDifference,
    }
}
