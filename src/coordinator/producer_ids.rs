//! Producer ids, handed out from blocks of the catalog: for idempotent producers and for transactional ids.
//!
//! Owner: each core has a block of its own. Invariant: an id is handed out once, ever: a block is reserved durably
//! before its first id is used, and a restart skips what was left of it. It must not keep producer state.

use std::cell::Cell;

use crate::catalog::PRODUCER_ID_BLOCK_SIZE;
use crate::shard::Shard;

/// A core's block of producer ids: the next one, and where the block ends.
#[derive(Default)]
pub struct Block(Cell<(i64, i64)>);

/// A producer id that nobody had; `None` when the catalog cannot be written.
pub async fn next_producer_id(shard: &Shard) -> Option<i64> {
    let Block(block) = &shard.coordinators.producer_ids;
    loop {
        let (next, end) = block.get();
        if next < end {
            block.set((next + 1, end));
            return Some(next);
        }
        match shard.control.reserve_producer_ids().await {
            // Another task of this core may have got a block meanwhile: keep using that one first.
            Ok(first) if block.get() == (next, end) => {
                block.set((first, first + PRODUCER_ID_BLOCK_SIZE as i64));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!("no producer ids: {error}");
                return None;
            }
        }
    }
}
