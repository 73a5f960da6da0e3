//! The gate against `kafka-protocol`: it lets every honest request pass, and whatever it lets pass the decoder takes
//! without reserving more than is there.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_partitions_request::*;
use kafka_protocol::messages::create_topics_request::*;
use kafka_protocol::messages::delete_records_request::*;
use kafka_protocol::messages::delete_topics_request::*;
use kafka_protocol::messages::describe_configs_request::*;
use kafka_protocol::messages::describe_log_dirs_request::*;
use kafka_protocol::messages::describe_topic_partitions_request::*;
use kafka_protocol::messages::list_offsets_request::*;
use kafka_protocol::messages::metadata_request::*;
use kafka_protocol::messages::offset_for_leader_epoch_request::*;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use crate::fuzzing::requests::generated as decode;
use crate::wire::WireError;
use crate::wire::api_table::*;
use crate::wire::gate::*;
use crate::wire::newer::codec_version;

const ID: Uuid = Uuid::from_u128(7);

pub(super) fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

pub(super) fn name(name: &'static str) -> TopicName {
    TopicName(text(name))
}

pub(super) fn encoded(request: impl Encodable, version: i16) -> Vec<u8> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).expect("encodes");
    body.to_vec()
}

fn create_topics(version: i16) -> Vec<u8> {
    let assignment = |index| {
        CreatableReplicaAssignment::default()
            .with_partition_index(index)
            .with_broker_ids(vec![BrokerId(1), BrokerId(2)])
    };
    let config = |value| CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(value);
    let topic = CreatableTopic::default()
        .with_name(name("topic"))
        .with_num_partitions(3)
        .with_replication_factor(1)
        .with_assignments(vec![assignment(0), assignment(1)])
        .with_configs(vec![config(Some(text("5"))), config(None)]);
    let topics = vec![topic, CreatableTopic::default().with_name(name("plain"))];
    encoded(CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(9), version)
}

fn list_offsets(version: i16) -> Vec<u8> {
    let partition = ListOffsetsPartition::default().with_partition_index(2).with_timestamp(-1);
    let topic = ListOffsetsTopic::default()
        .with_name(name("topic"))
        .with_partitions(vec![partition.clone(), partition]);
    encoded(ListOffsetsRequest::default().with_topics(vec![topic.clone(), topic]), version)
}

fn metadata(version: i16) -> Vec<u8> {
    let mut topics = vec![MetadataRequestTopic::default().with_name(Some(name("topic"))); 2];
    if version >= 10 {
        topics.push(MetadataRequestTopic::default().with_topic_id(ID).with_name(None));
    }
    encoded(MetadataRequest::default().with_topics(Some(topics)), version)
}

fn delete_records(version: i16) -> Vec<u8> {
    let partition = |offset| DeleteRecordsPartition::default().with_partition_index(3).with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(name("topic"))
        .with_partitions(vec![partition(-1), partition(5)]);
    encoded(
        DeleteRecordsRequest::default().with_topics(vec![topic.clone(), topic]).with_timeout_ms(7),
        version,
    )
}

fn delete_topics(version: i16) -> Vec<u8> {
    let request = DeleteTopicsRequest::default().with_timeout_ms(4);
    encoded(
        match version {
            6.. => request.with_topics(vec![
                DeleteTopicState::default().with_name(Some(name("topic"))),
                DeleteTopicState::default().with_topic_id(ID),
            ]),
            _ => request.with_topic_names(vec![name("topic"), name("b")]),
        },
        version,
    )
}

fn describe_configs(version: i16) -> Vec<u8> {
    let resource = |keys| {
        DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("topic"))
            .with_configuration_keys(keys)
    };
    let resources = vec![resource(None), resource(Some(vec![text("a"), text("bc")]))];
    encoded(DescribeConfigsRequest::default().with_resources(resources), version)
}

fn create_partitions(version: i16) -> Vec<u8> {
    let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
    let topic = |assignments| {
        CreatePartitionsTopic::default().with_name(name("topic")).with_count(3).with_assignments(assignments)
    };
    let topics = vec![topic(None), topic(Some(vec![assignment.clone(), assignment]))];
    encoded(CreatePartitionsRequest::default().with_topics(topics), version)
}

fn offset_for_leader_epoch(version: i16) -> Vec<u8> {
    let partition = OffsetForLeaderPartition::default().with_leader_epoch(3);
    let topic = OffsetForLeaderTopic::default().with_topic(name("topic")).with_partitions(vec![partition; 2]);
    encoded(OffsetForLeaderEpochRequest::default().with_topics(vec![topic]), version)
}

fn describe_log_dirs(version: i16) -> Vec<u8> {
    let topic = DescribableLogDirTopic::default().with_topic(name("topic")).with_partitions(vec![1, 2, 3]);
    encoded(DescribeLogDirsRequest::default().with_topics(Some(vec![topic])), version)
}

fn init_producer_id(version: i16) -> Vec<u8> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text("tx"))))
        .with_transaction_timeout_ms(60_000);
    encoded(
        match version {
            3.. => request.with_producer_id(ProducerId(4)).with_producer_epoch(1),
            _ => request,
        },
        version,
    )
}

fn describe_topic_partitions(version: i16) -> Vec<u8> {
    let topic = |name| TopicRequest::default().with_name(name);
    let cursor = Cursor::default().with_topic_name(name("b")).with_partition_index(4);
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![topic(name("a")), topic(name("b"))])
        .with_cursor(Some(cursor))
        .with_unknown_tagged_field(5, Bytes::from_static(b"later"));
    encoded(request, version)
}

fn find_coordinator(version: i16) -> Vec<u8> {
    let request = FindCoordinatorRequest::default();
    let request = if version >= 1 { request.with_key_type(1) } else { request };
    encoded(
        match version {
            4.. => request.with_coordinator_keys(vec![text("group"), text("b")]),
            _ => request.with_key(text("group")),
        },
        version,
    )
}

fn api_versions(version: i16) -> Vec<u8> {
    let request = ApiVersionsRequest::default();
    encoded(
        match version {
            3.. => request.with_client_software_name(text("me")).with_client_software_version(text("1")),
            _ => request,
        },
        version,
    )
}

fn add_partitions(version: i16) -> Vec<u8> {
    use add_partitions_to_txn_request::*;
    let topic = AddPartitionsToTxnTopic::default().with_name(name("t")).with_partitions(vec![1, 2]);
    let request = AddPartitionsToTxnRequest::default();
    if version < 4 {
        let request = request
            .with_v3_and_below_transactional_id(TransactionalId(text("tx")))
            .with_v3_and_below_producer_id(ProducerId(4))
            .with_v3_and_below_topics(vec![topic]);
        return encoded(request, version);
    }
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(TransactionalId(text("tx")))
        .with_verify_only(true)
        .with_topics(vec![topic.clone(), topic]);
    encoded(request.with_transactions(vec![transaction.clone(), transaction]), version)
}

fn txn_offset_commit(version: i16) -> Vec<u8> {
    use txn_offset_commit_request::*;
    let partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(1)
        .with_committed_offset(7)
        .with_committed_metadata(Some(text("m")));
    let topic = TxnOffsetCommitRequestTopic::default()
        .with_name(name("t"))
        .with_partitions(vec![partition.clone(), partition.with_committed_metadata(None)]);
    let request = TxnOffsetCommitRequest::default()
        .with_transactional_id(TransactionalId(text("tx")))
        .with_group_id(GroupId(text("g")))
        .with_topics(vec![topic]);
    encoded(
        match version {
            3.. => request
                .with_generation_id(4)
                .with_member_id(text("m"))
                .with_group_instance_id(Some(text("i"))),
            _ => request,
        },
        version,
    )
}

fn write_markers(version: i16) -> Vec<u8> {
    use write_txn_markers_request::*;
    let topic = WritableTxnMarkerTopic::default().with_name(name("t")).with_partition_indexes(vec![1, 2]);
    let marker = WritableTxnMarker::default().with_producer_id(ProducerId(4)).with_topics(vec![topic]);
    encoded(WriteTxnMarkersRequest::default().with_markers(vec![marker.clone(), marker]), version)
}

fn list_transactions(version: i16) -> Vec<u8> {
    let request = ListTransactionsRequest::default()
        .with_state_filters(vec![text("Ongoing"), text("Empty")])
        .with_producer_id_filters(vec![ProducerId(1), ProducerId(2)]);
    encoded(
        match version {
            2.. => request.with_duration_filter(5).with_transactional_id_pattern(Some(text("a.*"))),
            1 => request.with_duration_filter(5),
            _ => request,
        },
        version,
    )
}

fn transactional(api_key: i16, version: i16) -> Vec<u8> {
    let id = TransactionalId(text("tx"));
    match api_key {
        ADD_PARTITIONS_TO_TXN => add_partitions(version),
        ADD_OFFSETS_TO_TXN => encoded(
            AddOffsetsToTxnRequest::default().with_transactional_id(id).with_group_id(GroupId(text("g"))),
            version,
        ),
        END_TXN => encoded(EndTxnRequest::default().with_transactional_id(id).with_committed(true), version),
        WRITE_TXN_MARKERS => write_markers(version),
        TXN_OFFSET_COMMIT => txn_offset_commit(version),
        DESCRIBE_PRODUCERS => {
            let topic = describe_producers_request::TopicRequest::default()
                .with_name(name("t"))
                .with_partition_indexes(vec![1, 2]);
            encoded(DescribeProducersRequest::default().with_topics(vec![topic]), version)
        }
        DESCRIBE_TRANSACTIONS => encoded(
            DescribeTransactionsRequest::default().with_transactional_ids(vec![id.clone(), id]),
            version,
        ),
        LIST_TRANSACTIONS => list_transactions(version),
        other => panic!("api {other} is listed but has no request here"),
    }
}

#[path = "gate_groups.rs"]
mod group_requests;
#[path = "gate_share.rs"]
mod share_requests;

/// Decoded by hand, not behind the gate.
const BY_HAND: [i16; 4] = [PRODUCE, FETCH, SHARE_FETCH, SHARE_ACKNOWLEDGE];

/// A rich request of each API and version behind the gate.
pub(crate) fn requests() -> Vec<(i16, i16, Vec<u8>)> {
    let mut requests = Vec::new();
    for range in SUPPORTED.iter().filter(|range| !BY_HAND.contains(&range.key)) {
        // Later versions: `tests/newer.rs`.
        for version in range.min..=codec_version(range.key, range.max) {
            let body = match range.key {
                LIST_OFFSETS => list_offsets(version),
                METADATA => metadata(version),
                FIND_COORDINATOR => find_coordinator(version),
                API_VERSIONS => api_versions(version),
                CREATE_TOPICS => create_topics(version),
                DELETE_TOPICS => delete_topics(version),
                DELETE_RECORDS => delete_records(version),
                INIT_PRODUCER_ID => init_producer_id(version),
                OFFSET_FOR_LEADER_EPOCH => offset_for_leader_epoch(version),
                DESCRIBE_CONFIGS => describe_configs(version),
                DESCRIBE_LOG_DIRS => describe_log_dirs(version),
                CREATE_PARTITIONS => create_partitions(version),
                DESCRIBE_CLUSTER => encoded(DescribeClusterRequest::default(), version),
                DESCRIBE_TOPIC_PARTITIONS => describe_topic_partitions(version),
                key if group_requests::serves(key) => group_requests::body(key, version),
                key if share_requests::serves(key) => share_requests::body(key, version),
                ADD_PARTITIONS_TO_TXN
                | ADD_OFFSETS_TO_TXN
                | END_TXN
                | WRITE_TXN_MARKERS
                | TXN_OFFSET_COMMIT
                | DESCRIBE_PRODUCERS
                | DESCRIBE_TRANSACTIONS
                | LIST_TRANSACTIONS => transactional(range.key, version),
                other => super::gate_admin::request(other, version),
            };
            requests.push((range.key, version, body));
        }
    }
    requests
}

/// What the gate accepts, the decoder consumes to the same byte, unless a string is not UTF-8.
fn agrees(api_key: i16, version: i16, body: &[u8]) {
    let Ok(consumed) = check_consumed(api_key, version, body) else { return };
    assert!(consumed <= body.len());
    match decode(api_key, version, body) {
        Ok(theirs) => assert_eq!(theirs, consumed, "api {api_key} v{version} {body:?}"),
        Err(error) => assert!(error.contains("utf-8"), "api {api_key} v{version}: {error} {body:?}"),
    }
}

#[test]
fn honest_requests_pass() {
    for (api_key, version, body) in requests() {
        assert_eq!(check(api_key, version, &body), Ok(()), "api {api_key} v{version}");
        assert_eq!(check_consumed(api_key, version, &body), Ok(body.len()), "api {api_key} v{version}");
        assert_eq!(decode(api_key, version, &body), Ok(body.len()));
    }
    let all_topics = encoded(MetadataRequest::default().with_topics(None), 12);
    assert_eq!(check(METADATA, 12, &all_topics), Ok(()));
    let all_dirs = encoded(DescribeLogDirsRequest::default().with_topics(None), 4);
    assert_eq!(check(DESCRIBE_LOG_DIRS, 4, &all_dirs), Ok(()));
}

#[test]
fn cut_requests_are_refused_at_every_byte() {
    for (api_key, version, body) in requests() {
        for cut in 0..body.len() {
            assert!(check(api_key, version, &body[..cut]).is_err(), "api {api_key} v{version} cut {cut}");
        }
    }
}

/// Every byte set to every value: among them every length made huge, negative and off by one.
#[test]
fn no_changed_byte_gets_a_lie_through() {
    for (api_key, version, body) in requests() {
        for at in 0..body.len() {
            let mut body = body.clone();
            for delta in 1..=255 {
                body[at] = body[at].wrapping_add(1);
                agrees(api_key, version, &body);
                let _ = delta;
            }
        }
    }
}

/// Lengths of four, two and five bytes written over every place of every request.
#[test]
fn no_huge_length_gets_through() {
    let lies: [&[u8]; 8] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0x80, 0, 0, 0],
        &[0, 0x10, 0, 0],
        &[0x7f, 0xff],
        &[0xff, 0xfe],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0x7f],
    ];
    for (api_key, version, body) in requests() {
        for lie in lies {
            for at in 0..body.len().saturating_sub(lie.len() - 1) {
                let mut body = body.clone();
                body[at..at + lie.len()].copy_from_slice(lie);
                agrees(api_key, version, &body);
            }
        }
    }
}

#[test]
fn elements_are_bounded_over_all_arrays() {
    // Two topics with half the limit and one element more between them.
    let topic = |count: usize| {
        DescribableLogDirTopic::default().with_topic(name("t")).with_partitions(vec![0; count])
    };
    let request = |first, second| {
        let topics = vec![topic(first), topic(second)];
        encoded(DescribeLogDirsRequest::default().with_topics(Some(topics)), 1)
    };
    let half = ELEMENTS_MAX / 2;
    assert_eq!(check(DESCRIBE_LOG_DIRS, 1, &request(half - 2, half)), Ok(()));
    let refused = Err(WireError::TooManyElements { limit: ELEMENTS_MAX });
    assert_eq!(check(DESCRIBE_LOG_DIRS, 1, &request(half - 1, half)), refused);
}

/// One long name over many partition numbers: a handler that keeps both together would copy gigabytes.
#[test]
fn names_over_many_elements_are_bounded() {
    let request = |name_bytes: usize, partitions: usize| {
        let topic = DescribableLogDirTopic::default()
            .with_topic(TopicName(StrBytes::from_string("n".repeat(name_bytes))))
            .with_partitions(vec![0; partitions]);
        encoded(DescribeLogDirsRequest::default().with_topics(Some(vec![topic])), 1)
    };
    let refused = Err(WireError::TooManyElements { limit: COPIED_BYTES_MAX });
    assert_eq!(check(DESCRIBE_LOG_DIRS, 1, &request(30_000, ELEMENTS_MAX - 1)), refused);
    assert_eq!(check(DESCRIBE_LOG_DIRS, 1, &request(249, ELEMENTS_MAX - 1)), Ok(()));
    assert_eq!(check(DESCRIBE_LOG_DIRS, 1, &request(30_000, 1_000)), Ok(()));
}

#[test]
fn tagged_fields_are_bounded_over_all_structs() {
    let topic = |_| {
        TopicRequest::default()
            .with_name(name(""))
            .with_unknown_tagged_field(1, Bytes::new())
            .with_unknown_tagged_field(2, Bytes::new())
    };
    let request = |count| {
        let topics = (0..count).map(topic).collect();
        encoded(DescribeTopicPartitionsRequest::default().with_topics(topics), 0)
    };
    let limit = TAGGED_FIELDS_MAX as usize;
    assert_eq!(check(DESCRIBE_TOPIC_PARTITIONS, 0, &request(limit / 2)), Ok(()));
    let refused = Err(WireError::TooManyElements { limit });
    assert_eq!(check(DESCRIBE_TOPIC_PARTITIONS, 0, &request(limit / 2 + 1)), refused);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_survived(
        bytes in proptest::collection::vec(prop_oneof![3 => 0u8..4, 1 => any::<u8>()], 0..120),
        which in any::<proptest::sample::Index>(),
    ) {
        let requests = requests();
        let (api_key, version, _) = requests[which.index(requests.len())];
        agrees(api_key, version, &bytes);
    }

    #[test]
    fn spliced_requests_are_survived(
        which in any::<proptest::sample::Index>(),
        from in any::<proptest::sample::Index>(),
        to in any::<proptest::sample::Index>(),
        patch in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let requests = requests();
        let (api_key, version, body) = &requests[which.index(requests.len())];
        let (from, to) = (from.index(body.len() + 1), to.index(body.len() + 1));
        let spliced = [&body[..from], &patch, &body[to..]].concat();
        agrees(*api_key, *version, &spliced);
    }
}
