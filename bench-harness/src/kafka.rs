//! The control connection: ApiVersions, Metadata, CreateTopics, DeleteTopics, ListOffsets. Blocking, rare.
//!
//! Owner: the main thread, outside of what is measured. All versions used are the last non-flexible ones or
//! older, and inside what Kafka 4 supports. Must not: be used while load runs on the same thread.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::error::{BenchError, Result, io_err, protocol};
use crate::frame::{CLIENT_ID, PRODUCE_VERSION};
use crate::limits::{CONTROL_REPLY_BYTES_MAX, PARTITIONS_MAX};
use crate::wire::{Reader, Writer};

/// Fetch version used by the consumer; Kafka 4 takes 4 to 18.
pub(crate) const FETCH_VERSION: i16 = 11;
const LIST_OFFSETS_VERSION: i16 = 2;
const METADATA_VERSION: i16 = 4;
const CREATE_TOPICS_VERSION: i16 = 4;
const DELETE_TOPICS_VERSION: i16 = 3;
const DESCRIBE_CONFIGS_VERSION: i16 = 2;
const INCREMENTAL_ALTER_CONFIGS_VERSION: i16 = 0;
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// A topic to be loaded.
#[derive(Debug, Clone)]
pub(crate) struct TopicSpec {
    /// Name.
    pub(crate) name: String,
    /// Partitions when it has to be created.
    pub(crate) partitions: usize,
    /// Topic configuration when it has to be created.
    pub(crate) configs: Vec<(String, String)>,
}

/// A partition and where its leader listens.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    /// Index in the topic.
    pub(crate) index: i32,
    /// The leader's address.
    pub(crate) leader: SocketAddr,
}

/// Configuration that decides how durable an acknowledgement is: kind of resource (2 topic, 4 broker) and key.
const DURABILITY_KEYS: [(i8, &str); 9] = [
    (2, "flush.messages"),
    (2, "flush.ms"),
    (2, "min.insync.replicas"),
    (2, "write.caching"),
    (2, "compression.type"),
    (4, "log.flush.interval.messages"),
    (4, "log.flush.interval.ms"),
    (4, "default.replication.factor"),
    (4, "ringlog.write.caching"),
];

/// What an endpoint says of itself: its API versions, and for one topic how many replicas it has and when it flushes.
/// What it does not tell is `unknown`.
pub(crate) fn describe(bootstrap: &str, topic: &str) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::from([
        ("api_versions".to_owned(), "unknown".to_owned()),
        ("replication.factor".to_owned(), "unknown".to_owned()),
    ]);
    for (kind, key) in DURABILITY_KEYS {
        let kind = if kind == 2 { "topic" } else { "broker" };
        facts.insert(format!("{kind} {key}"), "unknown".to_owned());
    }
    if let Ok(mut control) = Control::connect(bootstrap) {
        // Each question on its own: an endpoint may answer one and refuse the next.
        if let Ok(ranges) = control.versions() {
            let text: Vec<String> =
                ranges.iter().map(|(key, min, max)| format!("{key}:{min}-{max}")).collect();
            facts.insert("api_versions".to_owned(), text.join(" "));
        }
        if let Ok((replicas, broker)) = control.replicas(topic) {
            facts.insert("replication.factor".to_owned(), replicas.to_string());
            control.configs(topic, broker, &mut facts).ok();
        }
    }
    facts
}

/// The same of a topic that is made for the question, with defaults for everything, and deleted again: for what loads
/// several topics.
pub(crate) fn describe_defaults(bootstrap: &str) -> BTreeMap<String, String> {
    let name = format!("ringlog-bench-facts-{}", crate::sys::now_ns());
    let spec = TopicSpec { name: name.clone(), partitions: 1, configs: Vec::new() };
    let made = Control::connect(bootstrap).and_then(|mut control| control.ensure_topic(&spec));
    let facts = describe(bootstrap, &name);
    if made.is_ok()
        && let Err(error) = Control::connect(bootstrap).and_then(|mut control| control.delete_topic(&name))
    {
        eprintln!("topic {name} was not deleted: {error}");
    }
    facts
}

/// A blocking connection for everything that is not load.
#[derive(Debug)]
pub(crate) struct Control {
    stream: TcpStream,
    correlation: i32,
}

/// Resolves `host:port` to its first address that takes connections: `localhost` may stand for `::1`, where
/// nobody listens. When none does, the first one, for its error.
pub(crate) fn resolve(address: &str) -> Result<SocketAddr> {
    let all: Vec<SocketAddr> =
        address.to_socket_addrs().map_err(io_err(format!("resolve {address}")))?.collect();
    let first = *all.first().ok_or_else(|| BenchError::Usage(format!("{address} has no address")))?;
    if all.len() == 1 {
        return Ok(first);
    }
    let open =
        |candidate: &&SocketAddr| TcpStream::connect_timeout(candidate, Duration::from_secs(1)).is_ok();
    Ok(all.iter().find(open).copied().unwrap_or(first))
}

/// Connects within five seconds.
///
/// # Errors
/// When nobody listens. On loopback a port nobody listens on may be given to the very socket that tries to connect to
/// it: that one talks to itself, keeps the port from a server that starts, and counts as refused.
pub(crate) fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    if stream.local_addr()? == target {
        return Err(std::io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

impl Control {
    /// Connects and checks that the endpoint has every API version the harness speaks.
    pub(crate) fn connect(bootstrap: &str) -> Result<Self> {
        let address = resolve(bootstrap)?;
        let stream = connect(address).map_err(io_err(format!("connect to {bootstrap}")))?;
        stream.set_nodelay(true).map_err(io_err("TCP_NODELAY"))?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(io_err("SO_RCVTIMEO"))?;
        let mut control = Self { stream, correlation: 0 };
        control.check_versions()?;
        Ok(control)
    }

    /// Sends one request and waits for its reply, which comes back behind the correlation id.
    pub(crate) fn call(&mut self, api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
        self.correlation += 1;
        let mut frame = Writer::new();
        frame.i32(0).i16(api).i16(version).i32(self.correlation).string(CLIENT_ID);
        frame.bytes.extend_from_slice(body);
        let length = (frame.bytes.len() - 4) as u32;
        frame.bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame.bytes).map_err(io_err(format!("send API {api}")))?;
        let mut head = [0u8; 8];
        self.stream.read_exact(&mut head).map_err(io_err(format!("reply of API {api}")))?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if !(4..=CONTROL_REPLY_BYTES_MAX).contains(&length) {
            return Err(protocol(format!("reply of {length} bytes to API {api}")));
        }
        if head[4..] != self.correlation.to_be_bytes() {
            return Err(protocol(format!("wrong correlation id in the reply of API {api}")));
        }
        let mut reply = Vec::new();
        let want = length - 4;
        (&self.stream)
            .take(want as u64)
            .read_to_end(&mut reply)
            .map_err(io_err(format!("reply of API {api}")))?;
        if reply.len() < want {
            let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(io_err(format!("reply of API {api}"))(cut));
        }
        Ok(reply)
    }

    /// The version ranges of all APIs: key, least, largest.
    fn versions(&mut self) -> Result<Vec<(i16, i16, i16)>> {
        let reply = self.call(18, 0, &[])?;
        let mut reader = Reader::new(&reply);
        let code = reader.i16()?;
        if code != 0 {
            return Err(BenchError::Endpoint { what: "ApiVersions".into(), code });
        }
        let mut ranges = Vec::new();
        for _ in 0..reader.count(6)? {
            ranges.push((reader.i16()?, reader.i16()?, reader.i16()?));
        }
        Ok(ranges)
    }

    fn check_versions(&mut self) -> Result<()> {
        let ranges = self.versions()?;
        for (api, name, version) in [
            (0, "Produce", PRODUCE_VERSION),
            (1, "Fetch", FETCH_VERSION),
            (2, "ListOffsets", LIST_OFFSETS_VERSION),
            (3, "Metadata", METADATA_VERSION),
            (19, "CreateTopics", CREATE_TOPICS_VERSION),
            (20, "DeleteTopics", DELETE_TOPICS_VERSION),
        ] {
            if !ranges.iter().any(|(key, min, max)| *key == api && (*min..=*max).contains(&version)) {
                return Err(protocol(format!("the endpoint does not support {name} v{version}")));
            }
        }
        Ok(())
    }

    /// How many replicas a topic's first partition has, and the id of its leader.
    fn replicas(&mut self, topic: &str) -> Result<(usize, i32)> {
        let mut body = Writer::new();
        body.i32(1).string(topic).i8(0);
        let reply = self.call(3, METADATA_VERSION, &body.bytes)?;
        let mut reader = Reader::new(&reply);
        reader.i32()?;
        for _ in 0..reader.count(12)? {
            reader.i32()?;
            reader.string()?;
            reader.i32()?;
            reader.string()?;
        }
        reader.string()?;
        reader.i32()?;
        if reader.count(9)? == 0 {
            return Err(protocol("no topic in the metadata"));
        }
        reader.i16()?;
        reader.string()?;
        reader.i8()?;
        if reader.count(18)? == 0 {
            return Err(protocol("no partition in the metadata"));
        }
        reader.i16()?;
        reader.i32()?;
        let leader = reader.i32()?;
        Ok((reader.count(4)?, leader))
    }

    /// Fills in the durability keys that DescribeConfigs tells.
    fn configs(&mut self, topic: &str, broker: i32, facts: &mut BTreeMap<String, String>) -> Result<()> {
        let mut body = Writer::new();
        body.i32(2).i8(2).string(topic).i32(-1).i8(4).string(&broker.to_string()).i32(-1).i8(0);
        let reply = self.call(32, DESCRIBE_CONFIGS_VERSION, &body.bytes)?;
        let mut reader = Reader::new(&reply);
        reader.i32()?;
        for _ in 0..reader.count(9)? {
            reader.i16()?;
            reader.string()?;
            let kind = reader.i8()?;
            reader.string()?;
            for _ in 0..reader.count(9)? {
                let key = reader.string()?.unwrap_or_default();
                let value = reader.string()?;
                reader.take(3)?; // read only, source, sensitive
                for _ in 0..reader.count(5)? {
                    reader.string()?;
                    reader.string()?;
                    reader.i8()?;
                }
                if DURABILITY_KEYS.contains(&(kind, key)) {
                    let kind = if kind == 2 { "topic" } else { "broker" };
                    facts.insert(format!("{kind} {key}"), value.unwrap_or("null").to_owned());
                }
            }
        }
        Ok(())
    }

    /// The topic's partitions with their leaders, in index order, or `None` when it does not exist.
    ///
    /// # Errors
    /// On other error codes; a partition without a leader counts as the code 5.
    pub(crate) fn partitions(&mut self, topic: &str) -> Result<Option<Vec<Partition>>> {
        let mut body = Writer::new();
        body.i32(1).string(topic).i8(0);
        let reply = self.call(3, METADATA_VERSION, &body.bytes)?;
        let mut reader = Reader::new(&reply);
        reader.i32()?;
        let mut brokers = Vec::new();
        for _ in 0..reader.count(12)? {
            let id = reader.i32()?;
            let host = reader.string()?.unwrap_or_default().to_owned();
            let port = reader.i32()?;
            reader.string()?;
            brokers.push((id, format!("{host}:{port}")));
        }
        reader.string()?;
        reader.i32()?;
        let mut partitions = Vec::new();
        let mut addresses: Vec<(i32, SocketAddr)> = Vec::new();
        for _ in 0..reader.count(9)? {
            let code = reader.i16()?;
            let name = reader.string()?.unwrap_or_default();
            reader.i8()?;
            if code == 3 {
                return Ok(None);
            }
            if code != 0 {
                return Err(BenchError::Endpoint { what: format!("Metadata of {name}"), code });
            }
            for _ in 0..reader.count(18)? {
                let code = reader.i16()?;
                let index = reader.i32()?;
                let leader = reader.i32()?;
                for _ in 0..2 {
                    let count = reader.count(4)?;
                    reader.take(count * 4)?;
                }
                if leader < 0 || code == 5 {
                    return Err(BenchError::Endpoint { what: format!("leader of {topic}-{index}"), code: 5 });
                }
                let known = addresses.iter().find(|(id, _)| *id == leader).map(|(_, address)| *address);
                let address = match known {
                    Some(address) => address,
                    None => {
                        let host =
                            brokers.iter().find(|(id, _)| *id == leader).map(|(_, host)| host.as_str());
                        let address =
                            resolve(host.ok_or_else(|| protocol("leader is not in the broker list"))?)?;
                        addresses.push((leader, address));
                        address
                    }
                };
                partitions.push(Partition { index, leader: address });
            }
        }
        partitions.sort_by_key(|partition| partition.index);
        Ok(Some(partitions))
    }

    /// Creates the topic unless it exists and waits until every partition has a leader. Tells whether it was
    /// created here.
    pub(crate) fn ensure_topic(&mut self, spec: &TopicSpec) -> Result<(Vec<Partition>, bool)> {
        if spec.partitions == 0 || spec.partitions > PARTITIONS_MAX || spec.name.len() > 249 {
            return Err(BenchError::Usage("topic name or partition count out of bounds".into()));
        }
        if let Some(partitions) = self.partitions(&spec.name)? {
            return Ok((partitions, false));
        }
        let mut body = Writer::new();
        body.i32(1).string(&spec.name).count(spec.partitions).i16(1).i32(0).count(spec.configs.len());
        for (key, value) in &spec.configs {
            body.string(key).string(value);
        }
        body.i32(30_000).i8(0);
        let reply = self.call(19, CREATE_TOPICS_VERSION, &body.bytes)?;
        let mut reader = Reader::new(&reply);
        reader.i32()?;
        for _ in 0..reader.count(6)? {
            let name = reader.string()?.unwrap_or_default();
            let code = reader.i16()?;
            let message = reader.string()?.unwrap_or_default();
            if code != 0 && code != 36 {
                return Err(BenchError::Endpoint { what: format!("CreateTopics {name} {message}"), code });
            }
        }
        Ok((self.settled_partitions(spec)?, true))
    }

    /// Waits until every partition has a leader that answers for it: Metadata may name one that has not
    /// taken over yet.
    fn settled_partitions(&mut self, spec: &TopicSpec) -> Result<Vec<Partition>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let settled = match self.partitions(&spec.name) {
                Ok(Some(partitions)) if partitions.len() == spec.partitions => {
                    Self::list_offsets(&spec.name, &partitions, -1).map(|_| Some(partitions))
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            match settled {
                Ok(Some(partitions)) => return Ok(partitions),
                Ok(None) | Err(BenchError::Endpoint { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(None) => return Err(protocol(format!("{} did not get all its partitions", spec.name))),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets topic configuration, or takes settings back where the value is `None`.
    ///
    /// # Errors
    /// When the endpoint refuses one.
    pub(crate) fn alter_topic(&mut self, topic: &str, configs: &[(&str, Option<&str>)]) -> Result<()> {
        let mut body = Writer::new();
        body.i32(1).i8(2).string(topic).count(configs.len());
        for (key, value) in configs {
            body.string(key).i8(i8::from(value.is_none()));
            match value {
                Some(value) => body.string(value),
                None => body.null_string(),
            };
        }
        body.i8(0);
        let reply = self.call(44, INCREMENTAL_ALTER_CONFIGS_VERSION, &body.bytes)?;
        let mut reader = Reader::new(&reply);
        reader.i32()?;
        for _ in 0..reader.count(7)? {
            let code = reader.i16()?;
            let message = reader.string()?.unwrap_or_default().to_owned();
            reader.i8()?;
            reader.string()?;
            if code != 0 {
                return Err(BenchError::Endpoint { what: format!("configure {topic} {message}"), code });
            }
        }
        Ok(())
    }

    /// Deletes a topic.
    pub(crate) fn delete_topic(&mut self, topic: &str) -> Result<()> {
        let mut body = Writer::new();
        body.i32(1).string(topic).i32(30_000);
        let reply = self.call(20, DELETE_TOPICS_VERSION, &body.bytes)?;
        let mut reader = Reader::new(&reply);
        reader.i32()?;
        for _ in 0..reader.count(4)? {
            reader.string()?;
            let code = reader.i16()?;
            if code != 0 && code != 3 {
                return Err(BenchError::Endpoint { what: format!("DeleteTopics {topic}"), code });
            }
        }
        Ok(())
    }

    /// Offsets by timestamp of all partitions: -1 latest, -2 earliest. The order is that of `partitions`.
    /// Asks each leader in turn.
    pub(crate) fn list_offsets(topic: &str, partitions: &[Partition], timestamp_ms: i64) -> Result<Vec<i64>> {
        let mut leaders: Vec<SocketAddr> = partitions.iter().map(|partition| partition.leader).collect();
        leaders.sort_unstable();
        leaders.dedup();
        let mut offsets = vec![-1; partitions.len()];
        for leader in leaders {
            let mine: Vec<i32> =
                partitions.iter().filter(|part| part.leader == leader).map(|part| part.index).collect();
            let mut control = Self::connect(&leader.to_string())?;
            let mut body = Writer::new();
            body.i32(-1).i8(0).i32(1).string(topic).count(mine.len());
            for index in &mine {
                body.i32(*index).i64(timestamp_ms);
            }
            let reply = control.call(2, LIST_OFFSETS_VERSION, &body.bytes)?;
            let mut reader = Reader::new(&reply);
            reader.i32()?;
            for _ in 0..reader.count(6)? {
                reader.string()?;
                for _ in 0..reader.count(22)? {
                    let index = reader.i32()?;
                    let code = reader.i16()?;
                    reader.i64()?;
                    let offset = reader.i64()?;
                    if code != 0 {
                        return Err(BenchError::Endpoint {
                            what: format!("ListOffsets {topic}-{index}"),
                            code,
                        });
                    }
                    if let Some(at) = partitions.iter().position(|part| part.index == index) {
                        offsets[at] = offset;
                    }
                }
            }
        }
        Ok(offsets)
    }
}
