//! A load of every kind of client at once, each noting into one [`History`]: plain and idempotent producers with both
//! acks, transactional producers that commit offsets, a consumer group, readers of all and of committed data. And what
//! follows a fault: [`Workload::settle`] ends what was left open and probes refusals, [`Workload::scan`] reads all.
//!
//! Owner: the test. Invariants: a client that loses its connection is out until the next [`Workload::run`]; what it had
//! in flight stays unanswered, and idempotent producers repeat it in `settle`. Sequences and offsets live through any
//! number of runs. It must not judge: `judge.rs` does.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_protocol::messages::FetchResponse;

use super::batches::{self, Fetched};
use super::client::{self, Client, EARLIEST, FETCH_VERSION, LATEST};
use super::history::{History, Place, Probe, Read, Scan, Seen, Sent, What, now_ns};
use super::judge::Judge;
use super::random::Random;
use super::workload_group::Members;
use super::workload_share::Workers;
use super::workload_txn::Writer;
use ringlog::wire::control_batch;

const IDEMPOTENT_WINDOW: usize = 5;
const PLAIN_WINDOW: usize = 12;
const READER_OF_ALL: u32 = 1;
const READER_OF_COMMITTED: u32 = 2;
/// Codes that a broker may answer with for a gap.
const GAP_CODES: &[i16] = &[45];

/// One topic of producers, one of which writes to each partition.
struct Kind {
    topic: &'static str,
    partitions: i32,
    configs: &'static [(&'static str, &'static str)],
    idempotent: bool,
    large: bool,
    /// 0 stands for both, in turns of chance.
    acks: i16,
}

const KINDS: &[Kind] = &[
    Kind {
        topic: "plain",
        partitions: 2,
        configs: &[("segment.bytes", "1048576"), ("retention.bytes", "8388608")],
        idempotent: false,
        large: false,
        acks: 0,
    },
    Kind {
        topic: "idempotent",
        partitions: 2,
        configs: &[("segment.bytes", "1048576"), ("retention.bytes", "8388608")],
        idempotent: true,
        large: false,
        acks: -1,
    },
    Kind {
        topic: "written",
        partitions: 1,
        configs: &[("segment.bytes", "1048576"), ("retention.bytes", "8388608")],
        idempotent: true,
        large: false,
        acks: 1,
    },
    // Segments above 1 MiB, because only those are worth recycling to the broker.
    Kind {
        topic: "recycled",
        partitions: 1,
        configs: &[("segment.bytes", "2097152"), ("retention.bytes", "3145728")],
        idempotent: true,
        large: true,
        acks: 0,
    },
];

/// Topic of transactions.
pub const TX: &str = "tx";
/// Its partitions.
pub const TX_PARTITIONS: i32 = 2;

struct Lane {
    kind: &'static Kind,
    place: Place,
    number: u32,
    producer: (i64, i16),
    work: Mutex<LaneWork>,
}

struct LaneWork {
    random: Random,
    order: u64,
    sequence: i32,
    in_flight: VecDeque<(i32, u64, Vec<u8>)>,
    /// The last acknowledged batch.
    last_acked: Option<(u64, Vec<u8>)>,
}

/// How hard the load is.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Pause behind every small batch.
    pub small: Duration,
    /// Pause behind every large one and every transaction.
    pub large: Duration,
}

impl Pace {
    /// As fast as it goes, but for large batches, so that a round stays small enough to be read back often.
    pub const FAST: Pace = Pace { small: Duration::ZERO, large: Duration::from_millis(8) };
    /// Some thousand batches a second.
    pub const BRISK: Pace = Pace { small: Duration::from_micros(700), large: Duration::from_millis(6) };
    /// Some hundred batches a second.
    pub const GENTLE: Pace = Pace { small: Duration::from_millis(5), large: Duration::from_millis(25) };
}

/// All clients, and what they know.
pub struct Workload {
    /// Where they note.
    pub history: History,
    lanes: Vec<Lane>,
    writers: Vec<Writer>,
    members: Members,
    workers: Workers,
    pace: Pace,
    topics: Vec<Place>,
    random: Mutex<Random>,
}

impl Workload {
    /// Makes topics and producers on a fresh broker. `configs` hold for every topic, above its own.
    pub fn new(client: &mut Client, random: &mut Random, pace: Pace, configs: &[(&str, &str)]) -> Workload {
        let (mut lanes, mut topics) = (Vec::new(), Vec::new());
        for kind in KINDS {
            client.create(kind.topic, kind.partitions, &with(kind.configs, configs));
            for partition in 0..kind.partitions {
                topics.push((kind.topic, partition));
                lanes.push(Lane {
                    kind,
                    place: (kind.topic, partition),
                    number: lanes.len() as u32,
                    producer: if kind.idempotent { client.init_producer() } else { (-1, -1) },
                    work: Mutex::new(LaneWork {
                        random: Random::new(random.next()),
                        order: 0,
                        sequence: 0,
                        in_flight: VecDeque::new(),
                        last_acked: None,
                    }),
                });
            }
        }
        let of_transactions = [("segment.bytes", "1048576"), ("retention.bytes", "8388608")];
        client.create(TX, TX_PARTITIONS, &with(&of_transactions, configs));
        topics.extend((0..TX_PARTITIONS).map(|partition| (TX, partition)));
        Workload {
            history: History::default(),
            lanes,
            writers: (0..2).map(|number| Writer::new(number, random.next())).collect(),
            members: Members::new("plain", 2),
            workers: Workers::new(client, random.next()),
            pace,
            topics,
            random: Mutex::new(Random::new(random.next())),
        }
    }

    /// Load from everybody until `stop` or until the broker is gone, while `meanwhile` runs on this thread.
    pub fn run<T>(&self, port: u16, meanwhile: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for lane in &self.lanes {
                scope.spawn(|| lane.run(port, self.pace, &self.history, &stop));
            }
            for writer in &self.writers {
                scope.spawn(|| writer.run(port, self.pace.large, &self.history, &stop));
            }
            for number in 0..self.members.len() {
                let stop = &stop;
                scope.spawn(move || self.members.run(number, port, &self.history, stop));
            }
            scope.spawn(|| self.workers.produce(port, self.pace.small, &self.history, &stop));
            for number in 0..self.workers.len() {
                let stop = &stop;
                scope.spawn(move || self.workers.run(number, port, &self.history, stop));
            }
            for (reader, committed) in [(READER_OF_ALL, false), (READER_OF_COMMITTED, true)] {
                let (stop, all) = (&stop, &self.topics);
                scope.spawn(move || {
                    let places = all.iter().filter(|(topic, _)| !committed || *topic == TX).copied();
                    let places: Vec<Place> = places.collect();
                    let _ = read_along(port, reader, &places, committed, &self.history, stop);
                });
            }
            let _stop = StopOnDrop(&stop);
            meanwhile()
        })
    }

    /// After the faults: repeats what was not acknowledged, ends open transactions, and asks for what must be refused.
    pub fn settle(&self, client: &mut Client) {
        for lane in &self.lanes {
            lane.settle(client, &self.history);
        }
        for writer in &self.writers {
            writer.settle(client, &self.history);
        }
        self.members.settle(client, &self.history);
    }

    /// Only ends open transactions: for a broker that got an image of another one's disk.
    pub fn end_transactions(&self, client: &mut Client) {
        self.writers.iter().for_each(|writer| writer.end_open(client));
    }

    /// Reads everything and notes it in `history`, which is this load's own, or that of one image.
    pub fn scan(&self, client: &mut Client, history: &History, healed_ns: u64) {
        for place in &self.topics {
            let scan = self.scan_one(client, *place, healed_ns);
            history.note(What::Scanned(scan));
        }
        self.writers.iter().for_each(|writer| writer.note_offset(client, history));
        self.members.note_offsets(client, history);
        self.workers.drain(Client::connect(client.port()).expect("the broker is there"), history);
    }

    fn scan_one(&self, client: &mut Client, place: Place, healed_ns: u64) -> Scan {
        // Retention may move the start between the look-up and the read: then look again.
        for attempt in 0.. {
            let start = client.offset(place.0, place.1, EARLIEST);
            let end = client.offset(place.0, place.1, LATEST);
            let Some(batches) = read_whole(client, place, start) else {
                assert!(attempt < 50, "{place:?} cannot be read");
                continue;
            };
            let mut lookups = Vec::new();
            for _ in 0..batches.len().min(4) {
                let mut random = self.random.lock().expect("random");
                let one = &batches[random.below(batches.len() as u64) as usize];
                let asked = one.timestamp_ms + random.below(3) as i64 - 1;
                lookups.push((asked, client.offset(place.0, place.1, asked)));
            }
            if client.offset(place.0, place.1, EARLIEST) == start {
                return Scan { place, healed_ns, start, end, batches, lookups };
            }
        }
        unreachable!("the loop ends by return or panic");
    }

    /// Hands everything noted so far to the judge. Panics with the violations, if there are any.
    pub fn judged_clean(&self, judge: &mut Judge, context: &str) {
        judge.hear(&self.history.take());
        assert_clean(judge, context);
    }
}

fn with<'a>(own: &[(&'a str, &'a str)], above: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = own.iter().filter(|(key, _)| above.iter().all(|(other, _)| other != key));
    kept.chain(above).copied().collect()
}

/// Fails the test when the judge has found anything.
pub fn assert_clean(judge: &Judge, context: &str) {
    let found = judge.violations();
    let shown: Vec<String> = found.iter().take(20).map(|v| format!("rule {}: {}", v.rule, v.text)).collect();
    assert!(found.is_empty(), "{context}: {} violations, the first:\n{}", found.len(), shown.join("\n"));
}

/// Also when what runs meanwhile panics: the scope would else wait for the load for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Lane {
    fn run(&self, port: u16, pace: Pace, history: &History, stop: &AtomicBool) {
        let mut work = self.work.lock().expect("lane");
        let Ok(mut client) = Client::connect(port) else { return };
        // An error ends the load of this lane: the broker is gone.
        let _ = self.until_broken(&mut client, &mut work, pace, history, stop);
        if !self.kind.idempotent {
            work.in_flight.clear();
        }
    }

    fn make(&self, work: &mut LaneWork, ahead: i32) -> (u64, usize, Vec<u8>) {
        let large = self.kind.large || self.kind.idempotent && work.random.one_in(16);
        let (count, size) = match large {
            true => (work.random.between(1, 4) as usize, work.random.between(30_000, 60_000) as usize),
            false => (work.random.between(1, 12) as usize, work.random.between(40, 700) as usize),
        };
        let tag = format!("{}-{}/{}", self.place.0, self.place.1, work.order);
        let bytes = match self.kind.idempotent {
            true => batches::idempotent(&tag, count, size, self.producer, work.sequence + ahead),
            false => batches::batch(&tag, count, size),
        };
        (batches::digest(&bytes), count, bytes)
    }

    fn sent(&self, work: &LaneWork, id: u64, count: usize, acks: i16) -> What {
        What::Sent(Sent {
            id,
            place: self.place,
            producer: self.number,
            order: work.order,
            count: count as i64,
            acks,
            idempotent: self.kind.idempotent,
            transaction: None,
        })
    }

    fn until_broken(
        &self,
        client: &mut Client,
        work: &mut LaneWork,
        pace: Pace,
        history: &History,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let window = if self.kind.idempotent { IDEMPOTENT_WINDOW } else { PLAIN_WINDOW };
        while !stop.load(Ordering::Relaxed) {
            let (id, count, bytes) = self.make(work, 0);
            let acks = match self.kind.acks {
                0 if work.random.one_in(2) => 1,
                0 => -1,
                acks => acks,
            };
            history.note(self.sent(work, id, count, acks));
            work.order += 1;
            work.sequence += count as i32;
            // Remembered before it is sent: an error of the send says nothing about what arrived.
            work.in_flight.push_back((0, id, bytes));
            let last = work.in_flight.back_mut().expect("just pushed");
            last.0 = client.send_produce(self.place.0, self.place.1, acks, &last.2)?;
            let pause = if last.2.len() > 20_000 { pace.large } else { pace.small };
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            while work.in_flight.len() >= window {
                self.take_answer(client, work, history)?;
            }
        }
        while !work.in_flight.is_empty() {
            self.take_answer(client, work, history)?;
        }
        Ok(())
    }

    fn take_answer(&self, client: &mut Client, work: &mut LaneWork, history: &History) -> io::Result<()> {
        let correlation = work.in_flight.front().expect("something is in flight").0;
        let (code, offset) = client.produced(correlation)?;
        let (_, id, bytes) = work.in_flight.pop_front().expect("as above");
        if code != 0 {
            // No fault of these tests lets a broker that runs refuse a good batch.
            history.note(What::Probed { what: Probe::SequenceGap, code, wanted: &[0] });
            return Ok(());
        }
        history.note(What::Acked { id, offset });
        work.last_acked = Some((id, bytes));
        Ok(())
    }

    fn settle(&self, client: &mut Client, history: &History) {
        let mut work = self.work.lock().expect("lane");
        if !self.kind.idempotent {
            return;
        }
        for batch in &mut work.in_flight {
            batch.0 = client.send_produce(self.place.0, self.place.1, -1, &batch.2).expect("a broker");
        }
        while !work.in_flight.is_empty() {
            self.take_answer(client, &mut work, history).expect("an answer");
        }
        if let Some((id, bytes)) = &work.last_acked {
            let (code, offset) = client.produce(self.place.0, self.place.1, 1, bytes).expect("an answer");
            match code {
                0 => history.note(What::Acked { id: *id, offset }),
                code => history.note(What::Probed { what: Probe::SequenceGap, code, wanted: &[0] }),
            }
            // A batch of its own number, so that nothing is missing in the sequence of orders when it is refused.
            let (id, count, bytes) = self.make(&mut work, 7);
            history.note(self.sent(&work, id, count, -1));
            let (code, _) = client.produce(self.place.0, self.place.1, -1, &bytes).expect("an answer");
            history.note(What::Probed { what: Probe::SequenceGap, code, wanted: GAP_CODES });
            history.note(What::Refused { id, code });
        }
    }
}

/// Reads along with the load. Errors: the connection's.
fn read_along(
    port: u16,
    reader: u32,
    places: &[Place],
    committed: bool,
    history: &History,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut client = Client::connect(port)?;
    let mut at = Vec::new();
    for place in places {
        let offset = client.try_offset(place.0, place.1, LATEST)?;
        history.note(What::Placed { reader, place: *place, offset });
        at.push(offset);
    }
    while !stop.load(Ordering::Relaxed) {
        let wanted: Vec<_> = places.iter().zip(&at).map(|(place, at)| (*place, *at)).collect();
        let found = fetch(&mut client, reader, &wanted, committed, 20)?;
        for (number, found) in found.into_iter().enumerate() {
            match found {
                Ok(read) => {
                    at[number] = read.batches.last().map_or(at[number], |batch| batch.next);
                    history.note(What::Read(read));
                }
                // Retention was faster than this reader.
                Err(log_start) => {
                    at[number] = log_start.max(at[number]);
                    history.note(What::Placed { reader, place: places[number], offset: at[number] });
                }
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// One fetch of some places, in their order: what was read, or the log start where the offset is out of range.
pub fn fetch(
    client: &mut Client,
    reader: u32,
    wanted: &[(Place, i64)],
    committed: bool,
    wait_ms: i32,
) -> io::Result<Vec<Result<Read, i64>>> {
    let parts: Vec<_> = wanted.iter().map(|((topic, partition), at)| (*topic, *partition, *at)).collect();
    let request =
        client::fetch_request(&parts, wait_ms, 1, 1 << 20).with_isolation_level(i8::from(committed));
    let asked_ns = now_ns();
    let response: FetchResponse = client.call(FETCH_VERSION, &request)?;
    let mut found = Vec::new();
    for (place, from) in wanted {
        let topic = response.responses.iter().filter(|topic| topic.topic.as_str() == place.0);
        let part = topic.flat_map(|topic| &topic.partitions).find(|p| p.partition_index == place.1);
        let part = part.expect("a partition that was asked for");
        if part.error_code == 1 {
            found.push(Err(part.log_start_offset));
            continue;
        }
        assert_eq!(part.error_code, 0, "fetch of {place:?} at {from}");
        let records = part.records.clone().unwrap_or_default();
        let batches = batches::split(&records).unwrap_or_else(|text| panic!("{place:?} at {from}: {text}"));
        let aborted = part.aborted_transactions.as_ref().map_or_else(Vec::new, |list| {
            list.iter().map(|one| (one.first_offset, one.producer_id.0)).collect()
        });
        found.push(Ok(Read {
            reader,
            place: *place,
            committed,
            asked_ns,
            from: *from,
            high_watermark: part.high_watermark,
            last_stable: part.last_stable_offset,
            log_start: part.log_start_offset,
            batches: told_apart(&batches, aborted),
        }));
    }
    Ok(found)
}

/// Marks the batches that a consumer of committed data drops, as real ones do: by the list and the markers.
fn told_apart(all: &[Fetched], mut aborted: Vec<(i64, i64)>) -> Vec<Seen> {
    aborted.sort_unstable();
    let mut aborted = aborted.into_iter().peekable();
    let mut dropping = std::collections::HashSet::new();
    let mut seen = Vec::new();
    for batch in all {
        while let Some((_, id)) = aborted.next_if(|(first, _)| *first <= batch.info.last_offset()) {
            dropping.insert(id);
        }
        let mut one = Seen::from(batch);
        if one.control {
            let marker = control_batch::parse(&batch.bytes).expect("a marker");
            if !marker.commit {
                dropping.remove(&marker.producer_id);
            }
        } else {
            one.aborted = batch.info.is_transactional() && dropping.contains(&batch.info.producer_id);
        }
        seen.push(one);
    }
    seen
}

/// All of a partition from `start`, as a consumer of committed data sees it; `None` when retention was faster.
fn read_whole(client: &mut Client, place: Place, start: i64) -> Option<Vec<Seen>> {
    let (mut at, mut all) = (start, Vec::new());
    let began = std::time::Instant::now();
    loop {
        let read = fetch(client, 0, &[(place, at)], true, 0).expect("an answer").remove(0).ok()?;
        match read.batches.last() {
            Some(last) => at = last.next,
            // Undecided transactions are completed by the start, which may still be at it.
            None if at < read.high_watermark && began.elapsed() < super::PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            None => return Some(all),
        }
        all.extend(read.batches);
    }
}
