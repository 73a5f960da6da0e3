//! A run's phase second by second, its rounds end to end.
//!
//! Owner: `chart`. Invariants: columns that are joined to fit keep the quantiles of all their samples and the largest
//! value. Must not: draw.

use hdrhistogram::Histogram;

use super::Mark;
use crate::hlog::{self, Interval};
use crate::limits::CHART_COLUMNS_MAX;
use crate::runs::{Phase, Run, Series};

/// Columns of one phase.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    /// Start of each column, in seconds of measured time.
    pub(crate) seconds: Vec<f64>,
    /// Samples of each column, by the tag asked for.
    pub(crate) latency: Vec<Option<Histogram<u64>>>,
    /// Records acknowledged a second, or received where nothing is produced.
    pub(crate) records_per_s: Vec<Option<f64>>,
    /// Whether those come from the series, not from the number of samples.
    pub(crate) counted: bool,
    /// Cores of the server.
    pub(crate) server_cores: Vec<Option<f64>>,
    /// Cores of the harness.
    pub(crate) harness_cores: Vec<Option<f64>>,
    /// Records not yet read by the consumers.
    pub(crate) lag_records: Vec<Option<f64>>,
    /// Busy share of each core.
    pub(crate) cores: Vec<Vec<Option<f64>>>,
    /// Where rounds begin, when there are several.
    pub(crate) marks: Vec<Mark>,
}

/// Reads the columns of a phase and a tag.
pub(crate) fn timeline(run: &Run, phase: &str, tag: &str) -> Timeline {
    let phases = run.phase(phase);
    let lengths: Vec<usize> = phases.iter().map(|phase| seconds_of(phase, tag)).collect();
    let total: usize = lengths.iter().sum();
    let step = total.div_ceil(CHART_COLUMNS_MAX).max(1);
    let mut out = Timeline::default();
    let mut start = 0;
    for (round, (phase, length)) in phases.iter().zip(&lengths).enumerate() {
        if lengths.len() > 1 {
            out.marks.push(Mark { at: start as f64, text: format!("round {}", round + 1) });
        }
        add_round(&mut out, phase, tag, (start, *length, step));
        start += length;
    }
    out
}

fn seconds_of(phase: &Phase, tag: &str) -> usize {
    let log = phase.log.as_ref().filter(|log| log.timed);
    let last = log.and_then(|log| log.tags.get(tag)).and_then(|intervals| intervals.last());
    let logged = last.map_or(0.0, |last| last.start_s + last.length_s);
    let series = phase.series.as_ref().and_then(|series| series.second.last()).map_or(0.0, |last| last + 1.0);
    logged.max(series).ceil() as usize
}

fn add_round(out: &mut Timeline, phase: &Phase, tag: &str, (start, length, step): (usize, usize, usize)) {
    let no_intervals = Vec::new();
    let log = phase.log.as_ref().filter(|log| log.timed);
    let intervals = log.and_then(|log| log.tags.get(tag)).unwrap_or(&no_intervals);
    let series = phase.series.as_ref();
    let records = records_column(phase);
    out.counted |= records.is_some();
    let per_sample = records_per_sample(phase, intervals);
    for from in (0..length).step_by(step) {
        let to = (from + step).min(length);
        let inside = |second: f64| second >= from as f64 && second < to as f64;
        let here: Vec<&Interval> =
            intervals.iter().filter(|one| inside(one.start_s + one.length_s / 2.0)).collect();
        let (values, _) = hlog::merged(here.iter().copied());
        let span: f64 = here.iter().map(|one| one.length_s).sum();
        let samples = values.len() as f64;
        let mean = |name: &str| column_mean(series, series.and_then(|s| s.column(name)), &inside);
        out.seconds.push((start + from) as f64);
        out.records_per_s.push(match records {
            Some(name) => mean(name),
            None => per_sample.filter(|_| span > 0.0).map(|each| samples * each / span),
        });
        out.latency.push((!values.is_empty()).then_some(values));
        out.server_cores.push(mean("server_cores"));
        out.harness_cores.push(mean("harness_cores"));
        out.lag_records.push(mean("lag_records"));
        let cores = series.map(Series::cores).unwrap_or_default();
        for (core, cells) in cores.iter().enumerate() {
            if out.cores.len() <= core {
                out.cores.push(vec![None; out.seconds.len() - 1]);
            }
            out.cores[core].push(column_mean(series, Some(cells), &inside));
        }
        for cells in &mut out.cores {
            cells.resize(out.seconds.len(), None);
        }
    }
}

/// The column that counts records, if the series has one.
fn records_column(phase: &Phase) -> Option<&'static str> {
    let series = phase.series.as_ref()?;
    let known =
        |name: &&str| series.column(name).is_some_and(|cells| cells.iter().flatten().any(|v| *v > 0.0));
    ["acked_records", "consumed_records"].into_iter().find(known)
}

/// Without a series the number of samples stands for that of requests.
fn records_per_sample(phase: &Phase, intervals: &[Interval]) -> Option<f64> {
    let samples: u64 = intervals.iter().flat_map(|one| &one.counts).map(|(_, count)| count).sum();
    let seconds = phase.info.as_ref().map(|info| info.seconds)?;
    (samples > 0 && seconds > 0.0).then_some(phase.records_per_s()? * seconds / samples as f64)
}

fn column_mean(
    series: Option<&Series>,
    cells: Option<&[Option<f64>]>,
    inside: &dyn Fn(f64) -> bool,
) -> Option<f64> {
    let (series, cells) = (series?, cells?);
    let known: Vec<f64> = series
        .second
        .iter()
        .zip(cells)
        .filter(|(second, _)| inside(**second))
        .filter_map(|(_, cell)| *cell)
        .collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}
