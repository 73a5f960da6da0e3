//! `preset`: published loads, scaled to a share of themselves.
//!
//! Owner: the main thread. `linkedin-2015` is the peak of LinkedIn's whole fleet as published in 2015: 13 million
//! messages and 2.75 GB a second in, 212 bytes a message. Here a message is a record as it lies in the log, framing
//! included. Must not: hide how much of the rate was reached.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};

use crate::cli::{ClientArgs, EndpointArgs};
use crate::commands::{consume_parameters, end_to_end, finish, prepare, produce_parameters, with_topic};
use crate::error::{BenchError, Result};
use crate::generator::Peer;
use crate::kafka::describe;
use crate::load::stage::PUBLISHED;
use crate::report::phase;
use crate::schedule::Pace;
use crate::workload::{self, ConsumeLoad, Fill, ProduceLoad};

/// Records a second of `linkedin-2015`.
const LINKEDIN_RECORDS_PER_S: f64 = 13e6;
/// Value bytes that make a record of 212 bytes in the log: lengths, deltas and flags take ten.
const LINKEDIN_VALUE_BYTES: usize = 202;

/// Published loads.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Preset {
    /// 13 M msg/s of 212 bytes: 2.75 GB/s.
    #[value(name = "linkedin-2015")]
    Linkedin2015,
}

/// `preset`
#[derive(Debug, Args)]
pub(crate) struct PresetCommand {
    /// Which load.
    #[arg(value_enum)]
    pub(crate) preset: Preset,
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
    /// Share of the published rate.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) scale: f64,
    /// Closed loop instead: what share can be carried?
    #[arg(long)]
    pub(crate) max: bool,
    /// Producer connections.
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Requests in flight per connection.
    #[arg(long, default_value_t = 5)]
    pub(crate) in_flight: usize,
    /// Bytes of a request.
    #[arg(long, default_value_t = 1 << 20)]
    pub(crate) request_bytes: usize,
    /// Tail consumer connections; 0 for none.
    #[arg(long, default_value_t = 1)]
    pub(crate) consumers: usize,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `preset`
pub(crate) fn command(command: &PresetCommand) -> Result<()> {
    let Preset::Linkedin2015 = command.preset;
    if !(command.scale > 0.0 && command.scale <= 1000.0) {
        return Err(BenchError::Usage("--scale is a positive share".into()));
    }
    let rate = (LINKEDIN_RECORDS_PER_S * command.scale) as u64;
    let pace = if command.max { Pace::Max } else { Pace::Rate(rate.max(1)) };
    let load = ProduceLoad {
        connections: command.connections,
        in_flight: command.in_flight,
        record_bytes: LINKEDIN_VALUE_BYTES,
        fill: Fill::RequestBytes(command.request_bytes),
        partitions_per_request: 1,
        acks: -1,
        pace,
        bytes_max: u64::MAX,
        curve: None,
    };
    let consume = ConsumeLoad::following(command.consumers.max(1), false);
    let endpoint = &command.endpoint;
    let (client, name) = prepare(&command.client, endpoint, "linkedin-2015")?;
    let image = workload::encode_image(&load, command.consumers > 0)?;
    let spec = endpoint.topic_spec(image.len());
    let mut facts = BTreeMap::new();
    let outcome = with_topic(&endpoint.bootstrap, &spec, endpoint.keep_topic, |partitions| {
        facts = describe(&endpoint.bootstrap, &spec.name);
        if command.consumers > 0 {
            return end_to_end(&spec.name, partitions, &load, &consume, &client);
        }
        let plans = workload::plan_connections(&spec.name, partitions, &load, &image)?;
        workload::produce(plans, &load, &client, Peer::Kafka)
    })?;
    let mut parameters = produce_parameters(&load, &outcome);
    parameters.extend(consume_parameters(&consume));
    parameters.insert("scale".into(), command.scale.to_string());
    let mut phase = phase(&name, &endpoint.bootstrap, parameters, &outcome, Some(pace));
    for (side, rates) in [("in", &phase.produced), ("out", &phase.consumed)] {
        if let Some(rates) = rates {
            let what = format!("{side} {PUBLISHED}linkedin-2015");
            phase.percent_of.insert(what, 100.0 * rates.records_per_s / LINKEDIN_RECORDS_PER_S);
        }
    }
    finish(phase, &command.client, &client, endpoint, facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchImage, BatchShape};

    #[test]
    fn a_linkedin_record_has_212_bytes() {
        let shape = BatchShape::filling(1 << 20, LINKEDIN_VALUE_BYTES, false);
        let image = BatchImage::encode(shape, 0).unwrap();
        let per_record = image.len() as f64 / f64::from(image.records);
        assert!((per_record - 212.0).abs() < 0.5, "{per_record}");
    }
}
