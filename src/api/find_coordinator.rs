//! FindCoordinator (key 10, versions 0 to 6): who coordinates a group or a transaction — on one node, it.
//!
//! Owner: the connection's core; a pure function. It is here before groups are, because librdkafka takes
//! a broker without it for one too old for LZ4 and sends those batches uncompressed.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::control::{NodeInfo, text};

/// First version that asks for several keys at once (KIP-699).
const BATCHED_SINCE: i16 = 4;

/// Key types: group, transaction, share group.
const KEY_TYPE_MAX: i8 = 2;

fn coordinator(node: &NodeInfo, key: &StrBytes, key_type: i8) -> Coordinator {
    let refused = |error: ResponseError, why: &str| {
        Coordinator::default()
            .with_key(key.clone())
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(error.code())
            .with_error_message(Some(text(why)))
    };
    if !(0..=KEY_TYPE_MAX).contains(&key_type) {
        return refused(ResponseError::InvalidRequest, "unknown key type");
    }
    if key.is_empty() {
        return refused(ResponseError::InvalidGroupId, "the key is empty");
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
) -> FindCoordinatorResponse {
    if version >= BATCHED_SINCE {
        let keys = request.coordinator_keys.iter();
        let found = keys.map(|key| coordinator(node, key, request.key_type)).collect();
        return FindCoordinatorResponse::default().with_coordinators(found);
    }
    let found = coordinator(node, &request.key, request.key_type);
    FindCoordinatorResponse::default()
        .with_error_code(found.error_code)
        .with_error_message(found.error_message)
        .with_node_id(found.node_id)
        .with_host(found.host)
        .with_port(found.port)
}
