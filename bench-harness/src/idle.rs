//! `idle`: what connections cost that do nothing: the server's memory for each, and its processor time.
//!
//! Owner: the main thread. Every connection has asked something once, as a client's has. Must not: send anything
//! while it measures.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::seconds;
use crate::error::{BenchError, Result, io_err};
use crate::kafka::Control;
use crate::limits::CONNECTIONS_MAX;
use crate::report::write_json;
use crate::sys;

/// `idle`
#[derive(Debug, Args)]
pub(crate) struct IdleCommand {
    /// Endpoint.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub(crate) bootstrap: String,
    /// Process id of the server.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: u32,
    /// Connections held open.
    #[arg(long, default_value_t = 1000)]
    pub(crate) connections: usize,
    /// Measured seconds, once without and once with the connections.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) duration: f64,
    /// Folder for summary.json.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Summary {
    connections: usize,
    resident_bytes_before: u64,
    resident_bytes_with: u64,
    bytes_per_connection: f64,
    cpu_percent_before: f64,
    cpu_percent_with: f64,
}

/// `idle`
pub(crate) fn command(command: &IdleCommand) -> Result<()> {
    if command.connections == 0 || command.connections > CONNECTIONS_MAX {
        return Err(BenchError::Usage("connections out of bounds".into()));
    }
    let pid = command.server_pid;
    let gone = || BenchError::Usage(format!("there is no process {pid}"));
    let time = seconds(command.duration)?;
    let settle = Duration::from_secs(2);
    let cpu_percent = || -> Result<f64> {
        let (before, start) = (sys::pid_cpu_ns(pid).ok_or_else(gone)?, sys::now_ns());
        std::thread::sleep(time);
        let used = sys::pid_cpu_ns(pid).ok_or_else(gone)? - before;
        Ok(100.0 * used as f64 / (sys::now_ns() - start) as f64)
    };
    // The first connections meet code and tables that are made once.
    drop((0..16).map(|_| Control::connect(&command.bootstrap)).collect::<Result<Vec<_>>>()?);
    std::thread::sleep(settle);
    let cpu_percent_before = cpu_percent()?;
    let resident_bytes_before = sys::pid_resident_bytes(pid).ok_or_else(gone)?;
    let held: Vec<Control> =
        (0..command.connections).map(|_| Control::connect(&command.bootstrap)).collect::<Result<_>>()?;
    std::thread::sleep(settle);
    let cpu_percent_with = cpu_percent()?;
    let resident_bytes_with = sys::pid_resident_bytes(pid).ok_or_else(gone)?;
    let more = resident_bytes_with.saturating_sub(resident_bytes_before);
    let summary = Summary {
        connections: held.len(),
        resident_bytes_before,
        resident_bytes_with,
        bytes_per_connection: more as f64 / held.len() as f64,
        cpu_percent_before,
        cpu_percent_with,
    };
    println!(
        "{} idle connections: {:.0} bytes each, {:.2} % of a core (without them {:.2} %)",
        summary.connections,
        summary.bytes_per_connection,
        summary.cpu_percent_with,
        summary.cpu_percent_before
    );
    if let Some(out) = &command.out {
        std::fs::create_dir_all(out).map_err(io_err(format!("create {}", out.display())))?;
        write_json(&out.join("summary.json"), &summary)?;
    }
    Ok(())
}
