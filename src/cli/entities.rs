//! `ringlog config --bootstrap-server`: configurations and quotas of a running cluster, with the flags of Kafka's
//! `kafka-configs`.
//!
//! Owner: the command that runs. Invariants: an alteration names one entity and is made whole or not at all. Must
//! not: know any key by name.

use kafka_protocol::messages::alter_client_quotas_request as alter_quotas;
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, DescribeClientQuotasRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
};

use super::client::{ClientError, Cluster, Connection, Endpoint, Result, check, text};
use super::table;

const SET: i8 = 0;
const DELETE: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;
const SOURCE_STATIC: i8 = 4;

/// Which entity, and what to do with it.
#[derive(clap::Args)]
pub(super) struct EntityArguments {
    /// Show what is set
    #[arg(long, conflicts_with = "alter")]
    describe: bool,
    /// Change it
    #[arg(long)]
    alter: bool,
    /// Show defaults as well
    #[arg(long)]
    all: bool,
    /// Set keys: k=v,k=[a,b]
    #[arg(long, value_name = "KEY=VALUE,...")]
    add_config: Vec<String>,
    /// Remove keys
    #[arg(long, value_name = "KEY,...")]
    delete_config: Vec<String>,
    /// topics, brokers, clients, users, ips, groups or client-metrics; twice for a user's client
    #[arg(long, value_name = "TYPE")]
    entity_type: Vec<String>,
    /// The entity's name
    #[arg(long, value_name = "NAME")]
    entity_name: Vec<String>,
    /// The default of the entity type
    #[arg(long)]
    entity_default: bool,
    /// The same as --entity-type topics --entity-name NAME
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// The same as --entity-type brokers --entity-name ID
    #[arg(long, value_name = "ID")]
    broker: Option<String>,
    /// The same as --entity-type brokers --entity-default
    #[arg(long)]
    broker_defaults: bool,
    /// The same as --entity-type users --entity-name NAME
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The same as --entity-type users --entity-default
    #[arg(long)]
    user_defaults: bool,
    /// The same as --entity-type clients --entity-name NAME
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// The same as --entity-type clients --entity-default
    #[arg(long)]
    client_defaults: bool,
    /// The same as --entity-type ips --entity-name ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// The same as --entity-type ips --entity-default
    #[arg(long)]
    ip_defaults: bool,
    /// The same as --entity-type groups --entity-name NAME
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// The same as --entity-type client-metrics --entity-name NAME
    #[arg(long, value_name = "NAME")]
    client_metrics: Option<String>,
}

/// An entity: its type in Kafka's plural, and its name; the empty name is the default, `None` is all of them.
type Entity = (String, Option<String>);

impl EntityArguments {
    /// Whether the command is for a cluster at all.
    pub(super) fn is_used(&self) -> bool {
        self.describe || self.alter
    }

    fn entities(&self) -> Result<Vec<Entity>> {
        let mut entities: Vec<Entity> = Vec::new();
        let mut names = self.entity_name.iter();
        let mut default_left = self.entity_default;
        for kind in &self.entity_type {
            let name = match names.next() {
                Some(name) => Some(name.clone()),
                None if default_left => {
                    default_left = false;
                    Some(String::new())
                }
                None => None,
            };
            entities.push((kind.clone(), name));
        }
        let named = [
            ("topics", &self.topic),
            ("brokers", &self.broker),
            ("users", &self.user),
            ("clients", &self.client),
            ("ips", &self.ip),
            ("groups", &self.group),
            ("client-metrics", &self.client_metrics),
        ];
        for (kind, name) in named {
            entities.extend(name.iter().map(|name| (kind.to_owned(), Some(name.clone()))));
        }
        let defaults = [
            ("brokers", self.broker_defaults),
            ("users", self.user_defaults),
            ("clients", self.client_defaults),
            ("ips", self.ip_defaults),
        ];
        for (kind, set) in defaults {
            entities.extend(set.then(|| (kind.to_owned(), Some(String::new()))));
        }
        match entities.is_empty() {
            true => Err(ClientError::Protocol("--entity-type is missing".to_owned())),
            false => Ok(entities),
        }
    }
}

pub(super) fn run(endpoint: &Endpoint, arguments: &EntityArguments) -> Result<()> {
    let entities = arguments.entities()?;
    let mut cluster = Cluster::connect(endpoint)?;
    let quotas = entities.iter().all(|(kind, _)| ["users", "clients", "ips"].contains(&kind.as_str()));
    match (quotas, arguments.alter, entities.as_slice()) {
        (true, true, _) => alter_quotas(&mut cluster, arguments, &entities),
        (true, false, _) => describe_quotas(&mut cluster, &entities),
        (false, alter, [(kind, name)]) => {
            let number = resource_type(kind)?;
            match (alter, name) {
                (true, Some(name)) => alter_configs(&mut cluster, arguments, number, name),
                (true, None) => Err(ClientError::Protocol("--alter needs --entity-name".to_owned())),
                (false, name) => describe_configs(&mut cluster, arguments, number, name.as_deref()),
            }
        }
        _ => Err(ClientError::Protocol("these entity types cannot be combined".to_owned())),
    }
}

fn resource_type(kind: &str) -> Result<i8> {
    match kind {
        "topics" => Ok(2),
        "brokers" => Ok(4),
        "client-metrics" => Ok(16),
        "groups" => Ok(32),
        other => Err(ClientError::Protocol(format!("--entity-type {other} is unknown"))),
    }
}

/// `k=v,k=[a,b]` as pairs; brackets hold values with commas.
fn pairs(lists: &[String]) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for list in lists {
        let mut rest = list.as_str();
        while !rest.is_empty() {
            let (key, after) = rest
                .split_once('=')
                .ok_or_else(|| ClientError::Protocol(format!("--add-config {list}: expected KEY=VALUE")))?;
            let (value, after) = match after.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
                Some((value, after)) => (value, after.trim_start_matches(',')),
                None => after.split_once(',').unwrap_or((after, "")),
            };
            pairs.push((key.trim().to_owned(), value.to_owned()));
            rest = after;
        }
    }
    Ok(pairs)
}

fn deletions(arguments: &EntityArguments) -> impl Iterator<Item = &str> {
    let keys = arguments.delete_config.iter().flat_map(|list| list.split(','));
    keys.map(str::trim).filter(|key| !key.is_empty())
}

/// Requests about one broker must go to it.
fn connection_for<'a>(cluster: &'a mut Cluster, kind: i8, name: &str) -> Result<&'a mut Connection> {
    match name.parse() {
        Ok(id) if kind == 4 => cluster.broker(id),
        _ => Ok(cluster.any()),
    }
}

fn alter_configs(cluster: &mut Cluster, arguments: &EntityArguments, kind: i8, name: &str) -> Result<()> {
    let mut configs = Vec::new();
    for (key, value) in pairs(&arguments.add_config)? {
        let config = AlterableConfig::default().with_name(text(&key)).with_config_operation(SET);
        configs.push(config.with_value(Some(text(&value))));
    }
    for key in deletions(arguments) {
        let config = AlterableConfig::default().with_name(text(key)).with_config_operation(DELETE);
        configs.push(config.with_value(None));
    }
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = connection_for(cluster, kind, name)?.call(0, 1, |_| request)?;
    for result in answer.responses {
        check(name, result.error_code, result.error_message.as_deref())?;
    }
    println!("Completed updating config for {}.", if name.is_empty() { "the default" } else { name });
    Ok(())
}

fn all_names(cluster: &mut Cluster, kind: i8) -> Result<Vec<String>> {
    Ok(match kind {
        2 => cluster
            .metadata(None)?
            .topics
            .into_iter()
            .filter_map(|topic| topic.name.map(|name| name.to_string()))
            .collect(),
        4 => cluster.broker_ids().iter().map(ToString::to_string).collect(),
        _ => {
            let answer = cluster.any().call(0, 1, |version| {
                let types = if version == 0 { Vec::new() } else { vec![kind] };
                ListConfigResourcesRequest::default().with_resource_types(types)
            })?;
            check("resources", answer.error_code, None)?;
            answer.config_resources.into_iter().map(|resource| resource.resource_name.to_string()).collect()
        }
    })
}

fn describe_configs(
    cluster: &mut Cluster,
    arguments: &EntityArguments,
    kind: i8,
    name: Option<&str>,
) -> Result<()> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => all_names(cluster, kind)?,
    };
    for name in names {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(&name))
            .with_configuration_keys(None);
        let request =
            DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
        let answer = connection_for(cluster, kind, &name)?.call(1, 4, |_| request)?;
        for result in answer.results {
            check(&name, result.error_code, result.error_message.as_deref())?;
            let shown = result.configs.iter().filter(|config| {
                arguments.all || ![SOURCE_DEFAULT, SOURCE_STATIC].contains(&config.config_source)
            });
            let rows: Vec<Vec<String>> = shown
                .map(|config| {
                    let value = if config.is_sensitive { Some("(hidden)") } else { config.value.as_deref() };
                    vec![
                        config.name.to_string(),
                        value.unwrap_or("(none)").to_owned(),
                        source_name(config.config_source).to_owned(),
                        if config.read_only { "read-only" } else { "" }.to_owned(),
                    ]
                })
                .collect();
            println!("{}:", if name.is_empty() { "default" } else { &name });
            println!("{}", table::render(&["KEY", "VALUE", "SOURCE", ""], &rows));
        }
    }
    Ok(())
}

fn source_name(source: i8) -> &'static str {
    match source {
        1 => "topic",
        2 => "broker",
        3 => "all brokers",
        4 => "properties",
        5 => "default",
        7 => "client metrics",
        8 => "group",
        _ => "?",
    }
}

fn quota_type(kind: &str) -> &'static str {
    match kind {
        "users" => "user",
        "clients" => "client-id",
        _ => "ip",
    }
}

fn alter_quotas(cluster: &mut Cluster, arguments: &EntityArguments, entities: &[Entity]) -> Result<()> {
    let mut operations = Vec::new();
    for (key, value) in pairs(&arguments.add_config)? {
        let number: f64 = value
            .parse()
            .map_err(|_| ClientError::Protocol(format!("{key}={value}: a quota is a number")))?;
        operations.push(alter_quotas::OpData::default().with_key(text(&key)).with_value(number));
    }
    let remove = |key: &str| alter_quotas::OpData::default().with_key(text(key)).with_remove(true);
    operations.extend(deletions(arguments).map(remove));
    let mut entity = Vec::new();
    for (kind, name) in entities {
        let name =
            name.as_deref().ok_or_else(|| ClientError::Protocol("--alter needs --entity-name".to_owned()))?;
        entity.push(
            alter_quotas::EntityData::default()
                .with_entity_type(text(quota_type(kind)))
                .with_entity_name((!name.is_empty()).then(|| text(name))),
        );
    }
    let entry = alter_quotas::EntryData::default().with_entity(entity).with_ops(operations);
    let answer =
        cluster.any().call(0, 1, |_| AlterClientQuotasRequest::default().with_entries(vec![entry]))?;
    for entry in answer.entries {
        check("quotas", entry.error_code, entry.error_message.as_deref())?;
    }
    println!("Completed updating quotas.");
    Ok(())
}

fn describe_quotas(cluster: &mut Cluster, entities: &[Entity]) -> Result<()> {
    let components = entities.iter().map(|(kind, name)| {
        let component = ComponentData::default().with_entity_type(text(quota_type(kind)));
        match name.as_deref() {
            None => component.with_match_type(2).with_match(None),
            Some("") => component.with_match_type(1).with_match(None),
            Some(name) => component.with_match_type(0).with_match(Some(text(name))),
        }
    });
    let components: Vec<_> = components.collect();
    let answer = cluster.any().call(0, 1, |_| {
        DescribeClientQuotasRequest::default().with_components(components).with_strict(true)
    })?;
    check("quotas", answer.error_code, answer.error_message.as_deref())?;
    let rows: Vec<Vec<String>> = answer
        .entries
        .unwrap_or_default()
        .iter()
        .map(|entry| {
            let entity = entry.entity.iter().map(|part| {
                format!(
                    "{} {}",
                    part.entity_type.as_str(),
                    part.entity_name.as_deref().unwrap_or("(default)")
                )
            });
            let values = entry.values.iter().map(|value| format!("{}={}", value.key.as_str(), value.value));
            vec![entity.collect::<Vec<_>>().join(", "), values.collect::<Vec<_>>().join(", ")]
        })
        .collect();
    print!("{}", table::render(&["ENTITY", "QUOTAS"], &rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_brackets_keep_their_commas() {
        let read = pairs(&["a=1,cleanup.policy=[compact,delete],b=x=y".to_owned()]).expect("valid");
        let expected = [("a", "1"), ("cleanup.policy", "compact,delete"), ("b", "x=y")];
        assert_eq!(read, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(pairs(&["a".to_owned()]).is_err());
    }
}
