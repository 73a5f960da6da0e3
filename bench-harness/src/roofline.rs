//! `roofline`: the machine's limits in one structure, and the sink driven by the real generator.
//!
//! Owner: the main thread. Must not: leave probe files behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::{ProbeArgs, RooflineCommand, seconds};
use crate::error::{Result, io_err};
use crate::frame::RequestTemplate;
use crate::generator::{ConnectionPlan, Peer, usable_congestion};
use crate::manifest::Manifest;
use crate::probe::{Loopback, crc_gb_per_s, disk_gb_per_s, flush_latency, loopback_gb_per_s};
use crate::report::{Quantiles, phase, short_ns, write_json};
use crate::ring::{Job, ProbeFile};
use crate::schedule::Pace;
use crate::sink::{SinkHandle, Work};
use crate::workload::{self, Client, Fill, ProduceLoad};

/// Measurements of loopback or one sink, of which the best counts.
const REPEATS: usize = 3;

/// What the null sink is called in tables and shares.
pub(crate) const CEILING: &str = "the generator's ceiling";

/// What probes need to know.
#[derive(Debug, Clone)]
pub(crate) struct Probes {
    /// Flags.
    pub(crate) args: ProbeArgs,
    /// Cores of the server side.
    pub(crate) cpus_server: Vec<usize>,
    /// Cores of the client side.
    pub(crate) cpus_client: Vec<usize>,
    /// Usable congestion control.
    pub(crate) congestion: Option<String>,
}

/// A sink measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SinkResult {
    /// Connections of the client.
    pub(crate) connections: usize,
    /// Requests in flight on each.
    pub(crate) in_flight: usize,
    /// Bytes of a request's batches.
    pub(crate) request_bytes: u64,
    /// Acknowledged after fdatasync.
    pub(crate) sync: bool,
    /// Throughput in 10^9 bytes per second.
    pub(crate) gb_per_s: f64,
    /// Median time from send to ack.
    pub(crate) p50_ns: u64,
    /// The same, 99 %.
    pub(crate) p99_ns: u64,
    /// Cores the client side used.
    pub(crate) generator_cores: f64,
    /// The client was the limit.
    pub(crate) generator_bottleneck: bool,
    /// Cores the sink used.
    pub(crate) sink_cores: f64,
}

/// The machine's limits.
#[derive(Debug, Clone, Serialize, Default)]
pub(crate) struct Roofline {
    /// O_DIRECT on a recycled file, eight in flight, GB/s by `write_1m`, `read_64k` and so on.
    pub(crate) disk_gb_per_s: BTreeMap<String, f64>,
    /// Write and fdatasync, one at a time, by block size.
    pub(crate) write_flush: BTreeMap<String, Quantiles>,
    /// Loopback GB/s, client to server cores and back, by direction and connections.
    pub(crate) loopback_gb_per_s: BTreeMap<String, f64>,
    /// CRC32C GB/s of one core.
    pub(crate) crc_gb_per_s: f64,
    /// The sink.
    pub(crate) sinks: Vec<SinkResult>,
    /// The null sink: what the generator itself can offer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ceilings: Vec<SinkResult>,
}

impl Probes {
    /// From flags: cores default to halves of the machine (both sides share a single core).
    pub(crate) fn new(args: &ProbeArgs, congestion: &str) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let half = cores / 2;
        let client = args.cpus_client.clone().map_or_else(|| (0..half.max(1)).collect(), |list| list.0);
        let server = args.cpus_server.clone().map_or_else(|| (half..cores).collect(), |list| list.0);
        Self {
            args: args.clone(),
            cpus_server: server,
            cpus_client: client,
            congestion: usable_congestion(congestion),
        }
    }

    /// Time of one probe.
    pub(crate) fn time(&self) -> Result<Duration> {
        seconds(self.args.probe_seconds)
    }

    /// A client on the client cores.
    pub(crate) fn client(&self, warmup: Duration, duration: Duration) -> Client {
        Client {
            cpus: self.cpus_client.clone(),
            congestion: self.congestion.clone(),
            warmup,
            duration,
            drain: Duration::from_secs(5),
            server_pid: None,
            log: None,
            progress: false,
        }
    }

    /// Drives the sink with the shape of `load`, closed loop: the best of three, for a limit is what the
    /// machine can do when its neighbours let it.
    pub(crate) fn sink(&self, load: &ProduceLoad, work: Work) -> Result<SinkResult> {
        let time = self.time()? / 2;
        let client = self.client(time / 4, time);
        let handle = SinkHandle::start(&self.cpus_server, &self.args.dir, self.args.probe_file_bytes, work)?;
        let mut best: Option<SinkResult> = None;
        for _ in 0..REPEATS {
            let result = self.sink_once(load, &handle, &client, work)?;
            if best.as_ref().is_none_or(|best| best.gb_per_s < result.gb_per_s) {
                best = Some(result);
            }
        }
        handle.stop()?;
        Ok(best.expect("there is at least one repeat"))
    }

    fn sink_once(
        &self,
        load: &ProduceLoad,
        handle: &SinkHandle,
        client: &Client,
        work: Work,
    ) -> Result<SinkResult> {
        let image = workload::encode_image(load, false)?;
        let partitions: Vec<i32> = (0..load.partitions_per_request.max(1) as i32).collect();
        let mut plans = Vec::with_capacity(load.connections);
        for connection in 0..load.connections {
            plans.push(ConnectionPlan {
                target: handle.addresses[connection % handle.addresses.len()],
                templates: vec![RequestTemplate::encode("sink", &partitions, -1, &image)?],
            });
        }
        let load = ProduceLoad { pace: Pace::Max, bytes_max: u64::MAX, ..load.clone() };
        let cpu_before = handle.cpu_ns();
        let started = crate::sys::now_ns();
        let outcome = workload::produce(plans, &load, client, Peer::Sink)?;
        let wall_ns = crate::sys::now_ns() - started;
        let cpu_ns = handle.cpu_ns() - cpu_before;
        let phase = phase("sink", "sink", BTreeMap::new(), &outcome, Some(Pace::Max));
        let service = phase.latency.get("service");
        Ok(SinkResult {
            connections: load.connections,
            in_flight: load.in_flight,
            request_bytes: outcome.request_shape.map_or(0, |shape| shape.1),
            sync: work == Work::Flush,
            gb_per_s: phase.produced.as_ref().map_or(0.0, |rates| rates.gb_per_s),
            p50_ns: service.map_or(0, |values| values.p50_ns),
            p99_ns: service.map_or(0, |values| values.p99_ns),
            generator_cores: phase.generator.cpu_cores,
            generator_bottleneck: phase.generator.bottleneck,
            sink_cores: cpu_ns as f64 / wall_ns as f64,
        })
    }

    /// Loopback from the client's cores to the server's (`in`) or back (`out`).
    pub(crate) fn loopback(&self, connections: usize, inward: bool, send_bytes: usize) -> Result<f64> {
        let (send, receive) = if inward {
            (&self.cpus_client, &self.cpus_server)
        } else {
            (&self.cpus_server, &self.cpus_client)
        };
        let setup = Loopback {
            connections,
            cpus_send: send,
            cpus_receive: receive,
            congestion: self.congestion.as_deref(),
            send_bytes,
            time: self.time()? / 2,
        };
        let mut best = 0.0f64;
        for _ in 0..REPEATS {
            best = best.max(loopback_gb_per_s(&setup)?);
        }
        Ok(best)
    }

    /// Disk, CRC and loopback; sinks are added by the caller, with the shapes it is going to load.
    pub(crate) fn basics(&self, connections: usize) -> Result<Roofline> {
        self.chosen(connections, &|_| true)
    }

    /// Those of the basic limits that are wanted, by name: disk, flush, crc, loopback.
    pub(crate) fn chosen(&self, connections: usize, wanted: &dyn Fn(&str) -> bool) -> Result<Roofline> {
        let time = self.time()?;
        let mut roofline = Roofline::default();
        let dir: &Path = &self.args.dir;
        std::fs::create_dir_all(dir).map_err(io_err(format!("create {}", dir.display())))?;
        if wanted("disk") || wanted("flush") {
            self.disk(&mut roofline, wanted)?;
        }
        if wanted("crc") {
            roofline.crc_gb_per_s = crc_gb_per_s(time / 4);
        }
        let directions = [(1, true), (connections, true), (1, false), (connections, false)];
        for (count, inward) in directions.into_iter().filter(|_| wanted("loopback")) {
            let figure = self.loopback(count, inward, 1 << 20)?;
            let direction = if inward { "in" } else { "out" };
            roofline.loopback_gb_per_s.insert(format!("{direction}_{count}"), figure);
        }
        Ok(roofline)
    }

    fn disk(&self, roofline: &mut Roofline, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let time = self.time()?;
        let probe = ProbeFile::create(&self.args.dir, "disk", self.args.probe_file_bytes)?;
        for (name, job, block) in [
            ("write_1m", Job::Write, 1 << 20),
            ("read_1m", Job::Read, 1 << 20),
            ("write_64k", Job::Write, 64 << 10),
            ("read_64k", Job::Read, 64 << 10),
        ]
        .into_iter()
        .filter(|_| wanted("disk"))
        {
            roofline.disk_gb_per_s.insert(name.to_owned(), disk_gb_per_s(&probe, job, block, time)?);
        }
        let blocks = [("4k", 4 << 10), ("64k", 64 << 10), ("1m", 1 << 20)];
        for (name, block) in blocks.into_iter().filter(|_| wanted("flush")) {
            roofline.write_flush.insert(name.to_owned(), flush_latency(&probe, block, time / 2)?);
        }
        Ok(())
    }
}

impl Roofline {
    /// The limits over several measurements: the best of each. A neighbour can only make one look lower.
    pub(crate) fn best(all: &[Self]) -> Self {
        let mut best = Self::default();
        let raise = |into: &mut BTreeMap<String, f64>, from: &BTreeMap<String, f64>| {
            for (name, value) in from {
                let known = into.entry(name.clone()).or_insert(*value);
                *known = known.max(*value);
            }
        };
        for one in all {
            raise(&mut best.disk_gb_per_s, &one.disk_gb_per_s);
            raise(&mut best.loopback_gb_per_s, &one.loopback_gb_per_s);
            best.crc_gb_per_s = best.crc_gb_per_s.max(one.crc_gb_per_s);
            for (name, values) in &one.write_flush {
                let known = best.write_flush.entry(name.clone()).or_insert_with(|| values.clone());
                if values.p50_ns < known.p50_ns {
                    *known = values.clone();
                }
            }
            raise_sinks(&mut best.sinks, &one.sinks);
            raise_sinks(&mut best.ceilings, &one.ceilings);
        }
        best
    }
}

/// Keeps the best of each shape.
fn raise_sinks(best: &mut Vec<SinkResult>, all: &[SinkResult]) {
    let shape = |s: &SinkResult| (s.connections, s.in_flight, s.request_bytes, s.sync);
    for sink in all {
        match best.iter_mut().find(|known| shape(known) == shape(sink)) {
            Some(known) if known.gb_per_s >= sink.gb_per_s => {}
            Some(known) => *known = sink.clone(),
            None => best.push(sink.clone()),
        }
    }
}

/// The limits as Markdown.
pub(crate) fn table(roofline: &Roofline) -> String {
    let mut lines = vec!["| limit of this machine | figure |".to_owned(), "| --- | ---: |".to_owned()];
    for (name, value) in &roofline.disk_gb_per_s {
        lines.push(format!("| disk {name}, O_DIRECT, depth 8 | {value:.2} GB/s |"));
    }
    for (name, value) in &roofline.write_flush {
        lines.push(format!(
            "| write {name} + fdatasync, p50 / p99 | {} / {} |",
            short_ns(value.p50_ns),
            short_ns(value.p99_ns)
        ));
    }
    for (name, value) in &roofline.loopback_gb_per_s {
        let (direction, count) = name.split_once('_').unwrap_or((name, "?"));
        lines.push(format!("| loopback {direction}, {count} connections | {value:.2} GB/s |"));
    }
    if roofline.crc_gb_per_s > 0.0 {
        lines.push(format!("| CRC32C, one core | {:.2} GB/s |", roofline.crc_gb_per_s));
    }
    let sinks = roofline.sinks.iter().map(|sink| ("sink", sink));
    for (what, sink) in sinks.chain(roofline.ceilings.iter().map(|sink| (CEILING, sink))) {
        lines.push(format!(
            "| {what}{}, {} connections x {} x {} bytes | {:.2} GB/s (p50 {}, client {:.2} cores{}, sink {:.2}) |",
            if sink.sync { " with fdatasync" } else { "" },
            sink.connections,
            sink.in_flight,
            sink.request_bytes,
            sink.gb_per_s,
            short_ns(sink.p50_ns),
            sink.generator_cores,
            if sink.generator_bottleneck { ", the limit" } else { "" },
            sink.sink_cores,
        ));
    }
    lines.join("\n") + "\n"
}

/// `roofline`
pub(crate) fn command(command: &RooflineCommand) -> Result<()> {
    let probes = Probes::new(&command.probe, &command.congestion);
    let wanted = |name: &str| command.only.is_empty() || command.only.iter().any(|only| only == name);
    let mut roofline = probes.chosen(command.connections, &wanted)?;
    let load = ProduceLoad {
        connections: command.connections,
        in_flight: command.in_flight,
        record_bytes: 1024,
        fill: Fill::RequestBytes(command.request_bytes),
        partitions_per_request: 1,
        acks: -1,
        pace: Pace::Max,
        bytes_max: u64::MAX,
        curve: None,
    };
    let variants: &[Work] =
        if command.probe.sink_sync { &[Work::Write, Work::Flush] } else { &[Work::Write] };
    for work in variants.iter().filter(|_| wanted("sink")) {
        roofline.sinks.push(probes.sink(&load, *work)?);
    }
    if wanted("sink") {
        roofline.ceilings.push(probes.sink(&load, Work::Nothing)?);
    }
    print!("{}", table(&roofline));
    if let Some(out) = &command.out {
        std::fs::create_dir_all(out).map_err(io_err(format!("create {}", out.display())))?;
        let manifest = Manifest::take(
            probes.congestion.as_deref(),
            &probes.cpus_client,
            &probes.cpus_server,
            Some(&command.probe.dir),
            BTreeMap::new(),
        );
        write_json(&out.join("manifest.json"), &manifest)?;
        write_json(&out.join("summary.json"), &roofline)?;
    }
    Ok(())
}
