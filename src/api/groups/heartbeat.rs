//! Heartbeat (key 12, versions 0 to 4): a member of the classic protocol is alive.
//!
//! Owner: the connection's core. Must not: wait.

use std::rc::Rc;

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::{code_of, on_coordinator};
use crate::coordinator::classic_sync::MemberRef;
use crate::shard::Shard;

pub(super) async fn respond(shard: &Rc<Shard>, request: HeartbeatRequest) -> HeartbeatResponse {
    let name = request.group_id.to_string();
    let member = MemberRef {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.map(|id| id.to_string()),
        generation: request.generation_id,
    };
    let outcome = on_coordinator(shard, &request.group_id, move |partition, _| {
        Box::pin(async move { partition.heartbeat(&name, &member) })
    });
    HeartbeatResponse::default().with_error_code(code_of(&outcome.await.unwrap_or_else(Err)))
}
