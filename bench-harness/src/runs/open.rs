//! Finds out what a path on the command line is, and reads it.
//!
//! Owner: `runs`. `[NAME=]PATH[@ENDPOINT]`: a run folder, a folder of `round-1`, `round-2`, ..., a folder of
//! `compare-endpoints` (one run for each endpoint), an `.hlog` or a percentile table.
//! Must not: guess when a folder holds nothing to read; that is an error.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::info::{self, PhaseInfo};
use super::{Phase, Round, Run, Series};
use crate::error::{BenchError, Result, io_err};
use crate::hlog::{self, Interval, Log};
use crate::limits::{ROUNDS_MAX, RUNS_MAX};

/// Reads every run named; `unit_ns` is what a value of 1 stands for in files without a manifest.
///
/// # Errors
/// When one cannot be read, or there are more than `RUNS_MAX`.
pub(crate) fn open(arguments: &[String], unit_ns: f64) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for argument in arguments {
        runs.extend(open_one(argument, unit_ns)?);
    }
    if runs.len() > RUNS_MAX {
        return Err(BenchError::Usage(format!("{} runs; at most {RUNS_MAX}", runs.len())));
    }
    distinguish(&mut runs);
    Ok(runs)
}

fn usage<T>(text: String) -> Result<T> {
    Err(BenchError::Usage(text))
}

fn open_one(argument: &str, unit_ns: f64) -> Result<Vec<Run>> {
    let (name, rest) = match argument.split_once('=') {
        Some((name, rest)) if !name.contains('/') => (Some(name), rest),
        _ => (None, argument),
    };
    let (path, endpoint) = match rest.rsplit_once('@') {
        Some((path, endpoint)) if !Path::new(rest).exists() => (PathBuf::from(path), Some(endpoint)),
        _ => (PathBuf::from(rest), None),
    };
    let mut runs = if path.is_dir() { folder(&path, unit_ns)? } else { vec![file(&path, unit_ns)?] };
    if let Some(endpoint) = endpoint {
        runs.retain(|run| run.name == endpoint);
        if runs.is_empty() {
            return usage(format!("{} has no endpoint {endpoint}", path.display()));
        }
    }
    if let (Some(name), [run]) = (name, &mut runs[..]) {
        run.name = name.to_owned();
    }
    Ok(runs)
}

/// Runs of the same name get their folder beside it, then a number.
fn distinguish(runs: &mut [Run]) {
    for index in 1..runs.len() {
        let (before, rest) = runs.split_at_mut(index);
        if before.iter().any(|run| run.name == rest[0].name) {
            rest[0].name = format!("{} ({})", rest[0].name, index + 1);
        }
    }
}

fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn file(path: &Path, unit_ns: f64) -> Result<Run> {
    let log = hlog::read(path, unit_ns)?;
    let name = path.file_stem().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
    let phase = Phase { name: name.clone(), info: None, log: Some(log), series: None };
    Ok(Run {
        name,
        source: path.display().to_string(),
        manifest: Value::Null,
        rounds: vec![Round { phases: vec![phase], ..Round::default() }],
    })
}

fn json(path: &Path) -> Result<Value> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| BenchError::Usage(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(io_err(format!("read {}", path.display()))(error)),
    }
}

fn folder(path: &Path, unit_ns: f64) -> Result<Vec<Run>> {
    let rounds: Vec<PathBuf> = (1..=ROUNDS_MAX)
        .map(|round| path.join(format!("round-{round}")))
        .take_while(|round| round.is_dir())
        .collect();
    if rounds.is_empty() {
        let manifest = json(&path.join("manifest.json"))?;
        let summary = json(&path.join("summary.json"))?;
        let passes = info::passes(&summary);
        if summary.get("lines").is_some() {
            return endpoints(path, &manifest, &summary, passes);
        }
        let round = round(path, passes.into_iter().flatten().collect(), &summary, unit_ns)?;
        let source = path.display().to_string();
        return Ok(vec![Run { name: name_of(path), source, manifest, rounds: vec![round] }]);
    }
    let mut manifest = json(&path.join("manifest.json"))?;
    let mut read = Vec::new();
    for folder in &rounds {
        let own = json(&folder.join("manifest.json"))?;
        if manifest.is_null() {
            manifest.clone_from(&own);
        }
        let summary = json(&folder.join("summary.json"))?;
        let infos = info::passes(&summary).into_iter().flatten().collect();
        read.push(Round { manifest: own, ..round(folder, infos, &summary, unit_ns)? });
    }
    Ok(vec![Run { name: name_of(path), source: path.display().to_string(), manifest, rounds: read }])
}

/// One pass: the phases of the summary, and logs that it does not name.
fn round(path: &Path, infos: Vec<PhaseInfo>, summary: &Value, unit_ns: f64) -> Result<Round> {
    let mut phases = Vec::new();
    for info in infos {
        phases.push(phase(path, "", info)?);
    }
    let mut logs: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(io_err(format!("read {}", path.display())))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|end| end == "hlog" || end == "hgrm"))
        .collect();
    logs.sort();
    for log in logs {
        let name = log.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !phases.iter().any(|phase: &Phase| phase.name == name) {
            let series = Series::read(&path.join(format!("{name}.series.csv")));
            phases.push(Phase { log: Some(hlog::read(&log, unit_ns)?), name, info: None, series });
        }
    }
    if phases.is_empty() {
        return usage(format!("{} holds no phase: neither summary.json nor a histogram log", path.display()));
    }
    let roofline = summary.get("roofline").cloned().unwrap_or(Value::Null);
    Ok(Round { phases, roofline, manifest: Value::Null })
}

fn phase(folder: &Path, prefix: &str, info: PhaseInfo) -> Result<Phase> {
    let log = folder.join(format!("{prefix}{}.hlog", info.name));
    // What this harness writes is in nanoseconds, whatever `--unit` says about other files.
    let mut log = if log.exists() { Some(hlog::read(&log, 1.0)?) } else { None };
    if let Some(log) = &mut log {
        fold_late(log, info.seconds);
    }
    let series = Series::read(&folder.join(format!("{prefix}{}.series.csv", info.name)));
    Ok(Phase { name: info.name.clone(), info: Some(info), log, series })
}

/// Intervals behind the end of the schedule hold replies that came late to what was sent before: they belong to its
/// last second, or a throughput would seem to collapse there.
fn fold_late(log: &mut Log, seconds: f64) {
    for intervals in log.tags.values_mut() {
        let inside = intervals.iter().filter(|one| one.start_s + 0.01 < seconds).count();
        if inside == 0 || inside == intervals.len() {
            continue;
        }
        let late: Vec<_> = intervals.drain(inside - 1..).collect();
        let last =
            Interval { start_s: late[0].start_s, length_s: late[0].length_s, counts: hlog::pooled(&late) };
        intervals.push(last);
    }
}

/// `compare-endpoints` wrote all endpoints and rounds into one folder.
fn endpoints(
    path: &Path,
    manifest: &Value,
    summary: &Value,
    passes: Vec<Vec<PhaseInfo>>,
) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for infos in passes {
        let Some(endpoint) = infos.first().map(|info| info.endpoint.clone()) else { continue };
        let at = match runs.iter().position(|run| run.name == endpoint) {
            Some(at) => at,
            None => {
                let source = format!("{}@{endpoint}", path.display());
                runs.push(Run { name: endpoint.clone(), source, manifest: manifest.clone(), rounds: vec![] });
                runs.len() - 1
            }
        };
        let number = runs[at].rounds.len() + 1;
        let mut round = Round {
            phases: Vec::new(),
            roofline: summary.get("roofline_best").cloned().unwrap_or(Value::Null),
            manifest: Value::Null,
        };
        for info in infos {
            round.phases.push(phase(path, &format!("{endpoint}-{number}-"), info)?);
        }
        runs[at].rounds.push(round);
    }
    if runs.is_empty() { usage(format!("{} holds no phase", path.display())) } else { Ok(runs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(name: &str) -> String {
        format!("{}/../results/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn a_folder_of_compare_endpoints_is_a_run_for_each_endpoint() {
        let path = committed("2026-11-20-baseline-durable");
        let runs = open(std::slice::from_ref(&path), 1.0).unwrap();
        assert_eq!(runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["ringlog", "kafka"]);
        assert!(runs.iter().all(|run| run.rounds.len() == 3 && run.phase_names().len() == 5));
        let quantile =
            |run: &Run| run.phase("open-1k")[0].merged("response").unwrap().value_at_quantile(0.99);
        assert!(quantile(&runs[0]) > 1_000_000 && quantile(&runs[1]) > 1_000_000);
        let one = open(&[format!("theirs={path}@kafka")], 1.0).unwrap();
        assert_eq!((one.len(), one[0].name.as_str()), (1, "theirs"));
        assert!(open(&[format!("{path}@nobody")], 1.0).is_err());
    }

    #[test]
    fn late_replies_belong_to_the_last_second() {
        let one = |start_s: f64, count| Interval { start_s, length_s: 1.0, counts: vec![(5, count)] };
        let tags = [("x".to_owned(), vec![one(0.0, 9), one(1.0, 8), one(2.0, 1), one(3.0, 1)])].into();
        let mut log = Log { tags, timed: true };
        fold_late(&mut log, 2.0);
        assert_eq!(log.tags["x"], [one(0.0, 9), one(1.0, 10)]);
        fold_late(&mut log, 0.0);
        assert_eq!(log.tags["x"].len(), 2);
    }

    #[test]
    fn rounds_are_read_in_order_and_bare_files_stand_alone() {
        let folder = tempfile::tempdir().unwrap();
        let log = committed("2026-11-20-baseline-durable/kafka-1-open-1k.hlog");
        for round in 1..=11 {
            let path = folder.path().join(format!("round-{round}"));
            std::fs::create_dir(&path).unwrap();
            std::fs::copy(&log, path.join("open.hlog")).unwrap();
            let summary = serde_json::json!([{"name": "open", "seconds": round}]);
            std::fs::write(path.join("summary.json"), summary.to_string()).unwrap();
        }
        let path = folder.path().display().to_string();
        let runs = open(&[path, log.clone(), log], 1.0).unwrap();
        let seconds: Vec<f64> =
            runs[0].phase("open").iter().map(|phase| phase.info.as_ref().unwrap().seconds).collect();
        assert_eq!(seconds, (1..=11).map(f64::from).collect::<Vec<_>>());
        assert_eq!(runs[1].phase_names(), ["kafka-1-open-1k"]);
        assert_eq!(runs[2].name, "kafka-1-open-1k (3)");
        assert!(open(&[folder.path().join("round-1/none").display().to_string()], 1.0).is_err());
    }
}
