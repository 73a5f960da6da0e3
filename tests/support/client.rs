//! A small blocking client: one connection, frames out, frames in, requests by name of the generated types.
//!
//! Owner: one thread. Invariants: answers come in the order of requests, which is checked by correlation id; a
//! socket never waits longer than [`PATIENCE`](super::PATIENCE). It must not retry or reconnect by itself.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::alter_client_quotas_request as quotas;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, CreateTopicsRequest,
    DeleteTopicsRequest, FetchRequest, FetchResponse, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest, ProduceRequest, ProduceResponse,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use uuid::Uuid;

use super::batches::{self, Fetched};

pub const PRODUCE_VERSION: i16 = 9;
pub const FETCH_VERSION: i16 = 12;
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// What one partition of a fetch came to.
#[derive(Clone, Debug)]
pub struct Read1 {
    /// Kafka error code.
    pub error: i16,
    /// High watermark.
    pub high_watermark: i64,
    /// Log start offset.
    pub log_start: i64,
    /// The records' bytes.
    pub records: Bytes,
}

impl Read1 {
    /// The batches; fails the test when the bytes are no batches.
    pub fn batches(&self) -> Vec<Fetched> {
        batches::split(&self.records).expect("whole batches")
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    next_id: i32,
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn bad(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl Client {
    /// Connects to a port of this machine.
    pub fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(super::PATIENCE))?;
        stream.set_write_timeout(Some(super::PATIENCE))?;
        Ok(Client { stream, next_id: 1 })
    }

    /// The port of the broker.
    pub fn port(&self) -> u16 {
        self.stream.peer_addr().expect("a connection").port()
    }

    /// How long a receive may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).expect("a time-out");
        self.stream.set_write_timeout(Some(timeout)).expect("a time-out");
    }

    /// The socket, for tests that misbehave.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends one request; returns its correlation id.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<i32> {
        let id = self.next_id;
        self.next_id += 1;
        let frame = frame_of(id, version, request);
        self.stream.write_all(&frame)?;
        Ok(id)
    }

    /// Receives the next frame without its length.
    pub fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let size = usize::try_from(i32::from_be_bytes(prefix)).map_err(bad)?;
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    /// Receives the answer to request `id`.
    pub fn receive<R: Request>(&mut self, version: i16, id: i32) -> io::Result<R::Response> {
        let mut frame = self.receive_frame()?;
        let key = ApiKey::try_from(R::KEY).map_err(|_| bad("API key"))?;
        let header = ResponseHeader::decode(&mut frame, key.response_header_version(version)).map_err(bad)?;
        if header.correlation_id != id {
            return Err(bad(format!("answer to {} instead of {id}", header.correlation_id)));
        }
        let response = R::Response::decode(&mut frame, version).map_err(bad)?;
        if !frame.is_empty() {
            return Err(bad(format!("{} bytes behind the response", frame.len())));
        }
        Ok(response)
    }

    /// Sends and receives.
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let id = self.send(version, request)?;
        self.receive::<R>(version, id)
    }

    /// Sends a body of a flexible version as it is, for versions that the generated types do not know; the answer's.
    pub fn call_bytes(&mut self, api_key: i16, version: i16, body: &[u8]) -> io::Result<Bytes> {
        let id = self.next_id;
        self.next_id += 1;
        let size = 11 + body.len() as i32;
        let mut frame = size.to_be_bytes().to_vec();
        frame.extend(api_key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend(id.to_be_bytes());
        // No client id, no tagged fields.
        frame.extend([0xff, 0xff, 0]);
        frame.extend(body);
        self.stream.write_all(&frame)?;
        let answer = self.receive_frame()?;
        if answer.get(..4) != Some(&id.to_be_bytes()[..]) {
            return Err(bad("answer to another request"));
        }
        // ApiVersions has no tagged fields in its header, whatever the version.
        Ok(answer.slice(if api_key == 18 { 4 } else { 5 }..))
    }

    /// ApiVersions.
    pub fn api_versions(&mut self) -> io::Result<ApiVersionsResponse> {
        self.call(0, &ApiVersionsRequest::default())
    }

    /// Creates a topic; returns the error code.
    pub fn try_create(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> io::Result<i16> {
        let configs = configs.iter().map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*key).to_owned()))
                .with_value(Some(StrBytes::from_string((*value).to_owned())))
        });
        let topic = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        Ok(self.call(5, &request)?.topics[0].error_code)
    }

    /// Creates a topic; fails the test when that is refused.
    pub fn create(&mut self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        assert_eq!(self.try_create(topic, partitions, configs).expect("an answer"), 0, "create {topic}");
    }

    /// Deletes a topic; fails the test when that is refused.
    pub fn delete(&mut self, topic: &str) {
        let request =
            DeleteTopicsRequest::default().with_topic_names(vec![name(topic)]).with_timeout_ms(30_000);
        let response = self.call(4, &request).expect("an answer");
        assert_eq!(response.responses[0].error_code, 0, "delete {topic}");
    }

    /// Metadata of some topics.
    pub fn metadata(&mut self, topics: &[&str]) -> MetadataResponse {
        let topics = topics.iter().map(|topic| {
            kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
                .with_name(Some(name(topic)))
        });
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            .with_allow_auto_topic_creation(false);
        self.call(9, &request).expect("metadata")
    }

    /// Id of a topic that is there.
    pub fn topic_id(&mut self, topic: &str) -> Uuid {
        let asked = kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
            .with_name(Some(name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![asked]));
        // Version 10 is the first that has it.
        self.call(12, &request).expect("metadata").topics[0].topic_id
    }

    /// Leader epoch of a partition.
    pub fn leader_epoch(&mut self, topic: &str, partition: i32) -> i32 {
        let response = self.metadata(&[topic]);
        let found = response.topics[0].partitions.iter().find(|p| p.partition_index == partition);
        found.expect("the partition").leader_epoch
    }

    /// A producer id and epoch.
    pub fn init_producer(&mut self) -> (i64, i16) {
        let request =
            InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
        let response = self.call(3, &request).expect("a producer id");
        assert_eq!(response.error_code, 0, "InitProducerId");
        (response.producer_id.0, response.producer_epoch)
    }

    /// Sends a batch; answer with [`Client::produced`].
    pub fn send_produce(&mut self, topic: &str, partition: i32, acks: i16, batch: &[u8]) -> io::Result<i32> {
        self.send(PRODUCE_VERSION, &produce_request(&[(topic, partition, batch)], acks))
    }

    /// Receives a produce's answer: error code and base offset.
    pub fn produced(&mut self, id: i32) -> io::Result<(i16, i64)> {
        let response = self.receive::<ProduceRequest>(PRODUCE_VERSION, id)?;
        let one = produce_results(&response);
        Ok((one[0].2, one[0].3))
    }

    /// Produces one batch: error code and base offset.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        acks: i16,
        batch: &[u8],
    ) -> io::Result<(i16, i64)> {
        let id = self.send_produce(topic, partition, acks, batch)?;
        self.produced(id)
    }

    /// Produces one batch that has to be accepted; returns its base offset.
    pub fn append(&mut self, topic: &str, partition: i32, acks: i16, batch: &[u8]) -> i64 {
        let (error, offset) = self.produce(topic, partition, acks, batch).expect("an answer");
        assert_eq!(error, 0, "produce to {topic}-{partition}");
        offset
    }

    /// Fetches one partition.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64, wait_ms: i32) -> io::Result<Read1> {
        let request = fetch_request(&[(topic, partition, offset)], wait_ms, 1, 8 << 20);
        let response = self.call(FETCH_VERSION, &request)?;
        if response.error_code != 0 || response.responses.is_empty() {
            return Err(bad(format!("fetch error {}", response.error_code)));
        }
        Ok(read_results(&response).remove(0).2)
    }

    /// An offset by timestamp, [`LATEST`] or [`EARLIEST`].
    pub fn offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> i64 {
        self.try_offset(topic, partition, timestamp).expect("an answer")
    }

    /// The same, where the broker may be gone.
    pub fn try_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> io::Result<i64> {
        let one = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![one]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let response = self.call(6, &request)?;
        let found = &response.topics[0].partitions[0];
        assert_eq!(found.error_code, 0, "ListOffsets");
        Ok(found.offset)
    }

    /// OffsetForLeaderEpoch: error code, epoch, end offset.
    pub fn epoch_end(&mut self, topic: &str, partition: i32, current: i32, epoch: i32) -> (i16, i32, i64) {
        let one = OffsetForLeaderPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(current)
            .with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![one]);
        let request =
            OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let response = self.call(4, &request).expect("an answer");
        let found = &response.topics[0].partitions[0];
        (found.error_code, found.leader_epoch, found.end_offset)
    }

    /// All batches from `offset` up to the high watermark. Errors: in words, also for a fetch that gets stuck.
    pub fn read_from(&mut self, topic: &str, partition: i32, offset: i64) -> Result<Vec<Fetched>, String> {
        let mut found = Vec::new();
        let mut at = offset;
        loop {
            let read =
                self.fetch(topic, partition, at, 0).map_err(|error| format!("fetch at {at}: {error}"))?;
            if read.error != 0 {
                return Err(format!("fetch at offset {at}: error {}", read.error));
            }
            let batches = batches::split(&read.records)?;
            match batches.last() {
                Some(last) if last.info.next_offset() > at => at = last.info.next_offset(),
                Some(_) => return Err(format!("a fetch at offset {at} returned only earlier batches")),
                None if at >= read.high_watermark => return Ok(found),
                None => {
                    return Err(format!(
                        "nothing at offset {at} below the watermark {}",
                        read.high_watermark
                    ));
                }
            }
            found.extend(batches);
        }
    }
}

/// A whole request frame with its length.
pub fn frame_of<R: Request>(id: i32, version: i16, request: &R) -> Bytes {
    frame_from("black-box", id, version, request)
}

/// As [`frame_of`], from a client of this name.
pub fn frame_from<R: Request>(client_id: &'static str, id: i32, version: i16, request: &R) -> Bytes {
    let key = ApiKey::try_from(R::KEY).expect("a known key");
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(id)
        .with_client_id(Some(StrBytes::from_static_str(client_id)));
    let mut out = BytesMut::from(&[0; 4][..]);
    header.encode(&mut out, key.request_header_version(version)).expect("a header");
    request.encode(&mut out, version).expect("a request");
    let size = (out.len() - 4) as i32;
    out[..4].copy_from_slice(&size.to_be_bytes());
    out.freeze()
}

/// Sets a quota, or removes it; the error code.
pub fn set_quota(client: &mut Client, entity: &[(&str, Option<&str>)], key: &str, value: Option<f64>) -> i16 {
    let text = |value: &str| StrBytes::from_string(value.to_owned());
    let entity = entity.iter().map(|(kind, name)| {
        quotas::EntityData::default().with_entity_type(text(kind)).with_entity_name(name.map(text))
    });
    let operation = quotas::OpData::default()
        .with_key(text(key))
        .with_value(value.unwrap_or(0.0))
        .with_remove(value.is_none());
    let entry = quotas::EntryData::default().with_entity(entity.collect()).with_ops(vec![operation]);
    let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
    client.call(1, &request).expect("an answer").entries[0].error_code
}

/// A produce of some batches: topic, partition, batch.
pub fn produce_request(parts: &[(&str, i32, &[u8])], acks: i16) -> ProduceRequest {
    let topics = parts.iter().map(|(topic, partition, batch)| {
        let data = PartitionProduceData::default()
            .with_index(*partition)
            .with_records(Some(Bytes::copy_from_slice(batch)));
        TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data])
    });
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(topics.collect())
}

/// Topic, partition, error code and base offset of each part of an answer.
pub fn produce_results(response: &ProduceResponse) -> Vec<(String, i32, i16, i64)> {
    let topics = response.responses.iter();
    topics
        .flat_map(|topic| {
            let name = topic.name.to_string();
            topic
                .partition_responses
                .iter()
                .map(move |p| (name.clone(), p.index, p.error_code, p.base_offset))
        })
        .collect()
}

/// A fetch of some partitions (topic, partition, offset) without a session.
pub fn fetch_request(
    parts: &[(&str, i32, i64)],
    wait_ms: i32,
    min_bytes: i32,
    max_bytes: i32,
) -> FetchRequest {
    let topics = parts.iter().map(|(topic, partition, offset)| {
        let one = FetchPartition::default()
            .with_partition(*partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(*offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(max_bytes);
        FetchTopic::default().with_topic(name(topic)).with_partitions(vec![one])
    });
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(max_bytes)
        .with_session_epoch(-1)
        .with_topics(topics.collect())
}

/// Topic, partition and content of each part of an answer.
pub fn read_results(response: &FetchResponse) -> Vec<(String, i32, Read1)> {
    let topics = response.responses.iter();
    topics
        .flat_map(|topic| {
            let name = topic.topic.to_string();
            topic.partitions.iter().map(move |p| {
                let read = Read1 {
                    error: p.error_code,
                    high_watermark: p.high_watermark,
                    log_start: p.log_start_offset,
                    records: p.records.clone().unwrap_or_default(),
                };
                (name.clone(), p.partition_index, read)
            })
        })
        .collect()
}
