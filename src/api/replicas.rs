//! What moves replicas and leaders between nodes and disks, answered for one node with one disk: ElectLeaders (key
//! 43), AlterPartitionReassignments (45), ListPartitionReassignments (46), AlterReplicaLogDirs (34).
//!
//! Owner: the core of the connection. Invariants: a request for the place where a partition already is succeeds, any
//! other is refused; nothing is ever under way. Must not: change anything.

use super::control::{ItemError, check_replicas, text};
use crate::catalog::Catalog;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse, ElectLeadersRequest, ElectLeadersResponse,
    ListPartitionReassignmentsResponse,
};
use std::path::Path;

fn check_partition(catalog: &Catalog, topic: &str, partition: i32) -> Result<(), ItemError> {
    match catalog.topic(topic).and_then(|topic| topic.partition(partition)) {
        Some(_) => Ok(()),
        None => Err(ItemError::new(
            ResponseError::UnknownTopicOrPartition,
            "This server does not host this topic-partition.",
        )),
    }
}

/// ElectLeaders: the only replica leads already. As in Kafka, a request for all partitions lists only those that
/// got another leader, which are none.
pub fn elect_leaders(catalog: &Catalog, request: &ElectLeadersRequest) -> ElectLeadersResponse {
    let answer = ElectLeadersResponse::default();
    if !(0..=1).contains(&request.election_type) {
        return answer.with_error_code(ResponseError::InvalidRequest.code());
    }
    let topics = request.topic_partitions.iter().flatten().map(|topic| {
        let partitions = topic.partitions.iter().map(|&partition| {
            let error = check_partition(catalog, &topic.topic, partition).err().unwrap_or_else(|| {
                let message = "Leader election not needed for topic partition.";
                ItemError::new(ResponseError::ElectionNotNeeded, message)
            });
            PartitionResult::default()
                .with_partition_id(partition)
                .with_error_code(error.code)
                .with_error_message(Some(text(error.message)))
        });
        ReplicaElectionResult::default()
            .with_topic(topic.topic.clone())
            .with_partition_result(partitions.collect())
    });
    answer.with_replica_election_results(topics.collect())
}

/// AlterPartitionReassignments: to this node and nowhere else.
pub fn alter_reassignments(
    catalog: &Catalog,
    request: &AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let responses = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let answer =
                ReassignablePartitionResponse::default().with_partition_index(partition.partition_index);
            match check_reassignment(catalog, &topic.name, partition) {
                Ok(()) => answer.with_error_message(None),
                Err(error) => {
                    answer.with_error_code(error.code).with_error_message(Some(text(error.message)))
                }
            }
        });
        ReassignableTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_message(None)
        .with_responses(responses.collect())
}

fn check_reassignment(
    catalog: &Catalog,
    topic: &str,
    asked: &ReassignablePartition,
) -> Result<(), ItemError> {
    check_partition(catalog, topic, asked.partition_index)?;
    match &asked.replicas {
        Some(replicas) => check_replicas(catalog, asked.partition_index, replicas),
        None => {
            let message = "No partition reassignment is in progress.";
            Err(ItemError::new(ResponseError::NoReassignmentInProgress, message))
        }
    }
}

/// ListPartitionReassignments: there are none.
pub fn list_reassignments() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}

/// AlterReplicaLogDirs: to the one data directory and nowhere else.
pub fn alter_log_dirs(
    catalog: &Catalog,
    data_dir: &Path,
    request: &AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let mut results = Vec::new();
    for dir in &request.dirs {
        let here = Path::new(dir.path.as_str()) == data_dir;
        for topic in &dir.topics {
            let partitions = topic.partitions.iter().map(|&partition| {
                let code = match check_partition(catalog, &topic.name, partition) {
                    Err(error) => error.code,
                    Ok(()) if here => 0,
                    Ok(()) => ResponseError::LogDirNotFound.code(),
                };
                AlterReplicaLogDirPartitionResult::default()
                    .with_partition_index(partition)
                    .with_error_code(code)
            });
            results.push(
                AlterReplicaLogDirTopicResult::default()
                    .with_topic_name(topic.name.clone())
                    .with_partitions(partitions.collect()),
            );
        }
    }
    AlterReplicaLogDirsResponse::default().with_results(results)
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{catalog, seen_by_client};
    use super::super::control::topic_name;
    use super::*;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;
    use kafka_protocol::messages::alter_replica_log_dirs_request::{
        AlterReplicaLogDir, AlterReplicaLogDirTopic,
    };
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    #[test]
    fn the_leader_is_the_preferred_one() {
        let topic = TopicPartitions::default().with_topic(topic_name("a")).with_partitions(vec![0, 7]);
        let mut request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic]));
        for version in 0..=2 {
            let seen = seen_by_client(&elect_leaders(&catalog(&[("a", 1)]), &request), version);
            let codes: Vec<i16> =
                seen.replica_election_results[0].partition_result.iter().map(|p| p.error_code).collect();
            assert_eq!((seen.error_code, codes), (0, vec![84, 3]));
        }
        request.election_type = 2;
        assert_eq!(elect_leaders(&catalog(&[]), &request).error_code, 42);
        let all = ElectLeadersRequest::default().with_topic_partitions(None);
        assert!(elect_leaders(&catalog(&[("a", 1)]), &all).replica_election_results.is_empty());
    }

    #[test]
    fn partitions_may_stay_where_they_are() {
        let partition = |index, replicas: Option<&[i32]>| {
            let replicas = replicas.map(|ids| ids.iter().map(|&id| BrokerId(id)).collect());
            ReassignablePartition::default().with_partition_index(index).with_replicas(replicas)
        };
        let partitions = vec![
            partition(0, Some(&[1])),
            partition(0, Some(&[1, 2])),
            partition(0, None),
            partition(9, Some(&[1])),
        ];
        let topic = ReassignableTopic::default().with_name(topic_name("a")).with_partitions(partitions);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        let seen = seen_by_client(&alter_reassignments(&catalog(&[("a", 1)]), &request), 0);
        let codes: Vec<i16> = seen.responses[0].partitions.iter().map(|p| p.error_code).collect();
        assert_eq!(codes, [0, 39, 85, 3]);
    }

    #[test]
    fn there_is_one_directory() {
        let topic = AlterReplicaLogDirTopic::default().with_name(topic_name("a")).with_partitions(vec![0, 5]);
        let dir = |path| AlterReplicaLogDir::default().with_path(text(path)).with_topics(vec![topic.clone()]);
        let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![dir("/data"), dir("/other")]);
        let seen = seen_by_client(&alter_log_dirs(&catalog(&[("a", 1)]), Path::new("/data"), &request), 2);
        let codes: Vec<i16> =
            seen.results.iter().flat_map(|t| t.partitions.iter().map(|p| p.error_code)).collect();
        assert_eq!(codes, [0, 3, 57, 3]);
    }
}
