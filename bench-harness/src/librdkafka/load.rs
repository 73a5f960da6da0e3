//! A workload on librdkafka: the schedule is one of records, as an application has it; batches are the library's.
//!
//! Owner: a thread for each producer and each consumer; the library adds its own. Response counts from the intended
//! send to the delivery report, service from the call that queued the record; end to end to the application's hands.
//! Consumers are assigned their partitions, so that no rebalance is part of a measurement. Must not: allocate a value
//! per record; the library does that, and it is part of what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use super::ffi::{self, ANY_PARTITION, Delivery, QUEUE_FULL};
use crate::batch::{STAMP_BYTES, STAMP_MARK, fill_random};
use crate::consumer::Goal;
use crate::drain::DrainWatch;
use crate::error::{Result, protocol};
use crate::generator::{LoadEnd, Meter};
use crate::kafka::{Control, Partition};
use crate::limits::REPORT_QUEUE_MAX;
use crate::load::dist::{Keys, key_bytes};
use crate::load::{BatchRule, Workload};
use crate::random::Random;
use crate::record::{Counters, Kind, Recorder, Side, Window};
use crate::schedule::{Pace, Schedule};
use crate::series::Intent;
use crate::sys;
use crate::workload::{
    Client, ConsumeLoad, From, Handles, Outcome, ProduceLoad, elapsed, gather, host_use, join, watch_host,
};

/// Values and keys drawn beforehand by each producer.
const DRAWN: usize = 4_096;
/// Longest sleep of a producer: delivery reports are noticed at most so much late, nanoseconds.
const NAP_NS: u64 = 100_000;

fn producer_settings(
    bootstrap: &str,
    workload: &Workload,
    load: &ProduceLoad,
) -> Vec<(&'static str, String)> {
    let (linger, bytes, messages) = match workload.batch {
        BatchRule::Records(records) => (5.0, 1 << 20, u64::from(records)),
        BatchRule::Bytes(bytes) => (5.0, bytes, 1_000_000),
        BatchRule::Linger { linger_ms, bytes } => (linger_ms, bytes, 1_000_000),
    };
    vec![
        ("bootstrap.servers", bootstrap.to_owned()),
        ("acks", load.acks.to_string()),
        ("linger.ms", linger.to_string()),
        ("batch.size", bytes.to_string()),
        ("batch.num.messages", messages.to_string()),
        ("compression.codec", workload.codec.name().to_owned()),
        ("max.in.flight", load.in_flight.to_string()),
        ("partitioner", "murmur2_random".into()),
        ("queue.buffering.max.messages", "1000000".into()),
        ("queue.buffering.max.kbytes", "262144".into()),
        ("log_level", "0".into()),
    ]
}

/// What the producers of a load share.
#[derive(Debug, Default)]
struct Shared {
    /// Set by the first that fails or finds the byte budget used up.
    stop: AtomicBool,
    /// Whether it was the budget.
    spent: AtomicBool,
    /// Bytes of keys and values handed to the library.
    bytes: AtomicU64,
    /// Records acknowledged.
    records: AtomicU64,
}

struct ProducerThread {
    client: ffi::Producer,
    values: Vec<Vec<u8>>,
    keys: Vec<[u8; 16]>,
    schedule: Option<Schedule>,
    window: Window,
    drain: Duration,
    next: usize,
    bytes_max: u64,
    end: LoadEnd,
}

impl ProducerThread {
    fn new(
        bootstrap: &str,
        workload: &Workload,
        topic: &str,
        load: &ProduceLoad,
        (id, total): (u64, u64),
        window: Window,
        drain: Duration,
    ) -> Result<Self> {
        let mut random = Random(id + 1);
        let picker = workload.keys.picker()?;
        let values = (0..DRAWN)
            .map(|_| {
                let mut value = vec![b'x'; workload.sizes.draw(&mut random).max(STAMP_BYTES)];
                let share = (value.len() as f64 * workload.random_share) as usize;
                fill_random(&mut value[..share], random.next() | 1);
                value
            })
            .collect();
        let keys = match (&workload.keys, picker) {
            (Keys::None, _) | (_, None) => Vec::new(),
            (_, Some(picker)) => (0..DRAWN * 16).map(|_| key_bytes(picker.draw(&mut random))).collect(),
        };
        let schedule = match load.pace {
            Pace::Max => None,
            Pace::Rate(rate) => {
                Some(Schedule::new(window.load_start_ns, rate, 1, id, total).along(load.curve.clone()))
            }
        };
        let client = ffi::Producer::new(&producer_settings(bootstrap, workload, load), topic)?;
        let (bytes_max, end) = (load.bytes_max, LoadEnd::default());
        Ok(Self { client, values, keys, schedule, window, drain, next: 0, bytes_max, end })
    }

    fn run(mut self, mut recorder: Recorder, shared: &Shared) -> Result<LoadEnd> {
        let meter = Meter::start(&self.window);
        let mut result = Ok(());
        let mut told = 0;
        while sys::now_ns() < self.window.end_ns && !shared.stop.load(Ordering::Relaxed) {
            recorder.roll(sys::now_ns());
            result = self.turn(&mut recorder, shared);
            if result.is_err() {
                shared.stop.store(true, Ordering::Relaxed);
                break;
            }
            shared.records.fetch_add(self.end.records_total - told, Ordering::Relaxed);
            told = self.end.records_total;
        }
        let deadline = self.window.end_ns + self.drain.as_nanos() as u64;
        while self.client.waiting() > 0 && sys::now_ns() < deadline && result.is_ok() {
            recorder.roll(sys::now_ns());
            self.take(10, &mut recorder);
        }
        self.end.unanswered = self.client.waiting() as u64;
        if !shared.stop.load(Ordering::Relaxed) {
            self.end.unsent =
                self.schedule.as_ref().map_or(0, |schedule| schedule.unsent_before(self.window.end_ns));
        }
        shared.records.fetch_add(self.end.records_total - told, Ordering::Relaxed);
        recorder.finish();
        meter.stop(&mut self.end);
        result.map(|()| self.end)
    }

    /// Sends what is due, takes delivery reports, and naps when nothing is due.
    fn turn(&mut self, recorder: &mut Recorder, shared: &Shared) -> Result<()> {
        for _ in 0..64 {
            let now = sys::now_ns();
            let due = self.schedule.as_ref().map_or(now, Schedule::due_ns);
            if due > now || due >= self.window.end_ns {
                self.take(0, recorder);
                let nap = due.saturating_sub(sys::now_ns()).min(NAP_NS);
                std::thread::sleep(Duration::from_nanos(nap));
                return Ok(());
            }
            let value = &mut self.values[self.next % DRAWN];
            value[..8].copy_from_slice(&STAMP_MARK);
            value[8..16].copy_from_slice(&due.to_be_bytes());
            value[16..24].copy_from_slice(&now.to_be_bytes());
            let key =
                if self.keys.is_empty() { &[][..] } else { &self.keys[self.next % self.keys.len()][..] };
            match self.client.produce(ANY_PARTITION, key, value) {
                Ok(()) => {
                    self.next += 1;
                    let bytes = (key.len() + value.len()) as u64;
                    if shared.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= self.bytes_max {
                        shared.spent.store(true, Ordering::Relaxed);
                        shared.stop.store(true, Ordering::Relaxed);
                        return Ok(());
                    }
                    if let Some(schedule) = &mut self.schedule {
                        schedule.advance();
                        recorder.sample(Kind::Lag, due, now - due);
                    }
                }
                Err(QUEUE_FULL) => {
                    self.take(1, recorder);
                    return Ok(());
                }
                Err(code) => return Err(protocol(format!("librdkafka refused a record: error {code}"))),
            }
        }
        self.take(0, recorder);
        Ok(())
    }

    fn take(&mut self, timeout_ms: i32, recorder: &mut Recorder) {
        let (end, scheduled) = (&mut self.end, self.schedule.is_some());
        let now = sys::now_ns();
        self.client.poll(timeout_ms, |delivery: &Delivery| {
            let stamp = |at: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&delivery.head[at..at + 8]);
                u64::from_be_bytes(bytes)
            };
            // Reports that came while it waited are seen now.
            let now = if timeout_ms == 0 { now } else { sys::now_ns() };
            let (intended_ns, sent_ns) = (stamp(8), stamp(16));
            if delivery.error != 0 {
                end.unanswered += 1;
                return;
            }
            if scheduled {
                recorder.sample(Kind::Response, intended_ns, now.saturating_sub(intended_ns));
            }
            recorder.sample(Kind::Service, intended_ns, now.saturating_sub(sent_ns));
            recorder.count(Side::Produced, now, Counters { requests: 1, records: 1, bytes: delivery.bytes });
            end.last_completion_ns = now;
            end.records_total += 1;
        });
    }
}

struct ConsumerThread {
    client: ffi::Consumer,
    counted: bool,
    /// Records that lie before it.
    backlog: u64,
    window: Window,
    drain: Duration,
}

impl ConsumerThread {
    fn run(mut self, mut recorder: Recorder, goal: &Goal, stop: &AtomicBool) -> Result<LoadEnd> {
        let meter = Meter::start(&self.window);
        let mut end = LoadEnd::default();
        let deadline = self.window.end_ns + self.drain.as_nanos() as u64;
        loop {
            let complete = goal.complete.load(Ordering::Acquire)
                && goal.received.load(Ordering::Relaxed) >= goal.records.load(Ordering::Relaxed);
            if complete || stop.load(Ordering::Relaxed) || sys::now_ns() >= deadline {
                break;
            }
            let (mut records, mut bytes) = (0, 0);
            self.client.poll(20, |value| {
                let now = sys::now_ns();
                records += 1;
                bytes += value.len() as u64;
                if let Some(stamps) = value.get(..STAMP_BYTES).filter(|head| head[..8] == STAMP_MARK) {
                    let mut intended = [0; 8];
                    intended.copy_from_slice(&stamps[8..16]);
                    let intended_ns = u64::from_be_bytes(intended);
                    recorder.sample(Kind::EndToEnd, intended_ns, now.saturating_sub(intended_ns));
                }
            });
            let now = sys::now_ns();
            recorder.roll(now);
            if records > 0 {
                recorder.count(Side::Consumed, now, Counters { requests: 1, records, bytes });
                end.last_completion_ns = now;
                if self.counted {
                    goal.received.fetch_add(records, Ordering::Relaxed);
                }
            }
        }
        recorder.finish();
        meter.stop(&mut end);
        Ok(end)
    }
}

/// The consumers of all topics and groups, at the ends of the logs or at their starts.
fn consumers(
    bootstrap: &str,
    topics: &[(String, Vec<Partition>)],
    load: &ConsumeLoad,
    window: Window,
    drain: Duration,
) -> Result<Vec<ConsumerThread>> {
    let settings = [
        ("bootstrap.servers", bootstrap.to_owned()),
        ("group.id", "ringlog-bench".to_owned()),
        ("enable.auto.commit", "false".to_owned()),
        ("fetch.wait.max.ms", load.wait_ms_max.to_string()),
        ("log_level", "0".to_owned()),
    ];
    let mut all = Vec::new();
    for (topic, partitions) in topics {
        let ends = Control::list_offsets(topic, partitions, -1)?;
        let starts = match load.from {
            From::Earliest => Control::list_offsets(topic, partitions, -2)?,
            From::Latest | From::Tail(_) => ends.clone(),
        };
        let part = (partitions.len() as f64 * load.fan_out_part).round() as usize;
        let groups =
            (0..load.fan_out).map(|_| (partitions.len(), true)).chain((part > 0).then_some((part, false)));
        for (width, counted) in groups {
            for rank in 0..load.connections.min(width) {
                let places = || (rank..width).step_by(load.connections);
                let mine: Vec<(i32, i64)> =
                    places().map(|place| (partitions[place].index, starts[place])).collect();
                let backlog = places().map(|place| (ends[place] - starts[place]).max(0).unsigned_abs()).sum();
                let client = ffi::Consumer::new(&settings, topic, &mine)?;
                all.push(ConsumerThread { client, counted, backlog, window, drain });
            }
        }
    }
    Ok(all)
}

/// Plays a phase; `consume` adds followers.
///
/// # Errors
/// When the library cannot be loaded, or refuses a setting or a record.
pub(crate) fn play(
    bootstrap: &str,
    workload: &Workload,
    topics: &[(String, Vec<Partition>)],
    load: &ProduceLoad,
    consume: Option<&ConsumeLoad>,
    client: &Client,
) -> Result<Outcome> {
    // Connecting takes the library a while: the load begins when all clients had time for it.
    let head = Duration::from_millis(500);
    let mut window = Window::soon(client.warmup + head, client.duration);
    window.load_start_ns += head.as_nanos() as u64;
    let total = (load.connections * topics.len()) as u64;
    let mut producers = Vec::new();
    for id in 0..total {
        let topic = &topics[id as usize % topics.len()].0;
        let place = (id, total);
        producers.push(ProducerThread::new(bootstrap, workload, topic, load, place, window, client.drain)?);
    }
    let readers = match consume {
        Some(consume) => consumers(bootstrap, topics, consume, window, client.drain)?,
        None => Vec::new(),
    };
    let (sender, receiver) = sync_channel(REPORT_QUEUE_MAX);
    let shared = Arc::new(Shared::default());
    let lies = |counted: bool| {
        let mine = readers.iter().filter(|reader| reader.counted || !counted);
        mine.map(|reader| reader.backlog).sum::<u64>()
    };
    let (counted, all) = (lies(true), lies(false));
    let goal = Arc::new(Goal { backlog: counted, ..Goal::default() });
    let stop = Arc::new(AtomicBool::new(false));
    let threads = producers.len() + readers.len();
    let mut makers = Handles::new();
    for (thread, producer) in producers.into_iter().enumerate() {
        let recorder = Recorder::new(thread, window, sender.clone());
        let shared = Arc::clone(&shared);
        makers.push(std::thread::spawn(move || producer.run(recorder, &shared)));
    }
    let mut takers = Handles::new();
    for reader in readers {
        let recorder = Recorder::new(makers.len() + takers.len(), window, sender.clone());
        let (goal, stop) = (Arc::clone(&goal), Arc::clone(&stop));
        takers.push(std::thread::spawn(move || reader.run(recorder, &goal, &stop)));
    }
    drop(sender);
    let host = watch_host(client, window);
    let whole = consume.map_or(0, |load| load.fan_out as u64);
    let drain = {
        let shared = Arc::clone(&shared);
        let done = move || shared.records.load(Ordering::Relaxed);
        DrainWatch::start(&goal, whole, window.load_start_ns, 0, done)
    };
    let watcher = tell_when_complete(makers, Arc::clone(&goal), Arc::clone(&stop), whole);
    let copies = consume.map_or(0.0, ConsumeLoad::copies);
    let (pace, curve) = (Some(load.pace), load.curve.clone());
    let intent = Intent { pace, curve, copies, backlog: all, ..Intent::default() };
    let totals = gather(threads, &receiver, client, window, &intent);
    let made = watcher.join().map_err(|_| protocol("the watcher panicked"));
    let read = join(takers);
    let drained = drain.and_then(DrainWatch::finish);
    let mut ends = made??;
    ends.extend(read?);
    let missing = goal.records.load(Ordering::Relaxed).saturating_sub(goal.received.load(Ordering::Relaxed));
    let ended_early = shared.spent.load(Ordering::Relaxed);
    Ok(Outcome {
        totals: totals?,
        elapsed_ns: elapsed(window, &ends, ended_early),
        ends,
        host: host_use(host, ended_early),
        ended_early,
        undelivered: consume.map(|_| missing),
        drained,
        request_shape: None,
    })
}

/// Tells the consumers how much there is to come once the producers are through.
fn tell_when_complete(
    makers: Handles,
    goal: Arc<Goal>,
    stop: Arc<AtomicBool>,
    copies: u64,
) -> JoinHandle<Result<Vec<LoadEnd>>> {
    std::thread::spawn(move || {
        let ends = join(makers);
        match &ends {
            Ok(ends) => {
                let records: u64 = ends.iter().map(|end| end.records_total).sum();
                goal.records.store(goal.backlog + records * copies, Ordering::Relaxed);
                goal.complete.store(true, Ordering::Release);
            }
            Err(_) => stop.store(true, Ordering::Relaxed),
        }
        ends
    })
}
