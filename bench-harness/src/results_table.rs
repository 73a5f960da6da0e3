//! `results-table`: the table of results in a README, from committed runs and never typed by hand.
//!
//! Owner: the main thread. `index.json` in the folder of results says which runs are shown, and in what words; every
//! figure comes from the runs. Must not: round a figure differently from one run to the next.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use crate::chart::thousands;
use crate::error::{BenchError, Result, io_err};
use crate::report::short_ns;
use crate::runs::{self, Phase, Run, leaves, primary_tags};

const BEGIN: &str = "<!-- results:begin -->\n";
const END: &str = "<!-- results:end -->";

/// `results-table`
#[derive(Debug, Args)]
pub(crate) struct ResultsTableCommand {
    /// Folder of runs, with `index.json`.
    #[arg(default_value = "results")]
    pub(crate) results: PathBuf,
    /// Put the table between the marks of this file instead of printing it.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub(crate) write: Option<PathBuf>,
    /// Exit with 1 when this file holds another table.
    #[arg(long, value_name = "FILE")]
    pub(crate) check: Option<PathBuf>,
}

/// One table.
#[derive(Debug, Deserialize)]
struct Entry {
    /// Folder below the results.
    folder: String,
    /// A sentence in front of it.
    title: String,
    /// How to repeat it.
    command: String,
    /// What readers must know beside the figures.
    #[serde(default)]
    note: String,
    /// What runs made before `--declare` would have declared.
    #[serde(default)]
    flush_policy: Option<String>,
    /// Workloads and their words; empty: all, by name.
    #[serde(default)]
    rows: Vec<RowSpec>,
    /// Runs below `folder`, a line for the last workload of each, in one table.
    #[serde(default)]
    each: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct RowSpec {
    workload: String,
    words: String,
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    crate::suite::median(&mut values.collect::<Vec<_>>())
}

/// Throughput in the direction that a phase loads, in GB/s.
fn gb_per_s(phase: &Phase) -> Option<f64> {
    let info = phase.info.as_ref()?;
    Some(info.produced.as_ref().or(info.consumed.as_ref())?.gb_per_s)
}

fn cores(phases: &[&Phase]) -> Option<f64> {
    median(phases.iter().filter_map(|phase| phase.info.as_ref()?.server_cpu_cores))
}

/// Share of the rate that was published for this load, in percent.
fn published(phases: &[&Phase]) -> Option<f64> {
    let name = format!("in {}", crate::load::stage::PUBLISHED);
    median(phases.iter().filter_map(|phase| {
        let shares = &phase.info.as_ref()?.percent_of;
        Some(*shares.iter().find(|(known, _)| known.starts_with(&name))?.1)
    }))
}

/// Median over the rounds of a quantile of the most telling kind of latency.
fn quantile_ns(run: &Run, phase: &str, quantile: f64) -> Option<f64> {
    let phases = run.phase(phase);
    let tag = primary_tags(&run.tags(phase), phases.first()?.is_open_loop()).pop()?;
    tagged_ns(run, phase, &tag, quantile)
}

/// Median over the rounds of a quantile of one kind of latency; `None` when no round has it.
fn tagged_ns(run: &Run, phase: &str, tag: &str, quantile: f64) -> Option<f64> {
    median(run.phase(phase).iter().filter_map(|phase| {
        let counts = phase.pooled(tag)?;
        Some(crate::hlog::quantile(&counts, quantile) as f64)
    }))
}

fn limit_text(run: &Run, phase: &str) -> String {
    run.binding_limit(phase).map_or("–".into(), |(name, share)| {
        let limit = name.split_once(' ').map_or(name.as_str(), |(_, limit)| limit);
        format!("{share:.0} % of the {limit}")
    })
}

/// Two runs beside each other: the first one's figures, and how they stand to the last one's.
fn versus(out: &mut String, runs: &[Run], rows: &[RowSpec]) {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return };
    // Writing to a String cannot fail.
    writeln!(
        out,
        "| workload | figure | {} | {} | ratio | {} reached | server cores |\n\
         | --- | --- | ---: | ---: | ---: | --- | --- |",
        first.name, last.name, first.name
    )
    .ok();
    for row in rows {
        let (a, b) = (first.phase(&row.workload), last.phase(&row.workload));
        let (Some(phase), false) = (a.first(), b.is_empty()) else { continue };
        let cores = cores(&a).zip(cores(&b)).map_or("–".into(), |(a, b)| format!("{a:.2} against {b:.2}"));
        if phase.is_open_loop() {
            for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                let found = quantile_ns(first, &row.workload, quantile).zip(quantile_ns(
                    last,
                    &row.workload,
                    quantile,
                ));
                let Some((mine, theirs)) = found else { continue };
                writeln!(
                    out,
                    "| {} | {name} | {} | {} | {:.2} | – | {cores} |",
                    row.words,
                    short_ns(mine as u64),
                    short_ns(theirs as u64),
                    mine / theirs
                )
                .ok();
            }
        } else {
            let rate = |phases: &[&Phase]| median(phases.iter().filter_map(|phase| gb_per_s(phase)));
            let Some((mine, theirs)) = rate(&a).zip(rate(&b)) else { continue };
            writeln!(
                out,
                "| {} | GB/s | {mine:.2} | {theirs:.2} | {:.2} | {} | {cores} |",
                row.words,
                mine / theirs,
                limit_text(first, &row.workload)
            )
            .ok();
        }
    }
}

/// The head of a table of runs by themselves.
fn alone_head(out: &mut String) {
    // Writing to a String cannot fail.
    writeln!(
        out,
        "| workload | records/s | GB/s | response p50 | p99 | p99.9 | end to end p50 | p99 | reached | of the published \
         rate | server cores |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |"
    )
    .ok();
}

/// A line for a workload of a run.
fn alone(out: &mut String, run: &Run, row: &RowSpec) {
    let phases = run.phase(&row.workload);
    if phases.is_empty() {
        return;
    }
    let time = |tag: &str, q: f64| {
        tagged_ns(run, &row.workload, tag, q).map_or("–".into(), |ns| short_ns(ns as u64))
    };
    let cells = [
        median(phases.iter().filter_map(|phase| phase.records_per_s())).map_or("–".into(), thousands),
        median(phases.iter().filter_map(|phase| gb_per_s(phase)))
            .map_or("–".into(), |gb| format!("{gb:.2}")),
        time("response", 0.5),
        time("response", 0.99),
        time("response", 0.999),
        time("e2e", 0.5),
        time("e2e", 0.99),
        limit_text(run, &row.workload),
        published(&phases).map_or("–".into(), |percent| format!("{percent:.1} %")),
        cores(&phases).map_or("–".into(), |cores| format!("{cores:.2}")),
    ];
    writeln!(out, "| {} | {} |", row.words, cells.join(" | ")).ok();
}

fn machine(run: &Run) -> String {
    let known = leaves(&run.manifest);
    let say = |name: &str| known.get(name).cloned().unwrap_or_else(|| "?".into());
    let commit = say("git_commit");
    format!(
        "{}, {} cores, Linux {}, {}; commit {}; {} round{}",
        say("cpu_model"),
        say("cores"),
        say("kernel"),
        say("data_dir.file_system"),
        &commit[..commit.len().min(10)],
        run.rounds.len(),
        if run.rounds.len() == 1 { "" } else { "s, medians" }
    )
}

fn table(results: &Path) -> Result<String> {
    let path = results.join("index.json");
    let text = std::fs::read_to_string(&path).map_err(io_err(format!("read {}", path.display())))?;
    let entries: Vec<Entry> = serde_json::from_str(&text)
        .map_err(|error| BenchError::Usage(format!("{}: {error}", path.display())))?;
    let mut out = String::new();
    for entry in entries {
        let mut runs = if entry.each.is_empty() {
            runs::open(&[results.join(&entry.folder).display().to_string()], 1.0)?
        } else {
            let path = |name: &String| results.join(&entry.folder).join(name).display().to_string();
            runs::open(&entry.each.iter().map(path).collect::<Vec<_>>(), 1.0)?
        };
        if let Some(policy) = &entry.flush_policy {
            runs.iter_mut().for_each(|run| run.manifest["declared"]["flush_policy"] = policy.as_str().into());
        }
        let Some(first) = runs.first() else { continue };
        writeln!(out, "**{}** ({})\n", entry.title, machine(first)).ok();
        let all =
            || first.phase_names().into_iter().map(|name| RowSpec { words: name.clone(), workload: name });
        let rows = if entry.rows.is_empty() { all().collect() } else { entry.rows };
        if !entry.each.is_empty() {
            alone_head(&mut out);
            for run in &runs {
                let Some(workload) = run.phase_names().pop() else { continue };
                alone(&mut out, run, &RowSpec { words: format!("`{}`", run.name), workload });
            }
        } else if runs.len() > 1 {
            versus(&mut out, &runs, &rows);
        } else {
            alone_head(&mut out);
            rows.iter().for_each(|row| alone(&mut out, first, row));
        }
        let space = if entry.note.is_empty() { "" } else { " " };
        writeln!(out, "\n{}{space}Runs: `results/{}`; `{}`.\n", entry.note, entry.folder, entry.command).ok();
    }
    Ok(out)
}

/// `results-table`: with `--check`, 1 when the file is not what the results say.
pub(crate) fn command(command: &ResultsTableCommand) -> Result<ExitCode> {
    let table = table(&command.results)?;
    let Some(path) = command.write.as_ref().or(command.check.as_ref()) else {
        print!("{table}");
        return Ok(ExitCode::SUCCESS);
    };
    let text = std::fs::read_to_string(path).map_err(io_err(format!("read {}", path.display())))?;
    let marks =
        text.find(BEGIN).map(|at| at + BEGIN.len()).zip(text.find(END)).filter(|(from, to)| from <= to);
    let Some((from, to)) = marks else {
        return Err(BenchError::Usage(format!("{} has no marks {}…{END}", path.display(), BEGIN.trim())));
    };
    if command.check.is_some() {
        if text[from..to] == table {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("{} differs from the committed results; scripts/results-table renews it", path.display());
        return Ok(ExitCode::from(1));
    }
    let renewed = format!("{}{table}{}", &text[..from], &text[to..]);
    std::fs::write(path, renewed).map_err(io_err(format!("write {}", path.display())))?;
    Ok(ExitCode::SUCCESS)
}
