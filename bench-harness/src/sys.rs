//! Thin safe wrappers over the system calls std lacks: clocks, pinning, epoll, socket options, huge pages.
//!
//! Owner: the whole crate. Invariant: this file and `ring.rs` hold all `unsafe` of the harness.
//! Must not: know Kafka or keep state beyond the descriptor or mapping it owns.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::limits::EPOLL_EVENTS_MAX;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "these clocks always exist on Linux");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CLOCK_MONOTONIC in nanoseconds: the same for every process of this host.
pub(crate) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Processor time of the calling thread, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds the calling thread was runnable but waited for a core; 0 where the kernel keeps no schedstat.
pub(crate) fn thread_run_delay_ns() -> u64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

/// Processor time of another process (user + system), in nanoseconds, or `None` if it is gone.
pub(crate) fn pid_cpu_ns(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces; fields are counted behind its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // SAFETY: sysconf has no preconditions.
    let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Some(ticks * (1_000_000_000 / ticks_per_s))
}

/// Resident memory of another process, in bytes, or `None` if it is gone.
pub(crate) fn pid_resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Processor time of the whole host so far (busy, stolen by the hypervisor), in nanoseconds.
pub(crate) fn host_cpu_ns() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, soft_irq, steal, ..] = ticks[..] else { return None };
    // SAFETY: sysconf has no preconditions.
    let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    let tick_ns = 1_000_000_000 / ticks_per_s;
    Some(((user + nice + system + irq + soft_irq) * tick_ns, steal * tick_ns))
}

/// For each core its busy and its whole time so far, in clock ticks; empty where /proc/stat cannot be read.
pub(crate) fn host_cpu_ticks() -> Vec<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu"));
    cores
        .filter_map(|line| {
            let ticks: Vec<u64> =
                line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
            let [user, nice, system, idle, wait, irq, soft_irq, steal, ..] = ticks[..] else { return None };
            let busy = user + nice + system + irq + soft_irq + steal;
            Some((busy, busy + idle + wait))
        })
        .collect()
}

/// For each disk how long it has been busy so far, in milliseconds; empty where /proc/diskstats cannot be read.
fn disk_busy_ms() -> Vec<u64> {
    let stat = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
    stat.lines().filter_map(|line| line.split_whitespace().nth(12)?.parse().ok()).collect()
}

/// Writes out what the page cache holds for the disks, and waits, at most so long, until no disk is busy any more.
pub(crate) fn settle_disks(most: Duration) {
    const LOOK: Duration = Duration::from_millis(250);
    let began = Instant::now();
    // SAFETY: no arguments, no memory of this process.
    unsafe { libc::sync() };
    loop {
        let before = disk_busy_ms();
        std::thread::sleep(LOOK);
        let busy = disk_busy_ms().iter().zip(&before).map(|(now, then)| now.saturating_sub(*then)).max();
        if busy.unwrap_or(0) < LOOK.as_millis() as u64 / 20 || began.elapsed() >= most {
            return;
        }
    }
}

/// Sends a signal to a process.
///
/// # Errors
/// When it does not exist or is not ours.
pub(crate) fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill touches no memory of this process.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}

/// Pins the calling thread to one core.
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    assert!(cpu < libc::CPU_SETSIZE as usize, "core numbers are checked when flags are parsed");
    // SAFETY: an all-zero cpu_set_t is an empty set; `cpu` is inside its bounds as asserted.
    check(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })
    .map(drop)
}

/// Makes timed sleeps of the calling thread exact to about a microsecond (the default slack is 50).
pub(crate) fn sharp_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000 as libc::c_ulong) };
}

/// Sets the congestion control of a socket.
pub(crate) fn set_congestion(stream: &TcpStream, name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// An epoll instance, edge-triggered by default.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What one descriptor is ready for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// The token given at registration.
    pub(crate) token: usize,
    /// Something can be read, or the peer is gone.
    pub(crate) readable: bool,
    /// Something can be written.
    pub(crate) writable: bool,
}

impl Epoll {
    /// A new instance.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no preconditions; on success the descriptor is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; EPOLL_EVENTS_MAX] })
    }

    /// Watches a descriptor for both directions, edge-triggered.
    pub(crate) fn add_edge(&self, fd: RawFd, token: usize) -> io::Result<()> {
        self.add(fd, token, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET)
    }

    /// Watches a descriptor for input, level-triggered.
    pub(crate) fn add_input(&self, fd: RawFd, token: usize) -> io::Result<()> {
        self.add(fd, token, libc::EPOLLIN)
    }

    fn add(&self, fd: RawFd, token: usize, flags: libc::c_int) -> io::Result<()> {
        let mut event = libc::epoll_event { events: flags as u32, u64: token as u64 };
        // SAFETY: both descriptors are open and `event` is valid for the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })
            .map(drop)
    }

    /// Waits at most `timeout_ns` and hands out what is ready.
    pub(crate) fn wait(&mut self, timeout_ns: u64, out: &mut Vec<Ready>) -> io::Result<()> {
        out.clear();
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: the event array has the stated length and lives through the call; no signal mask is given.
        let count = unsafe {
            libc::epoll_pwait2(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in &self.events[..count] {
            let flags = event.events as libc::c_int;
            out.push(Ready {
                token: event.u64 as usize,
                readable: flags & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0,
                writable: flags & libc::EPOLLOUT != 0,
            });
        }
        Ok(())
    }
}

/// Anonymous memory on huge pages where the kernel grants them, page-aligned, unmapped on drop.
#[derive(Debug)]
pub(crate) struct HugeBuffer {
    start: NonNull<u8>,
    length: usize,
    map_start: *mut libc::c_void,
    map_length: usize,
}

// SAFETY: the buffer owns its mapping exclusively; nothing in it is tied to a thread.
unsafe impl Send for HugeBuffer {}

impl HugeBuffer {
    /// Maps `length` bytes aligned to 2 MiB, asks for huge pages and touches every page.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        const HUGE: usize = 2 << 20;
        let length = length.next_multiple_of(HUGE);
        let map_length = length + HUGE;
        // SAFETY: a fresh anonymous private mapping; the result is checked before use.
        let map_start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if map_start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = (map_start as usize).next_multiple_of(HUGE);
        let start = NonNull::new(address as *mut u8).expect("a mapping is never at zero");
        // SAFETY: [start, start + length) lies inside the mapping just made.
        unsafe {
            libc::madvise(start.as_ptr().cast(), length, libc::MADV_HUGEPAGE);
            std::ptr::write_bytes(start.as_ptr(), 0x5a, length);
        }
        Ok(Self { start, length, map_start, map_length })
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Address of byte `offset`, for the kernel.
    pub(crate) fn pointer(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.length, "offset inside the buffer");
        // SAFETY: in bounds as asserted.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is initialised, owned, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, writable. Callers keep away from ranges that a kernel operation is reading.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for HugeBuffer {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no borrow of it can be alive here.
        unsafe { libc::munmap(self.map_start, self.map_length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_buffer_is_aligned_and_writable() {
        let mut buffer = HugeBuffer::new(5).unwrap();
        assert_eq!(buffer.pointer(0) as usize % 4096, 0);
        buffer.bytes_mut()[4] = 7;
        assert_eq!(buffer.bytes()[4], 7);
    }

    #[test]
    fn clocks_move_forward_and_own_cpu_is_readable() {
        let start = now_ns();
        assert!(now_ns() >= start);
        assert!(pid_cpu_ns(std::process::id()).is_some());
    }
}
