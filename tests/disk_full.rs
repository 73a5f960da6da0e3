//! A disk that is full and has room again, many times, by a foreign file and by the broker's own topics: produce and
//! changes of metadata are refused with an error, fetch is served, all goes on by itself when there is room, and
//! nothing that was acknowledged is lost, also over a restart on a full disk. Needs root and loop devices; says so
//! when they are missing. `RINGLOG_FULL_CYCLES` and `RINGLOG_TEST_SEED` make it longer and different.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::client::{Client, EARLIEST};
use support::eventually;
use support::fault_disk::{Mounted, unavailable};
use support::random::Random;
use support::transactions::{begin, commit_offset, committed_offset, end, produce};

const CYCLES_DEFAULT: u64 = 6;
const DISK_BYTES: u64 = 96 << 20;
const KAFKA_STORAGE_ERROR: i16 = 56;
const PARTITIONS: i32 = 2;

fn options() -> Options {
    let mut options = Options::default();
    options.overrides.clear();
    options
        .with("ringlog.segment.pool.bytes", "16777216")
        .with("log.retention.check.interval.ms", "50")
        .with("offsets.topic.num.partitions", "2")
        .with("transaction.state.log.num.partitions", "2")
}

/// Everything acknowledged so far, of the topic that stays.
struct Acked {
    of: Vec<BTreeMap<i64, u64>>,
    number: u64,
}

impl Acked {
    fn produce(&mut self, client: &mut Client, partition: i32, size: usize) -> i16 {
        let bytes = batches::batch(&format!("stays-{partition}/{}", self.number), 2, size / 2);
        let acks = if self.number.is_multiple_of(2) { -1 } else { 1 };
        self.number += 1;
        let (code, offset) = client.produce("stays", partition, acks, &bytes).expect("an answer");
        if code == 0 {
            self.of[partition as usize].insert(offset, batches::digest(&bytes));
        }
        code
    }

    /// Everything from the log's start on is there.
    fn verify(&self, client: &mut Client, when: &str) {
        for (partition, acked) in self.of.iter().enumerate() {
            let partition = partition as i32;
            let start = client.offset("stays", partition, EARLIEST);
            let found =
                client.read_from("stays", partition, start).unwrap_or_else(|text| panic!("{when}: {text}"));
            let found: BTreeMap<i64, u64> =
                found.iter().map(|one| (one.info.base_offset, one.digest)).collect();
            for (offset, digest) in acked.range(start..) {
                assert_eq!(found.get(offset), Some(digest), "{when}: stays-{partition} offset {offset}");
            }
        }
    }
}

/// Takes all room that is left, but for less than a block.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 20, 64 << 10, 4 << 10] {
        let bytes = vec![0x55; size];
        while file.write_all(&bytes).is_ok() {}
    }
    let _ = file.sync_all();
}

/// Produces until every partition is refused; panics when it never is.
fn until_refused(client: &mut Client, acked: &mut Acked) {
    let mut refused = [false; PARTITIONS as usize];
    for _ in 0..20_000 {
        for partition in 0..PARTITIONS {
            if !refused[partition as usize] {
                match acked.produce(client, partition, 60_000) {
                    0 => {}
                    KAFKA_STORAGE_ERROR => refused[partition as usize] = true,
                    other => panic!("produce on a full disk was answered with {other}"),
                }
            }
        }
        if refused == [true; PARTITIONS as usize] {
            return;
        }
    }
    panic!("the disk never gets full");
}

fn until_accepted(client: &mut Client, acked: &mut Acked, what: &str) {
    for partition in 0..PARTITIONS {
        eventually(what, || (acked.produce(client, partition, 60_000) == 0).then_some(()));
    }
}

/// A transaction with an offset of a group; whether it was committed, and the group then stands at `offset`.
fn transaction(client: &mut Client, acked: &mut Acked, offset: i64) -> bool {
    let Ok(Ok(producer)) = support::transactions::init(client, "x", 60_000, None) else { return false };
    acked.number += 1;
    let bytes = batches::transactional(&format!("tx/{}", acked.number), 1, 500, producer, 0);
    let Ok(results) = produce(client, 12, "x", &[("tx", 0, &bytes)]) else { return false };
    results.iter().all(|(code, _)| *code == 0)
        && commit_offset(client, 5, "x", producer, ("g", "tx", offset)).is_ok_and(|code| code == 0)
        && end(client, 5, "x", producer, true).is_ok_and(|ended| ended.is_ok())
}

/// Requests that need room for metadata: each is answered, with an error or not, and none kills anything.
fn metadata_requests(client: &mut Client, acked: &mut Acked, cycle: u64) -> (bool, bool) {
    let created = client.try_create(&format!("new-{cycle}"), 1, &[]).expect("an answer");
    assert!(created == 0 || created == KAFKA_STORAGE_ERROR, "CreateTopics on a full disk: {created}");
    (created == 0, transaction(client, acked, cycle as i64))
}

fn one_cycle(cycle: u64, broker: &Broker, disk: &Path, acked: &mut Acked, random: &mut Random) {
    let mut client = broker.connect();
    let foreign = disk.join("foreign");
    let by_topic = cycle % 4 == 1;
    if by_topic {
        client.create("big", 2, &[("segment.bytes", "4194304")]);
        let bytes = batches::batch(&format!("big/{cycle}"), 1, 200_000);
        while client.produce("big", random.below(2) as i32, 1, &bytes).expect("an answer").0 == 0 {}
    }
    if cycle % 4 != 2 {
        fill(&foreign);
    }
    until_refused(&mut client, acked);
    acked.verify(&mut client, &format!("cycle {cycle}, on a full disk"));
    let (_, committed) = metadata_requests(&mut client, acked, cycle);
    // Room again.
    match cycle % 4 {
        // A topic is deleted, which the full disk must not prevent; the foreign file stays for now.
        1 => client.delete("big"),
        // The same for what filled the disk without any foreign file.
        2 => client.delete(&format!("ballast-{}", cycle / 4)),
        _ => std::fs::remove_file(&foreign).expect("it was there"),
    }
    until_accepted(&mut client, acked, &format!("cycle {cycle}: produce goes on when there is room"));
    let _ = std::fs::remove_file(&foreign);
    let offset = 1000 + cycle as i64;
    eventually("transactions go on when there is room", || {
        transaction(&mut client, acked, offset).then_some(())
    });
    let stands = committed_offset(&mut client, "g", "tx").expect("an answer");
    assert_eq!(stands, Ok(offset), "cycle {cycle}: the group's offset (committed when full: {committed})");
    eventually("topics can be made when there is room", || {
        let code = client.try_create(&format!("after-{cycle}"), 1, &[]).expect("an answer");
        (code == 0).then_some(())
    });
    client.delete(&format!("after-{cycle}"));
    acked.verify(&mut client, &format!("cycle {cycle}, with room again"));
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    if unavailable().is_some() {
        return;
    }
    let mut random = Random::from_environment(0x0f01_1d15);
    let cycles = std::env::var("RINGLOG_FULL_CYCLES").ok().and_then(|text| text.parse().ok());
    let cycles: u64 = cycles.unwrap_or(CYCLES_DEFAULT);
    let dir = DataDir::new("full");
    let image = dir.beside("image");
    File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).expect("an image");
    let mounted = Mounted::format(&image, &dir.beside("mnt"), false).expect("a file system");
    let on_disk = DataDir::with_data_in("full-broker", mounted.directory().join("data"));
    let mut broker = Broker::start(&on_disk, &options());
    let mut client = broker.connect();
    // Without retention: it would make the room that a cycle waits for.
    let configs = [("segment.bytes", "4194304")];
    client.create("stays", PARTITIONS, &configs);
    client.create("tx", 1, &[]);
    begin(&mut client, "x").expect("a producer");
    let mut acked = Acked { of: vec![BTreeMap::new(); PARTITIONS as usize], number: 0 };
    for cycle in 0..cycles {
        if cycle % 4 == 2 {
            // The broker's own data fills the disk: a topic without retention.
            let ballast = format!("ballast-{}", cycle / 4);
            let mut client = broker.connect();
            client.create(&ballast, 1, &[("segment.bytes", "8388608")]);
            let bytes = batches::batch(&format!("{ballast}/"), 1, 300_000);
            while client.produce(&ballast, 0, -1, &bytes).expect("an answer").0 == 0 {}
        }
        one_cycle(cycle, &broker, mounted.directory(), &mut acked, &mut random);
        assert!(!broker.stderr().contains("stops acknowledging"), "a partition failed for ever");
        if cycle % 4 == 3 {
            // A fresh one, or what it holds would be all of the disk after a while.
            let mut client = broker.connect();
            client.delete("stays");
            client.create("stays", PARTITIONS, &configs);
            acked.of = vec![BTreeMap::new(); PARTITIONS as usize];
        }
        if cycle % 5 == 3 {
            // A start on a full disk: what is there is served, and all goes on when there is room.
            let foreign = mounted.directory().join("foreign");
            broker.kill();
            fill(&foreign);
            broker = Broker::start(&on_disk, &options());
            acked.verify(&mut broker.connect(), "after a start on a full disk");
            std::fs::remove_file(&foreign).expect("it was there");
            until_accepted(&mut broker.connect(), &mut acked, "after a start on a full disk");
        }
    }
    broker.stop();
    let broker = Broker::start(&on_disk, &options());
    acked.verify(&mut broker.connect(), "after the last restart");
    broker.stop();
    println!("{cycles} times full and back, {} batches tried, none lost", acked.number);
}
