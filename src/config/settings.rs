//! The layers of configuration: default < properties file < environment < flag, and the loading of all of them.
//!
//! Owner: the process, at start. Invariants: of one key the strongest layer wins and the others are kept for
//! `DescribeConfigs`; unknown keys become warnings, wrong values become errors, all of them at once.
//! Must not: give a key a meaning (that is `broker.rs`).

use super::broker::BrokerConfig;
use super::broker_keys::{broker_key, is_accepted_without_effect};
use super::properties::{PROPERTIES_SIZE_BYTES_MAX, parse_properties};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Upper bound of warnings that are kept; what goes beyond is counted only.
const WARNING_COUNT_MAX: usize = 100;

/// Variables of Apache's scripts and images that begin with `KAFKA_` and are no configuration.
const ENV_IGNORED: &[&str] = &[
    "KAFKA_CLUSTER_ID",
    "KAFKA_DEBUG",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_HOME",
    "KAFKA_JMX_HOSTNAME",
    "KAFKA_JMX_OPTS",
    "KAFKA_JMX_PORT",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_LOG4J_LOGGERS",
    "KAFKA_LOG4J_OPTS",
    "KAFKA_LOG4J_ROOT_LOGLEVEL",
    "KAFKA_OPTS",
    "KAFKA_TOOLS_LOG4J_LOGLEVEL",
    "KAFKA_VERSION",
];

/// Variables Kubernetes puts into every container when a service is called `kafka`.
const ENV_IGNORED_PREFIXES: &[&str] = &["KAFKA_SERVICE_", "KAFKA_PORT_", "KAFKA_PORT"];

/// Where a value comes from, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The table of keys.
    Default,
    /// The properties file.
    File,
    /// A `KAFKA_*` environment variable.
    Environment,
    /// A command line flag.
    Flag,
    /// Set at run time for all brokers.
    DynamicDefault,
    /// Set at run time for this broker.
    DynamicBroker,
}

/// A name under which a value is set, as DescribeConfigs lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synonym {
    /// The broker key.
    pub name: &'static str,
    /// Its value as written, or the key's default.
    pub value: String,
    /// The layer it comes from.
    pub source: Source,
}

/// The values that were given explicitly, with their layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, BTreeMap<Source, String>>,
}

/// What is wrong with a configuration, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigError {
    /// The problems, never empty.
    pub problems: Vec<String>,
}

/// Where to load a configuration from.
#[derive(Debug, Clone, Default)]
pub struct ConfigSources {
    /// The properties file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; what does not begin with `KAFKA_` is left alone.
    pub environment: Vec<(String, String)>,
    /// `--override key=value` and the flags that stand for keys, in order; the last one wins.
    pub flags: Vec<(String, String)>,
}

/// A configuration that can be used, and what was noticed on the way.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The checked configuration.
    pub config: BrokerConfig,
    /// Unknown keys and the like, one sentence each.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Sets a key in one layer; a later call for the same layer wins.
    pub fn set(&mut self, name: &str, value: &str, source: Source) {
        self.values.entry(name.to_owned()).or_default().insert(source, value.trim().to_owned());
    }

    /// These settings without one key.
    pub(super) fn without(&self, name: &str) -> Settings {
        let mut rest = self.clone();
        rest.values.remove(name);
        rest
    }

    /// Removes whole layers.
    pub(super) fn forget(&mut self, layers: &[Source]) {
        for values in self.values.values_mut() {
            values.retain(|source, _| !layers.contains(source));
        }
        self.values.retain(|_, values| !values.is_empty());
    }

    /// The strongest explicit value of exactly this key. An empty one counts as not given where the key has
    /// no text type, as `log.retention.ms=` in many properties files does.
    pub fn explicit(&self, name: &str) -> Option<(&str, Source)> {
        let (source, value) = self.values.get(name)?.iter().next_back()?;
        let empty = value.is_empty() && broker_key(name).is_some_and(|spec| spec.default != Some(""));
        (!empty).then_some((value.as_str(), *source))
    }

    /// The values of the given broker keys, in that order: for each its explicit layers, strongest first, then
    /// its default if it has one. The first entry is the value in effect.
    pub fn synonyms(&self, names: &[&'static str]) -> Vec<Synonym> {
        let mut found = Vec::new();
        for &name in names {
            for (&source, value) in self.values.get(name).into_iter().flatten().rev() {
                if !value.is_empty() {
                    found.push(Synonym { name, value: value.clone(), source });
                }
            }
        }
        for &name in names {
            if let Some(default) = broker_key(name).and_then(|spec| spec.default) {
                found.push(Synonym { name, value: default.to_owned(), source: Source::Default });
            }
        }
        found
    }

    /// Every explicit key with its strongest value, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, Source)> {
        self.values.keys().filter_map(|name| {
            let (value, source) = self.explicit(name)?;
            Some((name.as_str(), value, source))
        })
    }
}

/// Loads the layers, checks them and builds the typed configuration.
///
/// Errors: the file cannot be read or parsed, or values are wrong; all problems are reported together.
pub fn load(sources: &ConfigSources) -> Result<LoadedConfig, ConfigError> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    if let Some(path) = &sources.file {
        match read_file(path) {
            Ok(entries) => {
                for (name, value) in entries {
                    take(&mut settings, &mut warnings, &name, &value, Source::File, &name);
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    for (variable, value) in &sources.environment {
        if let Some(name) = environment_key(variable) {
            take(&mut settings, &mut warnings, &name, value, Source::Environment, variable);
        }
    }
    for (name, value) in &sources.flags {
        if broker_key(name).is_none() && !is_accepted_without_effect(name) {
            problems
                .push(format!("--override {name}: there is no such key; `ringlog config` lists them all"));
        } else {
            take(&mut settings, &mut warnings, name, value, Source::Flag, name);
        }
    }
    for (name, value, source) in settings.iter() {
        if let Some(Err(why)) = broker_key(name).map(|spec| spec.kind.check(value)) {
            problems.push(format!("{name}={value} ({}): {why}", source.describe()));
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    let config = BrokerConfig::from_settings(settings, &mut warnings)?;
    if warnings.len() > WARNING_COUNT_MAX {
        let more = warnings.len() - WARNING_COUNT_MAX;
        warnings.truncate(WARNING_COUNT_MAX);
        warnings.push(format!("... and {more} more"));
    }
    Ok(LoadedConfig { config, warnings })
}

impl Source {
    /// The layer's name for people.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "properties file",
            Self::Environment => "environment",
            Self::Flag => "flag",
            Self::DynamicDefault => "dynamic default",
            Self::DynamicBroker => "dynamic",
        }
    }
}

fn read_file(path: &std::path::Path) -> Result<Vec<(String, String)>, String> {
    use std::io::Read;
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(|e| format!("cannot open {shown}: {e}"))?;
    let mut bytes = Vec::new();
    file.take(PROPERTIES_SIZE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot read {shown}: {e}"))?;
    if bytes.len() as u64 > PROPERTIES_SIZE_BYTES_MAX {
        return Err(format!("{shown} is larger than {PROPERTIES_SIZE_BYTES_MAX} bytes: no properties file"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8 text"))?;
    parse_properties(&text).map_err(|e| format!("{shown}, {e}"))
}

fn take(
    settings: &mut Settings,
    warnings: &mut Vec<String>,
    name: &str,
    value: &str,
    source: Source,
    given_as: &str,
) {
    match broker_key(name) {
        Some(_) => settings.set(name, value, source),
        None if is_accepted_without_effect(name) => {
            tracing::debug!(key = name, "a key of Apache Kafka without effect here");
        }
        None => warnings.push(format!("unknown key {given_as} ({}) is ignored", source.describe())),
    }
}

/// The key a `KAFKA_*` variable stands for: `_` is a dot, `__` an underscore, `___` a dash. `None` for variables
/// that are no configuration.
fn environment_key(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix("KAFKA_")?;
    let ignored =
        ENV_IGNORED.contains(&variable) || ENV_IGNORED_PREFIXES.iter().any(|p| variable.starts_with(p));
    if ignored || rest.is_empty() {
        return None;
    }
    let mut name = String::with_capacity(rest.len());
    let mut underscores = 0;
    for c in rest.chars().chain(['\0']) {
        if c == '_' && underscores < 3 {
            underscores += 1;
            continue;
        }
        match underscores {
            1 => name.push('.'),
            2 => name.push('_'),
            3 => name.push('-'),
            _ => {}
        }
        underscores = usize::from(c == '_');
        if c != '_' && c != '\0' {
            name.push(c.to_ascii_lowercase());
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn environment_names_follow_kafkas_image() {
        assert_eq!(environment_key("KAFKA_LOG_RETENTION_MS").as_deref(), Some("log.retention.ms"));
        assert_eq!(environment_key("KAFKA_A__B___C").as_deref(), Some("a_b-c"));
        assert_eq!(environment_key("KAFKA_HEAP_OPTS"), None);
        assert_eq!(environment_key("KAFKA_PORT_9092_TCP"), None);
        assert_eq!(environment_key("PATH"), None);
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("server.properties");
        let text =
            "num.partitions=2\nmessage.max.bytes=2000\nlog.retention.hours=1\nfoo.bar=1\nnum.io.threads=8\n";
        std::fs::write(&file, text).expect("write");
        let sources = ConfigSources {
            file: Some(file),
            environment: pairs(&[
                ("KAFKA_NUM_PARTITIONS", "3"),
                ("KAFKA_LOG_RETENTION_HOURS", "2"),
                ("HOME", "/"),
            ]),
            flags: pairs(&[("num.partitions", "4"), ("num.partitions", "5")]),
        };
        let loaded = load(&sources).expect("valid");
        assert_eq!(loaded.config.partition_count_default, 5);
        assert_eq!(loaded.config.message_bytes_max, 2000);
        assert_eq!(loaded.config.retention_ms, 2 * 3_600_000);
        assert_eq!(loaded.config.segment_bytes, 1 << 30);
        assert_eq!(loaded.warnings, vec!["unknown key foo.bar (properties file) is ignored".to_owned()]);
        let layers: Vec<Source> =
            loaded.config.settings.synonyms(&["num.partitions"]).iter().map(|s| s.source).collect();
        assert_eq!(layers, [Source::Flag, Source::Environment, Source::File, Source::Default]);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let flags = pairs(&[("num.partitions", "0"), ("message.max.bytes", "x"), ("no.such", "1")]);
        let error = load(&ConfigSources { flags, ..ConfigSources::default() }).unwrap_err();
        assert_eq!(error.problems.len(), 3, "{error}");
        let missing = ConfigSources { file: Some("/nonexistent/x".into()), ..ConfigSources::default() };
        assert!(load(&missing).unwrap_err().to_string().contains("/nonexistent/x"));
    }
}
