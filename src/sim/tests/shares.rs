//! A share group in a whole simulated broker: members that fetch, accept, reject and release, and what a start after a
//! crash owes them.
//!
//! What is checked (promise 19 of docs/PROMISES.md): a record whose acceptance or rejection was answered is not
//! delivered again; a record that was acknowledged by the log, and that nobody asked to be done with, is delivered;
//! nobody gets a record that another member has.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::broker::{Broker, patiently, produce};
use crate::coordinator::share_group::ShareHeartbeat;
use crate::coordinator::share_partition::{self, ShareError};
use crate::coordinator::share_read::Want;
use crate::coordinator::share_records::StateKey;
use crate::coordinator::share_window::AckBatch;
use crate::coordinator::{InternalTopic, groups, home_of};
use crate::rt;
use crate::shard::{LocalFuture, Shard};
use crate::sim::Random;

/// The topic of the group.
pub const SHARED: &str = "shared";
/// Its partitions.
pub const SHARED_PARTITIONS: i32 = 2;
/// Members of a life.
pub const MEMBERS: u64 = 2;

const GROUP: &str = "queue";
const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;
/// Deliveries after which a member no longer gives a record back, so that no limit takes it away.
const RELEASES_MAX: i16 = 3;

/// Partition and offset.
type Place = (i32, i64);

/// What clients of the group know.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Records, and the step at which each was acknowledged.
    put: BTreeMap<Place, u64>,
    /// Records that somebody asked to be done with: the step of the question, and of the answer.
    done: BTreeMap<Place, (u64, Option<u64>)>,
    /// Who has what.
    held: BTreeMap<Place, u64>,
}

impl Queue {
    /// The same for the next life, to which all of this lies in the past.
    pub fn next_life(&mut self) {
        self.put.values_mut().for_each(|at| *at = 0);
        self.done.values_mut().for_each(|(asked, answered)| {
            *asked = 0;
            *answered = answered.map(|_| 0);
        });
        self.held.clear();
    }

    /// Acknowledgements that were answered in this life.
    pub fn answered(&self) -> usize {
        self.done.values().filter(|(_, answered)| answered.is_some_and(|at| at > 0)).count()
    }
}

/// Joins the group, so that it reads the topic.
async fn join(broker: &Broker, member: &str) -> Result<(), String> {
    let shard = broker.any();
    let home = home_of(&shard, InternalTopic::ConsumerOffsets, GROUP).await.map_err(|e| e.to_string())?;
    let beat = ShareHeartbeat {
        member_id: member.to_owned(),
        epoch: 0,
        rack_id: None,
        client_id: String::new(),
        client_host: String::new(),
        topics: Some(vec![SHARED.to_owned()]),
    };
    let work = move |owner: Rc<Shard>| -> LocalFuture<Result<(), String>> {
        Box::pin(async move {
            let coordinator = groups::open(&owner, home).map_err(|error| format!("{error:?}"))?;
            let joined = coordinator.share_heartbeat(GROUP, beat, owner.catalog()).await;
            joined.map(drop).map_err(|error| format!("{error:?}"))
        })
    };
    shard.mesh.call(home.core, work).await.ok_or("no core")?
}

/// What a member is given of a partition: offsets and delivery counts.
async fn fetch(
    broker: &Broker,
    member: u64,
    partition: i32,
    records_max: i64,
) -> Result<Vec<(i64, i16)>, String> {
    let topic_id = broker.topic(SHARED).ok_or("no topic")?;
    let shard = broker.any();
    let want = Want {
        member: format!("m-{member}"),
        session: member + 1,
        records_max,
        whole_batches: false,
        batch_size: records_max,
        max_bytes: 1 << 20,
    };
    let work = move |owner: Rc<Shard>| -> LocalFuture<Result<Vec<(i64, i16)>, ShareError>> {
        Box::pin(async move {
            let key = StateKey { group: GROUP.to_owned(), topic_id, partition };
            let given = share_partition::open(&owner, &key).await?.fetch(&want).await?;
            let all = given.acquired.iter();
            let each = all.flat_map(|range| (range.first..=range.last).map(|at| (at, range.deliveries)));
            Ok(each.collect())
        })
    };
    let answer = shard.mesh.call(shard.owner_of(topic_id, partition), work).await.ok_or("no core")?;
    answer.map_err(|error| format!("{error:?}"))
}

/// Acknowledges what a member has, one type for each offset.
async fn acknowledge(
    broker: &Broker,
    member: u64,
    partition: i32,
    what: Vec<(i64, i8)>,
) -> Result<(), ShareError> {
    let topic_id = broker.topic(SHARED).ok_or(ShareError::Unknown)?;
    let shard = broker.any();
    let work = move |owner: Rc<Shard>| -> LocalFuture<Result<(), ShareError>> {
        Box::pin(async move {
            let key = StateKey { group: GROUP.to_owned(), topic_id, partition };
            let share = share_partition::open(&owner, &key).await?;
            let batches: Vec<AckBatch> = what
                .into_iter()
                .map(|(offset, kind)| AckBatch { first: offset, last: offset, types: vec![kind] })
                .collect();
            let change = share.acknowledge(&format!("m-{member}"), &batches)?;
            share.wait_stored(change).await
        })
    };
    let core = shard.owner_of(topic_id, partition);
    shard.mesh.call(core, work).await.unwrap_or(Err(ShareError::Storage))
}

/// Makes the group and has it begin where its partitions are now.
pub async fn begin(broker: Rc<Broker>) -> Result<(), String> {
    for member in 0..MEMBERS {
        patiently("ShareGroupHeartbeat", async || join(&broker, &format!("m-{member}")).await).await?;
    }
    for partition in 0..SHARED_PARTITIONS {
        // (Nothing is wanted: what is opened begins.)
        patiently("ShareFetch", async || fetch(&broker, 0, partition, 0).await).await?;
    }
    Ok(())
}

/// A producer of the group's records.
pub async fn put(broker: Rc<Broker>, queue: Rc<RefCell<Queue>>, mut random: Random) -> Result<(), String> {
    for value in 0..10 {
        let partition = random.below(SHARED_PARTITIONS as u64) as i32;
        let produced = patiently("Produce", async || produce(&broker, SHARED, partition, value, None).await);
        let offset = produced.await?;
        queue.borrow_mut().put.insert((partition, offset), broker.sim.steps());
        broker.sim.pause(1, 2_000).await;
    }
    Ok(())
}

/// A member at work; `exact`: nothing makes the broker forget who has what.
pub async fn take(
    broker: Rc<Broker>,
    queue: Rc<RefCell<Queue>>,
    member: u64,
    mut random: Random,
    exact: bool,
) -> Result<(), String> {
    for _ in 0..12 {
        broker.sim.pause(1, 3_000).await;
        let partition = random.below(SHARED_PARTITIONS as u64) as i32;
        let wanted = random.within(1, 6) as i64;
        let given = patiently("ShareFetch", async || fetch(&broker, member, partition, wanted).await).await?;
        let mut what = Vec::new();
        for (offset, deliveries) in given {
            let place = (partition, offset);
            received(&mut queue.borrow_mut(), place, member, exact)?;
            let kind = match random.below(10) {
                0..=2 if deliveries < RELEASES_MAX => RELEASE,
                3 => REJECT,
                _ => ACCEPT,
            };
            what.push((offset, kind));
        }
        if what.is_empty() {
            continue;
        }
        broker.sim.pause(1, 1_000).await;
        let step = broker.sim.steps();
        for (offset, kind) in &what {
            let mut queue = queue.borrow_mut();
            queue.held.remove(&(partition, *offset));
            if *kind != RELEASE {
                queue.done.insert((partition, *offset), (step, None));
            }
        }
        match acknowledge(&broker, member, partition, what.clone()).await {
            Ok(()) => {}
            // The partition's state could not be stored, and what is on disk counts.
            Err(_) if !exact => continue,
            Err(error) => return Err(format!("an acknowledgement was refused: {error:?}")),
        }
        let step = broker.sim.steps();
        for (offset, _) in what.iter().filter(|(_, kind)| *kind != RELEASE) {
            queue.borrow_mut().done.get_mut(&(partition, *offset)).expect("asked above").1 = Some(step);
        }
    }
    Ok(())
}

/// A member was given a record.
fn received(queue: &mut Queue, place: Place, member: u64, exact: bool) -> Result<(), String> {
    if queue.done.get(&place).is_some_and(|(_, answered)| answered.is_some()) {
        return Err(format!("{place:?} is done, and was delivered again"));
    }
    match queue.held.insert(place, member) {
        Some(other) if exact => Err(format!("member {member} was given {place:?}, which {other} has")),
        _ => Ok(()),
    }
}

/// What a broker delivers after a crash at `step`, held against what clients knew then.
pub async fn check(broker: &Broker, queue: &Queue, step: u64) -> Result<(), String> {
    let checker = MEMBERS;
    patiently("ShareGroupHeartbeat", async || join(broker, &format!("m-{checker}")).await).await?;
    let mut delivered = BTreeSet::new();
    for partition in 0..SHARED_PARTITIONS {
        loop {
            let given =
                patiently("ShareFetch", async || fetch(broker, checker, partition, 500).await).await?;
            if given.is_empty() {
                break;
            }
            delivered.extend(given.into_iter().map(|(offset, _)| (partition, offset)));
            rt::yield_now().await;
        }
    }
    for (place, (_, answered)) in &queue.done {
        if answered.is_some_and(|at| at <= step) && delivered.contains(place) {
            return Err(format!("{place:?} was done before step {step}, and is delivered again"));
        }
    }
    for (place, at) in &queue.put {
        let asked = queue.done.get(place).is_some_and(|(asked, _)| *asked <= step);
        if *at <= step && !asked && !delivered.contains(place) {
            return Err(format!(
                "{place:?} was acknowledged at step {at}, nobody is done with it, and it is gone"
            ));
        }
    }
    Ok(())
}
