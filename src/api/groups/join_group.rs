//! JoinGroup (key 11, versions 0 to 9): a member of the classic protocol joins, and waits for the rebalance.
//!
//! Owner: the connection's core. Must not: answer before the coordinator does.

use std::rc::Rc;

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::super::control::text;
use super::{Client, code, on_coordinator};
use crate::coordinator::classic::{JoinOutcome, JoinRequest};
use crate::shard::Shard;

/// First version with a rebalance time-out of its own; before, it is the session time-out.
const REBALANCE_TIMEOUT_SINCE: i16 = 1;
/// First version in which new members have to come again with their id (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;
/// First version that names the protocol type, and none on errors.
const PROTOCOL_TYPE_SINCE: i16 = 7;
/// First version in which a leader can be told to keep the assignment (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;
/// First version with static members.
const INSTANCE_ID_SINCE: i16 = 5;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    client: Client,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    let member_id = request.member_id.to_string();
    let name = request.group_id.to_string();
    let protocols = request.protocols.into_iter();
    let join = JoinRequest {
        member_id: member_id.clone(),
        instance_id: request.group_instance_id.map(|id| id.to_string()),
        client_id: client.id,
        client_host: client.host,
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match version >= REBALANCE_TIMEOUT_SINCE {
            true => request.rebalance_timeout_ms,
            false => request.session_timeout_ms,
        },
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.map(|protocol| (protocol.name.to_string(), protocol.metadata)).collect(),
        needs_member_id: version >= MEMBER_ID_REQUIRED_SINCE,
        can_skip_assignment: version >= SKIP_ASSIGNMENT_SINCE,
    };
    let outcome = on_coordinator(shard, &request.group_id, move |partition, owner| {
        let catalog = owner.catalog();
        Box::pin(async move { partition.join(&name, join, catalog).await })
    });
    let outcome = outcome.await.unwrap_or_else(|error| JoinOutcome::error(error, &member_id));
    response(outcome, version)
}

fn response(outcome: JoinOutcome, version: i16) -> JoinGroupResponse {
    let members = outcome.members.into_iter().map(|member| {
        let instance_id = member.instance_id.filter(|_| version >= INSTANCE_ID_SINCE);
        JoinGroupResponseMember::default()
            .with_member_id(text(member.member_id))
            .with_group_instance_id(instance_id.map(text))
            .with_metadata(member.metadata)
    });
    let named = version >= PROTOCOL_TYPE_SINCE;
    let protocol = outcome.protocol.or((!named).then(String::new));
    JoinGroupResponse::default()
        .with_error_code(outcome.error.map_or(0, code))
        .with_generation_id(outcome.generation)
        .with_protocol_type(outcome.protocol_type.filter(|_| named).map(text))
        .with_protocol_name(protocol.map(text))
        .with_leader(text(outcome.leader))
        .with_skip_assignment(outcome.skip_assignment && version >= SKIP_ASSIGNMENT_SINCE)
        .with_member_id(text(outcome.member_id))
        .with_members(members.collect())
}

#[cfg(test)]
mod tests {
    use super::super::super::control::tests::seen_by_client;
    use super::*;
    use crate::coordinator::classic::JoinedMember;
    use crate::coordinator::error::GroupError;
    use bytes::Bytes;

    #[test]
    fn every_version_sees_the_generation_and_the_errors() {
        for version in 0..=9 {
            let member = JoinedMember {
                member_id: "m".to_owned(),
                instance_id: Some("i".to_owned()),
                metadata: Bytes::from_static(b"meta"),
            };
            let outcome = JoinOutcome {
                generation: 3,
                protocol_type: Some("consumer".to_owned()),
                protocol: Some("range".to_owned()),
                leader: "m".to_owned(),
                member_id: "m".to_owned(),
                skip_assignment: true,
                members: vec![member],
                error: None,
            };
            let seen = seen_by_client(&response(outcome, version), version);
            assert_eq!((seen.error_code, seen.generation_id, seen.members.len()), (0, 3, 1));
            assert_eq!(seen.skip_assignment, version >= 9);
            assert_eq!(seen.members[0].group_instance_id.is_some(), version >= 5);
            let refused = JoinOutcome::error(GroupError::MemberIdRequired, "m-1");
            let seen = seen_by_client(&response(refused, version), version);
            assert_eq!((seen.error_code, seen.generation_id, seen.member_id.as_str()), (79, -1, "m-1"));
        }
    }
}
