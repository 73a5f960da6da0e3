//! A workload's topics on an endpoint, and one phase of it at a time.
//!
//! Owner: the main thread. Invariants: topics made here are deleted at the end unless they are to be kept; a phase has
//! the same producers, consumers and batches whatever its rate, except for batches that the rate itself fills.
//! Must not: choose rates.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use super::Workload;
use super::pool::{Pool, STAMP_EVERY, describe_keys};
use crate::batch::Codec;
use crate::cli::bounded_topic;
use crate::commands::{consume_parameters, produce_parameters};
use crate::consumer::AtEnd;
use crate::curve::Curve;
use crate::error::Result;
use crate::generator::Peer;
use crate::kafka::{Control, Partition};
use crate::report::{Phase, phase};
use crate::schedule::Pace;
use crate::workload::{self, Client, ConsumeLoad, Fill, From, Outcome, ProduceLoad};

/// Largest response that a consumer asks for, in bytes.
const FETCH_BYTES_MAX: usize = 16 << 20;

/// What the names of shares of a published figure begin with: such a figure is no limit of this machine.
pub(crate) const PUBLISHED: &str = "published ";

/// Which client plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientKind {
    /// Our own: batches encoded beforehand, so that two cores can load a broker.
    Lean,
    /// The library that many applications use, record by record, as they do.
    Librdkafka,
}

/// What the consumers of a phase do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Nothing.
    Nobody,
    /// They follow what is written from now on.
    Follow,
    /// They work off what lies there while more comes.
    Backlog,
}

/// What a phase is to do.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Name of the phase and its files.
    pub(crate) name: String,
    /// Records per second; `None`: closed loop.
    pub(crate) rate: Option<f64>,
    /// Profile; `rate` is then its mean.
    pub(crate) curve: Option<Arc<Curve>>,
    /// What consumers do, when the workload has some.
    pub(crate) read: Reading,
    /// Batch bytes after which it ends.
    pub(crate) bytes_max: u64,
}

/// A workload with its topics.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    bootstrap: &'a str,
    workload: &'a Workload,
    kind: ClientKind,
    topics: Vec<(String, Vec<Partition>)>,
    created: Vec<String>,
    pool: Option<Pool>,
}

/// A topic's name from a workload's.
fn topic_base(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().take(60).map(plain).collect()
}

impl<'a> Stage<'a> {
    /// Makes the topics that are not there. `topic` names the only one, or is what all names begin with.
    ///
    /// # Errors
    /// When the endpoint refuses; what was made until then is deleted.
    pub(crate) fn open(
        bootstrap: &'a str,
        workload: &'a Workload,
        kind: ClientKind,
        topic: Option<&str>,
        rate: Option<f64>,
    ) -> Result<Self> {
        let pool = Pool::build(workload, workload.batch_records(rate), workload.has_readers())?;
        let base = match topic {
            Some(name) => name.to_owned(),
            None => format!("ringlog-bench-{}-{}", topic_base(&workload.name), crate::sys::now_ns()),
        };
        let mut configs = workload.topic_configs.clone();
        let all = workload.partitions * workload.topics;
        if let Some(bytes) = workload.backlog_retention(rate) {
            // The partition with the hottest keys has to keep its part too.
            let share = pool.hottest_share().unwrap_or(0.0) / workload.topics as f64;
            let each = bytes as f64 * share.max(1.0 / all as f64);
            configs.push(("retention.bytes".into(), (each as u64).to_string()));
        }
        let mut stage =
            Self { bootstrap, workload, kind, topics: Vec::new(), created: Vec::new(), pool: None };
        let mut control = Control::connect(bootstrap)?;
        for index in 0..workload.topics {
            let name = if workload.topics == 1 { base.clone() } else { format!("{base}-{index}") };
            // The bound on the disk is one for all topics together.
            let mut spec = bounded_topic(&name, all, &configs, pool.batch_bytes_max());
            spec.partitions = workload.partitions;
            match control.ensure_topic(&spec) {
                Ok((partitions, created)) => {
                    if created {
                        stage.created.push(name.clone());
                    }
                    stage.topics.push((name, partitions));
                }
                Err(error) => {
                    stage.close(false);
                    return Err(error);
                }
            }
        }
        stage.pool = Some(pool);
        Ok(stage)
    }

    /// Deletes the topics that were made.
    pub(crate) fn close(self, keep: bool) {
        if keep {
            return;
        }
        for topic in &self.created {
            // The connection may have idled too long for the endpoint: take a fresh one.
            let deleted =
                Control::connect(self.bootstrap).and_then(|mut control| control.delete_topic(topic));
            if let Err(error) = deleted {
                eprintln!("topic {topic} was not deleted: {error}");
            }
        }
    }

    /// The first topic's name, for what describes it.
    pub(crate) fn topic(&self) -> &str {
        self.topics.first().map_or("", |(name, _)| name)
    }

    /// Records of a request and connections, at a rate: what a rate is made of.
    pub(crate) fn grain(&self, rate: Option<f64>) -> u64 {
        let connections = self.workload.producers * self.workload.topics;
        u64::from(self.workload.batch_records(rate)) * connections as u64
    }

    /// The shape of what is sent at a rate, for what is to be compared with it.
    pub(crate) fn shape(&self, rate: Option<f64>) -> ProduceLoad {
        let (name, read) = ("shape".to_owned(), Reading::Nobody);
        let load = self.load(&Step { name, rate, curve: None, read, bytes_max: u64::MAX });
        ProduceLoad { connections: self.workload.producers * self.workload.topics, ..load }
    }

    fn load(&self, step: &Step) -> ProduceLoad {
        ProduceLoad {
            connections: self.workload.producers,
            in_flight: self.workload.in_flight,
            record_bytes: self.workload.sizes.mean() as usize,
            fill: Fill::Records(self.workload.batch_records(step.rate)),
            partitions_per_request: 1,
            acks: self.workload.acks,
            pace: step.rate.map_or(Pace::Max, |rate| Pace::Rate((rate as u64).max(1))),
            bytes_max: step.bytes_max,
            curve: step.curve.clone(),
        }
    }

    fn readers(&self, from: From, at_end: AtEnd) -> ConsumeLoad {
        let mut load = ConsumeLoad::following(self.workload.consumers, false);
        load.fan_out = self.workload.groups as usize;
        load.fan_out_part = self.workload.groups.fract();
        load.from = from;
        load.at_end = at_end;
        // Room for a batch of every partition, as the defaults of Kafka's consumers have it: a smaller limit would
        // make large batches come one at a time.
        let width = self.workload.partitions.div_ceil(self.workload.consumers.max(1));
        let batch = self.pool.as_ref().map_or(0, Pool::batch_bytes_max);
        load.bytes_max = (batch * width).clamp(1 << 20, FETCH_BYTES_MAX) as u32;
        load
    }

    /// Plays a phase.
    ///
    /// # Errors
    /// When the endpoint fails a request or closes a connection under load.
    pub(crate) fn play(&mut self, step: &Step, client: &Client) -> Result<Phase> {
        let load = self.load(step);
        let reads = step.read != Reading::Nobody && self.workload.has_readers();
        let from = if step.read == Reading::Backlog { From::Earliest } else { From::Latest };
        let consume = self.readers(from, AtEnd::Follow);
        let outcome = match self.kind {
            ClientKind::Lean => self.play_lean(&load, reads.then_some(&consume), client)?,
            ClientKind::Librdkafka => crate::librdkafka::load::play(
                self.bootstrap,
                self.workload,
                &self.topics,
                &load,
                reads.then_some(&consume),
                client,
            )?,
        };
        let mut parameters = produce_parameters(&load, &outcome);
        if reads {
            parameters.extend(consume_parameters(&consume));
        }
        self.describe(&mut parameters);
        let mut phase = phase(&step.name, self.bootstrap, parameters, &outcome, Some(load.pace));
        self.compare(&mut phase);
        if reads && self.workload.codec != Codec::None && self.kind == ClientKind::Lean {
            phase.notes.push(format!(
                "compressed batches carry no stamp: one batch in {STAMP_EVERY} was sent uncompressed, with one"
            ));
        }
        Ok(phase)
    }

    fn play_lean(
        &mut self,
        load: &ProduceLoad,
        consume: Option<&ConsumeLoad>,
        client: &Client,
    ) -> Result<Outcome> {
        let Fill::Records(records) = load.fill else { unreachable!("a stage fills by records") };
        let pool = match self.pool.take() {
            Some(pool) if pool.records == records => pool,
            _ => Pool::build(self.workload, records, self.workload.has_readers())?,
        };
        let pool = self.pool.insert(pool);
        let (mut plans, mut fetches) = (Vec::new(), Vec::new());
        for (topic, partitions) in &self.topics {
            plans.extend(pool.plan(topic, partitions, load)?);
            if let Some(consume) = consume {
                fetches.extend(workload::plan_fetches(topic, partitions, consume)?);
            }
        }
        match consume {
            Some(consume) => workload::end_to_end(plans, load, fetches, consume, client),
            None => workload::produce(plans, load, client, Peer::Kafka),
        }
    }

    fn describe(&self, parameters: &mut BTreeMap<String, String>) {
        let workload = self.workload;
        let mut add = |key: &str, value: String| parameters.insert(key.to_owned(), value);
        add("workload", workload.name.clone());
        add("client", format!("{:?}", self.kind).to_lowercase());
        if self.kind == ClientKind::Librdkafka
            && let Ok(version) = crate::librdkafka::ffi::version()
        {
            add("librdkafka_version", version);
        }
        add("topics", workload.topics.to_string());
        add("partitions", workload.partitions.to_string());
        add("connections", (workload.producers * workload.topics).to_string());
        add("groups", workload.groups.to_string());
        add("keys", describe_keys(&workload.keys));
        add("compression", workload.codec.name().to_owned());
        add("record_sizes", format!("{:?}", workload.sizes));
        if let Some(share) = self.pool.as_ref().and_then(Pool::hottest_share) {
            add("hottest_partition_share", format!("{share:.3}"));
        }
        if let Some(pool) = &self.pool {
            add("batch_bytes_mean", pool.batch_bytes().to_string());
        }
    }

    /// Puts the published figure beside what was reached.
    fn compare(&self, phase: &mut Phase) {
        let Some(published) = self.workload.published else { return };
        for (side, rates) in [("in", &phase.produced), ("out", &phase.consumed)] {
            if let Some(rates) = rates {
                let percent = 100.0 * rates.records_per_s / published.records_per_s;
                phase.percent_of.insert(format!("{side} {PUBLISHED}{}", self.workload.name), percent);
            }
        }
    }
}
