//! `fault`: one continuous, verified load, and things that go wrong while it runs.
//!
//! Each fault has three spans in the run's time line, `<fault>-before`, `-during` and `-after`, with histograms of
//! their own; the schedule never stops, so what could not be sent meanwhile shows the delay its user would have seen.
//! The records are those of `verify`, and so is the verdict.
//!
//! Owner: the main thread; the faults are made by a thread of their own. Must not: signal a process it was not given or
//! did not start; leave a server stopped, a limit set or a neighbour running.

mod relay;
mod server;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::{bounded_topic, seconds};
use crate::consumer::AtEnd;
use crate::error::{BenchError, Result, io_err};
use crate::kafka::{Control, Partition};
use crate::probe::flush_latency;
use crate::record::Window;
use crate::report::{Phase, short_ns, write_json};
use crate::ring::ProbeFile;
use crate::sys;
use crate::verify::judge::Verdict;
use crate::verify::producer::ProducerEnd;
use crate::verify::timeline::Span;
use crate::verify::{Check, CheckArgs};
use crate::workload::{self, Client, ConsumeLoad, From};
use relay::{Network, Relay};
use server::Server;

/// Size of the file that a disk's neighbour writes, bytes.
const NEIGHBOUR_FILE_BYTES: u64 = 256 << 20;
/// Size of each of its writes, bytes; an fdatasync follows.
const NEIGHBOUR_WRITE_BYTES: usize = 1 << 20;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// SIGSTOP, and SIGCONT after `--pause-seconds`.
    Pause,
    /// SIGKILL, and a restart at once. Needs `--server-command`.
    Kill,
    /// Consumers read everything from the start, as fast as they can.
    CatchUp,
    /// Small segments and next to no retention: data expires all the time.
    Churn,
    /// A neighbour writes and flushes on the server's disk. Needs `--data-dir`.
    Disk,
    /// All connections break for `--cut-seconds`.
    Cut,
    /// Nothing arrives for `--cut-seconds`, and no connection breaks.
    BlackHole,
    /// `--inject` is run, and `--heal` at the end.
    Command,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Kill => "kill",
            Self::CatchUp => "catch-up",
            Self::Churn => "churn",
            Self::Disk => "disk",
            Self::Cut => "cut",
            Self::BlackHole => "black-hole",
            Self::Command => "command",
        }
    }
}

/// `fault`
#[derive(Debug, Args)]
pub(crate) struct FaultCommand {
    /// Faults, one after the other.
    #[arg(required = true, value_delimiter = ',', value_enum)]
    pub(crate) faults: Vec<Kind>,
    #[command(flatten)]
    pub(crate) check: CheckArgs,
    /// Seconds before each fault.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub(crate) before: f64,
    /// Seconds from each fault on that count as during it.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub(crate) during: f64,
    /// Seconds after it.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub(crate) after: f64,
    /// Seconds a pause lasts, at most those of `--during`.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub(crate) pause_seconds: f64,
    /// Seconds a cut or a black hole lasts, at most those of `--during`.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub(crate) cut_seconds: f64,
    /// Shell command that serves in the foreground; started here, killed and started again.
    #[arg(long, value_name = "COMMAND", conflicts_with = "server_pid")]
    pub(crate) server_command: Option<String>,
    /// Folder on the server's disk, for `disk`.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Shell command that makes the fault `command`.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) inject: Option<String>,
    /// Shell command that ends it.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) heal: Option<String>,
}

/// When a fault was made and ended, CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Clone)]
struct Made {
    kind: Kind,
    injected_ns: u64,
    healed_ns: u64,
    note: String,
}

/// What a fault cost.
#[derive(Debug, Clone, Serialize)]
struct Recovery {
    fault: Kind,
    /// From the start of the load.
    injected_s: f64,
    healed_s: f64,
    /// Longest time, of all producers, without an acknowledgement.
    unavailable_ms: f64,
    /// From the end of the fault to the last producer's first acknowledgement.
    first_ack_after_ms: f64,
    /// From the end of the fault until every producer was on its schedule again: the backlog is worked off.
    on_schedule_after_ms: f64,
    note: String,
}

#[derive(Serialize)]
struct Summary<'a> {
    verdict: &'a Verdict,
    faults: &'a [Recovery],
    phases: &'a [Phase],
}

/// What the faults act on.
struct Stage {
    faults: Vec<(Kind, Window)>,
    server: Option<Arc<Mutex<Server>>>,
    pid: Option<u32>,
    pause: Duration,
    relay: Option<Arc<Relay>>,
    cut: Duration,
    bootstrap: String,
    topic: String,
    partitions: Vec<Partition>,
    /// What the topic's segment and retention are set back to.
    bounds: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
    commands: (Option<String>, Option<String>),
    made: Arc<Mutex<Vec<Made>>>,
}

fn sleep_until(time_ns: u64) {
    std::thread::sleep(Duration::from_nanos(time_ns.saturating_sub(sys::now_ns())));
}

fn shell(command: &str) -> Result<()> {
    let status = Command::new("sh").arg("-c").arg(command).status().map_err(io_err(command.to_owned()))?;
    if status.success() { Ok(()) } else { Err(BenchError::Usage(format!("{command}: {status}"))) }
}

impl Stage {
    /// Makes all faults at their times.
    fn run(self) -> Result<()> {
        for (kind, window) in &self.faults {
            sleep_until(window.start_ns);
            let injected_ns = sys::now_ns();
            let note = self.make(*kind, *window)?;
            let made = Made { kind: *kind, injected_ns, healed_ns: sys::now_ns(), note };
            eprintln!("{}: over after {}", kind.name(), short_ns(made.healed_ns - injected_ns));
            self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        }
        Ok(())
    }

    fn make(&self, kind: Kind, window: Window) -> Result<String> {
        match kind {
            Kind::Pause => self.pause(),
            Kind::Kill => self.kill(),
            Kind::CatchUp => self.catch_up(window),
            Kind::Churn => self.churn(window),
            Kind::Disk => self.disk(window),
            Kind::Cut => self.network(Network::Cuts, "no connection"),
            Kind::BlackHole => self.network(Network::Holds, "nothing arrived"),
            Kind::Command => self.command(window),
        }
    }

    fn pause(&self) -> Result<String> {
        let server = self.server.as_ref().map(|server| {
            let server = server.lock().unwrap_or_else(PoisonError::into_inner);
            server.pid()
        });
        let pid = server
            .or(self.pid)
            .ok_or_else(|| BenchError::Usage("pause needs --server-pid or --server-command".into()))?;
        sys::signal(pid, libc::SIGSTOP).map_err(io_err("stop the server"))?;
        std::thread::sleep(self.pause);
        sys::signal(pid, libc::SIGCONT).map_err(io_err("continue the server"))?;
        Ok(format!("stopped for {} ms", self.pause.as_millis()))
    }

    fn kill(&self) -> Result<String> {
        let Some(server) = &self.server else {
            return Err(BenchError::Usage("kill needs --server-command".into()));
        };
        let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sys::now_ns();
        server.kill()?;
        let failed = server.restart()?;
        let more = if failed > 0 { format!(", {failed} starts failed before") } else { String::new() };
        Ok(format!("answered again after {}{more}", short_ns(sys::now_ns() - before)))
    }

    fn catch_up(&self, window: Window) -> Result<String> {
        let load = ConsumeLoad {
            connections: 2,
            from: From::Earliest,
            at_end: AtEnd::Repeat,
            ..ConsumeLoad::following(2, false)
        };
        let plans = workload::plan_fetches(&self.topic, &self.partitions, &load)?;
        let client = Client {
            cpus: Vec::new(),
            congestion: None,
            warmup: Duration::ZERO,
            duration: Duration::from_nanos(window.end_ns.saturating_sub(sys::now_ns())),
            drain: Duration::from_secs(5),
            server_pid: None,
            log: None,
            progress: false,
        };
        let outcome = workload::consume(plans, &load, &client)?;
        let bytes = outcome.totals.counters[1].bytes as f64;
        Ok(format!("read {:.3} GB/s of old data", bytes / outcome.elapsed_ns as f64))
    }

    fn churn(&self, window: Window) -> Result<String> {
        let starts = || Control::list_offsets(&self.topic, &self.partitions, -2);
        let before: i64 = starts()?.iter().sum();
        let tight = [("segment.bytes", Some("1048576")), ("retention.bytes", Some("1"))];
        Control::connect(&self.bootstrap)?.alter_topic(&self.topic, &tight)?;
        sleep_until(window.end_ns);
        let back: Vec<(&str, Option<&str>)> =
            self.bounds.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))).collect();
        Control::connect(&self.bootstrap)?.alter_topic(&self.topic, &back)?;
        match starts()?.iter().sum::<i64>() - before {
            0 => Ok("nothing expired: the endpoint did not look at its retention in time".into()),
            expired => Ok(format!("{expired} records expired")),
        }
    }

    fn disk(&self, window: Window) -> Result<String> {
        let dir = self.data_dir.as_ref().ok_or_else(|| BenchError::Usage("disk needs --data-dir".into()))?;
        let probe = ProbeFile::create(dir, "neighbour", NEIGHBOUR_FILE_BYTES)?;
        let left = Duration::from_nanos(window.end_ns.saturating_sub(sys::now_ns()));
        let own = flush_latency(&probe, NEIGHBOUR_WRITE_BYTES, left)?;
        Ok(format!("a neighbour wrote and flushed 1 MiB {} times, p99 {}", own.count, short_ns(own.p99_ns)))
    }

    fn network(&self, network: Network, what: &str) -> Result<String> {
        let relay = self.relay.as_ref().ok_or_else(|| BenchError::Usage("there is no relay".into()))?;
        relay.set(network);
        std::thread::sleep(self.cut);
        relay.set(Network::Passes);
        Ok(format!("{what} for {} ms", self.cut.as_millis()))
    }

    fn command(&self, window: Window) -> Result<String> {
        let (Some(inject), heal) = (&self.commands.0, &self.commands.1) else {
            return Err(BenchError::Usage("command needs --inject".into()));
        };
        shell(inject)?;
        sleep_until(window.end_ns);
        if let Some(heal) = heal {
            shell(heal)?;
        }
        Ok(crate::manifest::publishable(inject))
    }
}

/// The time line: all spans, and for each fault its own window.
struct Plan {
    spans: Vec<Span>,
    faults: Vec<(Kind, Window)>,
}

fn plan(command: &FaultCommand) -> Result<Plan> {
    let mut spans = Vec::new();
    let mut faults: Vec<(Kind, Window)> = Vec::new();
    let load_start_ns = Window::soon(Duration::ZERO, Duration::ZERO).start_ns;
    let mut start_ns = load_start_ns;
    for kind in &command.faults {
        let again = faults.iter().filter(|(known, _)| known == kind).count();
        let name = if again == 0 { kind.name().to_owned() } else { format!("{}-{}", kind.name(), again + 1) };
        for (part, length) in
            [("before", command.before), ("during", command.during), ("after", command.after)]
        {
            let end_ns = start_ns + seconds(length.max(0.1))?.as_nanos() as u64;
            let window = Window { load_start_ns, start_ns, end_ns };
            if part == "during" {
                faults.push((*kind, window));
            }
            spans.push(Span { name: format!("{name}-{part}"), window });
            start_ns = end_ns;
        }
    }
    Ok(Plan { spans, faults })
}

/// What a fault cost, from the producers' notes.
fn recovery(made: &Made, window: Window, producers: &[ProducerEnd]) -> Recovery {
    let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    let healed = made.healed_ns;
    // What a fault causes begins before it is over, and a little later when its last reply was under way.
    let concerns = |(from, to): &&(u64, u64)| *to > made.injected_ns && *from < window.end_ns.max(healed);
    let longest = |stretches: fn(&ProducerEnd) -> &Vec<(u64, u64)>, of: &dyn Fn(&(u64, u64)) -> u64| {
        producers.iter().flat_map(|end| stretches(end).iter().filter(concerns)).map(of).max().unwrap_or(0)
    };
    let begin = window.load_start_ns;
    Recovery {
        fault: made.kind,
        injected_s: ms(made.injected_ns - begin) / 1e3,
        healed_s: ms(healed - begin) / 1e3,
        unavailable_ms: ms(longest(|end| &end.silences, &|(from, to)| to - from)),
        first_ack_after_ms: ms(longest(|end| &end.silences, &|(from, to)| {
            if *from <= healed { to.saturating_sub(healed) } else { 0 }
        })),
        on_schedule_after_ms: ms(longest(|end| &end.delays, &|(_, to)| to.saturating_sub(healed))),
        note: made.note.clone(),
    }
}

fn recovery_table(all: &[Recovery]) -> String {
    let mut out = String::from(
        "| fault | at | over after | longest without an ack | first ack after its end | on schedule after its end | |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for fault in all {
        out += &format!(
            "| {} | {:.1} s | {:.0} ms | {:.0} ms | {:.0} ms | {:.0} ms | {} |\n",
            fault.fault.name(),
            fault.injected_s,
            (fault.healed_s - fault.injected_s) * 1e3,
            fault.unavailable_ms,
            fault.first_ack_after_ms,
            fault.on_schedule_after_ms,
            fault.note
        );
    }
    out + "\n"
}

/// `fault`
pub(crate) fn command(command: &FaultCommand) -> Result<ExitCode> {
    let mut args = command.check.clone();
    let server = match &command.server_command {
        Some(text) => {
            let log = match &args.out {
                Some(out) => {
                    std::fs::create_dir_all(out).map_err(io_err(format!("create {}", out.display())))?;
                    Some(out.join("server.log"))
                }
                None => None,
            };
            let server = Server::start(text, &args.bootstrap, log)?;
            args.server_pid = Some(server.pid());
            Some(Arc::new(Mutex::new(server)))
        }
        None => None,
    };
    let mut check = Check::open(&args)?;
    if let Some(server) = &server {
        check.server = server.lock().unwrap_or_else(PoisonError::into_inner).process();
    }
    let relayed = command.faults.iter().any(|kind| matches!(kind, Kind::Cut | Kind::BlackHole));
    let relay = match relayed {
        true => Relay::before(&mut check.partitions).map(|relay| Some(Arc::new(relay))),
        false => Ok(None),
    };
    if let Ok(Some(relay)) = &relay {
        crate::librdkafka::ffi::set_detours(relay.detours());
    }
    let result = relay.and_then(|relay| run(command, &args, &check, server.clone(), relay));
    check.close();
    result
}

fn run(
    command: &FaultCommand,
    args: &CheckArgs,
    check: &Check<'_>,
    server: Option<Arc<Mutex<Server>>>,
    relay: Option<Arc<Relay>>,
) -> Result<ExitCode> {
    let manifest = check.manifest();
    let Plan { spans, faults } = plan(command)?;
    let made = Arc::new(Mutex::new(Vec::new()));
    let bounds = bounded_topic(&check.topic, args.partitions, &args.topic_configs, 0).configs;
    let stage = Stage {
        faults: faults.clone(),
        server,
        pid: args.server_pid,
        pause: seconds(command.pause_seconds.clamp(0.0, command.during))?,
        relay: relay.clone(),
        cut: seconds(command.cut_seconds.clamp(0.0, command.during))?,
        bootstrap: args.bootstrap.clone(),
        topic: check.topic.clone(),
        partitions: check.partitions.clone(),
        bounds: bounds
            .into_iter()
            .filter(|(key, _)| ["segment.bytes", "retention.bytes"].contains(&key.as_str()))
            .collect(),
        data_dir: command.data_dir.clone(),
        commands: (command.inject.clone(), command.heal.clone()),
        made: Arc::clone(&made),
    };
    let checked = check.run(spans, move || stage.run())?;
    drop(relay);
    let made = made.lock().unwrap_or_else(PoisonError::into_inner);
    let recoveries: Vec<Recovery> = made
        .iter()
        .zip(&faults)
        .map(|(made, (_, window))| recovery(made, *window, &checked.producers))
        .collect();
    if let Some(out) = &args.out {
        let summary = Summary { verdict: &checked.verdict, faults: &recoveries, phases: &checked.phases };
        write_json(&out.join("summary.json"), &summary)?;
    }
    check.report(&checked, &manifest, &recovery_table(&recoveries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_counts_from_the_end_of_the_fault() {
        let ms = 1_000_000;
        let window = Window { load_start_ns: 0, start_ns: 1_000 * ms, end_ns: 3_000 * ms };
        let (injected_ns, healed_ns) = (1_000 * ms, 1_500 * ms);
        let made = Made { kind: Kind::Pause, injected_ns, healed_ns, note: String::new() };
        let producers = [
            ProducerEnd {
                silences: vec![(100 * ms, 900 * ms), (990 * ms, 1_520 * ms)],
                delays: vec![(1_010 * ms, 1_900 * ms), (5_000 * ms, 6_000 * ms)],
                ..ProducerEnd::default()
            },
            ProducerEnd { silences: vec![(995 * ms, 1_510 * ms)], ..ProducerEnd::default() },
        ];
        let cost = recovery(&made, window, &producers);
        assert_eq!((cost.injected_s, cost.healed_s), (1.0, 1.5));
        assert_eq!(
            (cost.unavailable_ms, cost.first_ack_after_ms, cost.on_schedule_after_ms),
            (530.0, 20.0, 400.0)
        );
    }
}
