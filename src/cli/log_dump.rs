//! `ringlog log dump`: walks segment files batch by batch and verifies them: lengths, checksums, offsets in order.
//!
//! Owner: the command that runs. Reads only, and needs no broker. Invariants: what is printed as good passed its
//! checksum; the exit code is failure when any file is damaged. Must not: hold more than one batch in memory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::client::{Record, decode_records};
use crate::wire::record_batch::{BATCH_HEADER_SIZE, BATCH_LENGTH_PREFIX_SIZE, crc_ok, parse_header};

/// The largest batch that is looked at, bytes; a length above it is damage.
const BATCH_BYTES_MAX: usize = 1 << 30;

#[derive(clap::Args)]
pub(super) struct DumpArguments {
    /// Segment files, or directories of partitions
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// The same, comma-separated, as kafka-dump-log names it
    #[arg(long, value_delimiter = ',', value_name = "FILE,...")]
    files: Vec<PathBuf>,
    /// Print keys and values
    #[arg(long)]
    print_data_log: bool,
    /// Print a line for each record
    #[arg(long)]
    deep_iteration: bool,
    /// Print totals only
    #[arg(long, short)]
    quiet: bool,
}

/// What a walk over one segment came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    batches: u64,
    records: u64,
    /// Bytes of whole, valid batches.
    valid_bytes: u64,
    /// Where offsets end.
    next_offset: i64,
    /// Zeros behind the last batch: space of a segment that is still being written.
    padding_bytes: u64,
    problem: Option<String>,
}

pub(super) fn run(arguments: &DumpArguments) -> ExitCode {
    let mut files = Vec::new();
    for path in arguments.paths.iter().chain(&arguments.files) {
        match segments(path) {
            Ok(found) => files.extend(found),
            Err(error) => {
                eprintln!("ringlog: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    if files.is_empty() {
        eprintln!("ringlog: no segment files were named");
        return ExitCode::FAILURE;
    }
    let mut damaged = false;
    for path in &files {
        println!("{}", path.display());
        match dump(path, arguments) {
            Ok(summary) => {
                println!(
                    "  {} batches, {} records, {} bytes, next offset {}, {} bytes of free space",
                    summary.batches,
                    summary.records,
                    summary.valid_bytes,
                    summary.next_offset,
                    summary.padding_bytes
                );
                if let Some(problem) = summary.problem {
                    println!("  DAMAGED at byte {}: {problem}", summary.valid_bytes);
                    damaged = true;
                }
            }
            Err(error) => {
                println!("  cannot be read: {error}");
                damaged = true;
            }
        }
    }
    if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The segments that a path stands for, oldest first.
fn segments(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The base offset that a segment's name announces.
fn base_offset(path: &Path) -> Option<i64> {
    path.file_stem()?.to_str()?.parse().ok()
}

fn dump(path: &Path, arguments: &DumpArguments) -> std::io::Result<Summary> {
    let mut input = BufReader::with_capacity(1 << 20, File::open(path)?);
    let size_bytes = std::fs::metadata(path)?.len();
    let mut summary = Summary { next_offset: base_offset(path).unwrap_or(0), ..Summary::default() };
    let mut batch = Vec::new();
    loop {
        batch.clear();
        let wanted = BATCH_LENGTH_PREFIX_SIZE as u64;
        if input.by_ref().take(wanted).read_to_end(&mut batch)? < BATCH_LENGTH_PREFIX_SIZE {
            if batch.iter().any(|byte| *byte != 0) {
                summary.problem = Some("the file ends inside a batch's header".to_owned());
            } else {
                summary.padding_bytes = batch.len() as u64;
            }
            return Ok(summary);
        }
        if batch.iter().all(|byte| *byte == 0) {
            // Free space of an active segment; behind its first block a recycled file may hold old bytes.
            summary.padding_bytes = size_bytes - summary.valid_bytes;
            return Ok(summary);
        }
        if let Err(problem) = read_batch(&mut input, &mut batch, summary.next_offset)? {
            summary.problem = Some(problem);
            return Ok(summary);
        }
        match print_batch(&batch, summary.valid_bytes, arguments) {
            Ok(records) => summary.records += records,
            Err(problem) => {
                summary.problem = Some(problem);
                return Ok(summary);
            }
        }
        summary.batches += 1;
        summary.valid_bytes += batch.len() as u64;
        // The header was parsed and checked above.
        summary.next_offset = parse_header(&batch).map_or(summary.next_offset, |info| info.next_offset());
    }
}

/// Completes the batch whose first bytes are in `batch`, and checks it.
fn read_batch(
    input: &mut impl Read,
    batch: &mut Vec<u8>,
    next_offset: i64,
) -> std::io::Result<Result<(), String>> {
    let length = i32::from_be_bytes([batch[8], batch[9], batch[10], batch[11]]);
    let body = match usize::try_from(length) {
        Ok(body) if (BATCH_HEADER_SIZE - BATCH_LENGTH_PREFIX_SIZE..=BATCH_BYTES_MAX).contains(&body) => body,
        _ => return Ok(Err(format!("a batch of {length} bytes"))),
    };
    // Grows with what is there, not with what is announced.
    if input.take(body as u64).read_to_end(batch)? < body {
        return Ok(Err(format!("a batch of {body} bytes is cut off")));
    }
    Ok(match parse_header(batch) {
        Err(error) => Err(error.to_string()),
        Ok(_) if !crc_ok(batch) => Err("the checksum does not match".to_owned()),
        Ok(info) if info.base_offset < next_offset => {
            Err(format!("offset {} after {}", info.base_offset, next_offset - 1))
        }
        Ok(_) => Ok(()),
    })
}

/// Prints one batch as asked for; the number of its records.
fn print_batch(batch: &[u8], position: u64, arguments: &DumpArguments) -> Result<u64, String> {
    let info = parse_header(batch).map_err(|error| error.to_string())?;
    if !arguments.quiet {
        println!(
            "  baseOffset: {} lastOffset: {} count: {} partitionLeaderEpoch: {} producerId: {} producerEpoch: {} \
             baseSequence: {} isTransactional: {} isControl: {} position: {position} maxTimestamp: {} size: {} \
             compresscodec: {:?} isvalid: true",
            info.base_offset,
            info.last_offset(),
            info.record_count,
            info.leader_epoch,
            info.producer_id,
            info.producer_epoch,
            info.base_sequence,
            info.is_transactional(),
            info.is_control(),
            info.max_timestamp,
            info.size_bytes,
            info.compression().map_err(|error| error.to_string())?,
        );
    }
    if !arguments.deep_iteration && !arguments.print_data_log {
        return Ok(info.record_count.max(0) as u64);
    }
    let records = decode_records(batch).map_err(|error| error.to_string())?;
    if !arguments.quiet {
        records.iter().for_each(|record| print_record(record, arguments.print_data_log));
    }
    Ok(records.len() as u64)
}

fn print_record(record: &Record, with_data: bool) {
    let size = |field: &Option<Vec<u8>>| field.as_ref().map_or(-1, |bytes| bytes.len() as i64);
    let shown = |field: &Option<Vec<u8>>| match field {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "null".to_owned(),
    };
    print!(
        "  | offset: {} timestamp: {} keySize: {} valueSize: {}",
        record.offset,
        record.timestamp_ms,
        size(&record.key),
        size(&record.value)
    );
    if with_data {
        let names: Vec<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        print!(" headerKeys: {names:?} key: {} payload: {}", shown(&record.key), shown(&record.value));
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch_builder::BatchBuilder;

    fn arguments() -> DumpArguments {
        DumpArguments {
            paths: Vec::new(),
            files: Vec::new(),
            print_data_log: false,
            deep_iteration: true,
            quiet: true,
        }
    }

    fn walked(bytes: &[u8]) -> Summary {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("00000000000000000010.log");
        std::fs::write(&path, bytes).expect("written");
        dump(&path, &arguments()).expect("read")
    }

    fn batch(base_offset: i64) -> Vec<u8> {
        BatchBuilder::new()
            .base_offset(base_offset)
            .record(1, None, Some(b"a"))
            .record(2, None, Some(b"b"))
            .build()
    }

    #[test]
    fn whole_segments_and_free_space_are_good() {
        let bytes = [batch(10), batch(12)].concat();
        let summary = walked(&bytes);
        assert_eq!((summary.batches, summary.records, summary.next_offset), (2, 4, 14));
        assert_eq!((summary.valid_bytes, &summary.problem), (bytes.len() as u64, &None));
        let with_space = walked(&[&bytes[..], &[0; 5000], &batch(99)].concat());
        assert_eq!((with_space.batches, with_space.problem), (2, None));
        assert!(with_space.padding_bytes > 5000);
        assert_eq!(walked(&[]).problem, None);
    }

    #[test]
    fn every_kind_of_damage_is_named_with_its_place() {
        let good = batch(10);
        let bytes = [good.clone(), batch(12)].concat();
        let mut flipped = bytes.clone();
        *flipped.last_mut().expect("bytes") ^= 1;
        let cases = [
            (flipped, "checksum"),
            (bytes[..bytes.len() - 3].to_vec(), "cut off"),
            ([good.clone(), vec![1; 7]].concat(), "ends inside"),
            ([good.clone(), batch(10)].concat(), "offset 10 after 11"),
            ([good.clone(), vec![0xff; 100]].concat(), "a batch of -1 bytes"),
            ([good.clone(), vec![0x7f; 100]].concat(), "a batch of"),
        ];
        for (bytes, expected) in cases {
            let summary = walked(&bytes);
            let problem = summary.problem.expect(expected);
            assert!(problem.contains(expected), "{problem}");
            assert_eq!((summary.batches, summary.valid_bytes), (1, good.len() as u64));
        }
    }
}
