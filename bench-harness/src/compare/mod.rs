//! `compare`: is B faster than A, and how sure is that?
//!
//! Owner: the main thread. A is the base; each further run is compared with it. Exit status: 0 no difference shown or
//! faster, 1 slower, 2 undecided, 3 not comparable. Invariants: what is not comparable is refused, or labelled in
//! every output; every interval says what noise it has seen. Must not: average quantiles, or hide a metric.

mod comparable;
mod judge;
#[cfg(test)]
mod tests;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use self::comparable::Difference;
pub(crate) use self::judge::{Method, Row, Rules, Verdict};
pub(crate) use self::text::{css_class, delta, figure, method_words, phrase, sentence, word};
use crate::chart;
use crate::error::{BenchError, Result, io_err};
use crate::report::write_json;
use crate::runs::{self, Run};

/// Exit status for runs that may not be compared.
const NOT_COMPARABLE: u8 = 3;

/// What a value of 1 stands for in files that do not say.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Unit {
    /// Nanoseconds.
    Ns,
    /// Microseconds, as OMB and wrk2 record.
    Us,
    /// Milliseconds, as percentile tables are often printed.
    Ms,
    /// Seconds.
    S,
}

impl Unit {
    /// Nanoseconds in one.
    pub(crate) fn ns(self) -> f64 {
        match self {
            Self::Ns => 1.0,
            Self::Us => 1e3,
            Self::Ms => 1e6,
            Self::S => 1e9,
        }
    }
}

/// `compare`
#[derive(Debug, Args)]
pub(crate) struct CompareRunsCommand {
    /// Run folders, folders of `round-N`, folders of `compare-endpoints` (`FOLDER@ENDPOINT` for one of them), `.hlog`
    /// and `.hgrm` files; `NAME=` in front renames. The first one is the base
    #[arg(required = true, value_name = "[NAME=]RUN")]
    pub(crate) runs: Vec<String>,
    /// Compare although the runs are not comparable; everything printed then says so.
    #[arg(long)]
    pub(crate) force: bool,
    /// Only these phases.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) phases: Vec<String>,
    /// This kind of latency instead of response (open loop) or service (closed loop).
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Unit of bare histogram files.
    #[arg(long, value_enum, default_value = "ns")]
    pub(crate) unit: Unit,
    /// Differences below this are none, in percent.
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    pub(crate) tolerance: f64,
    /// Intervals wider than this to either side decide nothing, in percent.
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
    pub(crate) width_max: f64,
    /// Probability of any false verdict when nothing differs, in percent.
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    pub(crate) error_probability: f64,
    /// Paired rounds from which run-to-run noise counts as seen.
    #[arg(long, default_value_t = judge::ROUNDS_MIN, value_name = "N")]
    pub(crate) rounds_min: usize,
    /// Let intervals that saw only the noise within the runs decide the exit status.
    #[arg(long)]
    pub(crate) accept_within_run: bool,
    /// Write the comparison as JSON; `-` for standard output, without the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the overlaid percentile curves as SVG; with several phases their names are put into the file's.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// The same as PNG.
    #[arg(long, value_name = "FILE")]
    pub(crate) png: Option<PathBuf>,
}

/// One run against the base.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// The base's name.
    pub(crate) base: String,
    /// The other's.
    pub(crate) other: String,
    /// Rounds on each side.
    pub(crate) rounds: (usize, usize),
    /// Where the intervals come from.
    pub(crate) method: Method,
    /// What differs and matters.
    pub(crate) differences: Vec<Difference>,
    /// Compared although refused.
    pub(crate) forced: bool,
    /// Every figure; empty when refused.
    pub(crate) rows: Vec<Row>,
    /// All in all; `None` when refused.
    pub(crate) overall: Option<Verdict>,
}

impl Comparison {
    /// Whether a difference forbids it.
    pub(crate) fn refused(&self) -> bool {
        self.differences.iter().any(|difference| difference.refuses)
    }

    fn exit_status(&self, accept_within_run: bool) -> u8 {
        match (self.overall, self.method) {
            (None, _) => NOT_COMPARABLE,
            (Some(_), Method::WithinRuns) if !accept_within_run => 2,
            (Some(Verdict::Slower), _) => 1,
            (Some(Verdict::Undecided | Verdict::Shown), _) => 2,
            (Some(Verdict::Faster | Verdict::NoDifference), _) => 0,
        }
    }
}

/// Phases of both runs, by name; a single one on each side is paired whatever its name.
pub(crate) fn common_phases(base: &Run, other: &Run, wanted: &[String]) -> Vec<(String, String)> {
    let (a, b) = (base.phase_names(), other.phase_names());
    if let ([a], [b]) = (&a[..], &b[..]) {
        return vec![(a.clone(), b.clone())];
    }
    let asked = |name: &String| wanted.is_empty() || wanted.contains(name);
    a.into_iter().filter(|name| b.contains(name) && asked(name)).map(|name| (name.clone(), name)).collect()
}

/// Compares one run with the base.
///
/// # Errors
/// When they have no phase in common.
pub(crate) fn compare(
    base: &Run,
    other: &Run,
    wanted: &[String],
    tag: Option<&str>,
    rules: &Rules,
    force: bool,
) -> Result<Comparison> {
    let phases = common_phases(base, other, wanted);
    if phases.is_empty() {
        let list = |run: &Run| run.phase_names().join(", ");
        return Err(BenchError::Usage(format!(
            "no phase in common: {} has {}; {} has {}",
            base.name,
            list(base),
            other.name,
            list(other)
        )));
    }
    let differences = comparable::check(base, other, &phases);
    let refused = differences.iter().any(|difference| difference.refuses);
    let (rows, method) = if refused && !force {
        (Vec::new(), Method::None)
    } else {
        judge::judge(base, other, &phases, tag, rules)
    };
    let overall = (!refused || force).then(|| judge::overall(&rows));
    Ok(Comparison {
        base: base.name.clone(),
        other: other.name.clone(),
        rounds: (base.rounds.len(), other.rounds.len()),
        method,
        differences,
        forced: refused && force,
        rows,
        overall,
    })
}

impl CompareRunsCommand {
    fn rules(&self) -> Rules {
        Rules {
            error_probability: (self.error_probability / 100.0).clamp(1e-4, 0.5),
            tolerance: self.tolerance / 100.0,
            width_max: self.width_max / 100.0,
            rounds_min: self.rounds_min,
        }
    }
}

/// `compare`
pub(crate) fn command(command: &CompareRunsCommand) -> Result<ExitCode> {
    let runs = runs::open(&command.runs, command.unit.ns())?;
    let [base, others @ ..] = &runs[..] else { unreachable!("clap asks for at least one") };
    if others.is_empty() {
        return Err(BenchError::Usage("one run is no comparison; name at least two".into()));
    }
    let mut comparisons = Vec::new();
    for other in others {
        let tag = command.tag.as_deref();
        comparisons.push(compare(base, other, &command.phases, tag, &command.rules(), command.force)?);
    }
    let json_only = command.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if json_only {
        let text = serde_json::to_string_pretty(&comparisons)
            .map_err(|error| BenchError::Usage(format!("encode: {error}")))?;
        println!("{text}");
    } else {
        comparisons.iter().for_each(|comparison| print!("{}", text::table(comparison)));
        if let Some(path) = &command.json {
            write_json(path, &comparisons)?;
        }
    }
    pictures(command, &runs)?;
    let worst = comparisons.iter().map(|one| match one.exit_status(command.accept_within_run) {
        // In order of how much they ask of the reader.
        0 => (0, 0),
        2 => (1, 2),
        1 => (2, 1),
        other => (3, other),
    });
    Ok(ExitCode::from(worst.max().map_or(2, |(_, status)| status)))
}

/// Percentile curves of all runs, a file for each phase.
fn pictures(command: &CompareRunsCommand, runs: &[Run]) -> Result<()> {
    if command.svg.is_none() && command.png.is_none() {
        return Ok(());
    }
    let mut phases = common_phases(&runs[0], &runs[1], &command.phases);
    if let Some(tag) = &command.tag {
        phases.retain(|(left, _)| runs[0].tags(left).contains(tag));
    }
    for (phase, _) in &phases {
        let Some(svg) = chart::standalone(runs, phase, command.tag.as_deref()) else { continue };
        let named = |path: &PathBuf| match phases.len() {
            1 => path.clone(),
            _ => {
                let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
                let end = path.extension().map(|end| end.to_string_lossy().into_owned());
                path.with_file_name(format!(
                    "{}-{phase}.{}",
                    stem.unwrap_or_default(),
                    end.unwrap_or_default()
                ))
            }
        };
        if let Some(path) = command.svg.as_ref().map(named) {
            std::fs::write(&path, &svg).map_err(io_err(format!("write {}", path.display())))?;
        }
        if let Some(path) = command.png.as_ref().map(named) {
            chart::write_png(&svg, &path)?;
        }
    }
    Ok(())
}
