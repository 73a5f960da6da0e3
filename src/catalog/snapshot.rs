//! One immutable state of the catalog.
//!
//! Owner: shared by all cores. Invariants: `by_name` and `by_id` hold the same topics; partitions of a topic are
//! numbered from 0 without gaps; replica sets are shared, so that a partition costs 40 bytes. Must not: be
//! changed in place (`Catalog::apply` makes the next one).

use super::dynamic::Dynamic;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// Producer ids are reserved in the catalog in blocks of this many, so that a restart never hands one out again.
pub const PRODUCER_ID_BLOCK_SIZE: u64 = 1000;
/// Upper bound of a topic's partitions.
pub const PARTITIONS_PER_TOPIC_MAX: usize = 100_000;
/// Upper bound of a topic name's length, in bytes.
const TOPIC_NAME_BYTES_MAX: usize = 249;

/// A partition's place in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMeta {
    /// The node that leads; -1 for none.
    pub leader: i32,
    /// The epoch of that leadership, stamped on every batch it appends.
    pub leader_epoch: i32,
    /// The nodes that hold a replica.
    pub replicas: Arc<[i32]>,
    /// The replicas that are in sync.
    pub isr: Arc<[i32]>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The name, unique in the cluster.
    pub name: Arc<str>,
    /// The id, which a topic of the same name created later does not share (KIP-516).
    pub id: Uuid,
    /// The partitions, by index.
    pub partitions: Vec<PartitionMeta>,
    /// The explicit configuration; see `config::TopicConfig` for the effective one.
    pub configs: BTreeMap<String, String>,
    /// When the topic was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// No batch of the topic has a lower leader epoch; 0 for topics that were made before this was kept. Files
    /// whose old bytes are all of lower epochs may become its segments (docs/FORMAT.md, Proof 1).
    pub first_epoch: i32,
}

/// The catalog at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// The id of the cluster: 22 characters, the base64 form of a random UUID.
    pub cluster_id: Arc<str>,
    /// This node.
    pub node_id: i32,
    /// Grows by one with every change set.
    pub sequence: u64,
    /// The largest leader epoch that any partition ever had: that of this node's reign, raised at every start that
    /// follows an unclean stop, or that of the newest topic, which begins above all that were used before.
    pub leader_epoch: i32,
    /// The first producer id that was never reserved.
    pub next_producer_id: u64,
    /// Configurations that are no topic's, quotas and feature levels.
    pub dynamic: Arc<Dynamic>,
    pub(super) by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    pub(super) by_id: HashMap<Uuid, Arc<Topic>>,
}

/// Why a string cannot be the name of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// It has no characters.
    #[error("the empty string is not allowed")]
    Empty,
    /// It is `.` or `..`.
    #[error("'.' and '..' are not allowed")]
    Dots,
    /// It has more than 249 characters.
    #[error("the length is longer than the max allowed length 249")]
    TooLong,
    /// It has a character outside of `a-z A-Z 0-9 . _ -`.
    #[error("it contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")]
    Characters,
}

impl Topic {
    /// The number of partitions.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// A partition by its index, which may come from the network.
    pub fn partition(&self, index: i32) -> Option<&PartitionMeta> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

impl Catalog {
    /// An empty catalog of a new cluster.
    pub fn new(cluster_id: &str, node_id: i32) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            node_id,
            sequence: 0,
            leader_epoch: 0,
            next_producer_id: 0,
            dynamic: Arc::default(),
            by_name: BTreeMap::new(),
            by_id: HashMap::new(),
        }
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// All topics, ordered by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// The topics whose names are not below `from`, ordered by name.
    pub fn topics_from(&self, from: &str) -> impl Iterator<Item = &Arc<Topic>> {
        use std::ops::Bound;
        self.by_name.range::<str, _>((Bound::Included(from), Bound::Unbounded)).map(|(_, topic)| topic)
    }

    /// The number of topics.
    pub fn topic_count(&self) -> usize {
        self.by_name.len()
    }

    /// The number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.topics().map(|topic| topic.partition_count()).sum()
    }

    pub(super) fn insert(&mut self, topic: Arc<Topic>) {
        self.by_name.insert(topic.name.clone(), topic.clone());
        self.by_id.insert(topic.id, topic);
    }
}

/// Checks a topic name by Kafka's rules.
pub fn validate_topic_name(name: &str) -> Result<(), TopicNameError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() {
        Err(TopicNameError::Empty)
    } else if name == "." || name == ".." {
        Err(TopicNameError::Dots)
    } else if name.len() > TOPIC_NAME_BYTES_MAX {
        Err(TopicNameError::TooLong)
    } else if !name.bytes().all(allowed) {
        Err(TopicNameError::Characters)
    } else {
        Ok(())
    }
}

/// A random id for a topic. Ids whose base64 form begins with a dash are left out, because command lines would
/// take them for a flag.
pub fn new_topic_id() -> Uuid {
    loop {
        #[cfg(not(test))]
        let id = Uuid::new_v4();
        #[cfg(test)]
        let id = crate::sim::random_uuid().unwrap_or_else(Uuid::new_v4);
        if !base64_url(id).starts_with('-') {
            return id;
        }
    }
}

/// A random cluster id of 22 characters.
pub fn new_cluster_id() -> String {
    base64_url(new_topic_id())
}

/// The URL-safe base64 form of a UUID without padding, as Kafka prints ids.
fn base64_url(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    // 128 bits are 21 characters of six bits and one of the last two, which stand at its top.
    (0..22)
        .map(|n| {
            let six = if n < 21 { bits >> (122 - 6 * n) } else { bits << 4 };
            ALPHABET[(six & 63) as usize] as char
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "...", "A-b_c.9", "__consumer_offsets", &"x".repeat(249)] {
            assert_eq!(validate_topic_name(good), Ok(()), "{good}");
        }
        assert_eq!(validate_topic_name(""), Err(TopicNameError::Empty));
        assert_eq!(validate_topic_name("."), Err(TopicNameError::Dots));
        assert_eq!(validate_topic_name(".."), Err(TopicNameError::Dots));
        assert_eq!(validate_topic_name(&"x".repeat(250)), Err(TopicNameError::TooLong));
        for bad in ["a b", "a/b", "ä", "a\0", "a,b"] {
            assert_eq!(validate_topic_name(bad), Err(TopicNameError::Characters), "{bad}");
        }
    }

    #[test]
    fn cluster_ids_are_the_base64_of_a_uuid() {
        assert_eq!(base64_url(Uuid::nil()), "A".repeat(22));
        assert_eq!(base64_url(Uuid::from_u128(u128::MAX)), format!("{}w", "_".repeat(21)));
        // The bytes 00 10 83 are "ABCD" in base64.
        assert!(base64_url(Uuid::from_u128(0x1083 << 104)).starts_with("ABCD"));
        for _ in 0..200 {
            let id = new_cluster_id();
            assert!(id.len() == 22 && !id.starts_with('-'), "{id}");
        }
    }
}
