//! A group of the classic protocol: members join, a leader among them assigns, everybody gets the assignment.
//!
//! Owner: the group's coordinator, on one core. Time comes in as an argument, so that tests can make their own.
//! Spec: KIP-62, 134 (initial delay), 345 (static members), 394 (member ids), 814 (skip the assignment).
//! Invariants: an answer that is owed is kept in the member it is owed to; a generation's assignment is handed out
//! only once it is stored; a member that waits for an answer does not run into its session time-out.
//! It must not do I/O: what must be stored it leaves in [`ClassicGroup::take_store`].
//! `classic_join` has joining and the rebalance, `classic_sync` the rest of a member's life.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::error::GroupError;
use super::parked::{Parked, Refusable};
use super::records::{GroupRecord, MemberRecord};
use crate::limits::GROUP_METADATA_BYTES_MAX;

/// How long a member that joined an empty group for the first time may wait for the end of the rebalance.
pub(super) const NEW_MEMBER_TIMEOUT_MS: i64 = 5 * 60 * 1000;

/// States of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No members.
    Empty,
    /// Members are to join again.
    PreparingRebalance,
    /// The leader is to assign.
    CompletingRebalance,
    /// Everybody has an assignment.
    Stable,
}

impl State {
    /// As clients name it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// A request to join.
#[derive(Clone, Debug, Default)]
pub struct JoinRequest {
    /// Empty for a new member.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Session time-out, milliseconds.
    pub session_timeout_ms: i32,
    /// Rebalance time-out, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect` and so on.
    pub protocol_type: String,
    /// Protocols in the order of preference, with metadata.
    pub protocols: Vec<(String, Bytes)>,
    /// A new member is to come again with the id it is given (version 4 on).
    pub needs_member_id: bool,
    /// A leader can be told to keep the assignment (version 9 on).
    pub can_skip_assignment: bool,
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// What joining came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinOutcome {
    /// Why not, if so.
    pub error: Option<GroupError>,
    /// The generation, or -1.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: String,
    /// The member's id.
    pub member_id: String,
    /// The leader need not assign.
    pub skip_assignment: bool,
    /// All members, for the leader.
    pub members: Vec<JoinedMember>,
}

impl JoinOutcome {
    /// A refusal.
    pub fn error(error: GroupError, member_id: &str) -> JoinOutcome {
        JoinOutcome {
            error: Some(error),
            generation: -1,
            member_id: member_id.to_owned(),
            ..JoinOutcome::default()
        }
    }
}

impl Refusable for JoinOutcome {
    fn refused(error: GroupError) -> JoinOutcome {
        JoinOutcome::error(error, "")
    }
}

/// What a member gets from the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// The group's protocol type.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// The assignment.
    pub assignment: Bytes,
}

/// What synchronising came to.
pub type SyncOutcome = Result<Synced, GroupError>;

impl Refusable for SyncOutcome {
    fn refused(error: GroupError) -> SyncOutcome {
        Err(error)
    }
}

/// One member.
#[derive(Debug, Default)]
pub struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// When its session ends unless it is heard of.
    pub(super) deadline_ms: i64,
    /// It joined an empty group and has not been through a rebalance.
    pub(super) is_new: bool,
    pub(super) joining: Option<Parked<JoinOutcome>>,
    pub(super) syncing: Option<Parked<SyncOutcome>>,
}

impl Member {
    /// Whether its session may end: not while it waits for us.
    pub(super) fn may_expire(&self) -> bool {
        self.is_new || (self.joining.is_none() && self.syncing.is_none())
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| name == protocol)
            .map_or(Bytes::new(), |(_, data)| data.clone())
    }

    fn metadata_bytes(&self) -> usize {
        self.protocols.iter().map(|(name, data)| name.len() + data.len()).sum()
    }
}

/// What the group waits to have stored, and what is owed for it.
#[derive(Debug)]
pub enum Store {
    /// The group as it is.
    Snapshot,
    /// The leader's assignment of the present generation.
    Assignment {
        /// Generation it belongs to.
        generation: i32,
        /// Member id and assignment.
        assignments: Vec<(String, Bytes)>,
    },
    /// A static member has a new id and keeps everything else.
    Replaced {
        /// What it is to be told.
        outcome: JoinOutcome,
        /// By this.
        answer: Parked<JoinOutcome>,
    },
}

/// Numbers from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_delay_ms: i64,
    /// `group.max.size`, within the broker's own bound.
    pub size_max: usize,
}

/// The first rebalance of an empty group waits for more members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Initial {
    pub(super) remaining_ms: i64,
    pub(super) more_came: bool,
}

/// See the module.
#[derive(Debug)]
pub struct ClassicGroup {
    pub(super) rules: Rules,
    pub(super) state: State,
    /// Since when, milliseconds since 1970; -1 when unknown.
    pub(super) state_ms: i64,
    pub(super) protocol_type: Option<String>,
    pub(super) generation: i32,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// Member ids of static members.
    pub(super) statics: BTreeMap<String, String>,
    /// Ids that were handed out, and until when they may be used.
    pub(super) promised: BTreeMap<String, i64>,
    pub(super) initial: Option<Initial>,
    /// End of the joining phase.
    pub(super) join_deadline_ms: Option<i64>,
    /// When members that have not synchronised are thrown out.
    pub(super) sync_deadline_ms: Option<i64>,
    pub(super) unsynced: BTreeSet<String>,
    pub(super) store: Option<Store>,
}

impl ClassicGroup {
    /// An empty group.
    pub fn new(rules: Rules, now_ms: i64) -> ClassicGroup {
        ClassicGroup {
            rules,
            state: State::Empty,
            state_ms: now_ms,
            protocol_type: None,
            generation: 0,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            promised: BTreeMap::new(),
            initial: None,
            join_deadline_ms: None,
            sync_deadline_ms: None,
            unsynced: BTreeSet::new(),
            store: None,
        }
    }

    /// The group that a record describes; its members have a whole session to be heard of.
    pub fn restore(rules: Rules, record: GroupRecord, now_ms: i64) -> ClassicGroup {
        let mut group = ClassicGroup::new(rules, record.state_ms);
        group.protocol_type = Some(record.protocol_type).filter(|kind| !kind.is_empty());
        group.generation = record.generation;
        let protocol = record.protocol.clone().unwrap_or_default();
        for found in record.members {
            if let Some(instance) = &found.instance_id {
                group.statics.insert(instance.clone(), found.member_id.clone());
            }
            let member = Member {
                instance_id: found.instance_id,
                client_id: found.client_id,
                client_host: found.client_host,
                session_timeout_ms: found.session_timeout_ms,
                rebalance_timeout_ms: found.rebalance_timeout_ms,
                protocols: vec![(protocol.clone(), found.subscription)],
                assignment: found.assignment,
                deadline_ms: now_ms + i64::from(found.session_timeout_ms),
                ..Member::default()
            };
            group.members.insert(found.member_id, member);
        }
        if !group.members.is_empty() {
            group.state = State::Stable;
            group.protocol = record.protocol;
            group.leader = record.leader.filter(|leader| group.members.contains_key(leader));
        }
        group
    }

    /// The record of the group, with `assignments` in place of those the members have.
    pub fn record(&self, assignments: Option<&[(String, Bytes)]>) -> GroupRecord {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let given: Option<BTreeMap<&str, &Bytes>> =
            assignments.map(|list| list.iter().map(|(id, bytes)| (id.as_str(), bytes)).collect());
        let members = self.members.iter().map(|(id, member)| MemberRecord {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: match &given {
                Some(given) => given.get(id.as_str()).map_or(Bytes::new(), |bytes| (*bytes).clone()),
                None => member.assignment.clone(),
            },
        });
        GroupRecord {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_ms: self.state_ms,
            members: members.collect(),
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when, milliseconds since 1970, or -1.
    pub fn state_ms(&self) -> i64 {
        self.state_ms
    }

    /// `consumer`, `connect` and so on; `None` for a group that only committed offsets.
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// The generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The chosen protocol.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Members by id.
    pub fn members(&self) -> impl Iterator<Item = (&String, &Member)> {
        self.members.iter()
    }

    /// Whether nobody is in it or about to be.
    pub fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.promised.is_empty() && self.store.is_none()
    }

    /// What is to be stored; after it, [`stored`](Self::stored) must be called.
    pub fn take_store(&mut self) -> Option<Store> {
        self.store.take()
    }

    pub(super) fn enter(&mut self, state: State, now_ms: i64) {
        self.state = state;
        self.state_ms = now_ms;
    }

    /// Memory the members' metadata takes; a joining member may not bring it over the bound.
    pub(super) fn has_room_for(&self, request: &JoinRequest) -> bool {
        let more: usize = request.protocols.iter().map(|(name, data)| name.len() + data.len()).sum();
        let have: usize = self.members.values().map(Member::metadata_bytes).sum();
        have + more <= GROUP_METADATA_BYTES_MAX
    }

    /// The longest rebalance time-out of any member.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Whether a member with these protocols can be in the group with the others.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.all_know(name))
    }

    fn all_know(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.protocols.iter().any(|(name, _)| name == protocol))
    }

    /// Every member votes for the first of its protocols that all know; most votes win, the name decides a tie.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| self.all_know(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().max().copied()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    /// Members as the leader gets them.
    pub(super) fn for_leader(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let joined = |(id, member): (&String, &Member)| JoinedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        self.members.iter().map(joined).collect()
    }

    /// Checks who speaks: an instance id must belong to the member id.
    pub(super) fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance_id {
            match self.statics.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    /// A sign of life.
    pub(super) fn touch(&mut self, member_id: &str, now_ms: i64) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.deadline_ms = now_ms + i64::from(member.session_timeout_ms);
        }
    }

    /// The next moment at which [`tick`](Self::tick) has something to do.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        let sessions = self.members.values().filter(|m| m.may_expire()).map(|m| m.deadline_ms);
        let promises = self.promised.values().copied();
        let phases = [self.join_deadline_ms, self.sync_deadline_ms].into_iter().flatten();
        sessions.chain(promises).chain(phases).min()
    }

    /// Topics the members read, if the group is one of consumers and they can be told: else `None`.
    pub fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some("consumer") || self.members.is_empty() {
            return None;
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(super::consumer_protocol::subscribed_topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }
}
