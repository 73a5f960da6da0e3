//! Broker keys about transactions, and their typed view.
//!
//! Owner: none; the keys are static data, a [`TxnConfig`] is read once at start. Invariants: as for the other broker
//! keys (`broker_keys`), whose table these are part of. Must not: be consulted for anything but transactions.

use super::keys::{KeySpec, Kind, Scope, Support};

const I32_MAX: i64 = i32::MAX as i64;

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> KeySpec {
    let (scope, support) = (Scope::Broker, Support::Full);
    KeySpec { name, kind, default: Some(default), doc, scope, synonyms: &[], support }
}

/// The keys, part of the table of broker keys.
pub(super) const TXN_KEYS: [KeySpec; 5] = [
    key(
        "transaction.max.timeout.ms",
        Kind::Int(1, I32_MAX),
        "900000",
        "The longest transaction time-out that a producer may ask for.",
    ),
    key(
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        Kind::Int(1, I32_MAX),
        "10000",
        "How often transactions are looked for that took longer than their time-out; they are aborted.",
    ),
    key(
        "transaction.remove.expired.transaction.cleanup.interval.ms",
        Kind::Int(1, I32_MAX),
        "3600000",
        "How often transactional ids are looked for that were not used for transactional.id.expiration.ms.",
    ),
    key(
        "transactional.id.expiration.ms",
        Kind::Int(1, I32_MAX),
        "604800000",
        "After how long without a transaction a transactional id is forgotten.",
    ),
    key(
        "transaction.partition.verification.enable",
        Kind::Bool,
        "true",
        "Whether the coordinator is asked before a batch begins a transaction in a partition (KIP-890).",
    ),
];

/// What the broker's configuration says about transactions. Units are in the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnConfig {
    /// `transaction.max.timeout.ms`.
    pub timeout_ms_max: i32,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    pub abort_interval_ms: u64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub expiry_interval_ms: i64,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
    /// `transaction.partition.verification.enable`.
    pub verify: bool,
}

impl TxnConfig {
    /// Reads the keys; `text` gives a key's checked value.
    pub(super) fn read(text: impl Fn(&str) -> String) -> TxnConfig {
        let long = |name: &str| text(name).trim().parse::<i64>().unwrap_or_default();
        TxnConfig {
            timeout_ms_max: long("transaction.max.timeout.ms") as i32,
            abort_interval_ms: long("transaction.abort.timed.out.transaction.cleanup.interval.ms") as u64,
            expiry_interval_ms: long("transaction.remove.expired.transaction.cleanup.interval.ms"),
            id_expiration_ms: long("transactional.id.expiration.ms"),
            verify: text("transaction.partition.verification.enable").trim().eq_ignore_ascii_case("true"),
        }
    }
}
