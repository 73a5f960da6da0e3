//! DeleteGroups (key 42, versions 0 to 3): groups without members, and their offsets; share groups
//! and all they have done.
//!
//! Owner: the connection's core. Must not: delete a group that somebody is in.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::{code_of, on_coordinator};
use crate::shard::Shard;

pub(super) async fn respond(shard: &Rc<Shard>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for id in request.groups_names {
        let name = id.to_string();
        let outcome = on_coordinator(shard, &id, move |partition, owner| {
            Box::pin(async move {
                match partition.is_share(&name) {
                    true => partition.delete_share_group(&owner, &name).await,
                    false => partition.delete_group(&name).await,
                }
            })
        });
        let code = code_of(&outcome.await.unwrap_or_else(Err));
        results.push(DeletableGroupResult::default().with_group_id(id).with_error_code(code));
    }
    DeleteGroupsResponse::default().with_results(results)
}

/// Why a group was not deleted, in words (version 3).
pub(super) fn message(code: i16) -> Option<&'static str> {
    match ResponseError::try_from_code(code)? {
        ResponseError::NonEmptyGroup => Some("The group has members."),
        ResponseError::GroupIdNotFound => Some("There is no such group."),
        _ => Some("The group cannot be deleted now."),
    }
}
