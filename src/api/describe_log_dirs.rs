//! DescribeLogDirs (key 35, versions 1 to 5): the data directory and the sizes of the partitions in it.
//!
//! Owner: the core of the connection; the sizes are gathered from the cores that own the partitions. Invariants:
//! partitions that are not in the catalog any more are left out. Must not: ask the file system.

use super::control::{text, topic_name};
use crate::catalog::Catalog;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// The data directory and its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDir {
    /// The absolute path.
    pub path: String,
    /// The size of the file system, in bytes; -1 if unknown.
    pub total_bytes: i64,
    /// What is free for this process, in bytes; -1 if unknown.
    pub usable_bytes: i64,
}

/// The size of one partition on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSize {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition's index.
    pub partition: i32,
    /// Bytes of its segments that hold records.
    pub size_bytes: u64,
}

/// The answer. Null topics in the request mean all.
pub fn respond(
    catalog: &Catalog,
    dir: &LogDir,
    sizes: &[PartitionSize],
    request: &DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let mut topics: BTreeMap<&str, BTreeMap<i32, u64>> = BTreeMap::new();
    let wanted = wanted(request);
    for size in sizes {
        let Some(topic) = catalog.topic_by_id(size.topic_id) else { continue };
        let asked = |all: &HashMap<&str, HashSet<i32>>| {
            all.get(&*topic.name).is_some_and(|partitions| partitions.contains(&size.partition))
        };
        if topic.partition(size.partition).is_some() && wanted.as_ref().is_none_or(asked) {
            topics.entry(&topic.name).or_default().insert(size.partition, size.size_bytes);
        }
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partition = |(index, bytes): (i32, u64)| {
            DescribeLogDirsPartition::default()
                .with_partition_index(index)
                .with_partition_size(i64::try_from(bytes).unwrap_or(i64::MAX))
        };
        DescribeLogDirsTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions.into_iter().map(partition).collect())
    });
    DescribeLogDirsResponse::default().with_results(vec![
        DescribeLogDirsResult::default()
            .with_log_dir(text(dir.path.as_str()))
            .with_topics(topics.collect())
            .with_total_bytes(dir.total_bytes)
            .with_usable_bytes(dir.usable_bytes),
    ])
}

fn wanted(request: &DescribeLogDirsRequest) -> Option<HashMap<&str, HashSet<i32>>> {
    let topics = request.topics.as_ref()?;
    let mut wanted: HashMap<&str, HashSet<i32>> = HashMap::new();
    for topic in topics {
        wanted.entry(topic.topic.as_str()).or_default().extend(&topic.partitions);
    }
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{catalog, seen_by_client};
    use super::*;
    use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;

    fn sizes() -> Vec<PartitionSize> {
        let one = |id, partition, size_bytes| PartitionSize {
            topic_id: Uuid::from_u128(id),
            partition,
            size_bytes,
        };
        vec![one(2, 0, 50), one(1, 1, 20), one(1, 0, 10), one(1, 9, 1), one(77, 0, 1)]
    }

    fn ask(request: &DescribeLogDirsRequest, version: i16) -> Vec<(String, Vec<(i32, i64)>)> {
        let dir = LogDir { path: "/data".to_owned(), total_bytes: 1000, usable_bytes: 900 };
        let request = seen_by_client(request, version);
        let response = respond(&catalog(&[("a", 2), ("b", 1)]), &dir, &sizes(), &request);
        let seen = seen_by_client(&response, version);
        let result = &seen.results[0];
        assert_eq!((seen.error_code, result.log_dir.as_str()), (0, "/data"));
        assert_eq!(result.usable_bytes, if version >= 4 { 900 } else { -1 });
        result
            .topics
            .iter()
            .map(|t| {
                let partition = |p: &DescribeLogDirsPartition| (p.partition_index, p.partition_size);
                (t.name.to_string(), t.partitions.iter().map(partition).collect())
            })
            .collect()
    }

    #[test]
    fn every_version_sees_all_or_what_it_asked_for() {
        for version in 1..=4 {
            let all = ask(&DescribeLogDirsRequest::default().with_topics(None), version);
            assert_eq!(all, [("a".to_owned(), vec![(0, 10), (1, 20)]), ("b".to_owned(), vec![(0, 50)])]);
            let topic = |name: &str, partitions: &[i32]| {
                DescribableLogDirTopic::default()
                    .with_topic(topic_name(name))
                    .with_partitions(partitions.to_vec())
            };
            let topics = vec![topic("a", &[1, 5]), topic("nope", &[0]), topic("b", &[])];
            let some = ask(&DescribeLogDirsRequest::default().with_topics(Some(topics)), version);
            assert_eq!(some, [("a".to_owned(), vec![(1, 20)])]);
            assert!(
                ask(&DescribeLogDirsRequest::default().with_topics(Some(Vec::new())), version).is_empty()
            );
        }
    }
}
