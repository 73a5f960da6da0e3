//! CreateTopics (key 19, versions 2 to 7), and the creation of topics that a Metadata request asked for.
//!
//! Owner: the core of the connection plans and answers, the catalog's writer applies. Invariants: every topic of a
//! request gets exactly one result per name; what `plan` accepts `Catalog::apply` accepts, unless the catalog moved
//! on in between. Must not: commit.

use super::control::{
    ItemError, check_partition_room, check_replicas, commit_failed, is_internal_name, text, topic_name,
};
use super::describe_configs::topic_config_source;
use crate::catalog::{Catalog, CatalogChange, PARTITIONS_PER_TOPIC_MAX, new_topic_id, validate_topic_name};
use crate::config::{BrokerConfig, TOPIC_KEYS, topic_value, validate_topic_configs};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The topic name of KRaft's own log.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// The first version whose answer describes the new topic.
const DESCRIPTION_VERSION_MIN: i16 = 5;

/// What a request would do.
#[derive(Debug)]
pub struct Plan {
    /// The changes to commit; empty if there is nothing to do or the request only wants validation.
    pub changes: Vec<CatalogChange>,
    results: Vec<CreatableTopicResult>,
}

/// The names of a catalog and of the topics that are planned, with dots and underscores taken as the same.
#[derive(Debug)]
pub(crate) struct PlanNames {
    taken: HashMap<String, String>,
}

struct NewTopic {
    partition_count: usize,
    configs: BTreeMap<String, String>,
}

impl PlanNames {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        let taken = catalog.topics().map(|topic| (folded(&topic.name), topic.name.to_string()));
        Self { taken: taken.collect() }
    }

    /// Checks a new topic's name and takes it.
    pub(crate) fn admit(&mut self, name: &str) -> Result<(), ItemError> {
        validate_topic_name(name).map_err(|why| {
            ItemError::new(ResponseError::InvalidTopicException, format!("Topic name is invalid: {why}"))
        })?;
        if name == METADATA_TOPIC || is_internal_name(name) {
            let message = format!("Creation of internal topic {name} is prohibited.");
            return Err(ItemError::new(ResponseError::InvalidRequest, message));
        }
        match self.taken.get(&folded(name)) {
            Some(other) if other == name => Err(ItemError::new(
                ResponseError::TopicAlreadyExists,
                format!("Topic '{name}' already exists."),
            )),
            Some(other) => Err(ItemError::new(
                ResponseError::InvalidTopicException,
                format!("Topic '{name}' collides with existing topic: {other}"),
            )),
            None => {
                self.taken.insert(folded(name), name.to_owned());
                Ok(())
            }
        }
    }
}

/// Checks a request against one snapshot. `now_ms` is the time since 1970.
pub fn plan(
    catalog: &Catalog,
    broker: &BrokerConfig,
    request: &CreateTopicsRequest,
    version: i16,
    now_ms: i64,
) -> Plan {
    let mut seen = BTreeSet::new();
    let mut repeated = BTreeSet::new();
    for topic in &request.topics {
        if !seen.insert(topic.name.as_str()) {
            repeated.insert(topic.name.as_str());
        }
    }
    let mut names = PlanNames::new(catalog);
    let mut planned_partitions = 0;
    let mut plan = Plan { changes: Vec::new(), results: Vec::new() };
    for name in &repeated {
        let error = ItemError::new(ResponseError::InvalidRequest, "Found multiple entries for this topic.");
        plan.results.push(refused(name, &error));
    }
    for topic in request.topics.iter().filter(|topic| !repeated.contains(topic.name.as_str())) {
        match check_topic(catalog, broker, &mut names, topic, planned_partitions) {
            Err(error) => plan.results.push(refused(&topic.name, &error)),
            Ok(new) => {
                planned_partitions += new.partition_count;
                plan.accept(broker, topic, new, request.validate_only, version, now_ms);
            }
        }
    }
    plan
}

/// The answer once the changes were committed, or could not be.
pub fn respond(plan: Plan, outcome: Result<(), String>) -> CreateTopicsResponse {
    let mut results = plan.results;
    if let Err(why) = outcome {
        for result in results.iter_mut().filter(|result| result.error_code == 0) {
            *result = refused(&result.name, &commit_failed(&why));
        }
    }
    CreateTopicsResponse::default().with_topics(results)
}

/// How many partitions a topic of a request would add; 0 for one that is there.
pub(crate) fn new_partitions(catalog: &Catalog, broker: &BrokerConfig, topic: &CreatableTopic) -> usize {
    if catalog.topic(&topic.name).is_some() {
        return 0;
    }
    match topic.num_partitions {
        count if count > 0 => count as usize,
        _ if !topic.assignments.is_empty() => topic.assignments.len(),
        _ => broker.partition_count_default.unsigned_abs() as usize,
    }
}

/// Adds topics to an answer that were not even tried.
pub(crate) fn add_refused(
    response: &mut CreateTopicsResponse,
    topics: Vec<CreatableTopic>,
    error: &ItemError,
) {
    response.topics.extend(topics.iter().map(|topic| refused(&topic.name, error)));
}

/// The changes that create topics for a Metadata request, with the broker's defaults; names come from
/// `metadata::topics_to_auto_create`. Names beyond the bounds of a request are left out, the client asks again.
pub fn auto_create_changes(
    catalog: &Catalog,
    broker: &BrokerConfig,
    names: &[String],
    now_ms: i64,
) -> Vec<CatalogChange> {
    let partition_count = broker.partition_count_default.unsigned_abs() as usize;
    let mut changes = Vec::new();
    for name in names {
        if check_partition_room(catalog, changes.len() * partition_count, partition_count).is_err() {
            break;
        }
        changes.push(CatalogChange::CreateTopic {
            name: name.clone(),
            id: new_topic_id(),
            partition_count,
            configs: BTreeMap::new(),
            created_ms: now_ms,
        });
    }
    changes
}

impl Plan {
    fn accept(
        &mut self,
        broker: &BrokerConfig,
        topic: &CreatableTopic,
        new: NewTopic,
        validate_only: bool,
        version: i16,
        now_ms: i64,
    ) {
        let id = new_topic_id();
        let mut result = CreatableTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_message(None)
            .with_num_partitions(new.partition_count as i32)
            .with_replication_factor(1);
        if version >= DESCRIPTION_VERSION_MIN {
            result.configs = Some(describe(broker, &new.configs));
        }
        if !validate_only {
            result.topic_id = id;
            self.changes.push(CatalogChange::CreateTopic {
                name: topic.name.to_string(),
                id,
                partition_count: new.partition_count,
                configs: new.configs,
                created_ms: now_ms,
            });
        }
        self.results.push(result);
    }
}

fn folded(name: &str) -> String {
    name.replace('.', "_")
}

fn refused(name: &str, error: &ItemError) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(topic_name(name))
        .with_error_code(error.code)
        .with_error_message(Some(text(error.message.as_str())))
}

fn check_topic(
    catalog: &Catalog,
    broker: &BrokerConfig,
    names: &mut PlanNames,
    topic: &CreatableTopic,
    planned_partitions: usize,
) -> Result<NewTopic, ItemError> {
    let partition_count = if topic.assignments.is_empty() {
        check_counts(broker, topic)?
    } else {
        check_assignments(catalog, topic)?
    };
    if partition_count > PARTITIONS_PER_TOPIC_MAX {
        let message = format!("a topic has at most {PARTITIONS_PER_TOPIC_MAX} partitions");
        return Err(ItemError::new(ResponseError::InvalidPartitions, message));
    }
    check_partition_room(catalog, planned_partitions, partition_count)?;
    let configs = check_configs(broker, topic)?;
    // Last, because it takes the name.
    names.admit(&topic.name)?;
    Ok(NewTopic { partition_count, configs })
}

fn check_counts(broker: &BrokerConfig, topic: &CreatableTopic) -> Result<usize, ItemError> {
    match topic.replication_factor {
        -1 | 1 => {}
        factor if factor < 1 => {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(ItemError::new(ResponseError::InvalidReplicationFactor, message));
        }
        factor => {
            let message = format!(
                "The target replication factor of {factor} cannot be reached because only 1 broker(s) are registered."
            );
            return Err(ItemError::new(ResponseError::InvalidReplicationFactor, message));
        }
    }
    match topic.num_partitions {
        -1 => Ok(broker.partition_count_default.unsigned_abs() as usize),
        count if count > 0 => Ok(count.unsigned_abs() as usize),
        _ => {
            let message = "Number of partitions must be larger than 0, or -1 to use the default value.";
            Err(ItemError::new(ResponseError::InvalidPartitions, message))
        }
    }
}

/// A manual assignment: the partitions 0 to n-1, each once, in any order.
fn check_assignments(catalog: &Catalog, topic: &CreatableTopic) -> Result<usize, ItemError> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let message = "A manual partition assignment was specified, but the number of partitions or the \
                       replication factor was not set to -1.";
        return Err(ItemError::new(ResponseError::InvalidRequest, message));
    }
    let invalid = |message| Err(ItemError::new(ResponseError::InvalidReplicaAssignment, message));
    let mut indexes = BTreeSet::new();
    for assignment in &topic.assignments {
        if !indexes.insert(assignment.partition_index) {
            return invalid(format!("partition {} is assigned twice", assignment.partition_index));
        }
        check_replicas(catalog, assignment.partition_index, &assignment.broker_ids)?;
    }
    if !indexes.iter().copied().eq(0..indexes.len() as i32) {
        return invalid("partitions should be a consecutive 0-based integer sequence".to_owned());
    }
    Ok(indexes.len())
}

fn check_configs(
    broker: &BrokerConfig,
    topic: &CreatableTopic,
) -> Result<BTreeMap<String, String>, ItemError> {
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            let message = format!("Null value not supported for topic configs: {}", config.name.as_str());
            return Err(ItemError::new(ResponseError::InvalidConfig, message));
        };
        configs.insert(config.name.to_string(), value.to_string());
    }
    validate_topic_configs(broker, &configs)
        .map_err(|message| ItemError::new(ResponseError::InvalidConfig, message))?;
    Ok(configs)
}

fn describe(broker: &BrokerConfig, configs: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    TOPIC_KEYS
        .iter()
        .map(|spec| {
            CreatableTopicConfigs::default()
                .with_name(text(spec.name))
                .with_value(Some(text(topic_value(broker, configs, spec.name))))
                .with_config_source(topic_config_source(broker, configs, spec))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, seen_by_client};
    use super::*;
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopicConfig};

    fn topic(name: &str, partitions: i32, factor: i16) -> CreatableTopic {
        CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(factor)
    }

    fn with_config(name: &str, key: &str, value: Option<&str>) -> CreatableTopic {
        let config = CreatableTopicConfig::default().with_name(text(key)).with_value(value.map(text));
        topic(name, 1, 1).with_configs(vec![config])
    }

    fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
        let one = |&(index, brokers): &(i32, &[i32])| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index)
                .with_broker_ids(brokers.iter().map(|&id| BrokerId(id)).collect())
        };
        topic(name, -1, -1).with_assignments(assignments.iter().map(one).collect())
    }

    fn codes(topics: Vec<CreatableTopic>) -> Vec<(String, i16)> {
        let request = CreateTopicsRequest::default().with_topics(topics);
        let catalog = catalog(&[("old", 1), ("x.y", 1)]);
        let plan = plan(&catalog, &broker(&[("num.partitions", "3")]), &request, 7, 0);
        let good = plan.results.iter().filter(|r| r.error_code == 0).count();
        assert_eq!(good, plan.changes.len());
        assert!(catalog.apply(&plan.changes).is_ok());
        respond(plan, Ok(())).topics.iter().map(|r| (r.name.to_string(), r.error_code)).collect()
    }

    fn code(topic: CreatableTopic) -> i16 {
        codes(vec![topic])[0].1
    }

    #[test]
    fn counts_and_factors() {
        assert_eq!(code(topic("t", 1, 1)), 0);
        assert_eq!(code(topic("t", -1, -1)), 0);
        assert_eq!(code(topic("t", 0, 1)), 37);
        assert_eq!(code(topic("t", -2, 1)), 37);
        assert_eq!(code(topic("t", 1, 0)), 38);
        assert_eq!(code(topic("t", 1, 3)), 38);
        assert_eq!(code(topic("t", i32::MAX, 1)), 37);
        assert_eq!(code(topic("t", 10_001, 1)), 44);
        let two = codes(vec![topic("a", 6000, 1), topic("b", 6000, 1), topic("c", 4000, 1)]);
        assert_eq!(two.iter().map(|r| r.1).collect::<Vec<_>>(), [0, 44, 0]);
    }

    #[test]
    fn names() {
        assert_eq!(code(topic("old", 1, 1)), 36);
        assert_eq!(code(topic("x_y", 1, 1)), 17);
        assert_eq!(code(topic("x.y", 1, 1)), 36);
        assert_eq!(code(topic("", 1, 1)), 17);
        assert_eq!(code(topic(&"n".repeat(250), 1, 1)), 17);
        assert_eq!(code(topic("__cluster_metadata", 1, 1)), 42);
        let results = codes(vec![topic("d", 1, 1), topic("d", 2, 1), topic("p.q", 1, 1), topic("p_q", 1, 1)]);
        assert_eq!(results, [("d".to_owned(), 42), ("p.q".to_owned(), 0), ("p_q".to_owned(), 17)]);
    }

    #[test]
    fn manual_assignments() {
        assert_eq!(code(assigned("t", &[(1, &[1]), (0, &[1])])), 0);
        assert_eq!(code(assigned("t", &[(0, &[2])])), 39);
        assert_eq!(code(assigned("t", &[(0, &[1, 1])])), 39);
        assert_eq!(code(assigned("t", &[(0, &[])])), 39);
        assert_eq!(code(assigned("t", &[(0, &[1]), (0, &[1])])), 39);
        assert_eq!(code(assigned("t", &[(0, &[1]), (2, &[1])])), 39);
        assert_eq!(code(assigned("t", &[(0, &[1])]).with_num_partitions(1)), 42);
    }

    #[test]
    fn configurations() {
        assert_eq!(code(with_config("t", "cleanup.policy", Some("compact"))), 0);
        assert_eq!(code(with_config("t", "cleanup.policy", None)), 40);
        assert_eq!(code(with_config("t", "cleanup.policy", Some("x"))), 40);
        assert_eq!(code(with_config("t", "no.such", Some("x"))), 40);
    }

    #[test]
    fn every_version_sees_its_results() {
        let bad = with_config("bad", "retention.ms", Some("-5"));
        for version in 2..=7 {
            let topics = vec![with_config("t", "retention.ms", Some("5")), bad.clone()];
            let request = seen_by_client(&CreateTopicsRequest::default().with_topics(topics), version);
            let plan = plan(&catalog(&[]), &broker(&[]), &request, version, 0);
            let id = match &plan.changes[0] {
                CatalogChange::CreateTopic { id, .. } => *id,
                other => panic!("{other:?}"),
            };
            let seen = seen_by_client(&respond(plan, Ok(())), version);
            let (good, bad) = (&seen.topics[0], &seen.topics[1]);
            assert_eq!((good.error_code, bad.error_code), (0, 40));
            assert!(bad.error_message.as_ref().is_some_and(|m| m.contains("retention.ms")));
            assert_eq!(good.topic_id == id, version >= 7);
            if version >= 5 {
                let configs = good.configs.as_ref().expect("configs");
                assert_eq!((configs.len(), good.num_partitions), (TOPIC_KEYS.len(), 1));
                let own: Vec<_> = configs.iter().filter(|c| c.config_source == 1).collect();
                assert_eq!((own.len(), own[0].value.as_deref()), (1, Some("5")));
            }
        }
    }

    #[test]
    fn validation_changes_nothing_and_a_failed_commit_is_told() {
        let request = CreateTopicsRequest::default().with_topics(vec![topic("t", 1, 1), topic("", 1, 1)]);
        let validated = plan(&catalog(&[]), &broker(&[]), &request.clone().with_validate_only(true), 7, 0);
        assert!(validated.changes.is_empty());
        assert_eq!(respond(validated, Ok(())).topics[0].error_code, 0);
        let failed = respond(plan(&catalog(&[]), &broker(&[]), &request, 7, 0), Err("disk full".to_owned()));
        assert_eq!(failed.topics.iter().map(|t| t.error_code).collect::<Vec<_>>(), [56, 17]);
        assert!(failed.topics[0].topic_id.is_nil());
    }

    #[test]
    fn automatic_creation_uses_the_defaults() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let catalog = catalog(&[]);
        let changes = auto_create_changes(&catalog, &broker(&[("num.partitions", "4")]), &names, 9);
        assert_eq!(catalog.apply(&changes).expect("applies").partition_count(), 8);
        let many = broker(&[("num.partitions", "6000")]);
        assert_eq!(auto_create_changes(&catalog, &many, &names, 9).len(), 1);
    }
}
