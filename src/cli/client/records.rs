//! Records out of batches, for people to read.
//!
//! Owner: none, pure. Invariants: no length in the data is trusted. Must not: be used by the broker, which never
//! takes a batch apart on its way.

use super::{ClientError, Result};
use crate::wire::recompress::unpack;
use crate::wire::record_batch::TimestampType;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Record {
    /// Its offset in the partition.
    pub(in crate::cli) offset: i64,
    /// Milliseconds since 1970.
    pub(in crate::cli) timestamp_ms: i64,
    /// Whether the broker's clock gave the time.
    pub(in crate::cli) append_time: bool,
    /// The key.
    pub(in crate::cli) key: Option<Vec<u8>>,
    /// The value.
    pub(in crate::cli) value: Option<Vec<u8>>,
    /// Headers.
    pub(in crate::cli) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// The records of the batch at the start of `batch`.
pub(in crate::cli) fn decode_records(batch: &[u8]) -> Result<Vec<Record>> {
    let (info, bytes) = unpack(batch).map_err(|error| ClientError::Protocol(format!("a batch: {error}")))?;
    let append_time = info.timestamp_type() == TimestampType::LogAppendTime;
    let malformed =
        || ClientError::Protocol(format!("a batch at offset {}: malformed record", info.base_offset));
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    for _ in 0..info.record_count {
        let record = (|| {
            let size = usize::try_from(varint(&mut rest)?).ok()?;
            let (mut body, after) = rest.split_at_checked(size)?;
            rest = after;
            body = body.get(1..)?;
            let timestamp = info.base_timestamp.saturating_add(varint(&mut body)?);
            let offset = info.base_offset.saturating_add(varint(&mut body)?);
            let key = field(&mut body)?;
            let value = field(&mut body)?;
            let mut headers = Vec::new();
            for _ in 0..varint(&mut body)?.clamp(0, body.len() as i64) {
                let name = String::from_utf8_lossy(&field(&mut body)??).into_owned();
                headers.push((name, field(&mut body)?));
            }
            let timestamp_ms = if append_time { info.max_timestamp } else { timestamp };
            Some(Record { offset, timestamp_ms, append_time, key, value, headers })
        })();
        records.push(record.ok_or_else(malformed)?);
    }
    Ok(records)
}

/// Bytes with their length in front; the outer option is whether they are there, the inner whether they are null.
fn field(bytes: &mut &[u8]) -> Option<Option<Vec<u8>>> {
    let size = varint(bytes)?;
    if size < 0 {
        return Some(None);
    }
    let (head, rest) = bytes.split_at_checked(usize::try_from(size).ok()?)?;
    *bytes = rest;
    Some(Some(head.to_vec()))
}

fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * index)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch_builder::BatchBuilder;
    use crate::wire::record_batch::Compression;

    #[test]
    fn records_read_back() {
        let batch = BatchBuilder::new()
            .base_offset(40)
            .compression(Compression::Lz4)
            .record(5, None, Some(b"v"))
            .record_with_headers(7, Some(b"k"), None, &[("h", Some(b"x")), ("n", None)])
            .build();
        let records = decode_records(&batch).expect("decodes");
        assert_eq!((records[0].offset, records[0].timestamp_ms, records[0].key.as_deref()), (40, 5, None));
        assert_eq!((records[1].offset, records[1].timestamp_ms), (41, 7));
        assert_eq!((records[1].key.as_deref(), records[1].value.as_deref()), (Some(&b"k"[..]), None));
        assert_eq!(records[1].headers, [("h".to_owned(), Some(b"x".to_vec())), ("n".to_owned(), None)]);
    }

    #[test]
    fn damage_is_an_error_at_every_byte() {
        let batch = BatchBuilder::new().record(5, Some(b"key"), Some(b"value")).build();
        for at in 61..batch.len() {
            for value in 0..=255 {
                let mut damaged = batch.clone();
                damaged[at] = value;
                let _ = decode_records(&damaged);
            }
        }
        assert!(decode_records(&batch[..batch.len() - 1]).is_err());
    }
}
