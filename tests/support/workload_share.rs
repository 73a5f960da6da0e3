//! The share group of a [`super::workload::Workload`]: a producer of its own topic, and members that accept, release
//! and reject what they are given; after a fault, a member that takes all there is.
//!
//! Owner: the workload. Invariants: a member never gives back a record that was delivered often, so that no delivery
//! limit takes it away; what a member has when its connection ends is noted as given back. It must not judge.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::share_acknowledge_request::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch,
};
use kafka_protocol::messages::share_fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::batches;
use super::client::Client;
use super::history::{History, Place, What};
use super::random::Random;

/// The topic of the group.
pub(super) const QUEUE: &str = "queue";
const PARTITIONS: i32 = 2;
const GROUP: &str = "workers";
const GROUP_RESOURCE: i8 = 32;
const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;
/// A record that was delivered so often is not given back.
const RELEASES_MAX: i16 = 2;
/// Fetches in a row that bring nothing, before the group is taken for empty.
const EMPTY_FETCHES: u32 = 3;
/// Codes of coordinators that load or have not loaded: COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE.
const LOADING: [i16; 2] = [14, 15];

/// The group's clients.
pub(super) struct Workers {
    members: usize,
    random: Mutex<Random>,
    made: AtomicU64,
}

/// A member and its connection.
struct Member {
    client: Client,
    id: String,
    session_epoch: i32,
    topic_id: Uuid,
}

/// What was given: place and delivery count.
type Given = Vec<(Place, i64, i16)>;

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn other(what: &str, code: i16) -> io::Error {
    io::Error::other(format!("{what}: error {code}"))
}

impl Workers {
    /// Makes the topic and the group, which begins at the earliest record.
    pub(super) fn new(client: &mut Client, seed: u64) -> Workers {
        client.create(QUEUE, PARTITIONS, &[("segment.bytes", "1048576")]);
        let config = AlterableConfig::default()
            .with_name(text("share.auto.offset.reset"))
            .with_value(Some(text("earliest")))
            .with_config_operation(0);
        let resource = AlterConfigsResource::default()
            .with_resource_type(GROUP_RESOURCE)
            .with_resource_name(text(GROUP))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        assert_eq!(client.call(1, &request).expect("an answer").responses[0].error_code, 0);
        Workers { members: 2, random: Mutex::new(Random::new(seed)), made: AtomicU64::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.members
    }

    fn random(&self) -> Random {
        Random::new(self.random.lock().expect("random").next())
    }

    /// Produces records of the group until `stop` or until the broker is gone.
    pub(super) fn produce(&self, port: u16, pace: Duration, history: &History, stop: &AtomicBool) {
        let mut random = self.random();
        let Ok(mut client) = Client::connect(port) else { return };
        while !stop.load(Ordering::Relaxed) {
            let count = random.between(1, 4);
            let made = self.made.fetch_add(1, Ordering::Relaxed);
            let place = (QUEUE, (made % PARTITIONS as u64) as i32);
            let bytes = batches::batch(&format!("queue/{made}"), count as usize, 60);
            match client.produce(QUEUE, place.1, -1, &bytes) {
                Ok((0, base)) => history.note(What::Put { place, first: base, next: base + count as i64 }),
                _ => return,
            }
            std::thread::sleep(pace.max(Duration::from_millis(3)));
        }
    }

    /// Works as a member until `stop` or until the broker is gone.
    pub(super) fn run(&self, number: usize, port: u16, history: &History, stop: &AtomicBool) {
        let (mut random, id) = (self.random(), format!("worker-{number}"));
        let Ok(client) = Client::connect(port) else { return };
        if let Ok(mut member) = Member::join(client, &id) {
            while !stop.load(Ordering::Relaxed) && member.work(&mut random, history).is_ok() {}
        }
        history.note(What::Parted { member: id });
    }

    /// Takes all that the group has left, and is done with it.
    pub(super) fn drain(&self, client: Client, history: &History) {
        let mut member = Member::join(client, "drain").expect("the group takes members");
        let (mut all, mut empty) = (Vec::new(), 0);
        while empty < EMPTY_FETCHES {
            let given = member.fetch(500, 100, history).expect("an answer");
            empty = if given.is_empty() { empty + 1 } else { 0 };
            let what: Vec<_> = given.iter().map(|(place, offset, _)| (*place, *offset, ACCEPT)).collect();
            member.acknowledge(&what, history).expect("an answer");
            all.extend(given.into_iter().map(|(place, offset, _)| (place, offset)));
        }
        history.note(What::Drained { all });
        history.note(What::Parted { member: member.id.clone() });
    }
}

impl Member {
    fn join(mut client: Client, id: &str) -> io::Result<Member> {
        let request = ShareGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text(id))
            .with_subscribed_topic_names(Some(vec![TopicName(text(QUEUE))]));
        loop {
            let answer = client.call(1, &request)?;
            match answer.error_code {
                0 => break,
                code if LOADING.contains(&code) => std::thread::sleep(Duration::from_millis(10)),
                code => return Err(other("ShareGroupHeartbeat", code)),
            }
        }
        let topic_id = client.topic_id(QUEUE);
        Ok(Member { client, id: id.to_owned(), session_epoch: 0, topic_id })
    }

    /// Fetches once, and acknowledges what came.
    fn work(&mut self, random: &mut Random, history: &History) -> io::Result<()> {
        let given = self.fetch(20, 20, history)?;
        let choose = |(place, offset, deliveries): (Place, i64, i16)| {
            let kind = match random.below(10) {
                0..=2 if deliveries < RELEASES_MAX => RELEASE,
                3 => REJECT,
                _ => ACCEPT,
            };
            (place, offset, kind)
        };
        let what: Vec<_> = given.into_iter().map(choose).collect();
        self.acknowledge(&what, history)
    }

    /// One fetch of all partitions, until it is answered without one that loads.
    fn fetch(&mut self, records_max: i32, wait_ms: i32, history: &History) -> io::Result<Given> {
        let partitions = (0..PARTITIONS).map(|index| FetchPartition::default().with_partition_index(index));
        let topics = match self.session_epoch {
            0 => {
                let topic = FetchTopic::default().with_topic_id(self.topic_id);
                vec![topic.with_partitions(partitions.collect())]
            }
            _ => Vec::new(),
        };
        let request = ShareFetchRequest::default()
            .with_group_id(Some(GroupId(text(GROUP))))
            .with_member_id(Some(text(&self.id)))
            .with_share_session_epoch(self.session_epoch)
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(4 << 20)
            .with_max_records(records_max)
            .with_batch_size(records_max)
            .with_topics(topics);
        let answer = self.client.call(1, &request)?;
        if answer.error_code != 0 {
            return Err(other("ShareFetch", answer.error_code));
        }
        self.session_epoch += 1;
        let mut given = Vec::new();
        for one in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            if one.error_code != 0 {
                return Err(other("ShareFetch of a partition", one.error_code));
            }
            for range in &one.acquired_records {
                for offset in range.first_offset..=range.last_offset {
                    let (place, member) = ((QUEUE, one.partition_index), self.id.clone());
                    history.note(What::Given { place, offset, member });
                    given.push((place, offset, range.delivery_count));
                }
            }
        }
        Ok(given)
    }

    fn acknowledge(&mut self, what: &[(Place, i64, i8)], history: &History) -> io::Result<()> {
        if what.is_empty() {
            return Ok(());
        }
        for (place, offset, kind) in what {
            history.note(What::Settling { place: *place, offset: *offset, done: *kind != RELEASE });
        }
        let partitions = (0..PARTITIONS).filter_map(|index| {
            let batches: Vec<_> = what
                .iter()
                .filter(|(place, ..)| place.1 == index)
                .map(|(_, offset, kind)| {
                    AcknowledgementBatch::default()
                        .with_first_offset(*offset)
                        .with_last_offset(*offset)
                        .with_acknowledge_types(vec![*kind])
                })
                .collect();
            let partition = AcknowledgePartition::default().with_partition_index(index);
            (!batches.is_empty()).then(|| partition.with_acknowledgement_batches(batches))
        });
        let topic = AcknowledgeTopic::default().with_topic_id(self.topic_id);
        let request = ShareAcknowledgeRequest::default()
            .with_group_id(Some(GroupId(text(GROUP))))
            .with_member_id(Some(text(&self.id)))
            .with_share_session_epoch(self.session_epoch)
            .with_topics(vec![topic.with_partitions(partitions.collect())]);
        let answer = self.client.call(1, &request)?;
        if answer.error_code != 0 {
            return Err(other("ShareAcknowledge", answer.error_code));
        }
        self.session_epoch += 1;
        for one in answer.responses.iter().flat_map(|topic| &topic.partitions) {
            let mine = what.iter().filter(|(place, ..)| place.1 == one.partition_index);
            let code = one.error_code;
            // Of a release nothing is noted: another member may be done with the record before its answer is here.
            mine.filter(|(.., kind)| code != 0 || *kind != RELEASE).for_each(|(place, offset, _)| {
                history.note(What::Settled { place: *place, offset: *offset, code });
            });
        }
        Ok(())
    }
}
