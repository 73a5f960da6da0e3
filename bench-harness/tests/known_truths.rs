//! The harness against an endpoint whose delays are known: what it reports must be what was injected.
//!
//! Real time and real sockets, so only what holds on a slow and busy machine is asserted: an answer never comes before
//! its delay (exact), most do not come much later (generous), and ratios between figures of the same run.
//! The same truths without a clock are in `synthetic::delay` and `compare::tests`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_ringlog-bench");

/// A synthetic endpoint on a port of its own, ended on drop.
struct Endpoint {
    process: Child,
    address: String,
}

impl Endpoint {
    fn start(delay: &str) -> Self {
        let mut process = Command::new(BENCH)
            .args(["synthetic", "--listen", "127.0.0.1:0", "--delay", delay])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the harness starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("its first line");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        Self { process, address }
    }

    /// Loads it and gives back the phase of the summary.
    fn load(&self, out: &Path, arguments: &[&str]) -> Value {
        let run = Command::new(BENCH)
            .args([
                "produce",
                "--bootstrap",
                &self.address,
                "--congestion",
                "default",
                "--warmup",
                "0.2",
                "--out",
            ])
            .arg(out)
            .args(arguments)
            .output()
            .expect("the harness runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let text = std::fs::read_to_string(out.join("summary.json")).expect("a summary");
        let summary: Value = serde_json::from_str(&text).expect("JSON");
        summary[0].clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn ms(phase: &Value, kind: &str, quantile: &str) -> f64 {
    phase["latency"][kind][quantile].as_f64().unwrap_or_else(|| panic!("{kind} {quantile} in {phase}")) / 1e6
}

const ONE_AT_A_TIME: &[&str] = &[
    "--partitions",
    "8",
    "--connections",
    "8",
    "--in-flight",
    "1",
    "--records-per-batch",
    "1",
    "--record-bytes",
    "100",
];

#[test]
fn a_constant_delay_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start("constant:50ms");
    let arguments = [ONE_AT_A_TIME, &["--rate", "80", "--duration", "2"]].concat();
    let phase = endpoint.load(folder.path(), &arguments);
    for kind in ["response", "service"] {
        assert!(ms(&phase, kind, "min_ns") >= 50.0, "an answer was early");
        assert!(ms(&phase, kind, "p50_ns") < 90.0, "{kind} {}", ms(&phase, kind, "p50_ns"));
    }
    assert_eq!(phase["unanswered_requests"].as_u64(), Some(0));
}

#[test]
fn two_modes_come_back_in_their_shares() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start("bimodal:10ms,300ms,0.1");
    let arguments = [ONE_AT_A_TIME, &["--max", "--duration", "4"]].concat();
    let phase = endpoint.load(folder.path(), &arguments);
    assert!(ms(&phase, "service", "min_ns") >= 10.0);
    assert!(ms(&phase, "service", "p50_ns") < 100.0, "{}", ms(&phase, "service", "p50_ns"));
    // A tenth takes 300 ms: everything above p90 does, at p99 for certain.
    assert!((300.0..600.0).contains(&ms(&phase, "service", "p99_ns")), "{}", ms(&phase, "service", "p99_ns"));
}

#[test]
fn a_stalled_server_shows_in_the_response_time_and_hides_in_the_service_time() {
    let folder = tempfile::tempdir().unwrap();
    // Half of the time nothing is answered; every stall holds up one request a connection, and 400 more are due.
    let endpoint = Endpoint::start("stall:1s,500ms,1ms");
    let arguments = [ONE_AT_A_TIME, &["--rate", "800", "--duration", "4", "--drain", "5"]].concat();
    let phase = endpoint.load(folder.path(), &arguments);
    // The user of a quarter of all requests waited for more than a fifth of a second; by service time nobody did
    // but one in a hundred.
    assert!(ms(&phase, "response", "p90_ns") > 200.0, "{}", ms(&phase, "response", "p90_ns"));
    let ratio = ms(&phase, "response", "p90_ns") / ms(&phase, "service", "p90_ns");
    assert!(ratio > 5.0, "response is {ratio} times service at p90");
    // The schedule was not moved: every request that was due has been sent or is counted.
    let requests =
        phase["latency"]["response"]["count"].as_u64().unwrap() + phase["unsent_requests"].as_u64().unwrap();
    assert!((3_190..=3_210).contains(&requests), "{requests} of 3,200 requests");
    // And the lag is the endpoint's: waiting for room in the window is none of the generator's own.
    assert!(
        ms(&phase, "own-lag", "p90_ns") < ms(&phase, "lag", "p90_ns") / 4.0,
        "{}",
        phase["latency"]["own-lag"]
    );
}

#[test]
fn the_exit_status_of_compare_tells_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    for (name, delay) in [("fast", "constant:5ms"), ("slow", "constant:60ms")] {
        let endpoint = Endpoint::start(delay);
        for round in 1..=5 {
            let out = folder.path().join(name).join(format!("round-{round}"));
            let arguments = [ONE_AT_A_TIME, &["--max", "--duration", "1"]].concat();
            endpoint.load(&out, &arguments);
        }
    }
    let compare = |left: &str, right: &str, more: &[&str]| {
        let run = Command::new(BENCH)
            .arg("compare")
            .args([folder.path().join(left), folder.path().join(right)])
            .args(more)
            .output()
            .expect("the harness runs");
        (run.status.code(), String::from_utf8_lossy(&run.stdout).into_owned())
    };
    let (status, text) = compare("fast", "slow", &[]);
    assert!(status == Some(1) && text.contains("slow is slower"), "{text}");
    assert_eq!(compare("slow", "fast", &[]).0, Some(0));
    // Another congestion control of the same machine: not comparable.
    let manifest = folder.path().join("slow/round-1/manifest.json");
    let changed =
        std::fs::read_to_string(&manifest).unwrap().replace("\"kernel\": \"", "\"kernel\": \"another ");
    std::fs::write(&manifest, changed).unwrap();
    let (status, text) = compare("fast", "slow", &[]);
    assert!(status == Some(3) && text.contains("| kernel |"), "{text}");
    assert_eq!(compare("fast", "slow", &["--force", "--json", "-"]).0, Some(1));
    assert_eq!(compare("fast", "nothing", &[]).0, Some(2));
}
