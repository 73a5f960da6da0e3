//! A whole broker below the network over several lives: two cores with a mesh that delivers in a seeded order, the
//! catalog, groups and transactions, and a wall clock that jumps. Each life ends by a crash; from moments kept on the
//! way a broker is started, and what it shows is checked.
//!
//! What is checked: promises 2, 7, 9a, 17 and 18 of docs/PROMISES.md (acknowledged is there, once; a transaction is
//! seen as a whole or not at all, its offsets with it; a committed offset never goes back; no clock makes anything
//! old), and 19 for share groups.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::broker::{
    Broker, DATA, PARTITIONS, TOPIC, commit_offset, config, fetch_offset, init, make_topic, patiently,
    produce,
};
use super::life::{HOUR_MS, a_jump, fills, jumps};
use super::log_runs::{Summary, caught};
use super::shares::{self, MEMBERS, Queue, SHARED, SHARED_PARTITIONS};
use crate::config::BrokerConfig;
use crate::coordinator::txn_state::TxnError;
use crate::coordinator::{InternalTopic, home_of, txn_api};
use crate::rt;
use crate::shard::write_clean_mark;
use crate::sim::{Canary, Crash, EPOCH_MS, Entered, Random, Sim, Snapshot, World};
use crate::storage::Isolation;
use crate::wire::record_batch;
use crate::wire::record_fields;

const CLIENTS: u64 = 2;

/// One transaction as its client knows it.
#[derive(Clone, Debug, Default)]
struct Txn {
    /// (partition, value) of its records.
    values: Vec<(i32, u64)>,
    /// The group's offset that it commits.
    offset: Option<i64>,
    group: String,
    /// What was asked of EndTxn.
    commit: Option<bool>,
    /// The step of the answer.
    ended_at: Option<u64>,
}

/// What clients know.
#[derive(Clone, Debug, Default)]
struct Known {
    txns: Vec<Txn>,
    /// Acknowledged plain records: partition, value, step.
    plain: Vec<(i32, u64, u64)>,
    /// Plain commits of each group: offset, and the step of the answer.
    commits: BTreeMap<String, Vec<(i64, Option<u64>)>>,
    next_value: u64,
    /// What the share group's clients know.
    queue: Queue,
}

type Shared = Rc<RefCell<Known>>;

/// Somebody who works with the broker.
type Client = std::pin::Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// One transactional client: transactions one after another, each with its own outcome.
async fn transact(broker: Rc<Broker>, known: Shared, client: u64, mut random: Random) -> Result<(), String> {
    let (id, group) = (format!("txn-{client}"), format!("g-{client}"));
    let mut producer = init(&broker, &id).await?;
    let mut sequences: BTreeMap<i32, i32> = BTreeMap::new();
    for _ in 0..6 {
        let (at, values, offset) = {
            let mut known = known.borrow_mut();
            let mut values = Vec::new();
            for _ in 0..random.within(1, 4) {
                known.next_value += 1;
                values.push((random.below(PARTITIONS as u64) as i32, known.next_value));
            }
            let offset = random.percent(60).then_some(known.txns.len() as i64 + 1);
            known.txns.push(Txn { group: group.clone(), ..Txn::default() });
            (known.txns.len() - 1, values, offset)
        };
        let mut partitions: Vec<(String, i32)> = values
            .iter()
            .map(|(index, _)| (TOPIC.to_owned(), *index))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if offset.is_some() {
            let shard = broker.any();
            let internal = InternalTopic::ConsumerOffsets;
            let home = home_of(&shard, internal, &group).await.map_err(|error| error.to_string())?;
            partitions.push((internal.name().to_owned(), home.partition));
        }
        patiently("AddPartitionsToTxn", async || {
            let added = txn_api::add(&broker.any(), &id, producer, partitions.clone()).await;
            added.map_err(|error| format!("{error:?}"))
        })
        .await?;
        for (index, value) in values {
            let sequence = sequences.entry(index).or_default();
            known.borrow_mut().txns[at].values.push((index, value));
            let next = Some((producer, *sequence));
            patiently("Produce", async || produce(&broker, TOPIC, index, value, next).await).await?;
            *sequence += 1;
        }
        if let Some(offset) = offset {
            known.borrow_mut().txns[at].offset = Some(offset);
            patiently("TxnOffsetCommit", async || {
                commit_offset(&broker, group.clone(), offset, Some(producer)).await
            })
            .await?;
        }
        let commit = random.percent(65);
        let bumps = random.percent(50);
        known.borrow_mut().txns[at].commit = Some(commit);
        let next = loop {
            match txn_api::end(&broker.any(), &id, producer, commit, bumps).await {
                Ok(next) => break next,
                Err(TxnError::Concurrent | TxnError::Loading | TxnError::NotAvailable) => {
                    rt::sleep_ms(20).await
                }
                Err(error) => return Err(format!("EndTxn: {error:?}")),
            }
        };
        known.borrow_mut().txns[at].ended_at = Some(broker.sim.steps());
        if next != producer {
            (producer, sequences) = (next, BTreeMap::new());
        }
        broker.sim.pause(1, 3_000).await;
    }
    Ok(())
}

/// One plain client: records with acks=all, and offsets that only rise.
async fn plain(broker: Rc<Broker>, known: Shared, client: u64, mut random: Random) -> Result<(), String> {
    let group = format!("p-{client}");
    for _ in 0..8 {
        if random.percent(50) {
            let (index, value) = {
                let mut known = known.borrow_mut();
                known.next_value += 1;
                (random.below(PARTITIONS as u64) as i32, known.next_value)
            };
            patiently("Produce", async || produce(&broker, TOPIC, index, value, None).await).await?;
            known.borrow_mut().plain.push((index, value, broker.sim.steps()));
        } else {
            let (at, offset) = {
                let mut known = known.borrow_mut();
                let commits = known.commits.entry(group.clone()).or_default();
                let offset = commits.last().map_or(0, |(offset, _)| *offset) + 1;
                commits.push((offset, None));
                (commits.len() - 1, offset)
            };
            patiently("OffsetCommit", async || commit_offset(&broker, group.clone(), offset, None).await)
                .await?;
            let step = broker.sim.steps();
            known.borrow_mut().commits.get_mut(&group).expect("made above")[at].1 = Some(step);
        }
        broker.sim.pause(1, 3_000).await;
    }
    Ok(())
}

/// Values that a reader of committed data finds in a partition, in order.
async fn committed(broker: Rc<Broker>, index: i32) -> Result<Vec<u64>, String> {
    let partition = broker.partition(index).ok_or("no partition")?;
    let log = &partition.log;
    let mut offset = log.log_start_offset();
    let mut values = Vec::new();
    while offset < log.last_stable_offset() {
        let read =
            log.read_isolated(offset, 1 << 20, Isolation::Committed).await.map_err(|e| e.to_string())?;
        let aborted = log.aborted_transactions_among(offset, read.end_position);
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.as_bytes()).copied().collect();
        let mut rest = &bytes[..];
        let before = offset;
        while let Ok(batch) = record_batch::parse_whole(rest) {
            let gone = aborted.iter().any(|one| {
                one.producer_id == batch.producer_id
                    && (one.first_offset..=one.last_offset).contains(&batch.base_offset)
            });
            if !(batch.is_control() || batch.is_transactional() && gone) {
                for record in record_fields::iterate(&rest[..batch.size_bytes])? {
                    let key = record?.key.unwrap_or_default().try_into().map_err(|_| "a strange key")?;
                    values.push(u64::from_le_bytes(key));
                }
            }
            offset = batch.next_offset();
            rest = &rest[batch.size_bytes..];
        }
        if offset == before {
            return Err(format!("nothing can be read at offset {offset} of partition {index}"));
        }
    }
    Ok(values)
}

/// What a broker shows after a crash at `step`, held against what clients knew then; `None`: clients are gone for good.
async fn check(broker: Rc<Broker>, known: Known, step: u64) -> Result<(), String> {
    let before = |at: &Option<u64>| at.is_some_and(|at| at <= step);
    for client in 0..CLIENTS {
        // Ends what is open, and waits for what was decided.
        init(&broker, &format!("txn-{client}")).await?;
    }
    let mut seen: BTreeMap<u64, i32> = BTreeMap::new();
    for index in 0..PARTITIONS {
        if broker.partition(index).is_none() {
            continue;
        }
        let ended = |partition: &crate::partition::Partition| {
            partition.log.last_stable_offset() == partition.log.high_watermark()
        };
        patiently("the last stable offset", async || {
            let partition = broker.partition(index).ok_or("no partition")?;
            ended(&partition)
                .then_some(())
                .ok_or_else(|| format!("partition {index} has an open transaction"))
        })
        .await?;
        for value in committed(broker.clone(), index).await? {
            if seen.insert(value, index).is_some() {
                return Err(format!("value {value} is there twice"));
            }
        }
    }
    for (index, value, at) in &known.plain {
        if *at <= step && seen.get(value) != Some(index) {
            return Err(format!("value {value} of partition {index} was acknowledged and is gone"));
        }
    }
    let mut offsets: BTreeMap<&str, i64> = BTreeMap::new();
    for txn in &known.txns {
        let there = txn.values.iter().filter(|(index, value)| seen.get(value) == Some(index)).count();
        let all = !txn.values.is_empty() && there == txn.values.len();
        if there != 0 && !all {
            return Err(format!("{there} records are there of {txn:?}"));
        }
        match (txn.commit, before(&txn.ended_at)) {
            (Some(true), true) if !all => return Err(format!("committed, and not there: {txn:?}")),
            (Some(false) | None, _) if all => return Err(format!("not committed, and there: {txn:?}")),
            _ => {}
        }
        if all && let Some(offset) = txn.offset {
            let known = offsets.entry(&txn.group).or_insert(-1);
            *known = (*known).max(offset);
        }
    }
    for client in 0..CLIENTS {
        let group = format!("g-{client}");
        let found = patiently("OffsetFetch", async || fetch_offset(&broker, &group).await).await?;
        let expected = offsets.get(group.as_str()).copied().unwrap_or(-1);
        if found != expected {
            return Err(format!("{group} is at {found}, its committed transactions say {expected}"));
        }
    }
    for (group, commits) in &known.commits {
        let found = patiently("OffsetFetch", async || fetch_offset(&broker, group).await).await?;
        let least =
            commits.iter().filter(|(_, at)| before(at)).map(|(offset, _)| *offset).max().unwrap_or(-1);
        let most = commits.iter().map(|(offset, _)| *offset).max().unwrap_or(-1);
        if found < least || found > most {
            return Err(format!("{group} is at {found}, committed was {least}, asked for {most}"));
        }
    }
    shares::check(&broker, &known.queue, step).await
}

struct Run {
    random: Random,
    canary: Option<Canary>,
    config: Arc<BrokerConfig>,
    known: Known,
    /// What time it is when the next life begins, and what the clock says.
    real_ms: i64,
    wall_ms: i64,
    summary: Summary,
}

impl Run {
    fn lives(&mut self) -> Result<(), String> {
        let mut world = World::new(self.random.percent(50));
        for directory in [DATA, "/data/meta", "/data/pool"] {
            world.make_directory(Path::new(directory));
        }
        world.sync_directory(Path::new("/"));
        world.sync_directory(Path::new(DATA));
        for life in 0..self.random.within(1, 2) {
            world = self.life(world).map_err(|text| format!("life {life}: {text}"))?;
        }
        Ok(())
    }

    fn life(&mut self, world: World) -> Result<World, String> {
        let (sim, entered) = Sim::enter(world, self.random.fork());
        sim.canary.set(self.canary);
        sim.set_clocks(self.real_ms, self.wall_ms);
        let broker = Rc::new(Broker::start(&sim, &self.config).map_err(|text| format!("a start: {text}"))?);
        let known: Shared = Rc::new(RefCell::new(self.known.clone()));
        for (name, id, count) in [(TOPIC, 0x5151_5151, PARTITIONS), (SHARED, 0x5252_5252, SHARED_PARTITIONS)]
        {
            if !sim.block_on(make_topic(broker.any(), name, id, count)) {
                return Err(format!("{name} cannot be made"));
            }
        }
        sim.block_on(shares::begin(broker.clone()))?;
        {
            let mut plan = sim.plan.borrow_mut();
            plan.flush_snapshots_every = self.random.within(15, 40);
            plan.snapshots_at = (0..2).map(|_| sim.steps() + self.random.below(800)).collect();
        }
        let scarce = self.random.percent(20);
        let queue = Rc::new(RefCell::new(self.known.queue.clone()));
        let (running, problem) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
        for task in self.clients(&broker, &known, &queue, scarce) {
            running.set(running.get() + 1);
            let (running, problem) = (running.clone(), problem.clone());
            rt::spawn(async move {
                if let Err(text) = task.await {
                    *problem.borrow_mut() = Some(text);
                }
                running.set(running.get() - 1);
            });
        }
        if self.random.percent(50) {
            let (clock, random, left) = (sim.clone(), self.random.fork(), running.clone());
            rt::spawn(async move { jumps(&clock, random, false, || left.get() > 0).await });
        }
        let last_step = if self.random.percent(60) { sim.steps() + self.random.below(900) } else { u64::MAX };
        let ended = || running.get() == 0 || problem.borrow().is_some() || sim.steps() >= last_step;
        if !sim.run_until(ended) {
            return Err("clients wait for nothing".to_owned());
        }
        if let Some(text) = problem.take() {
            return Err(text);
        }
        if running.get() == 0 && self.random.percent(40) {
            let shards = broker.shards.clone();
            let closed = sim.block_on(async move {
                let mut all = Vec::new();
                for shard in shards {
                    all.extend(shard.close_logs().await?);
                }
                Some(all)
            });
            let closed = closed.ok_or("a log did not close")?;
            write_clean_mark(Path::new(DATA), &closed).map_err(|error| error.to_string())?;
        }
        drop(broker);
        known.borrow_mut().queue = queue.take();
        self.end(sim, entered, known)
    }

    /// Everybody who works with the broker, and with its disk.
    fn clients(
        &mut self,
        broker: &Rc<Broker>,
        known: &Shared,
        queue: &Rc<RefCell<Queue>>,
        scarce: bool,
    ) -> Vec<Client> {
        let mut all: Vec<Client> = Vec::new();
        for client in 0..CLIENTS {
            all.push(Box::pin(transact(broker.clone(), known.clone(), client, self.random.fork())));
            all.push(Box::pin(plain(broker.clone(), known.clone(), client, self.random.fork())));
        }
        all.push(Box::pin(shares::put(broker.clone(), queue.clone(), self.random.fork())));
        for member in 0..MEMBERS {
            let (broker, queue, random) = (broker.clone(), queue.clone(), self.random.fork());
            all.push(Box::pin(shares::take(broker, queue, member, random, !scarce)));
        }
        if scarce {
            let (sim, random) = (broker.sim.clone(), self.random.fork());
            all.push(Box::pin(async move {
                fills(&sim, random).await;
                Ok(())
            }));
        }
        all
    }

    fn end(&mut self, sim: Rc<Sim>, entered: Entered, known: Shared) -> Result<World, String> {
        self.time_passes(&sim);
        let mut moments = sim.snapshots.take();
        *sim.plan.borrow_mut() = Default::default();
        let step = sim.steps();
        self.summary.steps = self.summary.steps.max(step);
        drop(entered);
        let world = sim.world.borrow().clone();
        moments.push(Snapshot { step, tags: Vec::new(), world });
        sim.note(self.summary.trace);
        self.summary.trace = sim.trace();
        let known = known.borrow().clone();
        let answered = known.commits.values().flatten().filter(|(_, at)| at.is_some_and(|at| at > 0)).count()
            + known.plain.iter().filter(|(_, _, at)| *at > 0).count()
            + known.txns.iter().filter(|txn| txn.ended_at.is_some_and(|at| at > 0)).count();
        self.summary.acked += (answered + known.queue.answered()) as u64;
        let mut next = None;
        for moment in &moments {
            let crash = if self.random.percent(60) { Crash::Power } else { Crash::Process };
            let image = moment.world.after(crash, &mut self.random.fork());
            self.summary.images += 1;
            let checked = self.start_and_check(image, &known, moment.step);
            next = Some(checked.map_err(|text| format!("{crash:?} crash at step {}: {text}", moment.step))?);
        }
        // What clients waited for is decided now, and stays so: the last check saw it.
        let mut known = known;
        known.plain.retain(|(_, _, at)| *at <= step);
        known.plain.iter_mut().for_each(|(_, _, at)| *at = 0);
        for txn in &mut known.txns {
            // Its outcome is known only to the log: all or nothing, for ever.
            txn.ended_at = txn.ended_at.map(|_| 0);
        }
        for commits in known.commits.values_mut() {
            commits.iter_mut().for_each(|(_, at)| *at = at.map(|_| 0));
        }
        known.next_value += 1_000;
        known.queue.next_life();
        self.known = known;
        Ok(next.expect("the last moment was looked at"))
    }

    /// Stops of all lengths, and clocks that say otherwise afterwards. Not far back and forth again: what was stamped
    /// in between is old when the crash came before the broker had noted the jump (docs/PROMISES.md).
    fn time_passes(&mut self, sim: &Sim) {
        let stop_ms = [1_000, HOUR_MS, 48 * HOUR_MS][self.random.below(3) as usize];
        if self.random.percent(30) {
            sim.jump(a_jump(sim, &mut self.random, false));
        }
        (self.real_ms, self.wall_ms) = (sim.real_ms() + stop_ms, sim.wall_ms() + stop_ms);
    }

    /// Starts a broker from a crash image and checks it; the disk then, after another kill.
    fn start_and_check(&mut self, image: World, known: &Known, step: u64) -> Result<World, String> {
        let (sim, entered) = Sim::enter(image, self.random.fork());
        sim.canary.set(self.canary);
        sim.set_clocks(self.real_ms, self.wall_ms);
        let broker = Rc::new(Broker::start(&sim, &self.config)?);
        let checked = sim.block_on(check(broker.clone(), known.clone(), step));
        drop(broker);
        drop(entered);
        sim.note(self.summary.trace);
        self.summary.trace = sim.trace();
        checked?;
        Ok(sim.world.borrow().after(Crash::Process, &mut self.random.fork()))
    }
}

/// Runs a seed to its end; what went wrong, if something did.
pub fn run(seed: u64, canary: Option<Canary>) -> Result<Summary, String> {
    caught(|| {
        let mut run = Run {
            random: Random::new(seed),
            canary,
            config: config(),
            known: Known::default(),
            real_ms: EPOCH_MS,
            wall_ms: EPOCH_MS,
            summary: Summary::default(),
        };
        run.lives().map(|()| run.summary)
    })
}

#[test]
fn whole_brokers_keep_their_promises_over_crashes() {
    super::log_runs::many_seeds(0..500, "broker", |seed| run(seed, None));
}

#[test]
fn a_seed_decides_every_step_of_a_whole_broker() {
    for seed in [5, 11] {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

/// A check that cannot fail proves nothing.
#[test]
fn planted_bugs_of_a_whole_broker_are_caught() {
    for canary in [
        Canary::WrittenState,
        Canary::EarlyFlush,
        Canary::NoDirectorySync,
        Canary::JumpingClock,
        Canary::HastyShare,
    ] {
        let found = (0..500).find_map(|seed| run(seed, Some(canary)).err().map(|text| (seed, text)));
        let (seed, text) = found.unwrap_or_else(|| panic!("{canary:?} was not caught"));
        println!("{canary:?} was caught by broker seed {seed}: {text}");
    }
}
