//! `produce`, `consume` and `e2e`: one endpoint, one phase.
//!
//! Owner: the main thread. Must not: leave a topic behind that it made, unless asked to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::{ClientArgs, ConsumeCommand, E2eCommand, EndpointArgs, ProduceArgs, ProduceCommand};
use crate::consumer::AtEnd;
use crate::error::{BenchError, Result, io_err};
use crate::generator::Peer;
use crate::kafka::{Control, Partition, TopicSpec, describe};
use crate::manifest::Manifest;
use crate::report::{Phase, phase, table, write_json};
use crate::schedule::Pace;
use crate::workload::{self, Client, ConsumeLoad, From, Outcome, ProduceLoad};

/// Creates the topic, runs `work`, and deletes the topic again if it was created here and is not to be kept.
pub(crate) fn with_topic<T>(
    bootstrap: &str,
    spec: &TopicSpec,
    keep: bool,
    work: impl FnOnce(&[Partition]) -> Result<T>,
) -> Result<T> {
    let (partitions, created) = Control::connect(bootstrap)?.ensure_topic(spec)?;
    let result = work(&partitions);
    if created && !keep {
        // The connection may have idled too long for the endpoint: take a fresh one.
        let deleted = Control::connect(bootstrap).and_then(|mut control| control.delete_topic(&spec.name));
        if let Err(error) = deleted {
            eprintln!("topic {} was not deleted: {error}", spec.name);
        }
    }
    result
}

/// Parameters of a produce load, for the summary.
pub(crate) fn produce_parameters(load: &ProduceLoad, outcome: &Outcome) -> BTreeMap<String, String> {
    let (records, bytes) = outcome.request_shape.unwrap_or((0, 0));
    let pace = match load.pace {
        Pace::Max => "max (closed loop)".to_owned(),
        Pace::Rate(rate) => format!("{rate} records/s (open loop)"),
    };
    [
        ("connections", load.connections.to_string()),
        ("in_flight", load.in_flight.to_string()),
        ("record_bytes", load.record_bytes.to_string()),
        ("records_per_request", records.to_string()),
        ("request_bytes", bytes.to_string()),
        ("partitions_per_request", load.partitions_per_request.to_string()),
        ("acks", if load.acks == -1 { "all".into() } else { load.acks.to_string() }),
        ("pace", pace),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Parameters of a consume load, for the summary.
pub(crate) fn consume_parameters(load: &ConsumeLoad) -> BTreeMap<String, String> {
    [
        ("consumer_connections", load.connections.to_string()),
        ("fan_out", load.fan_out.to_string()),
        ("from", format!("{:?}", load.from).to_lowercase()),
        ("at_end", format!("{:?}", load.at_end).to_lowercase()),
        ("max_bytes", load.bytes_max.to_string()),
        ("min_bytes", load.bytes_min.to_string()),
        ("max_wait_ms", load.wait_ms_max.to_string()),
        ("check_crc", load.check_crc.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Makes the output folder and says where a phase's log goes.
pub(crate) fn log_path(out: Option<&Path>, name: &str) -> Result<Option<PathBuf>> {
    let Some(out) = out else { return Ok(None) };
    std::fs::create_dir_all(out).map_err(io_err(format!("create {}", out.display())))?;
    Ok(Some(out.join(format!("{name}.hlog"))))
}

/// Prints a phase and writes its results.
pub(crate) fn finish(
    phase: Phase,
    args: &ClientArgs,
    client: &Client,
    endpoint: &EndpointArgs,
    facts: BTreeMap<String, String>,
) -> Result<()> {
    print!("{}", table(std::slice::from_ref(&phase)));
    if let Some(out) = &args.out {
        let endpoints = BTreeMap::from([("endpoint".to_owned(), endpoint.bootstrap.clone())]);
        let manifest = Manifest::take(client.congestion.as_deref(), &client.cpus, &[], None, endpoints)
            .with_server("endpoint", endpoint.server_pid)
            .with_facts(facts);
        write_json(&out.join("manifest.json"), &manifest)?;
        write_json(&out.join("summary.json"), &[phase])?;
    }
    Ok(())
}

/// The client and the name of a phase.
pub(crate) fn prepare(
    args: &ClientArgs,
    endpoint: &EndpointArgs,
    default_name: &str,
) -> Result<(Client, String)> {
    let name = args.name.clone().unwrap_or_else(|| default_name.to_owned());
    if name.contains('/') || name.contains(',') {
        return Err(BenchError::Usage("a name becomes a file: no slash, no comma".into()));
    }
    let mut client = args.client(endpoint.server_pid)?;
    client.log = log_path(args.out.as_deref(), &name)?;
    Ok((client, name))
}

/// `produce`
pub(crate) fn produce(command: &ProduceCommand) -> Result<()> {
    let load = command.produce.load()?;
    let (client, name) = prepare(&command.client, &command.endpoint, "produce")?;
    let image = workload::encode_image(&load, false)?;
    let endpoint = &command.endpoint;
    let spec = endpoint.topic_spec(image.len());
    let mut facts = BTreeMap::new();
    let outcome = with_topic(&endpoint.bootstrap, &spec, endpoint.keep_topic, |partitions| {
        facts = describe(&endpoint.bootstrap, &spec.name);
        let swapped;
        let partitions = if endpoint.misroute {
            swapped = workload::misrouted(partitions)?;
            &swapped
        } else {
            partitions
        };
        let plans = workload::plan_connections(&spec.name, partitions, &load, &image)?;
        workload::produce(plans, &load, &client, Peer::Kafka)
    })?;
    let parameters = produce_parameters(&load, &outcome);
    let phase = phase(&name, &endpoint.bootstrap, parameters, &outcome, Some(load.pace));
    finish(phase, &command.client, &client, endpoint, facts)
}

/// `consume`
pub(crate) fn consume(command: &ConsumeCommand) -> Result<()> {
    let load = command.load();
    let endpoint = &command.endpoint;
    let (mut client, name) = prepare(&command.client, endpoint, "consume")?;
    if load.at_end == AtEnd::Stop {
        // What is read once has no warm-up: it would be gone when the measurement starts.
        client.warmup = std::time::Duration::ZERO;
    }
    let partitions = Control::connect(&endpoint.bootstrap)?
        .partitions(&endpoint.topic)?
        .ok_or_else(|| BenchError::Usage(format!("there is no topic {}", endpoint.topic)))?;
    let plans = workload::plan_fetches(&endpoint.topic, &partitions, &load)?;
    let outcome = workload::consume(plans, &load, &client)?;
    let phase = phase(&name, &endpoint.bootstrap, consume_parameters(&load), &outcome, None);
    let facts = describe(&endpoint.bootstrap, &endpoint.topic);
    finish(phase, &command.client, &client, endpoint, facts)
}

/// Runs an end-to-end load on existing partitions.
pub(crate) fn end_to_end(
    topic: &str,
    partitions: &[Partition],
    load: &ProduceLoad,
    consume: &ConsumeLoad,
    client: &Client,
) -> Result<Outcome> {
    let image = workload::encode_image(load, true)?;
    let plans = workload::plan_connections(topic, partitions, load, &image)?;
    let fetch_plans = workload::plan_fetches(topic, partitions, consume)?;
    workload::end_to_end(plans, load, fetch_plans, consume, client)
}

/// `e2e`
pub(crate) fn e2e(command: &E2eCommand) -> Result<()> {
    let produce: &ProduceArgs = &command.produce;
    let load = produce.load()?;
    let mut consume = command.fetch.load(command.consumers, From::Latest, AtEnd::Follow);
    consume.fan_out = command.fan_out.max(1);
    let endpoint = &command.endpoint;
    let (client, name) = prepare(&command.client, endpoint, "e2e")?;
    let spec = endpoint.topic_spec(workload::encode_image(&load, true)?.len());
    let mut facts = BTreeMap::new();
    let outcome = with_topic(&endpoint.bootstrap, &spec, endpoint.keep_topic, |partitions| {
        facts = describe(&endpoint.bootstrap, &spec.name);
        end_to_end(&spec.name, partitions, &load, &consume, &client)
    })?;
    let mut parameters = produce_parameters(&load, &outcome);
    parameters.extend(consume_parameters(&consume));
    let phase = phase(&name, &endpoint.bootstrap, parameters, &outcome, Some(load.pace));
    finish(phase, &command.client, &client, endpoint, facts)
}
