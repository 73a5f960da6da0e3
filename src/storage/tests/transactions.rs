//! Open and aborted transactions of one log: the last stable offset, look-ups, what compaction leaves.

use super::*;
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch::parse_header;

fn batch(producer_id: i64, epoch: i16, flags: i16) -> BatchInfo {
    let bytes =
        BatchBuilder::new().flags(flags).producer(producer_id, epoch, 0).record(1, None, None).build();
    parse_header(&bytes).expect("a batch")
}

fn transactional(producer_id: i64, epoch: i16) -> BatchInfo {
    batch(producer_id, epoch, 0x10)
}

fn marker(producer_id: i64, commit: bool) -> Option<Marker> {
    Some(Marker { producer_id, producer_epoch: 0, commit, coordinator_epoch: 4 })
}

#[test]
fn the_oldest_open_transaction_holds_readers_back_until_its_marker_is_visible() {
    let mut all = Transactions::default();
    all.note(&transactional(1, 0), 10, 1000, None);
    all.note(&transactional(2, 0), 20, 2000, None);
    all.note(&transactional(1, 0), 30, 3000, None);
    assert_eq!(all.first_unstable(), Some((10, 1000)));
    all.note(&batch(1, 0, 0x30), 40, 4000, marker(1, true));
    assert_eq!(all.first_unstable(), Some((10, 1000)));
    all.settle(40);
    assert_eq!(all.first_unstable(), Some((10, 1000)));
    all.settle(41);
    assert_eq!(all.first_unstable(), Some((20, 2000)));
    all.note(&batch(2, 0, 0x30), 41, 4100, marker(2, false));
    all.settle(42);
    assert_eq!((all.first_unstable(), all.is_idle()), (None, true));
    assert_eq!(all.aborted_in(0, 42), [(2, 20)]);
}

#[test]
fn aborted_transactions_are_found_by_range_and_no_others() {
    let mut all = Transactions::default();
    let mut truth = Vec::new();
    let mut open: Vec<(i64, i64)> = Vec::new();
    let mut seed = 7u64;
    for offset in 0..400 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let producer = (seed >> 33) as i64 % 5;
        match open.iter().position(|(id, _)| *id == producer) {
            Some(at) if seed >> 62 == 0 => {
                let (_, first) = open.remove(at);
                let commit = seed >> 60 & 1 == 0;
                all.note(&batch(producer, 0, 0x30), offset, 0, marker(producer, commit));
                if !commit {
                    truth.push((producer, first, offset));
                }
            }
            Some(_) => {}
            None => {
                all.note(&transactional(producer, 0), offset, 0, None);
                open.push((producer, offset));
            }
        }
        all.settle(offset + 1);
    }
    assert!(truth.len() > 10);
    for from in (0..400).step_by(7) {
        for to in (from + 1..401).step_by(13) {
            let found = all.aborted_in(from, to);
            let hit = |(_, first, last): &&(i64, i64, i64)| *last >= from && *first < to;
            let wanted: Vec<_> = truth.iter().filter(hit).map(|(id, first, _)| (*id, *first)).collect();
            assert_eq!(found, wanted, "{from}..{to}");
        }
    }
}

#[test]
fn only_verified_producers_open_a_transaction_and_a_marker_voids_the_verification() {
    let mut all = Transactions::default();
    assert!(!all.permits(&transactional(1, 0)));
    let Verification::Needed(number) = all.verify(1, 0) else { panic!("nothing is open") };
    assert_eq!(all.verify(1, 0), Verification::Needed(number));
    assert!(!all.permits(&transactional(1, 0)));
    all.note(&batch(1, 0, 0x30), 5, 0, marker(1, false));
    all.confirm(1, number);
    assert!(!all.permits(&transactional(1, 0)), "a marker came in between");
    let Verification::Needed(number) = all.verify(1, 0) else { panic!("nothing is open") };
    all.confirm(1, number);
    assert!(all.permits(&transactional(1, 0)) && !all.permits(&transactional(1, 1)));
    all.note(&transactional(1, 0), 6, 0, None);
    assert_eq!(all.verify(1, 0), Verification::Open);
    assert!(all.permits(&transactional(1, 0)) && !all.permits(&batch(1, 0, 0)));
    assert!(all.permits(&batch(2, 0, 0)));
}

#[test]
fn a_snapshot_comes_back_with_positions() {
    let mut all = Transactions::default();
    all.note(&transactional(1, 0), 10, 1000, None);
    all.note(&transactional(2, 3), 20, 2000, None);
    all.note(&batch(1, 0, 0x30), 21, 2100, marker(1, false));
    let aborted = all.aborted_of(0, 22);
    assert_eq!(all.aborted_of(0, 21), []);
    let mut again = Transactions::default();
    again.adopt(&aborted, &all.snapshot(), |offset| offset as u64 * 100);
    assert_eq!(again.first_unstable(), Some((20, 2000)));
    assert_eq!(again.aborted_in(0, 100), [(1, 10)]);
    assert_eq!(again.snapshot(), all.snapshot());
    again.forget_below(22);
    assert_eq!(again.aborted_in(0, 100), []);
}
