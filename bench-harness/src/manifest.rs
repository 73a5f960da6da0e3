//! The manifest: what a run stood on, so that a reader can repeat it or refuse to compare it.
//!
//! Owner: the main thread. Invariant: no path of this machine is recorded, for run folders are published; what lies
//! below the current folder is named from there. Must not: fail a run because a file of /proc or /sys is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Everything known about host and command.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Manifest {
    harness: &'static str,
    harness_version: &'static str,
    started_unix_s: u64,
    command_line: Vec<String>,
    git_commit: Option<String>,
    git_dirty: Option<bool>,
    kernel: String,
    cpu_model: Option<String>,
    cores: usize,
    smt_active: Option<String>,
    governor: Option<String>,
    memory_bytes: Option<u64>,
    /// At the start: other work on the host spoils every figure.
    load_average: Option<String>,
    transparent_huge_pages: Option<String>,
    tcp_congestion_default: Option<String>,
    tcp_congestion_used: Option<String>,
    cpus_client: Vec<usize>,
    cpus_server: Vec<usize>,
    data_dir: Option<BTreeMap<&'static str, String>>,
    endpoints: BTreeMap<String, String>,
    /// The server processes of this host whose ids were given, by endpoint.
    servers: BTreeMap<String, ServerProcess>,
    /// What the endpoint says of itself; a fact it does not tell is `unknown`.
    endpoint_facts: BTreeMap<String, String>,
    /// What the caller says of the server: flush policy, replication, what it is. `compare` holds runs to it.
    declared: BTreeMap<String, String>,
}

/// How a server was started, and where it may run.
#[derive(Debug, Clone, Serialize)]
struct ServerProcess {
    command_line: Vec<String>,
    /// Lists of cores that its threads are bound to, each once.
    cpus_allowed: Vec<String>,
}

impl ServerProcess {
    /// Of a process that is running; `None` when it is not, or not to be looked at.
    fn of(pid: u32) -> Option<Self> {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let command_line = words.map(|word| publishable(&String::from_utf8_lossy(word))).collect();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let lists: BTreeSet<String> = tasks
            .filter_map(|task| {
                field(&task.ok()?.path().join("status").display().to_string(), "Cpus_allowed_list")
            })
            .collect();
        Some(Self { command_line, cpus_allowed: lists.into_iter().collect() })
    }
}

static DECLARED: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Takes what `--declare` says, for every manifest of this process.
pub(crate) fn declare(facts: &[(String, String)]) {
    DECLARED.get_or_init(|| facts.iter().cloned().collect());
}

/// A text without the paths of this machine: what lies below `here` begins there, of any other absolute path only the
/// last name is left.
fn portable(text: &str, here: &Path) -> String {
    let is_end = |c: char| c.is_whitespace() || "=,;:@'\"()".contains(c);
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(is_end) {
        let bare = word.trim_end_matches(is_end);
        let path = Path::new(bare);
        let short = match path.strip_prefix(here) {
            Ok(below) if below.as_os_str().is_empty() => Some(".".to_owned()),
            Ok(below) => Some(below.display().to_string()),
            // `//` follows the scheme of an address.
            Err(_) if path.is_absolute() && !bare.starts_with("//") => {
                path.file_name().map(|name| format!("…/{}", name.to_string_lossy()))
            }
            Err(_) => None,
        };
        out += short.as_deref().unwrap_or(bare);
        out += &word[bare.len()..];
    }
    out
}

/// What of a command line may be published: see `portable`.
pub(crate) fn publishable(text: &str) -> String {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    portable(text, &here)
}

/// The command line that is running, the binary by its name alone.
fn command_line() -> Vec<String> {
    let mut arguments = std::env::args();
    let binary = arguments.next().unwrap_or_default();
    let name = Path::new(&binary).file_name().map(|name| name.to_string_lossy().into_owned());
    name.into_iter().chain(arguments.map(|argument| publishable(&argument))).collect()
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path)?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The mount that holds `path`: its file system, options and device, from /proc/self/mounts.
fn mount_of(path: &Path) -> Option<BTreeMap<&'static str, String>> {
    let path = path.canonicalize().ok()?;
    let mounts = read("/proc/self/mounts")?;
    let best = mounts
        .lines()
        .filter_map(|line| {
            let mut parts = line.split(' ');
            let (device, point) = (parts.next()?, parts.next()?);
            path.starts_with(point).then_some((point.len(), device, parts.next()?, parts.next()?))
        })
        .max_by_key(|(length, ..)| *length)?;
    Some(BTreeMap::from([
        ("device", best.1.to_owned()),
        ("file_system", best.2.to_owned()),
        ("mount_options", best.3.to_owned()),
    ]))
}

impl Manifest {
    /// Looks at the host now.
    pub(crate) fn take(
        congestion: Option<&str>,
        cpus_client: &[usize],
        cpus_server: &[usize],
        data_dir: Option<&Path>,
        endpoints: BTreeMap<String, String>,
    ) -> Self {
        let memory = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
            .map(|kib| kib * 1024);
        Self {
            harness: "ringlog-bench",
            harness_version: env!("CARGO_PKG_VERSION"),
            started_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            command_line: command_line(),
            git_commit: git(&["rev-parse", "HEAD"]),
            // Results that are not committed yet change no figure.
            git_dirty: git(&["status", "--porcelain", "--untracked-files=no"]).map(|text| !text.is_empty()),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            cpu_model: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            smt_active: read("/sys/devices/system/cpu/smt/active"),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: memory,
            load_average: read("/proc/loadavg"),
            transparent_huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            tcp_congestion_default: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            tcp_congestion_used: congestion.map(str::to_owned),
            cpus_client: cpus_client.to_vec(),
            cpus_server: cpus_server.to_vec(),
            data_dir: data_dir.and_then(mount_of),
            endpoints,
            servers: BTreeMap::new(),
            endpoint_facts: BTreeMap::new(),
            declared: DECLARED.get().cloned().unwrap_or_default(),
        }
    }

    /// The same with how an endpoint's server was started, when its process id is known.
    pub(crate) fn with_server(mut self, endpoint: &str, pid: Option<u32>) -> Self {
        if let Some(process) = pid.and_then(ServerProcess::of) {
            self.servers.insert(endpoint.to_owned(), process);
        }
        self
    }

    /// The same with what the endpoint says of itself.
    pub(crate) fn with_facts(mut self, facts: BTreeMap<String, String>) -> Self {
        self.endpoint_facts = facts;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_kernel_and_a_root_mount() {
        let manifest = Manifest::take(None, &[0], &[], Some(Path::new("/")), BTreeMap::new());
        assert!(!manifest.kernel.is_empty());
        assert!(manifest.data_dir.as_ref().unwrap().contains_key("file_system"));
        assert!(!manifest.command_line[0].contains('/'), "{:?}", manifest.command_line);
        let server = &manifest.with_server("me", Some(std::process::id())).servers["me"];
        assert!(!server.command_line.is_empty() && !server.cpus_allowed.is_empty());
    }

    #[test]
    fn no_path_of_this_machine_is_recorded() {
        let here = Path::new("/somewhere/tree");
        for (text, expected) in [
            ("--data-dir=/somewhere/tree/data/x", "--data-dir=data/x"),
            ("/somewhere/tree", "."),
            ("before=/elsewhere/a.hlog", "before=…/a.hlog"),
            (
                "/opt/deep/ringlog serve --data-dir /tmp/a/b --listen 127.0.0.1:1",
                "…/ringlog serve --data-dir …/b --listen 127.0.0.1:1",
            ),
            ("results/local-1@kafka", "results/local-1@kafka"),
            ("1/1100", "1/1100"),
            ("http://host/x", "http://host/x"),
        ] {
            assert_eq!(portable(text, here), expected, "{text}");
        }
    }
}
