//! An ext4 of its own for a broker: on a loop device over `faultdisk.py`, which records writes and flushes and can fail
//! them, or over a plain file; and the images that a power cut at a moment of the record would have left.
//!
//! Owner: the test. Invariants: needs root, loop devices and /dev/fuse, and says loudly when they are not there;
//! everything is unmounted and detached on drop, also on a panic. It must not touch a device that it did not attach.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::random::Random;

/// Smallest unit that a disk writes as a whole.
const SECTOR: usize = 512;
/// Parts of an image that are left out when they are zeros.
const HOLE: usize = 1 << 16;

/// Why these tests cannot run here, if they cannot; said on stderr.
pub fn unavailable() -> Option<String> {
    // SAFETY: a plain query.
    let root = unsafe { libc::geteuid() } == 0;
    let there = |path: &str| Path::new(path).exists();
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let missing = if !root {
        "root"
    } else if !there("/dev/fuse") {
        "/dev/fuse"
    } else if !there("/dev/loop-control") {
        "loop devices"
    } else if !["python3", "losetup", "mkfs.ext4"].iter().all(|program| runs(program)) {
        "python3, losetup or mkfs.ext4"
    } else {
        return probe();
    };
    Some(loudly(format!("{missing} not there")))
}

fn loudly(why: String) -> String {
    eprintln!("SKIPPED, nothing was tested: {why}");
    why
}

/// A container may have the devices and not the right to mount.
fn probe() -> Option<String> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let image = directory.path().join("probe");
    File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("a file");
    match Mounted::format(&image, &directory.path().join("mnt"), false) {
        Ok(_) => None,
        Err(text) => Some(loudly(text)),
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A mounted ext4 on a loop device.
pub struct Mounted {
    device: String,
    directory: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// A new file system on `image`, mounted on `directory`. Without the share that ext4 keeps for root: the broker
    /// of a test is root. Errors: in words.
    pub fn format(image: &Path, directory: &Path, direct: bool) -> Result<Mounted, String> {
        let mut mounted = Mounted::attach(image, directory, direct)?;
        let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run("mkfs.ext4", &[&options[..], &[&mounted.device]].concat())?;
        mounted.mount()?;
        Ok(mounted)
    }

    /// The file system that is on `image`; its journal is replayed. Errors: in words.
    pub fn open(image: &Path, directory: &Path, direct: bool) -> Result<Mounted, String> {
        let mut mounted = Mounted::attach(image, directory, direct)?;
        mounted.mount()?;
        Ok(mounted)
    }

    fn attach(image: &Path, directory: &Path, direct: bool) -> Result<Mounted, String> {
        std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
        let direct = format!("--direct-io={}", if direct { "on" } else { "off" });
        let device = run("losetup", &[&direct, "--find", "--show", &image.display().to_string()])?;
        Ok(Mounted { device, directory: directory.to_owned(), mounted: false })
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-t", "ext4", &self.device, &self.directory.display().to_string()])?;
        self.mounted = true;
        Ok(())
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Checks and mends the file system after errors, which leaves it mounted. Errors: in words.
    pub fn check(&mut self) -> Result<(), String> {
        self.unmount();
        // 1: errors were found and corrected.
        let status = Command::new("e2fsck").args(["-fy", &self.device]).stdout(Stdio::null()).status();
        match status.map_err(|error| error.to_string())?.code() {
            Some(0 | 1) => self.mount(),
            other => Err(format!("e2fsck: {other:?}")),
        }
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted)
            && let Err(text) = run("umount", &[&self.directory.display().to_string()])
        {
            eprintln!("{text}; unmounting lazily");
            let _ = run("umount", &["--lazy", &self.directory.display().to_string()]);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
        if let Err(text) = run("losetup", &["--detach", &self.device]) {
            eprintln!("{text}");
        }
    }
}

/// What a disk was told.
pub struct Record {
    /// `Some`: bytes to be written at a position; `None`: a flush.
    pub write: Option<(u64, Vec<u8>)>,
    /// Of a flush: how many records it covers.
    pub covered: usize,
    /// When it came in, see [`super::history::now_ns`].
    pub at_ns: u64,
}

/// A disk that records and can fail.
pub struct FaultDisk {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    directory: PathBuf,
}

impl FaultDisk {
    /// One of `size_bytes` zeros; its files lie in `directory`.
    pub fn start(directory: &Path, size_bytes: u64) -> FaultDisk {
        std::fs::create_dir_all(directory.join("fuse")).expect("a directory");
        let file = File::create(directory.join("backing")).expect("a file");
        file.set_len(size_bytes).expect("its size");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/faultdisk.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args([directory.join("fuse"), directory.join("backing"), directory.join("record")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut disk = FaultDisk { child, commands, answers, directory: directory.to_owned() };
        assert_eq!(disk.answer(), "ready");
        disk
    }

    /// The file for a loop device.
    pub fn image(&self) -> PathBuf {
        self.directory.join("fuse/disk.img")
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the disk answers");
        line.trim().to_owned()
    }

    /// One command of `faultdisk.py`; its answer.
    pub fn command(&mut self, text: &str) -> String {
        writeln!(self.commands.as_mut().expect("it runs"), "{text}").expect("the disk listens");
        self.answer()
    }

    /// Writes, flushes and failures so far.
    pub fn counts(&mut self) -> [u64; 3] {
        let answer = self.command("count");
        let numbers: Vec<u64> = answer.split(' ').map(|word| word.parse().expect("a number")).collect();
        numbers.try_into().expect("three numbers")
    }

    /// Everything it was told so far.
    pub fn record(&self) -> Vec<Record> {
        let mut file = BufReader::new(File::open(self.directory.join("record")).expect("the record"));
        let (mut header, mut all) = ([0; 24], Vec::new());
        // A record that is being written ends the list.
        while file.read_exact(&mut header).is_ok() {
            let number =
                |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("8 bytes"));
            let length = u32::from_le_bytes(header[4..8].try_into().expect("4 bytes")) as usize;
            let mut data = vec![0; length];
            if file.read_exact(&mut data).is_err() {
                break;
            }
            let (write, covered) = match header[0] {
                1 => (Some((number(8), data)), 0),
                _ => (None, number(8) as usize),
            };
            all.push(Record { write, covered, at_ns: number(16) });
        }
        all
    }
}

impl Drop for FaultDisk {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

/// The disk's contents along its record, and what a power cut leaves of them.
pub struct PowerCut<'a> {
    record: &'a [Record],
    /// What is surely there at `at`: all that a flush covered.
    durable: Vec<u8>,
    /// Records that came in so far, and those of them that are in `durable`.
    at: usize,
    covered: usize,
}

impl<'a> PowerCut<'a> {
    /// Begins with a disk of zeros.
    pub fn new(record: &'a [Record], size_bytes: u64) -> PowerCut<'a> {
        PowerCut { record, durable: vec![0; size_bytes as usize], at: 0, covered: 0 }
    }

    /// Writes to `path` what is left when the power goes before record `at` comes in (ascending over calls):
    /// everything flushed, and of each later write all, nothing, or some sectors. The later writes that were lost.
    pub fn image(&mut self, at: usize, random: &mut Random, path: &Path) -> usize {
        assert!(self.at <= at, "moments come in order");
        for flush in self.record[self.at..at].iter().filter(|record| record.write.is_none()) {
            for (position, data) in self.record[self.covered..flush.covered].iter().flat_map(|r| &r.write) {
                self.durable[*position as usize..][..data.len()].copy_from_slice(data);
            }
            self.covered = self.covered.max(flush.covered);
        }
        self.at = at;
        let file = File::create(path).expect("an image");
        file.set_len(self.durable.len() as u64).expect("its size");
        for (number, part) in self.durable.chunks(HOLE).enumerate() {
            if part.iter().any(|byte| *byte != 0) {
                file.write_all_at(part, (number * HOLE) as u64).expect("written");
            }
        }
        // Some cuts lose nearly everything that is not flushed, some nearly nothing.
        let kept_of_8 = random.below(9);
        let mut lost = 0;
        for (position, data) in self.record[self.covered..at].iter().flat_map(|record| &record.write) {
            let whole = random.below(8) < kept_of_8;
            let torn = random.one_in(4);
            lost += usize::from(!whole || torn);
            for (number, sector) in data.chunks(SECTOR).enumerate() {
                let kept = if torn { random.one_in(2) } else { whole };
                if kept {
                    file.write_all_at(sector, position + (number * SECTOR) as u64).expect("written");
                }
            }
        }
        lost
    }
}
