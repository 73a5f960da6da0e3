//! The live view on stderr: one line, renewed each second; on something that is no terminal plain lines, if asked for.
//!
//! Owner: the collecting thread. Rate and latency are those of the last whole second, for what is slow now is what a
//! watcher wants to see. Must not: print when stderr is no terminal, unless asked to; print at all when silenced.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::record::{Kind, Totals, Window};
use crate::series::HostSeconds;

static SILENT: AtomicBool = AtomicBool::new(false);

/// No live view from now on (`--quiet`).
pub(crate) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Shows one line per second.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    terminal: bool,
    window: Window,
    last_second: u64,
    hosts: Option<HostSeconds>,
    copies: f64,
    backlog: f64,
}

impl Progress {
    /// A line for a workload's window; `forced` shows it without a terminal too.
    pub(crate) fn new(forced: bool, window: Window) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let shown = (forced || terminal) && !SILENT.load(Ordering::Relaxed);
        Self { shown, terminal, window, last_second: 0, hosts: None, copies: 0.0, backlog: 0.0 }
    }

    /// Shows processor use too, and the lag of consumers that read everything `copies` times, and `backlog` records
    /// that lay there before.
    pub(crate) fn with(mut self, hosts: HostSeconds, copies: f64, backlog: u64) -> Self {
        self.hosts = Some(hosts);
        self.copies = copies;
        self.backlog = backlog as f64;
        self
    }

    /// Renews the line when a new second is complete.
    pub(crate) fn show(&mut self, totals: &Totals, second: u64) {
        let over = second * 1_000_000_000 >= self.window.end_ns - self.window.start_ns;
        if !self.shown || second < self.last_second || over {
            return;
        }
        self.last_second = second + 1;
        let line = self.line(totals, second);
        let mut stderr = std::io::stderr().lock();
        let end = if self.terminal { "\r" } else { "\n" };
        write!(stderr, "{line:<110}{end}").and_then(|()| stderr.flush()).ok();
    }

    fn line(&self, totals: &Totals, second: u64) -> String {
        let length = (self.window.end_ns - self.window.start_ns) as f64 / 1e9;
        let [produced, consumed] = totals.seconds.get(second as usize).copied().unwrap_or_default();
        let mut line = format!("{:.0}/{length:.0} s", ((second + 1) as f64).min(length));
        for (name, counters) in [("in", produced), ("out", consumed)] {
            if counters.records > 0 || name == "in" {
                let megabytes = counters.bytes as f64 / 1e6;
                line += &format!("  {name} {} rec/s {megabytes:.1} MB/s", counters.records);
            }
        }
        if self.copies > 0.0 {
            let [acked, read] = totals.counters;
            let lag = acked.records as f64 * self.copies + self.backlog - read.records as f64;
            line += &format!("  lag {:.0}", lag.max(0.0));
        }
        let histograms = totals.last.as_ref().map(|(_, histograms)| histograms);
        for kind in [Kind::Response, Kind::EndToEnd, Kind::Service, Kind::Fetch] {
            let Some(values) = histograms.and_then(|all| all[kind as usize].as_ref()) else { continue };
            // With a schedule the service time flatters; with stamps the fetch time says nothing.
            let beside = |kind: Kind| histograms.is_some_and(|all| all[kind as usize].is_some());
            if (kind == Kind::Service && beside(Kind::Response))
                || (kind == Kind::Fetch && line.contains("ms"))
            {
                continue;
            }
            let of = |quantile: f64| values.value_at_quantile(quantile) as f64 / 1e6;
            let max = values.max() as f64 / 1e6;
            line += &format!("  {} p50 {:.2} p99 {:.2} max {max:.2} ms", kind.name(), of(0.5), of(0.99));
        }
        let host = self.hosts.as_ref().and_then(|hosts| hosts.lock().ok()?.last().cloned());
        if let Some(host) = host {
            let server = host.server_cores.map_or(String::new(), |cores| format!(" server {cores:.2}"));
            let all: f64 = host.cpus.iter().sum();
            line += &format!("  cpu{server} harness {:.2} all {all:.2}", host.harness_cores);
        }
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.terminal && self.last_second > 0 {
            eprintln!();
        }
    }
}
