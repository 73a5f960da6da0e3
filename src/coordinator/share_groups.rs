//! Share groups (KIP-932) as the coordinator's partition serves them: heartbeats, descriptions, and what
//! administrators do to a group's offsets.
//!
//! Owner: the partition's coordinator; share partitions are reached on the cores that own the data. Invariants: an
//! answer goes out once the records of its change are durable; the offsets of a group are changed and deleted only
//! while nobody is in it. It must not assign anything or know windows; `share_group` and `share_partition` do.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::classic::State;
use super::error::GroupError;
use super::groups::{self, Group, GroupPartition, GroupRef, Kind, storage_error};
use super::share_group::{ShareAnswer, ShareDescription, ShareGroup, ShareHeartbeat};
use super::share_partition::{self, ShareError};
use super::share_records::{KnownTopics, StateKey};
use super::state_log::{LogRecord, Stored};
use super::{InternalTopic, home_of};
use crate::catalog::{Catalog, ResourceKind};
use crate::config::GroupConfig;
use crate::limits::{COORDINATOR_LOAD_PAUSE_MS, COORDINATOR_LOAD_PAUSES_MAX, GROUP_MEMBERS_MAX};
use crate::rt;
use crate::shard::Shard;
use crate::sync::{Pending, oneshot};

fn setting(catalog: &Catalog, group: &str, key: &str, broker: i32, bounds: (i32, i32)) -> i32 {
    let own = catalog.dynamic.configs(ResourceKind::Group, group).and_then(|configs| configs.get(key));
    let own = own.and_then(|text| text.parse::<i32>().ok());
    own.map_or(broker, |ms| ms.min(bounds.1).max(bounds.0))
}

/// How often members of a share group are to send a heartbeat, milliseconds.
pub fn heartbeat_interval_ms(rules: &GroupConfig, catalog: &Catalog, name: &str) -> i32 {
    let share = &rules.share;
    let bounds = share.heartbeat_interval_bounds_ms;
    setting(catalog, name, "share.heartbeat.interval.ms", share.heartbeat_interval_ms, bounds)
}

fn session_timeout_ms(rules: &GroupConfig, catalog: &Catalog, name: &str) -> i32 {
    let share = &rules.share;
    setting(
        catalog,
        name,
        "share.session.timeout.ms",
        share.session_timeout_ms,
        share.session_timeout_bounds_ms,
    )
}

/// Whether a group is a share group that reads a partition, or has read it; asked of its coordinator.
pub async fn check_reads(
    shard: &Rc<Shard>,
    group: &str,
    topic_id: Uuid,
    partition: i32,
) -> Result<(), ShareError> {
    for _ in 0..COORDINATOR_LOAD_PAUSES_MAX {
        let home = home_of(shard, InternalTopic::ConsumerOffsets, group).await;
        let home = home.map_err(|_| ShareError::Storage)?;
        let name = group.to_owned();
        let answer = shard.mesh.call(home.core, move |owner| {
            Box::pin(async move {
                groups::open(&owner, home).map(|coordinator| {
                    let found = coordinator.find(&name);
                    let reads = |share: &mut ShareGroup| {
                        share.known().get(&topic_id).is_some_and(|(_, indexes)| indexes.contains(&partition))
                    };
                    found.is_some_and(|group| group.borrow_mut().share().is_some_and(reads))
                })
            })
        });
        match answer.await {
            Some(Ok(true)) => return Ok(()),
            Some(Ok(false)) => return Err(ShareError::Unknown),
            Some(Err(GroupError::Loading)) => rt::sleep_ms(COORDINATOR_LOAD_PAUSE_MS).await,
            Some(Err(_)) | None => return Err(ShareError::Storage),
        }
    }
    Err(ShareError::Storage)
}

/// Does something with a share partition on the core that owns its data.
async fn on_data<R: Send + 'static>(
    shard: &Rc<Shard>,
    key: StateKey,
    work: impl AsyncFnOnce(Rc<Shard>, StateKey) -> Result<R, ShareError> + Send + 'static,
) -> Result<R, ShareError> {
    let core = shard.owner_of(key.topic_id, key.partition);
    let answer = shard.mesh.call(core, move |owner| Box::pin(async move { work(owner, key).await }));
    answer.await.unwrap_or(Err(ShareError::Storage))
}

fn state_key(group: &str, topic_id: Uuid, partition: i32) -> StateKey {
    StateKey { group: group.to_owned(), topic_id, partition }
}

async fn forget_states(shard: &Rc<Shard>, group: &str, topics: &KnownTopics) -> Result<(), GroupError> {
    for (id, (_, indexes)) in topics {
        for index in indexes {
            let key = state_key(group, *id, *index);
            let forgotten =
                on_data(shard, key, async |owner, key| share_partition::forget(&owner, &key).await);
            forgotten.await.map_err(|_| GroupError::Storage)?;
        }
    }
    Ok(())
}

impl Group {
    /// The share group, if it is one.
    pub(super) fn share(&mut self) -> Option<&mut ShareGroup> {
        match &mut self.kind {
            Kind::Share(share) => Some(share),
            Kind::Classic(_) | Kind::Consumer(_) => None,
        }
    }
}

impl GroupPartition {
    /// A heartbeat of a member of a share group, which is also how it joins and leaves.
    pub async fn share_heartbeat(
        self: &Rc<Self>,
        name: &str,
        beat: ShareHeartbeat,
        catalog: Arc<Catalog>,
    ) -> Result<ShareAnswer, GroupError> {
        let group = self.share_group(name, &beat)?;
        let (outcome, stored) = {
            let mut held = group.borrow_mut();
            let share = held.share().ok_or(GroupError::GroupNotFound)?;
            let timeout_ms = session_timeout_ms(&self.config.groups, &catalog, name);
            let outcome = share.heartbeat(name, beat, timeout_ms, &catalog, rt::steady_ms());
            (outcome, self.submit_share(share))
        };
        self.arm(name, &group);
        self.wait_share(stored).await?;
        outcome
    }

    /// The share group of that name, made if a member joins and nobody else has the name.
    fn share_group(&self, name: &str, beat: &ShareHeartbeat) -> Result<GroupRef, GroupError> {
        let joins = beat.epoch == super::consumer::JOIN_EPOCH;
        let group = match joins {
            true => self.find_or_make_share(name)?,
            false => self.find(name).ok_or(GroupError::GroupNotFound)?,
        };
        let size_max = self.config.groups.share.size_max.min(GROUP_MEMBERS_MAX);
        let mut held = group.borrow_mut();
        let share = held.share().ok_or(GroupError::GroupNotFound)?;
        if joins && share.members_beside(&beat.member_id) >= size_max {
            return Err(GroupError::GroupFull);
        }
        drop(held);
        Ok(group)
    }

    /// The share group of that name, made if nobody else has the name.
    fn find_or_make_share(&self, name: &str) -> Result<GroupRef, GroupError> {
        let group = self.find_or_make(name)?;
        let mut held = group.borrow_mut();
        let unused = match &held.kind {
            Kind::Classic(classic) => {
                classic.state() == State::Empty && classic.is_vacant() && classic.generation() == 0
            }
            Kind::Consumer(_) | Kind::Share(_) => false,
        };
        if unused && held.offsets.is_empty() && held.commits_in_flight == 0 {
            held.kind = Kind::Share(ShareGroup::default());
        }
        held.share().ok_or(GroupError::GroupNotFound)?;
        drop(held);
        Ok(group)
    }

    fn submit_share(&self, share: &mut ShareGroup) -> Option<Pending<Stored>> {
        let records = share.take_records();
        if records.is_empty() {
            return None;
        }
        Some(self.log.submit(records, None).unwrap_or_else(|error| {
            let (promise, pending) = oneshot();
            promise.fill(Err(error));
            pending
        }))
    }

    async fn wait_share(self: &Rc<Self>, stored: Option<Pending<Stored>>) -> Result<(), GroupError> {
        let Some(pending) = stored else { return Ok(()) };
        if let Err(error) = pending.wait().await {
            // What is in memory is ahead of the log: only the log counts.
            self.reload();
            return Err(storage_error(error));
        }
        Ok(())
    }

    /// Carries out what is due in a share group.
    pub(super) fn tick_share_group(self: &Rc<Self>, name: &str, group: &GroupRef, now_ms: i64) {
        let stored = {
            let mut held = group.borrow_mut();
            let Some(share) = held.share() else { return };
            share.tick(name, now_ms);
            self.submit_share(share)
        };
        let partition = self.clone();
        rt::spawn(async move {
            if let Err(error) = partition.wait_share(stored).await {
                tracing::warn!("a share group's time-out could not be stored: {error}");
            }
        });
    }

    /// A share group in detail.
    pub fn describe_share(&self, name: &str) -> Result<ShareDescription, GroupError> {
        let group = self.find(name).ok_or(GroupError::GroupNotFound)?;
        let mut held = group.borrow_mut();
        held.share().map(|share| share.describe()).ok_or(GroupError::GroupNotFound)
    }

    /// Topics of which a share group has, or may have, a state.
    pub fn share_topics(&self, name: &str) -> Result<KnownTopics, GroupError> {
        let group = self.find(name).ok_or(GroupError::GroupNotFound)?;
        let mut held = group.borrow_mut();
        held.share().map(|share| share.known().clone()).ok_or(GroupError::GroupNotFound)
    }

    /// Whether there is a share group of that name.
    pub fn is_share(&self, name: &str) -> bool {
        self.share_topics(name).is_ok()
    }

    /// The share group, which must have no members.
    fn empty_share(&self, name: &str) -> Result<GroupRef, GroupError> {
        let group = self.find(name).ok_or(GroupError::GroupNotFound)?;
        let is_empty = group.borrow_mut().share().map(|share| share.is_empty());
        match is_empty {
            Some(true) => Ok(group),
            Some(false) => Err(GroupError::NonEmpty),
            None => Err(GroupError::GroupNotFound),
        }
    }

    /// Sets where a share group without members goes on, and makes the group if there is none; one result for each
    /// partition.
    pub async fn alter_share_offsets(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        name: &str,
        offsets: Vec<(Uuid, String, i32, i64)>,
    ) -> Result<Vec<Result<(), ShareError>>, GroupError> {
        if name.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        if offsets.is_empty() {
            return Ok(Vec::new());
        }
        self.find_or_make_share(name)?;
        let group = self.empty_share(name)?;
        let stored = {
            let mut held = group.borrow_mut();
            let share = held.share().ok_or(GroupError::GroupNotFound)?;
            share.begin(name);
            let topics =
                offsets.iter().map(|(id, topic, index, _)| (*id, topic.clone(), BTreeSet::from([*index])));
            share.know(name, topics);
            self.submit_share(share)
        };
        self.wait_share(stored).await?;
        let mut results = Vec::with_capacity(offsets.len());
        for (topic_id, _, index, offset) in offsets {
            let key = state_key(name, topic_id, index);
            let reset = on_data(shard, key, async move |owner: Rc<Shard>, key: StateKey| {
                share_partition::reset(&owner, &key, offset).await
            });
            results.push(reset.await);
        }
        Ok(results)
    }

    /// Forgets what a share group without members has done with topics; for each whether it had done anything.
    pub async fn delete_share_offsets(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        name: &str,
        topics: Vec<Uuid>,
    ) -> Result<Vec<bool>, GroupError> {
        let group = self.empty_share(name)?;
        let mut known = self.share_topics(name)?;
        known.retain(|id, _| topics.contains(id));
        let stored = {
            let mut held = group.borrow_mut();
            let share = held.share().ok_or(GroupError::GroupNotFound)?;
            share.unknow(name, &topics);
            self.submit_share(share)
        };
        forget_states(shard, name, &known).await?;
        self.wait_share(stored).await?;
        Ok(topics.iter().map(|id| known.contains_key(id)).collect())
    }

    /// Deletes a share group without members, and all it has done.
    pub async fn delete_share_group(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        name: &str,
    ) -> Result<(), GroupError> {
        let group = self.empty_share(name)?;
        let (known, keys) = match group.borrow_mut().share() {
            Some(share) => (share.known().clone(), share.record_keys(name)),
            None => return Err(GroupError::GroupNotFound),
        };
        // Out of memory at once: a group of the same name that begins now has its records behind the tombstones.
        self.forget(name);
        let records = keys.into_iter().map(|key| LogRecord { key, value: None }).collect();
        let stored = self.log.submit(records, None).map_err(storage_error)?;
        forget_states(shard, name, &known).await?;
        stored.wait().await.map_err(storage_error)?;
        Ok(())
    }
}

/// Where a share group stands with a partition, asked of the core that owns the data: start offset, leader epoch, and
/// how many offsets from the start on are not done, or -1 if that is not known; `None` before it has begun.
pub async fn share_offset(
    shard: &Rc<Shard>,
    group: &str,
    topic_id: Uuid,
    partition: i32,
) -> Result<Option<(i64, i32, i64)>, ShareError> {
    let key = state_key(group, topic_id, partition);
    on_data(shard, key, async |owner, key| {
        let stored = share_partition::stored(&owner, &key).await?;
        let end = owner.partition(key.topic_id, key.partition).map(|data| data.log.high_watermark());
        Ok(stored.map(|(start, leader_epoch, done)| {
            let lag = end.map_or(-1, |end| (end - start - done).max(0));
            (start, leader_epoch, lag)
        }))
    })
    .await
}
