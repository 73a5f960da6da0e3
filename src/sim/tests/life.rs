//! One life of a few logs: a start, a seeded workload with producers, readers and an administrator, and its end.
//!
//! Owner: one run. Everything that the log answers is checked against the model at once.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::model::{Found, Model, Placed};
use crate::clock::ExpiryClock;
use crate::rt;
use crate::sim::{Random, Sim};
use crate::storage::{
    AppendError, Durability, Incoming, Log, LogConfig, LogError, LogResources, ReadAhead, Reign, SegmentPool,
    SegmentSummary, TailCache, recover, this_disk,
};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch;

/// Where everything lies on the simulated disk.
pub const DATA: &str = "/data";

pub const HOUR_MS: i64 = 3_600_000;
const TEN_YEARS_MS: i64 = 3_652 * 24 * HOUR_MS;

/// How long a clock must stand before it is believed: longer than any run.
const CLOCK_GRACE_MS: i64 = 24 * 3_600_000;

/// How long producers are remembered.
const PRODUCER_MS: i64 = 24 * 3_600_000;

/// Attempts after which a log that has room must have taken a batch.
const GOES_ON_ATTEMPTS: u64 = 4;

/// What one partition is and has been.
#[derive(Clone)]
pub struct Topic {
    pub name: String,
    pub first_epoch: i32,
    pub epoch: i32,
    pub model: Model,
    /// What a clean stop left.
    pub clean: Option<(i64, SegmentSummary)>,
}

/// What a seed chose for all lives of a run.
#[derive(Clone)]
pub struct Shape {
    pub config: LogConfig,
    pub batch_bytes_min: u64,
    pub batch_bytes_max: u64,
    pub batches: u64,
    pub pool_bytes: u64,
    pub tail_bytes: usize,
    /// The wall clock jumps.
    pub jumps: bool,
    /// The disk is full now and then.
    pub scarce: bool,
}

impl Shape {
    pub fn of(random: &mut Random) -> Shape {
        let (segment_bytes, batch_bytes_min, batch_bytes_max, batches) = match random.below(10) {
            0..=5 => (random.within(8 << 10, 40 << 10), 2, 3 << 10, 60),
            6..=8 => (random.within(60 << 10, 200 << 10), 2, 30 << 10, 40),
            // Files from 1 MiB on are recycled.
            _ => (1400 << 10, 100 << 10, 350 << 10, 36),
        };
        let recycles = batch_bytes_min > 2;
        let config = LogConfig {
            segment_bytes,
            segment_ms: i64::MAX,
            retention_bytes: if recycles {
                segment_bytes as i64
            } else if random.percent(60) {
                (segment_bytes * random.within(1, 4)) as i64
            } else {
                -1
            },
            retention_ms: -1,
            delete_old: true,
            compact: false,
            dirty_ratio_ppm: 0,
            compaction_lag_ms_min: 0,
            compaction_lag_ms_max: i64::MAX,
            delete_retention_ms: 0,
            flush_records: [i64::MAX, i64::MAX, i64::MAX, 1, 40][random.below(5) as usize],
            flush_ms: if random.percent(10) { 5 } else { i64::MAX },
            write_caching: random.percent(5),
        };
        let pool_bytes = if recycles || random.percent(50) { 64 << 20 } else { 0 };
        let tail_bytes = if random.percent(50) { 64 << 20 } else { 64 << 10 };
        let jumps = random.percent(50);
        let mut config = config;
        if jumps {
            // Longer than a run with all its stops: nothing in it ever gets so old.
            config.retention_ms = if random.percent(80) { 7 * 24 * HOUR_MS } else { -1 };
            config.segment_ms = if random.percent(50) { HOUR_MS } else { i64::MAX };
            if random.percent(50) {
                config.retention_bytes = -1;
            }
        }
        let scarce = random.percent(25);
        Shape { config, batch_bytes_min, batch_bytes_max, batches, pool_bytes, tail_bytes, jumps, scarce }
    }

    /// Whether an ack that was asked for with this durability is a promise about power loss.
    pub fn promises(&self, durability: Durability) -> bool {
        self.config.flush_records == 1 || durability == Durability::Flushed && !self.config.is_relaxed()
    }
}

/// `before_ms` is what the clock of expiry said in the life before.
pub fn resources(shape: &Shape, before_ms: Option<i64>) -> std::io::Result<LogResources> {
    // As `open_shard` does.
    crate::fs::File::open(DATA)?.sync_all()?;
    let disk = this_disk();
    let pool = SegmentPool::open(disk.clone(), &Path::new(DATA).join("pool/core-0"), shape.pool_bytes)?;
    Ok(LogResources {
        disk,
        pool,
        cache: TailCache::new(shape.tail_bytes),
        rounds: Rc::default(),
        ahead: ReadAhead::new(8 << 20),
        clock: Rc::new(ExpiryClock::new(CLOCK_GRACE_MS, before_ms)),
        gate: Rc::default(),
    })
}

/// Starts one log from what is on the disk.
pub fn open(
    shape: &Shape,
    resources: &LogResources,
    topic: &Topic,
) -> std::io::Result<(Rc<Log>, Vec<String>)> {
    let directory: PathBuf = Path::new(DATA).join(&topic.name);
    let reign = Reign { first_epoch: topic.first_epoch, last_epoch: topic.epoch };
    let clean = topic.clean.as_ref().map(|(base, summary)| (*base, summary));
    let recovered = recover(&directory, clean, reign)?;
    let reports = recovered.reports.clone();
    let metadata = b"version: 0\n".to_vec();
    Ok((Log::new(topic.name.clone(), directory, resources, shape.config, recovered, metadata), reports))
}

pub fn found(log: &Log) -> Found {
    Found { start: log.log_start_offset(), end: log.log_end_offset() }
}

/// Reads a whole log and compares it with the model.
pub async fn read_all(log: Rc<Log>, model: Rc<RefCell<Model>>) -> Result<(), String> {
    let mut offset = log.log_start_offset();
    let end = log.high_watermark();
    while offset < end {
        let read = log.read(offset, 256 << 10).await.map_err(|error| format!("offset {offset}: {error}"))?;
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.as_bytes()).copied().collect();
        let next = model.borrow().compare(offset, &bytes)?;
        if next <= offset {
            return Err(format!("nothing was read at offset {offset} of {end}"));
        }
        offset = next;
    }
    if offset > end {
        return Err(format!("a batch was read that ends at {offset}, the high watermark is {end}"));
    }
    Ok(())
}

/// A log at work, and what is known of it.
pub struct Worked {
    pub sim: Rc<Sim>,
    pub log: Rc<Log>,
    pub model: Rc<RefCell<Model>>,
    pub shape: Shape,
    pub epoch: i32,
    /// What went wrong first.
    pub problem: Rc<RefCell<Option<String>>>,
    /// Errors are expected: a step fails by plan.
    pub faulty: bool,
    /// The time that expiry goes by.
    pub clock: Rc<ExpiryClock>,
    /// Tasks that have not ended.
    pub running: Rc<Cell<usize>>,
    pub next_id: Rc<Cell<u64>>,
}

impl Clone for Worked {
    fn clone(&self) -> Worked {
        Worked {
            sim: self.sim.clone(),
            log: self.log.clone(),
            model: self.model.clone(),
            shape: self.shape.clone(),
            epoch: self.epoch,
            problem: self.problem.clone(),
            faulty: self.faulty,
            clock: self.clock.clone(),
            running: self.running.clone(),
            next_id: self.next_id.clone(),
        }
    }
}

fn batch(id: u64, size: usize, producer: Option<(i64, i32)>, records: u64, now_ms: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    if let Some((producer, sequence)) = producer {
        builder = builder.producer(producer, 0, sequence);
    }
    let mut fill = Random::new(id);
    for record in 0..records {
        let mut value = vec![0; size / records as usize + 1];
        // Random bytes, so that no two batches agree by chance in any sector.
        for word in value.chunks_mut(8) {
            word.copy_from_slice(&fill.next().to_le_bytes()[..word.len()]);
        }
        builder = builder.record(now_ms + record as i64, Some(&id.to_le_bytes()), Some(&value));
    }
    builder.build()
}

/// Moves the wall clock about, while `go_on`.
pub async fn jumps(sim: &Rc<Sim>, mut random: Random, far_back: bool, go_on: impl Fn() -> bool) {
    for _ in 0..random.below(8) {
        sim.pause(100, 60_000).await;
        if !go_on() {
            return;
        }
        sim.jump(a_jump(sim, &mut random, far_back));
    }
}

/// Fills the disk now and then, all but a few pages, and makes room again.
pub async fn fills(sim: &Rc<Sim>, mut random: Random) {
    for _ in 0..random.within(1, 3) {
        sim.pause(100, 40_000).await;
        sim.leave_room(Some(random.below(64 << 10)));
        sim.pause(1_000, 300_000).await;
        sim.leave_room(None);
    }
}

/// One jump, seeded: an hour or ten years, ahead or back (`far_back`: ten years back of the truth as well), or to what
/// the time really is.
pub fn a_jump(sim: &Sim, random: &mut Random, far_back: bool) -> i64 {
    let wrong = sim.wall_ms() - sim.real_ms();
    let back = if far_back { -TEN_YEARS_MS } else { -wrong };
    let jump = [HOUR_MS, -HOUR_MS, TEN_YEARS_MS, back, -wrong][random.below(5) as usize];
    // (There is no time before 1970.)
    if (wrong + jump).abs() > 3 * TEN_YEARS_MS { -wrong } else { jump }
}

impl Worked {
    fn fail(&self, text: String) {
        let mut problem = self.problem.borrow_mut();
        if problem.is_none() {
            *problem = Some(format!("{}: {text}", self.log.name()));
        }
    }

    fn task(&self, task: impl Future<Output = ()> + 'static) {
        let running = self.running.clone();
        running.set(running.get() + 1);
        rt::spawn(async move {
            task.await;
            running.set(running.get() - 1);
        });
    }

    /// Begins the workload.
    pub fn start(&self) {
        let (producers, readers) = {
            let mut random = self.sim.random.borrow_mut();
            (random.within(1, 3), random.within(1, 2))
        };
        for number in 0..producers {
            let random = self.sim.random.borrow_mut().fork();
            let (this, batches) = (self.clone(), self.shape.batches / producers);
            self.task(async move { this.produce(number, random, batches).await });
        }
        for _ in 0..readers {
            let random = self.sim.random.borrow_mut().fork();
            let this = self.clone();
            self.task(async move { this.consume(random).await });
        }
        let random = self.sim.random.borrow_mut().fork();
        let this = self.clone();
        self.task(async move { this.administer(random).await });
        if self.shape.jumps {
            let random = self.sim.random.borrow_mut().fork();
            let this = self.clone();
            self.task(async move { jumps(&this.sim, random, true, || this.running.get() > 1).await });
        }
        if self.shape.scarce && !self.faulty {
            let random = self.sim.random.borrow_mut().fork();
            let this = self.clone();
            self.task(async move { fills(&this.sim, random).await });
        }
    }

    async fn produce(self, number: u64, mut random: Random, batches: u64) {
        let idempotent = random.percent(50);
        let producer_id = 100 + number as i64;
        let mut next_sequence = self.next_sequence(producer_id);
        let mut last: Option<(Vec<u8>, i64)> = None;
        for _ in 0..batches {
            if random.percent(60) {
                self.sim.pause(1, random.clone().within(10, 4000)).await;
            }
            let durability = if random.percent(60) { Durability::Flushed } else { Durability::Written };
            if let Some((bytes, base_offset)) = last.as_ref().filter(|_| random.percent(10)) {
                self.repeat(bytes.clone(), *base_offset, durability).await;
                continue;
            }
            let id = self.next_id.get();
            self.next_id.set(id + 1);
            let size = {
                let (least, most) = (self.shape.batch_bytes_min, self.shape.batch_bytes_max);
                let most = random.within(least, most);
                random.within(least / 2, most) as usize
            };
            let records = random.within(1, 3);
            let producer = idempotent.then_some((producer_id, next_sequence));
            // A client of this machine, whose clock jumps as well, or of another.
            let now_ms = if number.is_multiple_of(2) { rt::wall_ms() } else { self.sim.real_ms() };
            let bytes = batch(id, size, producer, records, now_ms);
            let Some(placed) = self.append(bytes.clone(), durability, producer).await else { continue };
            if idempotent {
                next_sequence += records as i32;
                last = Some((bytes, placed));
            }
        }
    }

    fn next_sequence(&self, producer_id: i64) -> i32 {
        let model = self.model.borrow();
        let last = model.placed.iter().rev().find(|p| p.producer.is_some_and(|(id, _)| id == producer_id));
        last.map_or(0, |last| {
            let (_, first) = last.producer.expect("it was found by it");
            first + (last.next_offset - last.base_offset) as i32
        })
    }

    /// Appends a new batch and has a task wait for its ack; gives its offset.
    async fn append(
        &self,
        mut bytes: Vec<u8>,
        durability: Durability,
        producer: Option<(i64, i32)>,
    ) -> Option<i64> {
        let info = record_batch::parse_header(&bytes).expect("just built");
        let ticket = self.log.ticket();
        let incoming = Incoming::Frame(&mut bytes);
        let appended = match self.log.append(ticket, incoming, info, self.epoch, durability, -1).await {
            Ok(appended) => appended,
            Err(AppendError::Log(LogError::Failed(_) | LogError::NoSpace(_))) if self.faulty => return None,
            Err(AppendError::Log(LogError::NoSpace(_))) if self.shape.scarce => return None,
            Err(AppendError::Log(LogError::Closed | LogError::Deleted)) => return None,
            Err(error) => {
                self.fail(format!("an append was refused: {error:?}"));
                return None;
            }
        };
        let base_offset = appended.base_offset;
        {
            let mut model = self.model.borrow_mut();
            if base_offset != model.end().max(self.log.log_start_offset()) {
                self.fail(format!("a batch got offset {base_offset}, the log ended at {}", model.end()));
            }
            model.placed.push(Placed {
                base_offset,
                next_offset: base_offset + i64::from(info.last_offset_delta) + 1,
                bytes: bytes.into(),
                flushed: durability == Durability::Flushed && !self.shape.config.is_relaxed(),
                acked_at: None,
                promised_at: None,
                read_at: None,
                producer,
            });
        }
        let this = self.clone();
        self.task(async move {
            if appended.durable.wait().await.is_ok() {
                this.acked(base_offset, this.shape.promises(durability));
            } else if !this.faulty && !matches!(this.log.failure(), Some(LogError::Deleted)) {
                this.fail(format!("offset {base_offset} was not acknowledged"));
            }
        });
        Some(base_offset)
    }

    /// With room again the log takes batches by itself: what an append may still be told is an earlier refusal.
    pub async fn goes_on(self) {
        self.sim.leave_room(None);
        for attempt in 0..GOES_ON_ATTEMPTS {
            let bytes = batch(u64::MAX - attempt, 10, None, 1, rt::wall_ms());
            if self.append(bytes, Durability::Flushed, None).await.is_some() {
                return;
            }
            rt::sleep_ms(100).await;
        }
        self.fail(format!("there is room again, and appends are refused: {:?}", self.log.failure()));
    }

    /// Whether the log takes another batch.
    pub async fn try_append(self) -> bool {
        let mut bytes = batch(u64::MAX, 10, None, 1, rt::wall_ms());
        let info = record_batch::parse_header(&bytes).expect("just built");
        let incoming = Incoming::Frame(&mut bytes);
        let durability = Durability::Written;
        self.log.append(self.log.ticket(), incoming, info, self.epoch, durability, -1).await.is_ok()
    }

    fn acked(&self, base_offset: i64, promised: bool) {
        self.model.borrow_mut().acked(base_offset, self.sim.steps(), promised);
    }

    /// Repeats a batch of an idempotent producer: the answer must name the original.
    async fn repeat(&self, mut bytes: Vec<u8>, base_offset: i64, durability: Durability) {
        let info = record_batch::parse_header(&bytes).expect("built before");
        let incoming = Incoming::Frame(&mut bytes);
        let appended = self.log.append(self.log.ticket(), incoming, info, self.epoch, durability, -1).await;
        match appended {
            Ok(appended) if appended.base_offset == base_offset => {
                if appended.durable.wait().await.is_ok() {
                    self.acked(base_offset, self.shape.promises(durability));
                }
            }
            Ok(appended) => {
                let at = appended.base_offset;
                self.fail(format!("the batch at offset {base_offset} was repeated and got offset {at}"));
            }
            Err(AppendError::Log(_)) => {}
            Err(error) => self.fail(format!("a repetition of offset {base_offset} was refused: {error:?}")),
        }
    }

    async fn consume(self, mut random: Random) {
        let mut offset = self.log.log_start_offset();
        let mut watermark = self.log.high_watermark();
        for _ in 0..self.shape.batches * 2 {
            self.sim.pause(1, random.clone().within(10, 4000)).await;
            let start = self.log.log_start_offset();
            let now = self.log.high_watermark();
            let kept = self.model.borrow().may_begin_at(start);
            if let Err(text) = kept {
                self.fail(text);
            }
            if now < watermark {
                self.fail(format!("the high watermark fell from {watermark} to {now}"));
            }
            watermark = now;
            if random.percent(20) || offset < start {
                offset = start + random.below((now - start).max(0) as u64 + 1) as i64;
            }
            if offset >= now {
                continue;
            }
            let max_bytes = random.within(1, self.shape.batch_bytes_max * 3) as usize;
            match self.log.read(offset, max_bytes).await {
                Ok(read) => {
                    let bytes: Vec<u8> =
                        read.slices.iter().flat_map(|slice| slice.as_bytes()).copied().collect();
                    offset = self.note_read(offset, &bytes);
                }
                Err(LogError::OutOfRange(_)) if offset < self.log.log_start_offset() => {}
                Err(LogError::Deleted) => return,
                Err(_) if self.faulty => {}
                Err(error) => self.fail(format!("offset {offset} cannot be read: {error}")),
            }
        }
    }

    fn note_read(&self, offset: i64, bytes: &[u8]) -> i64 {
        let step = self.sim.steps();
        let watermark = self.log.high_watermark();
        let next = self.model.borrow().compare(offset, bytes);
        match next {
            Ok(next) if next > watermark => {
                self.fail(format!("read up to {next}, but the high watermark is {watermark}"));
                next
            }
            Ok(next) => {
                if bytes.is_empty() && offset >= self.log.log_start_offset() {
                    self.fail(format!("nothing was read at offset {offset}"));
                }
                let mut model = self.model.borrow_mut();
                for placed in model.placed.iter_mut().rev().skip_while(|placed| placed.next_offset > next) {
                    if placed.next_offset <= offset {
                        break;
                    }
                    placed.read_at.get_or_insert(step);
                }
                next
            }
            Err(text) => {
                self.fail(text);
                offset
            }
        }
    }

    async fn administer(self, mut random: Random) {
        for _ in 0..random.below(8) {
            self.sim.pause(100, 40_000).await;
            if random.percent(30) {
                self.log.close_idle_files();
                let now_ms = self.clock.now_ms();
                self.log.expire_producers(now_ms - PRODUCER_MS);
                self.log.roll_if_due(now_ms).await;
                self.log.apply_retention(self.clock.now_ms()).await;
                continue;
            }
            if random.percent(70) {
                continue;
            }
            let (start, end) = (self.log.log_start_offset(), self.log.high_watermark());
            let before = start + random.below((end - start).max(0) as u64 + 1) as i64;
            let step = self.sim.steps();
            self.model.borrow_mut().asked.push((step, before));
            match self.log.delete_records(before).await {
                Ok(now) => {
                    if now < before {
                        self.fail(format!("records below {before} were deleted, the log begins at {now}"));
                    }
                    let step = self.sim.steps();
                    self.model.borrow_mut().starts.push((step, before));
                }
                Err(_) if self.faulty => {}
                Err(LogError::NoSpace(_)) if self.shape.scarce => {}
                Err(LogError::Deleted | LogError::Closed) => {}
                Err(error) => self.fail(format!("records below {before} cannot be deleted: {error}")),
            }
        }
    }
}
