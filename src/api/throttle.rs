//! Client quotas at work: what a request used is put on its client's account, the answer says how long to pause
//! (`throttle_time_ms`), and the connection is not read for that long (KIP-219).
//!
//! Owner: the connection's core; the account is on the limit's home core. Invariants: without quotas for clients a
//! request costs one flag; a throttled answer is sent at once. Approximations: the time of a request is what its
//! futures took on the connection's core, work on other cores is not seen; bytes are counted when the answer is
//! ready. Must not: delay or refuse a request.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{Call, Handled};
use crate::net::Outgoing;
use crate::quota::{ClientLimits, Limit, Quotas};
use crate::rt;
use crate::shard::Shard;
use crate::wire::api_table::*;
use crate::wire::header::response_header_version;

/// Who a client is while there is no authentication.
const ANONYMOUS: &str = "ANONYMOUS";

/// First versions whose answer begins with `throttle_time_ms`. Produce has it at its end.
#[rustfmt::skip]
const THROTTLE_FIRST_SINCE: &[(i16, i16)] = &[
    (FETCH, 1), (LIST_OFFSETS, 2), (METADATA, 3), (FIND_COORDINATOR, 1), (CREATE_TOPICS, 2), (DELETE_TOPICS, 1),
    (INIT_PRODUCER_ID, 0), (OFFSET_FOR_LEADER_EPOCH, 2), (DESCRIBE_CONFIGS, 0), (ALTER_CONFIGS, 0),
    (ALTER_REPLICA_LOG_DIRS, 0), (DESCRIBE_LOG_DIRS, 0), (CREATE_PARTITIONS, 0), (ELECT_LEADERS, 0),
    (INCREMENTAL_ALTER_CONFIGS, 0), (ALTER_PARTITION_REASSIGNMENTS, 0), (LIST_PARTITION_REASSIGNMENTS, 0),
    (DESCRIBE_CLIENT_QUOTAS, 0), (ALTER_CLIENT_QUOTAS, 0), (UPDATE_FEATURES, 0), (DESCRIBE_CLUSTER, 0),
    (GET_TELEMETRY_SUBSCRIPTIONS, 0), (PUSH_TELEMETRY, 0), (LIST_CONFIG_RESOURCES, 0),
    (DESCRIBE_TOPIC_PARTITIONS, 0), (OFFSET_COMMIT, 3), (OFFSET_FETCH, 3), (JOIN_GROUP, 2), (HEARTBEAT, 1),
    (LEAVE_GROUP, 1), (SYNC_GROUP, 1), (DESCRIBE_GROUPS, 1), (LIST_GROUPS, 1), (DELETE_GROUPS, 0),
    (CONSUMER_GROUP_HEARTBEAT, 0), (CONSUMER_GROUP_DESCRIBE, 0),
    (DELETE_RECORDS, 0), (ADD_PARTITIONS_TO_TXN, 0), (ADD_OFFSETS_TO_TXN, 0), (END_TXN, 0), (TXN_OFFSET_COMMIT, 0),
    (DESCRIBE_PRODUCERS, 0), (DESCRIBE_TRANSACTIONS, 0), (LIST_TRANSACTIONS, 0),
    (SHARE_GROUP_HEARTBEAT, 1), (SHARE_GROUP_DESCRIBE, 1), (SHARE_FETCH, 1), (SHARE_ACKNOWLEDGE, 1),
    (DESCRIBE_SHARE_GROUP_OFFSETS, 0), (ALTER_SHARE_GROUP_OFFSETS, 0), (DELETE_SHARE_GROUP_OFFSETS, 0),
];

/// What a connection knows of its client's quotas.
#[derive(Default)]
pub(super) struct Throttle {
    known: RefCell<Option<Known>>,
    muted_until: Cell<Option<Instant>>,
    /// A pause that the request's own handler asks for, milliseconds.
    asked_ms: Cell<u64>,
}

struct Known {
    generation: u64,
    client_id: String,
    limits: Rc<ClientLimits>,
}

impl Throttle {
    /// The limits for a request of `client_id`; `None` when there are none.
    pub(super) fn limits(&self, shard: &Shard, client_id: Option<&str>) -> Option<Rc<ClientLimits>> {
        if !shard.quotas.limits_clients() {
            if self.known.borrow().is_some() {
                self.known.replace(None);
            }
            return None;
        }
        let client_id = client_id.unwrap_or_default();
        let generation = shard.quotas.generation();
        let mut known = self.known.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.generation == generation && known.client_id == client_id)
        {
            let limits = Rc::new(shard.quotas.client_limits(ANONYMOUS, client_id));
            *known = Some(Known { generation, client_id: client_id.to_owned(), limits });
        }
        let limits = known.as_ref().map(|known| known.limits.clone())?;
        (*limits != ClientLimits::default()).then_some(limits)
    }

    /// The most bytes of records a fetch may return: what the quota allows in its whole window, so that a small
    /// quota means small answers and not one large answer and an hour's pause.
    pub(super) fn fetch_bytes_max(&self) -> usize {
        let known = self.known.borrow();
        let limit = known.as_ref().and_then(|known| known.limits.fetch.as_ref());
        limit.map_or(usize::MAX, |limit| limit.window_amount() as usize)
    }

    /// The limit on changes of partitions for the client whose request is being handled.
    pub(super) fn mutation_limit(&self) -> Option<Limit> {
        self.known.borrow().as_ref().and_then(|known| known.limits.mutation.clone())
    }

    /// A pause for the request that is being handled: its answer says so.
    pub(super) fn pause(&self, pause_ms: u64) {
        self.asked_ms.set(pause_ms);
    }

    /// For how long the connection must not be read, milliseconds.
    pub(super) fn muted_ms(&self) -> Option<u64> {
        let left = self.muted_until.get()?.checked_duration_since(Instant::now());
        if left.is_none() {
            self.muted_until.set(None);
        }
        left.map(|left| left.as_millis() as u64 + 1)
    }
}

/// Handles a request under limits: measures it, and puts the pause into its answer.
pub(super) async fn metered(
    shard: &Rc<Shard>,
    throttle: &Rc<Throttle>,
    limits: Rc<ClientLimits>,
    call: Call,
    request_bytes: usize,
    request: impl Future<Output = Handled>,
) -> Handled {
    let mut spent = Duration::ZERO;
    let handled = timed(request, &mut spent).await;
    let (shard, throttle) = (shard.clone(), throttle.clone());
    match handled {
        Handled::Ready(outgoing) => {
            Handled::Ready(charge(&shard, &throttle, &limits, call, request_bytes, spent, outgoing).await)
        }
        Handled::Making(reply) => Handled::Making(Box::pin(async move {
            let outgoing = timed(reply, &mut spent).await;
            charge(&shard, &throttle, &limits, call, request_bytes, spent, outgoing).await
        })),
    }
}

async fn charge(
    shard: &Shard,
    throttle: &Throttle,
    limits: &ClientLimits,
    call: Call,
    request_bytes: usize,
    spent: Duration,
    mut outgoing: Outgoing,
) -> Outgoing {
    let bytes = match call.api_key {
        PRODUCE => limits.produce.as_ref().map(|limit| (limit, request_bytes as f64)),
        FETCH | SHARE_FETCH => limits.fetch.as_ref().map(|limit| (limit, response_bytes(&outgoing) as f64)),
        _ => None,
    };
    let time = limits.request.as_ref().map(|limit| (limit, spent.as_secs_f64() * 100.0));
    // Requests that ask for a pause are handled one at a time, after all before them were answered.
    let asked = [CREATE_TOPICS, DELETE_TOPICS, CREATE_PARTITIONS, METADATA].contains(&call.api_key);
    let mut pause_ms = if asked { throttle.asked_ms.take() } else { 0 };
    for (limit, amount) in bytes.into_iter().chain(time) {
        pause_ms = pause_ms.max(record(shard, limit, amount).await);
    }
    if pause_ms > 0 {
        let position = throttle_position(call, &outgoing.skeleton);
        if let Some(field) = position.and_then(|at| outgoing.skeleton.get_mut(at..at + 4)) {
            field.copy_from_slice(&i32::try_from(pause_ms).unwrap_or(i32::MAX).to_be_bytes());
        }
        throttle.muted_until.set(Some(Instant::now() + Duration::from_millis(pause_ms)));
    }
    outgoing
}

/// Puts an amount on the account of a limit, wherever it is kept; the pause it takes, milliseconds.
pub(super) async fn record(shard: &Shard, limit: &Limit, amount: f64) -> u64 {
    at_home(shard, limit, move |quotas, limit| quotas.record(limit, amount, rt::steady_ms())).await
}

/// Asks the core that keeps the account of a limit; the default when the broker stops meanwhile.
pub(super) async fn at_home<R: Default + Send + 'static>(
    shard: &Shard,
    limit: &Limit,
    ask: impl FnOnce(&Quotas, &Limit) -> R + Send + 'static,
) -> R {
    let home = limit.home(shard.mesh.cores());
    if home == shard.core {
        return ask(&shard.quotas, limit);
    }
    let limit = limit.clone();
    let there = shard.mesh.call(home, move |shard| Box::pin(async move { ask(&shard.quotas, &limit) }));
    there.await.unwrap_or_default()
}

/// For how long a new connection of this address must wait before it is closed, milliseconds; 0 means that it is
/// welcome.
pub async fn connection_pause_ms(shard: &Shard, ip: std::net::IpAddr) -> u64 {
    let limit = shard.quotas.ip_limit(&ip.to_canonical().to_string());
    match limit {
        Some(limit) => record(shard, &limit, 1.0).await,
        None => 0,
    }
}

/// Bytes of a whole answer, by the size it announces.
fn response_bytes(outgoing: &Outgoing) -> usize {
    let announced = outgoing.skeleton.first_chunk::<4>().map_or(0, |size| u32::from_be_bytes(*size) as usize);
    announced + outgoing.skeleton.len().min(4)
}

/// Where `throttle_time_ms` stands in an answer of ours, if it has one.
fn throttle_position(call: Call, skeleton: &[u8]) -> Option<usize> {
    if call.api_key == PRODUCE {
        // At the end, before tagged fields, of which there are none.
        let trailer = 4 + usize::from(is_flexible(PRODUCE, call.version));
        return (call.version >= 1).then(|| skeleton.len().checked_sub(trailer)).flatten();
    }
    let first = THROTTLE_FIRST_SINCE.iter().any(|&(key, since)| key == call.api_key && call.version >= since);
    let header_bytes = 8 + response_header_version(call.api_key, call.version) as usize;
    (first && skeleton.len() >= header_bytes + 4).then_some(header_bytes)
}

/// Runs a future and adds the time in which it was being polled.
async fn timed<F: Future>(future: F, spent: &mut Duration) -> F::Output {
    struct Timed<'a, F> {
        future: Pin<Box<F>>,
        spent: &'a mut Duration,
    }
    impl<F: Future> Future for Timed<'_, F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
            let began = Instant::now();
            let result = self.future.as_mut().poll(context);
            *self.spent += began.elapsed();
            result
        }
    }
    Timed { future: Box::pin(future), spent }.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::*;
    use kafka_protocol::protocol::{Encodable, Message};

    /// An answer whose only value is the pause, as the dispatcher would frame it.
    fn answer(call: Call, response: impl Encodable) -> Vec<u8> {
        let mut body = BytesMut::new();
        response.encode(&mut body, call.version).expect("encodes");
        call.reply(|out| out.extend_from_slice(&body)).skeleton
    }

    #[test]
    fn the_pause_is_written_where_clients_look_for_it() {
        const PAUSE: i32 = 0x0102_0304;
        macro_rules! check {
            ($($key:ident => $response:ty),* $(,)?) => {$({
                let range = find($key).expect("listed");
                let last = crate::wire::newer::codec_version($key, range.max);
                for version in range.min.max(<$response as Message>::VERSIONS.min)..=last {
                    let call = Call { api_key: $key, version, correlation_id: 9 };
                    let told = answer(call, <$response>::default().with_throttle_time_ms(PAUSE));
                    let mut ours = answer(call, <$response>::default());
                    if let Some(at) = throttle_position(call, &ours) {
                        ours[at..at + 4].copy_from_slice(&PAUSE.to_be_bytes());
                        assert_eq!(ours, told, "{} v{version}", range.name);
                    } else {
                        assert!(![PRODUCE, FETCH].contains(&$key), "{} v{version}", range.name);
                    }
                }
            })*};
        }
        check![
            PRODUCE => ProduceResponse, FETCH => FetchResponse, LIST_OFFSETS => ListOffsetsResponse,
            METADATA => MetadataResponse, FIND_COORDINATOR => FindCoordinatorResponse,
            CREATE_TOPICS => CreateTopicsResponse, DELETE_TOPICS => DeleteTopicsResponse,
            INIT_PRODUCER_ID => InitProducerIdResponse, OFFSET_FOR_LEADER_EPOCH => OffsetForLeaderEpochResponse,
            DESCRIBE_CONFIGS => DescribeConfigsResponse, ALTER_CONFIGS => AlterConfigsResponse,
            ALTER_REPLICA_LOG_DIRS => AlterReplicaLogDirsResponse, DESCRIBE_LOG_DIRS => DescribeLogDirsResponse,
            CREATE_PARTITIONS => CreatePartitionsResponse, ELECT_LEADERS => ElectLeadersResponse,
            INCREMENTAL_ALTER_CONFIGS => IncrementalAlterConfigsResponse,
            ALTER_PARTITION_REASSIGNMENTS => AlterPartitionReassignmentsResponse,
            LIST_PARTITION_REASSIGNMENTS => ListPartitionReassignmentsResponse,
            DESCRIBE_CLIENT_QUOTAS => DescribeClientQuotasResponse,
            ALTER_CLIENT_QUOTAS => AlterClientQuotasResponse, UPDATE_FEATURES => UpdateFeaturesResponse,
            DESCRIBE_CLUSTER => DescribeClusterResponse,
            GET_TELEMETRY_SUBSCRIPTIONS => GetTelemetrySubscriptionsResponse,
            PUSH_TELEMETRY => PushTelemetryResponse, LIST_CONFIG_RESOURCES => ListConfigResourcesResponse,
            DESCRIBE_TOPIC_PARTITIONS => DescribeTopicPartitionsResponse,
            OFFSET_COMMIT => OffsetCommitResponse, OFFSET_FETCH => OffsetFetchResponse,
            JOIN_GROUP => JoinGroupResponse, HEARTBEAT => HeartbeatResponse,
            LEAVE_GROUP => LeaveGroupResponse, SYNC_GROUP => SyncGroupResponse,
            DESCRIBE_GROUPS => DescribeGroupsResponse, LIST_GROUPS => ListGroupsResponse,
            DELETE_GROUPS => DeleteGroupsResponse, CONSUMER_GROUP_HEARTBEAT => ConsumerGroupHeartbeatResponse,
            CONSUMER_GROUP_DESCRIBE => ConsumerGroupDescribeResponse,
            ADD_PARTITIONS_TO_TXN => AddPartitionsToTxnResponse,
            DELETE_RECORDS => DeleteRecordsResponse,
            ADD_OFFSETS_TO_TXN => AddOffsetsToTxnResponse,
            END_TXN => EndTxnResponse,
            TXN_OFFSET_COMMIT => TxnOffsetCommitResponse,
            DESCRIBE_PRODUCERS => DescribeProducersResponse,
            DESCRIBE_TRANSACTIONS => DescribeTransactionsResponse,
            LIST_TRANSACTIONS => ListTransactionsResponse,
        ];
    }

    #[test]
    fn the_size_of_an_answer_is_what_it_announces() {
        let outgoing = Outgoing { skeleton: vec![0, 0, 1, 0, 9], ..Outgoing::default() };
        assert_eq!(response_bytes(&outgoing), 260);
        assert_eq!(response_bytes(&Outgoing::default()), 0);
    }
}
