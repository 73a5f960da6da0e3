//! What `crate::fs` is in test builds: `std::fs`, and inside a simulation the simulated disk under the same names.
//!
//! Owner: the caller. Invariants: outside a simulation every call goes straight to `std::fs`; inside one, each system
//! call is one step of the simulation, which may fail or end there. Only what the broker uses is here.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::world::{Node, PAGE};
use super::{Op, Sim, current};

/// An open file or directory.
#[derive(Debug)]
pub enum File {
    /// A real one.
    Real(std::fs::File),
    /// A simulated one.
    Sim(SimFile),
}

/// An open file or directory of the simulated disk.
pub struct SimFile {
    sim: Rc<Sim>,
    path: PathBuf,
    node: Node,
    cursor: u64,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// What is known of a name.
pub struct Metadata {
    size: u64,
    modified: io::Result<SystemTime>,
    directory: bool,
}

impl Metadata {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// When it was last changed.
    pub fn modified(&self) -> io::Result<SystemTime> {
        self.modified.as_ref().copied().map_err(|error| error.kind().into())
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.directory
    }

    fn real(metadata: std::fs::Metadata) -> Metadata {
        Metadata { size: metadata.len(), modified: metadata.modified(), directory: metadata.is_dir() }
    }

    fn of(sim: &Sim, node: Node) -> Metadata {
        match node {
            Node::Directory => Metadata { size: 0, modified: Ok(UNIX_EPOCH), directory: true },
            Node::File(file) => {
                let world = sim.world.borrow();
                let inode = world.inode(file);
                let modified = UNIX_EPOCH + Duration::from_millis(inode.modified_ms.max(0) as u64);
                Metadata { size: inode.live.size, modified: Ok(modified), directory: false }
            }
        }
    }
}

/// How a file is opened.
#[derive(Default)]
pub struct Options {
    read: bool,
    write: bool,
    create: bool,
}

impl Options {
    /// See `std::fs::OpenOptions`.
    pub fn read(mut self, read: bool) -> Options {
        self.read = read;
        self
    }

    /// See `std::fs::OpenOptions`.
    pub fn write(mut self, write: bool) -> Options {
        self.write = write;
        self
    }

    /// See `std::fs::OpenOptions`.
    pub fn create(mut self, create: bool) -> Options {
        self.create = create;
        self
    }

    /// Opens the file.
    pub fn open(self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let Some(sim) = current() else {
            let Options { read, write, create } = self;
            return std::fs::File::options()
                .read(read)
                .write(write)
                .create(create)
                .open(path)
                .map(File::Real);
        };
        open_sim(sim, path, self.create).map(File::Sim)
    }
}

/// Opens, or makes, a file of the simulated disk.
pub fn open_sim(sim: Rc<Sim>, path: &Path, create: bool) -> io::Result<SimFile> {
    sim.step(Op::Meta, path, 0)?;
    let known = sim.world.borrow().node(path);
    let node = match known {
        Some(node) => node,
        None if create => {
            sim.room_for_name(sim.names_refused.get().0)?;
            Node::File(sim.make_file(path)?)
        }
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    Ok(SimFile { sim, path: path.to_owned(), node, cursor: 0 })
}

impl SimFile {
    /// The file's number.
    pub fn number(&self) -> io::Result<u64> {
        match self.node {
            Node::File(file) => Ok(file),
            Node::Directory => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Where its written bytes end.
    pub fn data_end(&self) -> io::Result<u64> {
        Ok(self.sim.world.borrow().inode(self.number()?).live.data_end())
    }

    /// Reads, fewer bytes at the end of the file.
    pub fn read_at(&self, at: u64, size: usize) -> io::Result<Vec<u8>> {
        self.sim.step(Op::Read, &self.path, at)?;
        Ok(self.sim.world.borrow().inode(self.number()?).live.bytes(at, size))
    }

    /// Whether there is room for the file to be so long.
    fn may_grow(&self, end: u64) -> io::Result<()> {
        let size = self.sim.world.borrow().inode(self.number()?).live.size;
        let grown = end.next_multiple_of(PAGE).saturating_sub(size.next_multiple_of(PAGE));
        if grown > 0 { self.sim.room_for(grown) } else { Ok(()) }
    }

    fn write_now(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.number()?;
        let outcome = self.sim.step(Op::Write, &self.path, at);
        if outcome.is_ok() {
            // (What does not fit is not written at all: a file system may write a part of it, but these are files
            // that mean nothing until all of them is there.)
            self.may_grow(at + bytes.len() as u64)?;
        }
        let now_ms = self.sim.wall_ms();
        let mut world = self.sim.world.borrow_mut();
        let id = world.begin_write(file, at, bytes.into());
        match outcome {
            Ok(()) => world.finish_write(file, id, now_ms),
            Err(_) => world.fail_write(file, id, &mut self.sim.random.borrow_mut()),
        }
        outcome
    }

    /// `ftruncate`.
    pub fn set_size(&self, size: u64) -> io::Result<()> {
        self.sim.step(Op::Meta, &self.path, size)?;
        let now_ms = self.sim.wall_ms();
        self.sim.world.borrow_mut().set_size(self.number()?, size, now_ms);
        Ok(())
    }

    /// `fallocate`.
    pub fn reserve(&self, end: u64) -> io::Result<()> {
        self.sim.step(Op::Meta, &self.path, end)?;
        let file = self.number()?;
        let size = self.sim.world.borrow().inode(file).live.size;
        if end > size {
            self.may_grow(end)?;
            let now_ms = self.sim.wall_ms();
            self.sim.world.borrow_mut().set_size(file, end, now_ms);
        }
        Ok(())
    }

    /// `fsync`.
    pub fn sync(&self) -> io::Result<()> {
        let outcome = self.sim.step(Op::Flush, &self.path, 0);
        let mut world = self.sim.world.borrow_mut();
        match self.node {
            Node::Directory => {
                outcome?;
                if !self.sim.skips_directory_sync() {
                    world.sync_directory(&self.path);
                }
                Ok(())
            }
            Node::File(file) => {
                let covered = world.begin_flush(file);
                match outcome {
                    Ok(()) => world.finish_flush(file, &covered),
                    Err(_) => world.fail_flush(file, &covered, &mut self.sim.random.borrow_mut()),
                }
                outcome
            }
        }
    }
}

impl File {
    /// See `std::fs::File`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        Options::default().read(true).open(path)
    }

    /// See `std::fs::File`.
    pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
        let Some(sim) = current() else { return std::fs::File::create(path).map(File::Real) };
        let file = open_sim(sim, path.as_ref(), true)?;
        let size = file.sim.world.borrow().inode(file.number()?).live.size;
        if size > 0 {
            file.set_size(0)?;
        }
        Ok(File::Sim(file))
    }

    /// See `std::fs::File`.
    pub fn options() -> Options {
        Options::default()
    }

    /// See `std::fs::File`.
    pub fn metadata(&self) -> io::Result<Metadata> {
        match self {
            File::Real(file) => file.metadata().map(Metadata::real),
            File::Sim(file) => Ok(Metadata::of(&file.sim, file.node)),
        }
    }

    /// See `std::fs::File`.
    pub fn set_len(&self, size: u64) -> io::Result<()> {
        match self {
            File::Real(file) => file.set_len(size),
            File::Sim(file) => file.set_size(size),
        }
    }

    /// See `std::fs::File`.
    pub fn sync_all(&self) -> io::Result<()> {
        match self {
            File::Real(file) => file.sync_all(),
            File::Sim(file) => file.sync(),
        }
    }

    /// See `std::fs::File`.
    pub fn sync_data(&self) -> io::Result<()> {
        match self {
            File::Real(file) => file.sync_data(),
            File::Sim(file) => file.sync(),
        }
    }
}

/// The part of `std::os::unix::fs::FileExt` that the broker uses.
pub trait FileExt {
    /// See `std::os::unix::fs::FileExt`.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// See `std::os::unix::fs::FileExt`.
    #[allow(dead_code, reason = "a lookalike")]
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
}

impl FileExt for File {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            File::Real(file) => std::os::unix::fs::FileExt::read_exact_at(file, buffer, at),
            File::Sim(file) => {
                let bytes = file.read_at(at, buffer.len())?;
                if bytes.len() < buffer.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buffer.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self {
            File::Real(file) => std::os::unix::fs::FileExt::write_all_at(file, bytes, at),
            File::Sim(file) => file.write_now(at, bytes),
        }
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            File::Real(file) => file.read(buffer),
            File::Sim(file) => {
                let bytes = file.read_at(file.cursor, buffer.len())?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                file.cursor += bytes.len() as u64;
                Ok(bytes.len())
            }
        }
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            File::Real(file) => file.write(bytes),
            File::Sim(file) => {
                file.write_now(file.cursor, bytes)?;
                file.cursor += bytes.len() as u64;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One name in a directory.
pub struct DirEntry(PathBuf);

impl DirEntry {
    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }

    /// Its name.
    pub fn file_name(&self) -> OsString {
        self.0.file_name().unwrap_or_default().to_owned()
    }

    /// What is known of it.
    pub fn metadata(&self) -> io::Result<Metadata> {
        metadata(&self.0)
    }
}

/// See `std::fs`.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    let path = path.as_ref();
    let entries: Vec<_> = match current() {
        None => std::fs::read_dir(path)?.map(|entry| entry.map(|entry| DirEntry(entry.path()))).collect(),
        Some(sim) => {
            sim.step(Op::Meta, path, 0)?;
            if sim.world.borrow().node(path).is_none() {
                return Err(io::ErrorKind::NotFound.into());
            }
            sim.world.borrow().list(path).into_iter().map(|path| Ok(DirEntry(path))).collect()
        }
    };
    Ok(entries.into_iter())
}

/// See `std::fs`.
pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let Some(sim) = current() else { return std::fs::metadata(path).map(Metadata::real) };
    sim.step(Op::Meta, path.as_ref(), 0)?;
    let node = sim.world.borrow().node(path.as_ref());
    node.map(|node| Metadata::of(&sim, node)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Whether the name is there.
pub fn exists(path: impl AsRef<Path>) -> bool {
    metadata(path).is_ok()
}

/// See `std::fs`.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let Some(sim) = current() else { return std::fs::read(path) };
    let file = open_sim(sim, path.as_ref(), false)?;
    file.read_at(0, usize::MAX >> 1)
}

/// See `std::fs`.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// See `std::fs`.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes.as_ref())
}

fn there(sim: &Sim, path: &Path) -> io::Result<Node> {
    sim.world.borrow().node(path).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// See `std::fs`.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let Some(sim) = current() else { return std::fs::rename(from, to) };
    sim.step(Op::Meta, to, 0)?;
    there(&sim, from)?;
    there(&sim, to.parent().unwrap_or(to))?;
    if sim.world.borrow().node(to).is_none() {
        sim.room_for_name(sim.names_refused.get().1)?;
    }
    sim.world.borrow_mut().rename(from, to);
    Ok(())
}

/// See `std::fs`.
pub fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let Some(sim) = current() else { return std::fs::hard_link(from, to) };
    sim.step(Op::Meta, to, 0)?;
    let Node::File(file) = there(&sim, from)? else { return Err(io::ErrorKind::IsADirectory.into()) };
    if sim.world.borrow().node(to).is_some() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    sim.room_for_name(sim.names_refused.get().0)?;
    sim.world.borrow_mut().link(file, to);
    Ok(())
}

/// See `std::fs`.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let Some(sim) = current() else { return std::fs::remove_file(path) };
    sim.step(Op::Meta, path, 0)?;
    match there(&sim, path)? {
        Node::File(_) => sim.world.borrow_mut().remove(path),
        Node::Directory => return Err(io::ErrorKind::IsADirectory.into()),
    }
    Ok(())
}

/// See `std::fs`.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let Some(sim) = current() else { return std::fs::remove_dir_all(path) };
    there(&sim, path)?;
    let children = sim.world.borrow().list(path);
    for child in children {
        match there(&sim, &child)? {
            Node::Directory => remove_dir_all(&child)?,
            Node::File(_) => remove_file(&child)?,
        }
    }
    sim.step(Op::Meta, path, 0)?;
    sim.world.borrow_mut().remove(path);
    Ok(())
}

/// See `std::fs`.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let Some(sim) = current() else { return std::fs::create_dir_all(path) };
    let missing: Vec<&Path> =
        path.ancestors().take_while(|up| sim.world.borrow().node(up).is_none()).collect();
    for directory in missing.into_iter().rev() {
        sim.step(Op::Meta, directory, 0)?;
        sim.room_for_name(sim.names_refused.get().0)?;
        sim.world.borrow_mut().make_directory(directory);
    }
    Ok(())
}
