//! What the log says about a consumer group (KIP-848), record by record, until the group can be made of it.
//!
//! Owner: the partition's coordinator, while it loads. Invariants: later records win; what was assigned before the
//! start stays assigned. It must not know what offsets the group has.

use std::collections::BTreeMap;

use super::consumer::{ConsumerGroup, ConsumerMember, MemberState};
use super::records::{CurrentRecord, Key, Partitions, Subscription, decode_epoch, decode_target};
use crate::wire::WireError;

/// What the log says about a consumer group.
#[derive(Debug, Default)]
pub struct ConsumerImage {
    epoch: Option<i32>,
    assignment_epoch: i32,
    members: BTreeMap<String, Subscription>,
    target: BTreeMap<String, Partitions>,
    current: BTreeMap<String, CurrentRecord>,
}

impl ConsumerImage {
    /// Whether there is a group.
    pub fn exists(&self) -> bool {
        self.epoch.is_some()
    }

    /// Whether nothing is left of it.
    pub fn is_gone(&self) -> bool {
        self.epoch.is_none() && self.members.is_empty() && self.target.is_empty() && self.current.is_empty()
    }

    /// Takes a record.
    pub fn take(&mut self, key: Key<'_>, value: Option<&[u8]>) -> Result<(), WireError> {
        fn put<V>(map: &mut BTreeMap<String, V>, id: &str, value: Option<V>) {
            match value {
                Some(value) => drop(map.insert(id.to_owned(), value)),
                None => drop(map.remove(id)),
            }
        }
        match key {
            Key::ConsumerGroup(_) => self.epoch = value.map(decode_epoch).transpose()?,
            Key::Target(_) => self.assignment_epoch = value.map_or(Ok(0), decode_epoch)?,
            Key::Member(_, id) => put(&mut self.members, id, value.map(Subscription::decode).transpose()?),
            Key::TargetMember(_, id) => put(&mut self.target, id, value.map(decode_target).transpose()?),
            Key::CurrentMember(_, id) => {
                put(&mut self.current, id, value.map(CurrentRecord::decode).transpose()?)
            }
            _ => {}
        }
        Ok(())
    }

    /// The group; its members have a whole session to be heard of.
    pub fn into_group(self, default_assignor: &str, session_timeout_ms: i32, now_ms: i64) -> ConsumerGroup {
        let mut group = ConsumerGroup::new(default_assignor);
        group.epoch = self.epoch.unwrap_or(0);
        group.assignment_epoch = self.assignment_epoch;
        let mut current = self.current;
        for (id, subscription) in self.members {
            let found = current.remove(&id).unwrap_or_default();
            let state = match found.state {
                1 => MemberState::Unrevoked,
                2 => MemberState::Unreleased,
                _ => MemberState::Stable,
            };
            let timeout_ms = i64::from(subscription.rebalance_timeout_ms.max(0));
            if let Some(instance) = &subscription.instance_id {
                group.statics.insert(instance.clone(), id.clone());
            }
            let session_ms = subscription
                .classic
                .as_ref()
                .map_or(session_timeout_ms, |classic| classic.session_timeout_ms);
            let member = ConsumerMember {
                epoch: found.epoch,
                previous_epoch: found.previous_epoch,
                state,
                assigned: found.assigned,
                revoking: found.revoking,
                deadline_ms: now_ms + i64::from(session_ms),
                revoke_deadline_ms: (state == MemberState::Unrevoked).then_some(now_ms + timeout_ms),
                subscription,
            };
            group.hold(&id, &member);
            group.members.insert(id, member);
        }
        group.target = self.target;
        group.target.retain(|id, _| group.members.contains_key(id));
        // What was assigned is what the topics were like: a start alone is no reason for a new assignment.
        for (topic, indexes) in group.target.values().flatten() {
            *group.counts.entry(*topic).or_default() += indexes.len() as i32;
        }
        group
    }
}
