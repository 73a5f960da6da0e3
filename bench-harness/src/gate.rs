//! `gate`: did a change make it slower? Paired samples of interleaved runs, judged by bootstrap.
//!
//! Owner: the main thread; the intervals are those of `stats`. Invariants: samples of one round are compared with
//! each other only, so that a drift of the machine falls out; the resampling has a fixed seed, so that the same file
//! always gives the same verdict; several metrics share the error probability (Bonferroni).
//! Must not: call noise a result: too few rounds or too wide an interval is "not decided".

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::error::{BenchError, Result, io_err};
use crate::stats::{self, RatioInterval};

/// Fewest rounds that are judged.
const ROUNDS_MIN: usize = 5;
/// Probability that at least one metric is called changed when nothing is.
const ERROR_PROBABILITY: f64 = 0.05;

/// `gate`
#[derive(Debug, Args)]
pub(crate) struct GateCommand {
    /// Lines of `metric higher|lower round base|change value`; `higher` when more is better.
    #[arg(value_name = "FILE")]
    pub(crate) samples: PathBuf,
    /// Changes smaller than this are not a regression, in percent.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) tolerance: f64,
    /// Intervals wider than this to either side are "not decided", in percent.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) noise_max: f64,
}

/// What a metric comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The interval lies on the good side of 1.
    Better,
    /// No regression beyond the tolerance is shown.
    NoDifference,
    /// Too few rounds or too much noise.
    NotDecided,
    /// The interval lies beyond the tolerance on the bad side.
    Worse,
}

/// Ratio of change to base with its confidence interval; above 1 is better, whatever the metric's direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judgement {
    ratio: f64,
    low: f64,
    high: f64,
    verdict: Verdict,
}

/// Base and change of each round of one metric.
#[derive(Debug, Default)]
struct Metric {
    higher_is_better: bool,
    rounds: BTreeMap<u64, [Option<f64>; 2]>,
}

/// Judges the ratios of the rounds (change over base, turned so that above 1 is better).
pub(crate) fn judge(ratios: &[f64], error_probability: f64, tolerance: f64, noise_max: f64) -> Judgement {
    let count = ratios.len();
    let Some(found) = stats::paired(ratios, error_probability) else {
        return Judgement { ratio: 1.0, low: 0.0, high: f64::INFINITY, verdict: Verdict::NotDecided };
    };
    let RatioInterval { ratio, low, high } = found;
    let verdict = if count < ROUNDS_MIN {
        Verdict::NotDecided
    } else if high < 1.0 - tolerance {
        Verdict::Worse
    } else if low > 1.0 {
        Verdict::Better
    } else if found.width() > noise_max {
        Verdict::NotDecided
    } else {
        Verdict::NoDifference
    };
    Judgement { ratio, low, high, verdict }
}

fn parse(text: &str) -> Result<BTreeMap<String, Metric>> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong =
            || BenchError::Usage(format!("line {}: metric, direction, round, side, value", number + 1));
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, direction, round, side, value] = words[..] else { return Err(wrong()) };
        let higher_is_better = match direction {
            "higher" => true,
            "lower" => false,
            _ => return Err(wrong()),
        };
        let side = match side {
            "base" => 0,
            "change" => 1,
            _ => return Err(wrong()),
        };
        let value: f64 = value.parse().map_err(|_| wrong())?;
        if !(value.is_finite() && value > 0.0) {
            return Err(wrong());
        }
        let metric = metrics.entry(name.to_owned()).or_default();
        metric.higher_is_better = higher_is_better;
        metric.rounds.entry(round.parse().map_err(|_| wrong())?).or_default()[side] = Some(value);
    }
    Ok(metrics)
}

impl Metric {
    fn ratios(&self) -> Vec<f64> {
        let complete = self.rounds.values().filter_map(|[base, change]| Some(((*base)?, (*change)?)));
        complete
            .map(|(base, change)| if self.higher_is_better { change / base } else { base / change })
            .collect()
    }
}

/// `gate`: 0 without a regression, 1 with one, 2 when it cannot be told.
pub(crate) fn command(command: &GateCommand) -> Result<ExitCode> {
    let text = std::fs::read_to_string(&command.samples)
        .map_err(io_err(format!("read {}", command.samples.display())))?;
    let metrics = parse(&text)?;
    if metrics.is_empty() {
        return Err(BenchError::Usage("there are no samples".into()));
    }
    let share = ERROR_PROBABILITY / metrics.len() as f64;
    let mut worst = Verdict::Better;
    println!("| metric | rounds | change / base, above 1 is better | interval | verdict |");
    println!("| --- | ---: | ---: | --- | --- |");
    for (name, metric) in &metrics {
        let ratios = metric.ratios();
        let judged = judge(&ratios, share, command.tolerance / 100.0, command.noise_max / 100.0);
        let words = match judged.verdict {
            Verdict::Better => "better",
            Verdict::NoDifference => "no regression shown",
            Verdict::NotDecided => "not decided",
            Verdict::Worse => "WORSE",
        };
        println!(
            "| {name} | {} | {:.4} | {:.4} – {:.4} | {words} |",
            ratios.len(),
            judged.ratio,
            judged.low,
            judged.high
        );
        worst = worst.max(judged.verdict);
    }
    Ok(ExitCode::from(match worst {
        Verdict::Worse => 1,
        Verdict::NotDecided => 2,
        Verdict::Better | Verdict::NoDifference => 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Roughly normal noise of that relative size.
    fn noise(random: &mut Random, size: f64) -> f64 {
        let sum: f64 = (0..12).map(|_| random.next() as f64 / u64::MAX as f64).sum();
        1.0 + (sum - 6.0) * size
    }

    fn rounds(seed: u64, shift: f64, size: f64, count: usize) -> Vec<f64> {
        let mut random = Random(seed);
        (0..count).map(|_| shift * noise(&mut random, size) / noise(&mut random, size)).collect()
    }

    fn verdicts(shift: f64, size: f64, count: usize) -> [usize; 4] {
        let mut counts = [0; 4];
        for seed in 0..200 {
            counts[judge(&rounds(seed, shift, size, count), 0.05, 0.01, 0.1).verdict as usize] += 1;
        }
        counts
    }

    #[test]
    fn the_same_thing_twice_is_no_regression() {
        let [better, same, open, worse] = verdicts(1.0, 0.02, 8);
        assert!(worse <= 6, "{worse} false alarms in 200");
        assert!(better <= 14 && open == 0 && same >= 180, "{better} {same} {open}");
    }

    #[test]
    fn a_shift_of_five_percent_is_found() {
        let [better, same, _, worse] = verdicts(0.95, 0.01, 8);
        assert!(worse >= 195 && better == 0, "{worse} found, {same} missed");
        let [better, _, _, worse] = verdicts(1.05, 0.01, 8);
        assert!(better >= 195 && worse == 0);
    }

    #[test]
    fn a_drift_of_the_machine_falls_out_because_rounds_are_paired() {
        let mut text = String::new();
        for round in 0..8u64 {
            // The machine gets slower by half, the change is as fast as the base.
            let speed = 4.0 - 0.25 * round as f64;
            text += &format!("gb higher {round} base {speed}\ngb higher {round} change {}\n", speed * 1.001);
        }
        let metrics = parse(&text).unwrap();
        assert_eq!(judge(&metrics["gb"].ratios(), 0.05, 0.01, 0.1).verdict, Verdict::Better);
    }

    #[test]
    fn little_or_noisy_data_decides_nothing() {
        assert_eq!(judge(&[], 0.05, 0.01, 0.1).verdict, Verdict::NotDecided);
        assert_eq!(judge(&[0.5; 4], 0.05, 0.01, 0.1).verdict, Verdict::NotDecided);
        let [_, same, open, _] = verdicts(1.0, 0.4, 5);
        assert!(open > 150, "{open} undecided, {same} the same");
    }

    #[test]
    fn lower_is_better_for_latencies_and_lines_are_checked() {
        let metrics = parse("p99 lower 1 base 10\np99 lower 1 change 20\np99 lower 2 base 5\n").unwrap();
        assert_eq!(metrics["p99"].ratios(), [0.5]);
        for wrong in ["a", "a up 1 base 1", "a lower x base 1", "a lower 1 left 1", "a lower 1 base 0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_file_gives_the_same_verdict() {
        let values = rounds(7, 0.99, 0.03, 9);
        let (a, b) = (judge(&values, 0.05, 0.01, 0.1), judge(&values, 0.05, 0.01, 0.1));
        assert!(a.low == b.low && a.high == b.high);
    }
}
