//! Counts as text: the Prometheus exposition format, and the HdrHistogram log format 1.3.
//!
//! Owner: an admin thread. Pure functions over snapshots. Invariant: histograms of several cores are added, never
//! their quantiles.
//! It must not ask anybody for anything.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::CoreReport;
use crate::memory;
use crate::metrics::{COUNTER_NAMES, SERIES_NAMES, Snapshot, bucket_of, bucket_top};
use crate::wire::api_table;

/// Upper bounds of the exposed buckets are powers of two of nanoseconds, from 2^10 (1 µs) to 2^34 (17 s).
const BOUND_POWERS: std::ops::RangeInclusive<u32> = 10..=34;

/// The start page.
pub(super) fn page() -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<!doctype html><title>ringlog</title><h1>ringlog {version}</h1><ul>\
         <li><a href=\"/metrics\">/metrics</a>: counters and latency histograms, Prometheus text format\
         <li><a href=\"/histograms.hlog\">/histograms.hlog</a>: latency by API and stage since the start or the \
         last reset, HdrHistogram log 1.3, nanoseconds; <code>?reset</code> ends the interval\
         <li><a href=\"/healthz\">/healthz</a>: 200 while every core answers and no partition has failed</ul>\n"
    )
    .into_bytes()
}

/// One metric with a value for each core.
fn per_core(out: &mut String, kind: &str, name: &str, help: &str, values: impl Iterator<Item = u64>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP ringlog_{name} {help}\n# TYPE ringlog_{name} {kind}");
    for (core, value) in values.enumerate() {
        let _ = writeln!(out, "ringlog_{name}{{core=\"{core}\"}} {value}");
    }
}

/// The Prometheus text format.
pub(super) fn prometheus(cores: &[CoreReport], started: SystemTime) -> Vec<u8> {
    let mut out = String::with_capacity(64 << 10);
    let version = env!("CARGO_PKG_VERSION");
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let _ = writeln!(out, "# HELP ringlog_build_info Version\n# TYPE ringlog_build_info gauge");
    let _ = writeln!(out, "ringlog_build_info{{version=\"{version}\"}} 1");
    let _ = writeln!(out, "# HELP ringlog_start_time_seconds Start\n# TYPE ringlog_start_time_seconds gauge");
    let _ = writeln!(out, "ringlog_start_time_seconds {since:.3}");
    for (at, (name, help)) in COUNTER_NAMES.iter().enumerate() {
        let value = |core: &CoreReport| core.counts.counters.get(at).copied().unwrap_or(0);
        per_core(&mut out, "counter", name, help, cores.iter().map(value));
    }
    gauges(&mut out, cores);
    let heap_bytes = memory::heap_bytes();
    let _ = writeln!(out, "# HELP ringlog_heap_bytes Memory in use that is no I/O block");
    let _ = writeln!(out, "# TYPE ringlog_heap_bytes gauge\nringlog_heap_bytes {heap_bytes}");
    for (name, help, requests) in [
        ("requests_total", "Requests by API", true),
        ("errors_total", "Error codes other than 0 in produce and fetch answers", false),
    ] {
        let _ = writeln!(out, "# HELP ringlog_{name} {help}\n# TYPE ringlog_{name} counter");
        for (core, report) in cores.iter().enumerate() {
            let counts = if requests { &report.counts.requests } else { &report.counts.errors };
            for (key, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let api = api_table::find(key as i16).map_or("Unknown", |api| api.name);
                let _ =
                    writeln!(out, "ringlog_{name}{{core=\"{core}\",api=\"{api}\",key=\"{key}\"}} {count}");
            }
        }
    }
    stages(&mut out, cores);
    out.into_bytes()
}

fn gauges(out: &mut String, cores: &[CoreReport]) {
    type Read = fn(&CoreReport) -> u64;
    let all: [(&str, &str, &str, Read); 13] = [
        ("gauge", "connections", "Open connections", |core| core.gauges.connections as u64),
        ("gauge", "partitions", "Partitions owned", |core| core.gauges.partitions as u64),
        ("gauge", "failed_partitions", "Partitions that no longer take appends", |core| {
            core.gauges.failed_partitions as u64
        }),
        ("gauge", "tail_bytes", "Memory of the logs' ends", |core| core.gauges.tail_bytes as u64),
        ("gauge", "pool_files", "Files that wait to become segments", |core| core.gauges.pool_files as u64),
        ("gauge", "pool_bytes", "Their size", |core| core.gauges.pool_bytes),
        (
            "gauge",
            "clock_behind_ms",
            "Milliseconds by which expiry stands behind a clock that jumped",
            |core| core.gauges.clock_behind_ms,
        ),
        ("gauge", "leases", "Slices lent to other cores", |core| core.gauges.leases as u64),
        ("gauge", "answer_bytes", "Memory of answers that are being sent", |core| {
            core.gauges.answer_bytes as u64
        }),
        ("counter", "allocations_total", "Allocations that are no I/O block", |core| core.allocations.small),
        ("counter", "io_blocks_total", "I/O blocks taken", |core| core.allocations.blocks),
        ("gauge", "io_block_bytes", "I/O blocks in use", |core| core.allocations.block_bytes),
        ("gauge", "io_block_memory_bytes", "Memory held from the system for I/O blocks", |core| {
            core.allocations.region_bytes
        }),
    ];
    for (kind, name, help, read) in all {
        per_core(out, kind, name, help, cores.iter().map(read));
    }
}

/// The histograms of all cores together, by API and stage.
fn stages(out: &mut String, cores: &[CoreReport]) {
    let mut sum = Snapshot::default();
    cores.iter().for_each(|core| sum.merge(&core.counts));
    let name = "ringlog_stage_seconds";
    let _ = writeln!(out, "# HELP {name} Latency by API and stage\n# TYPE {name} histogram");
    for (series, (api, stage)) in SERIES_NAMES.iter().enumerate() {
        let counts = sum.histogram(series);
        let labels = format!("api=\"{api}\",stage=\"{stage}\"");
        for power in BOUND_POWERS {
            let below: u64 = counts.iter().take(bucket_of(1 << power)).sum();
            let bound = (1u64 << power) as f64 / 1e9;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let all: u64 = counts.iter().sum();
        let seconds = sum.sums_ns.get(series).copied().unwrap_or(0) as f64 / 1e9;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {all}");
    }
}

/// The HdrHistogram log of one interval; a value stands for the middle of its bucket.
pub(super) fn histogram_log(sum: &Snapshot, started: SystemTime, ended: SystemTime) -> Vec<u8> {
    let mut out = Vec::new();
    let length = ended.duration_since(started).unwrap_or(Duration::ZERO);
    write_log(&mut out, sum, started, length).unwrap_or_else(|error| {
        // Only a histogram that does not fit its own format could get here: our mistake, and not worth a crash.
        tracing::error!("the histogram log cannot be written: {error}");
    });
    out
}

fn write_log(
    out: &mut Vec<u8>,
    sum: &Snapshot,
    started: SystemTime,
    length: Duration,
) -> std::io::Result<()> {
    use std::io::{Error, Write as _};
    writeln!(out, "#[Histogram log format version 1.3]")?;
    writeln!(
        out,
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
    )?;
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[ringlog: values in nanoseconds, maxima in milliseconds; tags are api/stage]")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(1e6)
        .begin_log_with(out, &mut serializer)?;
    for (series, (api, stage)) in SERIES_NAMES.iter().enumerate() {
        let Some(histogram) = to_hdr(sum.histogram(series)) else { continue };
        let tag = format!("{api}/{stage}");
        let tag = Tag::new(&tag);
        writer
            .write_histogram(&histogram, Duration::ZERO, length, tag)
            .map_err(|error| Error::other(error.to_string()))?;
    }
    Ok(())
}

/// `None` when nothing was recorded.
fn to_hdr(counts: &[u64]) -> Option<Histogram<u64>> {
    if counts.iter().all(|count| *count == 0) {
        return None;
    }
    let mut histogram = Histogram::new_with_bounds(1, 1 << 36, 3).ok()?;
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let bottom = bucket.checked_sub(1).map_or(0, |below| bucket_top(below) + 1);
        histogram.saturating_record_n(bottom.midpoint(bucket_top(bucket)), *count);
    }
    Some(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{BUCKETS, SERIES};

    fn report(values: &[u64]) -> CoreReport {
        let mut core = CoreReport::default();
        core.counts.histograms = vec![0; SERIES * BUCKETS];
        core.counts.sums_ns = vec![0; SERIES];
        core.counts.requests = vec![0; 4];
        core.counts.requests[3] = 9;
        for value in values {
            core.counts.histograms[bucket_of(*value)] += 1;
            core.counts.sums_ns[0] += value;
        }
        core
    }

    #[test]
    fn exposed_buckets_are_cumulative_and_exact_at_their_bounds() {
        let cores = [report(&[1023, 1024, 1 << 20]), report(&[(1 << 20) - 1, u64::MAX >> 20])];
        let text = String::from_utf8(prometheus(&cores, SystemTime::now())).unwrap();
        let count = |bound: &str| {
            let start =
                format!("ringlog_stage_seconds_bucket{{api=\"produce\",stage=\"receive\",le=\"{bound}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse::<u64>().unwrap()
        };
        assert_eq!((count("0.000001024"), count("0.000002048")), (1, 2));
        assert_eq!((count("0.001048576"), count("0.002097152"), count("+Inf")), (3, 4, 5));
        assert!(text.contains("ringlog_requests_total{core=\"1\",api=\"Metadata\",key=\"3\"} 9"));
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("ringlog_")));
    }

    #[test]
    fn histograms_keep_their_counts_and_their_values_within_a_bucket() {
        let core = report(&[1, 1_000, 1_000_000, 1_000_000_000]);
        let histogram = to_hdr(core.counts.histogram(0)).unwrap();
        assert_eq!(histogram.len(), 4);
        let p50 = histogram.value_at_quantile(0.5) as f64;
        assert!((p50 / 1_000.0 - 1.0).abs() < 0.04, "{p50}");
        assert!((histogram.max() as f64 / 1e9 - 1.0).abs() < 0.04);
        let log =
            String::from_utf8(histogram_log(&core.counts, SystemTime::now(), SystemTime::now())).unwrap();
        assert!(log.starts_with("#[Histogram log format version 1.3]"));
        assert_eq!(log.matches("Tag=produce/receive,").count(), 1);
    }
}
