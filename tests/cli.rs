//! The command line against the real binary: each command does what it says, over the protocol, and its exit code
//! tells whether it did.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::process::{Command, Output, Stdio};

use support::broker::{Broker, DataDir, Options};

struct Cli {
    server: String,
}

impl Cli {
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringlog"))
            .args(arguments)
            .args(["--bootstrap-server", &self.server])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        // A command that refuses its arguments does not read.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("it ends")
    }

    /// What a command prints; fails the test if it fails.
    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let done = self.run(arguments, input);
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {err}");
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// What a command complains about; fails the test if it does not fail.
    fn refused(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments, "");
        assert!(!done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stdout));
        String::from_utf8(done.stderr).expect("UTF-8")
    }
}

fn start(label: &str) -> (DataDir, Broker, Cli) {
    let dir = DataDir::new(label);
    let broker = Broker::start(&dir, &Options::default());
    let cli = Cli { server: format!("127.0.0.1:{}", broker.port) };
    (dir, broker, cli)
}

#[test]
fn topics_come_are_described_grow_and_go() {
    let (_dir, broker, cli) = start("cli-topic");
    let made =
        cli.ok(&["topic", "--create", "--topic", "t", "--partitions", "3", "--config", "retention.ms=5000"]);
    assert_eq!(made, "Created topic t.\n");
    assert!(cli.refused(&["topic", "--create", "--topic", "t"]).contains("TopicAlreadyExists"));
    cli.ok(&["topic", "--create", "--topic", "t", "--if-not-exists"]);
    cli.ok(&["topic", "--create", "--topic", "placed", "--replica-assignment", "1,1"]);
    assert!(
        cli.refused(&["topic", "--create", "--topic", "u", "--replica-assignment", "2"])
            .contains("only broker")
    );
    assert_eq!(cli.ok(&["topic", "--list"]), "placed\nt\n");
    let described = cli.ok(&["topic", "--describe", "--topic", "t"]);
    assert!(
        described.contains("PartitionCount: 3") && described.contains("retention.ms=5000"),
        "{described}"
    );
    assert_eq!(
        cli.ok(&["topic", "--alter", "--topic", "t", "--partitions", "5"]),
        "Topic t has 5 partitions.\n"
    );
    assert!(
        cli.refused(&["topic", "--alter", "--topic", "t", "--partitions", "2"]).contains("InvalidPartitions")
    );
    assert_eq!(
        cli.ok(&["topic", "--delete", "--topic", "t,placed"]),
        "Deleted topic t.\nDeleted topic placed.\n"
    );
    assert!(cli.refused(&["topic", "--describe", "--topic", "t"]).contains("UnknownTopicOrPartition"));
    assert_eq!(cli.ok(&["topic", "--delete", "--topic", "t", "--if-exists"]), "");
    broker.stop();
    assert!(cli.refused(&["topic", "--list"]).contains(&cli.server));
}

#[test]
fn records_go_in_and_come_out_and_groups_have_lag() {
    let (dir, broker, cli) = start("cli-records");
    cli.ok(&["topic", "--create", "--topic", "t", "--partitions", "1"]);
    let keyed = ["--property", "parse.key=true", "--property", "key.separator=:"];
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: String = (0..10).map(|n| format!("{codec}:value {n}\n")).collect();
        cli.ok_with(
            &[&["produce", "--topic", "t", "--compression-codec", codec], &keyed[..]].concat(),
            &lines,
        );
    }
    let shown = ["--property", "print.key=true", "--property", "print.offset=true"];
    let all = [&["consume", "--topic", "t", "--from-beginning", "--max-messages", "50"], &shown[..]].concat();
    let read = cli.ok(&all);
    assert_eq!(read.lines().count(), 50);
    assert_eq!(read.lines().nth(23), Some("Offset:23\tsnappy\tvalue 3"));
    let from = ["consume", "--topic", "t", "--partition", "0", "--offset", "-2", "--max-messages", "2"];
    assert_eq!(cli.ok(&from), "value 8\nvalue 9\n");

    let group = ["consume", "--topic", "t", "--group", "g", "--from-beginning", "--max-messages", "20"];
    assert_eq!(cli.ok(&group).lines().count(), 20);
    let row = |out: &str| {
        let row = out
            .lines()
            .find(|line| line.starts_with("g "))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        row.unwrap_or_else(|| panic!("no row: {out}"))
    };
    assert!(row(&cli.ok(&["group", "--describe", "--group", "g"])).starts_with("g t 0 20 50 30"));
    assert_eq!(cli.ok(&["group", "--list"]), "g\n");
    let shift = ["group", "--reset-offsets", "--group", "g", "--topic", "t", "--shift-by", "-5"];
    assert_eq!(row(&cli.ok(&shift)), "g t 0 15");
    assert!(row(&cli.ok(&["group", "--describe", "--group", "g"])).starts_with("g t 0 20"));
    cli.ok(&[&shift[..], &["--execute"]].concat());
    assert!(row(&cli.ok(&["group", "--describe", "--group", "g"])).starts_with("g t 0 15 50 35"));
    for (target, expected) in [
        (&["--to-earliest"][..], "g t 0 0"),
        (&["--to-latest"], "g t 0 50"),
        (&["--to-offset", "999"], "g t 0 50"),
        (&["--to-datetime", "2020-01-01T00:00:00.000"], "g t 0 0"),
        (&["--by-duration", "P1D"], "g t 0 0"),
    ] {
        let all = [&["group", "--reset-offsets", "--group", "g", "--all-topics"], target].concat();
        assert_eq!(row(&cli.ok(&all)), expected, "{target:?}");
    }
    cli.ok(&["group", "--delete", "--group", "g"]);
    assert!(cli.refused(&["group", "--describe", "--group", "g"]).contains("does not exist"));
    broker.stop();
    log_dump(&dir);
}

/// A closed broker's segment is whole; one flipped byte is found.
fn log_dump(dir: &DataDir) {
    let dump = |path: &std::path::Path| {
        let arguments = ["log", "dump", "--deep-iteration"];
        let done =
            Command::new(env!("CARGO_BIN_EXE_ringlog")).args(arguments).arg(path).output().expect("runs");
        (done.status.success(), String::from_utf8(done.stdout).expect("UTF-8"))
    };
    let (good, out) = dump(&dir.partition("t", 0));
    assert!(good && out.contains("5 batches, 50 records") && out.contains("compresscodec: Zstd"), "{out}");
    let segment = &dir.segments("t", 0)[0];
    let mut bytes = std::fs::read(segment).expect("read");
    bytes[100] ^= 1;
    std::fs::write(segment, bytes).expect("written");
    let (good, out) = dump(segment);
    assert!(!good && out.contains("DAMAGED at byte 0: the checksum does not match"), "{out}");
}

#[test]
fn configurations_and_quotas_are_set_and_shown() {
    let (_dir, broker, cli) = start("cli-config");
    cli.ok(&["topic", "--create", "--topic", "t"]);
    cli.ok(&[
        "config",
        "--alter",
        "--topic",
        "t",
        "--add-config",
        "cleanup.policy=[compact,delete],segment.ms=7000",
    ]);
    let shown = cli.ok(&["config", "--describe", "--topic", "t"]);
    assert!(shown.contains("compact,delete") && !shown.contains("retention.bytes"), "{shown}");
    assert!(cli.ok(&["config", "--describe", "--all", "--topic", "t"]).contains("retention.bytes"));
    cli.ok(&[
        "config",
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        "t",
        "--delete-config",
        "segment.ms",
    ]);
    assert!(!cli.ok(&["config", "--describe", "--topic", "t"]).contains("segment.ms"));
    assert!(
        cli.refused(&["config", "--alter", "--topic", "t", "--add-config", "x=1"]).contains("InvalidConfig")
    );
    cli.ok(&["config", "--alter", "--broker-defaults", "--add-config", "log.retention.ms=5000"]);
    assert!(cli.ok(&["config", "--describe", "--broker", "1"]).contains("all brokers"));
    assert!(
        cli.refused(&["config", "--alter", "--broker", "1", "--add-config", "node.id=3"])
            .contains("dynamically")
    );
    cli.ok(&[
        "config",
        "--alter",
        "--user",
        "u",
        "--client-defaults",
        "--add-config",
        "producer_byte_rate=1024",
    ]);
    let shown = cli.ok(&["config", "--describe", "--entity-type", "users", "--entity-type", "clients"]);
    assert!(
        shown.contains("client-id (default), user u") && shown.contains("producer_byte_rate=1024"),
        "{shown}"
    );
    // Without --describe or --alter the command lists what a broker can be configured with.
    let listed = Command::new(env!("CARGO_BIN_EXE_ringlog")).arg("config").output().expect("runs");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("log.retention.hours"));
    broker.stop();
}

/// A reader that is a member of a group: it shares the partitions with others, commits what it printed, and leaves on
/// Ctrl-C.
struct Consumer {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Consumer {
    fn start(cli: &Cli, topic: &str, group: &str) -> Consumer {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringlog"))
            .args(["consume", "--topic", topic, "--group", group, "--from-beginning"])
            .args(["--bootstrap-server", &cli.server, "--property", "print.partition=true"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Consumer { child, lines }
    }

    /// Ctrl-C; what it had printed and nobody has looked at.
    fn interrupt(mut self) -> Vec<String> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
        assert!(sent.success());
        assert!(self.child.wait().expect("it ends").success(), "an orderly end");
        self.lines.iter().collect()
    }
}

#[test]
fn readers_of_a_group_share_the_partitions() {
    let dir = DataDir::new("cli-members");
    let options = Options::default().with("group.initial.rebalance.delay.ms", "0");
    let broker = Broker::start(&dir, &options);
    let cli = Cli { server: format!("127.0.0.1:{}", broker.port) };
    cli.ok(&["topic", "--create", "--topic", "t", "--partitions", "2"]);
    let send = |tag: &str| {
        let lines: String = (0..40).map(|n| format!("{n}:{tag}{n}\n")).collect();
        let keyed = ["--property", "parse.key=true", "--property", "key.separator=:"];
        cli.ok_with(&[&["produce", "--topic", "t"], &keyed[..]].concat(), &lines);
    };
    let value = |line: &str| line.split('\t').nth(1).unwrap_or_default().to_owned();
    let expected = |tag: &str| (0..40).map(|n| format!("{tag}{n}")).collect::<BTreeSet<_>>();
    send("a");
    let first = Consumer::start(&cli, "t", "g");
    let read: BTreeSet<String> = (0..40).map(|_| value(&first.lines.recv().expect("a line"))).collect();
    assert_eq!(read, expected("a"), "alone it has both partitions");

    // With a second one, each has one partition; nothing is read twice.
    let second = Consumer::start(&cli, "t", "g");
    support::eventually("each has a partition", || {
        let members = cli.ok(&["group", "--describe", "--group", "g", "--members"]);
        let rows: Vec<&str> = members.lines().filter(|line| line.starts_with("g ")).collect();
        let one_each =
            rows.iter().all(|row| [" t-0", " t-1"].iter().any(|end| row.trim_end().ends_with(end)));
        (rows.len() == 2 && one_each).then_some(())
    });
    send("b");
    let row = || cli.ok(&["group", "--describe", "--group", "g"]);
    let (mut both, mut partitions) = (BTreeSet::new(), [BTreeSet::new(), BTreeSet::new()]);
    support::eventually("all is read", || {
        for (reader, seen) in [&first, &second].into_iter().zip(&mut partitions) {
            for line in reader.lines.try_iter() {
                seen.insert(line.split('\t').next().unwrap_or_default().to_owned());
                assert!(both.insert(value(&line)), "{line} is read twice");
            }
        }
        (both.len() == 40).then_some(())
    });
    assert_eq!(both, expected("b"));
    assert!(
        partitions.iter().all(|seen| seen.len() == 1) && partitions[0] != partitions[1],
        "{partitions:?}"
    );

    // One leaves on Ctrl-C: the other takes over where it was.
    assert!(first.interrupt().is_empty());
    support::eventually("the other has both", || {
        let members = cli.ok(&["group", "--describe", "--group", "g", "--members"]);
        let rows: Vec<&str> = members.lines().filter(|line| line.starts_with("g ")).collect();
        (rows.len() == 1 && rows[0].trim_end().ends_with("t-0,t-1")).then_some(())
    });
    send("c");
    let read: BTreeSet<String> = (0..40).map(|_| value(&second.lines.recv().expect("a line"))).collect();
    assert_eq!(read, expected("c"));
    assert!(second.interrupt().is_empty());
    // All is committed, and nobody is left in the group.
    assert!(
        row()
            .lines()
            .filter(|line| line.starts_with("g "))
            .all(|line| line.split_whitespace().nth(5) == Some("0"))
    );
    let none = ["consume", "--topic", "t", "--group", "g", "--from-beginning", "--timeout-ms", "1000"];
    assert_eq!(cli.ok(&none), "");
    broker.stop();
}
