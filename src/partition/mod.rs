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
        self.log.set_config(log_config(&config));
        *self.config.borrow_mut() = config;
    }

    /// Last stable offset: equal to the high watermark while no transaction is open.
    pub fn last_stable_offset(&self) -> i64 {
        self.log.last_stable_offset()
    }
}

/// What a topic's configuration means for its logs.
pub fn log_config(topic: &TopicConfig) -> LogConfig {
    let policy = topic.cleanup_policy;
    // Only sealed segments are compacted, so that one must not stay active beyond the lag.
    let segment_ms =
        if policy.compact { topic.segment_ms.min(topic.compaction_lag_ms_max) } else { topic.segment_ms };
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
