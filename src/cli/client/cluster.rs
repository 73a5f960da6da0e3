//! The brokers of a cluster, and who leads what.
//!
//! Owner: the command that runs. Invariants: one connection a broker, opened when it is first needed. Must not: retry
//! on its own; a command is run again by whoever ran it.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    FindCoordinatorRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, TopicName,
};

use super::{ClientError, Connection, Result, check, text};

/// A partition by topic name and index.
pub(in crate::cli) type PartitionId = (String, i32);

/// How to reach a cluster; shared by all commands.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Endpoint {
    /// Brokers to connect to, as host:port, comma-separated
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub(in crate::cli) bootstrap_server: String,
    /// How long an answer may take, in milliseconds
    #[arg(long = "timeout", value_name = "MS", default_value_t = 30_000)]
    pub(in crate::cli) request_timeout_ms: u64,
}

/// A cluster, by way of one broker that answered.
pub(in crate::cli) struct Cluster {
    timeout: Duration,
    first: Connection,
    brokers: BTreeMap<i32, String>,
    connections: BTreeMap<i32, Connection>,
}

impl Cluster {
    /// Connects to the first of the given brokers that answers.
    pub(in crate::cli) fn connect(endpoint: &Endpoint) -> Result<Cluster> {
        let timeout = Duration::from_millis(endpoint.request_timeout_ms.max(1));
        let mut problem = ClientError::Protocol("--bootstrap-server names no broker".to_owned());
        for address in endpoint.bootstrap_server.split(',').map(str::trim).filter(|a| !a.is_empty()) {
            let address = if address.contains(':') { address.to_owned() } else { format!("{address}:9092") };
            match Connection::open(&address, timeout) {
                Ok(first) => {
                    let (brokers, connections) = Default::default();
                    let mut cluster = Cluster { timeout, first, brokers, connections };
                    cluster.metadata(Some(&[]))?;
                    return Ok(cluster);
                }
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// Any broker.
    pub(in crate::cli) fn any(&mut self) -> &mut Connection {
        &mut self.first
    }

    /// The ids of all brokers.
    pub(in crate::cli) fn broker_ids(&self) -> Vec<i32> {
        self.brokers.keys().copied().collect()
    }

    /// A broker by its id.
    pub(in crate::cli) fn broker(&mut self, id: i32) -> Result<&mut Connection> {
        use std::collections::btree_map::Entry;
        match self.connections.entry(id) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(place) => {
                let address = self.brokers.get(&id);
                let address =
                    address.ok_or_else(|| ClientError::Protocol(format!("broker {id} is not known")))?;
                Ok(place.insert(Connection::open(address, self.timeout)?))
            }
        }
    }

    /// Topics by name, or all of them.
    pub(in crate::cli) fn metadata(&mut self, topics: Option<&[&str]>) -> Result<MetadataResponse> {
        let answer = self.first.call(1, 12, |version| {
            let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
            let request = MetadataRequest::default()
                .with_topics(topics.map(|topics| topics.iter().map(topic).collect()));
            if version >= 4 { request.with_allow_auto_topic_creation(false) } else { request }
        })?;
        for broker in &answer.brokers {
            let host = broker.host.as_str();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            self.brokers.insert(broker.node_id.0, format!("{host}:{}", broker.port));
        }
        Ok(answer)
    }

    /// The partitions of topics, each with its leader; an unknown topic is an error.
    pub(in crate::cli) fn leaders(&mut self, topics: &[&str]) -> Result<BTreeMap<PartitionId, i32>> {
        let mut leaders = BTreeMap::new();
        for topic in self.metadata(Some(topics))?.topics {
            let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
            check(&format!("topic {name}"), topic.error_code, None)?;
            for partition in topic.partitions {
                leaders.insert((name.clone(), partition.partition_index), partition.leader_id.0);
            }
        }
        Ok(leaders)
    }

    /// Offsets by timestamp: -1 for the end, -2 for the beginning, else the first record not older than that time.
    /// A partition without such a record has offset -1.
    pub(in crate::cli) fn offsets(
        &mut self,
        partitions: &BTreeMap<PartitionId, i64>,
        read_committed: bool,
    ) -> Result<BTreeMap<PartitionId, i64>> {
        let topics: Vec<&str> = partitions.keys().map(|(topic, _)| topic.as_str()).collect();
        let leaders = self.leaders(&topics)?;
        let mut by_leader: BTreeMap<i32, Vec<(&PartitionId, i64)>> = BTreeMap::new();
        for (partition, timestamp) in partitions {
            let leader = leaders.get(partition).copied().ok_or_else(|| {
                ClientError::Protocol(format!("partition {}-{} does not exist", partition.0, partition.1))
            })?;
            by_leader.entry(leader).or_default().push((partition, *timestamp));
        }
        let mut offsets = BTreeMap::new();
        for (leader, wanted) in by_leader {
            let answer = self.broker(leader)?.call(1, 7, |version| {
                let topics = wanted.chunk_by(|a, b| a.0.0 == b.0.0).map(|chunk| {
                    let partitions = chunk.iter().map(|(partition, timestamp)| {
                        ListOffsetsPartition::default()
                            .with_partition_index(partition.1)
                            .with_timestamp(*timestamp)
                    });
                    ListOffsetsTopic::default()
                        .with_name(TopicName(text(&chunk[0].0.0)))
                        .with_partitions(partitions.collect())
                });
                let request =
                    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics.collect());
                if version >= 2 { request.with_isolation_level(read_committed.into()) } else { request }
            })?;
            for topic in answer.topics {
                for partition in topic.partitions {
                    let id = (topic.name.to_string(), partition.partition_index);
                    check(&format!("offsets of {}-{}", id.0, id.1), partition.error_code, None)?;
                    offsets.insert(id, partition.offset);
                }
            }
        }
        Ok(offsets)
    }

    /// The broker that coordinates a group.
    pub(in crate::cli) fn coordinator(&mut self, group: &str) -> Result<&mut Connection> {
        // A fresh cluster creates the topic of the offsets now, which takes a moment.
        const COORDINATOR_NOT_AVAILABLE: i16 = 15;
        let mut tries_left = 50;
        loop {
            let answer = self.first.call(0, 3, |version| {
                let request = FindCoordinatorRequest::default().with_key(text(group));
                if version >= 1 { request.with_key_type(0) } else { request }
            })?;
            if answer.error_code == COORDINATOR_NOT_AVAILABLE && tries_left > 0 {
                tries_left -= 1;
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
            check(&format!("coordinator of {group}"), answer.error_code, answer.error_message.as_deref())?;
            let id = answer.node_id.0;
            self.brokers.insert(id, format!("{}:{}", answer.host.as_str(), answer.port));
            return self.broker(id);
        }
    }
}
