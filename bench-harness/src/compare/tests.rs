//! `compare` against truths that are known because they were made: A/A, injected shifts, noise of several kinds.
//!
//! Runs are simulated with a fixed seed: a latency distribution with a heavy tail, noise of the whole run (1 or 2 %),
//! of its tail (half as much again), of each second and of the single samples. No clock, no process.

use std::collections::BTreeMap;

use serde_json::json;

use super::judge::ROUNDS_MIN;
use super::*;
use crate::hlog::{Interval, Log};
use crate::random::Random;
use crate::runs::{Phase, PhaseInfo, Round};

const RULES: Rules =
    Rules { error_probability: 0.05, tolerance: 0.01, width_max: 0.1, rounds_min: ROUNDS_MIN };

fn normal(random: &mut Random) -> f64 {
    (0..12).map(|_| random.unit()).sum::<f64>() - 6.0
}

/// Run-to-run noise, relative.
const NOISE: f64 = 0.02;

/// One round: `seconds` intervals of 4,000 samples around a millisecond, three in a hundred of them in a tail of 10 ms.
fn round(random: &mut Random, shift: f64, noise: f64, seconds: usize) -> Round {
    let whole = shift * (noise * normal(random)).exp();
    let tail = (1.5 * noise * normal(random)).exp();
    let rate = 50_000.0 / shift * (noise / 2.0 * normal(random)).exp();
    let mut intervals = Vec::new();
    for second in 0..seconds {
        // Noise of a second: what a neighbour on the machine does.
        let wave = (0.01 * normal(random)).exp();
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for step in 0..130 {
            let in_tail = step >= 100;
            let z = if in_tail { f64::from(step - 100) / 5.0 - 3.0 } else { f64::from(step) * 0.06 - 3.0 };
            let scale = if in_tail { 12.533 } else { 41.78 };
            let weight = (-z * z / 2.0).exp() / scale * if in_tail { 0.03 } else { 0.97 };
            let centre = if in_tail { 1e7 * tail } else { 1e6 };
            let value = centre * whole * wave * (0.2 * z + 0.01 * normal(random)).exp();
            let expected = 4_000.0 * weight;
            let count = (expected + expected.sqrt() * normal(random)).round().max(0.0) as u64;
            *counts.entry(value as u64).or_default() += count;
        }
        let counts = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        intervals.push(Interval { start_s: second as f64, length_s: 1.0, counts });
    }
    let info: PhaseInfo = serde_json::from_value(json!({
        "name": "open", "seconds": seconds, "parameters": {"pace": "4000 records/s (open loop)", "acks": "all"},
        "produced": {"records_per_s": rate}
    }))
    .unwrap();
    let log = Log { tags: BTreeMap::from([("response".to_owned(), intervals)]), timed: true };
    let phase = Phase { name: "open".into(), info: Some(info), log: Some(log), series: None };
    Round { phases: vec![phase], ..Round::default() }
}

fn run(random: &mut Random, shift: f64, rounds: usize, seconds: usize) -> Run {
    noisy(random, shift, NOISE, rounds, seconds)
}

fn noisy(random: &mut Random, shift: f64, noise: f64, rounds: usize, seconds: usize) -> Run {
    let rounds = (0..rounds).map(|_| round(random, shift, noise, seconds)).collect();
    Run { name: format!("x{shift}"), source: "-".into(), manifest: json!({"kernel": "6.1"}), rounds }
}

fn compared(seed: u64, shift: f64, rounds: usize, seconds: usize) -> Comparison {
    let mut random = Random(seed);
    let (a, b) = (run(&mut random, 1.0, rounds, seconds), run(&mut random, shift, rounds, seconds));
    compare(&a, &b, &[], None, &RULES, false).unwrap()
}

/// How often each overall verdict came: faster, no difference, undecided, slower.
fn verdicts(shift: f64, noise: f64, rounds: usize, times: u64) -> [usize; 4] {
    let mut counts = [0; 4];
    for seed in 0..times {
        let mut random = Random(1 + seed * 1_000_003);
        let a = noisy(&mut random, 1.0, noise, rounds, 3);
        let b = noisy(&mut random, shift, noise, rounds, 3);
        let found = compare(&a, &b, &[], None, &RULES, false).unwrap();
        assert_eq!(found.method, Method::PairedRounds);
        counts[found.overall.unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn the_same_thing_twice_shows_no_difference_about_95_times_in_100() {
    for rounds in [5, 8, 15] {
        let [faster, same, undecided, slower] = verdicts(1.0, NOISE, rounds, 100);
        assert!(faster + slower <= 9, "{faster} faster, {slower} slower of 100 A/A with {rounds} rounds");
        // With few rounds the tail's interval may stay too wide to say anything; that is no false alarm.
        let same = if rounds < 15 { same + undecided } else { same };
        assert!(same >= 91, "{same} of 100, {undecided} undecided");
    }
}

#[test]
fn a_shift_of_five_percent_is_found() {
    let [faster, _, _, slower] = verdicts(1.05, 0.01, 8, 40);
    assert!(slower >= 38 && faster == 0, "{slower} of 40 found with 8 rounds and 1 % of noise");
    let [faster, _, _, slower] = verdicts(0.95, NOISE, 15, 40);
    assert!(faster >= 38 && slower == 0, "{faster} of 40 found with 15 rounds and 2 % of noise");
}

/// The table of docs/LAB.md.
#[test]
#[ignore = "prints how often differences are found; takes a minute"]
fn power() {
    for noise in [0.01, 0.02, 0.04] {
        for shift in [1.0, 1.05, 1.1] {
            for rounds in [5, 8, 10, 15] {
                let [faster, same, undecided, slower] = verdicts(shift, noise, rounds, 200);
                println!(
                    "{noise} {shift} {rounds}: {slower} slower, {same} same, {undecided} undecided, {faster} faster"
                );
            }
        }
    }
}

#[test]
fn a_shift_of_a_quarter_is_found_with_five_rounds() {
    let [_, _, _, slower] = verdicts(1.25, NOISE, ROUNDS_MIN, 20);
    assert_eq!(slower, 20);
}

#[test]
fn single_runs_are_judged_by_their_own_noise_and_say_so() {
    let found = compared(3, 1.3, 1, 30);
    assert_eq!(found.method, Method::WithinRuns);
    assert_eq!(found.overall, Some(Verdict::Slower));
    // Without run-to-run noise in the interval no exit status is given away.
    assert_eq!((found.exit_status(false), found.exit_status(true)), (2, 1));
    let text = text::table(&found);
    assert!(text.contains("WITHIN the runs") && text.contains("in these very runs"), "{text}");
    let short = compared(3, 1.3, 1, 3);
    assert_eq!((short.method, short.overall), (Method::None, Some(Verdict::Undecided)));
}

#[test]
fn the_order_of_the_runs_turns_the_verdict_round() {
    let mut random = Random(11);
    let (a, b) = (run(&mut random, 1.0, 10, 3), run(&mut random, 1.2, 10, 3));
    let forth = compare(&a, &b, &[], None, &RULES, false).unwrap();
    let back = compare(&b, &a, &[], None, &RULES, false).unwrap();
    assert_eq!((forth.exit_status(false), back.exit_status(false)), (1, 0));
    for (x, y) in forth.rows.iter().zip(&back.rows) {
        assert!((x.ratio * y.ratio - 1.0).abs() < 1e-9, "{x:?} {y:?}");
    }
}

#[test]
fn quantiles_without_samples_behind_them_are_shown_and_not_judged() {
    let found = compared(5, 1.0, 6, 3);
    let verdict = |metric: &str| found.rows.iter().find(|row| row.metric == metric).unwrap().verdict;
    // 12,000 samples a round: twelve above p99.9, one above p99.99.
    assert_ne!(verdict("p99.9"), Verdict::Shown);
    assert_eq!((verdict("p99.99"), verdict("max")), (Verdict::Shown, Verdict::Shown));
}

#[test]
fn what_is_not_comparable_is_refused_or_labelled() {
    let mut random = Random(7);
    let (a, mut b) = (run(&mut random, 1.0, 6, 3), run(&mut random, 1.0, 6, 3));
    b.manifest = json!({"kernel": "5.10"});
    let refused = compare(&a, &b, &[], None, &RULES, false).unwrap();
    assert_eq!((refused.exit_status(false), refused.rows.len()), (3, 0));
    assert!(text::table(&refused).contains("| kernel | 6.1 | 5.10 | differs |"));
    let forced = compare(&a, &b, &[], None, &RULES, true).unwrap();
    assert!(forced.exit_status(false) < 3 && !forced.rows.is_empty());
    let text = text::table(&forced);
    assert_eq!(text.matches("NOT COMPARABLE").count(), 3, "{text}");
}

#[test]
fn other_tools_files_are_compared_by_what_they_have() {
    let mut random = Random(9);
    let (a, mut b) = (run(&mut random, 1.0, 1, 20), run(&mut random, 1.0, 1, 20));
    let phase = &mut b.rounds[0].phases[0];
    phase.name = "wrk2".into();
    phase.info = None;
    let log = phase.log.as_mut().unwrap();
    let intervals = log.tags.remove("response").unwrap();
    log.tags.insert(String::new(), intervals);
    b.manifest = serde_json::Value::Null;
    let found = compare(&a, &b, &[], None, &RULES, false).unwrap();
    assert_eq!(found.rows[0].tag.as_deref(), Some("response/"));
    assert!(found.differences.iter().any(|one| one.what == "manifest" && !one.refuses));
    assert!(compare(&a, &b, &["none".into()], Some("nothing"), &RULES, false).unwrap().rows.is_empty());
}

#[test]
fn pictures_are_drawn_for_both_and_become_a_png() {
    let mut random = Random(13);
    let runs = [run(&mut random, 1.0, 2, 3), run(&mut random, 2.0, 2, 3)];
    let svg = chart::standalone(&runs, "open", None).unwrap();
    assert!(svg.contains("curve s0") && svg.contains("curve s1") && !svg.contains("NaN"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    match chart::write_png(&svg, &path) {
        Ok(()) => {
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000, "{} bytes", bytes.len());
        }
        // A machine without fonts says so instead of leaving the labels out.
        Err(error) => assert!(error.to_string().contains("no font"), "{error}"),
    }
}
