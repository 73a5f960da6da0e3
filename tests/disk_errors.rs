//! A disk that fails: EIO at the nth write or flush, once or from then on, under a real broker on an ext4 of its own.
//!
//! Whatever fails: after its first error a partition acknowledges nothing, reads go on, the log says which file and
//! what to do; after the disk is whole again, a restart has everything that was acknowledged with acks=all. Needs
//! root, loop devices and /dev/fuse; says so when they are missing. `RINGLOG_DISK_ERRORS` (how many places) and
//! `RINGLOG_TEST_SEED` vary it.

mod support;

use std::collections::BTreeMap;

use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::client::Client;
use support::fault_disk::{FaultDisk, Mounted, unavailable};
use support::random::Random;

const PLACES_DEFAULT: u64 = 10;
/// The nth operation fails, n up to this: far enough to meet data, directories and the journal.
const OPERATION_MAX: u64 = 40;
const PARTITIONS: i32 = 3;
const DISK_BYTES: u64 = 256 << 20;

fn options() -> Options {
    let mut options = Options::default().with("offsets.topic.num.partitions", "2");
    options.overrides.retain(|pair| !pair.starts_with("ringlog.segment.pool.bytes"));
    options.with("ringlog.segment.pool.bytes", "8388608")
}

/// What was acknowledged to one partition: offset to digest, and whether with acks=all.
type Acked = BTreeMap<i64, (u64, bool)>;

struct Outcome {
    refused: bool,
    acknowledged_after: u64,
}

/// Produces to one partition, acks=1 and acks=all in turns, until `count` batches are through or some were refused.
fn produce(client: &mut Client, partition: i32, tag: &str, count: u64, acked: &mut Acked) -> Outcome {
    let mut outcome = Outcome { refused: false, acknowledged_after: 0 };
    let mut left_after_refusal = 6;
    for number in 0..count {
        let bytes =
            batches::batch(&format!("{tag}-{partition}/{number}"), 3, 2000 + number as usize * 37 % 9000);
        let acks = if number.is_multiple_of(2) { -1 } else { 1 };
        let (code, offset) = client.produce("t", partition, acks, &bytes).expect("an answer");
        match code {
            0 => {
                outcome.acknowledged_after += u64::from(outcome.refused);
                acked.insert(offset, (batches::digest(&bytes), acks == -1));
            }
            56 => outcome.refused = true,
            other => panic!("produce was answered with {other}"),
        }
        left_after_refusal -= i32::from(outcome.refused);
        if left_after_refusal == 0 {
            break;
        }
    }
    outcome
}

fn assert_readable(client: &mut Client, acked: &[Acked], flushed_only: bool, when: &str) {
    for (partition, acked) in acked.iter().enumerate() {
        let found =
            client.read_from("t", partition as i32, 0).unwrap_or_else(|text| panic!("{when}: {text}"));
        let found: BTreeMap<i64, u64> =
            found.iter().map(|batch| (batch.info.base_offset, batch.digest)).collect();
        for (offset, (digest, _)) in acked.iter().filter(|(_, (_, flushed))| *flushed || !flushed_only) {
            assert_eq!(found.get(offset), Some(digest), "{when}: t-{partition} offset {offset}");
        }
    }
}

/// One disk, one failing operation. Whether it was met, and whether a partition was refused.
fn fail_at(kind: &str, operation: u64, times: &str) -> (bool, bool) {
    let context = format!("{kind} {operation} {times}");
    let dir = DataDir::new("eio");
    let mut disk = FaultDisk::start(&dir.beside("disk"), DISK_BYTES);
    let mut mounted = Mounted::format(&disk.image(), &dir.beside("mnt"), true).expect("a file system");
    let on_disk = DataDir::with_data_in("eio-broker", mounted.directory().join("data"));
    let broker = Broker::start(&on_disk, &options());
    let mut client = broker.connect();
    client.create("t", PARTITIONS, &[("segment.bytes", "1048576")]);
    let mut acked = vec![Acked::new(); PARTITIONS as usize];
    for partition in 0..PARTITIONS {
        let outcome = produce(&mut client, partition, "before", 20, &mut acked[partition as usize]);
        assert!(!outcome.refused, "{context}: refused before anything failed");
    }
    assert_eq!(disk.command(&format!("fail {kind} {operation} {times}")), "ok");
    let mut refused = 0;
    for partition in 0..PARTITIONS {
        let outcome = produce(&mut client, partition, "during", 60, &mut acked[partition as usize]);
        assert_eq!(outcome.acknowledged_after, 0, "{context}: t-{partition} acknowledged after an error");
        refused += u64::from(outcome.refused);
    }
    let failed = disk.counts()[2];
    // Everything acknowledged is served, from memory or from the disk.
    assert_readable(&mut client, &acked, false, &format!("{context}, with the broken disk"));
    let told = broker.stderr();
    if refused > 0 {
        assert!(
            told.contains("/t-") && told.contains("restart"),
            "{context}: which file, what to do?\n{told}"
        );
    }
    broker.kill();
    assert_eq!(disk.command("heal"), "ok");
    mounted.check().unwrap_or_else(|text| panic!("{context}: {text}"));
    let broker = Broker::start(&on_disk, &options());
    let mut client = broker.connect();
    // A journal that cannot be written is as good as a power cut: what was only written may be gone.
    assert_readable(&mut client, &acked, true, &format!("{context}, after the restart"));
    for partition in 0..PARTITIONS {
        let outcome = produce(&mut client, partition, "after", 4, &mut acked[partition as usize]);
        assert!(!outcome.refused, "{context}: refused on a whole disk");
    }
    broker.stop();
    (failed > 0, refused > 0)
}

#[test]
fn nothing_is_acknowledged_after_an_error_of_the_disk() {
    if unavailable().is_some() {
        return;
    }
    let mut random = Random::from_environment(0x0e10_0e10);
    let places = std::env::var("RINGLOG_DISK_ERRORS").ok().and_then(|text| text.parse().ok());
    let places: u64 = places.unwrap_or(PLACES_DEFAULT);
    let (mut met, mut refused) = (0, 0);
    for place in 0..places {
        let kind = ["write", "flush"][place as usize % 2];
        let times = ["always", "once"][place as usize / 2 % 2];
        // All of them in turn in a long run.
        let operation = if places >= 4 * OPERATION_MAX {
            1 + place / 4 % OPERATION_MAX
        } else {
            random.between(1, OPERATION_MAX)
        };
        let (was_met, was_refused) = fail_at(kind, operation, times);
        met += u64::from(was_met);
        refused += u64::from(was_refused);
    }
    println!(
        "{places} places, {met} met an error, {refused} refused produces, 0 acknowledged after an error"
    );
    assert!(met * 2 > places, "most places are reached");
    assert!(refused > 0, "no error reached a partition");
}
