//! Flags.
//!
//! Owner: `main`. Must not: do anything but parse and translate.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::consumer::AtEnd;
use crate::error::{BenchError, Result};
use crate::kafka::TopicSpec;
use crate::schedule::Pace;
use crate::workload::{Client, ConsumeLoad, Fill, From, ProduceLoad};

/// Load harness for any Kafka endpoint.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send pre-encoded batches, open loop at a rate or as fast as it goes.
    Produce(ProduceCommand),
    /// Fetch, from the start or at the tail.
    Consume(ConsumeCommand),
    /// Produce at a rate and consume at the tail; latency from the stamp in the payload.
    E2e(E2eCommand),
    /// Measure what this machine allows: disk, loopback, CRC, and the sink.
    Roofline(RooflineCommand),
    /// Play a preset or a workload file (those of the OpenMessaging Benchmark too).
    Run(crate::load::run::RunCommand),
    /// Latency against load: a workload at several rates.
    Curve(crate::load::sweep::CurveCommand),
    /// Numbered, checksummed records: nothing lost, duplicated or reordered? Status 1: something was.
    Verify(crate::verify::VerifyCommand),
    /// The same while the server is paused, killed, made to expire data or asked for old data.
    Fault(crate::fault::FaultCommand),
    /// A standard load of several workloads: roofline, produce, open loop, end to end, fetch.
    Suite(SuiteCommand),
    /// linkedin-2015 at its peak, with a choice of request size (`run linkedin-2015` has the rest).
    Preset(crate::preset::PresetCommand),
    /// Find the highest rate that meets a latency limit, then run at half of it.
    Knee(crate::knee::KneeCommand),
    /// What idle connections cost the server.
    Idle(crate::idle::IdleCommand),
    /// Judge paired samples of interleaved runs: 0 no regression, 1 regression, 2 not decided.
    Gate(crate::gate::GateCommand),
    /// The same workloads on several endpoints, interleaved, with medians and ratios.
    CompareEndpoints(CompareCommand),
}

/// Which endpoint and topic.
#[derive(Debug, Args)]
pub(crate) struct EndpointArgs {
    /// Endpoint.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub(crate) bootstrap: String,
    /// Topic; created when missing, and deleted afterwards if it was.
    #[arg(long, default_value = "ringlog-bench")]
    pub(crate) topic: String,
    /// Partitions of a topic that has to be created.
    #[arg(long, default_value_t = 1)]
    pub(crate) partitions: usize,
    /// Configuration of a topic that has to be created, `key=value`; repeatable.
    #[arg(long = "topic-config", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) topic_configs: Vec<(String, String)>,
    /// Keep the topic that was created.
    #[arg(long)]
    pub(crate) keep_topic: bool,
    /// Process id of the server, to note its processor time.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Send every produce request to the listener after the leader's: the wrong core.
    #[arg(long)]
    pub(crate) misroute: bool,
}

/// Timing, cores and output.
#[derive(Debug, Args, Clone)]
pub(crate) struct ClientArgs {
    /// Measured seconds.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) duration: f64,
    /// Unmeasured seconds at the start.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub(crate) warmup: f64,
    /// Seconds to wait for late sends, replies and deliveries behind the measured time.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) drain: f64,
    /// Cores for the load threads, one thread each (`0,2-3`); without it threads are not pinned.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub(crate) cpus: Option<CpuList>,
    /// TCP congestion control of every connection; `default` leaves the system's.
    #[arg(long, default_value = "cubic")]
    pub(crate) congestion: String,
    /// Folder for summary.json, manifest.json and the .hlog files.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Name of the phase and its log.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Show the progress line without a terminal too.
    #[arg(long)]
    pub(crate) progress: bool,
}

/// Acknowledgement level.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Acks {
    /// None.
    #[value(name = "0")]
    None,
    /// The leader's.
    #[value(name = "1")]
    Leader,
    /// All replicas'.
    #[value(name = "all", alias = "-1")]
    All,
}

impl Acks {
    /// The wire value.
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Shape of the produced load.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// Producer connections.
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Requests in flight per connection.
    #[arg(long, default_value_t = 5)]
    pub(crate) in_flight: usize,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    pub(crate) record_bytes: usize,
    /// Records per batch.
    #[arg(long, conflicts_with = "request_bytes")]
    pub(crate) records_per_batch: Option<u32>,
    /// Bytes of all batches of a request; batches are filled to fit.
    #[arg(long)]
    pub(crate) request_bytes: Option<usize>,
    /// Partitions in one request, a batch each.
    #[arg(long, default_value_t = 1)]
    pub(crate) partitions_per_request: usize,
    /// 0, 1 or all.
    #[arg(long, value_enum, default_value = "all", allow_hyphen_values = true)]
    pub(crate) acks: Acks,
    /// Open loop: records per second over all connections.
    #[arg(long, value_name = "RECORDS/S")]
    pub(crate) rate: Option<u64>,
    /// Closed loop: as fast as the in-flight window allows.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) max: bool,
    /// Stop after so many bytes of batches.
    #[arg(long, value_name = "BYTES")]
    pub(crate) bytes_max: Option<u64>,
}

/// `produce`
#[derive(Debug, Args)]
pub(crate) struct ProduceCommand {
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    #[command(flatten)]
    pub(crate) produce: ProduceArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Where to start.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FromArg {
    /// Log start offset.
    Earliest,
    /// Log end offset.
    Latest,
}

/// `consume`
#[derive(Debug, Args)]
pub(crate) struct ConsumeCommand {
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    /// Consumer connections; they share the partitions, or read the same ones when there are more of them.
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Where to start.
    #[arg(long, value_enum, default_value = "earliest")]
    pub(crate) from: FromArg,
    /// Start so many records before the end of each partition.
    #[arg(long, value_name = "RECORDS", conflicts_with = "from")]
    pub(crate) tail_records: Option<u64>,
    /// At the end offset (as of the start) begin again: re-reads what is hot.
    #[arg(long)]
    pub(crate) repeat: bool,
    /// Go on at the tail instead of stopping at the end offset.
    #[arg(long, conflicts_with = "repeat")]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Limits of a fetch.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// Response limit in bytes.
    #[arg(long, default_value_t = 1 << 20)]
    pub(crate) max_bytes: u32,
    /// Least bytes before the endpoint answers.
    #[arg(long, default_value_t = 1)]
    pub(crate) min_bytes: u32,
    /// Longest the endpoint may hold a fetch, in milliseconds.
    #[arg(long, default_value_t = 500)]
    pub(crate) max_wait_ms: u32,
    /// Verify the CRC of every batch received.
    #[arg(long)]
    pub(crate) check_crc: bool,
}

/// `e2e`
#[derive(Debug, Args)]
pub(crate) struct E2eCommand {
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    #[command(flatten)]
    pub(crate) produce: ProduceArgs,
    /// Consumer connections of one group; they share the partitions.
    #[arg(long, default_value_t = 1)]
    pub(crate) consumers: usize,
    /// Groups, each of which reads everything.
    #[arg(long, default_value_t = 1)]
    pub(crate) fan_out: usize,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Rooflines: what is probed, and where.
#[derive(Debug, Args, Clone)]
pub(crate) struct ProbeArgs {
    /// Folder on the disk to probe; a file of `--probe-file-bytes` is made there and removed.
    #[arg(long, value_name = "DIR", alias = "data-dir")]
    pub(crate) dir: PathBuf,
    /// Size of the probe file.
    #[arg(long, default_value_t = 2 << 30)]
    pub(crate) probe_file_bytes: u64,
    /// Seconds for each probe.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) probe_seconds: f64,
    /// Seconds of load before a workload is measured; default: a quarter of its time, one second at most.
    /// With several seconds, brokers that recycle segments are measured in their steady state
    #[arg(long)]
    pub(crate) warmup: Option<f64>,
    /// Cores of the server side (sink, receiver); default: the second half of the cores.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub(crate) cpus_server: Option<CpuList>,
    /// Cores of the client side; default: the first half of the cores.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub(crate) cpus_client: Option<CpuList>,
    /// Acknowledge the sink's frames after write and fdatasync, as acks=all does.
    #[arg(long)]
    pub(crate) sink_sync: bool,
}

/// `roofline`
#[derive(Debug, Args)]
pub(crate) struct RooflineCommand {
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
    /// Connections to the sink and over loopback.
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Requests in flight per connection to the sink.
    #[arg(long, default_value_t = 5)]
    pub(crate) in_flight: usize,
    /// Request size sent to the sink.
    #[arg(long, default_value_t = 1 << 20)]
    pub(crate) request_bytes: usize,
    /// Only these probes: disk, flush, crc, loopback, sink; default: all
    #[arg(long, value_delimiter = ',', value_parser = ["disk", "flush", "crc", "loopback", "sink"])]
    pub(crate) only: Vec<String>,
    /// TCP congestion control; `default` leaves the system's.
    #[arg(long, default_value = "cubic")]
    pub(crate) congestion: String,
    /// Folder for summary.json and manifest.json.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `suite`
#[derive(Debug, Args)]
pub(crate) struct SuiteCommand {
    /// Endpoint.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub(crate) bootstrap: String,
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
    /// Process id of the server, to note its processor time.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// About ten seconds instead of half a minute.
    #[arg(long)]
    pub(crate) quick: bool,
    /// TCP congestion control; `default` leaves the system's.
    #[arg(long, default_value = "cubic")]
    pub(crate) congestion: String,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Show the progress line without a terminal too.
    #[arg(long)]
    pub(crate) progress: bool,
}

/// `compare-endpoints`
#[derive(Debug, Args)]
pub(crate) struct CompareCommand {
    /// Endpoints, `NAME=HOST:PORT` or `NAME=HOST:PORT,PID`; ratios are to the last.
    #[arg(required = true, value_name = "NAME=HOST:PORT[,PID]", value_parser = named_endpoint)]
    pub(crate) endpoints: Vec<NamedEndpoint>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Seconds for each workload.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// Workloads, by name; default: all.
    #[arg(long, value_delimiter = ',')]
    pub(crate) workloads: Vec<String>,
    /// Records per second of the open-loop workloads.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) rate: u64,
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
    /// TCP congestion control; `default` leaves the system's.
    #[arg(long, default_value = "cubic")]
    pub(crate) congestion: String,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// An endpoint with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedEndpoint {
    /// Name in tables.
    pub(crate) name: String,
    /// `host:port`.
    pub(crate) address: String,
    /// Server process.
    pub(crate) pid: Option<u32>,
}

/// A list of cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

pub(crate) fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE wanted")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn named_endpoint(text: &str) -> std::result::Result<NamedEndpoint, String> {
    let (name, rest) = text.split_once('=').ok_or("NAME=HOST:PORT wanted")?;
    let (address, pid) = match rest.split_once(',') {
        Some((address, pid)) => (address, Some(pid.parse().map_err(|_| "PID is no number".to_owned())?)),
        None => (rest, None),
    };
    Ok(NamedEndpoint { name: name.to_owned(), address: address.to_owned(), pid })
}

pub(crate) fn cpu_list(text: &str) -> std::result::Result<CpuList, String> {
    let number = |part: &str| {
        part.trim().parse::<usize>().ok().filter(|cpu| *cpu < 1024).ok_or(format!("{part} is no core number"))
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => cpus.extend(number(first)?..=number(last)?),
            None => cpus.push(number(part)?),
        }
    }
    if cpus.is_empty() { Err("no core in the list".into()) } else { Ok(CpuList(cpus)) }
}

/// Seconds from a flag.
pub(crate) fn seconds(value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| BenchError::Usage(format!("{value} is no duration")))
}

impl ProduceArgs {
    /// The load these flags ask for.
    pub(crate) fn load(&self) -> Result<ProduceLoad> {
        let pace = match (self.rate, self.max) {
            (Some(0), _) => return Err(BenchError::Usage("a rate of 0 sends nothing".into())),
            (Some(rate), _) => Pace::Rate(rate),
            (None, true) => Pace::Max,
            (None, false) => return Err(BenchError::Usage("one of --rate and --max is needed".into())),
        };
        Ok(self.load_at(pace))
    }

    /// The load these flags ask for, at another pace.
    pub(crate) fn load_at(&self, pace: Pace) -> ProduceLoad {
        ProduceLoad {
            connections: self.connections,
            in_flight: self.in_flight,
            record_bytes: self.record_bytes,
            fill: match (self.records_per_batch, self.request_bytes) {
                (Some(records), _) => Fill::Records(records),
                (None, Some(bytes)) => Fill::RequestBytes(bytes),
                (None, None) => Fill::Records(16),
            },
            partitions_per_request: self.partitions_per_request,
            acks: self.acks.code(),
            pace,
            bytes_max: self.bytes_max.unwrap_or(u64::MAX),
            curve: None,
        }
    }
}

impl FetchArgs {
    /// A tail consumer with these limits.
    pub(crate) fn load(&self, connections: usize, from: From, at_end: AtEnd) -> ConsumeLoad {
        ConsumeLoad {
            connections,
            fan_out: 1,
            fan_out_part: 0.0,
            from,
            at_end,
            bytes_max: self.max_bytes.clamp(1, 1 << 29),
            bytes_min: self.min_bytes,
            wait_ms_max: self.max_wait_ms.min(i32::MAX as u32),
            check_crc: self.check_crc,
        }
    }
}

impl ConsumeCommand {
    /// The load these flags ask for.
    pub(crate) fn load(&self) -> ConsumeLoad {
        let from = match (self.tail_records, self.from) {
            (Some(records), _) => From::Tail(records),
            (None, FromArg::Earliest) => From::Earliest,
            (None, FromArg::Latest) => From::Latest,
        };
        let at_end = match (self.repeat, self.follow || matches!(self.from, FromArg::Latest)) {
            (true, _) => AtEnd::Repeat,
            (false, true) => AtEnd::Follow,
            (false, false) => AtEnd::Stop,
        };
        self.fetch.load(self.connections, from, at_end)
    }
}

impl ClientArgs {
    /// The client these flags describe; the log is set by the caller.
    pub(crate) fn client(&self, server_pid: Option<u32>) -> Result<Client> {
        Ok(Client {
            cpus: self.cpus.clone().map_or_else(Vec::new, |list| list.0),
            congestion: crate::generator::usable_congestion(&self.congestion),
            warmup: seconds(self.warmup)?,
            duration: seconds(self.duration)?,
            drain: seconds(self.drain)?,
            server_pid,
            log: None,
            progress: self.progress,
        })
    }
}

impl EndpointArgs {
    /// The topic, with defaults that bound its disk use.
    pub(crate) fn topic_spec(&self, batch_bytes: usize) -> TopicSpec {
        bounded_topic(&self.topic, self.partitions, &self.topic_configs, batch_bytes)
    }
}

/// A topic whose retention keeps it below `PRESET_DISK_BYTES_MAX`; explicit settings win.
pub(crate) fn bounded_topic(
    name: &str,
    partitions: usize,
    configs: &[(String, String)],
    batch_bytes: usize,
) -> TopicSpec {
    let share = crate::limits::PRESET_DISK_BYTES_MAX / partitions.max(1) as u64;
    // Many partitions get small segments, or their open ones alone would break the bound.
    let least = if partitions > 100 { 1 << 20 } else { 16 << 20 };
    let segment = (share / 4).clamp(least, 1 << 30);
    let mut all = configs.to_vec();
    let mut add = |key: &str, value: u64| {
        if !all.iter().any(|(known, _)| known == key) {
            all.push((key.to_owned(), value.to_string()));
        }
    };
    add("segment.bytes", segment);
    add("retention.bytes", share.saturating_sub(segment).max(segment));
    // Kafka's default limit is 1 MiB and the 12 bytes in front of a batch.
    if batch_bytes > (1 << 20) + 12 {
        add("max.message.bytes", batch_bytes as u64);
    }
    TopicSpec { name: name.to_owned(), partitions, configs: all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_parse() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert_eq!(cpu_list("0,2-3"), Ok(CpuList(vec![0, 2, 3])));
        assert!(cpu_list("x").is_err() && cpu_list("9999").is_err());
        let endpoint = named_endpoint("A=h:1,77").unwrap();
        assert_eq!((endpoint.address.as_str(), endpoint.pid), ("h:1", Some(77)));
    }

    #[test]
    fn default_topics_are_bounded_and_flags_win() {
        for partitions in [1, 4, 100] {
            let spec = bounded_topic("t", partitions, &[], 1000);
            let value = |key: &str| {
                spec.configs.iter().find(|(known, _)| known == key).unwrap().1.parse::<u64>().unwrap()
            };
            let most = (value("retention.bytes") + value("segment.bytes")) * partitions as u64;
            assert!(most <= crate::limits::PRESET_DISK_BYTES_MAX, "{most}");
        }
        let spec = bounded_topic("t", 1, &[("segment.bytes".into(), "5".into())], 2 << 20);
        assert!(spec.configs.contains(&("segment.bytes".into(), "5".into())));
        assert!(spec.configs.iter().any(|(key, _)| key == "max.message.bytes"));
    }
}
