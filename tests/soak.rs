//! Hours of every kind of client, with faults mixed in, verified all the time, on a bounded disk; memory and open
//! files of the broker must stay flat: what it holds from the system must stay close to what is in use, and what is in
//! use must not grow behind the warm-up. (The soak of 2026-11-20 found +224 MiB/h: each size of I/O block kept what it
//! had ever needed; see `src/memory/blocks.rs`.) A round is some load, one fault (SIGKILL, SIGSTOP, readers that catch
//! up from the start, a storm of connections, topics made and deleted), and every few rounds a whole scan before the
//! judge.
//!
//! `RINGLOG_SOAK_SECONDS` (default 12), `RINGLOG_SOAK_LIFE` (seconds until a process is killed, by default a third of
//! that and at most 1,800), `RINGLOG_SOAK_PACE` (microseconds between small batches of a producer),
//! `RINGLOG_SOAK_CSV` (a file for the samples) and `RINGLOG_TEST_SEED` make it longer and different; `scripts/soak`
//! does, and writes a report.

mod support;

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::client::{Client, EARLIEST};
use support::history::now_ns;
use support::judge::Judge;
use support::random::Random;
use support::workload::{Pace, Workload, assert_clean};

const SECONDS_DEFAULT: u64 = 12;
/// Samples of a process before its memory counts: caches fill first.
const WARM_UP: Duration = Duration::from_secs(120);
/// A process has to live so long behind its warm-up before a slope means anything.
const SLOPE_OVER: Duration = Duration::from_secs(180);
/// Growth that is allowed, as a share of the level per hour, beside a constant for small numbers.
const MEMORY_GROWTH_PER_HOUR: f64 = 0.10;
const MEMORY_SLACK_BYTES: f64 = 16.0 * 1048576.0;
/// Growth of the heap that is allowed over one process's life.
const HEAP_SLACK_BYTES: f64 = 4.0 * 1048576.0;
const FILES_SLACK: f64 = 32.0;
/// I/O memory that a broker may hold beyond what is in use: half of it for holes, and regions of 16 MiB, of which each
/// core may have one spare and one begun.
const BLOCK_MEMORY_PER_USED: f64 = 1.5;
const BLOCK_MEMORY_SLACK_BYTES: f64 = 64.0 * 1048576.0;
/// Data that the topics may hold, with everything that is in flight or waits in the pool.
const DATA_BYTES_MAX: u64 = 400 << 20;

fn options() -> Options {
    Options::default()
        .with("log.retention.check.interval.ms", "200")
        .with("group.initial.rebalance.delay.ms", "0")
        .with("transaction.state.log.num.partitions", "2")
        .with("offsets.topic.num.partitions", "2")
        .with("log.cleaner.backoff.ms", "1000")
        .with("admin.listeners", "127.0.0.1:0")
        .with("offsets.topic.segment.bytes", "1048576")
        .with("transaction.state.log.segment.bytes", "1048576")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One look at the broker.
struct Sample {
    /// Seconds since its process began.
    age_s: f64,
    memory_bytes: f64,
    files: f64,
    /// What is no I/O block and in use.
    heap_bytes: f64,
    /// I/O blocks in use, and what is held from the system for them.
    block_bytes: f64,
    block_memory_bytes: f64,
}

/// The samples of one process, and the report over all of them.
struct Watch {
    csv: Option<File>,
    began: Instant,
    process_began: Instant,
    samples: Vec<Sample>,
    slopes: Vec<String>,
}

impl Watch {
    fn sample(&mut self, broker: &Broker) {
        let files = std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("proc").count() as f64;
        let metrics = broker.metrics();
        let sample = Sample {
            age_s: self.process_began.elapsed().as_secs_f64(),
            memory_bytes: broker.resident_bytes() as f64,
            files,
            heap_bytes: metrics["ringlog_heap_bytes"],
            block_bytes: metrics["ringlog_io_block_bytes"],
            block_memory_bytes: metrics["ringlog_io_block_memory_bytes"],
        };
        assert!(
            sample.block_memory_bytes
                <= sample.block_bytes * BLOCK_MEMORY_PER_USED + BLOCK_MEMORY_SLACK_BYTES,
            "{} bytes are held for {} bytes of I/O blocks",
            sample.block_memory_bytes,
            sample.block_bytes
        );
        if let Some(csv) = &mut self.csv {
            let at = self.began.elapsed().as_secs_f64();
            let mib = [sample.memory_bytes, sample.heap_bytes, sample.block_bytes, sample.block_memory_bytes];
            let mib = mib.map(|bytes| format!("{:.1}", bytes / 1048576.0)).join(",");
            writeln!(csv, "{at:.1},{:.1},{mib},{files}", sample.age_s).expect("csv");
        }
        self.samples.push(sample);
    }

    /// The process ends: were its memory and its files flat behind the warm-up?
    fn judge_process(&mut self) {
        let samples = std::mem::take(&mut self.samples);
        self.process_began = Instant::now();
        let warm: Vec<&Sample> = samples.iter().filter(|s| s.age_s > WARM_UP.as_secs_f64()).collect();
        let (Some(first), Some(last)) = (warm.first(), warm.last()) else { return };
        let hours = (last.age_s - first.age_s) / 3600.0;
        if hours < SLOPE_OVER.as_secs_f64() / 3600.0 {
            return;
        }
        let memory = slope(&warm, |sample| sample.memory_bytes);
        let heap = slope(&warm, |sample| sample.heap_bytes);
        let files = slope(&warm, |sample| sample.files);
        let mib = 1048576.0;
        let level = first.memory_bytes;
        self.slopes.push(format!(
            "{:.0} s: memory {:.1} MiB, {:+.2} MiB/h; heap {:.1} MiB, {:+.2} MiB/h; open files {:.0}, {:+.1}/h",
            last.age_s,
            level / mib,
            memory * 3600.0 / mib,
            first.heap_bytes / mib,
            heap * 3600.0 / mib,
            last.files,
            files * 3600.0
        ));
        let grown = memory * 3600.0 * hours;
        let allowed = MEMORY_SLACK_BYTES + MEMORY_GROWTH_PER_HOUR * level * hours;
        assert!(grown <= allowed, "memory grows: {}", self.slopes.last().expect("just pushed"));
        let heap_grown = heap * 3600.0 * hours;
        assert!(
            heap_grown <= HEAP_SLACK_BYTES,
            "the heap grows: {}",
            self.slopes.last().expect("just pushed")
        );
        assert!(
            files * 3600.0 * hours <= FILES_SLACK,
            "files grow: {}",
            self.slopes.last().expect("just pushed")
        );
    }
}

/// Least squares: units per second.
fn slope(samples: &[&Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let mean_x = samples.iter().map(|s| s.age_s).sum::<f64>() / count;
    let mean_y = samples.iter().map(|s| value(s)).sum::<f64>() / count;
    let over: f64 = samples.iter().map(|s| (s.age_s - mean_x) * (value(s) - mean_y)).sum();
    let under: f64 = samples.iter().map(|s| (s.age_s - mean_x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

/// Reads what a late consumer would: some partitions from their start.
fn catch_up(broker: &Broker) {
    let mut client = broker.connect();
    for topic in ["plain", "idempotent", "written", "recycled"] {
        // Retention may be faster than this reader: then there is nothing to say.
        let start = client.offset(topic, 0, EARLIEST);
        let _ = client.read_from(topic, 0, start);
    }
}

/// Connections that come and go, some in the middle of a request, some silent.
fn storm(broker: &Broker, random: &mut Random) {
    for _ in 0..random.between(50, 200) {
        let Ok(mut client) = Client::connect(broker.port) else { continue };
        match random.below(3) {
            0 => {}
            1 => drop(client.api_versions()),
            _ => drop(client.stream().write_all(&[0, 0, 1, 0, 0, 18])),
        }
    }
}

/// A topic that comes, takes something in, and goes.
fn churn(broker: &Broker, number: u64) {
    let mut client = broker.connect();
    let name = format!("short-lived-{number}");
    client.create(&name, 8, &[("segment.bytes", "1048576")]);
    for partition in 0..8 {
        client.append(&name, partition, -1, &batches::batch(&format!("{name}-{partition}"), 4, 10_000));
    }
    client.delete(&name);
}

fn data_bytes(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => data_bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn a_long_run_stays_correct_and_flat() {
    let mut random = Random::from_environment(0x50a_c0de);
    let seconds = number("RINGLOG_SOAK_SECONDS", SECONDS_DEFAULT);
    let pace_us = number("RINGLOG_SOAK_PACE", 3000);
    let pace = Pace { small: Duration::from_micros(pace_us), large: Duration::from_micros(pace_us * 8) };
    // A process lives long enough for its slope in a long run, and is killed often in a short one.
    let life = Duration::from_secs(number("RINGLOG_SOAK_LIFE", (seconds / 3).clamp(4, 1800)));
    let dir = DataDir::new("soak");
    let mut broker = Broker::start(&dir, &options());
    let workload = Workload::new(&mut broker.connect(), &mut random, pace, &[]);
    let csv =
        std::env::var("RINGLOG_SOAK_CSV").ok().map(|path| File::create(path).expect("the samples' file"));
    let (began, mut judge) = (Instant::now(), Judge::default());
    let mut watch = Watch { csv, began, process_began: began, samples: Vec::new(), slopes: Vec::new() };
    let (mut rounds, mut kills, mut pauses, mut data_bytes_max) = (0_u64, 0_u64, 0_u64, 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        let last = began.elapsed() + Duration::from_secs(3) >= Duration::from_secs(seconds);
        let kill = watch.process_began.elapsed() >= life || last;
        let port = broker.port;
        broker = workload.run(port, || {
            let round = Instant::now();
            let length = Duration::from_millis(random.between(1000, 3000));
            match random.below(4) {
                0 => catch_up(&broker),
                1 => storm(&broker, &mut random),
                2 => churn(&broker, rounds),
                _ => {
                    broker.signal(libc::SIGSTOP);
                    std::thread::sleep(Duration::from_millis(random.between(20, 500)));
                    broker.signal(libc::SIGCONT);
                    pauses += 1;
                }
            }
            while round.elapsed() < length {
                std::thread::sleep(Duration::from_millis(100));
            }
            watch.sample(&broker);
            if !kill {
                return broker;
            }
            broker.kill();
            watch.judge_process();
            kills += 1;
            Broker::start(&dir, &options())
        });
        rounds += 1;
        let healed_ns = now_ns();
        let mut client = broker.connect();
        workload.settle(&mut client);
        workload.scan(&mut client, &workload.history, healed_ns);
        workload.judged_clean(&mut judge, &format!("round {rounds}, seed above"));
        data_bytes_max = data_bytes_max.max(data_bytes(&dir.data()));
        assert!(data_bytes_max < DATA_BYTES_MAX, "the data is bounded: {data_bytes_max}");
    }
    broker.stop();
    assert_clean(&judge, "at the end");
    println!(
        "soak: {} s, {rounds} rounds, {kills} kills, {pauses} pauses; data at most {} MiB; {:?}; no rule broken",
        began.elapsed().as_secs(),
        data_bytes_max >> 20,
        judge.heard()
    );
    watch.slopes.iter().for_each(|line| println!("flat over {line}"));
    println!("the judge holds {} batches", judge.size());
}
