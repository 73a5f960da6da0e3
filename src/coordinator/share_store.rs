//! What share partitions must not forget: `__share_group_state`, the newest state of each, in memory and on disk.
//!
//! Owner: the core that owns the internal partition; other cores come through the mesh. Invariants: a write is
//! answered once its record is durable, and only then read by others; a partition answers after it has read its log;
//! of one share partition there is one writer, which writes one state at a time.
//! It must not know what a state means.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::share_records::{ShareState, StateKey};
use super::state_log::{LogRecord, Replayed, StateLog, StateLogError};
use super::{Home, InternalTopic, home_of};
use crate::limits::{SHARE_STATES_PER_PARTITION_MAX, STATE_LOG_BUSY_PAUSE_MS};
use crate::maps::HashMap;
use crate::rt;
use crate::shard::{LocalFuture, Shard, kafka_uuid};
use crate::sync::Event;

/// The states of one core, as its shard holds them.
#[derive(Default)]
pub struct ShareStates {
    partitions: RefCell<HashMap<i32, Rc<StatePartition>>>,
}

/// Why a state could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The state's core is gone, or its log cannot be read or written.
    Failed,
    /// There are too many states already.
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Failed,
}

struct StatePartition {
    log: Rc<StateLog>,
    phase: Cell<Phase>,
    loaded: Event,
    states: RefCell<HashMap<StateKey, Rc<ShareState>>>,
}

/// The name by which Kafka spreads states over partitions, and by which clients ask for their coordinator.
fn coordinator_key(key: &StateKey) -> String {
    format!("{}:{}:{}", key.group, kafka_uuid(key.topic_id), key.partition)
}

/// The newest state of a share partition.
pub async fn read(shard: &Rc<Shard>, key: &StateKey) -> Result<Option<ShareState>, StoreError> {
    let wanted = key.clone();
    at_home(shard, key, move |partition| {
        Box::pin(async move { Ok(partition.states.borrow().get(&wanted).map(|state| (**state).clone())) })
    })
    .await
}

/// Makes a state durable.
pub async fn write(shard: &Rc<Shard>, key: &StateKey, state: ShareState) -> Result<(), StoreError> {
    let name = key.clone();
    at_home(shard, key, move |partition| Box::pin(async move { partition.put(name, Some(state)).await }))
        .await
}

/// Forgets a state.
pub async fn delete(shard: &Rc<Shard>, key: &StateKey) -> Result<(), StoreError> {
    let name = key.clone();
    at_home(shard, key, move |partition| Box::pin(async move { partition.put(name, None).await })).await
}

async fn at_home<R: Send + 'static>(
    shard: &Rc<Shard>,
    key: &StateKey,
    work: impl FnOnce(Rc<StatePartition>) -> LocalFuture<Result<R, StoreError>> + Send + 'static,
) -> Result<R, StoreError> {
    let home = home_of(shard, InternalTopic::ShareGroupState, &coordinator_key(key)).await;
    let home = home.map_err(|_| StoreError::Failed)?;
    let answer = shard
        .mesh
        .call(home.core, move |owner| Box::pin(async move { work(open(&owner, home).await?).await }));
    answer.await.unwrap_or(Err(StoreError::Failed))
}

/// The partition of the internal topic, once it has read its log.
async fn open(shard: &Rc<Shard>, home: Home) -> Result<Rc<StatePartition>, StoreError> {
    let states = &shard.coordinators.share_states;
    let known = states.partitions.borrow().get(&home.partition).cloned();
    let found = match known {
        Some(found) => found,
        None => {
            let partition = shard.partition(home.topic_id, home.partition).ok_or(StoreError::Failed)?;
            let found = Rc::new(StatePartition {
                log: StateLog::new(partition),
                phase: Cell::new(Phase::Loading),
                loaded: Event::default(),
                states: RefCell::default(),
            });
            states.partitions.borrow_mut().insert(home.partition, found.clone());
            let loading = found.clone();
            rt::spawn(async move { loading.load().await });
            found
        }
    };
    found.loaded.wait_until(|| found.phase.get() != Phase::Loading).await;
    match found.phase.get() {
        Phase::Active => Ok(found),
        _ => Err(StoreError::Failed),
    }
}

/// Forgets the states of topics that are gone, on this core.
pub(super) async fn sweep(shard: &Rc<Shard>) {
    let all: Vec<_> = shard.coordinators.share_states.partitions.borrow().values().cloned().collect();
    for partition in all {
        let catalog = shard.catalog();
        let gone: Vec<StateKey> = {
            let states = partition.states.borrow();
            states.keys().filter(|key| catalog.topic_by_id(key.topic_id).is_none()).cloned().collect()
        };
        for key in gone {
            if partition.put(key, None).await.is_err() {
                return;
            }
        }
    }
}

impl StatePartition {
    async fn load(self: Rc<Self>) {
        let found = RefCell::new(HashMap::default());
        let unreadable = Cell::new(0usize);
        let outcome = self
            .log
            .replay(|item| {
                let Replayed::Record { key, value, .. } = item else { return };
                match (StateKey::decode(key), value.map(ShareState::decode).transpose()) {
                    (Ok(Some(key)), Ok(Some(state))) => drop(found.borrow_mut().insert(key, Rc::new(state))),
                    (Ok(Some(key)), Ok(None)) => drop(found.borrow_mut().remove(&key)),
                    _ => unreadable.set(unreadable.get() + 1),
                }
            })
            .await;
        let name = self.log.partition().log.name();
        if unreadable.get() > 0 {
            tracing::warn!("{name}: {} records are not understood and left out", unreadable.get());
        }
        match outcome {
            Ok(()) => {
                self.states.replace(found.into_inner());
                self.phase.set(Phase::Active);
            }
            Err(error) => {
                tracing::error!("{name}: the share groups' states in it cannot be loaded: {error}");
                self.phase.set(Phase::Failed);
            }
        }
        self.loaded.fire();
    }

    async fn put(&self, key: StateKey, state: Option<ShareState>) -> Result<(), StoreError> {
        let known = self.states.borrow().contains_key(&key);
        if state.is_none() && !known {
            return Ok(());
        }
        if !known && self.states.borrow().len() >= SHARE_STATES_PER_PARTITION_MAX {
            return Err(StoreError::Full);
        }
        let record = LogRecord { key: key.encode(), value: state.as_ref().map(ShareState::encode) };
        loop {
            match self.log.append(vec![record.clone()], None).await {
                Ok(_) => break,
                // The log is behind; it will catch up, or fail.
                Err(StateLogError::Busy) => rt::sleep_ms(STATE_LOG_BUSY_PAUSE_MS).await,
                Err(error @ StateLogError::Failed(_)) => {
                    tracing::error!("the state of a share group is not stored: {error}");
                    return Err(StoreError::Failed);
                }
            }
        }
        match state {
            Some(state) => drop(self.states.borrow_mut().insert(key, Rc::new(state))),
            None => drop(self.states.borrow_mut().remove(&key)),
        }
        Ok(())
    }
}
