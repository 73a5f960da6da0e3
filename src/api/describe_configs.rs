//! DescribeConfigs (key 32, versions 1 to 4): the effective configuration of topics and of this broker, with
//! sources, synonyms, types and documentation.
//!
//! Owner: the core of the connection. Invariants: every key of the tables is described, set or not; a resource
//! appears once in an answer however often it was asked for. Must not: keep defaults of its own.

use super::control::{ItemError, is_own_id, text};
use crate::catalog::{Catalog, validate_topic_name};
use crate::config::{BROKER_KEYS, BrokerConfig, KeySpec, Source, Synonym, TOPIC_KEYS, topic_value};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, HashSet};

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const RESOURCE_BROKER_LOGGER: i8 = 8;

const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

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
    let results = request
        .resources
        .iter()
        .filter(|resource| seen.insert((resource.resource_type, resource.resource_name.as_str())))
        .map(|resource| {
            let answer = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match describe(catalog, broker, resource, request.include_synonyms, documented) {
                Ok(configs) => answer.with_error_message(None).with_configs(configs),
                Err(error) => {
                    answer.with_error_code(error.code).with_error_message(Some(text(error.message)))
                }
            }
        });
    DescribeConfigsResponse::default().with_results(results.collect())
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
        RESOURCE_TOPIC => {
            let Some(topic) = catalog.topic(name) else {
                return Err(match validate_topic_name(name) {
                    Ok(()) => ItemError::new(
                        ResponseError::UnknownTopicOrPartition,
                        "This server does not host this topic-partition.",
                    ),
                    Err(why) => {
                        let message = format!("Topic name is invalid: {why}");
                        ItemError::new(ResponseError::InvalidTopicException, message)
                    }
                });
            };
            let one = |spec| topic_entry(broker, &topic.configs, spec, with_synonyms, documented);
            Ok(TOPIC_KEYS.iter().filter(wanted).map(one).collect())
        }
        // The empty name stands for dynamic defaults of all brokers. There are none.
        RESOURCE_BROKER if name.is_empty() => Ok(Vec::new()),
        RESOURCE_BROKER if name.parse::<i32>().is_ok_and(|id| is_own_id(broker, id)) => {
            let one = |spec| broker_entry(broker, spec, with_synonyms, documented);
            Ok(BROKER_KEYS.iter().filter(wanted).map(one).collect())
        }
        RESOURCE_BROKER => invalid(format!(
            "Unexpected broker id, expected {} or empty string, but received {name}",
            catalog.node_id
        )),
        RESOURCE_BROKER_LOGGER => invalid("this broker has no loggers to describe".to_owned()),
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
    // Nothing of the broker can be changed while it runs.
    entry(spec, broker.value(spec.name), documented)
        .with_read_only(true)
        .with_config_source(source)
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
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::{broker, catalog, seen_by_client};
    use super::*;

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
        assert_eq!((size.value.as_deref(), size.config_source, size.read_only), (Some("77"), 4, true));
        assert_eq!(find(broker, "log.retention.ms").value, None);
        let codes: Vec<_> = seen.results.iter().map(|r| (r.error_code, r.configs.is_empty())).collect();
        assert_eq!(codes, [(0, false), (0, true), (42, true), (42, true)]);
    }

    #[test]
    fn keys_can_be_chosen_and_other_resources_are_errors() {
        let chosen = resource(2, "a").with_configuration_keys(Some(vec![
            text("retention.ms"),
            text("nope"),
            text("retention.ms"),
        ]));
        let unknown =
            [resource(2, "b"), resource(2, "b/c"), resource(8, "1"), resource(16, "m"), resource(0, "")];
        let seen = ask([vec![chosen], unknown.to_vec()].concat(), 4);
        assert_eq!(seen.results[0].configs.len(), 1);
        let codes: Vec<i16> = seen.results[1..].iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [3, 17, 42, 42, 42]);
    }
}
