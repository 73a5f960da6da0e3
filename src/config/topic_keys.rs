//! The table of topic keys with their broker synonyms.
//!
//! Owner: none, static data. Invariants: sorted by name; every default passes its own check; every synonym is a
//! broker key (test below). Must not: contain a key without a reader in `topic.rs`, unless it is marked `Stored`.

use super::broker_keys::COMPRESSIONS;
use super::keys::{KeySpec, Kind, Scope, Support};

const I32_MAX: i64 = i32::MAX as i64;

/// Looks a topic key up by name.
pub fn topic_key(name: &str) -> Option<&'static KeySpec> {
    TOPIC_KEYS.binary_search_by(|spec| spec.name.cmp(name)).ok().map(|at| &TOPIC_KEYS[at])
}

/// Every topic key Ringlog knows, sorted by name.
pub const TOPIC_KEYS: &[KeySpec] = &[
    KeySpec {
        name: "cleanup.policy",
        kind: Kind::List(&["delete", "compact"]),
        default: Some("delete"),
        doc: "What happens to old records: delete drops whole segments by age or size, compact keeps the last record of each key. Both may be given.",
        scope: Scope::Topic,
        synonyms: &["log.cleanup.policy"],
        support: Support::Full,
    },
    KeySpec {
        name: "compression.gzip.level",
        kind: Kind::Int(-1, 9),
        default: Some("-1"),
        doc: "The level of gzip compression, if compression.type is gzip.",
        scope: Scope::Topic,
        synonyms: &["compression.gzip.level"],
        support: Support::Full,
    },
    KeySpec {
        name: "compression.lz4.level",
        kind: Kind::Int(1, 17),
        default: Some("9"),
        doc: "The level of lz4 compression, if compression.type is lz4. Ringlog knows one level, the fastest.",
        scope: Scope::Topic,
        synonyms: &["compression.lz4.level"],
        support: Support::Stored,
    },
    KeySpec {
        name: "compression.type",
        kind: Kind::Choice(COMPRESSIONS),
        default: Some("producer"),
        doc: "The compression of the topic; producer keeps what the producer chose. Batches in another one are recompressed, beside the core, before they are stored.",
        scope: Scope::Topic,
        synonyms: &["compression.type"],
        support: Support::Full,
    },
    KeySpec {
        name: "compression.zstd.level",
        kind: Kind::Int(-131072, 22),
        default: Some("3"),
        doc: "The level of zstd compression, if compression.type is zstd. Ringlog knows one level, the fastest.",
        scope: Scope::Topic,
        synonyms: &["compression.zstd.level"],
        support: Support::Stored,
    },
    KeySpec {
        name: "delete.retention.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("86400000"),
        doc: "How long the marks of deleted keys are kept in a compacted topic, in milliseconds.",
        scope: Scope::Topic,
        synonyms: &["log.cleaner.delete.retention.ms"],
        support: Support::Full,
    },
    KeySpec {
        name: "file.delete.delay.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("60000"),
        doc: "How long a deleted segment stays on disk, in milliseconds. Ringlog recycles segments as soon as no reader holds them, so that nothing waits.",
        scope: Scope::Topic,
        synonyms: &["log.segment.delete.delay.ms"],
        support: Support::Stored,
    },
    KeySpec {
        name: "flush.messages",
        kind: Kind::Long(1, i64::MAX),
        default: Some("9223372036854775807"),
        doc: "Records after which the partition is flushed. If neither this nor flush.ms is set, an acks=all write is always flushed before it is acknowledged.",
        scope: Scope::Topic,
        synonyms: &["log.flush.interval.messages"],
        support: Support::Full,
    },
    KeySpec {
        name: "flush.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("9223372036854775807"),
        doc: "Time after which the partition is flushed, in milliseconds. If neither this nor flush.messages is set, an acks=all write is always flushed before it is acknowledged.",
        scope: Scope::Topic,
        synonyms: &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
        support: Support::Full,
    },
    KeySpec {
        name: "follower.replication.throttled.replicas",
        kind: Kind::List(&[]),
        default: Some(""),
        doc: "Replicas whose replication is throttled on the follower, as partition:broker pairs or *.",
        scope: Scope::Topic,
        synonyms: &[],
        support: Support::Stored,
    },
    KeySpec {
        name: "index.interval.bytes",
        kind: Kind::Int(0, I32_MAX),
        default: Some("4096"),
        doc: "Bytes of records between two entries of the offset index. Ringlog keeps the index in memory, an entry each 32 KiB: closer ones would cost memory and save nothing, because a read from disk is larger.",
        scope: Scope::Topic,
        synonyms: &["log.index.interval.bytes"],
        support: Support::Stored,
    },
    KeySpec {
        name: "leader.replication.throttled.replicas",
        kind: Kind::List(&[]),
        default: Some(""),
        doc: "Replicas whose replication is throttled on the leader, as partition:broker pairs or *.",
        scope: Scope::Topic,
        synonyms: &[],
        support: Support::Stored,
    },
    KeySpec {
        name: "local.retention.bytes",
        kind: Kind::Long(-2, i64::MAX),
        default: Some("-2"),
        doc: "Bytes of tiered segments that stay on local disk. There is no tiered storage in this version.",
        scope: Scope::Topic,
        synonyms: &["log.local.retention.bytes"],
        support: Support::Stored,
    },
    KeySpec {
        name: "local.retention.ms",
        kind: Kind::Long(-2, i64::MAX),
        default: Some("-2"),
        doc: "How long tiered segments stay on local disk, in milliseconds. There is no tiered storage in this version.",
        scope: Scope::Topic,
        synonyms: &["log.local.retention.ms"],
        support: Support::Stored,
    },
    KeySpec {
        name: "max.compaction.lag.ms",
        kind: Kind::Long(1, i64::MAX),
        default: Some("9223372036854775807"),
        doc: "The time a record stays uncompacted at most, in milliseconds.",
        scope: Scope::Topic,
        synonyms: &["log.cleaner.max.compaction.lag.ms"],
        support: Support::Full,
    },
    KeySpec {
        name: "max.message.bytes",
        kind: Kind::Int(0, I32_MAX),
        default: Some("1048588"),
        doc: "The largest record batch the topic accepts, in bytes, as it comes (compressed or not).",
        scope: Scope::Topic,
        synonyms: &["message.max.bytes"],
        support: Support::Full,
    },
    KeySpec {
        name: "message.timestamp.after.max.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("3600000"),
        doc: "How far a timestamp may lie after the time of the broker, in milliseconds.",
        scope: Scope::Topic,
        synonyms: &["log.message.timestamp.after.max.ms"],
        support: Support::Full,
    },
    KeySpec {
        name: "message.timestamp.before.max.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("9223372036854775807"),
        doc: "How far a timestamp may lie before the time of the broker, in milliseconds.",
        scope: Scope::Topic,
        synonyms: &["log.message.timestamp.before.max.ms"],
        support: Support::Full,
    },
    KeySpec {
        name: "message.timestamp.type",
        kind: Kind::Choice(&["CreateTime", "LogAppendTime"]),
        default: Some("CreateTime"),
        doc: "Whether a record keeps the time its producer gave it or gets the time of its append.",
        scope: Scope::Topic,
        synonyms: &["log.message.timestamp.type"],
        support: Support::Full,
    },
    KeySpec {
        name: "min.cleanable.dirty.ratio",
        kind: Kind::Double(0.0, 1.0),
        default: Some("0.5"),
        doc: "The share of the log that must be uncompacted before it is compacted.",
        scope: Scope::Topic,
        synonyms: &["log.cleaner.min.cleanable.ratio"],
        support: Support::Full,
    },
    KeySpec {
        name: "min.compaction.lag.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("0"),
        doc: "The time a record stays uncompacted at least, in milliseconds.",
        scope: Scope::Topic,
        synonyms: &["log.cleaner.min.compaction.lag.ms"],
        support: Support::Full,
    },
    KeySpec {
        name: "min.insync.replicas",
        kind: Kind::Int(1, I32_MAX),
        default: Some("1"),
        doc: "Replicas that must have a record before acks=all is answered.",
        scope: Scope::Topic,
        synonyms: &["min.insync.replicas"],
        support: Support::Full,
    },
    KeySpec {
        name: "preallocate",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "Whether segment files are preallocated. Ringlog always does it.",
        scope: Scope::Topic,
        synonyms: &["log.preallocate"],
        support: Support::Stored,
    },
    KeySpec {
        name: "remote.log.copy.disable",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "Whether a tiered topic stops copying to remote storage. There is no tiered storage in this version.",
        scope: Scope::Topic,
        synonyms: &[],
        support: Support::Stored,
    },
    KeySpec {
        name: "remote.log.delete.on.disable",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "Whether remote data goes when tiering is switched off. There is no tiered storage in this version.",
        scope: Scope::Topic,
        synonyms: &[],
        support: Support::Stored,
    },
    KeySpec {
        name: "remote.storage.enable",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "Whether the topic is tiered. There is no tiered storage in this version, so that only false is accepted.",
        scope: Scope::Topic,
        synonyms: &[],
        support: Support::Stored,
    },
    KeySpec {
        name: "retention.bytes",
        kind: Kind::Long(-1, i64::MAX),
        default: Some("-1"),
        doc: "The size a partition may reach before its oldest segments are deleted, in bytes; -1 means no limit.",
        scope: Scope::Topic,
        synonyms: &["log.retention.bytes"],
        support: Support::Full,
    },
    KeySpec {
        name: "retention.ms",
        kind: Kind::Long(-1, i64::MAX),
        default: Some("604800000"),
        doc: "How long records are kept, in milliseconds; -1 means for ever.",
        scope: Scope::Topic,
        synonyms: &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
        support: Support::Full,
    },
    KeySpec {
        name: "segment.bytes",
        kind: Kind::Int(1048576, I32_MAX),
        default: Some("1073741824"),
        doc: "The size at which a new segment file is begun, in bytes.",
        scope: Scope::Topic,
        synonyms: &["log.segment.bytes"],
        support: Support::Full,
    },
    KeySpec {
        name: "segment.index.bytes",
        kind: Kind::Int(4, I32_MAX),
        default: Some("10485760"),
        doc: "The size at which an index is full and a new segment is begun, in bytes. Ringlog sizes its indexes by itself.",
        scope: Scope::Topic,
        synonyms: &["log.index.size.max.bytes"],
        support: Support::Stored,
    },
    KeySpec {
        name: "segment.jitter.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("0"),
        doc: "The most that is subtracted from segment.ms, in milliseconds; how much differs from partition to partition.",
        scope: Scope::Topic,
        synonyms: &["log.roll.jitter.ms", "log.roll.jitter.hours"],
        support: Support::Full,
    },
    KeySpec {
        name: "segment.ms",
        kind: Kind::Long(1, i64::MAX),
        default: Some("604800000"),
        doc: "The age at which a new segment file is begun, in milliseconds.",
        scope: Scope::Topic,
        synonyms: &["log.roll.ms", "log.roll.hours"],
        support: Support::Full,
    },
    KeySpec {
        name: "unclean.leader.election.enable",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "Whether a replica that is not in sync may become leader. A single node has no other replica.",
        scope: Scope::Topic,
        synonyms: &["unclean.leader.election.enable"],
        support: Support::Stored,
    },
    KeySpec {
        name: "write.caching",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "Whether acks=all is answered before the flush. Faster, and a power loss can lose what was acknowledged.",
        scope: Scope::Topic,
        synonyms: &["ringlog.write.caching"],
        support: Support::Full,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::broker_key;

    #[test]
    fn the_table_is_sound() {
        assert!(TOPIC_KEYS.is_sorted_by(|a, b| a.name < b.name));
        for spec in TOPIC_KEYS {
            let default = spec.default.expect("a topic key has a default");
            assert_eq!(spec.kind.check(default), Ok(()), "default of {}", spec.name);
            assert_eq!(topic_key(spec.name).map(|s| s.name), Some(spec.name));
            assert!(spec.doc.ends_with('.'), "{} has no sentence", spec.name);
            for synonym in spec.synonyms {
                let broker = broker_key(synonym).unwrap_or_else(|| panic!("{}: {synonym}", spec.name));
                assert_eq!(broker.kind.wire_type() == 1, spec.kind.wire_type() == 1, "{}", spec.name);
            }
        }
        assert!(topic_key("no.such.key").is_none());
    }
}
