//! What the control-plane handlers share: this node as clients see it, authorised operations, small conversions.
//!
//! Owner: none, pure functions. Invariants: handlers read one catalog snapshot per request. Must not: do I/O.

use crate::catalog::{Catalog, Topic, owner_core};
use crate::config::BrokerConfig;
use crate::coordinator::InternalTopic;
use crate::limits::CORE_ID_STEP;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// The value of an authorised-operations field that was not asked for (KIP-430).
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS and ALTER_CONFIGS as bits: what everybody may do
/// with a topic while there is no authoriser.
const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS and IDEMPOTENT_WRITE as bits.
const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

/// Upper bound of the partitions one request may create, as in Kafka.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;
/// Upper bound of the partitions of all topics on this node.
pub const PARTITIONS_PER_NODE_MAX: usize = 200_000;

/// This node as the clients of one listener see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// `node.id`.
    pub node_id: i32,
    /// The advertised host of the listener the request came in by.
    pub host: String,
    /// The advertised port of that listener.
    pub port: u16,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// The id of the cluster.
    pub cluster_id: String,
    /// Cores with an endpoint of their own (`core.affine.listeners`), or 1 for one endpoint for all.
    pub endpoints: usize,
}

impl NodeInfo {
    /// Id and port of each endpoint. The first one is the node itself: controller, coordinator, configurations.
    pub fn endpoints(&self) -> impl Iterator<Item = (i32, u16)> + '_ {
        (0..self.endpoints).map(|core| (endpoint_id(self.node_id, core), self.port + core as u16))
    }

    /// Names the endpoint of the core that owns a partition wherever this node is named.
    pub(crate) fn name_endpoint<'a>(
        &self,
        topic_id: Uuid,
        partition: i32,
        ids: impl Iterator<Item = &'a mut BrokerId>,
    ) {
        let own = endpoint_id(self.node_id, owner_core(topic_id, partition, self.endpoints));
        ids.filter(|id| id.0 == self.node_id).for_each(|id| id.0 = own);
    }
}

/// Whether `id` is this node, or an endpoint of one of its cores.
pub(crate) fn is_own_id(broker: &BrokerConfig, id: i32) -> bool {
    let cores = if broker.core_affine_listeners { broker.cores.len() } else { 1 };
    (0..cores).any(|core| endpoint_id(broker.node_id, core) == id)
}

/// The broker id by which clients know a core that has an endpoint of its own. Clients take a broker id for an
/// address, so each endpoint needs one; the first core has the node's.
fn endpoint_id(node_id: i32, core: usize) -> i32 {
    node_id + core as i32 * CORE_ID_STEP
}

/// What is wrong with one item of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemError {
    /// Kafka's error code.
    pub code: i16,
    /// A sentence for people.
    pub message: String,
}

impl ItemError {
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { code: error.code(), message: message.into() }
    }
}

/// The error of an item whose change could not be committed.
pub(crate) fn commit_failed(why: &str) -> ItemError {
    ItemError::new(ResponseError::KafkaStorageError, format!("the catalog could not be written: {why}"))
}

pub(crate) fn topic_operations(asked: bool) -> i32 {
    if asked { TOPIC_OPERATIONS } else { OPERATIONS_NOT_ASKED }
}

pub(crate) fn cluster_operations(asked: bool) -> i32 {
    if asked { CLUSTER_OPERATIONS } else { OPERATIONS_NOT_ASKED }
}

pub(crate) fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

pub(crate) fn topic_name(value: &str) -> TopicName {
    TopicName(text(value))
}

/// Leaves the first item of each key. Who describes groups answers for each once, however often a request names it:
/// what is known of one may be a million times larger than its name.
pub(crate) fn keep_first<T, K: Eq + Hash>(items: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut seen = HashSet::new();
    items.retain(|item| seen.insert(key(item)));
}

pub(crate) fn broker_ids(nodes: &[i32]) -> Vec<BrokerId> {
    nodes.iter().map(|&node| BrokerId(node)).collect()
}

/// Topics by id for requests that name them so, with the same catalog for the request and its answer.
pub(crate) struct TopicIds(Arc<Catalog>);

/// First character of a name that stands for an id that no topic has; no topic's name begins with it.
const UNKNOWN_ID: char = '?';

impl TopicIds {
    pub(crate) fn new(catalog: Arc<Catalog>) -> TopicIds {
        TopicIds(catalog)
    }

    /// The topic's name; for an id that no topic has a name that no topic has.
    pub(crate) fn name_of(&self, id: Uuid) -> TopicName {
        match self.0.topic_by_id(id) {
            Some(topic) => topic_name(&topic.name),
            None => TopicName(text(format!("{UNKNOWN_ID}{}", id.simple()))),
        }
    }

    /// The id that a name of [`name_of`](Self::name_of) came from; nil for a topic that is gone.
    pub(crate) fn id_of(&self, name: &str) -> Uuid {
        match name.strip_prefix(UNKNOWN_ID) {
            Some(id) => Uuid::parse_str(id).unwrap_or_default(),
            None => self.0.topic(name).map(|topic| topic.id).unwrap_or_default(),
        }
    }

    /// Whether a name stands for an id that no topic has.
    pub(crate) fn is_unknown(name: &str) -> bool {
        name.starts_with(UNKNOWN_ID)
    }
}

/// Whether clients must not write to the topic by themselves.
pub(crate) fn is_internal(topic: &Topic) -> bool {
    is_internal_name(&topic.name)
}

/// As [`is_internal`], for a topic that may not be there yet.
pub(crate) fn is_internal_name(name: &str) -> bool {
    InternalTopic::is_name(name)
}

/// Checks that `more` partitions may be created, after `planned` ones of the same request.
pub(crate) fn check_partition_room(catalog: &Catalog, planned: usize, more: usize) -> Result<(), ItemError> {
    let in_request = planned.saturating_add(more);
    if in_request > PARTITIONS_PER_REQUEST_MAX {
        return Err(ItemError::new(
            ResponseError::PolicyViolation,
            format!("one request may create at most {PARTITIONS_PER_REQUEST_MAX} partitions"),
        ));
    }
    if catalog.partition_count() + in_request > PARTITIONS_PER_NODE_MAX {
        return Err(ItemError::new(
            ResponseError::PolicyViolation,
            format!("this node holds at most {PARTITIONS_PER_NODE_MAX} partitions"),
        ));
    }
    Ok(())
}

/// Checks a manual assignment of one partition: a single node can place replicas on itself only.
pub(crate) fn check_replicas(
    catalog: &Catalog,
    partition: i32,
    brokers: &[BrokerId],
) -> Result<(), ItemError> {
    let own = |id: i32| id == catalog.node_id || (id >= CORE_ID_STEP && id % CORE_ID_STEP == catalog.node_id);
    if brokers.len() == 1 && own(brokers[0].0) {
        return Ok(());
    }
    let ids: Vec<i32> = brokers.iter().take(16).map(|id| id.0).collect();
    Err(ItemError::new(
        ResponseError::InvalidReplicaAssignment,
        format!(
            "partition {partition} is assigned to brokers {ids:?}; the only broker is {}",
            catalog.node_id
        ),
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::catalog::CatalogChange;
    use crate::config::{BrokerConfig, ConfigSources, load};
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable, Message};
    use std::fmt::Debug;
    use uuid::Uuid;

    pub(crate) fn node() -> NodeInfo {
        NodeInfo {
            node_id: 1,
            host: "broker.example".to_owned(),
            port: 9092,
            rack: Some("r1".to_owned()),
            cluster_id: "AbCdEfGhIjKlMnOpQrStUv".to_owned(),
            endpoints: 1,
        }
    }

    pub(crate) fn broker(pairs: &[(&str, &str)]) -> BrokerConfig {
        let flags = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&ConfigSources { flags, ..ConfigSources::default() }).expect("valid").config
    }

    /// Topics by name and number of partitions; the first gets id 1, the second id 2 and so on.
    pub(crate) fn catalog(topics: &[(&str, usize)]) -> Catalog {
        let changes: Vec<CatalogChange> = topics
            .iter()
            .enumerate()
            .map(|(index, (name, partition_count))| CatalogChange::CreateTopic {
                name: (*name).to_owned(),
                id: Uuid::from_u128(index as u128 + 1),
                partition_count: *partition_count,
                configs: [("retention.ms".to_owned(), "1234".to_owned())].into(),
                created_ms: 0,
            })
            .collect();
        Catalog::new("AbCdEfGhIjKlMnOpQrStUv", 1).apply(&changes).expect("valid")
    }

    /// Encodes at a version, decodes again and returns what a client of that version sees.
    pub(crate) fn seen_by_client<M: Message + Encodable + Decodable + Debug>(message: &M, version: i16) -> M {
        let mut bytes = BytesMut::new();
        let size = message.compute_size(version).unwrap_or_else(|e| panic!("size at version {version}: {e}"));
        message.encode(&mut bytes, version).unwrap_or_else(|e| panic!("encode at version {version}: {e}"));
        assert_eq!(bytes.len(), size, "computed size at version {version}");
        let mut bytes = bytes.freeze();
        let decoded = M::decode(&mut bytes, version).unwrap_or_else(|e| panic!("decode at {version}: {e}"));
        assert!(bytes.is_empty(), "bytes are left at version {version}");
        decoded
    }

    #[test]
    fn operations_are_those_kafka_reports_without_an_authoriser() {
        assert_eq!((topic_operations(true), cluster_operations(true)), (3576, 8096));
        assert_eq!(topic_operations(false), -2_147_483_648);
    }
}
