//! The admin endpoint: metrics, latency histograms and health over HTTP, GET only.
//!
//! Owner: one thread per listener, never a core's: it asks each core for a copy of its counts through the mesh and
//! does all the work on them itself. Invariants: connections are served one after another, each bounded in bytes
//! and time, so that a slow or hostile peer costs nobody but the next one who asks; the cores' counts are never
//! reset — the interval of `/histograms.hlog` is a difference of two snapshots.
//! It must not change anything in the broker.

mod http;
mod render;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::limits::ADMIN_CONNECTION_S_MAX;
use crate::memory::{ThreadCounts, thread_counts};
use crate::metrics::{Snapshot, snapshot};
use crate::shard::{Gauges, Mesh, Shard};
use http::Answer;

/// How long a core may take to hand over its counts before it is called unresponsive.
const CORE_ANSWER: Duration = Duration::from_secs(2);

/// One core as it is now.
#[derive(Clone, Debug, Default)]
struct CoreReport {
    counts: Snapshot,
    gauges: Gauges,
    allocations: ThreadCounts,
}

/// Where the interval of the histogram log began.
struct Interval {
    started: SystemTime,
    /// By core; empty until the first reset.
    base: Vec<Snapshot>,
}

/// What all admin threads share.
struct Admin {
    mesh: Mesh,
    started: SystemTime,
    interval: Mutex<Interval>,
}

/// Opens the listening sockets; port 0 becomes a free one.
pub fn bind(addresses: &[String]) -> Result<Vec<TcpListener>, String> {
    let open = |address: &String| -> io::Result<TcpListener> {
        let all: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        TcpListener::bind(all.as_slice())
    };
    addresses
        .iter()
        .map(|address| open(address).map_err(|error| format!("admin.listeners: {address}: {error}")))
        .collect()
}

/// Serves the sockets, a thread each, until the process ends.
pub fn serve(listeners: Vec<TcpListener>, mesh: Mesh) -> io::Result<()> {
    let started = SystemTime::now();
    let interval = Mutex::new(Interval { started, base: Vec::new() });
    let admin = Arc::new(Admin { mesh, started, interval });
    for listener in listeners {
        let admin = admin.clone();
        std::thread::Builder::new().name("ringlog-admin".into()).spawn(move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => admin.connection(&stream),
                    // Out of descriptors: a pause instead of a spin.
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        })?;
    }
    Ok(())
}

impl Admin {
    fn connection(&self, stream: &TcpStream) {
        let outcome = http::serve(stream, Duration::from_secs(ADMIN_CONNECTION_S_MAX), |path, query| {
            self.answer(path, query)
        });
        if let Err(error) = outcome {
            tracing::debug!("admin connection: {error}");
        }
    }

    fn answer(&self, path: &str, query: &str) -> Answer {
        let known = matches!(path, "/" | "/healthz" | "/metrics" | "/histograms.hlog");
        if !known {
            return Answer::text(404, "nothing here; / lists what there is\n");
        }
        if path == "/" {
            return Answer { status: 200, content_type: "text/html; charset=utf-8", body: render::page() };
        }
        let Some(cores) = self.collect() else {
            return Answer::text(503, "a core does not answer\n");
        };
        match path {
            "/healthz" => health(&cores),
            "/metrics" => Answer {
                status: 200,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: render::prometheus(&cores, self.started),
            },
            _ => self.histograms(cores, query),
        }
    }

    /// Asks every core; `None` when one does not answer in time.
    fn collect(&self) -> Option<Vec<CoreReport>> {
        let mut answers = Vec::new();
        for core in 0..self.mesh.cores() {
            let (sender, receiver) = flume::bounded(1);
            let asked = self.mesh.try_send(
                core,
                Box::new(move |shard: &Rc<Shard>| {
                    let report = CoreReport {
                        counts: snapshot(),
                        gauges: shard.gauges(),
                        allocations: thread_counts(),
                    };
                    let _ = sender.try_send(report);
                }),
            );
            answers.push(asked.then_some(receiver));
        }
        answers.into_iter().map(|answer| answer?.recv_timeout(CORE_ANSWER).ok()).collect()
    }

    /// The histograms since the last reset; `?reset` makes this answer the end of an interval.
    fn histograms(&self, cores: Vec<CoreReport>, query: &str) -> Answer {
        let now = SystemTime::now();
        let mut interval = self.interval.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Snapshot::default();
        let none = Snapshot::default();
        for (core, report) in cores.iter().enumerate() {
            let base = interval.base.get(core).unwrap_or(&none);
            let histograms = report.counts.histograms_since(base);
            sum.merge(&Snapshot { histograms, ..Snapshot::default() });
        }
        let body = render::histogram_log(&sum, interval.started, now);
        if query.split('&').any(|item| item == "reset" || item == "reset=true") {
            interval.started = now;
            interval.base = cores.into_iter().map(|report| report.counts).collect();
        }
        Answer { status: 200, content_type: "text/plain; charset=utf-8", body }
    }
}

fn health(cores: &[CoreReport]) -> Answer {
    let failed: usize = cores.iter().map(|core| core.gauges.failed_partitions).sum();
    if failed > 0 {
        return Answer::text(503, &format!("{failed} partitions failed: a write or flush had an error\n"));
    }
    Answer::text(200, &format!("ok, {} cores answer\n", cores.len()))
}
