//! Samples: recorded per thread in one-second histograms, merged by addition, written as an HdrHistogram log.
//!
//! Owner: a `Recorder` belongs to one load thread; the `Collector` to the thread that gathers reports.
//! Invariants: percentiles are read from merged histograms only, never averaged; a value above
//! `HISTOGRAM_NS_MAX` is counted as overflow, not clamped; an interval is written once every thread has
//! passed it. Must not: drop a sample silently.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;

use crate::error::{Result, io_err, protocol};
use crate::limits::{HISTOGRAM_NS_MAX, SERIES_SECONDS_MAX};

const INTERVAL_NS: u64 = 1_000_000_000;
/// Kinds of samples.
pub(crate) const KINDS: usize = 6;

/// What a sample measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From the intended send to the acknowledgement.
    Response = 0,
    /// From the actual send to the acknowledgement.
    Service = 1,
    /// From the intended to the actual send.
    Lag = 2,
    /// From the intended send to the arrival of the whole batch at a consumer.
    EndToEnd = 3,
    /// From the fetch request to the last byte of its response.
    Fetch = 4,
    /// From the moment a request was due and had room in window and socket to the actual send: the part of
    /// the lag that is the generator's own.
    OwnLag = 5,
}

impl Kind {
    /// All kinds, in index order.
    pub(crate) const ALL: [Self; KINDS] =
        [Self::Response, Self::Service, Self::Lag, Self::EndToEnd, Self::Fetch, Self::OwnLag];

    /// The tag in the log and the key in the summary.
    pub(crate) fn name(self) -> &'static str {
        ["response", "service", "lag", "e2e", "fetch", "own-lag"][self as usize]
    }
}

/// Counts of one thread in one interval, and their sums.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Requests acknowledged, or fetch responses.
    pub(crate) requests: u64,
    /// Records acknowledged or received.
    pub(crate) records: u64,
    /// Bytes of record batches acknowledged or received.
    pub(crate) bytes: u64,
}

impl Counters {
    /// Adds another count.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// An empty histogram of the harness's range: 1 ns to an hour, three digits.
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HISTOGRAM_NS_MAX, 3).expect("constant bounds are valid")
}

/// One thread's part of one interval.
#[derive(Debug)]
pub(crate) struct Report {
    /// Index of the thread among the load threads.
    thread: usize,
    /// Interval this report covers, and with it every empty one before.
    interval: u64,
    histograms: [Option<Histogram<u64>>; KINDS],
    overflow: [u64; KINDS],
    counters: [Counters; 2],
    finished: bool,
}

/// Where a counter belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Acknowledged by the endpoint.
    Produced = 0,
    /// Received from the endpoint.
    Consumed = 1,
}

/// The measured window, in CLOCK_MONOTONIC nanoseconds. Samples belong to it by their (intended) start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// First send.
    pub(crate) load_start_ns: u64,
    /// End of the warm-up.
    pub(crate) start_ns: u64,
    /// End of the schedule.
    pub(crate) end_ns: u64,
}

impl Window {
    /// A window that starts shortly from now.
    pub(crate) fn soon(warmup: Duration, duration: Duration) -> Self {
        let load_start_ns = crate::sys::now_ns() + 20_000_000;
        let start_ns = load_start_ns + warmup.as_nanos() as u64;
        Self { load_start_ns, start_ns, end_ns: start_ns + duration.as_nanos() as u64 }
    }
}

/// A load thread's side.
#[derive(Debug)]
pub(crate) struct Recorder {
    thread: usize,
    window: Window,
    interval: u64,
    histograms: [Option<Histogram<u64>>; KINDS],
    overflow: [u64; KINDS],
    counters: [Counters; 2],
    reports: SyncSender<Report>,
}

impl Recorder {
    /// A recorder for load thread `thread`.
    pub(crate) fn new(thread: usize, window: Window, reports: SyncSender<Report>) -> Self {
        Self {
            thread,
            window,
            interval: 0,
            histograms: Default::default(),
            overflow: [0; KINDS],
            counters: Default::default(),
            reports,
        }
    }

    /// Takes a sample whose operation was meant to start at `from_ns` and counts for the window if that is
    /// inside of it.
    pub(crate) fn sample(&mut self, kind: Kind, from_ns: u64, value_ns: u64) {
        if from_ns < self.window.start_ns || from_ns >= self.window.end_ns {
            return;
        }
        let histogram = self.histograms[kind as usize].get_or_insert_with(new_histogram);
        if histogram.record(value_ns).is_err() {
            self.overflow[kind as usize] += 1;
        }
    }

    /// Counts what was completed at `at_ns`. Throughput is what completed inside the window.
    pub(crate) fn count(&mut self, side: Side, at_ns: u64, counters: Counters) {
        if at_ns >= self.window.start_ns && at_ns < self.window.end_ns {
            self.counters[side as usize].add(counters);
        }
    }

    /// Closes the interval when `now_ns` is beyond it. Cheap when it is not.
    pub(crate) fn roll(&mut self, now_ns: u64) {
        let interval = now_ns.saturating_sub(self.window.start_ns) / INTERVAL_NS;
        if interval > self.interval {
            let closed = interval - 1;
            self.report(closed, false);
            self.interval = interval;
        }
    }

    /// Reports what is left.
    pub(crate) fn finish(mut self) {
        let interval = self.interval;
        self.report(interval, true);
    }

    fn report(&mut self, interval: u64, finished: bool) {
        let report = Report {
            thread: self.thread,
            interval,
            histograms: std::mem::take(&mut self.histograms),
            overflow: std::mem::take(&mut self.overflow),
            counters: std::mem::take(&mut self.counters),
            finished,
        };
        // The collector outlives the load threads unless it failed; its error is reported there.
        self.reports.send(report).ok();
    }
}

/// What a workload measured, merged over threads and intervals.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// One histogram for each kind that has samples.
    pub(crate) histograms: [Option<Histogram<u64>>; KINDS],
    /// Samples above the histogram's range, for each kind.
    pub(crate) overflow: [u64; KINDS],
    /// Completed inside the window: produced, consumed.
    pub(crate) counters: [Counters; 2],
    /// The same for each second of the window.
    pub(crate) seconds: Vec<[Counters; 2]>,
    /// The newest second that every thread has passed, and its histograms.
    pub(crate) last: Option<(u64, [Option<Histogram<u64>>; KINDS])>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        let second = (report.interval as usize).min(SERIES_SECONDS_MAX - 1);
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Default::default());
        }
        for (sum, value) in self.seconds[second].iter_mut().zip(report.counters) {
            sum.add(value);
        }
        merge(&mut self.histograms, &report.histograms);
        for (sum, value) in self.overflow.iter_mut().zip(report.overflow) {
            *sum += value;
        }
        for (sum, value) in self.counters.iter_mut().zip(report.counters) {
            sum.add(value);
        }
    }
}

fn merge(into: &mut [Option<Histogram<u64>>; KINDS], from: &[Option<Histogram<u64>>; KINDS]) {
    for (target, source) in into.iter_mut().zip(from) {
        if let Some(source) = source {
            target
                .get_or_insert_with(new_histogram)
                .add(source)
                .expect("all histograms have the same bounds");
        }
    }
}

/// Gathers the reports of `threads` load threads until all have finished; writes the log; calls `progress`
/// with the sums so far when a report came in and some second is complete.
///
/// # Errors
/// When the log cannot be written, or a thread died without finishing.
pub(crate) fn collect(
    threads: usize,
    reports: &Receiver<Report>,
    log: Option<&Path>,
    mut progress: impl FnMut(&Totals, u64),
) -> Result<Totals> {
    let mut totals = Totals::default();
    let mut sink: Box<dyn Write> = match log {
        Some(path) => Box::new(BufWriter::new(
            File::create(path).map_err(io_err(format!("create {}", path.display())))?,
        )),
        None => Box::new(std::io::sink()),
    };
    let started = SystemTime::now();
    writeln!(sink, "#[Histogram log format version 1.3]").map_err(io_err("histogram log"))?;
    writeln!(
        sink,
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
    )
    .map_err(io_err("histogram log"))?;
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[ringlog-bench: values in nanoseconds, maxima in milliseconds]")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut sink, &mut serializer)
        .map_err(io_err("histogram log"))?;

    let mut reached = vec![0u64; threads];
    let mut open: BTreeMap<u64, [Option<Histogram<u64>>; KINDS]> = BTreeMap::new();
    let mut running = threads;
    while running > 0 {
        let report = reports.recv().map_err(|_| protocol("a load thread died"))?;
        totals.add(&report);
        merge(open.entry(report.interval).or_default(), &report.histograms);
        reached[report.thread] = report.interval + 1;
        if report.finished {
            reached[report.thread] = u64::MAX;
            running -= 1;
        }
        let passed = reached.iter().copied().min().unwrap_or(u64::MAX);
        while let Some(entry) = open.first_entry().filter(|entry| *entry.key() < passed) {
            let interval = *entry.key();
            let histograms = entry.remove();
            for (kind, histogram) in Kind::ALL.iter().zip(&histograms) {
                let Some(histogram) = histogram else { continue };
                writer
                    .write_histogram(
                        histogram,
                        Duration::from_secs(interval),
                        Duration::from_nanos(INTERVAL_NS),
                        Tag::new(kind.name()),
                    )
                    .map_err(|error| protocol(format!("histogram log: {error}")))?;
            }
            totals.last = Some((interval, histograms));
        }
        if let Some((second, _)) = &totals.last {
            progress(&totals, *second);
        }
    }
    sink.flush().map_err(io_err("histogram log"))?;
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn window() -> Window {
        Window { load_start_ns: 0, start_ns: 0, end_ns: u64::MAX }
    }

    #[test]
    fn merged_histograms_hold_every_sample_and_the_log_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.hlog");
        let (sender, receiver) = std::sync::mpsc::sync_channel(64);
        let mut expected = new_histogram();
        let mut handles = Vec::new();
        for thread in 0..3u64 {
            for n in 0..2_000u64 {
                expected.record(1 + thread * 1_000_000 + n * n).unwrap();
            }
            let sender = sender.clone();
            handles.push(std::thread::spawn(move || {
                let mut recorder = Recorder::new(thread as usize, window(), sender);
                for n in 0..2_000u64 {
                    // Thread 2 skips intervals; that must not hold the others back for ever.
                    recorder.roll(n * 1_000_000 * (thread + 1));
                    recorder.sample(Kind::Service, 1, 1 + thread * 1_000_000 + n * n);
                    recorder.count(Side::Produced, 1, Counters { requests: 1, records: 2, bytes: 3 });
                }
                recorder.sample(Kind::Service, 1, HISTOGRAM_NS_MAX * 4);
                recorder.finish();
            }));
        }
        let totals = collect(3, &receiver, Some(&path), |_, _| ()).unwrap();
        for handle in handles {
            handle.join().unwrap();
        }
        assert_eq!(totals.histograms[Kind::Service as usize].as_ref().unwrap(), &expected);
        assert_eq!(totals.overflow[Kind::Service as usize], 3);
        assert_eq!(totals.counters[0], Counters { requests: 6_000, records: 12_000, bytes: 18_000 });

        let text = std::fs::read(&path).unwrap();
        let body: Vec<u8> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.starts_with(b"\""))
            .collect::<Vec<_>>()
            .join(&b'\n');
        let mut sum = new_histogram();
        let mut deserializer = Deserializer::new();
        for entry in IntervalLogIterator::new(&body) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                assert_eq!(interval.tag().unwrap().as_str(), "service");
                let raw = decode_base64(interval.encoded_histogram());
                sum.add(deserializer.deserialize::<u64, _>(&mut raw.as_slice()).unwrap()).unwrap();
            }
        }
        assert_eq!(sum, expected);
    }

    fn decode_base64(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut bits, mut count) = (0u32, 0);
        for byte in text.bytes().filter(|byte| *byte != b'=') {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            bits = bits << 6 | alphabet.iter().position(|letter| *letter == byte).unwrap() as u32;
            count += 6;
            if count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
            }
        }
        out
    }

    #[test]
    fn samples_outside_the_window_do_not_count() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(4);
        let window = Window { load_start_ns: 0, start_ns: 100, end_ns: 200 };
        let mut recorder = Recorder::new(0, window, sender);
        for from in [0, 99, 100, 199, 200] {
            recorder.sample(Kind::Response, from, 5);
            recorder.count(Side::Produced, from, Counters { requests: 1, records: 1, bytes: 1 });
        }
        recorder.finish();
        let totals = collect(1, &receiver, None, |_, _| ()).unwrap();
        assert_eq!(totals.histograms[0].as_ref().unwrap().len(), 2);
        assert_eq!(totals.counters[0].requests, 2);
    }
}
