//! Broker keys about share groups (KIP-932) and their internal topic, and their typed view.
//!
//! Owner: none; the keys are static data, a [`ShareConfig`] is read once at start. Invariants: as for the other broker
//! keys (`broker_keys`), whose table these are part of. Must not: be consulted for anything but share groups.

use super::keys::{KeySpec, Kind, Scope, Support};

const I32_MAX: i64 = i32::MAX as i64;
/// Most partitions of the internal topic.
const INTERNAL_PARTITIONS_MAX: i64 = 10_000;
/// The smallest segment of the internal topic, bytes.
const INTERNAL_SEGMENT_BYTES_MIN: i64 = 1 << 20;

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> KeySpec {
    let (scope, support) = (Scope::Broker, Support::Full);
    KeySpec { name, kind, default: Some(default), doc, scope, synonyms: &[], support }
}

/// The keys, part of the table of broker keys.
pub(super) const SHARE_KEYS: [KeySpec; 16] = [
    key(
        "group.share.delivery.count.limit",
        Kind::Int(2, 10),
        "5",
        "How often a record is delivered to a share group before it is given up.",
    ),
    key(
        "group.share.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "5000",
        "How often members of a share group are told to send a heartbeat.",
    ),
    key(
        "group.share.max.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "15000",
        "The longest heartbeat interval that may be configured for a share group.",
    ),
    key(
        "group.share.max.record.lock.duration.ms",
        Kind::Int(1000, I32_MAX),
        "60000",
        "The longest time that may be configured for a share group's members to keep a record.",
    ),
    key(
        "group.share.max.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "60000",
        "The longest session time-out that may be configured for a share group.",
    ),
    key(
        "group.share.max.share.sessions",
        Kind::Int(1, I32_MAX),
        "2000",
        "The most share sessions; each core takes an equal share of it.",
    ),
    key("group.share.max.size", Kind::Int(1, 1000), "200", "The most members a share group may have."),
    key(
        "group.share.min.heartbeat.interval.ms",
        Kind::Int(1, I32_MAX),
        "5000",
        "The shortest heartbeat interval that may be configured for a share group.",
    ),
    key(
        "group.share.min.record.lock.duration.ms",
        Kind::Int(1000, I32_MAX),
        "15000",
        "The shortest time that may be configured for a share group's members to keep a record.",
    ),
    key(
        "group.share.min.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "45000",
        "The shortest session time-out that may be configured for a share group.",
    ),
    key(
        "group.share.partition.max.record.locks",
        Kind::Int(100, 10_000),
        "2000",
        "The most records of a partition that a share group may have in flight.",
    ),
    key(
        "group.share.record.lock.duration.ms",
        Kind::Int(1000, I32_MAX),
        "30000",
        "How long a share group's member may keep a record before it goes to another.",
    ),
    key(
        "group.share.session.timeout.ms",
        Kind::Int(1, I32_MAX),
        "45000",
        "How long a member of a share group may be silent.",
    ),
    key(
        "share.coordinator.state.topic.num.partitions",
        Kind::Int(1, INTERNAL_PARTITIONS_MAX),
        "50",
        "Partitions of __share_group_state, when it is made. It must not change afterwards.",
    ),
    key(
        "share.coordinator.state.topic.replication.factor",
        Kind::Short(1, i16::MAX as i64),
        "1",
        "Replicas of __share_group_state. One node holds one, whatever is asked for.",
    ),
    key(
        "share.coordinator.state.topic.segment.bytes",
        Kind::Int(INTERNAL_SEGMENT_BYTES_MIN, I32_MAX),
        "104857600",
        "Segment size of __share_group_state, when it is made.",
    ),
];

/// What the broker's configuration says about share groups. Units are in the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareConfig {
    /// `group.share.delivery.count.limit`.
    pub delivery_count_max: i32,
    /// `group.share.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// Bounds of a configured heartbeat interval, milliseconds.
    pub heartbeat_interval_bounds_ms: (i32, i32),
    /// `group.share.record.lock.duration.ms`.
    pub record_lock_ms: i32,
    /// Bounds of a configured lock duration, milliseconds.
    pub record_lock_bounds_ms: (i32, i32),
    /// `group.share.session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// Bounds of a configured session time-out, milliseconds.
    pub session_timeout_bounds_ms: (i32, i32),
    /// `group.share.max.share.sessions`.
    pub session_count_max: usize,
    /// `group.share.max.size`.
    pub size_max: usize,
    /// `group.share.partition.max.record.locks`.
    pub record_locks_max: i32,
    /// `share.coordinator.state.topic.num.partitions`.
    pub state_partition_count: i32,
    /// `share.coordinator.state.topic.segment.bytes`.
    pub state_segment_bytes: i32,
}

impl ShareConfig {
    /// Reads the keys; `text` gives a key's checked value.
    pub(super) fn read(text: impl Fn(&str) -> String) -> ShareConfig {
        let int = |name: &str| text(name).trim().parse::<i32>().unwrap_or_default();
        let bounds =
            |what: &str| (int(&format!("group.share.min.{what}")), int(&format!("group.share.max.{what}")));
        ShareConfig {
            delivery_count_max: int("group.share.delivery.count.limit"),
            heartbeat_interval_ms: int("group.share.heartbeat.interval.ms"),
            heartbeat_interval_bounds_ms: bounds("heartbeat.interval.ms"),
            record_lock_ms: int("group.share.record.lock.duration.ms"),
            record_lock_bounds_ms: bounds("record.lock.duration.ms"),
            session_timeout_ms: int("group.share.session.timeout.ms"),
            session_timeout_bounds_ms: bounds("session.timeout.ms"),
            session_count_max: int("group.share.max.share.sessions").max(1) as usize,
            size_max: int("group.share.max.size").max(1) as usize,
            record_locks_max: int("group.share.partition.max.record.locks"),
            state_partition_count: int("share.coordinator.state.topic.num.partitions"),
            state_segment_bytes: int("share.coordinator.state.topic.segment.bytes"),
        }
    }
}
