//! `ringlog topic`: list, describe, create, alter and delete topics, with the flags of Kafka's `kafka-topics`.
//!
//! Owner: the command that runs. Must not: ask for anything twice.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    TopicName,
};

use super::client::{ClientError, Cluster, Endpoint, Result, check, text};
use super::table;

const TOPIC_ALREADY_EXISTS: i16 = 36;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Kafka's number for a configuration that was set on the topic itself.
const SOURCE_TOPIC: i8 = 1;
const RESOURCE_TOPIC: i8 = 2;

#[derive(clap::Args)]
pub(super) struct TopicArguments {
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    action: Action,
    /// The topic; a comma-separated list where several make sense
    #[arg(long)]
    topic: Option<String>,
    /// How many partitions to create, or to have after --alter
    #[arg(long)]
    partitions: Option<i32>,
    /// How many brokers hold each partition
    #[arg(long)]
    replication_factor: Option<i16>,
    /// Brokers of each partition, as 1:2,2:3
    #[arg(long, value_name = "BROKERS", conflicts_with_all = ["partitions", "replication_factor"])]
    replica_assignment: Option<String>,
    /// A configuration of the new topic; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Creating a topic that exists is no error
    #[arg(long)]
    if_not_exists: bool,
    /// Altering or deleting a topic that does not exist is no error
    #[arg(long)]
    if_exists: bool,
    /// Leave out internal topics
    #[arg(long)]
    exclude_internal: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Action {
    /// Names of all topics
    #[arg(long)]
    list: bool,
    /// Partitions, replicas and configurations
    #[arg(long)]
    describe: bool,
    /// Create a topic
    #[arg(long)]
    create: bool,
    /// Change the number of partitions
    #[arg(long)]
    alter: bool,
    /// Delete topics
    #[arg(long)]
    delete: bool,
}

pub(super) fn run(arguments: &TopicArguments) -> Result<()> {
    let mut cluster = Cluster::connect(&arguments.endpoint)?;
    let action = &arguments.action;
    if action.list {
        for topic in selected(&mut cluster, arguments)? {
            println!("{}", topic.name.map(|name| name.to_string()).unwrap_or_default());
        }
        Ok(())
    } else if action.describe {
        describe(&mut cluster, arguments)
    } else if action.create {
        create(&mut cluster, arguments)
    } else if action.alter {
        alter(&mut cluster, arguments)
    } else {
        delete(&mut cluster, arguments)
    }
}

fn names(arguments: &TopicArguments) -> Result<Vec<&str>> {
    let names: Vec<&str> = arguments.topic.iter().flat_map(|list| list.split(',')).map(str::trim).collect();
    match names.is_empty() {
        true => Err(ClientError::Protocol("--topic is missing".to_owned())),
        false => Ok(names),
    }
}

/// The topics that were named, or all of them, ordered by name.
fn selected(cluster: &mut Cluster, arguments: &TopicArguments) -> Result<Vec<MetadataResponseTopic>> {
    let wanted = arguments.topic.as_ref().map(|_| names(arguments)).transpose()?;
    let mut topics = cluster.metadata(wanted.as_deref())?.topics;
    topics.retain(|topic| !(arguments.exclude_internal && topic.is_internal));
    if arguments.if_exists {
        topics.retain(|topic| topic.error_code != UNKNOWN_TOPIC_OR_PARTITION);
    }
    for topic in &topics {
        let name = topic.name.as_ref().map_or("", |name| name.as_str());
        check(&format!("topic {name}"), topic.error_code, None)?;
    }
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

fn describe(cluster: &mut Cluster, arguments: &TopicArguments) -> Result<()> {
    let topics = selected(cluster, arguments)?;
    let mut configs = configs_of(cluster, &topics)?;
    for topic in topics {
        let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
        let factor =
            topic.partitions.iter().map(|partition| partition.replica_nodes.len()).max().unwrap_or(0);
        let set = configs.remove(&name).unwrap_or_default();
        println!(
            "Topic: {name}  TopicId: {}  PartitionCount: {}  ReplicationFactor: {factor}  Configs: {}",
            crate::shard::kafka_uuid(topic.topic_id),
            topic.partitions.len(),
            if set.is_empty() { "-".to_owned() } else { set.join(",") },
        );
        let ids =
            |nodes: &[BrokerId]| nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(",");
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|partition| partition.partition_index);
        let rows: Vec<Vec<String>> = partitions
            .iter()
            .map(|partition| {
                let leader = partition.leader_id.0;
                vec![
                    partition.partition_index.to_string(),
                    if leader < 0 { "none".to_owned() } else { leader.to_string() },
                    partition.leader_epoch.to_string(),
                    ids(&partition.replica_nodes),
                    ids(&partition.isr_nodes),
                    ids(&partition.offline_replicas),
                ]
            })
            .collect();
        println!("{}", table::render(&["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "OFFLINE"], &rows));
    }
    Ok(())
}

/// What was set on each topic itself, as `key=value`.
fn configs_of(
    cluster: &mut Cluster,
    topics: &[MetadataResponseTopic],
) -> Result<BTreeMap<String, Vec<String>>> {
    let resources = topics.iter().filter_map(|topic| topic.name.as_ref()).map(|name| {
        DescribeConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(name.0.clone())
            .with_configuration_keys(None)
    });
    let resources: Vec<_> = resources.collect();
    if resources.is_empty() {
        return Ok(BTreeMap::new());
    }
    let answer = cluster.any().call(1, 4, |_| DescribeConfigsRequest::default().with_resources(resources))?;
    Ok(answer
        .results
        .into_iter()
        .map(|result| {
            let set = result.configs.iter().filter(|config| config.config_source == SOURCE_TOPIC);
            let shown = set
                .map(|config| format!("{}={}", config.name.as_str(), config.value.as_deref().unwrap_or("")));
            (result.resource_name.to_string(), shown.collect())
        })
        .collect())
}

/// `1:2,2:3` as the brokers of partitions 0 and 1.
fn assignment(value: &str) -> Result<Vec<Vec<BrokerId>>> {
    let wrong = || ClientError::Protocol(format!("--replica-assignment {value}: expected 1:2,2:3"));
    value
        .split(',')
        .map(|partition| {
            partition.split(':').map(|id| id.trim().parse().map(BrokerId).map_err(|_| wrong())).collect()
        })
        .collect()
}

fn create(cluster: &mut Cluster, arguments: &TopicArguments) -> Result<()> {
    let mut configs = Vec::new();
    for config in &arguments.config {
        let (key, value) = config
            .split_once('=')
            .ok_or_else(|| ClientError::Protocol(format!("--config {config}: expected KEY=VALUE")))?;
        configs.push(CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
    }
    let mut assignments = Vec::new();
    for (index, brokers) in arguments
        .replica_assignment
        .iter()
        .map(|v| assignment(v))
        .collect::<Result<Vec<_>>>()?
        .concat()
        .into_iter()
        .enumerate()
    {
        assignments.push(
            CreatableReplicaAssignment::default().with_partition_index(index as i32).with_broker_ids(brokers),
        );
    }
    let topics = names(arguments)?.into_iter().map(|name| {
        CreatableTopic::default()
            .with_name(TopicName(text(name)))
            .with_num_partitions(arguments.partitions.unwrap_or(-1))
            .with_replication_factor(arguments.replication_factor.unwrap_or(-1))
            .with_assignments(assignments.clone())
            .with_configs(configs.clone())
    });
    let topics: Vec<_> = topics.collect();
    let timeout_ms = timeout_ms(arguments);
    let answer = cluster
        .any()
        .call(4, 7, |_| CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(timeout_ms))?;
    for topic in answer.topics {
        if topic.error_code == TOPIC_ALREADY_EXISTS && arguments.if_not_exists {
            continue;
        }
        let name = topic.name.as_str();
        check(&format!("topic {name}"), topic.error_code, topic.error_message.as_deref())?;
        println!("Created topic {name}.");
    }
    Ok(())
}

fn timeout_ms(arguments: &TopicArguments) -> i32 {
    i32::try_from(arguments.endpoint.request_timeout_ms).unwrap_or(i32::MAX)
}

fn alter(cluster: &mut Cluster, arguments: &TopicArguments) -> Result<()> {
    let count = arguments.partitions.ok_or_else(|| {
        ClientError::Protocol("--alter changes the number of partitions: --partitions".to_owned())
    })?;
    let topics = selected(cluster, arguments)?.into_iter().filter_map(|topic| topic.name).map(|name| {
        CreatePartitionsTopic::default().with_name(name).with_count(count).with_assignments(None)
    });
    let topics: Vec<_> = topics.collect();
    if topics.is_empty() {
        return Ok(());
    }
    let timeout_ms = timeout_ms(arguments);
    let answer = cluster
        .any()
        .call(0, 3, |_| CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(timeout_ms))?;
    for result in answer.results {
        let name = result.name.as_str();
        check(&format!("topic {name}"), result.error_code, result.error_message.as_deref())?;
        println!("Topic {name} has {count} partitions.");
    }
    Ok(())
}

fn delete(cluster: &mut Cluster, arguments: &TopicArguments) -> Result<()> {
    let names = names(arguments)?.into_iter().map(|name| TopicName(text(name))).collect();
    let timeout_ms = timeout_ms(arguments);
    let answer = cluster
        .any()
        .call(1, 5, |_| DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(timeout_ms))?;
    for result in answer.responses {
        if result.error_code == UNKNOWN_TOPIC_OR_PARTITION && arguments.if_exists {
            continue;
        }
        let name = result.name.map(|name| name.to_string()).unwrap_or_default();
        check(&format!("topic {name}"), result.error_code, result.error_message.as_deref())?;
        println!("Deleted topic {name}.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_lists_of_brokers() {
        let read = assignment("1:2,3").expect("valid");
        assert_eq!(read, [vec![BrokerId(1), BrokerId(2)], vec![BrokerId(3)]]);
        assert!(assignment("1:x").is_err());
    }
}
