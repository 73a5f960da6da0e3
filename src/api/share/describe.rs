//! ShareGroupDescribe (key 77, version 1): share groups in detail.
//!
//! Owner: the connection's core. Must not: describe groups of other kinds.

use std::rc::Rc;

use kafka_protocol::messages::share_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use kafka_protocol::messages::{GroupId, ShareGroupDescribeRequest, ShareGroupDescribeResponse};

use super::super::control::{OPERATIONS_NOT_ASKED, keep_first, text, topic_name};
use super::super::groups::{GROUP_OPERATIONS, code, on_coordinator};
use super::is_on;
use crate::catalog::Catalog;
use crate::coordinator::error::GroupError;
use crate::coordinator::records::Partitions;
use crate::coordinator::share_group::{ASSIGNOR, ShareDescription};
use crate::shard::Shard;

/// Leaves each group once in the request.
pub(super) fn reduce(request: &mut ShareGroupDescribeRequest) {
    keep_first(&mut request.group_ids, |id| id.clone());
}

/// Answers a request that names each group once.
pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: ShareGroupDescribeRequest,
) -> ShareGroupDescribeResponse {
    let operations =
        if request.include_authorized_operations { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let mut groups = Vec::with_capacity(request.group_ids.len());
    for id in request.group_ids {
        let name = id.to_string();
        let outcome = match is_on(shard) {
            true => {
                let asked = on_coordinator(shard, &id, move |partition, _| {
                    Box::pin(async move { partition.describe_share(&name) })
                });
                asked.await.unwrap_or_else(Err)
            }
            false => Err(GroupError::InvalidRequest),
        };
        groups.push(describe(&shard.catalog(), id, outcome).with_authorized_operations(operations));
    }
    ShareGroupDescribeResponse::default().with_groups(groups)
}

fn describe(catalog: &Catalog, id: GroupId, outcome: Result<ShareDescription, GroupError>) -> DescribedGroup {
    let name = id.to_string();
    let group = DescribedGroup::default().with_group_id(id).with_error_message(None);
    let found = match outcome {
        Ok(found) => found,
        Err(error) => {
            let why = match error {
                GroupError::GroupNotFound => format!("Group {name} is not a share group."),
                error => error.to_string(),
            };
            return group
                .with_group_state(text("Dead"))
                .with_error_code(code(error))
                .with_error_message(Some(text(why)));
        }
    };
    let members = found.members.into_iter().map(|(id, subscription, epoch, assigned)| {
        let topics = subscription.topics.iter().map(|name| topic_name(name)).collect();
        Member::default()
            .with_member_id(text(id))
            .with_rack_id(subscription.rack_id.map(text))
            .with_member_epoch(epoch)
            .with_client_id(text(subscription.client_id))
            .with_client_host(text(subscription.client_host))
            .with_subscribed_topic_names(topics)
            .with_assignment(assignment(catalog, assigned))
    });
    group
        .with_group_state(text(found.state))
        .with_group_epoch(found.epoch)
        .with_assignment_epoch(found.assignment_epoch)
        .with_assignor_name(text(ASSIGNOR))
        .with_members(members.collect())
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
