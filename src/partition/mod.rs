//! A partition: what Kafka knows of a log — leadership, topic configuration, the checks of an append.
//!
//! Owner: the core that `catalog::owner_core` names. The path: `append` validates a batch once and hands
//! it to the log; reads go to the log directly; `waiters` is how a parked fetch learns of new data.
//! Invariants: the leader epoch only rises; a batch enters the log only after `validate_for_append`.
//! It must not encode responses.

mod append;
mod waiters;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use crate::config::TopicConfig;
use crate::storage::{Log, LogConfig};

pub use append::ProduceOutcome;
pub use waiters::{Watched, wait_for_data};

/// One partition on its owner core.
pub struct Partition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Topic id.
    pub topic_id: Uuid,
    /// Partition index.
    pub index: i32,
    /// The log.
    pub log: Rc<Log>,
    leader_epoch: Cell<i32>,
    config: RefCell<Rc<TopicConfig>>,
}

impl Partition {
    /// A partition over its log.
    pub fn new(
        topic: Arc<str>,
        topic_id: Uuid,
        index: i32,
        leader_epoch: i32,
        config: Rc<TopicConfig>,
        log: Rc<Log>,
    ) -> Rc<Partition> {
        Rc::new(Partition {
            topic,
            topic_id,
            index,
            log,
            leader_epoch: Cell::new(leader_epoch),
            config: RefCell::new(config),
        })
    }

    /// Epoch of the present leader, written into every batch.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch.get()
    }

    /// Takes a new leader epoch; lower ones are ignored.
    pub fn raise_leader_epoch(&self, epoch: i32) {
        self.leader_epoch.set(self.leader_epoch.get().max(epoch));
    }

    /// The topic's configuration.
    pub fn config(&self) -> Rc<TopicConfig> {
        self.config.borrow().clone()
    }

    /// Takes a new topic configuration, effective from the next append on.
    pub fn set_config(&self, config: Rc<TopicConfig>) {
        self.log.set_config(log_config(&config, self.topic_id, self.index));
        *self.config.borrow_mut() = config;
    }

    /// Last stable offset: equal to the high watermark while no transaction is open.
    pub fn last_stable_offset(&self) -> i64 {
        self.log.last_stable_offset()
    }
}

/// What a topic's configuration means for one of its logs.
pub fn log_config(topic: &TopicConfig, topic_id: Uuid, partition: i32) -> LogConfig {
    let policy = topic.cleanup_policy;
    let rolled_ms = topic.segment_ms - jitter_ms(topic, topic_id, partition);
    // Only sealed segments are compacted, so that one must not stay active beyond the lag.
    let segment_ms = if policy.compact { rolled_ms.min(topic.compaction_lag_ms_max) } else { rolled_ms };
    LogConfig {
        segment_bytes: u64::from(topic.segment_bytes),
        segment_ms,
        retention_bytes: topic.retention_bytes,
        retention_ms: topic.retention_ms,
        delete_old: policy.delete,
        compact: policy.compact,
        dirty_ratio_ppm: topic.dirty_ratio_ppm,
        compaction_lag_ms_min: topic.compaction_lag_ms_min,
        compaction_lag_ms_max: topic.compaction_lag_ms_max,
        delete_retention_ms: topic.delete_retention_ms,
        flush_records: topic.flush_messages,
        flush_ms: topic.flush_ms,
        write_caching: topic.write_caching,
    }
}

/// How much earlier than others a partition's segments roll, so that not all do at once: the same at each start.
fn jitter_ms(topic: &TopicConfig, topic_id: Uuid, partition: i32) -> i64 {
    let most = topic.segment_jitter_ms.min(topic.segment_ms - 1);
    if most <= 0 {
        return 0;
    }
    let spread =
        topic_id.as_u128() as u64 ^ (partition as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (spread % (most as u64).saturating_add(1)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigSources, load};

    #[test]
    fn jitter_spreads_the_age_at_which_segments_roll() {
        let broker = load(&ConfigSources::default()).expect("valid").config;
        let overrides = [("segment.ms", "1000"), ("segment.jitter.ms", "400")];
        let overrides =
            overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let topic = TopicConfig::effective(&broker, &overrides);
        let ages: Vec<i64> =
            (0..50).map(|partition| log_config(&topic, Uuid::from_u128(7), partition).segment_ms).collect();
        assert!(ages.iter().all(|age| (600..=1000).contains(age)), "{ages:?}");
        assert!(ages.iter().any(|age| *age < 700) && ages.iter().any(|age| *age > 900), "{ages:?}");
        let plain = TopicConfig { segment_jitter_ms: 0, ..topic };
        assert_eq!(log_config(&plain, Uuid::from_u128(7), 3).segment_ms, 1000);
    }
}
