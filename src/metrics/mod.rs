//! What a core counts while it works: latency histograms per API and stage, and plain counters.
//!
//! Owner: each core's thread has arrays of its own, made by `start_core` and kept for the life of the process;
//! other threads (tests, helpers) have none and record nothing. Invariants: recording is an addition to a fixed
//! array — no allocation, no lock, no atomic; nothing is ever reset (whoever wants intervals subtracts two
//! snapshots); bounds of the buckets are those of `buckets`.
//! It must not know who reads it: `admin` does, through the mesh.

mod buckets;
mod clock;
mod spans;

use std::cell::Cell;

pub use buckets::{BUCKETS, bucket_of, bucket_top};
pub use clock::{now_ns, start as start_clock};
pub use spans::{Span, Spans};

/// Api keys that are counted by themselves; larger ones share the last place.
pub const API_KEYS: usize = 96;

/// A latency histogram, nanoseconds. The request's stages in the order in which they happen; `Write` and `Flush`
/// are those of the disk, shared by all requests that they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Series {
    /// First byte of a produce request to its last, when it did not arrive in one piece.
    ProduceReceive,
    /// Last byte to the handler: room in the connection's pipeline.
    ProduceQueue,
    /// One batch: validation, its turn, room, its place in the log.
    ProduceAppend,
    /// One write: issued to completed.
    ProduceWrite,
    /// One flush: started to completed.
    ProduceFlush,
    /// One batch: in the log to as durable as its producer asked for.
    ProduceCommit,
    /// Answer made to answer with the kernel.
    ProduceReply,
    /// Last byte of the request to answer with the kernel.
    ProduceTotal,
    /// As for produce.
    FetchReceive,
    /// As for produce.
    FetchQueue,
    /// One pass over the partitions asked for.
    FetchRead,
    /// Waiting for data.
    FetchPark,
    /// As for produce.
    FetchReply,
    /// As for produce, parked time included.
    FetchTotal,
    /// As for produce.
    OtherReceive,
    /// As for produce.
    OtherQueue,
    /// The handler, its predecessors' answers included.
    OtherHandle,
    /// As for produce.
    OtherReply,
    /// As for produce.
    OtherTotal,
}

/// Number of [`Series`].
pub const SERIES: usize = 19;

/// API and stage of each series, in its order: tags of the log, labels of the metrics.
pub const SERIES_NAMES: [(&str, &str); SERIES] = [
    ("produce", "receive"),
    ("produce", "queue"),
    ("produce", "append"),
    ("produce", "write"),
    ("produce", "flush"),
    ("produce", "commit"),
    ("produce", "reply"),
    ("produce", "total"),
    ("fetch", "receive"),
    ("fetch", "queue"),
    ("fetch", "read"),
    ("fetch", "park"),
    ("fetch", "reply"),
    ("fetch", "total"),
    ("other", "receive"),
    ("other", "queue"),
    ("other", "handle"),
    ("other", "reply"),
    ("other", "total"),
];

/// A count that only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Bytes of request frames.
    RequestBytes,
    /// Bytes of batches appended.
    ProduceBytes,
    /// Records appended.
    ProduceRecords,
    /// Batches appended.
    ProduceBatches,
    /// Bytes of batches sent to consumers.
    FetchBytes,
    /// Bytes handed to the disk by the logs, padding included.
    DiskWriteBytes,
    /// Reads from the disk.
    DiskReads,
    /// Bytes read from the disk.
    DiskReadBytes,
    /// Connections accepted.
    ConnectionsAccepted,
    /// Connections refused for want of a place.
    ConnectionsRefused,
    /// Connections closed because a request could not be answered.
    RequestsRefused,
    /// Connections ended because their peers took nothing while others needed the memory of their answers.
    StalledPeersEnded,
}

/// Number of [`Counter`].
pub const COUNTERS: usize = 12;

/// Name and meaning of each counter, in its order.
pub const COUNTER_NAMES: [(&str, &str); COUNTERS] = [
    ("request_bytes_total", "Bytes of request frames"),
    ("produce_bytes_total", "Bytes of batches appended"),
    ("produce_records_total", "Records appended"),
    ("produce_batches_total", "Batches appended"),
    ("fetch_bytes_total", "Bytes of batches sent to consumers"),
    ("disk_write_bytes_total", "Bytes handed to the disk by the logs, padding included"),
    ("disk_reads_total", "Reads from the disk"),
    ("disk_read_bytes_total", "Bytes read from the disk"),
    ("connections_accepted_total", "Connections accepted"),
    ("connections_refused_total", "Connections refused for want of a place"),
    ("requests_refused_total", "Connections closed because a request could not be answered"),
    (
        "stalled_peers_ended_total",
        "Connections ended because their peers took no answer and others needed the memory",
    ),
];

/// One core's arrays.
struct Core {
    /// [`SERIES`] histograms of [`BUCKETS`] each.
    histograms: Vec<Cell<u64>>,
    sums_ns: [Cell<u64>; SERIES],
    max_ns: [Cell<u64>; SERIES],
    counters: [Cell<u64>; COUNTERS],
    requests: [Cell<u64>; API_KEYS],
    errors: [Cell<u64>; API_KEYS],
}

thread_local! {
    static CORE: Cell<Option<&'static Core>> = const { Cell::new(None) };
}

/// Gives this thread its arrays; once, on each core's thread, before it serves. They are never freed.
pub fn start_core() {
    let zeros = || Cell::new(0);
    let core = Core {
        histograms: vec![Cell::new(0); SERIES * BUCKETS],
        sums_ns: std::array::from_fn(|_| zeros()),
        max_ns: std::array::from_fn(|_| zeros()),
        counters: std::array::from_fn(|_| zeros()),
        requests: std::array::from_fn(|_| zeros()),
        errors: std::array::from_fn(|_| zeros()),
    };
    CORE.set(Some(Box::leak(Box::new(core))));
}

fn bump(cell: &Cell<u64>, by: u64) {
    cell.set(cell.get().wrapping_add(by));
}

fn api_slot(api_key: i16) -> usize {
    usize::try_from(api_key).unwrap_or(API_KEYS - 1).min(API_KEYS - 1)
}

/// Adds one value to a histogram.
pub fn record(series: Series, value_ns: u64) {
    if let Some(core) = CORE.get() {
        let series = series as usize;
        bump(&core.histograms[series * BUCKETS + bucket_of(value_ns)], 1);
        bump(&core.sums_ns[series], value_ns);
        if value_ns > core.max_ns[series].get() {
            core.max_ns[series].set(value_ns);
        }
    }
}

/// Adds the time since `since_ns` (a time of [`now_ns`]) to a histogram.
pub fn record_since(series: Series, since_ns: u64) {
    record(series, now_ns().saturating_sub(since_ns));
}

/// Raises a counter.
pub fn add(counter: Counter, by: u64) {
    if let Some(core) = CORE.get() {
        bump(&core.counters[counter as usize], by);
    }
}

/// Counts a request.
pub fn count_request(api_key: i16) {
    if let Some(core) = CORE.get() {
        bump(&core.requests[api_slot(api_key)], 1);
    }
}

/// Counts error codes other than 0 in an answer.
pub fn count_errors(api_key: i16, errors: u64) {
    if let Some(core) = CORE.get() {
        bump(&core.errors[api_slot(api_key)], errors);
    }
}

/// A copy of one core's arrays.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// [`SERIES`] histograms of [`BUCKETS`] each.
    pub histograms: Vec<u64>,
    /// Sum of the values of each series, nanoseconds.
    pub sums_ns: Vec<u64>,
    /// Largest value of each series since the start, nanoseconds.
    pub max_ns: Vec<u64>,
    /// By [`Counter`].
    pub counters: Vec<u64>,
    /// Requests by api key.
    pub requests: Vec<u64>,
    /// Error codes other than 0 in answers, by api key.
    pub errors: Vec<u64>,
}

/// What this core has counted since it started; empty arrays on a thread without.
pub fn snapshot() -> Snapshot {
    let copy = |cells: &[Cell<u64>]| cells.iter().map(Cell::get).collect();
    CORE.get().map_or_else(Snapshot::default, |core| Snapshot {
        histograms: copy(&core.histograms),
        sums_ns: copy(&core.sums_ns),
        max_ns: copy(&core.max_ns),
        counters: copy(&core.counters),
        requests: copy(&core.requests),
        errors: copy(&core.errors),
    })
}

impl Snapshot {
    /// The counts of one series; empty if there are none.
    pub fn histogram(&self, series: usize) -> &[u64] {
        self.histograms.get(series * BUCKETS..(series + 1) * BUCKETS).unwrap_or_default()
    }

    /// Adds another core's counts; the larger of each maximum.
    pub fn merge(&mut self, other: &Snapshot) {
        let pairs = [
            (&mut self.histograms, &other.histograms),
            (&mut self.sums_ns, &other.sums_ns),
            (&mut self.counters, &other.counters),
            (&mut self.requests, &other.requests),
            (&mut self.errors, &other.errors),
        ];
        for (mine, theirs) in pairs {
            mine.resize(mine.len().max(theirs.len()), 0);
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a = a.wrapping_add(*b));
        }
        self.max_ns.resize(self.max_ns.len().max(other.max_ns.len()), 0);
        self.max_ns.iter_mut().zip(&other.max_ns).for_each(|(a, b)| *a = (*a).max(*b));
    }

    /// The histograms of what came after `base`, an earlier snapshot of the same core.
    pub fn histograms_since(&self, base: &Snapshot) -> Vec<u64> {
        let before = base.histograms.iter().copied().chain(std::iter::repeat(0));
        self.histograms.iter().zip(before).map(|(now, before)| now.wrapping_sub(before)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_arrays_records_nothing_and_one_with_them_everything() {
        std::thread::spawn(|| {
            record(Series::ProduceAppend, 5);
            assert!(snapshot().histograms.is_empty());
            start_core();
            for value in [5, 5, 1_000_000, u64::MAX] {
                record(Series::OtherTotal, value);
            }
            add(Counter::RequestsRefused, 3);
            count_request(-1);
            count_request(0);
            let mut all = snapshot();
            assert_eq!(all.histogram(Series::OtherTotal as usize).iter().sum::<u64>(), 4);
            assert_eq!(all.histogram(Series::OtherTotal as usize)[5], 2);
            assert_eq!(all.histogram(Series::ProduceAppend as usize).iter().sum::<u64>(), 0);
            assert_eq!((all.requests[0], all.requests[API_KEYS - 1]), (1, 1));
            assert_eq!(all.counters[Counter::RequestsRefused as usize], 3);
            let before = all.clone();
            record(Series::OtherTotal, 7);
            assert_eq!(snapshot().histograms_since(&before).iter().sum::<u64>(), 1);
            all.merge(&before);
            assert_eq!(all.histogram(Series::OtherTotal as usize)[5], 4);
            assert_eq!(all.max_ns[Series::OtherTotal as usize], u64::MAX);
        })
        .join()
        .unwrap();
    }

    /// Not a check: prints what recording costs on this machine (docs/LAB.md quotes it).
    #[test]
    #[ignore = "a measurement"]
    fn cost() {
        start_clock();
        start_core();
        let rounds = 20_000_000u64;
        let start = now_ns();
        for value in 0..rounds {
            record(Series::ProduceAppend, std::hint::black_box(value));
        }
        let recorded = now_ns();
        let mut sum = 0u64;
        for _ in 0..rounds {
            sum = sum.wrapping_add(std::hint::black_box(now_ns()));
        }
        let read = now_ns();
        std::hint::black_box(sum);
        println!(
            "record {:.2} ns, clock {:.2} ns",
            (recorded - start) as f64 / rounds as f64,
            (read - recorded) as f64 / rounds as f64
        );
    }
}
