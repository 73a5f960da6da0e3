//! ShareAcknowledge (key 79, versions 1 and 2), and the acknowledgements that come with a ShareFetch.
//!
//! Owner: the connection's core asks, the partitions' cores carry out. Invariant: no acknowledgement is answered
//! before the state that holds it is durable. Must not: fetch.

use std::rc::Rc;

use uuid::Uuid;

use super::sessions::{self, Step};
use super::{code, missing};
use crate::api::Call;
use crate::coordinator::share_partition::{self, settings};
use crate::coordinator::share_records::StateKey;
use crate::coordinator::share_window::AckBatch;
use crate::net::Outgoing;
use crate::shard::Shard;
use crate::wire::share::{
    SharePartitionData, SharePartitionHead, ShareRequest, ShareResponseHead, encode_acknowledge_response,
};

pub(super) async fn answer(
    shard: &Rc<Shard>,
    call: Call,
    request: ShareRequest,
    step: Result<Step, i16>,
) -> Outgoing {
    let lock_ms = settings(shard, &request.group).lock_ms as i32;
    let step = match step {
        Ok(step) => step,
        Err(error_code) => {
            let head = ShareResponseHead { error_code, error_message: None, lock_ms };
            return call.reply(|out| encode_acknowledge_response(out, call.version, &head, &[]));
        }
    };
    let ShareRequest { group, member, partitions, .. } = request;
    let results = carry_out(shard, &group, &member, partitions).await;
    if step.closes {
        sessions::release(shard, step.number).await;
    }
    let mut heads: Vec<SharePartitionHead> = results
        .into_iter()
        .map(|((topic_id, partition), error_code)| SharePartitionHead {
            topic_id,
            partition,
            error_code,
            leader: (-1, -1),
            ..SharePartitionHead::default()
        })
        .collect();
    heads.sort_by_key(|head| (head.topic_id, head.partition));
    let head = ShareResponseHead { lock_ms, ..ShareResponseHead::default() };
    call.reply(|out| encode_acknowledge_response(out, call.version, &head, &heads))
}

/// Carries out acknowledgements; a code for each partition that had any, once what is accepted is durable.
pub(super) async fn carry_out(
    shard: &Rc<Shard>,
    group: &str,
    member: &str,
    partitions: Vec<SharePartitionData>,
) -> Vec<((Uuid, i32), i16)> {
    let mut results = Vec::new();
    let mut by_core: Vec<Vec<SharePartitionData>> = Vec::new();
    by_core.resize_with(shard.mesh.cores(), Vec::new);
    for one in partitions.into_iter().filter(|one| !one.acknowledgements.is_empty()) {
        match missing(shard, one.topic_id, one.partition) {
            0 => by_core[shard.owner_of(one.topic_id, one.partition)].push(one),
            error_code => results.push(((one.topic_id, one.partition), error_code)),
        }
    }
    let mut answers = Vec::new();
    for (core, mine) in by_core.into_iter().enumerate().filter(|(_, mine)| !mine.is_empty()) {
        let (group, member) = (group.to_owned(), member.to_owned());
        let places: Vec<_> = mine.iter().map(|one| (one.topic_id, one.partition)).collect();
        let work = move |owner| -> crate::shard::LocalFuture<_> {
            Box::pin(async move { on_owner(&owner, &group, &member, mine).await })
        };
        answers.push((places, shard.mesh.start_call(core, work).await));
    }
    for (places, answer) in answers {
        let gone = code(share_partition::ShareError::Storage);
        let codes = answer.recv_async().await.unwrap_or_else(|_| vec![gone; places.len()]);
        results.extend(places.into_iter().zip(codes));
    }
    results
}

/// All changes first, then one wait: partitions share the flushes of their states.
async fn on_owner(
    owner: &Rc<Shard>,
    group: &str,
    member: &str,
    partitions: Vec<SharePartitionData>,
) -> Vec<i16> {
    let mut changes = Vec::with_capacity(partitions.len());
    for one in partitions {
        let key = StateKey { group: group.to_owned(), topic_id: one.topic_id, partition: one.partition };
        let batches: Vec<AckBatch> = one
            .acknowledgements
            .into_iter()
            .map(|batch| AckBatch { first: batch.first, last: batch.last, types: batch.types })
            .collect();
        changes.push(match share_partition::open(owner, &key).await {
            Ok(share) => share.acknowledge(member, &batches).map(|change| (share, change)),
            Err(error) => Err(error),
        });
    }
    let mut codes = Vec::with_capacity(changes.len());
    for change in changes {
        let outcome = match change {
            Ok((share, change)) => share.wait_stored(change).await,
            Err(error) => Err(error),
        };
        codes.push(outcome.map_or_else(code, |()| 0));
    }
    codes
}
