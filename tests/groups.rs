//! Consumer groups with the real binary: many groups that rebalance at once, kills in the middle of commits, offsets
//! that expire, both protocols across restarts. Real clients are in tests/clients.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use ringlog::wire::{Reader, Writer};
use support::broker::{Broker, DataDir, Options};
use support::client::Client;
use support::eventually;
use uuid::Uuid;

const LOADING: i16 = 14;
const MEMBER_ID_REQUIRED: i16 = 79;
const REBALANCE_IN_PROGRESS: i16 = 27;

fn options() -> Options {
    Options::default().with("group.initial.rebalance.delay.ms", "0").with("offsets.topic.num.partitions", "4")
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Commits one offset; the error code.
fn commit(client: &mut Client, name: &str, member: (&str, i32), place: (&str, i32), offset: i64) -> i16 {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(place.1)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(Some(text("mine")));
    let asked =
        OffsetCommitRequestTopic::default().with_name(topic(place.0)).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group(name))
        .with_member_id(text(member.0))
        .with_generation_id_or_member_epoch(member.1)
        .with_topics(vec![asked]);
    client.call(9, &request).expect("an answer").topics[0].partitions[0].error_code
}

/// All offsets of a group by topic and partition; waits while the coordinator loads.
fn committed(client: &mut Client, name: &str) -> BTreeMap<(String, i32), i64> {
    let asked = OffsetFetchRequestGroup::default().with_group_id(group(name)).with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![asked.with_member_epoch(-1)]);
    let answer = eventually("the coordinator has loaded", || {
        let answer = client.call(8, &request).expect("an answer").groups.remove(0);
        (answer.error_code != LOADING).then_some(answer)
    });
    assert_eq!(answer.error_code, 0);
    let mut offsets = BTreeMap::new();
    for found in answer.topics {
        for partition in found.partitions {
            assert_eq!(partition.error_code, 0);
            // Clients of old say nothing about leader epochs.
            if partition.committed_leader_epoch >= 0 {
                let seen = (partition.committed_leader_epoch, partition.metadata.as_deref());
                assert_eq!(seen, (3, Some("mine")));
            }
            offsets.insert((found.name.to_string(), partition.partition_index), partition.committed_offset);
        }
    }
    offsets
}

/// A consumer's subscription, version 0.
fn subscription(topic: &str) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1];
    bytes.extend((topic.len() as i16).to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend([0xff; 4]);
    bytes.into()
}

fn join_request(name: &str, member: &str) -> JoinGroupRequest {
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(subscription("t"));
    JoinGroupRequest::default()
        .with_group_id(group(name))
        .with_member_id(text(member))
        .with_session_timeout_ms(6_000)
        .with_rebalance_timeout_ms(20_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// One member with a connection of its own.
struct Member {
    client: Client,
    group: String,
    id: String,
    generation: i32,
    members: usize,
}

impl Member {
    fn new(broker: &Broker, name: &str) -> Member {
        let mut client = broker.connect();
        let refused = client.call(9, &join_request(name, "")).expect("an answer");
        assert_eq!(refused.error_code, MEMBER_ID_REQUIRED);
        let id = refused.member_id.to_string();
        Member { client, group: name.to_owned(), id, generation: -1, members: 0 }
    }

    /// Joins and synchronises until the group is stable; the assignment.
    fn settle(&mut self) -> Bytes {
        loop {
            let joined = self.client.call(9, &join_request(&self.group, &self.id)).expect("an answer");
            if joined.error_code == REBALANCE_IN_PROGRESS {
                continue;
            }
            assert_eq!(joined.error_code, 0, "{} {}", self.group, self.id);
            self.generation = joined.generation_id;
            if joined.leader == joined.member_id {
                self.members = joined.members.len();
            }
            let assignments = joined.members.iter().map(|member| {
                SyncGroupRequestAssignment::default()
                    .with_member_id(member.member_id.clone())
                    .with_assignment(Bytes::copy_from_slice(member.member_id.as_bytes()))
            });
            let request = SyncGroupRequest::default()
                .with_group_id(group(&self.group))
                .with_member_id(text(&self.id))
                .with_generation_id(self.generation)
                .with_protocol_type(Some(text("consumer")))
                .with_protocol_name(Some(text("range")))
                .with_assignments(assignments.collect());
            let synced = self.client.call(5, &request).expect("an answer");
            if synced.error_code != REBALANCE_IN_PROGRESS {
                assert_eq!(synced.error_code, 0);
                return synced.assignment;
            }
        }
    }

    fn heartbeat(&mut self) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group(&self.group))
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation);
        self.client.call(4, &request).expect("an answer").error_code
    }

    /// Stays in the group until `done`.
    fn follow(&mut self, done: impl Fn(&Member) -> bool) -> Bytes {
        let mut assignment = self.settle();
        while !done(self) {
            match self.heartbeat() {
                0 => std::thread::sleep(Duration::from_millis(20)),
                REBALANCE_IN_PROGRESS => assignment = self.settle(),
                other => panic!("heartbeat: {other}"),
            }
        }
        assignment
    }
}

fn describe(client: &mut Client, name: &str) -> (String, usize) {
    let request = DescribeGroupsRequest::default().with_groups(vec![group(name)]);
    let mut answer = client.call(5, &request).expect("an answer");
    let found = answer.groups.remove(0);
    (found.group_state.to_string(), found.members.len())
}

#[test]
fn groups_rebalance_side_by_side() {
    const MEMBERS: usize = 4;
    let dir = DataDir::new("rebalance");
    let broker = Broker::start(&dir, &options());
    broker.connect().create("t", 4, &[]);
    let everybody_in = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for number in 0..6 * MEMBERS {
            let (broker, everybody_in) = (&broker, &everybody_in);
            scope.spawn(move || {
                let name = format!("g{}", number / MEMBERS);
                let mut member = Member::new(broker, &name);
                let full = |member: &Member| member.members == MEMBERS;
                let told = AtomicBool::new(false);
                let assignment = member.follow(|member| {
                    if full(member) && !told.swap(true, Ordering::Relaxed) {
                        everybody_in.fetch_add(1, Ordering::Relaxed);
                    }
                    everybody_in.load(Ordering::Relaxed) == 6
                });
                assert_eq!(assignment, member.id.as_bytes(), "everybody has what was meant for him");
            });
        }
    });
    let mut client = broker.connect();
    let listed = client.call(5, &ListGroupsRequest::default()).expect("an answer");
    assert_eq!((listed.error_code, listed.groups.len()), (0, 6));
    // Nobody sends heartbeats any more: the sessions end, the groups are empty.
    eventually("all members are gone", || {
        (0..6)
            .all(|number| describe(&mut client, &format!("g{number}")) == ("Empty".to_owned(), 0))
            .then_some(())
    });
    broker.stop();
}

#[test]
fn acknowledged_commits_survive_kills() {
    const GROUPS: usize = 8;
    let dir = DataDir::new("commits");
    let last: Vec<AtomicI64> = (0..GROUPS).map(|_| AtomicI64::new(-1)).collect();
    for round in 0..3 {
        let broker = Broker::start(&dir, &options());
        if round == 0 {
            broker.connect().create("t", GROUPS as i32, &[]);
        }
        let mut client = broker.connect();
        for (number, last) in last.iter().enumerate() {
            let found = committed(&mut client, &format!("g{number}"));
            let found = found.get(&("t".to_owned(), number as i32)).copied().unwrap_or(-1);
            let acknowledged = last.load(Ordering::Relaxed);
            // The one after it may have reached the disk before its answer was sent.
            assert!((acknowledged..=acknowledged + 1).contains(&found), "{found}, not {acknowledged}");
            last.store(found, Ordering::Relaxed);
        }
        let port = broker.port;
        std::thread::scope(|scope| {
            for (number, last) in last.iter().enumerate() {
                scope.spawn(move || {
                    let Ok(mut client) = Client::connect(port) else { return };
                    let name = format!("g{number}");
                    loop {
                        let next = last.load(Ordering::Relaxed) + 1;
                        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            commit(&mut client, &name, ("", -1), ("t", number as i32), next)
                        }));
                        match asked {
                            Ok(0) => last.store(next, Ordering::Relaxed),
                            Ok(other) => panic!("commit: {other}"),
                            Err(_) => return,
                        }
                    }
                });
            }
            let before: i64 = last.iter().map(|last| last.load(Ordering::Relaxed)).sum();
            eventually("some commits", || {
                let now: i64 = last.iter().map(|last| last.load(Ordering::Relaxed)).sum();
                (now > before + 200).then_some(())
            });
            broker.kill();
        });
    }
}

#[test]
fn a_group_goes_on_after_a_kill() {
    let dir = DataDir::new("goes-on");
    let broker = Broker::start(&dir, &options());
    broker.connect().create("t", 1, &[]);
    let mut member = Member::new(&broker, "g");
    let assignment = member.settle();
    assert_eq!(commit(&mut member.client, "g", (&member.id.clone(), member.generation), ("t", 0), 42), 0);
    broker.kill();
    let broker = Broker::start(&dir, &options());
    member.client = broker.connect();
    let alive = eventually("the coordinator has loaded", || {
        let code = member.heartbeat();
        (code != LOADING).then_some(code)
    });
    assert_eq!(alive, 0, "the member is still in its generation");
    assert_eq!(committed(&mut member.client, "g")[&("t".to_owned(), 0)], 42);
    assert_eq!(member.settle(), assignment);
    broker.stop();
}

#[test]
fn offsets_and_groups_are_deleted_and_expire() {
    let dir = DataDir::new("expiry");
    let quick = || options().with("offsets.retention.check.interval.ms", "50");
    let broker = Broker::start(&dir, &quick());
    let mut client = broker.connect();
    client.create("t", 2, &[]);
    for name in ["keeps", "goes"] {
        assert_eq!(commit(&mut client, name, ("", -1), ("t", 0), 5), 0);
    }
    assert_eq!(commit(&mut client, "keeps", ("", -1), ("nope", 0), 5), 3);
    // A client of old says that its offset is to be kept for a millisecond.
    let partition = OffsetCommitRequestPartition::default().with_partition_index(1).with_committed_offset(9);
    let asked = OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group("keeps"))
        .with_generation_id_or_member_epoch(-1)
        .with_retention_time_ms(1)
        .with_topics(vec![asked]);
    client.call(2, &request).expect("an answer");
    eventually("the short-lived offset is gone", || {
        (committed(&mut client, "keeps").len() == 1).then_some(())
    });
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group("goes"), group("never")]);
    let codes: Vec<i16> =
        client.call(2, &request).expect("an answer").results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [0, 69]);
    broker.stop();
    let broker = Broker::start(&dir, &quick());
    let mut client = broker.connect();
    assert_eq!(committed(&mut client, "keeps"), [(("t".to_owned(), 0), 5)].into());
    assert!(committed(&mut client, "goes").is_empty());
    // The broker's own topics are not for clients to write or delete.
    assert_eq!(client.try_create("__transaction_state", 1, &[]).expect("an answer"), 42);
    let batch = support::batches::batch("x", 1, 10);
    assert_eq!(client.produce("__consumer_offsets", 0, 1, &batch).expect("an answer").0, 17);
    assert!(client.metadata(&["__consumer_offsets"]).topics[0].is_internal);
    broker.stop();
}

fn beat(member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("new"))
        .with_member_id(text(member))
        .with_member_epoch(epoch)
        .with_rebalance_timeout_ms(-1)
}

fn assigned(answer: &ConsumerGroupHeartbeatResponse) -> Option<Vec<(Uuid, Vec<i32>)>> {
    let assignment = answer.assignment.as_ref()?;
    Some(assignment.topic_partitions.iter().map(|t| (t.topic_id, t.partitions.clone())).collect())
}

#[test]
fn a_new_group_lives_through_a_kill() {
    let dir = DataDir::new("kip848");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 4, &[]);
    let asked = ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"));
    let features = client.call(4, &asked).expect("an answer");
    let level = features.finalized_features.iter().find(|f| f.name.as_str() == "group.version");
    assert_eq!(level.map(|f| f.max_version_level), Some(1));
    let join = |member: &str| {
        beat(member, 0)
            .with_rebalance_timeout_ms(60_000)
            .with_subscribed_topic_names(Some(vec![topic("t")]))
            .with_topic_partitions(Some(Vec::new()))
    };
    let a = client.call(1, &join("a")).expect("an answer");
    assert_eq!((a.error_code, a.member_epoch), (0, 1));
    let all = assigned(&a).expect("an assignment");
    assert_eq!(all[0].1.len(), 4);
    let b = client.call(1, &join("b")).expect("an answer");
    assert_eq!((b.member_epoch, assigned(&b)), (2, Some(Vec::new())));
    let told = client.call(1, &beat("a", 1)).expect("an answer");
    let kept = assigned(&told).expect("fewer partitions");
    assert_eq!((told.member_epoch, kept[0].1.len()), (1, 2));
    assert_eq!(commit(&mut client, "new", ("a", 1), ("t", 0), 7), 0);
    assert_eq!(commit(&mut client, "new", ("a", 9), ("t", 0), 8), 113);
    broker.kill();

    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    assert_eq!(committed(&mut client, "new"), [(("t".to_owned(), 0), 7)].into());
    // b gets nothing before a has given back.
    assert_eq!(assigned(&client.call(1, &beat("b", 2)).expect("an answer")), None);
    let owned = kept
        .iter()
        .map(|(id, list)| TopicPartitions::default().with_topic_id(*id).with_partitions(list.clone()));
    let released = beat("a", 1).with_topic_partitions(Some(owned.collect()));
    assert_eq!(client.call(1, &released).expect("an answer").member_epoch, 2);
    let b = assigned(&client.call(1, &beat("b", 2)).expect("an answer")).expect("the rest");
    assert_eq!(b[0].1.len(), 2);
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group("new")]);
    let described = client.call(1, &request).expect("an answer").groups.remove(0);
    assert_eq!((described.group_state.as_str(), described.members.len()), ("Stable", 2));
    assert_eq!(client.call(1, &beat("a", -1)).expect("an answer").member_epoch, -1);
    assert_eq!(client.call(1, &beat("b", -1)).expect("an answer").member_epoch, -1);
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group("new")]);
    assert_eq!(client.call(2, &request).expect("an answer").results[0].error_code, 0);
    let listed = client.call(5, &ListGroupsRequest::default()).expect("an answer");
    assert!(listed.groups.is_empty());
    broker.stop();
}

/// OffsetCommit 10: one partition of each topic; the answer's topics and codes.
fn commit_by_id(client: &mut Client, name: &str, offsets: &[(Uuid, i32, i64)]) -> Vec<(Uuid, i16)> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.string(true, name);
    out.i32(-1);
    out.string(true, "");
    out.nullable_string(true, None);
    out.len(true, Some(offsets.len()));
    for (id, partition, offset) in offsets {
        out.uuid(*id);
        out.len(true, Some(1));
        out.i32(*partition);
        out.i64(*offset);
        out.i32(3);
        out.nullable_string(true, Some("mine"));
        out.raw(&[0, 0]);
    }
    out.no_tagged_fields(true);
    let answer = client.call_bytes(8, 10, &body).expect("an answer");
    let mut reader = Reader::new(&answer);
    assert_eq!(reader.i32(), Ok(0), "no pause");
    let topics = reader.array_len(true, 1).expect("topics");
    let mut codes = Vec::new();
    for _ in 0..topics {
        let id = reader.uuid().expect("an id");
        assert_eq!(reader.array_len(true, 1), Ok(1));
        reader.i32().expect("the partition");
        codes.push((id, reader.i16().expect("a code")));
        reader.take(2).expect("tagged fields");
    }
    assert_eq!((reader.skip_tagged_fields(true), reader.remaining()), (Ok(()), 0));
    codes
}

/// OffsetFetch 10 of one partition of each topic, or of all: id, offset and code; waits while the coordinator loads.
fn fetch_by_id(client: &mut Client, name: &str, asked: Option<&[Uuid]>) -> Vec<(Uuid, i64, i16)> {
    let mut body = Vec::new();
    let mut out = Writer::new(&mut body);
    out.len(true, Some(1));
    out.string(true, name);
    out.nullable_string(true, None);
    out.i32(-1);
    out.len(true, asked.map(<[Uuid]>::len));
    for id in asked.unwrap_or_default() {
        out.uuid(*id);
        out.len(true, Some(1));
        out.i32(1);
        out.no_tagged_fields(true);
    }
    out.raw(&[0, 1, 0]);
    eventually("the coordinator has loaded", || {
        let answer = client.call_bytes(9, 10, &body).expect("an answer");
        let mut reader = Reader::new(&answer);
        assert_eq!((reader.i32(), reader.array_len(true, 1)), (Ok(0), Ok(1)));
        assert_eq!(reader.string(true), Ok(name));
        let mut found = Vec::new();
        for _ in 0..reader.array_len(true, 1).expect("topics") {
            let id = reader.uuid().expect("an id");
            for _ in 0..reader.array_len(true, 1).expect("partitions") {
                assert_eq!(reader.i32(), Ok(1));
                let (offset, epoch) = (reader.i64().expect("an offset"), reader.i32().expect("an epoch"));
                let metadata = reader.nullable_string(true).expect("metadata");
                if offset >= 0 {
                    assert_eq!((epoch, metadata), (3, Some("mine")));
                }
                found.push((id, offset, reader.i16().expect("a code")));
                reader.skip_tagged_fields(true).expect("tagged fields");
            }
            reader.skip_tagged_fields(true).expect("tagged fields");
        }
        let code = reader.i16().expect("a code");
        assert_eq!((reader.take(2).map(<[u8]>::len), reader.remaining()), (Ok(2), 0));
        (code != LOADING).then_some(found)
    })
}

/// The versions of Kafka 4.1 and later: topics have ids and no names.
#[test]
fn offsets_are_committed_and_fetched_by_topic_id() {
    const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    const UNKNOWN_TOPIC_ID: i16 = 100;
    let dir = DataDir::new("topic-ids");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("a", 2, &[]);
    client.create("b", 2, &[]);
    let (a, b) = (client.topic_id("a"), client.topic_id("b"));
    let unknown = Uuid::from_u128(77);
    eventually("the coordinator is there", || {
        let codes = commit_by_id(&mut client, "g", &[(a, 1, 11), (unknown, 1, 1), (b, 1, 12), (b, 9, 1)]);
        let expected = [(a, 0), (unknown, UNKNOWN_TOPIC_ID), (b, 0), (b, UNKNOWN_TOPIC_OR_PARTITION)];
        (codes == expected).then_some(())
    });
    let offsets = BTreeMap::from([(("a".to_owned(), 1), 11), (("b".to_owned(), 1), 12)]);
    assert_eq!(committed(&mut client, "g"), offsets, "the same offsets by name");
    let found = fetch_by_id(&mut client, "g", Some(&[b, unknown, a]));
    assert_eq!(found, [(b, 12, 0), (unknown, -1, UNKNOWN_TOPIC_ID), (a, 11, 0)]);
    let mut all = fetch_by_id(&mut client, "g", None);
    all.sort_by_key(|(_, offset, _)| *offset);
    assert_eq!(all, [(a, 11, 0), (b, 12, 0)]);
    broker.kill();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    assert_eq!(fetch_by_id(&mut client, "g", Some(&[a])), [(a, 11, 0)]);
    broker.stop();
}

/// ApiVersions 5: a client that was led to another cluster or node is sent back to its bootstrap servers (KIP-1242).
#[test]
fn clients_that_mean_another_broker_are_told() {
    const REBOOTSTRAP_REQUIRED: i16 = 129;
    let dir = DataDir::new("addressee");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let cluster = client.call(9, &MetadataRequest::default()).expect("an answer").cluster_id;
    let cluster = cluster.expect("a cluster id").to_string();
    let mut ask = |cluster: Option<&str>, node: i32| {
        let mut body = Vec::new();
        let mut out = Writer::new(&mut body);
        out.string(true, "test");
        out.string(true, "1");
        out.nullable_string(true, cluster);
        out.i32(node);
        out.no_tagged_fields(true);
        let answer = client.call_bytes(18, 5, &body).expect("an answer");
        Reader::new(&answer).i16().expect("a code")
    };
    assert_eq!((ask(None, -1), ask(Some(&cluster), 1)), (0, 0));
    assert_eq!((ask(Some("other"), 1), ask(Some(&cluster), 2)), (REBOOTSTRAP_REQUIRED, REBOOTSTRAP_REQUIRED));
    broker.stop();
}
