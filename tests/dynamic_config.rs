//! Dynamic topic configurations on the real binary: a change reaches the segment roller, retention and the cleaner
//! while the log is open, and is there after a kill. Small segments, short times, waiting by asking again.

mod support;

use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::protocol::StrBytes;
use ringlog::wire::batch_builder::BatchBuilder;
use ringlog::wire::batch_filter::OpenBatch;
use ringlog::wire::record_batch::TimestampType;
use support::broker::{Broker, DataDir, Options};
use support::client::{Client, EARLIEST, LATEST};
use support::eventually;

const MESSAGE_TOO_LARGE: i16 = 10;
const TOPIC: i8 = 2;
/// The smallest segment that a topic may have.
const SEGMENT: (&str, &str) = ("segment.bytes", "1048576");

fn options() -> Options {
    Options::default()
        .one_core()
        .with("log.retention.check.interval.ms", "50")
        .with("log.cleaner.backoff.ms", "20")
}

/// Sets keys of a topic; an empty value removes the key.
fn alter(client: &mut Client, topic: &str, configs: &[(&str, &str)]) {
    let text = |value: &str| StrBytes::from_string(value.to_owned());
    let configs = configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(value.is_empty().into())
            .with_value((!value.is_empty()).then(|| text(value)))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = client.call(1, &request).expect("an answer");
    assert_eq!(answer.responses[0].error_code, 0, "{:?}", answer.responses[0].error_message);
}

/// A batch of one record with this key, as it was written `age_ms` ago.
fn keyed(key: &str, size: usize, age_ms: i64) -> Vec<u8> {
    let now_ms = ringlog::rt::wall_ms();
    BatchBuilder::new().record(now_ms - age_ms, Some(key.as_bytes()), Some(&vec![b'v'; size])).build()
}

fn append(client: &mut Client, topic: &str, key: &str, count: usize, size: usize) {
    for _ in 0..count {
        client.append(topic, 0, -1, &keyed(key, size, 0));
    }
}

/// Records of a partition, by counting.
fn records(client: &mut Client, topic: &str) -> usize {
    let (mut at, end) = (client.offset(topic, 0, EARLIEST), client.offset(topic, 0, LATEST));
    let mut count = 0;
    while at < end {
        let read = client.fetch(topic, 0, at, 0).expect("a fetch");
        // Retention may be faster than the reader.
        if read.error == 1 {
            return records(client, topic);
        }
        assert_eq!(read.error, 0, "fetch at {at}");
        let mut rest = &read.records[..];
        while let Ok(mut open) = OpenBatch::new(rest) {
            while open.next_record().expect("a record").is_some() {
                count += 1;
            }
            at = at.max(open.info().next_offset());
            rest = &rest[open.info().size_bytes..];
        }
    }
    count
}

#[test]
fn a_policy_takes_effect_in_an_open_log_and_after_a_kill() {
    let dir = DataDir::new("dynamic-policy");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    append(&mut client, "t", "k", 4, 300_000);
    assert_eq!(dir.segments("t", 0).len(), 1, "a segment is a gibibyte by default");
    alter(&mut client, "t", &[SEGMENT]);
    append(&mut client, "t", "k", 4, 300_000);
    assert!(dir.segments("t", 0).len() >= 2, "segment.bytes rolls");
    assert_eq!(records(&mut client, "t"), 8, "delete keeps every record of a key");

    let compact =
        [("cleanup.policy", "compact"), ("segment.ms", "50"), ("min.cleanable.dirty.ratio", "0.01")];
    alter(&mut client, "t", &compact);
    eventually("compact leaves one record of a key", || (records(&mut client, "t") == 1).then_some(()));
    broker.kill();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    append(&mut client, "t", "k", 3, 300_000);
    eventually("compact is still on", || (records(&mut client, "t") == 1).then_some(()));

    alter(&mut client, "t", &[("cleanup.policy", "compact,delete"), ("retention.ms", "100")]);
    eventually("both: the last record of a key expires as well", || {
        (client.offset("t", 0, EARLIEST) == client.offset("t", 0, LATEST)).then_some(())
    });
    alter(&mut client, "t", &[("cleanup.policy", "delete"), ("retention.ms", "")]);
    append(&mut client, "t", "k", 5, 300_000);
    assert_eq!(records(&mut client, "t"), 5, "back to the defaults");
    broker.stop();
}

#[test]
fn retention_changes_while_the_log_is_open() {
    let dir = DataDir::new("dynamic-retention");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    for topic in ["by-size", "by-time"] {
        client.create(topic, 1, &[SEGMENT]);
        append(&mut client, topic, "k", 6, 500_000);
        assert_eq!(client.offset(topic, 0, EARLIEST), 0);
    }
    alter(&mut client, "by-size", &[("retention.bytes", "1200000")]);
    alter(&mut client, "by-time", &[("retention.ms", "100")]);
    // Whole segments go as long as what stays is not less than the size.
    eventually("retention.bytes", || (client.offset("by-size", 0, EARLIEST) > 0).then_some(()));
    assert!(client.offset("by-size", 0, EARLIEST) <= 4);
    eventually("retention.ms", || (client.offset("by-time", 0, EARLIEST) == 6).then_some(()));
    broker.kill();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    for topic in ["by-size", "by-time"] {
        append(&mut client, topic, "k", 6, 500_000);
    }
    eventually("retention.bytes after a kill", || (client.offset("by-size", 0, EARLIEST) >= 6).then_some(()));
    eventually("retention.ms after a kill", || (client.offset("by-time", 0, EARLIEST) == 12).then_some(()));
    broker.stop();
}

#[test]
fn the_next_append_sees_the_change() {
    let dir = DataDir::new("dynamic-append");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    append(&mut client, "t", "k", 2, 5_000);
    assert_eq!(dir.segments("t", 0).len(), 1);
    // Age is measured from the segment's first append, which is some milliseconds ago.
    alter(&mut client, "t", &[("segment.ms", "1")]);
    eventually("segment.ms rolls", || {
        append(&mut client, "t", "k", 1, 100);
        (dir.segments("t", 0).len() >= 3).then_some(())
    });
    alter(&mut client, "t", &[("segment.ms", ""), ("max.message.bytes", "1000")]);
    let refused = client.produce("t", 0, -1, &keyed("k", 5_000, 0)).expect("an answer");
    assert_eq!(refused.0, MESSAGE_TOO_LARGE);
    alter(&mut client, "t", &[("message.timestamp.type", "LogAppendTime")]);
    broker.kill();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let refused = client.produce("t", 0, -1, &keyed("k", 5_000, 0)).expect("an answer");
    assert_eq!(refused.0, MESSAGE_TOO_LARGE, "after a kill as well");
    let hour_ms = 3_600_000;
    let stamped = client.append("t", 0, -1, &keyed("k", 10, hour_ms));
    alter(&mut client, "t", &[("message.timestamp.type", ""), ("max.message.bytes", "")]);
    let own = client.append("t", 0, -1, &keyed("k", 5_000, hour_ms));
    let mut header = |offset| client.fetch("t", 0, offset, 0).expect("a fetch").batches()[0].info;
    let (stamped, own) = (header(stamped), header(own));
    assert_eq!(stamped.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(own.timestamp_type(), TimestampType::CreateTime);
    assert!(
        stamped.max_timestamp - own.max_timestamp > hour_ms / 2,
        "the broker's clock, and the producer's"
    );
    broker.stop();
}

#[test]
fn lags_hold_the_cleaner_back_and_press_it() {
    let dir = DataDir::new("dynamic-lag");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let compact =
        [("cleanup.policy", "compact"), ("segment.ms", "50"), ("min.cleanable.dirty.ratio", "0.01")];
    let patient = [&compact[..], &[("min.compaction.lag.ms", "3600000")]].concat();
    // A log that is never dirty enough, and whose segment is never full.
    let idle = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "1.0")];
    client.create("now", 1, &compact);
    client.create("later", 1, &patient);
    client.create("idle", 1, &idle);
    for topic in ["later", "idle", "now"] {
        append(&mut client, topic, "k", 5, 1_000);
    }
    eventually("without a lag", || (records(&mut client, "now") == 1).then_some(()));
    assert_eq!(records(&mut client, "later"), 5, "min.compaction.lag.ms keeps them for an hour");
    assert_eq!(records(&mut client, "idle"), 5, "never dirty enough");
    alter(&mut client, "later", &[("min.compaction.lag.ms", "0")]);
    alter(&mut client, "idle", &[("max.compaction.lag.ms", "1")]);
    eventually("the lag is gone", || (records(&mut client, "later") == 1).then_some(()));
    eventually("it is overdue", || (records(&mut client, "idle") == 1).then_some(()));
    broker.kill();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    append(&mut client, "idle", "k", 3, 1_000);
    eventually("overdue again after a kill", || (records(&mut client, "idle") == 1).then_some(()));
    broker.stop();
}
