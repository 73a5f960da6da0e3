//! Target `batches`: bytes as a record batch, as a producer may send it or a disk may give it back: noise, noise with a
//! right length and checksum, and real batches of every codec with a few bytes changed before or after compression.
//!
//! Checked: nothing panics; memory is bounded whatever a batch claims; what all readers of a batch make of its records
//! agrees; a rebuilt or recompressed batch is a whole batch with the same records; patches leave a right checksum.
//!
//! Owner: nobody; pure.

use super::input::Input;
use super::memory;
use crate::wire::batch_builder::{BatchBuilder, reseal};
use crate::wire::batch_filter::{OpenBatch, with_horizon, without_records};
use crate::wire::recompress::{recompress, unpack};
use crate::wire::record_batch::{
    AppendLimits, BATCH_HEADER_SIZE, Compression, crc_ok, parse_header, parse_whole, patch,
    patch_log_append_time, validate_for_append,
};
use crate::wire::records::{
    self, DECOMPRESSED_BYTES_MAX, DECOMPRESSED_RATIO_FREE_BYTES, DECOMPRESSED_RATIO_MAX, Records,
    SNAPPY_BLOCK_BYTES_MAX, ZSTD_WINDOW_BYTES_MAX,
};
use crate::wire::{control_batch, record_fields};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// What looking at the records of a batch one after another may take for a batch that is small itself: buffers of the
/// codecs (lz4's largest blocks are 4 MiB, twice), tables.
const STREAMING_BYTES: usize = 16 << 20;
/// What the fixed-size checks of a header may take: error texts.
const HEADER_BYTES: usize = 4 << 10;

/// See the head of this file.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut batch = match input.below(4) {
        0 => input.rest().to_vec(),
        1 => sealed(input.rest().to_vec()),
        2 => {
            let mut batch = built(&mut input);
            input.damage(&mut batch);
            batch
        }
        _ => {
            let mut batch = built(&mut input);
            input.damage(&mut batch);
            sealed(batch)
        }
    };
    check(&mut batch);
}

/// The bytes with a header that claims exactly them, and a right checksum.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= BATCH_HEADER_SIZE {
        let length = (bytes.len() - 12) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        reseal(&mut bytes);
    }
    bytes
}

/// A batch as a producer could have made it.
pub(super) fn built(input: &mut Input<'_>) -> Vec<u8> {
    let mut builder =
        BatchBuilder::new().compression(input.pick(&CODECS)).base_offset(i64::from(input.byte()));
    if input.rarely() {
        builder = builder.xerial();
    }
    if input.rarely() {
        builder = builder.producer(input.number(), input.byte().into(), input.number() as i32);
    }
    if input.rarely() {
        builder = builder.flags(input.word() as i16 & !7);
    }
    for _ in 0..=input.below(8) {
        let key = if input.rarely() { None } else { Some(input.bytes(40)) };
        let value = if input.rarely() { None } else { Some(input.bytes(400)) };
        let repeated = value.map(|value| value.repeat(1 + input.below(16)));
        builder = builder.record(input.number(), key, repeated.as_deref());
    }
    builder.build()
}

fn check(batch: &mut [u8]) {
    let limits = |log_append_time| AppendLimits {
        max_batch_bytes: 1 << 20,
        now_ms: 1_000_000,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        log_append_time,
        allow_zstd: true,
    };
    let accepted = memory::within("the header", HEADER_BYTES, || {
        let _ = (parse_header(batch), parse_whole(batch), control_batch::parse(batch));
        crc_ok(batch);
        let _ = validate_for_append(batch, &limits(true));
        validate_for_append(batch, &limits(false)).is_ok()
    });
    let Ok(info) = parse_header(batch) else { return };
    assert!(info.base_offset >= 0 && info.next_offset() > info.base_offset);
    let whole = info.size_bytes <= batch.len();
    streamed(batch);
    if let Ok(records) = record_fields::iterate(batch) {
        assert!(records.take_while(Result::is_ok).count() <= info.record_count as usize);
    }
    if whole {
        rebuilt(&batch[..info.size_bytes]);
        recompressed(&batch[..info.size_bytes]);
        let _ = with_horizon(batch, 5).map(|batch| assert!(parse_whole(&batch).is_ok()));
        assert!(parse_whole(&without_records(&info)).is_ok());
    }
    if accepted {
        assert_eq!(info.size_bytes, batch.len());
        patch(batch, 77, 9);
        assert!(parse_whole(batch).is_ok_and(|info| info.base_offset == 77 && info.leader_epoch == 9));
        patch_log_append_time(batch, 123_456);
        assert!(parse_whole(batch).is_ok_and(|info| info.max_timestamp == 123_456));
    }
}

/// The looks at a batch that collect nothing, whatever the batch says it holds.
fn streamed(batch: &[u8]) {
    // One zstd window or one snappy block as a whole, and what was put out of it: nothing in proportion to all records.
    let window = (ZSTD_WINDOW_BYTES_MAX as usize).max(2 * SNAPPY_BLOCK_BYTES_MAX);
    memory::within("a look at the records", STREAMING_BYTES + window + batch.len(), || {
        if let Ok(records) = Records::new(batch) {
            let limit = records.info().record_count as usize;
            assert!(records.take_while(Result::is_ok).count() <= limit);
        }
        let _ = records::find_timestamp(batch, 5);
        let _ = records::find_timestamp_from(batch, 5, 3);
        let _ = records::max_timestamp_record(batch);
        let _ = records::records_without_key(batch, 10);
    });
}

/// Output that unpacking a batch of `size_bytes` may reach.
fn unpacked_bytes_max(size_bytes: usize) -> usize {
    let by_ratio = (size_bytes as u64).saturating_mul(DECOMPRESSED_RATIO_MAX);
    by_ratio.clamp(DECOMPRESSED_RATIO_FREE_BYTES, DECOMPRESSED_BYTES_MAX) as usize
}

/// What compaction does.
fn rebuilt(batch: &[u8]) {
    // Beside the output, a vector that grew by doubling, whose old half is there while it is copied.
    let bytes_max = 3 * unpacked_bytes_max(batch.len()) + STREAMING_BYTES + ZSTD_WINDOW_BYTES_MAX as usize;
    let opened = memory::within("unpacking", bytes_max, || OpenBatch::new(batch));
    let Ok(mut open) = opened else { return };
    let mut kept = Vec::new();
    let mut seen = 0;
    loop {
        let handle = match open.next_record() {
            Ok(Some(record)) => {
                seen += 1;
                (seen % 2 == 1).then(|| {
                    kept.push((record.offset, record.key.map(<[u8]>::to_vec), record.is_tombstone));
                    record.handle()
                })
            }
            Ok(None) => break,
            Err(_) => return,
        };
        if let Some(handle) = handle {
            open.keep(handle);
        }
    }
    for horizon in [None, Some(1_000)] {
        let built = open.build(horizon);
        let info = parse_whole(&built).expect("a rebuilt batch is one");
        assert_eq!(
            (info.base_offset, info.last_offset()),
            (open.info().base_offset, open.info().last_offset())
        );
        assert_eq!(info.record_count as usize, kept.len());
        let mut again = OpenBatch::new(&built).expect("and can be opened");
        for expected in &kept {
            let record = again.next_record().expect("a record").expect("as many as were kept");
            assert_eq!(*expected, (record.offset, record.key.map(<[u8]>::to_vec), record.is_tombstone));
        }
    }
}

fn recompressed(batch: &[u8]) {
    let Ok((info, records)) = unpack(batch) else { return };
    if records.len() > 1 << 20 {
        return;
    }
    for codec in CODECS {
        let Ok(other) = recompress(batch, codec, 1) else { continue };
        let there = parse_whole(&other).expect("a recompressed batch is one");
        assert_eq!((there.record_count, there.last_offset()), (info.record_count, info.last_offset()));
        match unpack(&other) {
            Ok((_, same)) => assert!(same == records, "{codec:?}"),
            // A batch of equal bytes may be smaller than the limits on unpacking think possible.
            Err(error) => assert!(matches!(error, records::RecordsError::OverLimit), "{codec:?}: {error}"),
        }
    }
}
