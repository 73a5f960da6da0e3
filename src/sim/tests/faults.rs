//! Errors at every operation, damage behind everybody's back, planted bugs, and proof that a seed decides everything.

use std::path::Path;
use std::rc::Rc;

use super::life::{DATA, Shape, Topic, open, resources};
use super::log_runs::{Variant, final_disk, run};
use super::model::Model;
use crate::sim::{Canary, Random, Sim, World};
use crate::storage::{Log, LogError};
use crate::wire::record_batch;

#[test]
fn a_seed_decides_every_step() {
    for seed in [3, 17, 92] {
        let first = run(seed, Variant::default());
        assert_eq!(first, run(seed, Variant::default()), "seed {seed}");
        assert_ne!(first, run(seed + 1, Variant::default()), "another seed is another run");
    }
}

/// Promise 5. Every step of a seed's first life fails once: what the log answers from there on must still hold, the
/// next start must recover, and no ack may follow a failed write or flush (the crash at the end would lose it).
#[test]
fn an_error_at_any_step_loses_nothing_that_was_acknowledged() {
    let mut failed_steps = 0;
    for seed in [1, 4] {
        let steps = run(seed, Variant::default()).expect("without an error").steps;
        for step in 1..=steps.min(260) {
            let variant = Variant { fail_at: Some(step), ..Variant::default() };
            if let Err(text) = run(seed, variant) {
                panic!("seed {seed}, error at step {step}: {text}");
            }
            failed_steps += 1;
        }
    }
    for seed in 1_000..1_100 {
        let step = Random::new(seed).within(1, 300);
        let variant = Variant { fail_at: Some(step), ..Variant::default() };
        if let Err(text) = run(seed, variant) {
            panic!("seed {seed}, error at step {step}: {text}");
        }
        failed_steps += 1;
    }
    println!("{failed_steps} runs with an error");
}

/// Promise 3, on more than single batches: whatever is done to the files after a stop, a start never panics, and what
/// it gives to a reader is what was written, or an error, or bytes that their checksum gives away.
#[test]
fn damage_is_never_silent() {
    let mut damaged = 0;
    for seed in 0..150 {
        let (shape, topics, world, mut random) = final_disk(2_000 + seed);
        for _ in 0..6 {
            let mut image = world.clone();
            let Some(where_) = hurt(&mut image, &mut random) else { continue };
            if let Err(text) = look(&shape, &topics, image, &where_, &mut random) {
                panic!("seed {}: {where_:?}: {text}", 2_000 + seed);
            }
            damaged += 1;
        }
    }
    println!("{damaged} damaged disks");
}

/// A file and the bytes of it that were changed.
type Hurt = Vec<(std::path::PathBuf, u64, u64)>;

fn hurt(world: &mut World, random: &mut Random) -> Option<Hurt> {
    let files = world.files();
    let (path, file) = files.get(random.below(files.len().max(1) as u64) as usize)?.clone();
    let size = world.inode(file).live.data_end();
    if size == 0 {
        return None;
    }
    let block = |random: &mut Random| {
        let at = random.below(size) / 4096 * 4096;
        (at, (size - at).min(4096) as usize)
    };
    match random.below(4) {
        0 => {
            let at = random.below(size);
            let byte = world.inode(file).live.bytes(at, 1)[0] ^ 1 << random.below(8);
            world.damage(file, at, &[byte]);
            Some(vec![(path, at, at + 1)])
        }
        1 => {
            let at = random.below(size) / 512 * 512;
            let end = (at + 512).min(size);
            let fill = if random.percent(50) { 0 } else { random.next() as u8 };
            world.damage(file, at, &vec![fill; (end - at) as usize]);
            Some(vec![(path, at, end)])
        }
        2 => {
            let ((a, a_size), (b, b_size)) = (block(random), block(random));
            let each = a_size.min(b_size);
            let (first, second) =
                (world.inode(file).live.bytes(a, each), world.inode(file).live.bytes(b, each));
            world.damage(file, a, &second);
            world.damage(file, b, &first);
            Some(vec![(path.clone(), a, a + each as u64), (path, b, b + each as u64)])
        }
        _ => {
            let (_, other) = files[random.below(files.len() as u64) as usize];
            let (at, each) = block(random);
            let from = random.below(world.inode(other).live.data_end().max(1)) / 4096 * 4096;
            let stale = world.inode(other).live.bytes(from, each);
            let end = at + stale.len() as u64;
            world.damage(file, at, &stale);
            Some(vec![(path, at, end)])
        }
    }
}

fn look(
    shape: &Shape,
    topics: &[Topic],
    image: World,
    hurt: &Hurt,
    random: &mut Random,
) -> Result<(), String> {
    let (sim, entered) = Sim::enter(image, random.fork());
    let resources = resources(shape, None).map_err(|error| format!("the pool: {error}"))?;
    for topic in topics {
        // A start that says no is not silent.
        let Ok((log, reports)) = open(shape, &resources, topic) else { continue };
        let model = topic.model.clone();
        let end = log.log_end_offset();
        let (tail_lost, promised) = lost_at_the_end(&model, topic, end, hurt);
        if promised && reports.is_empty() && !tail_lost {
            return Err(format!(
                "{}: ends at {end} instead of {}, and nobody says why",
                topic.name,
                model.end()
            ));
        }
        sim.block_on(read_damaged(log, Rc::new(model))).map_err(|text| format!("{}: {text}", topic.name))?;
    }
    drop(resources);
    drop(entered);
    Ok(())
}

/// Whether all batches from `end` on were hit themselves, so that the log looks as if they had been torn; and whether
/// there are any.
fn lost_at_the_end(model: &Model, topic: &Topic, end: i64, hurt: &Hurt) -> (bool, bool) {
    let lost: Vec<_> = model.placed.iter().filter(|placed| placed.base_offset >= end).collect();
    let directory = Path::new(DATA).join(&topic.name);
    let all_hit = lost.iter().all(|placed| {
        let hits = |(path, from, to): &(std::path::PathBuf, u64, u64)| {
            let base =
                path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")?.parse::<i64>().ok());
            let Some(base) = base.filter(|_| path.starts_with(&directory)) else { return false };
            let before =
                model.placed.iter().filter(|p| p.base_offset >= base && p.base_offset < placed.base_offset);
            let position: u64 = before.map(|p| p.bytes.len() as u64).sum();
            placed.base_offset >= base && position < *to && position + placed.bytes.len() as u64 > *from
        };
        hurt.iter().any(hits)
    });
    (all_hit, !lost.is_empty())
}

/// Reads all of a log, over what cannot be read.
async fn read_damaged(log: Rc<Log>, model: Rc<Model>) -> Result<(), String> {
    let mut offset = log.log_start_offset();
    while offset < log.high_watermark() {
        let read = match log.read(offset, 64 << 10).await {
            Ok(read) => read,
            Err(LogError::Damaged(_)) => {
                offset += 1;
                continue;
            }
            Err(error) => return Err(format!("offset {offset}: {error}")),
        };
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.as_bytes()).copied().collect();
        let mut rest = &bytes[..];
        let before = offset;
        while let Ok(batch) = record_batch::parse_header(rest) {
            let size = batch.size_bytes.min(rest.len());
            let written = model.at(batch.base_offset).map(|at| &model.placed[at]);
            // Offset, length and epoch lie before what the checksum covers; a reader checks the rest.
            let same = written.is_some_and(|written| written.bytes[..] == rest[..size]);
            if !same && record_batch::crc_ok(&rest[..size]) && !differs_in_front_only(&model, &rest[..size]) {
                return Err(format!("offset {}: an intact batch that nobody wrote there", batch.base_offset));
            }
            offset = offset.max(batch.next_offset());
            rest = &rest[size..];
        }
        if offset == before {
            offset += 1;
        }
    }
    Ok(())
}

/// Whether some batch of the log has these bytes behind its first 16, which no checksum covers.
fn differs_in_front_only(model: &Model, bytes: &[u8]) -> bool {
    model.placed.iter().any(|placed| placed.bytes.len() == bytes.len() && placed.bytes[16..] == bytes[16..])
}

/// A check that cannot fail proves nothing: each planted bug must be found within the seeds that CI runs.
fn is_caught(canary: Canary, fail: bool) {
    for seed in 0..500 {
        let fail_at = fail.then(|| Random::new(seed).within(20, 200));
        if let Err(text) = run(seed, Variant { canary: Some(canary), fail_at }) {
            println!("{canary:?} was caught by seed {seed}: {text}");
            return;
        }
    }
    panic!("{canary:?} was not caught");
}

#[test]
fn an_ack_before_the_flush_is_caught() {
    is_caught(Canary::EarlyFlush, false);
}

#[test]
fn an_expiry_that_follows_a_clock_that_jumps_is_caught() {
    is_caught(Canary::JumpingClock, false);
}

#[test]
fn a_log_start_that_is_seen_before_it_is_on_disk_is_caught() {
    is_caught(Canary::HastyStart, false);
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    is_caught(Canary::NoDirectorySync, false);
}

#[test]
fn batches_of_an_older_life_are_caught() {
    is_caught(Canary::StaleBatches, false);
}

#[test]
fn a_flush_that_is_tried_again_is_caught() {
    is_caught(Canary::RetriedFlush, true);
}
