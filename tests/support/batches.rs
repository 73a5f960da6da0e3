//! Batches as tests make them, and what a fetch returned, taken apart batch by batch.
//!
//! Owner: nobody; pure. Invariant: a digest covers every byte of a batch but those that a broker may change
//! (base offset, leader epoch).

use std::hash::{DefaultHasher, Hasher};

use ringlog::wire::batch_builder::BatchBuilder;
use ringlog::wire::record_batch::{self, BatchInfo};

/// A batch of `count` records whose values all begin with `tag`, `value_size` bytes each.
pub fn batch(tag: &str, count: usize, value_size: usize) -> Vec<u8> {
    builder(tag, count, value_size).build()
}

/// The same, from an idempotent producer.
pub fn idempotent(
    tag: &str,
    count: usize,
    value_size: usize,
    producer: (i64, i16),
    sequence: i32,
) -> Vec<u8> {
    builder(tag, count, value_size).producer(producer.0, producer.1, sequence).build()
}

/// The same, as part of a transaction.
pub fn transactional(
    tag: &str,
    count: usize,
    value_size: usize,
    producer: (i64, i16),
    sequence: i32,
) -> Vec<u8> {
    builder(tag, count, value_size).producer(producer.0, producer.1, sequence).flags(0x10).build()
}

fn builder(tag: &str, count: usize, value_size: usize) -> BatchBuilder {
    let now_ms = ringlog::rt::wall_ms();
    let mut builder = BatchBuilder::new();
    for number in 0..count {
        let mut value = format!("{tag}/{number}/").into_bytes();
        // Not constant, so that bytes in a wrong place are noticed; cheap, so that load is load on the broker.
        let salt = digest_bytes(&[&value]);
        while value.len() < value_size {
            let word = salt.wrapping_mul(value.len() as u64 | 1);
            value.extend_from_slice(&word.to_le_bytes());
        }
        value.truncate(value_size.max(1));
        builder = builder.record(now_ms, None, Some(&value));
    }
    builder
}

fn digest_bytes(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        hasher.write(part);
    }
    hasher.finish()
}

/// A number that stands for all bytes that must come back as they were sent.
pub fn digest(batch: &[u8]) -> u64 {
    digest_bytes(&[&batch[8..12], &batch[16..]])
}

/// One batch of a fetch.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its header.
    pub info: BatchInfo,
    /// See [`digest`].
    pub digest: u64,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Takes a fetch's records apart. Errors: in words, when they are not whole batches with matching checksums.
pub fn split(mut records: &[u8]) -> Result<Vec<Fetched>, String> {
    let mut found = Vec::new();
    while !records.is_empty() {
        let info = record_batch::parse_header(records).map_err(|error| format!("batch header: {error}"))?;
        let Some((bytes, rest)) = records.split_at_checked(info.size_bytes) else {
            return Err(format!("batch at offset {} is cut", info.base_offset));
        };
        if !record_batch::crc_ok(bytes) {
            return Err(format!("batch at offset {} has a wrong checksum", info.base_offset));
        }
        found.push(Fetched { info, digest: digest(bytes), bytes: bytes.to_vec() });
        records = rest;
    }
    Ok(found)
}
