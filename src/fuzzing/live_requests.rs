//! Well-formed requests for the target `live`: names come from small pools, so that requests meet what earlier ones
//! made; ids that the broker gives out are learned from its answers and the catalog.
//!
//! Owner: one sequence. Must not: know what the broker makes of a request.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use uuid::Uuid;

use super::batches::built;
use super::input::Input;
use crate::catalog::Catalog;
use crate::coordinator::consumer_protocol::{ConsumerSubscription, encode_subscription};
use crate::wire::api_table::{self, is_flexible};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::newer::codec_version;

const TOPICS: [&str; 4] = ["a", "b", "c", "__consumer_offsets"];
const GROUPS: [&str; 3] = ["g", "h", "s"];
const TXN_IDS: [&str; 2] = ["t", "u"];
const CONFIGS: [(&str, &str); 12] = [
    ("cleanup.policy", "compact"),
    ("cleanup.policy", "delete"),
    ("message.timestamp.type", "LogAppendTime"),
    ("compression.type", "gzip"),
    ("compression.type", "zstd"),
    ("retention.ms", "1"),
    ("segment.bytes", "1048576"),
    ("max.message.bytes", "500"),
    ("flush.messages", "1"),
    ("write.caching", "true"),
    ("retention.bytes", "1"),
    ("no.such.key", "x"),
];

/// Key, version and body.
pub(super) type Request = (i16, i16, Vec<u8>);

/// What the broker has told.
#[derive(Default)]
pub(super) struct Known {
    topic_ids: RefCell<Vec<Uuid>>,
    members: RefCell<Vec<String>>,
    sessions: Cell<i32>,
    correlation_id: Cell<i32>,
}

impl Known {
    pub(super) fn next_correlation_id(&self) -> i32 {
        self.correlation_id.set(self.correlation_id.get().wrapping_add(1));
        self.correlation_id.get()
    }

    pub(super) fn learn_topics(&self, catalog: &Catalog) {
        *self.topic_ids.borrow_mut() = catalog.topics().map(|topic| topic.id).collect();
    }

    /// Whether [`learn`](Self::learn) does anything with an answer of this API.
    pub(super) fn can_learn(api: i16) -> bool {
        [api_table::JOIN_GROUP, api_table::CONSUMER_GROUP_HEARTBEAT, api_table::FETCH].contains(&api)
    }

    /// Takes ids out of an answer (the frame behind the correlation id).
    pub(super) fn learn(&self, api: i16, version: i16, answer: &[u8]) {
        let body = if is_flexible(api, version) { answer.get(1..).unwrap_or_default() } else { answer };
        let mut bytes = Bytes::copy_from_slice(body);
        let member = match api {
            api_table::JOIN_GROUP => {
                JoinGroupResponse::decode(&mut bytes, version).ok().map(|found| found.member_id)
            }
            api_table::CONSUMER_GROUP_HEARTBEAT => {
                let found = ConsumerGroupHeartbeatResponse::decode(&mut bytes, version).ok();
                found.and_then(|found| found.member_id)
            }
            _ => {
                if let Some(id) = body.get(6..10).filter(|_| version >= 7) {
                    self.sessions.set(i32::from_be_bytes([id[0], id[1], id[2], id[3]]));
                }
                None
            }
        };
        let mut members = self.members.borrow_mut();
        members.extend(member.map(|id| id.to_string()).filter(|id| !id.is_empty()));
        let surplus = members.len().saturating_sub(4);
        members.drain(..surplus);
    }

    fn topic_id(&self, input: &mut Input<'_>) -> Uuid {
        let ids = self.topic_ids.borrow();
        if ids.is_empty() || input.rarely() { Uuid::from_u128(1) } else { ids[input.below(ids.len())] }
    }

    fn member(&self, input: &mut Input<'_>) -> StrBytes {
        let members = self.members.borrow();
        match input.below(4) {
            0 => text(""),
            1 => text("m"),
            _ if members.is_empty() => text("m"),
            _ => StrBytes::from_string(members[input.below(members.len())].clone()),
        }
    }
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic(input: &mut Input<'_>) -> TopicName {
    TopicName(text(input.pick(&TOPICS)))
}

fn group(input: &mut Input<'_>) -> GroupId {
    GroupId(text(input.pick(&GROUPS)))
}

fn partition(input: &mut Input<'_>) -> i32 {
    if input.rarely() { input.number() as i32 } else { input.below(2) as i32 }
}

fn txn_id(input: &mut Input<'_>) -> TransactionalId {
    TransactionalId(text(input.pick(&TXN_IDS)))
}

fn instance(input: &mut Input<'_>) -> Option<StrBytes> {
    input.rarely().then(|| text("i"))
}

/// Mostly one of the first ids that a fresh broker gives out.
fn producer_id(input: &mut Input<'_>) -> i64 {
    if input.rarely() { input.number() } else { input.below(3) as i64 }
}

fn offset(input: &mut Input<'_>) -> i64 {
    if input.rarely() { input.number() } else { input.below(8) as i64 }
}

fn version(input: &mut Input<'_>, among: RangeInclusive<i16>) -> i16 {
    among.start() + input.below((among.end() - among.start() + 1) as usize) as i16
}

/// One request, of the next API that the input names.
pub(super) fn request(input: &mut Input<'_>, known: &Known) -> Request {
    let key = match input.below(40) {
        0..6 => api_table::PRODUCE,
        6..10 => api_table::FETCH,
        10 | 11 => api_table::CREATE_TOPICS,
        12 => api_table::JOIN_GROUP,
        13 => api_table::CONSUMER_GROUP_HEARTBEAT,
        14 => api_table::SHARE_GROUP_HEARTBEAT,
        15 | 16 => api_table::SHARE_FETCH,
        17 => api_table::INIT_PRODUCER_ID,
        _ => api_table::SUPPORTED[input.below(api_table::SUPPORTED.len())].key,
    };
    let range = api_table::find(key).expect("listed");
    let version = version(input, range.min..=codec_version(key, range.max));
    let body = match key {
        api_table::PRODUCE => produce(input, known, version),
        api_table::FETCH => fetch(input, known, version),
        api_table::SHARE_FETCH | api_table::SHARE_ACKNOWLEDGE => share(input, known, key),
        _ => topics(input, key, version)
            .or_else(|| transactions(input, key, version))
            .or_else(|| groups(input, known, key, version))
            .or_else(|| admin(input, key, version)),
    };
    // What has no builder here, and what a version cannot say, goes out as noise.
    (key, version, body.unwrap_or_else(|| input.bytes(60).to_vec()))
}

fn encoded(version: i16, request: impl Encodable) -> Option<Vec<u8>> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).ok()?;
    Some(body.to_vec())
}

fn batch(input: &mut Input<'_>) -> Vec<u8> {
    if input.below(3) == 0 {
        return built(input);
    }
    let mut builder = BatchBuilder::new();
    let flags = input.byte();
    if flags & 1 == 1 {
        let epoch = i16::from(input.byte() & 1);
        builder = builder.producer(producer_id(input), epoch, input.below(4) as i32);
        builder = if flags & 2 == 2 { builder.flags(0x10) } else { builder };
    }
    for at in 0..=input.below(3) {
        builder = builder.record(1_000 + at as i64, Some(&[input.byte() & 3]), Some(b"value"));
    }
    builder.build()
}

fn produce(input: &mut Input<'_>, known: &Known, version: i16) -> Option<Vec<u8>> {
    let mut request = ProduceRequest::default().with_acks(input.pick(&[-1, 1, 0])).with_timeout_ms(50);
    if input.rarely() {
        request = request.with_transactional_id(Some(txn_id(input)));
    }
    let mut topics = Vec::new();
    for _ in 0..=input.below(2) {
        let mut partitions = Vec::new();
        for _ in 0..=input.below(3) {
            let records = Some(Bytes::from(batch(input)));
            partitions.push(
                produce_request::PartitionProduceData::default()
                    .with_index(partition(input))
                    .with_records(records),
            );
        }
        let data = produce_request::TopicProduceData::default().with_partition_data(partitions);
        topics.push(match version {
            13.. => data.with_topic_id(known.topic_id(input)),
            _ => data.with_name(topic(input)),
        });
    }
    encoded(version.max(3), request.with_topic_data(topics))
}

fn fetch(input: &mut Input<'_>, known: &Known, version: i16) -> Option<Vec<u8>> {
    use fetch_request::{FetchPartition, FetchTopic};
    let mut topics = Vec::new();
    for _ in 0..input.below(3) {
        let mut partitions = Vec::new();
        for _ in 0..=input.below(3) {
            let one = FetchPartition::default().with_partition(partition(input));
            let one = one.with_fetch_offset(offset(input)).with_partition_max_bytes(input.number() as i32);
            partitions.push(one.with_current_leader_epoch(-1));
        }
        let one = FetchTopic::default().with_partitions(partitions);
        topics.push(match version {
            13.. => one.with_topic_id(known.topic_id(input)),
            _ => one.with_topic(topic(input)),
        });
    }
    let mut request = FetchRequest::default()
        .with_max_wait_ms(input.below(20) as i32)
        .with_min_bytes(input.below(3) as i32)
        .with_max_bytes(1 << input.below(24))
        .with_isolation_level((input.byte() & 1) as i8)
        .with_topics(topics);
    if version >= 7 {
        let epoch = input.pick(&[-1, 0, 1, 2]);
        request = request.with_session_epoch(epoch);
        if epoch > 0 {
            request = request.with_session_id(known.sessions.get());
        }
    }
    encoded(version, request)
}

fn share(input: &mut Input<'_>, known: &Known, key: i16) -> Option<Vec<u8>> {
    use share_fetch_request::{AcknowledgementBatch, FetchPartition, FetchTopic};
    let acknowledge = |input: &mut Input<'_>| {
        let first = offset(input);
        let last = first.saturating_add(input.below(3) as i64);
        (first, last, vec![input.pick(&[1i8, 2, 3, 0, 4]); 1 + input.below(3)])
    };
    let (group, member) = (Some(GroupId(text("s"))), Some(text("m")));
    let epoch = input.below(4) as i32 - 1;
    if key == api_table::SHARE_ACKNOWLEDGE {
        use share_acknowledge_request as ack;
        let (first, last, types) = acknowledge(input);
        let batch = ack::AcknowledgementBatch::default().with_first_offset(first).with_last_offset(last);
        let one = ack::AcknowledgePartition::default()
            .with_partition_index(partition(input))
            .with_acknowledgement_batches(vec![batch.with_acknowledge_types(types)]);
        let topic =
            ack::AcknowledgeTopic::default().with_topic_id(known.topic_id(input)).with_partitions(vec![one]);
        let request = ShareAcknowledgeRequest::default().with_group_id(group).with_member_id(member);
        return encoded(1, request.with_share_session_epoch(epoch).with_topics(vec![topic]));
    }
    let mut partitions = Vec::new();
    for _ in 0..=input.below(2) {
        let mut one = FetchPartition::default().with_partition_index(partition(input));
        if input.rarely() {
            let (first, last, types) = acknowledge(input);
            let batch = AcknowledgementBatch::default().with_first_offset(first).with_last_offset(last);
            one = one.with_acknowledgement_batches(vec![batch.with_acknowledge_types(types)]);
        }
        partitions.push(one);
    }
    let topic = FetchTopic::default().with_topic_id(known.topic_id(input)).with_partitions(partitions);
    let request = ShareFetchRequest::default()
        .with_group_id(group)
        .with_member_id(member)
        .with_share_session_epoch(epoch)
        .with_max_wait_ms(input.below(20) as i32)
        .with_max_bytes(1 << 20)
        .with_max_records(input.below(10) as i32)
        .with_batch_size(1)
        .with_topics(vec![topic]);
    encoded(1, request)
}

fn topics(input: &mut Input<'_>, key: i16, version: i16) -> Option<Vec<u8>> {
    match key {
        api_table::CREATE_TOPICS => {
            let mut configs = Vec::new();
            for _ in 0..input.below(3) {
                let (name, value) = input.pick(&CONFIGS);
                let config = CreatableTopicConfig::default().with_name(text(name));
                configs.push(config.with_value(Some(text(value))));
            }
            let topic = CreatableTopic::default()
                .with_name(topic(input))
                .with_num_partitions(1 + input.below(3) as i32)
                .with_replication_factor(1)
                .with_configs(configs);
            let request = CreateTopicsRequest::default().with_validate_only(input.rarely());
            encoded(version, request.with_topics(vec![topic]))
        }
        api_table::DELETE_TOPICS if version < 6 => {
            encoded(version, DeleteTopicsRequest::default().with_topic_names(vec![topic(input)]))
        }
        api_table::CREATE_PARTITIONS => {
            let topic = create_partitions_request::CreatePartitionsTopic::default()
                .with_name(topic(input))
                .with_count(input.below(5) as i32)
                .with_assignments(None);
            encoded(version, CreatePartitionsRequest::default().with_topics(vec![topic]))
        }
        api_table::DELETE_RECORDS => {
            use delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
            let one = DeleteRecordsPartition::default().with_partition_index(partition(input));
            let topic = DeleteRecordsTopic::default()
                .with_name(topic(input))
                .with_partitions(vec![one.with_offset(offset(input) - 1)]);
            encoded(version, DeleteRecordsRequest::default().with_topics(vec![topic]))
        }
        api_table::LIST_OFFSETS => {
            use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
            let time = input.pick(&[-1, -2, -3, 0, 1_001, -7]);
            let one = ListOffsetsPartition::default().with_partition_index(partition(input));
            let one = one.with_timestamp(time).with_current_leader_epoch(-1);
            let topic = ListOffsetsTopic::default().with_name(topic(input)).with_partitions(vec![one]);
            encoded(version, ListOffsetsRequest::default().with_topics(vec![topic]))
        }
        api_table::METADATA => {
            let topic = metadata_request::MetadataRequestTopic::default().with_name(Some(topic(input)));
            let topics = if input.rarely() { None } else { Some(vec![topic]) };
            encoded(version, MetadataRequest::default().with_topics(topics))
        }
        _ => None,
    }
}

fn transactions(input: &mut Input<'_>, key: i16, version: i16) -> Option<Vec<u8>> {
    let (id, producer) = (txn_id(input), ProducerId(producer_id(input)));
    let epoch = i16::from(input.byte() & 1);
    match key {
        api_table::INIT_PRODUCER_ID => {
            let id = (input.below(3) > 0).then_some(id);
            let timeout_ms = 20 + input.below(200) as i32;
            let request = InitProducerIdRequest::default().with_transactional_id(id);
            let request = request.with_transaction_timeout_ms(timeout_ms);
            encoded(version, request.with_producer_id(ProducerId(-1)).with_producer_epoch(-1))
        }
        api_table::ADD_PARTITIONS_TO_TXN if version < 4 => {
            let topic = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
                .with_name(topic(input))
                .with_partitions(vec![partition(input)]);
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(id)
                .with_v3_and_below_producer_id(producer)
                .with_v3_and_below_producer_epoch(epoch);
            encoded(version, request.with_v3_and_below_topics(vec![topic]))
        }
        api_table::ADD_OFFSETS_TO_TXN => {
            let request = AddOffsetsToTxnRequest::default().with_transactional_id(id);
            let request = request.with_producer_id(producer).with_producer_epoch(epoch);
            encoded(version, request.with_group_id(group(input)))
        }
        api_table::END_TXN => {
            let request = EndTxnRequest::default().with_transactional_id(id).with_producer_id(producer);
            encoded(version, request.with_producer_epoch(epoch).with_committed(input.byte() & 1 == 0))
        }
        api_table::TXN_OFFSET_COMMIT => {
            use txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
            let one = TxnOffsetCommitRequestPartition::default()
                .with_partition_index(partition(input))
                .with_committed_offset(offset(input))
                .with_committed_metadata(Some(text("x")));
            let topic =
                TxnOffsetCommitRequestTopic::default().with_name(topic(input)).with_partitions(vec![one]);
            let request = TxnOffsetCommitRequest::default()
                .with_transactional_id(id)
                .with_group_id(group(input))
                .with_producer_id(producer)
                .with_producer_epoch(epoch);
            encoded(version, request.with_topics(vec![topic]))
        }
        api_table::WRITE_TXN_MARKERS => {
            use write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
            let topic = WritableTxnMarkerTopic::default()
                .with_name(topic(input))
                .with_partition_indexes(vec![partition(input)]);
            let marker = WritableTxnMarker::default()
                .with_producer_id(producer)
                .with_producer_epoch(epoch)
                .with_transaction_result(input.byte() & 1 == 0)
                .with_topics(vec![topic]);
            encoded(version, WriteTxnMarkersRequest::default().with_markers(vec![marker]))
        }
        api_table::DESCRIBE_TRANSACTIONS => {
            encoded(version, DescribeTransactionsRequest::default().with_transactional_ids(vec![id]))
        }
        api_table::DESCRIBE_PRODUCERS => {
            let topic = describe_producers_request::TopicRequest::default()
                .with_name(topic(input))
                .with_partition_indexes(vec![0, 1, partition(input)]);
            encoded(version, DescribeProducersRequest::default().with_topics(vec![topic]))
        }
        _ => None,
    }
}

fn groups(input: &mut Input<'_>, known: &Known, key: i16, version: i16) -> Option<Vec<u8>> {
    let (group, member) = (group(input), known.member(input));
    let generation = input.below(4) as i32 - 1;
    match key {
        api_table::JOIN_GROUP => {
            let topics = vec![input.pick(&TOPICS).to_owned()];
            let subscription =
                ConsumerSubscription { topics, generation: -1, ..ConsumerSubscription::default() };
            let protocol = join_group_request::JoinGroupRequestProtocol::default()
                .with_name(text(input.pick(&["range", "roundrobin"])))
                .with_metadata(encode_subscription(&subscription));
            let request = JoinGroupRequest::default()
                .with_group_id(group)
                .with_session_timeout_ms(6_000)
                .with_rebalance_timeout_ms(input.below(100) as i32)
                .with_member_id(member)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]);
            encoded(version, request)
        }
        api_table::SYNC_GROUP => {
            let assignment = sync_group_request::SyncGroupRequestAssignment::default()
                .with_member_id(member.clone())
                .with_assignment(Bytes::copy_from_slice(input.bytes(30)));
            let request = SyncGroupRequest::default().with_group_id(group).with_generation_id(generation);
            encoded(version, request.with_member_id(member).with_assignments(vec![assignment]))
        }
        api_table::HEARTBEAT => {
            let request = HeartbeatRequest::default().with_group_id(group).with_generation_id(generation);
            encoded(version, request.with_member_id(member))
        }
        api_table::LEAVE_GROUP if version < 3 => {
            encoded(version, LeaveGroupRequest::default().with_group_id(group).with_member_id(member))
        }
        api_table::OFFSET_COMMIT => {
            use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
            let one = OffsetCommitRequestPartition::default()
                .with_partition_index(partition(input))
                .with_committed_offset(offset(input))
                .with_committed_metadata(Some(text("x")));
            let topic =
                OffsetCommitRequestTopic::default().with_name(topic(input)).with_partitions(vec![one]);
            let request = OffsetCommitRequest::default()
                .with_group_id(group)
                .with_generation_id_or_member_epoch(generation)
                .with_member_id(member);
            encoded(version, request.with_topics(vec![topic]))
        }
        api_table::OFFSET_FETCH if version >= 8 => {
            let one = offset_fetch_request::OffsetFetchRequestGroup::default().with_group_id(group);
            encoded(version, OffsetFetchRequest::default().with_groups(vec![one.with_topics(None)]))
        }
        api_table::CONSUMER_GROUP_HEARTBEAT => {
            let request = ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group)
                .with_member_id(member)
                .with_member_epoch(input.below(5) as i32 - 2)
                .with_instance_id(instance(input))
                .with_rebalance_timeout_ms(input.below(100) as i32);
            let names = (input.below(4) > 0).then(|| vec![topic(input)]);
            let owned = (input.below(4) > 0).then(Vec::new);
            let request = request.with_subscribed_topic_names(names).with_topic_partitions(owned);
            let regex = (version >= 1 && input.rarely()).then(|| text("a|b"));
            encoded(version, request.with_subscribed_topic_regex(regex))
        }
        api_table::SHARE_GROUP_HEARTBEAT => {
            let request = ShareGroupHeartbeatRequest::default()
                .with_group_id(GroupId(text("s")))
                .with_member_id(text("m"))
                .with_member_epoch(input.below(4) as i32 - 1);
            encoded(version, request.with_subscribed_topic_names(Some(vec![topic(input)])))
        }
        api_table::DESCRIBE_GROUPS => {
            encoded(version, DescribeGroupsRequest::default().with_groups(vec![group]))
        }
        api_table::CONSUMER_GROUP_DESCRIBE => {
            encoded(version, ConsumerGroupDescribeRequest::default().with_group_ids(vec![group]))
        }
        api_table::DELETE_GROUPS => {
            encoded(version, DeleteGroupsRequest::default().with_groups_names(vec![group]))
        }
        api_table::LIST_GROUPS => encoded(version, ListGroupsRequest::default()),
        _ => None,
    }
}

fn admin(input: &mut Input<'_>, key: i16, version: i16) -> Option<Vec<u8>> {
    match key {
        api_table::INCREMENTAL_ALTER_CONFIGS => {
            let (kind, name) = input.pick(&[(2, "a"), (2, "b"), (4, ""), (4, "1"), (32, "g"), (16, "x")]);
            let (key, value) = match kind {
                2 => input.pick(&CONFIGS),
                4 => input.pick(&[("log.retention.ms", "5"), ("log.cleaner.threads", "0")]),
                _ => input.pick(&[("consumer.session.timeout.ms", "50000"), ("interval.ms", "1000")]),
            };
            let config = AlterableConfig::default().with_name(text(key)).with_value(Some(text(value)));
            let resource = AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(vec![config.with_config_operation(input.below(5) as i8)]);
            encoded(version, IncrementalAlterConfigsRequest::default().with_resources(vec![resource]))
        }
        api_table::ALTER_CLIENT_QUOTAS => {
            let names = ["producer_byte_rate", "consumer_byte_rate", "controller_mutation_rate", "x"];
            let entity = EntityData::default()
                .with_entity_type(text("client-id"))
                .with_entity_name(input.rarely().then(|| text("c")));
            let op = OpData::default()
                .with_key(text(input.pick(&names)))
                .with_value(f64::from(input.word()))
                .with_remove(input.byte() & 1 == 0);
            let entry = EntryData::default().with_entity(vec![entity]).with_ops(vec![op]);
            encoded(version, AlterClientQuotasRequest::default().with_entries(vec![entry]))
        }
        api_table::DESCRIBE_CONFIGS => {
            let resource = describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(input.pick(&[2, 4, 8, 16, 32]))
                .with_resource_name(text(input.pick(&["a", "1", "", "g"])))
                .with_configuration_keys(None);
            encoded(version, DescribeConfigsRequest::default().with_resources(vec![resource]))
        }
        api_table::FIND_COORDINATOR if version < 4 => {
            let request = FindCoordinatorRequest::default().with_key(group(input).0);
            encoded(version, request.with_key_type(input.below(3) as i8))
        }
        api_table::DESCRIBE_CLUSTER => encoded(version, DescribeClusterRequest::default()),
        api_table::DESCRIBE_LOG_DIRS => encoded(version, DescribeLogDirsRequest::default().with_topics(None)),
        _ => None,
    }
}
