//! `knee`: the highest open-loop rate whose p99 response stays below a limit, then a longer run at half of it beside
//! the machine's own write and flush.
//!
//! Owner: the main thread; the search itself is `search`. Must not: call a rate sustained when the harness was late.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::{ClientArgs, EndpointArgs, ProduceArgs, seconds};
use crate::commands::{log_path, produce_parameters, with_topic};
use crate::error::{BenchError, Result, io_err};
use crate::generator::Peer;
use crate::kafka::Partition;
use crate::manifest::Manifest;
use crate::probe::flush_latency;
use crate::report::{Phase, Quantiles, phase, table, write_json};
use crate::ring::ProbeFile;
use crate::schedule::Pace;
use crate::search::{self, Length, Step};
use crate::workload::{self, Client, ProduceLoad};

/// Size of the probe file for write and flush, bytes.
const PROBE_FILE_BYTES: u64 = 256 << 20;
/// `knee`
#[derive(Debug, Args)]
pub(crate) struct KneeCommand {
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    #[command(flatten)]
    pub(crate) produce: ProduceArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Highest p99 response that still counts as sustained, in milliseconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) slo_ms: f64,
    /// Seconds of each step of the search.
    #[arg(long, default_value_t = 1.5)]
    pub(crate) step_seconds: f64,
    /// Seconds of each run that confirms what the search found.
    #[arg(long, default_value_t = 6.0)]
    pub(crate) confirm_seconds: f64,
    /// First rate tried, records per second.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) first_rate: u64,
    /// Runs at this rate instead of searching, records per second (the knee of another endpoint).
    #[arg(long)]
    pub(crate) known_knee: Option<u64>,
    /// Folder on the disk to probe with write + fdatasync, before and after the run at half the knee.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Summary<'a> {
    slo_ms: f64,
    knee_records_per_s: u64,
    /// Broken by the harness rather than by the endpoint: the knee is at least this.
    generator_limited: bool,
    steps: &'a [Step],
    half: &'a Phase,
    /// Write of 4 KiB and fdatasync, one at a time, before and after.
    write_flush: &'a [Quantiles],
    /// p99 response at half the knee over the mean of both p99s of write and flush.
    p99_ratio: Option<f64>,
}

struct Search<'a> {
    topic: &'a str,
    partitions: &'a [Partition],
    load: &'a ProduceLoad,
    endpoint: &'a str,
}

impl Search<'_> {
    fn run(&self, name: &str, rate: u64, client: &Client) -> Result<Phase> {
        let load = ProduceLoad { pace: Pace::Rate(rate), ..self.load.clone() };
        let image = workload::encode_image(&load, false)?;
        let plans = workload::plan_connections(self.topic, self.partitions, &load, &image)?;
        let outcome = workload::produce(plans, &load, client, Peer::Kafka)?;
        Ok(phase(name, self.endpoint, produce_parameters(&load, &outcome), &outcome, Some(load.pace)))
    }
}

/// `knee`
pub(crate) fn command(command: &KneeCommand) -> Result<()> {
    let load = ProduceLoad { pace: Pace::Max, ..command.produce.load_at(Pace::Max) };
    let endpoint = &command.endpoint;
    let client = command.client.client(endpoint.server_pid)?;
    let short = Client {
        duration: seconds(command.step_seconds)?,
        warmup: Duration::from_millis(300),
        drain: Duration::from_secs(2),
        ..client.clone()
    };
    let longer_step = Client { duration: seconds(command.confirm_seconds)?, ..short.clone() };
    let spec = endpoint.topic_spec(workload::encode_image(&load, false)?.len());
    let mut write_flush = Vec::new();
    let mut flush = || -> Result<()> {
        if let Some(dir) = &command.dir {
            std::fs::create_dir_all(dir).map_err(io_err(format!("create {}", dir.display())))?;
            let probe = ProbeFile::create(dir, "knee", PROBE_FILE_BYTES)?;
            write_flush.push(flush_latency(&probe, 4096, Duration::from_secs(1))?);
        }
        Ok(())
    };
    let (knee, steps, half) = with_topic(&endpoint.bootstrap, &spec, endpoint.keep_topic, |partitions| {
        let search = Search { topic: &spec.name, partitions, load: &load, endpoint: &endpoint.bootstrap };
        let (knee, steps): (u64, Vec<Step>) = match command.known_knee {
            Some(knee) => (knee, Vec::new()),
            None => search::knee(command.first_rate, (command.slo_ms * 1e6) as u64, |rate, length| {
                let client = if length == Length::Step { &short } else { &longer_step };
                search.run("step", rate, client)
            })?,
        };
        if knee == 0 {
            let slo = command.slo_ms;
            return Err(BenchError::Usage(format!("no rate was held with a p99 of {slo} ms")));
        }
        flush()?;
        let mut longer = client.clone();
        longer.log = log_path(command.client.out.as_deref(), "half-knee")?;
        let half = search.run("half-knee", (knee / 2).max(1), &longer)?;
        flush()?;
        Ok((knee, steps, half))
    })?;
    let own = write_flush.iter().map(|values| values.p99_ns as f64).sum::<f64>() / write_flush.len() as f64;
    let p99 = half.latency.get("response").map(|values| values.p99_ns as f64);
    let summary = Summary {
        slo_ms: command.slo_ms,
        knee_records_per_s: knee,
        generator_limited: steps.iter().any(|step| step.generator_late && !step.held),
        steps: &steps,
        half: &half,
        write_flush: &write_flush,
        p99_ratio: p99.map(|p99| p99 / own).filter(|ratio| ratio.is_finite()),
    };
    println!("knee at p99 <= {} ms: {knee} records/s", command.slo_ms);
    print!("{}", table(std::slice::from_ref(&half)));
    if let Some(ratio) = summary.p99_ratio {
        println!("p99 response at half the knee: {ratio:.2} x the p99 of write + fdatasync of 4 KiB");
    }
    if let Some(out) = &command.client.out {
        let endpoints = BTreeMap::from([("endpoint".to_owned(), endpoint.bootstrap.clone())]);
        let dir = command.dir.as_deref();
        let manifest = Manifest::take(client.congestion.as_deref(), &client.cpus, &[], dir, endpoints);
        write_json(&out.join("manifest.json"), &manifest)?;
        write_json(&out.join("summary.json"), &summary)?;
    }
    Ok(())
}
