//! DescribeTopicPartitions (key 75, version 0, KIP-966): topics page by page.
//!
//! Owner: the core of the connection. Invariants: an answer lists at most the asked number of partitions and at
//! most the broker's bound; following the cursor lists every partition exactly once while the catalog stands
//! still. Must not: keep state between pages; the cursor is all there is.

use super::control::{NodeInfo, broker_ids, is_internal, topic_name, topic_operations};
use crate::catalog::{Catalog, PartitionMeta, Topic, validate_topic_name};
use crate::config::BrokerConfig;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use std::collections::BTreeSet;

/// The answer from one snapshot of the catalog. No topics in the request means all of them.
///
/// `None` when the cursor is malformed: this response has no field for an error, so that the caller closes the
/// connection as after any other request that cannot be read.
pub fn respond(
    catalog: &Catalog,
    broker: &BrokerConfig,
    node: &NodeInfo,
    request: &DescribeTopicPartitionsRequest,
) -> Option<DescribeTopicPartitionsResponse> {
    let (first_topic, first_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), usize::try_from(cursor.partition_index).ok()?),
        None => ("", 0),
    };
    let limit = request.response_partition_limit.clamp(1, broker.describe_partition_count_max);
    let mut page = Page { room: limit.unsigned_abs() as usize, topics: Vec::new(), next: None };
    let start = |name: &str| if name == first_topic { first_partition } else { 0 };
    if request.topics.is_empty() {
        for topic in catalog.topics_from(first_topic) {
            if !page.add(topic, start(&topic.name)) {
                break;
            }
        }
    } else {
        let names: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
        for name in names.range(first_topic..) {
            let more = match catalog.topic(name) {
                Some(topic) => page.add(topic, start(name)),
                None => page.add_unknown(name),
            };
            if !more {
                break;
            }
        }
    }
    for topic in &mut page.topics {
        for partition in &mut topic.partitions {
            let ids = std::iter::once(&mut partition.leader_id)
                .chain(&mut partition.replica_nodes)
                .chain(&mut partition.isr_nodes);
            node.name_endpoint(topic.topic_id, partition.partition_index, ids);
        }
    }
    Some(DescribeTopicPartitionsResponse::default().with_topics(page.topics).with_next_cursor(page.next))
}

struct Page {
    room: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<Cursor>,
}

impl Page {
    /// Adds a topic from a partition on; false when the page is full and the cursor is set.
    fn add(&mut self, topic: &Topic, first: usize) -> bool {
        let first = first.min(topic.partition_count());
        let left = topic.partition_count() - first;
        if self.room == 0 {
            return self.stop_at(&topic.name, first);
        }
        let count = left.min(self.room);
        let range = first..first + count;
        let partitions = range.clone().map(|index| partition(index, &topic.partitions[index])).collect();
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(topic_name(&topic.name)))
                .with_topic_id(topic.id)
                .with_is_internal(is_internal(topic))
                .with_partitions(partitions)
                .with_topic_authorized_operations(topic_operations(true)),
        );
        self.room -= count;
        count == left || self.stop_at(&topic.name, range.end)
    }

    fn add_unknown(&mut self, name: &str) -> bool {
        if self.room == 0 {
            return self.stop_at(name, 0);
        }
        let error = match validate_topic_name(name) {
            Ok(()) => ResponseError::UnknownTopicOrPartition,
            Err(_) => ResponseError::InvalidTopicException,
        };
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_error_code(error.code())
                .with_name(Some(topic_name(name))),
        );
        true
    }

    fn stop_at(&mut self, name: &str, partition: usize) -> bool {
        let cursor =
            Cursor::default().with_topic_name(topic_name(name)).with_partition_index(partition as i32);
        self.next = Some(cursor);
        false
    }
}

fn partition(index: usize, meta: &PartitionMeta) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(if meta.leader < 0 { ResponseError::LeaderNotAvailable.code() } else { 0 })
        .with_partition_index(index as i32)
        .with_leader_id(BrokerId(meta.leader))
        .with_leader_epoch(meta.leader_epoch)
        .with_replica_nodes(broker_ids(&meta.replicas))
        .with_isr_nodes(broker_ids(&meta.isr))
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, node, seen_by_client};
    use super::*;
    use kafka_protocol::messages::describe_topic_partitions_request::{Cursor as AskedCursor, TopicRequest};

    fn request(names: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
        let topic = |name: &&str| TopicRequest::default().with_name(topic_name(name));
        let cursor = cursor.map(|(name, partition)| {
            AskedCursor::default().with_topic_name(topic_name(name)).with_partition_index(partition)
        });
        DescribeTopicPartitionsRequest::default()
            .with_topics(names.iter().map(topic).collect())
            .with_response_partition_limit(limit)
            .with_cursor(cursor)
    }

    /// Follows the cursor to the end and returns topic and partition of all pages, checking the bound of each.
    fn walk(names: &[&str], limit: i32, pages_max: usize) -> Vec<(String, i32)> {
        let catalog = catalog(&[("a", 3), ("b", 1), ("c", 4)]);
        let mut found = Vec::new();
        let mut cursor: Option<(String, i32)> = None;
        for _ in 0..pages_max {
            let at = cursor.as_ref().map(|(name, partition)| (name.as_str(), *partition));
            let asked = seen_by_client(&request(names, limit, at), 0);
            let page = seen_by_client(&respond(&catalog, &broker(&[]), &node(), &asked).expect("valid"), 0);
            let before = found.len();
            for topic in &page.topics {
                let name = topic.name.as_ref().expect("named").to_string();
                found.extend(topic.partitions.iter().map(|p| (name.clone(), p.partition_index)));
            }
            assert!(found.len() - before <= limit as usize);
            match page.next_cursor {
                Some(next) => cursor = Some((next.topic_name.to_string(), next.partition_index)),
                None => return found,
            }
        }
        panic!("more than {pages_max} pages");
    }

    #[test]
    fn pages_cover_every_partition_once() {
        let all: Vec<(String, i32)> = [("a", 3), ("b", 1), ("c", 4)]
            .iter()
            .flat_map(|&(name, count)| (0..count).map(move |p| (name.to_owned(), p)))
            .collect();
        for limit in 1..=9 {
            assert_eq!(walk(&[], limit, 9), all, "limit {limit}");
            assert_eq!(walk(&["c", "a", "b", "a"], limit, 9), all, "limit {limit}");
        }
    }

    #[test]
    fn unknown_topics_and_strange_cursors() {
        let catalog = catalog(&[("a", 3), ("c", 2)]);
        let ask = |request| respond(&catalog, &broker(&[]), &node(), &request);
        let page = ask(request(&["a", "b", "d/e"], 100, None)).expect("valid");
        let codes: Vec<i16> = page.topics.iter().map(|t| t.error_code).collect();
        assert_eq!(codes, [0, 3, 17]);
        let after = ask(request(&[], 100, Some(("b", 7)))).expect("valid");
        assert_eq!((after.topics.len(), after.topics[0].partitions.len()), (1, 2));
        let beyond = ask(request(&[], 100, Some(("a", 99)))).expect("valid");
        assert_eq!((beyond.topics[0].partitions.len(), beyond.topics[1].partitions.len()), (0, 2));
        assert!(ask(request(&[], 100, Some(("a", -1)))).is_none());
        assert_eq!(ask(request(&[], -5, None)).expect("valid").topics[0].partitions.len(), 1);
    }
}
