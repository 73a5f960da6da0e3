//! Broker keys about consumer groups and the internal topics, and their typed view.
//!
//! Owner: none; the keys are static data, a [`GroupConfig`] is read once at start. Invariants: as for the other
//! broker keys (`broker_keys`), whose table these are part of. Must not: be consulted for anything but groups and
//! the topics that coordinators write.

use super::keys::{KeySpec, Kind, Scope, Support};
use super::share_keys::ShareConfig;

const I32_MAX: i64 = i32::MAX as i64;
/// Most partitions of an internal topic.
const INTERNAL_PARTITIONS_MAX: i64 = 10_000;
/// The smallest segment of an internal topic, bytes.
const INTERNAL_SEGMENT_BYTES_MIN: i64 = 1 << 20;

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> KeySpec {
    let (scope, support) = (Scope::Broker, Support::Full);
    KeySpec { name, kind, default: Some(default), doc, scope, synonyms: &[], support }
}

/// The keys, part of the table of broker keys.
pub(super) const GROUP_KEYS: [KeySpec; 23] = [
    key(
        "group.coordinator.rebalance.protocols",
        Kind::List(&["classic", "consumer", "share", "streams"]),
        "classic,consumer",
        "The group protocols that are served; share groups follow the feature share.version instead.",
    ),
    key(
        "group.min.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "6000",
        "The shortest session time-out a member of a classic group may ask for.",
    ),
    key(
        "group.max.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "1800000",
        "The longest session time-out a member of a classic group may ask for.",
    ),
    key(
        "group.initial.rebalance.delay.ms",
        Kind::Int(0, I32_MAX),
        "3000",
        "How long the first rebalance of an empty classic group waits for more members.",
    ),
    key("group.max.size", Kind::Int(1, I32_MAX), "2147483647", "The most members a classic group may have."),
    key(
        "group.consumer.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "45000",
        "How long a member of a consumer group (KIP-848) may be silent.",
    ),
    key(
        "group.consumer.min.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "45000",
        "The shortest session time-out that may be configured for a consumer group.",
    ),
    key(
        "group.consumer.max.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "60000",
        "The longest session time-out that may be configured for a consumer group.",
    ),
    key(
        "group.consumer.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "5000",
        "How often members of a consumer group are told to send a heartbeat.",
    ),
    key(
        "group.consumer.min.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "5000",
        "The shortest heartbeat interval that may be configured for a consumer group.",
    ),
    key(
        "group.consumer.max.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "15000",
        "The longest heartbeat interval that may be configured for a consumer group.",
    ),
    key(
        "group.consumer.max.size",
        Kind::Int(1, I32_MAX),
        "2147483647",
        "The most members a consumer group may have.",
    ),
    key(
        "group.consumer.assignors",
        Kind::List(&["uniform", "range"]),
        "uniform,range",
        "The server-side assignors of consumer groups; the first one is used when members name none.",
    ),
    key(
        "group.consumer.migration.policy",
        Kind::Choice(&["bidirectional", "upgrade", "downgrade", "disabled"]),
        "bidirectional",
        "Which groups with members may change between the classic and the consumer protocol.",
    ),
    key(
        "offset.metadata.max.bytes",
        Kind::Int(0, I32_MAX),
        "4096",
        "The longest metadata that may be committed with an offset.",
    ),
    key(
        "offsets.retention.minutes",
        Kind::Int(1, I32_MAX),
        "10080",
        "How long committed offsets are kept after the group is empty, or after the last commit of a consumer without a group.",
    ),
    key(
        "offsets.retention.check.interval.ms",
        Kind::Long(1, i64::MAX),
        "600000",
        "How often expired offsets are looked for.",
    ),
    key(
        "offsets.topic.num.partitions",
        Kind::Int(1, INTERNAL_PARTITIONS_MAX),
        "50",
        "Partitions of __consumer_offsets, when it is made. It must not change afterwards.",
    ),
    key(
        "offsets.topic.segment.bytes",
        Kind::Int(INTERNAL_SEGMENT_BYTES_MIN, I32_MAX),
        "104857600",
        "Segment size of __consumer_offsets, when it is made.",
    ),
    key(
        "offsets.topic.replication.factor",
        Kind::Short(1, i16::MAX as i64),
        "1",
        "Replicas of __consumer_offsets. One node holds one, whatever is asked for.",
    ),
    key(
        "transaction.state.log.num.partitions",
        Kind::Int(1, INTERNAL_PARTITIONS_MAX),
        "50",
        "Partitions of __transaction_state, when it is made. It must not change afterwards.",
    ),
    key(
        "transaction.state.log.segment.bytes",
        Kind::Int(INTERNAL_SEGMENT_BYTES_MIN, I32_MAX),
        "104857600",
        "Segment size of __transaction_state, when it is made.",
    ),
    key(
        "transaction.state.log.replication.factor",
        Kind::Short(1, i16::MAX as i64),
        "1",
        "Replicas of __transaction_state. One node holds one, whatever is asked for.",
    ),
];

/// Which way groups with members may change their protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationPolicy {
    /// Classic to consumer.
    pub upgrade: bool,
    /// Consumer to classic.
    pub downgrade: bool,
}

/// What the broker's configuration says about groups and internal topics. Units are in the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// Whether KIP-848 groups are served.
    pub consumer_protocol: bool,
    /// Share groups.
    pub share: ShareConfig,
    /// Bounds of a classic member's session time-out, milliseconds.
    pub session_timeout_ms: (i32, i32),
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`.
    pub size_max: usize,
    /// `group.consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: i32,
    /// Bounds of a configured consumer session time-out, milliseconds.
    pub consumer_session_timeout_bounds_ms: (i32, i32),
    /// `group.consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: i32,
    /// Bounds of a configured heartbeat interval, milliseconds.
    pub consumer_heartbeat_interval_bounds_ms: (i32, i32),
    /// `group.consumer.max.size`.
    pub consumer_size_max: usize,
    /// `group.consumer.assignors`, the default first.
    pub consumer_assignors: Vec<String>,
    /// `group.consumer.migration.policy`.
    pub migration: MigrationPolicy,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes` in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_check_interval_ms: u64,
    /// `offsets.topic.num.partitions`.
    pub offsets_partition_count: i32,
    /// `offsets.topic.segment.bytes`.
    pub offsets_segment_bytes: i32,
    /// `transaction.state.log.num.partitions`.
    pub transactions_partition_count: i32,
    /// `transaction.state.log.segment.bytes`.
    pub transactions_segment_bytes: i32,
}

impl GroupConfig {
    /// Reads the keys; `text` gives a key's checked value.
    pub(super) fn read(text: impl Fn(&str) -> String) -> GroupConfig {
        let long = |name: &str| text(name).trim().parse::<i64>().unwrap_or_default();
        let int = |name: &str| long(name) as i32;
        let list = |name: &str| -> Vec<String> {
            text(name).split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
        };
        let policy = text("group.consumer.migration.policy");
        let policy = policy.trim();
        GroupConfig {
            consumer_protocol: list("group.coordinator.rebalance.protocols").iter().any(|p| p == "consumer"),
            share: ShareConfig::read(&text),
            session_timeout_ms: (int("group.min.session.timeout.ms"), int("group.max.session.timeout.ms")),
            initial_rebalance_delay_ms: int("group.initial.rebalance.delay.ms"),
            size_max: long("group.max.size") as usize,
            consumer_session_timeout_ms: int("group.consumer.session.timeout.ms"),
            consumer_session_timeout_bounds_ms: (
                int("group.consumer.min.session.timeout.ms"),
                int("group.consumer.max.session.timeout.ms"),
            ),
            consumer_heartbeat_interval_ms: int("group.consumer.heartbeat.interval.ms"),
            consumer_heartbeat_interval_bounds_ms: (
                int("group.consumer.min.heartbeat.interval.ms"),
                int("group.consumer.max.heartbeat.interval.ms"),
            ),
            consumer_size_max: long("group.consumer.max.size") as usize,
            consumer_assignors: list("group.consumer.assignors"),
            migration: MigrationPolicy {
                upgrade: matches!(policy, "bidirectional" | "upgrade"),
                downgrade: matches!(policy, "bidirectional" | "downgrade"),
            },
            offset_metadata_bytes_max: long("offset.metadata.max.bytes") as usize,
            offsets_retention_ms: long("offsets.retention.minutes").saturating_mul(60_000),
            offsets_check_interval_ms: long("offsets.retention.check.interval.ms") as u64,
            offsets_partition_count: int("offsets.topic.num.partitions"),
            offsets_segment_bytes: int("offsets.topic.segment.bytes"),
            transactions_partition_count: int("transaction.state.log.num.partitions"),
            transactions_segment_bytes: int("transaction.state.log.segment.bytes"),
        }
    }
}
