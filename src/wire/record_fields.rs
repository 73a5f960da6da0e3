//! Keys and values of the records in a batch that is not compressed: the internal topics' own.
//!
//! Owner: nobody; pure. Spec: Kafka documentation "Record". Invariants: what is handed out borrows from the batch;
//! nothing is read past its end. It must not be used for clients' batches, whose records stay opaque.

use super::record_batch::{BATCH_HEADER_SIZE, BatchInfo, Compression, TimestampType, parse_header};

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordFields<'a> {
    /// Absolute offset.
    pub offset: i64,
    /// Timestamp, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The key, if there is one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// Iterates over the records of the whole batch at the start of `batch`. Errors name what is wrong.
pub fn iterate(batch: &[u8]) -> Result<FieldsIter<'_>, &'static str> {
    let info = parse_header(batch).map_err(|_| "a header that is none")?;
    if info.compression() != Ok(Compression::None) {
        return Err("a compressed batch where none may be");
    }
    let payload = batch.get(BATCH_HEADER_SIZE..info.size_bytes).ok_or("a batch that is cut off")?;
    Ok(FieldsIter { info, rest: payload, records_left: info.record_count })
}

/// See [`iterate`]. After an error it ends.
pub struct FieldsIter<'a> {
    info: BatchInfo,
    rest: &'a [u8],
    records_left: i32,
}

impl<'a> Iterator for FieldsIter<'a> {
    type Item = Result<RecordFields<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.records_left <= 0 {
            return None;
        }
        self.records_left -= 1;
        let record = self.read().ok_or("a malformed record");
        if record.is_err() {
            self.records_left = 0;
        }
        Some(record)
    }
}

impl<'a> FieldsIter<'a> {
    fn read(&mut self) -> Option<RecordFields<'a>> {
        let size = usize::try_from(varint(&mut self.rest)?).ok()?;
        let (mut record, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        record = record.get(1..)?;
        let timestamp_delta = varint(&mut record)?;
        let offset_delta = varint(&mut record)?;
        let key = nullable_bytes(&mut record)?;
        let value = nullable_bytes(&mut record)?;
        let timestamp_ms = match self.info.timestamp_type() {
            TimestampType::LogAppendTime => self.info.max_timestamp,
            TimestampType::CreateTime => self.info.base_timestamp.checked_add(timestamp_delta)?,
        };
        let offset = self.info.base_offset.checked_add(offset_delta)?;
        Some(RecordFields { offset, timestamp_ms, key, value })
    }
}

fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for index in 0..10 {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn nullable_bytes<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let size = varint(rest)?;
    if size < 0 {
        return Some(None);
    }
    let (bytes, tail) = rest.split_at_checked(usize::try_from(size).ok()?)?;
    *rest = tail;
    Some(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch_builder::BatchBuilder;

    #[test]
    fn what_the_builder_wrote_is_read_and_damage_is_an_error() {
        let batch = BatchBuilder::new()
            .base_offset(7)
            .record(1_000, Some(b"key"), Some(b"value"))
            .record(1_005, Some(b""), None)
            .build();
        let records: Vec<_> = iterate(&batch).unwrap().map(Result::unwrap).collect();
        let first = RecordFields { offset: 7, timestamp_ms: 1_000, key: Some(b"key"), value: Some(b"value") };
        let second = RecordFields { offset: 8, timestamp_ms: 1_005, key: Some(b""), value: None };
        assert_eq!(records, [first, second]);
        assert!(iterate(&batch[..batch.len() - 1]).is_err());
        for at in BATCH_HEADER_SIZE..batch.len() {
            let mut damaged = batch.clone();
            damaged[at] ^= 0x80;
            // Ends, whatever it finds.
            let _ = iterate(&damaged).unwrap().count();
        }
        let packed = BatchBuilder::new().compression(Compression::Gzip).record(1, None, None).build();
        assert!(iterate(&packed).is_err());
    }
}
