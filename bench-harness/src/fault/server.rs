//! A server that the harness started itself, so that it may kill it and start it again.
//!
//! Owner: `fault`. Invariants: only a process started here is ever killed, and none is left behind. Must not: know what
//! server it is; it is whatever the command starts.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{BenchError, Result, io_err, protocol};
use crate::kafka::Control;
use crate::sys;

/// Longest time a server may take from its start to its first answer, and from SIGTERM to its end.
const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(20);

/// A server process.
#[derive(Debug)]
pub(crate) struct Server {
    command: String,
    bootstrap: String,
    child: Child,
}

fn spawn(command: &str) -> Result<Child> {
    // `exec`: the shell becomes the server, so that its process id is the server's.
    Command::new("sh")
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(io_err(format!("start {command}")))
}

/// Waits until an endpoint answers.
fn wait_ready(bootstrap: &str, child: &mut Child) -> Result<()> {
    let began = Instant::now();
    loop {
        match Control::connect(bootstrap) {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > START_MAX => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(protocol(format!("the server ended while it started: {status}")));
        }
    }
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When something answers there already, the command cannot be started, or the server does not come up.
    pub(crate) fn start(command: &str, bootstrap: &str) -> Result<Self> {
        if Control::connect(bootstrap).is_ok() {
            return Err(BenchError::Usage(format!("something serves on {bootstrap} already")));
        }
        let child = spawn(command)?;
        let mut server = Self { command: command.to_owned(), bootstrap: bootstrap.to_owned(), child };
        wait_ready(bootstrap, &mut server.child)?;
        Ok(server)
    }

    /// The process id, which changes with every restart.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().map_err(io_err("kill the server"))?;
        self.child.wait().map_err(io_err("wait for the server")).map(drop)
    }

    /// Starts it again and waits until it answers.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.command)?;
        wait_ready(&self.bootstrap, &mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A stopped process would not see the signal.
        for signal in [libc::SIGCONT, libc::SIGTERM] {
            sys::signal(self.child.id(), signal).ok();
        }
        let began = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if began.elapsed() > STOP_MAX {
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
