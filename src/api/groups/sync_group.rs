//! SyncGroup (key 14, versions 0 to 5): the leader brings the assignments, everybody gets theirs.
//!
//! Owner: the connection's core. Must not: answer before the assignment is stored.

use std::rc::Rc;

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::super::control::text;
use super::{code, on_coordinator};
use crate::coordinator::classic_sync::{MemberRef, SyncRequest};
use crate::coordinator::error::GroupError;
use crate::shard::Shard;

/// First version that names the protocol, and must (KIP-559).
const PROTOCOL_SINCE: i16 = 5;

pub(super) async fn respond(shard: &Rc<Shard>, request: SyncGroupRequest, version: i16) -> SyncGroupResponse {
    if version >= PROTOCOL_SINCE && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return SyncGroupResponse::default().with_error_code(code(GroupError::InconsistentProtocol));
    }
    let name = request.group_id.to_string();
    let assignments = request.assignments.into_iter();
    let sync = SyncRequest {
        member: MemberRef {
            member_id: request.member_id.to_string(),
            instance_id: request.group_instance_id.map(|id| id.to_string()),
            generation: request.generation_id,
        },
        protocol_type: request.protocol_type.map(|kind| kind.to_string()),
        protocol: request.protocol_name.map(|name| name.to_string()),
        assignments: assignments.map(|one| (one.member_id.to_string(), one.assignment)).collect(),
    };
    let outcome = on_coordinator(shard, &request.group_id, move |partition, owner| {
        let catalog = owner.catalog();
        Box::pin(async move { partition.sync(&name, sync, catalog).await })
    });
    match outcome.await.unwrap_or_else(Err) {
        Err(error) => SyncGroupResponse::default().with_error_code(code(error)),
        Ok(synced) => {
            let named = version >= PROTOCOL_SINCE;
            SyncGroupResponse::default()
                .with_protocol_type(synced.protocol_type.filter(|_| named).map(text))
                .with_protocol_name(synced.protocol.filter(|_| named).map(text))
                .with_assignment(synced.assignment)
        }
    }
}
