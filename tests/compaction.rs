//! The life of data in the real binary: compaction under load and SIGKILL, DeleteRecords, retention, timestamps.
//!
//! Small segments, short times, and waiting by asking again. What compaction may do to a log is checked against what
//! was acknowledged: the last record of a key is there, or the tombstone that took it; nothing older outlives it.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use kafka_protocol::protocol::StrBytes;
use ringlog::wire::batch_builder::BatchBuilder;
use ringlog::wire::batch_filter::OpenBatch;
use ringlog::wire::record_batch::Compression;
use support::broker::{Broker, DataDir, Options};
use support::client::{Client, EARLIEST, LATEST};
use support::eventually;
use support::random::Random;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_TIMESTAMP: i16 = 32;
const POLICY_VIOLATION: i16 = 44;
const INVALID_RECORD: i16 = 87;

const TOPIC: &str = "table";
const KEYS: u64 = 400;
const ROUNDS: u32 = 5;
/// Batches of one round: some segments' worth.
const BATCHES_PER_ROUND: u64 = 400;

const COMPACTED: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("delete.retention.ms", "200"),
];

fn options() -> Options {
    Options::default()
        .one_core()
        .with("log.retention.check.interval.ms", "50")
        .with("log.cleaner.backoff.ms", "20")
}

fn key(number: u64) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// What a reader finds: offset to key and whether it is a tombstone.
type Found = BTreeMap<i64, (Vec<u8>, bool)>;

fn read_all(client: &mut Client, topic: &str) -> Found {
    let start = client.offset(topic, 0, EARLIEST);
    let mut found = Found::new();
    let mut at = start;
    loop {
        let read = client.fetch(topic, 0, at, 0).expect("a fetch");
        assert_eq!(read.error, 0, "fetch at {at}");
        let mut rest = &read.records[..];
        let before = at;
        while let Ok(mut open) = OpenBatch::new(rest) {
            while let Some(record) = open.next_record().expect("a record") {
                let record_key = record.key.expect("a key").to_vec();
                found.insert(record.offset, (record_key, record.is_tombstone));
            }
            at = at.max(open.info().next_offset());
            rest = &rest[open.info().size_bytes..];
        }
        if at >= read.high_watermark {
            return found;
        }
        assert!(at > before, "nothing at offset {at} below the watermark {}", read.high_watermark);
    }
}

/// What was acknowledged: the last offset of each key, and whether it was a tombstone.
#[derive(Default)]
struct Acked {
    last: HashMap<Vec<u8>, (i64, bool)>,
    end: i64,
}

impl Acked {
    fn note(&mut self, base_offset: i64, records: &[(Vec<u8>, bool)]) {
        for (number, (key, tombstone)) in records.iter().enumerate() {
            self.last.insert(key.clone(), (base_offset + number as i64, *tombstone));
        }
        self.end = base_offset + records.len() as i64;
    }

    fn check(&self, found: &Found) {
        let mut newest: HashMap<&[u8], i64> = HashMap::new();
        let mut oldest: HashMap<&[u8], i64> = HashMap::new();
        for (offset, (key, _)) in found {
            newest.insert(key, *offset);
            oldest.entry(key).or_insert(*offset);
        }
        for (key, (offset, tombstone)) in &self.last {
            let name = String::from_utf8_lossy(key);
            match newest.get(&key[..]) {
                Some(newest) => assert!(newest >= offset, "{name}: {newest} outlived {offset}"),
                None => assert!(tombstone, "{name}: the record at {offset} is gone"),
            }
            if let Some((found_key, found_tombstone)) = found.get(offset) {
                assert_eq!((found_key, found_tombstone), (key, tombstone), "offset {offset}");
            }
        }
    }
}

fn table_batch(random: &mut Random) -> (Vec<u8>, Vec<(Vec<u8>, bool)>) {
    let codec = [Compression::None, Compression::Lz4, Compression::Gzip][random.below(3) as usize];
    let mut builder = BatchBuilder::new().compression(codec);
    let mut records = Vec::new();
    for _ in 0..random.between(1, 6) {
        let (key, tombstone) = (key(random.below(KEYS)), random.one_in(8));
        let value: Vec<u8> = (0..random.between(800, 3_000)).map(|_| random.next() as u8).collect();
        let value = (!tombstone).then_some(&value[..]);
        builder = builder.record(ringlog::rt::wall_ms(), Some(&key), value);
        records.push((key, tombstone));
    }
    (builder.build(), records)
}

/// Produces until `count` batches are acknowledged or the connection breaks.
fn load(port: u16, random: &mut Random, acked: &mut Acked, progress: &AtomicI64, count: u64) {
    let Ok(mut client) = Client::connect(port) else { return };
    for _ in 0..count {
        let (batch, records) = table_batch(random);
        let acks = if random.one_in(4) { -1 } else { 1 };
        let Ok((error, base_offset)) = client.produce(TOPIC, 0, acks, &batch) else { return };
        assert_eq!(error, 0);
        acked.note(base_offset, &records);
        progress.store(acked.end, Ordering::Relaxed);
    }
}

fn segment_bytes(dir: &DataDir, topic: &str) -> u64 {
    dir.segments(topic, 0).iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum()
}

fn pool_files(dir: &DataDir) -> usize {
    std::fs::read_dir(dir.data().join("pool/core-0")).map_or(0, Iterator::count)
}

fn compactions(broker: &Broker) -> usize {
    broker.stderr().matches("log compacted").count()
}

#[test]
fn the_latest_value_of_each_key_survives_sigkill_while_compaction_runs() {
    let dir = DataDir::new("compaction-kill");
    let mut random = Random::from_environment(77);
    let (mut acked, progress) = (Acked::default(), AtomicI64::new(0));
    let mut passes = 0;
    for round in 0..ROUNDS {
        let broker = Broker::start(&dir, &options());
        if round == 0 {
            broker.connect().create(TOPIC, 1, COMPACTED);
        }
        acked.check(&read_all(&mut broker.connect(), TOPIC));
        let stop_at = progress.load(Ordering::Relaxed) + 100 + random.below(700) as i64;
        let (stop, port) = (AtomicBool::new(false), broker.port);
        let (random, acked, progress) = (&mut random, &mut acked, &progress);
        std::thread::scope(|scope| {
            let producer = scope.spawn(move || load(port, random, acked, progress, BATCHES_PER_ROUND));
            // A consumer goes along all the time: no offset may be refused, whatever is swapped below it.
            let reader = scope.spawn(|| {
                let mut client = Client::connect(port).expect("the broker accepts");
                while !stop.load(Ordering::Relaxed) {
                    read_all(&mut client, TOPIC);
                }
            });
            // The cleaner has the lowest priority: on a busy machine the last round waits for it.
            let before = passes;
            let cleaned = || round + 1 < ROUNDS || before + compactions(&broker) > 0;
            eventually("progress", || {
                let enough = progress.load(Ordering::Relaxed) >= stop_at || producer.is_finished();
                (enough && cleaned()).then_some(())
            });
            stop.store(true, Ordering::Relaxed);
            reader.join().expect("the reader");
            passes += compactions(&broker);
            broker.kill();
            producer.join().expect("the producer");
        });
    }
    assert!(passes > 0, "compaction ran under load");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    acked.check(&read_all(&mut client, TOPIC));
    load(broker.port, &mut random, &mut acked, &progress, BATCHES_PER_ROUND);
    // Keys that nobody writes to again: what was deleted must go, and stay away.
    eventually("compaction", || (compactions(&broker) > 1).then_some(()));
    let found = read_all(&mut client, TOPIC);
    acked.check(&found);
    broker.stop();
    let broker = Broker::start(&dir, &options());
    let again = read_all(&mut broker.connect(), TOPIC);
    acked.check(&again);
    broker.stop();
}

#[test]
fn a_compacted_log_is_small_whole_and_readable_at_every_offset() {
    let dir = DataDir::new("compaction-gaps");
    // Too small for a prepared file, so that all in the pool was given back.
    let options = options().with("ringlog.segment.pool.bytes", "33554432");
    let broker = Broker::start(&dir, &options);
    let mut client = broker.connect();
    // Segments above 1 MiB, because only those are worth recycling to the broker.
    let configs: Vec<_> =
        COMPACTED.iter().map(|(k, v)| (*k, if *k == "segment.bytes" { "2097152" } else { v })).collect();
    client.create(TOPIC, 1, &configs);
    let unkeyed = BatchBuilder::new().record(1, None, Some(b"value")).build();
    assert_eq!(client.produce(TOPIC, 0, 1, &unkeyed).expect("an answer").0, INVALID_RECORD);
    let (mut acked, progress) = (Acked::default(), AtomicI64::new(0));
    let mut random = Random::new(5);
    load(broker.port, &mut random, &mut acked, &progress, 2_000);
    let written: u64 = 2_000 * 3 * 1_000;
    eventually("a small log", || (segment_bytes(&dir, TOPIC) < written).then_some(()));
    eventually("files in the pool", || (pool_files(&dir) > 0).then_some(()));
    let (start, end) = (client.offset(TOPIC, 0, EARLIEST), client.offset(TOPIC, 0, LATEST));
    assert_eq!((start, end), (0, acked.end));
    // Every offset, in a gap or not, leads to the next record.
    let found = read_all(&mut client, TOPIC);
    acked.check(&found);
    assert!((found.len() as i64) < end, "there are gaps");
    for offset in (0..end).step_by(37) {
        let read = client.fetch(TOPIC, 0, offset, 0).expect("a fetch");
        let first = support::batches::split(&read.records).expect("batches").remove(0);
        assert!(first.info.last_offset() >= offset, "{offset}");
    }
    let newest = client.offset(TOPIC, 0, 1);
    assert!(found.contains_key(&newest), "a look-up by time finds a record that is there");
    let log = dir.partition(TOPIC, 0);
    let of_swaps = |path: &Path| {
        let names = std::fs::read_dir(path).expect("the log").map(|e| e.expect("entry").file_name());
        names.filter(|name| name.to_string_lossy().contains("cleaned")).count()
    };
    broker.stop();
    let broker = Broker::start(&dir, &options);
    let mut client = broker.connect();
    assert_eq!(of_swaps(&log), 0);
    assert_eq!((client.offset(TOPIC, 0, EARLIEST), client.offset(TOPIC, 0, LATEST)), (start, end));
    acked.check(&read_all(&mut client, TOPIC));
    broker.stop();
}

fn delete_records(client: &mut Client, topic: &str, partition: i32, before: i64) -> (i16, i64) {
    let one = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![one]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let response = client.call(2, &request).expect("an answer");
    let found = &response.topics[0].partitions[0];
    (found.error_code, found.low_watermark)
}

fn append_some(client: &mut Client, topic: &str, count: usize, size: usize) {
    for number in 0..count {
        client.append(topic, 0, 1, &support::batches::batch(&format!("{number}"), 2, size));
    }
}

#[test]
fn deleted_records_stay_deleted() {
    let dir = DataDir::new("delete-records");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("plain", 1, &[("segment.bytes", "1048576")]);
    client.create("table", 1, COMPACTED);
    append_some(&mut client, "plain", 30, 100_000);
    let segments = dir.segments("plain", 0).len();
    assert!(segments > 2);
    assert_eq!(delete_records(&mut client, "plain", 0, 0), (0, 0));
    assert_eq!(delete_records(&mut client, "plain", 0, 31), (0, 31));
    assert_eq!(delete_records(&mut client, "plain", 0, 5), (0, 31), "it never falls");
    assert_eq!(delete_records(&mut client, "plain", 0, 61).0, OFFSET_OUT_OF_RANGE);
    assert_eq!(delete_records(&mut client, "plain", 0, -2).0, OFFSET_OUT_OF_RANGE);
    assert_eq!(delete_records(&mut client, "table", 0, -1).0, POLICY_VIOLATION);
    assert_eq!(delete_records(&mut client, "nowhere", 0, -1).0, UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(delete_records(&mut client, "plain", 7, -1).0, UNKNOWN_TOPIC_OR_PARTITION);
    eventually("files go", || (dir.segments("plain", 0).len() < segments).then_some(()));
    broker.kill();

    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    assert_eq!(client.offset("plain", 0, EARLIEST), 31);
    assert_eq!(client.fetch("plain", 0, 30, 0).expect("a fetch").error, OFFSET_OUT_OF_RANGE);
    let read = client.fetch("plain", 0, 31, 0).expect("a fetch");
    assert_eq!((read.error, read.log_start), (0, 31));
    assert!(!read.records.is_empty());
    assert_eq!(delete_records(&mut client, "plain", 0, -1), (0, 60));
    broker.kill();

    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    assert_eq!((client.offset("plain", 0, EARLIEST), client.offset("plain", 0, LATEST)), (60, 60));
    append_some(&mut client, "plain", 1, 100);
    assert_eq!(client.offset("plain", 0, LATEST), 62);
    assert_eq!(client.read_from("plain", 0, 60).expect("what was added").len(), 1);
    broker.stop();
}

#[test]
fn retention_by_time_empties_an_idle_log_and_by_size_shortens_one() {
    let dir = DataDir::new("retention");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("short", 1, &[("retention.ms", "300")]);
    client.create("for-ever", 1, &[("retention.ms", "-1"), ("segment.ms", "50")]);
    client.create("small", 1, &[("retention.bytes", "2097152"), ("segment.bytes", "1048576")]);
    let both = [("cleanup.policy", "compact,delete"), ("retention.ms", "300"), ("segment.ms", "100")];
    client.create("both", 1, &both);
    append_some(&mut client, "short", 3, 100);
    append_some(&mut client, "small", 60, 50_000);
    let old = BatchBuilder::new().record(ringlog::rt::wall_ms(), Some(b"k"), Some(b"v")).build();
    client.append("both", 0, 1, &old);
    for _ in 0..3 {
        // An append that finds its segment older than segment.ms begins another.
        append_some(&mut client, "for-ever", 1, 100);
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    eventually("the idle log is empty", || (client.offset("short", 0, EARLIEST) == 6).then_some(()));
    assert_eq!(client.offset("short", 0, LATEST), 6);
    eventually("so is the compacted one", || (client.offset("both", 0, EARLIEST) == 1).then_some(()));
    eventually("the large log is shorter", || (client.offset("small", 0, EARLIEST) > 0).then_some(()));
    let left = client.read_from("small", 0, client_start(&mut broker.connect(), "small")).expect("the rest");
    let left: usize = left.iter().map(|batch| batch.info.size_bytes).sum();
    assert!((2 << 20..5 << 20).contains(&left), "{left}");
    assert_eq!(client.offset("for-ever", 0, EARLIEST), 0);
    assert!(dir.segments("for-ever", 0).len() >= 2, "segment.ms rolls");
    append_some(&mut client, "short", 1, 100);
    assert_eq!(client.offset("short", 0, LATEST), 8);
    broker.stop();
}

fn client_start(client: &mut Client, topic: &str) -> i64 {
    client.offset(topic, 0, EARLIEST)
}

#[test]
fn timestamps_are_stamped_or_bounded_as_the_topic_says() {
    let dir = DataDir::new("timestamps");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let bounds = [("message.timestamp.before.max.ms", "60000"), ("message.timestamp.after.max.ms", "60000")];
    client.create("bounded", 1, &bounds);
    let at = |timestamp: i64| BatchBuilder::new().record(timestamp, None, Some(b"v")).build();
    let now_ms = ringlog::rt::wall_ms();
    client.append("stamped", 0, 1, &at(1_000));
    let read = client.fetch("stamped", 0, 0, 0).expect("a fetch").batches().remove(0);
    assert!(read.info.max_timestamp >= now_ms);
    assert_eq!(client.offset("stamped", 0, now_ms), 0);
    let far = [now_ms - 120_000, now_ms + 600_000].map(|timestamp| (timestamp, INVALID_TIMESTAMP));
    for (timestamp, error) in far.into_iter().chain([(now_ms, 0)]) {
        assert_eq!(client.produce("bounded", 0, 1, &at(timestamp)).expect("an answer").0, error);
    }
    broker.stop();
}
