//! What is read back of a phase in `summary.json`. Every field may be missing: older runs lack some.
//!
//! Owner: `runs`. Must not: fail because a newer harness wrote more.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A phase's figures that no histogram holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PhaseInfo {
    /// Name; also that of its log.
    pub(crate) name: String,
    /// Which endpoint.
    pub(crate) endpoint: String,
    /// How it was loaded.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Measured seconds.
    pub(crate) seconds: f64,
    /// Acknowledged.
    pub(crate) produced: Option<RatesInfo>,
    /// Received.
    pub(crate) consumed: Option<RatesInfo>,
    /// The harness's own use.
    pub(crate) generator: GeneratorInfo,
    /// Cores of the server.
    pub(crate) server_cpu_cores: Option<f64>,
    /// Requests due and never sent.
    pub(crate) unsent_requests: u64,
    /// Requests without an answer.
    pub(crate) unanswered_requests: u64,
    /// Records acknowledged and never received.
    pub(crate) undelivered_records: Option<u64>,
    /// Percentages of limits, by `in LIMIT` and `out LIMIT`.
    pub(crate) percent_of: BTreeMap<String, f64>,
    /// What a reader must know.
    pub(crate) notes: Vec<String>,
}

/// Throughput of one direction.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RatesInfo {
    /// Requests per second.
    pub(crate) requests_per_s: f64,
    /// Records per second.
    pub(crate) records_per_s: f64,
    /// 10^9 bytes per second.
    pub(crate) gb_per_s: f64,
}

/// The self-check.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GeneratorInfo {
    /// Cores used.
    pub(crate) cpu_cores: f64,
    /// The figures are the generator's.
    pub(crate) bottleneck: bool,
}

/// All phases of a summary, whatever their nesting, one list a pass.
pub(super) fn passes(summary: &Value) -> Vec<Vec<PhaseInfo>> {
    let phases = summary.get("phases").unwrap_or(summary);
    let decode = |value: &Value| {
        value.get("name")?;
        serde_json::from_value::<PhaseInfo>(value.clone()).ok()
    };
    match phases {
        Value::Array(items) if items.iter().any(Value::is_array) => items
            .iter()
            .map(|pass| pass.as_array().into_iter().flatten().filter_map(decode).collect())
            .collect(),
        Value::Array(items) => vec![items.iter().filter_map(decode).collect()],
        other => vec![decode(other).into_iter().collect()],
    }
}
