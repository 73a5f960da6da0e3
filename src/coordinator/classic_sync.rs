//! A classic member's life after joining: its assignment, its heartbeats, its commits, its end.
//!
//! Owner: the group's coordinator. Spec and invariants: see `classic`.
//! It must not hand out an assignment before `stored` says that it is safe.

use bytes::Bytes;

use super::classic::{ClassicGroup, JoinOutcome, State, Store, SyncOutcome, Synced};
use super::error::GroupError;
use super::parked::{Parked, Refusable};
use crate::limits::GROUP_METADATA_BYTES_MAX;

/// Who speaks, in which generation.
#[derive(Clone, Debug, Default)]
pub struct MemberRef {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id`.
    pub instance_id: Option<String>,
    /// Generation, or -1.
    pub generation: i32,
}

/// A request to synchronise.
#[derive(Clone, Debug, Default)]
pub struct SyncRequest {
    /// Who speaks.
    pub member: MemberRef,
    /// What it takes the group for (version 5 on).
    pub protocol_type: Option<String>,
    /// The protocol it takes for chosen (version 5 on).
    pub protocol: Option<String>,
    /// Assignments, from the leader.
    pub assignments: Vec<(String, Bytes)>,
}

impl ClassicGroup {
    /// The leader brings the assignments, the others ask for theirs.
    pub fn sync(&mut self, request: SyncRequest, answer: Parked<SyncOutcome>, now_ms: i64) {
        if let Err(error) = self.check_sync(&request) {
            return answer.refuse(error);
        }
        let id = request.member.member_id;
        self.touch(&id, now_ms);
        self.unsynced.remove(&id);
        if self.unsynced.is_empty() {
            self.sync_deadline_ms = None;
        }
        if self.state == State::Stable {
            return answer.answer(Ok(self.synced(&id)));
        }
        if let Some(member) = self.members.get_mut(&id)
            && let Some(older) = member.syncing.replace(answer)
        {
            older.refuse(GroupError::RebalanceInProgress);
        }
        if self.leader.as_ref() == Some(&id) {
            let generation = self.generation;
            self.store = Some(Store::Assignment { generation, assignments: request.assignments });
        }
    }

    fn check_sync(&self, request: &SyncRequest) -> Result<(), GroupError> {
        self.check_generation(&request.member)?;
        let differs = |asked: &Option<String>, have: &Option<String>| asked.is_some() && asked != have;
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol, &self.protocol)
        {
            return Err(GroupError::InconsistentProtocol);
        }
        let size_bytes: usize = request.assignments.iter().map(|(id, bytes)| id.len() + bytes.len()).sum();
        match self.state {
            _ if size_bytes > GROUP_METADATA_BYTES_MAX => Err(GroupError::GroupFull),
            State::Empty => Err(GroupError::UnknownMember),
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    fn check_generation(&self, member: &MemberRef) -> Result<(), GroupError> {
        self.check_member(&member.member_id, member.instance_id.as_deref())?;
        if member.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        Ok(())
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map_or(Bytes::new(), |member| member.assignment.clone()),
        }
    }

    /// What [`take_store`](Self::take_store) gave is durable, or could not be made so.
    pub fn stored(&mut self, store: Store, outcome: Result<(), GroupError>, now_ms: i64) {
        match store {
            Store::Snapshot => {}
            Store::Replaced { outcome: joined, answer } => match outcome {
                Ok(()) => answer.answer(joined),
                Err(error) => answer.answer(JoinOutcome::error(error, &joined.member_id)),
            },
            Store::Assignment { generation, assignments } => {
                if self.state != State::CompletingRebalance || self.generation != generation {
                    return;
                }
                match outcome {
                    Ok(()) => self.hand_out(assignments, now_ms),
                    Err(error) => {
                        for member in self.members.values_mut() {
                            if let Some(parked) = member.syncing.take() {
                                member.deadline_ms = now_ms + i64::from(member.session_timeout_ms);
                                parked.refuse(error);
                            }
                        }
                        self.rebalance(now_ms);
                    }
                }
            }
        }
    }

    fn hand_out(&mut self, assignments: Vec<(String, Bytes)>, now_ms: i64) {
        self.members.values_mut().for_each(|member| member.assignment = Bytes::new());
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        self.enter(State::Stable, now_ms);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let synced = self.synced(&id);
            if let Some(parked) = self.members.get_mut(&id).and_then(|member| member.syncing.take()) {
                self.touch(&id, now_ms);
                parked.answer(Ok(synced));
            }
        }
    }

    /// A heartbeat; an error tells the member what to do.
    pub fn heartbeat(&mut self, member: &MemberRef, now_ms: i64) -> Result<(), GroupError> {
        self.check_generation(member)?;
        match self.state {
            State::Empty => return Err(GroupError::UnknownMember),
            State::PreparingRebalance => {
                self.touch(&member.member_id, now_ms);
                return Err(GroupError::RebalanceInProgress);
            }
            State::CompletingRebalance | State::Stable => self.touch(&member.member_id, now_ms),
        }
        Ok(())
    }

    /// Whether this member may commit offsets now. A commit counts as a sign of life.
    pub fn check_commit(
        &mut self,
        member: &MemberRef,
        transactional: bool,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        let anonymous = member.member_id.is_empty() && member.instance_id.is_none();
        if member.generation < 0 && self.state == State::Empty {
            // A consumer that manages its partitions by itself, or a tool.
            return Ok(());
        }
        if member.generation < 0 && anonymous {
            // Producers of old say nothing about the member they commit for.
            return if transactional { Ok(()) } else { Err(GroupError::UnknownMember) };
        }
        self.check_generation(member)?;
        if self.state == State::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        self.touch(&member.member_id, now_ms);
        Ok(())
    }

    /// A member leaves; the member id may be empty for a static one (KIP-345).
    pub fn leave(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        if member_id.is_empty() {
            let known = instance_id.and_then(|instance| self.statics.get(instance)).cloned();
            let id = known.ok_or(GroupError::UnknownMember)?;
            self.remove(&id, now_ms);
            return Ok(());
        }
        if instance_id.is_none() && self.promised.remove(member_id).is_some() {
            self.try_complete_join(now_ms);
            return Ok(());
        }
        self.check_member(member_id, instance_id)?;
        self.remove(member_id, now_ms);
        Ok(())
    }

    fn remove(&mut self, id: &str, now_ms: i64) {
        if self.take_member(id).is_none() {
            return;
        }
        match self.state {
            State::Stable | State::CompletingRebalance => self.rebalance(now_ms),
            State::PreparingRebalance => self.try_complete_join(now_ms),
            State::Empty => {}
        }
    }

    /// Carries out what is due.
    pub fn tick(&mut self, now_ms: i64) {
        self.promised.retain(|_, deadline_ms| *deadline_ms > now_ms);
        let silent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.may_expire() && member.deadline_ms <= now_ms)
            .map(|(id, _)| id.clone())
            .collect();
        silent.iter().for_each(|id| self.remove(id, now_ms));
        if self.sync_deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms) {
            self.sync_deadline_ms = None;
            let late: Vec<String> = std::mem::take(&mut self.unsynced).into_iter().collect();
            late.iter().for_each(|id| drop(self.take_member(id)));
            if !late.is_empty() {
                self.rebalance(now_ms);
            }
        }
        if self.join_deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms) {
            self.join_time_is_up(now_ms);
        } else {
            self.try_complete_join(now_ms);
        }
    }

    /// The group ends: whoever waits is told.
    pub fn shut_down(&mut self, error: GroupError) {
        for (id, member) in &mut self.members {
            if let Some(parked) = member.joining.take() {
                parked.answer(JoinOutcome::error(error, id));
            }
            if let Some(parked) = member.syncing.take() {
                parked.answer(Refusable::refused(error));
            }
        }
    }
}
