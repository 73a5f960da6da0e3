//! ListGroups (key 16, versions 0 to 5): the groups of all cores, filtered by state (version 4) and type (version 5).
//!
//! Owner: the connection's core. Must not: make the internal topic by asking.

use std::rc::Rc;

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use super::super::control::text;
use super::{code, group_id};
use crate::coordinator::error::GroupError;
use crate::coordinator::groups::open_all;
use crate::coordinator::groups_offsets::GroupOverview;
use crate::shard::Shard;

/// First version that shows states.
const STATE_SINCE: i16 = 4;
/// First version that shows types.
const TYPE_SINCE: i16 = 5;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: ListGroupsRequest,
    version: i16,
) -> ListGroupsResponse {
    let mut all: Vec<GroupOverview> = Vec::new();
    for core in 0..shard.mesh.cores() {
        let answer = shard.mesh.call(core, |owner| {
            Box::pin(async move {
                let partitions = open_all(&owner)?;
                Ok(partitions.iter().flat_map(|partition| partition.list()).collect::<Vec<_>>())
            })
        });
        match answer.await.unwrap_or(Err(GroupError::NotAvailable)) {
            Ok(groups) => all.extend(groups),
            Err(error) => return ListGroupsResponse::default().with_error_code(code(error)),
        }
    }
    all.retain(|group| {
        passes(&request.states_filter, group.state) && passes(&request.types_filter, group.kind)
    });
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let groups = all.into_iter().map(|group| {
        let state = if version >= STATE_SINCE { group.state } else { "" };
        let kind = if version >= TYPE_SINCE { group.kind } else { "" };
        ListedGroup::default()
            .with_group_id(group_id(&group.name))
            .with_protocol_type(text(group.protocol_type))
            .with_group_state(text(state))
            .with_group_type(text(kind))
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

/// No filter lets everything pass; case does not matter.
fn passes(filter: &[StrBytes], value: &str) -> bool {
    filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
}
