//! The command line: `ringlog serve` and `ringlog config`.
//!
//! Owner: the main thread. It must not hold broker logic.

mod serve;

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
    /// List every configuration key with its default and what it does
    Config {
        #[command(flatten)]
        flags: ConfigFlags,
        /// table, properties or json
        #[arg(long, default_value = "table")]
        format: Format,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve(flags) => serve::run(&flags),
        Command::Config { flags, format } => match flags
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

fn complain(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("ringlog: {problem}");
    }
    ExitCode::FAILURE
}
