//! What the machine offers this process: cpus it may run on and memory it may use.
//!
//! Owner: the process, at start. Invariants: the limits of a container (cpu affinity, cgroup memory) count, not
//! the size of the host. Must not: keep state.

use std::fs;

/// The cpus this process may run on, ascending (from `sched_getaffinity`).
pub(crate) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is a plain bit array, for which all zeros is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    let rc = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if rc != 0 {
        let count = std::thread::available_parallelism().map_or(1, |n| n.get());
        return (0..count).collect();
    }
    // SAFETY: every index is below CPU_SETSIZE, the number of bits of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Memory this process may use, in bytes: the host's RAM or the limit of its control group, if that is less.
pub(crate) fn memory_bytes() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let (pages, page_bytes) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let ram = u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(page_bytes).unwrap_or(0));
    limit_files(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .fold(ram, u64::min)
}

/// Files that may limit this process's memory: of its control group and of every one above it, in both versions.
/// `groups` is `/proc/self/cgroup`; in a container its paths may not be visible, then the root's is the container's.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (root, file) = match fields.next() {
            Some("") => ("/sys/fs/cgroup", "memory.max"),
            Some(kinds) if kinds.split(',').any(|kind| kind == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = fields.next().unwrap_or_default().trim_end_matches('/');
        while let Some((above, _)) = path.rsplit_once('/') {
            files.push(format!("{root}{path}/{file}"));
            path = above;
        }
        files.push(format!("{root}/{file}"));
    }
    files
}

/// Reads `ringlog.cores`: empty means every allowed cpu; a single number is a *count*; with a comma or a dash it
/// is a list of cpu ids and ranges (`0,2-3`; one cpu alone is written `3-3`).
pub(crate) fn parse_cores(text: &str, allowed: &[usize]) -> Result<Vec<usize>, String> {
    let text = text.trim();
    if text.is_empty() || text == "all" {
        return Ok(allowed.to_vec());
    }
    if let Ok(count) = text.parse::<usize>() {
        return match count {
            0 => Err("at least one core is needed".to_owned()),
            n if n > allowed.len() => {
                Err(format!("{n} cores are asked for, but this process may run on {} only", allowed.len()))
            }
            n => Ok(allowed[..n].to_vec()),
        };
    }
    let mut cpus = Vec::new();
    for item in super::keys::split_list(text) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let number = |s: &str| {
            s.trim()
                .parse::<usize>()
                .map_err(|_| format!("'{item}' is neither a cpu id nor a range such as 2-5"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last >= libc::CPU_SETSIZE as usize {
            return Err(format!("'{item}' is no valid range of cpu ids"));
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    if cpus.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("a cpu is listed twice".to_owned());
    }
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(format!("cpu {cpu} is not one this process may run on ({allowed:?})")),
        None if cpus.is_empty() => Err("at least one core is needed".to_owned()),
        None => Ok(cpus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_a_count_or_a_list() {
        let allowed = [0, 1, 2, 5];
        assert_eq!(parse_cores("", &allowed), Ok(vec![0, 1, 2, 5]));
        assert_eq!(parse_cores("2", &allowed), Ok(vec![0, 1]));
        assert_eq!(parse_cores("5-5", &allowed), Ok(vec![5]));
        assert_eq!(parse_cores("1-2, 0", &allowed), Ok(vec![0, 1, 2]));
        for wrong in ["0", "5", "3-3", "1,1", "a,b", "2-1", ",", "0-99999999999"] {
            assert!(parse_cores(wrong, &allowed).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_of_the_own_group_and_those_above_count() {
        let files = limit_files("9:name=systemd:/x\n4:cpu,memory:/a/b\n0::/\n");
        let v1 = ["/a/b", "/a", ""].map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
        assert_eq!(files[..3], v1);
        assert_eq!(files[3..], ["/sys/fs/cgroup/memory.max".to_owned()]);
        assert!(limit_files("").is_empty());
    }

    #[test]
    fn the_machine_has_a_cpu_and_memory() {
        assert!(!allowed_cpus().is_empty());
        assert!(memory_bytes() > 1 << 20);
    }
}
