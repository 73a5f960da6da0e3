//! The cleaner threads: compaction beside the cores.
//!
//! Owner: the process; a core hands a pass over and takes the new segments back through bounded channels. Invariants:
//! the threads run at the lowest priority and within `log.cleaner.io.max.bytes.per.second`; a pass whose core no
//! longer listens ends at its next batch. They must not touch what a core owns: they get paths and offsets, and give
//! names of files.

use std::io;

use super::compaction_map::KeyMap;
use super::compaction_rewrite::{self, CleanPlan, CleanedGroup, Pace, PassStats};
use crate::limits::CLEANER_STEPS_MAX;
use crate::rt;

/// What a thread tells the core whose log it compacts.
pub(super) enum Step {
    /// New files are ready.
    Group(CleanedGroup),
    /// The pass is over.
    Done(PassStats),
    /// The pass ended early: `InvalidData` for damage, which will be there the next time too.
    Failed(io::Error),
}

struct Job {
    plan: CleanPlan,
    steps: flume::Sender<Step>,
}

/// What the configuration says to the cleaner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanerConfig {
    /// `log.cleaner.threads`.
    pub threads: usize,
    /// `log.cleaner.dedupe.buffer.size`, all threads together, bytes.
    pub map_bytes: u64,
    /// `log.cleaner.io.buffer.load.factor`, in percent.
    pub map_load_percent: u64,
    /// `log.cleaner.io.max.bytes.per.second`, all threads together.
    pub bytes_per_second: f64,
}

/// The way to the cleaner threads.
#[derive(Clone)]
pub struct Cleaner {
    jobs: flume::Sender<Job>,
}

impl Cleaner {
    /// Starts the threads; they end when the last handle is dropped.
    pub fn start(config: CleanerConfig) -> io::Result<Cleaner> {
        let threads = config.threads.max(1);
        let (jobs, queue) = flume::bounded::<Job>(threads);
        for number in 0..threads {
            let queue = queue.clone();
            rt::beside(format!("ringlog-clean-{number}"), move || async move {
                lower_priority();
                while let Ok(job) = queue.recv_async().await {
                    work(job, &config);
                }
            })?;
        }
        Ok(Cleaner { jobs })
    }

    /// Hands a pass over; the steps arrive in the channel. Waits while all threads are busy.
    pub(super) async fn begin(&self, plan: CleanPlan) -> flume::Receiver<Step> {
        #[cfg(not(test))]
        let (steps, received) = flume::bounded(CLEANER_STEPS_MAX);
        // In a simulation the thread is a task, which must not block the one that takes the steps.
        #[cfg(test)]
        let (steps, received) = match crate::sim::current() {
            Some(_) => flume::unbounded(),
            None => flume::bounded(CLEANER_STEPS_MAX),
        };
        // The threads live as long as the queue does.
        let _ = self.jobs.send_async(Job { plan, steps }).await;
        received
    }
}

fn work(job: Job, config: &CleanerConfig) {
    let threads = config.threads.max(1);
    let last = job.plan.segments.last().map_or(0, |segment| segment.next_offset);
    let keys_max = last.saturating_sub(job.plan.dirty_from).max(0) as u64;
    let map = KeyMap::new(config.map_bytes / threads as u64, config.map_load_percent, keys_max);
    let mut pace = Pace::new(config.bytes_per_second / threads as f64);
    let mut hand_over = |group: Option<CleanedGroup>| match group {
        Some(group) => job.steps.send(Step::Group(group)).is_ok(),
        None => !job.steps.is_disconnected(),
    };
    let outcome = compaction_rewrite::run(&job.plan, map, &mut pace, &mut hand_over);
    let _ = job.steps.send(match outcome {
        Ok(stats) => Step::Done(stats),
        Err(error) => Step::Failed(error),
    });
}

/// Lets everything else go first: processor and disk.
fn lower_priority() {
    #[cfg(test)]
    if crate::sim::current().is_some() {
        return;
    }
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_BEST_EFFORT_LOWEST: libc::c_int = 2 << 13 | 7;
    // SAFETY: plain system calls about the calling thread (id 0); a refusal changes nothing.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_BEST_EFFORT_LOWEST);
    }
}
