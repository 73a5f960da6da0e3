//! A server that the harness started itself, so that it may kill it and start it again.
//!
//! Owner: `fault`. Invariants: only a process started here is ever killed, and none is left behind. Must not: know what
//! server it is; it is whatever the command starts.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{BenchError, Result, io_err, protocol};
use crate::kafka::Control;
use crate::series::ServerPid;
use crate::sys;

/// Longest time a server may take from its start to its first answer, and from SIGTERM to its end.
const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(20);

/// Pause before a server that ended while it started is started again.
const RESPAWN: Duration = Duration::from_millis(20);

/// A server process.
#[derive(Debug)]
pub(crate) struct Server {
    command: String,
    bootstrap: String,
    /// Where its output goes; nowhere without.
    log: Option<PathBuf>,
    child: Child,
    process: ServerPid,
}

fn spawn(command: &str, log: Option<&Path>) -> Result<Child> {
    let output = || -> Result<Stdio> {
        let Some(log) = log else { return Ok(Stdio::null()) };
        let file = OpenOptions::new().create(true).append(true).open(log);
        Ok(file.map_err(io_err(format!("open {}", log.display())))?.into())
    };
    // `exec`: the shell becomes the server, so that its process id is the server's.
    Command::new("sh")
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?)
        .process_group(0)
        .spawn()
        .map_err(io_err(format!("start {command}")))
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When something answers there already, the command cannot be started, or the server does not come up.
    pub(crate) fn start(command: &str, bootstrap: &str, log: Option<PathBuf>) -> Result<Self> {
        if Control::connect(bootstrap).is_ok() {
            return Err(BenchError::Usage(format!("something serves on {bootstrap} already")));
        }
        let child = spawn(command, log.as_deref())?;
        let (command, bootstrap) = (command.to_owned(), bootstrap.to_owned());
        let process = ServerPid::from(Some(child.id()));
        let mut server = Self { command, bootstrap, log, child, process };
        let again = server.wait_ready()?;
        if again > 0 {
            return Err(protocol(format!("the server ended {again} times while it started")));
        }
        Ok(server)
    }

    /// Waits until the endpoint answers; a server that ends meanwhile is started again, as a supervisor would. Returns
    /// how often it was.
    fn wait_ready(&mut self) -> Result<u32> {
        let began = Instant::now();
        let mut again = 0;
        loop {
            match Control::connect(&self.bootstrap) {
                Ok(_) => return Ok(again),
                Err(error) if began.elapsed() > START_MAX => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
            if let Ok(Some(_)) = self.child.try_wait() {
                std::thread::sleep(RESPAWN);
                self.respawn()?;
                again += 1;
            }
        }
    }

    /// The process id, which changes with every restart.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process, whichever it is after a restart.
    pub(crate) fn process(&self) -> ServerPid {
        self.process.clone()
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().map_err(io_err("kill the server"))?;
        self.child.wait().map_err(io_err("wait for the server")).map(drop)
    }

    /// Starts it again and waits until it answers. Returns how many starts failed before: what a killed process had
    /// open, its port above all, may be gone only a moment after itself.
    pub(crate) fn restart(&mut self) -> Result<u32> {
        self.respawn()?;
        self.wait_ready()
    }

    fn respawn(&mut self) -> Result<()> {
        self.child = spawn(&self.command, self.log.as_deref())?;
        self.process.set(self.child.id());
        Ok(())
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
