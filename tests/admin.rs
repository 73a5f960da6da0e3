//! The admin endpoint of a real broker, over real sockets: what it counts, what it serves, and whom it refuses.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use support::batches;
use support::broker::{Broker, DataDir, Options};

fn start(label: &str) -> (DataDir, Broker, String) {
    let dir = DataDir::new(label);
    let broker = Broker::start(&dir, &Options::default().with("admin.listeners", "127.0.0.1:0"));
    let admin = broker
        .ready_line
        .split_once("admin http://")
        .map(|(_, rest)| rest.trim_end().trim_end_matches(')').to_owned())
        .expect("the ready line names the admin address");
    (dir, broker, admin)
}

fn exchange(admin: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(admin).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
    stream.write_all(request).expect("sent");
    let mut answer = Vec::new();
    // A refused peer may see a reset behind the answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

fn get(admin: &str, target: &str) -> (u16, String) {
    let answer = exchange(admin, format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Sum over all cores of a metric whose labels contain `labels`.
fn metric(text: &str, name: &str, labels: &str) -> f64 {
    text.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels))
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number"))
        .sum()
}

/// Samples of each tag of a histogram log.
fn samples(log: &str) -> BTreeMap<String, u64> {
    let mut deserializer = Deserializer::new();
    log.lines()
        .filter_map(|line| {
            let (tag, rest) = line.strip_prefix("Tag=")?.split_once(',')?;
            let raw = decode_base64(rest.rsplit(',').next()?);
            let histogram: Histogram<u64> =
                deserializer.deserialize(&mut raw.as_slice()).expect("a histogram");
            Some((tag.to_owned(), histogram.len()))
        })
        .collect()
}

fn decode_base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | alphabet.iter().position(|letter| *letter == byte).expect("base64") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

#[test]
fn what_was_done_is_counted_and_can_be_read() {
    const BATCHES: u64 = 20;
    let (_dir, broker, admin) = start("admin");
    let mut client = broker.connect();
    client.create("t", 3, &[]);
    for turn in 0..BATCHES as i32 {
        client.append("t", turn % 3, -1, &batches::batch("x", 5, 100));
    }
    assert!(client.produce("gone", 0, -1, &batches::batch("x", 1, 10)).is_ok());
    client.fetch("t", 0, 0, 0).expect("an answer");
    client.fetch("t", 0, 7_000, 0).expect("an answer");

    assert_eq!(get(&admin, "/healthz").0, 200);
    let (status, text) = get(&admin, "/metrics");
    assert_eq!(status, 200);
    let count = |name: &str, labels: &str| metric(&text, name, labels) as u64;
    assert_eq!(count("ringlog_produce_batches_total", ""), BATCHES);
    assert_eq!(count("ringlog_produce_records_total", ""), BATCHES * 5);
    assert_eq!(count("ringlog_requests_total", "api=\"Produce\""), BATCHES + 1);
    assert_eq!(count("ringlog_requests_total", "api=\"Fetch\""), 2);
    assert_eq!(count("ringlog_errors_total", "api=\"Produce\""), 1);
    assert_eq!(count("ringlog_errors_total", "api=\"Fetch\""), 1);
    assert_eq!(count("ringlog_partitions", ""), 3);
    assert_eq!(count("ringlog_connections", ""), 1);
    assert_eq!(count("ringlog_failed_partitions", ""), 0);
    assert!(count("ringlog_fetch_bytes_total", "") > 500);
    assert!(count("ringlog_tail_bytes", "") > 0 && count("ringlog_disk_write_bytes_total", "") > 0);
    assert!(count("ringlog_allocations_total", "") > 0 && count("ringlog_io_blocks_total", "") > 0);
    let stage = |stage: &str| count("ringlog_stage_seconds_count", &format!("stage=\"{stage}\""));
    assert_eq!((stage("append"), stage("commit")), (BATCHES, BATCHES));
    assert!(stage("write") >= 1 && stage("flush") >= 1 && stage("read") >= 2);

    let (_, log) = get(&admin, "/histograms.hlog");
    let all = samples(&log);
    assert_eq!((all["produce/append"], all["produce/total"], all["fetch/total"]), (BATCHES, BATCHES + 1, 2));
    for tag in ["produce/queue", "produce/write", "produce/flush", "produce/commit", "produce/reply"] {
        assert!(all.contains_key(tag), "{tag}");
    }
    // The next interval begins with the reset and holds only what comes behind it.
    assert_eq!(samples(&get(&admin, "/histograms.hlog?reset").1)["produce/append"], BATCHES);
    client.append("t", 0, -1, &batches::batch("x", 5, 100));
    assert_eq!(samples(&get(&admin, "/histograms.hlog").1)["produce/append"], 1);
    drop(client);
    broker.stop();
}

#[test]
fn the_admin_endpoint_serves_what_it_has_and_survives_strange_peers() {
    let (_dir, mut broker, admin) = start("admin-peers");
    assert!(get(&admin, "/").1.contains("/histograms.hlog"));
    assert_eq!(get(&admin, "/secret").0, 404);
    assert!(exchange(&admin, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(exchange(&admin, b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    // Too long, cut off, and silent: the next one is served all the same.
    assert_eq!(exchange(&admin, &[b'a'; 64 << 10]), "");
    drop(TcpStream::connect(&admin).expect("connected"));
    let silent = TcpStream::connect(&admin).expect("connected");
    assert_eq!(get(&admin, "/healthz").0, 200);
    drop(silent);
    broker.assert_serving();
    broker.stop();
}

#[test]
fn without_an_address_nothing_is_served_and_a_taken_one_is_said() {
    let dir = DataDir::new("admin-off");
    let broker = Broker::start(&dir, &Options::default());
    assert!(!broker.ready_line.contains("admin"), "{}", broker.ready_line);
    broker.stop();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let refused = Broker::try_start(&dir, &Options::default().with("admin.listeners", &address));
    let (status, stderr) = refused.err().expect("it does not start");
    assert!(!status.success() && stderr.contains("admin.listeners"), "{stderr}");
}
