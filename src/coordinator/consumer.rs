//! A consumer group (KIP-848): the coordinator assigns, members follow from heartbeat to heartbeat.
//!
//! Owner: the group's coordinator, on one core. Time comes in as an argument. Spec: KIP-848.
//! Three epochs: the group's rises when a subscription or a topic changes; the assignment's follows when a new
//! target is computed; a member's when it has given back what is no longer its own.
//! Invariants: a partition is given to a member only after the one that had it has given it back; every change
//! leaves its records in [`ConsumerGroup::take_records`], and nothing is answered before they are durable.
//! It must not do I/O. `consumer_classic` has the members that still speak the classic protocol.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::assignor::{Assignor, AssignorMember};
use super::classic_sync::MemberRef;
use super::error::GroupError;
use super::records::{CurrentRecord, Key, Partitions, Subscription, encode_epoch, encode_target};
use super::state_log::LogRecord;
use crate::catalog::Catalog;
use crate::limits::{GROUP_REGEX_BYTES_MAX, GROUP_REGEXES_MAX, REGEX_PROGRAM_BYTES_MAX};
use crate::maps::HashMap;

/// The epoch with which a member joins.
pub const JOIN_EPOCH: i32 = 0;
/// The epoch with which a member leaves.
pub const LEAVE_EPOCH: i32 = -1;
/// The epoch with which a static member leaves to come back.
pub const LEAVE_STATIC_EPOCH: i32 = -2;

/// How far a member is with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MemberState {
    /// It has what it is to have.
    #[default]
    Stable,
    /// It has to give partitions back.
    Unrevoked,
    /// It waits for partitions that others hold.
    Unreleased,
}

/// One member.
#[derive(Clone, Debug, Default)]
pub struct ConsumerMember {
    pub(super) subscription: Subscription,
    pub(super) epoch: i32,
    pub(super) previous_epoch: i32,
    pub(super) state: MemberState,
    pub(super) assigned: Partitions,
    pub(super) revoking: Partitions,
    /// End of its session.
    pub(super) deadline_ms: i64,
    /// Until when it must have given partitions back.
    pub(super) revoke_deadline_ms: Option<i64>,
}

impl ConsumerMember {
    /// Whether it speaks the classic protocol.
    pub(super) fn is_classic(&self) -> bool {
        self.subscription.classic.is_some()
    }

    fn record(&self) -> CurrentRecord {
        CurrentRecord {
            epoch: self.epoch,
            previous_epoch: self.previous_epoch,
            state: match self.state {
                MemberState::Stable => 0,
                MemberState::Unrevoked => 1,
                MemberState::Unreleased => 2,
            },
            assigned: self.assigned.clone(),
            revoking: self.revoking.clone(),
        }
    }
}

/// A heartbeat.
#[derive(Clone, Debug, Default)]
pub struct ConsumerHeartbeat {
    /// Member id, chosen by the client.
    pub member_id: String,
    /// Its epoch, or one of the three that mean joining and leaving.
    pub epoch: i32,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Where it stands.
    pub rack_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Rebalance time-out, milliseconds; -1 for no change.
    pub rebalance_timeout_ms: i32,
    /// Topics by name; `None` for no change.
    pub topics: Option<Vec<String>>,
    /// Topics by expression; `None` for no change, empty for none.
    pub regex: Option<String>,
    /// The assignor it wants; `None` for no change.
    pub assignor: Option<String>,
    /// What it owns; `None` for no change.
    pub owned: Option<Partitions>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerAnswer {
    /// Member id.
    pub member_id: String,
    /// Its epoch now.
    pub epoch: i32,
    /// What it is to have, if it must be told.
    pub assignment: Option<Partitions>,
}

/// A group in detail.
#[derive(Clone, Debug, Default)]
pub struct ConsumerDescription {
    /// State, as clients name it.
    pub state: &'static str,
    /// Group epoch.
    pub epoch: i32,
    /// Epoch of the target.
    pub assignment_epoch: i32,
    /// Name of the assignor in use.
    pub assignor: String,
    /// Member id, subscription, epoch, what it has and is to have.
    pub members: Vec<MemberDetails>,
}

/// A member of a [`ConsumerDescription`].
#[derive(Clone, Debug, Default)]
pub struct MemberDetails {
    /// Member id.
    pub member_id: String,
    /// What it said about itself.
    pub subscription: Subscription,
    /// Its epoch.
    pub epoch: i32,
    /// What it has.
    pub assigned: Partitions,
    /// What it is to have.
    pub target: Partitions,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ConsumerGroup {
    pub(super) epoch: i32,
    pub(super) assignment_epoch: i32,
    pub(super) members: BTreeMap<String, ConsumerMember>,
    pub(super) target: BTreeMap<String, Partitions>,
    pub(super) statics: BTreeMap<String, String>,
    /// Which member has a partition in its hands.
    holders: HashMap<(Uuid, i32), String>,
    /// Member ids handed out to classic clients, and until when they may be used.
    pub(super) promised: BTreeMap<String, i64>,
    default_assignor: String,
    /// The topics that count, with their number of partitions, and the catalog they are from.
    pub(super) counts: BTreeMap<Uuid, i32>,
    names: BTreeMap<Uuid, String>,
    catalog_sequence: Option<u64>,
    /// Topics that match an expression, in that catalog.
    resolved: BTreeMap<String, BTreeSet<String>>,
    records: Vec<LogRecord>,
}

impl ConsumerGroup {
    /// An empty group.
    pub fn new(default_assignor: &str) -> ConsumerGroup {
        ConsumerGroup { default_assignor: default_assignor.to_owned(), ..ConsumerGroup::default() }
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The state, as clients name it.
    pub fn state_name(&self) -> &'static str {
        let settled = |member: &ConsumerMember| {
            member.state == MemberState::Stable && member.epoch == self.assignment_epoch
        };
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members.values().all(settled) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// Everything about the group.
    pub fn describe(&self) -> ConsumerDescription {
        let members = self.members.iter().map(|(id, member)| MemberDetails {
            member_id: id.clone(),
            subscription: member.subscription.clone(),
            epoch: member.epoch,
            assigned: member.assigned.clone(),
            target: self.target.get(id).cloned().unwrap_or_default(),
        });
        ConsumerDescription {
            state: self.state_name(),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor: self.assignor_name(),
            members: members.collect(),
        }
    }

    /// Topics that members read, by name.
    pub fn subscribed_topics(&self) -> Vec<String> {
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(self.topics_of(&member.subscription).cloned());
        }
        topics.into_iter().collect()
    }

    fn topics_of<'a>(&'a self, subscription: &'a Subscription) -> impl Iterator<Item = &'a String> {
        let matched = subscription.regex.as_ref().and_then(|regex| self.resolved.get(regex));
        subscription.topics.iter().chain(matched.into_iter().flatten())
    }

    /// The records of what was changed since the last call.
    pub fn take_records(&mut self) -> Vec<LogRecord> {
        std::mem::take(&mut self.records)
    }

    /// Keys of all records of the group.
    pub fn record_keys(&self, name: &str) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for id in self.members.keys() {
            keys.push(Key::CurrentMember(name, id).encode());
        }
        for id in self.target.keys() {
            keys.push(Key::TargetMember(name, id).encode());
        }
        for id in self.members.keys() {
            keys.push(Key::Member(name, id).encode());
        }
        keys.push(Key::Target(name).encode());
        keys.push(Key::ConsumerGroup(name).encode());
        keys
    }

    pub(super) fn write(&mut self, key: Key<'_>, value: Option<Vec<u8>>) {
        self.records.push(LogRecord { key: key.encode(), value });
    }

    /// A heartbeat of a member of the new protocol.
    pub fn heartbeat(
        &mut self,
        name: &str,
        request: ConsumerHeartbeat,
        session_timeout_ms: i32,
        catalog: &Catalog,
        now_ms: i64,
    ) -> Result<ConsumerAnswer, GroupError> {
        if matches!(request.epoch, LEAVE_EPOCH | LEAVE_STATIC_EPOCH) {
            return self.leave(name, &request);
        }
        self.admit(name, &request)?;
        let is_full =
            request.rebalance_timeout_ms >= 0 && request.owned.is_some() && request.topics.is_some();
        let id = request.member_id.clone();
        let before = self.members.get(&id).map(|member| member.assigned.clone());
        let changed = self.subscribe(name, &request)?;
        self.advance(name, changed, catalog);
        let owned = if request.epoch == JOIN_EPOCH { Some(Partitions::new()) } else { request.owned };
        self.reconcile(name, &id, owned.as_ref(), now_ms);
        let member = self.members.get_mut(&id).ok_or(GroupError::UnknownMember)?;
        member.deadline_ms = now_ms + i64::from(session_timeout_ms);
        let news = request.epoch == JOIN_EPOCH || is_full || before.as_ref() != Some(&member.assigned);
        Ok(ConsumerAnswer {
            member_id: id,
            epoch: member.epoch,
            assignment: news.then(|| member.assigned.clone()),
        })
    }

    /// Checks who speaks; makes room for a new member, or for a static one that comes back with a new id.
    fn admit(&mut self, name: &str, request: &ConsumerHeartbeat) -> Result<(), GroupError> {
        let id = &request.member_id;
        let joins = request.epoch == JOIN_EPOCH;
        if let Some(instance) = &request.instance_id {
            match self.statics.get(instance).cloned() {
                None if joins => {}
                None => return Err(GroupError::UnknownMember),
                Some(known) if known == *id => {}
                Some(known) if joins => {
                    let gone = self.members.get(&known).is_some_and(|m| m.epoch == LEAVE_STATIC_EPOCH);
                    if !gone {
                        return Err(GroupError::UnreleasedInstance);
                    }
                    self.replace_static(name, &known, id);
                }
                Some(_) => return Err(GroupError::FencedInstance),
            }
        }
        let Some(member) = self.members.get(id) else {
            return if joins { Ok(()) } else { Err(GroupError::UnknownMember) };
        };
        // The answer with the new epoch may have been lost: the one before is as good, if the member owns nothing
        // that it should not.
        let behind = request.epoch < member.epoch
            && request.epoch == member.previous_epoch
            && request.owned.as_ref().is_some_and(|owned| is_subset(owned, &member.assigned));
        if joins || request.epoch == member.epoch || behind { Ok(()) } else { Err(GroupError::FencedEpoch) }
    }

    pub(super) fn replace_static(&mut self, name: &str, old: &str, new: &str) {
        let Some(mut member) = self.members.remove(old) else { return };
        self.release(&member);
        let target = self.target.remove(old).unwrap_or_default();
        self.write(Key::CurrentMember(name, old), None);
        self.write(Key::TargetMember(name, old), None);
        self.write(Key::Member(name, old), None);
        member.epoch = JOIN_EPOCH;
        member.previous_epoch = JOIN_EPOCH;
        self.write(Key::Member(name, new), Some(member.subscription.encode()));
        self.write(Key::TargetMember(name, new), Some(encode_target(&target)));
        self.write(Key::CurrentMember(name, new), Some(member.record().encode()));
        if let Some(instance) = &member.subscription.instance_id {
            self.statics.insert(instance.clone(), new.to_owned());
        }
        self.target.insert(new.to_owned(), target);
        self.hold(new, &member);
        self.members.insert(new.to_owned(), member);
    }

    /// Takes what a heartbeat says about the member; whether that calls for a new assignment.
    fn subscribe(&mut self, name: &str, request: &ConsumerHeartbeat) -> Result<bool, GroupError> {
        let known = self.members.get(&request.member_id).map(|member| member.subscription.clone());
        let mut next = known.clone().unwrap_or_default();
        next.classic = None;
        next.client_id.clone_from(&request.client_id);
        next.client_host.clone_from(&request.client_host);
        if request.instance_id.is_some() {
            next.instance_id.clone_from(&request.instance_id);
        }
        if request.rack_id.is_some() {
            next.rack_id.clone_from(&request.rack_id);
        }
        if request.rebalance_timeout_ms >= 0 {
            next.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        if let Some(topics) = &request.topics {
            next.topics.clone_from(topics);
            next.topics.sort();
            next.topics.dedup();
        }
        if let Some(regex) = &request.regex {
            next.regex = Some(regex.clone()).filter(|regex| !regex.is_empty());
        }
        if request.assignor.is_some() {
            next.assignor.clone_from(&request.assignor);
        }
        Ok(self.put_subscription(name, &request.member_id, known.as_ref(), next))
    }

    pub(super) fn put_subscription(
        &mut self,
        name: &str,
        id: &str,
        known: Option<&Subscription>,
        next: Subscription,
    ) -> bool {
        if known == Some(&next) {
            return false;
        }
        let matters = known.is_none_or(|known| {
            (&known.topics, &known.regex, &known.assignor, &known.rack_id)
                != (&next.topics, &next.regex, &next.assignor, &next.rack_id)
        });
        if known.is_none_or(|known| known.regex != next.regex) {
            // The expression is to be matched with all topics.
            self.catalog_sequence = None;
        }
        self.write(Key::Member(name, id), Some(next.encode()));
        if let Some(instance) = &next.instance_id {
            self.statics.insert(instance.clone(), id.to_owned());
        }
        self.members.entry(id.to_owned()).or_default().subscription = next;
        matters
    }

    /// Raises the group's epoch if something has changed, and then computes a new target.
    pub(super) fn advance(&mut self, name: &str, changed: bool, catalog: &Catalog) {
        let topics_changed = self.look_at_topics(catalog, changed);
        if changed || topics_changed {
            self.epoch += 1;
            self.write(Key::ConsumerGroup(name), Some(encode_epoch(self.epoch)));
        }
        if self.epoch > self.assignment_epoch {
            self.assign(name, catalog);
        }
    }

    /// Finds the topics that count; whether they are others than before.
    fn look_at_topics(&mut self, catalog: &Catalog, force: bool) -> bool {
        if !force && self.catalog_sequence == Some(catalog.sequence) {
            return false;
        }
        let wanted: BTreeSet<String> =
            self.members.values().filter_map(|member| member.subscription.regex.clone()).collect();
        if self.catalog_sequence != Some(catalog.sequence) {
            self.resolved.clear();
        }
        self.resolved.retain(|regex, _| wanted.contains(regex));
        for regex in wanted.into_iter().take(GROUP_REGEXES_MAX) {
            if let Entry::Vacant(entry) = self.resolved.entry(regex) {
                let matched = matching_topics(entry.key(), catalog);
                entry.insert(matched);
            }
        }
        self.catalog_sequence = Some(catalog.sequence);
        let subscribed = self.subscribed_topics();
        let topics = || subscribed.iter().filter_map(|name| catalog.topic(name));
        let counts: BTreeMap<Uuid, i32> =
            topics().map(|topic| (topic.id, topic.partition_count() as i32)).collect();
        self.names = topics().map(|topic| (topic.id, topic.name.to_string())).collect();
        let changed = counts != self.counts;
        self.counts = counts;
        changed
    }

    fn assignor_name(&self) -> String {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|member| member.subscription.assignor.as_deref()) {
            *votes.entry(name).or_default() += 1;
        }
        let most = votes.values().max().copied();
        let chosen = votes.into_iter().find(|(_, count)| Some(*count) == most).map(|(name, _)| name);
        chosen.unwrap_or(&self.default_assignor).to_owned()
    }

    fn assign(&mut self, name: &str, catalog: &Catalog) {
        let assignor = Assignor::from_name(&self.assignor_name()).unwrap_or(Assignor::Uniform);
        let members = self
            .members
            .iter()
            .map(|(id, member)| {
                let topics = self.topics_of(&member.subscription);
                let seen = AssignorMember {
                    order: member.subscription.instance_id.clone().unwrap_or_else(|| id.clone()),
                    topics: topics.filter_map(|topic| catalog.topic(topic)).map(|topic| topic.id).collect(),
                    before: self.target.get(id).cloned().unwrap_or_default(),
                };
                (id.clone(), seen)
            })
            .collect();
        for (id, partitions) in assignor.assign(&members, &self.counts) {
            if self.target.get(&id) != Some(&partitions) {
                self.write(Key::TargetMember(name, &id), Some(encode_target(&partitions)));
                self.target.insert(id, partitions);
            }
        }
        self.assignment_epoch = self.epoch;
        self.write(Key::Target(name), Some(encode_epoch(self.epoch)));
    }

    /// Brings a member as close to its target as the others allow. `owned` is what it says it has.
    pub(super) fn reconcile(&mut self, name: &str, id: &str, owned: Option<&Partitions>, now_ms: i64) {
        let Some(before) = self.members.get(id).cloned() else { return };
        let mut next = before.clone();
        let revoked = |revoking: &Partitions| owned.is_some_and(|owned| !intersects(owned, revoking));
        let epoch = match before.state {
            MemberState::Stable if before.epoch == self.assignment_epoch => return,
            MemberState::Unrevoked if !revoked(&before.revoking) => return,
            MemberState::Unrevoked => before.epoch + 1,
            MemberState::Stable | MemberState::Unreleased => before.epoch,
        };
        self.release(&before);
        let target = self.target.get(id).cloned().unwrap_or_default();
        let kept = intersection(&before.assigned, &target);
        let revoking = difference(&before.assigned, &kept);
        if !revoking.is_empty() && !revoked(&revoking) {
            next.state = MemberState::Unrevoked;
            move_to_epoch(&mut next, epoch);
            next.assigned = kept;
            next.revoking = revoking;
            next.revoke_deadline_ms = Some(now_ms + i64::from(next.subscription.rebalance_timeout_ms.max(0)));
        } else {
            let missing = difference(&target, &kept);
            let held = |topic: Uuid, index: i32| self.holders.contains_key(&(topic, index));
            let free = filtered(&missing, |topic, index| !held(topic, index));
            next.state = if free == missing { MemberState::Stable } else { MemberState::Unreleased };
            move_to_epoch(&mut next, self.assignment_epoch);
            next.assigned = union(&kept, &free);
            next.revoking = Partitions::new();
            next.revoke_deadline_ms = None;
        }
        self.hold(id, &next);
        if next.record() != before.record() {
            self.write(Key::CurrentMember(name, id), Some(next.record().encode()));
        }
        self.members.insert(id.to_owned(), next);
    }

    /// Whether a partition of the member's target is in other hands.
    pub(super) fn waits_for_others(&self, id: &str) -> bool {
        let (Some(member), Some(target)) = (self.members.get(id), self.target.get(id)) else { return false };
        let missing = difference(target, &member.assigned);
        missing.iter().any(|(topic, list)| list.iter().any(|i| self.holders.contains_key(&(*topic, *i))))
    }

    /// After a start the names of topics are not known until somebody asks.
    pub(super) fn learn_names(&mut self, catalog: &Catalog) {
        if self.names.is_empty() {
            self.look_at_topics(catalog, true);
        }
    }

    /// Partitions by the names of their topics, as classic members have them.
    pub(super) fn to_names(&self, partitions: &Partitions) -> BTreeMap<String, BTreeSet<i32>> {
        let named = |(topic, indexes): (&Uuid, &BTreeSet<i32>)| {
            Some((self.names.get(topic)?.clone(), indexes.clone()))
        };
        partitions.iter().filter_map(named).collect()
    }

    /// A member that comes from a classic group, with what it has.
    pub(super) fn adopt(&mut self, name: &str, id: &str, member: ConsumerMember) {
        self.hold(id, &member);
        self.write(Key::CurrentMember(name, id), Some(member.record().encode()));
        self.members.insert(id.to_owned(), member);
    }

    pub(super) fn hold(&mut self, id: &str, member: &ConsumerMember) {
        for (topic, indexes) in member.assigned.iter().chain(&member.revoking) {
            for index in indexes {
                self.holders.insert((*topic, *index), id.to_owned());
            }
        }
    }

    fn release(&mut self, member: &ConsumerMember) {
        for (topic, indexes) in member.assigned.iter().chain(&member.revoking) {
            indexes.iter().for_each(|index| drop(self.holders.remove(&(*topic, *index))));
        }
    }

    fn leave(&mut self, name: &str, request: &ConsumerHeartbeat) -> Result<ConsumerAnswer, GroupError> {
        let id = match &request.instance_id {
            None => request.member_id.clone(),
            Some(instance) => {
                let known = self.statics.get(instance).ok_or(GroupError::UnknownMember)?.clone();
                if known != request.member_id {
                    return Err(GroupError::FencedInstance);
                }
                known
            }
        };
        let answer = ConsumerAnswer { member_id: id.clone(), epoch: request.epoch, assignment: None };
        let member = self.members.get_mut(&id).ok_or(GroupError::UnknownMember)?;
        if request.epoch == LEAVE_STATIC_EPOCH {
            // It comes back: it keeps what it has, and what it was to give back is free.
            let before = member.clone();
            member.epoch = LEAVE_STATIC_EPOCH;
            member.revoking = Partitions::new();
            member.state = MemberState::Stable;
            member.revoke_deadline_ms = None;
            let after = member.clone();
            self.release(&before);
            self.hold(&id, &after);
            self.write(Key::CurrentMember(name, &id), Some(after.record().encode()));
            return Ok(answer);
        }
        self.remove(name, &id);
        Ok(answer)
    }

    /// A member is gone; the next heartbeat of another brings the new assignment.
    pub(super) fn remove(&mut self, name: &str, id: &str) {
        let Some(member) = self.members.remove(id) else { return };
        self.release(&member);
        self.target.remove(id);
        if let Some(instance) = &member.subscription.instance_id
            && self.statics.get(instance).is_some_and(|known| known == id)
        {
            self.statics.remove(instance);
        }
        self.write(Key::CurrentMember(name, id), None);
        self.write(Key::TargetMember(name, id), None);
        self.write(Key::Member(name, id), None);
        self.epoch += 1;
        self.write(Key::ConsumerGroup(name), Some(encode_epoch(self.epoch)));
    }

    /// Ends the sessions of members that were silent, or did not give partitions back in time.
    pub fn tick(&mut self, name: &str, now_ms: i64) {
        self.promised.retain(|_, deadline_ms| *deadline_ms > now_ms);
        let due = |member: &ConsumerMember| {
            member.deadline_ms <= now_ms || member.revoke_deadline_ms.is_some_and(|ms| ms <= now_ms)
        };
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| due(member)).map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| self.remove(name, id));
    }

    /// The next moment at which [`tick`](Self::tick) has something to do.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let of = |member: &ConsumerMember| {
            member.revoke_deadline_ms.map_or(member.deadline_ms, |ms| ms.min(member.deadline_ms))
        };
        self.members.values().map(of).chain(self.promised.values().copied()).min()
    }

    /// Whether this member may commit offsets now.
    pub fn check_commit(&self, member: &MemberRef, transactional: bool) -> Result<(), GroupError> {
        if member.generation < 0 && (self.members.is_empty() || transactional) {
            return Ok(());
        }
        let known = self.members.get(&member.member_id).ok_or(GroupError::UnknownMember)?;
        match member.generation == known.epoch {
            true => Ok(()),
            false if known.is_classic() || transactional => Err(GroupError::IllegalGeneration),
            false => Err(GroupError::StaleEpoch),
        }
    }

    /// Whether a member may read offsets with this epoch.
    pub fn check_fetch(&self, id: &str, epoch: i32) -> Result<(), GroupError> {
        if epoch < 0 && id.is_empty() {
            return Ok(());
        }
        let known = self.members.get(id).ok_or(GroupError::UnknownMember)?;
        if known.epoch == epoch { Ok(()) } else { Err(GroupError::StaleEpoch) }
    }
}

/// What a heartbeat must have to be one.
pub(super) fn check_subscription(request: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let joins = request.epoch == JOIN_EPOCH;
    let names_nothing = request.topics.is_none() && request.regex.is_none();
    let owns = request.owned.as_ref().is_some_and(|owned| !owned.is_empty());
    if request.epoch < LEAVE_STATIC_EPOCH
        || joins && (request.rebalance_timeout_ms < 0 || names_nothing || owns)
    {
        return Err(GroupError::InvalidRequest);
    }
    if let Some(regex) = request.regex.as_deref().filter(|regex| !regex.is_empty()) {
        compile(regex)?;
    }
    Ok(())
}

fn compile(regex: &str) -> Result<regex::Regex, GroupError> {
    if regex.len() > GROUP_REGEX_BYTES_MAX {
        return Err(GroupError::InvalidRegex);
    }
    // The whole name has to match.
    let anchored = format!("^(?:{regex})$");
    let built = regex::RegexBuilder::new(&anchored)
        .size_limit(REGEX_PROGRAM_BYTES_MAX)
        .dfa_size_limit(REGEX_PROGRAM_BYTES_MAX)
        .build();
    built.map_err(|_| GroupError::InvalidRegex)
}

fn matching_topics(regex: &str, catalog: &Catalog) -> BTreeSet<String> {
    let Ok(regex) = compile(regex) else { return BTreeSet::new() };
    let names = catalog.topics().map(|topic| &topic.name);
    names.filter(|name| regex.is_match(name)).map(|name| name.to_string()).collect()
}

fn move_to_epoch(member: &mut ConsumerMember, epoch: i32) {
    if member.epoch != epoch {
        member.previous_epoch = member.epoch;
        member.epoch = epoch;
    }
}

fn filtered(partitions: &Partitions, keep: impl Fn(Uuid, i32) -> bool) -> Partitions {
    let mut out = Partitions::new();
    for (topic, indexes) in partitions {
        let kept: BTreeSet<i32> = indexes.iter().copied().filter(|index| keep(*topic, *index)).collect();
        if !kept.is_empty() {
            out.insert(*topic, kept);
        }
    }
    out
}

fn contains(partitions: &Partitions, topic: Uuid, index: i32) -> bool {
    partitions.get(&topic).is_some_and(|indexes| indexes.contains(&index))
}

fn intersection(a: &Partitions, b: &Partitions) -> Partitions {
    filtered(a, |topic, index| contains(b, topic, index))
}

fn difference(a: &Partitions, b: &Partitions) -> Partitions {
    filtered(a, |topic, index| !contains(b, topic, index))
}

fn intersects(a: &Partitions, b: &Partitions) -> bool {
    !intersection(a, b).is_empty()
}

fn is_subset(a: &Partitions, b: &Partitions) -> bool {
    difference(a, b).is_empty()
}

fn union(a: &Partitions, b: &Partitions) -> Partitions {
    let mut out = a.clone();
    for (topic, indexes) in b {
        out.entry(*topic).or_default().extend(indexes);
    }
    out
}
