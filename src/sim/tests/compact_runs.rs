//! A compacted log over several lives: producers write keys and tombstones, a cleaner compacts beside them, clocks
//! jump, and the disk is kept at flushes and between the renames of a swap, and recovered from.
//!
//! What is checked (promise 11a of docs/PROMISES.md): whatever is read was written at that offset; of everything below
//! the end, the last record of each key is there; a tombstone may be missing only when `delete.retention.ms` has really
//! passed since it was written, and then nothing of its key is there; what is younger than `min.compaction.lag.ms` is
//! all there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::life::{DATA, HOUR_MS, Shape, Topic, a_jump, fills, found, jumps, open, resources};
use super::log_runs::{Summary, caught, many_seeds};
use super::model::Model;
use crate::clock::ExpiryClock;
use crate::rt;
use crate::sim::{Canary, Crash, EPOCH_MS, Entered, Random, Sim, Snapshot, World};
use crate::storage::{AppendError, Cleaner, CleanerConfig, Durability, Incoming, Log, LogConfig, LogError};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::{record_batch, record_fields};

const LIVES_MAX: u64 = 3;
const EPOCH: i32 = 5;

/// One record that the log took; its number is its value.
#[derive(Clone, Copy, Debug)]
struct Written {
    key: u64,
    /// `None` is a tombstone.
    value: Option<u64>,
    /// When it was written, really.
    real_ms: i64,
}

/// All records, by offset, and what was promised of them.
#[derive(Clone, Default)]
struct Ledger {
    records: BTreeMap<i64, Written>,
    /// Steps of acknowledgements, and the offset after what they were about.
    acked: Vec<(u64, i64)>,
}

impl Ledger {
    /// Whether what was read of all below `end` may be so at `now_ms` (the real time).
    fn check(
        &self,
        seen: &BTreeMap<i64, Written>,
        end: i64,
        now_ms: i64,
        config: &LogConfig,
    ) -> Result<(), String> {
        let mut last: BTreeMap<u64, i64> = BTreeMap::new();
        for (offset, record) in self.records.range(..end) {
            last.insert(record.key, *offset);
            let age_ms = now_ms - record.real_ms;
            if config.compaction_lag_ms_min > age_ms && !seen.contains_key(offset) {
                return Err(format!("offset {offset} is {age_ms} ms old and compacted away: {record:?}"));
            }
        }
        for (key, offset) in last {
            let record = self.records[&offset];
            if seen.contains_key(&offset) {
                continue;
            }
            let age_ms = now_ms - record.real_ms;
            if record.value.is_some() || age_ms < config.delete_retention_ms {
                return Err(format!(
                    "the last record of key {key}, offset {offset} of {end}, is gone: {record:?}, {age_ms} ms"
                ));
            }
            if let Some((back, _)) = seen.iter().find(|(_, record)| record.key == key) {
                return Err(format!("key {key} was deleted at offset {offset} and is back at {back}"));
            }
        }
        Ok(())
    }
}

fn shape(random: &mut Random) -> Shape {
    let mut shape = Shape::of(random);
    let config = &mut shape.config;
    config.segment_bytes = random.within(4 << 10, 24 << 10);
    (config.delete_old, config.compact, config.write_caching) = (false, true, false);
    (config.retention_bytes, config.retention_ms) = (-1, -1);
    (config.flush_records, config.flush_ms) = (i64::MAX, i64::MAX);
    config.delete_retention_ms = [0, 20, HOUR_MS, 24 * HOUR_MS][random.below(4) as usize];
    config.compaction_lag_ms_min = if random.percent(15) { 12 * HOUR_MS } else { 0 };
    shape.batches = random.within(60, 160);
    shape
}

struct Run {
    random: Random,
    shape: Shape,
    topic: Topic,
    ledger: Ledger,
    real_ms: i64,
    wall_ms: i64,
    clock_ms: Option<i64>,
    next_value: u64,
    canary: Option<Canary>,
    summary: Summary,
}

/// A log at work.
#[derive(Clone)]
struct Work {
    sim: Rc<Sim>,
    log: Rc<Log>,
    clock: Rc<ExpiryClock>,
    config: LogConfig,
    scarce: bool,
    ledger: Rc<RefCell<Ledger>>,
    problem: Rc<RefCell<Option<String>>>,
    running: Rc<Cell<usize>>,
    next_value: Rc<Cell<u64>>,
}

/// Reads a log from its start to its end.
async fn scan(log: Rc<Log>, ledger: Rc<RefCell<Ledger>>) -> Result<(BTreeMap<i64, Written>, i64), String> {
    let mut offset = log.log_start_offset();
    let mut seen = BTreeMap::new();
    while offset < log.high_watermark() {
        let read = log.read(offset, 32 << 10).await.map_err(|error| format!("offset {offset}: {error}"))?;
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.as_bytes()).copied().collect();
        let mut rest = &bytes[..];
        let before = offset;
        while let Ok(batch) = record_batch::parse_whole(rest) {
            for record in record_fields::iterate(&rest[..batch.size_bytes])? {
                let record = record?;
                let ledger = ledger.borrow();
                let known = ledger.records.get(&record.offset).ok_or("a record that nobody wrote")?;
                let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                if record.key.map(number) != Some(known.key) || record.value.map(number) != known.value {
                    return Err(format!("offset {} is {record:?}, written was {known:?}", record.offset));
                }
                if record.offset >= before {
                    seen.insert(record.offset, *known);
                }
            }
            offset = batch.next_offset();
            rest = &rest[batch.size_bytes..];
        }
        if offset == before {
            return Err(format!("nothing was read at offset {offset}"));
        }
    }
    Ok((seen, offset))
}

impl Work {
    fn task(&self, task: impl Future<Output = Result<(), String>> + 'static) {
        let (running, problem) = (self.running.clone(), self.problem.clone());
        running.set(running.get() + 1);
        rt::spawn(async move {
            if let Err(text) = task.await {
                problem.borrow_mut().get_or_insert(text);
            }
            running.set(running.get() - 1);
        });
    }

    async fn produce(self, mut random: Random, batches: u64, keys: u64) -> Result<(), String> {
        for _ in 0..batches {
            self.sim.pause(1, random.clone().within(10, 6000)).await;
            let mut builder = BatchBuilder::new();
            let mut records = Vec::new();
            for _ in 0..random.within(1, 5) {
                let value = self.next_value.get();
                self.next_value.set(value + 1);
                let (key, dies) = (random.below(keys), random.percent(25));
                let mut text = vec![value as u8; random.within(8, 700) as usize];
                text[..8].copy_from_slice(&value.to_le_bytes());
                let text = (!dies).then_some(&text[..]);
                builder = builder.record(rt::wall_ms(), Some(&key.to_le_bytes()), text);
                records.push(Written { key, value: (!dies).then_some(value), real_ms: self.sim.real_ms() });
            }
            let mut bytes = builder.build();
            let info = record_batch::parse_header(&bytes).map_err(|error| error.to_string())?;
            let durability = if random.percent(70) { Durability::Flushed } else { Durability::Written };
            let (ticket, incoming) = (self.log.ticket(), Incoming::Frame(&mut bytes));
            let appended = self.log.append(ticket, incoming, info, EPOCH, durability, -1).await;
            let appended = match appended {
                Err(AppendError::Log(LogError::NoSpace(_))) if self.scarce => continue,
                appended => appended.map_err(|error| format!("an append was refused: {error:?}"))?,
            };
            let end = appended.base_offset + records.len() as i64;
            self.ledger.borrow_mut().records.extend((appended.base_offset..).zip(records));
            let this = self.clone();
            self.task(
                async move { this.clone().acked(appended.durable.wait().await.is_ok(), durability, end) },
            );
        }
        Ok(())
    }

    fn acked(self, done: bool, durability: Durability, end: i64) -> Result<(), String> {
        if !done {
            return Err(format!("what ends at offset {end} was not acknowledged"));
        }
        if durability == Durability::Flushed {
            self.ledger.borrow_mut().acked.push((self.sim.steps(), end));
        }
        Ok(())
    }

    async fn consume(self, mut random: Random) -> Result<(), String> {
        for _ in 0..random.within(1, 6) {
            self.sim.pause(100, 60_000).await;
            let (seen, end) = scan(self.log.clone(), self.ledger.clone()).await?;
            self.ledger.borrow().check(&seen, end, self.sim.real_ms(), &self.config)?;
        }
        Ok(())
    }

    async fn compact(self, mut random: Random, cleaner: Cleaner) -> Result<(), String> {
        for _ in 0..random.within(2, 12) {
            self.sim.pause(100, 30_000).await;
            self.log.roll_if_due(self.clock.now_ms()).await;
            if self.log.dirtiness(self.clock.now_ms()).await.is_some() {
                self.log.compact(&cleaner, self.clock.now_ms()).await?;
            }
        }
        Ok(())
    }
}

impl Run {
    fn new(seed: u64, canary: Option<Canary>) -> Run {
        let mut random = Random::new(seed);
        let shape = shape(&mut random);
        let topic = Topic {
            name: "keys-0".to_owned(),
            first_epoch: EPOCH,
            epoch: EPOCH,
            model: Model::default(),
            clean: None,
        };
        let (real_ms, wall_ms, clock_ms, ledger) = (EPOCH_MS, EPOCH_MS, None, Ledger::default());
        let summary = Summary::default();
        Run { random, shape, topic, ledger, real_ms, wall_ms, clock_ms, next_value: 1, canary, summary }
    }

    fn lives(&mut self) -> Result<(), String> {
        let mut world = World::new(self.random.percent(50));
        for directory in [DATA, "/data/meta", "/data/pool"] {
            world.make_directory(Path::new(directory));
        }
        world.sync_directory(Path::new("/"));
        world.sync_directory(Path::new(DATA));
        for life in 0..self.random.within(1, LIVES_MAX) {
            let config = self.shape.config;
            world = self.life(world).map_err(|text| format!("life {life}: {text}; {config:?}"))?;
        }
        Ok(())
    }

    fn life(&mut self, world: World) -> Result<World, String> {
        let (sim, entered) = Sim::enter(world, self.random.fork());
        sim.canary.set(self.canary);
        sim.set_clocks(self.real_ms, self.wall_ms);
        let resources =
            resources(&self.shape, self.clock_ms).map_err(|error| format!("the pool: {error}"))?;
        let (log, _) =
            open(&self.shape, &resources, &self.topic).map_err(|error| format!("a start: {error}"))?;
        let work = Work {
            sim: sim.clone(),
            log,
            clock: resources.clock.clone(),
            config: self.shape.config,
            scarce: self.shape.scarce,
            ledger: Rc::new(RefCell::new(self.ledger.clone())),
            problem: Rc::default(),
            running: Rc::default(),
            next_value: Rc::new(Cell::new(self.next_value)),
        };
        let cleaner = Cleaner::start(CleanerConfig {
            threads: 1,
            map_bytes: [1 << 12, 1 << 20][self.random.below(2) as usize],
            map_load_percent: 90,
            bytes_per_second: f64::MAX,
        });
        self.start(&work, cleaner.map_err(|error| error.to_string())?);
        let last_step =
            if self.random.percent(60) { sim.steps() + self.random.below(1_500) } else { u64::MAX };
        let ended = || work.running.get() == 0 || sim.steps() >= last_step || work.problem.borrow().is_some();
        if !sim.run_until(ended) {
            return Err(format!("{} tasks wait for nothing", work.running.get()));
        }
        if let Some(text) = work.problem.take() {
            return Err(text);
        }
        if let Some(failure) = work.log.failure() {
            return Err(format!("nothing failed, and the log takes no more: {failure}"));
        }
        drop(resources);
        self.end(sim, entered, work)
    }

    fn start(&mut self, work: &Work, cleaner: Cleaner) {
        let producers = self.random.within(1, 3);
        let keys = [3, 12, 60][self.random.below(3) as usize];
        for _ in 0..producers {
            let random = self.random.fork();
            work.task(work.clone().produce(random, self.shape.batches / producers, keys));
        }
        work.task(work.clone().consume(self.random.fork()));
        work.task(work.clone().compact(self.random.fork(), cleaner));
        if self.shape.jumps {
            let (sim, random, running) = (work.sim.clone(), self.random.fork(), work.running.clone());
            rt::spawn(async move { jumps(&sim, random, true, || running.get() > 0).await });
        }
        if work.scarce {
            let (sim, random) = (work.sim.clone(), self.random.fork());
            work.task(async move {
                fills(&sim, random).await;
                Ok(())
            });
        }
        let mut plan = work.sim.plan.borrow_mut();
        plan.flush_snapshots_every = self.random.within(3, 12);
        plan.snapshots_at = (0..8).map(|_| work.sim.steps() + 1 + self.random.below(1_200)).collect();
    }

    fn end(&mut self, sim: Rc<Sim>, entered: Entered, work: Work) -> Result<World, String> {
        let mut moments = sim.snapshots.take();
        *sim.plan.borrow_mut() = Default::default();
        let step = sim.steps();
        self.summary.steps = self.summary.steps.max(step);
        self.clock_ms = Some(work.clock.now_ms());
        self.real_ms = sim.real_ms();
        self.next_value = work.next_value.get();
        let ledger = work.ledger.borrow().clone();
        drop(work);
        drop(entered);
        let world = sim.world.borrow().clone();
        moments.push(Snapshot { step, tags: Vec::new(), world });
        sim.note(self.summary.trace);
        self.summary.trace = sim.trace();
        self.summary.acked += ledger.acked.len() as u64;
        let mut next = None;
        for moment in &moments {
            for crash in [Crash::Process, Crash::Power] {
                let image = moment.world.after(crash, &mut self.random.fork());
                let end = self.recover(&ledger, moment.step, image.clone());
                let end = end.map_err(|text| format!("{crash:?} crash at step {}: {text}", moment.step))?;
                if moment.step == step && (next.is_none() || self.random.percent(50)) {
                    next = Some((image, end));
                }
            }
        }
        let (image, end) = next.expect("the last moment was looked at");
        self.ledger = ledger;
        self.ledger.records.retain(|offset, _| *offset < end);
        self.ledger.acked = vec![(0, end)];
        self.topic.epoch += 1;
        let stop_ms = [1_000, HOUR_MS, 48 * HOUR_MS][self.random.below(3) as usize];
        let jump_ms = if self.shape.jumps { a_jump(&sim, &mut self.random, true) } else { 0 };
        (self.real_ms, self.wall_ms) = (sim.real_ms() + stop_ms, sim.wall_ms() + stop_ms + jump_ms);
        Ok(image)
    }

    /// Starts from a crash image and reads all of it; where the log ends.
    fn recover(&mut self, ledger: &Ledger, step: u64, image: World) -> Result<i64, String> {
        self.summary.images += 1;
        let (sim, entered) = Sim::enter(image, self.random.fork());
        sim.canary.set(self.canary);
        let resources = resources(&self.shape, None).map_err(|error| format!("the pool: {error}"))?;
        let (log, reports) =
            open(&self.shape, &resources, &self.topic).map_err(|error| format!("a start: {error}"))?;
        let now = found(&log);
        let required =
            ledger.acked.iter().filter(|(at, _)| *at <= step).map(|(_, end)| *end).max().unwrap_or(0);
        let shared = Rc::new(RefCell::new(ledger.clone()));
        let scanned = sim.block_on(scan(log, shared));
        drop(resources);
        drop(entered);
        let outcome = scanned.and_then(|(seen, _)| {
            if now.end < required || now.start > 0 {
                return Err(format!("{now:?}, but everything below {required} was promised"));
            }
            ledger.check(&seen, now.end, self.real_ms, &self.shape.config)
        });
        outcome.map(|()| now.end).map_err(|text| format!("{text}; reports: {reports:?}"))
    }
}

/// Runs a seed to its end; what went wrong, if something did.
fn run(seed: u64, canary: Option<Canary>) -> Result<Summary, String> {
    caught(|| {
        let mut run = Run::new(seed, canary);
        run.lives().map(|()| run.summary)
    })
}

#[test]
fn compacted_logs_keep_their_promises_over_crashes() {
    many_seeds(0..250, "compaction", |seed| run(seed, None));
}

#[test]
fn a_seed_decides_every_step_of_a_compaction() {
    for seed in [2, 9] {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

/// A check that cannot fail proves nothing.
#[test]
fn planted_bugs_of_a_compaction_are_caught() {
    for canary in [Canary::HastySwap, Canary::EarlyTombstone, Canary::JumpingClock, Canary::NoDirectorySync] {
        let found = (0..250).find_map(|seed| run(seed, Some(canary)).err().map(|text| (seed, text)));
        let (seed, text) = found.unwrap_or_else(|| panic!("{canary:?} was not caught"));
        println!("{canary:?} was caught by compaction seed {seed}: {text}");
    }
}
