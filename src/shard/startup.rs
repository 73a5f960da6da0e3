//! Opening a core's state from disk, and the mark that a clean stop leaves.
//!
//! Owner: the core (its partitions) and the main thread (the mark). Blocking reads happen only here,
//! before the core serves. Invariants: the mark is removed before anything is written, so that it can
//! only describe files as they are; a directory that the catalog does not know is reported, not removed.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::{CleanPartition, ConnectionCounts, Control, Mesh, PartitionKey, Sessions, Shard};
use crate::catalog::Catalog;
use crate::clock::{ExpiryClock, memory_of, remembered_ms};
use crate::config::BrokerConfig;
use crate::fs;
use crate::limits::{POOL_PREFILL_BYTES_MAX, READ_AHEAD_BYTES_MAX};
use crate::maps::HashMap;
use crate::net::{AnswerMemory, FramePool};
use crate::storage::{
    Cleaner, LogResources, ReadAhead, Recovered, SegmentPool, SegmentSummary, TailCache, recover, this_disk,
    write_small_blocking,
};
use crate::sync::Event;

const MARK_MAGIC: &[u8; 8] = b"RLCLEAN1";

/// Active segments as the last clean stop left them.
pub type CleanMark = HashMap<PartitionKey, (i64, SegmentSummary)>;

/// What a core needs to open.
pub struct ShardSetup {
    /// Index of the core.
    pub core: usize,
    /// Broker configuration.
    pub config: Arc<BrokerConfig>,
    /// Catalog at start.
    pub catalog: Arc<Catalog>,
    /// The mesh.
    pub mesh: Mesh,
    /// The control thread.
    pub control: Control,
    /// The clean-shutdown mark, empty after a crash.
    pub clean: Arc<CleanMark>,
    /// The cleaner threads, unless compaction is off.
    pub cleaner: Option<Cleaner>,
    /// Connections of the whole process.
    pub connections: Arc<ConnectionCounts>,
    /// Tail memory of this core, bytes.
    pub tail_bytes: usize,
    /// Frame memory of this core, bytes.
    pub frame_bytes: usize,
}

/// The clock that expiry goes by, as the last life left it; from the first start on, one core keeps it on disk.
fn open_clock(setup: &ShardSetup) -> Rc<ExpiryClock> {
    let meta = setup.config.data_dir.join("meta");
    let remembered_ms = remembered_ms(&meta);
    let clock = ExpiryClock::new(setup.config.clock_grace_ms, remembered_ms);
    if setup.core == 0 && remembered_ms.is_none() {
        let (path, bytes) = memory_of(&meta, clock.now_ms());
        if let Err(error) = write_small_blocking(&path, &bytes) {
            tracing::warn!("{}: cannot be written: {error}", path.display());
        }
    }
    Rc::new(clock)
}

/// Opens the state of one core; recovers its partitions.
pub fn open_shard(setup: ShardSetup) -> io::Result<Rc<Shard>> {
    let cores = setup.mesh.cores();
    // A killed process may have made directories whose names are not durable; from here on they are relied upon.
    fs::File::open(&setup.config.data_dir)?.sync_all()?;
    let disk = this_disk();
    let pool_directory = setup.config.data_dir.join("pool").join(format!("core-{}", setup.core));
    let pool =
        SegmentPool::open(disk.clone(), &pool_directory, setup.config.segment_pool_bytes / cores as u64)?;
    let resources = LogResources {
        disk,
        pool,
        cache: TailCache::new(setup.tail_bytes),
        rounds: Default::default(),
        ahead: ReadAhead::new(READ_AHEAD_BYTES_MAX.min(setup.tail_bytes / 8)),
        clock: open_clock(&setup),
        gate: Rc::default(),
    };
    let remembered = resources.clock.now_ms();
    let shard = Rc::new(Shard {
        core: setup.core,
        config_now: RefCell::new(setup.config.clone()),
        quotas: Default::default(),
        sessions: Sessions::new(setup.config.fetch_session_count_max.div_ceil(cores), setup.core, cores),
        config: setup.config,
        mesh: setup.mesh,
        control: setup.control,
        leases: Default::default(),
        frames: FramePool::new(setup.frame_bytes),
        answers: AnswerMemory::new(setup.frame_bytes / 2),
        bulk: Rc::default(),
        coordinators: Default::default(),
        stop: Event::default(),
        resources,
        cleaner: setup.cleaner,
        catalog: RefCell::new(setup.catalog.clone()),
        partitions: RefCell::default(),
        watches: RefCell::default(),
        stopping: Cell::new(false),
        drained_cores: Cell::new(0),
        connections: Cell::new(0),
        counts: setup.connections,
        complaints: Cell::new((0, 0)),
        clock_noted: Cell::new((crate::rt::steady_ms(), remembered)),
    });
    shard.apply_dynamic(&setup.catalog.dynamic);
    for topic in setup.catalog.topics() {
        let failure = RefCell::new(None);
        shard.apply_topic(topic, |index, reign| {
            let directory = shard.config.data_dir.join(format!("{}-{index}", topic.name));
            let clean = setup.clean.get(&(topic.id, index)).map(|(base, summary)| (*base, summary));
            recover(&directory, clean, reign).unwrap_or_else(|error| {
                *failure.borrow_mut() =
                    Some(format!("{}: cannot be recovered: {error}", directory.display()));
                Recovered { reign, ..Recovered::default() }
            })
        });
        if let Some(text) = failure.into_inner() {
            return Err(io::Error::other(text));
        }
    }
    Ok(shard)
}

impl Shard {
    /// Prepares segment files in the background.
    pub async fn fill_pool(self: Rc<Self>) {
        let target = self.config.segment_pool_bytes.min(POOL_PREFILL_BYTES_MAX) / self.mesh.cores() as u64;
        let filled = self.resources.pool.prefill(target);
        let stopped = async {
            self.stop.wait_until(|| self.is_stopping()).await;
            Ok(())
        };
        if let Err(error) = futures_lite::future::or(filled, stopped).await {
            tracing::warn!("segment files cannot be prepared: {error}");
        }
    }
}

/// Removes what deletions left, and moves partition directories that belong to no topic of the catalog
/// out of the way: their records must not turn up in a topic that has got the same name since.
pub fn set_strays_aside(data_dir: &Path, catalog: &Catalog) -> io::Result<()> {
    for entry in fs::read_dir(data_dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let metadata = path.join("partition.metadata");
        if name.ends_with("-stray") || !fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            continue;
        }
        if name.ends_with("-delete") {
            fs::remove_dir_all(&path)?;
            continue;
        }
        let Some((topic, index)) = name.rsplit_once('-') else { continue };
        if index.parse::<u32>().is_err() || !fs::exists(&metadata) && !has_segments(&path)? {
            continue;
        }
        let known = catalog.topic(topic).map(|topic| super::kafka_uuid(topic.id));
        let found = fs::read_to_string(&metadata).unwrap_or_default();
        let found = found.lines().find_map(|line| line.strip_prefix("topic_id: ")).map(str::trim);
        if known.is_some() && (found == known.as_deref() || found.is_none()) {
            continue;
        }
        let aside = path.with_file_name(format!("{name}.{}-stray", found.unwrap_or("unknown")));
        tracing::error!(
            "{}: belongs to no topic of the catalog; moved to {}",
            path.display(),
            aside.display()
        );
        fs::rename(&path, &aside)?;
    }
    Ok(())
}

fn has_segments(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if entry?.path().extension().is_some_and(|extension| extension == "log") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn mark_path(data_dir: &Path) -> PathBuf {
    data_dir.join("meta").join("clean-shutdown")
}

/// Writes the mark: everything below is flushed and described.
pub fn write_clean_mark(data_dir: &Path, partitions: &[CleanPartition]) -> io::Result<()> {
    let mut out = MARK_MAGIC.to_vec();
    out.extend_from_slice(&(partitions.len() as u64).to_le_bytes());
    for partition in partitions {
        let summary = partition.summary.encode();
        out.extend_from_slice(partition.key.0.as_bytes());
        out.extend_from_slice(&partition.key.1.to_le_bytes());
        out.extend_from_slice(&partition.base_offset.to_le_bytes());
        out.extend_from_slice(&(summary.len() as u64).to_le_bytes());
        out.extend_from_slice(&summary);
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    write_small_blocking(&mark_path(data_dir), &out)
}

/// Reads and removes the mark; `None` when the last stop was not clean.
pub fn read_clean_mark(data_dir: &Path) -> io::Result<Option<CleanMark>> {
    let path = mark_path(data_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    fs::remove_file(&path)?;
    fs::File::open(data_dir.join("meta"))?.sync_all()?;
    let mark = decode_mark(&bytes);
    if mark.is_none() {
        tracing::error!("{}: damaged; recovering as after a crash", path.display());
    }
    Ok(mark)
}

pub(crate) fn decode_mark(bytes: &[u8]) -> Option<CleanMark> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body).to_le_bytes() != *crc {
        return None;
    }
    let mut rest = body.strip_prefix(MARK_MAGIC)?;
    let mut take = |size: usize| -> Option<&[u8]> {
        let (head, tail) = rest.split_at_checked(size)?;
        rest = tail;
        Some(head)
    };
    let count = u64::from_le_bytes(take(8)?.try_into().ok()?);
    let mut mark = CleanMark::default();
    for _ in 0..count {
        let id = Uuid::from_slice(take(16)?).ok()?;
        let index = i32::from_le_bytes(take(4)?.try_into().ok()?);
        let base = i64::from_le_bytes(take(8)?.try_into().ok()?);
        let size = u64::from_le_bytes(take(8)?.try_into().ok()?);
        let summary = SegmentSummary::decode(take(usize::try_from(size).ok()?)?).ok()?;
        mark.insert((id, index), (base, summary));
    }
    rest.is_empty().then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_round_trips_once_and_damage_means_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("meta")).unwrap();
        let key = (Uuid::from_u128(7), 3);
        let summary = SegmentSummary { size_bytes: 100, next_offset: 9, ..SegmentSummary::default() };
        let partitions = [CleanPartition { key, base_offset: 5, summary: summary.clone() }];
        write_clean_mark(directory.path(), &partitions).unwrap();
        let bytes = std::fs::read(mark_path(directory.path())).unwrap();
        let mark = read_clean_mark(directory.path()).unwrap().unwrap();
        assert_eq!(mark.get(&key), Some(&(5, summary)));
        assert!(read_clean_mark(directory.path()).unwrap().is_none());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(decode_mark(&damaged).is_none());
        }
    }
}
