//! Stops and starts: what a clean stop keeps, what a kill changes, and when the broker refuses to start.

mod support;

use std::time::{Duration, Instant};

use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::client::{EARLIEST, LATEST};

const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 76;

fn one_core() -> Options {
    Options::default().one_core()
}

#[test]
fn a_clean_stop_keeps_everything_and_the_leader_epoch() {
    let dir = DataDir::new("clean");
    let broker = Broker::start(&dir, &Options::default());
    let mut client = broker.connect();
    client.create("kept", 3, &[("segment.bytes", "1048576"), ("max.message.bytes", "700000")]);
    client.create("empty", 1, &[]);
    let producer = client.init_producer();
    let mut sent = Vec::new();
    for number in 0..60 {
        let batch = batches::idempotent(&format!("k{number}"), 2, 40_000, producer, number * 2);
        sent.push((client.append("kept", 1, if number % 2 == 0 { -1 } else { 1 }, &batch), batch));
    }
    let id = client.metadata(&["kept"]).topics[0].topic_id;
    let epoch = client.leader_epoch("kept", 1);
    broker.stop();

    let broker = Broker::start(&dir, &Options::default());
    assert!(!broker.stderr().contains("not clean"), "{}", broker.stderr());
    let mut client = broker.connect();
    assert_eq!(client.leader_epoch("kept", 1), epoch, "no new reign after a clean stop");
    assert_eq!(
        (client.metadata(&["kept"]).topics[0].topic_id, broker.ready_line.contains("2 topics, 4 part")),
        (id, true)
    );
    assert_eq!((client.offset("kept", 1, EARLIEST), client.offset("kept", 1, LATEST)), (0, 120));
    assert_eq!((client.offset("kept", 0, LATEST), client.offset("empty", 0, LATEST)), (0, 0));
    let found = client.read_from("kept", 1, 0).expect("readable");
    assert_eq!(found.len(), sent.len());
    for ((offset, batch), found) in sent.iter().zip(&found) {
        assert_eq!((found.info.base_offset, found.digest), (*offset, batches::digest(batch)));
    }
    // Idempotent state: the last five are recognised, the next one follows.
    for (offset, batch) in &sent[sent.len() - 5..] {
        assert_eq!(client.append("kept", 1, -1, batch), *offset, "a repetition gets the original's offset");
    }
    let gap = batches::idempotent("gap", 1, 10, producer, 500);
    assert_eq!(client.produce("kept", 1, -1, &gap).expect("an answer").0, 45);
    assert_eq!(client.append("kept", 1, -1, &batches::idempotent("next", 1, 10, producer, 120)), 120);
    // Topic configuration: too large for this topic, not for the broker's default.
    let large = batches::batch("large", 1, 800_000);
    assert_eq!(client.produce("kept", 0, 1, &large).expect("an answer").0, 10, "max.message.bytes survives");
    assert_eq!(client.append("empty", 0, 1, &large), 0);
    broker.stop();
}

#[test]
fn producer_ids_are_not_given_twice_across_restarts() {
    let dir = DataDir::new("ids");
    let mut all = Vec::new();
    for clean in [true, false, true] {
        let broker = Broker::start(&dir, &one_core());
        let mut client = broker.connect();
        all.extend((0..3).map(|_| client.init_producer().0));
        if clean { broker.stop() } else { broker.kill() }
    }
    let mut unique = all.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), all.len(), "{all:?}");
}

#[test]
fn the_leader_epoch_rises_with_a_kill_and_tells_where_reigns_end() {
    let dir = DataDir::new("epochs");
    let mut ends = Vec::new();
    for reign in 1..5 {
        let broker = Broker::start(&dir, &one_core());
        let mut client = broker.connect();
        if reign == 1 {
            client.create("reigns", 1, &[]);
        } else {
            assert!(broker.stderr().contains("not clean"), "{}", broker.stderr());
        }
        assert_eq!(client.leader_epoch("reigns", 0), reign);
        // The third reign writes nothing.
        let count = [3, 2, 0, 4][reign as usize - 1];
        for number in 0..count {
            client.append("reigns", 0, -1, &batches::batch(&format!("{reign}/{number}"), 2, 50));
        }
        ends.push(client.offset("reigns", 0, LATEST));
        assert_eq!(client.epoch_end("reigns", 0, reign, reign).0, 0);
        if reign > 1 {
            assert_eq!(client.epoch_end("reigns", 0, reign - 1, 0).0, FENCED_LEADER_EPOCH);
        }
        assert_eq!(client.epoch_end("reigns", 0, reign + 1, 0).0, UNKNOWN_LEADER_EPOCH);
        broker.kill();
    }
    assert_eq!(ends, [6, 10, 10, 18]);
    // Killed after the last reign as well, so this is the fifth; and then again, over a clean stop.
    for _ in 0..2 {
        let broker = Broker::start(&dir, &one_core());
        let mut client = broker.connect();
        assert_eq!(client.leader_epoch("reigns", 0), 5);
        let end = |client: &mut support::client::Client, epoch| client.epoch_end("reigns", 0, 5, epoch);
        assert_eq!(end(&mut client, 1), (0, 1, 6));
        assert_eq!(end(&mut client, 2), (0, 2, 10));
        // The epoch without records ends where the one before it does, under that one's name (KIP-320).
        assert_eq!(end(&mut client, 3), (0, 2, 10));
        assert_eq!(end(&mut client, 4), (0, 4, 18));
        let found = client.read_from("reigns", 0, 0).expect("readable");
        let epochs: Vec<i32> = found.iter().map(|batch| batch.info.leader_epoch).collect();
        assert_eq!(epochs, [1, 1, 1, 2, 2, 4, 4, 4, 4]);
        broker.stop();
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = DataDir::new("second");
    let mut broker = Broker::start(&dir, &one_core());
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    // Something to drain: a fetch that is parked for long. The stop answers it, so it may also end by itself.
    let request = support::client::fetch_request(&[("t", 0, 0)], 60_000, 1, 1 << 20);
    client.send(support::client::FETCH_VERSION, &request).expect("sent");
    broker.signal(libc::SIGTERM);
    broker.signal(libc::SIGINT);
    let (status, stdout, stderr) = broker.wait();
    let at_once = status.code() == Some(130) && stderr.contains("second signal");
    let clean = status.success() && stdout.contains("stopped cleanly");
    assert!(at_once || clean, "{status}\n{stdout}\n{stderr}");
    let broker = Broker::start(&dir, &one_core());
    broker.stop();
}

#[test]
fn a_stop_answers_parked_fetches_and_does_not_wait_for_idle_connections() {
    let dir = DataDir::new("parked");
    let broker = Broker::start(&dir, &Options::default());
    let mut client = broker.connect();
    client.create("t", 4, &[]);
    let _idle: Vec<_> = (0..20).map(|_| broker.connect()).collect();
    let parts: Vec<_> = (0..4).map(|partition| ("t", partition, 0)).collect();
    let request = support::client::fetch_request(&parts, 120_000, 1, 1 << 20);
    let id = client.send(support::client::FETCH_VERSION, &request).expect("sent");
    // The fetch is parked for sure once a request behind it on another connection was answered.
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    broker.stop();
    assert!(began.elapsed() < support::PATIENCE);
    let answer = client.receive::<kafka_protocol::messages::FetchRequest>(support::client::FETCH_VERSION, id);
    assert_eq!(answer.expect("an answer before the connection ends").error_code, 0);
}

fn refusal(dir: &DataDir, options: &Options) -> String {
    match Broker::try_start(dir, options) {
        Ok(_) => panic!("it started"),
        Err((status, stderr)) => {
            assert_eq!(status.code(), Some(1), "{stderr}");
            stderr
        }
    }
}

#[test]
fn it_refuses_to_start_where_it_must_and_says_why() {
    let dir = DataDir::new("refuse");
    let broker = Broker::start(&dir, &one_core());
    // The second process would truncate the first one's stderr file: a directory of its own, the same data.
    let other = DataDir::new("refuse-other");
    std::os::unix::fs::symlink(dir.data(), other.data()).expect("a link");
    let text = refusal(&other, &one_core());
    assert!(text.contains("in use by process") && text.contains(&broker.pid().to_string()), "{text}");

    let third = DataDir::new("refuse-port");
    let taken = Options { listen: format!("127.0.0.1:{}", broker.port), ..one_core() };
    let text = refusal(&third, &taken);
    assert!(text.contains(&format!("port {} is in use", broker.port)), "{text}");

    let mut client = broker.connect();
    client.create("t", 1, &[]);
    broker.stop();
    let text = refusal(&dir, &one_core().with("node.id", "7"));
    assert!(text.contains("node") && text.contains('7'), "{text}");
    // None of the refusals has used up the clean mark.
    let broker = Broker::start(&dir, &one_core());
    assert!(!broker.stderr().contains("not clean"), "{}", broker.stderr());
    assert_eq!(broker.connect().leader_epoch("t", 0), 1, "a topic begins above all epochs before it");
    broker.stop();
}

#[test]
fn topics_and_configuration_survive_a_kill_right_after_the_answer() {
    let dir = DataDir::new("catalog");
    for round in 0..5 {
        let broker = Broker::start(&dir, &one_core());
        let mut client = broker.connect();
        for earlier in 0..round {
            let topic = client.metadata(&[&format!("t{earlier}")]);
            assert_eq!((topic.topics[0].error_code, topic.topics[0].partitions.len()), (0, earlier + 1));
        }
        if round > 0 {
            let gone = client.metadata(&[&format!("gone{}", round - 1)]);
            assert_eq!(gone.topics[0].error_code, 3, "a deleted topic stays deleted");
        }
        client.create(&format!("gone{round}"), 2, &[]);
        client.append(&format!("gone{round}"), 0, 1, &batches::batch("x", 1, 10));
        client.delete(&format!("gone{round}"));
        client.create(&format!("t{round}"), round as i32 + 1, &[]);
        broker.kill();
    }
}

/// The story: the load harness killed a broker under load and started it again at once. The connections that the old
/// one had closed were in TIME_WAIT, on its port and without SO_REUSEADDR, and for a minute every start was refused:
/// "port 9092 is in use by another process".
#[test]
fn a_broker_takes_its_port_again_at_once() {
    let dir = DataDir::new("port");
    let broker = Broker::start(&dir, &one_core());
    let listen = format!("127.0.0.1:{}", broker.port);
    let mut clients: Vec<_> = (0..8).map(|_| broker.connect()).collect();
    clients.iter_mut().for_each(|client| {
        client.metadata(&[]);
    });
    broker.stop();
    drop(clients);
    let again = Options { listen, ..one_core() };
    let broker = Broker::start(&dir, &again);
    let client = broker.connect();
    broker.kill();
    drop(client);
    Broker::start(&dir, &again).stop();
}

/// A run of 2026-11-30 filled the disk on which the broker's log was, too, and the first line that could not be written
/// ended it: the logger complains on stderr about a stderr that takes nothing, and that is a panic.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let dir = DataDir::new("mute");
    let options = Options { log: Some("/dev/full".into()), ..one_core() };
    let mut broker = Broker::start(&dir, &options);
    let mut client = broker.connect();
    client.create("quiet", 2, &[]);
    client.append("quiet", 1, -1, &batches::batch("said", 1, 1000));
    broker.assert_serving();
    let (status, stdout, _) = broker.terminate();
    assert!(status.success() && stdout.contains("stopped cleanly"), "{status}: {stdout}");
}
