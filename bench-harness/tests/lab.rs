//! The lab from end to end: the real harness against the real broker, for a few seconds each.
//!
//! Owner: CI. The broker is the one built beside the harness (or `RINGLOG_BINARY`). Invariants: free ports, data below
//! cargo's own folder, only processes started here are ended; no assertion about a time or a rate that a busy machine
//! could miss. Must not: look inside the harness; what it measured is in its run folder.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn broker_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGLOG_BINARY") {
        return path.into();
    }
    let beside = Path::new(env!("CARGO_BIN_EXE_ringlog-bench")).with_file_name("ringlog");
    assert!(beside.is_file(), "{} is missing: cargo build --release --workspace", beside.display());
    beside
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder below cargo's, for `O_DIRECT` does not work on every /tmp.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The command line of a broker on `port` with its data in `data`.
fn serve_arguments(port: u16, data: &Path) -> Vec<String> {
    let data = data.to_str().unwrap();
    let listen = format!("127.0.0.1:{port}");
    let fixed = ["serve", "--data-dir", data, "--listen", &listen];
    let overrides = ["--override", "log.retention.check.interval.ms=300"];
    fixed.into_iter().chain(overrides).map(str::to_owned).collect()
}

struct Broker {
    child: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Broker {
    fn start() -> Self {
        let (data, port) = (folder(), free_port());
        let child = Command::new(broker_binary())
            .args(serve_arguments(port, data.path()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let broker = Self { child, address: format!("127.0.0.1:{port}"), _data: data };
        let began = Instant::now();
        while TcpStream::connect(&broker.address).is_err() {
            assert!(began.elapsed() < PATIENCE, "the broker does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringlog-bench")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn assert_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}", text(output));
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

/// A series as rows of cells by name.
fn series(path: &Path) -> Vec<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<String> = lines.next().unwrap().split(',').map(str::to_owned).collect();
    lines
        .map(|line| {
            let cells: Vec<String> = line.split(',').map(str::to_owned).collect();
            assert_eq!(cells.len(), names.len(), "{line}");
            names.iter().cloned().zip(cells).collect()
        })
        .collect()
}

fn cell(row: &[(String, String)], name: &str) -> f64 {
    let (_, value) = row.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}"))
}

#[test]
fn presets_in_rounds_leave_whole_run_folders() {
    let (broker, out) = (Broker::start(), folder());
    let pid = broker.child.id().to_string();
    let output = bench(&[
        "run",
        "linkedin-2015",
        "--bootstrap",
        &broker.address,
        "--rate",
        "40000",
        "--curve",
        "--speed",
        "43200",
        "--warmup",
        "0.5",
        "--drain",
        "30",
        "--quiet",
        "--rounds",
        "2",
        "--server-pid",
        &pid,
        "--out",
        out.path().to_str().unwrap(),
    ]);
    assert_status(&output, 0);
    for round in ["round-1", "round-2"] {
        let folder = out.path().join(round);
        let facts = &json(&folder.join("manifest.json"))["endpoint_facts"];
        assert_eq!(facts["replication.factor"], "1");
        assert_eq!(facts["topic min.insync.replicas"], "1");
        let summary = json(&folder.join("summary.json"));
        let phase = &summary["phases"][0];
        assert_eq!((phase["name"].as_str(), phase["undelivered_records"].as_u64()), (Some("load"), Some(0)));
        assert!(phase["latency"]["response"]["count"].as_u64() > Some(0));
        assert!(phase["latency"]["e2e"]["count"].as_u64() > Some(0));
        let log = std::fs::read_to_string(folder.join("load.hlog")).unwrap();
        assert!(log.starts_with("#[Histogram log format version 1.3]"));
        let rows = series(&folder.join("load.series.csv"));
        assert_eq!(rows.len(), 2, "a day in two seconds");
        // A day of LinkedIn's has the same first and second half, and less than its peak all the time.
        let halves: Vec<f64> = rows.iter().map(|row| cell(row, "intended_records")).collect();
        assert!((halves[0] / halves[1] - 1.0).abs() < 0.01 && halves[0] < 36_000.0, "{halves:?}");
        assert!(rows.iter().map(|row| cell(row, "cpu0")).all(|share| (0.0..=1.0).contains(&share)));
    }
}

#[test]
fn workload_and_driver_files_are_played() {
    let (broker, out) = (Broker::start(), folder());
    let file = out.path().join("skewed.yaml");
    std::fs::write(
        &file,
        "name: skewed / two topics\ntopics: 2\npartitionsPerTopic: 6\n\
         recordSize: {distribution: lognormal, median: 300, sigma: 1.0, max: 9000}\n\
         keys: {distribution: zipf, count: 5000, theta: 1.1}\ncompression: zstd\nrandomBytesRatio: 0.2\n\
         producersPerTopic: 2\nconsumerPerSubscription: 1\nsubscriptionsPerTopic: 1.5\nproducerRate: 4000\n\
         recordsPerBatch: 20\nconsumerBacklogSizeGB: 0.002\ndurationSeconds: 1\nwarmupSeconds: 0.3\n",
    )
    .unwrap();
    let driver = out.path().join("driver.yaml");
    std::fs::write(
        &driver,
        "name: Kafka\ndriverClass: a.kafka.Driver\nreplicationFactor: 3\ntopicConfig: |\n  min.insync.replicas=2\n\
         producerConfig: |\n  acks=1\n  linger.ms=2\n  batch.size=65536\n  compression.type=lz4\n",
    )
    .unwrap();
    let results = out.path().join("results");
    let output = bench(&[
        "run",
        file.to_str().unwrap(),
        "--driver",
        driver.to_str().unwrap(),
        "--bootstrap",
        &broker.address,
        "--quiet",
        "--drain",
        "30",
        "--out",
        results.to_str().unwrap(),
    ]);
    assert_status(&output, 0);
    let summary = json(&results.join("summary.json"));
    let names: Vec<&str> =
        summary["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["backlog-build", "load"]);
    let load = &summary["phases"][1];
    // One whole group reads the two megabytes while the load runs, and catches up.
    assert!(load["drained"]["backlog_records"].as_u64() > Some(2_000), "{load}");
    assert!(load["drained"]["seconds"].as_f64() > Some(0.0), "{load}");
    let parameters = &load["parameters"];
    assert_eq!((&parameters["compression"], &parameters["acks"]), (&"lz4".into(), &"1".into()));
    assert_eq!(load["undelivered_records"], 0);
    assert!(load["latency"]["e2e"]["count"].as_u64() > Some(0), "sampled by uncompressed batches");
    assert!(text(&output).contains("replicationFactor 3 was not applied"), "{}", text(&output));
    assert_status(&bench(&["run", "no-such-preset", "--bootstrap", &broker.address]), 2);
}

/// The story: thousands of partitions were planned for in a unit test, and never run.
#[test]
fn a_thousand_partitions_are_loaded_and_read() {
    let (broker, out) = (Broker::start(), folder());
    let output = bench(&[
        "run",
        "omb-1kb",
        "--bootstrap",
        &broker.address,
        "--partitions",
        "1000",
        "--rate",
        "4000",
        "--duration",
        "1",
        "--warmup",
        "0.5",
        "--drain",
        "30",
        "--quiet",
        "--out",
        out.path().to_str().unwrap(),
    ]);
    assert_status(&output, 0);
    let phase = &json(&out.path().join("summary.json"))["phases"][0];
    assert_eq!(phase["parameters"]["partitions"], "1000");
    assert_eq!((&phase["undelivered_records"], &phase["unanswered_requests"]), (&0.into(), &0.into()));
}

#[test]
fn a_curve_has_a_phase_for_each_load() {
    let (broker, out) = (Broker::start(), folder());
    let output = bench(&[
        "curve",
        "omb-1kb",
        "--bootstrap",
        &broker.address,
        "--rates",
        "500,1000",
        "--duration",
        "1",
        "--warmup",
        "0.2",
        "--partitions",
        "10",
        "--quiet",
        "--out",
        out.path().to_str().unwrap(),
    ]);
    assert_status(&output, 0);
    assert!(out.path().join("load-050.hlog").is_file() && out.path().join("load-100.series.csv").is_file());
    assert_eq!(json(&out.path().join("summary.json"))["phases"].as_array().unwrap().len(), 2);
}

#[test]
fn the_verifier_holds_on_the_broker_and_finds_every_lie() {
    let broker = Broker::start();
    let verify = |more: &[&str]| {
        let mut arguments = vec![
            "verify",
            "--bootstrap",
            broker.address.as_str(),
            "--duration",
            "0.5",
            "--rate",
            "2000",
            "--producers",
            "2",
            "--partitions",
            "3",
            "--quiet",
        ];
        arguments.extend(more);
        bench(&arguments)
    };
    let out = folder();
    assert_status(&verify(&["--out", out.path().to_str().unwrap()]), 0);
    let verdict = json(&out.path().join("verify.json"));
    assert_eq!((&verdict["verdict"], &verdict["lost"]), (&"held".into(), &0.into()));
    assert!(verdict["acked"].as_u64() > Some(0) && verdict["acked"] == verdict["read_final"]);
    for lie in ["lose", "duplicate", "reorder", "change", "offset", "resurrect"] {
        assert_status(&verify(&["--lie", lie]), 1);
    }
    assert_status(&verify(&["--acks", "0"]), 2);
}

#[test]
fn faults_have_their_spans_and_lose_nothing() {
    let (data, out, port) = (folder(), folder(), free_port());
    let command = format!("{} {}", broker_binary().display(), serve_arguments(port, data.path()).join(" "));
    let faults = |client: &str, faults: &str, out: &Path| {
        bench(&[
            "fault",
            faults,
            "--bootstrap",
            &format!("127.0.0.1:{port}"),
            "--server-command",
            &command,
            "--client",
            client,
            "--rate",
            "2000",
            "--producers",
            "2",
            "--partitions",
            "3",
            "--before",
            "0.5",
            "--during",
            "2",
            "--after",
            "1",
            "--pause-seconds",
            "0.3",
            "--cut-seconds",
            "0.5",
            "--data-dir",
            data.path().to_str().unwrap(),
            "--quiet",
            "--out",
            out.to_str().unwrap(),
        ])
    };
    let lean = out.path().join("lean");
    assert_status(&faults("lean", "pause,kill,catch-up,churn,cut,black-hole", &lean), 0);
    let summary = json(&lean.join("summary.json"));
    assert_eq!(summary["verdict"]["verdict"], "held");
    let costs = summary["faults"].as_array().unwrap();
    assert_eq!(costs.len(), 6);
    assert!(costs[0]["unavailable_ms"].as_f64() >= Some(250.0), "a pause is felt: {costs:?}");
    assert!(costs[3]["note"].as_str().unwrap().ends_with("records expired"), "{costs:?}");
    for span in ["pause-before", "pause-during", "kill-after", "catch-up-during", "churn-during"] {
        assert!(lean.join(format!("{span}.hlog")).is_file(), "{span}");
    }
    for cost in &costs[4..] {
        assert!(cost["unavailable_ms"].as_f64() >= Some(450.0), "a cut network is felt: {cost}");
    }
    // The server that was started again is followed: its share of the processors is known.
    let after = series(&lean.join("churn-during.series.csv"));
    let known =
        |row: &[(String, String)]| row.iter().any(|(name, cell)| name == "server_cores" && !cell.is_empty());
    assert!(after.iter().any(|row| known(row)), "{after:?}");
    let line = std::fs::read_to_string(lean.join("manifest.json")).unwrap();
    assert!(!line.contains(data.path().to_str().unwrap()), "no path of this machine: {line}");
    let rdkafka = faults("librdkafka", "kill,cut", &out.path().join("librdkafka"));
    if text(&rdkafka).contains("install librdkafka") {
        eprintln!("skipped: librdkafka is not installed");
        return;
    }
    assert_status(&rdkafka, 0);
    let verdict = json(&out.path().join("librdkafka/verify.json"));
    assert_eq!((&verdict["duplicated"], &verdict["lost"]), (&0.into(), &0.into()));
    let costs = json(&out.path().join("librdkafka/summary.json"));
    assert!(
        costs["faults"][1]["unavailable_ms"].as_f64() >= Some(450.0),
        "it went through the relay: {costs}"
    );
}

#[test]
fn both_clients_play_the_same_workload() {
    let (broker, out) = (Broker::start(), folder());
    let output = bench(&[
        "run",
        "omb-1kb",
        "--client",
        "librdkafka",
        "--bootstrap",
        &broker.address,
        "--rate",
        "500",
        "--partitions",
        "4",
        "--duration",
        "1",
        "--warmup",
        "0.3",
        "--drain",
        "30",
        "--quiet",
        "--out",
        out.path().to_str().unwrap(),
    ]);
    if text(&output).contains("install librdkafka") {
        eprintln!("skipped: librdkafka is not installed");
        return;
    }
    assert_status(&output, 0);
    let phase = &json(&out.path().join("summary.json"))["phases"][0];
    for kind in ["response", "service", "lag", "e2e"] {
        assert!(phase["latency"][kind]["count"].as_u64() > Some(0), "{kind}: {phase}");
    }
    assert_eq!(phase["undelivered_records"], 0);
}
