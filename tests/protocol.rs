//! The protocol under strain, on both cores: hostile and slow peers, pipelining, limits, waiting fetches, rolling,
//! retention and deletion while others work. Single requests and their answers are in tests/clients.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kafka_protocol::messages::{
    ApiVersionsRequest, DescribeLogDirsRequest, FetchRequest, ProduceRequest, ProduceResponse, ResponseHeader,
};
use kafka_protocol::protocol::Decodable;
use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::client::{self, Client, EARLIEST, FETCH_VERSION, LATEST, PRODUCE_VERSION};
use support::eventually;
use support::random::Random;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// Connections that are enough to have met both cores: the kernel spreads them by a hash.
const CONNECTIONS_FOR_BOTH_CORES: usize = 16;
const MIB: u64 = 1 << 20;

fn start(label: &str) -> (DataDir, Broker) {
    let dir = DataDir::new(label);
    let broker = Broker::start(&dir, &Options::default());
    (dir, broker)
}

fn raw(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", broker.port)).expect("connected");
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("time-out");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    stream
}

// --- peers that mean no good ---

#[test]
fn hostile_frames_cost_a_connection_and_no_memory() {
    let (_dir, mut broker) = start("hostile");
    let mut random = Random::from_environment(99);
    broker.connect().create("t", 2, &[]);
    broker.assert_serving();
    let before = broker.resident_bytes();
    let honest = [
        client::frame_of(
            1,
            PRODUCE_VERSION,
            &client::produce_request(&[("t", 0, &batches::batch("x", 3, 100))], 1),
        ),
        client::frame_of(2, FETCH_VERSION, &client::fetch_request(&[("t", 0, 0), ("t", 1, 0)], 0, 0, 1000)),
        client::frame_of(3, 3, &ApiVersionsRequest::default()),
    ];
    let mut held = Vec::new();
    for round in 0..600 {
        let mut stream = raw(&broker);
        let mut frame = honest[random.below(honest.len() as u64) as usize].to_vec();
        match round % 6 {
            // A length from the edge of what can be said, and a little behind it.
            0 => {
                let lengths = [-1, i32::MIN, 0, 1, 7, i32::MAX, 104_857_600, 104_857_601, 1 << 24];
                let length: i32 = lengths[random.below(lengths.len() as u64) as usize];
                frame = length.to_be_bytes().to_vec();
                frame.extend(random.bytes(64));
            }
            // Any length, any bytes.
            1 => {
                let size = random.between(1, 300) as usize;
                frame = (size as i32).to_be_bytes().to_vec();
                frame.extend(random.bytes(size));
            }
            // A right header, noise behind it.
            2 => {
                let from = random.between(8, 20) as usize;
                for byte in &mut frame[from..] {
                    *byte = random.next() as u8;
                }
            }
            // One changed byte.
            3 => {
                let at = random.between(4, frame.len() as u64) as usize;
                frame[at] = random.next() as u8;
            }
            // Some length inside set to a huge one.
            4 => {
                let at = random.between(4, frame.len() as u64 - 3) as usize;
                frame[at..at + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
            }
            // Cut.
            _ => frame.truncate(random.between(1, frame.len() as u64) as usize),
        }
        // The broker may have hung up already.
        let _ = stream.write_all(&frame);
        if held.len() < 200 {
            held.push(stream);
        }
    }
    broker.assert_serving();
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "resident memory grew by {} MiB", grown / MIB);
    drop(held);
    broker.assert_serving();
    broker.stop();
}

#[test]
fn half_frames_hold_nobody_up() {
    let (_dir, mut broker) = start("half");
    broker.connect().create("t", 4, &[]);
    let before = broker.resident_bytes();
    let produce = client::produce_request(&[("t", 0, &batches::batch("x", 1, 500_000))], 1);
    let large = client::frame_of(1, PRODUCE_VERSION, &produce);
    let small = client::frame_of(1, FETCH_VERSION, &client::fetch_request(&[("t", 0, 0)], 0, 0, 1000));
    let mut slow = Vec::new();
    for number in 0..120 {
        let mut stream = raw(&broker);
        let part: &[u8] = match number % 4 {
            0 => &large[..large.len() / 2],
            1 => &small[..small.len() - 1],
            2 => &small[..3],
            // The largest frame there may be, announced and not sent.
            _ => &[0x06, 0x40, 0, 0, 0, 0, 0, 9],
        };
        let _ = stream.write(part);
        slow.push(stream);
    }
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS_FOR_BOTH_CORES {
            let broker = &broker;
            scope.spawn(move || {
                let mut client = broker.connect();
                for partition in 0..4 {
                    let tag = format!("{number}/{partition}");
                    client.append("t", partition, 1, &batches::batch(&tag, 1, 300));
                    client.append("t", partition, 1, &batches::batch(&tag, 1, 400_000));
                }
                // Two partitions, so that the frame needs memory of its own.
                let (one, two) = (batches::batch("one", 1, 200_000), batches::batch("two", 1, 200_000));
                let request = client::produce_request(&[("t", 0, &one), ("t", 1, &two)], 1);
                let response = client.call(PRODUCE_VERSION, &request).expect("an answer");
                assert!(client::produce_results(&response).iter().all(|result| result.2 == 0));
            });
        }
    });
    assert!(began.elapsed() < support::PATIENCE);
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 200 * MIB, "resident memory grew by {} MiB", grown / MIB);
    drop(slow);
    broker.assert_serving();
    broker.stop();
}

/// Frame memory is reserved when a frame begins: one peer that stalled (or lost its link) in the middle of a frame
/// of 100 MB kept every other large frame of its core waiting for ever.
#[test]
fn a_peer_that_stalls_in_a_large_frame_is_hung_up_on() {
    let dir = DataDir::new("stalled");
    let broker = Broker::start(&dir, &Options::default().one_core());
    let mut client = broker.connect();
    client.create("t", 2, &[]);
    let mut stalled = raw(&broker);
    let mut announced = vec![0; 3000];
    announced[..8].copy_from_slice(&[0x06, 0x40, 0, 0, 0, 0, 0, 9]);
    stalled.write_all(&announced).expect("sent");
    // Small requests do not notice.
    client.append("t", 0, 1, &batches::batch("small", 1, 1000));
    let (one, two) = (batches::batch("one", 1, 200_000), batches::batch("two", 1, 200_000));
    client.set_timeout(2 * support::PATIENCE);
    let request = client::produce_request(&[("t", 0, &one), ("t", 1, &two)], 1);
    let response = client.call(PRODUCE_VERSION, &request).expect("an answer");
    assert!(client::produce_results(&response).iter().all(|result| result.2 == 0));
    stalled.set_read_timeout(Some(2 * support::PATIENCE)).expect("time-out");
    assert!(matches!(stalled.read(&mut [0; 16]), Ok(0) | Err(_)), "an answer to half a frame");
    broker.stop();
}

#[test]
fn peers_that_never_read_their_answers_hold_nobody_up() {
    let (_dir, mut broker) = start("deaf");
    let mut client = broker.connect();
    client.create("t", 4, &[]);
    for partition in 0..4 {
        for number in 0..8 {
            client.append("t", partition, 1, &batches::batch(&format!("{partition}/{number}"), 1, 900_000));
        }
    }
    let before = broker.resident_bytes();
    let parts: Vec<_> = (0..4).map(|partition| ("t", partition, 0)).collect();
    let frame = client::frame_of(1, FETCH_VERSION, &client::fetch_request(&parts, 0, 1, 8 << 20));
    let mut deaf = Vec::new();
    for _ in 0..40 {
        let mut stream = raw(&broker);
        for _ in 0..60 {
            if stream.write_all(&frame).is_err() {
                break;
            }
        }
        deaf.push(stream);
    }
    for number in 0..CONNECTIONS_FOR_BOTH_CORES {
        let mut client = broker.connect();
        for partition in 0..4 {
            client.append("t", partition, -1, &batches::batch(&format!("a{number}/{partition}"), 1, 300_000));
            let found = client.read_from("t", partition, 7).expect("readable");
            assert!(found.len() > number);
        }
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 256 * MIB, "resident memory grew by {} MiB", grown / MIB);
    drop(deaf);
    broker.assert_serving();
    broker.stop();
}

#[test]
fn connections_are_limited() {
    let dir = DataDir::new("limit");
    let broker = Broker::start(&dir, &Options::default().one_core().with("max.connections", "8"));
    let mut clients: Vec<Client> = (0..8).map(|_| broker.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.api_versions().expect("an answer")));
    let refused = Client::connect(broker.port).and_then(|mut client| client.api_versions());
    assert!(refused.is_err(), "the ninth connection was served");
    clients.iter_mut().for_each(|client| drop(client.api_versions().expect("an answer")));
    clients.pop();
    eventually("a free place is given away", || {
        Client::connect(broker.port).and_then(|mut client| client.api_versions()).ok()
    });
    broker.stop();
}

#[test]
fn connections_of_one_address_are_limited_and_idle_ones_end() {
    let dir = DataDir::new("per-ip");
    // On two cores: the kernel spreads connections, the limit is the broker's.
    let options = Options::default().with("max.connections.per.ip", "2");
    let broker = Broker::start(&dir, &options.with("connections.max.idle.ms", "1000"));
    let mut clients: Vec<Client> = (0..2).map(|_| broker.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.api_versions().expect("an answer")));
    let refused = Client::connect(broker.port).and_then(|mut client| client.api_versions());
    assert!(refused.is_err(), "the third connection of one address was served");
    for client in &mut clients {
        client.set_timeout(Duration::from_secs(60));
        let ended = client.stream().read(&mut [0; 1]).expect("the broker hangs up and does not reset");
        assert_eq!(ended, 0);
    }
    eventually("a free place is given away", || {
        Client::connect(broker.port).and_then(|mut client| client.api_versions()).ok()
    });
    broker.stop();
}

/// Batches of all the sizes at which the way of receiving changes, pipelined, some torn over several sends and some
/// damaged, from several connections into one partition.
#[test]
fn batches_received_in_every_way_keep_their_order_and_their_bytes() {
    const SIZES: [usize; 8] = [100, 9_000, 14_000, 40_000, 64_000, 110_000, 300_000, 700_000];
    let (_dir, broker) = start("sizes");
    broker.connect().create("t", 1, &[]);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let broker = &broker;
            scope.spawn(move || {
                let mut client = broker.connect();
                client.set_timeout(Duration::from_secs(60));
                let mut sent = Vec::new();
                for turn in 0..48_usize {
                    let size = SIZES[(turn * 5 + number) % SIZES.len()] + turn;
                    let mut batch = batches::batch(&format!("{number}/{turn}"), 1, size);
                    let damaged = turn % 11 == 10;
                    if damaged {
                        let last = batch.len() - 1;
                        batch[last] ^= 1;
                    }
                    let request =
                        client::produce_request(&[("t", 0, &batch)], if turn % 3 == 0 { 1 } else { -1 });
                    let frame = client::frame_of(turn as i32, PRODUCE_VERSION, &request);
                    let cut = if turn % 4 == 1 { frame.len() * (turn % 7) / 7 } else { 0 };
                    client.stream().write_all(&frame[..cut]).expect("sent");
                    if cut > 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    client.stream().write_all(&frame[cut..]).expect("sent");
                    sent.push((damaged, batches::digest(&batch)));
                }
                let mut offsets = Vec::new();
                for (turn, (damaged, digest)) in sent.into_iter().enumerate() {
                    let answer: ProduceResponse =
                        client.receive::<ProduceRequest>(PRODUCE_VERSION, turn as i32).expect("an answer");
                    let (_, _, error, offset) = client::produce_results(&answer)[0].clone();
                    assert_eq!(error != 0, damaged);
                    if !damaged {
                        offsets.push((offset, digest));
                    }
                }
                assert!(offsets.is_sorted(), "the order of one connection is kept");
                let found = eventually("all is visible", || {
                    let found = client.read_from("t", 0, 0).expect("readable");
                    (found.last()?.info.base_offset >= offsets.last()?.0).then_some(found)
                });
                for (offset, digest) in offsets {
                    assert_eq!(found[offset as usize].digest, digest);
                }
            });
        }
    });
    broker.stop();
}

#[test]
fn each_core_has_an_endpoint_of_its_own_if_asked_for() {
    let dir = DataDir::new("affine");
    let broker = Broker::start(&dir, &Options::default().with("core.affine.listeners", "true"));
    let mut bootstrap = broker.connect();
    bootstrap.create("t", 4, &[]);
    let metadata = bootstrap.metadata(&["t"]);
    let ports: HashMap<i32, u16> =
        metadata.brokers.iter().map(|broker| (broker.node_id.0, broker.port as u16)).collect();
    assert_eq!(ports, HashMap::from([(1, broker.port), (1_000_001, broker.port + 1)]));
    assert_eq!(metadata.controller_id.0, 1);
    let mut leaders: Vec<i32> = Vec::new();
    for partition in &metadata.topics[0].partitions {
        let leader = partition.leader_id.0;
        assert_eq!((partition.replica_nodes.len(), partition.replica_nodes[0].0), (1, leader));
        leaders.push(leader);
        // At its leader, and, for a client that knows no better, at the other endpoint.
        for port in [ports[&leader], broker.port, broker.port + 1] {
            let mut client = Client::connect(port).expect("connected");
            let batch = batches::batch("x", 2, 100);
            let offset = client.append("t", partition.partition_index, -1, &batch);
            let read = client.fetch("t", partition.partition_index, offset, 1000).expect("an answer");
            assert_eq!(read.batches()[0].digest, batches::digest(&batch));
        }
    }
    leaders.sort_unstable();
    assert_eq!(leaders, [1, 1, 1_000_001, 1_000_001], "partitions go round robin");
    broker.stop();
}

/// Each wait registers with events that fire once in the broker's life: what stays behind there adds up.
#[test]
fn a_long_lived_connection_leaves_nothing_behind() {
    let (_dir, mut broker) = start("long");
    let mut client = broker.connect();
    client.create("t", 2, &[]);
    let frame = client::frame_of(1, 0, &ApiVersionsRequest::default());
    let request = client::fetch_request(&[("t", 0, 0), ("t", 1, 0)], 1, 1, 1000);
    let mut after_warm_up = 0;
    for round in 0..450 {
        // More than 32,767 requests in all: a task's wakers are counted in 16 bits.
        for _ in 0..100 {
            client.stream().write_all(&frame).expect("sent");
        }
        for _ in 0..100 {
            client.receive_frame().expect("an answer");
        }
        client.call(FETCH_VERSION, &request).expect("an answer");
        if round == 50 {
            after_warm_up = broker.resident_bytes();
        }
    }
    let grown = broker.resident_bytes().saturating_sub(after_warm_up);
    assert!(grown < 8 * MIB, "resident memory grew by {} KiB", grown >> 10);
    broker.assert_serving();
    broker.stop();
}

// --- produce ---

#[test]
fn two_hundred_requests_before_the_first_answer_is_read() {
    let (_dir, broker) = start("pipeline");
    let mut client = broker.connect();
    client.create("t", 4, &[]);
    let mut ids = Vec::new();
    let mut sent = HashMap::<i32, Vec<u64>>::new();
    for number in 0..200 {
        let partition = number % 4;
        let batch = batches::batch(&format!("p{number}"), 1, if number % 50 == 0 { 200_000 } else { 100 });
        sent.entry(partition).or_default().push(batches::digest(&batch));
        let acks = [1, -1][(number / 4 % 2) as usize];
        ids.push((client.send_produce("t", partition, acks, &batch).expect("sent"), number));
    }
    for (id, number) in ids {
        assert_eq!(client.produced(id).expect("an answer"), (0, i64::from(number / 4)));
    }
    for (partition, digests) in sent {
        let found = client.read_from("t", partition, 0).expect("readable");
        assert_eq!(found.iter().map(|batch| batch.digest).collect::<Vec<_>>(), digests);
    }
    broker.stop();
}

#[test]
fn every_connection_reaches_the_partitions_of_every_core() {
    let (_dir, broker) = start("cores");
    broker.connect().create("t", 6, &[]);
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS_FOR_BOTH_CORES {
            let broker = &broker;
            scope.spawn(move || {
                let mut client = broker.connect();
                for turn in 0..10 {
                    // One request for all partitions, small and large.
                    let size = if turn % 5 == 4 { 60_000 } else { 200 };
                    let made: Vec<Vec<u8>> =
                        (0..6).map(|p| batches::batch(&format!("{number}/{turn}/{p}"), 2, size)).collect();
                    let parts: Vec<(&str, i32, &[u8])> =
                        made.iter().zip(0..).map(|(batch, p)| ("t", p, &batch[..])).collect();
                    let request = client::produce_request(&parts, if turn % 2 == 0 { 1 } else { -1 });
                    let response = client.call(PRODUCE_VERSION, &request).expect("an answer");
                    let results = client::produce_results(&response);
                    assert_eq!(results.len(), 6);
                    for (_, partition, error, offset) in results {
                        assert_eq!(error, 0);
                        let read = eventually("the batch is visible", || {
                            let read = client.fetch("t", partition, offset, 100).expect("an answer");
                            (!read.records.is_empty()).then_some(read)
                        });
                        let first = &read.batches()[0];
                        assert_eq!(first.info.base_offset, offset);
                        assert_eq!(first.digest, batches::digest(&made[partition as usize]));
                    }
                }
            });
        }
    });
    let mut client = broker.connect();
    for partition in 0..6 {
        let end = (CONNECTIONS_FOR_BOTH_CORES * 10 * 2) as i64;
        assert_eq!(client.offset("t", partition, LATEST), end);
        let found = client.read_from("t", partition, 0).expect("readable");
        assert_eq!(found.iter().map(|batch| i64::from(batch.info.record_count)).sum::<i64>(), end);
    }
    broker.stop();
}

#[test]
fn mixed_acks_on_one_partition_keep_their_order() {
    let (_dir, broker) = start("acks");
    let mut client = broker.connect();
    client.create("t", 1, &[]);
    let mut ids = Vec::new();
    let mut sent = Vec::new();
    for number in 0..300 {
        let acks = [0, 1, -1, -1, 1][number % 5];
        let batch = batches::batch(&format!("m{number}"), 1, 2000);
        sent.push(batches::digest(&batch));
        let id = client.send_produce("t", 0, acks, &batch).expect("sent");
        if acks != 0 {
            ids.push((id, number as i64));
        }
    }
    for (id, offset) in ids {
        assert_eq!(client.produced(id).expect("an answer"), (0, offset));
    }
    let found = client.read_from("t", 0, 0).expect("readable");
    assert_eq!(found.iter().map(|batch| batch.digest).collect::<Vec<_>>(), sent);
    broker.stop();
}

// --- fetch ---

#[test]
fn a_fetch_parked_over_both_cores_is_woken_by_either() {
    let (_dir, broker) = start("parked");
    let mut producer = broker.connect();
    producer.create("t", 8, &[]);
    let parts: Vec<_> = (0..8).map(|partition| ("t", partition, 0)).collect();
    let mut ends = [0; 8];
    let mut waiting: Vec<Client> = (0..6).map(|_| broker.connect()).collect();
    for partition in 0..8 {
        let wanted: Vec<_> = parts.iter().zip(ends).map(|((t, p, _), end)| (*t, *p, end)).collect();
        // Longer than a socket waits in these tests: only a wake-up can answer in time.
        let request = client::fetch_request(&wanted, 200_000, 1, 1 << 20);
        let ids: Vec<i32> =
            waiting.iter_mut().map(|client| client.send(FETCH_VERSION, &request).expect("sent")).collect();
        producer.append("t", partition, if partition % 2 == 0 { 1 } else { -1 }, &batches::batch("w", 1, 50));
        for (client, id) in waiting.iter_mut().zip(ids) {
            let response = client.receive::<FetchRequest>(FETCH_VERSION, id).expect("woken");
            let with_data: Vec<i32> = client::read_results(&response)
                .iter()
                .filter(|(_, _, read)| !read.records.is_empty())
                .map(|(_, partition, _)| *partition)
                .collect();
            assert_eq!(with_data, [partition]);
        }
        ends[partition as usize] += 1;
    }
    broker.stop();
}

#[test]
fn min_bytes_and_max_wait_are_kept() {
    let (_dir, broker) = start("min");
    let mut client = broker.connect();
    client.create("t", 2, &[]);
    client.append("t", 0, 1, &batches::batch("one", 1, 1000));
    // Too little is there: the answer comes when the time is up, with what there is.
    let parts = [("t", 0, 0), ("t", 1, 0)];
    let began = Instant::now();
    let response =
        client.call(FETCH_VERSION, &client::fetch_request(&parts, 300, 50_000, 1 << 20)).expect("an answer");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert!(client::read_results(&response).iter().any(|(_, _, read)| !read.records.is_empty()));
    // More comes in, on both partitions together enough.
    let id =
        client.send(FETCH_VERSION, &client::fetch_request(&parts, 200_000, 50_000, 1 << 20)).expect("sent");
    let mut producer = broker.connect();
    for number in 0..6 {
        producer.append("t", number % 2, 1, &batches::batch(&format!("more{number}"), 1, 10_000));
    }
    let response = client.receive::<FetchRequest>(FETCH_VERSION, id).expect("an answer");
    let total: usize = client::read_results(&response).iter().map(|(_, _, read)| read.records.len()).sum();
    assert!(total >= 50_000, "{total} bytes");
    broker.stop();
}

#[test]
fn a_consumer_from_the_start_reads_from_disk_while_segments_roll() {
    let dir = DataDir::new("cold");
    let broker = Broker::start(&dir, &Options { memory: "128MiB".to_owned(), ..Options::default() });
    let mut client = broker.connect();
    client.create("t", 2, &[("segment.bytes", "4194304")]);
    let count = 160;
    std::thread::scope(|scope| {
        for partition in 0..2 {
            let broker = &broker;
            scope.spawn(move || {
                let mut producer = broker.connect();
                for number in 0..count {
                    let size = if number % 7 == 0 { 900_000 } else { 200_000 };
                    producer.append(
                        "t",
                        partition,
                        1,
                        &batches::batch(&format!("{partition}/{number}"), 1, size),
                    );
                }
            });
            for _ in 0..2 {
                scope.spawn(move || {
                    let mut consumer = broker.connect();
                    let mut at = 0;
                    while at < count {
                        let read = consumer.fetch("t", partition, at, 500).expect("an answer");
                        assert_eq!(read.error, 0, "at {at}");
                        for batch in read.batches() {
                            assert_eq!(batch.info.base_offset, at);
                            let wanted = format!("{partition}/{at}/0/");
                            assert!(
                                batch.bytes.windows(wanted.len()).any(|w| w == wanted.as_bytes()),
                                "at {at}"
                            );
                            at += 1;
                        }
                    }
                });
            }
        }
    });
    // 90 MiB went through; what the tail does not hold any more comes from disk, whole and in order.
    assert!(dir.segments("t", 0).len() > 8, "{:?}", dir.segments("t", 0));
    for _ in 0..CONNECTIONS_FOR_BOTH_CORES / 4 {
        let mut late = broker.connect();
        for partition in 0..2 {
            let found = late.read_from("t", partition, 0).expect("readable");
            assert_eq!(found.len(), count as usize);
        }
    }
    let resident = broker.resident_bytes();
    assert!(resident < 320 * MIB, "{} MiB resident with a budget of 128", resident / MIB);
    broker.stop();
}

#[test]
fn retention_by_size_raises_the_log_start() {
    let dir = DataDir::new("retention");
    let broker = Broker::start(&dir, &Options::default().with("log.retention.check.interval.ms", "50"));
    let mut client = broker.connect();
    client.create("t", 1, &[("segment.bytes", "1048576"), ("retention.bytes", "2097152")]);
    let mut start = 0;
    for number in 0..120 {
        client.append("t", 0, 1, &batches::batch(&format!("r{number}"), 1, 100_000));
        let now = client.offset("t", 0, EARLIEST);
        assert!(now >= start, "the log start fell from {start} to {now}");
        start = now;
    }
    let start = eventually("retention deletes", || {
        let start = client.offset("t", 0, EARLIEST);
        (start >= 120 - 45).then_some(start)
    });
    assert!(start <= 120 - 20, "less than retention.bytes is left: starts at {start}");
    let below = client.fetch("t", 0, start - 1, 0).expect("an answer");
    assert_eq!(below.error, OFFSET_OUT_OF_RANGE);
    let found = client.read_from("t", 0, start).expect("readable");
    assert_eq!((found[0].info.base_offset, found.len() as i64), (start, 120 - start));
    broker.stop();
}

// --- topics come and go ---

#[test]
fn a_topic_deleted_and_made_again_starts_empty_and_keeps_what_it_gets() {
    let (_dir, mut broker) = start("again");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut client = broker.connect();
        client.create("t", 4, &[("segment.bytes", "1048576")]);
        for _ in 0..2 {
            let (port, stop) = (broker.port, &stop);
            scope.spawn(move || {
                let mut consumer = Client::connect(port).expect("connected");
                let mut partition = 0;
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    let read = consumer.fetch("t", partition, at, 20).expect("an answer");
                    match read.error {
                        0 => {
                            let last = read.batches().last().map(|batch| batch.info.next_offset());
                            at = last.unwrap_or(at);
                        }
                        UNKNOWN_TOPIC_OR_PARTITION | OFFSET_OUT_OF_RANGE => {
                            partition = (partition + 1) % 4;
                            at = 0;
                        }
                        other => panic!("error {other} at {at}"),
                    }
                }
            });
        }
        let again = (|| {
            for round in 0..40 {
                let mut digests = HashMap::new();
                for partition in 0..4 {
                    for number in 0..3 {
                        let batch = batches::batch(&format!("{round}/{partition}/{number}"), 1, 400_000);
                        let offset = client.append("t", partition, if number == 1 { -1 } else { 1 }, &batch);
                        if offset != number {
                            return Err(format!("round {round}: offset {offset} for batch {number}"));
                        }
                        digests.insert((partition, offset), batches::digest(&batch));
                    }
                }
                for partition in 0..4 {
                    let found = client.read_from("t", partition, 0)?;
                    let same = found.iter().all(|b| digests[&(partition, b.info.base_offset)] == b.digest);
                    if found.len() != 3 || !same {
                        return Err(format!(
                            "round {round}: {} batches in partition {partition}",
                            found.len()
                        ));
                    }
                }
                client.delete("t");
                client.create("t", 4, &[("segment.bytes", "1048576")]);
            }
            for partition in 0..4 {
                client.append("t", partition, -1, &batches::batch("last", 1, 100));
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        again.expect("deleted and made again");
    });
    broker.assert_serving();
    broker.stop();
}

/// The directory of the old topic is moved away in the background; what the new one wrote must not go with it.
#[test]
fn what_a_recreated_topic_got_is_there_after_a_kill() {
    let dir = DataDir::new("again-kill");
    let mut broker = Broker::start(&dir, &Options::default());
    for round in 0..8 {
        let mut client = broker.connect();
        client.create("t", 4, &[]);
        for partition in 0..4 {
            client.append("t", partition, 1, &batches::batch(&format!("old{round}/{partition}"), 1, 200_000));
        }
        client.delete("t");
        client.create("t", 4, &[]);
        let mut sent = Vec::new();
        for partition in 0..4 {
            let batch = batches::batch(&format!("new{round}/{partition}"), 1, 100);
            assert_eq!(client.append("t", partition, -1, &batch), 0);
            sent.push(batches::digest(&batch));
        }
        broker.kill();
        broker = Broker::start(&dir, &Options::default());
        let mut client = broker.connect();
        for partition in 0..4 {
            let found = client.read_from("t", partition, 0).expect("readable");
            let found: Vec<u64> = found.iter().map(|batch| batch.digest).collect();
            assert_eq!(found, [sent[partition as usize]], "round {round}, partition {partition}");
        }
        client.delete("t");
    }
    broker.stop();
}

#[test]
fn describe_log_dirs_tells_the_bytes_of_each_partition() {
    let (dir, broker) = start("dirs");
    let mut client = broker.connect();
    client.create("t", 4, &[("segment.bytes", "1048576")]);
    let mut sizes = HashMap::from([(0, 0), (1, 0), (2, 0), (3, 0)]);
    for number in 0..40 {
        let batch = batches::batch(&format!("d{number}"), 1, 90_000);
        let partition = number % 3;
        client.append("t", partition, 1, &batch);
        *sizes.get_mut(&partition).expect("there") += batch.len() as i64;
    }
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let response = client.call(4, &request).expect("an answer");
    assert_eq!((response.error_code, response.results.len()), (0, 1));
    let found = &response.results[0];
    assert_eq!(found.log_dir.to_string(), dir.data().display().to_string());
    assert!(found.total_bytes > 0 && found.usable_bytes > 0);
    let partitions = found.topics.iter().flat_map(|topic| &topic.partitions);
    let told: HashMap<i32, i64> = partitions.map(|p| (p.partition_index, p.partition_size)).collect();
    assert_eq!(told, sizes);
    broker.stop();
}

// --- idle ---

#[test]
fn an_idle_broker_uses_no_processor() {
    let (_dir, broker) = start("idle");
    let mut client = broker.connect();
    client.create("t", 50, &[]);
    for partition in 0..50 {
        client.append("t", partition, -1, &batches::batch("x", 1, 1000));
    }
    // Parked and idle connections, from both cores to both cores.
    let parts: Vec<_> = (0..50).map(|partition| ("t", partition, 1)).collect();
    let request = client::fetch_request(&parts, 250_000, 1, 1 << 20);
    let mut parked: Vec<Client> = (0..CONNECTIONS_FOR_BOTH_CORES).map(|_| broker.connect()).collect();
    for client in &mut parked {
        client.send(FETCH_VERSION, &request).expect("sent");
    }
    // What was begun (files being prepared) comes to its end first.
    eventually("a quiet second", || {
        let before = broker.cpu_seconds();
        std::thread::sleep(Duration::from_secs(1));
        (broker.cpu_seconds() - before < 0.2).then_some(())
    });
    let before = broker.cpu_seconds();
    std::thread::sleep(Duration::from_secs(2));
    let used = broker.cpu_seconds() - before;
    assert!(used < 0.4, "{used} s of processor time in 2 idle seconds");
    broker.stop();
}

/// Answers of pipelined requests of many kinds come in the order of the requests, whatever takes longer.
#[test]
fn answers_come_in_the_order_of_the_requests() {
    let (_dir, broker) = start("order");
    let mut client = broker.connect();
    client.create("t", 4, &[]);
    let mut random = Random::from_environment(5);
    let mut ids = Vec::new();
    for number in 0..150 {
        let id = match random.below(4) {
            0 => client.send(0, &ApiVersionsRequest::default()),
            1 => client.send(FETCH_VERSION, &client::fetch_request(&[("t", 3, 1000)], 5, 1, 1000)),
            _ => {
                let batch = batches::batch(&format!("o{number}"), 1, random.between(1, 30_000) as usize);
                client.send_produce("t", random.below(4) as i32, -1, &batch)
            }
        };
        ids.push(id.expect("sent"));
    }
    for id in ids {
        let mut frame = client.receive_frame().expect("an answer");
        let header = ResponseHeader::decode(&mut frame, 0).expect("a header");
        assert_eq!(header.correlation_id, id);
    }
    // Half a request, then the end: nothing of it may show.
    let request: ProduceRequest = client::produce_request(&[("t", 0, &batches::batch("half", 1, 50_000))], 1);
    let frame = client::frame_of(9, PRODUCE_VERSION, &request);
    let end = client.offset("t", 0, LATEST);
    let mut stream = raw(&broker);
    stream.write_all(&frame[..frame.len() - 1]).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut");
    assert_eq!(stream.read(&mut [0; 16]).expect("closed"), 0);
    assert_eq!(client.offset("t", 0, LATEST), end);
    broker.stop();
}
