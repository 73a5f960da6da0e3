//! A member of a consumer group, for `ringlog consume --group`: joins, keeps its place, commits, leaves.
//!
//! Owner: the command that runs. Spec: the classic protocol with the `range` assignor, which every Kafka from 0.9 to
//! 4.x coordinates, and which members of other clients share. Invariants: a member that is told to rejoin stops reading
//! first; as the group's leader it assigns every partition of every topic to exactly one subscriber.
//! Must not: read records, or run a thread: whoever reads calls [`Membership::tend`] between two fetches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};

use super::client::{ClientError, Cluster, PartitionId, Result, check, text};
use super::group::commit;
use crate::coordinator::consumer_protocol::{
    ConsumerSubscription, decode_assignment, encode_assignment, encode_subscription, subscribed_topics,
    version_of,
};

const ASSIGNOR: &str = "range";
const SESSION_MS: i32 = 45_000;
const BEAT: Duration = Duration::from_secs(3);
const COMMIT: Duration = Duration::from_secs(5);
/// How long others may take to rejoin; an answer may take as long, so it stays below the time-out of answers.
const REBALANCE_MS_MAX: u64 = 20_000;
const RETRY: Duration = Duration::from_millis(200);
const RETRIES_MAX: u32 = 150;

const COORDINATOR_LOADING: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

/// The partitions of each topic.
type Assigned = BTreeMap<String, BTreeSet<i32>>;

/// One member of one group, subscribed to one topic.
pub(super) struct Membership {
    group: String,
    topic: String,
    member_id: String,
    generation: i32,
    rebalance_ms: i32,
    next_beat: Instant,
    next_commit: Instant,
}

impl Membership {
    pub(super) fn new(group: &str, topic: &str, answer_timeout_ms: u64) -> Membership {
        Membership {
            group: group.to_owned(),
            topic: topic.to_owned(),
            member_id: String::new(),
            generation: -1,
            rebalance_ms: (answer_timeout_ms * 2 / 3).clamp(1_000, REBALANCE_MS_MAX) as i32,
            next_beat: Instant::now(),
            next_commit: Instant::now(),
        }
    }

    /// Joins, or joins again; the partitions of the topic that are this member's now.
    pub(super) fn join(&mut self, cluster: &mut Cluster) -> Result<BTreeSet<i32>> {
        for _ in 0..RETRIES_MAX {
            let joined = self.ask_to_join(cluster)?;
            let code = match joined.error_code {
                0 => {
                    self.member_id = joined.member_id.to_string();
                    self.generation = joined.generation_id;
                    let leads = joined.leader == joined.member_id;
                    let plan = if leads { assign(cluster, &joined.members)? } else { Vec::new() };
                    match self.synchronise(cluster, plan)? {
                        Ok(mut assigned) => {
                            self.next_beat = Instant::now() + BEAT;
                            self.next_commit = Instant::now() + COMMIT;
                            return Ok(assigned.remove(&self.topic).unwrap_or_default());
                        }
                        Err(code) => code,
                    }
                }
                MEMBER_ID_REQUIRED => {
                    self.member_id = joined.member_id.to_string();
                    continue;
                }
                code => code,
            };
            match code {
                COORDINATOR_LOADING | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => {
                    std::thread::sleep(RETRY)
                }
                REBALANCE_IN_PROGRESS => {}
                UNKNOWN_MEMBER | ILLEGAL_GENERATION => self.member_id.clear(),
                code => check(&format!("group {}", self.group), code, None)?,
            }
        }
        Err(ClientError::Refused(format!("group {}: joining does not come to an end", self.group)))
    }

    fn ask_to_join(&self, cluster: &mut Cluster) -> Result<JoinGroupResponse> {
        let subscription = ConsumerSubscription {
            topics: vec![self.topic.clone()],
            generation: -1,
            ..ConsumerSubscription::default()
        };
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text(ASSIGNOR))
            .with_metadata(encode_subscription(&subscription));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.member_id))
            .with_session_timeout_ms(SESSION_MS)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
            .with_rebalance_timeout_ms(self.rebalance_ms);
        cluster.coordinator(&self.group)?.call(1, 5, |_| request)
    }

    /// Hands the leader's plan in, or waits for it: what is assigned to this member, or an error code.
    fn synchronise(
        &self,
        cluster: &mut Cluster,
        plan: Vec<SyncGroupRequestAssignment>,
    ) -> Result<std::result::Result<Assigned, i16>> {
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_assignments(plan);
        let answer = cluster.coordinator(&self.group)?.call(0, 3, |_| request)?;
        if answer.error_code != 0 {
            return Ok(Err(answer.error_code));
        }
        // A member without partitions may get no bytes at all.
        if answer.assignment.is_empty() {
            return Ok(Ok(Assigned::new()));
        }
        let assigned = decode_assignment(&answer.assignment);
        let assigned = assigned
            .ok_or_else(|| ClientError::Protocol("the group's leader sent no assignment".to_owned()))?;
        Ok(Ok(assigned))
    }

    /// Keeps the place in the group, and commits now and then; false when the member has to join again.
    pub(super) fn tend(
        &mut self,
        cluster: &mut Cluster,
        positions: &BTreeMap<PartitionId, i64>,
    ) -> Result<bool> {
        let now = Instant::now();
        if now >= self.next_commit {
            self.next_commit = now + COMMIT;
            self.commit(cluster, positions)?;
        }
        if now < self.next_beat {
            return Ok(true);
        }
        self.next_beat = now + BEAT;
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id));
        let answer = cluster.coordinator(&self.group)?.call(0, 3, |_| request)?;
        match answer.error_code {
            0 => Ok(true),
            // The next beat may find it again.
            COORDINATOR_LOADING | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => Ok(true),
            REBALANCE_IN_PROGRESS | UNKNOWN_MEMBER | ILLEGAL_GENERATION => Ok(false),
            code => check(&format!("group {}", self.group), code, None).map(|()| true),
        }
    }

    /// Commits positions as this member; a member that the group has moved on from loses them, which is said.
    pub(super) fn commit(&self, cluster: &mut Cluster, positions: &BTreeMap<PartitionId, i64>) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        let outcome = commit(cluster, &self.group, (&self.member_id, self.generation), positions);
        if let Err(ClientError::Refused(why)) = outcome {
            eprintln!("ringlog: offsets are not committed: {why}");
            return Ok(());
        }
        outcome
    }

    /// Leaves, so that others get the partitions at once.
    pub(super) fn leave(&self, cluster: &mut Cluster) -> Result<()> {
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.member_id));
        let answer = cluster.coordinator(&self.group)?.call(0, 2, |_| request)?;
        match answer.error_code {
            0 | UNKNOWN_MEMBER => Ok(()),
            code => check(&format!("group {}", self.group), code, None),
        }
    }
}

/// The leader's plan for all members.
fn assign(
    cluster: &mut Cluster,
    members: &[JoinGroupResponseMember],
) -> Result<Vec<SyncGroupRequestAssignment>> {
    let mut subscribers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for member in members {
        for topic in subscribed_topics(&member.metadata).unwrap_or_default() {
            subscribers.entry(topic).or_default().insert(member.member_id.to_string());
        }
    }
    let topics: Vec<&str> = subscribers.keys().map(String::as_str).collect();
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    for topic in cluster.metadata(Some(&topics))?.topics {
        let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
        // A topic that another member waits for need not be there yet.
        counts.insert(name, topic.partitions.len() as i32);
    }
    let plan = range(&subscribers, &counts);
    let none = Assigned::new();
    let assignments = members.iter().map(|member| {
        let assigned = plan.get(member.member_id.as_str()).unwrap_or(&none);
        SyncGroupRequestAssignment::default()
            .with_member_id(member.member_id.clone())
            .with_assignment(encode_assignment(version_of(&member.metadata), assigned))
    });
    Ok(assignments.collect())
}

/// Each topic in ranges, the first members one partition more where it does not divide.
fn range(
    subscribers: &BTreeMap<String, BTreeSet<String>>,
    counts: &BTreeMap<String, i32>,
) -> BTreeMap<String, Assigned> {
    let mut plan: BTreeMap<String, Assigned> = BTreeMap::new();
    for (topic, members) in subscribers {
        let count = counts.get(topic).copied().unwrap_or(0);
        let (each, more) = (count / members.len() as i32, count % members.len() as i32);
        let mut next = 0;
        for (place, member) in members.iter().enumerate() {
            let size = each + i32::from((place as i32) < more);
            if size > 0 {
                let range = (next..next + size).collect();
                plan.entry(member.clone()).or_default().insert(topic.clone(), range);
            }
            next += size;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_goes_to_exactly_one_subscriber() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let subscribers = [("t".to_owned(), set(&["a", "b", "c"])), ("u".to_owned(), set(&["b"]))].into();
        let counts = [("t".to_owned(), 5), ("u".to_owned(), 1)].into();
        let plan = range(&subscribers, &counts);
        assert_eq!(plan["a"]["t"], [0, 1].into());
        assert_eq!((&plan["b"]["t"], &plan["b"]["u"]), (&[2, 3].into(), &[0].into()));
        assert_eq!(plan["c"]["t"], [4].into());
        assert!(!plan["a"].contains_key("u"));
        assert!(range(&subscribers, &BTreeMap::new()).is_empty(), "no topic is there yet");
    }
}
