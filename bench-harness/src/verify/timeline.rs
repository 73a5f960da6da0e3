//! The spans of a run: one continuous load, measured apart before, during and after each fault.
//!
//! Owner: the main thread; each load thread owns one recorder for every span. Invariants: spans are windows of one
//! schedule that never stops; a sample belongs to the span of its intended send. Must not: start or stop a load.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::error::{Result, protocol};
use crate::limits::REPORT_QUEUE_MAX;
use crate::progress::Progress;
use crate::record::{Counters, Kind, Recorder, Report, Side, Totals, Window, collect};
use crate::schedule::Pace;
use crate::series::{Intent, ServerPid, Watch};

/// A named window.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// Name of the phase and its files.
    pub(crate) name: String,
    /// When.
    pub(crate) window: Window,
}

/// What a span came to.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Which.
    pub(crate) span: Span,
    /// Samples and counts.
    pub(crate) totals: Totals,
    /// Cores of the server, on average over the seconds of which they are known.
    pub(crate) server_cores: Option<f64>,
}

/// The recorders of one load thread, one for each span.
#[derive(Debug)]
pub(crate) struct Recorders(Vec<Recorder>);

impl Recorders {
    /// Takes a sample; the span of `from_ns` keeps it.
    pub(crate) fn sample(&mut self, kind: Kind, from_ns: u64, value_ns: u64) {
        self.0.iter_mut().for_each(|recorder| recorder.sample(kind, from_ns, value_ns));
    }

    /// Counts what was completed at `at_ns`.
    pub(crate) fn count(&mut self, side: Side, at_ns: u64, counters: Counters) {
        self.0.iter_mut().for_each(|recorder| recorder.count(side, at_ns, counters));
    }

    /// Closes intervals that are over.
    pub(crate) fn roll(&mut self, now_ns: u64) {
        self.0.iter_mut().for_each(|recorder| recorder.roll(now_ns));
    }

    /// Reports what is left.
    pub(crate) fn finish(self) {
        self.0.into_iter().for_each(Recorder::finish);
    }
}

/// One span's collector.
struct Gathering {
    span: Span,
    sender: Option<SyncSender<Report>>,
    receiver: Option<Receiver<Report>>,
    watch: Option<Watch>,
    log: Option<PathBuf>,
}

/// All spans of a run.
pub(crate) struct Timeline {
    gatherings: Vec<Gathering>,
    handed_out: usize,
    progress: bool,
}

impl Timeline {
    /// A timeline whose logs go to `out`. The server is followed when it is started again.
    pub(crate) fn new(spans: Vec<Span>, out: Option<&Path>, server: &ServerPid, progress: bool) -> Self {
        let gatherings = spans
            .into_iter()
            .map(|span| {
                let (sender, receiver) = sync_channel(REPORT_QUEUE_MAX);
                let log = out.map(|out| out.join(format!("{}.hlog", span.name)));
                let watch = Some(Watch::start(server.clone(), span.window));
                Gathering { span, sender: Some(sender), receiver: Some(receiver), watch, log }
            })
            .collect();
        Self { gatherings, handed_out: 0, progress }
    }

    /// The recorders of the next load thread.
    pub(crate) fn recorders(&mut self) -> Recorders {
        let thread = self.handed_out;
        self.handed_out += 1;
        let senders = self.gatherings.iter().filter_map(|gathering| {
            let sender = gathering.sender.clone()?;
            Some(Recorder::new(thread, gathering.span.window, sender))
        });
        Recorders(senders.collect())
    }

    /// Begins to collect; every load thread has its recorders by now. `rate` is that of all producers together,
    /// `copies` how often everything is read.
    pub(crate) fn collect(mut self, rate: u64, copies: f64) -> Vec<JoinHandle<Result<Measured>>> {
        let threads = self.handed_out;
        let progress = self.progress;
        let mut handles = Vec::new();
        for mut gathering in self.gatherings.drain(..) {
            drop(gathering.sender.take());
            handles.push(std::thread::spawn(move || {
                let receiver = gathering.receiver.take().ok_or_else(|| protocol("collected twice"))?;
                let watch = gathering.watch.take().ok_or_else(|| protocol("collected twice"))?;
                let window = gathering.span.window;
                let mut view = Progress::new(progress, window).with(watch.live(), copies, 0);
                let log = gathering.log.as_deref();
                let totals = collect(threads, &receiver, log, |totals, second| {
                    // All spans report all the time: only the one that is on is shown.
                    let now = crate::sys::now_ns();
                    if now >= window.start_ns && now < window.end_ns + 1_000_000_000 {
                        view.show(totals, second);
                    }
                })?;
                let intent = Intent { pace: Some(Pace::Rate(rate)), copies, ..Intent::default() };
                let server_cores = watch.finish(log, &totals, &intent)?;
                Ok(Measured { span: gathering.span, totals, server_cores })
            }));
        }
        handles
    }
}
