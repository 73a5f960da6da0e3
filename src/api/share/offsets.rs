//! Describe-, Alter- and DeleteShareGroupOffsets (keys 90 to 92): where share groups stand, and setting that.
//!
//! Owner: the connection's core; the group's coordinator and the partitions' cores do the work. Invariant: what is
//! said to be changed is durable. Must not: change the offsets of a group that somebody is in.

use std::collections::BTreeSet;
use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use kafka_protocol::messages::delete_share_group_offsets_response::DeleteShareGroupOffsetsResponseTopic;
use kafka_protocol::messages::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup;
use kafka_protocol::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse, DescribeShareGroupOffsetsRequest,
};
use uuid::Uuid;

use super::super::Call;
use super::super::control::{keep_first, text};
use super::super::groups::{code as group_code, on_coordinator};
use super::{code, is_on};
use crate::coordinator::error::GroupError;
use crate::coordinator::share_groups::share_offset;
use crate::coordinator::share_partition::ShareError;
use crate::net::Outgoing;
use crate::shard::Shard;
use crate::wire::Writer;

/// First version that tells the lag (KIP-1226).
const LAG_SINCE: i16 = 1;

struct Described {
    partition: i32,
    start: i64,
    leader_epoch: i32,
    lag: i64,
    error_code: i16,
}

struct DescribedTopic {
    name: String,
    id: Uuid,
    partitions: Vec<Described>,
}

/// DescribeShareGroupOffsets (key 90, versions 0 and 1); encoded by hand, because the encoder knows version 0 only.
pub(super) async fn describe(
    shard: &Rc<Shard>,
    call: Call,
    mut request: DescribeShareGroupOffsetsRequest,
) -> Outgoing {
    keep_first(&mut request.groups, |group| group.group_id.clone());
    let mut groups = Vec::with_capacity(request.groups.len());
    for asked in request.groups {
        let name = asked.group_id.to_string();
        groups.push((name, describe_group(shard, asked).await));
    }
    call.reply(|out| {
        let mut writer = Writer::new(out);
        writer.i32(0);
        writer.len(true, Some(groups.len()));
        for (name, outcome) in &groups {
            writer.string(true, name);
            let topics = outcome.as_deref().unwrap_or_default();
            writer.len(true, Some(topics.len()));
            topics.iter().for_each(|topic| encode_topic(&mut writer, topic, call.version));
            writer.i16(outcome.as_ref().map_or_else(|error| group_code(*error), |_| 0));
            writer.nullable_string(true, outcome.as_ref().err().map(ToString::to_string).as_deref());
            writer.no_tagged_fields(true);
        }
        writer.no_tagged_fields(true);
    })
}

fn encode_topic(writer: &mut Writer<'_>, topic: &DescribedTopic, version: i16) {
    writer.string(true, &topic.name);
    writer.uuid(topic.id);
    writer.len(true, Some(topic.partitions.len()));
    for one in &topic.partitions {
        writer.i32(one.partition);
        writer.i64(one.start);
        writer.i32(one.leader_epoch);
        if version >= LAG_SINCE {
            writer.i64(one.lag);
        }
        writer.i16(one.error_code);
        writer.nullable_string(true, None);
        writer.no_tagged_fields(true);
    }
    writer.no_tagged_fields(true);
}

async fn describe_group(
    shard: &Rc<Shard>,
    asked: DescribeShareGroupOffsetsRequestGroup,
) -> Result<Vec<DescribedTopic>, GroupError> {
    if !is_on(shard) {
        return Err(GroupError::InvalidRequest);
    }
    let group = asked.group_id.to_string();
    let name = group.clone();
    let known = on_coordinator(shard, &group, move |partition, _| {
        Box::pin(async move { partition.share_topics(&name) })
    });
    let known = known.await.unwrap_or_else(Err)?;
    let catalog = shard.catalog();
    let wanted: Vec<(String, Option<Uuid>, BTreeSet<i32>)> = match asked.topics {
        Some(topics) => topics
            .into_iter()
            .map(|topic| {
                let id = catalog.topic(&topic.topic_name).map(|found| found.id);
                (topic.topic_name.to_string(), id, topic.partitions.into_iter().collect())
            })
            .collect(),
        None => known.into_iter().map(|(id, (name, indexes))| (name, Some(id), indexes)).collect(),
    };
    let mut topics = Vec::with_capacity(wanted.len());
    for (name, id, indexes) in wanted {
        let mut partitions = Vec::with_capacity(indexes.len());
        for partition in indexes {
            let found = match id {
                Some(id) => share_offset(shard, &group, id, partition).await,
                None => Err(ShareError::Unknown),
            };
            let (start, leader_epoch, lag) = found.ok().flatten().unwrap_or((-1, 0, -1));
            let error_code = found.map_or_else(code, |_| 0);
            partitions.push(Described { partition, start, leader_epoch, lag, error_code });
        }
        topics.push(DescribedTopic { name, id: id.unwrap_or_default(), partitions });
    }
    Ok(topics)
}

/// AlterShareGroupOffsets (key 91, version 0).
pub(super) async fn alter(
    shard: &Rc<Shard>,
    request: AlterShareGroupOffsetsRequest,
) -> AlterShareGroupOffsetsResponse {
    let refused = |error: GroupError| {
        AlterShareGroupOffsetsResponse::default()
            .with_error_code(group_code(error))
            .with_error_message(Some(text(error.to_string())))
    };
    if !is_on(shard) {
        return refused(GroupError::InvalidRequest);
    }
    let catalog = shard.catalog();
    let mut offsets = Vec::new();
    for topic in &request.topics {
        let Some(found) = catalog.topic(&topic.topic_name) else { continue };
        for one in &topic.partitions {
            if found.partition(one.partition_index).is_some() && one.start_offset >= 0 {
                offsets.push((found.id, found.name.to_string(), one.partition_index, one.start_offset));
            }
        }
    }
    let places: Vec<(Uuid, i32)> = offsets.iter().map(|(id, _, index, _)| (*id, *index)).collect();
    let name = request.group_id.to_string();
    let altered = on_coordinator(shard, &request.group_id, move |partition, owner| {
        Box::pin(async move { partition.alter_share_offsets(&owner, &name, offsets).await })
    });
    let results = match altered.await.unwrap_or_else(Err) {
        Ok(results) => results,
        Err(error) => return refused(error),
    };
    let outcome = |id: Uuid, index: i32| {
        let at = places.iter().position(|place| *place == (id, index));
        at.map_or(Err(ShareError::Unknown), |at| results[at]).map_or_else(code, |()| 0)
    };
    let topics = request.topics.into_iter().map(|topic| {
        let id = catalog.topic(&topic.topic_name).map(|found| found.id).unwrap_or_default();
        let partitions = topic.partitions.into_iter().map(|one| {
            AlterShareGroupOffsetsResponsePartition::default()
                .with_partition_index(one.partition_index)
                .with_error_code(outcome(id, one.partition_index))
                .with_error_message(None)
        });
        AlterShareGroupOffsetsResponseTopic::default()
            .with_topic_name(topic.topic_name)
            .with_topic_id(id)
            .with_partitions(partitions.collect())
    });
    AlterShareGroupOffsetsResponse::default().with_error_message(None).with_responses(topics.collect())
}

/// DeleteShareGroupOffsets (key 92, version 0).
pub(super) async fn delete(
    shard: &Rc<Shard>,
    request: DeleteShareGroupOffsetsRequest,
) -> DeleteShareGroupOffsetsResponse {
    let refused = |error: GroupError| {
        DeleteShareGroupOffsetsResponse::default()
            .with_error_code(group_code(error))
            .with_error_message(Some(text(error.to_string())))
    };
    if !is_on(shard) {
        return refused(GroupError::InvalidRequest);
    }
    let catalog = shard.catalog();
    let ids: Vec<Option<Uuid>> =
        request.topics.iter().map(|topic| catalog.topic(&topic.topic_name).map(|found| found.id)).collect();
    let (name, asked) = (request.group_id.to_string(), ids.iter().flatten().copied().collect());
    let deleted = on_coordinator(shard, &request.group_id, move |partition, owner| {
        Box::pin(async move { partition.delete_share_offsets(&owner, &name, asked).await })
    });
    if let Err(error) = deleted.await.unwrap_or_else(Err) {
        return refused(error);
    }
    let topics = request.topics.into_iter().zip(ids).map(|(topic, id)| {
        let unknown = ResponseError::UnknownTopicOrPartition.code();
        DeleteShareGroupOffsetsResponseTopic::default()
            .with_topic_name(topic.topic_name)
            .with_topic_id(id.unwrap_or_default())
            .with_error_code(if id.is_some() { 0 } else { unknown })
            .with_error_message(None)
    });
    DeleteShareGroupOffsetsResponse::default().with_error_message(None).with_responses(topics.collect())
}
