//! ListOffsets (key 2): offsets by position in the log or by timestamp, exact to the record.
//!
//! Owner: the connection's core asks each partition's core. Special timestamps: -1 latest, -2 earliest,
//! -3 the record with the largest timestamp (KIP-734), -4 earliest local and -5 latest tiered (KIP-405,
//! KIP-1005), -6 earliest that waits for
//! its upload (KIP-1023). It must not cache.

use std::collections::HashSet;
use std::rc::Rc;

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use uuid::Uuid;

use super::fetch_read::check_epoch;
use crate::shard::{PartitionKey, Shard};
use crate::storage::Isolation;

const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_REQUEST: i16 = 42;
const KAFKA_STORAGE_ERROR: i16 = 56;
const UNSUPPORTED_VERSION: i16 = 35;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// What a look-up found.
#[derive(Clone, Copy)]
struct Found {
    error_code: i16,
    offset: i64,
    timestamp: i64,
    leader_epoch: i32,
}

impl Found {
    fn error(error_code: i16) -> Found {
        Found { error_code, offset: -1, timestamp: -1, leader_epoch: -1 }
    }
}

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let catalog = shard.catalog();
    let isolation = if request.isolation_level == 1 { Isolation::Committed } else { Isolation::Uncommitted };
    // A look-up may read and unpack a batch: a request is not to ask for the same one over and over.
    let mut seen = HashSet::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let topic_id = catalog.topic(&topic.name).map(|topic| topic.id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let repeated = !seen.insert((topic_id, partition.partition_index));
            let found = match topic_id {
                Some(_) if repeated => Found::error(INVALID_REQUEST),
                Some(topic_id) => ask(shard, topic_id, &partition, isolation).await,
                None => Found::error(UNKNOWN_TOPIC_OR_PARTITION),
            };
            partitions.push(describe(partition.partition_index, found, version));
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn describe(index: i32, found: Found, version: i16) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default()
        .with_partition_index(index)
        .with_error_code(found.error_code)
        .with_offset(found.offset)
        .with_timestamp(found.timestamp);
    if version >= 4 { response.with_leader_epoch(found.leader_epoch) } else { response }
}

async fn ask(
    shard: &Rc<Shard>,
    topic_id: Uuid,
    partition: &ListOffsetsPartition,
    isolation: Isolation,
) -> Found {
    let index = partition.partition_index;
    let owner = shard.owner_of(topic_id, index.max(0));
    let (timestamp, epoch) = (partition.timestamp, partition.current_leader_epoch);
    shard
        .mesh
        .call(owner, move |owner| {
            Box::pin(async move { look_up(&owner, (topic_id, index), timestamp, epoch, isolation).await })
        })
        .await
        .unwrap_or(Found::error(KAFKA_STORAGE_ERROR))
}

async fn look_up(
    shard: &Rc<Shard>,
    (topic_id, index): PartitionKey,
    timestamp: i64,
    epoch: i32,
    isolation: Isolation,
) -> Found {
    let Some(partition) = shard.partition(topic_id, index) else {
        return Found::error(UNKNOWN_TOPIC_OR_PARTITION);
    };
    if let Some(code) = check_epoch(&partition, epoch) {
        return Found::error(code);
    }
    let log = &partition.log;
    let at = |offset: i64, timestamp: i64| Found {
        error_code: 0,
        offset,
        timestamp,
        leader_epoch: log.epoch_of(offset).unwrap_or(partition.leader_epoch()),
    };
    let searched = match timestamp {
        LATEST => {
            return match isolation {
                Isolation::Uncommitted => at(log.high_watermark(), -1),
                Isolation::Committed => at(partition.last_stable_offset(), -1),
            };
        }
        EARLIEST | EARLIEST_LOCAL => return at(log.log_start_offset(), -1),
        // There is no tiered storage: no offset, no error (KIP-1005).
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => {
            return Found { error_code: 0, offset: -1, timestamp: -1, leader_epoch: -1 };
        }
        MAX_TIMESTAMP => log.find_max_timestamp().await,
        ms if ms >= 0 => log.find_timestamp(ms).await,
        _ => return Found::error(UNSUPPORTED_VERSION),
    };
    match searched {
        // What is not decided is not there for readers of committed data.
        Ok(Some((offset, timestamp)))
            if isolation == Isolation::Uncommitted || offset < partition.last_stable_offset() =>
        {
            at(offset, timestamp)
        }
        Ok(_) => Found { error_code: 0, offset: -1, timestamp: -1, leader_epoch: -1 },
        Err(error) => {
            tracing::error!(partition = %log.name(), "timestamp look-up failed: {error}");
            Found::error(CORRUPT_MESSAGE)
        }
    }
}
