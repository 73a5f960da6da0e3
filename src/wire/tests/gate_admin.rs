//! A rich request of each administrative API, for the tests of the gate.

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::messages::{
    alter_client_quotas_request as alter_quotas, alter_configs_request as alter,
    alter_partition_reassignments_request as reassign, alter_replica_log_dirs_request as log_dirs,
    describe_client_quotas_request as quotas, describe_quorum_request as quorum,
    elect_leaders_request as elect, incremental_alter_configs_request as incremental,
    list_partition_reassignments_request as reassignments, update_features_request as features,
};
use uuid::Uuid;

use super::gate::{encoded, name, text};
use crate::wire::api_table::*;

/// The request's body; panics for an API that is listed without one.
pub(super) fn request(api_key: i16, version: i16) -> Vec<u8> {
    match api_key {
        ALTER_CONFIGS | INCREMENTAL_ALTER_CONFIGS => configs(api_key, version),
        ALTER_REPLICA_LOG_DIRS => {
            let topic =
                log_dirs::AlterReplicaLogDirTopic::default().with_name(name("t")).with_partitions(vec![0, 1]);
            let dir =
                log_dirs::AlterReplicaLogDir::default().with_path(text("/data")).with_topics(vec![topic; 2]);
            encoded(AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]), version)
        }
        ELECT_LEADERS => {
            let topic = elect::TopicPartitions::default().with_topic(name("t")).with_partitions(vec![0, 1]);
            encoded(ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic])), version)
        }
        ALTER_PARTITION_REASSIGNMENTS => {
            let one = reassign::ReassignablePartition::default();
            let some = one.clone().with_replicas(Some(vec![BrokerId(1)]));
            let none = one.with_replicas(None);
            let topic =
                reassign::ReassignableTopic::default().with_name(name("t")).with_partitions(vec![some, none]);
            encoded(AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]), version)
        }
        LIST_PARTITION_REASSIGNMENTS => {
            let topic = reassignments::ListPartitionReassignmentsTopics::default()
                .with_name(name("t"))
                .with_partition_indexes(vec![3]);
            encoded(ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic])), version)
        }
        DESCRIBE_CLIENT_QUOTAS | ALTER_CLIENT_QUOTAS => client_quotas(api_key, version),
        DESCRIBE_QUORUM => {
            let topic = quorum::TopicData::default()
                .with_topic_name(name("__cluster_metadata"))
                .with_partitions(vec![quorum::PartitionData::default()]);
            encoded(DescribeQuorumRequest::default().with_topics(vec![topic]), version)
        }
        UPDATE_FEATURES => {
            let update = features::FeatureUpdateKey::default()
                .with_feature(text("metadata.version"))
                .with_max_version_level(7);
            let update = if version == 0 { update.with_allow_downgrade(true) } else { update };
            encoded(UpdateFeaturesRequest::default().with_feature_updates(vec![update; 2]), version)
        }
        GET_TELEMETRY_SUBSCRIPTIONS => encoded(
            GetTelemetrySubscriptionsRequest::default().with_client_instance_id(Uuid::from_u128(5)),
            version,
        ),
        PUSH_TELEMETRY => {
            encoded(PushTelemetryRequest::default().with_metrics(Bytes::from_static(b"\x01ab")), version)
        }
        LIST_CONFIG_RESOURCES => {
            let types = if version == 0 { Vec::new() } else { vec![2, 4, 16] };
            encoded(ListConfigResourcesRequest::default().with_resource_types(types), version)
        }
        other => panic!("api {other} is listed but has no request here"),
    }
}

fn configs(api_key: i16, version: i16) -> Vec<u8> {
    if api_key == ALTER_CONFIGS {
        let config = alter::AlterableConfig::default().with_name(text("retention.ms"));
        let none = config.clone().with_value(None);
        let resource = alter::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_configs(vec![config.with_value(Some(text("5"))), none]);
        return encoded(AlterConfigsRequest::default().with_resources(vec![resource]), version);
    }
    let config = incremental::AlterableConfig::default().with_name(text("retention.ms"));
    let delete = config.clone().with_config_operation(1).with_value(None);
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configs(vec![config.with_value(Some(text("5"))), delete]);
    encoded(IncrementalAlterConfigsRequest::default().with_resources(vec![resource; 2]), version)
}

fn client_quotas(api_key: i16, version: i16) -> Vec<u8> {
    if api_key == DESCRIBE_CLIENT_QUOTAS {
        let component = quotas::ComponentData::default().with_entity_type(text("user"));
        let components = vec![component.clone().with_match(Some(text("me"))), component.with_match(None)];
        return encoded(DescribeClientQuotasRequest::default().with_components(components), version);
    }
    let entity = alter_quotas::EntityData::default().with_entity_type(text("client-id"));
    let named = entity.clone().with_entity_name(Some(text("me")));
    let operation = alter_quotas::OpData::default().with_key(text("producer_byte_rate")).with_value(2.5);
    let entry = alter_quotas::EntryData::default()
        .with_entity(vec![named, entity.with_entity_name(None)])
        .with_ops(vec![operation; 2]);
    encoded(AlterClientQuotasRequest::default().with_entries(vec![entry]), version)
}
