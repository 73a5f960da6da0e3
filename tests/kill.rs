//! SIGKILL at random moments under load: what was acknowledged is there after the restart (promises 1 and 2).
//!
//! Lanes, one producer on one partition each, write plain and idempotent, small and large batches with `acks=1` and
//! `acks=all`, into segments that roll all the time and, on one topic, are recycled by retention; a consumer reads
//! along. Then SIGKILL; at times another one while the broker recovers. After the restart idempotent lanes repeat
//! what was not acknowledged, and every log is read whole and held against the ledger.
//!
//! The verifier has to be able to fail: the last tests plant lies and a truncated file.
//! `RINGLOG_KILL_ROUNDS` and `RINGLOG_TEST_SEED` make it longer and different.

mod support;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::client::{self, Client, EARLIEST, LATEST};
use support::ledger::{Ledger, assert_clean};
use support::random::Random;

const ROUNDS_DEFAULT: u32 = 100;
/// Rounds on one data directory before a fresh one: bounds what every verification reads.
const ROUNDS_PER_LIFE: u32 = 10;
/// Batches of a plain producer in flight; an idempotent one may have five.
const PLAIN_WINDOW: usize = 12;
const IDEMPOTENT_WINDOW: usize = 5;
/// Pause after a large batch, so that a round stays small enough to be read back often.
const LARGE_PAUSE: Duration = Duration::from_millis(8);

#[derive(Clone, Copy, PartialEq)]
enum Size {
    Small,
    Large,
    Mixed,
}

#[derive(Clone, Copy)]
struct Kind {
    topic: &'static str,
    partitions: i32,
    configs: &'static [(&'static str, &'static str)],
    idempotent: bool,
    size: Size,
    /// 0 stands for both, in turns of chance.
    acks: i16,
}

const KINDS: &[Kind] = &[
    Kind {
        topic: "plain",
        partitions: 3,
        configs: &[("segment.bytes", "1048576")],
        idempotent: false,
        size: Size::Small,
        acks: 0,
    },
    Kind {
        topic: "idempotent",
        partitions: 3,
        configs: &[("segment.bytes", "1048576")],
        idempotent: true,
        size: Size::Mixed,
        acks: -1,
    },
    Kind {
        topic: "idempotent-1",
        partitions: 2,
        configs: &[("segment.bytes", "1048576")],
        idempotent: true,
        size: Size::Small,
        acks: 1,
    },
    // Segments above 1 MiB, because only those are worth recycling to the broker.
    Kind {
        topic: "recycled",
        partitions: 2,
        configs: &[("segment.bytes", "2097152"), ("retention.bytes", "3145728")],
        idempotent: true,
        size: Size::Large,
        acks: 0,
    },
    Kind {
        topic: "large",
        partitions: 1,
        configs: &[("segment.bytes", "1048576")],
        idempotent: false,
        size: Size::Large,
        acks: 1,
    },
];

struct InFlight {
    id: i32,
    digest: u64,
    bytes: Vec<u8>,
}

/// One producer and its partition.
struct Lane {
    kind: Kind,
    partition: i32,
    producer: (i64, i16),
    ledger: Mutex<Ledger>,
    /// What only the lane's own thread touches while there is load.
    work: Mutex<LaneWork>,
}

struct LaneWork {
    random: Random,
    order: u64,
    sequence: i32,
    in_flight: VecDeque<InFlight>,
    /// The last acknowledged batch: bytes and offset.
    last_acked: Option<(Vec<u8>, i64)>,
}

impl Lane {
    fn acks(&self, random: &mut Random) -> i16 {
        match self.kind.acks {
            0 if random.one_in(2) => 1,
            0 => -1,
            acks => acks,
        }
    }

    fn large(&self, random: &mut Random) -> bool {
        match self.kind.size {
            Size::Small => false,
            Size::Large => true,
            Size::Mixed => random.one_in(8),
        }
    }

    /// Produces until the connection breaks or `stop`.
    fn load(&self, port: u16, round: u32, stop: &AtomicBool) {
        let mut work = self.work.lock().expect("lane");
        let Ok(mut client) = Client::connect(port) else { return };
        // An error ends the round for this lane: the broker was killed.
        let _ = self.load_until_broken(&mut client, &mut work, round, stop);
        if !self.kind.idempotent {
            work.in_flight.clear();
        }
    }

    fn load_until_broken(
        &self,
        client: &mut Client,
        work: &mut LaneWork,
        round: u32,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let window = if self.kind.idempotent { IDEMPOTENT_WINDOW } else { PLAIN_WINDOW };
        while !stop.load(Ordering::Relaxed) {
            let large = self.large(&mut work.random);
            let (count, value_size) = match large {
                true => (work.random.between(1, 4) as usize, work.random.between(100_000, 160_000) as usize),
                false => (work.random.between(1, 12) as usize, work.random.between(1, 700) as usize),
            };
            let tag = format!("{}-{}/{round}/{}", self.kind.topic, self.partition, work.order);
            let value_size = if large { value_size / count } else { value_size + tag.len() };
            let bytes = match self.kind.idempotent {
                true => batches::idempotent(&tag, count, value_size, self.producer, work.sequence),
                false => batches::batch(&tag, count, value_size),
            };
            let digest = batches::digest(&bytes);
            self.ledger.lock().expect("ledger").note_sent(work.order, round, count, digest);
            work.order += 1;
            work.sequence += count as i32;
            let acks = self.acks(&mut work.random);
            // Remembered before it is sent: an error of the send says nothing about what arrived.
            work.in_flight.push_back(InFlight { id: 0, digest, bytes });
            let last = work.in_flight.back_mut().expect("just pushed");
            last.id = client.send_produce(self.kind.topic, self.partition, acks, &last.bytes)?;
            if large {
                std::thread::sleep(LARGE_PAUSE);
            }
            while work.in_flight.len() >= window {
                self.take_answer(client, work)?;
            }
        }
        while !work.in_flight.is_empty() {
            self.take_answer(client, work)?;
        }
        Ok(())
    }

    fn take_answer(&self, client: &mut Client, work: &mut LaneWork) -> io::Result<()> {
        let first = work.in_flight.front().expect("something is in flight");
        let (error, offset) = client.produced(first.id)?;
        let first = work.in_flight.pop_front().expect("as above");
        let mut ledger = self.ledger.lock().expect("ledger");
        if error != 0 {
            ledger.complain(format!("a produce was refused with error {error}"));
            return Ok(());
        }
        ledger.note_acked(offset, first.digest);
        work.last_acked = Some((first.bytes, offset));
        Ok(())
    }

    /// After a restart: repeats what was not acknowledged, then what was; both must be recognised.
    fn repeat(&self, client: &mut Client) {
        let mut work = self.work.lock().expect("lane");
        if !self.kind.idempotent {
            return;
        }
        for batch in &mut work.in_flight {
            batch.id = client
                .send_produce(self.kind.topic, self.partition, -1, &batch.bytes)
                .expect("the broker takes requests");
        }
        while !work.in_flight.is_empty() {
            self.take_answer(client, &mut work).expect("an answer");
        }
        if let Some((bytes, offset)) = &work.last_acked {
            let answer = client.produce(self.kind.topic, self.partition, 1, bytes).expect("an answer");
            if answer != (0, *offset) {
                let what = format!("repeating the batch at {offset} was answered with {answer:?}");
                self.ledger.lock().expect("ledger").complain(what);
            }
        }
    }

    fn verify(&self, client: &mut Client) {
        let mut ledger = self.ledger.lock().expect("ledger");
        let (topic, partition) = (self.kind.topic, self.partition);
        // Retention may move the start between the look-up and the read: then look again.
        for attempt in 0.. {
            let start = client.offset(topic, partition, EARLIEST);
            let end = client.offset(topic, partition, LATEST);
            match client.read_from(topic, partition, start) {
                Ok(batches) => return ledger.verify(start, end, &batches),
                Err(text) if attempt < 5 && text.ends_with("error 1") => {}
                Err(text) => return ledger.complain(text),
            }
        }
    }
}

/// Reads along with the load and notes what it sees.
fn consume(port: u16, lanes: &[Arc<Lane>], stop: &AtomicBool) {
    let Ok(mut client) = Client::connect(port) else { return };
    let newest = lanes.iter().map(|l| client.try_offset(l.kind.topic, l.partition, LATEST));
    let Ok(mut at) = newest.collect::<io::Result<Vec<i64>>>() else { return };
    while !stop.load(Ordering::Relaxed) {
        let wanted: Vec<_> = lanes.iter().zip(&at).map(|(l, at)| (l.kind.topic, l.partition, *at)).collect();
        let request = client::fetch_request(&wanted, 20, 1, 4 << 20);
        let Ok(response) = client.call(client::FETCH_VERSION, &request) else { return };
        for (topic, partition, read) in client::read_results(&response) {
            let number = lanes.iter().position(|l| l.kind.topic == topic && l.partition == partition);
            let number = number.expect("a partition that was asked for");
            let mut ledger = lanes[number].ledger.lock().expect("ledger");
            match (read.error, batches::split(&read.records)) {
                (0, Ok(found)) => {
                    found.iter().for_each(|batch| ledger.note_seen(batch));
                    at[number] = found.last().map_or(at[number], |last| last.info.next_offset());
                }
                // Retention was faster than this reader.
                (1, _) => at[number] = read.log_start.max(read.high_watermark),
                (error, found) => {
                    let broken = found.err().unwrap_or_default();
                    ledger.complain(format!("a consumer at {} got error {error} {broken}", at[number]));
                }
            }
        }
    }
}

fn options() -> Options {
    Options::default().with("log.retention.check.interval.ms", "50")
}

fn make_lanes(broker: &Broker, random: &mut Random) -> Vec<Arc<Lane>> {
    let mut client = broker.connect();
    let mut lanes = Vec::new();
    for kind in KINDS {
        client.create(kind.topic, kind.partitions, kind.configs);
        for partition in 0..kind.partitions {
            let producer = if kind.idempotent { client.init_producer() } else { (-1, -1) };
            lanes.push(Arc::new(Lane {
                kind: *kind,
                partition,
                producer,
                ledger: Mutex::new(Ledger::new(format!("{}-{partition}", kind.topic), kind.idempotent)),
                work: Mutex::new(LaneWork {
                    random: Random::new(random.next()),
                    order: 0,
                    sequence: 0,
                    in_flight: VecDeque::new(),
                    last_acked: None,
                }),
            }));
        }
    }
    lanes
}

/// Load from every lane and a consumer, while `meanwhile` runs on this thread.
fn under_load(broker: Broker, lanes: &[Arc<Lane>], round: u32, meanwhile: impl FnOnce(Broker)) {
    let stop = AtomicBool::new(false);
    let port = broker.port;
    std::thread::scope(|scope| {
        for lane in lanes {
            let stop = &stop;
            scope.spawn(move || lane.load(port, round, stop));
        }
        scope.spawn(|| consume(port, lanes, &stop));
        meanwhile(broker);
        stop.store(true, Ordering::Relaxed);
    });
}

fn verify_all(broker: &Broker, lanes: &[Arc<Lane>]) -> Vec<String> {
    std::thread::scope(|scope| {
        for half in lanes.chunks(lanes.len().div_ceil(2)) {
            scope.spawn(move || {
                let mut client = broker.connect();
                for lane in half {
                    lane.repeat(&mut client);
                    lane.verify(&mut client);
                }
            });
        }
    });
    lanes.iter().flat_map(|lane| lane.ledger.lock().expect("ledger").violations().to_vec()).collect()
}

fn one_life(rounds: std::ops::Range<u32>, random: &mut Random) -> u64 {
    let dir = DataDir::new("kill");
    let mut broker = Broker::start(&dir, &options());
    let lanes = make_lanes(&broker, random);
    for round in rounds {
        let wait = match random.below(6) {
            0 => random.between(5, 40),
            _ => random.between(80, 300),
        };
        under_load(broker, &lanes, round, |broker| {
            std::thread::sleep(Duration::from_millis(wait));
            broker.kill();
        });
        if random.one_in(5) {
            let starting = Broker::launch(&dir, &options());
            std::thread::sleep(Duration::from_millis(random.between(1, 120)));
            starting.kill();
        }
        broker = Broker::start(&dir, &options());
        let violations = verify_all(&broker, &lanes);
        if !violations.is_empty() {
            eprintln!("round {round}: stderr of the restart:\n{}", broker.stderr());
        }
        assert_clean(&violations);
    }
    broker.stop();
    lanes.iter().map(|lane| lane.ledger.lock().expect("ledger").acked_count()).sum()
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let mut random = Random::from_environment(0x5161_11ed);
    let rounds = std::env::var("RINGLOG_KILL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: u32 = rounds.unwrap_or(ROUNDS_DEFAULT);
    let mut acked = 0;
    for first in (0..rounds).step_by(ROUNDS_PER_LIFE as usize) {
        acked += one_life(first..rounds.min(first + ROUNDS_PER_LIFE), &mut random);
    }
    println!("{rounds} kills, {acked} acknowledged batches, none lost");
    assert!(acked > u64::from(rounds) * 20, "hardly any load: {acked} batches");
}

/// A broker with some load behind it and a ledger that agrees.
fn small_life(dir: &DataDir) -> (Broker, Vec<Arc<Lane>>) {
    let mut random = Random::new(7);
    let broker = Broker::start(dir, &options());
    let lanes = make_lanes(&broker, &mut random);
    under_load(broker, &lanes, 0, |broker| {
        std::thread::sleep(Duration::from_millis(200));
        broker.kill();
    });
    let broker = Broker::start(dir, &options());
    assert_clean(&verify_all(&broker, &lanes));
    (broker, lanes)
}

fn lane<'a>(lanes: &'a [Arc<Lane>], topic: &str) -> &'a Lane {
    lanes.iter().find(|lane| lane.kind.topic == topic).expect("the lane")
}

#[test]
fn the_verifier_catches_lies() {
    let dir = DataDir::new("lies");
    let (broker, lanes) = small_life(&dir);
    let mut client = broker.connect();
    let plain = lane(&lanes, "plain");
    let start = client.offset("plain", 0, EARLIEST);
    let end = client.offset("plain", 0, LATEST);
    let truth = client.read_from("plain", 0, start).expect("readable");
    assert!(truth.len() > 10, "too little load to lie about: {} batches", truth.len());
    let caught = |what: &str, words: &str, log_end: i64, batches: &[batches::Fetched]| {
        let mut ledger = plain.ledger.lock().expect("ledger");
        let before = ledger.violations().len();
        ledger.verify(start, log_end, batches);
        let found = &ledger.violations()[before..];
        assert!(found.iter().any(|text| text.contains(words)), "{what} was not caught: {found:?}");
    };
    let middle = truth.len() / 2;
    let mut dropped = truth.clone();
    dropped.remove(middle);
    caught("a dropped batch", "is gone", end, &dropped);
    let mut flipped = truth.clone();
    flipped[middle].digest ^= 1;
    caught("a flipped byte", "another batch than the known one", end, &flipped);
    let mut swapped = truth.clone();
    swapped.swap(middle, middle + 1);
    caught("swapped batches", "offsets jump", end, &swapped);
    let mut twice = truth.clone();
    let mut copy = twice[truth.len() - 1].clone();
    copy.info.base_offset = end;
    twice.push(copy);
    let longer = twice.last().expect("pushed").info.next_offset();
    caught("a batch that is there twice", "belongs", longer, &twice);
    let cut = &truth[..truth.len() - 1];
    caught("a lost tail", "is gone", cut.last().expect("some").info.next_offset(), cut);
    broker.stop();
}

#[test]
fn the_verifier_catches_a_truncated_segment() {
    let dir = DataDir::new("truncated");
    let (broker, lanes) = small_life(&dir);
    broker.kill();
    let filled = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).expect("a segment");
        ringlog::wire::record_batch::parse_header(&bytes).is_ok()
    };
    let newest = dir.segments("idempotent", 0).into_iter().rfind(filled).expect("a segment with batches");
    let file = std::fs::OpenOptions::new().write(true).open(&newest).expect("open");
    file.set_len(0).expect("truncate");
    drop(file);
    let broker = Broker::start(&dir, &options());
    let lane = lane(&lanes, "idempotent");
    lane.verify(&mut broker.connect());
    let violations = lane.ledger.lock().expect("ledger").violations().to_vec();
    assert!(violations.iter().any(|text| text.contains("is gone")), "not caught: {violations:?}");
}
