//! The workloads that `run` and `compare-endpoints` share.
//!
//! Owner: the main thread. One suite is one pass over one endpoint: produce at full speed in three shapes,
//! then read back what was written (tail, then whole log), then open loop, then end to end.
//! Must not: leave topics behind; choose a rate from another endpoint's result.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::bounded_topic;
use crate::commands::{consume_parameters, end_to_end, log_path, produce_parameters, with_topic};
use crate::consumer::AtEnd;
use crate::error::{BenchError, Result};
use crate::generator::Peer;
use crate::kafka::Partition;
use crate::limits::{PRESET_PHASE_BYTES_MAX, SETTLE_S_MAX};
use crate::report::{Phase, phase};
use crate::roofline::{CEILING, Probes, Roofline};
use crate::schedule::Pace;
use crate::sink::Work;
use crate::sys;
use crate::workload::{self, Client, ConsumeLoad, Fill, From, ProduceLoad};

/// Partitions and connections of every preset.
pub(crate) const LANES: usize = 4;
/// Bytes at the end of the log that the tail fetch reads again and again.
const TAIL_BYTES: u64 = 32 << 20;
/// Rate of the open loop when the endpoint's own knee was not measured in this pass, records per second.
const RATE_FALLBACK: u64 = 20_000;

/// Names of the workloads, in the order they run.
pub(crate) const WORKLOADS: [&str; 8] = [
    "produce-1m",
    "fetch-tail",
    "fetch-log",
    "produce-1m-acks1",
    "produce-64k",
    "produce-16k",
    "open-1k",
    "e2e-1k",
];

/// One pass over one endpoint.
#[derive(Debug)]
pub(crate) struct Suite<'a> {
    /// `host:port`
    pub(crate) bootstrap: &'a str,
    /// Label of the endpoint in the results.
    pub(crate) label: &'a str,
    /// Client cores and congestion control.
    pub(crate) probes: &'a Probes,
    /// Measured seconds of each workload.
    pub(crate) seconds: f64,
    /// Server process.
    pub(crate) server_pid: Option<u32>,
    /// Open-loop rate in records per second; `None`: half of what `produce-16k` reached.
    pub(crate) rate: Option<u64>,
    /// Where logs go, and a prefix for their names.
    pub(crate) logs: Option<(PathBuf, String)>,
    /// Workloads wanted; empty means all.
    pub(crate) wanted: &'a [String],
    /// Progress line without a terminal.
    pub(crate) progress: bool,
    /// Each topic begins on idle disks: what another endpoint has left to write, or to remove, is not this one's.
    pub(crate) settled: bool,
}

/// The produce shape of a workload, or `None` when it only reads.
pub(crate) fn shape(name: &str, pace: Pace) -> Option<ProduceLoad> {
    let (request_bytes, acks) = match name {
        "produce-1m" => (1 << 20, -1),
        "produce-1m-acks1" => (1 << 20, 1),
        "produce-64k" => (64 << 10, -1),
        "produce-16k" | "open-1k" | "e2e-1k" => (17 << 10, -1),
        _ => return None,
    };
    Some(ProduceLoad {
        connections: LANES,
        in_flight: 5,
        record_bytes: 1024,
        fill: Fill::RequestBytes(request_bytes),
        partitions_per_request: 1,
        acks,
        pace,
        bytes_max: PRESET_PHASE_BYTES_MAX,
        curve: None,
    })
}

/// Measures the sinks that the closed-loop workloads are compared with.
pub(crate) fn sinks(probes: &Probes, wanted: &[String], roofline: &mut Roofline) -> Result<()> {
    for name in ["produce-1m", "produce-64k"] {
        if (wanted.is_empty() || wanted.iter().any(|want| want == name))
            && let Some(load) = shape(name, Pace::Max)
        {
            for work in [Work::Write, Work::Flush] {
                roofline.sinks.push(probes.sink(&load, work)?);
            }
            roofline.ceilings.push(probes.sink(&load, Work::Nothing)?);
        }
    }
    Ok(())
}

/// Adds to each phase what share of this machine's limits it reached.
pub(crate) fn attach(phases: &mut [Phase], roofline: &Roofline) {
    for phase in phases {
        let same = |sink: &&crate::roofline::SinkResult| {
            phase
                .parameters
                .get("request_bytes")
                .is_some_and(|bytes| *bytes == sink.request_bytes.to_string())
                && phase
                    .parameters
                    .get("connections")
                    .is_some_and(|count| *count == sink.connections.to_string())
        };
        let closed = phase.latency.contains_key("service") && !phase.latency.contains_key("response");
        if let Some(rates) = phase.produced.as_ref().filter(|_| closed) {
            for sync in [false, true] {
                if let Some(sink) = roofline.sinks.iter().filter(same).find(|sink| sink.sync == sync) {
                    let name = if sync { "in sink with fdatasync" } else { "in sink" };
                    phase.percent_of.insert(name.to_owned(), 100.0 * rates.gb_per_s / sink.gb_per_s);
                }
            }
            if let Some(ceiling) = roofline.ceilings.iter().find(same) {
                let percent = 100.0 * rates.gb_per_s / ceiling.gb_per_s;
                phase.percent_of.insert(format!("in {CEILING}"), percent);
            }
        }
        if let (Some(rates), None) = (&phase.consumed, &phase.produced)
            && let Some(limit) = roofline.loopback_gb_per_s.get(&format!("out_{LANES}"))
        {
            phase.percent_of.insert("out loopback".to_owned(), 100.0 * rates.gb_per_s / limit);
        }
    }
}

/// The median; `None` of nothing.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Suite<'_> {
    fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|want| want == name)
    }

    fn client(&self, name: &str) -> Result<Client> {
        let duration = Duration::try_from_secs_f64(self.seconds)
            .map_err(|_| BenchError::Usage(format!("{} is no duration", self.seconds)))?;
        let warmup = match self.probes.args.warmup.map(Duration::try_from_secs_f64) {
            Some(Ok(warmup)) => warmup,
            Some(Err(_)) => return Err(BenchError::Usage("--warmup is no duration".into())),
            None => (duration / 4).min(Duration::from_secs(1)),
        };
        let mut client = self.probes.client(warmup, duration);
        client.server_pid = self.server_pid;
        client.progress = self.progress;
        if let Some((folder, prefix)) = &self.logs {
            client.log = log_path(Some(folder), &format!("{prefix}{name}"))?;
        }
        Ok(client)
    }

    fn topic<T>(&self, name: &str, work: impl FnOnce(&str, &[Partition]) -> Result<T>) -> Result<T> {
        if self.settled {
            sys::settle_disks(Duration::from_secs(SETTLE_S_MAX));
        }
        let topic = format!("ringlog-bench-{name}-{}", sys::now_ns());
        let spec = bounded_topic(&topic, LANES, &[], 1 << 20);
        with_topic(self.bootstrap, &spec, false, |partitions| work(&topic, partitions))
    }

    /// Runs every wanted workload.
    pub(crate) fn run(&self) -> Result<Vec<Phase>> {
        let mut phases = Vec::new();
        let reads = self.wants("fetch-tail") || self.wants("fetch-log");
        if self.wants("produce-1m") || reads {
            self.topic("produce-1m", |topic, partitions| {
                let produced = self.produce("produce-1m", topic, partitions, Pace::Max)?;
                let per_record = produced
                    .produced
                    .as_ref()
                    .map_or(1, |rates| (rates.counters.bytes / rates.counters.records.max(1)).max(1));
                phases.push(produced);
                let tail = From::Tail(TAIL_BYTES / LANES as u64 / per_record);
                if self.wants("fetch-tail") {
                    phases.push(self.fetch("fetch-tail", topic, partitions, tail, AtEnd::Repeat)?);
                }
                if self.wants("fetch-log") {
                    phases.push(self.fetch("fetch-log", topic, partitions, From::Earliest, AtEnd::Stop)?);
                }
                Ok(())
            })?;
        }
        let mut rate = self.rate;
        for name in ["produce-1m-acks1", "produce-64k", "produce-16k"] {
            if self.wants(name) {
                let phase =
                    self.topic(name, |topic, partitions| self.produce(name, topic, partitions, Pace::Max))?;
                if name == "produce-16k" && self.rate.is_none() {
                    rate = phase.produced.as_ref().map(|rates| (rates.records_per_s / 2.0) as u64);
                }
                phases.push(phase);
            }
        }
        let rate = rate.unwrap_or(RATE_FALLBACK).max(1_000);
        if self.wants("open-1k") {
            let pace = Pace::Rate(rate);
            phases.push(
                self.topic("open-1k", |topic, partitions| self.produce("open-1k", topic, partitions, pace))?,
            );
        }
        if self.wants("e2e-1k") {
            // Half of the open loop's rate when that was derived: the consumer takes its share of the cores.
            let rate = if self.rate.is_some() { rate } else { rate / 2 };
            phases.push(self.topic("e2e-1k", |topic, partitions| self.e2e(topic, partitions, rate))?);
        }
        Ok(phases)
    }

    fn produce(&self, name: &str, topic: &str, partitions: &[Partition], pace: Pace) -> Result<Phase> {
        let load = shape(name, pace).ok_or_else(|| BenchError::Usage(format!("{name} does not produce")))?;
        let client = self.client(name)?;
        let image = workload::encode_image(&load, false)?;
        let plans = workload::plan_connections(topic, partitions, &load, &image)?;
        let outcome = workload::produce(plans, &load, &client, Peer::Kafka)?;
        Ok(phase(name, self.label, produce_parameters(&load, &outcome), &outcome, Some(pace)))
    }

    fn fetch(
        &self,
        name: &str,
        topic: &str,
        partitions: &[Partition],
        from: From,
        at_end: AtEnd,
    ) -> Result<Phase> {
        let load = ConsumeLoad {
            connections: LANES,
            fan_out: 1,
            fan_out_part: 0.0,
            from,
            at_end,
            bytes_max: 1 << 20,
            bytes_min: 1,
            wait_ms_max: 500,
            check_crc: false,
        };
        let mut client = self.client(name)?;
        if at_end == AtEnd::Stop {
            client.warmup = Duration::ZERO;
        }
        let mut tries = 3;
        loop {
            tries -= 1;
            let plans = workload::plan_fetches(topic, partitions, &load)?;
            match workload::consume(plans, &load, &client) {
                // Retention moved the start of the log between the look-up and the first fetch.
                Err(BenchError::Endpoint { code: 1, .. }) if tries > 0 => {}
                Err(error) => return Err(error),
                Ok(outcome) => return Ok(phase(name, self.label, consume_parameters(&load), &outcome, None)),
            }
        }
    }

    fn e2e(&self, topic: &str, partitions: &[Partition], rate: u64) -> Result<Phase> {
        let pace = Pace::Rate(rate);
        let load = shape("e2e-1k", pace).ok_or_else(|| BenchError::Usage("e2e-1k has a shape".into()))?;
        let consume = ConsumeLoad::following(LANES, true);
        let outcome = end_to_end(topic, partitions, &load, &consume, &self.client("e2e-1k")?)?;
        let mut parameters = produce_parameters(&load, &outcome);
        parameters.extend(consume_parameters(&consume));
        Ok(phase("e2e-1k", self.label, parameters, &outcome, Some(pace)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn every_workload_has_a_shape_or_reads() {
        for name in WORKLOADS {
            assert_eq!(shape(name, Pace::Max).is_none(), name.starts_with("fetch"), "{name}");
        }
    }
}
