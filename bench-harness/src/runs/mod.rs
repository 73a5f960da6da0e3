//! Runs as they lie on the disk: folders of this harness, folders of rounds, bare histogram files of any tool.
//!
//! Owner: `compare` and `report`. A run has rounds, a round has phases, a phase has histograms and perhaps a summary
//! and a series. Invariants: what is missing is `None`, never zero; runs made before a file existed stay readable.
//! Must not: judge (that is `compare`) or draw (that is `chart`).

mod info;
mod open;
mod series;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::Value;

pub(crate) use self::info::PhaseInfo;
pub(crate) use self::open::open;
pub(crate) use self::series::Series;
use crate::hlog::{self, Counts, Log};

/// One side of a comparison.
#[derive(Debug)]
pub(crate) struct Run {
    /// What tables call it.
    pub(crate) name: String,
    /// Where it was read from.
    pub(crate) source: String,
    /// `manifest.json`, that of the first round that has one, or null.
    pub(crate) manifest: Value,
    /// In the order in which they ran.
    pub(crate) rounds: Vec<Round>,
}

/// One pass over the workloads.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// By order of the summary, else of their file names.
    pub(crate) phases: Vec<Phase>,
    /// The roofline measured beside them, or null.
    pub(crate) roofline: Value,
    /// The round's own `manifest.json`, or null when one stands for all rounds.
    pub(crate) manifest: Value,
}

/// One workload of one round.
#[derive(Debug)]
pub(crate) struct Phase {
    /// Name.
    pub(crate) name: String,
    /// Its part of `summary.json`.
    pub(crate) info: Option<PhaseInfo>,
    /// Its histograms; `None` when the log is missing.
    pub(crate) log: Option<Log>,
    /// Seconds of the run, when it was written.
    pub(crate) series: Option<Series>,
}

impl Run {
    /// Names of the phases, in order.
    pub(crate) fn phase_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for phase in self.rounds.iter().flat_map(|round| &round.phases) {
            if !names.contains(&phase.name) {
                names.push(phase.name.clone());
            }
        }
        names
    }

    /// A phase in all rounds that have it.
    pub(crate) fn phase(&self, name: &str) -> Vec<&Phase> {
        self.rounds.iter().filter_map(|round| round.phases.iter().find(|phase| phase.name == name)).collect()
    }

    /// Whether acks waited for a flush, as the run was declared; `None` when nobody said.
    fn flushed(&self) -> Option<bool> {
        let policy = self.manifest.get("declared")?.get("flush_policy")?.as_str()?;
        Some(policy.starts_with("before"))
    }

    /// The limit that binds a phase (`in LIMIT` or `out LIMIT`) and the median share of it that was reached.
    pub(crate) fn binding_limit(&self, phase: &str) -> Option<(String, f64)> {
        let phases = self.phase(phase);
        let infos: Vec<&PhaseInfo> = phases.iter().filter_map(|phase| phase.info.as_ref()).collect();
        let name = binding(&infos.first()?.percent_of, self.flushed())?;
        let mut shares: Vec<f64> =
            infos.iter().filter_map(|info| info.percent_of.get(&name).copied()).collect();
        Some((name, crate::suite::median(&mut shares)?))
    }

    /// Tags of a phase, sorted.
    pub(crate) fn tags(&self, phase: &str) -> Vec<String> {
        let mut tags: Vec<String> = self
            .phase(phase)
            .iter()
            .filter_map(|phase| phase.log.as_ref())
            .flat_map(|log| log.tags.keys().cloned())
            .collect();
        tags.sort();
        tags.dedup();
        tags
    }

    /// All samples of a tag over all rounds, or `None` without any.
    pub(crate) fn merged(&self, phase: &str, tag: &str) -> Option<Histogram<u64>> {
        let phases = self.phase(phase);
        let logs = phases.iter().filter_map(|phase| phase.log.as_ref()?.tags.get(tag));
        let (values, _) = hlog::merged(logs.flatten());
        (!values.is_empty()).then_some(values)
    }
}

impl Phase {
    /// All samples of a tag of this round, or `None` without any.
    pub(crate) fn pooled(&self, tag: &str) -> Option<Counts> {
        let counts = hlog::pooled(self.log.as_ref()?.tags.get(tag)?);
        (!counts.is_empty()).then_some(counts)
    }

    /// The same as a histogram.
    pub(crate) fn merged(&self, tag: &str) -> Option<Histogram<u64>> {
        let (values, _) = hlog::merged(self.log.as_ref()?.tags.get(tag)?);
        (!values.is_empty()).then_some(values)
    }

    /// Whether the load had a schedule: then the response time is what counts, else the service time.
    pub(crate) fn is_open_loop(&self) -> bool {
        match self.info.as_ref().and_then(|info| info.parameters.get("pace")) {
            Some(pace) => pace.contains("open"),
            None => self.log.as_ref().is_some_and(|log| log.tags.contains_key("response")),
        }
    }

    /// Records a second: of the summary, else from the number of samples.
    pub(crate) fn records_per_s(&self) -> Option<f64> {
        let rates =
            |info: &PhaseInfo| info.produced.as_ref().or(info.consumed.as_ref())?.records_per_s.into();
        self.info.as_ref().and_then(rates)
    }
}

/// Of the limits that were measured the one that binds: of the two sinks the one that promised what was promised here
/// (the one with the smaller share when nobody said, so that nothing is overstated), then the nearest to 100 %.
fn binding(percent_of: &BTreeMap<String, f64>, flushed: Option<bool>) -> Option<String> {
    let of_sink = |name: &str, sync: bool| name.contains(" sink") && name.ends_with("fdatasync") == sync;
    let aside = |name: &str, share: f64| {
        let sync = name.ends_with("fdatasync");
        let twin =
            percent_of.iter().find(|(other, _)| of_sink(other, !sync)).filter(|_| name.contains(" sink"));
        match (twin, flushed) {
            (None, _) => false,
            (Some(_), Some(flushed)) => flushed != sync,
            (Some((_, other)), None) => *other < share,
        }
    };
    let limits = percent_of.iter().filter(|(name, _)| !name.contains(crate::load::stage::PUBLISHED));
    let kept = limits.filter(|(name, share)| !aside(name, **share));
    kept.max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.clone())
}

/// The tags that stand for a phase, most telling first: what a user of the endpoint sees.
pub(crate) fn primary_tags(tags: &[String], open_loop: bool) -> Vec<String> {
    let wanted: &[&str] = if open_loop { &["response", "e2e"] } else { &["service", "e2e"] };
    let mut found: Vec<String> = wanted
        .iter()
        .filter(|tag| tags.iter().any(|known| known == *tag))
        .map(|tag| (*tag).to_owned())
        .collect();
    if found.is_empty() {
        // A consumer's log has only fetches; those of other tools whatever they have, lag being no latency.
        found.extend(tags.iter().filter(|tag| !tag.ends_with("lag")).cloned());
    }
    if found.is_empty() { tags.to_vec() } else { found }
}

/// What a tag is called in tables.
pub(crate) fn tag_title(tag: &str) -> &str {
    if tag.is_empty() { "untagged" } else { tag }
}

/// A manifest's leaves by dotted name, lists in one piece.
pub(crate) fn leaves(value: &Value) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &Value, out: &mut BTreeMap<String, String>) {
        match value {
            Value::Null => {}
            Value::Object(map) => {
                for (key, value) in map {
                    let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&name, value, out);
                }
            }
            Value::String(text) => {
                out.insert(prefix.to_owned(), text.clone());
            }
            Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
                let words = items.iter().map(|item| item.as_str().map_or(item.to_string(), str::to_owned));
                out.insert(prefix.to_owned(), words.collect::<Vec<_>>().join(" "));
            }
            other => {
                out.insert(prefix.to_owned(), other.to_string());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_a_phase() {
        let tags = |list: &[&str]| list.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        let all = tags(&["e2e", "fetch", "lag", "own-lag", "response", "service"]);
        assert_eq!(primary_tags(&all, true), ["response", "e2e"]);
        assert_eq!(primary_tags(&tags(&["service", "own-lag"]), false), ["service"]);
        assert_eq!(primary_tags(&tags(&["fetch"]), false), ["fetch"]);
        assert_eq!(primary_tags(&tags(&[""]), false), [""]);
    }

    #[test]
    fn the_limit_that_binds_is_the_one_with_the_same_promise() {
        let shares = |sink: f64, sync: f64| {
            [("in sink", sink), ("in sink with fdatasync", sync), ("out loopback", 10.0)]
                .map(|(name, share)| (name.to_owned(), share))
                .into()
        };
        assert_eq!(binding(&shares(79.0, 51.0), Some(true)).unwrap(), "in sink with fdatasync");
        assert_eq!(binding(&shares(12.0, 23.0), Some(true)).unwrap(), "in sink with fdatasync");
        assert_eq!(binding(&shares(12.0, 23.0), Some(false)).unwrap(), "in sink");
        // Nobody said: the smaller share.
        assert_eq!(binding(&shares(79.0, 51.0), None).unwrap(), "in sink with fdatasync");
        assert_eq!(binding(&shares(12.0, 23.0), None).unwrap(), "in sink");
        assert_eq!(binding(&shares(2.0, 3.0), None).unwrap(), "out loopback");
        assert_eq!(binding(&BTreeMap::new(), None), None);
        // A published figure is another machine's.
        let with = BTreeMap::from([("in published line".to_owned(), 90.0), ("out loopback".to_owned(), 3.0)]);
        assert_eq!(binding(&with, None).unwrap(), "out loopback");
    }

    #[test]
    fn leaves_have_dotted_names() {
        let value = serde_json::json!({"a": {"b": "x", "c": [0, 1]}, "d": null, "e": 5});
        let found = leaves(&value);
        assert_eq!(found.len(), 3);
        assert_eq!((found["a.b"].as_str(), found["a.c"].as_str(), found["e"].as_str()), ("x", "0 1", "5"));
    }
}
