//! A whole broker below the network over several lives: two cores with a mesh that delivers in a seeded order, the
//! catalog, groups and transactions. Each life ends by a crash; from moments kept on the way a broker is started, and
//! what it shows is checked.
//!
//! What is checked: promises 2, 7, 17 and 18 of docs/PROMISES.md (acknowledged is there, once; a transaction is seen as
//! a whole or not at all, its offsets with it; a committed offset never goes back).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::log_runs::{Summary, caught};
use crate::catalog::CatalogChange;
use crate::config::{BrokerConfig, ConfigSources, load};
use crate::coordinator::classic_sync::MemberRef;
use crate::coordinator::groups_offsets::CommitItem;
use crate::coordinator::state_log::RecordProducer;
use crate::coordinator::txn_state::{ProducerKey, TxnError};
use crate::coordinator::{self, Home, InternalTopic, groups, home_of, txn_api};
use crate::rt;
use crate::shard::{
    ConnectionCounts, Control, LocalFuture, Shard, ShardSetup, build_mesh, open_shard, write_clean_mark,
};
use crate::sim::{Canary, Crash, Entered, Random, Sim, Snapshot, World};
use crate::storage::{Incoming, Isolation, Verification};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch;
use crate::wire::record_fields;

const DATA: &str = "/data";
const TOPIC: &str = "data";
const PARTITIONS: i32 = 4;
const CORES: usize = 2;
const CLIENTS: u64 = 2;
/// Longest wait for anything, in simulated milliseconds.
const PATIENCE_MS: i64 = 60_000;

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
}

type Shared = Rc<RefCell<Known>>;

struct Broker {
    sim: Rc<Sim>,
    shards: Vec<Rc<Shard>>,
}

fn config() -> Arc<BrokerConfig> {
    let flags = [
        ("log.dirs", DATA),
        ("ringlog.cores", "1"),
        ("offsets.topic.num.partitions", "3"),
        ("transaction.state.log.num.partitions", "3"),
        ("log.cleaner.enable", "false"),
    ];
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut config = load(&ConfigSources { flags, ..ConfigSources::default() }).expect("valid").config;
    config.cores = (0..CORES).collect();
    Arc::new(config)
}

impl Broker {
    /// The start of `ringlog serve`, without sockets.
    fn start(sim: &Rc<Sim>, config: &Arc<BrokerConfig>) -> Result<Broker, String> {
        let (store, catalog, clean) =
            crate::cli::serve::open_catalog(config).map_err(|problems| problems.join("; "))?;
        let (mesh, inboxes) = build_mesh(CORES);
        let control =
            Control::start(store, catalog.clone(), mesh.clone()).map_err(|error| error.to_string())?;
        let connections = Arc::new(ConnectionCounts::default());
        let mut shards = Vec::new();
        for (core, inbox) in inboxes.into_iter().enumerate() {
            let setup = ShardSetup {
                core,
                config: config.clone(),
                catalog: catalog.clone(),
                mesh: mesh.clone(),
                control: control.clone(),
                clean: clean.clone(),
                cleaner: None,
                connections: connections.clone(),
                tail_bytes: 1 << 20,
                frame_bytes: 1 << 20,
            };
            let shard = open_shard(setup).map_err(|error| error.to_string())?;
            let (jobs, delays) = (shard.clone(), sim.clone());
            rt::spawn(async move {
                while let Ok(job) = inbox.recv_async().await {
                    delays.pause(0, 300).await;
                    job(&jobs);
                }
            });
            rt::spawn(coordinator::serve(shard.clone()));
            shards.push(shard);
        }
        Ok(Broker { sim: sim.clone(), shards })
    }

    fn any(&self) -> Rc<Shard> {
        let core = self.sim.random.borrow_mut().below(CORES as u64) as usize;
        self.shards[core].clone()
    }

    fn topic(&self) -> Option<uuid::Uuid> {
        Some(self.shards[0].catalog().topic(TOPIC)?.id)
    }

    fn partition(&self, index: i32) -> Option<Rc<crate::partition::Partition>> {
        let id = self.topic()?;
        self.shards[self.shards[0].owner_of(id, index)].partition(id, index)
    }
}

/// Makes the topic; answered, it must be there for ever.
async fn make_topic(shard: Rc<Shard>) -> bool {
    let plan = move |catalog: &crate::catalog::Catalog| match catalog.topic(TOPIC) {
        Some(_) => Vec::new(),
        None => vec![CatalogChange::CreateTopic {
            name: TOPIC.to_owned(),
            id: uuid::Uuid::from_u128(0x5151_5151),
            partition_count: PARTITIONS as usize,
            configs: [("segment.bytes".to_owned(), "20000".to_owned())].into(),
            created_ms: rt::wall_ms(),
        }],
    };
    shard.control.change(plan).await.is_ok()
}

/// Repeats a step that may come too early.
async fn patiently<T>(what: &str, mut step: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
    let until_ms = rt::steady_ms() + PATIENCE_MS;
    loop {
        match step().await {
            Ok(done) => return Ok(done),
            Err(text) if rt::steady_ms() > until_ms => {
                return Err(format!("{what} does not succeed: {text}"));
            }
            Err(_) => rt::sleep_ms(20).await,
        }
    }
}

async fn init(broker: &Broker, id: &str) -> Result<ProducerKey, String> {
    patiently("InitProducerId", async || {
        txn_api::init(&broker.any(), id, 30_000, None).await.map_err(|error| format!("{error:?}"))
    })
    .await
}

/// Produces a batch of a transaction (or a plain one) to a partition, on the core that owns it.
async fn produce(
    broker: &Broker,
    index: i32,
    value: u64,
    producer: Option<(ProducerKey, i32)>,
) -> Result<(), String> {
    let topic_id = broker.topic().ok_or("no topic")?;
    let shard = broker.any();
    let work = move |owner: Rc<Shard>| -> LocalFuture<Result<(), String>> {
        Box::pin(async move {
            let partition = owner.partition(topic_id, index).ok_or("no partition")?;
            let mut builder = BatchBuilder::new();
            if let Some((key, sequence)) = producer {
                if let Verification::Needed(number) = partition.log.verify_transaction(key.id, key.epoch) {
                    partition.log.confirm_transaction(key.id, number);
                }
                builder = builder.producer(key.id, key.epoch, sequence).flags(0x10);
            }
            let text = vec![value as u8; (value % 997) as usize + 1];
            let mut bytes = builder.record(rt::wall_ms(), Some(&value.to_le_bytes()), Some(&text)).build();
            let incoming = Incoming::Frame(&mut bytes);
            let (outcome, durable) = partition.produce(partition.log.ticket(), incoming, -1, true).await;
            let outcome = match durable {
                Some(durable) => outcome.after(durable.wait().await),
                None => outcome,
            };
            if outcome.error_code == 0 { Ok(()) } else { Err(format!("{outcome:?}")) }
        })
    };
    let core = shard.owner_of(topic_id, index);
    shard.mesh.call(core, work).await.ok_or("no core")?
}

fn nobody() -> MemberRef {
    MemberRef { member_id: String::new(), instance_id: None, generation: -1 }
}

async fn commit_offset(
    broker: &Broker,
    group: String,
    offset: i64,
    producer: Option<ProducerKey>,
) -> Result<(), String> {
    let shard = broker.any();
    let home = home_of(&shard, InternalTopic::ConsumerOffsets, &group).await.map_err(|e| e.to_string())?;
    let work = move |owner: Rc<Shard>| -> LocalFuture<Result<(), String>> {
        Box::pin(async move {
            let coordinator = groups::open(&owner, home).map_err(|error| format!("{error:?}"))?;
            if let Some(key) = producer {
                let log = &owner.partition(home.topic_id, home.partition).ok_or("no partition")?.log;
                if let Verification::Needed(number) = log.verify_transaction(key.id, key.epoch) {
                    log.confirm_transaction(key.id, number);
                }
            }
            let item = CommitItem {
                topic: TOPIC.to_owned(),
                partition: 0,
                offset,
                leader_epoch: -1,
                metadata: String::new(),
            };
            let producer = producer.map(|key| RecordProducer { id: key.id, epoch: key.epoch });
            let committed = coordinator.commit(&group, &nobody(), producer, None, vec![item]).await;
            committed.map_err(|error| format!("{error:?}"))
        })
    };
    shard.mesh.call(home.core, work).await.ok_or("no core")?
}

async fn fetch_offset(broker: &Broker, group: &str) -> Result<i64, String> {
    let shard = broker.any();
    let home: Home =
        home_of(&shard, InternalTopic::ConsumerOffsets, group).await.map_err(|error| error.to_string())?;
    let group = group.to_owned();
    let work = move |owner: Rc<Shard>| -> LocalFuture<Result<i64, String>> {
        Box::pin(async move {
            let coordinator = groups::open(&owner, home).map_err(|error| format!("{error:?}"))?;
            let asked = [(TOPIC.to_owned(), vec![0])];
            let found = coordinator.fetch(&group, None, Some(&asked), true).map_err(|e| format!("{e:?}"))?;
            if found[0].unstable { Err("unstable".to_owned()) } else { Ok(found[0].offset) }
        })
    };
    shard.mesh.call(home.core, work).await.ok_or("no core")?
}

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
            produce(&broker, index, value, Some((producer, *sequence))).await?;
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
            produce(&broker, index, value, None).await?;
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
    Ok(())
}

struct Run {
    random: Random,
    canary: Option<Canary>,
    config: Arc<BrokerConfig>,
    known: Known,
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
        let broker = Rc::new(Broker::start(&sim, &self.config).map_err(|text| format!("a start: {text}"))?);
        let known: Shared = Rc::new(RefCell::new(self.known.clone()));
        let made = make_topic(broker.any());
        if !sim.block_on(made) {
            return Err("the topic cannot be made".to_owned());
        }
        {
            let mut plan = sim.plan.borrow_mut();
            plan.flush_snapshots_every = self.random.within(15, 40);
            plan.snapshots_at = (0..2).map(|_| sim.steps() + self.random.below(800)).collect();
        }
        let (running, problem) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
        for client in 0..CLIENTS {
            let first = transact(broker.clone(), known.clone(), client, self.random.fork());
            let second = plain(broker.clone(), known.clone(), client, self.random.fork());
            for task in [Box::pin(first) as std::pin::Pin<Box<dyn Future<Output = _>>>, Box::pin(second)] {
                running.set(running.get() + 1);
                let (running, problem) = (running.clone(), problem.clone());
                rt::spawn(async move {
                    if let Err(text) = task.await {
                        *problem.borrow_mut() = Some(text);
                    }
                    running.set(running.get() - 1);
                });
            }
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
        self.end(sim, entered, known)
    }

    fn end(&mut self, sim: Rc<Sim>, entered: Entered, known: Shared) -> Result<World, String> {
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
        self.summary.acked += answered as u64;
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
        self.known = known;
        Ok(next.expect("the last moment was looked at"))
    }

    /// Starts a broker from a crash image and checks it; the disk then, after another kill.
    fn start_and_check(&mut self, image: World, known: &Known, step: u64) -> Result<World, String> {
        let (sim, entered) = Sim::enter(image, self.random.fork());
        sim.canary.set(self.canary);
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
    for canary in [Canary::WrittenState, Canary::EarlyFlush, Canary::NoDirectorySync] {
        let found = (0..500).find_map(|seed| run(seed, Some(canary)).err().map(|text| (seed, text)));
        let (seed, text) = found.unwrap_or_else(|| panic!("{canary:?} was not caught"));
        println!("{canary:?} was caught by broker seed {seed}: {text}");
    }
}
