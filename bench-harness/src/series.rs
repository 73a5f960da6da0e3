//! What happened each second of a phase: counts from the load threads, processor shares from /proc, one CSV file.
//!
//! Owner: the main thread; a thread of the watch's own reads /proc once a second. Invariants: a second is a second of
//! the measured window; a cell nobody knows is empty, never zero. Must not: touch the load threads.

use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::curve::Curve;
use crate::error::{Result, io_err};
use crate::limits::SERIES_SECONDS_MAX;
use crate::record::{Totals, Window};
use crate::schedule::Pace;
use crate::sys;

const SECOND_NS: u64 = 1_000_000_000;

/// Processor use of one second, in cores.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostSecond {
    /// The server process, when its id was given and it lived.
    pub(crate) server_cores: Option<f64>,
    /// The harness, all its threads.
    pub(crate) harness_cores: f64,
    /// Busy share of each core, 0 to 1.
    pub(crate) cpus: Vec<f64>,
}

/// The process that serves, whose id changes when it is started again.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerPid(Arc<AtomicU32>);

impl ServerPid {
    /// From now on it is this process.
    pub(crate) fn set(&self, pid: u32) {
        self.0.store(pid, Ordering::Relaxed);
    }

    /// Its id, when it is known; no process has the id 0.
    fn get(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }
}

impl From<Option<u32>> for ServerPid {
    fn from(pid: Option<u32>) -> Self {
        Self(Arc::new(AtomicU32::new(pid.unwrap_or(0))))
    }
}

/// The seconds read so far.
pub(crate) type HostSeconds = Arc<Mutex<Vec<HostSecond>>>;

/// Reads /proc at each second of a window.
#[derive(Debug)]
pub(crate) struct Watch {
    seconds: HostSeconds,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    window: Window,
}

/// What was meant to happen, to be put beside what did.
#[derive(Debug, Default)]
pub(crate) struct Intent {
    /// Pace of the producers; `None` for pure consumers.
    pub(crate) pace: Option<Pace>,
    /// Profile of the rate.
    pub(crate) curve: Option<Arc<Curve>>,
    /// How many times every record is to be consumed; 0 when nobody follows.
    pub(crate) copies: f64,
    /// Records to be consumed besides: what lay there before the load, as often as it is read.
    pub(crate) backlog: u64,
    /// Records that failed in each second; missing seconds had none.
    pub(crate) failed: Vec<u64>,
}

impl Intent {
    /// Records due in second `second` of the window, or `None` in a closed loop.
    fn records(&self, window: Window, second: usize) -> Option<u64> {
        let from = window.start_ns + second as u64 * SECOND_NS;
        let to = (from + SECOND_NS).min(window.end_ns);
        let offset = |time: u64| time.saturating_sub(window.load_start_ns);
        match (&self.curve, self.pace?) {
            (Some(curve), _) => Some(curve.records_before(offset(to)) - curve.records_before(offset(from))),
            (None, Pace::Rate(rate)) => {
                Some((u128::from(rate) * u128::from(to.saturating_sub(from)) / u128::from(SECOND_NS)) as u64)
            }
            (None, Pace::Max) => None,
        }
    }
}

struct Reading {
    at_ns: u64,
    /// Process id and its processor time.
    server: Option<(u32, u64)>,
    harness_ns: u64,
    cpus: Vec<(u64, u64)>,
}

impl Reading {
    fn take(pid: Option<u32>) -> Self {
        Self {
            at_ns: sys::now_ns(),
            server: pid.and_then(|pid| Some((pid, sys::pid_cpu_ns(pid)?))),
            harness_ns: sys::pid_cpu_ns(std::process::id()).unwrap_or_default(),
            cpus: sys::host_cpu_ticks(),
        }
    }

    fn since(&self, before: &Self) -> HostSecond {
        let cores = |now: u64, then: u64| {
            now.saturating_sub(then) as f64 / self.at_ns.saturating_sub(before.at_ns).max(1) as f64
        };
        let cpus = self.cpus.iter().zip(&before.cpus).map(|((busy, all), (busy_then, all_then))| {
            busy.saturating_sub(*busy_then) as f64 / all.saturating_sub(*all_then).max(1) as f64
        });
        HostSecond {
            // Nobody knows what a process used between its last reading and its end: the second of a restart is empty.
            server_cores: self
                .server
                .zip(before.server)
                .filter(|((pid, now), (pid_then, then))| pid == pid_then && now >= then)
                .map(|((_, now), (_, then))| cores(now, then)),
            harness_cores: cores(self.harness_ns, before.harness_ns),
            cpus: cpus.collect(),
        }
    }
}

impl Watch {
    /// Begins to watch a window.
    pub(crate) fn start(server: ServerPid, window: Window) -> Self {
        let seconds = HostSeconds::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (seconds, stop) = (Arc::clone(&seconds), Arc::clone(&stop));
            std::thread::spawn(move || watch(&server, window, &seconds, &stop))
        };
        Self { seconds, stop, thread: Some(thread), window }
    }

    /// What was read so far, for a live view.
    pub(crate) fn live(&self) -> HostSeconds {
        Arc::clone(&self.seconds)
    }

    /// Stops watching and writes `<phase>.series.csv` beside the phase's histogram log, if there is one. Returns the
    /// cores that the server used on average over the seconds of which that is known.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(
        mut self,
        log: Option<&Path>,
        totals: &Totals,
        intent: &Intent,
    ) -> Result<Option<f64>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        let hosts = self.seconds.lock().map(|seconds| seconds.clone()).unwrap_or_default();
        let known: Vec<f64> = hosts.iter().filter_map(|host| host.server_cores).collect();
        let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        let Some(log) = log else { return Ok(mean) };
        let path = log.with_extension("series.csv");
        std::fs::write(&path, csv(self.window, totals, &hosts, intent))
            .map_err(io_err(format!("write {}", path.display())))?;
        Ok(mean)
    }
}

fn watch(server: &ServerPid, window: Window, seconds: &HostSeconds, stop: &AtomicBool) {
    let mut due_ns = window.start_ns;
    let mut before: Option<Reading> = None;
    while due_ns <= window.end_ns && !stop.load(Ordering::Relaxed) {
        let wait_ns = due_ns.saturating_sub(sys::now_ns());
        if wait_ns > 0 {
            // In pieces: a load that ends early must not wait for a second to be over.
            std::thread::sleep(Duration::from_nanos(wait_ns.min(50_000_000)));
            continue;
        }
        let reading = Reading::take(server.get());
        if let (Some(before), Ok(mut seconds)) = (&before, seconds.lock())
            && seconds.len() < SERIES_SECONDS_MAX
        {
            seconds.push(reading.since(before));
        }
        before = Some(reading);
        due_ns += SECOND_NS;
    }
}

/// The series as text: a header and a line for each second of the window.
fn csv(window: Window, totals: &Totals, hosts: &[HostSecond], intent: &Intent) -> String {
    let length = (window.end_ns - window.start_ns).div_ceil(SECOND_NS) as usize;
    let cpus = hosts.first().map_or(0, |host| host.cpus.len());
    let mut out = String::from(
        "second,intended_records,acked_records,acked_bytes,failed_records,consumed_records,consumed_bytes,\
         lag_records,server_cores,harness_cores",
    );
    let cell = |value: Option<u64>| value.map_or(String::new(), |value| value.to_string());
    let share = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    // Writing to a String cannot fail.
    for cpu in 0..cpus {
        write!(out, ",cpu{cpu}").ok();
    }
    out.push('\n');
    let (mut acked_all, mut consumed_all) = (0u64, 0u64);
    for second in 0..length.min(SERIES_SECONDS_MAX) {
        let [acked, consumed] = totals.seconds.get(second).copied().unwrap_or_default();
        acked_all += acked.records;
        consumed_all += consumed.records;
        let lag = (intent.copies > 0.0)
            .then_some(acked_all as f64 * intent.copies + intent.backlog as f64 - consumed_all as f64)
            .map(|lag| lag.max(0.0).round() as u64);
        let host = hosts.get(second);
        write!(
            out,
            "{second},{},{},{},{},{},{},{},{},{}",
            cell(intent.records(window, second)),
            acked.records,
            acked.bytes,
            intent.failed.get(second).copied().unwrap_or(0),
            consumed.records,
            consumed.bytes,
            cell(lag),
            share(host.and_then(|host| host.server_cores)),
            share(host.map(|host| host.harness_cores)),
        )
        .ok();
        for cpu in 0..cpus {
            write!(out, ",{}", share(host.and_then(|host| host.cpus.get(cpu).copied()))).ok();
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Counters;

    /// The story: after a kill the watch went on asking for the process that was gone.
    #[test]
    fn the_server_is_followed_over_a_restart() {
        let reading = |second: u64, server| Reading {
            at_ns: second * SECOND_NS,
            server,
            harness_ns: 0,
            cpus: Vec::new(),
        };
        let cores = |from, to| reading(2, to).since(&reading(1, from)).server_cores;
        assert_eq!(cores(Some((7, 0)), Some((7, SECOND_NS / 2))), Some(0.5));
        assert_eq!(cores(Some((7, 0)), Some((8, SECOND_NS / 2))), None, "the second of the restart");
        assert_eq!(cores(Some((8, SECOND_NS / 2)), Some((8, SECOND_NS))), Some(0.5));
        let server = ServerPid::from(None);
        assert_eq!(server.get(), None);
        server.clone().set(8);
        assert_eq!(server.get(), Some(8));
    }

    #[test]
    fn a_second_is_a_line_and_what_is_unknown_is_empty() {
        let window = Window { load_start_ns: 0, start_ns: SECOND_NS, end_ns: SECOND_NS * 7 / 2 };
        let count = |records: u64| Counters { requests: 1, records, bytes: records * 10 };
        let totals =
            Totals { seconds: vec![[count(100), count(150)], [count(90), count(230)]], ..Totals::default() };
        let hosts = [HostSecond { server_cores: None, harness_cores: 0.25, cpus: vec![0.5, 1.0] }];
        let intent =
            Intent { pace: Some(Pace::Rate(100)), curve: None, copies: 2.0, backlog: 7, failed: vec![0, 10] };
        let text = csv(window, &totals, &hosts, &intent);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("second,intended_records,acked_records,acked_bytes,failed_records,"));
        assert!(lines[0].ends_with(",lag_records,server_cores,harness_cores,cpu0,cpu1"));
        assert_eq!(lines[1], "0,100,100,1000,0,150,1500,57,,0.250,0.500,1.000");
        assert_eq!(lines[2], "1,100,90,900,10,230,2300,7,,,,");
        assert_eq!(lines[3], "2,50,0,0,0,0,0,7,,,,", "half a second is left, and it has half the rate");
        assert_eq!(lines.len(), 4);
    }
}
