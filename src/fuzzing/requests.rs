//! Target `requests`: a frame without its length, through everything that reads it before a handler does, for every API
//! in every version. What a generated decoder gets has passed the gate; what the gate lets through, the decoder
//! consumes to the same byte; and what both cost is bounded by the frame.
//!
//! Owner: nobody; pure. Must not: know what a request means.

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Decodable;

use super::memory;
use crate::wire::api_table::*;
use crate::wire::fetch::FetchRequest as OwnFetchRequest;
use crate::wire::produce::{self, ProduceRequest as OwnProduceRequest};
use crate::wire::share::ShareRequest;
use crate::wire::{RequestHeader, gate, newer};

/// What decoding may cost for each byte of a frame: the gate's promise, and the copy that the decoder reads from.
pub const REQUEST_BYTES_PER_FRAME_BYTE_MAX: usize = gate::DECODED_TO_WIRE_RATIO_MAX + 1;
/// What decoding may cost beside that: the gate lets 64 tagged fields through, which are map entries; error texts.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;

/// See the head of this file.
pub fn run(frame: &[u8]) {
    let Ok(header) = RequestHeader::parse(frame) else { return };
    assert!(header.header_size <= frame.len());
    let body = &frame[header.header_size..];
    let (key, version) = (header.api_key, header.api_version);
    let bytes_max = REQUEST_BYTES_PER_FRAME_BYTE_MAX * frame.len() + REQUEST_BYTES_MAX;
    memory::within(&format!("api {key} v{version}"), bytes_max, || match key {
        PRODUCE => own_produce(body, version),
        FETCH => {
            let _ = OwnFetchRequest::decode(body, version);
        }
        SHARE_FETCH => {
            let _ = ShareRequest::decode_fetch(body, version);
        }
        SHARE_ACKNOWLEDGE => {
            let _ = ShareRequest::decode_acknowledge(body, version);
        }
        _ => behind_the_gate(key, version, body),
    });
}

fn own_produce(body: &[u8], version: i16) {
    let _ = produce::peek_single(body, version);
    let _ = produce::is_single_trailer(body, version);
    let mut partitions = Vec::new();
    if OwnProduceRequest::decode(body, version, &mut partitions).is_ok() {
        for records in partitions.iter().filter_map(|partition| partition.records.clone()) {
            assert!(records.start <= records.end && records.end <= body.len());
        }
    }
}

fn behind_the_gate(key: i16, version: i16, body: &[u8]) {
    let Ok(consumed) = gate::check_consumed(key, version, body) else { return };
    assert!(consumed <= body.len());
    if newer::is_newer(key, version) {
        let outcome = match key {
            OFFSET_COMMIT => newer::offset_commit_request(body, |_| TopicName::default()).map(drop),
            TXN_OFFSET_COMMIT => newer::txn_offset_commit_request(body, |_| TopicName::default()).map(drop),
            OFFSET_FETCH => newer::offset_fetch_request(body, |_| TopicName::default()).map(drop),
            WRITE_TXN_MARKERS => newer::write_txn_markers_request(body).map(drop),
            API_VERSIONS => newer::api_versions_request(body).map(drop),
            _ => generated(key, newer::codec_version(key, version), body).map(drop).or(Ok(())),
        };
        let is_text = |error: &crate::wire::WireError| matches!(error, crate::wire::WireError::Utf8);
        assert!(outcome.as_ref().err().is_none_or(is_text), "api {key} v{version}: {outcome:?}");
        return;
    }
    match generated(key, version, body) {
        Ok(theirs) => assert_eq!(theirs, consumed, "api {key} v{version}"),
        Err(error) => assert!(error.contains("utf-8"), "api {key} v{version}: {error}"),
    }
}

/// Decodes with kafka-protocol; how many bytes it consumed, or its error. Panics for an API that is not behind the
/// gate.
pub fn generated(api_key: i16, version: i16, body: &[u8]) -> Result<usize, String> {
    let mut bytes = Bytes::copy_from_slice(body);
    let api = ApiKey::try_from(api_key).expect("known");
    // The request is the same in version 1, which the decoder does not know.
    let version = if api_key == DESCRIBE_SHARE_GROUP_OFFSETS { 0 } else { version };
    macro_rules! decode_as {
        ($($key:ident => $request:ty),* $(,)?) => {
            match api {
                $(ApiKey::$key => <$request>::decode(&mut bytes, version).map(drop),)*
                other => panic!("{other:?} is not behind the gate"),
            }
        };
    }
    let decoded = decode_as![
        ListOffsets => ListOffsetsRequest,
        Metadata => MetadataRequest,
        ApiVersions => ApiVersionsRequest,
        CreateTopics => CreateTopicsRequest,
        DeleteTopics => DeleteTopicsRequest,
        DeleteRecords => DeleteRecordsRequest,
        FindCoordinator => FindCoordinatorRequest,
        InitProducerId => InitProducerIdRequest,
        AddPartitionsToTxn => AddPartitionsToTxnRequest,
        AddOffsetsToTxn => AddOffsetsToTxnRequest,
        EndTxn => EndTxnRequest,
        WriteTxnMarkers => WriteTxnMarkersRequest,
        TxnOffsetCommit => TxnOffsetCommitRequest,
        DescribeProducers => DescribeProducersRequest,
        DescribeTransactions => DescribeTransactionsRequest,
        ListTransactions => ListTransactionsRequest,
        OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
        DescribeConfigs => DescribeConfigsRequest,
        DescribeLogDirs => DescribeLogDirsRequest,
        CreatePartitions => CreatePartitionsRequest,
        DescribeCluster => DescribeClusterRequest,
        DescribeTopicPartitions => DescribeTopicPartitionsRequest,
        AlterConfigs => AlterConfigsRequest,
        AlterReplicaLogDirs => AlterReplicaLogDirsRequest,
        ElectLeaders => ElectLeadersRequest,
        IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
        AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
        ListPartitionReassignments => ListPartitionReassignmentsRequest,
        DescribeClientQuotas => DescribeClientQuotasRequest,
        AlterClientQuotas => AlterClientQuotasRequest,
        DescribeQuorum => DescribeQuorumRequest,
        UpdateFeatures => UpdateFeaturesRequest,
        GetTelemetrySubscriptions => GetTelemetrySubscriptionsRequest,
        PushTelemetry => PushTelemetryRequest,
        ListConfigResources => ListConfigResourcesRequest,
        OffsetCommit => OffsetCommitRequest,
        OffsetFetch => OffsetFetchRequest,
        JoinGroup => JoinGroupRequest,
        Heartbeat => HeartbeatRequest,
        LeaveGroup => LeaveGroupRequest,
        SyncGroup => SyncGroupRequest,
        DescribeGroups => DescribeGroupsRequest,
        ListGroups => ListGroupsRequest,
        DeleteGroups => DeleteGroupsRequest,
        OffsetDelete => OffsetDeleteRequest,
        ConsumerGroupHeartbeat => ConsumerGroupHeartbeatRequest,
        ConsumerGroupDescribe => ConsumerGroupDescribeRequest,
        ShareGroupHeartbeat => ShareGroupHeartbeatRequest,
        ShareGroupDescribe => ShareGroupDescribeRequest,
        DescribeShareGroupOffsets => DescribeShareGroupOffsetsRequest,
        AlterShareGroupOffsets => AlterShareGroupOffsetsRequest,
        DeleteShareGroupOffsets => DeleteShareGroupOffsetsRequest,
    ];
    decoded.map(|()| body.len() - bytes.len()).map_err(|error| error.to_string())
}
