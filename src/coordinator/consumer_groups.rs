//! Consumer groups (KIP-848) as the coordinator's partition serves them: heartbeats, time-outs, and groups that change
//! between the two protocols.
//!
//! Owner: the partition's coordinator. Invariants: an answer goes out once the records of its change are durable; when
//! they cannot be made so, the partition forgets what it knows and reads its log again.
//! It must not assign anything; `consumer` and `assignor` do.

use std::rc::Rc;
use std::sync::Arc;

use super::classic::{ClassicGroup, JoinOutcome, JoinRequest, State};
use super::consumer::{ConsumerAnswer, ConsumerGroup, ConsumerHeartbeat, JOIN_EPOCH, check_subscription};
use super::consumer_classic::from_classic;
use super::error::GroupError;
use super::groups::{GroupPartition, GroupRef, Kind, new_member_id, storage_error};
use super::records::Key;
use super::state_log::{LogRecord, Stored};
use crate::catalog::{Catalog, ResourceKind};
use crate::config::GroupConfig;
use crate::limits::GROUP_MEMBERS_MAX;
use crate::rt;
use crate::sync::Pending;

/// The session time-out of a group: its own (KIP-848's group configurations) or the broker's, within the bounds.
fn session_timeout_ms(rules: &GroupConfig, catalog: &Catalog, name: &str) -> i32 {
    let own = group_setting(catalog, name, "consumer.session.timeout.ms");
    let (min, max) = rules.consumer_session_timeout_bounds_ms;
    own.map_or(rules.consumer_session_timeout_ms, |ms| ms.min(max).max(min))
}

/// How often members of a group are to send a heartbeat, milliseconds.
pub fn heartbeat_interval_ms(rules: &GroupConfig, catalog: &Catalog, name: &str) -> i32 {
    let own = group_setting(catalog, name, "consumer.heartbeat.interval.ms");
    let (min, max) = rules.consumer_heartbeat_interval_bounds_ms;
    own.map_or(rules.consumer_heartbeat_interval_ms, |ms| ms.min(max).max(min))
}

fn group_setting(catalog: &Catalog, name: &str, key: &str) -> Option<i32> {
    catalog.dynamic.configs(ResourceKind::Group, name)?.get(key)?.parse().ok()
}

impl GroupPartition {
    /// A heartbeat of a member of the new protocol, which is also how it joins and leaves.
    pub async fn consumer_heartbeat(
        self: &Rc<Self>,
        name: &str,
        request: ConsumerHeartbeat,
        catalog: Arc<Catalog>,
    ) -> Result<ConsumerAnswer, GroupError> {
        check_subscription(&request)?;
        let rules = &self.config.groups;
        if request.assignor.as_ref().is_some_and(|asked| !rules.consumer_assignors.contains(asked)) {
            return Err(GroupError::UnsupportedAssignor);
        }
        let group = self.consumer_group(name, &request, &catalog)?;
        let (outcome, stored) = {
            let mut held = group.borrow_mut();
            let Kind::Consumer(consumer) = &mut held.kind else { return Err(GroupError::GroupNotFound) };
            let timeout_ms = session_timeout_ms(rules, &catalog, name);
            let outcome = consumer.heartbeat(name, request, timeout_ms, &catalog, rt::steady_ms());
            (outcome, self.submit(consumer))
        };
        let downgraded = self.downgrade(name, &group);
        self.arm(name, &group);
        self.wait_stored(stored).await?;
        self.wait_stored(downgraded).await?;
        outcome
    }

    /// The consumer group of that name, made or changed from a classic one if a member joins.
    fn consumer_group(
        &self,
        name: &str,
        request: &ConsumerHeartbeat,
        catalog: &Catalog,
    ) -> Result<GroupRef, GroupError> {
        let rules = &self.config.groups;
        let joins = request.epoch == JOIN_EPOCH;
        let known = self.find(name);
        let is_consumer =
            known.as_ref().is_some_and(|group| matches!(group.borrow().kind, Kind::Consumer(_)));
        if !joins {
            return known.filter(|_| is_consumer).ok_or(GroupError::GroupNotFound);
        }
        let group = match known {
            Some(group) => group,
            None => self.find_or_make(name)?,
        };
        {
            let mut held = group.borrow_mut();
            let size_max = rules.consumer_size_max.min(GROUP_MEMBERS_MAX);
            match &mut held.kind {
                Kind::Consumer(consumer) => {
                    let is_new = !consumer.members.contains_key(&request.member_id);
                    if is_new && consumer.members.len() >= size_max {
                        return Err(GroupError::GroupFull);
                    }
                }
                Kind::Classic(classic) => {
                    let next = self.upgraded(name, classic, catalog).ok_or(GroupError::GroupNotFound)?;
                    held.kind = Kind::Consumer(next);
                }
                Kind::Share(_) => return Err(GroupError::GroupNotFound),
            }
        }
        Ok(group)
    }

    fn default_assignor(&self) -> &str {
        self.config.groups.consumer_assignors.first().map_or("uniform", String::as_str)
    }

    /// The consumer group that takes a classic one's place, if it may.
    fn upgraded(&self, name: &str, classic: &mut ClassicGroup, catalog: &Catalog) -> Option<ConsumerGroup> {
        if classic.state() == State::Empty && classic.is_vacant() {
            let mut group = ConsumerGroup::new(self.default_assignor());
            if classic.protocol_type().is_some() {
                group.write(Key::Group(name), None);
            }
            return Some(group);
        }
        let may = self.config.groups.migration.upgrade && classic.protocol_type() == Some("consumer");
        let next =
            may.then(|| from_classic(name, classic, self.default_assignor(), catalog, rt::steady_ms()));
        let next = next.flatten()?;
        tracing::info!("group {name}: changes from the classic to the consumer protocol");
        Some(next)
    }

    /// When the last member of the new protocol has gone, the classic ones go on among themselves.
    fn downgrade(self: &Rc<Self>, name: &str, group: &GroupRef) -> Option<Pending<Stored>> {
        let mut held = group.borrow_mut();
        let Kind::Consumer(consumer) = &mut held.kind else { return None };
        if !self.config.groups.migration.downgrade || !consumer.is_all_classic() {
            return None;
        }
        let now_ms = rt::steady_ms();
        let mut classic = consumer.to_classic(self.rules(), now_ms);
        let mut records: Vec<LogRecord> =
            consumer.record_keys(name).into_iter().map(|key| LogRecord { key, value: None }).collect();
        records
            .push(LogRecord { key: Key::Group(name).encode(), value: Some(classic.record(None).encode()) });
        tracing::info!("group {name}: changes from the consumer to the classic protocol");
        classic.rebalance(now_ms);
        held.kind = Kind::Classic(classic);
        drop(held);
        let stored = self.log.submit(records, None);
        self.settle(name, group);
        stored.ok()
    }

    fn submit(&self, consumer: &mut ConsumerGroup) -> Option<Pending<Stored>> {
        let records = consumer.take_records();
        if records.is_empty() {
            return None;
        }
        match self.log.submit(records, None) {
            Ok(pending) => Some(pending),
            Err(error) => {
                let (promise, pending) = crate::sync::oneshot();
                promise.fill(Err(error));
                Some(pending)
            }
        }
    }

    async fn wait_stored(self: &Rc<Self>, stored: Option<Pending<Stored>>) -> Result<(), GroupError> {
        let Some(pending) = stored else { return Ok(()) };
        match pending.wait().await {
            Ok(_) => Ok(()),
            Err(error) => {
                // What is in memory is ahead of the log: only the log counts.
                self.reload();
                Err(storage_error(error))
            }
        }
    }

    /// Lets a classic member join a consumer group; `None` if it is none, or has become a classic one by that.
    pub(super) async fn join_consumer_group(
        self: &Rc<Self>,
        name: &str,
        group: &GroupRef,
        request: &JoinRequest,
        catalog: &Catalog,
    ) -> Option<JoinOutcome> {
        let (outcome, stored) = {
            let mut held = group.borrow_mut();
            let Kind::Consumer(consumer) = &mut held.kind else { return None };
            if consumer.is_empty() && request.member_id.is_empty() {
                // Nobody is in it: it becomes a classic group.
                let keys = consumer.record_keys(name);
                let records = keys.into_iter().map(|key| LogRecord { key, value: None }).collect();
                let classic = ClassicGroup::new(self.rules(), rt::steady_ms());
                held.kind = Kind::Classic(classic);
                (None, self.log.submit(records, None).ok())
            } else {
                let room = consumer.members.contains_key(&request.member_id)
                    || consumer.members.len() + consumer.promised.len()
                        < self.config.groups.consumer_size_max.min(GROUP_MEMBERS_MAX);
                let outcome = match room {
                    true => consumer.join_classic(name, request, new_member_id, catalog, rt::steady_ms()),
                    false => JoinOutcome::error(GroupError::GroupFull, &request.member_id),
                };
                (Some(outcome), self.submit(consumer))
            }
        };
        self.arm(name, group);
        match self.wait_stored(stored).await {
            Ok(()) => outcome,
            Err(error) => Some(JoinOutcome::error(error, &request.member_id)),
        }
    }

    /// Lets classic members leave a consumer group; `None` if it is none.
    pub(super) async fn leave_consumer_group(
        self: &Rc<Self>,
        name: &str,
        group: &GroupRef,
        members: &[(String, Option<String>)],
    ) -> Option<Vec<Result<(), GroupError>>> {
        let (results, stored) = {
            let mut held = group.borrow_mut();
            let Kind::Consumer(consumer) = &mut held.kind else { return None };
            let results: Vec<_> = members
                .iter()
                .map(|(id, instance)| consumer.leave_classic(name, id, instance.as_deref()))
                .collect();
            (results, self.submit(consumer))
        };
        let downgraded = self.downgrade(name, group);
        self.arm(name, group);
        for stored in [stored, downgraded] {
            if let Err(error) = self.wait_stored(stored).await {
                return Some(members.iter().map(|_| Err(error)).collect());
            }
        }
        Some(results)
    }

    /// Carries out what is due in a consumer group.
    pub(super) fn tick_consumer_group(self: &Rc<Self>, name: &str, group: &GroupRef, now_ms: i64) {
        let stored = {
            let mut held = group.borrow_mut();
            let Kind::Consumer(consumer) = &mut held.kind else { return };
            consumer.tick(name, now_ms);
            self.submit(consumer)
        };
        let downgraded = self.downgrade(name, group);
        let partition = self.clone();
        rt::spawn(async move {
            for stored in [stored, downgraded] {
                if let Err(error) = partition.wait_stored(stored).await {
                    tracing::warn!("a group's time-out could not be stored: {error}");
                }
            }
        });
    }
}
