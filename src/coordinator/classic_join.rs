//! Joining a classic group, and the rebalance that follows.
//!
//! Owner: the group's coordinator. Spec and invariants: see `classic`. A rebalance runs through
//! `prepare_rebalance` → (everybody has joined, or time is up) → `complete_join`.
//! It must not touch assignments of members that keep theirs.

use super::classic::{
    ClassicGroup, Initial, JoinOutcome, JoinRequest, Member, NEW_MEMBER_TIMEOUT_MS, State, Store,
};
use super::error::GroupError;
use super::parked::{Parked, Refusable};

impl ClassicGroup {
    /// A member joins, or joins again. `new_id` makes the id of a new member out of a prefix.
    pub fn join(
        &mut self,
        request: JoinRequest,
        answer: Parked<JoinOutcome>,
        new_id: impl Fn(&str) -> String,
        now_ms: i64,
    ) {
        let refused = match self.admit(&request) {
            Err(error) => Some(error),
            Ok(()) if request.member_id.is_empty() => {
                return self.join_as_new(request, answer, new_id, now_ms);
            }
            Ok(()) if self.promised.contains_key(&request.member_id) => {
                if request.instance_id.is_none() {
                    self.promised.remove(&request.member_id);
                    let id = request.member_id.clone();
                    return self.add_member(id, request, answer, now_ms);
                }
                Some(GroupError::UnknownMember)
            }
            Ok(()) => self.check_member(&request.member_id, request.instance_id.as_deref()).err(),
        };
        match refused {
            Some(error) => answer.answer(JoinOutcome::error(error, &request.member_id)),
            None => self.join_again(request, answer, now_ms),
        }
    }

    fn admit(&self, request: &JoinRequest) -> Result<(), GroupError> {
        let known = self.members.get(&request.member_id);
        let room = match self.state {
            State::Empty => self.promised.len() < self.rules.size_max,
            State::PreparingRebalance => {
                known.is_some_and(|member| member.joining.is_some())
                    || self.joining_count() < self.rules.size_max
            }
            State::CompletingRebalance | State::Stable => {
                known.is_some() || self.members.len() < self.rules.size_max
            }
        };
        if !room || self.promised.len() > self.rules.size_max || !self.has_room_for(request) {
            return Err(GroupError::GroupFull);
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            return Err(GroupError::InconsistentProtocol);
        }
        Ok(())
    }

    fn joining_count(&self) -> usize {
        self.members.values().filter(|member| member.joining.is_some()).count()
    }

    fn join_as_new(
        &mut self,
        request: JoinRequest,
        answer: Parked<JoinOutcome>,
        new_id: impl Fn(&str) -> String,
        now_ms: i64,
    ) {
        if let Some(instance) = &request.instance_id {
            let id = new_id(instance);
            match self.statics.get(instance).cloned() {
                Some(old) => self.replace_static(&old, id, request, answer, now_ms),
                None => self.add_member(id, request, answer, now_ms),
            }
            return;
        }
        let id = new_id(&request.client_id);
        if request.needs_member_id {
            self.promised.insert(id.clone(), now_ms + i64::from(request.session_timeout_ms));
            return answer.answer(JoinOutcome::error(GroupError::MemberIdRequired, &id));
        }
        self.add_member(id, request, answer, now_ms);
    }

    /// A member whose id the group knows comes again.
    fn join_again(&mut self, request: JoinRequest, answer: Parked<JoinOutcome>, now_ms: i64) {
        let unchanged =
            self.members.get(&request.member_id).is_some_and(|member| member.protocols == request.protocols);
        let is_leader = self.leader.as_ref() == Some(&request.member_id);
        match self.state {
            State::Empty => answer.answer(JoinOutcome::error(GroupError::UnknownMember, &request.member_id)),
            // It lost the answer, or asks twice: nothing changes.
            State::CompletingRebalance if unchanged => {
                self.touch(&request.member_id, now_ms);
                answer.answer(self.present(&request.member_id));
            }
            State::Stable if unchanged && !is_leader => {
                self.touch(&request.member_id, now_ms);
                answer.answer(self.present(&request.member_id));
            }
            _ => {
                let id = request.member_id.clone();
                self.update_member(&id, request, Some(answer), now_ms);
                self.rebalance(now_ms);
            }
        }
    }

    /// The present generation, as a member is told of it.
    pub(super) fn present(&self, member_id: &str) -> JoinOutcome {
        let is_leader = self.leader.as_deref() == Some(member_id);
        JoinOutcome {
            error: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: member_id.to_owned(),
            skip_assignment: false,
            members: if is_leader { self.for_leader() } else { Vec::new() },
        }
    }

    fn add_member(&mut self, id: String, request: JoinRequest, answer: Parked<JoinOutcome>, now_ms: i64) {
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        if let Some(instance) = &request.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        let member = Member {
            instance_id: request.instance_id.clone(),
            client_id: request.client_id.clone(),
            client_host: request.client_host.clone(),
            is_new: true,
            ..Member::default()
        };
        self.members.insert(id.clone(), member);
        self.update_member(&id, request, Some(answer), now_ms);
        if let Some(member) = self.members.get_mut(&id) {
            member.deadline_ms = now_ms + NEW_MEMBER_TIMEOUT_MS;
        }
        if let Some(initial) = &mut self.initial {
            initial.more_came = true;
        }
        self.rebalance(now_ms);
    }

    fn update_member(
        &mut self,
        id: &str,
        request: JoinRequest,
        answer: Option<Parked<JoinOutcome>>,
        now_ms: i64,
    ) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.protocols = request.protocols;
        member.session_timeout_ms = request.session_timeout_ms;
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.client_id = request.client_id;
        member.client_host = request.client_host;
        member.deadline_ms = now_ms + i64::from(request.session_timeout_ms);
        if let Some(older) = std::mem::replace(&mut member.joining, answer) {
            // It joined twice; the first request gets an answer that makes its sender ask again.
            older.refuse(GroupError::RebalanceInProgress);
        }
    }

    /// A static member comes back with a new id: KIP-345 spares the group a rebalance if nothing changed.
    fn replace_static(
        &mut self,
        old: &str,
        id: String,
        request: JoinRequest,
        answer: Parked<JoinOutcome>,
        now_ms: i64,
    ) {
        let leader_before = self.leader.clone().unwrap_or_default();
        let was_leader = leader_before == old;
        let can_skip = request.can_skip_assignment;
        let Some(mut member) = self.members.remove(old) else { return };
        let fenced = |parked: Option<Parked<JoinOutcome>>| {
            if let Some(parked) = parked {
                parked.answer(JoinOutcome::error(GroupError::FencedInstance, old));
            }
        };
        fenced(member.joining.take());
        if let Some(parked) = member.syncing.take() {
            parked.refuse(GroupError::FencedInstance);
        }
        if let Some(instance) = &request.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        if was_leader {
            self.leader = Some(id.clone());
        }
        if self.unsynced.remove(old) {
            self.unsynced.insert(id.clone());
        }
        self.members.insert(id.clone(), member);
        self.update_member(&id, request, None, now_ms);
        let keeps = self.state == State::Stable && self.select_protocol() == self.protocol;
        if !keeps {
            if let Some(member) = self.members.get_mut(&id) {
                member.joining = Some(answer);
            }
            return self.rebalance(now_ms);
        }
        let mut outcome = self.present(&id);
        if can_skip {
            outcome.skip_assignment = was_leader;
        } else {
            // Told that somebody else leads, it does not assign anew.
            outcome.leader = leader_before;
            outcome.members = Vec::new();
        }
        self.store = Some(Store::Replaced { outcome, answer });
    }

    /// Begins a rebalance unless one runs; ends it when everybody is there.
    pub(super) fn rebalance(&mut self, now_ms: i64) {
        if self.state != State::PreparingRebalance {
            self.prepare_rebalance(now_ms);
        }
        self.try_complete_join(now_ms);
    }

    fn prepare_rebalance(&mut self, now_ms: i64) {
        for member in self.members.values_mut() {
            if let Some(parked) = member.syncing.take() {
                // While it waited its session stood still.
                member.deadline_ms = now_ms + i64::from(member.session_timeout_ms);
                parked.refuse(GroupError::RebalanceInProgress);
            }
        }
        if self.state == State::CompletingRebalance {
            // What the leader has sent, if anything, belongs to a generation that never comes to be.
            self.members.values_mut().for_each(|member| member.assignment.clear());
        }
        self.sync_deadline_ms = None;
        self.unsynced.clear();
        let timeout_ms = self.rebalance_timeout_ms();
        if self.state == State::Empty {
            let delay_ms = self.rules.initial_delay_ms;
            self.initial = Some(Initial { remaining_ms: (timeout_ms - delay_ms).max(0), more_came: false });
            self.join_deadline_ms = Some(now_ms + delay_ms);
        } else {
            self.initial = None;
            self.join_deadline_ms = Some(now_ms + timeout_ms);
        }
        self.enter(State::PreparingRebalance, now_ms);
    }

    pub(super) fn try_complete_join(&mut self, now_ms: i64) {
        let all_there = self.promised.is_empty() && self.members.values().all(|m| m.joining.is_some());
        if self.state == State::PreparingRebalance && self.initial.is_none() && all_there {
            self.complete_join(now_ms);
        }
    }

    /// The joining phase is at its end.
    pub(super) fn join_time_is_up(&mut self, now_ms: i64) {
        if let Some(initial) =
            self.initial.as_mut().filter(|initial| initial.more_came && initial.remaining_ms > 0)
        {
            let delay_ms = self.rules.initial_delay_ms.min(initial.remaining_ms);
            initial.remaining_ms -= delay_ms;
            initial.more_came = false;
            if delay_ms > 0 {
                self.join_deadline_ms = Some(now_ms + delay_ms);
                return;
            }
        }
        self.complete_join(now_ms);
    }

    fn complete_join(&mut self, now_ms: i64) {
        self.initial = None;
        self.join_deadline_ms = None;
        let late: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        late.iter().for_each(|id| drop(self.take_member(id)));
        if !self.elect_leader() && !self.members.is_empty() {
            // Static members alone, none of them back yet: they have another round.
            self.join_deadline_ms = Some(now_ms + self.rebalance_timeout_ms().max(1));
            return;
        }
        self.generation = if self.generation == i32::MAX { 0 } else { self.generation + 1 };
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.enter(State::Empty, now_ms);
            self.store = Some(Store::Snapshot);
            return;
        }
        self.protocol = self.select_protocol();
        self.enter(State::CompletingRebalance, now_ms);
        self.sync_deadline_ms = Some(now_ms + self.rebalance_timeout_ms());
        self.unsynced = self.members.keys().cloned().collect();
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let outcome = self.present(&id);
            self.touch(&id, now_ms);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
                if let Some(parked) = member.joining.take() {
                    parked.answer(outcome);
                }
            }
        }
    }

    /// Makes sure that the leader is one of those who have joined; false if nobody has.
    fn elect_leader(&mut self) -> bool {
        let joined = |id: &String| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if self.leader.as_ref().is_some_and(joined) {
            return true;
        }
        let next = self.members.keys().find(|id| joined(id)).cloned();
        let found = next.is_some();
        if found {
            self.leader = next;
        }
        found
    }

    /// Takes a member out; what it waits for is refused.
    pub(super) fn take_member(&mut self, id: &str) -> Option<Member> {
        let mut member = self.members.remove(id)?;
        if let Some(parked) = member.joining.take() {
            parked.answer(JoinOutcome::error(GroupError::UnknownMember, id));
        }
        if let Some(parked) = member.syncing.take() {
            parked.answer(Refusable::refused(GroupError::UnknownMember));
        }
        if let Some(instance) = &member.instance_id {
            self.statics.remove(instance);
        }
        self.unsynced.remove(id);
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }
}
