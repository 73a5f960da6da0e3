//! `curve`: latency against load. The same workload at several rates, each a phase of one run folder.
//!
//! Owner: the main thread. Rates are given, or shares of the knee, which is then looked for first. Phases are named by
//! their share (`load-050` is half of the knee) or, with given rates, by their share of the highest. Must not: stop at
//! the knee; what happens beyond it is half of the picture.

use std::fmt::Write;

use clap::Args;

use super::limits::Limits;
use super::run::{LoadArgs, Summary, heading, save};
use super::stage::{Reading, Stage, Step};
use super::{Rate, Workload};
use crate::commands::log_path;
use crate::error::{BenchError, Result};
use crate::report::{Phase, short_ns, table};
use crate::search::{self, Step as Trial};
use crate::workload::Client;

/// `curve`
#[derive(Debug, Args)]
pub(crate) struct CurveCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Shares of the knee.
    #[arg(long, value_delimiter = ',', default_values_t = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])]
    pub(crate) shares: Vec<f64>,
    /// Rates instead, records per second; nothing is looked for then.
    #[arg(long, value_delimiter = ',', conflicts_with = "shares")]
    pub(crate) rates: Vec<f64>,
}

/// The table: one line for each step.
fn lines(phases: &[(f64, Phase)], slo_ns: u64) -> String {
    let mut out = String::from(
        "| phase | offered records/s | reached | response p50 | p99 | p99.9 | max | e2e p99 | held |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for (rate, phase) in phases {
        let trial = search::judge(*rate as u64, slo_ns, phase);
        let of = |kind: &str, pick: fn(&crate::report::Quantiles) -> u64| {
            phase.latency.get(kind).map_or("-".to_owned(), |values| short_ns(pick(values)))
        };
        // Writing to a String cannot fail.
        writeln!(
            out,
            "| {} | {rate:.0} | {:.1} % | {} | {} | {} | {} | {} | {} |",
            phase.name,
            trial.reached * 100.0,
            of("response", |values| values.p50_ns),
            of("response", |values| values.p99_ns),
            of("response", |values| values.p999_ns),
            of("response", |values| values.max_ns),
            of("e2e", |values| values.p99_ns),
            if trial.held { "yes" } else { "no" },
        )
        .ok();
    }
    out
}

fn play(command: &CurveCommand, stage: &mut Stage<'_>, workload: &Workload, client: &Client) -> Result<()> {
    let args = &command.load;
    let manifest = args.manifest(client, stage.topic());
    let (mut knee, mut trials): (Option<u64>, Vec<Trial>) = (None, Vec::new());
    let steps: Vec<(f64, f64)> = if command.rates.is_empty() {
        let whole = match workload.rate {
            Rate::PerS(rate) if args.rate.is_some() => rate,
            _ => {
                let (found, steps) = args.search(stage, workload, client)?;
                trials = steps;
                knee = Some(found);
                found as f64
            }
        };
        command.shares.iter().map(|share| (*share, share * whole)).collect()
    } else {
        let least = command.rates.iter().copied().fold(f64::MAX, f64::min);
        args.settle(stage, least.max(1.0) as u64, &args.searcher(client)?)?;
        let highest = command.rates.iter().copied().fold(1.0, f64::max);
        command.rates.iter().map(|rate| (rate / highest, *rate)).collect()
    };
    let highest = steps.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let limits = args.limits(stage, Some(highest), client)?;
    let slo_ns = (args.slo_ms * 1e6) as u64;
    let mut measured = Vec::new();
    for (share, rate) in steps {
        let name = format!("load-{:03.0}", share * 100.0);
        let logged = Client { log: log_path(args.out.as_deref(), &name)?, ..client.clone() };
        let rate = rate.max(1.0);
        let (rate_now, read) = (Some(rate), Reading::Follow);
        let step = Step { name, rate: rate_now, curve: None, read, bytes_max: u64::MAX };
        eprintln!("{}: {rate:.0} records/s", step.name);
        measured.push((rate, stage.play(&step, &logged)?));
    }
    let curve = lines(&measured, slo_ns);
    let mut phases: Vec<Phase> = measured.into_iter().map(|(_, phase)| phase).collect();
    if let Some(limits) = &limits {
        limits.attach(&mut phases);
    }
    println!("{}\n{curve}", heading(workload, args.scale));
    if let Some(out) = &args.out {
        let text = format!("{}\n{curve}\n{}", heading(workload, args.scale), table(&phases));
        let summary = Summary {
            workload,
            client: args.client,
            scale: args.scale,
            knee_records_per_s: knee,
            search: &trials,
            roofline: limits.as_ref().map(Limits::roofline),
            phases: &phases,
        };
        save(out, &summary, &manifest, &text)?;
    }
    Ok(())
}

/// `curve`
pub(crate) fn command(command: &CurveCommand) -> Result<()> {
    let wrong = |value: &f64| !(value.is_finite() && *value > 0.0 && *value < 1e9);
    if command.shares.iter().chain(&command.rates).any(wrong) {
        return Err(BenchError::Usage("shares and rates are positive numbers".into()));
    }
    let mut workload = command.load.workload()?;
    if command.load.duration.is_none() {
        workload.duration_s = workload.duration_s.min(10.0);
    }
    let client = command.load.client(&workload)?;
    let bootstrap = &command.load.bootstrap;
    let first = command.rates.first().copied().or(Some(10_000.0));
    let topic = command.load.topic.as_deref();
    let mut stage = Stage::open(bootstrap, &workload, command.load.client, topic, first)?;
    let result = play(command, &mut stage, &workload, &client);
    stage.close(command.load.keep_topic);
    result
}
