//! The consumer group of a [`super::workload::Workload`]: classic members that share a topic, read what is assigned to
//! them from the committed offset on, and commit where they stand.
//!
//! Owner: the workload. Invariants: a member keeps its id over restarts of the broker; it goes by its own assignment
//! and nothing else. It must not commit past what it has read.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::client::{Client, EARLIEST};
use super::history::{History, Place, Probe, What, now_ns};
use super::workload::fetch;
use super::workload_txn::NEXT_COMMIT;

const GROUP: &str = "readers";
const LOADING: i16 = 14;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
/// ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID.
const STALE_CODES: &[i16] = &[22, UNKNOWN_MEMBER];
/// Polls between two commits.
const POLLS_PER_COMMIT: u32 = 4;

/// All members.
pub(super) struct Members {
    topic: &'static str,
    partitions: i32,
    members: Vec<Mutex<Identity>>,
}

#[derive(Clone, Default)]
struct Identity {
    id: String,
    generation: i32,
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn other(what: &str, code: i16) -> io::Error {
    io::Error::other(format!("{what}: error {code}"))
}

/// Set when a request of the group has to be asked again from the join on.
fn again(code: i16) -> bool {
    matches!(code, 22 | UNKNOWN_MEMBER | REBALANCE | LOADING | MEMBER_ID_REQUIRED | 16)
}

impl Members {
    pub(super) fn new(topic: &'static str, partitions: i32) -> Members {
        Members { topic, partitions, members: (0..2).map(|_| Mutex::default()).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn run(&self, number: usize, port: u16, history: &History, stop: &AtomicBool) {
        let mut identity = self.members[number].lock().expect("member");
        let Ok(mut client) = Client::connect(port) else { return };
        // An error of the connection ends it: the broker is gone.
        while !stop.load(Ordering::Relaxed) {
            match self.one_generation(number as u32, &mut client, &mut identity, history, stop) {
                Ok(()) => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return,
            }
        }
    }

    /// Joins, and reads until the group has another generation.
    fn one_generation(
        &self,
        number: u32,
        client: &mut Client,
        identity: &mut Identity,
        history: &History,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let Some(places) = self.join(client, identity)? else { return Ok(()) };
        let (generation, member) = (identity.generation, identity.id.clone());
        history.note(What::Assigned { group: GROUP.to_owned(), generation, member, places: places.clone() });
        let reader = 10 + number;
        let mut at = Vec::new();
        for place in &places {
            let asked_ns = now_ns();
            let Some(offset) = committed(client, *place)? else { return Ok(()) };
            history.note(What::Offset { group: GROUP.to_owned(), place: *place, offset, asked_ns });
            let start = client.try_offset(place.0, place.1, EARLIEST)?;
            let offset = offset.max(start);
            history.note(What::Placed { reader, place: *place, offset });
            at.push(offset);
        }
        for poll in 1_u32.. {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let wanted: Vec<(Place, i64)> = places.iter().copied().zip(at.iter().copied()).collect();
            if !wanted.is_empty() {
                for (which, found) in fetch(client, reader, &wanted, false, 10)?.into_iter().enumerate() {
                    match found {
                        Ok(read) => {
                            at[which] = read.batches.last().map_or(at[which], |batch| batch.next);
                            history.note(What::Read(read));
                        }
                        Err(start) => {
                            at[which] = at[which].max(start);
                            history.note(What::Placed { reader, place: places[which], offset: at[which] });
                        }
                    }
                }
            }
            if poll.is_multiple_of(POLLS_PER_COMMIT) {
                for (place, offset) in places.iter().zip(&at) {
                    let (member, generation) = (identity.id.as_str(), identity.generation);
                    if commit(client, history, (member, generation), *place, *offset)? != 0 {
                        return Ok(());
                    }
                }
            }
            if heartbeat(client, identity)? != 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The places assigned, or `None` when it has to begin again.
    fn join(&self, client: &mut Client, identity: &mut Identity) -> io::Result<Option<Vec<Place>>> {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text(&identity.id))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(3_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let joined = client.call(9, &request)?;
        match joined.error_code {
            0 => {}
            code if again(code) => {
                identity.id =
                    if code == UNKNOWN_MEMBER { String::new() } else { joined.member_id.to_string() };
                return Ok(None);
            }
            code => return Err(other("JoinGroup", code)),
        }
        (identity.id, identity.generation) = (joined.member_id.to_string(), joined.generation_id);
        let count = joined.members.len();
        let assignments = joined.members.iter().enumerate().map(|(at, member)| {
            let mine = (0..self.partitions).filter(|partition| *partition as usize % count == at);
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(mine.map(|partition| partition as u8).collect::<Vec<u8>>().into())
        });
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text(&identity.id))
            .with_generation_id(identity.generation)
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect());
        let synced = client.call(5, &request)?;
        match synced.error_code {
            0 => Ok(Some(synced.assignment.iter().map(|p| (self.topic, i32::from(*p))).collect())),
            code if again(code) => Ok(None),
            code => Err(other("SyncGroup", code)),
        }
    }

    /// A commit of the generation before the last must be refused.
    pub(super) fn settle(&self, client: &mut Client, history: &History) {
        let identity = self.members[0].lock().expect("member").clone();
        if identity.generation < 2 {
            return;
        }
        let stale = (identity.id.as_str(), identity.generation - 1);
        let code = super::eventually("the group's coordinator has loaded", || {
            let code = commit(client, history, stale, (self.topic, 0), 0).expect("an answer");
            (code != LOADING && code != 16).then_some(code)
        });
        history.note(What::Probed { what: Probe::StaleGeneration, code, wanted: STALE_CODES });
    }

    pub(super) fn note_offsets(&self, client: &mut Client, history: &History) {
        for partition in 0..self.partitions {
            let (place, asked_ns) = ((self.topic, partition), now_ns());
            let offset = super::eventually("the group's coordinator has loaded", || {
                committed(client, place).expect("an answer")
            });
            history.note(What::Offset { group: GROUP.to_owned(), place, offset, asked_ns });
        }
    }
}

fn heartbeat(client: &mut Client, identity: &Identity) -> io::Result<i16> {
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_member_id(text(&identity.id))
        .with_generation_id(identity.generation);
    Ok(client.call(4, &request)?.error_code)
}

/// The committed offset (-1: none), or `None` while the coordinator loads.
fn committed(client: &mut Client, place: Place) -> io::Result<Option<i64>> {
    let topics = OffsetFetchRequestTopics::default()
        .with_name(TopicName(text(place.0)))
        .with_partition_indexes(vec![place.1]);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_member_epoch(-1)
        .with_topics(Some(vec![topics]));
    let answer = client.call(8, &OffsetFetchRequest::default().with_groups(vec![group]))?.groups.remove(0);
    match answer.error_code {
        0 => Ok(Some(answer.topics[0].partitions[0].committed_offset)),
        code if again(code) => Ok(None),
        code => Err(other("OffsetFetch", code)),
    }
}

/// Commits and notes it; the code.
fn commit(
    client: &mut Client,
    history: &History,
    (member, generation): (&str, i32),
    place: Place,
    offset: i64,
) -> io::Result<i16> {
    let commit = NEXT_COMMIT.fetch_add(1, Ordering::Relaxed);
    history.note(What::Committing { group: GROUP.to_owned(), place, offset, commit, transaction: None });
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(place.1)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(place.0)))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_member_id(text(member))
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![topic]);
    let code = client.call(8, &request)?.topics[0].partitions[0].error_code;
    history.note(if code == 0 { What::Committed { commit } } else { What::CommitRefused { commit } });
    Ok(code)
}
