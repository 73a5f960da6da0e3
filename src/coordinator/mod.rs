//! Coordinators: who is in a group and what it has committed or acknowledged, and which transactions are open. Each
//! lives beside a partition of an internal topic, on the core that owns it, and keeps in that partition what it must
//! not forget; what a share group does with a partition lives beside that partition.
//!
//! Owner: the core that owns the internal partition; other cores come through the mesh ([`home_of`] says where).
//! Invariants: an internal topic is made on demand by the control thread, and its number of partitions never
//! changes, because the hash of a name decides where its coordinator lives.
//! It must not encode or decode requests.

pub mod assignor;
pub mod classic;
mod classic_join;
pub mod classic_sync;
pub mod consumer;
mod consumer_classic;
pub mod consumer_groups;
pub mod consumer_image;
pub mod consumer_protocol;
pub mod error;
pub mod groups;
pub(crate) mod groups_load;
pub mod groups_offsets;
pub mod offsets;
mod parked;
pub mod producer_ids;
pub mod records;
pub mod share_group;
pub mod share_groups;
pub mod share_partition;
pub mod share_read;
pub mod share_records;
pub mod share_store;
pub mod share_window;
pub mod state_log;
mod txn;
pub mod txn_api;
pub mod txn_markers;
pub(crate) mod txn_record;
pub mod txn_state;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use crate::catalog::{Catalog, CatalogChange, Topic, new_topic_id};
use crate::config::BrokerConfig;
use crate::rt;
use crate::shard::{ControlError, Shard};

/// The coordinators of one core, as the shard holds them.
#[derive(Default)]
pub struct Coordinators {
    /// Consumer groups.
    pub groups: groups::Groups,
    /// Transactional ids.
    pub transactions: txn::Transactions,
    /// Producer ids to hand out.
    pub producer_ids: producer_ids::Block,
    /// What share groups do with this core's partitions.
    pub share_partitions: share_partition::SharePartitions,
    /// What share groups must not forget.
    pub share_states: share_store::ShareStates,
}

/// A topic of the broker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternalTopic {
    /// `__consumer_offsets`: groups and what they committed.
    ConsumerOffsets,
    /// `__transaction_state`: transactional ids.
    TransactionState,
    /// `__share_group_state`: how far share groups are.
    ShareGroupState,
}

/// Where the coordinator of a name lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The core.
    pub core: usize,
    /// The internal topic.
    pub topic_id: Uuid,
    /// The partition of the internal topic.
    pub partition: i32,
}

impl InternalTopic {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            InternalTopic::ConsumerOffsets => "__consumer_offsets",
            InternalTopic::TransactionState => "__transaction_state",
            InternalTopic::ShareGroupState => "__share_group_state",
        }
    }

    /// Whether a topic of this name is the broker's own.
    pub fn is_name(name: &str) -> bool {
        let all = [Self::ConsumerOffsets, Self::TransactionState, Self::ShareGroupState];
        all.iter().any(|topic| topic.name() == name)
    }

    /// The topic, if it was made already.
    pub fn find(self, catalog: &Catalog) -> Option<Arc<Topic>> {
        catalog.topic(self.name()).cloned()
    }

    fn creation(self, config: &BrokerConfig) -> CatalogChange {
        let (partition_count, segment_bytes) = match self {
            InternalTopic::ConsumerOffsets => {
                (config.groups.offsets_partition_count, config.groups.offsets_segment_bytes)
            }
            InternalTopic::TransactionState => {
                (config.groups.transactions_partition_count, config.groups.transactions_segment_bytes)
            }
            InternalTopic::ShareGroupState => {
                (config.groups.share.state_partition_count, config.groups.share.state_segment_bytes)
            }
        };
        let configs = BTreeMap::from([
            ("cleanup.policy".to_owned(), "compact".to_owned()),
            ("compression.type".to_owned(), "producer".to_owned()),
            ("segment.bytes".to_owned(), segment_bytes.to_string()),
        ]);
        CatalogChange::CreateTopic {
            name: self.name().to_owned(),
            id: new_topic_id(),
            partition_count: partition_count.unsigned_abs() as usize,
            configs,
            created_ms: rt::wall_ms(),
        }
    }

    /// The topic; makes it if it is not there yet.
    pub async fn ensure(self, shard: &Shard) -> Result<Arc<Topic>, ControlError> {
        if let Some(topic) = self.find(&shard.catalog()) {
            return Ok(topic);
        }
        let config = shard.config.clone();
        let catalog = shard
            .control
            .change(move |catalog| match self.find(catalog) {
                Some(_) => Vec::new(),
                None => vec![self.creation(&config)],
            })
            .await?;
        self.find(&catalog).ok_or(ControlError::Stopping)
    }
}

/// Which partition of an internal topic with `partition_count` partitions a name belongs to: the absolute value of
/// Java's hash of the string, as in Kafka.
pub fn partition_of(name: &str, partition_count: usize) -> i32 {
    let hash = name.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partition_count.max(1) as i32
}

/// Where the coordinator of `name` lives in a topic that exists.
pub fn home_in(shard: &Shard, topic: &Topic, name: &str) -> Home {
    let partition = partition_of(name, topic.partition_count());
    Home { core: shard.owner_of(topic.id, partition), topic_id: topic.id, partition }
}

/// Where the coordinator of a group or a transactional id lives; makes the internal topic if need be.
pub async fn home_of(shard: &Shard, topic: InternalTopic, name: &str) -> Result<Home, ControlError> {
    let topic = topic.ensure(shard).await?;
    Ok(home_in(shard, &topic, name))
}

/// Starts what the coordinators of this core do by themselves: loading after a start, time-outs.
pub async fn serve(shard: Rc<Shard>) {
    let shares = share_partition::serve(shard.clone());
    let groups = futures_lite::future::zip(groups::serve(shard.clone()), shares);
    futures_lite::future::zip(groups, txn_api::serve(shard)).await;
}

#[cfg(test)]
mod tests;
