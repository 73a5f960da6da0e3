//! DeleteTopics (key 20, versions 1 to 6), by name or by id.
//!
//! Owner: the core of the connection plans and answers, the catalog's writer applies. Invariants: a topic is
//! deleted at most once, however it is named. Must not: touch data; the storage follows the catalog.

use super::control::{ItemError, commit_failed, is_internal, text, topic_name};
use crate::catalog::{Catalog, CatalogChange};
use crate::config::BrokerConfig;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use std::collections::HashMap;
use uuid::Uuid;

/// The first version that names topics one by one, with an id if the client likes.
const TOPIC_ID_VERSION_MIN: i16 = 6;
/// The first version that knows an error for switched-off deletion.
const DISABLED_ERROR_VERSION_MIN: i16 = 3;

/// What a request would do.
#[derive(Debug)]
pub struct Plan {
    /// The changes to commit.
    pub changes: Vec<CatalogChange>,
    results: Vec<DeletableTopicResult>,
}

/// The topics of a request, whatever way its version names them.
pub(crate) fn asked(request: &DeleteTopicsRequest, version: i16) -> Vec<DeleteTopicState> {
    if version >= TOPIC_ID_VERSION_MIN {
        return request.topics.clone();
    }
    let state = |name: &TopicName| DeleteTopicState::default().with_name(Some(name.clone()));
    request.topic_names.iter().map(state).collect()
}

/// Puts topics into a request, the way its version names them.
pub(crate) fn set_asked(request: &mut DeleteTopicsRequest, version: i16, topics: Vec<DeleteTopicState>) {
    if version >= TOPIC_ID_VERSION_MIN {
        request.topics = topics;
    } else {
        request.topic_names = topics.into_iter().filter_map(|state| state.name).collect();
    }
}

/// Checks a request against one snapshot.
pub fn plan(catalog: &Catalog, broker: &BrokerConfig, request: &DeleteTopicsRequest, version: i16) -> Plan {
    let asked = asked(request, version);
    let found: Vec<Result<Uuid, ItemError>> = asked.iter().map(|state| find(catalog, state)).collect();
    let mut times_named: HashMap<Uuid, usize> = HashMap::new();
    for id in found.iter().flatten() {
        *times_named.entry(*id).or_default() += 1;
    }
    let mut plan = Plan { changes: Vec::new(), results: Vec::new() };
    for (state, found) in asked.iter().zip(found) {
        let allowed = found.and_then(|id| {
            if catalog.topic_by_id(id).is_some_and(|topic| is_internal(topic)) {
                let message = "The topic is the broker's own.";
                return Err(ItemError::new(ResponseError::InvalidTopicException, message));
            }
            if times_named.get(&id).is_some_and(|&times| times > 1) {
                return Err(ItemError::new(
                    ResponseError::InvalidRequest,
                    "the topic is named more than once",
                ));
            }
            check_enabled(broker, version).map(|()| id)
        });
        match allowed {
            Ok(id) => {
                let name = catalog.topic_by_id(id).map(|topic| topic_name(&topic.name));
                let result = DeletableTopicResult::default().with_name(name).with_topic_id(id);
                plan.results.push(result.with_error_message(None));
                plan.changes.push(CatalogChange::DeleteTopic { id });
            }
            Err(error) => {
                let result = DeletableTopicResult::default()
                    .with_name(state.name.clone())
                    .with_topic_id(state.topic_id);
                plan.results.push(refuse(result, &error));
            }
        }
    }
    plan
}

/// The answer once the changes were committed, or could not be.
pub fn respond(plan: Plan, outcome: Result<(), String>) -> DeleteTopicsResponse {
    let results = plan.results.into_iter().map(|result| match &outcome {
        Err(why) if result.error_code == 0 => refuse(result, &commit_failed(why)),
        _ => result,
    });
    DeleteTopicsResponse::default().with_responses(results.collect())
}

/// How many partitions go with a topic; 0 for one that is not there.
pub(crate) fn partitions(catalog: &Catalog, state: &DeleteTopicState) -> usize {
    let id = find(catalog, state).ok();
    id.and_then(|id| catalog.topic_by_id(id)).map_or(0, |topic| topic.partition_count())
}

/// Adds topics to an answer that were not even tried.
pub(crate) fn add_refused(
    response: &mut DeleteTopicsResponse,
    topics: Vec<DeleteTopicState>,
    error: &ItemError,
) {
    response.responses.extend(topics.into_iter().map(|state| {
        let result = DeletableTopicResult::default().with_name(state.name).with_topic_id(state.topic_id);
        refuse(result, error)
    }));
}

fn refuse(result: DeletableTopicResult, error: &ItemError) -> DeletableTopicResult {
    result.with_error_code(error.code).with_error_message(Some(text(error.message.as_str())))
}

fn find(catalog: &Catalog, state: &DeleteTopicState) -> Result<Uuid, ItemError> {
    match (&state.name, state.topic_id.is_nil()) {
        (Some(_), false) => Err(ItemError::new(
            ResponseError::InvalidRequest,
            "You may not specify both topic name and topic id.",
        )),
        (None, true) => {
            Err(ItemError::new(ResponseError::InvalidRequest, "Neither topic name nor id were specified."))
        }
        (Some(name), true) => catalog.topic(name).map(|topic| topic.id).ok_or_else(|| {
            let message = "This server does not host this topic-partition.";
            ItemError::new(ResponseError::UnknownTopicOrPartition, message)
        }),
        (None, false) => catalog.topic_by_id(state.topic_id).map(|topic| topic.id).ok_or_else(|| {
            ItemError::new(ResponseError::UnknownTopicId, "This server does not host this topic ID.")
        }),
    }
}

fn check_enabled(broker: &BrokerConfig, version: i16) -> Result<(), ItemError> {
    if broker.delete_topic {
        return Ok(());
    }
    let error = if version >= DISABLED_ERROR_VERSION_MIN {
        ResponseError::TopicDeletionDisabled
    } else {
        ResponseError::InvalidRequest
    };
    Err(ItemError::new(error, "Topic deletion is disabled."))
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, seen_by_client};
    use super::*;

    fn state(name: Option<&str>, id: u128) -> DeleteTopicState {
        DeleteTopicState::default().with_name(name.map(topic_name)).with_topic_id(Uuid::from_u128(id))
    }

    #[test]
    fn old_versions_delete_by_name() {
        let catalog = catalog(&[("a", 1), ("b", 1)]);
        for version in 1..=5 {
            let names = vec![topic_name("a"), topic_name("nope")];
            let request = seen_by_client(&DeleteTopicsRequest::default().with_topic_names(names), version);
            let plan = plan(&catalog, &broker(&[]), &request, version);
            assert_eq!(catalog.apply(&plan.changes).expect("applies").topic_count(), 1);
            let seen = seen_by_client(&respond(plan, Ok(())), version);
            let codes: Vec<i16> = seen.responses.iter().map(|r| r.error_code).collect();
            assert_eq!(codes, [0, 3], "version {version}");
            assert_eq!(seen.responses[0].name, Some(topic_name("a")));
        }
    }

    #[test]
    fn version_6_deletes_by_name_or_id() {
        let catalog = catalog(&[("a", 1), ("b", 1), ("c", 1)]);
        let topics = vec![
            state(Some("a"), 0),
            state(None, 2),
            state(None, 99),
            state(None, 0),
            state(Some("c"), 3),
            state(Some("c"), 0),
            state(None, 3),
        ];
        let request = seen_by_client(&DeleteTopicsRequest::default().with_topics(topics), 6);
        let plan = plan(&catalog, &broker(&[]), &request, 6);
        assert_eq!(catalog.apply(&plan.changes).expect("applies").topic_count(), 1);
        let seen = seen_by_client(&respond(plan, Ok(())), 6);
        let codes: Vec<i16> = seen.responses.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [0, 0, 100, 42, 42, 42, 42]);
        assert_eq!(seen.responses[0].topic_id, Uuid::from_u128(1));
        assert_eq!(seen.responses[1].name, Some(topic_name("b")));
    }

    #[test]
    fn deletion_can_be_switched_off_and_a_commit_can_fail() {
        let catalog = catalog(&[("a", 1)]);
        let off = broker(&[("delete.topic.enable", "false")]);
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("a")]);
        for (version, code) in [(2, 42), (3, 73)] {
            let plan = plan(&catalog, &off, &request, version);
            assert!(plan.changes.is_empty());
            assert_eq!(respond(plan, Ok(())).responses[0].error_code, code);
        }
        let plan = plan(&catalog, &broker(&[]), &request, 5);
        assert_eq!(respond(plan, Err("no".to_owned())).responses[0].error_code, 56);
    }
}
