//! The catalog's file: `<data-dir>/meta/catalog`, its predecessor `catalog.prev`, and the commit between them.
//!
//! Owner: the catalog's one writer, on a thread that may block. Invariants: at every moment of a commit either
//! the old or the new catalog is under the name `catalog`; a damaged file is never written over the intact
//! predecessor and never deleted. Must not: be used by two processes (the lock of the data directory sees to it).

use super::codec::{self, DecodeError};
use super::snapshot::{Catalog, PRODUCER_ID_BLOCK_SIZE, new_cluster_id};
use crate::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Upper bound of the catalog file, in bytes.
const CATALOG_FILE_BYTES_MAX: u64 = 1 << 30;
/// Producer ids that are skipped when the predecessor had to be used: the lost change may have reserved some.
const FALLBACK_PRODUCER_IDS: u64 = 1000 * PRODUCER_ID_BLOCK_SIZE;

const CURRENT: &str = "catalog";
const PREVIOUS: &str = "catalog.prev";
const PREVIOUS_NEW: &str = "catalog.prev.new";
const NEW: &str = "catalog.new";
const DAMAGED: &str = "catalog.damaged";
/// A file of no meaning, whose room a commit takes when the disk has none: a topic can be deleted on a full disk.
const RESERVE: &str = "reserve";
/// Bytes of the reserve beyond those of the catalog.
const RESERVE_BYTES: usize = 256 << 10;

/// Why the catalog cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Neither the file nor its predecessor is intact.
    #[error("the catalog {} is damaged ({current}) and its predecessor cannot stand in for it ({previous}); \
             restore the file from a backup: without it the topics in this data directory have no names", path.display())]
    Damaged {
        /// The catalog file.
        path: PathBuf,
        /// What is wrong with it.
        current: String,
        /// What is wrong with the predecessor.
        previous: String,
    },
    /// The file was written by a newer Ringlog.
    #[error("{} has format version {found}, this Ringlog reads up to {newest}; start the newer version", path.display())]
    NewerVersion {
        /// The catalog file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this code reads.
        newest: u32,
    },
    /// The data belongs to another node.
    #[error("{} belongs to node {found}, but node.id is {configured}; set node.id={found} or choose another data directory", path.display())]
    ForeignNode {
        /// The catalog file.
        path: PathBuf,
        /// The node in the file.
        found: i32,
        /// The node in the configuration.
        configured: i32,
    },
}

/// The open catalog file.
#[derive(Debug)]
pub struct CatalogStore {
    dir: PathBuf,
    committed_sequence: u64,
    current_damaged: bool,
    notice: Option<String>,
}

enum Loaded {
    Absent,
    Intact(Catalog),
    Damaged(String),
}

impl CatalogStore {
    /// Opens the catalog below `dir` (`<data-dir>/meta`, created if missing), or begins a new one.
    ///
    /// When the file is damaged or missing and its predecessor is intact, the predecessor is used, with a notice
    /// (see [`Self::notice`]), a new leader epoch and a gap in the producer ids, because the lost change is unknown.
    pub fn open(dir: &Path, node_id: i32) -> Result<(Self, Catalog), StoreError> {
        fs::create_dir_all(dir).map_err(|error| StoreError::Io { path: dir.to_owned(), error })?;
        let mut store =
            Self { dir: dir.to_owned(), committed_sequence: 0, current_damaged: false, notice: None };
        let catalog = match store.read(CURRENT)? {
            Loaded::Intact(catalog) => catalog,
            Loaded::Absent => match store.read(PREVIOUS)? {
                Loaded::Absent => {
                    let catalog = Catalog::new(&new_cluster_id(), node_id);
                    store.write(&catalog).map_err(|error| store.io(CURRENT, error))?;
                    catalog
                }
                previous => store.fall_back("it is missing".to_owned(), previous, node_id)?,
            },
            Loaded::Damaged(current) => {
                store.current_damaged = true;
                let previous = store.read(PREVIOUS)?;
                store.fall_back(current, previous, node_id)?
            }
        };
        store.check_node(&catalog, node_id)?;
        store.committed_sequence = catalog.sequence;
        store.keep_reserve();
        Ok((store, catalog))
    }

    /// What an operator must know about the opening: set when the predecessor had to be used.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Writes a snapshot so that it survives a power loss before this returns. After an error the caller must
    /// not use the snapshot; whether it is on disk is unknown until the next commit or start.
    pub fn commit(&mut self, catalog: &Catalog) -> io::Result<()> {
        assert!(catalog.sequence > self.committed_sequence, "snapshots are committed in order");
        match self.write(catalog) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!("no room for the catalog: using what was kept for that");
                remove_if_there(&self.dir.join(RESERVE))?;
                self.write(catalog)?;
            }
            outcome => outcome?,
        }
        self.committed_sequence = catalog.sequence;
        self.keep_reserve();
        Ok(())
    }

    /// Makes the reserve if it is not there or too small; without room for it there is none for now.
    fn keep_reserve(&self) {
        let path = self.dir.join(RESERVE);
        let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len() as usize);
        let wanted = size(&self.dir.join(CURRENT)) + RESERVE_BYTES / 2;
        if size(&path) >= wanted {
            return;
        }
        // Not zeros, which a file system may store as nothing. And twice as much at first: a start on a full disk lives
        // on what it has freed here, and must not take it away again.
        let made = fs::write(&path, vec![0xff; 2 * (wanted + RESERVE_BYTES / 2)]).and_then(|()| {
            let file = File::options().write(true).open(&path)?;
            file.sync_all()?;
            file.set_len((wanted + RESERVE_BYTES / 2) as u64)?;
            file.sync_all()
        });
        if made.is_err() {
            let _ = fs::remove_file(&path);
        }
    }

    fn write(&mut self, catalog: &Catalog) -> io::Result<()> {
        let path = |name: &str| self.dir.join(name);
        let mut file = File::create(path(NEW))?;
        file.write_all(&codec::encode(catalog))?;
        file.sync_all()?;
        if self.current_damaged {
            fs::rename(path(CURRENT), path(DAMAGED))?;
        } else if fs::exists(path(CURRENT)) {
            // A second link, so that the name `catalog` is never without a file.
            remove_if_there(&path(PREVIOUS_NEW))?;
            fs::hard_link(path(CURRENT), path(PREVIOUS_NEW))?;
            fs::rename(path(PREVIOUS_NEW), path(PREVIOUS))?;
        }
        fs::rename(path(NEW), path(CURRENT))?;
        File::open(&self.dir)?.sync_all()?;
        self.current_damaged = false;
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Loaded, StoreError> {
        let path = self.dir.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Absent),
            Err(error) => return Err(StoreError::Io { path, error }),
        };
        let mut bytes = Vec::new();
        file.take(CATALOG_FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.io(name, error))?;
        match codec::decode(&bytes) {
            Ok(catalog) => Ok(Loaded::Intact(catalog)),
            Err(DecodeError::Damaged(what)) => Ok(Loaded::Damaged(what)),
            Err(DecodeError::Newer(found)) => {
                Err(StoreError::NewerVersion { path, found, newest: codec::FORMAT_VERSION })
            }
        }
    }

    fn check_node(&self, catalog: &Catalog, configured: i32) -> Result<(), StoreError> {
        if catalog.node_id == configured {
            return Ok(());
        }
        Err(StoreError::ForeignNode { path: self.dir.join(CURRENT), found: catalog.node_id, configured })
    }

    fn fall_back(&mut self, current: String, previous: Loaded, node_id: i32) -> Result<Catalog, StoreError> {
        let path = self.dir.join(CURRENT);
        let previous = match previous {
            Loaded::Intact(catalog) => catalog,
            Loaded::Absent => {
                return Err(StoreError::Damaged { path, current, previous: "there is none".to_owned() });
            }
            Loaded::Damaged(previous) => return Err(StoreError::Damaged { path, current, previous }),
        };
        self.check_node(&previous, node_id)?;
        let notice = format!(
            "THE CATALOG {} CANNOT BE USED: {current}. Its predecessor {PREVIOUS} (change {}) is used instead: \
             the last change of topics or configurations before the stop is lost.",
            path.display(),
            previous.sequence
        );
        tracing::error!("{notice}");
        self.notice = Some(notice);
        use super::change::CatalogChange::{BumpLeaderEpoch, ReserveProducerIds};
        previous
            .apply(&[BumpLeaderEpoch, ReserveProducerIds(FALLBACK_PRODUCER_IDS)])
            .map_err(|error| StoreError::Damaged { path, current, previous: error.to_string() })
            .and_then(|catalog| {
                self.write(&catalog).map_err(|error| self.io(CURRENT, error))?;
                Ok(catalog)
            })
    }

    fn io(&self, name: &str, error: io::Error) -> StoreError {
        StoreError::Io { path: self.dir.join(name), error }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::CatalogChange;
    use super::*;
    use std::collections::BTreeMap;

    fn create(catalog: &Catalog, name: &str) -> Catalog {
        let change = CatalogChange::CreateTopic {
            name: name.to_owned(),
            id: super::super::new_topic_id(),
            partition_count: 2,
            configs: BTreeMap::new(),
            created_ms: 1,
        };
        catalog.apply(&[change]).expect("valid")
    }

    /// A store with two commits: `catalog` knows a and b, `catalog.prev` knows a.
    fn two_commits(dir: &Path) -> (Catalog, Catalog) {
        let (mut store, empty) = CatalogStore::open(dir, 1).expect("open");
        let one = create(&empty, "a");
        store.commit(&one).expect("commit");
        let two = create(&one, "b");
        store.commit(&two).expect("commit");
        (one, two)
    }

    #[test]
    fn a_new_store_keeps_its_cluster_id_and_its_commits() {
        let dir = tempfile::tempdir().expect("temp dir");
        let meta = dir.path().join("meta");
        let (_, first) = CatalogStore::open(&meta, 1).expect("open");
        assert_eq!(first.cluster_id.len(), 22);
        let (store, again) = CatalogStore::open(&meta, 1).expect("open again");
        assert_eq!((again, store.notice()), (first, None));
        let (_, two) = two_commits(&meta);
        let (store, read) = CatalogStore::open(&meta, 1).expect("open");
        assert_eq!((read, store.notice()), (two, None));
    }

    #[test]
    fn a_damaged_file_falls_back_to_its_predecessor() {
        let damages: [fn(&mut Vec<u8>); 3] = [|b| b.truncate(50), |b| b[40] ^= 1, |b| b.clear()];
        for damage in damages {
            let dir = tempfile::tempdir().expect("temp dir");
            let (one, _) = two_commits(dir.path());
            let mut bytes = fs::read(dir.path().join(CURRENT)).expect("read");
            damage(&mut bytes);
            fs::write(dir.path().join(CURRENT), &bytes).expect("write");
            let (store, read) = CatalogStore::open(dir.path(), 1).expect("falls back");
            assert!(store.notice().is_some_and(|notice| notice.contains("CANNOT BE USED")));
            assert!(read.topic("a").is_some() && read.topic("b").is_none());
            assert_eq!(read.leader_epoch, one.leader_epoch + 1);
            assert!(read.next_producer_id >= one.next_producer_id + FALLBACK_PRODUCER_IDS);
            assert_eq!(fs::read(dir.path().join(DAMAGED)).expect("kept"), bytes);
            let (store, again) = CatalogStore::open(dir.path(), 1).expect("open");
            assert_eq!((again, store.notice()), (read, None));
        }
    }

    #[test]
    fn a_missing_file_falls_back_and_two_damaged_ones_are_an_error() {
        let dir = tempfile::tempdir().expect("temp dir");
        two_commits(dir.path());
        fs::remove_file(dir.path().join(CURRENT)).expect("remove");
        let (store, read) = CatalogStore::open(dir.path(), 1).expect("falls back");
        assert!(store.notice().is_some() && read.topic("a").is_some());
        fs::write(dir.path().join(CURRENT), b"x").expect("write");
        fs::write(dir.path().join(PREVIOUS), b"y").expect("write");
        let error = CatalogStore::open(dir.path(), 1).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join(CURRENT)).expect("untouched"), b"x");
    }

    #[test]
    fn leftovers_of_an_interrupted_commit_do_no_harm() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (_, two) = two_commits(dir.path());
        fs::write(dir.path().join(NEW), b"half").expect("write");
        fs::write(dir.path().join(PREVIOUS_NEW), b"half").expect("write");
        let (mut store, read) = CatalogStore::open(dir.path(), 1).expect("open");
        assert_eq!(read, two);
        let three = create(&two, "c");
        store.commit(&three).expect("commit over the leftovers");
        assert_eq!(CatalogStore::open(dir.path(), 1).expect("open").1, three);
    }

    #[test]
    fn foreign_nodes_and_newer_versions_are_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        two_commits(dir.path());
        let error = CatalogStore::open(dir.path(), 2).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("node.id=1"), "{error}");
        let mut bytes = fs::read(dir.path().join(CURRENT)).expect("read");
        bytes[8] = 9;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..24]), &bytes[codec::HEADER_BYTES..]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        fs::write(dir.path().join(CURRENT), &bytes).expect("write");
        let error = CatalogStore::open(dir.path(), 1).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::NewerVersion { found: 9, newest: 2, .. }), "{error}");
    }
}
