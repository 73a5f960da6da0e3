//! LeaveGroup (key 13, versions 0 to 5): members go, several at once from version 3 on (KIP-345).
//!
//! Owner: the connection's core. Must not: touch members that are not named.

use std::rc::Rc;

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::super::control::text;
use super::{code, code_of, on_coordinator};
use crate::shard::Shard;

/// First version that names several members.
const BATCH_SINCE: i16 = 3;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: LeaveGroupRequest,
    version: i16,
) -> LeaveGroupResponse {
    let name = request.group_id.to_string();
    let members: Vec<(String, Option<String>)> = if version >= BATCH_SINCE {
        let members = request.members.iter();
        members
            .map(|member| {
                (member.member_id.to_string(), member.group_instance_id.as_ref().map(|id| id.to_string()))
            })
            .collect()
    } else {
        vec![(request.member_id.to_string(), None)]
    };
    let leaving = members.clone();
    let outcome = on_coordinator(shard, &request.group_id, move |partition, _| {
        Box::pin(async move { partition.leave(&name, &leaving).await })
    });
    let results = match outcome.await {
        Ok(results) => results,
        Err(error) => return LeaveGroupResponse::default().with_error_code(code(error)),
    };
    if version < BATCH_SINCE {
        let alone = results.first().map_or(0, code_of);
        return LeaveGroupResponse::default().with_error_code(alone);
    }
    let answers = members.into_iter().zip(&results).map(|((member, instance), result)| {
        MemberResponse::default()
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text))
            .with_error_code(code_of(result))
    });
    LeaveGroupResponse::default().with_members(answers.collect())
}
