//! The harness's one error type.
//!
//! Owner: the whole crate. Must not: carry Kafka error codes without the name of what was asked.

use std::io;

/// Why a run could not be made or finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The endpoint's bytes do not follow the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The endpoint answered with a Kafka error code.
    #[error("{what}: Kafka error {code} ({name})", name = error_name(*code))]
    Endpoint {
        /// What was asked.
        what: String,
        /// The code of the reply.
        code: i16,
    },
    /// The flags make no sense together.
    #[error("{0}")]
    Usage(String),
}

/// Result of the harness.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// Adds what was being done to an I/O error.
pub(crate) fn io_err(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
    let what = what.into();
    move |source| BenchError::Io { what, source }
}

/// A protocol error from a message.
pub(crate) fn protocol(message: impl Into<String>) -> BenchError {
    BenchError::Protocol(message.into())
}

/// The Kafka name of the error codes a load harness meets.
fn error_name(code: i16) -> &'static str {
    match code {
        -1 => "UNKNOWN_SERVER_ERROR",
        0 => "NONE",
        1 => "OFFSET_OUT_OF_RANGE",
        2 => "CORRUPT_MESSAGE",
        3 => "UNKNOWN_TOPIC_OR_PARTITION",
        5 => "LEADER_NOT_AVAILABLE",
        6 => "NOT_LEADER_OR_FOLLOWER",
        7 => "REQUEST_TIMED_OUT",
        10 => "MESSAGE_TOO_LARGE",
        17 => "INVALID_TOPIC_EXCEPTION",
        19 => "NOT_ENOUGH_REPLICAS",
        35 => "UNSUPPORTED_VERSION",
        36 => "TOPIC_ALREADY_EXISTS",
        37 => "INVALID_PARTITIONS",
        38 => "INVALID_REPLICATION_FACTOR",
        40 => "INVALID_CONFIG",
        42 => "INVALID_REQUEST",
        56 => "KAFKA_STORAGE_ERROR",
        87 => "INVALID_RECORD",
        _ => "see the Kafka protocol guide",
    }
}
