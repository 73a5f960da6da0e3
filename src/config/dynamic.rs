//! What can be set while the broker runs: dynamic broker keys, and the keys of groups and client metrics.
//!
//! Owner: none; a `BrokerConfig` with its dynamic layers is built anew at every change. Invariants: a key that is
//! not in [`DYNAMIC_BROKER_KEYS`] cannot be changed without a restart; what the process was started with (listeners,
//! cores, memory, directories) is never touched by a dynamic layer. Must not: store anything (the catalog does).

use super::broker::BrokerConfig;
use super::broker_keys::{broker_key, is_accepted_without_effect};
use super::keys::{KeySpec, Kind, Scope, Support};
use super::settings::Source;
use std::collections::BTreeMap;

const I32_MAX: i64 = i32::MAX as i64;

/// Broker keys that Kafka lets change at run time, sorted. Some have no effect here; they are taken and described,
/// because tools set them (a reassignment sets the throttles).
const DYNAMIC_BROKER_KEYS: &[&str] = &[
    "background.threads",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.delete.retention.ms",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.max.compaction.lag.ms",
    "log.cleaner.min.cleanable.ratio",
    "log.cleaner.min.compaction.lag.ms",
    "log.cleaner.threads",
    "log.cleanup.policy",
    "log.flush.interval.messages",
    "log.flush.interval.ms",
    "log.index.interval.bytes",
    "log.index.size.max.bytes",
    "log.local.retention.bytes",
    "log.local.retention.ms",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.preallocate",
    "log.retention.bytes",
    "log.retention.ms",
    "log.roll.jitter.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "log.segment.delete.delay.ms",
    "max.connection.creation.rate",
    "max.connections",
    "max.connections.per.ip",
    "max.connections.per.ip.overrides",
    "message.max.bytes",
    "min.insync.replicas",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "producer.id.expiration.ms",
    "replica.alter.log.dirs.io.max.bytes.per.second",
    "ringlog.write.caching",
    "transaction.partition.verification.enable",
    "unclean.leader.election.enable",
];

/// Dynamic keys of Kafka that have no static form, and therefore no entry in the table of broker keys.
const DYNAMIC_ONLY: &[&str] = &[
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

const fn stored(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
    scope: Scope,
) -> KeySpec {
    KeySpec { name, kind, default: Some(default), doc, scope, synonyms: &[], support: Support::Stored }
}

/// The keys of a client metrics subscription (KIP-714), sorted. They are kept for the tools; nothing in this version
/// receives metrics, so that no client is asked for any.
pub const CLIENT_METRICS_KEYS: &[KeySpec] = &[
    stored(
        "interval.ms",
        Kind::Int(100, 3_600_000),
        "300000",
        "How often clients push their metrics, in milliseconds.",
        Scope::ClientMetrics,
    ),
    stored(
        "match",
        Kind::List(&[]),
        "",
        "Which clients are meant, as name=pattern pairs; empty means all.",
        Scope::ClientMetrics,
    ),
    stored(
        "metrics",
        Kind::List(&[]),
        "",
        "Prefixes of the names of the metrics that are wanted.",
        Scope::ClientMetrics,
    ),
];

/// The keys of a group (KIP-848, KIP-932), sorted.
pub const GROUP_KEYS: &[KeySpec] = &[
    stored(
        "consumer.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "5000",
        "How often a member of the new consumer protocol has to report, in milliseconds.",
        Scope::Group,
    ),
    stored(
        "consumer.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "45000",
        "After this time without a report a member is gone, in milliseconds.",
        Scope::Group,
    ),
    stored(
        "share.auto.offset.reset",
        Kind::Text,
        "latest",
        "Where a share group begins: earliest, latest or by_duration:<ISO-8601>.",
        Scope::Group,
    ),
    stored(
        "share.delivery.count.limit",
        Kind::Int(2, 10),
        "5",
        "How often a record is delivered to a share group before it is given up.",
        Scope::Group,
    ),
    stored(
        "share.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "5000",
        "How often a member of a share group has to report, in milliseconds.",
        Scope::Group,
    ),
    stored(
        "share.isolation.level",
        Kind::Choice(&["read_uncommitted", "read_committed"]),
        "read_uncommitted",
        "Whether a share group sees records of transactions that are not committed.",
        Scope::Group,
    ),
    stored(
        "share.partition.max.record.locks",
        Kind::Int(100, 10_000),
        "2000",
        "The most records of a partition that a share group may have in flight.",
        Scope::Group,
    ),
    stored(
        "share.record.lock.duration.ms",
        Kind::Int(1000, I32_MAX),
        "30000",
        "How long a share group's member may keep a record before it goes to another, in milliseconds.",
        Scope::Group,
    ),
    stored(
        "share.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "45000",
        "After this time without a report a member of a share group is gone, in milliseconds.",
        Scope::Group,
    ),
];

/// Families of keys that Kafka lets change at run time, and that have no effect here.
const DYNAMIC_PREFIXES: &[&str] = &["sasl.kerberos.", "sasl.login.refresh."];

/// Whether a broker key can be changed while the broker runs.
pub fn is_dynamic(name: &str) -> bool {
    DYNAMIC_BROKER_KEYS.binary_search(&name).is_ok()
        || DYNAMIC_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Checks the dynamic configuration of a broker, or of all brokers, as a whole. The error names the key.
pub fn validate_dynamic_broker(configs: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in configs {
        match broker_key(name) {
            Some(spec) => {
                spec.kind
                    .check(value)
                    .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
            }
            None if DYNAMIC_ONLY.contains(&name.as_str()) => {
                Kind::Long(0, i64::MAX)
                    .check(value)
                    .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
            }
            None if is_accepted_without_effect(name) => {}
            None => return Err(format!("Unknown broker configuration {name}")),
        }
    }
    let number = |name: &str| {
        let text = configs.get(name).map(String::as_str).or(broker_key(name).and_then(|spec| spec.default));
        text.and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or_default()
    };
    if number("log.cleaner.min.compaction.lag.ms") > number("log.cleaner.max.compaction.lag.ms") {
        return Err("log.cleaner.min.compaction.lag.ms must not be larger than the maximum".to_owned());
    }
    Ok(())
}

/// Checks the whole configuration of a group or a client metrics subscription against its keys.
pub fn validate_resource(keys: &[KeySpec], configs: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in configs {
        let spec = keys.iter().find(|spec| spec.name == name);
        let spec = spec.ok_or_else(|| format!("Unknown configuration {name}"))?;
        spec.kind
            .check(value)
            .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))?;
    }
    let number = |name: &str| {
        let default = keys.iter().find(|spec| spec.name == name).and_then(|spec| spec.default);
        let text = configs.get(name).map(String::as_str).or(default);
        text.and_then(|text| text.trim().parse::<i64>().ok())
    };
    for protocol in ["consumer", "share"] {
        let heartbeat = number(&format!("{protocol}.heartbeat.interval.ms"));
        let session = number(&format!("{protocol}.session.timeout.ms"));
        if heartbeat.zip(session).is_some_and(|(heartbeat, session)| heartbeat >= session) {
            return Err(format!("{protocol}.session.timeout.ms must be larger than the heartbeat interval"));
        }
    }
    Ok(())
}

impl BrokerConfig {
    /// This configuration under the dynamic layers: the defaults of all brokers, then this broker's own. Keys that
    /// cannot change at run time, and values that are no longer valid, are left out.
    pub fn with_dynamic(
        &self,
        defaults: Option<&BTreeMap<String, String>>,
        own: Option<&BTreeMap<String, String>>,
    ) -> BrokerConfig {
        let mut settings = self.settings.clone();
        settings.forget(&[Source::DynamicDefault, Source::DynamicBroker]);
        for (configs, source) in [(defaults, Source::DynamicDefault), (own, Source::DynamicBroker)] {
            for (name, value) in configs.into_iter().flatten() {
                let valid = broker_key(name).is_none_or(|spec| spec.kind.check(value).is_ok());
                if is_dynamic(name) && valid {
                    settings.set(name, value, source);
                }
            }
        }
        // On a core's thread only its own cpu is allowed: the list of cores, read there, would be refused.
        let built = BrokerConfig::from_settings(settings.without("ringlog.cores"), &mut Vec::new());
        let mut next = match built {
            Ok(next) => next,
            Err(error) => {
                tracing::error!("dynamic configuration is left as it was: {error}");
                return self.clone();
            }
        };
        next.settings = settings;
        // Fixed at the start: port 0 was resolved, cores and memory were asked of the machine.
        next.listeners.clone_from(&self.listeners);
        next.cores.clone_from(&self.cores);
        next.memory_bytes = self.memory_bytes;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigSources, TopicConfig, load};
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn tables_are_sorted_and_known() {
        assert!(DYNAMIC_BROKER_KEYS.is_sorted() && GROUP_KEYS.is_sorted_by(|a, b| a.name < b.name));
        assert!(CLIENT_METRICS_KEYS.is_sorted_by(|a, b| a.name < b.name));
        for name in DYNAMIC_BROKER_KEYS {
            let known = broker_key(name).is_some() || is_accepted_without_effect(name);
            assert!(known || DYNAMIC_ONLY.contains(name), "{name}");
        }
        let relogin = configs(&[("sasl.kerberos.min.time.before.relogin", "58000")]);
        assert_eq!(validate_dynamic_broker(&relogin), Ok(()));
        assert!(relogin.keys().all(|name| is_dynamic(name)) && !is_dynamic("sasl.enabled"));
        for spec in GROUP_KEYS.iter().chain(CLIENT_METRICS_KEYS) {
            assert_eq!(spec.kind.check(spec.default.expect("a default")), Ok(()), "{}", spec.name);
        }
    }

    #[test]
    fn dynamic_layers_win_over_static_ones_and_leave_the_rest_alone() {
        let flags =
            [("log.retention.hours", "1"), ("message.max.bytes", "1000"), ("listeners", "PLAINTEXT://:0")];
        let flags = flags.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        let mut base = load(&ConfigSources { flags, ..ConfigSources::default() }).expect("valid").config;
        base.listeners[0].port = 7777;
        let defaults = configs(&[("message.max.bytes", "2000"), ("log.retention.ms", "5"), ("node.id", "9")]);
        let own = configs(&[("message.max.bytes", "3000"), ("num.io.threads", "4")]);
        let next = base.with_dynamic(Some(&defaults), Some(&own));
        assert_eq!((next.message_bytes_max, next.retention_ms, next.node_id), (3000, 5, 1));
        assert_eq!(next.listeners[0].port, 7777);
        assert_eq!(TopicConfig::effective(&next, &BTreeMap::new()).max_message_bytes, 3000);
        let sources: Vec<Source> =
            next.settings.synonyms(&["message.max.bytes"]).iter().map(|s| s.source).collect();
        let expected = [Source::DynamicBroker, Source::DynamicDefault, Source::Flag, Source::Default];
        assert_eq!(sources, expected);
        let back = next.with_dynamic(None, None);
        assert_eq!((back.message_bytes_max, back.retention_ms), (1000, 3_600_000));
    }

    #[test]
    fn values_are_checked_as_a_whole() {
        for bad in [("message.max.bytes", "x"), ("leader.replication.throttled.rate", "-1"), ("no.such", "1")]
        {
            assert!(validate_dynamic_broker(&configs(&[bad])).is_err(), "{bad:?}");
        }
        assert!(validate_dynamic_broker(&configs(&[("num.io.threads", "4")])).is_ok());
        assert!(validate_resource(GROUP_KEYS, &configs(&[("consumer.session.timeout.ms", "1")])).is_err());
        assert!(validate_resource(CLIENT_METRICS_KEYS, &configs(&[("interval.ms", "100")])).is_ok());
        assert!(validate_resource(CLIENT_METRICS_KEYS, &configs(&[("interval.ms", "99")])).is_err());
        assert!(validate_resource(CLIENT_METRICS_KEYS, &configs(&[("retention.ms", "99")])).is_err());
    }
}
