//! Transactional ids as they lie in `__transaction_state`: Kafka's TransactionLogKey and TransactionLogValue.
//!
//! Owner: nobody; pure. Spec: TransactionLogKey 0; TransactionLogValue 0 (read) and 1 (read and written), whose tagged
//! fields are the previous producer id (0), the next one (1) and the client's transaction version (2);
//! and, of our own, the last epoch (10000).
//! Invariant: what [`encode`] writes, [`decode`] reads; anything else is `None`, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use super::state_log::LogRecord;
use super::txn_state::{NO_EPOCH, NO_PRODUCER_ID, TxnMetadata, TxnPhase};
use crate::wire::{Reader, WireError, Writer};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const TAG_PREVIOUS_PRODUCER_ID: u32 = 0;
const TAG_NEXT_PRODUCER_ID: u32 = 1;
const TAG_CLIENT_VERSION: u32 = 2;
/// A field of our own, far above Kafka's: the epoch before a bump whose answer may have been lost. Kafka forgets it at
/// a restart and then refuses a client that asks again; readers skip tags that they do not know (KIP-482).
const TAG_LAST_EPOCH: u32 = 10_000;
/// The smallest topic of a value: name length, partition count, tagged fields.
const TOPIC_SIZE_MIN: usize = 3;

/// The key of a transactional id.
pub fn encode_key(id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + id.len());
    let mut out = Writer::new(&mut key);
    out.i16(KEY_VERSION);
    out.string(false, id);
    key
}

/// The record that stores `metadata`, or forgets the id.
pub fn encode(id: &str, metadata: Option<&TxnMetadata>) -> LogRecord {
    LogRecord { key: encode_key(id), value: metadata.map(encode_value) }
}

fn encode_value(metadata: &TxnMetadata) -> Vec<u8> {
    let mut value = Vec::with_capacity(64);
    let mut out = Writer::new(&mut value);
    out.i16(VALUE_VERSION);
    out.i64(metadata.producer_id);
    out.i16(metadata.epoch);
    out.i32(metadata.timeout_ms);
    out.i8(metadata.phase as i8);
    // Kafka writes no array at all for an id without a transaction.
    let partitions = (metadata.phase != TxnPhase::Empty).then_some(&metadata.partitions);
    out.len(true, partitions.map(BTreeMap::len));
    for (topic, indexes) in partitions.into_iter().flatten() {
        out.string(true, topic);
        out.len(true, Some(indexes.len()));
        indexes.iter().for_each(|index| out.i32(*index));
        out.no_tagged_fields(true);
    }
    out.i64(metadata.update_ms);
    out.i64(metadata.start_ms);
    let ids = [
        (TAG_PREVIOUS_PRODUCER_ID, metadata.previous_producer_id),
        (TAG_NEXT_PRODUCER_ID, metadata.next_producer_id),
    ];
    let ids = ids.into_iter().filter(|(_, id)| *id != NO_PRODUCER_ID);
    let versioned = metadata.client_version != 0;
    let bumped = metadata.last_epoch != NO_EPOCH;
    out.unsigned_varint(ids.clone().count() as u32 + u32::from(versioned) + u32::from(bumped));
    for (tag, id) in ids {
        out.unsigned_varint(tag);
        out.unsigned_varint(8);
        out.i64(id);
    }
    if versioned {
        out.unsigned_varint(TAG_CLIENT_VERSION);
        out.unsigned_varint(2);
        out.i16(metadata.client_version);
    }
    if bumped {
        out.unsigned_varint(TAG_LAST_EPOCH);
        out.unsigned_varint(2);
        out.i16(metadata.last_epoch);
    }
    value
}

/// The transactional id of a key.
pub fn decode_key(key: &[u8]) -> Option<String> {
    let mut reader = Reader::new(key);
    (reader.i16().ok()? == KEY_VERSION).then_some(())?;
    reader.string(false).ok().map(str::to_owned)
}

/// The state in a value.
pub fn decode(value: &[u8]) -> Option<TxnMetadata> {
    let mut reader = Reader::new(value);
    let flexible = match reader.i16().ok()? {
        0 => false,
        VALUE_VERSION => true,
        _ => return None,
    };
    decode_value(&mut reader, flexible).ok().flatten()
}

fn decode_value(reader: &mut Reader<'_>, flexible: bool) -> Result<Option<TxnMetadata>, WireError> {
    let (producer_id, epoch, timeout_ms) = (reader.i64()?, reader.i16()?, reader.i32()?);
    let Some(phase) = TxnPhase::from_number(reader.i8()?) else { return Ok(None) };
    let mut partitions = BTreeMap::new();
    for _ in 0..reader.nullable_array_len(flexible, TOPIC_SIZE_MIN)?.unwrap_or(0) {
        let topic = reader.string(flexible)?.to_owned();
        let mut indexes = BTreeSet::new();
        for _ in 0..reader.array_len(flexible, 4)? {
            indexes.insert(reader.i32()?);
        }
        reader.skip_tagged_fields(flexible)?;
        partitions.insert(topic, indexes);
    }
    let (update_ms, start_ms) = (reader.i64()?, reader.i64()?);
    let mut metadata = TxnMetadata {
        producer_id,
        previous_producer_id: NO_PRODUCER_ID,
        next_producer_id: NO_PRODUCER_ID,
        epoch,
        last_epoch: NO_EPOCH,
        timeout_ms,
        phase,
        partitions,
        start_ms,
        update_ms,
        client_version: 0,
    };
    if flexible {
        reader.tagged_fields(|tag, bytes| {
            let mut field = Reader::new(bytes);
            match tag {
                TAG_PREVIOUS_PRODUCER_ID => metadata.previous_producer_id = field.i64()?,
                TAG_NEXT_PRODUCER_ID => metadata.next_producer_id = field.i64()?,
                TAG_CLIENT_VERSION => metadata.client_version = field.i16()?,
                TAG_LAST_EPOCH => metadata.last_epoch = field.i16()?,
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(Some(metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TxnMetadata {
        let mut metadata = TxnMetadata::new(77, 60_000, 1_700_000_000_000);
        metadata.epoch = 3;
        metadata.phase = TxnPhase::Ongoing;
        metadata.partitions.insert("orders".into(), BTreeSet::from([0, 7]));
        metadata.partitions.insert("__consumer_offsets".into(), BTreeSet::from([13]));
        metadata.start_ms = 1_700_000_000_001;
        metadata
    }

    #[test]
    fn records_round_trip() {
        let mut rotated = sample();
        (rotated.previous_producer_id, rotated.next_producer_id, rotated.client_version) = (5, 6, 2);
        let mut bumped = rotated.clone();
        (bumped.epoch, bumped.last_epoch) = (1, 0);
        for metadata in [sample(), rotated, bumped, TxnMetadata::new(1, 2, 3)] {
            let record = encode("id-\u{e4}", Some(&metadata));
            assert_eq!(decode_key(&record.key).as_deref(), Some("id-\u{e4}"));
            assert_eq!(decode(record.value.as_deref().unwrap()), Some(metadata));
        }
        assert_eq!(encode("x", None).value, None);
    }

    #[test]
    fn kafkas_own_bytes_are_read() {
        // Version 0: producer 5, epoch 1, time-out 1000, Ongoing, topic "t" with partition 2, updated 8, started 9.
        let mut value = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 0, 3, 0xe8, 1];
        value.extend([0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 2]);
        value.extend([0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
        let metadata = decode(&value).expect("readable");
        assert_eq!((metadata.producer_id, metadata.epoch, metadata.timeout_ms), (5, 1, 1000));
        assert!(metadata.has("t", 2));
        assert_eq!((metadata.update_ms, metadata.start_ms), (8, 9));
        for cut in 0..value.len() {
            assert_eq!(decode(&value[..cut]), None);
        }
    }
}
