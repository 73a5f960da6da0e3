//! Versions that `kafka-protocol` does not know: the gate and our decoders agree on every byte, and our encoders
//! write what Kafka 4.4's schemas say.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{DeleteGroupsResponse, GroupId, OffsetFetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::wire::api_table::*;
use crate::wire::gate::{check, check_consumed};
use crate::wire::newer::*;
use crate::wire::{WireError, Writer};

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn name_of(id: Uuid) -> TopicName {
    TopicName(StrBytes::from_string(id.simple().to_string()))
}

/// Two topics with two partitions each, as both commits have them.
fn topics(out: &mut Writer<'_>) {
    out.len(true, Some(2));
    for _ in 0..2 {
        out.uuid(ID);
        out.len(true, Some(2));
        for metadata in [Some("me"), None] {
            out.i32(3);
            out.i64(77);
            out.i32(5);
            out.nullable_string(true, metadata);
            out.no_tagged_fields(true);
        }
        out.no_tagged_fields(true);
    }
    out.no_tagged_fields(true);
}

fn offset_commit() -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.string(true, "group");
    out.i32(9);
    out.string(true, "member");
    out.nullable_string(true, Some("instance"));
    topics(&mut out);
    body
}

fn txn_offset_commit() -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.string(true, "tx");
    out.string(true, "group");
    out.i64(4);
    out.i16(1);
    out.i32(9);
    out.string(true, "member");
    out.nullable_string(true, None);
    topics(&mut out);
    body
}

fn offset_fetch() -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.len(true, Some(2));
    for all in [false, true] {
        out.string(true, "group");
        out.nullable_string(true, Some("member"));
        out.i32(7);
        out.len(true, (!all).then_some(1));
        if !all {
            out.uuid(ID);
            out.len(true, Some(2));
            out.i32(0);
            out.i32(4);
            out.no_tagged_fields(true);
        }
        out.no_tagged_fields(true);
    }
    out.i8(1);
    out.no_tagged_fields(true);
    body
}

fn write_markers() -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.len(true, Some(1));
    out.i64(4);
    out.i16(2);
    out.i8(1);
    out.len(true, Some(1));
    out.string(true, "t");
    out.len(true, Some(1));
    out.i32(6);
    out.no_tagged_fields(true);
    out.i32(11);
    out.i8(2);
    out.no_tagged_fields(true);
    out.no_tagged_fields(true);
    body
}

fn api_versions() -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.string(true, "me");
    out.string(true, "1");
    out.nullable_string(true, Some("cluster"));
    out.i32(5);
    out.no_tagged_fields(true);
    body
}

/// Decodes a newer version by hand; whether it is well-formed.
fn decode(api_key: i16, body: &[u8]) -> Result<(), WireError> {
    match api_key {
        OFFSET_COMMIT => offset_commit_request(body, name_of).map(drop),
        OFFSET_FETCH => offset_fetch_request(body, name_of).map(drop),
        TXN_OFFSET_COMMIT => txn_offset_commit_request(body, name_of).map(drop),
        WRITE_TXN_MARKERS => write_txn_markers_request(body).map(drop),
        API_VERSIONS => api_versions_request(body).map(drop),
        other => panic!("api {other} has no decoder of ours"),
    }
}

fn requests() -> Vec<(i16, i16, Vec<u8>)> {
    vec![
        (OFFSET_COMMIT, 10, offset_commit()),
        (OFFSET_FETCH, 10, offset_fetch()),
        (TXN_OFFSET_COMMIT, 6, txn_offset_commit()),
        (WRITE_TXN_MARKERS, 2, write_markers()),
        (API_VERSIONS, 5, api_versions()),
    ]
}

#[test]
fn honest_requests_pass_and_cut_ones_do_not() {
    for (api_key, version, body) in requests() {
        assert!(is_newer(api_key, version) && is_supported(api_key, version));
        assert_eq!(check_consumed(api_key, version, &body), Ok(body.len()), "api {api_key}");
        assert_eq!(decode(api_key, &body), Ok(()), "api {api_key}");
        for cut in 0..body.len() {
            assert!(check(api_key, version, &body[..cut]).is_err(), "api {api_key} cut {cut}");
        }
    }
}

/// What passes the gate, our decoders read, unless a string is not UTF-8; and no byte makes them panic.
#[test]
fn no_changed_byte_gets_a_lie_through() {
    for (api_key, version, body) in requests() {
        for at in 0..body.len() {
            let mut body = body.clone();
            for _ in 1..=255 {
                body[at] = body[at].wrapping_add(1);
                let decoded = decode(api_key, &body);
                if check(api_key, version, &body).is_ok() {
                    assert!(matches!(decoded, Ok(()) | Err(WireError::Utf8)), "api {api_key} {body:?}");
                }
            }
        }
    }
}

#[test]
fn fields_land_where_they_belong() {
    let commit = offset_commit_request(&offset_commit(), name_of).expect("well-formed");
    assert_eq!((commit.generation_id_or_member_epoch, commit.topics.len()), (9, 2));
    assert_eq!(commit.group_instance_id.as_deref(), Some("instance"));
    let partition = &commit.topics[1].partitions[0];
    assert_eq!(*commit.topics[1].name, name_of(ID).0);
    assert_eq!((partition.partition_index, partition.committed_offset), (3, 77));
    assert_eq!((partition.committed_leader_epoch, partition.committed_metadata.as_deref()), (5, Some("me")));
    let fetch = offset_fetch_request(&offset_fetch(), name_of).expect("well-formed");
    assert!(fetch.require_stable && fetch.groups[1].topics.is_none());
    assert_eq!(fetch.groups[0].member_epoch, 7);
    assert_eq!(fetch.groups[0].topics.as_ref().expect("topics")[0].partition_indexes, [0, 4]);
    let txn = txn_offset_commit_request(&txn_offset_commit(), name_of).expect("well-formed");
    assert_eq!((txn.producer_id.0, txn.producer_epoch, txn.generation_id), (4, 1, 9));
    let markers = write_txn_markers_request(&write_markers()).expect("well-formed").markers;
    assert_eq!((markers[0].coordinator_epoch, markers[0].transaction_result), (11, true));
    let (_, addressee) = api_versions_request(&api_versions()).expect("well-formed");
    assert_eq!(addressee, Addressee { cluster_id: Some("cluster".into()), node_id: 5 });
}

#[test]
fn answers_are_what_the_schemas_say() {
    let mut expected = vec![0, 0, 0, 0, 2];
    expected.extend(ID.as_bytes());
    expected.extend([2, 0, 0, 0, 3, 0, 25, 0, 0, 0]);
    assert_eq!(committed_response(&[(ID, vec![(3, 25)])]), expected);

    let partition = OffsetFetchResponsePartitions::default()
        .with_partition_index(3)
        .with_committed_offset(77)
        .with_committed_leader_epoch(5)
        .with_metadata(Some(StrBytes::from_static_str("m")));
    let topic = OffsetFetchResponseTopics::default().with_name(name_of(ID)).with_partitions(vec![partition]);
    let group = OffsetFetchResponseGroup::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_topics(vec![topic])
        .with_error_code(16);
    let response = OffsetFetchResponse::default().with_groups(vec![group]);
    let mut expected = vec![0, 0, 0, 0, 2, 2, b'g', 2];
    expected.extend(ID.as_bytes());
    expected.extend([2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 5, 2, b'm', 0, 0, 0, 0, 0, 16, 0, 0]);
    let id_of = |name: &str| Uuid::parse_str(name).expect("an id");
    assert_eq!(offset_fetch_response(&response, id_of), expected);

    let result = DeletableGroupResult::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_error_code(68);
    let response = DeleteGroupsResponse::default().with_results(vec![result]);
    let expected = [0, 0, 0, 0, 2, 2, b'g', 0, 68, 2, b'w', 0, 0];
    assert_eq!(delete_groups_response(&response, |code| (code == 68).then_some("w")), expected);
}
