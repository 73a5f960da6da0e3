//! One file per Kafka API: what a request means and what the answer says. Error codes live here only
//! (and in `partition::append`, which words its own refusals).
//!
//! Owner: the core of the connection; control-plane handlers are pure functions over a catalog snapshot.
//! Produce, Fetch and the share group's fetches are decoded by `wire`; everything else by `kafka-protocol`, behind
//! `wire::gate`.
//! Must not: do I/O.

mod add_partitions_to_txn;
pub mod alter_configs;
pub mod api_versions;
pub mod client_quotas;
pub mod control;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_records;
mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_log_dirs;
pub mod describe_quorum;
pub mod describe_topic_partitions;
mod describe_transactions;
mod dispatch;
mod dispatch_admin;
mod end_txn;
pub mod features;
mod fetch;
mod fetch_read;
mod find_coordinator;
mod groups;
mod init_producer_id;
pub mod list_config_resources;
mod list_offsets;
pub mod metadata;
mod mutation_quota;
mod offset_for_leader_epoch;
mod park;
pub(crate) mod produce;
pub mod replicas;
mod share;
pub mod telemetry;
mod throttle;
mod txn_admission;
mod txn_errors;
mod txn_offset_commit;

pub use throttle::connection_pause_ms;

use std::cell::Cell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;

use crate::metrics::{self, Counter};
use crate::net::{Frame, Outgoing, Reply};
use crate::shard::{ControlError, Shard};
use crate::wire::api_table::{self, API_VERSIONS, FETCH, PRODUCE, SHARE_ACKNOWLEDGE, SHARE_FETCH};
use crate::wire::header;
use crate::wire::{RequestHeader, WireError};

/// What the requests of one connection share.
pub struct ConnectionContext {
    /// The connection's core.
    pub shard: Rc<Shard>,
    /// Which of the configured listeners it came in by.
    listener: usize,
    /// Where the peer is, if that is known.
    peer: Option<IpAddr>,
    complained: Cell<bool>,
    throttle: Rc<throttle::Throttle>,
    share_sessions: Rc<share::ShareSessions>,
}

impl ConnectionContext {
    /// The context of a new connection.
    pub fn new(shard: Rc<Shard>, listener: usize, peer: Option<IpAddr>) -> ConnectionContext {
        let throttle = Default::default();
        let share_sessions = Rc::new(share::ShareSessions::new(shard.clone()));
        ConnectionContext { shard, listener, peer, complained: Cell::new(false), throttle, share_sessions }
    }

    /// For how long a quota forbids to read the connection, milliseconds.
    pub fn muted_ms(&self) -> Option<u64> {
        self.throttle.muted_ms()
    }

    fn fetch_bytes_max(&self) -> i32 {
        i32::try_from(self.throttle.fetch_bytes_max()).unwrap_or(i32::MAX)
    }

    /// One log line per connection about requests that cannot be answered.
    fn complain(&self, what: &str) {
        if !self.complained.replace(true) && self.shard.may_complain() {
            tracing::warn!("connection closed: {what}");
        }
    }
}

/// What a request came to.
pub enum Handled {
    /// The reply is there.
    Ready(Outgoing),
    /// The reply will come; the connection may go on with the next request.
    Making(Reply),
}

/// A request's header, without what it borrowed.
#[derive(Clone, Copy)]
struct Call {
    api_key: i16,
    version: i16,
    correlation_id: i32,
}

impl Call {
    /// A reply frame whose body `write` appends.
    fn reply(self, write: impl FnOnce(&mut Vec<u8>)) -> Outgoing {
        let mut skeleton = Vec::with_capacity(128);
        let start = header::begin_response(&mut skeleton, self.api_key, self.version, self.correlation_id);
        write(&mut skeleton);
        header::patch_frame_size(&mut skeleton, start, 0);
        Outgoing { skeleton, ..Outgoing::default() }
    }
}

fn close() -> Handled {
    Handled::Ready(Outgoing { close: true, ..Outgoing::default() })
}

/// Handles one request; `drained` resolves when all requests before it are answered.
pub async fn handle(
    context: &ConnectionContext,
    mut frame: Frame<'_>,
    drained: impl FnOnce() -> Pin<Box<dyn Future<Output = ()>>>,
) -> Handled {
    let (call, header_size, limits) = match RequestHeader::parse(frame.bytes()) {
        Ok(header) => (
            Call {
                api_key: header.api_key,
                version: header.api_version,
                correlation_id: header.correlation_id,
            },
            header.header_size,
            context.throttle.limits(&context.shard, header.client_id),
        ),
        Err(error) => {
            context.complain(&format!("a request header that cannot be read: {error}"));
            return close();
        }
    };
    let Some(limits) = limits else {
        return handle_call(context, call, frame, header_size, drained).await;
    };
    let request_bytes = 4 + frame.size();
    let request = handle_call(context, call, frame, header_size, drained);
    throttle::metered(&context.shard, &context.throttle, limits, call, request_bytes, request).await
}

async fn handle_call(
    context: &ConnectionContext,
    call: Call,
    mut frame: Frame<'_>,
    header_size: usize,
    drained: impl FnOnce() -> Pin<Box<dyn Future<Output = ()>>>,
) -> Handled {
    let outcome = match call.api_key {
        PRODUCE if api_table::is_supported(PRODUCE, call.version) => {
            produce::handle(context, call, frame, header_size).await
        }
        FETCH if api_table::is_supported(FETCH, call.version) => {
            fetch::handle(context, call, &frame.bytes()[header_size..])
        }
        FETCH => return Handled::Ready(fetch::unsupported_version(call)),
        API_VERSIONS => dispatch::api_versions(context, call, &frame.bytes()[header_size..]).await,
        key if groups::serves(key) && api_table::is_supported(key, call.version) => {
            let client = client_of(context, frame.bytes());
            drained().await;
            groups::handle(context, call, client, &frame.bytes()[header_size..]).await
        }
        SHARE_FETCH | SHARE_ACKNOWLEDGE if api_table::is_supported(call.api_key, call.version) => {
            share::handle_session(context, call, &frame.bytes()[header_size..])
        }
        key if share::serves(key) && api_table::is_supported(key, call.version) => {
            let client = client_of(context, frame.bytes());
            drained().await;
            share::handle(context, call, client, &frame.bytes()[header_size..]).await
        }
        _ => {
            drained().await;
            dispatch::handle(context, call, &frame.bytes()[header_size..]).await
        }
    };
    outcome.unwrap_or_else(|error| {
        metrics::add(Counter::RequestsRefused, 1);
        context.complain(&format!("request {} version {}: {error}", call.api_key, call.version));
        close()
    })
}

/// Who sent a request, as groups remember it.
fn client_of(context: &ConnectionContext, frame: &[u8]) -> groups::Client {
    let id = RequestHeader::parse(frame).ok().and_then(|header| header.client_id);
    let host = context.peer.map_or_else(String::new, |peer| peer.to_string());
    groups::Client { id: id.unwrap_or_default().to_owned(), host: format!("/{host}") }
}

/// Why a request gets no answer; the connection is closed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the request cannot be decoded")]
    Malformed,
    #[error("the request was dropped: {0}")]
    Control(#[from] ControlError),
}

type Outcome = Result<Handled, Refusal>;
