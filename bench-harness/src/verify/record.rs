//! The verifier's records: numbered, dated and checksummed, so that each one says by itself whether it is whole and
//! whose it is.
//!
//! Owner: the verifier. A value is mark, run, producer, partition, number, intended send (CLOCK_MONOTONIC, ns) and a
//! CRC32C over all of it, filler included; integers are big endian. Must not: trust a byte that the checksum does not
//! cover.

use crate::batch::{CRC_FROM, HEADER_BYTES};
use crate::error::{Result, protocol};
use crate::wire::Reader;

const MARK: [u8; 8] = *b"RLverify";
const CRC_AT: usize = 40;
/// Least bytes of a value.
pub(crate) const VALUE_BYTES_MIN: usize = 44;

/// What a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The run it belongs to.
    pub(crate) run: u64,
    /// The producer that made it.
    pub(crate) producer: u32,
    /// The partition it was made for.
    pub(crate) partition: u32,
    /// Its number among those of this producer and partition, from 0.
    pub(crate) number: u64,
    /// When it was meant to leave.
    pub(crate) intended_ns: u64,
}

/// A value as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// One of a verifier's.
    Whole(Stamp),
    /// Has the mark, and is damaged.
    Damaged,
    /// Somebody else's.
    Foreign,
}

impl Stamp {
    /// The fields behind the mark, and the checksum.
    fn read(reader: &mut Reader<'_>) -> Result<(Self, u32)> {
        let stamp = Self {
            run: reader.i64()? as u64,
            producer: reader.i32()? as u32,
            partition: reader.i32()? as u32,
            number: reader.i64()? as u64,
            intended_ns: reader.i64()? as u64,
        };
        Ok((stamp, reader.i32()? as u32))
    }

    /// What the head of a value says, when it has the mark; its checksum is not looked at.
    pub(crate) fn peek(head: &[u8]) -> Option<Self> {
        let rest = head.strip_prefix(&MARK)?;
        Self::read(&mut Reader::new(rest)).ok().map(|(stamp, _)| stamp)
    }

    /// The value, `bytes` long.
    pub(crate) fn encode(&self, bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.max(VALUE_BYTES_MIN));
        out.extend_from_slice(&MARK);
        out.extend_from_slice(&self.run.to_be_bytes());
        out.extend_from_slice(&self.producer.to_be_bytes());
        out.extend_from_slice(&self.partition.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.intended_ns.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        // Filler that differs from record to record, or a swapped tail would go unseen.
        let filler = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        while out.len() < bytes {
            out.push(filler[out.len() % 8]);
        }
        let crc = crc32c::crc32c(&out);
        out[CRC_AT..VALUE_BYTES_MIN].copy_from_slice(&crc.to_be_bytes());
        out
    }
}

impl Value {
    /// Reads a value.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        if bytes.len() < VALUE_BYTES_MIN || bytes[..8] != MARK {
            return Self::Foreign;
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        let crc = crc32c::crc32c_append(crc, &[0; 4]);
        let crc = crc32c::crc32c_append(crc, &bytes[VALUE_BYTES_MIN..]);
        match Stamp::read(&mut Reader::new(&bytes[8..])) {
            Ok((stamp, stored)) if stored == crc => Self::Whole(stamp),
            _ => Self::Damaged,
        }
    }
}

/// One record of a fetch response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fetched<'a> {
    /// Its offset.
    pub(crate) offset: i64,
    /// Its value; empty when it is null.
    pub(crate) value: &'a [u8],
}

/// Walks the record batches in `bytes`, verifies each one's CRC32C, and hands out the records. Returns the offset
/// behind the last whole batch, if there was one; what the response cut off is left alone.
///
/// # Errors
/// When a batch is damaged, compressed or of another format: a verifier wrote none such.
pub(crate) fn walk_batches(
    mut bytes: &[u8],
    mut each: impl FnMut(Fetched<'_>) -> Result<()>,
) -> Result<Option<i64>> {
    let mut next = None;
    while bytes.len() >= HEADER_BYTES {
        let mut head = Reader::new(bytes);
        let base = head.i64()?;
        let length = usize::try_from(head.i32()?).unwrap_or(0).saturating_add(12);
        let Some((batch, rest)) = bytes.split_at_checked(length) else { break };
        if batch.len() < HEADER_BYTES {
            return Err(protocol(format!("a batch of {length} bytes at offset {base}")));
        }
        bytes = rest;
        head.i32()?;
        let magic = head.i8()?;
        let crc = head.i32()? as u32;
        if magic != 2 || crc != crc32c::crc32c(&batch[CRC_FROM..]) {
            return Err(protocol(format!("damaged batch at offset {base}")));
        }
        let attributes = head.i16()?;
        let last_delta = head.i32()?;
        head.take(30)?;
        let count = head.i32()?;
        next = Some(base.saturating_add(i64::from(last_delta)).saturating_add(1));
        if attributes & 0x20 != 0 {
            continue; // a control batch
        }
        if attributes & 7 != 0 {
            return Err(protocol(format!("compressed batch at offset {base}")));
        }
        let mut reader = Reader::new(&batch[HEADER_BYTES..]);
        for _ in 0..count {
            let length = usize::try_from(reader.varlong()?).unwrap_or(0);
            let mut record = Reader::new(reader.take(length)?);
            record.take(1)?;
            record.varlong()?;
            let delta = record.varlong()?;
            let key = usize::try_from(record.varlong()?).unwrap_or(0);
            record.take(key)?;
            let value = usize::try_from(record.varlong()?).unwrap_or(0);
            each(Fetched { offset: base.saturating_add(delta), value: record.take(value)? })?;
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchImage, Codec, Record};

    #[test]
    fn values_come_back_and_damage_is_seen() {
        let stamp = Stamp { run: 1, producer: 2, partition: 3, number: 4, intended_ns: u64::MAX };
        for bytes in [0, VALUE_BYTES_MIN, 100] {
            let value = stamp.encode(bytes);
            assert_eq!(value.len(), bytes.max(VALUE_BYTES_MIN));
            assert_eq!(Value::decode(&value), Value::Whole(stamp));
            for at in 8..value.len() {
                let mut damaged = value.clone();
                damaged[at] ^= 1;
                assert_eq!(Value::decode(&damaged), Value::Damaged, "byte {at}");
            }
        }
        assert_eq!(Value::decode(b"something else, long enough to hold a whole stamp"), Value::Foreign);
    }

    #[test]
    fn batches_are_walked_and_cut_ones_left() {
        let values: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 60]).collect();
        let records: Vec<Record<'_>> = values.iter().map(|value| Record { key: None, value }).collect();
        let image = BatchImage::encode_records(&records, Codec::None, false, 0).unwrap();
        let mut bytes = [&image.head[..], &image.tail].concat();
        let mut second = bytes.clone();
        second[..8].copy_from_slice(&5i64.to_be_bytes());
        bytes.extend_from_slice(&second);
        let mut seen = Vec::new();
        for (cut, next) in [(bytes.len(), 10), (second.len() + 70, 5)] {
            let end = walk_batches(&bytes[..cut], |fetched| {
                seen.push((fetched.offset, fetched.value[0]));
                Ok(())
            });
            assert_eq!(end.unwrap(), Some(next));
        }
        assert_eq!(seen.len(), 15);
        assert!(seen[..10].iter().enumerate().all(|(n, (offset, _))| *offset == n as i64));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(walk_batches(&bytes, |_| Ok(())).is_err());
    }
}
