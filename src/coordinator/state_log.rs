//! A coordinator's memory on disk: an internal partition to which it appends what it must not forget, and from
//! which it starts again.
//!
//! Owner: the core that owns the partition. Invariants: records reach the log in the order of [`StateLog::submit`];
//! nobody is answered before the batch with his records is flushed (`acks=all`); whatever waits while a batch is on
//! its way shares the next one, so that a flush serves many. Replay holds one read of the log at a time.
//! It must not know what the records mean.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::limits::{STATE_LOG_BATCH_BYTES_MAX, STATE_LOG_QUEUE_BYTES_MAX, STATE_LOG_READ_BYTES};
use crate::partition::Partition;
use crate::rt;
use crate::storage::{AppendError, Durability, Incoming};
use crate::sync::{Pending, Promise, oneshot};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::control_batch::{self, Marker};
use crate::wire::record_batch::{self, BatchInfo};
use crate::wire::record_fields;

/// Attribute bit of a batch that is part of a transaction.
const TRANSACTIONAL_FLAG: i16 = 0x10;

/// Sequence number of batches that are not checked for order: a coordinator's own.
const NO_SEQUENCE: i32 = -1;

/// One record: a key, and a value or a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The key, with its version in front.
    pub key: Vec<u8>,
    /// The value; `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

/// The producer on whose behalf a transactional record is written (`TxnOffsetCommit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordProducer {
    /// Producer id.
    pub id: i64,
    /// Producer epoch.
    pub epoch: i16,
}

/// Why records were not made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateLogError {
    /// Too much waits already; the client may try again.
    #[error("the coordinator's log is busy")]
    Busy,
    /// The log refused the append, failed, or is gone. Nothing is known about the records.
    #[error("the coordinator's log: {0}")]
    Failed(Rc<str>),
}

/// What becomes of submitted records: the offset of the first one, once all are durable.
pub type Stored = Result<i64, StateLogError>;

/// One thing that replay finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Replayed<'a> {
    /// A record.
    Record {
        /// Its offset.
        offset: i64,
        /// Its timestamp, milliseconds since 1970.
        timestamp_ms: i64,
        /// The key.
        key: &'a [u8],
        /// The value; `None` is a tombstone.
        value: Option<&'a [u8]>,
        /// The producer, if the record belongs to a transaction.
        producer: Option<RecordProducer>,
    },
    /// The end of a producer's transaction on this partition.
    Marker {
        /// Whose transaction.
        producer: RecordProducer,
        /// Whether its records count.
        committed: bool,
    },
}

struct Queued {
    records: Vec<LogRecord>,
    marker: Option<Marker>,
    size_bytes: usize,
    producer: Option<RecordProducer>,
    done: Promise<Stored>,
}

/// An internal partition as its coordinator sees it.
pub struct StateLog {
    partition: Rc<Partition>,
    queue: RefCell<VecDeque<Queued>>,
    queued_bytes: Cell<usize>,
    pumping: Cell<bool>,
}

impl StateLog {
    /// The log over an internal partition of this core.
    pub fn new(partition: Rc<Partition>) -> Rc<StateLog> {
        Rc::new(StateLog {
            partition,
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            pumping: Cell::new(false),
        })
    }

    /// The partition.
    pub fn partition(&self) -> &Rc<Partition> {
        &self.partition
    }

    /// Whether nothing was ever written, so that there is nothing to replay.
    pub fn is_empty(&self) -> bool {
        self.partition.log.log_end_offset() == self.partition.log.log_start_offset()
    }

    /// Queues records, which go into the log in the order of the calls; the result comes when they are durable.
    ///
    /// With a producer they are part of its transaction. Error: [`StateLogError::Busy`], and nothing was queued.
    pub fn submit(
        self: &Rc<Self>,
        records: Vec<LogRecord>,
        producer: Option<RecordProducer>,
    ) -> Result<Pending<Stored>, StateLogError> {
        if records.is_empty() {
            let (done, pending) = oneshot();
            done.fill(Ok(self.partition.log.log_end_offset()));
            return Ok(pending);
        }
        self.queue(records, None, producer)
    }

    /// Queues the marker that ends a producer's transaction on this partition, behind its records.
    pub fn submit_marker(self: &Rc<Self>, marker: Marker) -> Result<Pending<Stored>, StateLogError> {
        let producer = RecordProducer { id: marker.producer_id, epoch: marker.producer_epoch };
        self.queue(Vec::new(), Some(marker), Some(producer))
    }

    fn queue(
        self: &Rc<Self>,
        records: Vec<LogRecord>,
        marker: Option<Marker>,
        producer: Option<RecordProducer>,
    ) -> Result<Pending<Stored>, StateLogError> {
        let size_bytes: usize = records.iter().map(record_size).sum();
        let queued = self.queued_bytes.get();
        if queued > 0 && queued + size_bytes > STATE_LOG_QUEUE_BYTES_MAX {
            return Err(StateLogError::Busy);
        }
        let (done, pending) = oneshot();
        self.queued_bytes.set(queued + size_bytes);
        self.queue.borrow_mut().push_back(Queued { records, marker, size_bytes, producer, done });
        if !self.pumping.replace(true) {
            let log = self.clone();
            rt::spawn(async move { log.pump().await });
        }
        Ok(pending)
    }

    /// [`submit`](Self::submit), and waits.
    pub async fn append(
        self: &Rc<Self>,
        records: Vec<LogRecord>,
        producer: Option<RecordProducer>,
    ) -> Stored {
        self.submit(records, producer)?.wait().await
    }

    /// Writes batch after batch until nothing waits.
    async fn pump(self: Rc<Self>) {
        loop {
            let batch = self.next_batch();
            let Some(first) = batch.first() else { break };
            let stored = self.write(&batch, first.producer).await;
            let mut offset = *stored.as_ref().unwrap_or(&0);
            for queued in batch {
                self.queued_bytes.set(self.queued_bytes.get() - queued.size_bytes);
                let count = queued.records.len() as i64;
                queued.done.fill(stored.clone().map(|_| offset));
                offset += count;
            }
        }
        self.pumping.set(false);
    }

    /// What goes into one batch: of one producer, and not more than the bound, but always something.
    fn next_batch(&self) -> Vec<Queued> {
        let mut queue = self.queue.borrow_mut();
        let mut batch: Vec<Queued> = Vec::new();
        let mut size_bytes = 0;
        while let Some(next) = queue.front() {
            let fits = size_bytes + next.size_bytes <= STATE_LOG_BATCH_BYTES_MAX;
            let alone = next.marker.is_some();
            let parts = |first: &Queued| alone || first.marker.is_some() || first.producer != next.producer;
            if batch.first().is_some_and(|first| parts(first) || !fits) {
                break;
            }
            size_bytes += next.size_bytes;
            batch.extend(queue.pop_front());
        }
        batch
    }

    async fn write(&self, batch: &[Queued], producer: Option<RecordProducer>) -> Stored {
        let now_ms = rt::wall_ms();
        let mut bytes = match batch.iter().find_map(|queued| queued.marker) {
            Some(marker) => control_batch::encode(&marker, now_ms),
            None => build_batch(batch, producer, now_ms),
        };
        let failed = |why: String| StateLogError::Failed(why.into());
        let info = record_batch::parse_header(&bytes).map_err(|error| failed(error.to_string()))?;
        let log = &self.partition.log;
        let epoch = self.partition.leader_epoch();
        let incoming = Incoming::Frame(&mut bytes);
        let durability = Durability::Flushed;
        #[cfg(test)]
        let durability = match crate::sim::planted(crate::sim::Canary::WrittenState) {
            true => Durability::Written,
            false => durability,
        };
        match log.append(log.ticket(), incoming, info, epoch, durability, -1).await {
            Ok(appended) => match appended.durable.wait().await {
                Ok(()) => Ok(appended.base_offset),
                Err(error) => Err(failed(error.to_string())),
            },
            Err(AppendError::Log(error)) => Err(failed(error.to_string())),
            Err(error) => Err(failed(format!("{error:?}"))),
        }
    }

    /// Hands everything in the log to `visit`, in order. Error: the log cannot be read, or holds no records of ours.
    pub async fn replay(&self, mut visit: impl FnMut(Replayed<'_>)) -> Result<(), StateLogError> {
        let log = &self.partition.log;
        let failed = |why: String| StateLogError::Failed(why.into());
        let mut offset = log.log_start_offset();
        let mut bytes = Vec::new();
        while offset < log.high_watermark() {
            let read =
                log.read(offset, STATE_LOG_READ_BYTES).await.map_err(|error| failed(error.to_string()))?;
            bytes.clear();
            read.slices.iter().for_each(|slice| bytes.extend_from_slice(slice.as_bytes()));
            let mut rest = &bytes[..];
            while let Ok(info) = record_batch::parse_whole(rest) {
                replay_batch(&info, rest, offset, &mut visit).map_err(|why| failed(why.to_owned()))?;
                offset = offset.max(info.next_offset());
                rest = &rest[info.size_bytes..];
            }
            if rest.len() == bytes.len() {
                return Err(failed(format!("{}: no batch at offset {offset}", log.name())));
            }
            rt::yield_now().await;
        }
        Ok(())
    }
}

fn build_batch(batch: &[Queued], producer: Option<RecordProducer>, now_ms: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    if let Some(producer) = producer {
        builder = builder.producer(producer.id, producer.epoch, NO_SEQUENCE).flags(TRANSACTIONAL_FLAG);
    }
    for record in batch.iter().flat_map(|queued| &queued.records) {
        builder = builder.record(now_ms, Some(&record.key), record.value.as_deref());
    }
    builder.build()
}

/// What a record takes in a batch, roughly.
fn record_size(record: &LogRecord) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, Vec::len) + 32
}

pub(crate) fn replay_batch(
    info: &BatchInfo,
    batch: &[u8],
    from: i64,
    visit: &mut impl FnMut(Replayed<'_>),
) -> Result<(), &'static str> {
    let producer = RecordProducer { id: info.producer_id, epoch: info.producer_epoch };
    for record in record_fields::iterate(batch)? {
        let record = record?;
        if record.offset < from {
            continue;
        }
        let key = record.key.unwrap_or_default();
        if info.is_control() {
            // Version and type, 16 bits each; 0 aborts, 1 commits, others are not about records.
            if let [_, _, 0, kind @ (0 | 1)] = key {
                visit(Replayed::Marker { producer, committed: *kind == 1 });
            }
            continue;
        }
        visit(Replayed::Record {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key,
            value: record.value,
            producer: info.is_transactional().then_some(producer),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_sees_records_transactions_and_their_ends() {
        let producer = RecordProducer { id: 9, epoch: 2 };
        let plain = BatchBuilder::new().record(5, Some(b"k"), None).build();
        let pending = BatchBuilder::new()
            .base_offset(1)
            .producer(9, 2, NO_SEQUENCE)
            .flags(TRANSACTIONAL_FLAG)
            .record(6, Some(b"a"), Some(b"1"))
            .record(7, Some(b"b"), Some(b"2"))
            .build();
        let marker = BatchBuilder::new()
            .base_offset(3)
            .producer(9, 2, NO_SEQUENCE)
            .flags(TRANSACTIONAL_FLAG | 0x20)
            .record(8, Some(&[0, 0, 0, 1]), Some(&[0; 6]))
            .build();
        let mut seen = Vec::new();
        for (batch, from) in [(plain, 0), (pending, 2), (marker, 3)] {
            let info = record_batch::parse_whole(&batch).expect("whole");
            replay_batch(&info, &batch, from, &mut |item| {
                seen.push(match item {
                    Replayed::Record { offset, key, value, producer, .. } => {
                        format!("{offset} {:?} {} {:?}", key, value.is_some(), producer)
                    }
                    Replayed::Marker { producer, committed } => format!("{producer:?} {committed}"),
                });
            })
            .expect("records");
        }
        let expected = [
            format!("0 {:?} false None", b"k"),
            format!("2 {:?} true {:?}", b"b", Some(producer)),
            format!("{producer:?} true"),
        ];
        assert_eq!(seen, expected);
    }
}
