//! A share group (KIP-932): its members, and which partitions each of them is to fetch from. Partitions are shared,
//! so that nothing has to be given back before it is given out.
//!
//! Owner: the group's coordinator, on one core. Time comes in as an argument. Invariants: every partition of a topic
//! that somebody subscribes to is assigned to at least one member, and every member gets one of each topic it
//! subscribes to; every change leaves its records in [`ShareGroup::take_records`], and nothing is answered before they
//! are durable. It must not do I/O, or know what the group has done with its partitions.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::consumer::{JOIN_EPOCH, LEAVE_EPOCH};
use super::error::GroupError;
use super::records::{Key, Partitions, decode_epoch, decode_target, encode_epoch, encode_target};
use super::share_records::{
    KnownTopics, ShareCurrent, ShareSubscription, decode_known, encode_group, encode_known,
};
use super::state_log::LogRecord;
use crate::catalog::Catalog;
use crate::limits::GROUP_OFFSETS_MAX;
use crate::wire::WireError;

/// The name of the only assignor.
pub const ASSIGNOR: &str = "simple";

/// A heartbeat.
#[derive(Clone, Debug, Default)]
pub struct ShareHeartbeat {
    /// Member id, chosen by the client.
    pub member_id: String,
    /// Its epoch; 0 joins, -1 leaves.
    pub epoch: i32,
    /// Where it stands; `None` for no change.
    pub rack_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Topics by name; `None` for no change.
    pub topics: Option<Vec<String>>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareAnswer {
    /// The member's epoch now.
    pub epoch: i32,
    /// What it is to fetch from, if it must be told.
    pub assignment: Option<Partitions>,
}

/// One member.
#[derive(Clone, Debug, Default)]
pub struct ShareMember {
    subscription: ShareSubscription,
    current: ShareCurrent,
    deadline_ms: i64,
}

/// A group in detail.
#[derive(Clone, Debug, Default)]
pub struct ShareDescription {
    /// State, as clients name it.
    pub state: &'static str,
    /// Group epoch.
    pub epoch: i32,
    /// Epoch of the assignment.
    pub assignment_epoch: i32,
    /// Member id, subscription, epoch and assignment of each.
    pub members: Vec<(String, ShareSubscription, i32, Partitions)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ShareGroup {
    epoch: i32,
    assignment_epoch: i32,
    members: BTreeMap<String, ShareMember>,
    target: BTreeMap<String, Partitions>,
    /// The subscribed topics that exist: id, name and number of partitions.
    topics: BTreeMap<Uuid, (String, i32)>,
    /// Topics of which the group has, or may have, a state.
    known: KnownTopics,
    catalog_sequence: Option<u64>,
    records: Vec<LogRecord>,
}

impl ShareGroup {
    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many members it has, not counting this one.
    pub fn members_beside(&self, id: &str) -> usize {
        self.members.len() - usize::from(self.members.contains_key(id))
    }

    /// The state, as clients name it.
    pub fn state_name(&self) -> &'static str {
        if self.members.is_empty() { "Empty" } else { "Stable" }
    }

    /// Topics of which the group has, or may have, a state.
    pub fn known(&self) -> &KnownTopics {
        &self.known
    }

    /// Everything about the group.
    pub fn describe(&self) -> ShareDescription {
        let member = |(id, member): (&String, &ShareMember)| {
            let ShareMember { subscription, current, .. } = member.clone();
            (id.clone(), subscription, current.epoch, current.assigned)
        };
        ShareDescription {
            state: self.state_name(),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            members: self.members.iter().map(member).collect(),
        }
    }

    /// Records since the last call.
    pub fn take_records(&mut self) -> Vec<LogRecord> {
        std::mem::take(&mut self.records)
    }

    pub(super) fn write(&mut self, key: Key<'_>, value: Option<Vec<u8>>) {
        self.records.push(LogRecord { key: key.encode(), value });
    }

    /// Keys of all its records.
    pub fn record_keys(&self, name: &str) -> Vec<Vec<u8>> {
        let mut keys = vec![Key::ShareTarget(name).encode(), Key::ShareTopics(name).encode()];
        for id in self.members.keys() {
            keys.push(Key::ShareMember(name, id).encode());
            keys.push(Key::ShareTargetMember(name, id).encode());
            keys.push(Key::ShareCurrentMember(name, id).encode());
        }
        keys.push(Key::ShareGroup(name).encode());
        keys
    }

    /// A member joins, stays or leaves.
    pub fn heartbeat(
        &mut self,
        name: &str,
        beat: ShareHeartbeat,
        session_timeout_ms: i32,
        catalog: &Catalog,
        now_ms: i64,
    ) -> Result<ShareAnswer, GroupError> {
        let id = beat.member_id.clone();
        if beat.epoch == LEAVE_EPOCH {
            if !self.members.contains_key(&id) {
                return Err(GroupError::UnknownMember);
            }
            self.remove(name, &id);
            return Ok(ShareAnswer { epoch: LEAVE_EPOCH, assignment: None });
        }
        let mut asked = beat.epoch == JOIN_EPOCH || beat.topics.is_some();
        if beat.epoch != JOIN_EPOCH {
            let current = &self.members.get(&id).ok_or(GroupError::UnknownMember)?.current;
            // The answer to its last heartbeat may have been lost.
            let behind = beat.epoch != current.epoch;
            if behind && beat.epoch != current.previous_epoch {
                return Err(GroupError::FencedEpoch);
            }
            asked |= behind;
        }
        let mut changed = self.subscribe(name, &id, beat);
        changed |= self.look_at_topics(catalog);
        if changed || self.assignment_epoch < self.epoch {
            self.epoch += 1;
            self.write(Key::ShareGroup(name), Some(encode_group(self.epoch)));
            self.assign(name);
        }
        let target = self.target.get(&id).cloned().unwrap_or_default();
        let assignment_epoch = self.assignment_epoch;
        let Some(member) = self.members.get_mut(&id) else { return Err(GroupError::UnknownMember) };
        member.deadline_ms = now_ms + i64::from(session_timeout_ms);
        let moved = member.current.epoch != assignment_epoch;
        let news = member.current.assigned != target;
        if moved || news {
            member.current = ShareCurrent {
                epoch: assignment_epoch,
                previous_epoch: member.current.epoch,
                assigned: target.clone(),
            };
            let value = member.current.encode();
            self.write(Key::ShareCurrentMember(name, &id), Some(value));
        }
        Ok(ShareAnswer { epoch: assignment_epoch, assignment: (asked || news).then_some(target) })
    }

    /// Takes what a heartbeat says about its sender; whether that is news.
    fn subscribe(&mut self, name: &str, id: &str, beat: ShareHeartbeat) -> bool {
        let is_new = !self.members.contains_key(id);
        let member = self.members.entry(id.to_owned()).or_default();
        let before = member.subscription.clone();
        let next = &mut member.subscription;
        next.client_id = beat.client_id;
        next.client_host = beat.client_host;
        if beat.rack_id.is_some() {
            next.rack_id = beat.rack_id;
        }
        if let Some(topics) = beat.topics {
            next.topics = topics.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        }
        let (changed, value) = (before.topics != next.topics, (before != *next).then(|| next.encode()));
        if is_new || value.is_some() {
            let value = value.unwrap_or_else(|| before.encode());
            self.write(Key::ShareMember(name, id), Some(value));
        }
        if changed {
            self.catalog_sequence = None;
        }
        is_new || changed
    }

    /// Looks up the subscribed topics, if anything may have changed; whether it has.
    fn look_at_topics(&mut self, catalog: &Catalog) -> bool {
        if self.catalog_sequence.replace(catalog.sequence) == Some(catalog.sequence) {
            return false;
        }
        let names: BTreeSet<&String> =
            self.members.values().flat_map(|member| &member.subscription.topics).collect();
        let found = names.into_iter().filter_map(|name| catalog.topic(name));
        let topics: BTreeMap<_, _> =
            found.map(|t| (t.id, (t.name.to_string(), t.partition_count() as i32))).collect();
        let changed = topics != self.topics;
        self.topics = topics;
        changed
    }

    /// Deals the partitions of each topic out to its subscribers in turn, until all partitions and all subscribers
    /// have been served.
    fn assign(&mut self, name: &str) {
        let mut target: BTreeMap<String, Partitions> = BTreeMap::new();
        for (topic_id, (topic, count)) in &self.topics {
            let wants = |member: &ShareMember| member.subscription.topics.binary_search(topic).is_ok();
            let subscribers: Vec<&String> =
                self.members.iter().filter(|(_, member)| wants(member)).map(|(id, _)| id).collect();
            let count = (*count).max(0) as usize;
            if subscribers.is_empty() || count == 0 {
                continue;
            }
            for turn in 0..subscribers.len().max(count) {
                let of_member = target.entry(subscribers[turn % subscribers.len()].clone()).or_default();
                of_member.entry(*topic_id).or_default().insert((turn % count) as i32);
            }
        }
        self.assignment_epoch = self.epoch;
        self.write(Key::ShareTarget(name), Some(encode_epoch(self.epoch)));
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let next = target.remove(&id).unwrap_or_default();
            if self.target.get(&id) != Some(&next) {
                self.write(Key::ShareTargetMember(name, &id), Some(encode_target(&next)));
                self.target.insert(id, next);
            }
        }
        let topics = self.topics.clone();
        let wanted = topics.into_iter().map(|(id, (topic, count))| (id, topic, (0..count).collect()));
        self.know(name, wanted);
    }

    /// Makes a group that nobody has ever been in outlive this process, as an administrator asked for it.
    pub(super) fn begin(&mut self, name: &str) {
        if self.epoch == 0 {
            self.write(Key::ShareGroup(name), Some(encode_group(self.epoch)));
        }
    }

    /// Notes that the group may have a state of these partitions.
    pub(super) fn know(&mut self, name: &str, topics: impl Iterator<Item = (Uuid, String, BTreeSet<i32>)>) {
        let mut changed = false;
        let mut total: usize = self.known.values().map(|(_, indexes)| indexes.len()).sum();
        for (id, topic, indexes) in topics {
            if total >= GROUP_OFFSETS_MAX {
                break;
            }
            let known = self.known.entry(id).or_insert_with(|| (topic, BTreeSet::new()));
            let before = known.1.len();
            known.1.extend(indexes);
            total += known.1.len() - before;
            changed |= known.1.len() != before;
        }
        if changed {
            self.write(Key::ShareTopics(name), Some(encode_known(&self.known)));
        }
    }

    /// The states of these topics are gone.
    pub(super) fn unknow(&mut self, name: &str, topics: &[Uuid]) {
        let before = self.known.len();
        self.known.retain(|id, _| !topics.contains(id));
        if self.known.len() != before {
            self.write(Key::ShareTopics(name), Some(encode_known(&self.known)));
        }
    }

    fn remove(&mut self, name: &str, id: &str) {
        if self.members.remove(id).is_none() {
            return;
        }
        self.target.remove(id);
        self.write(Key::ShareCurrentMember(name, id), None);
        self.write(Key::ShareTargetMember(name, id), None);
        self.write(Key::ShareMember(name, id), None);
        self.epoch += 1;
        self.write(Key::ShareGroup(name), Some(encode_group(self.epoch)));
        self.assign(name);
    }

    /// Ends the sessions of members that were silent.
    pub fn tick(&mut self, name: &str, now_ms: i64) {
        let due = self.members.iter().filter(|(_, member)| member.deadline_ms <= now_ms);
        let gone: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| self.remove(name, id));
    }

    /// The next moment at which [`tick`](Self::tick) has something to do.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.members.values().map(|member| member.deadline_ms).min()
    }
}

/// What the log says about a share group, record by record.
#[derive(Debug, Default)]
pub struct ShareImage {
    epoch: Option<i32>,
    group: ShareGroup,
    current: BTreeMap<String, ShareCurrent>,
}

impl ShareImage {
    /// Whether there is a group.
    pub fn exists(&self) -> bool {
        self.epoch.is_some()
    }

    /// Whether nothing is left of it.
    pub fn is_gone(&self) -> bool {
        let group = &self.group;
        let nobody = group.members.is_empty() && group.target.is_empty() && self.current.is_empty();
        self.epoch.is_none() && nobody && group.known.is_empty()
    }

    /// Takes a record.
    pub fn take(&mut self, key: Key<'_>, value: Option<&[u8]>) -> Result<(), WireError> {
        let group = &mut self.group;
        match key {
            Key::ShareGroup(_) => self.epoch = value.map(decode_epoch).transpose()?,
            Key::ShareTarget(_) => group.assignment_epoch = value.map_or(Ok(0), decode_epoch)?,
            Key::ShareTopics(_) => group.known = value.map_or(Ok(KnownTopics::new()), decode_known)?,
            Key::ShareTargetMember(_, id) => match value {
                Some(value) => drop(group.target.insert(id.to_owned(), decode_target(value)?)),
                None => drop(group.target.remove(id)),
            },
            Key::ShareMember(_, id) => match value {
                Some(value) => {
                    group.members.entry(id.to_owned()).or_default().subscription =
                        ShareSubscription::decode(value)?;
                }
                None => drop(group.members.remove(id)),
            },
            Key::ShareCurrentMember(_, id) => match value {
                Some(value) => drop(self.current.insert(id.to_owned(), ShareCurrent::decode(value)?)),
                None => drop(self.current.remove(id)),
            },
            _ => {}
        }
        Ok(())
    }

    /// The group; its members have a whole session to be heard of.
    pub fn into_group(mut self, session_timeout_ms: i32, now_ms: i64) -> ShareGroup {
        let mut group = self.group;
        group.epoch = self.epoch.unwrap_or(0);
        for (id, member) in &mut group.members {
            member.deadline_ms = now_ms + i64::from(session_timeout_ms);
            member.current = self.current.remove(id).unwrap_or_default();
        }
        group.target.retain(|id, _| group.members.contains_key(id));
        group
    }
}
