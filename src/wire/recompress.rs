//! The same batch in another codec: what a topic's `compression.type` asks for when its producer chose otherwise.
//!
//! Owner: nobody; pure, but slow: not for a core's thread. Spec: Kafka documentation "Record Batch"; KIP-390.
//!
//! Invariants: records, offsets, timestamps and producer fields stay as they are, only codec, length and checksum
//! change; what is unpacked is bounded as in `records`. Must not: be used on the hot path.

use std::io::Read;

use super::batch_builder::{compress, reseal};
use super::record_batch::{
    BATCH_HEADER_SIZE, BATCH_LENGTH_PREFIX_SIZE, BatchError, BatchInfo, Compression, parse_header,
};
use super::records::{RecordsError, decompress};

/// The bits of the attributes that name the codec.
const CODEC_BITS: u8 = 0x07;
/// Where the low byte of the attributes stands in a batch.
const ATTRIBUTES_LOW_AT: usize = 22;
/// Where the length field stands.
const LENGTH_AT: usize = 8;

/// The batch at the start of `batch`, with its records in `codec`. `gzip_level` is 1 to 9, anything else means the
/// codec's own default; the other codecs have one level here, the fastest.
///
/// Errors: the records cannot be unpacked, or become more than the limits of `records` allow.
pub fn recompress(batch: &[u8], codec: Compression, gzip_level: i32) -> Result<Vec<u8>, RecordsError> {
    let (_, records) = unpack(batch)?;
    let level = u32::try_from(gzip_level).ok().filter(|level| (1..=9).contains(level));
    let packed = compress(codec, true, level.unwrap_or(6), &records);
    let mut out = Vec::with_capacity(BATCH_HEADER_SIZE + packed.len());
    out.extend_from_slice(&batch[..BATCH_HEADER_SIZE]);
    out.extend_from_slice(&packed);
    let length = i32::try_from(out.len() - BATCH_LENGTH_PREFIX_SIZE).map_err(|_| RecordsError::OverLimit)?;
    out[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    out[ATTRIBUTES_LOW_AT] = out[ATTRIBUTES_LOW_AT] & !CODEC_BITS | codec as u8;
    reseal(&mut out);
    Ok(out)
}

/// The header of the batch at the start of `batch`, and its encoded records without compression.
///
/// Errors: as [`recompress`].
pub fn unpack(batch: &[u8]) -> Result<(BatchInfo, Vec<u8>), RecordsError> {
    let info = parse_header(batch)?;
    if info.size_bytes > batch.len() {
        return Err(BatchError::Truncated { needed: info.size_bytes }.into());
    }
    let mut records = Vec::new();
    let packed = &batch[BATCH_HEADER_SIZE..info.size_bytes];
    decompress(info.compression()?, packed)?.read_to_end(&mut records)?;
    Ok((info, records))
}

#[cfg(test)]
mod tests {
    use super::super::batch_builder::BatchBuilder;
    use super::super::record_batch::{crc_ok, parse_whole};
    use super::super::records::Records;
    use super::*;

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn batch(codec: Compression) -> Vec<u8> {
        let mut builder = BatchBuilder::new().base_offset(7).producer(9, 1, 4).flags(0x10).compression(codec);
        for n in 0..300 {
            builder = builder.record(1_000 + n, Some(b"key"), Some(&[b'v'; 200]));
        }
        builder.build()
    }

    #[test]
    fn every_codec_becomes_every_other_and_nothing_else_changes() {
        for from in ALL {
            for to in ALL {
                let before = batch(from);
                let after = recompress(&before, to, 9).expect("recompressed");
                assert!(crc_ok(&after), "{from:?} to {to:?}");
                let (old, new) = (parse_whole(&before).expect("whole"), parse_whole(&after).expect("whole"));
                assert_eq!(new.compression().expect("known"), to);
                assert_eq!((new.base_offset, new.last_offset()), (old.base_offset, old.last_offset()));
                assert_eq!((new.max_timestamp, new.producer_id), (old.max_timestamp, old.producer_id));
                assert!(new.is_transactional() && new.record_count == 300);
                let of = |bytes: &[u8]| -> Vec<_> {
                    Records::new(bytes).expect("opens").map(|record| record.expect("a record")).collect()
                };
                assert_eq!(of(&before), of(&after));
            }
        }
        let level =
            |level| recompress(&batch(Compression::None), Compression::Gzip, level).expect("packed").len();
        assert!(level(9) <= level(1) && level(-1) == level(6));
    }

    #[test]
    fn garbage_is_an_error() {
        let mut damaged = batch(Compression::Gzip);
        damaged.truncate(100);
        assert!(recompress(&damaged, Compression::Lz4, -1).is_err());
        let mut damaged = batch(Compression::Gzip);
        damaged[61..80].fill(0xff);
        assert!(recompress(&damaged, Compression::Lz4, -1).is_err());
        assert!(recompress(&[], Compression::Lz4, -1).is_err());
    }
}
