//! Damage on disk between two runs: a torn tail is cut, damage is reported with file and position, nothing is
//! dropped in silence and nothing old comes back.

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use ringlog::wire::record_batch;
use support::batches::{self, Fetched};
use support::broker::{Broker, DataDir, Options};
use support::client::{Client, EARLIEST, LATEST};

const CORRUPT_MESSAGE: i16 = 2;
const KAFKA_STORAGE_ERROR: i16 = 56;

fn options() -> Options {
    Options::default().one_core().with("log.retention.check.interval.ms", "50")
}

/// A log of `count` batches of `size` bytes, about.
fn fill(client: &mut Client, topic: &str, count: usize, size: usize) -> Vec<Vec<u8>> {
    let all: Vec<Vec<u8>> = (0..count).map(|n| batches::batch(&format!("{topic}{n}"), 1, size)).collect();
    let mut waiting = std::collections::VecDeque::new();
    for batch in &all {
        waiting.push_back(client.send_produce(topic, 0, 1, batch).expect("sent"));
        if waiting.len() == 20 {
            let id = waiting.pop_front().expect("some");
            assert_eq!(client.produced(id).expect("an answer").0, 0);
        }
    }
    for id in waiting {
        assert_eq!(client.produced(id).expect("an answer").0, 0);
    }
    all
}

/// File positions of the batches in a segment file.
fn positions(path: &Path) -> Vec<u64> {
    let bytes = std::fs::read(path).expect("a segment");
    let mut at = 0;
    let mut found = Vec::new();
    while let Ok(info) = record_batch::parse_header(&bytes[at..]) {
        found.push(at as u64);
        at += info.size_bytes;
    }
    found
}

fn flip(path: &Path, position: u64, bit: u8) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).expect("read");
    file.write_all_at(&[byte[0] ^ (1 << bit)], position).expect("write");
}

fn assert_same(found: &[Fetched], sent: &[Vec<u8>]) {
    let found: Vec<u64> = found.iter().map(|batch| batch.digest).collect();
    let sent: Vec<u64> = sent.iter().map(|batch| batches::digest(batch)).collect();
    assert_eq!(found, sent);
}

/// Kills a broker with ten batches in a log, lets `damage` loose on the file, starts it again.
fn after_damage(label: &str, damage: impl FnOnce(&Path, &[u64])) -> (DataDir, Broker, Vec<Vec<u8>>) {
    let dir = DataDir::new(label);
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    let sent = fill(&mut client, "t", 10, 3000);
    broker.kill();
    let path = dir.segments("t", 0).remove(0);
    damage(&path, &positions(&path));
    let broker = Broker::start(&dir, &options());
    (dir, broker, sent)
}

/// The log can be read up to `kept` batches, and goes on from there.
fn assert_goes_on(broker: &Broker, sent: &[Vec<u8>], kept: usize) {
    let mut client = broker.connect();
    assert_eq!(client.offset("t", 0, LATEST), kept as i64);
    assert_same(&client.read_from("t", 0, 0).expect("readable"), &sent[..kept]);
    let next = batches::batch("next", 1, 3000);
    assert_eq!(client.append("t", 0, -1, &next), kept as i64);
    let found = client.read_from("t", 0, kept as i64).expect("readable");
    assert_same(&found, &[next]);
}

#[test]
fn a_torn_tail_is_cut() {
    let (_dir, broker, sent) = after_damage("torn", |path, positions| {
        let file = std::fs::File::options().write(true).open(path).expect("open");
        file.set_len(positions[9] + 1500).expect("truncate");
    });
    assert_goes_on(&broker, &sent, 9);
    broker.stop();
}

#[test]
fn a_flipped_payload_bit_in_the_last_batch_is_a_torn_tail() {
    let (_dir, broker, sent) = after_damage("payload", |path, positions| flip(path, positions[9] + 700, 3));
    assert_goes_on(&broker, &sent, 9);
    broker.stop();
}

#[test]
fn damage_before_intact_batches_is_reported_and_what_is_cut_is_saved() {
    type Damage = fn(&Path, &[u64]);
    let cases: [(&str, Damage); 4] = [
        ("payload", |path, positions| flip(path, positions[4] + 1000, 0)),
        ("length", |path, positions| flip(path, positions[4] + 9, 2)),
        ("offset", |path, positions| flip(path, positions[4] + 1, 5)),
        ("zeroed", |path, positions| {
            let file = std::fs::File::options().write(true).open(path).expect("open");
            file.write_all_at(&[0; 512], positions[4] / 512 * 512 + 512).expect("write");
        }),
    ];
    for (what, damage) in cases {
        let mut position = 0;
        let (dir, broker, sent) = after_damage(what, |path, positions| {
            position = positions[4];
            damage(path, positions);
        });
        let stderr = broker.stderr();
        let file = dir.segments("t", 0).remove(0);
        let report = stderr.lines().find(|line| line.contains(&file.display().to_string()));
        let report = report.unwrap_or_else(|| panic!("{what}: not reported\n{stderr}"));
        assert!(report.contains(&position.to_string()), "{what}: {report}");
        let saved: Vec<_> = std::fs::read_dir(dir.partition("t", 0))
            .expect("directory")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.to_string_lossy().contains(".cut-"))
            .collect();
        assert_eq!(saved.len(), 1, "{what}");
        let bytes = std::fs::read(&saved[0]).expect("the saved bytes");
        let last = sent[9].len();
        assert!(bytes.windows(last).any(|w| batches::digest(w) == batches::digest(&sent[9])), "{what}");
        assert_goes_on(&broker, &sent, 4);
        broker.stop();
        // And the next start finds nothing to say.
        let broker = Broker::start(&dir, &options());
        assert!(!broker.stderr().contains("ERROR"), "{what}: {}", broker.stderr());
        broker.kill();
        let broker = Broker::start(&dir, &options());
        assert!(!broker.stderr().contains("ERROR"), "{what}: {}", broker.stderr());
        broker.stop();
    }
}

/// The leader epoch is the one field of a batch, with the base offset, that no checksum covers.
#[test]
fn a_flipped_leader_epoch_costs_nothing() {
    let (_dir, broker, sent) = after_damage("epoch", |path, positions| flip(path, positions[2] + 12, 4));
    assert!(broker.stderr().contains("leader epoch"), "{}", broker.stderr());
    assert_goes_on(&broker, &sent, 10);
    broker.stop();
}

#[test]
fn damage_deep_inside_leaves_a_hole_and_the_rest_readable() {
    let dir = DataDir::new("deep");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    let sent = fill(&mut client, "t", 50, 1_000_000);
    broker.kill();
    let path = dir.segments("t", 0).remove(0);
    let at = positions(&path);
    flip(&path, at[3] + 500_000, 1);
    flip(&path, at[6] + 8, 1);
    let mut broker = Broker::start(&dir, &options());
    for clean in [false, true] {
        let mut client = broker.connect();
        if !clean {
            for damaged in [3, 6] {
                let position = at[damaged].to_string();
                let stderr = broker.stderr();
                assert!(stderr.lines().any(|l| l.contains("damaged") && l.contains(&position)), "{stderr}");
            }
        }
        assert_eq!((client.offset("t", 0, EARLIEST), client.offset("t", 0, LATEST)), (0, 50));
        for (number, batch) in sent.iter().enumerate() {
            let read = client.fetch("t", 0, number as i64, 0).expect("an answer");
            if number == 3 || number == 6 {
                assert_eq!((read.error, read.records.len()), (CORRUPT_MESSAGE, 0), "offset {number}");
                continue;
            }
            let found = read.batches();
            assert_eq!(read.error, 0, "offset {number}");
            assert_eq!((found[0].info.base_offset, found[0].digest), (number as i64, batches::digest(batch)));
        }
        // The hole is known to the clean mark as well.
        broker.stop();
        broker = Broker::start(&dir, &options());
    }
    broker.stop();
}

/// A sealed segment is not read at start: its damage shows when somebody fetches.
#[test]
fn damage_in_a_sealed_segment_stops_nobody_before_it() {
    let dir = DataDir::new("sealed");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[("segment.bytes", "1048576")]);
    let sent = fill(&mut client, "t", 60, 50_000);
    broker.stop();
    let path = dir.segments("t", 0).remove(0);
    let at = positions(&path);
    assert!(at.len() > 15 && at.len() < 40, "{} batches in the first segment", at.len());
    // The magic byte, so that the header cannot be taken for one.
    flip(&path, at[10] + 16, 6);
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    for offset in 0..10 {
        let read = client.fetch("t", 0, offset, 0).expect("an answer");
        assert_eq!(read.error, 0, "offset {offset}");
        let found = read.batches();
        assert_eq!(
            (found[0].info.base_offset, found[0].digest),
            (offset, batches::digest(&sent[offset as usize]))
        );
    }
    assert_eq!(client.fetch("t", 0, 10, 0).expect("an answer").error, CORRUPT_MESSAGE);
    assert!(broker.stderr().contains(&path.display().to_string()), "{}", broker.stderr());
    // The following segments are whole.
    let next = at.len() as i64;
    assert_same(&client.read_from("t", 0, next).expect("readable"), &sent[next as usize..]);
    broker.stop();
}

#[test]
fn a_missing_or_damaged_index_file_is_made_up_for() {
    let dir = DataDir::new("index");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[("segment.bytes", "1048576")]);
    let sent = fill(&mut client, "t", 80, 50_000);
    broker.stop();
    let mut indexes: Vec<_> = dir
        .segments("t", 0)
        .iter()
        .map(|path| path.with_extension("ridx"))
        .filter(|path| path.exists())
        .collect();
    assert!(indexes.len() >= 3, "{indexes:?}");
    std::fs::remove_file(indexes.remove(0)).expect("removed");
    flip(&indexes[0], 20, 1);
    let broker = Broker::start(&dir, &options());
    assert_same(&broker.connect().read_from("t", 0, 0).expect("readable"), &sent);
    broker.stop();
}

/// Files come back to the pool and are written again; whatever happens, old batches are not read as new ones.
#[test]
fn recycled_files_never_show_their_old_bytes() {
    let dir = DataDir::new("recycled");
    let mut start = 0;
    for round in 0..6 {
        let broker = Broker::start(&dir, &options());
        let mut client = broker.connect();
        if round == 0 {
            let configs = [("segment.bytes", "2097152"), ("retention.bytes", "2097152")];
            client.create("t", 1, &configs);
            client.create("u", 1, &configs);
        }
        // Equal sizes, so that old batches line up with new ones.
        let mut sent = Vec::new();
        let first = client.offset("t", 0, LATEST);
        for number in 0..120 {
            let batch = batches::batch(&format!("{round:03}/{number:05}"), 1, 100_000);
            let offset = client.append("t", 0, 1, &batch);
            sent.push((offset, batches::digest(&batch)));
            if number % 3 == 0 {
                client.append("u", 0, 1, &batches::batch(&format!("u{round:02}/{number:05}"), 1, 100_000));
            }
        }
        assert_eq!(sent[0].0, first);
        broker.kill();
        let broker = Broker::start(&dir, &options());
        let mut client = broker.connect();
        let log_start = client.offset("t", 0, EARLIEST);
        assert!(log_start >= start, "the log start fell");
        start = log_start;
        assert_eq!(client.offset("t", 0, LATEST), first + 120, "round {round}");
        let found = client.read_from("t", 0, log_start).expect("readable");
        let kept: Vec<(i64, u64)> = sent.iter().copied().filter(|(offset, _)| *offset >= log_start).collect();
        let found: Vec<(i64, u64)> = found
            .iter()
            .map(|b| (b.info.base_offset, b.digest))
            .filter(|(offset, _)| *offset >= first)
            .collect();
        assert_eq!(found, kept, "round {round}");
        assert!(!broker.stderr().contains("ERROR"), "{}", broker.stderr());
        broker.stop();
    }
    let pooled = std::fs::read_dir(dir.data().join("pool/core-0")).expect("the pool").count();
    assert!(pooled > 0, "nothing was recycled, so nothing was tested");
}

/// The first write error poisons the log: no acknowledgement after it, reads go on, a restart heals.
#[test]
fn the_first_write_error_ends_acknowledgements() {
    let dir = DataDir::new("poison");
    let broker = Broker::start(&dir, &Options { ignore_file_size_signal: true, ..options() });
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    client.create("other", 1, &[]);
    let sent = fill(&mut client, "t", 20, 1000);
    let limit = |bytes: u64| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the structure outlives the call; the child runs, so the process id is its own.
        let code = unsafe {
            libc::prlimit(broker.pid() as libc::pid_t, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut())
        };
        assert_eq!(code, 0, "prlimit");
    };
    // No write beyond the fourth block of any file: the log's next batches meet EFBIG.
    limit(16 << 10);
    let refused = (0..10).map(|n| client.produce("t", 0, 1, &batches::batch(&format!("r{n}"), 1, 4000)));
    let codes: Vec<i16> = refused.map(|answer| answer.expect("an answer").0).collect();
    assert!(codes.iter().all(|code| *code == KAFKA_STORAGE_ERROR), "{codes:?}");
    limit(libc::RLIM_INFINITY);
    let (error, _) = client.produce("t", 0, -1, &batches::batch("after", 1, 100)).expect("an answer");
    assert_eq!(error, KAFKA_STORAGE_ERROR, "acknowledged after a write error");
    assert_same(&client.read_from("t", 0, 0).expect("readable"), &sent);
    assert_eq!(client.append("other", 0, -1, &batches::batch("fine", 1, 100)), 0, "other logs go on");
    assert!(broker.stderr().contains("stops acknowledging"), "{}", broker.stderr());
    // A fetch that waits at the end of a log that failed must not keep the processor busy.
    let before = broker.cpu_seconds();
    let end = client.offset("t", 0, LATEST);
    let read = client.fetch("t", 0, end, 1000).expect("an answer");
    assert_eq!(read.records.len(), 0);
    let used = broker.cpu_seconds() - before;
    assert!(used < 0.4, "{used} s of processor time in a wait of 1 s");
    let (status, _, _) = broker.terminate();
    assert!(!status.success(), "a failed log is no clean stop");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let found = client.read_from("t", 0, 0).expect("readable");
    assert_same(&found[..20], &sent);
    client.append("t", 0, -1, &batches::batch("healed", 1, 100));
    broker.stop();
}
