//! Workloads as data: what a preset or a file asks for, whatever client then plays it.
//!
//! Code map: `yaml` (files, those of the OpenMessaging Benchmark among them) and `presets` (published figures) make a
//! `Workload`; `dist` draws its sizes and keys, `pool` encodes its batches beforehand; `stage` holds its topics and
//! plays one phase, `limits` measures what the machine allows beside it; `run` and `sweep` are the commands.
//!
//! Owner: the main thread. Must not: hide what of a file was not applied.

pub(crate) mod dist;
mod limits;
pub(crate) mod pool;
pub(crate) mod presets;
pub(crate) mod run;
pub(crate) mod stage;
pub(crate) mod sweep;
pub(crate) mod yaml;

use std::sync::Arc;

use serde::Serialize;

use crate::batch::Codec;
use crate::curve::{Curve, linkedin_day};
use crate::error::{BenchError, Result};
use crate::limits::{CONNECTIONS_MAX, PARTITIONS_MAX, PRESET_DISK_BYTES_MAX, TOPICS_MAX};
use dist::{Keys, Sizes};

/// How fast records come, all producers together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rate {
    /// Records per second.
    PerS(f64),
    /// Closed loop.
    Max,
    /// The highest rate that meets a latency limit is looked for, and a share of it is run.
    Search,
}

/// How many records go in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BatchRule {
    /// That many.
    Records(u32),
    /// As many as fit these bytes, at the mean record size.
    Bytes(usize),
    /// What comes in `linger_ms` on one connection at the given rate, at most `bytes`: Kafka's producer with the
    /// sticky partitioner.
    Linger {
        /// `linger.ms`
        linger_ms: f64,
        /// `batch.size`
        bytes: usize,
    },
}

/// The course of the rate over a period.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Course {
    /// LinkedIn's day of 2015.
    LinkedinDay,
    /// Through points: share of the period, share of the rate.
    Points(Vec<(f64, f64)>),
}

/// A published figure that results are put beside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Published {
    /// Records per second of the published system.
    pub(crate) records_per_s: f64,
    /// Where it was published.
    pub(crate) source: &'static str,
}

/// A load as it is described, at full scale.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Workload {
    /// Name.
    pub(crate) name: String,
    /// Topics.
    pub(crate) topics: usize,
    /// Partitions of each.
    pub(crate) partitions: usize,
    /// Sizes of values.
    pub(crate) sizes: Sizes,
    /// Keys.
    pub(crate) keys: Keys,
    /// Compression of batches.
    pub(crate) codec: Codec,
    /// Share of each value that is random, 0 to 1; the rest is one byte repeated.
    pub(crate) random_share: f64,
    /// What values are cut from instead, when a payload file was given.
    #[serde(skip)]
    pub(crate) payload: Option<Arc<Vec<u8>>>,
    /// Producer connections for each topic.
    pub(crate) producers: usize,
    /// Consumer connections for each topic and group; 0: nobody reads.
    pub(crate) consumers: usize,
    /// Groups that read everything; with a fraction, one more reads that share of the partitions.
    pub(crate) groups: f64,
    /// Rate, all topics together.
    pub(crate) rate: Rate,
    /// First rate of a search, records per second.
    pub(crate) rate_first: Option<f64>,
    /// Batches.
    pub(crate) batch: BatchRule,
    /// 0, 1 or -1.
    pub(crate) acks: i16,
    /// Requests in flight per connection.
    pub(crate) in_flight: usize,
    /// Seconds before the measurement.
    pub(crate) warmup_s: f64,
    /// Measured seconds.
    pub(crate) duration_s: f64,
    /// Course of the rate, applied when the run asks for it or the file has one.
    pub(crate) course: Option<Course>,
    /// Length of the course in seconds, at natural speed.
    pub(crate) course_s: f64,
    /// Whether the course is followed.
    pub(crate) follow_course: bool,
    /// Bytes written before anybody reads, and read while the load goes on; 0 for none.
    pub(crate) backlog_bytes: u64,
    /// Topic configuration.
    pub(crate) topic_configs: Vec<(String, String)>,
    /// What is known of the original.
    pub(crate) published: Option<Published>,
    /// What of a file was not applied, in words.
    pub(crate) notes: Vec<String>,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            name: "workload".into(),
            topics: 1,
            partitions: 1,
            sizes: Sizes::Fixed { bytes: 1024 },
            keys: Keys::None,
            codec: Codec::None,
            random_share: 1.0,
            payload: None,
            producers: 1,
            consumers: 1,
            groups: 1.0,
            rate: Rate::Search,
            rate_first: None,
            batch: BatchRule::Linger { linger_ms: 1.0, bytes: 1 << 20 },
            acks: -1,
            in_flight: 5,
            warmup_s: 2.0,
            duration_s: 30.0,
            course: None,
            course_s: 86_400.0,
            follow_course: false,
            backlog_bytes: 0,
            topic_configs: Vec::new(),
            published: None,
            notes: Vec::new(),
        }
    }
}

impl Workload {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// With the first thing that is.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(BenchError::Usage(format!("workload {}: {what}", self.name)));
        self.sizes.check()?;
        self.keys.picker()?;
        let partitions = self.topics.saturating_mul(self.partitions);
        let readers = self.consumers as f64 * self.groups.ceil();
        let connections = (self.producers as f64 + readers) * self.topics as f64;
        let finite = |value: f64| value.is_finite() && value >= 0.0;
        match self {
            _ if self.topics == 0 || self.topics > TOPICS_MAX => bad("topics out of bounds"),
            _ if partitions == 0 || partitions > PARTITIONS_MAX => bad("partitions out of bounds"),
            _ if self.producers == 0 || connections > CONNECTIONS_MAX as f64 => {
                bad("connections out of bounds")
            }
            _ if !(0.0..=1.0).contains(&self.random_share) => bad("the random share is from 0 to 1"),
            _ if !(0.0..=1_000.0).contains(&self.groups) => bad("groups out of bounds"),
            _ if !finite(self.warmup_s) || !finite(self.duration_s) || self.duration_s == 0.0 => {
                bad("no duration")
            }
            Self { rate: Rate::PerS(rate), .. } if !(*rate >= 1.0 && *rate < 1e12) => {
                bad("rate out of bounds")
            }
            _ => Ok(()),
        }
    }

    /// Whether consumers follow the producers.
    pub(crate) fn has_readers(&self) -> bool {
        self.consumers > 0 && self.groups > 0.0
    }

    /// Bytes of a record in the log, on average, framing included.
    pub(crate) fn record_bytes(&self) -> f64 {
        let key = if self.keys == Keys::None { 0.0 } else { 16.0 };
        self.sizes.mean() + key + 10.0
    }

    /// What retention must leave of a workload with a backlog, in bytes: the backlog, and what comes while it is worked
    /// off, at most `PRESET_DISK_BYTES_MAX` more.
    pub(crate) fn backlog_retention(&self, rate: Option<f64>) -> Option<u64> {
        let comes = rate.unwrap_or(f64::MAX) * self.duration_s * self.record_bytes();
        let more = comes.min(PRESET_DISK_BYTES_MAX as f64) as u64;
        (self.backlog_bytes > 0).then(|| self.backlog_bytes + self.backlog_bytes / 4 + more)
    }

    /// Records of a batch at a rate (records per second of the whole load); `None` for a closed loop.
    pub(crate) fn batch_records(&self, rate: Option<f64>) -> u32 {
        let fitting = |bytes: usize| (bytes as f64 / self.record_bytes()).floor().clamp(1.0, 1e6);
        let records = match self.batch {
            BatchRule::Records(records) => f64::from(records),
            BatchRule::Bytes(bytes) => fitting(bytes),
            BatchRule::Linger { linger_ms, bytes } => match rate {
                // A closed loop never waits for the linger time to pass; its batches are as large as allowed.
                None => fitting(bytes),
                Some(rate) => {
                    let connection = rate / (self.producers * self.topics) as f64;
                    (connection * linger_ms / 1e3).round().clamp(1.0, fitting(bytes))
                }
            },
        };
        records.max(1.0) as u32
    }

    /// The load at a share of its size: rate and backlog. Sizes, partitions and connections stay.
    pub(crate) fn scale(&mut self, share: f64) {
        if let Rate::PerS(rate) = &mut self.rate {
            *rate *= share;
        }
        self.backlog_bytes = (self.backlog_bytes as f64 * share) as u64;
    }

    /// The profile of the rate when its course is followed; `peak` is the rate, `speed` shortens the period.
    pub(crate) fn curve(&self, peak: f64, speed: f64) -> Result<Option<Arc<Curve>>> {
        let period = self.course_s / speed;
        let curve = match &self.course {
            Some(course) if self.follow_course => match course {
                Course::LinkedinDay => Curve::new(period, peak, self.warmup_s, linkedin_day)?,
                Course::Points(points) => Curve::through(points, period, peak, self.warmup_s)?,
            },
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(curve)))
    }
}
