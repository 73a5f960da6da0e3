//! `run`: plays a preset or a workload file, once or in rounds, and writes run folders.
//!
//! Owner: the main thread. A run is: topics, the search for a rate when none is given, the limits of the machine when
//! the server's disk is here, the backlog when the workload has one, the load. Invariants: what the file or preset asks
//! for and a flag overrules is what the summary shows; all rounds of a run have one rate. Must not: scale anything in
//! silence.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::limits::Limits;
use super::stage::{ClientKind, Reading, Stage, Step};
use super::{Rate, Workload, presets, yaml};
use crate::cli::{CpuList, cpu_list, key_value, seconds};
use crate::commands::log_path;
use crate::error::{BenchError, Result, io_err};
use crate::kafka::describe;
use crate::manifest::Manifest;
use crate::report::{Phase, table, write_json};
use crate::roofline::{self, Roofline};
use crate::search::{self, Length, Step as Trial};
use crate::workload::Client;

/// Steps at most in which a stage settles.
const SETTLE_STEPS_MAX: usize = 8;

/// What `run` and `curve` share.
#[derive(Debug, Args, Clone)]
pub(crate) struct LoadArgs {
    /// kreps-2014, linkedin-2015, line, omb-1kb, petabyte-day, or a workload file (YAML).
    #[arg(value_name = "PRESET|FILE")]
    pub(crate) what: String,
    /// Endpoint.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub(crate) bootstrap: String,
    /// Client.
    #[arg(long, value_enum, default_value = "lean")]
    pub(crate) client: ClientKind,
    /// Driver file of the OpenMessaging Benchmark: acks, linger, batch size, compression, topic configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) driver: Option<PathBuf>,
    /// Share of the rate and the backlog: 0.01 or 1/100.
    #[arg(long, default_value = "1", value_parser = share)]
    pub(crate) scale: f64,
    /// Records per second, `max` (closed loop) or `search` (a share of the knee); default: the workload's.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<Rate>,
    /// Highest p99 response of a rate that counts as held in a search, in milliseconds.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) slo_ms: f64,
    /// Share of the knee that is run after a search.
    #[arg(long, default_value_t = 0.75)]
    pub(crate) knee_share: f64,
    /// Seconds of each step of a search.
    #[arg(long, default_value_t = 1.5)]
    pub(crate) step_seconds: f64,
    /// Seconds of each run that confirms what a search found.
    #[arg(long, default_value_t = 6.0)]
    pub(crate) confirm_seconds: f64,
    /// Partitions of each topic; default: the workload's.
    #[arg(long)]
    pub(crate) partitions: Option<usize>,
    /// Consumer connections of each group; 0: nobody reads; default: the workload's.
    #[arg(long)]
    pub(crate) consumers: Option<usize>,
    /// Topic; default: a new name, deleted afterwards.
    #[arg(long)]
    pub(crate) topic: Option<String>,
    /// Topic configuration, `key=value`; repeatable.
    #[arg(long = "topic-config", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) topic_configs: Vec<(String, String)>,
    /// Keep the topics that were created.
    #[arg(long)]
    pub(crate) keep_topic: bool,
    /// Process id of the server, to note its processor time.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// The server's data folder on this host: its file system goes to the manifest, and what the machine allows is
    /// measured there before the load.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Do not measure what the machine allows.
    #[arg(long)]
    pub(crate) no_roofline: bool,
    /// Measured seconds; default: the workload's.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) duration: Option<f64>,
    /// Unmeasured seconds at the start; default: the workload's.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) warmup: Option<f64>,
    /// Seconds to wait for late sends, replies and deliveries behind the measured time.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) drain: f64,
    /// Cores for the load threads, one thread each (`0,2-3`).
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub(crate) cpus: Option<CpuList>,
    /// TCP congestion control; `default` leaves the system's.
    #[arg(long, default_value = "cubic")]
    pub(crate) congestion: String,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// No live view.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// `run`
#[derive(Debug, Args)]
pub(crate) struct RunCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Follow the workload's course of the rate (a day, for linkedin-2015); `--rate` and `--scale` set its peak.
    #[arg(long)]
    pub(crate) curve: bool,
    /// How much faster than time the course runs: 1440 makes a minute of a day.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) speed: f64,
    /// Rounds, each a run folder `round-N` below --out.
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: usize,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("{text} is no number"));
    let value = match text.split_once('/') {
        Some((over, under)) => number(over)? / number(under)?,
        None => number(text)?,
    };
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err(format!("{text} is no share")) }
}

fn rate(text: &str) -> std::result::Result<Rate, String> {
    match text {
        "max" => Ok(Rate::Max),
        "search" => Ok(Rate::Search),
        number => match number.parse::<f64>() {
            Ok(rate) if rate >= 1.0 => Ok(Rate::PerS(rate)),
            _ => Err("a number of records per second, max or search".into()),
        },
    }
}

impl LoadArgs {
    /// The workload with everything that flags overrule.
    ///
    /// # Errors
    /// When there is no such preset or file, or it makes no sense.
    pub(crate) fn workload(&self) -> Result<Workload> {
        let mut workload = match presets::find(&self.what) {
            Some(preset) => preset,
            None if Path::new(&self.what).is_file() => yaml::workload(Path::new(&self.what))?,
            None => {
                let known = presets::NAMES.join(", ");
                return Err(BenchError::Usage(format!("{} is no file and none of {known}", self.what)));
            }
        };
        if let Some(driver) = &self.driver {
            yaml::apply_driver(driver, &mut workload)?;
        }
        workload.rate = self.rate.unwrap_or(workload.rate);
        workload.scale(self.scale);
        workload.partitions = self.partitions.unwrap_or(workload.partitions);
        workload.consumers = self.consumers.unwrap_or(workload.consumers);
        workload.duration_s = self.duration.unwrap_or(workload.duration_s);
        workload.warmup_s = self.warmup.unwrap_or(workload.warmup_s);
        workload.topic_configs.extend(self.topic_configs.iter().cloned());
        workload.check()?;
        Ok(workload)
    }

    /// The client of a phase.
    pub(crate) fn client(&self, workload: &Workload) -> Result<Client> {
        if self.quiet {
            crate::progress::silence();
        }
        Ok(Client {
            cpus: self.cpus.clone().map_or_else(Vec::new, |list| list.0),
            congestion: crate::generator::usable_congestion(&self.congestion),
            warmup: seconds(workload.warmup_s)?,
            duration: seconds(workload.duration_s)?,
            drain: seconds(self.drain)?,
            server_pid: self.server_pid,
            log: None,
            progress: !self.quiet,
        })
    }

    /// The client of a step of a search: short, without a log or a view.
    pub(crate) fn searcher(&self, client: &Client) -> Result<Client> {
        Ok(Client {
            duration: seconds(self.step_seconds)?,
            warmup: Duration::from_millis(300),
            drain: Duration::from_secs(2),
            progress: false,
            ..client.clone()
        })
    }

    /// The client of the runs that confirm a search's rate.
    fn confirmer(&self, client: &Client) -> Result<Client> {
        Ok(Client { duration: seconds(self.confirm_seconds)?, ..self.searcher(client)? })
    }

    /// What the machine allows for a stage's load; `None` when the server's disk is not known or nobody wants it.
    ///
    /// # Errors
    /// When a probe fails.
    pub(crate) fn limits(
        &self,
        stage: &Stage<'_>,
        rate: Option<f64>,
        client: &Client,
    ) -> Result<Option<Limits>> {
        let Some(dir) = self.data_dir.as_deref().filter(|_| !self.no_roofline) else { return Ok(None) };
        eprintln!("measuring what this machine allows ...");
        Limits::measure(dir, &stage.shape(rate), client).map(Some)
    }

    /// Takes the manifest with what the endpoint says of itself.
    pub(crate) fn manifest(&self, client: &Client, topic: &str) -> Manifest {
        let endpoints = BTreeMap::from([("endpoint".to_owned(), self.bootstrap.clone())]);
        let congestion = client.congestion.as_deref();
        Manifest::take(congestion, &client.cpus, &[], self.data_dir.as_deref(), endpoints)
            .with_server("endpoint", self.server_pid)
            .with_facts(describe(&self.bootstrap, topic))
    }

    /// Plays at a low rate until it is held, a few times at most: the first records of a partition may cost a broker
    /// the making of its files, and a search that began with them would end at once.
    ///
    /// # Errors
    /// As for a phase.
    pub(crate) fn settle(&self, stage: &mut Stage<'_>, rate: u64, client: &Client) -> Result<()> {
        for _ in 0..SETTLE_STEPS_MAX {
            let name = "settle".to_owned();
            let (rate_now, read) = (Some(rate as f64), Reading::Follow);
            let step = Step { name, rate: rate_now, curve: None, read, bytes_max: u64::MAX };
            let phase = stage.play(&step, client)?;
            if search::judge(rate, (self.slo_ms * 1e6) as u64, &phase).held {
                break;
            }
        }
        Ok(())
    }

    /// Searches the knee of a stage.
    pub(crate) fn search(
        &self,
        stage: &mut Stage<'_>,
        workload: &Workload,
        client: &Client,
    ) -> Result<(u64, Vec<Trial>)> {
        let (short, long) = (self.searcher(client)?, self.confirmer(client)?);
        // A step has to hold dozens of requests of each connection, or its rate is a matter of rounding.
        let first = search_begins(stage, workload);
        self.settle(stage, first, &short)?;
        let (knee, steps) = search::knee(first, (self.slo_ms * 1e6) as u64, |rate, length| {
            let (name, read) = ("search".to_owned(), Reading::Follow);
            let step = Step { name, rate: Some(rate as f64), curve: None, read, bytes_max: u64::MAX };
            stage.play(&step, if length == Length::Step { &short } else { &long })
        })?;
        if knee == 0 {
            let slo = self.slo_ms;
            return Err(BenchError::Usage(format!("no rate was held with a p99 of {slo} ms")));
        }
        eprintln!("knee: {knee} records/s");
        Ok((knee, steps))
    }
}

/// The first rate of a search.
fn search_begins(stage: &Stage<'_>, workload: &Workload) -> u64 {
    let first = workload.rate_first.unwrap_or(10_000.0) as u64;
    first.max(stage.grain(Some(first as f64)) * 40)
}

/// What summary.json holds.
#[derive(Serialize)]
pub(crate) struct Summary<'a> {
    /// What was asked for.
    pub(crate) workload: &'a Workload,
    /// Who played it.
    pub(crate) client: ClientKind,
    /// Share of the original rate.
    pub(crate) scale: f64,
    /// The highest rate that was held, when it was looked for.
    pub(crate) knee_records_per_s: Option<u64>,
    /// How it was looked for.
    pub(crate) search: &'a [Trial],
    /// What the machine allows, when that was measured.
    pub(crate) roofline: Option<&'a Roofline>,
    /// What was measured.
    pub(crate) phases: &'a [Phase],
}

/// Writes a run folder's report, summary and manifest.
pub(crate) fn save(out: &Path, summary: &Summary<'_>, manifest: &Manifest, text: &str) -> Result<()> {
    std::fs::create_dir_all(out).map_err(io_err(format!("create {}", out.display())))?;
    write_json(&out.join("manifest.json"), manifest)?;
    write_json(&out.join("summary.json"), summary)?;
    let path = out.join("report.md");
    std::fs::write(&path, text).map_err(io_err(format!("write {}", path.display())))
}

/// The heading of a report: what was played, and what of it was not applied.
pub(crate) fn heading(workload: &Workload, scale: f64) -> String {
    let mut text = workload.name.clone();
    // Writing to a String cannot fail.
    if scale != 1.0 {
        write!(text, ", scaled to {scale:.6}").ok();
    }
    if let Some(published) = workload.published {
        write!(text, " ({})", published.source).ok();
    }
    text.push('\n');
    for note in &workload.notes {
        writeln!(text, "- {note}").ok();
    }
    text
}

/// What a search found, for the rounds that follow.
#[derive(Debug, Clone)]
struct Found {
    knee: u64,
    trials: Vec<Trial>,
}

impl RunCommand {
    /// One round; a rate that an earlier one found is not looked for again, or the rounds would differ.
    fn round(&self, workload: &Workload, found: &mut Option<Found>, out: Option<&Path>) -> Result<()> {
        let args = &self.load;
        let client = args.client(workload)?;
        let asked = match workload.rate {
            Rate::PerS(rate) => Some(rate),
            Rate::Max => None,
            Rate::Search => workload.rate_first.or(Some(10_000.0)),
        };
        let open = |rate| Stage::open(&args.bootstrap, workload, args.client, args.topic.as_deref(), rate);
        let mut stage = open(asked)?;
        if workload.rate == Rate::Search && found.is_none() {
            let searched = args.search(&mut stage, workload, &client);
            if searched.is_err() || workload.backlog_bytes > 0 {
                // What the search wrote is no part of a backlog.
                stage.close(args.keep_topic);
                let (knee, trials) = searched?;
                *found = Some(Found { knee, trials });
                stage = open(asked)?;
            } else {
                let (knee, trials) = searched?;
                *found = Some(Found { knee, trials });
            }
        } else if found.is_some() && workload.backlog_bytes == 0 {
            let first = search_begins(&stage, workload);
            args.settle(&mut stage, first, &args.searcher(&client)?)?;
        }
        let result = self.play(&mut stage, workload, found.as_ref(), &client, out);
        stage.close(args.keep_topic);
        result
    }

    fn play(
        &self,
        stage: &mut Stage<'_>,
        workload: &Workload,
        found: Option<&Found>,
        client: &Client,
        out: Option<&Path>,
    ) -> Result<()> {
        let args = &self.load;
        let manifest = args.manifest(client, stage.topic());
        let mut rate = match workload.rate {
            Rate::PerS(rate) => Some(rate),
            Rate::Max => None,
            Rate::Search => found.map(|found| (found.knee as f64 * args.knee_share).max(1.0)),
        };
        let limits = args.limits(stage, rate, client)?;
        let curve = workload.curve(rate.unwrap_or(0.0), self.speed)?;
        if let Some(curve) = &curve {
            rate = Some(curve.mean_per_s(workload.duration_s));
        }
        let mut phases = Vec::new();
        let has_backlog = workload.backlog_bytes > 0 && workload.has_readers();
        let (mut read, mut warmup) = (Reading::Follow, client.warmup);
        if has_backlog {
            phases.push(build_backlog(stage, workload, rate, client, out)?);
            (read, warmup) = (Reading::Backlog, Duration::ZERO);
        }
        let name = "load".to_owned();
        let logged = Client { log: log_path(out, &name)?, warmup, ..client.clone() };
        let step = Step { name, rate, curve, read, bytes_max: u64::MAX };
        phases.push(stage.play(&step, &logged)?);
        if let Some(limits) = &limits {
            limits.attach(&mut phases);
        }
        let mut text = format!("{}\n{}", heading(workload, args.scale), table(&phases));
        if let Some(limits) = &limits {
            text += &format!("\n{}", roofline::table(limits.roofline()));
        }
        println!("{text}");
        if let Some(out) = out {
            let summary = Summary {
                workload,
                client: args.client,
                scale: args.scale,
                knee_records_per_s: found.map(|found| found.knee),
                search: found.map_or(&[], |found| &found.trials),
                roofline: limits.as_ref().map(Limits::roofline),
                phases: &phases,
            };
            save(out, &summary, &manifest, &text)?;
        }
        Ok(())
    }
}

/// Writes the backlog while nobody reads: at the workload's rate, as the OpenMessaging Benchmark does.
fn build_backlog(
    stage: &mut Stage<'_>,
    workload: &Workload,
    rate: Option<f64>,
    client: &Client,
    out: Option<&Path>,
) -> Result<Phase> {
    let bytes_max = workload.backlog_bytes;
    // At most twice the time the rate needs; a closed loop gets an hour.
    let needed_s = rate.map_or(1_800.0, |rate| bytes_max as f64 / workload.record_bytes() / rate);
    let name = "backlog-build".to_owned();
    let log = log_path(out, &name)?;
    let duration = seconds((needed_s * 2.0).max(10.0))?;
    let patient = Client { warmup: Duration::ZERO, duration, log, ..client.clone() };
    stage.play(&Step { name, rate, curve: None, read: Reading::Nobody, bytes_max }, &patient)
}

/// `run`
pub(crate) fn command(command: &RunCommand) -> Result<()> {
    let mut workload = command.load.workload()?;
    if !(command.speed > 0.0 && command.speed.is_finite()) {
        return Err(BenchError::Usage("--speed is a positive number".into()));
    }
    if command.curve {
        if workload.course.is_none() {
            return Err(BenchError::Usage(format!("{} has no course of its rate", workload.name)));
        }
        workload.follow_course = true;
        if command.load.duration.is_none() {
            // The whole course, once.
            workload.duration_s = workload.course_s / command.speed;
        }
    }
    if workload.follow_course && workload.rate == Rate::Max {
        return Err(BenchError::Usage("a closed loop has no course: give a rate".into()));
    }
    let out = command.load.out.as_deref();
    let mut found = None;
    if command.rounds <= 1 {
        return command.round(&workload, &mut found, out);
    }
    for round in 1..=command.rounds {
        eprintln!("round {round} of {}", command.rounds);
        let folder = out.map(|out| out.join(format!("round-{round}")));
        command.round(&workload, &mut found, folder.as_deref())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_rates_parse() {
        assert_eq!(share("1/4"), Ok(0.25));
        assert_eq!(share("0.5"), Ok(0.5));
        for wrong in ["0", "1/0", "-1", "x", "1/"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("2.5e6"), Ok(Rate::PerS(2.5e6)));
        assert!(rate("0").is_err() && rate("fast").is_err());
    }
}
