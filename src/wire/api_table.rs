//! Which APIs and versions this broker implements, and from which version on each API is flexible.
//!
//! Owner: nobody; constant. The table is what ApiVersions answers: whatever stands here works fully.
//!
//! Must not: list an API or version that is not implemented end to end.

/// One row of the ApiVersions answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiRange {
    /// Kafka api key.
    pub key: i16,
    /// Lowest version listed.
    pub min: i16,
    /// Highest version listed.
    pub max: i16,
    /// Name, for logs and metrics.
    pub name: &'static str,
}

/// Api key of Produce.
pub const PRODUCE: i16 = 0;
/// Api key of Fetch.
pub const FETCH: i16 = 1;
/// Api key of ListOffsets.
pub const LIST_OFFSETS: i16 = 2;
/// Api key of Metadata.
pub const METADATA: i16 = 3;
/// Api key of OffsetCommit.
pub const OFFSET_COMMIT: i16 = 8;
/// Api key of OffsetFetch.
pub const OFFSET_FETCH: i16 = 9;
/// Api key of FindCoordinator.
pub const FIND_COORDINATOR: i16 = 10;
/// Api key of JoinGroup.
pub const JOIN_GROUP: i16 = 11;
/// Api key of Heartbeat.
pub const HEARTBEAT: i16 = 12;
/// Api key of LeaveGroup.
pub const LEAVE_GROUP: i16 = 13;
/// Api key of SyncGroup.
pub const SYNC_GROUP: i16 = 14;
/// Api key of DescribeGroups.
pub const DESCRIBE_GROUPS: i16 = 15;
/// Api key of ListGroups.
pub const LIST_GROUPS: i16 = 16;
/// Api key of ApiVersions.
pub const API_VERSIONS: i16 = 18;
/// Api key of CreateTopics.
pub const CREATE_TOPICS: i16 = 19;
/// Api key of DeleteTopics.
pub const DELETE_TOPICS: i16 = 20;
/// Api key of DeleteRecords.
pub const DELETE_RECORDS: i16 = 21;
/// Api key of InitProducerId.
pub const INIT_PRODUCER_ID: i16 = 22;
/// Api key of OffsetForLeaderEpoch.
pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
/// Api key of AddPartitionsToTxn.
pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
/// Api key of AddOffsetsToTxn.
pub const ADD_OFFSETS_TO_TXN: i16 = 25;
/// Api key of EndTxn.
pub const END_TXN: i16 = 26;
/// Api key of WriteTxnMarkers.
pub const WRITE_TXN_MARKERS: i16 = 27;
/// Api key of TxnOffsetCommit.
pub const TXN_OFFSET_COMMIT: i16 = 28;
/// Api key of DescribeConfigs.
pub const DESCRIBE_CONFIGS: i16 = 32;
/// Api key of AlterConfigs.
pub const ALTER_CONFIGS: i16 = 33;
/// Api key of AlterReplicaLogDirs.
pub const ALTER_REPLICA_LOG_DIRS: i16 = 34;
/// Api key of DescribeLogDirs.
pub const DESCRIBE_LOG_DIRS: i16 = 35;
/// Api key of CreatePartitions.
pub const CREATE_PARTITIONS: i16 = 37;
/// Api key of DeleteGroups.
pub const DELETE_GROUPS: i16 = 42;
/// Api key of ElectLeaders.
pub const ELECT_LEADERS: i16 = 43;
/// Api key of IncrementalAlterConfigs.
pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
/// Api key of AlterPartitionReassignments.
pub const ALTER_PARTITION_REASSIGNMENTS: i16 = 45;
/// Api key of ListPartitionReassignments.
pub const LIST_PARTITION_REASSIGNMENTS: i16 = 46;
/// Api key of OffsetDelete.
pub const OFFSET_DELETE: i16 = 47;
/// Api key of DescribeClientQuotas.
pub const DESCRIBE_CLIENT_QUOTAS: i16 = 48;
/// Api key of AlterClientQuotas.
pub const ALTER_CLIENT_QUOTAS: i16 = 49;
/// Api key of DescribeQuorum.
pub const DESCRIBE_QUORUM: i16 = 55;
/// Api key of UpdateFeatures.
pub const UPDATE_FEATURES: i16 = 57;
/// Api key of DescribeCluster.
pub const DESCRIBE_CLUSTER: i16 = 60;
/// Api key of DescribeProducers.
pub const DESCRIBE_PRODUCERS: i16 = 61;
/// Api key of DescribeTransactions.
pub const DESCRIBE_TRANSACTIONS: i16 = 65;
/// Api key of ListTransactions.
pub const LIST_TRANSACTIONS: i16 = 66;
/// Api key of ConsumerGroupHeartbeat.
pub const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
/// Api key of ConsumerGroupDescribe.
pub const CONSUMER_GROUP_DESCRIBE: i16 = 69;
/// Api key of GetTelemetrySubscriptions.
pub const GET_TELEMETRY_SUBSCRIPTIONS: i16 = 71;
/// Api key of PushTelemetry.
pub const PUSH_TELEMETRY: i16 = 72;
/// Api key of ListConfigResources.
pub const LIST_CONFIG_RESOURCES: i16 = 74;
/// Api key of DescribeTopicPartitions.
pub const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;

/// Api key of ShareGroupHeartbeat.
pub const SHARE_GROUP_HEARTBEAT: i16 = 76;
/// Api key of ShareGroupDescribe.
pub const SHARE_GROUP_DESCRIBE: i16 = 77;
/// Api key of ShareFetch.
pub const SHARE_FETCH: i16 = 78;
/// Api key of ShareAcknowledge.
pub const SHARE_ACKNOWLEDGE: i16 = 79;
/// Api key of DescribeShareGroupOffsets.
pub const DESCRIBE_SHARE_GROUP_OFFSETS: i16 = 90;
/// Api key of AlterShareGroupOffsets.
pub const ALTER_SHARE_GROUP_OFFSETS: i16 = 91;
/// Api key of DeleteShareGroupOffsets.
pub const DELETE_SHARE_GROUP_OFFSETS: i16 = 92;

/// Lowest Produce version that is served. Versions below are listed all the same, because librdkafka switches
/// compression off for brokers that do not list them (KAFKA-18659), and answered with UNSUPPORTED_VERSION.
pub const PRODUCE_SERVED_MIN: i16 = 3;

const fn range(key: i16, min: i16, max: i16, name: &'static str) -> ApiRange {
    ApiRange { key, min, max, name }
}

/// Every API this broker answers, in order of its key.
pub const SUPPORTED: &[ApiRange] = &[
    range(PRODUCE, 0, 13, "Produce"),
    range(FETCH, 4, 18, "Fetch"),
    range(LIST_OFFSETS, 1, 11, "ListOffsets"),
    range(METADATA, 0, 13, "Metadata"),
    range(OFFSET_COMMIT, 2, 10, "OffsetCommit"),
    range(OFFSET_FETCH, 1, 10, "OffsetFetch"),
    range(FIND_COORDINATOR, 0, 6, "FindCoordinator"),
    range(JOIN_GROUP, 0, 9, "JoinGroup"),
    range(HEARTBEAT, 0, 4, "Heartbeat"),
    range(LEAVE_GROUP, 0, 5, "LeaveGroup"),
    range(SYNC_GROUP, 0, 5, "SyncGroup"),
    range(DESCRIBE_GROUPS, 0, 6, "DescribeGroups"),
    range(LIST_GROUPS, 0, 5, "ListGroups"),
    range(API_VERSIONS, 0, 5, "ApiVersions"),
    range(CREATE_TOPICS, 2, 7, "CreateTopics"),
    range(DELETE_TOPICS, 1, 6, "DeleteTopics"),
    range(DELETE_RECORDS, 0, 2, "DeleteRecords"),
    range(INIT_PRODUCER_ID, 0, 5, "InitProducerId"),
    range(OFFSET_FOR_LEADER_EPOCH, 2, 4, "OffsetForLeaderEpoch"),
    range(ADD_PARTITIONS_TO_TXN, 0, 5, "AddPartitionsToTxn"),
    range(ADD_OFFSETS_TO_TXN, 0, 4, "AddOffsetsToTxn"),
    range(END_TXN, 0, 5, "EndTxn"),
    range(WRITE_TXN_MARKERS, 1, 2, "WriteTxnMarkers"),
    range(TXN_OFFSET_COMMIT, 0, 6, "TxnOffsetCommit"),
    range(DESCRIBE_CONFIGS, 1, 4, "DescribeConfigs"),
    range(ALTER_CONFIGS, 0, 2, "AlterConfigs"),
    range(ALTER_REPLICA_LOG_DIRS, 1, 2, "AlterReplicaLogDirs"),
    range(DESCRIBE_LOG_DIRS, 1, 5, "DescribeLogDirs"),
    range(CREATE_PARTITIONS, 0, 3, "CreatePartitions"),
    range(DELETE_GROUPS, 0, 3, "DeleteGroups"),
    range(ELECT_LEADERS, 0, 2, "ElectLeaders"),
    range(INCREMENTAL_ALTER_CONFIGS, 0, 1, "IncrementalAlterConfigs"),
    range(ALTER_PARTITION_REASSIGNMENTS, 0, 1, "AlterPartitionReassignments"),
    range(LIST_PARTITION_REASSIGNMENTS, 0, 0, "ListPartitionReassignments"),
    range(OFFSET_DELETE, 0, 0, "OffsetDelete"),
    range(DESCRIBE_CLIENT_QUOTAS, 0, 1, "DescribeClientQuotas"),
    range(ALTER_CLIENT_QUOTAS, 0, 1, "AlterClientQuotas"),
    range(DESCRIBE_QUORUM, 0, 2, "DescribeQuorum"),
    range(UPDATE_FEATURES, 0, 2, "UpdateFeatures"),
    range(DESCRIBE_CLUSTER, 0, 2, "DescribeCluster"),
    range(DESCRIBE_PRODUCERS, 0, 0, "DescribeProducers"),
    range(DESCRIBE_TRANSACTIONS, 0, 0, "DescribeTransactions"),
    range(LIST_TRANSACTIONS, 0, 2, "ListTransactions"),
    range(CONSUMER_GROUP_HEARTBEAT, 0, 1, "ConsumerGroupHeartbeat"),
    range(CONSUMER_GROUP_DESCRIBE, 0, 1, "ConsumerGroupDescribe"),
    range(GET_TELEMETRY_SUBSCRIPTIONS, 0, 0, "GetTelemetrySubscriptions"),
    range(PUSH_TELEMETRY, 0, 0, "PushTelemetry"),
    range(LIST_CONFIG_RESOURCES, 0, 1, "ListConfigResources"),
    range(DESCRIBE_TOPIC_PARTITIONS, 0, 0, "DescribeTopicPartitions"),
    range(SHARE_GROUP_HEARTBEAT, 1, 1, "ShareGroupHeartbeat"),
    range(SHARE_GROUP_DESCRIBE, 1, 1, "ShareGroupDescribe"),
    range(SHARE_FETCH, 1, 2, "ShareFetch"),
    range(SHARE_ACKNOWLEDGE, 1, 2, "ShareAcknowledge"),
    range(DESCRIBE_SHARE_GROUP_OFFSETS, 0, 1, "DescribeShareGroupOffsets"),
    range(ALTER_SHARE_GROUP_OFFSETS, 0, 0, "AlterShareGroupOffsets"),
    range(DELETE_SHARE_GROUP_OFFSETS, 0, 0, "DeleteShareGroupOffsets"),
];

/// The row of `api_key`, if that API is implemented.
pub fn find(api_key: i16) -> Option<&'static ApiRange> {
    SUPPORTED.iter().find(|range| range.key == api_key)
}

/// Whether `api_key` is implemented and lists `version`.
pub fn is_supported(api_key: i16, version: i16) -> bool {
    find(api_key).is_some_and(|range| (range.min..=range.max).contains(&version))
}

/// First flexible version (KIP-482) by api key, for all of Kafka's client APIs, because the header of a request
/// must be read before we can say that we do not serve it. `NEVER` for those that have none.
const NEVER: i16 = i16::MAX;
#[rustfmt::skip]
const FLEXIBLE_SINCE: &[(i16, i16)] = &[
    (0, 9), (1, 12), (2, 6), (3, 9), (8, 8), (9, 6), (10, 3), (11, 6), (12, 4), (13, 4), (14, 4), (15, 5), (16, 3),
    (17, NEVER), (18, 3), (19, 5), (20, 4), (21, 2), (22, 2), (23, 4), (24, 3), (25, 3), (26, 3), (27, 1), (28, 3),
    (29, 2), (30, 2), (31, 2), (32, 4), (33, 2), (34, 2), (35, 2), (36, 2), (37, 2), (38, 2), (39, 2), (40, 2),
    (41, 2), (42, 2), (43, 2), (44, 1), (45, 0), (46, 0), (47, NEVER), (48, 1), (49, 1), (50, 0), (51, 0), (55, 0),
    (56, 0), (57, 0), (60, 0), (61, 0), (64, 0), (65, 0), (66, 0), (68, 0), (69, 0), (71, 0), (72, 0), (74, 0),
    (75, 0), (76, 0), (77, 0), (78, 0), (79, 0), (88, 0), (89, 0), (90, 0), (91, 0),
    (92, 0),
];

/// Whether requests and responses of this version use compact encodings and tagged fields. Unknown APIs count as
/// not flexible: of those only the fixed part of the header is of any use.
pub fn is_flexible(api_key: i16, version: i16) -> bool {
    FLEXIBLE_SINCE.iter().any(|&(key, since)| key == api_key && version >= since)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::*;
    use kafka_protocol::protocol::Message;

    use super::*;

    /// What we list must be within what the decoders know: those of `kafka-protocol`, and our own of later versions.
    #[test]
    fn listed_versions_are_within_kafka_protocol() {
        macro_rules! within {
            ($($key:expr => $request:ty),* $(,)?) => {[$(($key, <$request as Message>::VERSIONS)),*]};
        }
        let known = within![
            FETCH => FetchRequest, LIST_OFFSETS => ListOffsetsRequest, METADATA => MetadataRequest,
            FIND_COORDINATOR => FindCoordinatorRequest, API_VERSIONS => ApiVersionsRequest,
            CREATE_TOPICS => CreateTopicsRequest,
            DELETE_TOPICS => DeleteTopicsRequest, DELETE_RECORDS => DeleteRecordsRequest,
            INIT_PRODUCER_ID => InitProducerIdRequest,
            OFFSET_FOR_LEADER_EPOCH => OffsetForLeaderEpochRequest,
            ADD_PARTITIONS_TO_TXN => AddPartitionsToTxnRequest, ADD_OFFSETS_TO_TXN => AddOffsetsToTxnRequest,
            END_TXN => EndTxnRequest, WRITE_TXN_MARKERS => WriteTxnMarkersRequest,
            TXN_OFFSET_COMMIT => TxnOffsetCommitRequest,
            DESCRIBE_PRODUCERS => DescribeProducersRequest, DESCRIBE_TRANSACTIONS => DescribeTransactionsRequest,
            LIST_TRANSACTIONS => ListTransactionsRequest, DESCRIBE_CONFIGS => DescribeConfigsRequest,
            DESCRIBE_LOG_DIRS => DescribeLogDirsRequest, CREATE_PARTITIONS => CreatePartitionsRequest,
            OFFSET_COMMIT => OffsetCommitRequest, OFFSET_FETCH => OffsetFetchRequest, JOIN_GROUP => JoinGroupRequest,
            HEARTBEAT => HeartbeatRequest, LEAVE_GROUP => LeaveGroupRequest, SYNC_GROUP => SyncGroupRequest,
            DESCRIBE_GROUPS => DescribeGroupsRequest, LIST_GROUPS => ListGroupsRequest,
            DELETE_GROUPS => DeleteGroupsRequest, OFFSET_DELETE => OffsetDeleteRequest,
            CONSUMER_GROUP_HEARTBEAT => ConsumerGroupHeartbeatRequest,
            CONSUMER_GROUP_DESCRIBE => ConsumerGroupDescribeRequest,
            DESCRIBE_CLUSTER => DescribeClusterRequest, DESCRIBE_TOPIC_PARTITIONS => DescribeTopicPartitionsRequest,
            ALTER_CONFIGS => AlterConfigsRequest,
            ALTER_REPLICA_LOG_DIRS => AlterReplicaLogDirsRequest,
            ELECT_LEADERS => ElectLeadersRequest,
            INCREMENTAL_ALTER_CONFIGS => IncrementalAlterConfigsRequest,
            ALTER_PARTITION_REASSIGNMENTS => AlterPartitionReassignmentsRequest,
            LIST_PARTITION_REASSIGNMENTS => ListPartitionReassignmentsRequest,
            DESCRIBE_CLIENT_QUOTAS => DescribeClientQuotasRequest,
            ALTER_CLIENT_QUOTAS => AlterClientQuotasRequest,
            DESCRIBE_QUORUM => DescribeQuorumRequest,
            UPDATE_FEATURES => UpdateFeaturesRequest,
            GET_TELEMETRY_SUBSCRIPTIONS => GetTelemetrySubscriptionsRequest,
            PUSH_TELEMETRY => PushTelemetryRequest,
            LIST_CONFIG_RESOURCES => ListConfigResourcesRequest,
            SHARE_GROUP_HEARTBEAT => ShareGroupHeartbeatRequest, SHARE_GROUP_DESCRIBE => ShareGroupDescribeRequest,
            SHARE_FETCH => ShareFetchRequest, SHARE_ACKNOWLEDGE => ShareAcknowledgeRequest,
            DESCRIBE_SHARE_GROUP_OFFSETS => DescribeShareGroupOffsetsRequest,
            ALTER_SHARE_GROUP_OFFSETS => AlterShareGroupOffsetsRequest,
            DELETE_SHARE_GROUP_OFFSETS => DeleteShareGroupOffsetsRequest,
        ];
        assert_eq!(known.len() + 1, SUPPORTED.len(), "every API but Produce");
        for (key, versions) in known {
            let listed = find(key).expect("listed");
            // One version newer than theirs is decoded or encoded by hand.
            let by_hand = [SHARE_FETCH, SHARE_ACKNOWLEDGE, DESCRIBE_SHARE_GROUP_OFFSETS].contains(&key);
            let codec = super::super::newer::codec_version(key, listed.max) - i16::from(by_hand);
            assert_eq!((listed.min, codec), (versions.min, versions.max), "{}", listed.name);
        }
        assert_eq!(find(PRODUCE).expect("listed").max, ProduceRequest::VERSIONS.max);
    }

    #[test]
    fn flexible_versions_agree_with_kafka_protocol() {
        for &(key, _) in FLEXIBLE_SINCE {
            let Ok(api) = ApiKey::try_from(key) else { continue };
            let range = api.valid_versions();
            for version in range.min..=range.max {
                let flexible = api.request_header_version(version) == 2;
                assert_eq!(is_flexible(key, version), flexible, "{api:?} v{version}");
            }
        }
    }

    #[test]
    fn rows_are_sorted_and_unique() {
        assert!(SUPPORTED.windows(2).all(|pair| pair[0].key < pair[1].key));
        assert!(!is_supported(PRODUCE, 14) && is_supported(PRODUCE, 0) && !is_supported(FETCH, 3));
        assert!(!is_supported(999, 0));
    }
}
