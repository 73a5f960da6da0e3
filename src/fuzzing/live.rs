//! Target `live`: a sequence of requests on two live cores, as several clients could send them: well-formed ones in an
//! order that makes sense often enough to get somewhere, damaged ones, and frames of noise; connections that end in the
//! middle, and starts that find what a crash left.
//!
//! Both "cores" live on one executor and one thread, so that memory can be counted; disk and mesh are the real ones.
//!
//! Checked: nothing panics; every answer is one frame with the right correlation id; what handling a request allocates,
//! answer included, is bounded by its frame and a constant for the state that a sequence can build up; the control
//! thread is alive at the end; a clean stop leaves logs that a clean start takes up.
//!
//! Owner: the executor it makes. Must not: wait longer than a fraction of a second for anything.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::future::or;
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::input::Input;
use super::live_requests::{Known, Request, request};
use super::memory;
use crate::api::{self, ConnectionContext, Handled};
use crate::catalog::{CatalogChange, CatalogStore};
use crate::config::BrokerConfig;
use crate::net::{Frame, Outgoing, Payload};
use crate::rt;
use crate::shard::{
    CleanMark, ConnectionCounts, Control, Shard, ShardSetup, build_mesh, open_shard, read_clean_mark,
    write_clean_mark,
};
use crate::sync::Event;
use crate::wire::api_table::is_flexible;

/// What handling a request may allocate for each byte of its frame.
pub const LIVE_BYTES_PER_FRAME_BYTE_MAX: usize = 256;
/// What it may allocate beside that: chunks of logs, blocks that are read, answers that describe all there is.
pub const LIVE_BYTES_MAX: usize = 24 << 20;

const CORES: usize = 2;
/// Steps of one sequence.
const STEPS_MAX: usize = 48;
/// Clients of one sequence.
const CLIENTS: usize = 3;
/// How long a request may keep its client from the next one, milliseconds; then the client hangs up.
const HANDLE_MS_MAX: u64 = 100;
/// Memory for the logs of one core, bytes.
const TAIL_BYTES: usize = 16 << 20;

/// See the head of this file.
pub fn run(bytes: &[u8]) {
    let directory = super::directory();
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("fuzz")
        .io_memory(64 << 10)
        .ring_depth(128)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .expect("an executor");
    executor.run(async {
        // As every core has one: the runtime may sleep over a message from the control thread.
        rt::spawn(rt::heartbeat());
        let mut input = Input::new(bytes);
        let known = Known::default();
        // The rest of the input is for the broker that starts on what the one before left.
        for _ in 0..3 {
            live(directory.path(), &mut input, &known).await;
            if input.is_empty() {
                break;
            }
        }
        rt::quiesce().await;
    });
}

/// One life of a broker.
async fn live(data_dir: &Path, input: &mut Input<'_>, known: &Known) {
    let (shards, control) = start(data_dir);
    let clients: Vec<Client> = (0..CLIENTS).map(|at| Client::new(&shards[at % CORES])).collect();
    let mut clients = clients;
    let mut ends_cleanly = true;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let at = input.below(CLIENTS);
        match input.below(32) {
            0 => clients[at] = Client::new(&shards[at % CORES]),
            1 => rt::sleep_ms(input.below(8) as u64).await,
            2 => {
                ends_cleanly = input.byte() & 1 == 0;
                break;
            }
            _ => {
                let frame = next_frame(input, known, &shards[0]);
                if !clients[at].send(frame, known).await {
                    clients[at] = Client::new(&shards[at % CORES]);
                }
            }
        }
    }
    for client in &clients {
        client.drained_or_gone().await;
    }
    let alive = control.change(|_| vec![CatalogChange::ReserveProducerIds(1)]).await;
    assert!(alive.is_ok(), "the control thread is gone or cannot write: {alive:?}");
    drop(clients);
    stop(&shards, data_dir, ends_cleanly).await;
}

fn start(data_dir: &Path) -> (Vec<Rc<Shard>>, Control) {
    let mut config = BrokerConfig::with_data_dir(data_dir).expect("the defaults are right");
    config.segment_pool_bytes = 0;
    config.auto_create_topics = true;
    config.groups.offsets_partition_count = 2;
    config.groups.transactions_partition_count = 2;
    config.groups.share.state_partition_count = 2;
    config.groups.initial_rebalance_delay_ms = 0;
    let config = Arc::new(config);
    let meta = data_dir.join("meta");
    let (store, catalog) = CatalogStore::open(&meta, config.node_id).expect("a catalog");
    let clean: Option<CleanMark> = read_clean_mark(data_dir).expect("the mark can be read");
    let (mut store, mut catalog) = (store, catalog);
    if clean.is_none() && catalog.topic_count() > 0 {
        catalog = catalog.apply(&[CatalogChange::BumpLeaderEpoch]).expect("epochs are left");
        store.commit(&catalog).expect("the catalog can be written");
    }
    let (mesh, inboxes) = build_mesh(CORES);
    let catalog = Arc::new(catalog);
    let control = Control::start(store, catalog.clone(), mesh.clone()).expect("a thread");
    let clean = Arc::new(clean.unwrap_or_default());
    let mut shards = Vec::new();
    for (core, inbox) in inboxes.into_iter().enumerate() {
        let shard = open_shard(ShardSetup {
            core,
            config: config.clone(),
            catalog: catalog.clone(),
            mesh: mesh.clone(),
            control: control.clone(),
            clean: clean.clone(),
            cleaner: None,
            connections: Arc::new(ConnectionCounts::default()),
            tail_bytes: TAIL_BYTES,
            frame_bytes: TAIL_BYTES,
        })
        .expect("what an earlier life left can be opened");
        let jobs = shard.clone();
        rt::spawn(async move {
            while let Ok(job) = inbox.recv_async().await {
                job(&jobs);
            }
        });
        rt::spawn(crate::coordinator::serve(shard.clone()));
        shards.push(shard);
    }
    (shards, control)
}

async fn stop(shards: &[Rc<Shard>], data_dir: &Path, cleanly: bool) {
    for shard in shards {
        shard.begin_stop();
    }
    let mut all = Vec::new();
    for shard in shards {
        let closed = shard.close_logs().await.expect("nothing went wrong with the disk");
        all.extend(closed);
    }
    rt::quiesce().await;
    if cleanly {
        write_clean_mark(data_dir, &all).expect("the mark can be written");
    }
}

/// The next frame: mostly a well-formed request, sometimes a damaged one or noise behind a header.
fn next_frame(input: &mut Input<'_>, known: &Known, shard: &Rc<Shard>) -> Vec<u8> {
    known.learn_topics(&shard.catalog());
    let (key, version, mut body) = match input.rarely() {
        true => (i16::from(input.byte()), i16::from(input.byte() & 15), input.bytes(200).to_vec()),
        false => request(input, known),
    };
    if input.rarely() {
        input.damage(&mut body);
    }
    let mut frame = [key.to_be_bytes(), version.to_be_bytes()].concat();
    frame.extend_from_slice(&known.next_correlation_id().to_be_bytes());
    frame.extend_from_slice(&[0, 1, b'c']);
    if is_flexible(key, version) {
        frame.push(0);
    }
    frame.extend_from_slice(&body);
    frame
}

/// A client: what it has not got an answer to yet, in order.
struct Client {
    context: Rc<ConnectionContext>,
    pending: Rc<Cell<usize>>,
    answered: Rc<Event>,
    gone: Rc<Cell<bool>>,
    learned: Rc<RefCell<Vec<Request>>>,
}

impl Client {
    fn new(shard: &Rc<Shard>) -> Client {
        let peer = Some(std::net::IpAddr::from([127, 0, 0, 1]));
        Client {
            context: Rc::new(ConnectionContext::new(shard.clone(), 0, peer)),
            pending: Rc::default(),
            answered: Rc::default(),
            gone: Rc::default(),
            learned: Rc::default(),
        }
    }

    /// Sends a request; false when the connection is over.
    async fn send(&self, mut frame: Vec<u8>, known: &Known) -> bool {
        for (key, version, answer) in self.learned.borrow_mut().drain(..) {
            known.learn(key, version, &answer);
        }
        let api = frame.first_chunk().map_or(-1, |key| i16::from_be_bytes(*key));
        let version = frame.get(2..4).map_or(-1, |v| i16::from_be_bytes([v[0], v[1]]));
        let id = frame.get(4..8).map(<[u8]>::to_vec).unwrap_or_default();
        let bytes_max = LIVE_BYTES_PER_FRAME_BYTE_MAX * frame.len() + LIVE_BYTES_MAX;
        let before = memory::begin();
        let (pending, answered) = (self.pending.clone(), self.answered.clone());
        let drained = move || -> Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move { answered.wait_until(|| pending.get() == 0).await })
        };
        let handled =
            or(async { Some(api::handle(&self.context, Frame::Small(&mut frame), drained).await) }, async {
                rt::sleep_ms(HANDLE_MS_MAX).await;
                None
            })
            .await;
        let peak = memory::peak_since(before);
        let what = format!("api {api} v{version}, a frame of {} bytes", frame.len());
        assert!(peak <= bytes_max, "{what}: {peak} bytes allocated");
        match handled {
            None => {
                self.gone.set(true);
                false
            }
            Some(Handled::Ready(outgoing)) => {
                let open = !outgoing.close;
                self.take(api, version, &id, outgoing);
                open
            }
            Some(Handled::Making(reply)) => {
                self.pending.set(self.pending.get() + 1);
                let client = self.handle();
                rt::spawn(async move {
                    let outgoing = reply.await;
                    client.take(api, version, &id, outgoing);
                    client.pending.set(client.pending.get() - 1);
                    client.answered.fire();
                });
                true
            }
        }
    }

    fn handle(&self) -> Client {
        Client {
            context: self.context.clone(),
            pending: self.pending.clone(),
            answered: self.answered.clone(),
            gone: self.gone.clone(),
            learned: self.learned.clone(),
        }
    }

    /// Checks an answer's frame and keeps what can be learned from it.
    fn take(&self, api: i16, version: i16, id: &[u8], outgoing: Outgoing) {
        if outgoing.skeleton.is_empty() {
            return;
        }
        let payload_bytes: usize = outgoing.inserts.iter().map(|(_, payload)| payload_size(payload)).sum();
        let size = outgoing.skeleton.first_chunk().map_or(-1, |size| i32::from_be_bytes(*size));
        assert_eq!(size as usize, outgoing.skeleton.len() - 4 + payload_bytes, "api {api} v{version}");
        assert_eq!(&outgoing.skeleton[4..8], id, "api {api} v{version}: the correlation id");
        let mut at = 0;
        for (place, _) in &outgoing.inserts {
            assert!(*place >= at && *place <= outgoing.skeleton.len());
            at = *place;
        }
        if outgoing.inserts.is_empty() && Known::can_learn(api) {
            self.learned.borrow_mut().push((api, version, outgoing.skeleton[8..].to_vec()));
        }
    }

    /// Waits a moment for the answers that are owed.
    async fn drained_or_gone(&self) {
        let drained = self.answered.wait_until(|| self.pending.get() == 0 || self.gone.get());
        or(drained, rt::sleep_ms(20)).await;
    }
}

fn payload_size(payload: &Payload) -> usize {
    match payload {
        Payload::Local(slices) => slices.iter().map(|slice| slice.as_bytes().len()).sum(),
        Payload::Leased(lease) => lease.slices().map(<[u8]>::len).sum(),
    }
}
