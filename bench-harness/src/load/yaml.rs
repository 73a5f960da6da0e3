//! Workload files: those of the OpenMessaging Benchmark as they are, and more keys of our own in the same file.
//!
//! Owner: the main thread. Invariants: an unknown key is an error (a typing mistake must not change a benchmark in
//! silence), a known one that has no meaning here becomes a note. Must not: read anything but the files it is given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::dist::{Keys, Sizes};
use super::{BatchRule, Course, Rate, Workload};
use crate::batch::Codec;
use crate::error::{BenchError, Result, io_err};
use crate::limits::RECORD_BYTES_MAX;

/// Distinct keys of the OpenMessaging Benchmark's key distributors.
const OMB_KEYS: usize = 10_000;

/// `producerRate`: a number, or `max`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RateValue {
    Number(f64),
    Word(String),
}

/// All keys. Those of the OpenMessaging Benchmark first, then our own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    name: Option<String>,
    topics: Option<usize>,
    partitions_per_topic: Option<usize>,
    key_distributor: Option<String>,
    message_size: Option<usize>,
    use_randomized_payloads: Option<bool>,
    random_bytes_ratio: Option<f64>,
    randomized_payload_pool_size: Option<usize>,
    payload_file: Option<String>,
    subscriptions_per_topic: Option<f64>,
    producers_per_topic: Option<usize>,
    consumer_per_subscription: Option<usize>,
    producer_rate: Option<RateValue>,
    #[serde(rename = "consumerBacklogSizeGB")]
    consumer_backlog_size_gb: Option<f64>,
    test_duration_minutes: Option<f64>,
    warmup_duration_minutes: Option<f64>,
    producer_start_rate: Option<f64>,
    // Of the OpenMessaging Benchmark and its forks, without a meaning here.
    backlog_drain_ratio: Option<f64>,
    acceptable_backlog: Option<f64>,
    producer_increment_rate: Option<f64>,
    producer_increment_seconds: Option<f64>,
    producer_pause_before_drain: Option<f64>,
    producer_pause_during_drain: Option<f64>,
    message_rate_received_for_subscription: Option<f64>,
    // Ours.
    record_size: Option<Sizes>,
    keys: Option<Keys>,
    compression: Option<Codec>,
    records_per_batch: Option<u32>,
    request_bytes: Option<usize>,
    linger_ms: Option<f64>,
    batch_bytes: Option<usize>,
    acks: Option<Acks>,
    in_flight: Option<usize>,
    duration_seconds: Option<f64>,
    warmup_seconds: Option<f64>,
    rate_curve: Option<Vec<(f64, f64)>>,
    curve_period_seconds: Option<f64>,
    topic_configs: BTreeMap<String, Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Acks {
    Number(i16),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Number(i64),
    Text(String),
}

/// The parts of an OpenMessaging Benchmark driver file that concern a Kafka client.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Driver {
    driver_class: String,
    replication_factor: Option<u32>,
    topic_config: String,
    producer_config: String,
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(io_err(format!("read {}", path.display())))
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T> {
    serde_yaml_ng::from_str(text).map_err(|error| BenchError::Usage(format!("{}: {error}", path.display())))
}

fn acks_code(text: &str) -> Result<i16> {
    match text.trim() {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        "0" => Ok(0),
        other => Err(BenchError::Usage(format!("acks is 0, 1 or all, not {other}"))),
    }
}

/// Reads a workload file.
///
/// # Errors
/// When it cannot be read, has an unknown key, or asks for what is out of bounds.
pub(crate) fn workload(path: &Path) -> Result<Workload> {
    let file: File = parse(path, &read(path)?)?;
    let mut out = Workload {
        // The defaults of the OpenMessaging Benchmark where it has some.
        warmup_s: 60.0,
        duration_s: 300.0,
        ..Workload::default()
    };
    file.shape(path, &mut out)?;
    file.pace(&mut out)?;
    file.note_ignored(&mut out.notes);
    out.check()?;
    Ok(out)
}

impl File {
    fn shape(&self, path: &Path, out: &mut Workload) -> Result<()> {
        out.name = self.name.clone().unwrap_or_else(|| {
            path.file_stem().map_or("workload".into(), |stem| stem.to_string_lossy().into_owned())
        });
        out.topics = self.topics.unwrap_or(1);
        out.partitions = self.partitions_per_topic.unwrap_or(1);
        out.sizes = match (&self.record_size, self.message_size) {
            (Some(sizes), _) => sizes.clone(),
            (None, bytes) => Sizes::Fixed { bytes: bytes.unwrap_or(1024) },
        };
        out.keys = match (&self.keys, self.key_distributor.as_deref()) {
            (Some(keys), _) => keys.clone(),
            (None, None | Some("NO_KEY")) => Keys::None,
            (None, Some("KEY_ROUND_ROBIN" | "RANDOM_NANO")) => Keys::Uniform { count: OMB_KEYS },
            (None, Some(other)) => {
                return Err(BenchError::Usage(format!("unknown keyDistributor {other}")));
            }
        };
        out.codec = self.compression.unwrap_or_default();
        if self.use_randomized_payloads == Some(true) {
            out.random_share = self.random_bytes_ratio.unwrap_or(1.0);
        } else if let Some(name) = &self.payload_file {
            match payload(path, name)? {
                Some(bytes) => out.payload = Some(Arc::new(bytes)),
                None => out.notes.push(format!("payload file {name} is not here: random bytes instead")),
            }
        } else if let Some(share) = self.random_bytes_ratio {
            out.random_share = share;
        }
        out.producers = self.producers_per_topic.unwrap_or(1);
        out.groups = self.subscriptions_per_topic.unwrap_or(1.0);
        out.consumers = self.consumer_per_subscription.unwrap_or(1);
        out.in_flight = self.in_flight.unwrap_or(out.in_flight);
        out.topic_configs = self
            .topic_configs
            .iter()
            .map(|(key, value)| {
                let value = match value {
                    Scalar::Bool(value) => value.to_string(),
                    Scalar::Number(value) => value.to_string(),
                    Scalar::Text(value) => value.clone(),
                };
                (key.clone(), value)
            })
            .collect();
        if let Some(acks) = &self.acks {
            out.acks = match acks {
                Acks::Number(code) => acks_code(&code.to_string())?,
                Acks::Word(word) => acks_code(word)?,
            };
        }
        let BatchRule::Linger { linger_ms, bytes } = out.batch else { return Ok(()) };
        out.batch = match (self.records_per_batch, self.request_bytes) {
            (Some(records), _) => BatchRule::Records(records.max(1)),
            (None, Some(bytes)) => BatchRule::Bytes(bytes),
            (None, None) => BatchRule::Linger {
                linger_ms: self.linger_ms.unwrap_or(linger_ms),
                bytes: self.batch_bytes.unwrap_or(bytes),
            },
        };
        Ok(())
    }

    fn pace(&self, out: &mut Workload) -> Result<()> {
        out.rate = match &self.producer_rate {
            None => Rate::Search,
            Some(RateValue::Number(rate)) if *rate == 0.0 => Rate::Search,
            Some(RateValue::Number(rate)) => Rate::PerS(*rate),
            Some(RateValue::Word(word)) if word == "max" => Rate::Max,
            Some(RateValue::Word(word)) => {
                return Err(BenchError::Usage(format!("producerRate is a number or max, not {word}")));
            }
        };
        out.rate_first = self.producer_start_rate;
        out.backlog_bytes = (self.consumer_backlog_size_gb.unwrap_or(0.0) * (1u64 << 30) as f64) as u64;
        let minutes = |minutes: Option<f64>| minutes.map(|minutes| minutes * 60.0);
        out.duration_s =
            self.duration_seconds.or(minutes(self.test_duration_minutes)).unwrap_or(out.duration_s);
        out.warmup_s = self.warmup_seconds.or(minutes(self.warmup_duration_minutes)).unwrap_or(out.warmup_s);
        if let Some(points) = &self.rate_curve {
            out.course = Some(Course::Points(points.clone()));
            out.follow_course = true;
        }
        out.course_s = self.curve_period_seconds.unwrap_or(out.duration_s);
        Ok(())
    }

    fn note_ignored(&self, notes: &mut Vec<String>) {
        for (key, value) in [
            ("backlogDrainRatio", self.backlog_drain_ratio),
            ("acceptableBacklog", self.acceptable_backlog),
            ("producerIncrementRate", self.producer_increment_rate),
            ("producerIncrementSeconds", self.producer_increment_seconds),
            ("producerPauseBeforeDrain", self.producer_pause_before_drain),
            ("producerPauseDuringDrain", self.producer_pause_during_drain),
            ("messageRateReceivedForSubscription", self.message_rate_received_for_subscription),
            ("randomizedPayloadPoolSize", self.randomized_payload_pool_size.map(|count| count as f64)),
        ] {
            if let Some(value) = value {
                notes.push(format!("{key}: {value} has no meaning here and was not applied"));
            }
        }
    }
}

/// A payload file beside the workload file, or beside its folder as the OpenMessaging Benchmark keeps them.
fn payload(workload: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let folder = workload.parent().unwrap_or(Path::new("."));
    for base in [folder, &folder.join("..")] {
        let path = base.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(io_err(format!("read {}", path.display())))?;
            if bytes.is_empty() || bytes.len() > RECORD_BYTES_MAX {
                return Err(BenchError::Usage(format!("{}: a payload of a sensible size", path.display())));
            }
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The properties in a block of `key=value` lines.
fn properties(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim(), value.trim()))
}

/// Applies a driver file of the OpenMessaging Benchmark: topic configuration, acks, batching, compression.
///
/// # Errors
/// When it cannot be read or is not one for Kafka.
pub(crate) fn apply_driver(path: &Path, out: &mut Workload) -> Result<()> {
    let driver: Driver = parse(path, &read(path)?)?;
    if !driver.driver_class.to_lowercase().contains("kafka") {
        return Err(BenchError::Usage(format!("{}: no driver for Kafka", path.display())));
    }
    let number = |key: &str, value: &str| {
        value.parse::<f64>().map_err(|_| BenchError::Usage(format!("{key}={value} is no number")))
    };
    let (mut linger, mut bytes) = (0.0, 16_384.0);
    for (key, value) in properties(&driver.producer_config) {
        match key {
            "acks" => out.acks = acks_code(value)?,
            "linger.ms" => linger = number(key, value)?,
            "batch.size" => bytes = number(key, value)?,
            "max.in.flight.requests.per.connection" => out.in_flight = number(key, value)? as usize,
            "compression.type" => out.codec = parse(path, value)?,
            _ => out.notes.push(format!("producerConfig {key}={value} was not applied")),
        }
    }
    out.batch = BatchRule::Linger { linger_ms: linger, bytes: bytes as usize };
    for (key, value) in properties(&driver.topic_config) {
        let replicas = key == "min.insync.replicas" && value != "1";
        if replicas {
            out.notes.push(format!("topicConfig {key}={value} was not applied: topics have one replica"));
        } else {
            out.topic_configs.push((key.to_owned(), value.to_owned()));
        }
    }
    if let Some(factor) = driver.replication_factor.filter(|factor| *factor > 1) {
        out.notes.push(format!("replicationFactor {factor} was not applied: topics have one replica"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Workload> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-load.yaml");
        std::fs::write(&path, text).unwrap();
        workload(&path)
    }

    #[test]
    fn an_omb_file_is_taken_as_it_is() {
        let load = file(
            "# a comment\nname: 2 topics / 16 partitions\n\ntopics: 2\npartitionsPerTopic: 16\n\
             keyDistributor: \"KEY_ROUND_ROBIN\"\nmessageSize: 200\npayloadFile: \"payload/nowhere.data\"\n\
             subscriptionsPerTopic: 3\nconsumerPerSubscription: 2\nproducersPerTopic: 4\nproducerRate: 50000\n\
             consumerBacklogSizeGB: 1\ntestDurationMinutes: 15\nbacklogDrainRatio: 1.5\n",
        )
        .unwrap();
        assert_eq!((load.topics, load.partitions, load.producers, load.consumers), (2, 16, 4, 2));
        assert_eq!((load.groups, load.duration_s, load.warmup_s), (3.0, 900.0, 60.0));
        assert_eq!((load.rate, load.backlog_bytes), (Rate::PerS(50_000.0), 1 << 30));
        assert_eq!(load.keys, Keys::Uniform { count: OMB_KEYS });
        assert_eq!(load.sizes, Sizes::Fixed { bytes: 200 });
        assert_eq!(load.name, "2 topics / 16 partitions");
        assert_eq!(load.notes.len(), 2, "{:?}", load.notes);
    }

    #[test]
    fn a_rate_of_zero_is_a_search_and_typing_mistakes_are_errors() {
        let load = file("topics: 1\nproducerRate: 0\nproducerStartRate: 5000\n").unwrap();
        assert_eq!((load.rate, load.rate_first, load.name.as_str()), (Rate::Search, Some(5000.0), "a-load"));
        for wrong in
            ["topcs: 1\n", "topics: 0\n", "producerRate: fast\n", "keyDistributor: NOBODY\n", "acks: 7\n"]
        {
            assert!(file(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn our_own_keys() {
        let load = file(
            "recordSize: {distribution: lognormal, median: 512, sigma: 1.0, max: 65536}\n\
             keys: {distribution: zipf, count: 1000, theta: 0.99}\ncompression: lz4\nrecordsPerBatch: 50\n\
             acks: all\nrateCurve: [[0, 0.5], [0.5, 1], [1, 0.5]]\ncurvePeriodSeconds: 60\n\
             durationSeconds: 20\nwarmupSeconds: 1\nproducerRate: 1000\nsubscriptionsPerTopic: 3.7\n\
             topicConfigs: {segment.bytes: 1048576, cleanup.policy: delete}\n",
        )
        .unwrap();
        assert_eq!(load.keys, Keys::Zipf { count: 1000, theta: 0.99 });
        assert_eq!((load.codec, load.batch, load.groups), (Codec::Lz4, BatchRule::Records(50), 3.7));
        assert_eq!(load.topic_configs[1], ("segment.bytes".to_owned(), "1048576".to_owned()));
        let curve = load.curve(1_000.0, 1.0).unwrap().unwrap();
        assert!((curve.mean_per_s(60.0) - 750.0).abs() < 1.0);
        assert!(load.curve(1_000.0, 60.0).unwrap().unwrap().mean_per_s(1.0) > 700.0);
    }

    #[test]
    fn a_driver_file_sets_the_producer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("driver.yaml");
        let text = "name: Kafka\ndriverClass: some.where.kafka.KafkaBenchmarkDriver\nreplicationFactor: 3\n\
                    topicConfig: |\n  min.insync.replicas=2\n  flush.messages=1\n\ncommonConfig: |\n  \
                    bootstrap.servers=localhost:9092\n\nproducerConfig: |\n  acks=1\n  linger.ms=10\n  \
                    batch.size=131072\n  compression.type=zstd\n";
        std::fs::write(&path, text).unwrap();
        let mut load = Workload::default();
        apply_driver(&path, &mut load).unwrap();
        assert_eq!((load.acks, load.codec), (1, Codec::Zstd));
        assert_eq!(load.batch, BatchRule::Linger { linger_ms: 10.0, bytes: 131_072 });
        assert_eq!(load.topic_configs, [("flush.messages".to_owned(), "1".to_owned())]);
        assert_eq!(load.notes.len(), 2);
        std::fs::write(&path, text.replace("kafka", "pulsar").replace("Kafka", "Pulsar")).unwrap();
        assert!(apply_driver(&path, &mut load).is_err());
    }
}
