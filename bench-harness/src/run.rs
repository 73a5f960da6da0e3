//! `suite` and `compare-endpoints`: suites, the roofline beside them, and their reports.
//!
//! Owner: the main thread. Invariant: every figure is put beside limits measured in the same run. Must not:
//! average quantiles; a comparison shows the median of the rounds and their range.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::cli::{CompareCommand, SuiteCommand};
use crate::error::{BenchError, Result, io_err};
use crate::kafka::describe_defaults;
use crate::manifest::Manifest;
use crate::report::{self, Phase, short_ns, write_json};
use crate::roofline::{self, Probes, Roofline};
use crate::suite::{LANES, Suite, WORKLOADS, attach, median, sinks};

#[derive(Serialize)]
struct Summary<'a> {
    roofline: &'a Roofline,
    phases: &'a [Phase],
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(io_err(format!("create {}", path.display())))
}

fn save(out: &Path, name: &str, text: &str) -> Result<()> {
    let path = out.join(name);
    std::fs::write(&path, text).map_err(io_err(format!("write {}", path.display())))
}

/// `suite`
pub(crate) fn run(command: &SuiteCommand) -> Result<()> {
    let mut args = command.probe.clone();
    args.probe_seconds =
        if command.quick { args.probe_seconds.min(0.4) } else { args.probe_seconds.min(1.0) };
    if command.quick {
        args.probe_file_bytes = args.probe_file_bytes.min(1 << 30);
    }
    let probes = Probes::new(&args, &command.congestion);
    make_folder(&command.out)?;
    let endpoints = BTreeMap::from([("endpoint".to_owned(), command.bootstrap.clone())]);
    let manifest = Manifest::take(
        probes.congestion.as_deref(),
        &probes.cpus_client,
        &probes.cpus_server,
        Some(&args.dir),
        endpoints,
    )
    .with_server("endpoint", command.server_pid)
    .with_facts(describe_defaults(&command.bootstrap));
    write_json(&command.out.join("manifest.json"), &manifest)?;
    eprintln!("measuring what this machine allows ...");
    let mut roofline = probes.basics(LANES)?;
    sinks(&probes, &[], &mut roofline)?;
    print!("{}", roofline::table(&roofline));
    eprintln!("loading {} ...", command.bootstrap);
    let suite = Suite {
        bootstrap: &command.bootstrap,
        label: &command.bootstrap,
        probes: &probes,
        seconds: if command.quick { 1.0 } else { 4.0 },
        server_pid: command.server_pid,
        rate: None,
        logs: Some((command.out.clone(), String::new())),
        wanted: &[],
        progress: command.progress,
        settled: false,
    };
    let mut phases = suite.run()?;
    attach(&mut phases, &roofline);
    let table = report::table(&phases);
    println!("\n{table}");
    write_json(&command.out.join("summary.json"), &Summary { roofline: &roofline, phases: &phases })?;
    save(&command.out, "report.md", &format!("{}\n{table}", roofline::table(&roofline)))?;
    eprintln!("results in {}", command.out.display());
    Ok(())
}

/// Median and range of one figure over the rounds.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

/// One figure of one workload for all endpoints.
#[derive(Debug, Serialize)]
struct Line {
    workload: String,
    figure: String,
    by_endpoint: BTreeMap<String, Figure>,
    /// Median of each endpoint over the median of the last.
    ratio_to_last: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct Comparison<'a> {
    rounds: usize,
    lines: &'a [Line],
    roofline_best: &'a Roofline,
    rooflines: &'a [Roofline],
    phases: &'a [Vec<Phase>],
}

/// The comparable figures of a phase.
fn figures(phase: &Phase) -> Vec<(String, f64)> {
    let mut out = Vec::new();
    for (side, rates) in [("in", &phase.produced), ("out", &phase.consumed)] {
        if let Some(rates) = rates {
            out.push((format!("GB/s {side}"), rates.gb_per_s));
        }
    }
    for (name, value) in &phase.percent_of {
        out.push((
            format!("% of {}", name.split_once(' ').map_or(name.as_str(), |(_, limit)| limit)),
            *value,
        ));
    }
    // Lag belongs to the generator, not to the endpoint.
    for (kind, q) in phase.latency.iter().filter(|(kind, _)| !kind.ends_with("lag")) {
        for (quantile, value) in [("p50", q.p50_ns), ("p99", q.p99_ns), ("p99.9", q.p999_ns)] {
            out.push((format!("{kind} {quantile} ns"), value as f64));
        }
    }
    if let Some(cores) = phase.server_cpu_cores {
        out.push(("server cores".to_owned(), cores));
    }
    out
}

fn compare_lines(phases: &[Vec<Phase>], order: &[String]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for workload in WORKLOADS {
        let mut values: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
        let mut names: Vec<String> = Vec::new();
        for phase in phases.iter().flatten().filter(|phase| phase.name == workload) {
            for (figure, value) in figures(phase) {
                if !names.contains(&figure) {
                    names.push(figure.clone());
                }
                values.entry(figure).or_default().entry(phase.endpoint.clone()).or_default().push(value);
            }
        }
        for figure in names {
            let mut by_endpoint = BTreeMap::new();
            for (endpoint, mut samples) in values.remove(&figure).unwrap_or_default() {
                let Some(middle) = median(&mut samples) else { continue };
                let (min, max) = (samples[0], samples[samples.len() - 1]);
                by_endpoint.insert(endpoint, Figure { median: middle, min, max });
            }
            let base = order.last().and_then(|last| by_endpoint.get(last)).map(|figure| figure.median);
            let ratio_to_last = by_endpoint
                .iter()
                .filter_map(|(name, figure)| Some((name.clone(), figure.median / base?)))
                .filter(|(_, ratio)| ratio.is_finite())
                .collect();
            lines.push(Line { workload: workload.to_owned(), figure, by_endpoint, ratio_to_last });
        }
    }
    lines
}

fn comparison_table(lines: &[Line], order: &[String], rounds: usize) -> String {
    let mut out = String::new();
    let last = order.last().map_or("", String::as_str);
    // Writing to a String cannot fail.
    writeln!(out, "Median of {rounds} interleaved rounds (range); ratios to {last}.\n").ok();
    let ratios: Vec<String> =
        order.iter().filter(|name| *name != last).map(|name| format!("{name} / {last}")).collect();
    writeln!(out, "| workload | figure | {} | {} |", order.join(" | "), ratios.join(" | ")).ok();
    writeln!(out, "| --- | --- |{}", " ---: |".repeat(order.len() + ratios.len())).ok();
    for line in lines {
        let nanoseconds = line.figure.ends_with(" ns");
        let text = |value: f64| if nanoseconds { short_ns(value as u64) } else { format!("{value:.2}") };
        let cells: Vec<String> = order
            .iter()
            .map(|name| {
                line.by_endpoint.get(name).map_or("-".to_owned(), |figure| {
                    format!("{} ({} – {})", text(figure.median), text(figure.min), text(figure.max))
                })
            })
            .collect();
        let ratios: Vec<String> = order
            .iter()
            .filter(|name| *name != last)
            .map(|name| line.ratio_to_last.get(name).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")))
            .collect();
        let figure = line.figure.trim_end_matches(" ns");
        writeln!(out, "| {} | {figure} | {} | {} |", line.workload, cells.join(" | "), ratios.join(" | "))
            .ok();
    }
    out
}

/// `compare-endpoints`
pub(crate) fn compare(command: &CompareCommand) -> Result<()> {
    if let Some(unknown) = command.workloads.iter().find(|name| !WORKLOADS.contains(&name.as_str())) {
        return Err(BenchError::Usage(format!("no workload {unknown}; there are {}", WORKLOADS.join(", "))));
    }
    let mut args = command.probe.clone();
    args.probe_seconds = args.probe_seconds.min(command.seconds);
    let probes = Probes::new(&args, &command.congestion);
    make_folder(&command.out)?;
    let order: Vec<String> = command.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
    let endpoints = command.endpoints.iter().map(|end| (end.name.clone(), end.address.clone())).collect();
    let facts = command.endpoints.iter().flat_map(|end| {
        let name = end.name.clone();
        describe_defaults(&end.address).into_iter().map(move |(key, value)| (format!("{name}: {key}"), value))
    });
    let facts = facts.collect();
    let mut manifest = Manifest::take(
        probes.congestion.as_deref(),
        &probes.cpus_client,
        &probes.cpus_server,
        Some(&args.dir),
        endpoints,
    )
    .with_facts(facts);
    for endpoint in &command.endpoints {
        manifest = manifest.with_server(&endpoint.name, endpoint.pid);
    }
    write_json(&command.out.join("manifest.json"), &manifest)?;
    let mut rooflines = Vec::new();
    let mut phases = Vec::new();
    for round in 1..=command.rounds.max(1) {
        let mut roofline = probes.basics(LANES)?;
        sinks(&probes, &command.workloads, &mut roofline)?;
        for endpoint in &command.endpoints {
            eprintln!("round {round} of {}: {} at {}", command.rounds, endpoint.name, endpoint.address);
            let suite = Suite {
                bootstrap: &endpoint.address,
                label: &endpoint.name,
                probes: &probes,
                seconds: command.seconds,
                server_pid: endpoint.pid,
                rate: Some(command.rate),
                logs: Some((command.out.clone(), format!("{}-{round}-", endpoint.name))),
                wanted: &command.workloads,
                progress: false,
                settled: true,
            };
            phases.push(suite.run()?);
        }
        rooflines.push(roofline);
    }
    let best = Roofline::best(&rooflines);
    for measured in &mut phases {
        attach(measured, &best);
    }
    let lines = compare_lines(&phases, &order);
    let mut text = comparison_table(&lines, &order, command.rounds);
    write!(text, "\nLimits, the best of {} measurements:\n\n{}", rooflines.len(), roofline::table(&best))
        .ok();
    let notes: std::collections::BTreeSet<String> = phases
        .iter()
        .flatten()
        .flat_map(|phase| {
            phase.notes.iter().map(move |note| format!("- {} {}: {note}", phase.endpoint, phase.name))
        })
        .collect();
    write!(text, "\n{}\n", notes.into_iter().collect::<Vec<_>>().join("\n")).ok();
    print!("{text}");
    save(&command.out, "report.md", &text)?;
    let summary = Comparison {
        rounds: command.rounds,
        lines: &lines,
        roofline_best: &best,
        rooflines: &rooflines,
        phases: &phases,
    };
    write_json(&command.out.join("summary.json"), &summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::GeneratorUse;

    fn phase(endpoint: &str, cores: f64) -> Phase {
        Phase {
            name: "produce-1m".into(),
            endpoint: endpoint.into(),
            parameters: BTreeMap::new(),
            seconds: 1.0,
            produced: None,
            consumed: None,
            latency: BTreeMap::new(),
            generator: GeneratorUse {
                threads: 1,
                cpu_cores: 0.0,
                busiest_share: 0.0,
                starved_share: 0.0,
                bottleneck: false,
            },
            server_cpu_cores: Some(cores),
            other_cpu_cores: None,
            stolen_cpu_cores: None,
            unsent_requests: 0,
            unanswered_requests: 0,
            undelivered_records: None,
            drained: None,
            percent_of: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn comparisons_take_medians_and_ratios_to_the_last() {
        let phases: Vec<Vec<Phase>> =
            [("A", 1.0), ("B", 4.0), ("A", 9.0), ("B", 2.0), ("A", 2.0), ("B", 4.0)]
                .map(|(endpoint, cores)| vec![phase(endpoint, cores)])
                .into();
        let order = ["A".to_owned(), "B".to_owned()];
        let lines = compare_lines(&phases, &order);
        assert_eq!(lines.len(), 1);
        assert!((lines[0].ratio_to_last["A"] - 0.5).abs() < 1e-9);
        let table = comparison_table(&lines, &order, 3);
        assert!(
            table.contains("| produce-1m | server cores | 2.00 (1.00 – 9.00) | 4.00 (2.00 – 4.00) | 0.50 |")
        );
    }
}
