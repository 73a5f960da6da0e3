//! Members of a consumer group that still speak the classic protocol, and the change of a group from one protocol
//! to the other.
//!
//! Owner: the group's coordinator. Spec: KIP-848, "Online migration". Invariants: a classic member is told to join
//! again whenever there is something new for it; its generation is its member epoch; nobody loses partitions because
//! the protocol of the group changes.
//! It must not be reached by groups whose protocol type is not `consumer`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::classic::{ClassicGroup, JoinOutcome, JoinRequest, Member, Rules, State, Synced};
use super::classic_sync::{MemberRef, SyncRequest};
use super::consumer::{ConsumerGroup, ConsumerMember, MemberState};
use super::consumer_protocol::{self, ConsumerSubscription};
use super::error::GroupError;
use super::records::{ClassicSubscription, Key, Partitions, Subscription, encode_epoch, encode_target};
use crate::catalog::Catalog;

impl ConsumerGroup {
    /// A classic member joins a group that has members of the new protocol, or had.
    pub(super) fn join_classic(
        &mut self,
        name: &str,
        request: &JoinRequest,
        new_id: impl Fn(&str) -> String,
        catalog: &Catalog,
        now_ms: i64,
    ) -> JoinOutcome {
        let parsed =
            request.protocols.first().and_then(|(_, data)| consumer_protocol::decode_subscription(data));
        let Some(subscription) = parsed.filter(|_| request.protocol_type == "consumer") else {
            return JoinOutcome::error(GroupError::InconsistentProtocol, &request.member_id);
        };
        let id = match self.classic_member_id(name, request, new_id, now_ms) {
            Ok(id) => id,
            Err((error, id)) => return JoinOutcome::error(error, &id),
        };
        let known = self.members.get(&id).map(|member| member.subscription.clone());
        let next = Subscription {
            instance_id: request.instance_id.clone(),
            rack_id: subscription.rack_id.clone(),
            client_id: request.client_id.clone(),
            client_host: request.client_host.clone(),
            topics: subscription.topics.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            regex: None,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            assignor: known.as_ref().and_then(|known| known.assignor.clone()),
            classic: Some(ClassicSubscription {
                session_timeout_ms: request.session_timeout_ms,
                protocols: request.protocols.clone(),
            }),
        };
        let changed = self.put_subscription(name, &id, known.as_ref(), next);
        self.advance(name, changed, catalog);
        let owned = to_ids(&subscription.owned, catalog);
        self.reconcile(name, &id, Some(&owned), now_ms);
        let generation = self.members.get(&id).map_or(-1, |member| member.epoch);
        if let Some(member) = self.members.get_mut(&id) {
            member.deadline_ms = now_ms + i64::from(request.session_timeout_ms);
        }
        JoinOutcome {
            generation,
            protocol_type: Some("consumer".to_owned()),
            protocol: request.protocols.first().map(|(name, _)| name.clone()),
            member_id: id,
            ..JoinOutcome::default()
        }
    }

    /// The id that a classic member goes by; or why it may not join, and the id to be told.
    fn classic_member_id(
        &mut self,
        name: &str,
        request: &JoinRequest,
        new_id: impl Fn(&str) -> String,
        now_ms: i64,
    ) -> Result<String, (GroupError, String)> {
        let refused = |error| (error, request.member_id.clone());
        let current = request.instance_id.as_ref().and_then(|instance| self.statics.get(instance)).cloned();
        if request.member_id.is_empty() {
            if let Some(instance) = &request.instance_id {
                let id = new_id(instance);
                if let Some(current) = current {
                    self.replace_static(name, &current, &id);
                }
                return Ok(id);
            }
            let id = new_id(&request.client_id);
            if request.needs_member_id {
                self.promised.insert(id.clone(), now_ms + i64::from(request.session_timeout_ms));
                return Err((GroupError::MemberIdRequired, id));
            }
            return Ok(id);
        }
        if self.promised.remove(&request.member_id).is_some() {
            return Ok(request.member_id.clone());
        }
        match current {
            Some(current) if current != request.member_id => Err(refused(GroupError::FencedInstance)),
            _ if self.members.contains_key(&request.member_id) => Ok(request.member_id.clone()),
            _ => Err(refused(GroupError::UnknownMember)),
        }
    }

    fn check_classic(&self, member: &MemberRef) -> Result<&ConsumerMember, GroupError> {
        if let Some(instance) = &member.instance_id {
            match self.statics.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if *current != member.member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        let known = self.members.get(&member.member_id).filter(|member| member.is_classic());
        let known = known.ok_or(GroupError::UnknownMember)?;
        if known.epoch == member.generation { Ok(known) } else { Err(GroupError::IllegalGeneration) }
    }

    /// A classic member asks for its assignment.
    pub(super) fn sync_classic(
        &mut self,
        request: &SyncRequest,
        catalog: &Catalog,
        now_ms: i64,
    ) -> Result<Synced, GroupError> {
        self.learn_names(catalog);
        let member = self.check_classic(&request.member)?;
        if self.epoch > member.epoch && member.state != MemberState::Unrevoked {
            return Err(GroupError::RebalanceInProgress);
        }
        let classic = member.subscription.classic.clone().unwrap_or_default();
        let (protocol, metadata) = classic.protocols.first().cloned().unwrap_or_default();
        if request.protocol.as_ref().is_some_and(|asked| *asked != protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        let assigned = self.to_names(&member.assigned);
        let version = consumer_protocol::version_of(&metadata);
        self.touch_classic(&request.member.member_id, now_ms);
        Ok(Synced {
            protocol_type: Some("consumer".to_owned()),
            protocol: Some(protocol),
            assignment: consumer_protocol::encode_assignment(version, &assigned),
        })
    }

    /// A classic member is alive; an error tells it to join again.
    pub(super) fn heartbeat_classic(&mut self, member: &MemberRef, now_ms: i64) -> Result<(), GroupError> {
        let known = self.check_classic(member)?;
        let (epoch, state) = (known.epoch, known.state);
        self.touch_classic(&member.member_id, now_ms);
        let may_go_on = state == MemberState::Unreleased && !self.waits_for_others(&member.member_id);
        if epoch < self.epoch || state == MemberState::Unrevoked || may_go_on {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    fn touch_classic(&mut self, id: &str, now_ms: i64) {
        if let Some(member) = self.members.get_mut(id)
            && let Some(classic) = &member.subscription.classic
        {
            member.deadline_ms = now_ms + i64::from(classic.session_timeout_ms);
        }
    }

    /// A classic member leaves.
    pub(super) fn leave_classic(
        &mut self,
        name: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), GroupError> {
        let current = instance_id.and_then(|instance| self.statics.get(instance)).cloned();
        let id = match (current, instance_id) {
            (Some(current), _) if member_id.is_empty() || current == member_id => current,
            (Some(_), _) => return Err(GroupError::FencedInstance),
            (None, Some(_)) => return Err(GroupError::UnknownMember),
            (None, None) => member_id.to_owned(),
        };
        if self.promised.remove(&id).is_some() {
            return Ok(());
        }
        if !self.members.contains_key(&id) {
            return Err(GroupError::UnknownMember);
        }
        self.remove(name, &id);
        Ok(())
    }

    /// Whether only classic members are left.
    pub(super) fn is_all_classic(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(ConsumerMember::is_classic)
    }

    /// The classic group that the members of this one go on in; they are told to join again.
    pub(super) fn to_classic(&self, rules: Rules, now_ms: i64) -> ClassicGroup {
        let mut group = ClassicGroup::new(rules, now_ms);
        group.protocol_type = Some("consumer".to_owned());
        group.generation = self.epoch;
        for (id, member) in &self.members {
            let classic = member.subscription.classic.clone().unwrap_or_default();
            let version =
                classic.protocols.first().map_or(0, |(_, data)| consumer_protocol::version_of(data));
            let assignment = consumer_protocol::encode_assignment(version, &self.to_names(&member.assigned));
            if let Some(instance) = &member.subscription.instance_id {
                group.statics.insert(instance.clone(), id.clone());
            }
            group.members.insert(
                id.clone(),
                Member {
                    instance_id: member.subscription.instance_id.clone(),
                    client_id: member.subscription.client_id.clone(),
                    client_host: member.subscription.client_host.clone(),
                    session_timeout_ms: classic.session_timeout_ms,
                    rebalance_timeout_ms: member.subscription.rebalance_timeout_ms,
                    protocols: classic.protocols,
                    assignment,
                    deadline_ms: now_ms + i64::from(classic.session_timeout_ms),
                    ..Member::default()
                },
            );
        }
        group.leader = group.members.keys().next().cloned();
        group.protocol = group.select_protocol();
        group.enter(State::Stable, now_ms);
        group
    }
}

/// The consumer group that the members of a classic one go on in. `None` if what they say cannot be understood.
pub(super) fn from_classic(
    name: &str,
    classic: &mut ClassicGroup,
    default_assignor: &str,
    catalog: &Catalog,
    now_ms: i64,
) -> Option<ConsumerGroup> {
    let mut group = ConsumerGroup::new(default_assignor);
    group.epoch = classic.generation.max(1);
    group.assignment_epoch = group.epoch;
    group.write(Key::Group(name), None);
    group.write(Key::ConsumerGroup(name), Some(encode_epoch(group.epoch)));
    for (id, member) in &classic.members {
        let (subscription, assigned) = translate(classic.protocol.as_deref(), member, catalog)?;
        let joined = ConsumerMember {
            epoch: group.epoch,
            previous_epoch: group.epoch,
            assigned: assigned.clone(),
            deadline_ms: now_ms + i64::from(member.session_timeout_ms),
            ..ConsumerMember::default()
        };
        group.write(Key::TargetMember(name, id), Some(encode_target(&assigned)));
        group.target.insert(id.clone(), assigned);
        group.adopt(name, id, joined);
        group.put_subscription(name, id, None, subscription);
    }
    group.write(Key::Target(name), Some(encode_epoch(group.epoch)));
    classic.shut_down(GroupError::RebalanceInProgress);
    Some(group)
}

fn translate(
    protocol: Option<&str>,
    member: &Member,
    catalog: &Catalog,
) -> Option<(Subscription, Partitions)> {
    let (_, first) = member.protocols.first()?;
    let metadata: Bytes = protocol.map_or(first.clone(), |protocol| member.metadata(protocol));
    let ConsumerSubscription { topics, rack_id, .. } = consumer_protocol::decode_subscription(&metadata)?;
    let assigned = match member.assignment.is_empty() {
        true => Partitions::new(),
        false => to_ids(&consumer_protocol::decode_assignment(&member.assignment)?, catalog),
    };
    let subscription = Subscription {
        instance_id: member.instance_id.clone(),
        rack_id,
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        topics: topics.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
        regex: None,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        assignor: None,
        classic: Some(ClassicSubscription {
            session_timeout_ms: member.session_timeout_ms,
            protocols: member.protocols.clone(),
        }),
    };
    Some((subscription, assigned))
}

fn to_ids(named: &BTreeMap<String, BTreeSet<i32>>, catalog: &Catalog) -> Partitions {
    let id = |(name, indexes): (&String, &BTreeSet<i32>)| Some((catalog.topic(name)?.id, indexes.clone()));
    named.iter().filter_map(id).collect()
}
