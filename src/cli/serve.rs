//! `ringlog serve`: preflight, recovery, one pinned executor per core, and an orderly stop.
//!
//! Owner: the main thread, which waits for signals while the cores work. Invariants: a panic anywhere
//! aborts the process with a message; the first SIGTERM or SIGINT drains and flushes, the second ends
//! the process at once; the clean-shutdown mark is written only when every log was closed.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::complain;
use crate::admin;
use crate::catalog::{Catalog, CatalogChange, CatalogStore};
use crate::config::{self, BrokerConfig, ConfigFlags};
use crate::coordinator;
use crate::limits::{DRAIN_MS_MAX, TAIL_BYTES_MAX};
use crate::metrics;
use crate::net;
use crate::preflight;
use crate::rt;
use crate::shard::{
    CleanMark, CleanPartition, ConnectionCounts, Control, Job, Mesh, Shard, ShardSetup, build_mesh,
    open_shard, read_clean_mark, set_strays_aside, start_cleaner, write_clean_mark,
};
use crate::storage::probe_disk;

/// Submission queue entries of each core's ring.
const RING_DEPTH: usize = 1024;

/// glommio's preemption timer: never, in effect. When it fires before the first task of a round has run (a core that
/// was not scheduled for as long), glommio takes the round for an empty one and sleeps over tasks that are ready.
const PREEMPT_TIMER: Duration = Duration::from_secs(24 * 3600);

/// How often ports in a row are looked for when the listener's is 0.
const FREE_PORT_ATTEMPTS: usize = 64;

/// Threads of one core for directory work: an unlink of a large file must not delay a rename.
const BLOCKING_THREADS: usize = 2;
/// What the thread for long computations is reniced to: cores come first.
const ASIDE_NICENESS: libc::c_int = 10;

/// glommio's own registered arena, bytes: as small as it may be, because I/O blocks come from `memory`.
const REGISTERED_BYTES: usize = 64 << 10;

/// Runs the broker; returns when it has stopped.
pub(super) fn run(flags: &ConfigFlags) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGLOG_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,glommio=error"));
    // A log that cannot be written (a full disk) is lost, and no reason to end: complaining about it would be one.
    let log = tracing_subscriber::fmt().log_internal_errors(false);
    log.with_env_filter(filter).with_writer(std::io::stderr).init();
    match start(flags) {
        Ok(code) => code,
        Err(problems) => complain(&problems),
    }
}

fn start(flags: &ConfigFlags) -> Result<ExitCode, Vec<String>> {
    let loaded =
        config::load(&flags.sources().map_err(|text| vec![text])?).map_err(|error| error.problems)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let mut config = loaded.config;
    let checked = preflight::run(&config)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    let addresses = resolve_listeners(&mut config)?;
    let admin_sockets = admin::bind(&config.admin_listeners).map_err(|text| vec![text])?;
    let config = Arc::new(config);
    metrics::start_clock();
    abort_on_panic();
    block_stop_signals();
    let began = Instant::now();
    let (store, catalog, clean) = open_catalog(&config)?;
    let (mesh, inboxes) = build_mesh(config.cores.len());
    let control = Control::start(store, catalog.clone(), mesh.clone())
        .map_err(|error| vec![format!("cannot start the control thread: {error}")])?;
    let cleaner =
        start_cleaner(&config).map_err(|error| vec![format!("cannot start the cleaner threads: {error}")])?;
    let (ready, all_ready) = flume::bounded(config.cores.len());
    let connections = Arc::new(ConnectionCounts::default());
    let mut cores = Vec::new();
    // Before any thread has one processor only, which those that it starts would have as well.
    // SAFETY: plain system call; 0 is the thread that calls. Should it fail, the thread is as important as a core.
    crate::rt::start_aside(|| _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, ASIDE_NICENESS) });
    crate::shard::start_reaper();
    for (core, inbox) in inboxes.into_iter().enumerate() {
        let plan = memory_plan(&config);
        let setup = ShardSetup {
            core,
            config: config.clone(),
            catalog: catalog.clone(),
            mesh: mesh.clone(),
            control: control.clone(),
            clean: clean.clone(),
            cleaner: cleaner.clone(),
            connections: connections.clone(),
            tail_bytes: plan.tail_bytes,
            frame_bytes: plan.frame_bytes,
        };
        let (addresses, ready) = (addresses.clone(), ready.clone());
        let handle = LocalExecutorBuilder::new(Placement::Fixed(config.cores[core]))
            .name(&format!("ringlog-{core}"))
            .io_memory(REGISTERED_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT_TIMER)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .spawn(move || run_core(setup, inbox, addresses, ready))
            .map_err(|error| vec![format!("cannot start core {}: {error}", config.cores[core])])?;
        cores.push(handle);
    }
    drop(ready);
    for _ in 0..cores.len() {
        if let Ok(Err(text)) = all_ready.recv() {
            return Err(vec![text]);
        }
    }
    let admin_addresses =
        admin_sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect::<Vec<_>>();
    admin::serve(admin_sockets, mesh.clone())
        .map_err(|error| vec![format!("cannot start the admin thread: {error}")])?;
    announce(&config, &catalog, &addresses, &admin_addresses, began);
    wait_for_stop_signal();
    tracing::info!("stopping: draining requests and flushing logs");
    exit_on_second_signal();
    stop_cores(&mesh);
    let closed: Vec<_> = cores.into_iter().map(|core| core.join()).collect();
    Ok(finish(&config, closed))
}

fn announce(
    config: &BrokerConfig,
    catalog: &Catalog,
    addresses: &[SocketAddr],
    admin: &[SocketAddr],
    began: Instant,
) {
    let listens: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let admin: String = admin.iter().map(|address| format!(", admin http://{address}")).collect();
    let _ = writeln!(
        std::io::stdout(),
        "ringlog {} ready on {} (node {}, cores {:?}, {} topics, {} partitions, started in {} ms{admin})",
        env!("CARGO_PKG_VERSION"),
        listens.join(", "),
        config.node_id,
        config.cores,
        catalog.topic_count(),
        catalog.partition_count(),
        began.elapsed().as_millis()
    );
}

/// Host names to addresses, and port 0 to a free port, which is then also the advertised one.
fn resolve_listeners(config: &mut BrokerConfig) -> Result<Vec<SocketAddr>, Vec<String>> {
    let mut addresses = Vec::new();
    let count = if config.core_affine_listeners { config.cores.len() } else { 1 };
    for listener in &mut config.listeners {
        let host = if listener.host.is_empty() { "0.0.0.0" } else { &listener.host };
        let problem = |error: std::io::Error| vec![format!("listener {host}:{}: {error}", listener.port)];
        let mut address = (host, listener.port)
            .to_socket_addrs()
            .map_err(problem)?
            .next()
            .ok_or_else(|| vec![format!("listener {host}: no address")])?;
        if address.port() == 0 {
            address = free_ports(address, count).map_err(problem)?;
            listener.port = address.port();
        }
        if listener.advertised_port == 0 {
            listener.advertised_port = address.port();
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// The first of `count` free ports in a row.
fn free_ports(any: SocketAddr, count: usize) -> std::io::Result<SocketAddr> {
    for _ in 0..FREE_PORT_ATTEMPTS {
        let first = std::net::TcpListener::bind(any)?;
        let base = first.local_addr()?;
        let is_free = |core: usize| {
            let port = base.port().checked_add(core as u16);
            port.is_some_and(|port| std::net::TcpListener::bind((base.ip(), port)).is_ok())
        };
        if (1..count).all(is_free) {
            return Ok(base);
        }
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}

pub(crate) type OpenedCatalog = (CatalogStore, Arc<Catalog>, Arc<CleanMark>);

pub(crate) fn open_catalog(config: &BrokerConfig) -> Result<OpenedCatalog, Vec<String>> {
    let meta = config.data_dir.join("meta");
    let (mut store, mut catalog) =
        CatalogStore::open(&meta, config.node_id).map_err(|error| vec![error.to_string()])?;
    if let Some(notice) = store.notice() {
        tracing::error!("{notice}");
    }
    let clean = read_clean_mark(&config.data_dir)
        .map_err(|error| vec![format!("{}: clean-shutdown mark: {error}", meta.display())])?;
    if clean.is_none() && catalog.topic_count() > 0 {
        // A new reign: bytes behind a cut keep an older epoch than what is appended from now on.
        tracing::warn!("the last stop was not clean: recovering, with a new leader epoch");
        catalog =
            catalog.apply(&[CatalogChange::BumpLeaderEpoch]).map_err(|error| vec![error.to_string()])?;
        store.commit(&catalog).map_err(|error| vec![format!("the catalog cannot be written: {error}")])?;
    }
    set_strays_aside(&config.data_dir, &catalog)
        .map_err(|error| vec![format!("{}: {error}", config.data_dir.display())])?;
    Ok((store, Arc::new(catalog), Arc::new(clean.unwrap_or_default())))
}

struct MemoryPlan {
    tail_bytes: usize,
    frame_bytes: usize,
}

/// Splits the process budget: half of a core's share is the tail of the logs, a quarter is for request
/// frames, the rest for reads, writes in flight and everything small.
fn memory_plan(config: &BrokerConfig) -> MemoryPlan {
    let share = (config.memory_bytes as usize) / config.cores.len();
    MemoryPlan { tail_bytes: (share / 2).min(TAIL_BYTES_MAX), frame_bytes: share / 4 }
}

type CoreOutcome = Result<Option<Vec<CleanPartition>>, String>;

async fn run_core(
    setup: ShardSetup,
    inbox: flume::Receiver<Job>,
    addresses: Vec<SocketAddr>,
    ready: flume::Sender<Result<(), String>>,
) -> CoreOutcome {
    metrics::start_core();
    if let Err(error) = probe_disk(&setup.config.data_dir).await {
        let text = format!("{}: direct I/O failed: {error}", setup.config.data_dir.display());
        let _ = ready.send(Err(text.clone()));
        return Err(text);
    }
    let shard = match open_shard(setup) {
        Ok(shard) => shard,
        Err(error) => {
            let _ = ready.send(Err(error.to_string()));
            return Err(error.to_string());
        }
    };
    let jobs = shard.clone();
    rt::spawn(async move {
        while let Ok(job) = inbox.recv_async().await {
            job(&jobs);
        }
    });
    rt::spawn(rt::heartbeat());
    rt::spawn(shard.clone().housekeeping());
    rt::spawn(shard.clone().cleaning());
    rt::spawn(shard.clone().fill_pool());
    rt::spawn(shard.clone().watch_room());
    rt::spawn(coordinator::serve(shard.clone()));
    for (listener, address) in addresses.into_iter().enumerate() {
        let shard = shard.clone();
        let mut address = address;
        if shard.config.core_affine_listeners {
            address.set_port(address.port() + shard.core as u16);
        }
        let socket = match net::listen(address) {
            Ok(socket) => socket,
            Err(error) => {
                let _ = ready.send(Err(error.to_string()));
                return Err(error.to_string());
            }
        };
        rt::spawn(net::serve(shard, socket, listener));
    }
    let _ = ready.send(Ok(()));
    drop(ready);
    shard.stop.wait_until(|| shard.is_stopping()).await;
    drain(&shard).await;
    for core in 0..shard.mesh.cores() {
        shard.mesh.send_soon(core, Box::new(|shard: &Rc<Shard>| shard.note_drained()));
    }
    shard.stop.wait_until(|| shard.all_drained()).await;
    let closed = shard.close_logs().await;
    // Another core may still send from this one's memory.
    while shard.leases.count() > 0 {
        rt::sleep_ms(1).await;
    }
    rt::quiesce().await;
    Ok(closed)
}

/// Waits until the last connection is gone, up to the bound.
async fn drain(shard: &Rc<Shard>) {
    let drained = shard.stop.wait_until(|| shard.connection_count() == 0);
    let bound = async {
        rt::sleep_ms(DRAIN_MS_MAX).await;
        tracing::warn!("{} connections did not end in time", shard.connection_count());
    };
    futures_lite::future::or(drained, bound).await;
}

fn stop_cores(mesh: &Mesh) {
    for core in 0..mesh.cores() {
        mesh.send_blocking(core, Box::new(|shard: &Rc<Shard>| shard.begin_stop()));
    }
}

fn finish(config: &BrokerConfig, closed: Vec<Result<CoreOutcome, glommio::GlommioError<()>>>) -> ExitCode {
    let mut all = Vec::new();
    for core in closed {
        match core {
            Ok(Ok(Some(partitions))) => all.extend(partitions),
            Ok(Ok(None)) => return ExitCode::FAILURE,
            Ok(Err(text)) => return complain(&[text]),
            Err(error) => return complain(&[error.to_string()]),
        }
    }
    match write_clean_mark(&config.data_dir, &all) {
        Ok(()) => {
            let _ = writeln!(std::io::stdout(), "ringlog stopped cleanly");
            ExitCode::SUCCESS
        }
        Err(error) => complain(&[format!("the clean-shutdown mark cannot be written: {error}")]),
    }
}

fn abort_on_panic() {
    let describe = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        describe(panic);
        let thread = std::thread::current();
        eprintln!("ringlog: thread {} panicked; the process ends now", thread.name().unwrap_or("?"));
        std::process::abort();
    }));
}

fn stop_signals() -> libc::sigset_t {
    // SAFETY: a zeroed set is initialised by sigemptyset before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        set
    }
}

/// Blocks the stop signals in this thread and all that it starts, so that only `sigwait` sees them.
fn block_stop_signals() {
    // SAFETY: the set is initialised; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &stop_signals(), std::ptr::null_mut()) };
}

/// For a command that has something to put in order before it ends: a flag that the first SIGTERM or SIGINT raises.
/// The second ends the process at once. To be called before any other thread starts.
pub(super) fn stop_flag() -> &'static AtomicBool {
    static STOP: AtomicBool = AtomicBool::new(false);
    block_stop_signals();
    let waiting = std::thread::Builder::new().name("ringlog-signals".into()).spawn(|| {
        wait_for_stop_signal();
        STOP.store(true, Ordering::Relaxed);
        exit_on_second_signal();
    });
    if let Err(error) = waiting {
        eprintln!("ringlog: signals end this command only by force: {error}");
    }
    &STOP
}

fn wait_for_stop_signal() {
    let mut signal = 0;
    // SAFETY: the set is initialised and its signals are blocked in every thread.
    unsafe { libc::sigwait(&stop_signals(), &mut signal) };
}

fn exit_on_second_signal() {
    let _ = std::thread::Builder::new().name("ringlog-signals".into()).spawn(|| {
        wait_for_stop_signal();
        eprintln!("ringlog: second signal, ending at once");
        // Give the message a moment to leave, then end without running destructors.
        std::thread::sleep(Duration::from_millis(1));
        // SAFETY: ends the process without touching any of its state.
        unsafe { libc::_exit(130) };
    });
}
