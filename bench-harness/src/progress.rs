//! The live progress line on stderr.
//!
//! Owner: the collecting thread. Must not: print when stderr is no terminal, unless asked to.

use std::io::{IsTerminal, Write};

use crate::record::{Kind, Totals, Window};

/// Shows one line per second.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    terminal: bool,
    window: Window,
    last_second: u64,
}

impl Progress {
    /// A line for a workload's window; `forced` shows it without a terminal too.
    pub(crate) fn new(forced: bool, window: Window) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { shown: forced || terminal, terminal, window, last_second: 0 }
    }

    /// Renews the line when a new second has been reported.
    pub(crate) fn show(&mut self, totals: &Totals, interval: u64) {
        if !self.shown || interval < self.last_second {
            return;
        }
        self.last_second = interval + 1;
        let length = (self.window.end_ns - self.window.start_ns) as f64 / 1e9;
        let seconds = ((interval + 1) as f64).min(length);
        let [produced, consumed] = totals.counters;
        let rate = |bytes: u64| bytes as f64 / 1e6 / seconds;
        let worst = [Kind::EndToEnd, Kind::Response, Kind::Service, Kind::Fetch]
            .into_iter()
            .find_map(|kind| totals.histograms[kind as usize].as_ref().map(|values| (kind, values)));
        let latency = worst.map_or(String::new(), |(kind, values)| {
            format!("  {} p99 {:.3} ms", kind.name(), values.value_at_quantile(0.99) as f64 / 1e6)
        });
        let line = format!(
            "{seconds:.0}/{length:.0} s  in {:.0} MB/s {:.0} rec/s  out {:.0} MB/s{latency}",
            rate(produced.bytes),
            produced.records as f64 / seconds,
            rate(consumed.bytes),
        );
        let mut stderr = std::io::stderr().lock();
        let end = if self.terminal { "\r" } else { "\n" };
        write!(stderr, "{line:<100}{end}").and_then(|()| stderr.flush()).ok();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.terminal && self.last_second > 0 {
            eprintln!();
        }
    }
}
