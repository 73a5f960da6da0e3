//! What `ringlog config` prints: every key with its type, default and documentation.
//!
//! Owner: the command line. Invariants: the `properties` form can be read back by the properties parser.
//! Must not: know a key by name.

use super::broker::BrokerConfig;
use super::broker_keys::BROKER_KEYS;
use super::keys::{KeySpec, Scope, Support};
use super::topic_keys::TOPIC_KEYS;
use std::fmt::Write;

/// The forms `ringlog config --format` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// A commented `server.properties`.
    Properties,
    /// For programs.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "properties" => Ok(Self::Properties),
            "json" => Ok(Self::Json),
            other => Err(format!("'{other}' is not one of table, properties, json")),
        }
    }
}

/// Renders the tables of keys; with a configuration also the values in effect.
pub fn render(format: Format, config: Option<&BrokerConfig>) -> String {
    match format {
        Format::Table => render_table(config),
        Format::Properties => render_properties(config),
        Format::Json => render_json(config),
    }
}

fn shown_default(spec: &KeySpec) -> &'static str {
    match spec.default {
        None => "(none)",
        Some("") => "(empty)",
        Some(text) => text,
    }
}

fn effect(spec: &KeySpec) -> &'static str {
    match spec.support {
        Support::Full => "",
        Support::Stored => " [accepted and described, no effect in this version]",
    }
}

fn render_table(config: Option<&BrokerConfig>) -> String {
    let mut out = String::new();
    for (title, keys) in [("Broker keys", BROKER_KEYS), ("Topic keys", TOPIC_KEYS)] {
        let width = |f: fn(&KeySpec) -> usize| keys.iter().map(f).max().unwrap_or(0);
        let name_width = width(|spec| spec.name.len());
        let default_width = width(|spec| shown_default(spec).len());
        let _ = writeln!(out, "{title}\n");
        let _ =
            writeln!(out, "{:name_width$}  {:7}  {:default_width$}  description", "key", "type", "default");
        for spec in keys {
            let _ = write!(
                out,
                "{:name_width$}  {:7}  {:default_width$}  {}{}",
                spec.name,
                spec.kind.name(),
                shown_default(spec),
                spec.doc,
                effect(spec)
            );
            if !spec.kind.allowed().is_empty() {
                let _ = write!(out, " Allowed: {}.", spec.kind.allowed());
            }
            if let Some(now) = set_value(config, spec) {
                let _ = write!(out, " Now: {now}.");
            }
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// The value in effect, where it is not simply the table's default.
fn set_value(config: Option<&BrokerConfig>, spec: &KeySpec) -> Option<String> {
    let value = config.filter(|_| spec.scope == Scope::Broker)?.value(spec.name)?;
    (spec.default != Some(value.as_str())).then_some(value)
}

fn render_properties(config: Option<&BrokerConfig>) -> String {
    let mut out = String::from("# Ringlog broker configuration. A line behind '#' shows a default.\n");
    for spec in BROKER_KEYS {
        let _ = writeln!(out, "\n# {}{}", spec.doc, effect(spec));
        let allowed = spec.kind.allowed();
        let separator = if allowed.is_empty() { "" } else { ": " };
        let _ = writeln!(out, "# {}{separator}{allowed}", spec.kind.name());
        match set_value(config, spec) {
            Some(value) => {
                let _ = writeln!(out, "{}={}", spec.name, value.replace('\\', "\\\\"));
            }
            None => {
                let _ = writeln!(out, "#{}={}", spec.name, spec.default.unwrap_or(""));
            }
        }
    }
    out
}

fn render_json(config: Option<&BrokerConfig>) -> String {
    let entry = |spec: &KeySpec| {
        serde_json::json!({
            "name": spec.name,
            "scope": if spec.scope == Scope::Broker { "broker" } else { "topic" },
            "type": spec.kind.name(),
            "default": spec.default,
            "allowed": spec.kind.allowed(),
            "value": config.filter(|_| spec.scope == Scope::Broker).and_then(|c| c.value(spec.name)),
            "synonyms": spec.synonyms,
            "effective": spec.support == Support::Full,
            "doc": spec.doc,
        })
    };
    let entries: Vec<_> = BROKER_KEYS.iter().chain(TOPIC_KEYS).map(entry).collect();
    let mut text = format!("{:#}", serde_json::Value::Array(entries));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Source, parse_properties};
    use super::*;

    fn config() -> BrokerConfig {
        let mut settings = super::super::Settings::default();
        settings.set("num.partitions", "7", Source::Flag);
        BrokerConfig::from_settings(settings, &mut Vec::new()).expect("valid")
    }

    #[test]
    fn every_key_is_in_every_form() {
        let config = config();
        let table = render(Format::Table, Some(&config));
        let json: serde_json::Value =
            serde_json::from_str(&render(Format::Json, Some(&config))).expect("JSON");
        assert_eq!(json.as_array().map(Vec::len), Some(BROKER_KEYS.len() + TOPIC_KEYS.len()));
        let properties = render(Format::Properties, None);
        for spec in BROKER_KEYS {
            assert!(
                table.contains(spec.name) && properties.contains(&format!("#{}=", spec.name)),
                "{}",
                spec.name
            );
        }
        assert!(TOPIC_KEYS.iter().all(|spec| table.contains(spec.name)));
    }

    #[test]
    fn the_properties_form_reads_back() {
        let entries = parse_properties(&render(Format::Properties, Some(&config()))).expect("parses");
        assert!(entries.contains(&("num.partitions".to_owned(), "7".to_owned())));
        assert!(!entries.iter().any(|(name, _)| name == "message.max.bytes"));
        assert_eq!(parse_properties(&render(Format::Properties, None)), Ok(Vec::new()));
    }
}
