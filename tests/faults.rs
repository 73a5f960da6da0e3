//! Every kind of client at once, under SIGKILL and SIGSTOP, and the judge of seventeen rules over their history.
//!
//! A round is some load, a fault, a restart, the repetition of what was left open, requests that must be refused, and
//! a read of everything. `RINGLOG_FAULT_ROUNDS`, or `RINGLOG_FAULT_SECONDS` and `RINGLOG_FAULT_RUNS`, and
//! `RINGLOG_TEST_SEED` make it longer and different. That the judge can fail is shown in `tests/judge.rs`.

mod support;

use std::time::{Duration, Instant};

use support::broker::{Broker, DataDir, Options};
use support::history::now_ns;
use support::judge::Judge;
use support::random::Random;
use support::workload::{Pace, Workload, assert_clean};

const ROUNDS_DEFAULT: u64 = 12;
/// Rounds on one data directory before a fresh one: bounds what every scan reads.
const ROUNDS_PER_LIFE: u64 = 12;

fn options() -> Options {
    Options::default()
        .with("log.retention.check.interval.ms", "50")
        .with("group.initial.rebalance.delay.ms", "0")
        .with("transaction.state.log.num.partitions", "2")
        .with("offsets.topic.num.partitions", "2")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What happens to the broker while there is load.
fn fault(broker: Broker, dir: &DataDir, random: &mut Random) -> Broker {
    let wait = match random.below(6) {
        0 => random.between(5, 60),
        _ => random.between(150, 700),
    };
    std::thread::sleep(Duration::from_millis(wait));
    if random.one_in(4) {
        // A pause of the whole process: nobody may notice anything but the time.
        broker.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(random.between(50, 400)));
        broker.signal(libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(random.between(0, 100)));
    }
    broker.kill();
    if random.one_in(5) {
        let starting = Broker::launch(dir, &options());
        std::thread::sleep(Duration::from_millis(random.between(1, 120)));
        starting.kill();
    }
    Broker::start(dir, &options())
}

fn one_life(random: &mut Random, mut goes_on: impl FnMut(u64) -> bool) -> (u64, u64) {
    let dir = DataDir::new("faults");
    let mut broker = Broker::start(&dir, &options());
    let workload = Workload::new(&mut broker.connect(), random, Pace::FAST, &[]);
    let mut judge = Judge::default();
    let mut rounds = 0;
    while goes_on(rounds) {
        let port = broker.port;
        broker = workload.run(port, || fault(broker, &dir, random));
        let healed_ns = now_ns();
        let mut client = broker.connect();
        workload.settle(&mut client);
        workload.scan(&mut client, &workload.history, healed_ns);
        judge.hear(&workload.history.take());
        if !judge.violations().is_empty() {
            eprintln!("round {rounds}: stderr of the restart:\n{}", broker.stderr());
        }
        assert_clean(&judge, &format!("round {rounds}"));
        rounds += 1;
    }
    broker.stop();
    println!("{rounds} rounds: {:?}", judge.heard());
    assert!(rounds < 4 || judge.heard().len() == 10, "every client has done its part");
    (rounds, judge.acked_count())
}

#[test]
fn no_rule_is_broken_under_kills_and_pauses() {
    let mut random = Random::from_environment(0x0fa0_17ed);
    let (mut kills, mut acked) = (0, 0);
    if let Some(seconds) = number("RINGLOG_FAULT_SECONDS") {
        for _ in 0..number("RINGLOG_FAULT_RUNS").unwrap_or(1) {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(seconds) {
                let more = |round| round < ROUNDS_PER_LIFE && began.elapsed() < Duration::from_secs(seconds);
                let (more_kills, more_acked) = one_life(&mut random, more);
                (kills, acked) = (kills + more_kills, acked + more_acked);
            }
        }
    } else {
        let rounds = number("RINGLOG_FAULT_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
        while kills < rounds {
            let left = rounds - kills;
            let (more_kills, more_acked) = one_life(&mut random, |round| round < left.min(ROUNDS_PER_LIFE));
            (kills, acked) = (kills + more_kills, acked + more_acked);
        }
    }
    println!("{kills} kills, {acked} acknowledged batches, no rule broken");
    assert!(acked > kills * 20, "hardly any load: {acked} batches");
}
