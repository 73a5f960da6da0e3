//! What two runs must share before their figures mean anything beside each other.
//!
//! Owner: `compare`. Invariants: what is known on both sides and differs is refused, what only one side knows is
//! said; what differs on purpose (the commit, the endpoint) is listed and refuses nothing. The rounds of one side must
//! agree with each other as the sides must.
//! Must not: look at a figure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::runs::{Round, Run, leaves};

/// What of the manifest matters: the machine, its settings, the file system, the instrument, and what was declared of
/// the server (flush policy, replication).
const MANIFEST_MATTERS: &[&str] = &[
    "harness",
    "harness_version",
    "kernel",
    "cpu_model",
    "cores",
    "smt_active",
    "governor",
    "memory_bytes",
    "transparent_huge_pages",
    "tcp_congestion_used",
    "cpus_client",
    "cpus_server",
    "data_dir.file_system",
    "data_dir.mount_options",
];

/// Parts of a manifest of which every leaf matters.
const MANIFEST_TREES: &[&str] = &["declared.", "endpoint_facts."];

/// The fact that says what an endpoint is, not what it promises; behind the endpoint's name where there are several.
const FACT_ASIDE: &str = "api_versions";
/// A flush policy that both sides declare is worth more than settings that mean different things to different brokers.
const FLUSH_DECLARED: &str = "declared.flush_policy";

/// Parameters of a phase that say where, not how.
const PARAMETERS_ASIDE: &[&str] = &["bytes_max", "bootstrap", "topic"];

/// One thing that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// Name of the field; `phase: name` for a parameter.
    pub(crate) what: String,
    /// The base's value, or `None` when it does not say.
    pub(crate) base: Option<String>,
    /// The other's value.
    pub(crate) other: Option<String>,
    /// Whether figures may not be compared because of it.
    pub(crate) refuses: bool,
}

fn differences(
    prefix: &str,
    base: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
    matters: &dyn Fn(&str) -> bool,
    out: &mut Vec<Difference>,
) {
    let names: BTreeSet<&String> = base.keys().chain(other.keys()).filter(|name| matters(name)).collect();
    for name in names {
        let (left, right) = (base.get(name), other.get(name));
        if left != right {
            out.push(Difference {
                what: format!("{prefix}{name}"),
                base: left.cloned(),
                other: right.cloned(),
                refuses: left.is_some() && right.is_some(),
            });
        }
    }
}

/// The leaves of a manifest that are known.
fn known(manifest: &Value) -> BTreeMap<String, String> {
    let mut leaves = leaves(manifest);
    leaves.retain(|_, value| value != "unknown");
    leaves
}

/// Whether a leaf of the manifest matters; `declared`: both sides say when they flush.
fn leaf_matters(name: &str, declared: bool) -> bool {
    let in_tree = MANIFEST_TREES.iter().any(|tree| name.starts_with(tree)) && !name.ends_with(FACT_ASIDE);
    let setting = name.starts_with("endpoint_facts.") && !name.ends_with("replication.factor");
    MANIFEST_MATTERS.contains(&name) || in_tree && !(declared && setting)
}

fn parameter_matters(name: &str) -> bool {
    !PARAMETERS_ASIDE.contains(&name)
}

/// Where the rounds of a run differ from its first, each field once.
fn among_rounds(run: &Run, phases: &[&str]) -> Vec<Difference> {
    let mut out: Vec<Difference> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |round: usize, found: Vec<Difference>, refuses: bool| {
        for mut one in found {
            if seen.insert(one.what.clone()) {
                one.what = format!("{}, round {} beside its first: {}", run.name, round + 1, one.what);
                one.refuses &= refuses;
                out.push(one);
            }
        }
    };
    let first = run.rounds.first().map(|round| known(&round.manifest)).unwrap_or_default();
    for (number, round) in run.rounds.iter().enumerate().skip(1) {
        let own = known(&round.manifest);
        if !first.is_empty() && !own.is_empty() {
            let mut found = Vec::new();
            differences("", &first, &own, &|name| leaf_matters(name, false), &mut found);
            add(number, found, true);
            // Between the sides another commit is what is compared; inside one it is a mixture, and said.
            let mut found = Vec::new();
            differences("", &first, &own, &|name| name == "git_commit", &mut found);
            add(number, found, false);
        }
        for name in phases {
            let parameters = |round: &Round| {
                let phase = round.phases.iter().find(|phase| phase.name == *name)?;
                Some(phase.info.as_ref()?.parameters.clone())
            };
            if let (Some(a), Some(b)) = (parameters(&run.rounds[0]), parameters(round)) {
                let mut found = Vec::new();
                differences(&format!("{name}: "), &a, &b, &parameter_matters, &mut found);
                add(number, found, true);
            }
        }
    }
    out
}

/// All differences that matter, refused ones first. Without a manifest on a side (a bare file) nothing of it is known.
pub(crate) fn check(base: &Run, other: &Run, phases: &[(String, String)]) -> Vec<Difference> {
    let mut out = Vec::new();
    let (base_leaves, other_leaves) = (known(&base.manifest), known(&other.manifest));
    let declared = base_leaves.contains_key(FLUSH_DECLARED) && other_leaves.contains_key(FLUSH_DECLARED);
    if base.manifest.is_null() || other.manifest.is_null() {
        let says = |run: &Run| (!run.manifest.is_null()).then(|| "known".to_owned());
        let (left, right) = (says(base), says(other));
        out.push(Difference { what: "manifest".into(), base: left, other: right, refuses: false });
    } else {
        differences("", &base_leaves, &other_leaves, &|name| leaf_matters(name, declared), &mut out);
        // Servers of another number of cores may be what is compared; a reader has to know it.
        let cores = |name: &str| name.starts_with("servers.") && name.ends_with(".cpus_allowed");
        let mut found = Vec::new();
        differences("", &base_leaves, &other_leaves, &cores, &mut found);
        out.extend(found.into_iter().map(|one| Difference { refuses: false, ..one }));
    }
    for (left, right) in phases {
        let parameters = |run: &Run, name: &str| {
            let info = run.phase(name).first().and_then(|phase| phase.info.clone())?;
            Some(info.parameters)
        };
        if let (Some(a), Some(b)) = (parameters(base, left), parameters(other, right)) {
            differences(&format!("{left}: "), &a, &b, &parameter_matters, &mut out);
        }
    }
    let names = |pick: fn(&(String, String)) -> &String| -> Vec<&str> {
        phases.iter().map(|pair| pick(pair).as_str()).collect()
    };
    out.extend(among_rounds(base, &names(|pair| &pair.0)));
    out.extend(among_rounds(other, &names(|pair| &pair.1)));
    out.sort_by_key(|difference| !difference.refuses);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::{Phase, PhaseInfo};
    use serde_json::json;

    fn manifest() -> Value {
        json!({
            "harness": "ringlog-bench", "harness_version": "0.1.0", "kernel": "6.1", "cpu_model": "EPYC", "cores": 2,
            "smt_active": "0", "governor": "performance", "memory_bytes": 1000, "transparent_huge_pages": "madvise",
            "tcp_congestion_used": "cubic", "cpus_client": [0], "cpus_server": [1],
            "data_dir": {"file_system": "ext4", "mount_options": "rw"},
            "declared": {"what": "ringlog", "replication": "1"},
            "endpoint_facts": {"replication.factor": "1", "topic flush.messages": "1", "api_versions": "0:3-8"},
            "git_commit": "abc", "started_unix_s": 1, "load_average": "0.1"
        })
    }

    fn parameters() -> BTreeMap<String, String> {
        [
            ("acks", "all"),
            ("request_bytes", "1048473"),
            ("record_bytes", "1024"),
            ("partitions", "4"),
            ("connections", "4"),
            ("in_flight", "5"),
            ("pace", "20000 records/s (open loop)"),
            ("compression", "none"),
            ("fan_out", "1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn run(manifest: Value, parameters: BTreeMap<String, String>) -> Run {
        let info = PhaseInfo { name: "open".into(), parameters, ..PhaseInfo::default() };
        let phase = Phase { name: "open".into(), info: Some(info), log: None, series: None };
        let round = Round { phases: vec![phase], ..Round::default() };
        Run { name: "run".into(), source: "-".into(), manifest, rounds: vec![round] }
    }

    fn found(other: &Run) -> Vec<Difference> {
        check(&run(manifest(), parameters()), other, &[("open".into(), "open".into())])
    }

    #[test]
    fn equal_runs_and_runs_of_other_commits_are_comparable() {
        let mut later = manifest();
        later["git_commit"] = json!("def");
        later["started_unix_s"] = json!(99);
        later["load_average"] = json!("0.2");
        let mut elsewhere = parameters();
        elsewhere.insert("topic".into(), "other".into());
        assert_eq!(found(&run(later, elsewhere)), []);
    }

    #[test]
    fn every_field_of_the_manifest_that_matters_refuses() {
        let trees = [
            "declared.what",
            "declared.replication",
            "endpoint_facts.replication.factor",
            "endpoint_facts.topic flush.messages",
        ];
        for field in MANIFEST_MATTERS.iter().chain(&trees) {
            let mut changed = manifest();
            match field.split_once('.') {
                Some((tree, leaf)) => changed[tree][leaf] = json!("another"),
                None => changed[*field] = json!("another"),
            }
            let found = found(&run(changed, parameters()));
            assert_eq!(found.len(), 1, "{field}");
            assert!(found[0].refuses && found[0].what == *field, "{field}: {found:?}");
        }
    }

    #[test]
    fn a_declared_flush_policy_counts_instead_of_the_brokers_settings() {
        let declare = |policy: &str, messages: &str| {
            let mut changed = manifest();
            changed["declared"]["flush_policy"] = json!(policy);
            changed["endpoint_facts"]["topic flush.messages"] = json!(messages);
            run(changed, parameters())
        };
        let base = declare("before the ack", "1");
        assert_eq!(check(&base, &declare("before the ack", "9223372036854775807"), &[]), []);
        let found = check(&base, &declare("later", "1"), &[]);
        assert!(found.len() == 1 && found[0].what == FLUSH_DECLARED && found[0].refuses);
    }

    #[test]
    fn every_parameter_refuses() {
        for field in parameters().keys() {
            let mut changed = parameters();
            changed.insert(field.clone(), "another".into());
            let found = found(&run(manifest(), changed));
            assert_eq!(found.len(), 1, "{field}");
            assert!(found[0].refuses && found[0].what == format!("open: {field}"));
        }
    }

    #[test]
    fn what_one_side_does_not_know_is_said_and_refuses_nothing() {
        let mut silent = manifest();
        silent["governor"] = Value::Null;
        let mut fewer = parameters();
        fewer.remove("partitions");
        let found = found(&run(silent, fewer));
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|difference| !difference.refuses && difference.other.is_none()));
        let bare = super::check(&run(manifest(), parameters()), &run(Value::Null, parameters()), &[]);
        assert!(bare.len() == 1 && bare[0].what == "manifest" && !bare[0].refuses);
    }

    /// The story: `compare` read the manifest of the first round, so that rounds of another kernel or another load
    /// could be put behind it and were taken for the same.
    #[test]
    fn rounds_of_one_side_that_differ_are_refused() {
        let rounds = |second: Value, load: BTreeMap<String, String>| {
            let mut both = run(manifest(), parameters());
            both.rounds[0].manifest = manifest();
            both.rounds.push(Round { manifest: second, ..run(Value::Null, load).rounds.remove(0) });
            both
        };
        assert_eq!(found(&rounds(manifest(), parameters())), []);
        assert_eq!(
            found(&rounds(Value::Null, parameters())),
            [],
            "a round that says nothing contradicts nothing"
        );
        let mut other = manifest();
        other["kernel"] = json!("5.10");
        other["git_commit"] = json!("def");
        let mut slower = parameters();
        slower.insert("acks".into(), "1".into());
        let said = found(&rounds(other, slower));
        let refused: Vec<&str> = said.iter().filter(|one| one.refuses).map(|one| one.what.as_str()).collect();
        assert_eq!(
            refused,
            ["run, round 2 beside its first: kernel", "run, round 2 beside its first: open: acks"]
        );
        assert!(said.iter().any(|one| one.what.ends_with("git_commit") && !one.refuses));
    }
}
