//! OffsetDelete (key 47, version 0): forgets a group's offsets of topics it does not read (KIP-496).
//!
//! Owner: the connection's core. Must not: delete offsets of a topic the group is subscribed to.

use std::rc::Rc;

use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::{code, code_of, on_coordinator};
use crate::coordinator::error::GroupError;
use crate::shard::Shard;

pub(super) async fn respond(shard: &Rc<Shard>, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let catalog = shard.catalog();
    let mut exists = Vec::new();
    let mut places = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let known = catalog.topic(&topic.name).and_then(|topic| topic.partition(index)).is_some();
            exists.push(known);
            if known {
                places.push((topic.name.to_string(), index));
            }
        }
    }
    let name = request.group_id.to_string();
    let outcome = on_coordinator(shard, &request.group_id, move |partition, _| {
        Box::pin(async move { partition.delete_offsets(&name, places).await })
    });
    let results = match outcome.await.unwrap_or_else(Err) {
        Ok(results) => results,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(code(error)),
    };
    let mut results = results.iter();
    let mut exists = exists.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let code = match exists.next() {
                Some(true) => results.next().map_or(0, code_of),
                _ => code(GroupError::UnknownPartition),
            };
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        OffsetDeleteResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
