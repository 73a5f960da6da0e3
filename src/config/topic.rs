//! The configuration of a topic: its overrides over the broker's defaults.
//!
//! Owner: none; a `TopicConfig` is built when a partition is opened or its topic's configuration changes.
//! Invariants: `effective` needs overrides that `validate_topic_config` accepted when they were stored; one that
//! is no longer valid falls back to the broker's default. Must not: be consulted per record.

use super::broker::{BrokerConfig, TimestampType};
use super::keys::{as_bool, split_list};
use super::topic_keys::topic_key;
use std::collections::BTreeMap;

/// What happens to old records; both may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whole segments go by age or size.
    pub delete: bool,
    /// The last record of each key stays; records need keys.
    pub compact: bool,
}

/// How batches are to be compressed on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As the producer chose.
    Producer,
    /// No compression.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// The effective configuration of a topic. Units are in the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// `retention.ms`; -1 is for ever.
    pub retention_ms: i64,
    /// `retention.bytes` of one partition; -1 is no limit.
    pub retention_bytes: i64,
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `max.message.bytes`, of one record batch.
    pub max_message_bytes: i32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `flush.messages`; `i64::MAX` when not relaxed.
    pub flush_messages: i64,
    /// `flush.ms`; `i64::MAX` when not relaxed.
    pub flush_ms: i64,
    /// `write.caching`.
    pub write_caching: bool,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `min.cleanable.dirty.ratio`, per million.
    pub dirty_ratio_ppm: u64,
    /// `min.compaction.lag.ms`.
    pub compaction_lag_ms_min: i64,
    /// `max.compaction.lag.ms`.
    pub compaction_lag_ms_max: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `compression.type`.
    pub compression_type: Compression,
    /// `compression.gzip.level`, 1 to 9, or -1 for the codec's own default.
    pub gzip_level: i32,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
}

impl TopicConfig {
    /// The topic's overrides over the broker's defaults.
    pub fn effective(broker: &BrokerConfig, overrides: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| topic_value(broker, overrides, name);
        let long = |name: &str| {
            let value = text(name).parse::<i64>();
            assert!(value.is_ok(), "{name} is a checked number");
            value.unwrap_or_default()
        };
        Self {
            retention_ms: long("retention.ms"),
            retention_bytes: long("retention.bytes"),
            segment_bytes: long("segment.bytes") as u32,
            segment_ms: long("segment.ms"),
            segment_jitter_ms: long("segment.jitter.ms"),
            max_message_bytes: long("max.message.bytes") as i32,
            timestamp_type: TimestampType::parse(&text("message.timestamp.type")),
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            flush_messages: long("flush.messages"),
            flush_ms: long("flush.ms"),
            write_caching: as_bool(&text("write.caching")).unwrap_or(false),
            cleanup_policy: CleanupPolicy::parse(&text("cleanup.policy")),
            dirty_ratio_ppm: per_million(&text("min.cleanable.dirty.ratio")),
            compaction_lag_ms_min: long("min.compaction.lag.ms"),
            compaction_lag_ms_max: long("max.compaction.lag.ms"),
            delete_retention_ms: long("delete.retention.ms"),
            compression_type: Compression::parse(&text("compression.type")),
            gzip_level: long("compression.gzip.level") as i32,
            min_insync_replicas: long("min.insync.replicas") as i32,
        }
    }
}

/// A checked share between 0 and 1.
fn per_million(text: &str) -> u64 {
    (text.parse::<f64>().unwrap_or(1.0).clamp(0.0, 1.0) * 1e6) as u64
}

impl CleanupPolicy {
    /// Reads a checked value.
    pub(crate) fn parse(text: &str) -> Self {
        let has = |word| split_list(text).any(|item| item == word);
        Self { delete: has("delete"), compact: has("compact") }
    }
}

impl Compression {
    fn parse(text: &str) -> Self {
        match text {
            "uncompressed" => Self::Uncompressed,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => Self::Producer,
        }
    }
}

/// The effective value of a topic key in text form: the override, or the broker's default in the topic's unit.
/// Empty for a key that does not exist.
pub fn topic_value(broker: &BrokerConfig, overrides: &BTreeMap<String, String>, name: &str) -> String {
    match overrides.get(name) {
        Some(value) if validate_topic_config(name, value).is_ok() => value.trim().to_owned(),
        _ => broker_default(broker, name),
    }
}

/// Checks one override. The error says what is wrong, without the key.
pub fn validate_topic_config(name: &str, value: &str) -> Result<(), String> {
    let spec = topic_key(name).ok_or_else(|| "there is no such topic configuration".to_owned())?;
    spec.kind.check(value)?;
    match name {
        "cleanup.policy" if split_list(value).next().is_none() => {
            Err("must be delete, compact or both".to_owned())
        }
        "compression.gzip.level" if value.trim() == "0" => Err("must be between 1 and 9, or -1".to_owned()),
        "remote.storage.enable" if as_bool(value) == Some(true) => {
            Err("there is no tiered storage in this version".to_owned())
        }
        "leader.replication.throttled.replicas" | "follower.replication.throttled.replicas" => {
            check_throttled_replicas(value)
        }
        _ => Ok(()),
    }
}

/// Checks a topic's whole set of overrides, and what they mean together. The error names the key.
pub fn validate_topic_configs(
    broker: &BrokerConfig,
    overrides: &BTreeMap<String, String>,
) -> Result<(), String> {
    for (name, value) in overrides {
        validate_topic_config(name, value)
            .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
    }
    let long = |name: &str| topic_value(broker, overrides, name).parse::<i64>().unwrap_or_default();
    if long("min.compaction.lag.ms") > long("max.compaction.lag.ms") {
        return Err("min.compaction.lag.ms must not be larger than max.compaction.lag.ms".to_owned());
    }
    Ok(())
}

fn check_throttled_replicas(value: &str) -> Result<(), String> {
    let pair = |item: &str| {
        item.split_once(':').is_some_and(|(p, b)| p.parse::<u32>().is_ok() && b.parse::<u32>().is_ok())
    };
    match split_list(value).find(|item| !pair(item)) {
        Some(_) if value.trim() == "*" => Ok(()),
        Some(item) => Err(format!("'{item}' is not of the form partition:broker")),
        None => Ok(()),
    }
}

fn broker_default(broker: &BrokerConfig, name: &str) -> String {
    match name {
        "retention.ms" => broker.retention_ms.to_string(),
        "segment.ms" => broker.roll_ms.to_string(),
        "flush.ms" => broker.flush_ms.to_string(),
        "segment.jitter.ms" => {
            let hours = || broker.value("log.roll.jitter.hours").and_then(|h| h.parse::<i64>().ok());
            broker
                .value("log.roll.jitter.ms")
                .unwrap_or_else(|| hours().unwrap_or(0).saturating_mul(3_600_000).to_string())
        }
        _ => {
            let Some(spec) = topic_key(name) else { return String::new() };
            let inherited = spec.synonyms.first().and_then(|synonym| broker.value(synonym));
            inherited.or_else(|| spec.default.map(str::to_owned)).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{ConfigSources, load};
    use super::super::topic_keys::TOPIC_KEYS;
    use super::*;

    fn broker(pairs: &[(&str, &str)]) -> BrokerConfig {
        let flags = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&ConfigSources { flags, ..ConfigSources::default() }).expect("valid").config
    }

    fn overrides(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn defaults_without_overrides_are_those_of_the_table() {
        let broker = broker(&[]);
        for spec in TOPIC_KEYS {
            assert_eq!(
                Some(topic_value(&broker, &BTreeMap::new(), spec.name).as_str()),
                spec.default,
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn the_broker_sets_defaults_and_the_topic_wins() {
        let broker = broker(&[
            ("log.retention.minutes", "1"),
            ("log.roll.hours", "2"),
            ("ringlog.write.caching", "true"),
            ("log.flush.scheduler.interval.ms", "77"),
        ]);
        let config = TopicConfig::effective(&broker, &BTreeMap::new());
        assert_eq!((config.retention_ms, config.segment_ms, config.flush_ms), (60_000, 7_200_000, 77));
        assert!(config.write_caching && config.cleanup_policy.delete && !config.cleanup_policy.compact);
        let own = overrides(&[
            ("retention.ms", "5"),
            ("cleanup.policy", "compact, delete"),
            ("write.caching", "false"),
            ("compression.type", "zstd"),
            ("message.timestamp.type", "LogAppendTime"),
            ("segment.bytes", "1048576"),
        ]);
        let config = TopicConfig::effective(&broker, &own);
        assert_eq!((config.retention_ms, config.segment_bytes), (5, 1 << 20));
        assert_eq!(config.cleanup_policy, CleanupPolicy { delete: true, compact: true });
        assert!(!config.write_caching);
        assert_eq!(config.compression_type, Compression::Zstd);
        assert_eq!(config.timestamp_type, TimestampType::LogAppendTime);
    }

    #[test]
    fn an_override_that_became_invalid_falls_back() {
        let config =
            TopicConfig::effective(&broker(&[]), &overrides(&[("segment.bytes", "1"), ("zzz", "1")]));
        assert_eq!(config.segment_bytes, 1 << 30);
    }

    #[test]
    fn overrides_are_checked() {
        for (name, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("segment.bytes", "100"),
            ("cleanup.policy", ""),
            ("cleanup.policy", "shred"),
            ("compression.gzip.level", "0"),
            ("remote.storage.enable", "true"),
            ("leader.replication.throttled.replicas", "1-2"),
            ("no.such.key", "1"),
        ] {
            assert!(validate_topic_config(name, value).is_err(), "{name}={value}");
        }
        for (name, value) in [
            ("retention.ms", "-1"),
            ("cleanup.policy", "compact,delete"),
            ("leader.replication.throttled.replicas", "*"),
            ("leader.replication.throttled.replicas", "0:1,1:1"),
            ("write.caching", "true"),
        ] {
            assert_eq!(validate_topic_config(name, value), Ok(()), "{name}={value}");
        }
        let both = overrides(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]);
        assert!(validate_topic_configs(&broker(&[]), &both).is_err());
    }
}
