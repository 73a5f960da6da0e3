//! What seeds have found, each bug alone: a test whose header tells its story.
//!
//! Owner: one simulation each. On full disks new names are refused by hand here; the seeded runs (`log_runs`,
//! `compact_runs`, `shards`) refuse them by chance. It must not depend on what a seed of those runs does.

use std::path::Path;
use std::rc::Rc;

use super::life::{DATA, Shape, Topic, open, resources};
use super::model::Model;
use crate::rt;
use crate::sim::{Crash, Entered, Random, Sim, World};
use crate::storage::{
    Cleaner, CleanerConfig, Durability, Incoming, Log, LogError, LogResources, SegmentPool, this_disk,
};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch;

const EPOCH: i32 = 5;

fn world() -> World {
    let mut world = World::new(true);
    for directory in [DATA, "/data/meta", "/data/pool"] {
        world.make_directory(Path::new(directory));
    }
    world
}

/// A log of small segments on this disk, compacted or deleted beyond 8 KiB.
fn log_on(
    world: World,
    seed: u64,
    compact: bool,
    retention_bytes: i64,
) -> (Rc<Sim>, Entered, LogResources, Rc<Log>) {
    let mut shape = Shape::of(&mut Random::new(1));
    let config = &mut shape.config;
    (config.segment_bytes, config.retention_bytes, config.retention_ms) = (8 << 10, retention_bytes, -1);
    (config.compact, config.delete_old, config.segment_ms) = (compact, !compact, i64::MAX);
    (shape.pool_bytes, shape.tail_bytes) = (0, 1 << 20);
    let (sim, entered) = Sim::enter(world, Random::new(seed));
    let resources = resources(&shape, None).expect("a pool");
    let (name, model) = ("t-0".to_owned(), Model::default());
    let topic = Topic { name, first_epoch: EPOCH, epoch: EPOCH, model, clean: None };
    let (log, _) = open(&shape, &resources, &topic).expect("a start");
    (sim, entered, resources, log)
}

fn log(compact: bool) -> (Rc<Sim>, Entered, LogResources, Rc<Log>) {
    log_on(world(), 2, compact, -1)
}

fn cleaner() -> Cleaner {
    let config =
        CleanerConfig { threads: 1, map_bytes: 1 << 16, map_load_percent: 90, bytes_per_second: f64::MAX };
    Cleaner::start(config).expect("a cleaner")
}

async fn compact(log: Rc<Log>, cleaner: Cleaner) -> bool {
    log.compact(&cleaner, rt::wall_ms()).await.expect("no damage").is_some()
}

async fn append(log: Rc<Log>, key: u64) -> Result<(), String> {
    let value = [7; 3000];
    let mut bytes = BatchBuilder::new().record(1_000, Some(&key.to_le_bytes()), Some(&value)).build();
    let info = record_batch::parse_header(&bytes).expect("just built");
    let (ticket, incoming) = (log.ticket(), Incoming::Frame(&mut bytes));
    let appended = log.append(ticket, incoming, info, EPOCH, Durability::Flushed, -1).await;
    let appended = appended.map_err(|error| format!("{error:?}"))?;
    appended.durable.wait().await.map_err(|error| error.to_string())
}

/// The first append makes the partition's directory and `partition.metadata`. A full disk let the one happen and
/// refused the other, and the bytes of the file were gone by then: it was never written, and the directory did not say
/// any more which topic it belongs to.
#[test]
fn a_partition_says_whose_it_is_once_there_is_room() {
    let (sim, entered, resources, log) = log(false);
    sim.names_refused.set((0, 0));
    sim.leave_room(Some(0));
    for key in 0..3 {
        assert!(sim.block_on(append(log.clone(), key)).is_err(), "there is no room");
    }
    sim.leave_room(None);
    // What an append may still be told is an earlier refusal.
    let taken = (0..3).any(|key| sim.block_on(append(log.clone(), key)).is_ok());
    assert!(taken, "there is room again");
    assert!(sim.world.borrow().node(Path::new("/data/t-0/partition.metadata")).is_some());
    drop(resources);
    drop(entered);
}

/// A segment waits for its name while the disk has no block for a longer directory. Deleting the topic is what makes
/// room, and it waited for the segment to be named: for ever.
#[test]
fn a_topic_that_waits_for_room_can_be_deleted() {
    let (sim, entered, resources, log) = log(false);
    sim.block_on(append(log.clone(), 0)).expect("an append");
    sim.names_refused.set((0, 100));
    sim.leave_room(Some(64 << 20));
    for key in 1..6 {
        let log = log.clone();
        rt::spawn(async move { drop(append(log, key).await) });
    }
    let (waits, clock) = (log.clone(), sim.clone());
    sim.block_on(async move {
        clock.pause(5_000_000, 5_000_000).await;
        assert!(waits.high_watermark() < waits.log_end_offset(), "a segment has no name");
    });
    let gone = log.clone();
    let done: Rc<std::cell::Cell<bool>> = Rc::default();
    let told = done.clone();
    rt::spawn(async move {
        gone.detach("x").await;
        told.set(true);
    });
    let until_us = sim.executor.now_us() + 60_000_000;
    sim.run_until(|| done.get() || sim.executor.now_us() > until_us);
    assert!(done.get(), "the deletion waits for room");
    assert_eq!(log.failure(), Some(LogError::Deleted));
    drop(resources);
    drop(entered);
}

/// A swap of compacted segments met a full directory between two of its renames, and the log took no more appends until
/// the next start. It waits for room instead.
#[test]
fn a_swap_waits_for_room() {
    let (sim, entered, resources, log) = log(true);
    let cleaner = cleaner();
    for key in 0..12 {
        sim.block_on(append(log.clone(), key % 3)).expect("an append");
    }
    // The first pass makes the log's marks, which the second one only replaces.
    assert!(sim.block_on(compact(log.clone(), cleaner.clone())));
    for key in 0..12 {
        sim.block_on(append(log.clone(), key % 3)).expect("an append");
    }
    sim.names_refused.set((0, 100));
    sim.leave_room(Some(64 << 20));
    let room = sim.clone();
    rt::spawn(async move {
        room.pause(5_000_000, 5_000_000).await;
        room.leave_room(None);
    });
    assert!(sim.block_on(compact(log.clone(), cleaner)));
    assert_eq!(log.failure(), None);
    sim.block_on(append(log.clone(), 1)).expect("an append");
    drop(resources);
    drop(entered);
}

/// Three of 250 seeds of compacted logs: a read of a segment was under way while compaction put another one in its
/// place, and noted afterwards where the next batch begins: in the old file. Whoever went on from there got
/// CORRUPT_MESSAGE for a log in which nothing was wrong, again and again.
#[test]
fn a_read_that_a_swap_overtakes_leaves_no_hint() {
    for seed in 0..40 {
        let (sim, entered, resources, log) = log_on(world(), seed, true, -1);
        for key in 0..24 {
            sim.block_on(append(log.clone(), key % 5)).expect("an append");
        }
        drop((log, resources, entered));
        let image = sim.world.borrow().after(Crash::Process, &mut Random::new(seed));
        let (sim, entered, resources, log) = log_on(image, seed + 1_000, true, -1);
        let cleaner = cleaner();
        let (reading, clock) = (log.clone(), sim.clone());
        rt::spawn(async move {
            clock.pause(1, 2_000).await;
            compact(reading, cleaner).await;
        });
        for _ in 0..6 {
            sim.block_on(read_through(log.clone())).unwrap_or_else(|text| panic!("seed {seed}: {text}"));
        }
        drop((log, resources, entered));
    }
}

async fn read_through(log: Rc<Log>) -> Result<(), String> {
    let mut offset = log.log_start_offset();
    while offset < log.high_watermark() {
        let read = log.read(offset, 3_000).await.map_err(|error| error.to_string())?;
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.as_bytes()).copied().collect();
        let batch = record_batch::parse_whole(&bytes).map_err(|error| format!("offset {offset}: {error}"))?;
        if batch.next_offset() <= offset {
            return Err(format!("offset {offset} was answered with a batch before it"));
        }
        offset = batch.next_offset();
    }
    Ok(())
}

/// One of 500 seeds of logs: DeleteRecords asked for a start to which retention had just moved the log, and was
/// answered at once, while the mark that says so was on its way to the disk. After a power loss the records were back.
#[test]
fn deleted_records_stay_deleted_when_retention_was_faster() {
    for seed in 0..40 {
        let (sim, entered, resources, log) = log_on(world(), seed, false, 8 << 10);
        let (appending, asking, clock) = (log.clone(), log.clone(), sim.clone());
        rt::spawn(async move {
            for key in 0..40 {
                let _ = append(appending.clone(), key).await;
            }
        });
        let start = sim.block_on(async move {
            while asking.log_start_offset() == 0 {
                clock.pause(1, 2).await;
            }
            asking.delete_records(asking.log_start_offset()).await.expect("an answer")
        });
        drop((log, resources, entered));
        let image = sim.world.borrow().after(Crash::Power, &mut Random::new(seed));
        let (_sim, entered, resources, log) = log_on(image, seed + 1_000, false, 8 << 10);
        assert!(log.log_start_offset() >= start, "seed {seed}: {} after {start}", log.log_start_offset());
        drop((log, resources, entered));
    }
}

/// A file of the pool is given another name before it is used. A full directory refused that, and the file was in no
/// list any more: its room was gone until the next start.
#[test]
fn a_pooled_file_that_cannot_be_used_makes_room() {
    let (sim, entered) = Sim::enter(world(), Random::new(3));
    let directory = Path::new("/data/pool/core-0");
    sim.world.borrow_mut().make_directory(directory);
    let file = sim.world.borrow_mut().create(&directory.join("0000000001-0-0.seg"));
    sim.world.borrow_mut().set_size(file, 1 << 20, 0);
    let pool = SegmentPool::open(this_disk(), directory, 64 << 20).expect("a pool");
    assert_eq!(pool.file_count(), 1);
    sim.names_refused.set((0, 100));
    sim.leave_room(Some(0));
    let asked = pool.clone();
    assert!(sim.block_on(async move { asked.take(0, EPOCH, 1 << 20, 8 << 20).await.is_err() }));
    assert_eq!((pool.file_count(), sim.world.borrow().list(directory).len()), (0, 0));
    drop(pool);
    drop(entered);
}
