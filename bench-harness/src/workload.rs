//! Workloads: turns parameters into connections, threads and a measured outcome.
//!
//! Owner: the main thread. A workload opens everything first, fixes the window, then lets the threads run.
//! Must not: parse flags (that is `cli`) or format anything (that is `report`).

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::batch::{BatchImage, BatchShape, STAMP_BYTES};
use crate::consumer::{AtEnd, Consumer, FetchPlan, FetchSpec, Goal, Position};
use crate::curve::Curve;
use crate::drain::{DrainWatch, Drained};
use crate::error::{BenchError, Result, io_err, protocol};
use crate::frame::RequestTemplate;
use crate::generator::{ConnectionPlan, Generator, LoadEnd, LoadSpec, Peer, open_stream};
use crate::kafka::{Control, Partition};
use crate::limits::{CONNECTIONS_MAX, IN_FLIGHT_MAX, REPORT_QUEUE_MAX, TEMPLATES_MAX};
use crate::progress::Progress;
use crate::record::{Recorder, Report, Totals, Window, collect};
use crate::schedule::Pace;
use crate::series::{Intent, Watch};
use crate::sys;

/// How many records go in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// That many.
    Records(u32),
    /// As many as make all batches of one request fit that many bytes.
    RequestBytes(usize),
}

/// What the producer side of a workload does.
#[derive(Debug, Clone)]
pub(crate) struct ProduceLoad {
    /// TCP connections.
    pub(crate) connections: usize,
    /// Requests in flight on each.
    pub(crate) in_flight: usize,
    /// Bytes of a record's value.
    pub(crate) record_bytes: usize,
    /// Batch size.
    pub(crate) fill: Fill,
    /// Partitions (and batches) in one request.
    pub(crate) partitions_per_request: usize,
    /// 0, 1 or -1.
    pub(crate) acks: i16,
    /// Open or closed loop.
    pub(crate) pace: Pace,
    /// Batch bytes after which the load stops early.
    pub(crate) bytes_max: u64,
    /// Profile that the rate follows; `pace` then has its mean.
    pub(crate) curve: Option<Arc<Curve>>,
}

/// What the consumer side of a workload does.
#[derive(Debug, Clone)]
pub(crate) struct ConsumeLoad {
    /// TCP connections of one group; each reads its share of the partitions, or one of them when there are more
    /// connections.
    pub(crate) connections: usize,
    /// Groups, each of which reads everything.
    pub(crate) fan_out: usize,
    /// Share of the partitions that one more group reads, 0 to 1.
    pub(crate) fan_out_part: f64,
    /// Start.
    pub(crate) from: From,
    /// Behaviour at the end offset.
    pub(crate) at_end: AtEnd,
    /// Response limit in bytes.
    pub(crate) bytes_max: u32,
    /// Least bytes in a response.
    pub(crate) bytes_min: u32,
    /// Longest hold of a fetch, in milliseconds.
    pub(crate) wait_ms_max: u32,
    /// Whether batch CRCs are verified.
    pub(crate) check_crc: bool,
}

impl ConsumeLoad {
    /// One group that follows what is written from now on, a fetch being held until there is something.
    pub(crate) fn following(connections: usize, check_crc: bool) -> ConsumeLoad {
        ConsumeLoad {
            connections,
            fan_out: 1,
            fan_out_part: 0.0,
            from: From::Latest,
            at_end: AtEnd::Follow,
            bytes_max: 1 << 20,
            bytes_min: 1,
            wait_ms_max: 500,
            check_crc,
        }
    }

    /// How many times every record is read, on average over the partitions.
    pub(crate) fn copies(&self) -> f64 {
        if self.at_end == AtEnd::Follow { self.fan_out as f64 + self.fan_out_part } else { 0.0 }
    }
}

/// Where a consumer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// At the log start offset.
    Earliest,
    /// At the log end offset.
    Latest,
    /// That many records before the end of each partition.
    Tail(u64),
}

/// The client side of this host, and timing.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Cores to pin load threads to, one thread each; empty: one thread for every two cores, not pinned.
    pub(crate) cpus: Vec<usize>,
    /// Congestion control to set per socket.
    pub(crate) congestion: Option<String>,
    /// Unmeasured start.
    pub(crate) warmup: Duration,
    /// Measured time.
    pub(crate) duration: Duration,
    /// Wait for late replies behind the window.
    pub(crate) drain: Duration,
    /// Process whose processor time is noted.
    pub(crate) server_pid: Option<u32>,
    /// Where the `.hlog` goes.
    pub(crate) log: Option<std::path::PathBuf>,
    /// Whether a progress line is shown.
    pub(crate) progress: bool,
}

/// Processor time inside the measured window, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HostUse {
    /// The server process, when its id was given.
    pub(crate) server_ns: Option<u64>,
    /// The harness.
    pub(crate) harness_ns: u64,
    /// All processes of the host.
    pub(crate) busy_ns: u64,
    /// Taken by the hypervisor.
    pub(crate) stolen_ns: u64,
}

/// What a workload measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Samples and counts.
    pub(crate) totals: Totals,
    /// Length of the window, or up to the last completion when the load ended early, in nanoseconds.
    pub(crate) elapsed_ns: u64,
    /// One for each load thread.
    pub(crate) ends: Vec<LoadEnd>,
    /// Processor time inside the window; `None` when the load ended before it.
    pub(crate) host: Option<HostUse>,
    /// Whether the byte budget or the end of the log cut the window short.
    pub(crate) ended_early: bool,
    /// Records acknowledged and not seen by the consumers of an end-to-end run.
    pub(crate) undelivered: Option<u64>,
    /// What became of the backlog that consumers found.
    pub(crate) drained: Option<Drained>,
    /// Shape of what was sent: records and bytes of a request.
    pub(crate) request_shape: Option<(u64, u64)>,
}

impl Outcome {
    /// Nothing measured in a window of so many nanoseconds.
    pub(crate) fn of_nothing(elapsed_ns: u64) -> Self {
        Self {
            totals: Totals::default(),
            elapsed_ns,
            ends: Vec::new(),
            host: None,
            ended_early: false,
            undelivered: None,
            drained: None,
            request_shape: None,
        }
    }
}

impl Client {
    /// Load threads for a workload of so many connections.
    fn threads(&self, connections: usize) -> usize {
        let wanted = if self.cpus.is_empty() {
            std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
        } else {
            self.cpus.len()
        };
        wanted.min(connections).max(1)
    }
}

/// Wall clock in milliseconds, for the batches' timestamps.
pub(crate) fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64)
}

/// Encodes the batch of a load.
pub(crate) fn encode_image(load: &ProduceLoad, stamped: bool) -> Result<BatchImage> {
    let record_bytes = if stamped { load.record_bytes.max(STAMP_BYTES) } else { load.record_bytes };
    let shape = match load.fill {
        Fill::Records(records) => BatchShape { records: records.max(1), record_bytes, stamped },
        Fill::RequestBytes(bytes) => {
            BatchShape::filling(bytes / load.partitions_per_request.max(1), record_bytes, stamped)
        }
    };
    BatchImage::encode(shape, wall_ms())
}

/// Spreads a load over the partitions: every connection leads to one leader and walks over its own share of
/// that leader's partitions.
pub(crate) fn plan_connections(
    topic: &str,
    partitions: &[Partition],
    load: &ProduceLoad,
    image: &BatchImage,
) -> Result<Vec<ConnectionPlan>> {
    plan_pool(topic, partitions, load, std::slice::from_ref(image))
}

/// The same with a pool of batches, all of the same number of records, that the requests take in turns.
pub(crate) fn plan_pool(
    topic: &str,
    partitions: &[Partition],
    load: &ProduceLoad,
    images: &[BatchImage],
) -> Result<Vec<ConnectionPlan>> {
    if load.connections == 0 || load.connections > CONNECTIONS_MAX || load.in_flight == 0 {
        return Err(BenchError::Usage("connections or in-flight out of bounds".into()));
    }
    if load.in_flight > IN_FLIGHT_MAX {
        return Err(BenchError::Usage(format!("at most {IN_FLIGHT_MAX} requests in flight")));
    }
    let groups = by_leader(partitions);
    let width = load.partitions_per_request.max(1);
    let mut plans = Vec::with_capacity(load.connections);
    for connection in 0..load.connections {
        let (leader, indexes) = &groups[connection % groups.len()];
        if width > indexes.len() {
            return Err(BenchError::Usage(format!(
                "{width} partitions per request, but {leader} leads only {}",
                indexes.len()
            )));
        }
        let peers = (load.connections - connection % groups.len()).div_ceil(groups.len());
        let place = connection / groups.len();
        let turns = indexes.len().div_ceil(peers * width).max(1);
        // Neighbouring connections start at different batches; a round over the partitions shifts them by one.
        let rounds = images.len().div_ceil(turns).max(1);
        if load.connections.saturating_mul(turns * rounds) > TEMPLATES_MAX {
            return Err(BenchError::Usage(format!("more than {TEMPLATES_MAX} request templates")));
        }
        let mut templates = Vec::with_capacity(turns * rounds);
        for turn in 0..turns * rounds {
            let first = (turn % turns * peers + place) * width;
            let chosen: Vec<i32> = (0..width).map(|k| indexes[(first + k) % indexes.len()]).collect();
            let image = &images[(connection + turn + turn / turns) % images.len()];
            templates.push(RequestTemplate::encode(topic, &chosen, load.acks, image)?);
        }
        plans.push(ConnectionPlan { target: *leader, templates });
    }
    Ok(plans)
}

/// The same partitions with the next leader's address in place of each leader's.
///
/// # Errors
/// When all partitions have the same leader: there is no wrong one then.
pub(crate) fn misrouted(partitions: &[Partition]) -> Result<Vec<Partition>> {
    let leaders: Vec<_> = by_leader(partitions).into_iter().map(|(leader, _)| leader).collect();
    if leaders.len() < 2 {
        return Err(BenchError::Usage("--misroute needs partitions with different leaders".into()));
    }
    let next = |leader| {
        let at = leaders.iter().position(|known| *known == leader).unwrap_or(0);
        leaders[(at + 1) % leaders.len()]
    };
    Ok(partitions.iter().map(|part| Partition { index: part.index, leader: next(part.leader) }).collect())
}

pub(crate) fn by_leader(partitions: &[Partition]) -> Vec<(std::net::SocketAddr, Vec<i32>)> {
    let mut groups: Vec<(std::net::SocketAddr, Vec<i32>)> = Vec::new();
    for partition in partitions {
        match groups.iter_mut().find(|(leader, _)| *leader == partition.leader) {
            Some((_, indexes)) => indexes.push(partition.index),
            None => groups.push((partition.leader, vec![partition.index])),
        }
    }
    groups
}

pub(crate) type Handles = Vec<JoinHandle<Result<LoadEnd>>>;
type OpenedProducer = (u64, TcpStream, Vec<RequestTemplate>);

fn open_producers(plans: Vec<ConnectionPlan>, client: &Client) -> Result<Vec<OpenedProducer>> {
    let mut opened = Vec::with_capacity(plans.len());
    for (id, plan) in plans.into_iter().enumerate() {
        opened.push((id as u64, open_stream(plan.target, client.congestion.as_deref())?, plan.templates));
    }
    Ok(opened)
}

/// Deals items to `count` hands, round robin.
fn deal<T>(items: Vec<T>, count: usize) -> Vec<Vec<T>> {
    let mut hands: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    for (index, item) in items.into_iter().enumerate() {
        hands[index % count].push(item);
    }
    hands
}

fn pin(cpus: &[usize], thread: usize) -> Result<()> {
    match cpus.get(thread % cpus.len().max(1)) {
        Some(cpu) => sys::pin_thread(*cpu).map_err(io_err(format!("pin to core {cpu}"))),
        None => Ok(()),
    }
}

fn spawn_producers(
    spec: &Arc<LoadSpec>,
    window: Window,
    opened: Vec<OpenedProducer>,
    client: &Client,
    reports: &SyncSender<Report>,
) -> Result<Handles> {
    let total = opened.len() as u64;
    let mut handles = Handles::new();
    for (thread, share) in deal(opened, client.threads(total as usize)).into_iter().enumerate() {
        let generator = Generator::new(Arc::clone(spec), window, share, total)?;
        let recorder = Recorder::new(thread, window, reports.clone());
        let cpus = client.cpus.clone();
        handles.push(std::thread::spawn(move || {
            pin(&cpus, thread)?;
            generator.run(recorder)
        }));
    }
    Ok(handles)
}

pub(crate) fn join(handles: Handles) -> Result<Vec<LoadEnd>> {
    handles.into_iter().map(|handle| handle.join().map_err(|_| protocol("a load thread panicked"))?).collect()
}

/// Reads processor times at both ends of the window.
pub(crate) fn watch_host(client: &Client, window: Window) -> JoinHandle<HostUse> {
    let pid = client.server_pid;
    std::thread::spawn(move || {
        let sleep_until =
            |time: u64| std::thread::sleep(Duration::from_nanos(time.saturating_sub(sys::now_ns())));
        let read = || {
            let (busy_ns, stolen_ns) = sys::host_cpu_ns().unwrap_or_default();
            let harness_ns = sys::pid_cpu_ns(std::process::id()).unwrap_or_default();
            HostUse { server_ns: pid.and_then(sys::pid_cpu_ns), harness_ns, busy_ns, stolen_ns }
        };
        sleep_until(window.start_ns);
        let before = read();
        sleep_until(window.end_ns);
        let after = read();
        HostUse {
            server_ns: after.server_ns.zip(before.server_ns).map(|(end, start)| end.saturating_sub(start)),
            harness_ns: after.harness_ns.saturating_sub(before.harness_ns),
            busy_ns: after.busy_ns.saturating_sub(before.busy_ns),
            stolen_ns: after.stolen_ns.saturating_sub(before.stolen_ns),
        }
    })
}

/// The watcher's figures, unless the load ended before the window they cover.
pub(crate) fn host_use(watcher: JoinHandle<HostUse>, ended_early: bool) -> Option<HostUse> {
    if ended_early { None } else { watcher.join().ok() }
}

fn load_spec(load: &ProduceLoad, client: &Client, peer: Peer) -> Arc<LoadSpec> {
    Arc::new(LoadSpec {
        peer,
        pace: load.pace,
        curve: load.curve.clone(),
        in_flight: load.in_flight,
        acked: load.acks != 0 || peer == Peer::Sink,
        drain: client.drain,
        bytes_max: load.bytes_max,
        bytes_sent: AtomicU64::new(0),
        records_done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    })
}

/// Runs a produce workload against planned connections.
pub(crate) fn produce(
    plans: Vec<ConnectionPlan>,
    load: &ProduceLoad,
    client: &Client,
    peer: Peer,
) -> Result<Outcome> {
    let shape = (plans[0].templates[0].records(), plans[0].templates[0].batch_bytes());
    let opened = open_producers(plans, client)?;
    let spec = load_spec(load, client, peer);
    let (sender, receiver) = sync_channel(REPORT_QUEUE_MAX);
    let window = Window::soon(client.warmup, client.duration);
    let handles = spawn_producers(&spec, window, opened, client, &sender)?;
    drop(sender);
    let host = watch_host(client, window);
    let intent = Intent { pace: Some(load.pace), curve: load.curve.clone(), ..Intent::default() };
    let totals = gather(handles.len(), &receiver, client, window, &intent);
    let ends = join(handles)?;
    let totals = totals?;
    let ended_early = spec.stop.load(Ordering::Relaxed);
    Ok(Outcome {
        elapsed_ns: elapsed(window, &ends, ended_early),
        totals,
        ends,
        host: host_use(host, ended_early),
        ended_early,
        undelivered: None,
        drained: None,
        request_shape: Some(shape),
    })
}

/// Collects what the load threads report, with the live view and the series beside it.
pub(crate) fn gather(
    threads: usize,
    receiver: &std::sync::mpsc::Receiver<Report>,
    client: &Client,
    window: Window,
    intent: &Intent,
) -> Result<Totals> {
    let watch = Watch::start(client.server_pid.into(), window);
    let mut progress =
        Progress::new(client.progress, window).with(watch.live(), intent.copies, intent.backlog);
    let log = client.log.as_deref();
    let totals = collect(threads, receiver, log, |totals, second| progress.show(totals, second))?;
    watch.finish(log, &totals, intent)?;
    Ok(totals)
}

/// The measured time: the window, or what of it a load that ended early used.
pub(crate) fn elapsed(window: Window, ends: &[LoadEnd], ended_early: bool) -> u64 {
    let last = ends.iter().map(|end| end.last_completion_ns).max().unwrap_or(window.end_ns);
    let end = if ended_early { last.min(window.end_ns) } else { window.end_ns };
    end.saturating_sub(window.start_ns).max(1)
}

/// Plans the consumers of a topic.
pub(crate) fn plan_fetches(
    topic: &str,
    partitions: &[Partition],
    load: &ConsumeLoad,
) -> Result<Vec<FetchPlan>> {
    if load.connections == 0 || load.connections.saturating_mul(load.fan_out) > CONNECTIONS_MAX {
        return Err(BenchError::Usage("connections out of bounds".into()));
    }
    let earliest = Control::list_offsets(topic, partitions, -2)?;
    let latest = Control::list_offsets(topic, partitions, -1)?;
    let mut plans: Vec<FetchPlan> = Vec::new();
    let part = (partitions.len() as f64 * load.fan_out_part.clamp(0.0, 1.0)).round() as usize;
    let whole = (0..load.fan_out).map(|_| (partitions, true));
    // The last group reads the first partitions only.
    let partial = (part > 0).then(|| (&partitions[..part], false));
    for (partitions, counted) in whole.chain(partial) {
        plan_group(topic, partitions, counted, load, (&earliest, &latest), &mut plans);
    }
    Ok(plans)
}

/// Plans one group of consumers. `bounds` are the first and the next offsets, in the order of the partitions.
fn plan_group(
    topic: &str,
    partitions: &[Partition],
    counted: bool,
    load: &ConsumeLoad,
    (earliest, latest): (&[i64], &[i64]),
    plans: &mut Vec<FetchPlan>,
) {
    let groups = by_leader(partitions);
    for connection in 0..load.connections {
        let (leader, indexes) = &groups[connection % groups.len()];
        let peers = (load.connections - connection % groups.len()).div_ceil(groups.len());
        let place = connection / groups.len();
        let mut positions = Vec::new();
        for (rank, index) in indexes.iter().enumerate() {
            // With more connections than partitions, several read the same one.
            let mine =
                if peers <= indexes.len() { rank % peers == place } else { rank == place % indexes.len() };
            if !mine {
                continue;
            }
            let at = partitions.iter().position(|part| part.index == *index).unwrap_or(0);
            let start = match load.from {
                From::Earliest => earliest[at],
                From::Latest => latest[at],
                From::Tail(records) => earliest[at].max(latest[at].saturating_sub_unsigned(records)),
            };
            positions.push(Position { partition: *index, start, next: start, end: latest[at] });
        }
        positions.sort_by_key(|position| position.partition);
        if !positions.is_empty() {
            plans.push(FetchPlan { topic: topic.to_owned(), counted, target: *leader, positions });
        }
    }
}

fn fetch_spec(load: &ConsumeLoad, client: &Client, goal: Option<Arc<Goal>>) -> Arc<FetchSpec> {
    Arc::new(FetchSpec {
        bytes_max: load.bytes_max,
        bytes_min: load.bytes_min,
        wait_ms_max: load.wait_ms_max,
        at_end: load.at_end,
        check_crc: load.check_crc,
        drain: client.drain,
        goal,
        stop: AtomicBool::new(false),
    })
}

fn open_consumers(plans: Vec<FetchPlan>, client: &Client) -> Result<Vec<(TcpStream, FetchPlan)>> {
    plans
        .into_iter()
        .map(|plan| Ok((open_stream(plan.target, client.congestion.as_deref())?, plan)))
        .collect()
}

fn spawn_consumers(
    spec: &Arc<FetchSpec>,
    window: Window,
    opened: Vec<(TcpStream, FetchPlan)>,
    client: &Client,
    first_thread: usize,
    reports: &SyncSender<Report>,
) -> Result<Handles> {
    let count = client.threads(opened.len());
    let mut handles = Handles::new();
    for (thread, share) in deal(opened, count).into_iter().enumerate() {
        let consumer = Consumer::new(Arc::clone(spec), window, share)?;
        let recorder = Recorder::new(first_thread + thread, window, reports.clone());
        let cpus = client.cpus.clone();
        handles.push(std::thread::spawn(move || {
            pin(&cpus, thread)?;
            consumer.run(recorder)
        }));
    }
    Ok(handles)
}

/// Runs a consume workload.
pub(crate) fn consume(plans: Vec<FetchPlan>, load: &ConsumeLoad, client: &Client) -> Result<Outcome> {
    let opened = open_consumers(plans, client)?;
    let spec = fetch_spec(load, client, None);
    let (sender, receiver) = sync_channel(REPORT_QUEUE_MAX);
    let window = Window::soon(client.warmup, client.duration);
    let handles = spawn_consumers(&spec, window, opened, client, 0, &sender)?;
    drop(sender);
    let host = watch_host(client, window);
    let totals = gather(handles.len(), &receiver, client, window, &Intent::default());
    let ends = join(handles)?;
    let totals = totals?;
    let last = ends.iter().map(|end| end.last_completion_ns).max().unwrap_or(0);
    let ended_early = load.at_end == AtEnd::Stop && last < window.end_ns;
    Ok(Outcome {
        elapsed_ns: elapsed(window, &ends, ended_early),
        totals,
        ends,
        host: host_use(host, ended_early),
        ended_early,
        undelivered: None,
        drained: None,
        request_shape: None,
    })
}

/// Records that lie before the readers: those that count towards the goal, and all.
fn backlog(plans: &[FetchPlan]) -> (u64, u64) {
    let of = |plan: &FetchPlan| {
        plan.positions.iter().map(|at| (at.end - at.start).max(0).unsigned_abs()).sum::<u64>()
    };
    let counted = plans.iter().filter(|plan| plan.counted).map(of).sum();
    (counted, plans.iter().map(of).sum())
}

/// Runs producers and consumers together; the consumers read the stamps the producers wrote. Those that begin at the
/// start of the log work off what lies there meanwhile.
pub(crate) fn end_to_end(
    plans: Vec<ConnectionPlan>,
    load: &ProduceLoad,
    fetch_plans: Vec<FetchPlan>,
    consume: &ConsumeLoad,
    client: &Client,
) -> Result<Outcome> {
    let shape = (plans[0].templates[0].records(), plans[0].templates[0].batch_bytes());
    let (counted, all) = backlog(&fetch_plans);
    let produced = open_producers(plans, client)?;
    let consumed = open_consumers(fetch_plans, client)?;
    let goal = Arc::new(Goal { backlog: counted, ..Goal::default() });
    let spec = load_spec(load, client, Peer::Kafka);
    let fetch = fetch_spec(consume, client, Some(Arc::clone(&goal)));
    let (sender, receiver) = sync_channel(REPORT_QUEUE_MAX);
    let window = Window::soon(client.warmup, client.duration);
    let producers = spawn_producers(&spec, window, produced, client, &sender)?;
    let consumers = spawn_consumers(&fetch, window, consumed, client, producers.len(), &sender)?;
    drop(sender);
    let threads = producers.len() + consumers.len();
    let host = watch_host(client, window);
    let copies = consume.fan_out as u64;
    let under_way = shape.0 * (load.connections * load.in_flight) as u64;
    let drain = {
        let spec = Arc::clone(&spec);
        let done = move || spec.records_done.load(Ordering::Relaxed);
        DrainWatch::start(&goal, copies, window.load_start_ns, under_way * copies, done)
    };
    let watcher = {
        // Tells the consumers how much there is to come, once the producers are through.
        let (goal, fetch) = (Arc::clone(&goal), Arc::clone(&fetch));
        std::thread::spawn(move || {
            let ends = join(producers);
            match &ends {
                Ok(ends) => {
                    let records: u64 = ends.iter().map(|end| end.records_total).sum();
                    goal.records.store(goal.backlog + records * copies, Ordering::Relaxed);
                    goal.complete.store(true, Ordering::Release);
                }
                Err(_) => fetch.stop.store(true, Ordering::Relaxed),
            }
            ends
        })
    };
    let intent = Intent {
        pace: Some(load.pace),
        curve: load.curve.clone(),
        copies: consume.copies(),
        backlog: all,
        ..Intent::default()
    };
    let totals = gather(threads, &receiver, client, window, &intent);
    let made = watcher.join().map_err(|_| protocol("the watcher panicked"));
    let read = join(consumers);
    let drained = drain.and_then(DrainWatch::finish);
    let mut ends = made??;
    ends.extend(read?);
    let totals = totals?;
    let undelivered =
        goal.records.load(Ordering::Relaxed).saturating_sub(goal.received.load(Ordering::Relaxed));
    let ended_early = spec.stop.load(Ordering::Relaxed);
    Ok(Outcome {
        elapsed_ns: elapsed(window, &ends, ended_early),
        totals,
        ends,
        host: host_use(host, ended_early),
        ended_early,
        undelivered: Some(undelivered),
        drained,
        request_shape: Some(shape),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use crate::sink::{SinkHandle, Work};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    fn client(duration: Duration) -> Client {
        Client {
            cpus: Vec::new(),
            congestion: None,
            warmup: Duration::ZERO,
            duration,
            drain: Duration::from_secs(30),
            server_pid: None,
            log: None,
            progress: false,
        }
    }

    fn load(connections: usize, records: u32, rate: u64) -> ProduceLoad {
        ProduceLoad {
            connections,
            in_flight: 4,
            record_bytes: 64,
            fill: Fill::Records(records),
            partitions_per_request: 1,
            acks: 1,
            pace: Pace::Rate(rate),
            bytes_max: u64::MAX,
            curve: None,
        }
    }

    fn plans(load: &ProduceLoad, targets: &[SocketAddr]) -> Vec<ConnectionPlan> {
        let image = encode_image(load, false).unwrap();
        (0..load.connections)
            .map(|index| ConnectionPlan {
                target: targets[index % targets.len()],
                templates: vec![RequestTemplate::encode("t", &[0], 1, &image).unwrap()],
            })
            .collect()
    }

    /// A server that answers every frame, and sleeps once before it answers frame `stall_at`.
    fn stalling_server(stall_at: usize, stall: Duration) -> (SocketAddr, JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut frames = 0;
            let mut head = [0u8; 4];
            while stream.read_exact(&mut head).is_ok() {
                let mut body = vec![0; u32::from_be_bytes(head) as usize];
                stream.read_exact(&mut body).unwrap();
                if frames == stall_at {
                    std::thread::sleep(stall);
                }
                frames += 1;
                stream.write_all(&[[0, 0, 0, 4], body[4..8].try_into().unwrap()].concat()).unwrap();
            }
            frames
        });
        (address, thread)
    }

    /// The story: closed-loop tools send nothing while the server stalls and so report one slow request.
    /// Here every request that was meant to leave during the stall must show the delay its user would see.
    #[test]
    fn a_stall_is_charged_to_every_request_it_delays() {
        let (address, server) = stalling_server(100, Duration::from_millis(300));
        let load = load(1, 1, 1_000);
        let outcome =
            produce(plans(&load, &[address]), &load, &client(Duration::from_secs(1)), Peer::Sink).unwrap();
        let histogram = |kind: Kind| outcome.totals.histograms[kind as usize].as_ref().unwrap();
        let response = histogram(Kind::Response);
        assert_eq!(response.len(), 1_000, "every intended request is in the histogram");
        assert_eq!((histogram(Kind::Service).len(), histogram(Kind::Lag).len()), (1_000, 1_000));
        // Whatever was due in the first half of the stall waits for at least its second half.
        let delayed = response.count_between(150_000_000, u64::MAX / 2);
        assert!(delayed >= 145, "only {delayed} requests show the stall");
        assert!(histogram(Kind::Service).max() <= response.max());
        // The delay was the server's: what the generator added itself is less.
        assert!(histogram(Kind::OwnLag).mean() < histogram(Kind::Lag).mean());
        assert_eq!(outcome.ends.iter().map(|end| end.unsent + end.unanswered).sum::<u64>(), 0);
        assert_eq!(server.join().unwrap(), 1_000);
    }

    #[test]
    fn the_sink_answers_everything_whatever_it_does_with_it() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for work in [Work::Nothing, Work::Write, Work::Flush] {
            let sink = SinkHandle::start(&[], folder.path(), 32 << 20, work).unwrap();
            // 300 requests of 1,000 records (~70 KB) over three connections: 21 MB cross many write buffers.
            let load = load(3, 1_000, 1_000_000);
            let targets = sink.addresses.clone();
            let outcome =
                produce(plans(&load, &targets), &load, &client(Duration::from_millis(300)), Peer::Sink)
                    .unwrap();
            let end: LoadEnd = outcome.ends[0];
            assert_eq!((end.unsent, end.unanswered), (0, 0));
            assert_eq!(outcome.ends.iter().map(|end| end.records_total).sum::<u64>(), 300_000);
            assert_eq!(outcome.totals.histograms[Kind::Response as usize].as_ref().unwrap().len(), 300);
            sink.stop().unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "probe files are removed");
    }

    #[test]
    fn connections_share_partitions_without_overlap_and_cover_all() {
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let two: Vec<Partition> = [9, 10, 9]
            .iter()
            .zip(0..)
            .map(|(port, index)| Partition { index, leader: ([127, 0, 0, 1], *port).into() })
            .collect();
        let ports: Vec<u16> = misrouted(&two).unwrap().iter().map(|part| part.leader.port()).collect();
        assert_eq!(ports, [10, 9, 10]);
        assert!(misrouted(&two[..1]).is_err());
        for (partition_count, connections, width) in [(1, 4, 1), (4, 4, 1), (7, 3, 1), (8, 2, 2), (6, 4, 3)] {
            let partitions: Vec<Partition> =
                (0..partition_count).map(|index| Partition { index, leader: address }).collect();
            let load = ProduceLoad { partitions_per_request: width, ..load(connections, 1, 1) };
            let image = encode_image(&load, false).unwrap();
            let plans = plan_connections("t", &partitions, &load, &image).unwrap();
            assert_eq!(plans.len(), connections);
            let sizes: Vec<usize> =
                plans.iter().flat_map(|plan| &plan.templates).map(RequestTemplate::len).collect();
            assert!(sizes.windows(2).all(|pair| pair[0] == pair[1]));
            let slots: usize = plans.iter().map(|plan| plan.templates.len() * width).sum();
            assert!(slots >= partition_count as usize);
        }
    }
}
