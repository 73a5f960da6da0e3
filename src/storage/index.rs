//! The sparse index of one segment: offset and time to file position.
//!
//! Owner: the segment. In memory while the segment is active; in a small file once it is sealed
//! (docs/FORMAT.md, "Index file"); rebuilt from the batches when that file is missing or damaged.
//! Invariants: offsets, positions and running maximum timestamps rise from entry to entry; an entry
//! points at the first byte of a batch. It must not do I/O.

use std::collections::VecDeque;

use super::transactions::{AbortedTransaction, TransactionalProducer};
use crate::limits::{INDEX_INTERVAL_BYTES_MIN, PRODUCER_BATCHES_KEPT};

/// One entry: the batch at `position` starts at `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Base offset of the batch.
    pub offset: i64,
    /// Byte position in the segment file.
    pub position: u64,
    /// Largest record timestamp in this segment before this batch, milliseconds.
    pub max_timestamp_before: i64,
}

/// Bytes inside the log that are known to be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First offset that cannot be read.
    pub offset_start: i64,
    /// First offset that can be read again.
    pub offset_end: i64,
    /// First damaged byte in the segment file.
    pub position_start: u64,
    /// First good byte after the damage.
    pub position_end: u64,
}

/// Sparse index of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    entries: Vec<IndexEntry>,
    damaged: Vec<Damage>,
}

impl SegmentIndex {
    /// Notes a batch; every [`INDEX_INTERVAL_BYTES_MIN`] bytes one entry is kept.
    pub fn note(&mut self, offset: i64, position: u64, max_timestamp_before: i64) {
        let due = match self.entries.last() {
            None => true,
            Some(last) => position >= last.position + INDEX_INTERVAL_BYTES_MIN,
        };
        if due {
            self.entries.push(IndexEntry { offset, position, max_timestamp_before });
        }
    }

    /// Notes damaged bytes.
    pub fn note_damage(&mut self, damage: Damage) {
        self.damaged.push(damage);
    }

    /// Whether any bytes are known to be damaged.
    pub fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// The damage that covers `offset`, if any.
    pub fn damage_at(&self, offset: i64) -> Option<Damage> {
        self.damaged.iter().copied().find(|range| (range.offset_start..range.offset_end).contains(&offset))
    }

    /// The first damaged position at or after `position`: a read must stop there.
    pub fn next_damage_position(&self, position: u64) -> Option<u64> {
        self.damaged.iter().map(|range| range.position_start).filter(|start| *start >= position).min()
    }

    /// Where the damage that begins at `position` ends, if any does.
    #[cfg(test)]
    pub(super) fn damage_from(&self, position: u64) -> Option<u64> {
        self.damaged.iter().find(|range| range.position_start == position).map(|range| range.position_end)
    }

    /// Position from which a forward scan finds the batch that holds `offset`, and that batch's offset.
    pub fn floor_offset(&self, offset: i64) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        let found = after.checked_sub(1).map(|at| self.entries[at])?;
        // Never scan across a damaged range: start behind the last one that ends at or below `offset`.
        let jumped = self.damaged.iter().rfind(|range| range.offset_end <= offset);
        Some(match jumped {
            Some(range) if range.position_end > found.position => IndexEntry {
                offset: range.offset_end,
                position: range.position_end,
                max_timestamp_before: found.max_timestamp_before,
            },
            _ => found,
        })
    }

    /// Last entry whose position is at or below `position`.
    pub fn floor_position(&self, position: u64) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.position <= position);
        after.checked_sub(1).map(|at| self.entries[at])
    }

    /// First entry whose position is at or above `position`.
    pub fn ceiling_position(&self, position: u64) -> Option<IndexEntry> {
        self.entries.get(self.entries.partition_point(|entry| entry.position < position)).copied()
    }

    /// Position from which a forward scan finds the first batch with a timestamp of at least `target_ms`.
    pub fn floor_timestamp(&self, target_ms: i64) -> Option<IndexEntry> {
        // The first entry before which `target_ms` was already reached: the batch lies before that entry.
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < target_ms);
        after.checked_sub(1).map(|at| self.entries[at]).or_else(|| self.entries.first().copied())
    }
}

/// One remembered batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerBatch {
    /// First sequence number.
    pub first_sequence: i32,
    /// Last sequence number.
    pub last_sequence: i32,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Append time or batch timestamp that the reply repeated, milliseconds.
    pub timestamp_ms: i64,
}

/// What a partition remembers of one idempotent producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Producer epoch.
    pub epoch: i16,
    /// Newest last; at most [`PRODUCER_BATCHES_KEPT`].
    pub batches: VecDeque<ProducerBatch>,
    /// Wall clock of the last append, milliseconds: for expiry.
    pub last_append_ms: i64,
}

/// What the index file of a sealed segment, or the clean-shutdown mark, tells of a segment's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Bytes of batches in the file.
    pub size_bytes: u64,
    /// Offset after the last record.
    pub next_offset: i64,
    /// Largest record timestamp, milliseconds; -1 when empty.
    pub max_timestamp: i64,
    /// The sparse index.
    pub index: SegmentIndex,
    /// Leader epochs that begin in this segment: (epoch, first offset).
    pub epochs: Vec<(i32, i64)>,
    /// Producer state at the end of the segment.
    pub producers: Vec<(i64, ProducerEntry)>,
    /// Aborted transactions whose markers lie in this segment.
    pub aborted: Vec<AbortedTransaction>,
    /// Producers of transactions at the end of the segment.
    pub transactional: Vec<TransactionalProducer>,
}

const MAGIC: &[u8; 4] = b"RIDX";
const VERSION: u16 = 2;
/// First version that tells of transactions.
const TRANSACTIONS_SINCE: u16 = 2;

/// Why an index file cannot be used; the caller rebuilds it from the batches.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IndexFileError {
    /// Too short, wrong magic or checksum.
    #[error("index file damaged")]
    Damaged,
    /// Written by a newer version.
    #[error("index file version {0} is newer than this program")]
    Version(u16),
}

impl SegmentSummary {
    /// The bytes of the index file: little-endian, CRC32C at the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.index.entries.len() * 24 + self.producers.len() * 128);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        put_u64(&mut out, self.size_bytes);
        put_i64(&mut out, self.next_offset);
        put_i64(&mut out, self.max_timestamp);
        put_u64(&mut out, self.index.entries.len() as u64);
        for entry in &self.index.entries {
            put_i64(&mut out, entry.offset);
            put_u64(&mut out, entry.position);
            put_i64(&mut out, entry.max_timestamp_before);
        }
        put_u64(&mut out, self.index.damaged.len() as u64);
        for damage in &self.index.damaged {
            put_i64(&mut out, damage.offset_start);
            put_i64(&mut out, damage.offset_end);
            put_u64(&mut out, damage.position_start);
            put_u64(&mut out, damage.position_end);
        }
        put_u64(&mut out, self.epochs.len() as u64);
        for (epoch, start) in &self.epochs {
            put_i64(&mut out, i64::from(*epoch));
            put_i64(&mut out, *start);
        }
        put_u64(&mut out, self.producers.len() as u64);
        for (id, entry) in &self.producers {
            put_i64(&mut out, *id);
            put_i64(&mut out, i64::from(entry.epoch));
            put_i64(&mut out, entry.last_append_ms);
            put_u64(&mut out, entry.batches.len() as u64);
            for batch in &entry.batches {
                put_i64(&mut out, i64::from(batch.first_sequence));
                put_i64(&mut out, i64::from(batch.last_sequence));
                put_i64(&mut out, batch.base_offset);
                put_i64(&mut out, batch.timestamp_ms);
            }
        }
        self.encode_transactions(&mut out);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn encode_transactions(&self, out: &mut Vec<u8>) {
        put_u64(out, self.aborted.len() as u64);
        for aborted in &self.aborted {
            put_i64(out, aborted.producer_id);
            put_i64(out, aborted.first_offset);
            put_i64(out, aborted.last_offset);
            put_i64(out, aborted.stable_offset);
        }
        put_u64(out, self.transactional.len() as u64);
        for producer in &self.transactional {
            put_i64(out, producer.producer_id);
            put_i64(out, i64::from(producer.epoch));
            put_i64(out, producer.first_offset);
            put_i64(out, i64::from(producer.coordinator_epoch));
        }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<SegmentSummary, IndexFileError> {
        let body_size = bytes.len().checked_sub(4).ok_or(IndexFileError::Damaged)?;
        let (body, crc) = bytes.split_at(body_size);
        if body.len() < 6 || &body[..4] != MAGIC || crc32c::crc32c(body).to_le_bytes() != crc {
            return Err(IndexFileError::Damaged);
        }
        let version = u16::from_le_bytes([body[4], body[5]]);
        if version > VERSION {
            return Err(IndexFileError::Version(version));
        }
        let mut cursor = Cursor(&body[6..]);
        decode_body(&mut cursor, version).ok_or(IndexFileError::Damaged)
    }
}

fn decode_body(cursor: &mut Cursor<'_>, version: u16) -> Option<SegmentSummary> {
    let mut summary = SegmentSummary {
        size_bytes: cursor.u64()?,
        next_offset: cursor.i64()?,
        max_timestamp: cursor.i64()?,
        ..SegmentSummary::default()
    };
    for _ in 0..cursor.count(24)? {
        summary.index.entries.push(IndexEntry {
            offset: cursor.i64()?,
            position: cursor.u64()?,
            max_timestamp_before: cursor.i64()?,
        });
    }
    for _ in 0..cursor.count(32)? {
        summary.index.damaged.push(Damage {
            offset_start: cursor.i64()?,
            offset_end: cursor.i64()?,
            position_start: cursor.u64()?,
            position_end: cursor.u64()?,
        });
    }
    for _ in 0..cursor.count(16)? {
        summary.epochs.push((cursor.i64()? as i32, cursor.i64()?));
    }
    for _ in 0..cursor.count(32)? {
        let id = cursor.i64()?;
        let epoch = cursor.i64()? as i16;
        let last_append_ms = cursor.i64()?;
        let count = cursor.count(32)?;
        if count > PRODUCER_BATCHES_KEPT {
            return None;
        }
        let mut batches = VecDeque::with_capacity(count);
        for _ in 0..count {
            batches.push_back(ProducerBatch {
                first_sequence: cursor.i64()? as i32,
                last_sequence: cursor.i64()? as i32,
                base_offset: cursor.i64()?,
                timestamp_ms: cursor.i64()?,
            });
        }
        summary.producers.push((id, ProducerEntry { epoch, batches, last_append_ms }));
    }
    if version >= TRANSACTIONS_SINCE {
        decode_transactions(cursor, &mut summary)?;
    }
    cursor.0.is_empty().then_some(summary)
}

fn decode_transactions(cursor: &mut Cursor<'_>, summary: &mut SegmentSummary) -> Option<()> {
    for _ in 0..cursor.count(32)? {
        summary.aborted.push(AbortedTransaction {
            producer_id: cursor.i64()?,
            first_offset: cursor.i64()?,
            last_offset: cursor.i64()?,
            stable_offset: cursor.i64()?,
        });
    }
    for _ in 0..cursor.count(32)? {
        summary.transactional.push(TransactionalProducer {
            producer_id: cursor.i64()?,
            epoch: cursor.i64()? as i16,
            first_offset: cursor.i64()?,
            coordinator_epoch: cursor.i64()? as i32,
        });
    }
    Some(())
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }

    fn i64(&mut self) -> Option<i64> {
        self.u64().map(|value| value as i64)
    }

    /// A count of elements of at least `element_size` bytes: refused when they cannot fit.
    fn count(&mut self, element_size: usize) -> Option<usize> {
        let count = usize::try_from(self.u64()?).ok()?;
        (count <= self.0.len() / element_size).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentSummary {
        let mut index = SegmentIndex::default();
        for batch in 0..10i64 {
            index.note(batch * 10, batch as u64 * 20_000, 1000 + batch);
        }
        index.note_damage(Damage { offset_start: 5, offset_end: 7, position_start: 100, position_end: 300 });
        let batches = VecDeque::from([ProducerBatch {
            first_sequence: 0,
            last_sequence: 4,
            base_offset: 3,
            timestamp_ms: -1,
        }]);
        SegmentSummary {
            size_bytes: 200_000,
            next_offset: 100,
            max_timestamp: 1010,
            index,
            epochs: vec![(0, 0), (3, 50)],
            producers: vec![(9, ProducerEntry { epoch: 1, batches, last_append_ms: 77 })],
            aborted: vec![AbortedTransaction {
                producer_id: 9,
                first_offset: 10,
                last_offset: 20,
                stable_offset: 15,
            }],
            transactional: vec![TransactionalProducer {
                producer_id: 9,
                epoch: 1,
                first_offset: 30,
                coordinator_epoch: 2,
            }],
        }
    }

    #[test]
    fn index_file_round_trips_and_every_flip_is_seen() {
        let summary = sample();
        let bytes = summary.encode();
        assert_eq!(SegmentSummary::decode(&bytes).unwrap(), summary);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(SegmentSummary::decode(&damaged).is_err(), "flip at {at}");
            assert!(SegmentSummary::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn floors_are_at_or_before_the_target() {
        let index = sample().index;
        assert_eq!(index.entries.len(), 5);
        assert_eq!(index.floor_offset(25).unwrap().offset, 20);
        assert_eq!(index.floor_position(39_999).unwrap().position, 0);
        assert_eq!(index.floor_timestamp(1003).unwrap().offset, 20);
        assert_eq!(index.floor_timestamp(0).unwrap().offset, 0);
        assert_eq!(index.damage_at(6).unwrap().position_end, 300);
        assert_eq!(index.damage_at(7), None);
    }
}
