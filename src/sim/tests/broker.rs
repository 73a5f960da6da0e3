//! A whole broker below the network in a simulation: its start, and what a client asks of it, step by step.
//!
//! Owner: one life of a run (`shards`). Two cores, whose mesh delivers after seeded delays; every request comes to a
//! core that the seed picks. It must not judge what it is told.

use std::rc::Rc;
use std::sync::Arc;

use crate::catalog::CatalogChange;
use crate::config::{BrokerConfig, ConfigSources, load};
use crate::coordinator::classic_sync::MemberRef;
use crate::coordinator::groups_offsets::CommitItem;
use crate::coordinator::state_log::RecordProducer;
use crate::coordinator::txn_state::ProducerKey;
use crate::coordinator::{self, Home, InternalTopic, groups, home_of, txn_api};
use crate::rt;
use crate::shard::{ConnectionCounts, Control, LocalFuture, Shard, ShardSetup, build_mesh, open_shard};
use crate::sim::Sim;
use crate::storage::{Incoming, Verification};
use crate::wire::batch_builder::BatchBuilder;

pub const DATA: &str = "/data";
pub const TOPIC: &str = "data";
pub const PARTITIONS: i32 = 4;
const CORES: usize = 2;
/// Longest wait for anything, in simulated milliseconds.
const PATIENCE_MS: i64 = 60_000;

pub struct Broker {
    pub sim: Rc<Sim>,
    pub shards: Vec<Rc<Shard>>,
}

pub fn config() -> Arc<BrokerConfig> {
    let flags = [
        ("log.dirs", DATA),
        ("ringlog.cores", "1"),
        ("offsets.topic.num.partitions", "3"),
        ("transaction.state.log.num.partitions", "3"),
        ("share.coordinator.state.topic.num.partitions", "2"),
        ("log.cleaner.enable", "false"),
        // Everything that goes by age is looked at all the time.
        ("log.retention.check.interval.ms", "50"),
        ("offsets.retention.check.interval.ms", "50"),
        ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "50"),
        ("transaction.remove.expired.transaction.cleanup.interval.ms", "50"),
    ];
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut config = load(&ConfigSources { flags, ..ConfigSources::default() }).expect("valid").config;
    config.cores = (0..CORES).collect();
    Arc::new(config)
}

impl Broker {
    /// The start of `ringlog serve`, without sockets.
    pub fn start(sim: &Rc<Sim>, config: &Arc<BrokerConfig>) -> Result<Broker, String> {
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
            rt::spawn(shard.clone().housekeeping());
            shards.push(shard);
        }
        Ok(Broker { sim: sim.clone(), shards })
    }

    pub fn any(&self) -> Rc<Shard> {
        let core = self.sim.random.borrow_mut().below(CORES as u64) as usize;
        self.shards[core].clone()
    }

    pub fn topic(&self, name: &str) -> Option<uuid::Uuid> {
        Some(self.shards[0].catalog().topic(name)?.id)
    }

    pub fn partition(&self, index: i32) -> Option<Rc<crate::partition::Partition>> {
        let id = self.topic(TOPIC)?;
        self.shards[self.shards[0].owner_of(id, index)].partition(id, index)
    }
}

/// Makes a topic; answered, it must be there for ever.
pub async fn make_topic(shard: Rc<Shard>, name: &'static str, id: u128, partitions: i32) -> bool {
    let plan = move |catalog: &crate::catalog::Catalog| match catalog.topic(name) {
        Some(_) => Vec::new(),
        None => vec![CatalogChange::CreateTopic {
            name: name.to_owned(),
            id: uuid::Uuid::from_u128(id),
            partition_count: partitions as usize,
            configs: [("segment.bytes".to_owned(), "20000".to_owned())].into(),
            created_ms: rt::wall_ms(),
        }],
    };
    shard.control.change(plan).await.is_ok()
}

/// Repeats a step that may come too early.
pub async fn patiently<T>(what: &str, mut step: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
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

pub async fn init(broker: &Broker, id: &str) -> Result<ProducerKey, String> {
    patiently("InitProducerId", async || {
        txn_api::init(&broker.any(), id, 30_000, None).await.map_err(|error| format!("{error:?}"))
    })
    .await
}

/// Produces a batch of a transaction (or a plain one) to a partition, on the core that owns it; its offset.
pub async fn produce(
    broker: &Broker,
    topic: &str,
    index: i32,
    value: u64,
    producer: Option<(ProducerKey, i32)>,
) -> Result<i64, String> {
    let topic_id = broker.topic(topic).ok_or("no topic")?;
    let shard = broker.any();
    let work = move |owner: Rc<Shard>| -> LocalFuture<Result<i64, String>> {
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
            if outcome.error_code == 0 { Ok(outcome.base_offset) } else { Err(format!("{outcome:?}")) }
        })
    };
    let core = shard.owner_of(topic_id, index);
    shard.mesh.call(core, work).await.ok_or("no core")?
}

fn nobody() -> MemberRef {
    MemberRef { member_id: String::new(), instance_id: None, generation: -1 }
}

pub async fn commit_offset(
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

pub async fn fetch_offset(broker: &Broker, group: &str) -> Result<i64, String> {
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
