//! OffsetForLeaderEpoch (key 23): where an epoch ends, so that clients notice truncation (KIP-320).
//!
//! Owner: the connection's core asks each partition's core. It must not change anything.

use std::rc::Rc;

use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use uuid::Uuid;

use super::fetch_read::check_epoch;
use crate::shard::Shard;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const KAFKA_STORAGE_ERROR: i16 = 56;

/// Error code, epoch and end offset; -1 where unknown.
type EpochEnd = (i16, i32, i64);

pub(super) async fn respond(
    shard: &Rc<Shard>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let catalog = shard.catalog();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let topic_id = catalog.topic(&topic.topic).map(|topic| topic.id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let (error_code, epoch, end) = match topic_id {
                Some(topic_id) => {
                    let known = partition.current_leader_epoch;
                    ask(shard, topic_id, partition.partition, known, partition.leader_epoch).await
                }
                None => (UNKNOWN_TOPIC_OR_PARTITION, -1, -1),
            };
            partitions.push(
                EpochEndOffset::default()
                    .with_error_code(error_code)
                    .with_partition(partition.partition)
                    .with_leader_epoch(epoch)
                    .with_end_offset(end),
            );
        }
        topics
            .push(OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions));
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

async fn ask(shard: &Rc<Shard>, topic_id: Uuid, index: i32, known: i32, epoch: i32) -> EpochEnd {
    let owner = shard.owner_of(topic_id, index.max(0));
    let answer = shard
        .mesh
        .call(owner, move |owner| {
            Box::pin(async move {
                let Some(partition) = owner.partition(topic_id, index) else {
                    return (UNKNOWN_TOPIC_OR_PARTITION, -1, -1);
                };
                if let Some(code) = check_epoch(&partition, known) {
                    return (code, -1, -1);
                }
                if epoch == partition.leader_epoch() {
                    return (0, epoch, partition.log.high_watermark());
                }
                let (epoch, end) = partition.log.end_of_epoch(epoch).unwrap_or((-1, -1));
                (0, epoch, end)
            })
        })
        .await;
    answer.unwrap_or((KAFKA_STORAGE_ERROR, -1, -1))
}
