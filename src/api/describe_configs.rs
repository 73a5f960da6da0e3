//! DescribeConfigs (key 32, versions 1 to 4): the effective configuration of topics, of this broker, of groups and
//! of client metrics subscriptions, with sources, synonyms, types and documentation.
//!
//! Owner: the core of the connection. Invariants: every key of the tables is described, set or not; a resource
//! appears once in an answer however often it was asked for. Must not: keep defaults of its own.

use super::alter_configs::{
    BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC, unexpected_broker, unknown_topic,
};
use super::control::{ItemError, is_own_id, text};
use crate::catalog::{Catalog, ResourceKind};
use crate::config::{
    BROKER_KEYS, BrokerConfig, CLIENT_METRICS_KEYS, GROUP_KEYS, KeySpec, Source, Synonym, TOPIC_KEYS,
    broker_key, is_dynamic, topic_value,
};
use crate::limits::DESCRIBED_DEFAULTS_MAX;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, HashSet};

const SOURCE_TOPIC: i8 = 1;
const SOURCE_DYNAMIC_BROKER: i8 = 2;
const SOURCE_DYNAMIC_DEFAULT: i8 = 3;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;
const SOURCE_CLIENT_METRICS: i8 = 7;
const SOURCE_GROUP: i8 = 8;

/// Kafka's number of the type STRING.
const CONFIG_TYPE_STRING: i8 = 2;
/// The first version that carries types and documentation.
const DOCUMENTATION_VERSION_MIN: i16 = 3;

/// The answer from one snapshot of the catalog.
pub fn respond(
    catalog: &Catalog,
    broker: &BrokerConfig,
    request: &DescribeConfigsRequest,
    version: i16,
) -> DescribeConfigsResponse {
    let documented = version >= DOCUMENTATION_VERSION_MIN && request.include_documentation;
    let mut seen = HashSet::new();
    let mut defaults_left = DESCRIBED_DEFAULTS_MAX;
    let results = request
        .resources
        .iter()
        .filter(|resource| seen.insert((resource.resource_type, resource.resource_name.as_str())))
        .map(|resource| {
            let answer = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            let outcome = match is_unset(catalog, resource) {
                true if defaults_left == 0 => Err(too_many_defaults()),
                unset => {
                    defaults_left -= usize::from(unset);
                    describe(catalog, broker, resource, request.include_synonyms, documented)
                }
            };
            match outcome {
                Ok(configs) => answer.with_error_message(None).with_configs(configs),
                Err(error) => {
                    answer.with_error_code(error.code).with_error_message(Some(text(error.message)))
                }
            }
        });
    DescribeConfigsResponse::default().with_results(results.collect())
}

/// Whether it is a resource that any name stands for, and nothing is set for this one.
fn is_unset(catalog: &Catalog, resource: &DescribeConfigsResource) -> bool {
    let kind = match resource.resource_type {
        GROUP => ResourceKind::Group,
        CLIENT_METRICS => ResourceKind::ClientMetrics,
        _ => return false,
    };
    catalog.dynamic.configs(kind, resource.resource_name.as_str()).is_none()
}

fn too_many_defaults() -> ItemError {
    let message =
        format!("one request describes at most {DESCRIBED_DEFAULTS_MAX} resources without a setting");
    ItemError::new(ResponseError::InvalidRequest, message)
}

/// The source of a topic key's value, as DescribeConfigs and CreateTopics number it.
pub(crate) fn topic_config_source(
    broker: &BrokerConfig,
    overrides: &BTreeMap<String, String>,
    spec: &KeySpec,
) -> i8 {
    if overrides.contains_key(spec.name) {
        return SOURCE_TOPIC;
    }
    match broker.settings.synonyms(spec.synonyms).first() {
        Some(synonym) => wire_source(synonym.source),
        None => SOURCE_DEFAULT,
    }
}

fn describe(
    catalog: &Catalog,
    broker: &BrokerConfig,
    resource: &DescribeConfigsResource,
    with_synonyms: bool,
    documented: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, ItemError> {
    let name = resource.resource_name.as_str();
    let invalid = |message: String| Err(ItemError::new(ResponseError::InvalidRequest, message));
    let asked: Option<HashSet<&str>> =
        resource.configuration_keys.as_ref().map(|keys| keys.iter().map(StrBytes::as_str).collect());
    let wanted = |spec: &&KeySpec| asked.as_ref().is_none_or(|keys| keys.contains(spec.name));
    match resource.resource_type {
        TOPIC => {
            let Some(topic) = catalog.topic(name) else { return Err(unknown_topic(name)) };
            let one = |spec| topic_entry(broker, &topic.configs, spec, with_synonyms, documented);
            Ok(TOPIC_KEYS.iter().filter(wanted).map(one).collect())
        }
        // The empty name stands for the dynamic defaults of all brokers: only what is set is described.
        BROKER if name.is_empty() => {
            let set = dynamic_entries(catalog, "", SOURCE_DYNAMIC_DEFAULT, documented, |_| true);
            Ok(set
                .filter(|entry| asked.as_ref().is_none_or(|keys| keys.contains(entry.name.as_str())))
                .collect())
        }
        BROKER if name.parse::<i32>().is_ok_and(|id| is_own_id(broker, id)) => {
            let one = |spec| broker_entry(broker, spec, with_synonyms, documented);
            let mut entries: Vec<_> = BROKER_KEYS.iter().filter(wanted).map(one).collect();
            let unlisted =
                |key: &str| broker_key(key).is_none() && asked.as_ref().is_none_or(|keys| keys.contains(key));
            entries.extend(dynamic_entries(catalog, name, SOURCE_DYNAMIC_BROKER, documented, unlisted));
            Ok(entries)
        }
        BROKER => invalid(unexpected_broker(catalog, name)),
        BROKER_LOGGER => invalid("this broker has no loggers to describe".to_owned()),
        CLIENT_METRICS | GROUP if name.is_empty() => {
            invalid("the name of the resource must not be empty".to_owned())
        }
        CLIENT_METRICS | GROUP => {
            let (kind, keys, source) = if resource.resource_type == GROUP {
                (ResourceKind::Group, GROUP_KEYS, SOURCE_GROUP)
            } else {
                (ResourceKind::ClientMetrics, CLIENT_METRICS_KEYS, SOURCE_CLIENT_METRICS)
            };
            let set = catalog.dynamic.configs(kind, name);
            let one = |spec| resource_entry(set, spec, source, with_synonyms, documented);
            Ok(keys.iter().filter(wanted).map(one).collect())
        }
        other => invalid(format!("resource type {other} cannot be described")),
    }
}

fn topic_entry(
    broker: &BrokerConfig,
    overrides: &BTreeMap<String, String>,
    spec: &KeySpec,
    with_synonyms: bool,
    documented: bool,
) -> DescribeConfigsResourceResult {
    let value = topic_value(broker, overrides, spec.name);
    let mut synonyms = Vec::new();
    if with_synonyms {
        if let Some(own) = overrides.get(spec.name) {
            synonyms.push(synonym(spec.name, own, SOURCE_TOPIC));
        }
        let inherited = broker.settings.synonyms(spec.synonyms);
        if inherited.is_empty() {
            synonyms.push(synonym(spec.name, spec.default.unwrap_or_default(), SOURCE_DEFAULT));
        }
        synonyms.extend(inherited.iter().map(broker_synonym));
    }
    entry(spec, Some(value), documented)
        .with_config_source(topic_config_source(broker, overrides, spec))
        .with_synonyms(synonyms)
}

fn broker_entry(
    broker: &BrokerConfig,
    spec: &KeySpec,
    with_synonyms: bool,
    documented: bool,
) -> DescribeConfigsResourceResult {
    let mut names = vec![spec.name];
    names.extend_from_slice(spec.synonyms);
    let known = broker.settings.synonyms(&names);
    let source = known.first().map_or(SOURCE_DEFAULT, |synonym| wire_source(synonym.source));
    let synonyms = if with_synonyms { known.iter().map(broker_synonym).collect() } else { Vec::new() };
    entry(spec, broker.value(spec.name), documented)
        .with_read_only(!is_dynamic(spec.name))
        .with_config_source(source)
        .with_synonyms(synonyms)
}

/// What is set dynamically for a broker (or for all, by the empty name), as far as `wanted` accepts the key.
fn dynamic_entries(
    catalog: &Catalog,
    broker: &str,
    source: i8,
    documented: bool,
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = DescribeConfigsResourceResult> {
    let set = catalog.dynamic.configs(ResourceKind::Broker, broker).into_iter().flatten();
    set.filter(move |(name, _)| wanted(name)).map(move |(name, value)| {
        let described = match broker_key(name) {
            Some(spec) => entry(spec, Some(value.clone()), documented),
            // One of Kafka's keys that has no effect here.
            None => DescribeConfigsResourceResult::default()
                .with_name(text(name.as_str()))
                .with_value(Some(text(value.as_str())))
                .with_config_type(CONFIG_TYPE_STRING)
                .with_documentation(None),
        };
        let own = DescribeConfigsSynonym::default()
            .with_name(text(name.as_str()))
            .with_value(Some(text(value.as_str())))
            .with_source(source);
        described.with_config_source(source).with_synonyms(vec![own])
    })
}

/// A key of a group or of a client metrics subscription.
fn resource_entry(
    set: Option<&BTreeMap<String, String>>,
    spec: &'static KeySpec,
    source: i8,
    with_synonyms: bool,
    documented: bool,
) -> DescribeConfigsResourceResult {
    let default = spec.default.unwrap_or_default();
    let own = set.and_then(|configs| configs.get(spec.name));
    let mut synonyms = Vec::new();
    if with_synonyms {
        synonyms.extend(own.map(|value| synonym(spec.name, value, source)));
        synonyms.push(synonym(spec.name, default, SOURCE_DEFAULT));
    }
    entry(spec, Some(own.map_or(default, String::as_str).to_owned()), documented)
        .with_config_source(if own.is_some() { source } else { SOURCE_DEFAULT })
        .with_synonyms(synonyms)
}

fn entry(spec: &KeySpec, value: Option<String>, documented: bool) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(spec.name))
        .with_value(value.map(text))
        .with_config_type(spec.kind.wire_type())
        .with_documentation(documented.then_some(StrBytes::from_static_str(spec.doc)))
}

fn broker_synonym(given: &Synonym) -> DescribeConfigsSynonym {
    synonym(given.name, &given.value, wire_source(given.source))
}

fn synonym(name: &'static str, value: &str, source: i8) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default()
        .with_name(StrBytes::from_static_str(name))
        .with_value(Some(text(value)))
        .with_source(source)
}

fn wire_source(source: Source) -> i8 {
    match source {
        Source::Default => SOURCE_DEFAULT,
        Source::File | Source::Environment | Source::Flag => SOURCE_STATIC_BROKER,
        Source::DynamicDefault => SOURCE_DYNAMIC_DEFAULT,
        Source::DynamicBroker => SOURCE_DYNAMIC_BROKER,
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, seen_by_client};
    use super::*;
    use crate::catalog::CatalogChange;

    fn resource(kind: i8, name: &str) -> DescribeConfigsResource {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None)
    }

    fn ask(resources: Vec<DescribeConfigsResource>, version: i16) -> DescribeConfigsResponse {
        let mut request =
            DescribeConfigsRequest::default().with_resources(resources).with_include_synonyms(true);
        request.include_documentation = version >= 3;
        let request = seen_by_client(&request, version);
        let broker = broker(&[("log.roll.hours", "2"), ("message.max.bytes", "77")]);
        seen_by_client(&respond(&catalog(&[("a", 1)]), &broker, &request, version), version)
    }

    fn find<'a>(result: &'a DescribeConfigsResult, name: &str) -> &'a DescribeConfigsResourceResult {
        result.configs.iter().find(|c| c.name.as_str() == name).expect("described")
    }

    fn synonyms(config: &DescribeConfigsResourceResult) -> Vec<(&str, &str, i8)> {
        let one = |s: &'_ DescribeConfigsSynonym| s.source;
        config
            .synonyms
            .iter()
            .map(|s| (s.name.as_str(), s.value.as_ref().map_or("", StrBytes::as_str), one(s)))
            .collect()
    }

    #[test]
    fn a_topic_is_described_completely_at_every_version() {
        for version in 1..=4 {
            let seen = ask(vec![resource(2, "a"), resource(2, "a")], version);
            assert_eq!(seen.results.len(), 1);
            let topic = &seen.results[0];
            assert_eq!((topic.error_code, topic.configs.len()), (0, TOPIC_KEYS.len()));
            let retention = find(topic, "retention.ms");
            assert_eq!((retention.value.as_deref(), retention.config_source), (Some("1234"), 1));
            let expected = [("retention.ms", "1234", 1), ("log.retention.hours", "168", 5)];
            assert_eq!(synonyms(retention), expected);
            let roll = find(topic, "segment.ms");
            assert_eq!((roll.value.as_deref(), roll.config_source), (Some("7200000"), 4));
            assert_eq!(synonyms(roll), [("log.roll.hours", "2", 4), ("log.roll.hours", "168", 5)]);
            let plain = find(topic, "leader.replication.throttled.replicas");
            assert_eq!((plain.value.as_deref(), plain.config_source, plain.read_only), (Some(""), 5, false));
            if version >= 3 {
                assert_eq!((retention.config_type, find(topic, "cleanup.policy").config_type), (5, 7));
                assert!(retention.documentation.as_ref().is_some_and(|d| d.contains("kept")));
            }
        }
    }

    #[test]
    fn the_broker_is_described_by_its_id_only() {
        let seen = ask(vec![resource(4, "1"), resource(4, ""), resource(4, "2"), resource(4, "x")], 4);
        let broker = &seen.results[0];
        assert_eq!(broker.configs.len(), BROKER_KEYS.len());
        let size = find(broker, "message.max.bytes");
        assert_eq!((size.value.as_deref(), size.config_source, size.read_only), (Some("77"), 4, false));
        assert!(find(broker, "node.id").read_only);
        assert_eq!(find(broker, "log.retention.ms").value, None);
        let codes: Vec<_> = seen.results.iter().map(|r| (r.error_code, r.configs.is_empty())).collect();
        assert_eq!(codes, [(0, false), (0, true), (42, true), (42, true)]);
    }

    #[test]
    fn what_is_set_at_run_time_is_told_apart() {
        let set = |kind, name: &str, key: &str, value: &str| CatalogChange::SetConfigs {
            kind,
            name: name.to_owned(),
            configs: [(key.to_owned(), value.to_owned())].into(),
        };
        let catalog = catalog(&[("a", 1)])
            .apply(&[
                set(ResourceKind::Broker, "", "message.max.bytes", "88"),
                set(ResourceKind::Broker, "1", "leader.replication.throttled.rate", "5"),
                set(ResourceKind::Group, "g", "consumer.session.timeout.ms", "50000"),
            ])
            .expect("applies");
        let dynamic = &catalog.dynamic;
        let broker = broker(&[("message.max.bytes", "77")]).with_dynamic(
            dynamic.configs(ResourceKind::Broker, ""),
            dynamic.configs(ResourceKind::Broker, "1"),
        );
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![
                resource(2, "a"),
                resource(4, "1"),
                resource(4, ""),
                resource(32, "g"),
                resource(16, "m"),
            ])
            .with_include_synonyms(true);
        let seen = seen_by_client(&respond(&catalog, &broker, &request, 4), 4);
        let size = find(&seen.results[0], "max.message.bytes");
        assert_eq!((size.value.as_deref(), size.config_source), (Some("88"), 3));
        let expected = [
            ("message.max.bytes", "88", 3),
            ("message.max.bytes", "77", 4),
            ("message.max.bytes", "1048588", 5),
        ];
        assert_eq!(synonyms(find(&seen.results[1], "message.max.bytes")), expected);
        let throttle = find(&seen.results[1], "leader.replication.throttled.rate");
        assert_eq!((throttle.config_source, throttle.read_only), (2, false));
        assert_eq!(seen.results[2].configs.len(), 1);
        let session = find(&seen.results[3], "consumer.session.timeout.ms");
        assert_eq!((session.value.as_deref(), session.config_source), (Some("50000"), 8));
        assert_eq!(find(&seen.results[4], "interval.ms").config_source, 5);
    }

    #[test]
    fn keys_can_be_chosen_and_other_resources_are_errors() {
        let chosen = resource(2, "a").with_configuration_keys(Some(vec![
            text("retention.ms"),
            text("nope"),
            text("retention.ms"),
        ]));
        let unknown =
            [resource(2, "b"), resource(2, "b/c"), resource(8, "1"), resource(16, ""), resource(0, "")];
        let seen = ask([vec![chosen], unknown.to_vec()].concat(), 4);
        assert_eq!(seen.results[0].configs.len(), 1);
        let codes: Vec<i16> = seen.results[1..].iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [3, 17, 42, 42, 42]);
    }
}
