//! Requests that `kafka-protocol` decodes: the gate, the handler's plan, the change, the answer.
//!
//! Owner: the connection's core. Invariant: no byte reaches the generated decoders before `wire::gate`
//! has bounded every length by the frame. It must not hold state between requests.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, OffsetForLeaderEpochRequest, txn_offset_commit_response::TxnOffsetCommitResponseTopic,
};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::control::{NodeInfo, TopicIds};
use super::mutation_quota::{self, Mutations};
use super::{
    Call, ConnectionContext, Handled, Outcome, Refusal, add_partitions_to_txn, api_versions,
    create_partitions, create_topics, delete_records, delete_topics, describe_cluster, describe_configs,
    describe_log_dirs, describe_topic_partitions, describe_transactions, end_txn, find_coordinator,
    init_producer_id, list_offsets, metadata, offset_for_leader_epoch, txn_offset_commit,
};
use crate::catalog::{Catalog, CatalogChange};
use crate::limits::LONG_BODY_BYTES_MIN;
use crate::net::Outgoing;
use crate::rt;
use crate::shard::{ControlError, Shard};
use crate::wire::api_table::{self, SUPPORTED};
use crate::wire::{WireError, gate, newer};

type ShardRef = Rc<Shard>;

fn ranges() -> Vec<(i16, i16, i16)> {
    SUPPORTED.iter().map(|range| (range.key, range.min, range.max)).collect()
}

/// Decodes on the thread that asks.
fn decode_here<T: Decodable>(call: Call, mut body: Bytes) -> Result<T, Refusal> {
    gate::check(call.api_key, call.version, &body)?;
    let version = newer::codec_version(call.api_key, call.version);
    T::decode(&mut body, version).map_err(|_| Refusal::Malformed)
}

/// Makes a computation that a body of `body_len` bytes asks for: for a long one beside the core, which has others to
/// serve.
async fn unless_long<R: Send + 'static>(body_len: usize, work: impl FnOnce() -> R + Send + 'static) -> R {
    match body_len {
        0..LONG_BODY_BYTES_MIN => work(),
        _ => rt::aside(work).await,
    }
}

pub(super) async fn decode<T: Decodable + Send + 'static>(call: Call, body: &[u8]) -> Result<T, Refusal> {
    decode_reduced(call, body, |_| {}).await
}

/// As [`decode`], and what a request says again and again is dropped by `reduce` before the core sees it.
pub(super) async fn decode_reduced<T: Decodable + Send + 'static>(
    call: Call,
    body: &[u8],
    reduce: impl FnOnce(&mut T) + Send + 'static,
) -> Result<T, Refusal> {
    let bytes = Bytes::copy_from_slice(body);
    let reduced = move || {
        let mut request = decode_here(call, bytes)?;
        reduce(&mut request);
        Ok(request)
    };
    unless_long(body.len(), reduced).await
}

/// As [`decode`], where versions that `kafka-protocol` does not know have a decoder of ours.
pub(super) async fn decode_with<T: Decodable + Send + 'static>(
    call: Call,
    body: &[u8],
    newer: impl FnOnce(&[u8]) -> Result<T, WireError>,
) -> Result<T, Refusal> {
    if !newer::is_newer(call.api_key, call.version) {
        return decode(call, body).await;
    }
    gate::check(call.api_key, call.version, body)?;
    Ok(newer(body)?)
}

/// As [`encode`], where versions that `kafka-protocol` does not know have an encoder of ours.
pub(super) fn encode_with<T: Encodable>(
    call: Call,
    response: &T,
    newer: impl FnOnce(&T) -> Vec<u8>,
) -> Handled {
    if !newer::is_newer(call.api_key, call.version) {
        return encode(call, response);
    }
    let body = newer(response);
    Handled::Ready(call.reply(|out| out.extend_from_slice(&body)))
}

pub(super) fn encode<T: Encodable>(call: Call, response: &T) -> Handled {
    encode_here(call, response).handled()
}

/// An answer on its way to the core.
struct Encoded(Option<Vec<u8>>);

impl Encoded {
    fn handled(self) -> Handled {
        match self.0 {
            Some(skeleton) => Handled::Ready(Outgoing { skeleton, ..Outgoing::default() }),
            None => super::close(),
        }
    }
}

fn encode_here<T: Encodable>(call: Call, response: &T) -> Encoded {
    let mut body = BytesMut::new();
    let version = newer::codec_version(call.api_key, call.version);
    if let Err(error) = response.encode(&mut body, version) {
        // Our own response does not fit its own schema: a mistake of ours, seen by the client as a cut.
        tracing::error!(api = call.api_key, version = call.version, "response cannot be encoded: {error}");
        return Encoded(None);
    }
    Encoded(Some(call.reply(|out| out.extend_from_slice(&body)).skeleton))
}

/// An answer that is made of the request and of what the core knows anyway: decoded, made and encoded in one go.
async fn describe<Q: Decodable, A: Encodable>(
    call: Call,
    body: &[u8],
    answer: impl FnOnce(&Q) -> Option<A> + Send + 'static,
) -> Outcome {
    let bytes = Bytes::copy_from_slice(body);
    let encoded = unless_long(body.len(), move || {
        let answer = answer(&decode_here(call, bytes)?).ok_or(Refusal::Malformed)?;
        Ok::<_, Refusal>(encode_here(call, &answer))
    });
    Ok(encoded.await?.handled())
}

/// ApiVersions, the one API that is answered in every version (KIP-511).
pub(super) async fn api_versions(context: &ConnectionContext, call: Call, body: &[u8]) -> Outcome {
    let catalog = &context.shard.catalog();
    let node = &node_info(context, catalog);
    if !api_table::is_supported(call.api_key, call.version) {
        let response = api_versions::respond_unsupported(&ranges());
        let as_version_0 = Call { version: 0, ..call };
        return Ok(encode(as_version_0, &response));
    }
    let mut addressee = None;
    let request: ApiVersionsRequest = decode_with(call, body, |body| {
        let (request, meant) = newer::api_versions_request(body)?;
        addressee = Some(meant);
        Ok(request)
    })
    .await?;
    let response = match addressee.filter(|meant| !api_versions::is_meant(node, meant)) {
        Some(_) => api_versions::rebootstrap(),
        None => api_versions::respond(&ranges(), catalog, &request, call.version),
    };
    Ok(encode(call, &response))
}

pub(super) fn node_info(context: &ConnectionContext, catalog: &Catalog) -> NodeInfo {
    let shard = &context.shard;
    let listener = shard.config.listeners.get(context.listener);
    NodeInfo {
        node_id: shard.config.node_id,
        host: listener.map_or_else(String::new, |listener| listener.advertised_host.clone()),
        port: listener.map_or(0, |listener| listener.advertised_port),
        rack: shard.config.rack.clone(),
        cluster_id: catalog.cluster_id.to_string(),
        endpoints: if shard.config.core_affine_listeners { shard.mesh.cores() } else { 1 },
    }
}

/// Handles a request whose predecessors are all answered.
pub(super) async fn handle(context: &ConnectionContext, call: Call, body: &[u8]) -> Outcome {
    if !api_table::is_supported(call.api_key, call.version) {
        return Err(WireError::UnsupportedVersion { api_key: call.api_key, version: call.version }.into());
    }
    let shard = &context.shard;
    let catalog = shard.catalog();
    match call.api_key {
        api_table::METADATA => metadata(context, call, body).await,
        api_table::CREATE_TOPICS => create_topics(context, call, decode(call, body).await?).await,
        api_table::DELETE_TOPICS => delete_topics(context, call, decode(call, body).await?).await,
        api_table::DELETE_RECORDS => {
            let request: DeleteRecordsRequest = decode(call, body).await?;
            Ok(encode(call, &delete_records::respond(shard, request).await))
        }
        api_table::CREATE_PARTITIONS => create_partitions(context, call, decode(call, body).await?).await,
        api_table::DESCRIBE_CONFIGS => {
            let config = shard.config_now();
            let respond = move |request: &DescribeConfigsRequest| {
                Some(describe_configs::respond(&catalog, &config, request, call.version))
            };
            describe(call, body, respond).await
        }
        api_table::DESCRIBE_CLUSTER => {
            let request: DescribeClusterRequest = decode(call, body).await?;
            Ok(encode(call, &describe_cluster::respond(&node_info(context, &catalog), &request)))
        }
        api_table::DESCRIBE_TOPIC_PARTITIONS => {
            let (config, node) = (shard.config.clone(), node_info(context, &catalog));
            let respond = move |request: &DescribeTopicPartitionsRequest| {
                describe_topic_partitions::respond(&catalog, &config, &node, request)
            };
            describe(call, body, respond).await
        }
        api_table::DESCRIBE_LOG_DIRS => describe_log_dirs(shard, call, decode(call, body).await?).await,
        api_table::LIST_OFFSETS => {
            let request: ListOffsetsRequest = decode(call, body).await?;
            Ok(encode(call, &list_offsets::respond(shard, request, call.version).await))
        }
        api_table::OFFSET_FOR_LEADER_EPOCH => {
            let request: OffsetForLeaderEpochRequest = decode(call, body).await?;
            Ok(encode(call, &offset_for_leader_epoch::respond(shard, request).await))
        }
        api_table::FIND_COORDINATOR => {
            let request: FindCoordinatorRequest = decode(call, body).await?;
            let ready = find_coordinator::prepare(shard, &request).await;
            Ok(encode(
                call,
                &find_coordinator::respond(&node_info(context, &catalog), &request, call.version, ready),
            ))
        }
        api_table::INIT_PRODUCER_ID => {
            let request: InitProducerIdRequest = decode(call, body).await?;
            Ok(encode(call, &init_producer_id::respond(shard, &request, call.version).await))
        }
        api_table::ADD_PARTITIONS_TO_TXN
        | api_table::ADD_OFFSETS_TO_TXN
        | api_table::END_TXN
        | api_table::WRITE_TXN_MARKERS
        | api_table::TXN_OFFSET_COMMIT
        | api_table::DESCRIBE_PRODUCERS
        | api_table::DESCRIBE_TRANSACTIONS
        | api_table::LIST_TRANSACTIONS => transactional(shard, call, body).await,
        _ => super::dispatch_admin::handle(context, call, body).await,
    }
}

/// The APIs of transactions.
async fn transactional(shard: &ShardRef, call: Call, body: &[u8]) -> Outcome {
    Ok(match call.api_key {
        api_table::ADD_PARTITIONS_TO_TXN => {
            let response =
                add_partitions_to_txn::respond(shard, decode(call, body).await?, call.version).await;
            encode(call, &response)
        }
        api_table::ADD_OFFSETS_TO_TXN => {
            let request = decode(call, body).await?;
            encode(call, &add_partitions_to_txn::respond_offsets(shard, &request, call.version).await)
        }
        api_table::END_TXN => {
            encode(call, &end_txn::respond(shard, &decode(call, body).await?, call.version).await)
        }
        api_table::WRITE_TXN_MARKERS => {
            let request = decode_with(call, body, newer::write_txn_markers_request).await?;
            encode(call, &end_txn::write(shard, &request).await)
        }
        api_table::TXN_OFFSET_COMMIT => {
            let topics = TopicIds::new(shard.catalog());
            let request = decode_with(call, body, |body| {
                newer::txn_offset_commit_request(body, |id| topics.name_of(id))
            })
            .await?;
            let response = txn_offset_commit::respond(shard, request, call.version).await;
            encode_with(call, &response, |response| {
                let topic = |topic: &TxnOffsetCommitResponseTopic| {
                    let codes = topic.partitions.iter().map(|one| (one.partition_index, one.error_code));
                    (topics.id_of(&topic.name), codes.collect())
                };
                newer::committed_response(&response.topics.iter().map(topic).collect::<Vec<_>>())
            })
        }
        api_table::DESCRIBE_PRODUCERS => {
            encode(call, &describe_transactions::producers(shard, &decode(call, body).await?).await)
        }
        api_table::DESCRIBE_TRANSACTIONS => {
            encode(call, &describe_transactions::describe(shard, &decode(call, body).await?).await)
        }
        api_table::LIST_TRANSACTIONS => {
            encode(call, &describe_transactions::list(shard, &decode(call, body).await?, call.version).await)
        }
        _ => {
            return Err(WireError::UnsupportedVersion { api_key: call.api_key, version: call.version }.into());
        }
    })
}

/// Lets the control thread make and carry out a plan on the newest catalog; the plan comes back.
pub(super) async fn planned<P: Send + 'static>(
    shard: &Shard,
    make: impl FnOnce(&Catalog) -> (P, Vec<CatalogChange>) + Send + 'static,
) -> Result<(P, Result<(), String>), ControlError> {
    let (sender, made) = flume::bounded(1);
    let outcome = shard
        .control
        .change(move |catalog| {
            let (plan, changes) = make(catalog);
            let _ = sender.send(plan);
            changes
        })
        .await;
    let plan = made.try_recv().map_err(|_| ControlError::Stopping)?;
    Ok((plan, outcome.map(drop).map_err(|error| error.to_string())))
}

async fn metadata(context: &ConnectionContext, call: Call, body: &[u8]) -> Outcome {
    let shard = &context.shard;
    let request: MetadataRequest = decode(call, body).await?;
    let mut missing =
        metadata::topics_to_auto_create(&shard.catalog(), &shard.config, &request, call.version);
    if !missing.is_empty() {
        let config = shard.config.clone();
        let mut mutations = Mutations::begin(context, call).await;
        let each = config.partition_count_default.unsigned_abs() as usize;
        mutations.refuse(&mut missing, |_| each);
        let outcome = shard
            .control
            .change(move |catalog| {
                create_topics::auto_create_changes(catalog, &config, &missing, rt::wall_ms())
            })
            .await;
        if let Err(error) = outcome {
            tracing::warn!("topics were not created automatically: {error}");
        }
        mutations.end(context, false).await;
    }
    let catalog = shard.catalog();
    let node = node_info(context, &catalog);
    let respond = move || encode_here(call, &metadata::respond(&catalog, &node, &request, call.version));
    Ok(unless_long(body.len(), respond).await.handled())
}

async fn create_topics(context: &ConnectionContext, call: Call, mut request: CreateTopicsRequest) -> Outcome {
    let shard = &context.shard;
    let config = shard.config_now();
    let mut mutations = Mutations::begin(context, call).await;
    let catalog = shard.catalog();
    let count = |topic: &CreatableTopic| create_topics::new_partitions(&catalog, &config, topic);
    let refused = mutations.refuse(&mut request.topics, count);
    let dry_run = request.validate_only;
    let (plan, outcome) = planned(shard, move |catalog| {
        let mut plan = create_topics::plan(catalog, &config, &request, call.version, rt::wall_ms());
        let changes = std::mem::take(&mut plan.changes);
        (plan, changes)
    })
    .await?;
    let mut response = create_topics::respond(plan, outcome);
    create_topics::add_refused(&mut response, refused, &mutation_quota::exceeded());
    mutations.end(context, dry_run).await;
    Ok(encode(call, &response))
}

async fn delete_topics(context: &ConnectionContext, call: Call, mut request: DeleteTopicsRequest) -> Outcome {
    let shard = &context.shard;
    let config = shard.config.clone();
    let mut mutations = Mutations::begin(context, call).await;
    let catalog = shard.catalog();
    let mut asked = delete_topics::asked(&request, call.version);
    let refused = mutations.refuse(&mut asked, |state| delete_topics::partitions(&catalog, state));
    delete_topics::set_asked(&mut request, call.version, asked);
    let (plan, outcome) = planned(shard, move |catalog| {
        let mut plan = delete_topics::plan(catalog, &config, &request, call.version);
        let changes = std::mem::take(&mut plan.changes);
        (plan, changes)
    })
    .await?;
    let mut response = delete_topics::respond(plan, outcome);
    delete_topics::add_refused(&mut response, refused, &mutation_quota::exceeded());
    mutations.end(context, false).await;
    Ok(encode(call, &response))
}

async fn create_partitions(
    context: &ConnectionContext,
    call: Call,
    mut request: CreatePartitionsRequest,
) -> Outcome {
    let shard = &context.shard;
    let mut mutations = Mutations::begin(context, call).await;
    let catalog = shard.catalog();
    let count = |topic: &CreatePartitionsTopic| create_partitions::new_partitions(&catalog, topic);
    let refused = mutations.refuse(&mut request.topics, count);
    let dry_run = request.validate_only;
    let (plan, outcome) = planned(shard, move |catalog| {
        let mut plan = create_partitions::plan(catalog, &request);
        let changes = std::mem::take(&mut plan.changes);
        (plan, changes)
    })
    .await?;
    let mut response = create_partitions::respond(plan, outcome);
    create_partitions::add_refused(&mut response, refused, &mutation_quota::exceeded());
    mutations.end(context, dry_run).await;
    Ok(encode(call, &response))
}

async fn describe_log_dirs(shard: &ShardRef, call: Call, request: DescribeLogDirsRequest) -> Outcome {
    let mut sizes = Vec::new();
    for core in 0..shard.mesh.cores() {
        let answer = shard.mesh.call(core, |shard| Box::pin(async move { shard.partition_sizes() })).await;
        sizes.extend(answer.unwrap_or_default().into_iter().map(|size| describe_log_dirs::PartitionSize {
            topic_id: size.topic_id,
            partition: size.partition,
            size_bytes: size.size_bytes,
        }));
    }
    let path = shard.config.data_dir.clone();
    let space = rt::blocking(move || file_system_space(&path)).await;
    let dir = describe_log_dirs::LogDir {
        path: shard.config.data_dir.display().to_string(),
        total_bytes: space.0,
        usable_bytes: space.1,
    };
    let response = describe_log_dirs::respond(&shard.catalog(), &dir, &sizes, &request);
    Ok(encode_with(call, &response, newer::describe_log_dirs_response))
}

/// Size and free bytes of the file system below `path`, -1 each when unknown.
fn file_system_space(path: &std::path::Path) -> (i64, i64) {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return (-1, -1) };
    // SAFETY: a zeroed statvfs is valid, the path is a C string, and the call only fills the structure.
    let (code, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat), stat)
    };
    if code != 0 {
        return (-1, -1);
    }
    let block = stat.f_frsize as i64;
    (stat.f_blocks as i64 * block, stat.f_bavail as i64 * block)
}
