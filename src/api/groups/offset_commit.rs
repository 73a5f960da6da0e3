//! OffsetCommit (key 8, versions 2 to 10, the last by topic ids): a group's offsets, answered when they are durable.
//!
//! Owner: the connection's core checks topics and metadata, the coordinator the member. Invariant: every partition of
//! the request has one result. Must not: store offsets of topics that do not exist.

use std::rc::Rc;

use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use super::super::control::TopicIds;
use super::{code, on_coordinator};
use crate::catalog::Catalog;
use crate::coordinator::classic_sync::MemberRef;
use crate::coordinator::error::GroupError;
use crate::coordinator::groups_offsets::CommitItem;
use crate::shard::Shard;
use crate::wire::newer;

/// Last version in which the client says how long its offsets are to be kept.
const RETENTION_UNTIL: i16 = 4;

/// Checks one partition of a commit.
pub(in super::super) fn check(
    catalog: &Catalog,
    metadata_bytes_max: usize,
    topic: &str,
    partition: i32,
    metadata: &str,
) -> Result<(), GroupError> {
    if TopicIds::is_unknown(topic) {
        return Err(GroupError::UnknownTopicId);
    }
    if catalog.topic(topic).and_then(|topic| topic.partition(partition)).is_none() {
        return Err(GroupError::UnknownPartition);
    }
    if metadata.len() > metadata_bytes_max {
        return Err(GroupError::MetadataTooLarge);
    }
    Ok(())
}

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: OffsetCommitRequest,
    version: i16,
) -> OffsetCommitResponse {
    let catalog = shard.catalog();
    let bytes_max = shard.config.groups.offset_metadata_bytes_max;
    let mut items = Vec::new();
    let mut checked = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            let index = partition.partition_index;
            let outcome = check(&catalog, bytes_max, &topic.name, index, metadata);
            if outcome.is_ok() {
                items.push(CommitItem {
                    topic: topic.name.to_string(),
                    partition: index,
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: metadata.to_owned(),
                });
            }
            checked.push(outcome);
        }
    }
    let retention = request.retention_time_ms;
    let retention_ms = (version <= RETENTION_UNTIL && retention >= 0).then_some(retention);
    let member = MemberRef {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.to_string()),
        generation: request.generation_id_or_member_epoch,
    };
    let name = request.group_id.to_string();
    let outcome = on_coordinator(shard, &request.group_id, move |partition, _| {
        Box::pin(async move { partition.commit(&name, &member, None, retention_ms, items).await })
    });
    let outcome = outcome.await.unwrap_or_else(Err);
    respond_with(&request, checked, outcome)
}

fn respond_with(
    request: &OffsetCommitRequest,
    checked: Vec<Result<(), GroupError>>,
    outcome: Result<(), GroupError>,
) -> OffsetCommitResponse {
    let mut results = checked.into_iter().map(|one| one.and(outcome).map_or_else(code, |()| 0));
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(results.next().unwrap_or(0))
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// The answer in a version that names topics by their ids.
pub(super) fn by_ids(response: &OffsetCommitResponse, topics: &TopicIds) -> Vec<u8> {
    let topic = |topic: &OffsetCommitResponseTopic| {
        let codes = topic.partitions.iter().map(|one| (one.partition_index, one.error_code));
        (topics.id_of(&topic.name), codes.collect())
    };
    newer::committed_response(&response.topics.iter().map(topic).collect::<Vec<_>>())
}
