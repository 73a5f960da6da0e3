//! The groups of one core: those whose names hash to a partition of `__consumer_offsets` that the core owns.
//!
//! Owner: the core. Each internal partition has its groups, its log and its timers. Invariants: a partition answers
//! only after it has read its log; what a group wants stored is in the log's queue before the group is touched again;
//! a committed offset is visible once it is durable.
//! The files beside it: `groups_load` (reading the log), `groups_offsets` (commit, fetch, expiry), `classic*` and
//! `consumer*` (the two kinds of groups). It must not know the wire format of requests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::classic::{ClassicGroup, JoinOutcome, JoinRequest, Rules, State, Store, SyncOutcome};
use super::classic_sync::{MemberRef, SyncRequest};
use super::consumer::ConsumerGroup;
use super::error::GroupError;
use super::offsets::Offsets;
use super::parked::park;
use super::records::Key;
use super::share_group::ShareGroup;
use super::state_log::{LogRecord, StateLog, StateLogError};
use super::{Home, InternalTopic};
use crate::catalog::Catalog;
use crate::config::BrokerConfig;
use crate::limits::{GROUP_MEMBERS_MAX, GROUP_TIMER_MS_MAX, GROUPS_PER_PARTITION_MAX};
use crate::maps::{HashMap, HashSet};
use crate::rt;
use crate::shard::Shard;
use crate::sync::Event;

/// The groups of one core, as the shard holds them.
#[derive(Default)]
pub struct Groups {
    partitions: RefCell<HashMap<i32, Rc<GroupPartition>>>,
    /// Fires when a time-out comes before the one the timer sleeps for.
    wake: Rc<Event>,
    /// What the timer sleeps for.
    sleeps_until_ms: Rc<Cell<i64>>,
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Loading,
    Active,
    /// Its log cannot be read.
    Failed,
}

/// The three protocols.
#[derive(Debug)]
pub(super) enum Kind {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
    Share(ShareGroup),
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) kind: Kind,
    pub(super) offsets: Offsets,
    /// Commits on their way to the log.
    pub(super) commits_in_flight: usize,
    /// The time-out that the timer knows of.
    armed_ms: Option<i64>,
}

impl Group {
    pub(super) fn new(kind: Kind) -> Group {
        Group { kind, offsets: Offsets::default(), commits_in_flight: 0, armed_ms: None }
    }

    fn next_deadline_ms(&self) -> Option<i64> {
        match &self.kind {
            Kind::Classic(group) => group.next_deadline_ms(),
            Kind::Consumer(group) => group.next_deadline_ms(),
            Kind::Share(group) => group.next_deadline_ms(),
        }
    }

    /// The classic group, if it is one.
    pub(super) fn classic(&mut self) -> Option<&mut ClassicGroup> {
        match &mut self.kind {
            Kind::Classic(group) => Some(group),
            Kind::Consumer(_) | Kind::Share(_) => None,
        }
    }
}

pub(super) type GroupRef = Rc<RefCell<Group>>;

/// The coordinator of one internal partition.
pub struct GroupPartition {
    pub(super) config: Arc<BrokerConfig>,
    pub(super) log: Rc<StateLog>,
    pub(super) phase: Cell<Phase>,
    pub(super) groups: RefCell<HashMap<Rc<str>, GroupRef>>,
    /// Groups in which a producer has pending offsets.
    pub(super) pending: RefCell<HashMap<i64, HashSet<Rc<str>>>>,
    deadlines: RefCell<BTreeSet<(i64, Rc<str>)>>,
    wake: Rc<Event>,
    sleeps_until_ms: Rc<Cell<i64>>,
}

/// The coordinator that is at home in `home`, which must be a partition of this core; begins to load it if need be.
pub fn open(shard: &Rc<Shard>, home: Home) -> Result<Rc<GroupPartition>, GroupError> {
    let groups = &shard.coordinators.groups;
    let known = groups.partitions.borrow().get(&home.partition).cloned();
    let found = match known {
        Some(found) => found,
        None => {
            let partition =
                shard.partition(home.topic_id, home.partition).ok_or(GroupError::NotCoordinator)?;
            let found = Rc::new(GroupPartition {
                config: shard.config.clone(),
                log: StateLog::new(partition),
                phase: Cell::new(Phase::Loading),
                groups: RefCell::default(),
                pending: RefCell::default(),
                deadlines: RefCell::default(),
                wake: groups.wake.clone(),
                sleeps_until_ms: groups.sleeps_until_ms.clone(),
            });
            groups.partitions.borrow_mut().insert(home.partition, found.clone());
            found.begin_loading();
            found
        }
    };
    match found.phase.get() {
        Phase::Active => Ok(found),
        Phase::Loading => Err(GroupError::Loading),
        Phase::Failed => Err(GroupError::NotAvailable),
    }
}

/// All coordinators of this core; an error while one is loading.
pub fn open_all(shard: &Rc<Shard>) -> Result<Vec<Rc<GroupPartition>>, GroupError> {
    let Some(topic) = InternalTopic::ConsumerOffsets.find(&shard.catalog()) else { return Ok(Vec::new()) };
    let mine =
        (0..topic.partition_count() as i32).filter(|index| shard.owner_of(topic.id, *index) == shard.core);
    // A partition that nobody has written to has no groups.
    let used = mine.filter(|index| {
        let known = shard.coordinators.groups.partitions.borrow().contains_key(index);
        known
            || shard
                .partition(topic.id, *index)
                .is_some_and(|p| p.log.log_end_offset() > p.log.log_start_offset())
    });
    used.map(|partition| open(shard, Home { core: shard.core, topic_id: topic.id, partition })).collect()
}

/// Loads what a start finds, then keeps the time of all groups of this core.
pub(super) async fn serve(shard: Rc<Shard>) {
    let _ = open_all(&shard);
    let groups = &shard.coordinators.groups;
    let stopped = shard.stop.wait_until(|| shard.is_stopping());
    let timer = async {
        let mut expiry_ms = rt::steady_ms() + check_interval_ms(&shard);
        loop {
            let seen = groups.wake.generation();
            let now_ms = rt::steady_ms();
            let all: Vec<_> = groups.partitions.borrow().values().cloned().collect();
            all.iter().for_each(|partition| partition.tick(now_ms));
            if now_ms >= expiry_ms {
                expiry_ms = now_ms + check_interval_ms(&shard);
                for partition in &all {
                    partition.expire_offsets(shard.expiry_ms());
                    rt::yield_now().await;
                }
            }
            let next_ms = all.iter().filter_map(|partition| partition.first_deadline_ms()).min();
            let until_ms = next_ms.unwrap_or(i64::MAX).min(now_ms + GROUP_TIMER_MS_MAX).min(expiry_ms);
            groups.sleeps_until_ms.set(until_ms);
            let sleep = rt::sleep_ms((until_ms - rt::steady_ms()).max(0) as u64);
            futures_lite::future::or(sleep, groups.wake.wait_past(seen)).await;
        }
    };
    futures_lite::future::or(stopped, timer).await;
    let all: Vec<_> = groups.partitions.borrow().values().cloned().collect();
    all.iter().for_each(|partition| partition.shut_down(GroupError::NotAvailable));
}

fn check_interval_ms(shard: &Shard) -> i64 {
    i64::try_from(shard.config.groups.offsets_check_interval_ms).unwrap_or(i64::MAX / 2).min(i64::MAX / 2)
}

/// A member id: a prefix that people recognise, and a part that nobody guesses.
pub fn new_member_id(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::new_v4())
}

impl GroupPartition {
    /// What the configuration says about classic groups.
    pub(super) fn rules(&self) -> Rules {
        let groups = &self.config.groups;
        Rules {
            initial_delay_ms: i64::from(groups.initial_rebalance_delay_ms),
            size_max: groups.size_max.min(GROUP_MEMBERS_MAX),
        }
    }

    /// A group that is there.
    pub(super) fn find(&self, name: &str) -> Option<GroupRef> {
        self.groups.borrow().get(name).cloned()
    }

    /// A group, made if it is not there.
    pub(super) fn find_or_make(&self, name: &str) -> Result<GroupRef, GroupError> {
        if let Some(found) = self.find(name) {
            return Ok(found);
        }
        let mut groups = self.groups.borrow_mut();
        if groups.len() >= GROUPS_PER_PARTITION_MAX {
            return Err(GroupError::NotAvailable);
        }
        let kind = Kind::Classic(ClassicGroup::new(self.rules(), rt::steady_ms()));
        let group = Rc::new(RefCell::new(Group::new(kind)));
        groups.insert(Rc::from(name), group.clone());
        Ok(group)
    }

    /// A member joins; resolves when the rebalance has come to its answer.
    pub async fn join(
        self: &Rc<Self>,
        name: &str,
        request: JoinRequest,
        catalog: Arc<Catalog>,
    ) -> JoinOutcome {
        let bounds = self.config.groups.session_timeout_ms;
        let refused = |error| JoinOutcome::error(error, &request.member_id);
        if name.is_empty() {
            return refused(GroupError::InvalidGroupId);
        }
        if !(bounds.0..=bounds.1).contains(&request.session_timeout_ms) {
            return refused(GroupError::InvalidSessionTimeout);
        }
        let found = match self.find(name) {
            None if !request.member_id.is_empty() => return refused(GroupError::UnknownMember),
            Some(found) => Ok(found),
            None => self.find_or_make(name),
        };
        let group = match found {
            Ok(group) => group,
            Err(error) => return refused(error),
        };
        if let Some(outcome) = self.join_consumer_group(name, &group, &request, &catalog).await {
            return outcome;
        }
        let (answer, pending) = park();
        let id = request.member_id.clone();
        match group.borrow_mut().classic() {
            Some(classic) => classic.join(request, answer, new_member_id, rt::steady_ms()),
            None => answer.refuse(GroupError::InconsistentProtocol),
        }
        self.settle(name, &group);
        let mut outcome = pending.wait().await;
        if outcome.member_id.is_empty() && outcome.error.is_some() {
            outcome.member_id = id;
        }
        outcome
    }

    /// A member brings or fetches assignments.
    pub async fn sync(
        self: &Rc<Self>,
        name: &str,
        request: SyncRequest,
        catalog: Arc<Catalog>,
    ) -> SyncOutcome {
        let group = self.find(name).ok_or(GroupError::UnknownMember)?;
        let (answer, pending) = park();
        let now_ms = rt::steady_ms();
        match &mut group.borrow_mut().kind {
            Kind::Classic(classic) => classic.sync(request, answer, now_ms),
            Kind::Consumer(consumer) => answer.answer(consumer.sync_classic(&request, &catalog, now_ms)),
            Kind::Share(_) => answer.refuse(GroupError::UnknownMember),
        }
        self.settle(name, &group);
        pending.wait().await
    }

    /// A member is alive.
    pub fn heartbeat(self: &Rc<Self>, name: &str, member: &MemberRef) -> Result<(), GroupError> {
        let group = self.find(name).ok_or(GroupError::UnknownMember)?;
        let now_ms = rt::steady_ms();
        // A heartbeat only moves a time-out away: the timer finds that out by itself.
        match &mut group.borrow_mut().kind {
            Kind::Classic(classic) => classic.heartbeat(member, now_ms),
            Kind::Consumer(consumer) => consumer.heartbeat_classic(member, now_ms),
            Kind::Share(_) => Err(GroupError::UnknownMember),
        }
    }

    /// Members leave, each by member id or instance id; one result each.
    pub async fn leave(
        self: &Rc<Self>,
        name: &str,
        members: &[(String, Option<String>)],
    ) -> Vec<Result<(), GroupError>> {
        let Some(group) = self.find(name) else {
            return members.iter().map(|_| Err(GroupError::UnknownMember)).collect();
        };
        if let Some(results) = self.leave_consumer_group(name, &group, members).await {
            return results;
        }
        let now_ms = rt::steady_ms();
        let results = members
            .iter()
            .map(|(member, instance)| match group.borrow_mut().classic() {
                Some(classic) => classic.leave(member, instance.as_deref(), now_ms),
                None => Err(GroupError::UnknownMember),
            })
            .collect();
        self.settle(name, &group);
        results
    }

    /// After a group was touched: sends what it wants stored on its way, and notes its next time-out.
    pub(super) fn settle(self: &Rc<Self>, name: &str, group: &GroupRef) {
        let store = group.borrow_mut().classic().and_then(ClassicGroup::take_store);
        if let Some(store) = store {
            self.store(name, group, store);
        }
        self.arm(name, group);
        self.forget_if_unused(name, group);
    }

    fn store(self: &Rc<Self>, name: &str, group: &GroupRef, store: Store) {
        let value = match (&mut group.borrow_mut().kind, &store) {
            (Kind::Classic(classic), Store::Assignment { assignments, .. }) => {
                classic.record(Some(assignments)).encode()
            }
            (Kind::Classic(classic), _) => classic.record(None).encode(),
            (Kind::Consumer(_) | Kind::Share(_), _) => return,
        };
        let record = LogRecord { key: Key::Group(name).encode(), value: Some(value) };
        let submitted = self.log.submit(vec![record], None);
        let (partition, group, name) = (self.clone(), group.clone(), name.to_owned());
        rt::spawn(async move {
            let outcome = match submitted {
                Ok(pending) => pending.wait().await.map(drop),
                Err(error) => Err(error),
            };
            if let Some(classic) = group.borrow_mut().classic() {
                classic.stored(store, outcome.map_err(storage_error), rt::steady_ms());
            }
            partition.settle(&name, &group);
        });
    }

    /// Notes the group's next time-out.
    pub(super) fn arm(&self, name: &str, group: &GroupRef) {
        let mut group = group.borrow_mut();
        let next_ms = group.next_deadline_ms();
        if group.armed_ms == next_ms {
            return;
        }
        let mut deadlines = self.deadlines.borrow_mut();
        if let Some(armed_ms) = group.armed_ms {
            deadlines.remove(&(armed_ms, Rc::from(name)));
        }
        group.armed_ms = next_ms;
        if let Some(next_ms) = next_ms {
            deadlines.insert((next_ms, Rc::from(name)));
            if next_ms < self.sleeps_until_ms.get() {
                self.wake.fire();
            }
        }
    }

    fn first_deadline_ms(&self) -> Option<i64> {
        self.deadlines.borrow().first().map(|(deadline_ms, _)| *deadline_ms)
    }

    fn tick(self: &Rc<Self>, now_ms: i64) {
        loop {
            let due =
                self.deadlines.borrow().first().filter(|(deadline_ms, _)| *deadline_ms <= now_ms).cloned();
            let Some((deadline_ms, name)) = due else { break };
            self.deadlines.borrow_mut().remove(&(deadline_ms, name.clone()));
            let Some(group) = self.find(&name) else { continue };
            let ticked = {
                let mut group = group.borrow_mut();
                group.armed_ms = None;
                group.classic().map(|classic| classic.tick(now_ms))
            };
            if ticked.is_none() {
                self.tick_consumer_group(&name, &group, now_ms);
                self.tick_share_group(&name, &group, now_ms);
            }
            self.settle(&name, &group);
        }
    }

    /// A group that was never more than a wish leaves no trace.
    fn forget_if_unused(&self, name: &str, group: &GroupRef) {
        let unused = {
            let group = group.borrow();
            match &group.kind {
                Kind::Classic(classic) => {
                    classic.is_vacant()
                        && classic.state() == State::Empty
                        && classic.generation() == 0
                        && group.offsets.is_empty()
                        && group.commits_in_flight == 0
                }
                Kind::Consumer(_) | Kind::Share(_) => false,
            }
        };
        if unused && self.groups.borrow().get(name).is_some_and(|known| Rc::ptr_eq(known, group)) {
            self.forget(name);
        }
    }

    /// Takes a group out of memory.
    pub(super) fn forget(&self, name: &str) {
        let Some(group) = self.groups.borrow_mut().remove(name) else { return };
        if let Some(armed_ms) = group.borrow_mut().armed_ms.take() {
            self.deadlines.borrow_mut().remove(&(armed_ms, Rc::from(name)));
        }
    }

    fn shut_down(&self, error: GroupError) {
        for group in self.groups.borrow().values() {
            if let Some(classic) = group.borrow_mut().classic() {
                classic.shut_down(error);
            }
        }
    }

    /// Whatever was in memory is doubtful: reads the log again.
    pub(super) fn reload(self: &Rc<Self>) {
        self.shut_down(GroupError::NotCoordinator);
        self.groups.borrow_mut().clear();
        self.pending.borrow_mut().clear();
        self.deadlines.borrow_mut().clear();
        self.begin_loading();
    }
}

/// What a client is told when its record could not be stored.
pub(super) fn storage_error(error: StateLogError) -> GroupError {
    match error {
        StateLogError::Busy => GroupError::NotAvailable,
        StateLogError::Failed(_) => GroupError::Storage,
    }
}
