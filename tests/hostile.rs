//! Clients that mean no good, many at a time, while an honest one works: it gets every answer, the broker's memory
//! stays below a stated bound, and when they are gone the broker is as it was. What is wrong with single frames is in
//! tests/protocol.rs; figures (the honest client's p99 under each attack) are `scripts/hostile`'s.
//!
//! Owner: the test. Invariants: an attack lasts as long as the honest client's work, not for a time; nothing depends on
//! how fast the machine is.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest};
use support::batches;
use support::broker::{Broker, DataDir, Options};
use support::cgroup::Cgroup;
use support::client::{self, Client, FETCH_VERSION, PRODUCE_VERSION};

const MIB: u64 = 1 << 20;
/// The client id that has a quota.
const HELD_BACK: &str = "held-back";
/// What the broker may hold beyond what it held before an attack began, bytes: less than its memory budget (256 MiB),
/// and about a hundredth of what the attacks would make a broker hold that believed them.
const GROWTH_BYTES_MAX: u64 = 192 * MIB;
/// The broker's memory budget, which produces as fast as the disk takes them may use up: they are work, not waste.
const BUDGET_BYTES: u64 = 256 * MIB;
/// Rounds of the honest client's work, a produce with acks=all and a fetch of it, unless `HOSTILE_ROUNDS` says
/// otherwise.
const ROUNDS: usize = 20;
/// Idle connections in all, unless `HOSTILE_IDLE` says otherwise.
const IDLE_CONNECTIONS: usize = 2_000;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// An attacker's socket: impatient, so that the attack is never what a test waits for.
fn socket(port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(20))).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
    Some(stream)
}

/// What an attacker looks at: where, and whether it is over.
struct Scene<'a> {
    port: u16,
    over: &'a AtomicBool,
    /// Attacks made so far: the honest client begins when there was one.
    blows: &'a AtomicUsize,
}

impl Scene<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn blow(&self) {
        self.blows.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets the broker and the honest client go first on the cores that the attackers share with them here: what is
/// measured is what an attack costs a broker, not what it costs a machine that attacks itself.
fn step_back() {
    // SAFETY: plain system call; 0 is the thread that calls.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// A connection that sends the same frames for ever and reads nothing.
struct Flood {
    stream: Option<TcpStream>,
    at: usize,
}

impl Flood {
    fn go_on(&mut self, port: u16, frames: &[u8]) {
        let Some(stream) = &mut self.stream else {
            *self = Flood { stream: socket(port), at: 0 };
            if let Some(stream) = &self.stream {
                stream.set_nonblocking(true).expect("a socket");
            }
            return;
        };
        match stream.write(&frames[self.at..]) {
            Ok(count) => self.at = (self.at + count) % frames.len(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.stream = None,
        }
    }
}

/// Produces and fetches, and finds everything where it was promised; how long each round took, microseconds.
fn honest_work(client: &mut Client, label: &str) -> Vec<u128> {
    let mut took_us = Vec::new();
    for round in 0..setting("HOSTILE_ROUNDS", ROUNDS) {
        let began = Instant::now();
        let partition = (round % 4) as i32;
        let batch = batches::batch(&format!("{label}/{round}"), 2, 500);
        let offset = client.append("honest", partition, -1, &batch);
        let found = client.fetch("honest", partition, offset, 5_000).expect("an answer").batches();
        assert!(!found.is_empty(), "an acknowledged batch is not there");
        took_us.push(began.elapsed().as_micros());
    }
    took_us
}

/// For `scripts/hostile`: no test judges figures.
fn report(label: &str, mut before_us: Vec<u128>, mut during_us: Vec<u128>, grown_bytes: u64) {
    before_us.sort_unstable();
    during_us.sort_unstable();
    let at = |sorted: &[u128], percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    println!(
        "hostile {label} {} {} {} {} {}",
        at(&before_us, 50),
        at(&before_us, 99),
        at(&during_us, 50),
        at(&during_us, 99),
        grown_bytes / MIB
    );
}

/// Runs `attack` on some threads for as long as the honest client works.
fn under_attack(label: &str, threads: usize, options: &Options, attack: impl Fn(&Scene<'_>) + Sync) {
    within(GROWTH_BYTES_MAX, label, threads, options, attack);
}

/// As [`under_attack`], while resident memory grows by at most `growth_max` bytes.
fn within(
    growth_max: u64,
    label: &str,
    threads: usize,
    options: &Options,
    attack: impl Fn(&Scene<'_>) + Sync,
) {
    let dir = DataDir::new(label);
    let mut broker = Broker::start(&dir, options);
    let mut client = broker.connect();
    client.create("honest", 4, &[]);
    client.create("large", 2, &[]);
    client.create("flooded", 4, &[("segment.bytes", "16777216"), ("retention.bytes", "67108864")]);
    // (Only who says to be this is held to it.)
    let entity = [("client-id", Some(HELD_BACK))];
    assert_eq!(client::set_quota(&mut client, &entity, "producer_byte_rate", Some(1e6)), 0);
    for number in 0..24 {
        client.append("large", number % 2, 1, &batches::batch(&format!("l{number}"), 1, 900_000));
    }
    let before_us = honest_work(&mut client, "before");
    let mut during_us = Vec::new();
    let before = broker.resident_bytes();
    let (over, blows) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut peak = 0;
    std::thread::scope(|scope| {
        /// However the work ends, the attackers must: else the test would wait for them instead of failing.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&over);
        for _ in 0..threads {
            scope.spawn(|| {
                step_back();
                attack(&Scene { port: broker.port, over: &over, blows: &blows });
            });
        }
        support::eventually("the attack begins", || (blows.load(Ordering::Relaxed) >= threads).then_some(()));
        for part in 0..4 {
            during_us.extend(honest_work(&mut client, &format!("during {part}")));
            honest_work(&mut broker.connect(), "somebody new");
            peak = peak.max(broker.resident_bytes());
        }
    });
    let grown = peak.saturating_sub(before);
    report(label, before_us, during_us, grown);
    assert!(grown < growth_max, "resident memory grew by {} MiB", grown / MIB);
    honest_work(&mut client, "after");
    broker.assert_serving();
    broker.stop();
}

fn produce_frame() -> Vec<u8> {
    let batch = batches::batch("slow", 1, 300_000);
    let request = client::produce_request(&[("honest", 0, &batch)], 1);
    client::frame_of(1, PRODUCE_VERSION, &request).to_vec()
}

/// Frames that come byte by byte: their memory is held, and nobody waits for it.
#[test]
fn slow_senders() {
    under_attack("slow", 2, &Options::default(), |scene| {
        let frame = produce_frame();
        let mut streams: Vec<_> = (0..60).filter_map(|_| socket(scene.port)).collect();
        // A different part at once for each, so that they stall in all places of a frame.
        for (number, stream) in streams.iter_mut().enumerate() {
            let _ = stream.write(&frame[..(number * 157) % 20_000]);
        }
        scene.blow();
        let mut at = 20_000;
        while scene.goes_on() {
            for stream in &mut streams {
                let _ = stream.write(&frame[at..at + 1]);
            }
            at = (at + 1) % (frame.len() - 1);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

/// Fetches whose answers are never read: what waits in the sockets is the kernel's, the rest is bounded.
#[test]
fn fetchers_that_never_read() {
    under_attack("deaf", 2, &Options::default(), |scene| {
        let request = client::fetch_request(&[("large", 0, 0), ("large", 1, 0)], 0, 1, 16 << 20);
        let frame = client::frame_of(1, FETCH_VERSION, &request);
        let mut streams: Vec<_> = (0..40).filter_map(|_| socket(scene.port)).collect();
        scene.blow();
        while scene.goes_on() {
            for stream in &mut streams {
                let _ = stream.write(&frame);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}

/// The answers of a peer that reads nothing hold memory: it is hung up on like one that says nothing, which it would
/// not be without this, because it is owed something.
#[test]
fn a_peer_that_never_reads_is_hung_up_on() {
    let dir = DataDir::new("hung-up");
    let broker = Broker::start(&dir, &Options::default().with("connections.max.idle.ms", "1500"));
    let mut client = broker.connect();
    client.create("large", 1, &[]);
    for number in 0..12 {
        client.append("large", 0, 1, &batches::batch(&format!("l{number}"), 1, 900_000));
    }
    let request = client::fetch_request(&[("large", 0, 0)], 0, 1, 16 << 20);
    let frame = client::frame_of(1, FETCH_VERSION, &request);
    let mut deaf = socket(broker.port).expect("connected");
    support::eventually("the broker hangs up", || {
        let gone = matches!(deaf.write(&frame), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock);
        gone.then_some(())
    });
    // Who reads slowly is not: each piece is progress.
    let mut slow = socket(broker.port).expect("connected");
    slow.set_read_timeout(Some(support::PATIENCE)).expect("time-out");
    // One answer holds a part of what all answers of a core may hold.
    slow.write_all(&frame.repeat(10)).expect("sent");
    let mut left = 10 << 20;
    while left > 0 {
        let count = slow.read(&mut vec![0; 1 << 20]).expect("the broker goes on sending");
        assert!(count > 0, "hung up on a reader");
        left -= count.min(left);
        std::thread::sleep(Duration::from_millis(50));
    }
    broker.stop();
}

/// What answers hold for peers that do not read was bounded for each connection only, and some hundred of them were
/// gigabytes. All of them together must stay within the core's memory for answers, in a control group that would not
/// hold a tenth of what they ask for; and others must get theirs, for which the longest stalled are hung up on.
#[test]
fn stalled_fetchers_hold_no_more_than_their_share() {
    const FETCHERS: usize = 300;
    const PARTITIONS: i32 = 8;
    const BATCHES: i32 = 30;
    // Two cores of 128 MiB, of which an eighth is for answers; twice that, because a batch may be larger than what its
    // answer was given.
    const ANSWER_BYTES_MAX: f64 = 2.0 * 2.0 * 16.0 * 1048576.0;
    let Some(group) = Cgroup::with_memory(512 * MIB) else { return };
    let dir = DataDir::new("stalled");
    let options = Options { cgroup: Some(group.processes()), ..Options::default() };
    let mut broker = Broker::start(&dir, &options.with("admin.listeners", "127.0.0.1:0"));
    let mut client = broker.connect();
    client.create("honest", 4, &[]);
    client.create("large", PARTITIONS, &[("segment.bytes", "8388608")]);
    for number in 0..PARTITIONS * BATCHES {
        client.append("large", number % PARTITIONS, 1, &batches::batch(&format!("l{number}"), 1, 900_000));
    }
    let before_bytes = broker.resident_bytes();
    let mut stalled: Vec<TcpStream> = (0..FETCHERS).map(|number| deaf_fetcher(broker.port, number)).collect();
    let (mut answer_bytes_max, mut resident_bytes_max) = (0.0_f64, 0);
    support::eventually("somebody is hung up on for the sake of others", || {
        honest_work(&mut client, "beside the stalled");
        let metrics = broker.metrics();
        answer_bytes_max = answer_bytes_max.max(metrics["ringlog_answer_bytes"]);
        resident_bytes_max = resident_bytes_max.max(broker.resident_bytes());
        // Who was hung up on comes back.
        for (number, stream) in stalled.iter_mut().enumerate() {
            if !asks_more(stream) {
                *stream = deaf_fetcher(broker.port, number);
            }
        }
        (metrics["ringlog_stalled_peers_ended_total"] >= FETCHERS as f64 / 4.0).then_some(())
    });
    let grown = resident_bytes_max.saturating_sub(before_bytes);
    println!(
        "{FETCHERS} stalled fetchers: answers at most {} MiB, memory +{} MiB",
        answer_bytes_max as u64 / MIB,
        grown / MIB
    );
    assert!(answer_bytes_max <= ANSWER_BYTES_MAX, "answers held {answer_bytes_max} bytes");
    assert!(grown < GROWTH_BYTES_MAX, "resident memory grew by {} MiB", grown / MIB);
    assert_eq!(group.kills(), 0, "the kernel killed the broker");
    drop(stalled);
    support::eventually("what they held is given back", || {
        (broker.metrics()["ringlog_answer_bytes"] == 0.0).then_some(())
    });
    honest_work(&mut client, "after");
    broker.assert_serving();
    broker.stop();
}

/// A peer that asks for everything and takes next to nothing: its own buffers are small, so that the rest waits in the
/// broker.
fn deaf_fetcher(port: u16, number: usize) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("connected");
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(Duration::from_millis(20))).expect("time-out");
    let (partition, offset) = ((number % 8) as i32, (number / 8 % 20) as i64);
    let request = client::fetch_request(&[("large", partition, offset)], 0, 1, 16 << 20);
    let frame = client::frame_of(1, FETCH_VERSION, &request);
    let _ = stream.write_all(&frame.repeat(8));
    stream
}

/// Sends a request; false when the connection is over.
fn asks_more(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    let outcome = stream.write(&client::frame_of(1, 3, &ApiVersionsRequest::default()));
    !matches!(outcome, Err(error) if error.kind() != std::io::ErrorKind::WouldBlock)
}

/// Requests one behind the other from 60 connections, as many as they take, and no look at the answers.
fn pipelines(label: &str, growth_max: u64, requests: impl Fn() -> Vec<u8> + Sync) {
    within(growth_max, label, 2, &Options::default(), |scene| {
        let frames = requests();
        let mut floods: Vec<_> = (0..30).map(|_| Flood { stream: None, at: 0 }).collect();
        scene.blow();
        while scene.goes_on() {
            floods.iter_mut().for_each(|flood| flood.go_on(scene.port, &frames));
            std::thread::sleep(Duration::from_micros(200));
        }
    });
}

fn questions() -> Vec<u8> {
    let metadata = client::frame_of(1, 12, &MetadataRequest::default().with_topics(None));
    let versions = client::frame_of(2, 3, &ApiVersionsRequest::default());
    [&metadata[..], &versions, &metadata].concat()
}

fn flood(client_id: &'static str) -> Vec<u8> {
    let batch = batches::batch("flood", 1, 300_000);
    let parts: Vec<(&str, i32, &[u8])> = (0..4).map(|partition| ("flooded", partition, &batch[..])).collect();
    let frames = parts.iter().map(|part| {
        client::frame_from(client_id, 1, PRODUCE_VERSION, &client::produce_request(&[*part], 1)).to_vec()
    });
    frames.chain([questions()]).flatten().collect()
}

/// Requests of every kind, one behind the other, and no look at the answers; a frame that was cut short is followed by
/// the beginning of the next, so that few connections live long.
#[test]
fn pipelines_without_reading() {
    under_attack("pipeline", 2, &Options::default(), |scene| {
        let frames = [questions(), produce_frame()].concat();
        let mut streams: Vec<_> = (0..30).filter_map(|_| socket(scene.port)).collect();
        scene.blow();
        while scene.goes_on() {
            for stream in &mut streams {
                let _ = stream.write(&frames);
            }
        }
    });
}

/// Questions only: answers wait for a reader, and no more is asked of the connection.
#[test]
fn questions_without_reading() {
    pipelines("questions", GROWTH_BYTES_MAX, questions);
}

/// Produces of 300 KB among them: as much as the disk takes, into partitions of their own.
#[test]
fn floods() {
    pipelines("flood", BUDGET_BYTES, || flood("flood"));
}

/// The same from clients with a quota of a megabyte a second.
#[test]
fn floods_with_a_quota() {
    pipelines("quota", GROWTH_BYTES_MAX, || flood(HELD_BACK));
}

/// Connections that come and go, some with a request or half of one on its way.
#[test]
fn churn() {
    under_attack("churn", 3, &Options::default(), |scene| {
        let frame = client::frame_of(1, 3, &ApiVersionsRequest::default());
        let mut round = 0;
        while scene.goes_on() {
            round += 1;
            // Ports in TIME_WAIT must not run out: a burst, then a breath.
            if round % 200 == 0 {
                std::thread::sleep(Duration::from_millis(100));
            }
            let Some(mut stream) = socket(scene.port) else { continue };
            scene.blow();
            let _ = match round % 4 {
                0 => Ok(()),
                1 => stream.write_all(&frame),
                2 => stream.write_all(&frame[..7]),
                _ => stream.write_all(&frame).and_then(|()| stream.shutdown(Shutdown::Write)),
            };
        }
    });
}

/// Whatever else speaks first on a port, and lengths that lie.
#[test]
fn strangers() {
    under_attack("strangers", 2, &Options::default(), |scene| {
        let valid = client::frame_of(1, 3, &ApiVersionsRequest::default());
        let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat();
        let words: [&[u8]; 9] = [
            &tls,
            b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            &[0xff; 64],
            &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 9],
            &[0x80, 0, 0, 0, 0, 0, 0, 9],
            &[0, 0, 0, 0],
            &[0, 0, 0, 3, 0, 0, 0],
        ];
        let mut round = 0;
        while scene.goes_on() {
            round += 1;
            if round % 200 == 0 {
                std::thread::sleep(Duration::from_millis(100));
            }
            let Some(mut stream) = socket(scene.port) else { continue };
            scene.blow();
            // Behind a request that is all right, every other time.
            let first: &[u8] = if round % 2 == 0 { &valid } else { &[] };
            let _ = stream.write_all(&[first, words[round % words.len()]].concat());
            let _ = stream.read(&mut [0; 512]);
        }
    });
}

/// Peers that say nothing: a descriptor and a small buffer each. Ten thousand of them: `scripts/hostile`.
#[test]
fn idle_connections() {
    raise_descriptor_limit();
    let each = setting("HOSTILE_IDLE", IDLE_CONNECTIONS) / 2;
    under_attack("idle", 2, &Options::default(), |scene| {
        let mut streams = Vec::new();
        while scene.goes_on() {
            if streams.len() < each {
                streams.extend(socket(scene.port));
                if streams.len() == each {
                    scene.blow();
                }
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
}

/// Thousands of sockets here; the broker, which inherits the limit, raises its own.
fn raise_descriptor_limit() {
    // SAFETY: plain system calls on a structure of this frame.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// Requests that ask for the same thing over and over: a frame of a megabyte must not make an answer of gigabytes.
#[test]
fn repetitions() {
    use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
    use kafka_protocol::messages::{ConsumerGroupDescribeRequest, DescribeConfigsRequest, GroupId};
    use kafka_protocol::protocol::StrBytes;
    under_attack("repetitions", 1, &Options::default(), |scene| {
        let groups = vec![GroupId(StrBytes::from_static_str("g")); 100_000];
        let same_group = ConsumerGroupDescribeRequest::default().with_group_ids(groups);
        let resource = |number: usize| {
            DescribeConfigsResource::default()
                .with_resource_type(32)
                .with_resource_name(StrBytes::from_string(format!("{number}")))
                .with_configuration_keys(None)
        };
        let any_group = DescribeConfigsRequest::default().with_include_documentation(true);
        let any_group = any_group.with_resources((0..60_000).map(resource).collect());
        while scene.goes_on() {
            let Ok(mut client) = Client::connect(scene.port) else { continue };
            scene.blow();
            let described = client.call(0, &same_group).expect("an answer");
            assert_eq!(described.groups.len(), 1);
            let described = client.call(4, &any_group).expect("an answer");
            let full = described.results.iter().filter(|result| result.error_code == 0);
            assert_eq!((described.results.len(), full.count()), (60_000, 1_000));
        }
    });
}
