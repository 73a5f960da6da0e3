//! InitProducerId (key 22): ids for idempotent producers, handed out from blocks of the catalog.
//!
//! Owner: the connection's core. Invariant: an id is handed out once, ever: a block is reserved durably
//! before its first id is used, and a restart skips what was left of it.
//! It must not keep producer state; partitions do.

use std::cell::Cell;
use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::catalog::PRODUCER_ID_BLOCK_SIZE;
use crate::shard::Shard;

thread_local! {
    /// Next id and end of this core's block.
    static BLOCK: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

pub(super) async fn respond(shard: &Rc<Shard>, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    let refused = |error: ResponseError| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if request.transactional_id.is_some() {
        return refused(ResponseError::TransactionalIdAuthorizationFailed);
    }
    match next_id(shard).await {
        Some(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        None => refused(ResponseError::CoordinatorNotAvailable),
    }
}

async fn next_id(shard: &Shard) -> Option<i64> {
    loop {
        let (next, end) = BLOCK.get();
        if next < end {
            BLOCK.set((next + 1, end));
            return Some(next);
        }
        match shard.control.reserve_producer_ids().await {
            // Another connection of this core may have got a block meanwhile: keep using that one first.
            Ok(first) if BLOCK.get() == (next, end) => {
                BLOCK.set((first, first + PRODUCER_ID_BLOCK_SIZE as i64));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!("no producer ids: {error}");
                return None;
            }
        }
    }
}
