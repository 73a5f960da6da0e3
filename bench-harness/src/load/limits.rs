//! What the machine allows for a workload: the roofline with the workload's own requests.
//!
//! Owner: the main thread, before the load and never beside it. Invariant: a share is of a limit that was measured in
//! the same run, with the same request size and connections. Must not: leave a probe file behind.

use std::path::Path;

use crate::cli::{CpuList, ProbeArgs};
use crate::error::Result;
use crate::report::Phase;
use crate::roofline::{CEILING, Probes, Roofline};
use crate::sink::Work;
use crate::workload::{Client, ProduceLoad};

/// Seconds of each probe; there are about a dozen.
const PROBE_SECONDS: f64 = 0.5;
/// Size of the probe file, bytes.
const PROBE_FILE_BYTES: u64 = 1 << 30;
/// Most connections over which a limit is measured: more do not raise it, and each has buffers.
const PROBE_CONNECTIONS_MAX: usize = 64;

/// The limits.
#[derive(Debug)]
pub(crate) struct Limits(Roofline);

impl Limits {
    /// Measures disk, flush, loopback, CRC, both sinks and the generator's ceiling on `dir`, with the requests of
    /// `load`.
    pub(crate) fn measure(dir: &Path, load: &ProduceLoad, client: &Client) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pinned = |cpus: Vec<usize>| (!cpus.is_empty()).then_some(CpuList(cpus));
        // The load's cores are its own; the other side has the rest.
        let rest = (0..cores).filter(|cpu| !client.cpus.is_empty() && !client.cpus.contains(cpu)).collect();
        let args = ProbeArgs {
            dir: dir.to_owned(),
            probe_file_bytes: PROBE_FILE_BYTES,
            probe_seconds: PROBE_SECONDS,
            warmup: None,
            cpus_server: pinned(rest),
            cpus_client: pinned(client.cpus.clone()),
            sink_sync: true,
        };
        let probes = Probes::new(&args, client.congestion.as_deref().unwrap_or("default"));
        let connections = load.connections.min(PROBE_CONNECTIONS_MAX);
        let mut roofline = probes.basics(connections)?;
        let load = ProduceLoad { connections, ..load.clone() };
        for work in [Work::Write, Work::Flush] {
            roofline.sinks.push(probes.sink(&load, work)?);
        }
        roofline.ceilings.push(probes.sink(&load, Work::Nothing)?);
        Ok(Self(roofline))
    }

    /// All of them.
    pub(crate) fn roofline(&self) -> &Roofline {
        &self.0
    }

    /// Says of each phase what share it reached: of the sinks what was produced, of loopback what was consumed.
    pub(crate) fn attach(&self, phases: &mut [Phase]) {
        let outward = self.0.loopback_gb_per_s.iter().filter(|(name, _)| name.starts_with("out"));
        let outward = outward.map(|(_, gb)| *gb).fold(0.0, f64::max);
        let share = |phase: &mut Phase, name: String, gb_per_s: f64, limit: f64| {
            // A probe that nothing came through says nothing.
            if limit > 0.0 {
                phase.percent_of.insert(name, 100.0 * gb_per_s / limit);
            }
        };
        for phase in phases {
            if let Some(reached) = phase.produced.as_ref().map(|rates| rates.gb_per_s) {
                for sink in &self.0.sinks {
                    let name = if sink.sync { "in sink with fdatasync" } else { "in sink" };
                    share(phase, name.to_owned(), reached, sink.gb_per_s);
                }
                for ceiling in &self.0.ceilings {
                    share(phase, format!("in {CEILING}"), reached, ceiling.gb_per_s);
                }
            }
            if let Some(reached) = phase.consumed.as_ref().map(|rates| rates.gb_per_s) {
                share(phase, "out loopback".to_owned(), reached, outward);
            }
        }
    }
}
