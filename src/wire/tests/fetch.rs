//! Fetch, against `kafka-protocol` in every version, and against bytes that lie.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{
    FetchPartition as TheirPartition, FetchTopic, ForgottenTopic, ReplicaState,
};
use kafka_protocol::messages::{BrokerId, FetchRequest as TheirRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use crate::wire::fetch::*;
use crate::wire::{TopicKey, TopicRef, WireError};

const ID: Uuid = Uuid::from_u128(0xabcd);

fn their_partition(version: i16) -> TheirPartition {
    let mut partition = TheirPartition::default()
        .with_partition(3)
        .with_current_leader_epoch(if version >= 9 { 8 } else { -1 })
        .with_fetch_offset(1 << 33)
        .with_log_start_offset(if version >= 5 { 12 } else { -1 })
        .with_partition_max_bytes(1000);
    if version >= 12 {
        partition = partition.with_last_fetched_epoch(7);
    }
    if version >= 17 {
        partition = partition.with_replica_directory_id(ID);
    }
    if version >= 18 {
        partition = partition.with_high_watermark(5);
    }
    partition
}

fn their_request(version: i16) -> Vec<u8> {
    let mut topic =
        FetchTopic::default().with_partitions(vec![their_partition(version), their_partition(version)]);
    let mut forgotten = ForgottenTopic::default().with_partitions(vec![1, 2]);
    if version >= 13 {
        topic = topic.with_topic_id(ID);
        forgotten = forgotten.with_topic_id(ID);
    } else {
        topic = topic.with_topic(TopicName(StrBytes::from_static_str("t")));
        forgotten = forgotten.with_topic(TopicName(StrBytes::from_static_str("t")));
    }
    let mut request = TheirRequest::default()
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_isolation_level(1)
        .with_topics(vec![topic]);
    request = if version >= 15 {
        let state = ReplicaState::default().with_replica_id(BrokerId(6)).with_replica_epoch(1);
        request.with_replica_state(state)
    } else {
        request.with_replica_id(BrokerId(6))
    };
    if version >= 7 {
        request =
            request.with_session_id(77).with_session_epoch(2).with_forgotten_topics_data(vec![forgotten]);
    }
    if version >= 11 {
        request = request.with_rack_id(StrBytes::from_static_str("rack"));
    }
    if version >= 12 {
        request = request.with_cluster_id(Some(StrBytes::from_static_str("cluster")));
    }
    let mut body = BytesMut::new();
    request.encode(&mut body, version).expect("encodes");
    body.to_vec()
}

fn topic_key(version: i16) -> TopicKey {
    if version >= 13 { TopicKey::Id(ID) } else { TopicKey::Name("t".into()) }
}

#[test]
fn requests_of_every_version_are_decoded() {
    let mut request = FetchRequest::default();
    for version in 4..=18 {
        request.decode_into(&their_request(version), version).expect("decodes");
        let partition = FetchPartition {
            topic: topic_key(version),
            partition: 3,
            current_leader_epoch: if version >= 9 { 8 } else { -1 },
            fetch_offset: 1 << 33,
            last_fetched_epoch: if version >= 12 { 7 } else { -1 },
            log_start_offset: if version >= 5 { 12 } else { -1 },
            max_bytes: 1000,
        };
        let session = version >= 7;
        let expected = FetchRequest {
            replica_id: 6,
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 1 << 20,
            isolation_level: 1,
            session_id: if session { 77 } else { 0 },
            session_epoch: if session { 2 } else { -1 },
            partitions: vec![partition.clone(), partition],
            forgotten: match session {
                true => vec![(topic_key(version), 1), (topic_key(version), 2)],
                false => vec![],
            },
            rack_id: if version >= 11 { "rack".into() } else { String::new() },
        };
        assert_eq!(request, expected, "v{version}");
    }
    for version in [3, 19] {
        let refused = FetchRequest::decode(&[], version);
        assert_eq!(refused, Err(WireError::UnsupportedVersion { api_key: 1, version }));
    }
}

/// From v15 on a consumer sends no replica state at all.
#[test]
fn a_consumer_has_no_replica_id() {
    let mut body = BytesMut::new();
    TheirRequest::default().encode(&mut body, 17).expect("encodes");
    assert_eq!(FetchRequest::decode(&body, 17).map(|request| request.replica_id), Ok(-1));
}

#[test]
fn cut_requests_are_refused_at_every_byte() {
    for version in 4..=18 {
        let body = their_request(version);
        for cut in 0..body.len() {
            assert!(FetchRequest::decode(&body[..cut], version).is_err(), "v{version} {cut}");
        }
    }
}

/// Sends the skeleton and the records as the connection will, and lets kafka-protocol read the result.
#[test]
fn responses_of_every_version_are_read_by_kafka_protocol() {
    for version in 4..=18 {
        let records: [&[u8]; 3] = [b"first records", b"", b"third"];
        let aborted = [(5, 50), (6, 60)];
        let topic_key = topic_key(version);
        let mut out = b"in front".to_vec();
        let mut encoder = FetchResponseEncoder::begin(&mut out, version, 3, 0, 99, 2);
        let head = |partition, len: usize| FetchPartitionHead {
            high_watermark: 30,
            last_stable_offset: 20,
            log_start_offset: 10,
            records_len: Some(len as u32),
            ..FetchPartitionHead::error(partition, 0)
        };
        encoder.topic(topic_key.as_topic_ref(), 2);
        let mut cuts = vec![encoder.partition(&head(0, records[0].len()))];
        let diverging =
            FetchPartitionHead { diverging_epoch: Some((4, 44)), ..FetchPartitionHead::error(1, 6) };
        cuts.push(encoder.partition(&diverging));
        encoder.topic(topic_key.as_topic_ref(), 1);
        cuts.push(
            encoder.partition(&FetchPartitionHead { aborted: Some(&aborted), ..head(2, records[2].len()) }),
        );
        assert_eq!(encoder.finish(), 18);

        let mut sent = Vec::new();
        let mut from = "in front".len();
        for (cut, records) in cuts.iter().zip(records) {
            sent.extend_from_slice(&out[from..*cut]);
            sent.extend_from_slice(records);
            from = *cut;
        }
        sent.extend_from_slice(&out[from..]);

        let mut bytes = Bytes::from(sent);
        let theirs = FetchResponse::decode(&mut bytes, version).expect("decodes");
        assert!(bytes.is_empty(), "v{version}");
        assert_eq!((theirs.throttle_time_ms, theirs.session_id), (3, if version >= 7 { 99 } else { 0 }));
        let partitions: Vec<_> = theirs.responses.iter().flat_map(|topic| &topic.partitions).collect();
        assert_eq!(partitions.len(), 3);
        for (partition, expected) in partitions.iter().zip(records) {
            assert_eq!(partition.records.as_deref(), Some(expected));
        }
        assert_eq!((partitions[0].high_watermark, partitions[0].last_stable_offset), (30, 20));
        assert_eq!(partitions[0].log_start_offset, if version >= 5 { 10 } else { -1 });
        assert_eq!((partitions[1].error_code, partitions[1].high_watermark), (6, -1));
        assert_eq!(partitions[1].diverging_epoch.end_offset, if version >= 12 { 44 } else { -1 });
        assert_eq!(partitions[0].aborted_transactions, None);
        let theirs_aborted = partitions[2].aborted_transactions.as_ref().expect("sent");
        assert_eq!((theirs_aborted[1].producer_id.0, theirs_aborted[1].first_offset), (6, 60));
    }
}

#[test]
fn an_answer_without_topics_is_complete() {
    for version in 4..=18 {
        let mut out = Vec::new();
        assert_eq!(FetchResponseEncoder::begin(&mut out, version, 0, 70, 0, 0).finish(), 0);
        let theirs = FetchResponse::decode(&mut Bytes::from(out), version).expect("decodes");
        assert_eq!(theirs.error_code, if version >= 7 { 70 } else { 0 });
    }
}

#[test]
#[should_panic(expected = "announced entries are missing")]
fn a_wrong_count_is_our_own_mistake() {
    let mut out = Vec::new();
    let mut encoder = FetchResponseEncoder::begin(&mut out, 12, 0, 0, 0, 1);
    encoder.topic(TopicRef::Name("t"), 2);
    encoder.partition(&FetchPartitionHead::error(0, 3));
    encoder.finish();
}

#[test]
fn the_number_of_partitions_is_bounded() {
    let mut body = vec![0; 17];
    body.extend_from_slice(&[0, 0, 0, 1, 0, 1, b't']);
    let count = PARTITIONS_MAX + 1;
    body.extend_from_slice(&(count as i32).to_be_bytes());
    body.resize(body.len() + count * 16, 0);
    let refused = FetchRequest::decode(&body, 4);
    assert_eq!(refused, Err(WireError::TooManyElements { limit: PARTITIONS_MAX }));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 3i16..20) {
        let _ = FetchRequest::decode(&bytes, version);
    }

    #[test]
    fn damaged_requests_agree_with_the_oracle(at in any::<proptest::sample::Index>(), byte in any::<u8>(), version in 4i16..=18) {
        let mut body = their_request(version);
        let at = at.index(body.len());
        body[at] = byte;
        let Ok(ours) = FetchRequest::decode(&body, version) else { return Ok(()) };
        // kafka-protocol trusts the tag over the declared size and refuses known tags in old versions; where both
        // accept, the content is the same.
        let Ok(theirs) = TheirRequest::decode(&mut Bytes::from(body.clone()), version) else { return Ok(()) };
        prop_assert_eq!((ours.max_wait_ms, ours.session_id), (theirs.max_wait_ms, theirs.session_id));
        let count: usize = theirs.topics.iter().map(|topic| topic.partitions.len()).sum();
        prop_assert_eq!(ours.partitions.len(), count);
    }
}
