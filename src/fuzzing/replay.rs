//! The committed corpus as tests: every input through its target; and, on demand, the seeds that a corpus begins with.

use std::path::PathBuf;

use super::TARGETS;
use crate::coordinator::consumer_protocol::{ConsumerSubscription, encode_subscription};
use crate::coordinator::records::{Committed, CurrentRecord, GroupRecord, Key, MemberRecord, Subscription};
use crate::coordinator::share_records::{ShareState, ShareSubscription};
use crate::wire::api_table::{is_flexible, is_supported};
use crate::wire::batch_builder::BatchBuilder;
use crate::wire::record_batch::Compression;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str) {
    let mut inputs: Vec<_> = std::fs::read_dir(corpus(target))
        .unwrap_or_else(|error| panic!("no corpus of '{target}': {error}"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "the corpus of '{target}' is empty");
    for path in inputs {
        let bytes = std::fs::read(&path).expect("an input");
        // Seen when it fails: the test captures it.
        eprintln!("{}", path.display());
        super::run(target, &bytes);
    }
}

#[test]
fn corpus_of_requests() {
    replay("requests");
}

#[test]
fn corpus_of_batches() {
    replay("batches");
}

#[test]
fn corpus_of_state() {
    replay("state");
}

#[test]
fn corpus_of_recovery() {
    replay("recovery");
}

#[test]
fn corpus_of_live() {
    replay("live");
}

#[test]
fn every_target_has_a_corpus() {
    let mut folders: Vec<String> = std::fs::read_dir(corpus(""))
        .expect("the corpora")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    folders.sort();
    let mut names: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    names.sort();
    assert_eq!(folders, names);
}

fn noise(state: &mut u64, size: usize) -> Vec<u8> {
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    };
    (0..size).map(|_| (next() >> 32) as u8).collect()
}

/// Noise of many sizes through every target: what a fuzzer would try first, on any toolchain.
#[test]
fn noise_is_survived() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for target in TARGETS {
        let rounds = if target.name == "live" { 20 } else { 300 };
        for round in 0..rounds {
            (target.run)(&noise(&mut state, round * 37 % 600));
        }
    }
}

/// What a corpus begins with: a rich request of each API and version, batches of each codec, records of each kind. Run
/// by hand, with `--ignored`, when there is something new; the fuzzer finds the rest.
#[test]
#[ignore = "writes into the checkout"]
fn write_seeds() {
    let put = |target: &str, name: String, bytes: &[u8]| {
        std::fs::create_dir_all(corpus(target)).expect("the corpus");
        std::fs::write(corpus(target).join(format!("seed-{name}")), bytes).expect("a seed");
    };
    for (key, version, body) in crate::wire::tests::gate::requests() {
        assert!(is_supported(key, version));
        let mut frame = [key.to_be_bytes(), version.to_be_bytes()].concat();
        frame.extend_from_slice(&[0, 0, 0, 1, 0, 1, b'c']);
        frame.extend(is_flexible(key, version).then_some(0));
        frame.extend_from_slice(&body);
        put("requests", format!("api-{key}-v{version}"), &frame);
    }
    let codecs =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (number, codec) in (0..).zip(codecs) {
        let batch = BatchBuilder::new()
            .compression(codec)
            .record(1, Some(b"key"), Some(&[b'v'; 100]))
            .record(2, None, None)
            .build();
        for mode in [0, 1] {
            put("batches", format!("codec-{number}-{mode}"), &[&[mode][..], &batch].concat());
        }
    }
    for (number, record) in state_seeds().iter().enumerate() {
        put("state", format!("{number}"), record);
    }
    let mut state = 0x2545_f491_4f6c_dd1d;
    for target in ["recovery", "live"] {
        for number in 1..=8 {
            put(target, format!("{number}"), &noise(&mut state, 100 * number));
        }
    }
}

/// The first byte chooses the kind, see `state`.
fn state_seeds() -> Vec<Vec<u8>> {
    let text = |text: &str| text.to_owned();
    let member = MemberRecord { member_id: text("m"), ..MemberRecord::default() };
    let group = GroupRecord {
        protocol_type: text("consumer"),
        protocol: Some(text("range")),
        leader: Some(text("m")),
        members: vec![member],
        ..GroupRecord::default()
    };
    let committed =
        Committed { offset: 5, leader_epoch: 1, metadata: "x".into(), commit_ms: 9, expire_ms: -1 };
    let subscription =
        Subscription { topics: vec![text("t")], regex: Some(text("a.*")), ..Default::default() };
    let share = ShareSubscription { topics: vec![text("t")], ..ShareSubscription::default() };
    let consumer = ConsumerSubscription { topics: vec![text("t")], ..ConsumerSubscription::default() };
    let catalog = br#"{"cluster_id":"x","node_id":1,"sequence":4,"leader_epoch":2,"next_producer_id":0,"topics":
        [{"name":"t","id":"00000000-0000-0000-0000-000000000007","created_ms":5,"configs":{"retention.ms":"5"},
        "partitions":[{"count":2,"leader":1,"leader_epoch":2,"replicas":[1],"isr":[1]}]}]}"#;
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        with(0, catalog),
        with(1, &[0, 1, 0, 0, 3, 0, 0, 2, 0, 1, 0, 0, 9, 0, 4, 5]),
        with(2, &[0; 25]),
        with(2, &[1; 70]),
        with(2, &[3, 0, 0, 0, 0, 0, 0, 0, 0]),
        with(3, &Key::Offset { group: "g", topic: "t", partition: 3 }.encode()),
        with(3, &group.encode()),
        with(3, &committed.encode()),
        with(3, &subscription.encode()),
        with(3, &CurrentRecord::default().encode()),
        with(4, &ShareState::default().encode()),
        with(4, &share.encode()),
        with(5, &encode_subscription(&consumer)),
        with(6, &[0, 0, 2, 0, 0, 4, 0, 0, 0, 0, 0, 0, 1]),
        with(7, &[0; 60]),
    ]
}
