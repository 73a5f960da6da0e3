//! CreatePartitions (key 37, versions 0 to 3): more partitions for topics that exist.
//!
//! Owner: the core of the connection plans and answers, the catalog's writer applies. Invariants: one result per
//! topic; a topic never gets fewer partitions. Must not: commit.

use super::control::{
    ItemError, check_partition_room, check_replicas, commit_failed, is_internal, text, topic_name,
};
use crate::catalog::{Catalog, CatalogChange, PARTITIONS_PER_TOPIC_MAX};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What a request would do.
#[derive(Debug)]
pub struct Plan {
    /// The changes to commit; empty if there is nothing to do or the request only wants validation.
    pub changes: Vec<CatalogChange>,
    results: Vec<CreatePartitionsTopicResult>,
}

/// Checks a request against one snapshot.
pub fn plan(catalog: &Catalog, request: &CreatePartitionsRequest) -> Plan {
    let mut seen = BTreeSet::new();
    let mut repeated = BTreeSet::new();
    for topic in &request.topics {
        if !seen.insert(topic.name.as_str()) {
            repeated.insert(topic.name.as_str());
        }
    }
    let mut plan = Plan { changes: Vec::new(), results: Vec::new() };
    for name in &repeated {
        let error = ItemError::new(ResponseError::InvalidRequest, "Duplicate topic name.");
        plan.results.push(result(name, Err(&error)));
    }
    let mut planned = 0;
    for topic in request.topics.iter().filter(|topic| !repeated.contains(topic.name.as_str())) {
        match check_topic(catalog, topic, planned) {
            Err(error) => plan.results.push(result(&topic.name, Err(&error))),
            Ok((id, partition_count, more)) => {
                planned += more;
                plan.results.push(result(&topic.name, Ok(())));
                if !request.validate_only {
                    plan.changes.push(CatalogChange::CreatePartitions { id, partition_count });
                }
            }
        }
    }
    plan
}

/// The answer once the changes were committed, or could not be.
pub fn respond(plan: Plan, outcome: Result<(), String>) -> CreatePartitionsResponse {
    let results = plan.results.into_iter().map(|done| match &outcome {
        Err(why) if done.error_code == 0 => result(&done.name, Err(&commit_failed(why))),
        _ => done,
    });
    CreatePartitionsResponse::default().with_results(results.collect())
}

/// How many partitions a topic of a request would add.
pub(crate) fn new_partitions(catalog: &Catalog, topic: &CreatePartitionsTopic) -> usize {
    let present = catalog.topic(&topic.name).map(|topic| topic.partition_count());
    let wanted = usize::try_from(topic.count).unwrap_or(0);
    present.map_or(0, |present| wanted.saturating_sub(present))
}

/// Adds topics to an answer that were not even tried.
pub(crate) fn add_refused(
    response: &mut CreatePartitionsResponse,
    topics: Vec<CreatePartitionsTopic>,
    error: &ItemError,
) {
    response.results.extend(topics.iter().map(|topic| result(&topic.name, Err(error))));
}

fn result(name: &str, outcome: Result<(), &ItemError>) -> CreatePartitionsTopicResult {
    let result = CreatePartitionsTopicResult::default().with_name(topic_name(name));
    match outcome {
        Ok(()) => result.with_error_message(None),
        Err(error) => {
            result.with_error_code(error.code).with_error_message(Some(text(error.message.as_str())))
        }
    }
}

/// The topic's id, its new number of partitions and how many of them are new.
fn check_topic(
    catalog: &Catalog,
    asked: &CreatePartitionsTopic,
    planned: usize,
) -> Result<(Uuid, usize, usize), ItemError> {
    let topic = catalog.topic(&asked.name).ok_or_else(|| {
        let message = "This server does not host this topic-partition.";
        ItemError::new(ResponseError::UnknownTopicOrPartition, message)
    })?;
    if is_internal(topic) {
        let message = "The number of partitions decides where coordinators live; it cannot change.";
        return Err(ItemError::new(ResponseError::InvalidTopicException, message));
    }
    let present = topic.partition_count();
    let invalid = |message| Err(ItemError::new(ResponseError::InvalidPartitions, message));
    let count = match usize::try_from(asked.count) {
        Ok(count) if count == present => {
            return invalid(format!("Topic already has {present} partition(s)."));
        }
        Ok(count) if count > present => count,
        _ => {
            return invalid(format!(
                "The topic {} currently has {present} partition(s); {} would not be an increase.",
                topic.name, asked.count
            ));
        }
    };
    if count > PARTITIONS_PER_TOPIC_MAX {
        return invalid(format!("a topic has at most {PARTITIONS_PER_TOPIC_MAX} partitions"));
    }
    let more = count - present;
    if let Some(assignments) = &asked.assignments {
        if assignments.len() != more {
            let message = format!("{more} partition(s) are added, {} are assigned", assignments.len());
            return Err(ItemError::new(ResponseError::InvalidReplicaAssignment, message));
        }
        for (index, assignment) in assignments.iter().enumerate() {
            check_replicas(catalog, (present + index) as i32, &assignment.broker_ids)?;
        }
    }
    check_partition_room(catalog, planned, more)?;
    Ok((topic.id, count, more))
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{catalog, seen_by_client};
    use super::*;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;

    fn topic(name: &str, count: i32) -> CreatePartitionsTopic {
        CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None)
    }

    fn assigned(name: &str, count: i32, brokers: &[i32]) -> CreatePartitionsTopic {
        let one = |&id: &i32| CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(id)]);
        topic(name, count).with_assignments(Some(brokers.iter().map(one).collect()))
    }

    fn code(topic: CreatePartitionsTopic) -> i16 {
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]);
        respond(plan(&catalog(&[("a", 2)]), &request), Ok(())).results[0].error_code
    }

    #[test]
    fn only_an_increase_is_possible() {
        assert_eq!(code(topic("a", 3)), 0);
        assert_eq!(code(topic("a", 2)), 37);
        assert_eq!(code(topic("a", 1)), 37);
        assert_eq!(code(topic("a", -1)), 37);
        assert_eq!(code(topic("a", i32::MAX)), 37);
        assert_eq!(code(topic("a", 10_003)), 44);
        assert_eq!(code(topic("nope", 3)), 3);
        assert_eq!(code(assigned("a", 4, &[1, 1])), 0);
        assert_eq!(code(assigned("a", 4, &[1])), 39);
        assert_eq!(code(assigned("a", 4, &[1, 2])), 39);
    }

    #[test]
    fn every_version_sees_one_result_per_topic() {
        let catalog = catalog(&[("a", 1), ("b", 1), ("c", 1)]);
        for version in 0..=3 {
            let topics = vec![topic("a", 4), topic("b", 0), topic("c", 2), topic("c", 3)];
            let request = seen_by_client(&CreatePartitionsRequest::default().with_topics(topics), version);
            let done = plan(&catalog, &request);
            assert_eq!(catalog.apply(&done.changes).expect("applies").partition_count(), 6);
            let seen = seen_by_client(&respond(done, Ok(())), version);
            let results: Vec<_> = seen.results.iter().map(|r| (r.name.to_string(), r.error_code)).collect();
            assert_eq!(results, [("c".to_owned(), 42), ("a".to_owned(), 0), ("b".to_owned(), 37)]);
            let dry = plan(&catalog, &request.with_validate_only(true));
            assert!(dry.changes.is_empty());
            assert_eq!(respond(dry, Err("unused".to_owned())).results[1].error_code, 56);
        }
    }
}
