//! More than the broker can take, in a control group of 512 MB: producers that send as fast as they can over many
//! connections, readers far behind, ten thousand partitions. The kernel must kill nobody, everything acknowledged must
//! be there, and when the load ends all is as quick as before. The broker is told nothing of the limit: it must find
//! it. `RINGLOG_OVERLOAD_SECONDS` and `RINGLOG_OVERLOAD_PARTITIONS` make it longer. Needs root and memory control
//! groups.

mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::cgroup::Cgroup;
use support::client::{Client, EARLIEST};
use support::random::Random;

const MEMORY_BYTES: u64 = 512 << 20;
const SECONDS_DEFAULT: u64 = 6;
const PARTITIONS_DEFAULT: u64 = 1000;
/// Connections that produce; each keeps so many requests in flight.
const PRODUCERS: usize = 32;
const WINDOW: usize = 8;
const READERS: usize = 4;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Load {
    partitions: i32,
    stop: AtomicBool,
    /// Offset to digest of what was acknowledged, of the last few per partition only: retention drops the rest.
    acked: Mutex<HashMap<i32, Vec<(i64, u64)>>>,
    acked_count: AtomicU64,
    acked_bytes: AtomicU64,
    refused: AtomicU64,
    read_bytes: AtomicU64,
}

fn produce(load: &Load, port: u16, seed: u64) {
    let mut random = Random::new(seed);
    let mut client = Client::connect(port).expect("accepted");
    client.set_timeout(Duration::from_secs(120));
    let mut in_flight = std::collections::VecDeque::new();
    let mut number = 0;
    while !load.stop.load(Ordering::Relaxed) || !in_flight.is_empty() {
        if !load.stop.load(Ordering::Relaxed) && in_flight.len() < WINDOW {
            let partition = random.below(load.partitions as u64) as i32;
            let size = if random.one_in(3) { 900_000 } else { random.between(1_000, 60_000) as usize };
            let bytes = batches::batch(&format!("o-{seed}/{number}"), 1, size);
            number += 1;
            let acks = if random.one_in(2) { 1 } else { -1 };
            let id = client.send_produce("over", partition, acks, &bytes).expect("sent");
            in_flight.push_back((id, partition, batches::digest(&bytes), bytes.len() as u64));
            continue;
        }
        let (id, partition, digest, size) = in_flight.pop_front().expect("the window is full");
        match client.produced(id).expect("an answer, never a lost connection") {
            (0, offset) => {
                load.acked.lock().expect("acked").entry(partition).or_default().push((offset, digest));
                load.acked_count.fetch_add(1, Ordering::Relaxed);
                load.acked_bytes.fetch_add(size, Ordering::Relaxed);
            }
            // A clear error is allowed, silence is not.
            _ => {
                load.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Reads partitions from their start, one after another: always cold.
fn read(load: &Load, port: u16, seed: u64) {
    let mut random = Random::new(seed);
    let mut client = Client::connect(port).expect("accepted");
    client.set_timeout(Duration::from_secs(120));
    while !load.stop.load(Ordering::Relaxed) {
        let partition = random.below(load.partitions as u64) as i32;
        let mut at = client.offset("over", partition, EARLIEST);
        for _ in 0..8 {
            let read = client.fetch("over", partition, at, 0).expect("an answer");
            load.read_bytes.fetch_add(read.records.len() as u64, Ordering::Relaxed);
            match batches::split(&read.records).expect("whole batches").last() {
                Some(last) => at = last.info.next_offset(),
                None => break,
            }
        }
    }
}

fn verify(load: &Load, broker: &Broker) -> u64 {
    let mut client = broker.connect();
    client.set_timeout(Duration::from_secs(120));
    let mut verified = 0;
    for (partition, acked) in load.acked.lock().expect("acked").iter() {
        let start = client.offset("over", *partition, EARLIEST);
        let found = client.read_from("over", *partition, start).expect("readable");
        let found: HashMap<i64, u64> = found.iter().map(|one| (one.info.base_offset, one.digest)).collect();
        for (offset, digest) in acked.iter().filter(|(offset, _)| *offset >= start) {
            assert_eq!(found.get(offset), Some(digest), "over-{partition} offset {offset} was acknowledged");
            verified += 1;
        }
    }
    verified
}

/// The middle of some round trips, milliseconds.
fn quiet_ms(client: &mut Client) -> f64 {
    let mut times: Vec<f64> = (0..41)
        .map(|number| {
            let began = Instant::now();
            client.append("quiet", 0, -1, &batches::batch(&format!("q/{number}"), 1, 1000));
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
fn overload_in_512_mb_kills_nobody_and_loses_nothing() {
    let Some(group) = Cgroup::with_memory(MEMORY_BYTES) else { return };
    let dir = DataDir::new("overload");
    let partitions = number("RINGLOG_OVERLOAD_PARTITIONS", PARTITIONS_DEFAULT) as i32;
    let mut options =
        Options { memory: String::new(), cgroup: Some(group.processes()), ..Options::default() };
    options = options.with("log.retention.check.interval.ms", "1000");
    let mut broker = Broker::start(&dir, &options);
    let mut client = broker.connect();
    client.create("quiet", 1, &[]);
    // Keeps the disk small; with many partitions each has an active segment of a megabyte all the same.
    let keep = ((4_u64 << 30) / partitions as u64).to_string();
    client.create("over", partitions, &[("segment.bytes", "1048576"), ("retention.bytes", &keep)]);
    let before_ms = quiet_ms(&mut client);
    let load = Load {
        partitions,
        stop: AtomicBool::new(false),
        acked: Mutex::default(),
        acked_count: AtomicU64::new(0),
        acked_bytes: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        read_bytes: AtomicU64::new(0),
    };
    let seconds = number("RINGLOG_OVERLOAD_SECONDS", SECONDS_DEFAULT);
    let (port, began) = (broker.port, Instant::now());
    let mut resident_bytes_max = 0;
    std::thread::scope(|scope| {
        for seed in 0..PRODUCERS as u64 {
            let load = &load;
            scope.spawn(move || produce(load, port, seed + 1));
        }
        for seed in 0..READERS as u64 {
            let load = &load;
            scope.spawn(move || read(load, port, seed + 1000));
        }
        while began.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(200));
            resident_bytes_max = resident_bytes_max.max(broker.resident_bytes());
        }
        load.stop.store(true, Ordering::Relaxed);
    });
    let rate = load.acked_bytes.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64() / 1e6;
    assert_eq!(group.kills(), 0, "the kernel killed a process of the group");
    broker.assert_serving();
    let after_ms = quiet_ms(&mut client);
    println!(
        "{partitions} partitions, {seconds} s: {} acknowledged at {rate:.0} MB/s, {} refused, {:.0} MB read behind; \
         resident at most {} MB, the group at most {} MB, 0 kills; \
         acks=all {before_ms:.1} ms before, {after_ms:.1} ms after",
        load.acked_count.load(Ordering::Relaxed),
        load.refused.load(Ordering::Relaxed),
        load.read_bytes.load(Ordering::Relaxed) as f64 / 1e6,
        resident_bytes_max >> 20,
        group.peak_bytes() >> 20
    );
    broker.kill();
    let broker = Broker::start(&dir, &options);
    let verified = verify(&load, &broker);
    println!("{verified} acknowledged batches of what retention keeps are there after SIGKILL, none lost");
    assert_eq!(group.kills(), 0, "the kernel killed a process of the group");
    assert!(verified > 0);
    broker.stop();
}
