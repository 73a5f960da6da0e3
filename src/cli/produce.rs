//! `ringlog produce`: lines from the standard input to a topic, with the flags of Kafka's `kafka-console-producer`.
//!
//! Owner: the command that runs. Invariants: records with the same key go to the same partition as Java's producer
//! sends them to; an acknowledged line is where the acks say. Must not: read further ahead than one batch.

use std::collections::BTreeMap;
use std::io::BufRead;

use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, TopicName};

use super::client::{ClientError, Cluster, Endpoint, Result, check, text};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch::Compression;

/// Batches are sent when they have this many bytes.
const BATCH_BYTES: usize = 64 << 10;

#[derive(clap::Args)]
pub(super) struct ProduceArguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// The topic; it is created if the cluster does that
    #[arg(long)]
    topic: String,
    /// Send everything to this partition
    #[arg(long)]
    partition: Option<i32>,
    /// How lines are read: parse.key=true, key.separator=:, parse.headers=true, null.marker=NULL
    #[arg(long, visible_alias = "reader-property", value_name = "KEY=VALUE")]
    property: Vec<String>,
    /// Producer settings: acks and compression.type
    #[arg(long, visible_alias = "command-property", value_name = "KEY=VALUE")]
    producer_property: Vec<String>,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "CODEC", num_args = 0..=1, default_missing_value = "gzip")]
    compression_codec: Option<String>,
    /// 0, 1 or all
    #[arg(long, visible_alias = "acks", value_name = "ACKS")]
    request_required_acks: Option<String>,
    /// Wait for each record before the next one is sent
    #[arg(long)]
    sync: bool,
}

/// How a line becomes a record.
#[derive(Debug, PartialEq, Eq)]
struct LineFormat {
    parse_key: bool,
    key_separator: String,
    parse_headers: bool,
    headers_delimiter: String,
    headers_separator: String,
    headers_key_separator: String,
    null_marker: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl LineFormat {
    fn new(properties: &[String]) -> Result<LineFormat> {
        let mut format = LineFormat {
            parse_key: false,
            key_separator: "\t".to_owned(),
            parse_headers: false,
            headers_delimiter: "\t".to_owned(),
            headers_separator: ",".to_owned(),
            headers_key_separator: ":".to_owned(),
            null_marker: None,
        };
        for property in properties {
            let (key, value) = split_property(property)?;
            match key {
                "parse.key" => format.parse_key = value == "true",
                "key.separator" => format.key_separator = value.to_owned(),
                "parse.headers" => format.parse_headers = value == "true",
                "headers.delimiter" => format.headers_delimiter = value.to_owned(),
                "headers.separator" => format.headers_separator = value.to_owned(),
                "headers.key.separator" => format.headers_key_separator = value.to_owned(),
                "null.marker" => format.null_marker = Some(value.to_owned()),
                "ignore.error" => {}
                other => return Err(ClientError::Protocol(format!("--property {other} is unknown"))),
            }
        }
        Ok(format)
    }

    fn parse(&self, line: &str) -> Result<Line> {
        let missing = |what: &str| ClientError::Protocol(format!("there is no {what} in: {line}"));
        let field =
            |text: &str| (self.null_marker.as_deref() != Some(text)).then(|| text.as_bytes().to_vec());
        let mut rest = line;
        let mut parsed = Line::default();
        if self.parse_headers {
            let (headers, after) =
                rest.split_once(&self.headers_delimiter).ok_or_else(|| missing("headers delimiter"))?;
            for header in headers.split(&self.headers_separator).filter(|header| !header.is_empty()) {
                let (name, value) = header
                    .split_once(&self.headers_key_separator)
                    .ok_or_else(|| missing("header separator"))?;
                parsed.headers.push((name.to_owned(), field(value)));
            }
            rest = after;
        }
        if self.parse_key {
            let (key, after) =
                rest.split_once(&self.key_separator).ok_or_else(|| missing("key separator"))?;
            parsed.key = field(key);
            rest = after;
        }
        parsed.value = field(rest);
        Ok(parsed)
    }
}

pub(super) fn split_property(property: &str) -> Result<(&str, &str)> {
    property.split_once('=').ok_or_else(|| ClientError::Protocol(format!("{property}: expected KEY=VALUE")))
}

fn compression(name: &str) -> Result<Compression> {
    Ok(match name {
        "none" | "uncompressed" => Compression::None,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => return Err(ClientError::Protocol(format!("compression {other} is unknown"))),
    })
}

fn acks(name: &str) -> Result<i16> {
    match name {
        "all" | "-1" => Ok(-1),
        "0" => Ok(0),
        "1" => Ok(1),
        other => Err(ClientError::Protocol(format!("acks {other}: expected 0, 1 or all"))),
    }
}

/// The partition that Java's producer chooses for a key: murmur2, its sign bit cut off.
fn partition_of(key: &[u8], count: i32) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mix = |word: u32| {
        let word = word.wrapping_mul(M);
        (word ^ (word >> 24)).wrapping_mul(M)
    };
    let mut hash = 0x9747_b28cu32 ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        hash = hash.wrapping_mul(M) ^ mix(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        let word = tail.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ word).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) as i32 % count
}

pub(super) fn run(arguments: &ProduceArguments) -> Result<()> {
    let format = LineFormat::new(&arguments.property)?;
    let mut codec = compression(arguments.compression_codec.as_deref().unwrap_or("none"))?;
    let mut acks_wanted = acks(arguments.request_required_acks.as_deref().unwrap_or("all"))?;
    for property in &arguments.producer_property {
        match split_property(property)? {
            ("acks", value) => acks_wanted = acks(value)?,
            ("compression.type", value) => codec = compression(value)?,
            (other, _) => eprintln!("ringlog: producer property {other} has no effect here"),
        }
    }
    let mut cluster = Cluster::connect(&arguments.endpoint)?;
    let leaders = leaders(&mut cluster, &arguments.topic)?;
    let mut producer = Producer {
        cluster,
        topic: arguments.topic.clone(),
        leaders,
        acks: acks_wanted,
        codec,
        timeout_ms: i32::try_from(arguments.endpoint.request_timeout_ms).unwrap_or(i32::MAX),
        pending: BTreeMap::new(),
        pending_bytes: 0,
        sticky: 0,
    };
    if arguments.partition.is_some_and(|partition| !producer.leaders.contains_key(&partition)) {
        return Err(ClientError::Protocol("there is no such partition".to_owned()));
    }
    let mut input = std::io::stdin().lock();
    let interactive = std::io::IsTerminal::is_terminal(&input);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = input
            .read_until(b'\n', &mut line)
            .map_err(|error| ClientError::Io("standard input".to_owned(), error))?;
        if count == 0 {
            return producer.flush();
        }
        let text = String::from_utf8_lossy(&line);
        let parsed = format.parse(text.trim_end_matches(['\n', '\r']))?;
        producer.add(parsed, arguments.partition);
        if arguments.sync || interactive || producer.pending_bytes >= BATCH_BYTES {
            producer.flush()?;
        }
    }
}

/// The partitions of the topic with their leaders. Asking for a topic by name creates it where that is configured.
fn leaders(cluster: &mut Cluster, topic: &str) -> Result<BTreeMap<i32, i32>> {
    const UNKNOWN_TOPIC: i16 = 3;
    const LEADER_NOT_AVAILABLE: i16 = 5;
    for _ in 0..50 {
        let answer = cluster.any().call(1, 12, |_| {
            use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
            let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text(topic))));
            // Creation is allowed by default.
            kafka_protocol::messages::MetadataRequest::default().with_topics(Some(vec![topic]))
        })?;
        for found in answer.topics {
            if [UNKNOWN_TOPIC, LEADER_NOT_AVAILABLE].contains(&found.error_code) {
                continue;
            }
            check(&format!("topic {topic}"), found.error_code, None)?;
            return Ok(found.partitions.iter().map(|p| (p.partition_index, p.leader_id.0)).collect());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err(ClientError::Refused(format!("topic {topic} does not exist")))
}

struct Producer {
    cluster: Cluster,
    topic: String,
    leaders: BTreeMap<i32, i32>,
    acks: i16,
    codec: Compression,
    timeout_ms: i32,
    pending: BTreeMap<i32, BatchBuilder>,
    pending_bytes: usize,
    sticky: i32,
}

impl Producer {
    fn add(&mut self, line: Line, partition: Option<i32>) {
        let count = self.leaders.len().max(1) as i32;
        let partition = match (partition, &line.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, count),
            (None, None) => self.sticky % count,
        };
        let builder = self.pending.remove(&partition).unwrap_or_else(|| match self.codec {
            Compression::Snappy => BatchBuilder::new().xerial(),
            codec => BatchBuilder::new().compression(codec),
        });
        let headers: Vec<(&str, Option<&[u8]>)> =
            line.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let builder = builder.record_with_headers(
            crate::rt::wall_ms(),
            line.key.as_deref(),
            line.value.as_deref(),
            &headers,
        );
        self.pending_bytes +=
            32 + line.key.map_or(0, |key| key.len()) + line.value.map_or(0, |value| value.len());
        self.pending.insert(partition, builder);
    }

    fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        self.sticky += 1;
        for (partition, builder) in std::mem::take(&mut self.pending) {
            let data = PartitionProduceData::default()
                .with_index(partition)
                .with_records(Some(builder.build().into()));
            let topic = TopicProduceData::default()
                .with_name(TopicName(text(&self.topic)))
                .with_partition_data(vec![data]);
            let request = ProduceRequest::default()
                .with_acks(self.acks)
                .with_timeout_ms(self.timeout_ms)
                .with_topic_data(vec![topic]);
            let leader = self.leaders.get(&partition).copied().unwrap_or(-1);
            let broker = self.cluster.broker(leader)?;
            // Up to version 12 topics go by name.
            if self.acks == 0 {
                let version = broker.version::<ProduceRequest>(7, 12)?;
                broker.send(version, &request)?;
                continue;
            }
            let answer = broker.call(7, 12, |_| request)?;
            for result in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
                check(
                    &format!("{}-{partition}", self.topic),
                    result.error_code,
                    result.error_message.as_deref(),
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Java's `Utils.murmur2` gives, by its own unit test: 21 -> -973932308, foobar -> -790332482,
    /// abc -> 479470107.
    #[test]
    fn keys_go_where_java_sends_them() {
        let positive = |hash: i32| hash & 0x7fff_ffff;
        for (key, hash) in [("21", -973_932_308), ("foobar", -790_332_482), ("abc", 479_470_107)] {
            assert_eq!(partition_of(key.as_bytes(), 1000), positive(hash) % 1000, "{key}");
        }
    }

    #[test]
    fn lines_are_taken_apart_as_the_properties_say() {
        let property = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let plain = LineFormat::new(&[]).expect("valid");
        assert_eq!(plain.parse("a\tb").expect("parsed").value.as_deref(), Some(&b"a\tb"[..]));
        let full = ["parse.key=true", "key.separator=|", "parse.headers=true", "null.marker=NULL"];
        let full = LineFormat::new(&property(&full)).expect("valid");
        let line = full.parse("h:1,i:NULL\tk|NULL").expect("parsed");
        assert_eq!((line.key.as_deref(), line.value), (Some(&b"k"[..]), None));
        assert_eq!(line.headers, [("h".to_owned(), Some(b"1".to_vec())), ("i".to_owned(), None)]);
        assert!(full.parse("no separators").is_err());
        assert!(LineFormat::new(&property(&["x=1"])).is_err() && LineFormat::new(&property(&["x"])).is_err());
    }
}
