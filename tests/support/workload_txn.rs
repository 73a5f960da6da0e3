//! Transactional producers of a [`super::workload::Workload`]: each writes to all partitions of one topic and commits
//! an offset of a group of its own with every transaction.
//!
//! Owner: the workload. Invariant: an end is noted as asked for before the request leaves, and as answered only when
//! the answer was good. It must not repeat an EndTxn: what was not answered stays unknown.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::batches;
use super::client::Client;
use super::history::{History, Probe, Sent, What, now_ns};
use super::random::Random;
use super::transactions::{Producer, add, begin, commit_offset, committed_offset, end, produce};
use super::workload::{TX, TX_PARTITIONS};

/// INVALID_PRODUCER_EPOCH, PRODUCER_FENCED.
const FENCED_CODES: &[i16] = &[47, 90];

static NEXT_TRANSACTION: AtomicU64 = AtomicU64::new(1);

/// Numbers of commits, over all of a process.
pub(super) static NEXT_COMMIT: AtomicU64 = AtomicU64::new(1);

/// One transactional id.
pub(super) struct Writer {
    number: u32,
    id: String,
    group: String,
    work: Mutex<Work>,
}

struct Work {
    random: Random,
    orders: [u64; TX_PARTITIONS as usize],
    /// Last committed offset of the group: it only counts transactions.
    offset: i64,
    producer: Option<Producer>,
}

impl Writer {
    pub(super) fn new(number: u32, seed: u64) -> Writer {
        let work = Work {
            random: Random::new(seed),
            orders: [0; TX_PARTITIONS as usize],
            offset: 0,
            producer: None,
        };
        Writer {
            number,
            id: format!("writer-{number}"),
            group: format!("of-writer-{number}"),
            work: Mutex::new(work),
        }
    }

    /// Whether it uses KIP-890's requests.
    fn version_2(&self) -> bool {
        self.number % 2 == 1
    }

    pub(super) fn run(&self, port: u16, pause: Duration, history: &History, stop: &AtomicBool) {
        let mut work = self.work.lock().expect("writer");
        let Ok(mut client) = Client::connect(port) else { return };
        let Ok(mut producer) = begin(&mut client, &self.id) else { return };
        let mut sequences = [0; TX_PARTITIONS as usize];
        while !stop.load(Ordering::Relaxed) {
            let epoch = producer.1;
            match self.one(&mut client, &mut work, producer, &mut sequences, history) {
                Ok(next) => producer = next,
                Err(_) => break,
            }
            if producer.1 != epoch {
                sequences = Default::default();
            }
            std::thread::sleep(pause);
        }
        work.producer = Some(producer);
    }

    fn make(&self, work: &mut Work, at: usize, producer: Producer, sequence: i32) -> (u64, Vec<u8>, u64) {
        let order = work.orders[at];
        work.orders[at] += 1;
        let tag = format!("{}-{at}/{order}", self.id);
        let bytes =
            batches::transactional(&tag, 1, work.random.between(50, 9000) as usize, producer, sequence);
        (batches::digest(&bytes), bytes, order)
    }

    fn sent(&self, id: u64, at: usize, order: u64, transaction: Option<u64>) -> What {
        What::Sent(Sent {
            id,
            place: (TX, at as i32),
            producer: 1000 + self.number * 10 + at as u32,
            order,
            count: 1,
            acks: -1,
            idempotent: false,
            transaction,
        })
    }

    /// One transaction; the producer to go on with.
    fn one(
        &self,
        client: &mut Client,
        work: &mut Work,
        producer: Producer,
        sequences: &mut [i32; TX_PARTITIONS as usize],
        history: &History,
    ) -> io::Result<Producer> {
        let number = NEXT_TRANSACTION.fetch_add(1, Ordering::Relaxed);
        if !self.version_2() {
            let parts: Vec<_> = (0..TX_PARTITIONS).map(|partition| (TX, partition)).collect();
            let codes = add(client, &self.id, producer, &parts)?;
            assert!(codes.iter().all(|code| *code == 0), "AddPartitionsToTxn: {codes:?}");
        }
        for _ in 0..1 + work.random.below(2) {
            let mut made = Vec::new();
            for (at, sequence) in sequences.iter_mut().enumerate() {
                let (id, bytes, order) = self.make(work, at, producer, *sequence);
                *sequence += 1;
                history.note(self.sent(id, at, order, Some(number)));
                made.push((id, bytes));
            }
            let parts: Vec<_> =
                made.iter().enumerate().map(|(at, (_, bytes))| (TX, at as i32, bytes.as_slice())).collect();
            let results = produce(client, if self.version_2() { 12 } else { 9 }, &self.id, &parts)?;
            for ((id, _), (code, offset)) in made.iter().zip(results) {
                assert_eq!(code, 0, "a produce of a transaction");
                history.note(What::Acked { id: *id, offset });
            }
        }
        let commit = NEXT_COMMIT.fetch_add(1, Ordering::Relaxed);
        let offset = work.offset + 1;
        work.offset = offset;
        let (group, transaction) = (self.group.clone(), Some(number));
        history.note(What::Committing { group, place: (TX, 0), offset, commit, transaction });
        let version = if self.version_2() { 5 } else { 3 };
        let code = commit_offset(client, version, &self.id, producer, (&self.group, TX, offset))?;
        assert_eq!(code, 0, "TxnOffsetCommit");
        history.note(What::Committed { commit });
        let wish = work.random.below(3) > 0;
        history.note(What::Ending { transaction: number, commit: wish });
        let next = end(client, if self.version_2() { 5 } else { 4 }, &self.id, producer, wish)?;
        let next = next.unwrap_or_else(|code| panic!("EndTxn: error {code}"));
        history.note(What::Ended { transaction: number });
        Ok(next)
    }

    pub(super) fn end_open(&self, client: &mut Client) {
        begin(client, &self.id).expect("a producer");
    }

    /// Ends what is open; the producer that was used before is fenced then, and its batches are refused.
    pub(super) fn settle(&self, client: &mut Client, history: &History) {
        self.end_open(client);
        let mut work = self.work.lock().expect("writer");
        let Some(old) = work.producer.take() else { return };
        let (id, bytes, order) = self.make(&mut work, 0, old, 0);
        history.note(self.sent(id, 0, order, None));
        let parts = [(TX, 0, bytes.as_slice())];
        let results = produce(client, 12, &self.id, &parts).expect("an answer");
        let code = results[0].0;
        history.note(What::Probed { what: Probe::OldEpoch, code, wanted: FENCED_CODES });
        history.note(What::Refused { id, code });
    }

    pub(super) fn note_offset(&self, client: &mut Client, history: &History) {
        let asked_ns = now_ns();
        let offset = super::eventually("the group's coordinator has loaded", || {
            committed_offset(client, &self.group, TX).expect("an answer").ok()
        });
        history.note(What::Offset { group: self.group.clone(), place: (TX, 0), offset, asked_ns });
    }
}
