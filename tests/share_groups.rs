//! Share groups (KIP-932) with the real binary: kills in the middle of acknowledgements, sessions that end with their
//! connection, locks that end, transactions and deleted records, and what administrators see and set. Real clients
//! are in tests/clients.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_share_group_offsets_request::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_share_group_offsets_request::DeleteShareGroupOffsetsRequestTopic;
use kafka_protocol::messages::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::share_acknowledge_request::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch,
};
use kafka_protocol::messages::share_fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use support::batches::batch;
use support::broker::{Broker, DataDir, Options};
use support::client::Client;
use support::eventually;
use support::random::Random;
use support::transactions;
use uuid::Uuid;

const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;
const GROUP_RESOURCE: i8 = 32;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group() -> GroupId {
    GroupId(text("shared"))
}

fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

fn options() -> Options {
    Options::default()
        .with("offsets.topic.num.partitions", "4")
        .with("share.coordinator.state.topic.num.partitions", "4")
        .with("group.share.min.record.lock.duration.ms", "1000")
}

/// Configures the group: it begins at the earliest record.
fn configure(client: &mut Client, more: &[(&str, &str)]) {
    let all = [("share.auto.offset.reset", "earliest")].into_iter().chain(more.iter().copied());
    let configs = all.map(|(key, value)| {
        AlterableConfig::default().with_name(text(key)).with_value(Some(text(value))).with_config_operation(0)
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(GROUP_RESOURCE)
        .with_resource_name(text("shared"))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(client.call(1, &request).expect("an answer").responses[0].error_code, 0);
}

/// Offsets that a member was given: partition, offset, delivery count.
type Given = Vec<(i32, i64, i16)>;

/// A member with a connection of its own.
struct Member {
    client: Client,
    id: String,
    epoch: i32,
    session_epoch: i32,
    topic_id: Uuid,
    partitions: Vec<i32>,
}

impl Member {
    /// Joins the group and waits until it is to fetch from something.
    fn join(broker: &Broker, id: &str, topic_name: &str) -> Member {
        let mut client = broker.connect();
        let request = ShareGroupHeartbeatRequest::default()
            .with_group_id(group())
            .with_member_id(text(id))
            .with_subscribed_topic_names(Some(vec![topic(topic_name)]));
        let answer = eventually("the member is in", || {
            let answer = client.call(1, &request).expect("an answer");
            // The coordinator may be loading.
            assert!([0, 14].contains(&answer.error_code), "{answer:?}");
            (answer.error_code == 0).then_some(answer)
        });
        let assignment = answer.assignment.expect("an assignment").topic_partitions;
        let (topic_id, partitions) = (assignment[0].topic_id, assignment[0].partitions.clone());
        Member {
            client,
            id: id.to_owned(),
            epoch: answer.member_epoch,
            session_epoch: 0,
            topic_id,
            partitions,
        }
    }

    fn leave(&mut self) {
        self.acknowledge_as(-1, &[]);
        let request = ShareGroupHeartbeatRequest::default()
            .with_group_id(group())
            .with_member_id(text(&self.id))
            .with_member_epoch(-1)
            .with_subscribed_topic_names(None);
        let answer = self.client.call(1, &request).expect("an answer");
        assert_eq!((answer.error_code, answer.member_epoch), (0, -1));
    }

    fn fetch_request(&self, records_max: i32, wait_ms: i32) -> ShareFetchRequest {
        let partitions = match self.session_epoch {
            0 => self.partitions.clone(),
            _ => Vec::new(),
        };
        let partitions: Vec<_> = partitions
            .into_iter()
            .map(|index| FetchPartition::default().with_partition_index(index))
            .collect();
        let topics = match partitions.is_empty() {
            true => Vec::new(),
            false => vec![FetchTopic::default().with_topic_id(self.topic_id).with_partitions(partitions)],
        };
        ShareFetchRequest::default()
            .with_group_id(Some(group()))
            .with_member_id(Some(text(&self.id)))
            .with_share_session_epoch(self.session_epoch)
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(4 << 20)
            .with_max_records(records_max)
            .with_batch_size(records_max)
            .with_topics(topics)
    }

    /// One fetch; checks that every offset given lies in the bytes that came with it.
    fn fetch(&mut self, records_max: i32, wait_ms: i32) -> Given {
        let request = self.fetch_request(records_max, wait_ms);
        let answer = self.client.call(1, &request).expect("an answer");
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        self.session_epoch += 1;
        let mut given = Vec::new();
        for one in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            assert_eq!(one.error_code, 0);
            let batches =
                support::batches::split(one.records.as_deref().unwrap_or_default()).expect("batches");
            for range in &one.acquired_records {
                for offset in range.first_offset..=range.last_offset {
                    let holds = batches
                        .iter()
                        .any(|batch| (batch.info.base_offset..batch.info.next_offset()).contains(&offset));
                    assert!(holds, "offset {offset} was given without its record");
                    given.push((one.partition_index, offset, range.delivery_count));
                }
            }
        }
        given
    }

    /// Fetches until nothing comes for a while.
    fn drain(&mut self) -> Given {
        let mut all = Vec::new();
        loop {
            let given = self.fetch(500, 300);
            if given.is_empty() {
                return all;
            }
            all.extend(given);
        }
    }

    /// Acknowledges offsets of partitions, one type each; the codes by partition.
    fn acknowledge(&mut self, what: &[(i32, i64, i8)]) -> BTreeMap<i32, i16> {
        let epoch = self.session_epoch;
        self.session_epoch += 1;
        self.acknowledge_as(epoch, what)
    }

    fn acknowledge_request(&self, epoch: i32, what: &[(i32, i64, i8)]) -> ShareAcknowledgeRequest {
        let mut by_partition: BTreeMap<i32, Vec<AcknowledgementBatch>> = BTreeMap::new();
        for (index, offset, kind) in what {
            let batch = AcknowledgementBatch::default()
                .with_first_offset(*offset)
                .with_last_offset(*offset)
                .with_acknowledge_types(vec![*kind]);
            by_partition.entry(*index).or_default().push(batch);
        }
        let partitions = by_partition.into_iter().map(|(index, batches)| {
            AcknowledgePartition::default().with_partition_index(index).with_acknowledgement_batches(batches)
        });
        let topic =
            AcknowledgeTopic::default().with_topic_id(self.topic_id).with_partitions(partitions.collect());
        ShareAcknowledgeRequest::default()
            .with_group_id(Some(group()))
            .with_member_id(Some(text(&self.id)))
            .with_share_session_epoch(epoch)
            .with_topics(vec![topic])
    }

    fn acknowledge_as(&mut self, epoch: i32, what: &[(i32, i64, i8)]) -> BTreeMap<i32, i16> {
        let request = self.acknowledge_request(epoch, what);
        let answer = self.client.call(1, &request).expect("an answer");
        if epoch == -1 && answer.error_code == 122 {
            return BTreeMap::new();
        }
        assert_eq!(answer.error_code, 0);
        let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|one| (one.partition_index, one.error_code)).collect()
    }
}

fn offsets_of(given: &Given) -> Vec<i64> {
    given.iter().map(|(_, offset, _)| *offset).collect()
}

#[test]
fn what_was_acknowledged_does_not_come_back_after_kills() {
    let mut random = Random::from_environment(932);
    let dir = DataDir::new("share-kill");
    let mut broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 2, &[]);
    configure(&mut client, &[]);
    let (mut done, mut given_up, mut all) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in 0..4 {
        for at in 0..30 {
            let count = random.between(1, 6) as usize;
            let index = at % 2;
            let base = client.append("t", index, -1, &batch(&format!("{round}-{at}"), count, 20));
            all.extend((0..count as i64).map(|i| (index, base + i)));
        }
        let mut members = [Member::join(&broker, "a", "t"), Member::join(&broker, "b", "t")];
        // b's coming may have taken a partition from a; sessions name what they read.
        members[0].partitions = vec![0, 1];
        members[1].partitions = vec![0, 1];
        for turn in 0..12 {
            let member = &mut members[turn % 2];
            let given = member.fetch(10, 0);
            let mut what = Vec::new();
            for (index, offset, _) in given {
                assert!(!done.contains(&(index, offset)), "{index}-{offset} was acknowledged before");
                assert!(!given_up.contains(&(index, offset)), "{index}-{offset} was rejected before");
                match random.below(6) {
                    0 => {}
                    1 => what.push((index, offset, RELEASE)),
                    2 => what.push((index, offset, REJECT)),
                    _ => what.push((index, offset, ACCEPT)),
                }
            }
            if what.is_empty() {
                continue;
            }
            let codes = member.acknowledge(&what);
            assert!(codes.values().all(|code| *code == 0), "{codes:?}");
            for (index, offset, kind) in what {
                match kind {
                    ACCEPT => assert!(done.insert((index, offset))),
                    REJECT => assert!(given_up.insert((index, offset))),
                    _ => {}
                }
            }
        }
        broker.kill();
        broker = Broker::start(&dir, &options());
        client = broker.connect();
    }
    let mut last = Member::join(&broker, "c", "t");
    last.partitions = vec![0, 1];
    let given = last.drain();
    let got: BTreeSet<(i32, i64)> = given.iter().map(|(index, offset, _)| (*index, *offset)).collect();
    assert_eq!(got.len(), given.len(), "nothing is given twice while it is locked");
    assert!(got.is_disjoint(&done) && got.is_disjoint(&given_up));
    // What was delivered too often is given up; everything else comes.
    let missing: Vec<_> =
        all.iter().filter(|p| !got.contains(p) && !done.contains(p) && !given_up.contains(p)).collect();
    assert!(missing.len() * 20 < all.len(), "records are missing: {missing:?}");
    broker.stop();
}

#[test]
fn a_connection_that_ends_gives_back_what_it_had() {
    let dir = DataDir::new("share-session");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    configure(&mut client, &[("share.delivery.count.limit", "2")]);
    client.append("t", 0, -1, &batch("x", 10, 20));
    let mut a = Member::join(&broker, "a", "t");
    assert_eq!(a.fetch(4, 0).len(), 10, "a batch is given as a whole");
    let mut b = Member::join(&broker, "b", "t");
    assert!(b.fetch(10, 0).is_empty());
    assert_eq!(b.acknowledge(&[(0, 3, ACCEPT)]), [(0, 121)].into(), "not b's");
    assert_eq!(a.acknowledge(&[(0, 3, ACCEPT)]), [(0, 0)].into());
    let wrong = ShareAcknowledgeRequest::default()
        .with_group_id(Some(group()))
        .with_member_id(Some(text("a")))
        .with_share_session_epoch(77);
    assert_eq!(a.client.call(1, &wrong).expect("an answer").error_code, 123);
    // A parked fetch of b wakes up when a's connection goes.
    let request = b.fetch_request(100, 20_000);
    let id = b.client.send(1, &request).expect("sent");
    drop(a);
    let answer = b.client.receive::<ShareFetchRequest>(1, id).expect("an answer");
    b.session_epoch += 1;
    let ranges: Vec<_> = answer.responses[0].partitions[0]
        .acquired_records
        .iter()
        .map(|range| (range.first_offset, range.last_offset, range.delivery_count))
        .collect();
    assert_eq!(ranges, [(0, 2, 2), (4, 9, 2)]);
    // The second delivery was the last one.
    assert_eq!(b.acknowledge(&[(0, 0, RELEASE)]), [(0, 0)].into());
    b.leave();
    let mut c = Member::join(&broker, "c", "t");
    assert!(c.fetch(10, 200).is_empty());
    // New records come although a fetch waited for them.
    let request = c.fetch_request(100, 20_000);
    let id = c.client.send(1, &request).expect("sent");
    client.append("t", 0, -1, &batch("y", 1, 20));
    let answer = c.client.receive::<ShareFetchRequest>(1, id).expect("an answer");
    assert_eq!(answer.responses[0].partitions[0].acquired_records[0].first_offset, 10);
    assert_eq!(answer.acquisition_lock_timeout_ms, 30_000);
    broker.stop();
}

#[test]
fn locks_end_and_what_is_not_for_consumers_is_stepped_over() {
    let dir = DataDir::new("share-locks");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    configure(
        &mut client,
        &[("share.record.lock.duration.ms", "1000"), ("share.isolation.level", "read_committed")],
    );
    let mut base = BTreeMap::new();
    for commit in [false, true] {
        let id = format!("tx-{commit}");
        let producer = transactions::begin(&mut client, &id).expect("a producer");
        transactions::add(&mut client, &id, producer, &[("t", 0)]).expect("added");
        let records = support::batches::transactional(&id, 3, 20, producer, 0);
        let made = transactions::produce(&mut client, 9, &id, &[("t", 0, &records)]).expect("produced");
        assert_eq!(made[0].0, 0);
        transactions::end(&mut client, 4, &id, producer, commit).expect("an answer").expect("ended");
        base.insert(commit, made[0].1);
    }
    let committed: Vec<i64> = (base[&true]..base[&true] + 3).collect();
    let mut a = Member::join(&broker, "a", "t");
    let given = eventually("the committed records come", || {
        let given = a.fetch(100, 1000);
        (!given.is_empty()).then_some(given)
    });
    assert_eq!(offsets_of(&given), committed);
    // Nobody acknowledges: another member gets them when the locks end.
    let mut b = Member::join(&broker, "b", "t");
    let again = b.fetch(100, 20_000);
    assert_eq!(again.iter().map(|(_, offset, count)| (*offset, *count)).collect::<Vec<_>>(), {
        committed.iter().map(|offset| (*offset, 2)).collect::<Vec<_>>()
    });
    assert_eq!(a.acknowledge(&[(0, committed[0], ACCEPT)]), [(0, 121)].into(), "too late");
    let rest = client.append("t", 0, -1, &batch("z", 5, 20));
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(rest + 2);
    let deleted = DeleteRecordsTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![deleted]).with_timeout_ms(30_000);
    assert_eq!(client.call(2, &request).expect("an answer").topics[0].partitions[0].error_code, 0);
    assert_eq!(offsets_of(&b.fetch(100, 5_000)), [rest + 2, rest + 3, rest + 4]);
    assert_eq!(b.acknowledge(&[(0, committed[1], ACCEPT)]), [(0, 0)].into(), "gone, and nobody minds");
    broker.stop();
}

fn described(client: &mut Client) -> Result<BTreeMap<i32, i64>, i16> {
    let asked = DescribeShareGroupOffsetsRequestGroup::default().with_group_id(group()).with_topics(None);
    let request = DescribeShareGroupOffsetsRequest::default().with_groups(vec![asked]);
    let found = client.call(0, &request).expect("an answer").groups.remove(0);
    if found.error_code != 0 {
        return Err(found.error_code);
    }
    let partitions = found.topics.iter().flat_map(|topic| &topic.partitions);
    Ok(partitions.map(|one| (one.partition_index, one.start_offset)).collect())
}

fn alter(client: &mut Client, offset: i64) -> (i16, Option<i16>) {
    alter_of(client, "shared", offset)
}

/// The group's and the partition's code.
fn alter_of(client: &mut Client, group: &str, offset: i64) -> (i16, Option<i16>) {
    let partition = AlterShareGroupOffsetsRequestPartition::default().with_start_offset(offset);
    let asked = AlterShareGroupOffsetsRequestTopic::default()
        .with_topic_name(topic("t"))
        .with_partitions(vec![partition]);
    let request =
        AlterShareGroupOffsetsRequest::default().with_group_id(GroupId(text(group))).with_topics(vec![asked]);
    let answer = client.call(0, &request).expect("an answer");
    (answer.error_code, answer.responses.first().map(|topic| topic.partitions[0].error_code))
}

#[test]
fn offsets_set_for_a_group_that_is_not_there_make_it() {
    let dir = DataDir::new("share-made");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let made = eventually("the coordinator has loaded", || match alter(&mut client, 4) {
        (14, _) => None,
        outcome => Some(outcome),
    });
    assert_eq!(made, (0, Some(3)), "there is no such topic");
    assert_eq!(described(&mut client), Err(69), "and so no group");
    client.create("t", 1, &[]);
    client.append("t", 0, -1, &batch("x", 10, 20));
    assert_eq!(alter(&mut client, 4), (0, Some(0)));
    broker.kill();

    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let offsets = eventually("the coordinator has loaded", || match described(&mut client) {
        Err(14) => None,
        outcome => Some(outcome),
    });
    assert_eq!(offsets, Ok([(0, 4)].into()));
    let listed = client.call(5, &ListGroupsRequest::default().with_types_filter(vec![text("share")]));
    let listed = listed.expect("an answer").groups;
    assert_eq!((listed[0].group_id.as_str(), listed[0].group_state.as_str()), ("shared", "Empty"));
    assert_eq!(alter(&mut client, 6), (0, Some(0)));
    let mut a = Member::join(&broker, "a", "t");
    assert_eq!(offsets_of(&a.fetch(100, 0)), [6, 7, 8, 9]);
    a.leave();
    // A name that consumers of another kind have is not taken.
    let member = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("others")))
        .with_member_id(text("x"))
        .with_rebalance_timeout_ms(1000)
        .with_subscribed_topic_names(Some(vec![topic("t")]))
        .with_topic_partitions(Some(Vec::new()));
    let joined = eventually("the coordinator has loaded", || {
        let answer = client.call(1, &member).expect("an answer");
        (answer.error_code != 14).then_some(answer.error_code)
    });
    assert_eq!(joined, 0);
    assert_eq!(alter_of(&mut client, "others", 1), (69, None));
    broker.stop();
}

#[test]
fn administrators_see_and_set_where_a_group_stands() {
    let dir = DataDir::new("share-admin");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    configure(&mut client, &[]);
    client.append("t", 0, -1, &batch("x", 10, 20));
    assert_eq!(described(&mut client), Err(69));
    let mut a = Member::join(&broker, "a", "t");
    assert_eq!(described(&mut client), Ok([(0, -1)].into()), "it has not begun");
    assert_eq!(a.fetch(100, 0).len(), 10);
    assert_eq!(a.acknowledge(&[(0, 0, ACCEPT), (0, 1, ACCEPT), (0, 5, ACCEPT)]), [(0, 0)].into());
    assert_eq!(described(&mut client), Ok([(0, 2)].into()));
    assert_eq!(alter(&mut client, 0), (68, None), "somebody is in");
    let listed = client.call(5, &ListGroupsRequest::default().with_types_filter(vec![text("share")]));
    let listed = listed.expect("an answer").groups;
    assert_eq!((listed[0].group_type.as_str(), listed[0].group_state.as_str()), ("share", "Stable"));
    let request = ShareGroupDescribeRequest::default().with_group_ids(vec![group(), GroupId(text("no"))]);
    let groups = client.call(1, &request).expect("an answer").groups;
    let member = &groups[0].members[0];
    assert_eq!((groups[0].assignor_name.as_str(), member.member_id.as_str()), ("simple", "a"));
    assert_eq!((member.member_epoch, member.assignment.topic_partitions.len()), (a.epoch, 1));
    assert_eq!(groups[1].error_code, 69);
    // The state of a share partition has a coordinator of its own, found by group, topic id and partition.
    for (key, code) in [("shared:AAAAAAAAAAAAAAAAAAAAAQ:0", 0), ("shared", 42), ("shared:x:0", 42)] {
        let request =
            FindCoordinatorRequest::default().with_key_type(2).with_coordinator_keys(vec![text(key)]);
        let found = client.call(6, &request).expect("an answer").coordinators.remove(0);
        assert_eq!(found.error_code, code, "{key}");
    }
    // A consumer of another kind cannot take the name.
    let other = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group())
        .with_member_id(text("x"))
        .with_rebalance_timeout_ms(1000)
        .with_subscribed_topic_names(Some(vec![topic("t")]))
        .with_topic_partitions(Some(Vec::new()));
    assert_eq!(client.call(1, &other).expect("an answer").error_code, 69);
    a.leave();
    assert_eq!(alter(&mut client, 7), (0, Some(0)));
    broker.kill();

    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let offsets = eventually("the coordinator has loaded", || match described(&mut client) {
        Err(14) => None,
        outcome => Some(outcome),
    });
    assert_eq!(offsets, Ok([(0, 7)].into()));
    let mut b = Member::join(&broker, "b", "t");
    assert_eq!(offsets_of(&b.fetch(100, 0)), [7, 8, 9]);
    let asked = DeleteShareGroupOffsetsRequestTopic::default().with_topic_name(topic("t"));
    let delete = DeleteShareGroupOffsetsRequest::default().with_group_id(group()).with_topics(vec![asked]);
    assert_eq!(client.call(0, &delete).expect("an answer").error_code, 68);
    b.leave();
    let answer = client.call(0, &delete).expect("an answer");
    assert_eq!((answer.error_code, answer.responses[0].error_code), (0, 0));
    assert_eq!(described(&mut client), Ok(BTreeMap::new()));
    let mut c = Member::join(&broker, "c", "t");
    assert_eq!(c.fetch(100, 0).len(), 10, "it begins anew");
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
    assert_eq!(client.call(2, &request).expect("an answer").results[0].error_code, 68);
    c.leave();
    assert_eq!(client.call(2, &request).expect("an answer").results[0].error_code, 0);
    assert_eq!(described(&mut client), Err(69));
    broker.stop();
}
