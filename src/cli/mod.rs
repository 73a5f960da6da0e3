//! The command line: `ringlog serve`, and the tools that speak to any Kafka broker.
//!
//! Owner: the main thread. It must not hold broker logic.

mod client;
mod consume;
mod entities;
mod group;
mod group_reset;
mod log_dump;
mod membership;
mod produce;
pub(crate) mod serve;
mod table;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, ConfigFlags, Format};

#[derive(Parser)]
#[command(name = "ringlog", version, about = "A Kafka-protocol broker on io_uring and direct I/O")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker until SIGTERM or Ctrl-C
    Serve(ConfigFlags),
    /// List every configuration key; with --describe or --alter: configurations and quotas of a cluster
    Config {
        #[command(flatten)]
        flags: ConfigFlags,
        /// table, properties or json
        #[arg(long, default_value = "table")]
        format: Format,
        #[command(flatten)]
        endpoint: client::Endpoint,
        #[command(flatten)]
        entity: Box<entities::EntityArguments>,
    },
    /// List, describe, create, alter and delete topics
    Topic(topic::TopicArguments),
    /// List and describe consumer groups, delete them, move their offsets
    Group(group::GroupArguments),
    /// Send lines of the standard input to a topic
    Produce(produce::ProduceArguments),
    /// Print the records of a topic
    Consume(consume::ConsumeArguments),
    /// Look into segment files
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Subcommand)]
enum LogCommand {
    /// Verify segments and print their batches
    Dump(log_dump::DumpArguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve(flags) => serve::run(&flags),
        Command::Topic(arguments) => report(topic::run(&arguments)),
        Command::Group(arguments) => report(group::run(&arguments)),
        Command::Produce(arguments) => report(produce::run(&arguments)),
        Command::Consume(arguments) => report(consume::run(&arguments)),
        Command::Log(LogCommand::Dump(arguments)) => log_dump::run(&arguments),
        Command::Config { endpoint, entity, .. } if entity.is_used() => {
            report(entities::run(&endpoint, &entity))
        }
        Command::Config { flags, format, .. } => match flags
            .sources()
            .map_err(|text| vec![text])
            .and_then(|sources| config::load(&sources).map_err(|error| error.problems))
        {
            Ok(loaded) => {
                print!("{}", config::render(format, Some(&loaded.config)));
                ExitCode::SUCCESS
            }
            Err(problems) => complain(&problems),
        },
    }
}

fn report(result: client::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&[error.to_string()]),
    }
}

fn complain(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("ringlog: {problem}");
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
