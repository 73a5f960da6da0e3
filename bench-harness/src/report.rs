//! Summaries: what a workload's outcome says, as JSON and as a table.
//!
//! Owner: the main thread. Invariants: quantiles come from merged histograms; a run whose generator was the
//! bottleneck says so. Must not: hide an overflow, an unsent request or a missing delivery.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::drain::Drained;
use crate::error::{BenchError, Result, io_err};
use crate::record::{Counters, Kind};
use crate::schedule::Pace;
use crate::workload::Outcome;

/// A generator thread that is busier than this is taken for the bottleneck.
const BUSY_SHARE: f64 = 0.92;
/// A late generator thread that waited longer than this for a core, and had time left, lacked a core.
const STARVED_SHARE: f64 = 0.05;
/// A late generator thread that neither ran nor waited longer than this was woken up late.
const IDLE_SHARE: f64 = 0.2;
/// Schedule lag above this at p99 means that the schedule was not kept, in nanoseconds.
const LAG_NS_MAX: u64 = 1_000_000;

/// Below this share of the scheduled rate the endpoint did not keep up.
const RATE_REACHED: f64 = 0.99;

/// Processor time of others above which a phase is called disturbed, in cores.
const FOREIGN_CORES_MAX: f64 = 0.15;

/// Quantiles of one kind of sample, in nanoseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Quantiles {
    /// Samples.
    pub(crate) count: u64,
    /// Smallest.
    pub(crate) min_ns: u64,
    /// Mean.
    pub(crate) mean_ns: f64,
    /// Median.
    pub(crate) p50_ns: u64,
    /// 90 %.
    pub(crate) p90_ns: u64,
    /// 99 %.
    pub(crate) p99_ns: u64,
    /// 99.9 %.
    pub(crate) p999_ns: u64,
    /// 99.99 %.
    pub(crate) p9999_ns: u64,
    /// Largest.
    pub(crate) max_ns: u64,
    /// Samples above the histogram's range; they are in none of the quantiles.
    pub(crate) overflow: u64,
}

/// Throughput of one direction.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rates {
    /// Sums.
    #[serde(flatten)]
    pub(crate) counters: Counters,
    /// Requests per second.
    pub(crate) requests_per_s: f64,
    /// Records per second.
    pub(crate) records_per_s: f64,
    /// Batch bytes per second, in 10^9.
    pub(crate) gb_per_s: f64,
}

/// What the generator needed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GeneratorUse {
    /// Load threads.
    pub(crate) threads: usize,
    /// Cores used, all threads together.
    pub(crate) cpu_cores: f64,
    /// Share of its time the busiest thread was running.
    pub(crate) busiest_share: f64,
    /// Share of its time that thread was runnable without a core.
    pub(crate) starved_share: f64,
    /// The figures are the generator's limit rather than the endpoint's.
    pub(crate) bottleneck: bool,
}

/// One measured phase.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Phase {
    /// Name; also that of its log file.
    pub(crate) name: String,
    /// Which endpoint.
    pub(crate) endpoint: String,
    /// Parameters.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Measured seconds.
    pub(crate) seconds: f64,
    /// Sent and acknowledged.
    pub(crate) produced: Option<Rates>,
    /// Received.
    pub(crate) consumed: Option<Rates>,
    /// By kind.
    pub(crate) latency: BTreeMap<String, Quantiles>,
    /// The harness itself.
    pub(crate) generator: GeneratorUse,
    /// Cores the server used, when its process id was given.
    pub(crate) server_cpu_cores: Option<f64>,
    /// Cores kept busy by neither harness nor server; only with the server's process id.
    pub(crate) other_cpu_cores: Option<f64>,
    /// Cores taken by the hypervisor.
    pub(crate) stolen_cpu_cores: Option<f64>,
    /// Requests due and never sent.
    pub(crate) unsent_requests: u64,
    /// Requests without an answer.
    pub(crate) unanswered_requests: u64,
    /// Records acknowledged that no consumer saw.
    pub(crate) undelivered_records: Option<u64>,
    /// What became of a backlog that the consumers found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drained: Option<Drained>,
    /// Throughput as a percentage of a limit of this machine, by the limit's name.
    pub(crate) percent_of: BTreeMap<String, f64>,
    /// What a reader must know.
    pub(crate) notes: Vec<String>,
}

/// Quantiles of a histogram.
pub(crate) fn quantiles(values: &Histogram<u64>, overflow: u64) -> Quantiles {
    Quantiles {
        count: values.len(),
        min_ns: values.min(),
        mean_ns: values.mean(),
        p50_ns: values.value_at_quantile(0.5),
        p90_ns: values.value_at_quantile(0.9),
        p99_ns: values.value_at_quantile(0.99),
        p999_ns: values.value_at_quantile(0.999),
        p9999_ns: values.value_at_quantile(0.9999),
        max_ns: values.max(),
        overflow,
    }
}

fn rates(counters: Counters, seconds: f64) -> Option<Rates> {
    (counters != Counters::default()).then(|| Rates {
        counters,
        requests_per_s: counters.requests as f64 / seconds,
        records_per_s: counters.records as f64 / seconds,
        gb_per_s: counters.bytes as f64 / 1e9 / seconds,
    })
}

/// Turns an outcome into a phase. `pace` is `None` for pure consumers.
pub(crate) fn phase(
    name: &str,
    endpoint: &str,
    parameters: BTreeMap<String, String>,
    outcome: &Outcome,
    pace: Option<Pace>,
) -> Phase {
    let seconds = outcome.elapsed_ns as f64 / 1e9;
    let mut latency = BTreeMap::new();
    for kind in Kind::ALL {
        if let Some(values) = &outcome.totals.histograms[kind as usize] {
            latency.insert(kind.name().to_owned(), quantiles(values, outcome.totals.overflow[kind as usize]));
        }
    }
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let busiest =
        outcome.ends.iter().max_by_key(|end| end.cpu_ns + end.run_delay_ns).copied().unwrap_or_default();
    let mut generator = GeneratorUse {
        threads: outcome.ends.len(),
        cpu_cores: outcome.ends.iter().map(|end| share(end.cpu_ns, end.wall_ns)).sum(),
        busiest_share: share(busiest.cpu_ns, busiest.wall_ns),
        starved_share: share(busiest.run_delay_ns, busiest.wall_ns),
        bottleneck: false,
    };
    let mut notes: Vec<String> = outcome.drained.iter().map(Drained::text).collect();
    judge(&mut generator, &latency, pace, outcome, &mut notes);
    let cores = |time_ns: Option<u64>| time_ns.map(|time_ns| time_ns as f64 / outcome.elapsed_ns as f64);
    let others = cores(
        outcome.host.and_then(|host| Some(host.busy_ns.saturating_sub(host.harness_ns + host.server_ns?))),
    );
    let stolen = cores(outcome.host.map(|host| host.stolen_ns));
    for (who, used) in [("other processes", others), ("the hypervisor", stolen)] {
        if let Some(used) = used.filter(|used| *used > FOREIGN_CORES_MAX) {
            notes.push(format!("disturbed: {who} took {used:.2} cores"));
        }
    }
    Phase {
        name: name.to_owned(),
        endpoint: endpoint.to_owned(),
        parameters,
        seconds,
        produced: rates(outcome.totals.counters[0], seconds),
        consumed: rates(outcome.totals.counters[1], seconds),
        latency,
        generator,
        server_cpu_cores: cores(outcome.host.and_then(|host| host.server_ns)),
        other_cpu_cores: others,
        stolen_cpu_cores: stolen,
        unsent_requests: outcome.ends.iter().map(|end| end.unsent).sum(),
        unanswered_requests: outcome.ends.iter().map(|end| end.unanswered).sum(),
        undelivered_records: outcome.undelivered,
        drained: outcome.drained.clone(),
        percent_of: BTreeMap::new(),
        notes,
    }
}

/// The self-check: was it the endpoint that was measured?
fn judge(
    generator: &mut GeneratorUse,
    latency: &BTreeMap<String, Quantiles>,
    pace: Option<Pace>,
    outcome: &Outcome,
    notes: &mut Vec<String>,
) {
    let saturated = generator.busiest_share + generator.starved_share >= BUSY_SHARE;
    let late = |kind: &str| latency.get(kind).is_some_and(|lag| lag.p99_ns > LAG_NS_MAX);
    match pace {
        Some(Pace::Rate(rate)) => {
            generator.bottleneck = late("own-lag");
            let reached =
                outcome.totals.counters[0].records as f64 / (outcome.elapsed_ns as f64 / 1e9) / rate as f64;
            // Far behind its schedule a load never comes to what was due in the window: there is no lag to see then.
            let behind = reached < RATE_REACHED && !latency.contains_key("response");
            if (late("lag") || behind) && !generator.bottleneck {
                let how = if reached < RATE_REACHED { "did not keep up" } else { "stalled at times" };
                notes.push(format!(
                    "the endpoint {how} ({:.1} % of the rate in time): requests waited for room in the in-flight window",
                    reached * 100.0
                ));
            }
            if behind {
                notes.push(
                    "nothing that was due in the measured time was answered: no latency is known".into(),
                );
            }
        }
        Some(Pace::Max) => {
            generator.bottleneck = saturated;
            notes.push("closed loop: only the service time is meaningful".into());
        }
        None => generator.bottleneck = saturated,
    }
    if generator.bottleneck {
        let idle_otherwise = generator.busiest_share + generator.starved_share < BUSY_SHARE;
        let starved = generator.starved_share > STARVED_SHARE && idle_otherwise;
        let worked = generator.busiest_share + generator.starved_share;
        let why = if idle_otherwise && worked < IDLE_SHARE {
            "THE GENERATOR WAS LATE THOUGH IT HAD TIME, so some of these latencies are its own"
        } else if starved || generator.starved_share > generator.busiest_share {
            "THE HOST HAD NO CORE LEFT FOR THE GENERATOR"
        } else {
            "THE GENERATOR WAS THE BOTTLENECK"
        };
        notes.push(format!(
            "{why}: its busiest thread ran {:.0} % of the time and waited for a core {:.0} %",
            generator.busiest_share * 100.0,
            generator.starved_share * 100.0
        ));
    }
    if outcome.ended_early {
        notes.push("ended before its time: byte budget used up or end of the log reached".into());
    }
    for (what, count) in [
        ("due and never sent", outcome.ends.iter().map(|end| end.unsent).sum::<u64>()),
        ("sent and never answered", outcome.ends.iter().map(|end| end.unanswered).sum()),
    ] {
        if count > 0 {
            notes.push(format!("{count} requests {what}: they are in no histogram"));
        }
    }
    if let Some(missing) = outcome.undelivered.filter(|missing| *missing > 0) {
        notes.push(format!("{missing} acknowledged records were not delivered in time"));
    }
    let overflow: u64 = outcome.totals.overflow.iter().sum();
    if overflow > 0 {
        notes.push(format!("{overflow} samples above an hour are in no quantile"));
    }
}

/// A duration for people.
pub(crate) fn short_ns(value_ns: u64) -> String {
    match value_ns {
        0..10_000 => format!("{value_ns} ns"),
        10_000..1_000_000 => format!("{:.0} µs", value_ns as f64 / 1e3),
        1_000_000..100_000_000 => format!("{:.2} ms", value_ns as f64 / 1e6),
        100_000_000..10_000_000_000 => format!("{:.0} ms", value_ns as f64 / 1e6),
        _ => format!("{:.1} s", value_ns as f64 / 1e9),
    }
}

/// The phases as two Markdown tables, throughput and latency, and their notes.
pub(crate) fn table(phases: &[Phase]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    writeln!(out, "| phase | records/s | GB/s | reached | generator cores | server cores | MB/s per core |")
        .ok();
    writeln!(out, "| --- | ---: | ---: | --- | ---: | ---: | ---: |").ok();
    for phase in phases {
        for (side, rates) in [("in", &phase.produced), ("out", &phase.consumed)] {
            let Some(rates) = rates else { continue };
            let percent: Vec<String> = phase
                .percent_of
                .iter()
                .filter(|(name, _)| name.starts_with(side))
                .map(|(name, value)| format!("{value:.0} % of {}", &name[side.len() + 1..]))
                .collect();
            writeln!(
                out,
                "| {} {side} | {:.0} | {:.3} | {} | {:.2} | {} | {} |",
                phase.name,
                rates.records_per_s,
                rates.gb_per_s,
                percent.join(", "),
                phase.generator.cpu_cores,
                phase.server_cpu_cores.map_or("-".to_owned(), |cores| format!("{cores:.2}")),
                // A server that does next to nothing has no such figure.
                phase
                    .server_cpu_cores
                    .filter(|cores| *cores > 0.005)
                    .map_or("-".to_owned(), |cores| format!("{:.0}", rates.gb_per_s * 1e3 / cores)),
            )
            .ok();
        }
    }
    writeln!(out, "\n| phase | what | samples | p50 | p90 | p99 | p99.9 | max |").ok();
    writeln!(out, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |").ok();
    for phase in phases {
        for (kind, q) in &phase.latency {
            let [p50, p90, p99, p999, max] =
                [q.p50_ns, q.p90_ns, q.p99_ns, q.p999_ns, q.max_ns].map(short_ns);
            writeln!(
                out,
                "| {} | {kind} | {} | {p50} | {p90} | {p99} | {p999} | {max} |",
                phase.name, q.count
            )
            .ok();
        }
    }
    let notes: Vec<String> = phases
        .iter()
        .flat_map(|phase| phase.notes.iter().map(move |note| format!("- {}: {note}", phase.name)))
        .collect();
    if !notes.is_empty() {
        writeln!(out, "\n{}", notes.join("\n")).ok();
    }
    out
}

/// Writes a value as pretty JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| BenchError::Usage(format!("encode {}: {error}", path.display())))?;
    std::fs::write(path, text + "\n").map_err(io_err(format!("write {}", path.display())))
}
