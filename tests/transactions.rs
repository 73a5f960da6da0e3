//! Exactly-once: transactions against the real binary with raw requests. What commits is seen as a whole, what aborts
//! is not, whoever is fenced writes nothing, and a kill at any point leaves nothing half done.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeTransactionsRequest, ListTransactionsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use support::batches::{batch, transactional};
use support::broker::{Broker, DataDir, Options};
use support::client::{Client, LATEST};
use support::random::Random;
use support::transactions::{
    add, begin, commit_offset, committed_offset, end, init, produce, transactional_id, view,
};

const INVALID_PRODUCER_EPOCH: i16 = 47;
const INVALID_TXN_STATE: i16 = 48;
const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
const PRODUCER_FENCED: i16 = 90;
const TRANSACTION_ABORTABLE: i16 = 120;

/// Kills of the history test.
const KILLS: u32 = 6;

fn options() -> Options {
    // Few partitions of the internal topics, so that a start is quick.
    Options::default()
        .with("transaction.state.log.num.partitions", "4")
        .with("offsets.topic.num.partitions", "4")
}

/// `tag/0` to `tag/count-1`, as the batches of a test hold them.
fn values(tag: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{tag}/{number}")).collect()
}

#[test]
fn committed_is_seen_as_a_whole_and_aborted_never() {
    let dir = DataDir::new("txn");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 2, &[]);
    let one = begin(&mut client, "one").expect("a producer");
    let two = begin(&mut client, "two").expect("a producer");
    assert_ne!(one.0, two.0);
    assert_eq!(add(&mut client, "one", one, &[("t", 0), ("t", 1)]).unwrap(), [0, 0]);
    let (a, b) = (transactional("a", 2, 10, one, 0), transactional("b", 1, 10, one, 0));
    let sent = produce(&mut client, 9, "one", &[("t", 0, &a), ("t", 1, &b)]).unwrap();
    assert_eq!(sent, [(0, 0), (0, 0)]);
    // The second one's partition is added by its batch (version 12).
    let c = transactional("c", 1, 10, two, 0);
    assert_eq!(produce(&mut client, 12, "two", &[("t", 0, &c)]).unwrap(), [(0, 2)]);
    assert_eq!(client.append("t", 0, -1, &batch("plain", 1, 10)), 3);

    let seen = view(&mut client, "t", 0, true).unwrap();
    assert_eq!((seen.values.len(), seen.last_stable, seen.high_watermark), (0, 0, 4));
    let seen = view(&mut client, "t", 0, false).unwrap();
    assert_eq!((seen.values.len(), seen.last_stable), (4, 0));
    assert_eq!(client.offset("t", 0, LATEST), 4);

    assert_eq!(end(&mut client, 4, "one", one, true).unwrap(), Ok(one));
    let seen = view(&mut client, "t", 0, true).unwrap();
    assert_eq!((seen.values, seen.last_stable), (values("a", 2), 2));
    assert_eq!(view(&mut client, "t", 1, true).unwrap().values, values("b", 1));
    let next = end(&mut client, 5, "two", two, false).unwrap().expect("aborted");
    assert_eq!(next, (two.0, two.1 + 1), "an epoch for each transaction");
    let visible = [values("a", 2), values("plain", 1)].concat();
    let seen = view(&mut client, "t", 0, true).unwrap();
    assert_eq!((&seen.values, seen.last_stable == seen.high_watermark), (&visible, true));
    // Repetitions of an end are answered, contradictions refused.
    assert_eq!(end(&mut client, 4, "one", one, true).unwrap(), Ok(one));
    assert_eq!(end(&mut client, 4, "one", one, false).unwrap(), Err(INVALID_TXN_STATE));
    assert_eq!(end(&mut client, 5, "two", two, false).unwrap(), Ok(next));
    assert_eq!(end(&mut client, 5, "two", two, true).unwrap(), Err(INVALID_TXN_STATE));
    // The next transaction of either: the same epoch for one, the next one for two.
    let d = transactional("d", 1, 10, one, 2);
    assert_eq!(add(&mut client, "one", one, &[("t", 0)]).unwrap(), [0]);
    assert_eq!(produce(&mut client, 9, "one", &[("t", 0, &d)]).unwrap()[0].0, 0);
    let e = transactional("e", 1, 10, next, 0);
    assert_eq!(produce(&mut client, 12, "two", &[("t", 0, &e)]).unwrap()[0].0, 0);
    assert!(end(&mut client, 5, "two", next, true).unwrap().is_ok());
    assert_eq!(view(&mut client, "t", 0, true).unwrap().values, visible, "d is not decided");
    assert!(end(&mut client, 4, "one", one, true).unwrap().is_ok());
    let visible = [visible, values("d", 1), values("e", 1)].concat();
    assert_eq!(view(&mut client, "t", 0, true).unwrap().values, visible);

    // Both kinds of stop keep what is known of aborted and open transactions.
    let f = transactional("f", 1, 10, one, 3);
    assert_eq!(add(&mut client, "one", one, &[("t", 0)]).unwrap(), [0]);
    assert_eq!(produce(&mut client, 9, "one", &[("t", 0, &f)]).unwrap()[0].0, 0);
    broker.stop();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let seen = view(&mut client, "t", 0, true).unwrap();
    assert_eq!((&seen.values, seen.high_watermark - seen.last_stable), (&visible, 1));
    broker.kill();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let seen = view(&mut client, "t", 0, true).unwrap();
    assert_eq!((&seen.values, seen.high_watermark - seen.last_stable), (&visible, 1));
    assert!(end(&mut client, 4, "one", one, true).unwrap().is_ok());
    let visible = [visible, values("f", 1)].concat();
    assert_eq!(view(&mut client, "t", 0, true).unwrap().values, visible);
    broker.stop();
}

#[test]
fn who_is_fenced_or_not_in_a_transaction_writes_nothing() {
    let dir = DataDir::new("fence");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    assert_eq!(init(&mut client, "x", 0, None).unwrap(), Err(INVALID_TRANSACTION_TIMEOUT));
    assert_eq!(init(&mut client, "x", 900_001, None).unwrap(), Err(INVALID_TRANSACTION_TIMEOUT));
    assert_eq!(add(&mut client, "x", (5, 0), &[("t", 0)]).unwrap(), [INVALID_PRODUCER_ID_MAPPING]);
    let first = begin(&mut client, "x").unwrap();
    let bytes = transactional("a", 1, 10, first, 0);
    let codes = [(9, INVALID_TXN_STATE), (11, TRANSACTION_ABORTABLE)];
    for (version, code) in codes {
        assert_eq!(produce(&mut client, version, "x", &[("t", 0, &bytes)]).unwrap(), [(code, -1)]);
    }
    // A batch of a transaction without a transactional id, and one that claims to be a marker.
    assert_eq!(client.produce("t", 0, -1, &bytes).unwrap().0, INVALID_TXN_STATE);
    let marker = ringlog::wire::control_batch::Marker {
        producer_id: first.0,
        producer_epoch: first.1,
        commit: true,
        coordinator_epoch: 0,
    };
    let marker = ringlog::wire::control_batch::encode(&marker, ringlog::rt::wall_ms());
    assert_eq!(client.produce("t", 0, -1, &marker).unwrap().0, 87);
    assert_eq!(add(&mut client, "x", first, &[("t", 7), ("t", 0)]).unwrap(), [3, 55]);

    assert_eq!(add(&mut client, "x", first, &[("t", 0)]).unwrap(), [0]);
    assert_eq!(produce(&mut client, 9, "x", &[("t", 0, &bytes)]).unwrap(), [(0, 0)]);
    // A plain batch of the same producer does not get in between.
    let plain = support::batches::idempotent("p", 1, 10, first, 1);
    assert_eq!(client.produce("t", 0, -1, &plain).unwrap().0, INVALID_TXN_STATE);
    // The newer producer aborts the older one's transaction.
    let second = begin(&mut client, "x").unwrap();
    assert_eq!((second.0, second.1 > first.1 + 1), (first.0, true), "the epoch between fences");
    let late = transactional("late", 1, 10, first, 1);
    for version in [9, 12] {
        let code = produce(&mut client, version, "x", &[("t", 0, &late)]).unwrap()[0].0;
        assert_eq!(code, INVALID_PRODUCER_EPOCH);
    }
    assert_eq!(add(&mut client, "x", first, &[("t", 0)]).unwrap(), [PRODUCER_FENCED]);
    assert_eq!(end(&mut client, 4, "x", first, true).unwrap(), Err(PRODUCER_FENCED));
    assert_eq!(end(&mut client, 1, "x", first, true).unwrap(), Err(INVALID_PRODUCER_EPOCH));
    let seen = view(&mut client, "t", 0, true).unwrap();
    assert_eq!((seen.values.len(), seen.last_stable), (0, seen.high_watermark));
    // Recovery with one's own epoch, and its repetition (KIP-360).
    let third = init(&mut client, "x", 1000, Some(second)).unwrap().expect("bumped");
    assert_eq!(third, (second.0, second.1 + 1));
    assert_eq!(init(&mut client, "x", 1000, Some(second)).unwrap(), Ok(third));
    assert_eq!(init(&mut client, "x", 1000, Some(first)).unwrap(), Err(PRODUCER_FENCED));
    broker.stop();
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() {
    let dir = DataDir::new("late");
    let interval = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    let broker = Broker::start(&dir, &options().with(interval, "50"));
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    let producer = init(&mut client, "x", 200, None).unwrap().expect("a producer");
    let bytes = transactional("a", 1, 10, producer, 0);
    assert_eq!(produce(&mut client, 12, "x", &[("t", 0, &bytes)]).unwrap(), [(0, 0)]);
    support::eventually("the abort", || {
        let seen = view(&mut client, "t", 0, true).expect("readable");
        (seen.last_stable == seen.high_watermark && seen.high_watermark == 2).then_some(())
    });
    assert_eq!(view(&mut client, "t", 0, true).unwrap().values.len(), 0);
    assert_eq!(end(&mut client, 5, "x", producer, true).unwrap(), Err(PRODUCER_FENCED));
    let next = transactional("b", 1, 10, producer, 1);
    assert_eq!(produce(&mut client, 12, "x", &[("t", 0, &next)]).unwrap()[0].0, INVALID_PRODUCER_EPOCH);
    broker.stop();
}

#[test]
fn administrators_see_transactions_and_producers() {
    let dir = DataDir::new("describe");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    let producer = begin(&mut client, "x").unwrap();
    begin(&mut client, "other").unwrap();
    let bytes = transactional("a", 3, 10, producer, 0);
    assert_eq!(produce(&mut client, 12, "x", &[("t", 0, &bytes)]).unwrap(), [(0, 0)]);
    let ids = vec![transactional_id("x"), transactional_id("nobody")];
    let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
    let states = client.call(0, &request).unwrap().transaction_states;
    assert_eq!((states[0].transaction_state.as_str(), states[0].producer_id.0), ("Ongoing", producer.0));
    assert_eq!((states[0].topics[0].partitions.as_slice(), states[1].error_code), (&[0][..], 105));
    let ongoing = vec![StrBytes::from_static_str("Ongoing")];
    let request = ListTransactionsRequest::default().with_state_filters(ongoing).with_duration_filter(-1);
    let listed = client.call(1, &request).unwrap().transaction_states;
    assert_eq!((listed.len(), listed[0].transactional_id.as_str()), (1, "x"));
    let pattern = Some(StrBytes::from_static_str("o.*"));
    let request =
        ListTransactionsRequest::default().with_duration_filter(-1).with_transactional_id_pattern(pattern);
    assert_eq!(client.call(2, &request).unwrap().transaction_states[0].transactional_id.as_str(), "other");
    let topic = kafka_protocol::messages::describe_producers_request::TopicRequest::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partition_indexes(vec![0]);
    let request = DescribeProducersRequest::default().with_topics(vec![topic]);
    let found = client.call(0, &request).unwrap();
    let state = &found.topics[0].partitions[0].active_producers[0];
    assert_eq!(
        (state.producer_id.0, state.last_sequence, state.current_txn_start_offset),
        (producer.0, 2, 0)
    );
    broker.stop();
}

/// What a test knows of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The broker said that it is committed.
    Committed,
    /// It was aborted, or never asked to commit.
    Aborted,
    /// Asked to commit; no answer.
    Unknown,
}

/// Every transaction, and the offset that it commits for the group: its number.
type Fates = BTreeMap<String, (Fate, i64)>;

/// Writes transactions into both partitions, each with an offset of the group, until the broker is gone.
fn write_until_killed(client: &mut Client, round: u32, version_2: bool, fates: &mut Fates) {
    let mut random = Random::new(u64::from(round));
    let id = "history";
    let Ok(mut producer) = begin(client, id) else { return };
    let mut sequences = [0; 2];
    for number in 0.. {
        let tag = format!("r{round}-{number}");
        let order = fates.len() as i64;
        fates.insert(tag.clone(), (Fate::Aborted, order));
        if !version_2
            && !matches!(add(client, id, producer, &[("t", 0), ("t", 1)]), Ok(codes) if codes == [0, 0])
        {
            return;
        }
        for _ in 0..1 + random.below(2) {
            let parts: Vec<Vec<u8>> =
                (0..2).map(|at| transactional(&tag, 1, 9000, producer, sequences[at])).collect();
            let batches = [("t", 0, parts[0].as_slice()), ("t", 1, parts[1].as_slice())];
            match produce(client, if version_2 { 12 } else { 9 }, id, &batches) {
                Ok(results) => assert!(results.iter().all(|(code, _)| *code == 0), "{results:?}"),
                Err(_) => return,
            }
            sequences.iter_mut().for_each(|sequence| *sequence += 1);
        }
        let version = if version_2 { 5 } else { 3 };
        match commit_offset(client, version, id, producer, ("group", "t", order)) {
            Ok(code) => assert_eq!(code, 0, "TxnOffsetCommit"),
            Err(_) => return,
        }
        let commit = random.below(3) > 0;
        if commit {
            fates.insert(tag.clone(), (Fate::Unknown, order));
        }
        match end(client, if version_2 { 5 } else { 4 }, id, producer, commit) {
            Ok(Ok(next)) => {
                if next.1 != producer.1 {
                    sequences = [0; 2];
                }
                producer = next;
            }
            Ok(Err(code)) => panic!("EndTxn: error {code}"),
            Err(_) => return,
        }
        if commit {
            fates.insert(tag, (Fate::Committed, order));
        }
    }
}

#[test]
fn a_kill_at_any_point_leaves_nothing_half_done() {
    let dir = DataDir::new("history");
    let mut random = Random::new(7);
    let mut fates = Fates::new();
    let mut broker = Broker::start(&dir, &options());
    // Small segments: what is known of aborted transactions comes from index files as well as from scans.
    broker.connect().create("t", 2, &[("segment.bytes", "1048576")]);
    for round in 0..KILLS {
        let (mut client, stop) = (broker.connect(), AtomicBool::new(false));
        let pause = Duration::from_millis(150 + random.below(500));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                write_until_killed(&mut client, round, round % 2 == 1, &mut fates);
                stop.store(true, Ordering::Relaxed);
            });
            std::thread::sleep(pause);
            assert!(!stop.load(Ordering::Relaxed) || writer.is_finished());
            broker.kill();
            writer.join().expect("the writer");
        });
        broker = Broker::start(&dir, &options());
        let mut client = broker.connect();
        // Ends what the round before left open; decided ones are completed by the start itself.
        begin(&mut client, "history").expect("a producer");
        check(&mut client, &fates);
    }
    broker.stop();
    let committed = fates.values().filter(|(fate, _)| *fate == Fate::Committed).count();
    assert!(committed > 0, "the test wrote nothing");
}

fn check(client: &mut Client, fates: &Fates) {
    let views: Vec<_> = (0..2)
        .map(|partition| {
            support::eventually("everything is decided", || {
                let seen = view(client, "t", partition, true).expect("readable");
                (seen.last_stable == seen.high_watermark).then_some(seen.values)
            })
        })
        .collect();
    assert_eq!(views[0], views[1], "both partitions hold the same transactions in the same order");
    let seen: BTreeSet<&str> =
        views[0].iter().filter_map(|value| value.split_once('/')).map(|(tag, _)| tag).collect();
    // The group's offset is that of the last transaction that is there.
    let last = views[0].last().and_then(|value| value.split_once('/')).map(|(tag, _)| fates[tag].1);
    let offset = support::eventually("the group's coordinator has loaded", || {
        committed_offset(client, "group", "t").expect("an answer").ok()
    });
    assert_eq!(offset, last.unwrap_or(-1), "records and offset of a transaction belong together");
    for (tag, (fate, _)) in fates {
        match fate {
            Fate::Committed => assert!(seen.contains(tag.as_str()), "{tag} was committed and is not there"),
            Fate::Aborted => assert!(!seen.contains(tag.as_str()), "{tag} was aborted and is there"),
            Fate::Unknown => {}
        }
    }
}

/// A client that bumps its epoch (KIP-360) and loses the answer asks again with what it knows, also when the broker was
/// killed in between: it gets the epoch it was given. The epoch before was kept in memory only, and it was fenced.
#[test]
fn a_bump_is_repeated_after_a_kill() {
    let dir = DataDir::new("bump");
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let first = begin(&mut client, "x").expect("a producer");
    let second = init(&mut client, "x", 60_000, Some(first)).expect("an answer").expect("a bump");
    assert_eq!(second, (first.0, first.1 + 1));
    broker.kill();
    let broker = Broker::start(&dir, &options());
    let mut client = broker.connect();
    let again = support::eventually("the coordinator has loaded", || {
        init(&mut client, "x", 60_000, Some(first)).expect("an answer").ok()
    });
    assert_eq!(again, second, "the same bump");
    let third = init(&mut client, "x", 60_000, Some(second)).expect("an answer").expect("a bump");
    assert_eq!(third, (first.0, first.1 + 2));
    assert_eq!(init(&mut client, "x", 60_000, Some(first)).expect("an answer"), Err(PRODUCER_FENCED));
    broker.stop();
}
