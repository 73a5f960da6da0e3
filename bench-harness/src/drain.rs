//! How long a backlog takes to be read while the load that it belongs to goes on.
//!
//! Owner: a thread that looks at the counters of producers and consumers every few milliseconds. Invariant: a backlog
//! is drained when consumers have no more left than what is under way. Must not: touch the load threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::consumer::Goal;
use crate::sys;

/// Records left that count as none, as in the OpenMessaging Benchmark.
const DRAINED_RECORDS: u64 = 1_000;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What became of a backlog.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Drained {
    /// Records that lay there when consumers began, times the groups that read them.
    pub(crate) backlog_records: u64,
    /// From the consumers' start until they had caught up with the producers; `None` when they never did.
    pub(crate) seconds: Option<f64>,
    /// What they read meanwhile, new records among it.
    pub(crate) records_per_s: f64,
}

impl Drained {
    /// As a sentence.
    pub(crate) fn text(&self) -> String {
        let (records, rate) = (self.backlog_records, self.records_per_s);
        match self.seconds {
            Some(seconds) => format!(
                "a backlog of {records} records was drained in {seconds:.2} s while the load ran, at {rate:.0} records/s"
            ),
            None => format!(
                "a backlog of {records} records WAS NOT DRAINED while the load ran, at {rate:.0} records/s"
            ),
        }
    }
}

/// A watch over a backlog.
#[derive(Debug)]
pub(crate) struct DrainWatch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Drained>,
}

impl DrainWatch {
    /// Watches from `start_ns` on. `produced` tells what has been acknowledged, `under_way` how much of it may be on
    /// its way. `None` without a backlog.
    pub(crate) fn start(
        goal: &Arc<Goal>,
        copies: u64,
        start_ns: u64,
        under_way: u64,
        produced: impl Fn() -> u64 + Send + 'static,
    ) -> Option<Self> {
        if goal.backlog == 0 {
            return None;
        }
        let over = Arc::new(AtomicBool::new(false));
        let (goal, flag) = (Arc::clone(goal), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let least = DRAINED_RECORDS.max(under_way);
            loop {
                let over = flag.load(Ordering::Relaxed);
                let (made, read) = (produced(), goal.received.load(Ordering::Relaxed));
                let elapsed_s = (sys::now_ns().saturating_sub(start_ns) as f64 / 1e9).max(1e-9);
                let drained = (goal.backlog + made * copies).saturating_sub(read) <= least;
                if drained || over {
                    return Drained {
                        backlog_records: goal.backlog,
                        seconds: drained.then_some(elapsed_s),
                        records_per_s: read as f64 / elapsed_s,
                    };
                }
                std::thread::sleep(LOOK);
            }
        });
        Some(Self { over, thread })
    }

    /// The consumers are through: what became of it.
    pub(crate) fn finish(self) -> Option<Drained> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(backlog: u64, received: u64) -> Arc<Goal> {
        let goal = Goal { backlog, ..Goal::default() };
        goal.received.store(received, Ordering::Relaxed);
        Arc::new(goal)
    }

    #[test]
    fn a_backlog_is_drained_when_only_what_is_under_way_is_left() {
        assert!(DrainWatch::start(&goal(0, 0), 1, 0, 0, || 0).is_none());
        // 10,000 lay there and 2,000 came, for two groups: 24,000 to read in all, of which 1,000 may be under way.
        let drained =
            |received| DrainWatch::start(&goal(20_000, received), 2, 0, 10, || 2_000).unwrap().finish();
        assert!(drained(23_000).unwrap().seconds.is_some());
        let left = drained(22_999).unwrap();
        assert!(left.seconds.is_none() && left.text().contains("WAS NOT DRAINED"));
    }
}
