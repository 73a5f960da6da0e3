//! DescribeGroups (key 15, versions 0 to 6): members and assignments of classic groups.
//!
//! Owner: the connection's core. Invariant: a group that is not there is `Dead`, and from version 6 on an error
//! (KIP-1043). Must not: describe groups of the new protocol.

use std::rc::Rc;

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};

use super::super::control::{OPERATIONS_NOT_ASKED, keep_first, text};
use super::{GROUP_OPERATIONS, code, on_coordinator};
use crate::coordinator::error::GroupError;
use crate::coordinator::groups_offsets::ClassicDescription;
use crate::shard::Shard;

/// First version in which a missing group is an error.
const NOT_FOUND_SINCE: i16 = 6;
/// First version with authorised operations.
const OPERATIONS_SINCE: i16 = 3;
/// First version with instance ids.
const INSTANCE_ID_SINCE: i16 = 4;

/// Leaves each group once in the request.
pub(super) fn reduce(request: &mut DescribeGroupsRequest) {
    keep_first(&mut request.groups, |id| id.clone());
}

/// Answers a request that names each group once.
pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let asked = version >= OPERATIONS_SINCE && request.include_authorized_operations;
    let operations = if asked { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
    let mut groups = Vec::with_capacity(request.groups.len());
    for id in request.groups {
        let name = id.to_string();
        let outcome = on_coordinator(shard, &id, move |partition, _| {
            Box::pin(async move { partition.describe_classic(&name) })
        });
        let outcome = outcome.await.unwrap_or_else(Err);
        groups.push(describe(id, outcome, version).with_authorized_operations(operations));
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

fn describe(id: GroupId, outcome: Result<ClassicDescription, GroupError>, version: i16) -> DescribedGroup {
    let name = id.to_string();
    let group = DescribedGroup::default().with_group_id(id).with_error_message(None);
    let found = match outcome {
        Ok(found) => found,
        Err(GroupError::GroupNotFound) if version < NOT_FOUND_SINCE => {
            return group.with_group_state(text("Dead"));
        }
        Err(GroupError::GroupNotFound) => {
            return group
                .with_group_state(text("Dead"))
                .with_error_code(code(GroupError::GroupNotFound))
                .with_error_message(Some(text(format!("Group {name} not found."))));
        }
        Err(error) => return group.with_error_code(code(error)),
    };
    let members = found.members.into_iter().map(|member| {
        let instance_id = member.instance_id.filter(|_| version >= INSTANCE_ID_SINCE);
        DescribedGroupMember::default()
            .with_member_id(text(member.member_id))
            .with_group_instance_id(instance_id.map(text))
            .with_client_id(text(member.client_id))
            .with_client_host(text(member.client_host))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    group
        .with_group_state(text(found.state))
        .with_protocol_type(text(found.protocol_type))
        .with_protocol_data(text(found.protocol))
        .with_members(members.collect())
}
