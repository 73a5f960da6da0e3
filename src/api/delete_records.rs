//! DeleteRecords (key 21): moves log start offsets up (KIP-107).
//!
//! Owner: the connection's core asks each partition's core. Invariants: an answer without an error is durable; the
//! high watermark is the limit; a topic whose policy does not delete, and the broker's own topics, refuse it.
//! It must not touch files.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use uuid::Uuid;

use super::control::is_internal;
use crate::shard::Shard;
use crate::storage::LogError;

/// The low watermark of an answer with an error.
const INVALID_LOW_WATERMARK: i64 = -1;

type Outcome = Result<i64, ResponseError>;

pub(super) async fn respond(shard: &Rc<Shard>, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let catalog = shard.catalog();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = match catalog.topic(&topic.name) {
            Some(known) if is_internal(known) => Err(ResponseError::InvalidTopicException),
            Some(known) => Ok(known.id),
            None => Err(ResponseError::UnknownTopicOrPartition),
        };
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let outcome = match found {
                Ok(topic_id) => ask(shard, topic_id, &partition).await,
                Err(error) => Err(error),
            };
            partitions.push(describe(partition.partition_index, outcome));
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

fn describe(index: i32, outcome: Outcome) -> DeleteRecordsPartitionResult {
    DeleteRecordsPartitionResult::default()
        .with_partition_index(index)
        .with_low_watermark(outcome.unwrap_or(INVALID_LOW_WATERMARK))
        .with_error_code(outcome.err().map_or(0, |error| error.code()))
}

async fn ask(shard: &Rc<Shard>, topic_id: Uuid, partition: &DeleteRecordsPartition) -> Outcome {
    let (index, before) = (partition.partition_index, partition.offset);
    let owner = shard.owner_of(topic_id, index.max(0));
    shard
        .mesh
        .call(owner, move |owner| Box::pin(async move { delete(&owner, topic_id, index, before).await }))
        .await
        .unwrap_or(Err(ResponseError::KafkaStorageError))
}

async fn delete(shard: &Rc<Shard>, topic_id: Uuid, index: i32, before: i64) -> Outcome {
    let partition = shard.partition(topic_id, index).ok_or(ResponseError::UnknownTopicOrPartition)?;
    if !partition.config().cleanup_policy.delete {
        return Err(ResponseError::PolicyViolation);
    }
    partition.log.delete_records(before).await.map_err(|error| match error {
        LogError::OutOfRange(_) => ResponseError::OffsetOutOfRange,
        LogError::Deleted => ResponseError::UnknownTopicOrPartition,
        _ => ResponseError::KafkaStorageError,
    })
}
