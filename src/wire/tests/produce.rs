//! Produce, against `kafka-protocol` in every version, and against bytes that lie.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest as TheirRequest, ProduceResponse, TopicName, TransactionalId};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use crate::wire::produce::*;
use crate::wire::{TopicRef, WireError};

const ID: Uuid = Uuid::from_u128(0x1234_5678);

fn their_topic(name: &'static str, version: i16, partitions: Vec<PartitionProduceData>) -> TopicProduceData {
    let topic = TopicProduceData::default().with_partition_data(partitions);
    if version >= 13 {
        topic.with_topic_id(ID)
    } else {
        topic.with_name(TopicName(StrBytes::from_static_str(name)))
    }
}

fn their_partition(index: i32, records: Option<&'static [u8]>, version: i16) -> PartitionProduceData {
    let partition =
        PartitionProduceData::default().with_index(index).with_records(records.map(Bytes::from_static));
    if version >= 9 { partition.with_unknown_tagged_field(9, Bytes::from_static(b"tag")) } else { partition }
}

fn their_request(version: i16) -> Vec<u8> {
    let request = TheirRequest::default()
        .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("tx"))))
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![
            their_topic(
                "a",
                version,
                vec![their_partition(0, Some(b"records"), version), their_partition(7, None, version)],
            ),
            their_topic("empty", version, vec![]),
            their_topic("b", version, vec![their_partition(3, Some(b""), version)]),
        ]);
    let mut body = BytesMut::new();
    request.encode(&mut body, version).expect("encodes");
    body.to_vec()
}

fn their_single(version: i16, records: &'static [u8]) -> Vec<u8> {
    let topic = their_topic("one", version, vec![their_partition(4, Some(records), version)]);
    let request = TheirRequest::default().with_acks(1).with_timeout_ms(5).with_topic_data(vec![topic]);
    let mut body = BytesMut::new();
    request.encode(&mut body, version).expect("encodes");
    body.to_vec()
}

fn topic(name: &str, version: i16) -> TopicRef<'_> {
    if version >= 13 { TopicRef::Id(ID) } else { TopicRef::Name(name) }
}

#[test]
fn requests_of_every_version_are_decoded() {
    let mut out = Vec::new();
    for version in 3..=13 {
        let body = their_request(version);
        let mut out_here = recycle(std::mem::take(&mut out));
        let request = ProduceRequest::decode(&body, version, &mut out_here).expect("decodes");
        assert_eq!((request.transactional_id, request.acks, request.timeout_ms), (Some("tx"), -1, 30_000));
        assert_eq!(request.topic_count, 3);
        let seen: Vec<_> = out_here
            .iter()
            .map(|p| (p.topic, p.topic_index, p.partition, p.records.clone().map(|range| &body[range])))
            .collect();
        let expected = [
            (topic("a", version), 0, 0, Some(&b"records"[..])),
            (topic("a", version), 0, 7, None),
            (topic("b", version), 2, 3, Some(&b""[..])),
        ];
        assert_eq!(seen, expected, "v{version}");
        out = recycle(out_here);
    }
}

/// Versions 0–2 have the body of version 3 without the transactional id.
#[test]
fn old_versions_are_decoded_so_that_they_can_be_refused() {
    let body = their_single(3, b"old");
    for version in 0..3 {
        let mut out = Vec::new();
        let request = ProduceRequest::decode(&body[2..], version, &mut out).expect("decodes");
        assert_eq!((request.acks, out.len(), out[0].partition), (1, 1, 4));
    }
    let refused = ProduceRequest::decode(&body, 14, &mut Vec::new());
    assert_eq!(refused, Err(WireError::UnsupportedVersion { api_key: 0, version: 14 }));
}

#[test]
fn cut_requests_are_refused_at_every_byte() {
    for version in 3..=13 {
        let body = their_request(version);
        for cut in 0..body.len() {
            assert!(
                ProduceRequest::decode(&body[..cut], version, &mut Vec::new()).is_err(),
                "v{version} {cut}"
            );
        }
    }
}

#[test]
fn a_single_partition_is_seen_from_a_prefix() {
    for version in 3..=13 {
        let body = their_single(version, b"0123456789");
        let mut out = Vec::new();
        ProduceRequest::decode(&body, version, &mut out).expect("decodes");
        let records = out[0].records.clone().expect("records");
        for cut in 0..=body.len() {
            let peeked = peek_single(&body[..cut], version);
            if cut < records.start {
                assert_eq!(peeked, Peek::NeedMore, "v{version} {cut}");
                continue;
            }
            let Peek::Single(single) = peeked else { panic!("v{version} {cut}: {peeked:?}") };
            assert_eq!((single.records_start, single.records_len), (records.start, records.len()));
            assert_eq!((single.topic, single.partition, single.acks), (topic("one", version), 4, 1));
        }
        assert!(is_single_trailer(&body[records.end..], version));
        assert!(!is_single_trailer(&[&body[records.end..], &[0]].concat(), version));
        assert_eq!(peek_single(&their_request(version), version), Peek::Other);
    }
    assert_eq!(peek_single(&[0; 64], 2), Peek::Other);
}

#[test]
fn responses_of_every_version_are_read_by_kafka_protocol() {
    for version in 3..=13 {
        let result = |name, topic_index, partition, error_code, error_message| ProduceResult {
            topic: topic(name, version),
            topic_index,
            partition,
            error_code,
            base_offset: 100 + i64::from(partition),
            log_append_time_ms: -1,
            log_start_offset: 9,
            error_message,
            record_errors: if error_code == 0 { &[] } else { &[2, 5] },
        };
        let results =
            [result("a", 0, 0, 0, None), result("a", 0, 7, 87, Some("bad")), result("b", 2, 3, 0, None)];
        let mut out = Vec::new();
        encode_response(&mut out, version, &results, 11);
        let mut bytes = Bytes::from(out);
        let theirs = ProduceResponse::decode(&mut bytes, version).expect("decodes");
        assert!(bytes.is_empty());
        assert_eq!((theirs.throttle_time_ms, theirs.responses.len()), (11, 2));
        let first = &theirs.responses[0];
        assert_eq!(first.partition_responses.len(), 2);
        let refused = &first.partition_responses[1];
        assert_eq!((refused.index, refused.error_code, refused.base_offset), (7, 87, 107));
        assert_eq!(refused.log_start_offset, if version >= 5 { 9 } else { -1 });
        assert_eq!(refused.error_message.is_some(), version >= 8);
        let records: Vec<i32> = refused.record_errors.iter().map(|error| error.batch_index).collect();
        let expected: &[i32] = if version >= 8 { &[2, 5] } else { &[] };
        assert_eq!(records, expected);
        assert!(refused.record_errors.iter().all(|error| error.batch_index_error_message.is_some()));
        match version {
            13 => assert_eq!(first.topic_id, ID),
            _ => assert_eq!(theirs.responses[1].name.as_str(), "b"),
        }
    }
}

/// The layouts of versions 0–2, which kafka-protocol no longer knows, byte by byte.
#[test]
fn responses_of_refused_versions_have_their_own_layout() {
    let result = ProduceResult {
        topic: TopicRef::Name("t"),
        topic_index: 0,
        partition: 1,
        error_code: 35,
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        error_message: Some("not sent"),
        record_errors: &[0],
    };
    let head = [0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 1, 0, 35];
    for (version, offsets, throttle) in [(0, 8, 0), (1, 8, 4), (2, 16, 4)] {
        let mut out = Vec::new();
        encode_response(&mut out, version, &[result], 0);
        let expected = [&head[..], &vec![0xff; offsets], &vec![0; throttle]].concat();
        assert_eq!(out, expected, "v{version}");
    }
}

#[test]
fn lying_counts_do_not_allocate() {
    for count in [i32::MAX, 1 << 20, -2] {
        let mut body = vec![0xff, 0xff, 0, 1, 0, 0, 0, 0];
        body.extend_from_slice(&count.to_be_bytes());
        body.extend_from_slice(&[0; 64]);
        let mut out = Vec::new();
        assert!(ProduceRequest::decode(&body, 3, &mut out).is_err());
        assert_eq!(out.capacity(), 0);
    }
}

#[test]
fn the_number_of_partitions_is_bounded() {
    let mut body = vec![0xff, 0xff, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b't'];
    let count = PARTITIONS_MAX + 1;
    body.extend_from_slice(&(count as i32).to_be_bytes());
    body.resize(body.len() + count * 8, 0);
    let refused = ProduceRequest::decode(&body, 3, &mut Vec::new());
    assert_eq!(refused, Err(WireError::TooManyElements { limit: PARTITIONS_MAX }));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in -1i16..15) {
        let mut out = Vec::new();
        if ProduceRequest::decode(&bytes, version, &mut out).is_ok() {
            for range in out.iter().filter_map(|partition| partition.records.clone()) {
                prop_assert!(range.end <= bytes.len());
            }
        }
        let _ = peek_single(&bytes, version);
        let _ = is_single_trailer(&bytes, version);
    }

    #[test]
    fn damaged_requests_agree_with_the_oracle(at in any::<proptest::sample::Index>(), byte in any::<u8>(), version in 3i16..=13) {
        let mut body = their_request(version);
        let at = at.index(body.len());
        body[at] = byte;
        let mut out = Vec::new();
        if let Ok(ours) = ProduceRequest::decode(&body, version, &mut out) {
            let theirs = TheirRequest::decode(&mut Bytes::from(body.clone()), version);
            // Where we accept, so do they, with the same content.
            let theirs = theirs.expect("they accept as well");
            prop_assert_eq!(ours.acks, theirs.acks);
            let count: usize = theirs.topic_data.iter().map(|topic| topic.partition_data.len()).sum();
            prop_assert_eq!(out.len(), count);
        }
    }
}
