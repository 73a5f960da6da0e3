//! The real binary as a child process on a data directory of its own.
//!
//! Owner: the test. Invariants: `start` returns when the broker says that it is ready; a broker that is dropped is
//! killed and waited for; a data directory is removed when its `DataDir` is dropped, unless the test panics.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::PATIENCE;
use super::client::Client;

/// A directory for one broker's data, and its stderr beside it.
pub struct DataDir {
    directory: tempfile::TempDir,
    elsewhere: Option<PathBuf>,
}

impl DataDir {
    /// A new, empty one below cargo's target directory.
    pub fn new(label: &str) -> DataDir {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{label}-"))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory for the test");
        DataDir { directory, elsewhere: None }
    }

    /// The same, but with the data in `data`, which lies on a file system of the test's own and is not removed.
    pub fn with_data_in(label: &str, data: PathBuf) -> DataDir {
        let mut dir = DataDir::new(label);
        dir.elsewhere = Some(data);
        dir
    }

    /// Beside the data: for what else the test writes.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The broker's data directory (not made yet).
    pub fn data(&self) -> PathBuf {
        self.elsewhere.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// The directory of one partition.
    pub fn partition(&self, topic: &str, partition: i32) -> PathBuf {
        self.data().join(format!("{topic}-{partition}"))
    }

    fn stderr(&self) -> PathBuf {
        self.directory.path().join("stderr")
    }

    /// Segment files of a partition, oldest first.
    pub fn segments(&self, topic: &str, partition: i32) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(self.partition(topic, partition))
            .expect("the partition's directory")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        found.sort();
        found
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Cargo removes nothing; the directory is below `target`, so `cargo clean` does.
            eprintln!("kept for a look: {}", self.directory.path().display());
            self.directory.disable_cleanup(true);
        }
    }
}

/// How to start a broker.
#[derive(Clone)]
pub struct Options {
    /// `--cores`.
    pub cores: String,
    /// `--memory`; empty for what the broker finds right.
    pub memory: String,
    /// `--listen`.
    pub listen: String,
    /// `--override KEY=VALUE`.
    pub overrides: Vec<String>,
    /// Ignore SIGXFSZ, so that a file size limit is an error of a write and not the end.
    pub ignore_file_size_signal: bool,
    /// Where its log goes instead of a file that the test can read.
    pub log: Option<PathBuf>,
    /// `cgroup.procs` of the control group that it begins in.
    pub cgroup: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cores: "2".to_owned(),
            memory: "256MiB".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            overrides: vec!["ringlog.segment.pool.bytes=67108864".to_owned()],
            ignore_file_size_signal: false,
            log: None,
            cgroup: None,
        }
    }
}

impl Options {
    /// Adds an override.
    pub fn with(mut self, key: &str, value: &str) -> Options {
        self.overrides.push(format!("{key}={value}"));
        self
    }

    /// On one core.
    pub fn one_core(mut self) -> Options {
        self.cores = "1".to_owned();
        self
    }

    fn command(&self, data: &Path) -> Command {
        let mut command = match &self.cgroup {
            None => Command::new(env!("CARGO_BIN_EXE_ringlog")),
            Some(processes) => {
                let mut shell = Command::new("sh");
                let script = "echo $$ > \"$0\" && exec \"$@\"";
                shell.args(["-c", script]).arg(processes).arg(env!("CARGO_BIN_EXE_ringlog"));
                shell
            }
        };
        command.arg("serve").arg("--data-dir").arg(data);
        command.args(["--listen", &self.listen, "--cores", &self.cores]);
        if !self.memory.is_empty() {
            command.args(["--memory", &self.memory]);
        }
        for pair in &self.overrides {
            command.args(["--override", pair]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if self.ignore_file_size_signal {
            use std::os::unix::process::CommandExt;
            // SAFETY: `signal` is async-signal-safe and the closure touches no memory of the parent.
            unsafe {
                command.pre_exec(|| {
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    Ok(())
                });
            }
        }
        command
    }
}

/// A running broker.
pub struct Broker {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: PathBuf,
    /// The port that it said it listens on.
    pub port: u16,
    /// The line with which it said so.
    pub ready_line: String,
}

impl Broker {
    /// Starts one and waits until it is ready.
    pub fn start(dir: &DataDir, options: &Options) -> Broker {
        match Broker::try_start(dir, options) {
            Ok(broker) => broker,
            Err((status, stderr)) => panic!("the broker does not start: {status}\n{stderr}"),
        }
    }

    /// Starts one that may refuse to: its exit status and stderr are the error.
    pub fn try_start(dir: &DataDir, options: &Options) -> Result<Broker, (ExitStatus, String)> {
        let mut broker = Broker::launch(dir, options);
        let read = broker.stdout.read_line(&mut broker.ready_line).expect("stdout");
        let port = broker
            .ready_line
            .split_once("ready on ")
            .and_then(|(_, rest)| rest.split([' ', ',']).next())
            .and_then(|address| address.rsplit_once(':'))
            .and_then(|(_, port)| port.parse().ok());
        match port {
            Some(port) if read > 0 => {
                broker.port = port;
                Ok(broker)
            }
            _ => {
                let status = broker.child.wait().expect("wait");
                Err((status, broker.stderr()))
            }
        }
    }

    /// Starts one and does not wait for anything: its port is not known.
    pub fn launch(dir: &DataDir, options: &Options) -> Broker {
        let log = options.log.clone().unwrap_or_else(|| dir.stderr());
        let stderr = File::options().write(true).create(true).truncate(true).open(log);
        let stderr = stderr.expect("a file for stderr");
        let mut child =
            options.command(&dir.data()).stderr(stderr).spawn().expect("the binary can be started");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Broker { child, stdout, stderr: dir.stderr(), port: 0, ready_line: String::new() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr since it was started.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.port).expect("the broker accepts")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the child was not waited for, so the id is its own.
        let code = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(code, 0, "kill({signal})");
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        let status = self.child.wait().expect("wait");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it died by itself: {status}\n{}", self.stderr());
    }

    /// SIGTERM, and waits for the end: exit status, rest of stdout, stderr.
    pub fn terminate(mut self) -> (ExitStatus, String, String) {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> (ExitStatus, String, String) {
        let status = super::eventually("the broker ends", || self.child.try_wait().expect("wait"));
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).expect("stdout");
        (status, stdout, self.stderr())
    }

    /// A stop that has to be clean.
    pub fn stop(self) {
        let (status, stdout, stderr) = self.terminate();
        assert!(status.success(), "SIGTERM ended it with {status}\n{stderr}");
        assert!(stdout.contains("stopped cleanly"), "stdout: {stdout}\n{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("proc");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
        kib << 10
    }

    /// What its admin endpoint says (`admin.listeners` must be set): each value summed over the cores.
    pub fn metrics(&self) -> HashMap<String, f64> {
        let (_, address) = self.ready_line.split_once("admin http://").expect("an admin listener");
        let address = address.trim_end().trim_end_matches(')');
        // A core that just had no time to answer has none the next time: then it is asked again.
        super::eventually("all cores hand over their counts", || {
            let mut stream = TcpStream::connect(address).expect("the admin endpoint accepts");
            stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
            let request = b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n";
            stream.write_all(request).expect("asked");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            let mut sums = HashMap::new();
            for line in text.lines().filter(|line| line.starts_with("ringlog_")) {
                let Some((key, value)) = line.rsplit_once(' ') else { continue };
                let name = key.split('{').next().expect("a name");
                *sums.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap_or(0.0);
            }
            (!sums.is_empty()).then_some(sums)
        })
    }

    /// Processor time used so far, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("proc");
        let (_, fields) = stat.rsplit_once(')').expect("stat");
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
        // SAFETY: a plain query.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        ticks as f64 / per_second as f64
    }

    /// Whether it still runs and answers.
    pub fn assert_serving(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait") {
            panic!("the broker is gone: {status}\n{}", self.stderr());
        }
        let mut client = self.connect();
        client.set_timeout(PATIENCE);
        client.api_versions().expect("an answer");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let text = self.stderr();
            let tail = text.lines().rev().take(40).collect::<Vec<_>>();
            eprintln!("--- the broker's stderr ends with");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
