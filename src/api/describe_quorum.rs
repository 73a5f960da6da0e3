//! DescribeQuorum (key 55, versions 0 to 2): the metadata quorum is this node alone, and its log is the catalog,
//! whose sequence stands for the offsets.
//!
//! Owner: the core of the connection. Must not: answer for any other partition than that of the metadata log.

use super::control::{NodeInfo, text, topic_name};
use crate::catalog::Catalog;
use crate::config::BrokerConfig;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{BrokerId, DescribeQuorumRequest, DescribeQuorumResponse};

/// KRaft's log of metadata.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// The answer from one snapshot of the catalog. `now_ms` is the time since 1970.
pub fn respond(
    catalog: &Catalog,
    config: &BrokerConfig,
    node: &NodeInfo,
    request: &DescribeQuorumRequest,
    version: i16,
    now_ms: i64,
) -> DescribeQuorumResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let partition = PartitionData::default().with_partition_index(asked.partition_index);
            if topic.topic_name.as_str() != METADATA_TOPIC || asked.partition_index != 0 {
                let code = ResponseError::UnknownTopicOrPartition.code();
                return partition.with_error_code(code).with_error_message(None);
            }
            let end = i64::try_from(catalog.sequence).unwrap_or(i64::MAX);
            let mut voter =
                ReplicaState::default().with_replica_id(BrokerId(node.node_id)).with_log_end_offset(end);
            if version >= 1 {
                voter = voter.with_last_fetch_timestamp(now_ms).with_last_caught_up_timestamp(now_ms);
            }
            partition
                .with_error_message(None)
                .with_leader_id(BrokerId(node.node_id))
                .with_leader_epoch(catalog.leader_epoch)
                .with_high_watermark(end)
                .with_current_voters(vec![voter])
        });
        TopicData::default()
            .with_topic_name(topic_name(&topic.topic_name))
            .with_partitions(partitions.collect())
    });
    let response = DescribeQuorumResponse::default().with_error_message(None).with_topics(topics.collect());
    if version < 2 {
        return response;
    }
    let listeners = config.listeners.iter().map(|listener| {
        Listener::default()
            .with_name(text(listener.name.as_str()))
            .with_host(text(listener.advertised_host.as_str()))
            .with_port(listener.advertised_port)
    });
    let this = Node::default().with_node_id(BrokerId(node.node_id)).with_listeners(listeners.collect());
    response.with_nodes(vec![this])
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, node, seen_by_client};
    use super::*;
    use kafka_protocol::messages::describe_quorum_request as ask;

    #[test]
    fn this_node_is_the_quorum() {
        let topic = |name, partition| {
            ask::TopicData::default()
                .with_topic_name(topic_name(name))
                .with_partitions(vec![ask::PartitionData::default().with_partition_index(partition)])
        };
        let request = DescribeQuorumRequest::default().with_topics(vec![
            topic(METADATA_TOPIC, 0),
            topic(METADATA_TOPIC, 1),
            topic("a", 0),
        ]);
        for version in 0..=2 {
            let response = respond(&catalog(&[("a", 1)]), &broker(&[]), &node(), &request, version, 5);
            let seen = seen_by_client(&response, version);
            let first = &seen.topics[0].partitions[0];
            assert_eq!((first.error_code, first.leader_id.0, first.high_watermark), (0, 1, 1));
            assert_eq!(first.current_voters.len(), 1);
            assert!(seen.topics[1..].iter().all(|topic| topic.partitions[0].error_code == 3));
            assert_eq!(seen.nodes.len(), usize::from(version >= 2));
        }
    }
}
