//! The append of one batch as a produce request wants it.
//!
//! Owner: the partition's core. Invariants: every byte is validated once, here; nothing is acknowledged
//! before the log says that the asked-for durability is reached. It must not touch other partitions.

use std::rc::Rc;

use super::Partition;
use crate::config::{self, TimestampType, TopicConfig};
use crate::limits::RECORD_ERRORS_MAX;
use crate::metrics::{self, Counter, Series};
use crate::rt;
use crate::storage::{AckResult, AppendError, Durability, Incoming, LogError, Ticket};
use crate::sync::Pending;
use crate::wire::recompress::recompress;
use crate::wire::record_batch::{self, AppendLimits, Compression};
use crate::wire::records;

// Kafka error codes that an append can end with.
const NOT_ENOUGH_REPLICAS: i16 = 19;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const KAFKA_STORAGE_ERROR: i16 = 56;
const INVALID_TXN_STATE: i16 = 48;
const INVALID_RECORD: i16 = 87;

/// What one partition of a produce request comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceOutcome {
    /// Kafka error code, 0 for none.
    pub error_code: i16,
    /// Offset of the first record, or -1.
    pub base_offset: i64,
    /// Append time stamped by the broker, or -1, milliseconds.
    pub log_append_time_ms: i64,
    /// Log start offset, or -1.
    pub log_start_offset: i64,
    /// For humans.
    pub error_message: Option<Box<str>>,
    /// Places in the batch of the records that made it be refused (KIP-467), where it is known which.
    pub record_errors: Box<[i32]>,
}

impl ProduceOutcome {
    /// An error with a text for the client's log.
    pub fn error(error_code: i16, message: impl Into<Box<str>>) -> ProduceOutcome {
        ProduceOutcome {
            error_code,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            error_message: Some(message.into()),
            record_errors: Box::default(),
        }
    }

    /// The same outcome after waiting for durability ended in `result`.
    pub fn after(self, result: AckResult) -> ProduceOutcome {
        match result {
            Ok(()) => self,
            Err(error) => log_error(&error),
        }
    }
}

fn log_error(error: &LogError) -> ProduceOutcome {
    let code = match error {
        LogError::Deleted => UNKNOWN_TOPIC_OR_PARTITION,
        _ => KAFKA_STORAGE_ERROR,
    };
    ProduceOutcome::error(code, error.to_string())
}

/// The codec that the topic insists on.
fn wanted_codec(config: &TopicConfig) -> Option<Compression> {
    match config.compression_type {
        config::Compression::Producer => None,
        config::Compression::Uncompressed => Some(Compression::None),
        config::Compression::Gzip => Some(Compression::Gzip),
        config::Compression::Snappy => Some(Compression::Snappy),
        config::Compression::Lz4 => Some(Compression::Lz4),
        config::Compression::Zstd => Some(Compression::Zstd),
    }
}

/// The batch in another codec, packed on a thread beside the core. The ticket keeps its place meanwhile.
async fn repack(
    incoming: &mut Incoming<'_>,
    codec: Compression,
    config: &TopicConfig,
) -> Result<Vec<u8>, ProduceOutcome> {
    let (original, gzip_level) = (incoming.bytes().to_vec(), config.gzip_level);
    let packed = rt::blocking(move || recompress(&original, codec, gzip_level)).await;
    let packed = packed.map_err(|error| ProduceOutcome::error(INVALID_RECORD, error.to_string()))?;
    if packed.len() > config.max_message_bytes.max(0) as usize {
        let text = format!("the batch has {} bytes after recompression", packed.len());
        return Err(ProduceOutcome::error(MESSAGE_TOO_LARGE, text));
    }
    Ok(packed)
}

impl Partition {
    /// Validates and appends the one batch in `incoming` (patched in place); the second part of the answer
    /// resolves when the batch is as durable as `acks` (0, 1 or -1) asks for, and is absent on errors.
    pub async fn produce(
        self: &Rc<Self>,
        ticket: Ticket,
        incoming: Incoming<'_>,
        acks: i16,
        allow_zstd: bool,
    ) -> (ProduceOutcome, Option<Pending<AckResult>>) {
        let since_ns = metrics::now_ns();
        let produced = self.try_produce(ticket, incoming, acks, allow_zstd).await;
        metrics::record_since(Series::ProduceAppend, since_ns);
        match produced {
            Ok((outcome, durable)) => (outcome, Some(durable)),
            Err(outcome) => (outcome, None),
        }
    }

    async fn try_produce(
        self: &Rc<Self>,
        ticket: Ticket,
        mut incoming: Incoming<'_>,
        acks: i16,
        allow_zstd: bool,
    ) -> Result<(ProduceOutcome, Pending<AckResult>), ProduceOutcome> {
        let config = self.config();
        let now_ms = rt::wall_ms();
        let log_append_time = config.timestamp_type == TimestampType::LogAppendTime;
        let limits = AppendLimits {
            max_batch_bytes: config.max_message_bytes.max(0) as usize,
            now_ms,
            timestamp_before_max_ms: config.timestamp_before_max_ms,
            timestamp_after_max_ms: config.timestamp_after_max_ms,
            log_append_time,
            allow_zstd,
        };
        if acks == -1 && config.min_insync_replicas > 1 {
            let text = format!("min.insync.replicas is {}, in sync is 1", config.min_insync_replicas);
            return Err(ProduceOutcome::error(NOT_ENOUGH_REPLICAS, text));
        }
        let mut batch = record_batch::validate_for_append(incoming.bytes(), &limits)
            .map_err(|error| ProduceOutcome::error(error.kafka_code(), error.to_string()))?;
        if config.cleanup_policy.compact {
            match records::records_without_key(incoming.bytes(), RECORD_ERRORS_MAX) {
                Ok(places) if places.is_empty() => {}
                Ok(places) => {
                    let text = "compacted topics cannot accept records without a key";
                    let record_errors = places.into_boxed_slice();
                    return Err(ProduceOutcome {
                        record_errors,
                        ..ProduceOutcome::error(INVALID_RECORD, text)
                    });
                }
                Err(error) => return Err(ProduceOutcome::error(INVALID_RECORD, error.to_string())),
            }
        }
        let mut repacked = match wanted_codec(&config).filter(|codec| batch.compression() != Ok(*codec)) {
            Some(codec) => Some(repack(&mut incoming, codec, &config).await?),
            None => None,
        };
        if let Some(bytes) = &repacked {
            batch = record_batch::parse_header(bytes)
                .map_err(|error| ProduceOutcome::error(error.kafka_code(), error.to_string()))?;
        }
        let mut incoming = match &mut repacked {
            Some(bytes) => Incoming::Frame(bytes),
            None => incoming,
        };
        let stamp = if log_append_time { now_ms } else { -1 };
        if log_append_time {
            record_batch::patch_log_append_time(incoming.bytes(), now_ms);
            batch.max_timestamp = now_ms;
        }
        let size_bytes = incoming.size_bytes() as u64;
        let durability = if acks == -1 { Durability::Flushed } else { Durability::Written };
        let appended = self.log.append(ticket, incoming, batch, self.leader_epoch(), durability, stamp).await;
        match appended {
            Ok(appended) => {
                metrics::add(Counter::ProduceBatches, 1);
                metrics::add(Counter::ProduceBytes, size_bytes);
                metrics::add(Counter::ProduceRecords, batch.record_count.max(0) as u64);
                Ok((
                    ProduceOutcome {
                        error_code: 0,
                        base_offset: appended.base_offset,
                        log_append_time_ms: appended.log_append_time_ms,
                        log_start_offset: self.log.log_start_offset(),
                        error_message: None,
                        record_errors: Box::default(),
                    },
                    appended.durable,
                ))
            }
            Err(AppendError::Log(error)) => Err(log_error(&error)),
            Err(AppendError::OutOfOrderSequence) => Err(ProduceOutcome::error(
                OUT_OF_ORDER_SEQUENCE_NUMBER,
                format!(
                    "producer {}: sequence {} is not the next one",
                    batch.producer_id, batch.base_sequence
                ),
            )),
            Err(AppendError::NotInTransaction) => Err(ProduceOutcome::error(
                INVALID_TXN_STATE,
                format!("producer {}: the partition is not part of its transaction", batch.producer_id),
            )),
            Err(AppendError::FencedProducer) => Err(ProduceOutcome::error(
                INVALID_PRODUCER_EPOCH,
                format!("producer {}: epoch {} is fenced", batch.producer_id, batch.producer_epoch),
            )),
        }
    }
}
