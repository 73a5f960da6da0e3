//! `ringlog-bench`: the load harness for any Kafka endpoint.
//!
//! Code map: `cli` (flags) → `load` (presets, workload files, `run`, `curve`), `verify` and `fault` (numbered records
//! and their verdict), `commands`, `roofline`, `run` (suites), `preset`, `knee`, `idle`, `gate`, `synthetic` (what a
//! command does) → `workload` (connections, threads, windows), `search` (the knee) → `generator`, `consumer`, `sink`
//! (the loops), `librdkafka` (the other client) → `record` (samples), `series` (seconds) → `report`, `manifest`,
//! `progress` (results). Read back: `hlog`, `runs` → `compare` with `stats`, `report_html` with `chart`;
//! `results_table`. Below them: `frame`, `batch`, `fetch_walk`, `kafka`, `wire` (bytes), `schedule`, `curve` (open
//! loop), `disk`, `ring`, `sys` (the machine), `limits`, `error`.
//!
//! Invariants: intended send times are fixed by the rate and never moved; histograms are merged, percentiles
//! never; what could not be measured is said. Must not: share code with the broker it measures.

mod batch;
mod chart;
mod cli;
mod commands;
mod compare;
mod consumer;
mod curve;
mod drain;
mod error;
mod fault;
mod fetch_walk;
mod frame;
mod gate;
mod generator;
mod hlog;
mod idle;
mod kafka;
mod knee;
mod librdkafka;
mod limits;
mod load;
mod manifest;
mod preset;
mod probe;
mod progress;
mod random;
mod record;
mod report;
mod report_html;
mod results_table;
mod ring;
mod roofline;
mod run;
mod runs;
mod schedule;
mod search;
mod series;
mod sink;
mod stats;
mod suite;
mod synthetic;
mod sys;
mod verify;
mod wire;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    manifest::declare(&cli.declared);
    let result = match cli.command {
        Command::Produce(command) => commands::produce(&command),
        Command::Consume(command) => commands::consume(&command),
        Command::E2e(command) => commands::e2e(&command),
        Command::Roofline(command) => roofline::command(&command),
        Command::Run(command) => load::run::command(&command),
        Command::Curve(command) => load::sweep::command(&command),
        Command::Verify(command) => return done(verify::command(&command)),
        Command::Fault(command) => return done(fault::command(&command)),
        Command::Suite(command) => run::run(&command),
        Command::CompareEndpoints(command) => run::compare(&command),
        Command::Report(command) => report_html::command(&command),
        Command::ResultsTable(command) => return done(results_table::command(&command)),
        Command::Preset(command) => preset::command(&command),
        Command::Knee(command) => knee::command(&command),
        Command::Idle(command) => idle::command(&command),
        Command::Synthetic(command) => synthetic::command(&command),
        Command::Gate(command) => return done(gate::command(&command)),
        Command::Compare(command) => return done(compare::command(&command)),
    };
    done(result.map(|()| ExitCode::SUCCESS))
}

fn done(result: error::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringlog-bench: {error}");
            // 1 is an answer of `gate` and `compare`.
            ExitCode::from(2)
        }
    }
}
