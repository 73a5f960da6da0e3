//! Control batches: the markers that end a transaction in a partition's log.
//!
//! Owner: nobody; pure. Spec: KIP-98, "Control Messages"; Kafka's ControlRecordType and EndTxnMarker schemas. A marker
//! is a batch of one record with the transactional and the control bit set, no sequence (-1), key
//! `version i16, type i16` (0 abort, 1 commit) and value `version i16, coordinator epoch i32`.
//!
//! Invariants: what [`encode`] writes, [`parse`] reads; a control batch of an unknown type is no marker and is left
//! alone. Must not: be made from anything a client sent as a batch; only the transaction coordinator writes markers.

use super::batch_builder;
use super::primitives::Writer;
use super::record_batch::{BATCH_HEADER_SIZE, BatchInfo, parse_header};

const TRANSACTIONAL_AND_CONTROL: i16 = 0x30;
/// Length, attributes, timestamp delta, offset delta and key length of the one record, one byte each.
const RECORD_PREFIX_SIZE: usize = 5;
const KEY_SIZE: usize = 4;
const VALUE_SIZE: usize = 6;
const TYPE_ABORT: i16 = 0;
const TYPE_COMMIT: i16 = 1;

/// How a transaction ended, as a marker in the log says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The transaction's producer.
    pub producer_id: i64,
    /// Its epoch; above that of the transaction's batches if the end bumped it (KIP-890).
    pub producer_epoch: i16,
    /// Committed, not aborted.
    pub commit: bool,
    /// Epoch of the coordinator that wrote it.
    pub coordinator_epoch: i32,
}

/// The bytes of a marker batch with base offset 0.
pub fn encode(marker: &Marker, timestamp_ms: i64) -> Vec<u8> {
    let record_size = RECORD_PREFIX_SIZE - 1 + KEY_SIZE + 1 + VALUE_SIZE + 1;
    let mut record = Vec::with_capacity(record_size + 1);
    let mut out = Writer::new(&mut record);
    out.varint(record_size as i32);
    out.i8(0);
    out.varlong(0);
    out.varint(0);
    out.varint(KEY_SIZE as i32);
    out.i16(0);
    out.i16(if marker.commit { TYPE_COMMIT } else { TYPE_ABORT });
    out.varint(VALUE_SIZE as i32);
    out.i16(0);
    out.i32(marker.coordinator_epoch);
    out.varint(0);
    let info = BatchInfo {
        size_bytes: 0,
        base_offset: 0,
        last_offset_delta: 0,
        record_count: 1,
        leader_epoch: -1,
        attributes: TRANSACTIONAL_AND_CONTROL,
        base_timestamp: timestamp_ms,
        max_timestamp: timestamp_ms,
        producer_id: marker.producer_id,
        producer_epoch: marker.producer_epoch,
        base_sequence: -1,
        crc: 0,
    };
    batch_builder::encode(&info, &record)
}

/// The marker in `batch`, a whole batch; `None` for any other batch.
pub fn parse(batch: &[u8]) -> Option<Marker> {
    let info = parse_header(batch).ok()?;
    if !info.is_control() || !info.is_transactional() {
        return None;
    }
    let record = batch.get(BATCH_HEADER_SIZE + RECORD_PREFIX_SIZE..)?;
    let (key, rest) = record.split_first_chunk::<KEY_SIZE>()?;
    let (_, value) = rest.split_first()?;
    let commit = match i16::from_be_bytes([key[2], key[3]]) {
        TYPE_ABORT => false,
        TYPE_COMMIT => true,
        _ => return None,
    };
    // A marker without a readable value still ends its transaction.
    let coordinator_epoch =
        value.get(2..VALUE_SIZE).and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_be_bytes);
    Some(Marker {
        producer_id: info.producer_id,
        producer_epoch: info.producer_epoch,
        commit,
        coordinator_epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record_batch::{crc_ok, parse_whole};
    use crate::wire::records::Records;

    #[test]
    fn markers_round_trip_and_are_batches() {
        for commit in [false, true] {
            let marker = Marker { producer_id: 77, producer_epoch: 3, commit, coordinator_epoch: 9 };
            let bytes = encode(&marker, 1234);
            let info = parse_whole(&bytes).expect("a batch");
            assert_eq!((info.size_bytes, info.record_count, info.base_sequence), (bytes.len(), 1, -1));
            assert!(crc_ok(&bytes) && info.is_control() && info.is_transactional());
            assert_eq!((info.base_timestamp, info.max_timestamp), (1234, 1234));
            assert_eq!(parse(&bytes), Some(marker));
            let records: Vec<_> = Records::new(&bytes).expect("records").collect();
            assert_eq!(records.len(), 1);
            assert_eq!(records[0].as_ref().expect("a record").key_size_bytes, Some(4));
        }
    }

    #[test]
    fn other_batches_are_no_markers() {
        use crate::wire::batch_builder::BatchBuilder;
        let plain = BatchBuilder::new().record(1, Some(&[0, 0, 0, 1]), Some(&[0; 6])).build();
        assert_eq!(parse(&plain), None);
        let other = BatchBuilder::new().flags(0x30).producer(5, 0, 0).record(1, Some(&[0, 0, 0, 9]), None);
        assert_eq!(parse(&other.build()), None);
        let marker = Marker { producer_id: 1, producer_epoch: 0, commit: true, coordinator_epoch: 0 };
        let bytes = encode(&marker, 0);
        for cut in 0..BATCH_HEADER_SIZE + RECORD_PREFIX_SIZE + KEY_SIZE {
            assert_eq!(parse(&bytes[..cut]), None);
        }
    }
}
