//! The simulated disk's state: what a running process sees, what is on the platter, and what lies between them.
//!
//! Owner: one simulation. What it models, after ext4 on a disk with a volatile cache, and a little worse:
//!
//! - A write is *issued*, later *completes*, and is on the platter when a flush that was issued after its completion
//!   completes. Until then a power loss keeps any of its 512-byte sectors, each on its own, in any order.
//! - Lengths (`truncate`, `fallocate`, a write behind the end) are metadata of the file: flushed with it, else a prefix
//!   of their changes survives, whatever became of the data.
//! - Names (create, link, rename, unlink, mkdir) go into a journal; syncing a directory makes those that touch it
//!   durable, with all they build on. Else a power loss keeps a prefix of the journal (ext4), or any part of it that is
//!   consistent in itself (what POSIX allows), as the seed says.
//! - A flush that fails has lost nothing, or has thrown the dice for each sector it should have kept; a later one then
//!   says OK and covers nothing of it. This process may still see what was lost; the next one sees what the device has
//!   (there is no page cache under direct I/O).
//!
//! Invariants: every choice comes from the seed; a clone is independent and cheap (pages are shared).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::random::Random;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes that reach the platter whole or not at all.
pub const SECTOR: u64 = 512;

type Page = [u8; PAGE as usize];

/// A file's bytes: pages that were ever written, and a length.
#[derive(Clone, Default)]
pub struct Content {
    pages: BTreeMap<u64, Rc<Page>>,
    /// Length in bytes.
    pub size: u64,
}

impl Content {
    fn put(&mut self, at: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let position = at + done as u64;
            let inside = (position % PAGE) as usize;
            let size = (PAGE as usize - inside).min(data.len() - done);
            let page = self.pages.entry(position / PAGE).or_insert_with(|| Rc::new([0; PAGE as usize]));
            Rc::make_mut(page)[inside..inside + size].copy_from_slice(&data[done..done + size]);
            done += size;
        }
    }

    /// Bytes `[at, at + size)`, fewer at the end of the file.
    pub fn bytes(&self, at: u64, size: usize) -> Vec<u8> {
        let end = (at + size as u64).min(self.size);
        let mut out = vec![0; end.saturating_sub(at) as usize];
        let mut done = 0;
        while done < out.len() {
            let position = at + done as u64;
            let inside = (position % PAGE) as usize;
            let size = (PAGE as usize - inside).min(out.len() - done);
            if let Some(page) = self.pages.get(&(position / PAGE)) {
                out[done..done + size].copy_from_slice(&page[inside..inside + size]);
            }
            done += size;
        }
        out
    }

    fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.pages.retain(|page, _| page * PAGE < size);
            if let Some(last) = self.pages.get_mut(&(size / PAGE)) {
                Rc::make_mut(last)[(size % PAGE) as usize..].fill(0);
            }
        }
        self.size = size;
    }

    /// Where the last page that was ever written ends.
    pub fn data_end(&self) -> u64 {
        self.pages.last_key_value().map_or(0, |(page, _)| ((page + 1) * PAGE).min(self.size))
    }
}

#[derive(Clone)]
enum Change {
    Write { at: u64, data: Rc<[u8]> },
    Size(u64),
}

#[derive(Clone)]
struct Pending {
    id: u64,
    change: Change,
    done: bool,
}

/// A file without its names.
#[derive(Clone, Default)]
pub struct Inode {
    /// What a reader sees.
    pub live: Content,
    kept: Content,
    /// Not flushed, in order of completion.
    pending: Vec<Pending>,
    /// A flush has failed and lost something: the next process sees what was kept.
    reverts: bool,
    /// When it was last changed, milliseconds since 1970.
    pub modified_ms: i64,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file, by its number.
    File(u64),
    /// A directory.
    Directory,
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Clone, Debug)]
enum Entry {
    Add(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Entry {
    fn paths(&self) -> Vec<&Path> {
        match self {
            Entry::Add(path, _) | Entry::Remove(path) => vec![path],
            Entry::Rename(from, to) => vec![from, to],
        }
    }

    fn touches(&self, directory: &Path) -> bool {
        self.paths().iter().any(|path| path.parent() == Some(directory))
    }

    /// Whether this one can only be there if `earlier` is: they share a name, or one is inside the other.
    fn builds_on(&self, earlier: &Entry) -> bool {
        self.paths().iter().any(|mine| {
            earlier.paths().iter().any(|theirs| mine.starts_with(theirs) || theirs.starts_with(mine))
        })
    }
}

/// How a simulated life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies: what completed is there, and is still not flushed.
    Process,
    /// The power fails.
    Power,
}

/// The whole disk.
#[derive(Clone)]
pub struct World {
    inodes: BTreeMap<u64, Inode>,
    live: Names,
    kept: Names,
    journal: Vec<Entry>,
    next_id: u64,
    /// The journal keeps its order over a power loss, as ext4's does.
    pub ordered_journal: bool,
}

fn add(names: &mut Names, entry: &Entry) {
    let has_parent =
        |names: &Names, path: &Path| path.parent().is_none_or(|up| names.get(up) == Some(&Node::Directory));
    match entry {
        Entry::Add(path, node) => {
            if has_parent(names, path) {
                names.insert(path.clone(), *node);
            }
        }
        Entry::Rename(from, to) => {
            if !has_parent(names, to) || !names.contains_key(from) {
                return;
            }
            let moved: Vec<_> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
            for path in moved {
                let Some(node) = names.remove(&path) else { continue };
                let rest = path.strip_prefix(from).expect("a prefix");
                // Joining an empty path would add a slash.
                let path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                names.insert(path, node);
            }
        }
        Entry::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
    }
}

impl World {
    /// An empty disk whose root directory is `/`.
    pub fn new(ordered_journal: bool) -> World {
        let root: Names = [(PathBuf::from("/"), Node::Directory)].into();
        World {
            inodes: BTreeMap::new(),
            live: root.clone(),
            kept: root,
            journal: Vec::new(),
            next_id: 1,
            ordered_journal,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// What a name stands for now.
    pub fn node(&self, path: &Path) -> Option<Node> {
        self.live.get(path).copied()
    }

    /// The names in a directory, sorted.
    pub fn list(&self, directory: &Path) -> Vec<PathBuf> {
        self.live.keys().filter(|path| path.parent() == Some(directory)).cloned().collect()
    }

    /// The file of a number.
    pub fn inode(&self, file: u64) -> &Inode {
        self.inodes.get(&file).expect("open files have an inode")
    }

    fn inode_mut(&mut self, file: u64) -> &mut Inode {
        self.inodes.get_mut(&file).expect("open files have an inode")
    }

    fn enter(&mut self, entry: Entry) {
        add(&mut self.live, &entry);
        self.journal.push(entry);
    }

    /// Makes a file.
    pub fn create(&mut self, path: &Path) -> u64 {
        let file = self.id();
        self.inodes.insert(file, Inode::default());
        self.enter(Entry::Add(path.to_owned(), Node::File(file)));
        file
    }

    /// Gives a file another name.
    pub fn link(&mut self, file: u64, path: &Path) {
        self.enter(Entry::Add(path.to_owned(), Node::File(file)));
    }

    /// Makes a directory.
    pub fn make_directory(&mut self, path: &Path) {
        self.enter(Entry::Add(path.to_owned(), Node::Directory));
    }

    /// Renames a file or directory that is there.
    pub fn rename(&mut self, from: &Path, to: &Path) {
        self.enter(Entry::Rename(from.to_owned(), to.to_owned()));
    }

    /// Removes a name, and all below it.
    pub fn remove(&mut self, path: &Path) {
        self.enter(Entry::Remove(path.to_owned()));
    }

    /// Makes the names in a directory durable, with all that they build on.
    pub fn sync_directory(&mut self, directory: &Path) {
        let mut keep: Vec<bool> = self.journal.iter().map(|entry| entry.touches(directory)).collect();
        for at in (0..self.journal.len()).rev() {
            let needed = self.ordered_journal && keep[at + 1..].contains(&true)
                || (at + 1..self.journal.len())
                    .any(|later| keep[later] && self.journal[later].builds_on(&self.journal[at]));
            keep[at] |= needed;
        }
        let mut left = Vec::new();
        for (entry, keep) in std::mem::take(&mut self.journal).into_iter().zip(keep) {
            if keep { add(&mut self.kept, &entry) } else { left.push(entry) }
        }
        self.journal = left;
    }

    /// Issues a write; gives its number.
    pub fn begin_write(&mut self, file: u64, at: u64, data: Rc<[u8]>) -> u64 {
        let id = self.id();
        self.inode_mut(file).pending.push(Pending { id, change: Change::Write { at, data }, done: false });
        id
    }

    /// Completes a write: readers see it, and the next flush covers it.
    pub fn finish_write(&mut self, file: u64, id: u64, now_ms: i64) {
        let inode = self.inode_mut(file);
        let at = inode.pending.iter().position(|pending| pending.id == id).expect("a write in flight");
        let mut pending = inode.pending.remove(at);
        pending.done = true;
        apply(&mut inode.live, &pending.change);
        inode.modified_ms = now_ms;
        inode.pending.push(pending);
    }

    /// A write that failed: any of its sectors may have been written.
    pub fn fail_write(&mut self, file: u64, id: u64, random: &mut Random) {
        let inode = self.inode_mut(file);
        let at = inode.pending.iter().position(|pending| pending.id == id).expect("a write in flight");
        let pending = inode.pending.remove(at);
        let mut torn = inode.live.clone();
        tear(&mut torn, &pending.change, random, 50);
        // (What of it was written is as volatile as any other write.)
        if let Change::Write { at, data } = pending.change {
            let data: Rc<[u8]> = torn.bytes(at, data.len()).into();
            inode.live = torn;
            inode.pending.push(Pending { id, change: Change::Write { at, data }, done: true });
        }
    }

    /// Changes a file's length.
    pub fn set_size(&mut self, file: u64, size: u64, now_ms: i64) {
        let id = self.id();
        let inode = self.inode_mut(file);
        inode.live.set_size(size);
        inode.modified_ms = now_ms;
        inode.pending.push(Pending { id, change: Change::Size(size), done: true });
    }

    /// What a flush that is issued now covers.
    pub fn begin_flush(&self, file: u64) -> Vec<u64> {
        self.inode(file).pending.iter().filter(|pending| pending.done).map(|pending| pending.id).collect()
    }

    /// A flush has completed.
    pub fn finish_flush(&mut self, file: u64, covered: &[u64]) {
        let Some(inode) = self.inodes.get_mut(&file) else { return };
        for pending in inode.pending.extract_if(.., |pending| covered.contains(&pending.id)) {
            apply(&mut inode.kept, &pending.change);
        }
    }

    /// A durable write (`O_DSYNC`) has completed: its bytes are kept, and the file's length, without which they could
    /// not be read. What is pending elsewhere in the file stays so, and what was written here before is gone.
    pub fn keep_write(&mut self, file: u64, id: u64) {
        let Some(inode) = self.inodes.get_mut(&file) else { return };
        let Some(at) = inode.pending.iter().position(|one| one.id == id) else { return };
        let kept = inode.pending.remove(at);
        let Change::Write { at: from, data } = &kept.change else { return };
        let to = from + data.len() as u64;
        let mut left = Vec::with_capacity(inode.pending.len());
        for pending in std::mem::take(&mut inode.pending) {
            match &pending.change {
                Change::Size(_) => apply(&mut inode.kept, &pending.change),
                Change::Write { at, data } if pending.done => {
                    let (at, end) = (*at, *at + data.len() as u64);
                    for (start, stop) in [(at, end.min(*from)), (at.max(to), end)] {
                        if start < stop {
                            let data = data[(start - at) as usize..(stop - at) as usize].into();
                            let change = Change::Write { at: start, data };
                            left.push(Pending { id: pending.id, change, done: true });
                        }
                    }
                }
                Change::Write { .. } => left.push(pending),
            }
        }
        inode.pending = left;
        apply(&mut inode.kept, &kept.change);
    }

    /// A flush has failed. Either nothing is lost yet, or what it covered is decided now, and no later flush has
    /// anything to do with it.
    pub fn fail_flush(&mut self, file: u64, covered: &[u64], random: &mut Random) {
        let Some(inode) = self.inodes.get_mut(&file) else { return };
        if random.percent(30) {
            return;
        }
        inode.reverts = true;
        for pending in inode.pending.extract_if(.., |pending| covered.contains(&pending.id)) {
            tear(&mut inode.kept, &pending.change, random, 30);
        }
    }

    /// The disk as the next life finds it.
    pub fn after(&self, crash: Crash, random: &mut Random) -> World {
        let mut next = self.clone();
        match crash {
            Crash::Process => {
                for inode in next.inodes.values_mut() {
                    inode.settle_in_flight(random);
                }
            }
            Crash::Power => {
                let order: Vec<Entry> = std::mem::take(&mut next.journal);
                for entry in surviving(&order, self.ordered_journal, random) {
                    add(&mut next.kept, &entry);
                }
                next.live = next.kept.clone();
                for inode in next.inodes.values_mut() {
                    inode.lose_power(random);
                }
            }
        }
        let named: std::collections::BTreeSet<u64> = (next.live.values().chain(next.kept.values()))
            .chain(next.journal.iter().filter_map(|entry| match entry {
                Entry::Add(_, node) => Some(node),
                _ => None,
            }))
            .filter_map(|node| match node {
                Node::File(file) => Some(*file),
                Node::Directory => None,
            })
            .collect();
        next.inodes.retain(|file, _| named.contains(file));
        next
    }

    /// Bytes of all files that have a name, in whole pages.
    pub fn used_bytes(&self) -> u64 {
        let files: std::collections::BTreeSet<u64> = self.files().into_iter().map(|(_, file)| file).collect();
        files.iter().map(|file| self.inode(*file).live.size.next_multiple_of(PAGE)).sum()
    }

    /// Changes a file's bytes behind everybody's back: what rot, a misdirected write or a stale block leaves.
    pub fn damage(&mut self, file: u64, at: u64, data: &[u8]) {
        let inode = self.inode_mut(file);
        assert!(at + data.len() as u64 <= inode.live.size);
        inode.live.put(at, data);
        inode.kept.put(at, data);
    }

    /// All files with their names, sorted.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let file = |node: &Node| match node {
            Node::File(file) => Some(*file),
            Node::Directory => None,
        };
        self.live.iter().filter_map(|(path, node)| Some((path.clone(), file(node)?))).collect()
    }
}

impl Inode {
    /// What was in flight when the process died: the kernel finishes it, or it was not submitted yet.
    fn settle_in_flight(&mut self, random: &mut Random) {
        if std::mem::take(&mut self.reverts) {
            self.live = self.kept.clone();
            self.pending
                .iter()
                .filter(|pending| pending.done)
                .for_each(|pending| apply(&mut self.live, &pending.change));
        }
        let chance = [100, 0, 50][random.below(3) as usize];
        for mut pending in self.pending.extract_if(.., |pending| !pending.done).collect::<Vec<_>>() {
            tear(&mut self.live, &pending.change, random, chance);
            if let Change::Write { at, data } = &mut pending.change {
                *data = self.live.bytes(*at, data.len()).into();
            }
            pending.done = true;
            self.pending.push(pending);
        }
    }

    fn lose_power(&mut self, random: &mut Random) {
        let sizes = self.pending.iter().filter(|pending| matches!(pending.change, Change::Size(_))).count();
        let mut sizes_kept = random.below(sizes as u64 + 1);
        // Nothing, everything, or each sector on its own, mostly there or mostly not.
        let chance = [0, 100, 10, 50, 90][random.below(5) as usize];
        for pending in std::mem::take(&mut self.pending) {
            match &pending.change {
                Change::Size(_) if sizes_kept > 0 => {
                    sizes_kept -= 1;
                    apply(&mut self.kept, &pending.change);
                }
                Change::Size(_) => {}
                write => tear(&mut self.kept, write, random, chance),
            }
        }
        self.live = self.kept.clone();
        self.reverts = false;
    }
}

fn apply(content: &mut Content, change: &Change) {
    match change {
        Change::Write { at, data } => {
            content.put(*at, data);
            content.size = content.size.max(at + data.len() as u64);
        }
        Change::Size(size) => content.set_size(*size),
    }
}

/// Applies each sector of a write with a chance of so many in a hundred. Behind the end of the file nothing arrives
/// unless the new length did.
fn tear(content: &mut Content, change: &Change, random: &mut Random, chance: u64) {
    let Change::Write { at, data } = change else { return apply(content, change) };
    let end = at + data.len() as u64;
    if end > content.size && random.percent(chance) {
        content.size = end;
    }
    let mut position = *at;
    while position < end {
        let next = ((position / SECTOR + 1) * SECTOR).min(end);
        if random.percent(chance) && position < content.size {
            let upto = next.min(content.size);
            content.put(position, &data[(position - at) as usize..(upto - at) as usize]);
        }
        position = next;
    }
}

/// The journal entries that survive a power loss.
fn surviving(journal: &[Entry], ordered: bool, random: &mut Random) -> Vec<Entry> {
    if ordered || random.percent(30) {
        let count = random.below(journal.len() as u64 + 1) as usize;
        return journal[..count].to_vec();
    }
    let chance = [20, 50, 80][random.below(3) as usize];
    let mut lost: Vec<&Entry> = Vec::new();
    let mut kept = Vec::new();
    for entry in journal {
        if random.percent(chance) && !lost.iter().any(|earlier| entry.builds_on(earlier)) {
            kept.push(entry.clone());
        } else {
            lost.push(entry);
        }
    }
    kept
}
