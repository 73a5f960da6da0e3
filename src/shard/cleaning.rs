//! Which log of a core is compacted next, over and over; and starting the cleaner threads.
//!
//! Owner: the core. Invariants: one log of a core at a time, overdue ones first, then the dirtiest; a log whose pass
//! failed is left alone until the next start, because it would fail again. It must not read or write records.

use std::io;
use std::rc::Rc;

use super::Shard;
use crate::config::BrokerConfig;
use crate::maps::HashSet;
use crate::partition::Partition;
use crate::rt;
use crate::storage::{Cleaner, CleanerConfig};

/// Starts the threads that compact, if `log.cleaner.enable` says so.
pub fn start_cleaner(config: &BrokerConfig) -> io::Result<Option<Cleaner>> {
    let settings = &config.cleaner;
    if !settings.enable {
        return Ok(None);
    }
    Cleaner::start(CleanerConfig {
        threads: settings.threads,
        map_bytes: settings.dedupe_bytes,
        map_load_percent: settings.load_percent,
        bytes_per_second: settings.bytes_per_second_max,
    })
    .map(Some)
}

impl Shard {
    /// Compaction of this core's logs, over and over.
    pub async fn cleaning(self: Rc<Self>) {
        let Some(cleaner) = self.cleaner.clone() else { return };
        let mut given_up = HashSet::default();
        loop {
            while let Some(partition) = self.dirtiest(&given_up).await {
                if self.is_stopping() {
                    return;
                }
                match clean(&partition, &cleaner, self.expiry_ms()).await {
                    Pass::Done => {}
                    Pass::Later => break,
                    Pass::Never => drop(given_up.insert((partition.topic_id, partition.index))),
                }
            }
            let backoff_ms = self.config_now().cleaner.backoff_ms;
            rt::sleep_ms(backoff_ms).await;
        }
    }

    async fn dirtiest(&self, given_up: &HashSet<super::PartitionKey>) -> Option<Rc<Partition>> {
        let now_ms = self.expiry_ms();
        let all: Vec<_> = self.partitions.borrow().values().cloned().collect();
        let mut best: Option<(bool, u64, Rc<Partition>)> = None;
        for partition in all {
            if given_up.contains(&(partition.topic_id, partition.index)) {
                continue;
            }
            let Some(due) = partition.log.dirtiness(now_ms).await else { continue };
            let rank = (due.overdue, due.dirty_ppm);
            if best.as_ref().is_none_or(|(overdue, dirty_ppm, _)| (*overdue, *dirty_ppm) < rank) {
                best = Some((rank.0, rank.1, partition));
            }
        }
        best.map(|(_, _, partition)| partition)
    }
}

/// What came of a pass.
enum Pass {
    Done,
    Later,
    Never,
}

async fn clean(partition: &Rc<Partition>, cleaner: &Cleaner, now_ms: i64) -> Pass {
    let began_ms = rt::steady_ms();
    match partition.log.compact(cleaner, now_ms).await {
        Ok(Some(stats)) => {
            tracing::info!(
                partition = %partition.log.name(),
                clean_end = stats.clean_end,
                keys = stats.keys,
                read_bytes = stats.read_bytes,
                written_bytes = stats.written_bytes,
                ms = rt::steady_ms() - began_ms,
                "log compacted"
            );
            Pass::Done
        }
        Ok(None) => Pass::Later,
        Err(error) => {
            tracing::error!(partition = %partition.log.name(), "not compacted until the next start: {error}");
            Pass::Never
        }
    }
}
