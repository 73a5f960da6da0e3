//! Requests and answers in versions that `kafka-protocol` does not know yet, by hand.
//!
//! Owner: nobody; pure. Spec: the schemas of Kafka 4.4: topic ids in the APIs of offsets (KIP-848, KIP-1319), the
//! checks of ApiVersions 5 (KIP-1242), WriteTxnMarkers 2 (KIP-1228), and fields at the end of two answers.
//! Invariants: a body has passed the gate before it comes here, and these versions are all flexible; a request's topic
//! ids become names by the caller's function, an answer's names become ids the same way.
//! Must not: know the catalog, or decode versions that `kafka-protocol` knows.

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    ApiVersionsRequest, DeleteGroupsResponse, DescribeLogDirsResponse, GroupId, OffsetCommitRequest,
    OffsetFetchRequest, OffsetFetchResponse, ProducerId, TopicName, TransactionalId, TxnOffsetCommitRequest,
    WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::api_table::*;
use super::primitives::{Reader, WireError, Writer};

/// The last version of each API that `kafka-protocol` decodes, where we list a later one.
const KNOWN_UNTIL: &[(i16, i16)] = &[
    (LIST_OFFSETS, 10),
    (OFFSET_COMMIT, 9),
    (OFFSET_FETCH, 9),
    (API_VERSIONS, 4),
    (WRITE_TXN_MARKERS, 1),
    (TXN_OFFSET_COMMIT, 5),
    (DESCRIBE_LOG_DIRS, 4),
    (DELETE_GROUPS, 2),
];

/// The version in which `kafka-protocol` is to read and write a message: the same, or the last one that it knows.
pub fn codec_version(api_key: i16, version: i16) -> i16 {
    KNOWN_UNTIL.iter().find(|(key, _)| *key == api_key).map_or(version, |(_, until)| version.min(*until))
}

/// Whether `kafka-protocol` does not know the version.
pub fn is_newer(api_key: i16, version: i16) -> bool {
    codec_version(api_key, version) != version
}

/// The smallest encodings of array elements, bytes.
const TOPIC_SIZE_MIN: usize = 18;
const PARTITION_SIZE_MIN: usize = 18;

fn owned(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn text(reader: &mut Reader<'_>) -> Result<StrBytes, WireError> {
    reader.string(true).map(owned)
}

fn nullable(reader: &mut Reader<'_>) -> Result<Option<StrBytes>, WireError> {
    Ok(reader.nullable_string(true)?.map(owned))
}

/// `count` elements of an array that was checked to have room for them.
fn list<T>(
    count: usize,
    reader: &mut Reader<'_>,
    mut element: impl FnMut(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        all.push(element(reader)?);
        reader.skip_tagged_fields(true)?;
    }
    Ok(all)
}

fn indexes(reader: &mut Reader<'_>) -> Result<Vec<i32>, WireError> {
    let count = reader.array_len(true, 4)?;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        all.push(reader.i32()?);
    }
    Ok(all)
}

/// An offset that a request commits for one partition.
struct Committed {
    index: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
}

/// The topics of a request that commits offsets.
fn committed<T>(
    reader: &mut Reader<'_>,
    topic: impl Fn(Uuid, Vec<Committed>) -> T,
) -> Result<Vec<T>, WireError> {
    let count = reader.array_len(true, TOPIC_SIZE_MIN)?;
    list(count, reader, |reader| {
        let id = reader.uuid()?;
        let count = reader.array_len(true, PARTITION_SIZE_MIN)?;
        let partitions = list(count, reader, |reader| {
            Ok(Committed {
                index: reader.i32()?,
                offset: reader.i64()?,
                leader_epoch: reader.i32()?,
                metadata: nullable(reader)?,
            })
        })?;
        Ok(topic(id, partitions))
    })
}

/// OffsetCommit 10.
pub fn offset_commit_request(
    body: &[u8],
    name_of: impl Fn(Uuid) -> TopicName,
) -> Result<OffsetCommitRequest, WireError> {
    let mut reader = Reader::new(body);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(&mut reader)?))
        .with_generation_id_or_member_epoch(reader.i32()?)
        .with_member_id(text(&mut reader)?)
        .with_group_instance_id(nullable(&mut reader)?);
    let topics = committed(&mut reader, |id, partitions| {
        let partition = |one: Committed| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(one.index)
                .with_committed_offset(one.offset)
                .with_committed_leader_epoch(one.leader_epoch)
                .with_committed_metadata(one.metadata)
        };
        let partitions = partitions.into_iter().map(partition).collect();
        OffsetCommitRequestTopic::default().with_name(name_of(id)).with_partitions(partitions)
    })?;
    Ok(request.with_topics(topics))
}

/// TxnOffsetCommit 6.
pub fn txn_offset_commit_request(
    body: &[u8],
    name_of: impl Fn(Uuid) -> TopicName,
) -> Result<TxnOffsetCommitRequest, WireError> {
    let mut reader = Reader::new(body);
    let request = TxnOffsetCommitRequest::default()
        .with_transactional_id(TransactionalId(text(&mut reader)?))
        .with_group_id(GroupId(text(&mut reader)?))
        .with_producer_id(ProducerId(reader.i64()?))
        .with_producer_epoch(reader.i16()?)
        .with_generation_id(reader.i32()?)
        .with_member_id(text(&mut reader)?)
        .with_group_instance_id(nullable(&mut reader)?);
    let topics = committed(&mut reader, |id, partitions| {
        let partition = |one: Committed| {
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(one.index)
                .with_committed_offset(one.offset)
                .with_committed_leader_epoch(one.leader_epoch)
                .with_committed_metadata(one.metadata)
        };
        let partitions = partitions.into_iter().map(partition).collect();
        TxnOffsetCommitRequestTopic::default().with_name(name_of(id)).with_partitions(partitions)
    })?;
    Ok(request.with_topics(topics))
}

/// OffsetFetch 10.
pub fn offset_fetch_request(
    body: &[u8],
    name_of: impl Fn(Uuid) -> TopicName,
) -> Result<OffsetFetchRequest, WireError> {
    let mut reader = Reader::new(body);
    let count = reader.array_len(true, 8)?;
    let groups = list(count, &mut reader, |reader| {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(reader)?))
            .with_member_id(nullable(reader)?)
            .with_member_epoch(reader.i32()?);
        let Some(count) = reader.nullable_array_len(true, TOPIC_SIZE_MIN)? else {
            return Ok(group.with_topics(None));
        };
        let topics = list(count, reader, |reader| {
            Ok(OffsetFetchRequestTopics::default()
                .with_name(name_of(reader.uuid()?))
                .with_partition_indexes(indexes(reader)?))
        })?;
        Ok(group.with_topics(Some(topics)))
    })?;
    Ok(OffsetFetchRequest::default().with_groups(groups).with_require_stable(reader.i8()? != 0))
}

/// WriteTxnMarkers 2: which version of transactions a marker belongs to does not matter here.
pub fn write_txn_markers_request(body: &[u8]) -> Result<WriteTxnMarkersRequest, WireError> {
    let mut reader = Reader::new(body);
    let count = reader.array_len(true, 18)?;
    let markers = list(count, &mut reader, |reader| {
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(reader.i64()?))
            .with_producer_epoch(reader.i16()?)
            .with_transaction_result(reader.i8()? != 0);
        let count = reader.array_len(true, 3)?;
        let topics = list(count, reader, |reader| {
            Ok(WritableTxnMarkerTopic::default()
                .with_name(TopicName(text(reader)?))
                .with_partition_indexes(indexes(reader)?))
        })?;
        let marker = marker.with_topics(topics).with_coordinator_epoch(reader.i32()?);
        reader.i8()?;
        Ok(marker)
    })?;
    Ok(WriteTxnMarkersRequest::default().with_markers(markers))
}

/// Whom a client believes to talk to (ApiVersions 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// The cluster, if it knows one.
    pub cluster_id: Option<String>,
    /// The node, or -1.
    pub node_id: i32,
}

/// ApiVersions 5.
pub fn api_versions_request(body: &[u8]) -> Result<(ApiVersionsRequest, Addressee), WireError> {
    let mut reader = Reader::new(body);
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text(&mut reader)?)
        .with_client_software_version(text(&mut reader)?);
    let cluster_id = reader.nullable_string(true)?.map(str::to_owned);
    Ok((request, Addressee { cluster_id, node_id: reader.i32()? }))
}

/// The answers of OffsetCommit 10 and TxnOffsetCommit 6: topics, and each partition's index and code.
pub fn committed_response(topics: &[(Uuid, Vec<(i32, i16)>)]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.i32(0);
    out.len(true, Some(topics.len()));
    for (id, partitions) in topics {
        out.uuid(*id);
        out.len(true, Some(partitions.len()));
        for (index, code) in partitions {
            out.i32(*index);
            out.i16(*code);
            out.no_tagged_fields(true);
        }
        out.no_tagged_fields(true);
    }
    out.no_tagged_fields(true);
    body
}

/// OffsetFetch 10.
pub fn offset_fetch_response(response: &OffsetFetchResponse, id_of: impl Fn(&str) -> Uuid) -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.i32(0);
    out.len(true, Some(response.groups.len()));
    for group in &response.groups {
        out.string(true, &group.group_id);
        out.len(true, Some(group.topics.len()));
        for topic in &group.topics {
            out.uuid(id_of(&topic.name));
            out.len(true, Some(topic.partitions.len()));
            for partition in &topic.partitions {
                out.i32(partition.partition_index);
                out.i64(partition.committed_offset);
                out.i32(partition.committed_leader_epoch);
                out.nullable_string(true, partition.metadata.as_deref());
                out.i16(partition.error_code);
                out.no_tagged_fields(true);
            }
            out.no_tagged_fields(true);
        }
        out.i16(group.error_code);
        out.no_tagged_fields(true);
    }
    out.no_tagged_fields(true);
    body
}

/// DeleteGroups 3; `message` words a code.
pub fn delete_groups_response(
    response: &DeleteGroupsResponse,
    message: impl Fn(i16) -> Option<&'static str>,
) -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.i32(0);
    out.len(true, Some(response.results.len()));
    for result in &response.results {
        out.string(true, &result.group_id);
        out.i16(result.error_code);
        out.nullable_string(true, message(result.error_code));
        out.no_tagged_fields(true);
    }
    out.no_tagged_fields(true);
    body
}

/// DescribeLogDirs 5: no directory is ever cordoned.
pub fn describe_log_dirs_response(response: &DescribeLogDirsResponse) -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.i32(0);
    out.i16(response.error_code);
    out.len(true, Some(response.results.len()));
    for result in &response.results {
        out.i16(result.error_code);
        out.string(true, &result.log_dir);
        out.len(true, Some(result.topics.len()));
        for topic in &result.topics {
            out.string(true, &topic.name);
            out.len(true, Some(topic.partitions.len()));
            for partition in &topic.partitions {
                out.i32(partition.partition_index);
                out.i64(partition.partition_size);
                out.i64(partition.offset_lag);
                out.i8(i8::from(partition.is_future_key));
                out.no_tagged_fields(true);
            }
            out.no_tagged_fields(true);
        }
        out.i64(result.total_bytes);
        out.i64(result.usable_bytes);
        out.i8(0);
        out.no_tagged_fields(true);
    }
    out.no_tagged_fields(true);
    body
}
