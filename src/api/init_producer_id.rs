//! InitProducerId (key 22, versions 0 to 5): a producer id and epoch, for idempotent producers and for transactional
//! ones, whose earlier transaction is aborted first.
//!
//! Owner: the connection's core; the transaction coordinator does the work for transactional ids.
//! It must not keep producer state.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::txn_errors;
use crate::coordinator::producer_ids::next_producer_id;
use crate::coordinator::txn_api;
use crate::coordinator::txn_state::ProducerKey;
use crate::shard::Shard;

/// Versions whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 4;

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: &InitProducerIdRequest,
    version: i16,
) -> InitProducerIdResponse {
    let refused = |code: i16| {
        InitProducerIdResponse::default()
            .with_error_code(code)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    let given = |producer: ProducerKey| {
        InitProducerIdResponse::default()
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
    };
    let Some(id) = &request.transactional_id else {
        return match next_producer_id(shard).await {
            Some(id) => given(ProducerKey { id, epoch: 0 }),
            None => refused(ResponseError::CoordinatorNotAvailable.code()),
        };
    };
    let (producer, epoch) = (request.producer_id.0, request.producer_epoch);
    let expected = match (producer, epoch) {
        _ if version < 3 => None,
        (-1, -1) => None,
        (id, epoch) if id >= 0 && epoch >= 0 => Some(ProducerKey { id, epoch }),
        // One without the other makes no sense (KIP-360).
        _ => return refused(ResponseError::InvalidRequest.code()),
    };
    match txn_api::init(shard, id, request.transaction_timeout_ms, expected).await {
        Ok(producer) => given(producer),
        Err(error) => refused(txn_errors::code(error, version >= FENCED_SINCE)),
    }
}
