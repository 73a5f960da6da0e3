//! Record batches: layout, validation, patches, and that no bytes make the parser panic.

use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use proptest::prelude::*;

use crate::wire::batch_builder::{BatchBuilder, reseal};
use crate::wire::record_batch::*;

fn limits() -> AppendLimits {
    AppendLimits {
        max_batch_bytes: 1 << 20,
        now_ms: 1_000_000,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 1_000,
        log_append_time: false,
        allow_zstd: true,
    }
}

fn sample() -> BatchBuilder {
    BatchBuilder::new()
        .record(999_000, Some(b"k1"), Some(b"v1"))
        .record_with_headers(999_500, None, Some(b"v2"), &[("h", Some(b"x")), ("n", None)])
        .record(999_200, Some(b"k3"), None)
}

/// Applies `tamper` to a good batch, repairs its checksum and validates it.
fn after(tamper: impl FnOnce(&mut Vec<u8>)) -> Result<BatchInfo, BatchError> {
    let mut batch = sample().build();
    tamper(&mut batch);
    if batch.len() >= BATCH_HEADER_SIZE {
        reseal(&mut batch);
    }
    validate_for_append(&batch, &limits())
}

#[test]
fn a_good_batch_is_accepted_and_described() {
    let batch = sample().producer(7, 2, 40).base_offset(5).leader_epoch(3).build();
    let info = validate_for_append(&batch, &limits()).expect("valid");
    assert_eq!(info.size_bytes, batch.len());
    assert_eq!(
        (info.record_count, info.last_offset_delta, info.last_offset(), info.next_offset()),
        (3, 2, 7, 8)
    );
    assert_eq!((info.base_timestamp, info.max_timestamp), (999_000, 999_500));
    assert_eq!(
        (info.producer_id, info.producer_epoch, info.base_sequence, info.last_sequence()),
        (7, 2, 40, 42)
    );
    assert_eq!((info.leader_epoch, info.compression()), (3, Ok(Compression::None)));
    assert!(!info.is_control() && !info.is_transactional() && info.has_producer());
    assert_eq!(info.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(parse_header(&batch[..BATCH_HEADER_SIZE]), Ok(info));
    assert_eq!(parse_whole(&batch), Ok(info));
}

#[test]
fn kafka_protocol_reads_what_the_builder_writes() {
    let mut bytes = Bytes::from(sample().build());
    let records = RecordBatchDecoder::decode(&mut bytes).expect("decodes").records;
    assert_eq!(records.len(), 3);
    assert_eq!(records[1].timestamp, 999_500);
    assert_eq!(records[1].value.as_deref(), Some(&b"v2"[..]));
    assert_eq!(records[1].headers.len(), 2);
    assert_eq!(records[2].key.as_deref(), Some(&b"k3"[..]));
}

#[test]
fn patches_keep_the_checksum_right() {
    let mut batch = sample().build();
    patch(&mut batch, 1 << 40, 9);
    let info = parse_whole(&batch).expect("still valid");
    assert_eq!((info.base_offset, info.leader_epoch), (1 << 40, 9));
    patch_log_append_time(&mut batch, 123);
    let info = parse_whole(&batch).expect("still valid");
    assert_eq!((info.timestamp_type(), info.max_timestamp), (TimestampType::LogAppendTime, 123));
}

#[test]
fn sizes_and_structure_are_checked() {
    let batch = sample().build();
    let size_bytes = batch.len();
    for cut in 0..size_bytes {
        let needed = if cut < BATCH_HEADER_SIZE { BATCH_HEADER_SIZE } else { size_bytes };
        assert_eq!(validate_for_append(&batch[..cut], &limits()), Err(BatchError::Truncated { needed }));
    }
    assert_eq!(after(|b| b.extend_from_slice(&[0; 9])), Err(BatchError::TrailingBytes(9)));
    let two = [batch.clone(), batch.clone()].concat();
    assert_eq!(validate_for_append(&two, &limits()), Err(BatchError::TrailingBytes(size_bytes)));
    assert_eq!(after(|b| b[16] = 1), Err(BatchError::Magic(1)));
    assert_eq!(after(|b| b[8..12].copy_from_slice(&48i32.to_be_bytes())), Err(BatchError::Length(48)));
    assert_eq!(after(|b| b[8..12].copy_from_slice(&(-1i32).to_be_bytes())), Err(BatchError::Length(-1)));
    assert!(matches!(
        after(|b| b[8..12].copy_from_slice(&i32::MAX.to_be_bytes())),
        Err(BatchError::Truncated { needed }) if needed == i32::MAX as usize + 12
    ));
    assert_eq!(parse_header(&[0; 61]), Err(BatchError::Empty));
    assert_eq!(parse_header(&[0; 60]), Err(BatchError::Truncated { needed: 61 }));
    let tight = AppendLimits { max_batch_bytes: size_bytes - 1, ..limits() };
    let expected = BatchError::TooLarge { size_bytes, limit_bytes: size_bytes - 1 };
    assert_eq!(validate_for_append(&batch, &tight), Err(expected));
}

#[test]
fn every_flipped_bit_under_the_checksum_is_seen() {
    let good = sample().build();
    for position in 17..good.len() {
        for bit in 0..8 {
            let mut batch = good.clone();
            batch[position] ^= 1 << bit;
            assert!(validate_for_append(&batch, &limits()).is_err(), "byte {position} bit {bit}");
            assert!(!crc_ok(&batch));
        }
    }
}

#[test]
fn counts_must_agree() {
    let counts = |count: i32, delta: i32| {
        after(|b| {
            b[23..27].copy_from_slice(&delta.to_be_bytes());
            b[57..61].copy_from_slice(&count.to_be_bytes());
        })
    };
    assert!(counts(3, 2).is_ok());
    for (count, delta) in [(2, 2), (4, 2), (0, 0), (0, -1), (-1, 2), (i32::MAX, i32::MAX - 1), (3, i32::MAX)]
    {
        let error = counts(count, delta).expect_err("refused");
        assert_eq!(error.kafka_code(), 87, "{count} {delta}");
    }
}

/// After compaction a stored batch may have fewer records than offsets, even none.
#[test]
fn stored_batches_may_be_sparse() {
    let mut batch = sample().build();
    batch[57..61].copy_from_slice(&0i32.to_be_bytes());
    assert_eq!(parse_header(&batch).map(|info| (info.record_count, info.last_offset())), Ok((0, 2)));
    batch[0..8].copy_from_slice(&(-1i64).to_be_bytes());
    assert_eq!(parse_header(&batch), Err(BatchError::BaseOffset(-1)));
    batch[0..8].copy_from_slice(&(i64::MAX - 2).to_be_bytes());
    assert_eq!(parse_header(&batch), Err(BatchError::BaseOffset(i64::MAX - 2)));
}

#[test]
fn attributes_are_checked() {
    let flagged = |flags: i16| validate_for_append(&sample().flags(flags).build(), &limits());
    assert_eq!(flagged(0x05).map_err(BatchError::kafka_code), Err(76));
    assert_eq!(flagged(0x08).map_err(BatchError::kafka_code), Err(32));
    assert_eq!(flagged(0x20).map_err(BatchError::kafka_code), Err(87));
    assert_eq!(flagged(0x40).map_err(BatchError::kafka_code), Err(87));
    assert_eq!(flagged(i16::MIN).map_err(BatchError::kafka_code), Err(87));
    assert_eq!(flagged(0x10), Err(BatchError::Producer), "a transaction needs a producer id");
    let transactional = sample().producer(1, 0, 0).flags(0x10).build();
    assert!(validate_for_append(&transactional, &limits()).expect("valid").is_transactional());
    let zstd = sample().compression(Compression::Zstd).build();
    assert!(validate_for_append(&zstd, &limits()).is_ok());
    let old = AppendLimits { allow_zstd: false, ..limits() };
    assert_eq!(validate_for_append(&zstd, &old), Err(BatchError::Codec(4)));
}

/// Sarama (not idempotent) sends sequence 0 with producer id -1, KafkaJS sends epoch 0 as well.
#[test]
fn producer_fields_are_checked_only_with_a_producer() {
    let with = |id, epoch, sequence| {
        validate_for_append(&sample().producer(id, epoch, sequence).build(), &limits()).map(|_| ())
    };
    assert_eq!(with(-1, 0, 0), Ok(()));
    assert_eq!(with(5, 0, 0), Ok(()));
    assert_eq!(with(5, -1, 0), Err(BatchError::Producer));
    assert_eq!(with(5, 0, -1), Err(BatchError::Producer));
    assert_eq!(with(-2, -1, -1), Err(BatchError::Producer));
}

#[test]
fn timestamps_are_bounded() {
    let at = |timestamp: i64, limits: AppendLimits| {
        let batch = BatchBuilder::new().record(timestamp, None, Some(b"v")).build();
        validate_for_append(&batch, &limits).map(|_| ())
    };
    assert_eq!(at(1_001_000, limits()), Ok(()));
    assert_eq!(at(1_001_001, limits()), Err(BatchError::Timestamp(1_001_001)));
    assert_eq!(at(0, limits()), Ok(()));
    assert_eq!(at(-1, limits()), Ok(()), "-1 means none");
    assert_eq!(at(-5, limits()), Err(BatchError::Timestamp(-5)));
    let recent = AppendLimits { timestamp_before_max_ms: 10, ..limits() };
    assert_eq!(at(999_990, recent), Ok(()));
    assert_eq!(at(999_989, recent), Err(BatchError::Timestamp(999_989)));
    assert_eq!(at(5, AppendLimits { log_append_time: true, ..recent }), Ok(()));
}

#[test]
fn sequences_wrap() {
    let info = parse_header(&sample().producer(1, 0, i32::MAX).build()).expect("valid");
    assert_eq!(info.last_sequence(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        if magic && bytes.len() > 16 {
            bytes[16] = 2;
        }
        let _ = parse_header(&bytes);
        let _ = parse_whole(&bytes);
        if bytes.len() >= BATCH_HEADER_SIZE {
            reseal(&mut bytes);
        }
        if let Ok(info) = validate_for_append(&bytes, &limits()) {
            prop_assert_eq!(info.size_bytes, bytes.len());
        }
    }
}
