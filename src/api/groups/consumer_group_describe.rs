//! ConsumerGroupDescribe (key 69, versions 0 and 1): groups of the new protocol in detail (KIP-848).
//!
//! Owner: the connection's core. Must not: describe classic groups.

use std::rc::Rc;

use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, GroupId};

use super::super::control::{OPERATIONS_NOT_ASKED, keep_first, text, topic_name};
use super::{GROUP_OPERATIONS, code, on_coordinator};
use crate::catalog::Catalog;
use crate::coordinator::consumer::{ConsumerDescription, MemberDetails};
use crate::coordinator::error::GroupError;
use crate::coordinator::records::Partitions;
use crate::shard::Shard;

/// First version that tells classic members from those of the new protocol.
const MEMBER_TYPE_SINCE: i16 = 1;
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

/// Leaves each group once in the request.
pub(super) fn reduce(request: &mut ConsumerGroupDescribeRequest) {
    keep_first(&mut request.group_ids, |id| id.clone());
}

/// Answers a request that names each group once.
pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: ConsumerGroupDescribeRequest,
    version: i16,
) -> ConsumerGroupDescribeResponse {
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let mut groups = Vec::with_capacity(request.group_ids.len());
    for id in request.group_ids {
        let name = id.to_string();
        let outcome = on_coordinator(shard, &id, move |partition, _| {
            Box::pin(async move { partition.describe_consumer(&name) })
        });
        let outcome = outcome.await.unwrap_or_else(Err);
        let catalog = shard.catalog();
        groups.push(describe(&catalog, id, outcome, version).with_authorized_operations(operations));
    }
    ConsumerGroupDescribeResponse::default().with_groups(groups)
}

fn describe(
    catalog: &Catalog,
    id: GroupId,
    outcome: Result<ConsumerDescription, GroupError>,
    version: i16,
) -> DescribedGroup {
    let name = id.to_string();
    let group = DescribedGroup::default().with_group_id(id).with_error_message(None);
    match outcome {
        Ok(found) => {
            let members = found.members.into_iter().map(|member| describe_member(catalog, member, version));
            group
                .with_group_state(text(found.state))
                .with_group_epoch(found.epoch)
                .with_assignment_epoch(found.assignment_epoch)
                .with_assignor_name(text(found.assignor))
                .with_members(members.collect())
        }
        Err(error) => {
            let why = match error {
                GroupError::GroupNotFound => format!("Group {name} is not a consumer group."),
                error => error.to_string(),
            };
            group.with_error_code(code(error)).with_error_message(Some(text(why)))
        }
    }
}

fn describe_member(catalog: &Catalog, member: MemberDetails, version: i16) -> Member {
    let MemberDetails { member_id, subscription, epoch, assigned, target } = member;
    let kind = if subscription.classic.is_some() { CLASSIC_MEMBER } else { CONSUMER_MEMBER };
    let topics = subscription.topics.iter().map(|name| topic_name(name)).collect();
    let described = Member::default()
        .with_member_id(text(member_id))
        .with_instance_id(subscription.instance_id.map(text))
        .with_rack_id(subscription.rack_id.map(text))
        .with_member_epoch(epoch)
        .with_client_id(text(subscription.client_id))
        .with_client_host(text(subscription.client_host))
        .with_subscribed_topic_names(topics)
        .with_subscribed_topic_regex(subscription.regex.map(text))
        .with_assignment(assignment(catalog, assigned))
        .with_target_assignment(assignment(catalog, target));
    if version >= MEMBER_TYPE_SINCE { described.with_member_type(kind) } else { described }
}

fn assignment(catalog: &Catalog, partitions: Partitions) -> Assignment {
    let topics = partitions.into_iter().filter_map(|(id, indexes)| {
        let topic = catalog.topic_by_id(id)?;
        Some(
            TopicPartitions::default()
                .with_topic_id(id)
                .with_topic_name(topic_name(&topic.name))
                .with_partitions(indexes.into_iter().collect()),
        )
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
