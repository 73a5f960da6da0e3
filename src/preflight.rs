//! The checks before the start: does this machine, this user and this data directory allow the broker to work?
//!
//! Owner: the main thread, before any core starts. Invariants: every problem that can be seen is reported at once,
//! with its place and its remedy; the returned lock keeps every other process out of the data directory for as
//! long as it lives. Must not: panic, or leave a probe file behind.

use crate::config::{BrokerConfig, Listener};
use crate::limits::CORE_ID_STEP;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The block size the storage aligns its writes and buffers to, in bytes.
const BLOCK_BYTES: usize = 4096;
/// Locked memory a core needs for its ring, in bytes.
const MEMLOCK_BYTES_PER_CORE_MIN: u64 = 512 << 10;
/// With fewer open files the broker does not start.
const OPEN_FILES_MIN: u64 = 1024;
/// With fewer open files the broker warns: segments, indexes and connections each take one.
const OPEN_FILES_RECOMMENDED: u64 = 65_536;
/// The version of the layout of the data directory.
const DATA_FORMAT_VERSION: u32 = 1;
const DATA_FORMAT_KEY: &str = "ringlog-data-format=";
const LOCK_FILE: &str = ".lock";
const META_DIR: &str = "meta";
const FORMAT_FILE: &str = "format";
const PROBE_FILE: &str = ".ringlog-probe";
/// Room that the catalog's store keeps, see docs/FORMAT.md.
const RESERVE_FILE: &str = "meta/reserve";

const TMPFS_MAGIC: i64 = 0x0102_1994;
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// Something that keeps the broker from starting or from working well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// Where: a path, an address or a limit.
    pub place: String,
    /// What to do about it.
    pub remedy: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}. {}", self.place, self.what, self.remedy)
    }
}

/// What the checks found; keep it until the process ends.
#[derive(Debug)]
pub struct Preflight {
    /// Holds the lock of the data directory.
    pub lock: File,
    /// The limit of open files, after it was raised.
    pub open_files_max: u64,
    /// The alignment direct I/O needs in memory, in bytes, as far as the kernel tells.
    pub memory_alignment_bytes: Option<u32>,
    /// The alignment direct I/O needs in a file, in bytes, as far as the kernel tells.
    pub offset_alignment_bytes: Option<u32>,
    /// What does not prevent the start.
    pub warnings: Vec<Problem>,
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Runs all checks. Creates the data directory and its `meta/format` if they are missing, and raises the soft
/// limits of open files and locked memory to the hard ones.
pub fn run(config: &BrokerConfig) -> Result<Preflight, Vec<Problem>> {
    let mut findings = Findings::default();
    check_io_uring(&mut findings);
    check_memlock(config.cores.len() as u64, &mut findings);
    let open_files_max = check_open_files(&mut findings);
    let endpoints = if config.core_affine_listeners { config.cores.len() } else { 1 };
    for listener in &config.listeners {
        for core in 0..endpoints as u16 {
            // (Port 0 is chosen later; the sum of a valid port and a core may lie beyond the last port.)
            let port = if listener.port == 0 { Some(0) } else { listener.port.checked_add(core) };
            match port {
                Some(port) => check_listener(&Listener { port, ..listener.clone() }, &mut findings),
                None => findings.problems.push(problem(
                    format!("listener {}://{}:{}", listener.name, listener.host, listener.port),
                    format!("core.affine.listeners needs {endpoints} ports from there on"),
                    "Choose a lower port",
                )),
            }
        }
    }
    if config.core_affine_listeners && config.node_id >= CORE_ID_STEP {
        findings.problems.push(problem(
            format!("node.id={}", config.node_id),
            format!("core.affine.listeners needs a node id below {CORE_ID_STEP}"),
            "Choose a lower node id",
        ));
    }
    let lock = lock_data_dir(&config.data_dir).map_err(|problem| findings.problems.push(problem)).ok();
    let mut alignment = (None, None);
    if lock.is_some() {
        if let Err(problem) = check_access(&config.data_dir).and_then(|()| check_format(&config.data_dir)) {
            findings.problems.push(problem);
        } else {
            alignment = check_direct_io(&config.data_dir, &mut findings);
        }
    }
    match lock {
        Some(lock) if findings.problems.is_empty() => Ok(Preflight {
            lock,
            open_files_max,
            memory_alignment_bytes: alignment.0,
            offset_alignment_bytes: alignment.1,
            warnings: findings.warnings,
        }),
        _ => Err(findings.problems),
    }
}

fn problem(place: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { what: what.into(), place: place.into(), remedy: remedy.into() }
}

fn check_io_uring(findings: &mut Findings) {
    const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";
    // The kernel's `struct io_uring_params`, of which zeros ask for the defaults.
    let mut params = [0_u64; 15];
    // SAFETY: the kernel reads and writes 120 bytes at the pointer, which `params` has.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8_u32, params.as_mut_ptr()) };
    if fd >= 0 {
        // SAFETY: the descriptor was just made and belongs to nobody else.
        unsafe { libc::close(fd as libc::c_int) };
        return;
    }
    let error = io::Error::last_os_error();
    let found = match error.raw_os_error() {
        Some(libc::ENOSYS) => problem(
            "io_uring",
            "this kernel has no io_uring, or a sandbox hides it",
            "Use Linux 5.11 or later; under gVisor and similar sandboxes Ringlog cannot run",
        ),
        Some(libc::EPERM) => match fs::read_to_string(DISABLED).unwrap_or_default().trim() {
            "2" => problem(
                DISABLED,
                "the administrator has disabled io_uring for everybody (2)",
                "Run `sysctl -w kernel.io_uring_disabled=0`",
            ),
            "1" => problem(
                DISABLED,
                "io_uring is only allowed to privileged users and to one group (1)",
                "Run `sysctl -w kernel.io_uring_disabled=0`, or put this user into the group of \
                 kernel.io_uring_group",
            ),
            _ => problem(
                "io_uring",
                "io_uring_setup is not permitted, most likely by a seccomp profile",
                "In a container: allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp \
                 profile, for Docker with `--security-opt seccomp=<profile>` (the default profile forbids them)",
            ),
        },
        Some(libc::ENOMEM) => problem(
            "io_uring",
            "there is no memory for a ring, most likely because of the limit of locked memory",
            "Raise it with `ulimit -l`, or LimitMEMLOCK=infinity in the systemd unit",
        ),
        _ => problem("io_uring", format!("io_uring_setup failed: {error}"), "See the kernel's log"),
    };
    findings.problems.push(found);
}

/// Raises a soft limit to the hard one, and the hard one to `wanted` if it is lower and this user may; returns the
/// soft limit. `u64::MAX` is no limit.
fn raise_limit(resource: libc::__rlimit_resource_t, wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for target in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let raised = libc::rlimit { rlim_cur: target, rlim_max: target };
        // SAFETY: the pointer is to a live rlimit.
        if target > limit.rlim_cur && unsafe { libc::setrlimit(resource, &raised) } == 0 {
            return Ok(target);
        }
    }
    Ok(limit.rlim_cur)
}

fn check_memlock(core_count: u64, findings: &mut Findings) {
    let needed = core_count.max(1) * MEMLOCK_BYTES_PER_CORE_MIN;
    match raise_limit(libc::RLIMIT_MEMLOCK, needed) {
        Ok(limit) if limit >= needed || may_lock_any_memory() => {}
        Ok(limit) => findings.problems.push(problem(
            "limit of locked memory (RLIMIT_MEMLOCK)",
            format!("{limit} bytes are allowed, {needed} are needed for the rings of {core_count} core(s)"),
            "Raise it with `ulimit -l`, in /etc/security/limits.conf, or LimitMEMLOCK=infinity in the systemd unit",
        )),
        Err(error) => findings.warnings.push(problem(
            "limit of locked memory (RLIMIT_MEMLOCK)",
            format!("it cannot be read: {error}"),
            "If the start fails, raise it with `ulimit -l`",
        )),
    }
}

/// Whether this process has CAP_IPC_LOCK, so that the limit does not count.
fn may_lock_any_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|caps| caps >> CAP_IPC_LOCK & 1 == 1)
}

fn check_open_files(findings: &mut Findings) -> u64 {
    let place = "limit of open files (RLIMIT_NOFILE)";
    let remedy =
        "Raise it with `ulimit -n`, in /etc/security/limits.conf, or LimitNOFILE in the systemd unit";
    match raise_limit(libc::RLIMIT_NOFILE, OPEN_FILES_RECOMMENDED) {
        Ok(limit) => {
            if limit < OPEN_FILES_MIN {
                let what = format!("{limit} are allowed, {OPEN_FILES_MIN} are needed at least");
                findings.problems.push(problem(place, what, remedy));
            } else if limit < OPEN_FILES_RECOMMENDED {
                let what = format!(
                    "{limit} are allowed; every segment and every connection takes one, {OPEN_FILES_RECOMMENDED} \
                     are recommended"
                );
                findings.warnings.push(problem(place, what, remedy));
            }
            limit
        }
        Err(error) => {
            findings.warnings.push(problem(place, format!("it cannot be read: {error}"), remedy));
            OPEN_FILES_MIN
        }
    }
}

/// Binds the listener's address for a moment, without SO_REUSEPORT, which would hide another broker.
fn check_listener(listener: &Listener, findings: &mut Findings) {
    if listener.port == 0 {
        return;
    }
    let host = if listener.host.is_empty() { "0.0.0.0" } else { listener.host.as_str() };
    let place = format!("listener {}://{host}:{}", listener.name, listener.port);
    let addresses = match (host, listener.port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            let remedy = "Name an address of this machine in `listeners`, or 0.0.0.0 for all of them";
            findings.problems.push(problem(place, format!("the host cannot be resolved: {error}"), remedy));
            return;
        }
    };
    for address in addresses {
        let Err(error) = TcpListener::bind(address) else { continue };
        let port = listener.port;
        let (what, remedy) = match error.kind() {
            io::ErrorKind::AddrInUse => (
                format!("port {port} is in use by another process"),
                format!("Find it with `ss -ltnp 'sport = :{port}'` and stop it, or choose another port"),
            ),
            io::ErrorKind::AddrNotAvailable => (
                format!("{} is no address of this machine", address.ip()),
                "Bind 0.0.0.0 or a local address in `listeners`, and name the other one in \
                 `advertised.listeners`"
                    .to_owned(),
            ),
            io::ErrorKind::PermissionDenied => (
                format!("this user may not listen on port {port}"),
                "Choose a port from 1024 on, or give the process CAP_NET_BIND_SERVICE".to_owned(),
            ),
            _ => (format!("it cannot be bound: {error}"), "Change `listeners`".to_owned()),
        };
        findings.problems.push(problem(place, what, remedy));
        return;
    }
}

/// Creates the data directory if need be and takes its lock.
fn lock_data_dir(dir: &Path) -> Result<File, Problem> {
    let place = dir.display().to_string();
    fs::create_dir_all(dir).map_err(|error| {
        problem(
            place.clone(),
            format!("the data directory cannot be created: {error}"),
            format!("Create it for this user (uid {}), or choose another with --data-dir or log.dirs", uid()),
        )
    })?;
    let path = dir.join(LOCK_FILE);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| access_problem(&path, "the lock file cannot be opened", &error))?;
    // SAFETY: the descriptor is open for the length of the call.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EWOULDBLOCK) {
            let what = format!("the lock cannot be taken: {error}");
            return Err(problem(path.display().to_string(), what, "Use a local file system"));
        }
        let mut holder = String::new();
        let _ = lock.take(32).read_to_string(&mut holder);
        let holder = holder.trim();
        let who = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
        return Err(problem(
            place,
            format!("the data directory is in use by {who}"),
            "Stop the other broker, or give this one a data directory of its own",
        ));
    }
    let written =
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(|error| access_problem(&path, "the lock file cannot be written", &error))?;
    Ok(lock)
}

/// Whether this user may read and write what is there already.
fn check_access(dir: &Path) -> Result<(), Problem> {
    let meta = dir.join(META_DIR);
    for (path, mode) in [
        (dir.to_owned(), libc::R_OK | libc::W_OK | libc::X_OK),
        (meta.clone(), libc::R_OK | libc::W_OK | libc::X_OK),
        (meta.join(FORMAT_FILE), libc::R_OK),
        (meta.join("catalog"), libc::R_OK),
    ] {
        let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else {
            return Err(problem(
                path.display().to_string(),
                "the path has a zero byte",
                "Choose another path",
            ));
        };
        // SAFETY: the string is live and ends with a zero byte.
        let rc = unsafe { libc::faccessat(libc::AT_FDCWD, c_path.as_ptr(), mode, libc::AT_EACCESS) };
        let error = io::Error::last_os_error();
        if rc != 0 && error.kind() != io::ErrorKind::NotFound {
            return Err(access_problem(&path, "this user may not read and write it", &error));
        }
    }
    Ok(())
}

fn uid() -> u32 {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() }
}

fn access_problem(path: &Path, what: &str, error: &io::Error) -> Problem {
    let owner = fs::metadata(path)
        .or_else(|_| fs::metadata(path.parent().unwrap_or(path)))
        .map_or("unknown".to_owned(), |data| data.uid().to_string());
    problem(
        path.display().to_string(),
        format!("{what}: {error} (owner: uid {owner}, this process: uid {})", uid()),
        format!("Start the broker as the owner, or `chown -R {} <data directory>`", uid()),
    )
}

/// Reads `meta/format`, or writes it into a directory that is new.
fn check_format(dir: &Path) -> Result<(), Problem> {
    let meta = dir.join(META_DIR);
    let path = meta.join(FORMAT_FILE);
    let place = path.display().to_string();
    let text = match File::open(&path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(1024)
                .read_to_string(&mut text)
                .map_err(|error| access_problem(&path, "it cannot be read", &error))?;
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_empty(dir)?;
            return write_format(&meta)
                .map_err(|error| access_problem(&path, "it cannot be written", &error));
        }
        Err(error) => return Err(access_problem(&path, "it cannot be opened", &error)),
    };
    match text.trim().strip_prefix(DATA_FORMAT_KEY).and_then(|version| version.parse::<u32>().ok()) {
        Some(DATA_FORMAT_VERSION) => Ok(()),
        Some(version) => Err(problem(
            place,
            format!("the data has format version {version}, this Ringlog works with {DATA_FORMAT_VERSION}"),
            "Start the Ringlog version that wrote it, or choose another data directory",
        )),
        None => Err(problem(
            place,
            "it does not say which format the data has",
            format!(
                "Restore it; for data of this version it contains `{DATA_FORMAT_KEY}{DATA_FORMAT_VERSION}`"
            ),
        )),
    }
}

/// A directory without `meta/format` must be new, lest another program's data be mixed with ours.
fn check_empty(dir: &Path) -> Result<(), Problem> {
    let entries = fs::read_dir(dir).map_err(|error| access_problem(dir, "it cannot be listed", &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| access_problem(dir, "it cannot be listed", &error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if matches!(&*name, LOCK_FILE | PROBE_FILE | "lost+found") {
            continue;
        }
        if name == META_DIR && !entry.path().join("catalog").exists() {
            continue;
        }
        let place = dir.display().to_string();
        return Err(if name == "meta.properties" {
            problem(
                place,
                "this is the data directory of an Apache Kafka broker",
                "Choose an empty one; Ringlog keeps its own layout and does not take Kafka's over",
            )
        } else {
            problem(
                place,
                format!("the directory is not empty ('{name}') and has no {META_DIR}/{FORMAT_FILE}"),
                "Choose an empty directory, or restore the file",
            )
        });
    }
    Ok(())
}

fn write_format(meta: &Path) -> io::Result<()> {
    fs::create_dir_all(meta)?;
    let new = meta.join("format.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{DATA_FORMAT_KEY}{DATA_FORMAT_VERSION}")?;
    file.sync_all()?;
    fs::rename(&new, meta.join(FORMAT_FILE))?;
    File::open(meta)?.sync_all()?;
    if let Some(dir) = meta.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Writes one aligned block with O_DIRECT and asks for the alignment; returns that of memory and of offsets.
fn check_direct_io(dir: &Path, findings: &mut Findings) -> (Option<u32>, Option<u32>) {
    let path = dir.join(PROBE_FILE);
    let kind = file_system_kind(dir);
    let mut written = write_direct(&path);
    if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
        // A broker must be able to start on a full disk: what it holds is read, and deleting makes room.
        let _ = fs::remove_file(dir.join(RESERVE_FILE));
        written = write_direct(&path);
    }
    let alignment = written.as_ref().ok().and_then(|()| dio_alignment(&path));
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        findings.warnings.push(access_problem(&path, "the probe cannot be removed", &error));
    }
    let place = dir.display().to_string();
    let local = "Put the data directory on a local ext4 or xfs file system";
    if let Err(error) = written {
        let why = match kind {
            TMPFS_MAGIC => " (it is a tmpfs)",
            OVERLAYFS_MAGIC => " (it is an overlay, the writable layer of a container)",
            _ => "",
        };
        let what = format!("direct I/O (O_DIRECT) does not work on this file system{why}: {error}");
        let remedy = if error.kind() == io::ErrorKind::StorageFull { "Make room on it" } else { local };
        findings.problems.push(problem(place, what, remedy));
        return (None, None);
    }
    match kind {
        TMPFS_MAGIC => findings.warnings.push(problem(
            place.clone(),
            "the data directory is on a tmpfs: nothing in it survives a restart of the machine",
            local,
        )),
        OVERLAYFS_MAGIC => findings.warnings.push(problem(
            place.clone(),
            "the data directory is in the writable layer of a container and goes with it",
            "Mount a volume there",
        )),
        _ => {}
    }
    let Some((memory, offset)) = alignment else { return (None, None) };
    if memory == 0 || offset == 0 || memory as usize > BLOCK_BYTES || offset as usize > BLOCK_BYTES {
        let what = format!(
            "direct I/O needs an alignment of {memory} bytes in memory and {offset} in the file, \
             Ringlog aligns to {BLOCK_BYTES}"
        );
        findings.problems.push(problem(place, what, local));
    }
    (Some(memory), Some(offset))
}

fn write_direct(path: &Path) -> io::Result<()> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(path)?;
    let block = Box::new(Block([0; BLOCK_BYTES]));
    file.write_all_at(&block.0, 0)?;
    file.sync_data()
}

fn dio_alignment(path: &Path) -> Option<(u32, u32)> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: zeros are a valid value of this plain struct.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: path and result are live, the path ends with a zero byte.
    let rc = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, libc::STATX_DIOALIGN, &mut found) };
    // Kernels before 6.1 and some file systems do not tell.
    (rc == 0 && found.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some((found.stx_dio_mem_align, found.stx_dio_offset_align))
}

fn file_system_kind(dir: &Path) -> i64 {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return 0 };
    // SAFETY: zeros are a valid value of this plain struct.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: path and result are live, the path ends with a zero byte.
    let rc = unsafe { libc::statfs(path.as_ptr(), &mut found) };
    if rc == 0 { found.f_type } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(port: u16) -> Listener {
        Listener {
            name: "PLAINTEXT".to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            advertised_host: "127.0.0.1".to_owned(),
            advertised_port: port,
        }
    }

    #[test]
    fn the_whole_check_names_place_and_remedy() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut config = BrokerConfig::with_data_dir(&dir.path().join("data")).expect("valid");
        config.listeners = vec![listener(0)];
        match run(&config) {
            Ok(preflight) => {
                assert!(preflight.open_files_max >= OPEN_FILES_MIN);
                assert!(!config.data_dir.join(PROBE_FILE).exists());
                let problems = run(&config).map(|_| ()).unwrap_err();
                assert!(problems.iter().any(|p| p.what.contains("in use by process")), "{problems:?}");
                drop(preflight);
                assert!(run(&config).is_ok(), "the lock is gone with its holder");
            }
            // A machine without io_uring or direct I/O: the check has to say so.
            Err(problems) => assert!(problems.iter().all(|p| !p.place.is_empty() && !p.remedy.is_empty())),
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = taken.local_addr().expect("address").port();
        let mut findings = Findings::default();
        check_listener(&listener(port), &mut findings);
        assert!(
            findings.problems[0].what.contains(&format!("port {port} is in use")),
            "{:?}",
            findings.problems
        );
        let mut elsewhere = listener(port);
        // An address of the documentation range is on no machine.
        elsewhere.host = "192.0.2.1".to_owned();
        let mut findings = Findings::default();
        check_listener(&elsewhere, &mut findings);
        assert!(findings.problems[0].what.contains("no address of this machine"), "{:?}", findings.problems);
    }

    #[test]
    fn the_format_file_is_written_once_and_checked() {
        let dir = tempfile::tempdir().expect("temp dir");
        check_format(dir.path()).expect("a new directory");
        check_format(dir.path()).expect("the same again");
        let path = dir.path().join(META_DIR).join(FORMAT_FILE);
        assert_eq!(fs::read_to_string(&path).expect("read"), "ringlog-data-format=1\n");
        fs::write(&path, "ringlog-data-format=9\n").expect("write");
        assert!(check_format(dir.path()).unwrap_err().what.contains("format version 9"));
        fs::write(&path, "junk").expect("write");
        assert!(check_format(dir.path()).unwrap_err().remedy.contains("ringlog-data-format=1"));
    }

    #[test]
    fn other_programs_data_is_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("meta.properties"), "version=1\n").expect("write");
        assert!(check_format(dir.path()).unwrap_err().what.contains("Apache Kafka"));
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join("photos")).expect("create");
        assert!(check_format(dir.path()).unwrap_err().what.contains("not empty"));
        assert!(!dir.path().join(META_DIR).exists());
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join("lost+found")).expect("create");
        fs::create_dir(dir.path().join(META_DIR)).expect("a start that was interrupted");
        check_format(dir.path()).expect("counts as new");
    }

    #[test]
    fn a_data_directory_that_cannot_be_made_is_a_problem() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("write");
        assert!(lock_data_dir(&file).is_err());
        assert!(lock_data_dir(&file.join("below")).unwrap_err().remedy.contains("--data-dir"));
        check_access(dir.path()).expect("our own directory");
    }
}
