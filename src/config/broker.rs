//! The typed configuration of the broker.
//!
//! Owner: the process; shared read-only with every core. Invariants: built only from checked values, so that
//! every field is inside the bounds of its key. Must not: change after the start.

use super::broker_keys::{MEMORY_BYTES_MIN, broker_key};
use super::group_keys::GroupConfig;
use super::keys::{as_bool, as_size_bytes, split_list};
use super::machine;
use super::settings::{ConfigError, Settings};
use super::topic::CleanupPolicy;
use super::txn_keys::TxnConfig;
use std::path::PathBuf;

/// The most listeners a broker serves.
pub(crate) const LISTENER_COUNT_MAX: usize = 8;
const MEMORY_BYTES_DEFAULT_MIN: u64 = 256 << 20;

/// Whose clock a record's timestamp comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at append.
    LogAppendTime,
}

/// One address the broker listens on, and the address clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The name in `listeners`, such as `PLAINTEXT`.
    pub name: String,
    /// The host to bind; empty means every address.
    pub host: String,
    /// The port to bind; 0 lets the kernel choose.
    pub port: u16,
    /// The host Metadata names.
    pub advertised_host: String,
    /// The port Metadata names; 0 stands for the port that was bound.
    pub advertised_port: u16,
}

/// The broker's configuration, checked and typed. Units are in the names.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: i32,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `listeners` with `advertised.listeners`, at least one, the first is the main one.
    pub listeners: Vec<Listener>,
    /// `log.dirs`.
    pub data_dir: PathBuf,
    /// `num.partitions`.
    pub partition_count_default: i32,
    /// `default.replication.factor`.
    pub replication_factor_default: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topic: bool,
    /// `log.retention.{ms,minutes,hours}`; -1 is for ever.
    pub retention_ms: i64,
    /// `log.retention.bytes`; -1 is no limit.
    pub retention_bytes: i64,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: u64,
    /// `ringlog.clock.jump.grace.ms`.
    pub clock_grace_ms: i64,
    /// `log.cleaner.*`: the threads that compact.
    pub cleaner: CleanerSettings,
    /// `log.cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `log.segment.bytes`.
    pub segment_bytes: u32,
    /// `log.roll.{ms,hours}`.
    pub roll_ms: i64,
    /// `log.flush.interval.messages`; `i64::MAX` when not relaxed.
    pub flush_messages: i64,
    /// `log.flush.interval.ms`; `i64::MAX` when not relaxed.
    pub flush_ms: i64,
    /// `log.message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `log.message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `log.message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `message.max.bytes`.
    pub message_bytes_max: i32,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// `socket.request.max.bytes`.
    pub request_bytes_max: i32,
    /// `queued.max.request.bytes`, for one connection.
    pub connection_request_bytes_max: u64,
    /// `max.connections`.
    pub connection_count_max: i32,
    /// `max.connections.per.ip`.
    pub connection_count_per_ip_max: i32,
    /// `core.affine.listeners`: each core has a port of its own.
    pub core_affine_listeners: bool,
    /// `connections.max.idle.ms`; `None` is never.
    pub connection_idle_ms_max: Option<u64>,
    /// `fetch.max.bytes`.
    pub fetch_bytes_max: i32,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_session_count_max: usize,
    /// `max.request.partition.size.limit`.
    pub describe_partition_count_max: i32,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: u64,
    /// `ringlog.cores`: the cpu ids to pin executors to, ascending.
    pub cores: Vec<usize>,
    /// `ringlog.memory.bytes`, for the whole process.
    pub memory_bytes: u64,
    /// `ringlog.segment.pool.bytes`, for the whole process.
    pub segment_pool_bytes: u64,
    /// `admin.listeners`, each `host:port`.
    pub admin_listeners: Vec<String>,
    /// `ringlog.write.caching`.
    pub write_caching: bool,
    /// Consumer groups and internal topics.
    pub groups: GroupConfig,
    /// Transactions.
    pub transactions: TxnConfig,
    /// What was given explicitly, and where.
    pub settings: Settings,
}

/// `log.cleaner.*`.
#[derive(Debug, Clone, PartialEq)]
pub struct CleanerSettings {
    /// `log.cleaner.enable`.
    pub enable: bool,
    /// `log.cleaner.threads`.
    pub threads: usize,
    /// `log.cleaner.dedupe.buffer.size`.
    pub dedupe_bytes: u64,
    /// `log.cleaner.io.buffer.load.factor`, in percent.
    pub load_percent: u64,
    /// `log.cleaner.io.max.bytes.per.second`.
    pub bytes_per_second_max: f64,
    /// `log.cleaner.backoff.ms`.
    pub backoff_ms: u64,
}

fn read_cleaner(settings: &Settings) -> CleanerSettings {
    let double = |name| text(settings, name).parse::<f64>().unwrap_or(f64::MAX);
    CleanerSettings {
        enable: boolean(settings, "log.cleaner.enable"),
        threads: long(settings, "log.cleaner.threads") as usize,
        dedupe_bytes: long(settings, "log.cleaner.dedupe.buffer.size") as u64,
        load_percent: (double("log.cleaner.io.buffer.load.factor") * 100.0) as u64,
        bytes_per_second_max: double("log.cleaner.io.max.bytes.per.second"),
        backoff_ms: long(settings, "log.cleaner.backoff.ms") as u64,
    }
}

impl BrokerConfig {
    /// The configuration with no file, no environment and no flag but the data directory.
    pub fn with_data_dir(data_dir: &std::path::Path) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
        settings.set("log.dirs", &data_dir.to_string_lossy(), super::settings::Source::Flag);
        Self::from_settings(settings, &mut Vec::new())
    }

    /// Builds the typed view. Every explicit value must have passed its key's check already.
    pub(crate) fn from_settings(settings: Settings, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let listeners = read_listeners(&settings, warnings, &mut problems);
        let data_dir = read_data_dir(&settings, &mut problems);
        let cores = machine::parse_cores(&text(&settings, "ringlog.cores"), &machine::allowed_cpus())
            .unwrap_or_else(|why| {
                problems.push(format!("ringlog.cores: {why}"));
                Vec::new()
            });
        check_single_node(&settings, &mut problems);
        let admin_listeners = read_admin_listeners(&settings, &mut problems);
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let long = |name| long(&settings, name);
        let int = |name| long(name) as i32;
        let retention_hours_ms =
            (long("log.retention.hours") as i128 * 3_600_000).clamp(-1, i64::MAX as i128) as i64;
        let retention_minutes_ms =
            explicit_long(&settings, "log.retention.minutes").map(|m| m.saturating_mul(60_000));
        let request_bytes_max = int("socket.request.max.bytes");
        let idle_ms = long("connections.max.idle.ms");
        let queued_bytes = long("queued.max.request.bytes");
        Ok(Self {
            node_id: explicit_long(&settings, "node.id")
                .or(explicit_long(&settings, "broker.id").filter(|&id| id >= 0))
                .unwrap_or_else(|| long("node.id")) as i32,
            rack: settings.explicit("broker.rack").map(|(rack, _)| rack.to_owned()),
            listeners,
            data_dir,
            partition_count_default: int("num.partitions"),
            replication_factor_default: int("default.replication.factor") as i16,
            auto_create_topics: boolean(&settings, "auto.create.topics.enable"),
            delete_topic: boolean(&settings, "delete.topic.enable"),
            retention_ms: explicit_long(&settings, "log.retention.ms")
                .or(retention_minutes_ms)
                .unwrap_or(retention_hours_ms)
                .max(-1),
            retention_bytes: long("log.retention.bytes"),
            retention_check_interval_ms: long("log.retention.check.interval.ms") as u64,
            clock_grace_ms: long("ringlog.clock.jump.grace.ms"),
            cleaner: read_cleaner(&settings),
            cleanup_policy: CleanupPolicy::parse(&text(&settings, "log.cleanup.policy")),
            segment_bytes: long("log.segment.bytes") as u32,
            roll_ms: explicit_long(&settings, "log.roll.ms")
                .unwrap_or_else(|| long("log.roll.hours").saturating_mul(3_600_000)),
            flush_messages: long("log.flush.interval.messages"),
            flush_ms: explicit_long(&settings, "log.flush.interval.ms")
                .unwrap_or_else(|| long("log.flush.scheduler.interval.ms")),
            timestamp_type: TimestampType::parse(&text(&settings, "log.message.timestamp.type")),
            timestamp_before_max_ms: long("log.message.timestamp.before.max.ms"),
            timestamp_after_max_ms: long("log.message.timestamp.after.max.ms"),
            message_bytes_max: int("message.max.bytes"),
            min_insync_replicas: int("min.insync.replicas"),
            request_bytes_max,
            connection_request_bytes_max: if queued_bytes > 0 {
                queued_bytes
            } else {
                request_bytes_max.into()
            } as u64,
            connection_count_max: int("max.connections"),
            connection_count_per_ip_max: int("max.connections.per.ip"),
            core_affine_listeners: boolean(&settings, "core.affine.listeners"),
            connection_idle_ms_max: u64::try_from(idle_ms).ok(),
            fetch_bytes_max: int("fetch.max.bytes"),
            fetch_session_count_max: long("max.incremental.fetch.session.cache.slots") as usize,
            describe_partition_count_max: int("max.request.partition.size.limit"),
            producer_id_expiration_ms: long("producer.id.expiration.ms") as u64,
            cores,
            memory_bytes: memory_bytes(&settings),
            segment_pool_bytes: size(&settings, "ringlog.segment.pool.bytes").unwrap_or(0) as u64,
            admin_listeners,
            write_caching: boolean(&settings, "ringlog.write.caching"),
            groups: GroupConfig::read(|name| text(&settings, name)),
            transactions: TxnConfig::read(|name| text(&settings, name)),
            settings,
        })
    }

    /// The value of a broker key in effect, in text form; `None` when it has none (Kafka's `null`).
    pub fn value(&self, name: &str) -> Option<String> {
        match name {
            "node.id" => Some(self.node_id.to_string()),
            "log.dirs" => Some(self.data_dir.to_string_lossy().into_owned()),
            "advertised.listeners" => Some(join_listeners(&self.listeners, true)),
            "listeners" => Some(join_listeners(&self.listeners, false)),
            "ringlog.cores" => Some(join_cores(&self.cores)),
            "ringlog.memory.bytes" => Some(self.memory_bytes.to_string()),
            "ringlog.segment.pool.bytes" => Some(self.segment_pool_bytes.to_string()),
            _ => {
                let spec = broker_key(name)?;
                self.settings.explicit(name).map(|(value, _)| value).or(spec.default).map(str::to_owned)
            }
        }
    }
}

impl TimestampType {
    /// Reads a checked value.
    pub(crate) fn parse(text: &str) -> Self {
        if text == "LogAppendTime" { Self::LogAppendTime } else { Self::CreateTime }
    }
}

/// Cores as `ringlog.cores` reads them back: one cpu alone needs a range, or it would be taken for a count.
fn join_cores(cores: &[usize]) -> String {
    match cores {
        [one] => format!("{one}-{one}"),
        many => many.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

fn join_listeners(listeners: &[Listener], advertised: bool) -> String {
    let show = |listener: &Listener| {
        let (host, port) = if advertised {
            (&listener.advertised_host, listener.advertised_port)
        } else {
            (&listener.host, listener.port)
        };
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("{}://{bracketed}:{port}", listener.name)
    };
    listeners.iter().map(show).collect::<Vec<_>>().join(",")
}

fn text(settings: &Settings, name: &str) -> String {
    let default = broker_key(name).and_then(|spec| spec.default).unwrap_or("");
    settings.explicit(name).map_or(default, |(value, _)| value).to_owned()
}

fn explicit_long(settings: &Settings, name: &str) -> Option<i64> {
    settings.explicit(name).and_then(|(value, _)| value.parse().ok())
}

fn long(settings: &Settings, name: &str) -> i64 {
    let value = text(settings, name).parse();
    assert!(value.is_ok(), "{name} was checked, or is asked for without having a number as default");
    value.unwrap_or_default()
}

fn size(settings: &Settings, name: &str) -> Option<i64> {
    as_size_bytes(&text(settings, name))
}

fn boolean(settings: &Settings, name: &str) -> bool {
    as_bool(&text(settings, name)).unwrap_or(false)
}

fn memory_bytes(settings: &Settings) -> u64 {
    let quarter = (machine::memory_bytes() / 4).max(MEMORY_BYTES_DEFAULT_MIN);
    size(settings, "ringlog.memory.bytes").map_or(quarter, |bytes| bytes.max(MEMORY_BYTES_MIN) as u64)
}

fn read_data_dir(settings: &Settings, problems: &mut Vec<String>) -> PathBuf {
    let name = if settings.explicit("log.dirs").is_some() || settings.explicit("log.dir").is_none() {
        "log.dirs"
    } else {
        "log.dir"
    };
    let value = text(settings, name);
    let dirs: Vec<&str> = split_list(&value).collect();
    if dirs.len() != 1 {
        problems.push(format!("{name}={value}: exactly one data directory is supported in this version"));
    }
    PathBuf::from(dirs.first().copied().unwrap_or_default())
}

/// `host:port` each, with or without `http://`; an empty host would be every address and has to be said.
fn read_admin_listeners(settings: &Settings, problems: &mut Vec<String>) -> Vec<String> {
    let value = text(settings, "admin.listeners");
    let mut addresses = Vec::new();
    for item in split_list(&value) {
        let address = item.strip_prefix("http://").unwrap_or(item);
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                addresses.push(address.to_owned());
            }
            _ => problems.push(format!("admin.listeners={value}: {item}: expected host:port")),
        }
    }
    if addresses.len() > LISTENER_COUNT_MAX {
        problems.push(format!("admin.listeners: at most {LISTENER_COUNT_MAX}"));
    }
    addresses
}

fn check_single_node(settings: &Settings, problems: &mut Vec<String>) {
    let roles = text(settings, "process.roles");
    if !split_list(&roles).any(|role| role == "broker") {
        problems.push(format!("process.roles={roles}: Ringlog is a broker and needs no separate controller"));
    }
    let replicas = text(settings, "default.replication.factor");
    if replicas != "1" {
        problems
            .push(format!("default.replication.factor={replicas}: a single node can hold one replica only"));
    }
}

/// Reads `listeners` and pairs them with `advertised.listeners` by name. Listeners of the KRaft controller are
/// left out with a warning, so that the `server.properties` Apache ships is accepted.
fn read_listeners(
    settings: &Settings,
    warnings: &mut Vec<String>,
    problems: &mut Vec<String>,
) -> Vec<Listener> {
    let controller_names = text(settings, "controller.listener.names");
    let is_controller = |name: &str| split_list(&controller_names).any(|c| c.eq_ignore_ascii_case(name));
    let mut parse = |key: &str| {
        let value = text(settings, key);
        let mut endpoints = Vec::new();
        for item in split_list(&value) {
            match parse_endpoint(item) {
                Err(why) => problems.push(format!("{key}={value}: {item}: {why}")),
                Ok((name, ..)) if is_controller(&name) => {
                    if key == "listeners" {
                        warnings
                            .push(format!("{key}: {item} is left out, Ringlog needs no controller listener"));
                    }
                }
                Ok(endpoint) => endpoints.push(endpoint),
            }
        }
        endpoints
    };
    let bound = parse("listeners");
    let advertised = parse("advertised.listeners");
    for (name, ..) in &bound {
        if let Err(why) = check_protocol(settings, name) {
            problems.push(format!("listeners: {name}: {why}"));
        }
    }
    for (name, host, _) in &advertised {
        if !bound.iter().any(|(other, ..)| other == name) {
            problems.push(format!("advertised.listeners: {name} is not in listeners"));
        }
        if host.is_empty() || matches!(host.as_str(), "0.0.0.0" | "::") {
            problems.push(format!(
                "advertised.listeners: {name}: clients cannot connect to '{host}', name a host"
            ));
        }
    }
    if bound.is_empty() || bound.len() > LISTENER_COUNT_MAX {
        problems
            .push(format!("listeners: between 1 and {LISTENER_COUNT_MAX} are needed, found {}", bound.len()));
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for (name, host, port) in bound {
        let clash = |l: &&Listener| l.name == name || (l.port == port && l.host == host && port != 0);
        if let Some(other) = listeners.iter().find(clash) {
            problems.push(format!("listeners: {name} repeats the name or the address of {}", other.name));
        }
        let told = advertised.iter().find(|(other, ..)| *other == name);
        let (advertised_host, advertised_port) = match told {
            Some((_, host, port)) => (host.clone(), *port),
            None => (reachable_host(&host), port),
        };
        listeners.push(Listener { name, host, port, advertised_host, advertised_port });
    }
    listeners
}

/// `NAME://host:port`; the name in upper case, brackets around an IPv6 address removed.
fn parse_endpoint(item: &str) -> Result<(String, String, u16), String> {
    let form = || "expected NAME://host:port".to_owned();
    let (name, address) = item.split_once("://").ok_or_else(form)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().map_err(|_| format!("'{port}' is not a port"))?;
    let valid_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if name.is_empty() || !valid_name {
        return Err(form());
    }
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok((name.to_ascii_uppercase(), host.to_owned(), port))
}

fn check_protocol(settings: &Settings, name: &str) -> Result<(), String> {
    let map = text(settings, "listener.security.protocol.map");
    let mapped = split_list(&map)
        .filter_map(|pair| pair.split_once(':'))
        .find(|(listener, _)| listener.trim().eq_ignore_ascii_case(name))
        .map(|(_, protocol)| protocol.trim().to_ascii_uppercase());
    match mapped.as_deref().unwrap_or(name) {
        "PLAINTEXT" => Ok(()),
        "SSL" | "SASL_PLAINTEXT" | "SASL_SSL" => {
            Err("only PLAINTEXT can be served in this version, TLS and SASL cannot".to_owned())
        }
        _ => Err(format!(
            "no security protocol is known; add {name}:PLAINTEXT to listener.security.protocol.map"
        )),
    }
}

/// The host to advertise for a bound one: a wildcard address means nothing to a client, so it becomes the
/// machine's name, as in Kafka.
fn reachable_host(host: &str) -> String {
    if !host.is_empty() && host != "0.0.0.0" && host != "::" {
        return host.to_owned();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() || name == "(none)" { "localhost".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{ConfigSources, load};
    use super::*;

    fn try_load(pairs: &[(&str, &str)]) -> Result<BrokerConfig, ConfigError> {
        let flags = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&ConfigSources { flags, ..ConfigSources::default() }).map(|loaded| loaded.config)
    }

    #[test]
    fn defaults_are_kafkas() {
        let config = try_load(&[]).expect("defaults");
        assert_eq!((config.node_id, config.partition_count_default), (1, 1));
        assert_eq!(config.retention_ms, 604_800_000);
        assert_eq!(config.roll_ms, 604_800_000);
        assert_eq!(config.message_bytes_max, 1_048_588);
        assert_eq!((config.flush_messages, config.flush_ms), (i64::MAX, i64::MAX));
        assert_eq!(config.connection_request_bytes_max, 104_857_600);
        assert_eq!(config.connection_idle_ms_max, Some(600_000));
        assert!(config.memory_bytes >= 256 << 20);
        assert_eq!(config.listeners[0].port, 9092);
        assert_eq!(config.value("advertised.listeners").as_deref(), Some("PLAINTEXT://127.0.0.1:9092"));
    }

    #[test]
    fn every_key_has_a_value_or_none_without_panic() {
        let config = try_load(&[("ringlog.memory.bytes", "1g")]).expect("valid");
        for spec in super::super::BROKER_KEYS {
            if let Some(value) = config.value(spec.name) {
                assert_eq!(spec.kind.check(&value), Ok(()), "{}", spec.name);
            }
        }
        assert_eq!(config.value("ringlog.memory.bytes").as_deref(), Some("1073741824"));
    }

    #[test]
    fn retention_units_and_their_precedence() {
        let ms = |pairs: &[(&str, &str)]| try_load(pairs).expect("valid").retention_ms;
        assert_eq!(ms(&[("log.retention.hours", "-1")]), -1);
        assert_eq!(ms(&[("log.retention.minutes", "3"), ("log.retention.hours", "9")]), 180_000);
        assert_eq!(ms(&[("log.retention.minutes", "-1")]), -1);
        assert_eq!(ms(&[("log.retention.ms", "5"), ("log.retention.minutes", "3")]), 5);
        assert_eq!(ms(&[("log.retention.ms", ""), ("log.retention.hours", "1")]), 3_600_000);
    }

    #[test]
    fn the_node_id_may_have_its_old_name() {
        assert_eq!(try_load(&[("broker.id", "7")]).expect("valid").node_id, 7);
        assert_eq!(try_load(&[("broker.id", "-1")]).expect("valid").node_id, 1);
        assert_eq!(try_load(&[("broker.id", "7"), ("node.id", "3")]).expect("valid").node_id, 3);
    }

    #[test]
    fn the_listeners_of_a_kraft_file_are_accepted() {
        let config = try_load(&[
            ("process.roles", "broker,controller"),
            ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093"),
            ("advertised.listeners", "PLAINTEXT://kafka.example:19092,CONTROLLER://localhost:9093"),
            ("controller.listener.names", "CONTROLLER"),
            ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"),
            ("controller.quorum.voters", "1@localhost:9093"),
        ])
        .expect("valid");
        assert_eq!(config.listeners.len(), 1);
        let first = &config.listeners[0];
        assert_eq!((first.host.as_str(), first.port), ("", 9092));
        assert_eq!((first.advertised_host.as_str(), first.advertised_port), ("kafka.example", 19092));
    }

    #[test]
    fn named_listeners_need_plain_text() {
        let map = ("listener.security.protocol.map", "IN:PLAINTEXT,OUT:PLAINTEXT,TLS:SSL");
        let config = try_load(&[("listeners", "IN://0.0.0.0:1,OUT://[::1]:2"), map]).expect("valid");
        assert_eq!(config.listeners[1].host, "::1");
        assert!(!config.listeners[0].advertised_host.contains("0.0.0.0"));
        assert_eq!(config.value("listeners").as_deref(), Some("IN://0.0.0.0:1,OUT://[::1]:2"));
        for wrong in ["SSL://:9092", "TLS://:1", "FOO://:1", "PLAINTEXT://:x", "9092", "IN://:1,OUT://:1", ""]
        {
            let result = try_load(&[("listeners", wrong), map]);
            assert!(result.is_err() || wrong.is_empty(), "{wrong}");
        }
        assert!(try_load(&[("advertised.listeners", "PLAINTEXT://0.0.0.0:9092")]).is_err());
        assert!(try_load(&[("advertised.listeners", "OTHER://h:9092")]).is_err());
    }

    #[test]
    fn admin_listeners_are_off_until_named() {
        let read = |value: &str| try_load(&[("admin.listeners", value)]).map(|config| config.admin_listeners);
        assert!(try_load(&[]).expect("defaults").admin_listeners.is_empty());
        assert_eq!(read("127.0.0.1:9644, http://[::1]:0").expect("valid"), ["127.0.0.1:9644", "[::1]:0"]);
        for wrong in [":9644", "9644", "localhost:x", "https://h:1"] {
            assert!(read(wrong).is_err() || wrong.starts_with("https"), "{wrong}");
        }
    }

    #[test]
    fn what_a_single_node_cannot_do_is_an_error() {
        assert!(try_load(&[("log.dirs", "/a,/b")]).is_err());
        assert!(try_load(&[("default.replication.factor", "3")]).is_err());
        assert!(try_load(&[("process.roles", "controller")]).is_err());
        assert!(try_load(&[("ringlog.cores", "0")]).is_err());
        assert_eq!(try_load(&[("log.dir", "/x")]).expect("valid").data_dir, PathBuf::from("/x"));
    }

    #[test]
    fn printed_values_read_back_the_same() {
        let config =
            try_load(&[("ringlog.cores", "1"), ("listeners", "PLAINTEXT://[::1]:0")]).expect("valid");
        let cores = config.value("ringlog.cores").expect("cores");
        let again = try_load(&[
            ("ringlog.cores", cores.as_str()),
            ("listeners", config.value("listeners").expect("listeners").as_str()),
        ]);
        let again = again.expect("valid");
        assert_eq!((again.cores, again.listeners), (config.cores, config.listeners));
    }
}
