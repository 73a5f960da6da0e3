//! FindCoordinator (key 10, versions 0 to 6): who coordinates a group, a transaction or the state of a share
//! partition — on one node, it.
//!
//! Owner: the connection's core. Invariant: the internal topic behind an answer exists, so that what the client asks
//! next is served. Must not: tell clients about cores; the node finds the right one by itself.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::control::{NodeInfo, text};
use crate::coordinator::InternalTopic;
use crate::shard::Shard;

/// First version that asks for several keys at once (KIP-699).
const BATCHED_SINCE: i16 = 4;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// The state of a share partition (KIP-932).
const SHARE: i8 = 2;

/// Makes the internal topic that the coordinators asked for live beside; false if that failed.
pub(super) async fn prepare(shard: &Shard, request: &FindCoordinatorRequest) -> bool {
    let topic = match request.key_type {
        GROUP => InternalTopic::ConsumerOffsets,
        TRANSACTION => InternalTopic::TransactionState,
        SHARE => InternalTopic::ShareGroupState,
        _ => return true,
    };
    topic.ensure(shard).await.is_ok()
}

/// Whether a key names a share partition: group, topic id and partition, with colons between.
fn is_share_key(key: &str) -> bool {
    let mut parts = key.rsplitn(3, ':');
    let partition = parts.next().and_then(|text| text.parse::<i32>().ok());
    let topic_id = parts.next().is_some_and(|text| text.len() == 22);
    partition.is_some_and(|index| index >= 0)
        && topic_id
        && parts.next().is_some_and(|group| !group.is_empty())
}

fn coordinator(node: &NodeInfo, key: &StrBytes, key_type: i8, ready: bool) -> Coordinator {
    let refused = |error: ResponseError, why: &str| {
        Coordinator::default()
            .with_key(key.clone())
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(error.code())
            .with_error_message(Some(text(why)))
    };
    if !matches!(key_type, GROUP | TRANSACTION | SHARE) {
        return refused(ResponseError::InvalidRequest, "unknown key type");
    }
    if key_type == SHARE && !is_share_key(key) {
        return refused(ResponseError::InvalidRequest, "the key is not group:topic id:partition");
    }
    if key.is_empty() {
        return refused(ResponseError::InvalidGroupId, "the key is empty");
    }
    if !ready {
        return refused(ResponseError::CoordinatorNotAvailable, "the internal topic cannot be made");
    }
    Coordinator::default()
        .with_key(key.clone())
        .with_node_id(BrokerId(node.node_id))
        .with_host(text(node.host.as_str()))
        .with_port(i32::from(node.port))
        .with_error_message(None)
}

pub(super) fn respond(
    node: &NodeInfo,
    request: &FindCoordinatorRequest,
    version: i16,
    ready: bool,
) -> FindCoordinatorResponse {
    if version >= BATCHED_SINCE {
        let keys = request.coordinator_keys.iter();
        let found = keys.map(|key| coordinator(node, key, request.key_type, ready)).collect();
        return FindCoordinatorResponse::default().with_coordinators(found);
    }
    let found = coordinator(node, &request.key, request.key_type, ready);
    FindCoordinatorResponse::default()
        .with_error_code(found.error_code)
        .with_error_message(found.error_message)
        .with_node_id(found.node_id)
        .with_host(found.host)
        .with_port(found.port)
}
