//! A control group with a memory limit for one broker, in whichever version of cgroups this machine has.
//!
//! Owner: the test. Invariants: it is removed on drop, which needs its processes to be gone. It must not touch any
//! other group.

use std::fs;
use std::path::PathBuf;

/// A group of its own.
pub struct Cgroup {
    directory: PathBuf,
    version_2: bool,
}

impl Cgroup {
    /// With a limit of memory in bytes; `None`, said on stderr, where that cannot be had.
    pub fn with_memory(limit_bytes: u64) -> Option<Cgroup> {
        let name = format!("ringlog-test-{}", std::process::id());
        let version_2 = !PathBuf::from("/sys/fs/cgroup/memory").is_dir();
        let root = if version_2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let group = Cgroup { directory: PathBuf::from(root).join(name), version_2 };
        let made = fs::create_dir(&group.directory).and_then(|()| {
            let (limit, swap) = match version_2 {
                true => ("memory.max", "memory.swap.max"),
                false => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
            };
            fs::write(group.directory.join(limit), limit_bytes.to_string())?;
            // Not everywhere: without swap there is nothing to limit.
            let swap_bytes = if version_2 { 0 } else { limit_bytes };
            let _ = fs::write(group.directory.join(swap), swap_bytes.to_string());
            Ok(())
        });
        match made {
            Ok(()) => Some(group),
            Err(error) => {
                eprintln!("SKIPPED, nothing was tested: no control group with a memory limit: {error}");
                None
            }
        }
    }

    /// The file that a process writes its id to.
    pub fn processes(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Processes that the kernel has killed for memory.
    pub fn kills(&self) -> u64 {
        let file = if self.version_2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    /// The most memory that was ever used, bytes; 0 where the kernel does not say.
    pub fn peak_bytes(&self) -> u64 {
        let file = if self.version_2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let text = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel needs a moment after the last process.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
