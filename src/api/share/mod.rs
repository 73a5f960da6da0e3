//! The APIs of share groups (KIP-932): from a request to the group's coordinator or to the partitions' cores, and back.
//!
//! Owner: the connection's core asks, the owners' cores answer. Invariants: share sessions belong to a connection, and
//! end with it; nothing is served while the feature `share.version` is off.
//! It must not keep anything between requests but sessions; `coordinator` does.

mod acknowledge;
mod describe;
mod fetch;
mod heartbeat;
mod offsets;
mod sessions;

use std::rc::Rc;

use kafka_protocol::ResponseError;

use super::dispatch::{decode, decode_reduced, encode};
use super::groups::Client;
use super::{Call, ConnectionContext, Handled, Outcome, features};
use crate::coordinator::share_partition::ShareError;
use crate::shard::Shard;
use crate::wire::api_table::*;
use crate::wire::share::ShareRequest;

pub(super) use sessions::ShareSessions;

const UNKNOWN_TOPIC_ID: i16 = 100;
const SHARE_SESSION_LIMIT_REACHED: i16 = 133;

/// Whether this module answers the API.
pub(super) fn serves(api_key: i16) -> bool {
    matches!(
        api_key,
        SHARE_GROUP_HEARTBEAT
            | SHARE_GROUP_DESCRIBE
            | SHARE_FETCH
            | SHARE_ACKNOWLEDGE
            | DESCRIBE_SHARE_GROUP_OFFSETS
            | ALTER_SHARE_GROUP_OFFSETS
            | DELETE_SHARE_GROUP_OFFSETS
    )
}

/// Whether share groups are served at all.
fn is_on(shard: &Shard) -> bool {
    features::level(&shard.catalog(), "share.version") >= 1
}

/// Handles a request that goes to a coordinator, and whose predecessors are all answered.
pub(super) async fn handle(context: &ConnectionContext, call: Call, client: Client, body: &[u8]) -> Outcome {
    let shard = &context.shard;
    Ok(match call.api_key {
        SHARE_GROUP_HEARTBEAT => {
            encode(call, &heartbeat::respond(shard, client, decode(call, body).await?).await)
        }
        SHARE_GROUP_DESCRIBE => {
            encode(call, &describe::respond(shard, decode_reduced(call, body, describe::reduce).await?).await)
        }
        DESCRIBE_SHARE_GROUP_OFFSETS => {
            // The request is the same in all versions; the decoder knows the first.
            let request = decode(Call { version: 0, ..call }, body).await?;
            Handled::Ready(offsets::describe(shard, call, request).await)
        }
        ALTER_SHARE_GROUP_OFFSETS => encode(call, &offsets::alter(shard, decode(call, body).await?).await),
        _ => encode(call, &offsets::delete(shard, decode(call, body).await?).await),
    })
}

/// Handles ShareFetch or ShareAcknowledge: the session takes its step at once, the rest goes on beside the connection.
pub(super) fn handle_session(context: &ConnectionContext, call: Call, body: &[u8]) -> Outcome {
    let (shard, sessions) = (context.shard.clone(), context.share_sessions.clone());
    if call.api_key == SHARE_ACKNOWLEDGE {
        let request = ShareRequest::decode_acknowledge(body, call.version)?;
        let step = sessions.step(&request, false);
        return Ok(Handled::Making(Box::pin(async move {
            acknowledge::answer(&shard, call, request, step).await
        })));
    }
    let mut request = ShareRequest::decode_fetch(body, call.version)?;
    request.max_bytes = request.max_bytes.min(context.fetch_bytes_max());
    let step = sessions.step(&request, true);
    Ok(Handled::Making(Box::pin(async move {
        // The sessions must outlive what is acquired for them.
        let _sessions = sessions;
        fetch::answer(&shard, call, request, step).await
    })))
}

/// Kafka's code for a refusal.
fn code(error: ShareError) -> i16 {
    match error {
        ShareError::Unknown => ResponseError::UnknownTopicOrPartition.code(),
        ShareError::Storage | ShareError::Full => ResponseError::KafkaStorageError.code(),
        ShareError::Damaged => ResponseError::CorruptMessage.code(),
        ShareError::Invalid => ResponseError::InvalidRequest.code(),
        ShareError::State => ResponseError::InvalidRecordState.code(),
    }
}

/// The code for a partition that is not there, 0 for one that is.
fn missing(shard: &Rc<Shard>, topic_id: uuid::Uuid, partition: i32) -> i16 {
    match shard.catalog().topic_by_id(topic_id) {
        None => UNKNOWN_TOPIC_ID,
        Some(topic) if topic.partition(partition).is_none() => code(ShareError::Unknown),
        Some(_) => 0,
    }
}
