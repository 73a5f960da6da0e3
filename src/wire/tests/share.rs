//! ShareFetch and ShareAcknowledge against the generated codec, which knows version 1 of both.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::share_fetch_request::{
    AcknowledgementBatch as FetchBatch, FetchPartition, FetchTopic, ForgottenTopic,
};
use kafka_protocol::messages::{
    GroupId, ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse,
    share_acknowledge_request as ack,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use uuid::Uuid;

use super::*;

const TOPIC: Uuid = Uuid::from_u128(0x1234_5678);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn batch() -> AcknowledgementBatch {
    AcknowledgementBatch { first: 5, last: 7, types: vec![1, 2, 3] }
}

fn fetch_body() -> Vec<u8> {
    let batch =
        FetchBatch::default().with_first_offset(5).with_last_offset(7).with_acknowledge_types(vec![1, 2, 3]);
    let partition =
        FetchPartition::default().with_partition_index(4).with_acknowledgement_batches(vec![batch]);
    let topic = FetchTopic::default().with_topic_id(TOPIC).with_partitions(vec![partition]);
    let forgotten = ForgottenTopic::default().with_topic_id(TOPIC).with_partitions(vec![8, 9]);
    let request = ShareFetchRequest::default()
        .with_group_id(Some(GroupId(text("g"))))
        .with_member_id(Some(text("m")))
        .with_share_session_epoch(3)
        .with_max_wait_ms(100)
        .with_min_bytes(1)
        .with_max_bytes(1000)
        .with_max_records(50)
        .with_batch_size(10)
        .with_topics(vec![topic])
        .with_forgotten_topics_data(vec![forgotten]);
    let mut body = BytesMut::new();
    request.encode(&mut body, 1).expect("encodes");
    body.to_vec()
}

#[test]
fn fetch_requests_are_read_as_they_were_meant() {
    let body = fetch_body();
    let expected = ShareRequest {
        group: "g".to_owned(),
        member: "m".to_owned(),
        session_epoch: 3,
        max_wait_ms: 100,
        min_bytes: 1,
        max_bytes: 1000,
        records_max: 50,
        batch_size: 10,
        partitions: vec![SharePartitionData {
            topic_id: TOPIC,
            partition: 4,
            acknowledgements: vec![batch()],
        }],
        forgotten: vec![(TOPIC, 8), (TOPIC, 9)],
        ..ShareRequest::default()
    };
    assert_eq!(ShareRequest::decode_fetch(&body, 1), Ok(expected.clone()));
    for cut in 0..body.len() {
        assert!(ShareRequest::decode_fetch(&body[..cut], 1).is_err(), "cut at {cut}");
    }
    // Version 2 has two bytes more, behind the batch size.
    let at = 2 + 2 + 4 + 5 * 4;
    let newer = [&body[..at], &[1, 1], &body[at..]].concat();
    let newer = ShareRequest::decode_fetch(&newer, 2).expect("decodes");
    assert_eq!(newer, ShareRequest { acquire_mode: 1, is_renewal: true, ..expected });
    assert!(ShareRequest::decode_fetch(&body, 0).is_err() && ShareRequest::decode_fetch(&body, 3).is_err());
}

#[test]
fn acknowledge_requests_are_read_as_they_were_meant() {
    let theirs = ack::AcknowledgementBatch::default()
        .with_first_offset(5)
        .with_last_offset(7)
        .with_acknowledge_types(vec![1, 2, 3]);
    let partition = ack::AcknowledgePartition::default()
        .with_partition_index(4)
        .with_acknowledgement_batches(vec![theirs]);
    let topic = ack::AcknowledgeTopic::default().with_topic_id(TOPIC).with_partitions(vec![partition]);
    let request = ShareAcknowledgeRequest::default()
        .with_group_id(Some(GroupId(text("g"))))
        .with_member_id(None)
        .with_share_session_epoch(-1)
        .with_topics(vec![topic]);
    let mut body = BytesMut::new();
    request.encode(&mut body, 1).expect("encodes");
    let ours = ShareRequest::decode_acknowledge(&body, 1).expect("decodes");
    assert_eq!((ours.group.as_str(), ours.member.as_str(), ours.session_epoch), ("g", "", -1));
    assert_eq!(ours.partitions[0].acknowledgements, [batch()]);
    for cut in 0..body.len() {
        assert!(ShareRequest::decode_acknowledge(&body[..cut], 1).is_err(), "cut at {cut}");
    }
}

#[test]
fn claimed_counts_reserve_nothing() {
    let mut hostile = fetch_body();
    // The count of topics stands behind the fixed fields.
    let at = 2 + 2 + 4 + 5 * 4;
    hostile.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(matches!(ShareRequest::decode_fetch(&hostile, 1), Err(WireError::Truncated { .. })));
}

fn heads() -> Vec<SharePartitionHead> {
    let one = SharePartitionHead {
        topic_id: TOPIC,
        partition: 1,
        error_code: 3,
        acknowledge_error_code: 121,
        leader: (1, 7),
        records_len: 5,
        acquired: vec![(10, 19, 1), (20, 20, 2)],
    };
    let two = SharePartitionHead { partition: 2, records_len: 0, acquired: Vec::new(), ..one.clone() };
    vec![one, two]
}

#[test]
fn fetch_responses_are_what_clients_read() {
    let mut out = Vec::new();
    let head = ShareResponseHead { error_code: 42, error_message: Some("why"), lock_ms: 30_000 };
    let (cuts, records_bytes) = encode_fetch_response(&mut out, &head, &heads());
    assert_eq!((cuts.len(), records_bytes), (2, 5));
    let whole = [&out[..cuts[0]], b"bytes", &out[cuts[0]..]].concat();
    let mut bytes = Bytes::from(whole);
    let read = ShareFetchResponse::decode(&mut bytes, 1).expect("decodes");
    assert!(bytes.is_empty());
    assert_eq!((read.error_code, read.acquisition_lock_timeout_ms), (42, 30_000));
    let partitions = &read.responses[0].partitions;
    assert_eq!(read.responses[0].topic_id, TOPIC);
    assert_eq!((partitions[0].error_code, partitions[0].acknowledge_error_code), (3, 121));
    assert_eq!(partitions[0].records.as_deref(), Some(&b"bytes"[..]));
    let acquired: Vec<_> = partitions[0]
        .acquired_records
        .iter()
        .map(|range| (range.first_offset, range.last_offset, range.delivery_count))
        .collect();
    assert_eq!(acquired, [(10, 19, 1), (20, 20, 2)]);
    assert_eq!((partitions[1].partition_index, partitions[1].current_leader.leader_epoch), (2, 7));
}

#[test]
fn acknowledge_responses_are_what_clients_read() {
    let mut out = Vec::new();
    encode_acknowledge_response(&mut out, 1, &ShareResponseHead::default(), &heads());
    let mut bytes = Bytes::from(out);
    let read = ShareAcknowledgeResponse::decode(&mut bytes, 1).expect("decodes");
    assert!(bytes.is_empty());
    assert_eq!(read.responses[0].partitions.len(), 2);
    assert_eq!(read.responses[0].partitions[0].error_code, 3);
    let mut newer = Vec::new();
    encode_acknowledge_response(&mut newer, 2, &ShareResponseHead { lock_ms: 9, ..Default::default() }, &[]);
    assert_eq!(newer, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 1, 0]);
}
