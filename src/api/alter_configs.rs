//! IncrementalAlterConfigs (key 44, versions 0 to 1) and AlterConfigs (key 33, versions 0 to 2): configurations of
//! topics, of this broker and all brokers, of client metrics subscriptions and of groups.
//!
//! Owner: the core of the connection plans and answers, the catalog's writer applies. Invariants: every resource
//! gets one result, and is changed as a whole or not at all; what was valid stays in the catalog across restarts.
//! Must not: commit.

use super::control::{ItemError, commit_failed, text};
use crate::catalog::{
    Catalog, CatalogChange, Configs, DYNAMIC_ENTRIES_MAX, ResourceKind, validate_topic_name,
};
use crate::config::{
    BrokerConfig, CLIENT_METRICS_KEYS, GROUP_KEYS, KeySpec, Kind, broker_key, is_dynamic, topic_key,
    topic_value, validate_dynamic_broker, validate_resource, validate_topic_configs,
};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, alter_configs_response, incremental_alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Kafka's numbers of resource types.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const BROKER_LOGGER: i8 = 8;
pub(super) const CLIENT_METRICS: i8 = 16;
pub(super) const GROUP: i8 = 32;

/// The longest value of one key, in bytes: a configuration is kept in memory and written with every change.
const VALUE_BYTES_MAX: usize = 32 << 10;
/// The longest name of a group or subscription, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// What a request would do.
#[derive(Debug)]
pub struct Plan {
    /// The changes to commit; empty if there is nothing to do or the request only wants validation.
    pub changes: Vec<CatalogChange>,
    results: Vec<(i8, StrBytes, Result<(), ItemError>)>,
}

/// What is to be done with one key.
enum Operation<'a> {
    Set(Option<&'a str>),
    Delete,
    Append(Option<&'a str>),
    Subtract(Option<&'a str>),
    Unknown(i8),
}

/// What a configuration belongs to, found in the catalog.
enum Target {
    Topic(Uuid, Configs),
    Dynamic(ResourceKind, String, Configs),
}

/// The keys that are to be changed, in the request's order, and how.
type Operations<'a> = Vec<(&'a str, Operation<'a>)>;

/// Checks an IncrementalAlterConfigs request against one snapshot; `broker` is the configuration in effect.
pub fn plan_incremental(
    catalog: &Catalog,
    broker: &BrokerConfig,
    request: &IncrementalAlterConfigsRequest,
) -> Plan {
    let resources = request.resources.iter().map(|resource| {
        let operations = resource.configs.iter().map(|config| {
            let value = config.value.as_deref();
            let operation = match config.config_operation {
                0 => Operation::Set(value),
                1 => Operation::Delete,
                2 => Operation::Append(value),
                3 => Operation::Subtract(value),
                other => Operation::Unknown(other),
            };
            (config.name.as_str(), operation)
        });
        (resource.resource_type, &resource.resource_name, operations.collect::<Operations<'_>>())
    });
    plan(catalog, broker, resources.collect(), false, request.validate_only)
}

/// Checks an AlterConfigs request, which replaces whole configurations.
pub fn plan_replace(catalog: &Catalog, broker: &BrokerConfig, request: &AlterConfigsRequest) -> Plan {
    let resources = request.resources.iter().map(|resource| {
        let operations =
            resource.configs.iter().map(|c| (c.name.as_str(), Operation::Set(c.value.as_deref())));
        (resource.resource_type, &resource.resource_name, operations.collect::<Operations<'_>>())
    });
    plan(catalog, broker, resources.collect(), true, request.validate_only)
}

/// The answer to IncrementalAlterConfigs once the changes were committed, or could not be.
pub fn respond_incremental(plan: Plan, outcome: Result<(), String>) -> IncrementalAlterConfigsResponse {
    let responses = settled(plan, outcome).map(|(kind, name, code, message)| {
        incremental_alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(kind)
            .with_resource_name(name)
            .with_error_code(code)
            .with_error_message(message)
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

/// The answer to AlterConfigs once the changes were committed, or could not be.
pub fn respond_replace(plan: Plan, outcome: Result<(), String>) -> AlterConfigsResponse {
    let responses = settled(plan, outcome).map(|(kind, name, code, message)| {
        alter_configs_response::AlterConfigsResourceResponse::default()
            .with_resource_type(kind)
            .with_resource_name(name)
            .with_error_code(code)
            .with_error_message(message)
    });
    AlterConfigsResponse::default().with_responses(responses.collect())
}

fn settled(
    plan: Plan,
    outcome: Result<(), String>,
) -> impl Iterator<Item = (i8, StrBytes, i16, Option<StrBytes>)> {
    plan.results.into_iter().map(move |(kind, name, result)| {
        let result = result.and_then(|()| outcome.as_ref().map_err(|why| commit_failed(why)).copied());
        match result {
            Ok(()) => (kind, name, 0, None),
            Err(error) => (kind, name, error.code, Some(text(error.message))),
        }
    })
}

fn plan(
    catalog: &Catalog,
    broker: &BrokerConfig,
    resources: Vec<(i8, &StrBytes, Operations<'_>)>,
    replace: bool,
    validate_only: bool,
) -> Plan {
    let mut plan = Plan { changes: Vec::new(), results: Vec::new() };
    let mut seen = BTreeSet::new();
    let repeated: BTreeSet<(i8, &str)> = resources
        .iter()
        .map(|(kind, name, _)| (*kind, name.as_str()))
        .filter(|resource| !seen.insert(*resource))
        .collect();
    let mut refused = BTreeSet::new();
    for (kind, name, operations) in resources {
        if repeated.contains(&(kind, name.as_str())) {
            if refused.insert((kind, name.as_str())) {
                let error =
                    ItemError::new(ResponseError::InvalidRequest, "Each resource must appear at most once.");
                plan.results.push((kind, name.clone(), Err(error)));
            }
            continue;
        }
        let result = find(catalog, kind, name)
            .and_then(|target| changed(broker, target, &operations, replace))
            .and_then(|change| check_room(catalog, change));
        match result {
            Ok(change) => {
                plan.changes.extend(change.filter(|_| !validate_only));
                plan.results.push((kind, name.clone(), Ok(())));
            }
            Err(error) => plan.results.push((kind, name.clone(), Err(error))),
        }
    }
    plan
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ItemError> {
    Err(ItemError::new(ResponseError::InvalidRequest, message))
}

/// The resource of a request and its present configuration.
fn find(catalog: &Catalog, kind: i8, name: &str) -> Result<Target, ItemError> {
    let dynamic = |kind| {
        let present = catalog.dynamic.configs(kind, name).cloned().unwrap_or_default();
        Ok(Target::Dynamic(kind, name.to_owned(), present))
    };
    match kind {
        TOPIC => match catalog.topic(name) {
            Some(topic) => Ok(Target::Topic(topic.id, topic.configs.clone())),
            None => Err(unknown_topic(name)),
        },
        BROKER if name.is_empty() || name.parse() == Ok(catalog.node_id) => dynamic(ResourceKind::Broker),
        BROKER => invalid(unexpected_broker(catalog, name)),
        CLIENT_METRICS | GROUP if name.is_empty() => invalid("the name of the resource must not be empty"),
        CLIENT_METRICS | GROUP if name.len() > NAME_BYTES_MAX => {
            invalid(format!("the name of the resource is longer than {NAME_BYTES_MAX} bytes"))
        }
        CLIENT_METRICS => dynamic(ResourceKind::ClientMetrics),
        GROUP => dynamic(ResourceKind::Group),
        BROKER_LOGGER => invalid("this broker has no loggers that can be changed"),
        other => invalid(format!("resource type {other} has no configuration")),
    }
}

/// The error for a topic that is not there, or cannot be.
pub(super) fn unknown_topic(name: &str) -> ItemError {
    match validate_topic_name(name) {
        Ok(()) => ItemError::new(
            ResponseError::UnknownTopicOrPartition,
            "This server does not host this topic-partition.",
        ),
        Err(why) => {
            ItemError::new(ResponseError::InvalidTopicException, format!("Topic name is invalid: {why}"))
        }
    }
}

/// The text for a broker that is not this one.
pub(super) fn unexpected_broker(catalog: &Catalog, name: &str) -> String {
    format!("Unexpected broker id, expected {} or empty string, but received {name}", catalog.node_id)
}

/// The change that the operations amount to; `None` if they change nothing.
fn changed(
    broker: &BrokerConfig,
    target: Target,
    operations: &[(&str, Operation<'_>)],
    replace: bool,
) -> Result<Option<CatalogChange>, ItemError> {
    let (present, keys) = match &target {
        Target::Topic(_, present) => (present, None),
        Target::Dynamic(kind, _, present) => (present, Some(*kind)),
    };
    let mut names = BTreeSet::new();
    if !operations.iter().all(|(name, _)| names.insert(*name)) {
        return invalid("Error due to duplicate config keys");
    }
    let mut next = if replace { Configs::new() } else { present.clone() };
    for (name, operation) in operations {
        apply(broker, keys, &mut next, name, operation)?;
    }
    check(broker, keys, present, &next)?;
    let changed = next != *present;
    let change = match target {
        Target::Topic(id, _) => CatalogChange::SetTopicConfigs { id, configs: next },
        Target::Dynamic(kind, name, _) => CatalogChange::SetConfigs { kind, name, configs: next },
    };
    Ok(changed.then_some(change))
}

fn spec_of(kind: Option<ResourceKind>, name: &str) -> Option<&'static KeySpec> {
    match kind {
        None => topic_key(name),
        Some(ResourceKind::Broker) => broker_key(name),
        Some(ResourceKind::ClientMetrics) => CLIENT_METRICS_KEYS.iter().find(|spec| spec.name == name),
        Some(ResourceKind::Group) => GROUP_KEYS.iter().find(|spec| spec.name == name),
    }
}

fn apply(
    broker: &BrokerConfig,
    kind: Option<ResourceKind>,
    configs: &mut Configs,
    name: &str,
    operation: &Operation<'_>,
) -> Result<(), ItemError> {
    let null = || invalid(format!("Null value not supported for : {name}"));
    match operation {
        Operation::Delete => {
            configs.remove(name);
        }
        Operation::Set(None) | Operation::Append(None) | Operation::Subtract(None) => return null(),
        Operation::Set(Some(value)) | Operation::Append(Some(value)) | Operation::Subtract(Some(value))
            if value.len() > VALUE_BYTES_MAX =>
        {
            return invalid(format!("the value of {name} is longer than {VALUE_BYTES_MAX} bytes"));
        }
        Operation::Set(Some(value)) => {
            configs.insert(name.to_owned(), (*value).to_owned());
        }
        Operation::Append(Some(value)) | Operation::Subtract(Some(value)) => {
            let append = matches!(operation, Operation::Append(_));
            if !spec_of(kind, name).is_some_and(|spec| matches!(spec.kind, Kind::List(_))) {
                let what = if append { "APPEND to" } else { "SUBTRACT from" };
                let message = format!("Can't {what} key {name} because its type is not LIST.");
                return Err(ItemError::new(ResponseError::InvalidConfig, message));
            }
            let present = configs.get(name).cloned().unwrap_or_else(|| match kind {
                None => topic_value(broker, &Configs::new(), name),
                _ => spec_of(kind, name).and_then(|spec| spec.default).unwrap_or_default().to_owned(),
            });
            configs.insert(name.to_owned(), edited_list(&present, value, append));
        }
        Operation::Unknown(number) => return invalid(format!("{number} is no operation on a configuration")),
    }
    Ok(())
}

/// A comma-separated list with the items of `value` added to its end, or taken out.
fn edited_list(present: &str, value: &str, append: bool) -> String {
    let items = |list: &'_ str| -> Vec<String> {
        list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    let mut list = items(present);
    for item in items(value) {
        if append && !list.contains(&item) {
            list.push(item);
        } else if !append {
            list.retain(|other| *other != item);
        }
    }
    list.join(",")
}

/// Checks the whole new configuration, and that what changed may be changed.
fn check(
    broker: &BrokerConfig,
    kind: Option<ResourceKind>,
    present: &Configs,
    next: &Configs,
) -> Result<(), ItemError> {
    let as_config = |result: Result<(), String>| {
        result.map_err(|message| ItemError::new(ResponseError::InvalidConfig, message))
    };
    match kind {
        None => as_config(validate_topic_configs(broker, next)),
        Some(ResourceKind::ClientMetrics) => as_config(validate_resource(CLIENT_METRICS_KEYS, next)),
        Some(ResourceKind::Group) => as_config(validate_resource(GROUP_KEYS, next)),
        Some(ResourceKind::Broker) => {
            let fixed: Vec<&str> = next
                .iter()
                .filter(|(name, value)| present.get(*name) != Some(value) && !is_dynamic(name))
                .map(|(name, _)| name.as_str())
                .collect();
            if !fixed.is_empty() {
                return invalid(format!(
                    "Cannot update these configs dynamically: Set({})",
                    fixed.join(", ")
                ));
            }
            validate_dynamic_broker(next).or_else(invalid)
        }
    }
}

fn check_room(catalog: &Catalog, change: Option<CatalogChange>) -> Result<Option<CatalogChange>, ItemError> {
    if let Some(CatalogChange::SetConfigs { kind, name, .. }) = &change {
        let all = catalog.dynamic.resources(*kind);
        if all.len() >= DYNAMIC_ENTRIES_MAX && !all.contains_key(name) {
            let message = format!("there are {DYNAMIC_ENTRIES_MAX} resources of this type already");
            return Err(ItemError::new(ResponseError::PolicyViolation, message));
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, seen_by_client};
    use super::*;
    use kafka_protocol::messages::{
        alter_configs_request as replace, incremental_alter_configs_request as add,
    };

    fn resource(kind: i8, name: &str, configs: &[(&str, i8, Option<&str>)]) -> add::AlterConfigsResource {
        let config = |&(name, operation, value): &(&str, i8, Option<&str>)| {
            add::AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(operation)
                .with_value(value.map(text))
        };
        add::AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(configs.iter().map(config).collect())
    }

    fn alter(catalog: &Catalog, resources: Vec<add::AlterConfigsResource>) -> (Catalog, Vec<i16>) {
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let mut plan = plan_incremental(catalog, &broker(&[]), &seen_by_client(&request, 1));
        let next = catalog.apply(&std::mem::take(&mut plan.changes)).expect("applies");
        let seen = seen_by_client(&respond_incremental(plan, Ok(())), 1);
        assert!(seen.responses.iter().all(|r| (r.error_code == 0) == r.error_message.is_none()));
        (next, seen.responses.iter().map(|r| r.error_code).collect())
    }

    #[test]
    fn topics_are_changed_key_by_key() {
        let before = catalog(&[("a", 1), ("b", 1)]);
        let a = resource(
            TOPIC,
            "a",
            &[
                ("retention.ms", 1, None),
                ("segment.bytes", 0, Some("1048576")),
                ("cleanup.policy", 2, Some("compact")),
            ],
        );
        let (after, codes) = alter(&before, vec![a, resource(TOPIC, "b", &[("segment.ms", 0, Some("7"))])]);
        assert_eq!(codes, [0, 0]);
        let configs = &after.topic("a").expect("there").configs;
        assert_eq!(configs.len(), 2);
        assert_eq!(configs["cleanup.policy"], "delete,compact");
        assert_eq!(after.topic("b").expect("there").configs["retention.ms"], "1234");
        let (again, codes) =
            alter(&after, vec![resource(TOPIC, "a", &[("cleanup.policy", 3, Some("delete"))])]);
        assert_eq!(
            (codes.as_slice(), again.topic("a").expect("there").configs["cleanup.policy"].as_str()),
            (&[0][..], "compact")
        );
    }

    #[test]
    fn what_is_wrong_is_refused_and_leaves_the_rest_of_the_request_alone() {
        let before = catalog(&[("a", 1)]);
        for (kind, name, config, code) in [
            (TOPIC, "nope", ("retention.ms", 0, Some("1")), 3),
            (TOPIC, "a/b", ("retention.ms", 0, Some("1")), 17),
            (TOPIC, "a", ("retention.ms", 0, Some("x")), 40),
            (TOPIC, "a", ("retention.ms", 0, None), 42),
            (TOPIC, "a", ("retention.ms", 9, Some("1")), 42),
            (TOPIC, "a", ("retention.ms", 2, Some("1")), 40),
            (TOPIC, "a", ("no.such.key", 0, Some("1")), 40),
            (TOPIC, "a", ("cleanup.policy", 3, Some("delete")), 40),
            (BROKER, "2", ("message.max.bytes", 0, Some("1")), 42),
            (BROKER, "1", ("node.id", 0, Some("5")), 42),
            (BROKER, "", ("log.retention.hours", 0, Some("5")), 42),
            (BROKER, "", ("message.max.bytes", 0, Some("x")), 42),
            (BROKER_LOGGER, "1", ("root", 0, Some("DEBUG")), 42),
            (CLIENT_METRICS, "", ("interval.ms", 0, Some("1000")), 42),
            (CLIENT_METRICS, "m", ("interval.ms", 0, Some("1")), 40),
            (GROUP, "g", ("consumer.session.timeout.ms", 0, Some("1")), 40),
            (64, "g", ("x", 0, Some("1")), 42),
        ] {
            let good = resource(GROUP, "fine", &[("consumer.session.timeout.ms", 0, Some("60000"))]);
            let (after, codes) = alter(&before, vec![resource(kind, name, &[config]), good]);
            assert_eq!(codes, [code, 0], "{kind} {name} {config:?}");
            assert!(after.dynamic.configs(ResourceKind::Group, "fine").is_some());
        }
        let twice = resource(TOPIC, "a", &[("retention.ms", 0, Some("1")), ("retention.ms", 1, None)]);
        assert_eq!(alter(&before, vec![twice.clone()]).1, [42]);
        assert_eq!(alter(&before, vec![twice.clone(), twice]).1, [42]);
    }

    #[test]
    fn brokers_have_defaults_and_values_of_their_own() {
        let before = catalog(&[]);
        let (after, codes) = alter(
            &before,
            vec![
                resource(BROKER, "", &[("message.max.bytes", 0, Some("5000"))]),
                resource(
                    BROKER,
                    "1",
                    &[("log.retention.ms", 0, Some("9")), ("num.io.threads", 0, Some("4"))],
                ),
            ],
        );
        assert_eq!(codes, [0, 0]);
        assert_eq!(after.dynamic.resources(ResourceKind::Broker).len(), 2);
        let (gone, _) = alter(&after, vec![resource(BROKER, "", &[("message.max.bytes", 1, None)])]);
        assert!(gone.dynamic.configs(ResourceKind::Broker, "").is_none());
    }

    #[test]
    fn the_older_request_replaces_everything_and_validation_changes_nothing() {
        let before = catalog(&[("a", 1)]);
        let config =
            replace::AlterableConfig::default().with_name(text("segment.ms")).with_value(Some(text("7")));
        let resource = replace::AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("a"))
            .with_configs(vec![config]);
        let mut request = AlterConfigsRequest::default().with_resources(vec![resource]);
        for version in 0..=2 {
            let plan = plan_replace(&before, &broker(&[]), &seen_by_client(&request, version));
            let after = before.apply(&plan.changes).expect("applies");
            let configs = &after.topic("a").expect("there").configs;
            assert_eq!((configs.len(), configs["segment.ms"].as_str()), (1, "7"));
            let failed = seen_by_client(&respond_replace(plan, Err("disk".to_owned())), version);
            assert_eq!(failed.responses[0].error_code, 56);
        }
        request.validate_only = true;
        assert!(plan_replace(&before, &broker(&[]), &request).changes.is_empty());
    }
}
