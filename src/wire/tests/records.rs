//! Looking into batches of every codec, and refusing bombs, lies and damage.

use proptest::prelude::*;

use crate::wire::batch_builder::{BatchBuilder, reseal};
use crate::wire::record_batch::{BATCH_HEADER_SIZE, BatchError, Compression, patch_log_append_time};
use crate::wire::records::*;

const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Each codec, and snappy in both framings.
fn builders() -> Vec<(String, BatchBuilder)> {
    let mut builders: Vec<_> =
        ALL.map(|codec| (format!("{codec:?}"), BatchBuilder::new().compression(codec))).into();
    builders.push(("xerial".into(), BatchBuilder::new().xerial()));
    builders
}

/// A batch with the payload given, as if compressed with `codec`.
fn raw_batch(codec: Compression, payload: &[u8]) -> Vec<u8> {
    let mut batch = BatchBuilder::new().record(5, None, None).build();
    batch.truncate(BATCH_HEADER_SIZE);
    batch.extend_from_slice(payload);
    let batch_length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&batch_length.to_be_bytes());
    batch[21..23].copy_from_slice(&(codec as i16).to_be_bytes());
    reseal(&mut batch);
    batch
}

#[test]
fn records_of_every_codec_are_read() {
    for (name, builder) in builders() {
        // Over 64 KiB, so that every framing has several blocks; timestamps out of order.
        let mut builder = builder.base_offset(1_000);
        for index in 0..200i64 {
            let value = vec![index as u8; 700];
            let key = (index % 2 == 0).then_some(&b"key"[..]);
            builder = builder.record_with_headers(50_000 - index % 7, key, Some(&value), &[("h", None)]);
        }
        let batch = builder.build();
        let records: Result<Vec<_>, _> = Records::new(&batch).expect("opens").collect();
        let records = records.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(records.len(), 200, "{name}");
        for (index, record) in records.iter().enumerate() {
            let expected = RecordMeta {
                offset: 1_000 + index as i64,
                timestamp_ms: 50_000 - index as i64 % 7,
                key_size_bytes: (index % 2 == 0).then_some(3),
            };
            assert_eq!(*record, expected, "{name}");
        }
    }
}

#[test]
fn timestamps_are_found_exactly() {
    for (name, builder) in builders() {
        let batch = builder
            .base_offset(10)
            .record(100, None, Some(b"a"))
            .record(300, None, Some(b"b"))
            .record(200, None, Some(b"c"))
            .record(300, None, Some(b"d"))
            .build();
        let find = |target| find_timestamp(&batch, target).expect("readable");
        assert_eq!(find(0), Some((10, 100)), "{name}");
        assert_eq!(find(101), Some((11, 300)));
        assert_eq!(find(300), Some((11, 300)));
        assert_eq!(find(301), None);
        let from = |target, offset| find_timestamp_from(&batch, target, offset).expect("readable");
        assert_eq!(from(0, 12), Some((12, 200)));
        assert_eq!(from(201, 12), Some((13, 300)));
        assert_eq!(from(0, 14), None);
        assert_eq!(max_timestamp_record(&batch).expect("readable"), (11, 300));
    }
}

#[test]
fn log_append_time_overrides_the_records() {
    let mut batch = BatchBuilder::new().base_offset(4).record(1, None, None).record(2, None, None).build();
    patch_log_append_time(&mut batch, 9_000);
    assert_eq!(find_timestamp(&batch, 8_000).expect("readable"), Some((4, 9_000)));
    assert_eq!(find_timestamp(&batch, 9_001).expect("readable"), None);
    assert_eq!(max_timestamp_record(&batch).expect("readable"), (4, 9_000));
}

#[test]
fn null_keys_are_seen() {
    let keyed = BatchBuilder::new().record(1, Some(b""), None).record(1, Some(b"k"), None);
    assert!(records_without_key(&keyed.build(), 9).expect("readable").is_empty());
    let mixed = keyed.record(1, None, None).record(1, Some(b"k"), None).record(1, None, Some(b"v")).build();
    assert_eq!(records_without_key(&mixed, 9).expect("readable"), vec![2i32, 4]);
    assert_eq!(records_without_key(&mixed, 1).expect("readable"), vec![2i32]);
}

#[test]
fn cut_batches_are_refused() {
    let batch = BatchBuilder::new().record(1, None, Some(b"v")).build();
    let error = Records::new(&batch[..batch.len() - 1]).err().expect("refused");
    assert!(matches!(error, RecordsError::Batch(BatchError::Truncated { .. })));
}

/// A batch whose count promises records that the data does not hold.
#[test]
fn missing_records_are_an_error() {
    for (name, builder) in builders() {
        let mut batch = builder.record(1, None, Some(b"v")).build();
        batch[23..27].copy_from_slice(&4i32.to_be_bytes());
        batch[57..61].copy_from_slice(&5i32.to_be_bytes());
        reseal(&mut batch);
        let records: Vec<_> = Records::new(&batch).expect("opens").collect();
        assert_eq!(records.len(), 2, "{name}: one record, one error, then the end");
        assert!(records[0].is_ok() && records[1].is_err());
    }
}

#[test]
fn bombs_are_stopped() {
    let zeros = vec![0u8; 64 << 20];
    // One record that claims to go on for ever, in front of zeros.
    let endless = [&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1][..], &zeros].concat();
    let packed = |codec| {
        // The builder's compressor, applied to bytes of our choice by way of one huge value.
        BatchBuilder::new().compression(codec).record(1, None, Some(&endless)).build()
    };
    for codec in [Compression::Gzip, Compression::Lz4] {
        // Within every limit: skipped to the end without being kept.
        assert!(find_timestamp(&packed(codec), 1).expect("readable").is_some(), "{codec:?}");
    }
    // zstd packs zeros beyond the ratio, a snappy block of 64 MiB is beyond its own limit.
    for codec in [Compression::Zstd, Compression::Snappy] {
        let batch = packed(codec);
        let result = find_timestamp(&batch, 1);
        assert!(matches!(result, Err(RecordsError::OverLimit)), "{codec:?} {} {result:?}", batch.len());
    }
}

#[test]
fn a_snappy_length_that_lies_is_not_allocated() {
    // Declared lengths of 1 GiB and of 16 MiB with hardly any data, raw and in xerial framing.
    for declared in [&[0x80, 0x80, 0x80, 0x80, 0x04][..], &[0x80, 0x80, 0x80, 0x08]] {
        let raw = [declared, &[0, 1, 2]].concat();
        let mut framed = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
        framed.extend_from_slice(&(raw.len() as u32).to_be_bytes());
        framed.extend_from_slice(&raw);
        for payload in [raw, framed] {
            let result = max_timestamp_record(&raw_batch(Compression::Snappy, &payload));
            assert!(matches!(result, Err(RecordsError::OverLimit)), "{result:?}");
        }
    }
}

#[test]
fn malformed_records_are_refused() {
    let cases: [&[u8]; 8] = [
        &[],
        &[0x02, 0],                   // shorter than any record
        &[0x01, 0, 0, 0, 1, 1, 0],    // negative length
        &[0x0c, 0, 0, 0, 0x7e, 1, 0], // key longer than its record
        &[0x0c, 0, 0, 0, 3, 1, 0],    // key length -2
        &[0x0c, 0, 0, 2, 1, 1, 0],    // offset beyond the batch
        &[0x0c, 0, 0, 1, 1, 1, 0],    // offset before the batch
        &[0x0c, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80], // endless varint
    ];
    for case in cases {
        let result = max_timestamp_record(&raw_batch(Compression::None, case));
        assert!(matches!(result, Err(RecordsError::Malformed(_))), "{case:?} {result:?}");
    }
    assert!(max_timestamp_record(&raw_batch(Compression::None, &[0x0c, 0, 0, 0, 1, 1, 0])).is_ok());
}

proptest! {
    #[test]
    fn any_payload_is_survived(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        codec in proptest::sample::select(&ALL[..]),
    ) {
        let batch = raw_batch(codec, &payload);
        let _ = max_timestamp_record(&batch);
        let _ = find_timestamp(&batch, 0);
    }

    #[test]
    fn damaged_payloads_are_survived(
        which in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let builders = builders();
        let (_, mut builder) = builders[which.index(builders.len())].clone();
        for index in 0..20 {
            builder = builder.record(index, Some(b"key"), Some(&[index as u8; 50]));
        }
        let batch = builder.build();
        let mut payload = batch[BATCH_HEADER_SIZE..].to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        let cut = cut.index(payload.len() * 4);
        payload.truncate(cut.max(1));
        let mut damaged = batch[..BATCH_HEADER_SIZE].to_vec();
        damaged.extend_from_slice(&payload);
        let batch_length = (damaged.len() - 12) as i32;
        damaged[8..12].copy_from_slice(&batch_length.to_be_bytes());
        for record in Records::new(&damaged).into_iter().flatten() {
            let _ = record;
        }
    }
}
