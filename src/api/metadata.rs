//! Metadata (key 3, versions 0 to 13): brokers, topics, partitions and their leaders.
//!
//! Owner: the core of the connection. Invariants: a topic appears once in an answer however often it was asked
//! for, so that the size of the answer is bounded by the catalog. Must not: create topics; it tells the caller
//! which are to be created.

use super::control::{
    NodeInfo, broker_ids, cluster_operations, is_internal, text, topic_name, topic_operations,
};
use super::create_topics::PlanNames;
use crate::catalog::{Catalog, Topic, validate_topic_name};
use crate::config::BrokerConfig;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};
use std::collections::HashSet;
use uuid::Uuid;

/// The first version whose requests may name a topic by its id alone.
const TOPIC_ID_VERSION_MIN: i16 = 12;
/// The first version that can say that it does not want topics to be created.
const AUTO_CREATE_FLAG_VERSION_MIN: i16 = 4;

/// The answer from one snapshot of the catalog.
pub fn respond(
    catalog: &Catalog,
    node: &NodeInfo,
    request: &MetadataRequest,
    version: i16,
) -> MetadataResponse {
    let operations = topic_operations(version >= 8 && request.include_topic_authorized_operations);
    let mut topics = match asked_topics(request, version) {
        None => catalog.topics().map(|topic| describe(topic, operations)).collect(),
        Some(asked) => describe_asked(catalog, asked, operations, version),
    };
    for topic in &mut topics {
        for partition in &mut topic.partitions {
            let ids = std::iter::once(&mut partition.leader_id)
                .chain(&mut partition.replica_nodes)
                .chain(&mut partition.isr_nodes);
            node.name_endpoint(topic.topic_id, partition.partition_index, ids);
        }
    }
    let endpoint = |(id, port): (i32, u16)| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id))
            .with_host(text(node.host.as_str()))
            .with_port(port.into())
            .with_rack(node.rack.as_deref().map(text))
    };
    let ask_cluster = (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    MetadataResponse::default()
        .with_brokers(node.endpoints().map(endpoint).collect())
        .with_cluster_id(Some(text(node.cluster_id.as_str())))
        .with_controller_id(BrokerId(node.node_id))
        .with_topics(topics)
        .with_cluster_authorized_operations(cluster_operations(ask_cluster))
}

/// The topics a request wants to exist and that do not: valid names without a collision, without repetition.
/// Empty when the broker or the request does not want automatic creation.
pub fn topics_to_auto_create(
    catalog: &Catalog,
    broker: &BrokerConfig,
    request: &MetadataRequest,
    version: i16,
) -> Vec<String> {
    let wanted = version < AUTO_CREATE_FLAG_VERSION_MIN || request.allow_auto_topic_creation;
    if !broker.auto_create_topics || !wanted {
        return Vec::new();
    }
    let missing: Vec<&str> = asked_topics(request, version)
        .unwrap_or_default()
        .iter()
        .filter_map(|topic| topic.name.as_ref().map(|name| name.as_str()))
        .filter(|name| catalog.topic(name).is_none())
        .collect();
    if missing.is_empty() {
        // The usual case, in which the names of the catalog need not be gone through.
        return Vec::new();
    }
    let mut names = PlanNames::new(catalog);
    missing.into_iter().filter(|name| names.admit(name).is_ok()).map(str::to_owned).collect()
}

/// The topics a request names; `None` for all of them. Version 0 has no null and means all by an empty list;
/// later versions mean none by it.
fn asked_topics(request: &MetadataRequest, version: i16) -> Option<&[MetadataRequestTopic]> {
    match request.topics.as_deref() {
        Some([]) if version == 0 => None,
        topics => topics,
    }
}

fn describe_asked(
    catalog: &Catalog,
    asked: &[MetadataRequestTopic],
    operations: i32,
    version: i16,
) -> Vec<MetadataResponseTopic> {
    let mut names = HashSet::new();
    let mut ids = HashSet::new();
    let mut topics = Vec::new();
    for topic in asked {
        match &topic.name {
            Some(name) if topic.topic_id.is_nil() || version < TOPIC_ID_VERSION_MIN => {
                if names.insert(name.as_str()) {
                    topics.push(by_name(catalog, name, operations));
                }
            }
            // From version 12 on an id counts, and a name beside it does not.
            _ if version >= TOPIC_ID_VERSION_MIN => {
                if ids.insert(topic.topic_id) {
                    topics.push(by_id(catalog, topic.topic_id, operations));
                }
            }
            _ => {
                let error = ResponseError::InvalidRequest;
                topics.push(failed(error, Some(""), topic.topic_id));
            }
        }
    }
    topics
}

fn by_name(catalog: &Catalog, name: &str, operations: i32) -> MetadataResponseTopic {
    match catalog.topic(name) {
        Some(topic) => describe(topic, operations),
        None if validate_topic_name(name).is_err() => {
            failed(ResponseError::InvalidTopicException, Some(name), Uuid::nil())
        }
        None => failed(ResponseError::UnknownTopicOrPartition, Some(name), Uuid::nil()),
    }
}

fn by_id(catalog: &Catalog, id: Uuid, operations: i32) -> MetadataResponseTopic {
    match catalog.topic_by_id(id) {
        Some(topic) => describe(topic, operations),
        None => failed(ResponseError::UnknownTopicId, None, id),
    }
}

fn failed(error: ResponseError, name: Option<&str>, id: Uuid) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name(name.map(topic_name))
        .with_topic_id(id)
}

fn describe(topic: &Topic, operations: i32) -> MetadataResponseTopic {
    let partition = |(index, meta): (usize, &crate::catalog::PartitionMeta)| {
        MetadataResponsePartition::default()
            .with_error_code(if meta.leader < 0 { ResponseError::LeaderNotAvailable.code() } else { 0 })
            .with_partition_index(index as i32)
            .with_leader_id(BrokerId(meta.leader))
            .with_leader_epoch(meta.leader_epoch)
            .with_replica_nodes(broker_ids(&meta.replicas))
            .with_isr_nodes(broker_ids(&meta.isr))
    };
    MetadataResponseTopic::default()
        .with_name(Some(topic_name(&topic.name)))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal(topic))
        .with_partitions(topic.partitions.iter().enumerate().map(partition).collect())
        .with_topic_authorized_operations(operations)
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, node, seen_by_client};
    use super::*;

    fn named(names: &[&str]) -> MetadataRequest {
        let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        MetadataRequest::default().with_topics(Some(names.iter().map(topic).collect()))
    }

    fn with_id(id: u128) -> MetadataRequest {
        let topic = MetadataRequestTopic::default().with_name(None).with_topic_id(Uuid::from_u128(id));
        MetadataRequest::default().with_topics(Some(vec![topic]))
    }

    /// Passes the request over the wire as well.
    fn ask(request: &MetadataRequest, version: i16) -> MetadataResponse {
        let request = seen_by_client(request, version);
        let response = respond(&catalog(&[("b", 1), ("a", 3)]), &node(), &request, version);
        seen_by_client(&response, version)
    }

    fn names(response: &MetadataResponse) -> Vec<(String, i16)> {
        let name = |t: &MetadataResponseTopic| t.name.as_ref().map_or("-".to_owned(), |n| n.to_string());
        response.topics.iter().map(|t| (name(t), t.error_code)).collect()
    }

    #[test]
    fn every_version_sees_the_topic_it_asks_for() {
        for version in 0..=13 {
            let seen = ask(&named(&["a", "nope", "a", "no/good"]), version);
            let expected = [("a".to_owned(), 0), ("nope".to_owned(), 3), ("no/good".to_owned(), 17)];
            assert_eq!(names(&seen), expected, "version {version}");
            assert_eq!(seen.topics[0].partitions.len(), 3);
            let partition = &seen.topics[0].partitions[2];
            assert_eq!((partition.partition_index, partition.leader_id.0), (2, 1));
            assert_eq!((partition.replica_nodes.len(), partition.isr_nodes.len()), (1, 1));
            assert_eq!(
                partition.leader_epoch,
                if version >= 7 { catalog(&[("b", 1), ("a", 3)]).leader_epoch } else { -1 }
            );
            assert_eq!(seen.brokers[0].port, 9092);
            assert_eq!(seen.controller_id.0, if version >= 1 { 1 } else { -1 });
            assert_eq!(seen.cluster_id.is_some(), version >= 2);
            assert_eq!(seen.topics[0].topic_id.is_nil(), version < 10);
        }
    }

    #[test]
    fn null_means_all_and_empty_means_none_but_at_version_0() {
        let all = [("a".to_owned(), 0), ("b".to_owned(), 0)];
        assert_eq!(names(&ask(&named(&[]), 0)), all);
        for version in 1..=13 {
            assert!(ask(&named(&[]), version).topics.is_empty(), "version {version}");
            assert_eq!(names(&ask(&MetadataRequest::default().with_topics(None), version)), all);
        }
    }

    #[test]
    fn topics_are_found_by_id_from_version_12() {
        for version in 12..=13 {
            assert_eq!(names(&ask(&with_id(2), version)), [("a".to_owned(), 0)]);
            let unknown = ask(&with_id(99), version);
            assert_eq!(names(&unknown), [("-".to_owned(), 100)]);
            assert_eq!(unknown.topics[0].topic_id, Uuid::from_u128(99));
        }
        let early = respond(&catalog(&[("a", 1)]), &node(), &with_id(1), 10);
        assert_eq!(names(&seen_by_client(&early, 10)), [(String::new(), 42)]);
    }

    #[test]
    fn operations_are_reported_on_demand() {
        for version in 8..=13 {
            let request = named(&["a"]).with_include_topic_authorized_operations(true);
            let request = request.with_include_cluster_authorized_operations(version <= 10);
            let seen = ask(&request, version);
            assert_eq!(seen.topics[0].topic_authorized_operations, 3576);
            assert_eq!(seen.cluster_authorized_operations, if version <= 10 { 8096 } else { i32::MIN });
            assert_eq!(ask(&named(&["a"]), version).topics[0].topic_authorized_operations, i32::MIN);
        }
    }

    #[test]
    fn missing_topics_are_to_be_created_when_both_sides_want_it() {
        let catalog = catalog(&[("a", 1), ("x.y", 1)]);
        let request = named(&["a", "new", "new", "no/good", "x_y", "other"]);
        let create = |broker: &BrokerConfig, request: &MetadataRequest, version| {
            topics_to_auto_create(&catalog, broker, request, version)
        };
        assert_eq!(create(&broker(&[]), &request, 9), ["new", "other"]);
        assert!(create(&broker(&[("auto.create.topics.enable", "false")]), &request, 9).is_empty());
        let unwilling = request.clone().with_allow_auto_topic_creation(false);
        assert!(create(&broker(&[]), &unwilling, 4).is_empty());
        assert_eq!(create(&broker(&[]), &unwilling, 3).len(), 2);
        assert!(create(&broker(&[]), &MetadataRequest::default().with_topics(None), 9).is_empty());
        assert!(create(&broker(&[]), &with_id(77), 12).is_empty());
    }
}
