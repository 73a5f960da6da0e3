//! Administration on the real binary: what is set at run time takes effect at once on every core and survives a kill
//! right after the answer; quotas pause clients; topics recompress; hostile requests cost a connection.

mod support;

use std::time::{Duration, Instant};

use kafka_protocol::messages::alter_client_quotas_request as quotas;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterClientQuotasRequest, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeClientQuotasRequest, DescribeConfigsRequest, FetchRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, ProduceRequest, TopicName, UpdateFeaturesRequest,
};
use kafka_protocol::protocol::StrBytes;
use ringlog::wire::batch_builder::BatchBuilder;
use ringlog::wire::record_batch::{Compression, TimestampType, crc_ok, parse_header};
use ringlog::wire::records::Records;
use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::client::{self, Client, FETCH_VERSION, PRODUCE_VERSION, set_quota};
use support::eventually;
use support::random::Random;

const MESSAGE_TOO_LARGE: i16 = 10;
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;
const EVERYBODY: &[(&str, Option<&str>)] = &[("client-id", None)];

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// Sets keys (`Some`) or removes them (`None`); the error code.
fn alter(client: &mut Client, kind: i8, name: &str, configs: &[(&str, Option<&str>)]) -> i16 {
    let configs = configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(value.is_none().into())
            .with_value(value.map(text))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    client.call(1, &request).expect("an answer").responses[0].error_code
}

/// The value of a key and where it comes from.
fn described(client: &mut Client, kind: i8, name: &str, key: &str) -> (String, i8) {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = client.call(4, &request).expect("an answer");
    let config = &answer.results[0].configs[0];
    (config.value.as_deref().unwrap_or("").to_owned(), config.config_source)
}

#[test]
fn what_was_set_survives_a_kill_right_after_the_answer() {
    let dir = DataDir::new("admin-kill");
    let broker = Broker::start(&dir, &Options::default());
    let mut client = broker.connect();
    client.create("t", 4, &[]);
    assert_eq!(
        alter(
            &mut client,
            TOPIC,
            "t",
            &[("retention.ms", Some("77000")), ("segment.bytes", Some("2097152"))]
        ),
        0
    );
    assert_eq!(alter(&mut client, BROKER, "", &[("log.retention.bytes", Some("99"))]), 0);
    assert_eq!(alter(&mut client, BROKER, "1", &[("message.max.bytes", Some("5000"))]), 0);
    assert_eq!(alter(&mut client, GROUP, "g", &[("consumer.session.timeout.ms", Some("50000"))]), 0);
    assert_eq!(set_quota(&mut client, &[("user", Some("u"))], "producer_byte_rate", Some(1e6)), 0);
    let mut update =
        FeatureUpdateKey::default().with_feature(text("metadata.version")).with_max_version_level(25);
    update.upgrade_type = 2;
    let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
    assert_eq!(client.call(2, &request).expect("an answer").error_code, 0);
    broker.kill();

    let broker = Broker::start(&dir, &Options::default());
    let mut client = broker.connect();
    assert_eq!(described(&mut client, TOPIC, "t", "retention.ms"), ("77000".to_owned(), 1));
    assert_eq!(described(&mut client, TOPIC, "t", "retention.bytes"), ("99".to_owned(), 3));
    assert_eq!(described(&mut client, TOPIC, "t", "max.message.bytes"), ("5000".to_owned(), 2));
    assert_eq!(described(&mut client, GROUP, "g", "consumer.session.timeout.ms"), ("50000".to_owned(), 8));
    let answer = client.call(1, &DescribeClientQuotasRequest::default()).expect("an answer");
    assert_eq!(answer.entries.expect("entries")[0].values[0].value, 1e6);
    let versions = client
        .call(
            4,
            &ApiVersionsRequest::default()
                .with_client_software_name(text("t"))
                .with_client_software_version(text("1")),
        )
        .expect("an answer");
    let level = versions.finalized_features.iter().find(|f| f.name.as_str() == "metadata.version");
    assert_eq!(level.map(|f| f.max_version_level), Some(25));
    // And it is in effect, not only told.
    for partition in 0..4 {
        let large = batches::batch("large", 1, 6000);
        assert_eq!(client.produce("t", partition, -1, &large).expect("an answer").0, MESSAGE_TOO_LARGE);
    }
    broker.stop();
}

#[test]
fn a_change_is_in_effect_on_every_core_when_it_is_answered() {
    let dir = DataDir::new("admin-effect");
    let broker = Broker::start(&dir, &Options::default());
    let mut client = broker.connect();
    client.create("t", 8, &[]);
    let large = batches::batch("large", 1, 6000);
    for limit in [Some("3000"), None, Some("4000"), Some("100000")] {
        assert_eq!(alter(&mut client, TOPIC, "t", &[("max.message.bytes", limit)]), 0);
        let expected = if limit.is_some_and(|limit| limit.len() == 4) { MESSAGE_TOO_LARGE } else { 0 };
        for partition in 0..8 {
            // Another connection, which may be on the other core.
            let code = broker.connect().produce("t", partition, 1, &large).expect("an answer").0;
            assert_eq!(code, expected, "partition {partition} limit {limit:?}");
        }
    }
    assert_eq!(alter(&mut client, BROKER, "1", &[("node.id", Some("5"))]), 42);
    assert_eq!(alter(&mut client, TOPIC, "nope", &[("retention.ms", Some("5"))]), 3);
    broker.stop();
}

/// Produces and returns the answer's code and pause.
fn paced_produce(client: &mut Client, batch: &[u8]) -> (i16, i32) {
    let request = client::produce_request(&[("t", 0, batch)], 1);
    let answer = client.call::<ProduceRequest>(PRODUCE_VERSION, &request).expect("an answer");
    (answer.responses[0].partition_responses[0].error_code, answer.throttle_time_ms)
}

#[test]
fn quotas_pause_clients_by_telling_them_and_by_not_reading() {
    let dir = DataDir::new("admin-quota");
    let broker = Broker::start(&dir, &Options::default());
    let mut admin = broker.connect();
    admin.create("t", 1, &[]);
    let mut client = broker.connect();
    assert_eq!(paced_produce(&mut client, &batches::batch("free", 1, 105_000)), (0, 0));
    assert_eq!(set_quota(&mut admin, EVERYBODY, "producer_byte_rate", Some(10_000.0)), 0);
    // 10,000 a second over ten seconds are used up by the first batch, and half a second more.
    let began = Instant::now();
    let (code, pause_ms) = paced_produce(&mut client, &batches::batch("paid", 1, 105_000));
    assert_eq!(code, 0);
    assert!((300..2_000).contains(&pause_ms), "{pause_ms} ms");
    assert_eq!(set_quota(&mut admin, EVERYBODY, "producer_byte_rate", None), 0);
    assert_eq!(paced_produce(&mut client, &batches::batch("again", 1, 100)), (0, 0));
    assert!(began.elapsed() >= Duration::from_millis(pause_ms as u64), "the connection was read too early");

    // A fetch gets at most what the window allows.
    assert_eq!(set_quota(&mut admin, EVERYBODY, "consumer_byte_rate", Some(3_000.0)), 0);
    let request = client::fetch_request(&[("t", 0, 0)], 0, 1, 1 << 20);
    let answer = client.call::<FetchRequest>(FETCH_VERSION, &request).expect("an answer");
    let pause_ms = answer.throttle_time_ms;
    assert!(pause_ms > 0, "a batch of 105,000 bytes is more than ten seconds of 3,000");
    assert_eq!(set_quota(&mut admin, EVERYBODY, "consumer_byte_rate", None), 0);

    // The time of a request, as well.
    assert_eq!(set_quota(&mut admin, EVERYBODY, "request_percentage", Some(0.000_001)), 0);
    let (code, pause_ms) = paced_produce(&mut broker.connect(), &batches::batch("slow", 1, 100));
    assert!(code == 0 && pause_ms == 1000, "{code} {pause_ms}: one window at most");
    broker.stop();
}

/// Code and pause of the creation of a topic.
fn paced_create(client: &mut Client, version: i16, topic: &str, partitions: i32) -> (i16, i32) {
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(topic)))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let answer = client.call(version, &request).expect("an answer");
    (answer.topics[0].error_code, answer.throttle_time_ms)
}

#[test]
fn changes_of_partitions_have_a_rate() {
    const QUOTA_EXCEEDED: i16 = 89;
    let dir = DataDir::new("admin-mutations");
    let broker = Broker::start(&dir, &Options::default());
    let mut admin = broker.connect();
    assert_eq!(set_quota(&mut admin, EVERYBODY, "controller_mutation_rate", Some(0.1)), 0);
    // A burst is taken as a whole; what comes next is beyond the quota for some ten minutes.
    assert_eq!(paced_create(&mut broker.connect(), 7, "a", 60), (0, 0));
    let (code, pause_ms) = paced_create(&mut broker.connect(), 7, "b", 1);
    assert!(code == QUOTA_EXCEEDED && pause_ms > 100_000, "{code} {pause_ms}");
    // What changes nothing is free, and is answered as ever.
    assert_eq!(paced_create(&mut broker.connect(), 7, "a", 1), (36, 0));
    // A version that does not know the error is paused after the fact.
    let (code, pause_ms) = paced_create(&mut broker.connect(), 5, "b", 1);
    assert!(code == 0 && pause_ms > 100_000, "{code} {pause_ms}");
    let asked = MetadataRequestTopic::default().with_name(Some(TopicName(text("auto"))));
    let request = MetadataRequest::default().with_topics(Some(vec![asked]));
    let answer = broker.connect().call(9, &request).expect("an answer");
    assert!(answer.throttle_time_ms > 100_000, "topics that come by themselves count as well");
    let state = DeleteTopicState::default().with_name(Some(TopicName(text("a"))));
    let request = DeleteTopicsRequest::default().with_topics(vec![state]);
    let answer = broker.connect().call(6, &request).expect("an answer");
    assert_eq!(answer.responses[0].error_code, QUOTA_EXCEEDED);
    let more = CreatePartitionsTopic::default().with_name(TopicName(text("a"))).with_count(70);
    let request = CreatePartitionsRequest::default().with_topics(vec![more.with_assignments(None)]);
    let answer = broker.connect().call(3, &request).expect("an answer");
    assert_eq!(answer.results[0].error_code, QUOTA_EXCEEDED);
    assert_eq!(set_quota(&mut admin, EVERYBODY, "controller_mutation_rate", None), 0);
    assert_eq!(paced_create(&mut broker.connect(), 7, "c", 1), (0, 0));
    broker.stop();
}

#[test]
fn addresses_have_a_rate_of_connections() {
    let dir = DataDir::new("admin-connections");
    let broker = Broker::start(&dir, &Options::default());
    let mut admin = broker.connect();
    assert_eq!(set_quota(&mut admin, &[("ip", None)], "connection_creation_rate", Some(1.0)), 0);
    let refused = (0..40).find(|_| {
        let mut client = broker.connect();
        client.api_versions().is_err()
    });
    assert!(refused.is_some_and(|count| count >= 8), "ten connections are a window's worth: {refused:?}");
    assert_eq!(set_quota(&mut admin, &[("ip", None)], "connection_creation_rate", None), 0);
    eventually("everybody is welcome again", || broker.connect().api_versions().ok());
    broker.stop();
}

/// All batches of a partition, from offset 0.
fn stored(client: &mut Client, partition: i32) -> Vec<Vec<u8>> {
    let request = client::fetch_request(&[("t", partition, 0)], 0, 1, 8 << 20);
    let answer = client.call::<FetchRequest>(FETCH_VERSION, &request).expect("an answer");
    let bytes = answer.responses[0].partitions[0].records.clone().unwrap_or_default();
    let mut batches = Vec::new();
    let mut rest = &bytes[..];
    while let Ok(info) = parse_header(rest) {
        let (batch, after) = rest.split_at(info.size_bytes);
        batches.push(batch.to_vec());
        rest = after;
    }
    batches
}

#[test]
fn a_topic_insists_on_its_codec_and_its_clock() {
    let dir = DataDir::new("admin-codec");
    let broker = Broker::start(&dir, &Options::default());
    let mut client = broker.connect();
    client.create("t", 2, &[("compression.type", "gzip")]);
    let batch = |codec| {
        let mut builder = BatchBuilder::new().compression(codec);
        for n in 0..200 {
            builder = builder.record(1_000_000 + n, Some(b"key"), Some(&[b'v'; 600]));
        }
        builder.build()
    };
    let codecs = [
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
        ("uncompressed", Compression::None),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
    ];
    let mut expected = Vec::new();
    for (name, codec) in codecs {
        assert_eq!(alter(&mut client, TOPIC, "t", &[("compression.type", Some(name))]), 0);
        for from in [Compression::None, Compression::Lz4] {
            for partition in 0..2 {
                client.append("t", partition, -1, &batch(from));
            }
            expected.push(codec);
        }
    }
    let stamps = [("message.timestamp.type", Some("LogAppendTime")), ("compression.type", Some("gzip"))];
    assert_eq!(alter(&mut client, TOPIC, "t", &stamps), 0);
    for partition in 0..2 {
        client.append("t", partition, -1, &batch(Compression::None));
    }
    expected.push(Compression::Gzip);
    for partition in 0..2 {
        let batches = stored(&mut client, partition);
        let found: Vec<_> =
            batches.iter().map(|b| parse_header(b).expect("a batch").compression().expect("known")).collect();
        assert_eq!(found, expected);
        for (index, batch) in batches.iter().enumerate() {
            assert!(crc_ok(batch));
            let offsets: Vec<i64> =
                Records::new(batch).expect("opens").map(|record| record.expect("a record").offset).collect();
            assert_eq!(offsets, (index as i64 * 200..(index as i64 + 1) * 200).collect::<Vec<_>>());
        }
        let last = parse_header(batches.last().expect("batches")).expect("a batch");
        assert_eq!(last.timestamp_type(), TimestampType::LogAppendTime);
    }
    broker.stop();
}

#[test]
fn hostile_administration_costs_a_connection_and_no_memory() {
    let dir = DataDir::new("admin-hostile");
    let mut broker = Broker::start(&dir, &Options::default());
    let mut random = Random::from_environment(44);
    broker.assert_serving();
    let before = broker.resident_bytes();
    let operation = quotas::OpData::default().with_key(text("x")).with_value(1.0);
    let entry = quotas::EntryData::default().with_ops(vec![operation; 3]);
    let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1")));
    let resource =
        AlterConfigsResource::default().with_resource_name(text("t")).with_configs(vec![config; 3]);
    let honest = [
        client::frame_of(1, 1, &IncrementalAlterConfigsRequest::default().with_resources(vec![resource; 3])),
        client::frame_of(2, 1, &AlterClientQuotasRequest::default().with_entries(vec![entry; 3])),
        client::frame_of(3, 1, &DescribeClientQuotasRequest::default()),
    ];
    for round in 0..300 {
        let mut frame = honest[round % honest.len()].to_vec();
        for _ in 0..1 + random.below(4) {
            // The length prefix stays right: the rest is what the decoders have to survive.
            let at = 14 + random.below(frame.len() as u64 - 14) as usize;
            frame[at] = random.below(256) as u8;
        }
        let mut client = broker.connect();
        client.set_timeout(Duration::from_millis(500));
        let _ = std::io::Write::write_all(client.stream(), &frame);
        let _ = client.receive_frame();
    }
    broker.assert_serving();
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    broker.stop();
}
