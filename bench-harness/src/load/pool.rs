//! The batches of a workload, encoded before it runs, and which connection sends which.
//!
//! Owner: the main thread. All batches of a pool have the same number of records, so that a schedule of requests is a
//! schedule of records; their sizes vary as the records' do. Keyed batches are made as a producer makes them: keys
//! are drawn, go to their partition's open batch, and a batch that is full is sent. The pool is the sequence in which
//! batches became full, so partitions that are hot get as many requests as their keys deserve.
//!
//! Invariants: the pool is bounded in bytes and batches; what is sent in a run is the pool, again and again. Must not:
//! do I/O.

use super::Workload;
use super::dist::{KeyPicker, Keys, Sizes, key_bytes, partition_of};
use crate::batch::{BatchImage, Codec, Record, STAMP_BYTES, fill_random};
use crate::error::{BenchError, Result};
use crate::frame::RequestTemplate;
use crate::generator::ConnectionPlan;
use crate::kafka::Partition;
use crate::limits::{POOL_BATCHES_MAX, POOL_BYTES_MAX};
use crate::random::Random;
use crate::workload::{ProduceLoad, by_leader, plan_pool, wall_ms};

/// One batch in so many of a compressed load stays uncompressed and carries a stamp, to see end-to-end latency.
pub(crate) const STAMP_EVERY: usize = 16;
/// Records a pool of unlike batches holds at least, so that it looks like its distribution.
const RECORDS_WANTED: usize = 8_192;
/// Most keys drawn before the pool begins and while it is filled.
const DRAWS_MAX: usize = 20_000_000;

/// Batches made beforehand.
#[derive(Debug)]
pub(crate) struct Pool {
    /// In the order in which they are sent.
    images: Vec<BatchImage>,
    /// For keyed records the partition of each, by its place among the topic's.
    placed: Option<Vec<usize>>,
    /// Records of each batch.
    pub(crate) records: u32,
}

impl Pool {
    /// Encodes the batches of a workload, `records` in each.
    ///
    /// # Errors
    /// When sizes or keys are out of bounds.
    pub(crate) fn build(workload: &Workload, records: u32, stamped: bool) -> Result<Self> {
        let mut maker = Maker { workload, random: Random(42), stamped, made: 0 };
        let bytes = (f64::from(records) * workload.record_bytes()).max(1.0) as usize;
        let most = (POOL_BYTES_MAX / bytes).clamp(1, POOL_BATCHES_MAX);
        if let Some(picker) = workload.keys.picker()? {
            let wanted = (RECORDS_WANTED * 4 / records as usize).max(workload.partitions * 4);
            let (images, placed) = maker.keyed(records, &picker, wanted.clamp(1, most))?;
            return Ok(Self { images, placed: Some(placed), records });
        }
        let all_alike = matches!(workload.sizes, Sizes::Fixed { .. })
            && workload.codec == Codec::None
            && workload.random_share >= 1.0
            && workload.payload.is_none();
        let wanted =
            if all_alike { 1 } else { (RECORDS_WANTED / records as usize).max(STAMP_EVERY).min(most) };
        let keys = vec![None; records as usize];
        let images = (0..wanted).map(|_| maker.batch(&keys)).collect::<Result<_>>()?;
        Ok(Self { images, placed: None, records })
    }

    /// Mean bytes of a batch.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.images.iter().map(BatchImage::len).sum::<usize>() / self.images.len().max(1)
    }

    /// Largest batch in bytes.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.images.iter().map(BatchImage::len).max().unwrap_or(0)
    }

    /// Share of the keyed batches that go to the partition that gets most.
    pub(crate) fn hottest_share(&self) -> Option<f64> {
        let placed = self.placed.as_ref()?;
        let mut counts = vec![0usize; placed.iter().max()? + 1];
        placed.iter().for_each(|place| counts[*place] += 1);
        Some(*counts.iter().max()? as f64 / placed.len() as f64)
    }

    /// The connections of one topic.
    ///
    /// # Errors
    /// When connections or requests are out of bounds.
    pub(crate) fn plan(
        &self,
        topic: &str,
        partitions: &[Partition],
        load: &ProduceLoad,
    ) -> Result<Vec<ConnectionPlan>> {
        let Some(placed) = &self.placed else {
            return plan_pool(topic, partitions, load, &self.images);
        };
        let groups = by_leader(partitions);
        let mut plans = Vec::with_capacity(load.connections);
        for connection in 0..load.connections {
            let (leader, indexes) = &groups[connection % groups.len()];
            let peers = (load.connections - connection % groups.len()).div_ceil(groups.len());
            let mine = self.images.iter().zip(placed).filter_map(|(image, place)| {
                let index = partitions.get(*place)?.index;
                indexes.contains(&index).then_some((index, image))
            });
            let mut templates = Vec::new();
            for (index, image) in mine.clone().skip(connection / groups.len()).step_by(peers) {
                templates.push(RequestTemplate::encode(topic, &[index], load.acks, image)?);
            }
            if templates.is_empty() {
                let (index, image) = mine.clone().next().ok_or_else(|| {
                    BenchError::Usage(format!("no key belongs to a partition that {leader} leads"))
                })?;
                templates.push(RequestTemplate::encode(topic, &[index], load.acks, image)?);
            }
            plans.push(ConnectionPlan { target: *leader, templates });
        }
        Ok(plans)
    }
}

struct Maker<'a> {
    workload: &'a Workload,
    random: Random,
    stamped: bool,
    made: usize,
}

impl Maker<'_> {
    /// One value: its share of random bytes first, or a piece of the payload.
    fn value(&mut self, bytes: usize) -> Vec<u8> {
        let mut value = vec![b'x'; bytes];
        match &self.workload.payload {
            Some(payload) => {
                let from = (self.random.next() % payload.len() as u64) as usize;
                let endless = payload.iter().cycle().skip(from);
                value.iter_mut().zip(endless).for_each(|(to, from)| *to = *from);
            }
            None => {
                let share = (bytes as f64 * self.workload.random_share).round() as usize;
                fill_random(&mut value[..share.min(bytes)], self.random.next() | 1);
            }
        }
        value
    }

    fn batch(&mut self, keys: &[Option<usize>]) -> Result<BatchImage> {
        let plain = self.workload.codec == Codec::None;
        let stamped = self.stamped && (plain || self.made.is_multiple_of(STAMP_EVERY));
        self.made += 1;
        let keys: Vec<Option<[u8; 16]>> = keys.iter().map(|key| key.map(key_bytes)).collect();
        let mut values = Vec::with_capacity(keys.len());
        for index in 0..keys.len() {
            let least = if index == 0 && stamped { STAMP_BYTES } else { 0 };
            let bytes = self.workload.sizes.draw(&mut self.random).max(least);
            values.push(self.value(bytes));
        }
        let records: Vec<Record<'_>> = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| Record { key: key.as_ref().map(|key| key.as_slice()), value })
            .collect();
        let codec = if stamped { Codec::None } else { self.workload.codec };
        BatchImage::encode_records(&records, codec, stamped, wall_ms())
    }

    /// `wanted` batches of keyed records with their partitions, in the order in which they became full.
    fn keyed(
        &mut self,
        records: u32,
        picker: &KeyPicker,
        wanted: usize,
    ) -> Result<(Vec<BatchImage>, Vec<usize>)> {
        let partitions = self.workload.partitions;
        let mut open: Vec<Vec<Option<usize>>> = vec![Vec::new(); partitions];
        let (mut images, mut placed) = (Vec::new(), Vec::new());
        // At first only what is hot gets full: the sequence is taken once every partition had its time.
        let early = (partitions * records as usize * 2).min(DRAWS_MAX / 2);
        for draw in 0..DRAWS_MAX {
            let key = picker.draw(&mut self.random);
            let place = partition_of(&key_bytes(key), partitions);
            open[place].push(Some(key));
            if open[place].len() < records as usize {
                continue;
            }
            let keys = std::mem::take(&mut open[place]);
            if draw >= early {
                images.push(self.batch(&keys)?);
                placed.push(place);
                if images.len() == wanted {
                    return Ok((images, placed));
                }
            }
        }
        if images.is_empty() {
            return Err(BenchError::Usage("too many partitions for batches of that many records".into()));
        }
        Ok((images, placed))
    }
}

/// Whether a workload's records have keys, in words.
pub(crate) fn describe_keys(keys: &Keys) -> String {
    match keys {
        Keys::None => "none".into(),
        Keys::Uniform { count } => format!("{count} uniform"),
        Keys::Zipf { count, theta } => format!("{count} zipf {theta}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Pace;
    use crate::workload::Fill;

    fn load(connections: usize) -> ProduceLoad {
        ProduceLoad {
            connections,
            in_flight: 1,
            record_bytes: 100,
            fill: Fill::Records(10),
            partitions_per_request: 1,
            acks: -1,
            pace: Pace::Max,
            bytes_max: u64::MAX,
            curve: None,
        }
    }

    fn partitions(count: i32) -> Vec<Partition> {
        (0..count).map(|index| Partition { index, leader: ([127, 0, 0, 1], 9).into() }).collect()
    }

    #[test]
    fn hot_keys_make_hot_partitions() {
        let sizes = Sizes::Fixed { bytes: 20 };
        let keys = Keys::Zipf { count: 10_000, theta: 1.2 };
        let zipf = Workload { partitions: 20, sizes: sizes.clone(), keys, ..Workload::default() };
        let pool = Pool::build(&zipf, 10, false).unwrap();
        // The first of 10,000 keys has 22 % of everything at theta 1.2, and its partition some of the rest.
        let share = pool.hottest_share().unwrap();
        assert!((0.18..0.40).contains(&share), "{share}");
        let uniform =
            Workload { partitions: 20, sizes, keys: Keys::Uniform { count: 10_000 }, ..Workload::default() };
        let share = Pool::build(&uniform, 10, false).unwrap().hottest_share().unwrap();
        assert!(share < 0.08, "{share}");
        let plans = pool.plan("t", &partitions(20), &load(3)).unwrap();
        let templates: usize = plans.iter().map(|plan| plan.templates.len()).sum();
        assert_eq!(templates, pool.images.len(), "every batch has one sender");
        assert!(plans.iter().flat_map(|plan| &plan.templates).all(|template| template.records() == 10));
    }

    #[test]
    fn unlike_batches_vary_and_alike_ones_are_one() {
        let alike = Workload::default();
        assert_eq!(Pool::build(&alike, 10, true).unwrap().images.len(), 1);
        let sizes = Sizes::Uniform { min: 10, max: 500 };
        let codec = Codec::Lz4;
        let varied = Workload { sizes, codec, random_share: 0.3, partitions: 5, ..Workload::default() };
        let pool = Pool::build(&varied, 100, true).unwrap();
        let stamped = pool.images.iter().filter(|image| image.stamped()).count();
        assert_eq!(stamped, pool.images.len().div_ceil(STAMP_EVERY));
        assert!(pool.batch_bytes() < 100 * 200, "a third of the bytes is random, the rest compresses");
        let plans = pool.plan("t", &partitions(5), &load(2)).unwrap();
        assert!(plans.iter().all(|plan| plan.templates.len() >= pool.images.len()));
    }

    #[test]
    fn ten_thousand_partitions_fit() {
        let keys = Keys::Uniform { count: 100_000 };
        let wide = Workload { partitions: 10_000, keys, ..Workload::default() };
        let pool = Pool::build(&wide, 2, false).unwrap();
        assert!(pool.images.len() <= POOL_BATCHES_MAX);
        let plans = pool.plan("t", &partitions(10_000), &load(4)).unwrap();
        assert_eq!(plans.len(), 4);
        let plain = Workload { partitions: 10_000, ..Workload::default() };
        let plans = Pool::build(&plain, 2, false).unwrap().plan("t", &partitions(10_000), &load(4)).unwrap();
        assert_eq!(plans.iter().map(|plan| plan.templates.len()).sum::<usize>(), 10_000);
    }
}
