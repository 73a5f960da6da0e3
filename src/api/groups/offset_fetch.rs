//! OffsetFetch (key 9, versions 1 to 10, the last by topic ids): what groups have committed, several groups at
//! once from version 8 on.
//!
//! Owner: the connection's core. Invariants: a partition without an offset gets -1 and no error; with
//! `require_stable`, one that a transaction has in hand gets UNSTABLE_OFFSET_COMMIT (KIP-447).
//! Must not: make a group by asking for it.

use std::collections::BTreeMap;
use std::rc::Rc;

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};

use super::super::control::{TopicIds, keep_first, text, topic_name};
use super::{code, on_coordinator};
use crate::coordinator::error::GroupError;
use crate::coordinator::groups_offsets::FetchedOffset;
use crate::shard::Shard;

/// First version that asks for several groups.
const GROUPS_SINCE: i16 = 8;
/// First version that names topics by their ids.
const TOPIC_IDS_SINCE: i16 = 10;
/// First version with a leader epoch.
const LEADER_EPOCH_SINCE: i16 = 5;
/// First version with an error for the whole request.
const ERROR_SINCE: i16 = 2;

/// What is asked of one group.
struct Question {
    group: String,
    member: Option<(String, i32)>,
    /// `None` for everything.
    topics: Option<Vec<(String, Vec<i32>)>>,
}

pub(super) async fn respond(
    shard: &Rc<Shard>,
    mut request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    let stable = request.require_stable;
    if version < GROUPS_SINCE {
        let topics = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect()
        });
        let question = Question { group: request.group_id.to_string(), member: None, topics };
        let asked = question.topics.clone();
        return match ask(shard, question, stable).await {
            Ok(offsets) => OffsetFetchResponse::default().with_topics(single(offsets, version, None)),
            Err(error) if version >= ERROR_SINCE => {
                OffsetFetchResponse::default().with_error_code(code(error))
            }
            Err(error) => {
                OffsetFetchResponse::default().with_topics(single(nothing(asked), version, Some(error)))
            }
        };
    }
    keep_first(&mut request.groups, |group| group.group_id.clone());
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in request.groups {
        let id = group.group_id.clone();
        let answer = OffsetFetchResponseGroup::default().with_group_id(id);
        groups.push(match ask(shard, question(group), stable).await {
            Ok(offsets) => answer.with_topics(several(offsets)),
            Err(error) => answer.with_error_code(code(error)),
        });
    }
    OffsetFetchResponse::default().with_groups(groups)
}

fn question(group: OffsetFetchRequestGroup) -> Question {
    let topics = group.topics.map(|topics| {
        topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect()
    });
    let member = group.member_id.map(|id| (id.to_string(), group.member_epoch));
    Question { group: group.group_id.to_string(), member, topics }
}

async fn ask(
    shard: &Rc<Shard>,
    question: Question,
    require_stable: bool,
) -> Result<Vec<FetchedOffset>, GroupError> {
    let name = question.group.clone();
    let answer = on_coordinator(shard, &name, move |partition, _| {
        Box::pin(async move {
            let member = question.member.as_ref().map(|(id, epoch)| (id.as_str(), *epoch));
            partition.fetch(&question.group, member, question.topics.as_deref(), require_stable)
        })
    });
    answer.await.unwrap_or_else(Err)
}

/// The partitions asked for, without offsets.
fn nothing(topics: Option<Vec<(String, Vec<i32>)>>) -> Vec<FetchedOffset> {
    let none = |topic: &str, partition| FetchedOffset {
        topic: topic.to_owned(),
        partition,
        offset: -1,
        leader_epoch: -1,
        metadata: String::new(),
        unstable: false,
    };
    let topics = topics.unwrap_or_default();
    topics.iter().flat_map(|(topic, list)| list.iter().map(|index| none(topic, *index))).collect()
}

/// Offsets by topic, in the order in which topics first come.
fn by_topic(offsets: Vec<FetchedOffset>) -> Vec<(String, Vec<FetchedOffset>)> {
    let mut order: Vec<(String, Vec<FetchedOffset>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for offset in offsets {
        let at = *places.entry(offset.topic.clone()).or_insert_with(|| {
            order.push((offset.topic.clone(), Vec::new()));
            order.len() - 1
        });
        order[at].1.push(offset);
    }
    order
}

fn partition_code(offset: &FetchedOffset, error: Option<GroupError>) -> i16 {
    let error = error.or(TopicIds::is_unknown(&offset.topic).then_some(GroupError::UnknownTopicId));
    error.or(offset.unstable.then_some(GroupError::Unstable)).map_or(0, code)
}

fn single(
    offsets: Vec<FetchedOffset>,
    version: i16,
    error: Option<GroupError>,
) -> Vec<OffsetFetchResponseTopic> {
    let topics = by_topic(offsets).into_iter().map(|(name, offsets)| {
        let partitions = offsets.into_iter().map(|offset| {
            OffsetFetchResponsePartition::default()
                .with_error_code(partition_code(&offset, error))
                .with_partition_index(offset.partition)
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(if version >= LEADER_EPOCH_SINCE {
                    offset.leader_epoch
                } else {
                    -1
                })
                .with_metadata(Some(text(offset.metadata)))
        });
        OffsetFetchResponseTopic::default().with_name(topic_name(&name)).with_partitions(partitions.collect())
    });
    topics.collect()
}

fn several(offsets: Vec<FetchedOffset>) -> Vec<OffsetFetchResponseTopics> {
    let topics = by_topic(offsets).into_iter().map(|(name, offsets)| {
        let partitions = offsets.into_iter().map(|offset| {
            OffsetFetchResponsePartitions::default()
                .with_error_code(partition_code(&offset, None))
                .with_partition_index(offset.partition)
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(offset.leader_epoch)
                .with_metadata(Some(text(offset.metadata)))
        });
        OffsetFetchResponseTopics::default()
            .with_name(topic_name(&name))
            .with_partitions(partitions.collect())
    });
    topics.collect()
}

/// The answer without topics that have no id, where topics are named by their ids: offsets of deleted topics.
pub(super) fn known(
    mut response: OffsetFetchResponse,
    version: i16,
    topics: &TopicIds,
) -> OffsetFetchResponse {
    if version >= TOPIC_IDS_SINCE {
        for group in &mut response.groups {
            let has_id = |name: &str| TopicIds::is_unknown(name) || !topics.id_of(name).is_nil();
            group.topics.retain(|topic| has_id(&topic.name));
        }
    }
    response
}
