//! The command line flags that set configuration; `ringlog serve` and `ringlog config` share them.
//!
//! Owner: the command line. Invariants: a flag is nothing but another way to write a key. Must not: have a meaning
//! that the properties file cannot express.

use super::settings::ConfigSources;
use std::path::PathBuf;

/// Flags of the strongest layer. `--override` comes before the named flags, so that a named flag wins.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigFlags {
    /// A Kafka server.properties file
    #[arg(value_name = "SERVER.PROPERTIES")]
    pub properties: Option<PathBuf>,
    /// Set any key, as in Kafka: --override log.retention.hours=1
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The data directory (log.dirs)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to listen: host:port, :port or NAME://host:port (listeners)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// A count of cores, or cpu ids such as 0,2-3 (ringlog.cores)
    #[arg(long, value_name = "CORES")]
    pub cores: Option<String>,
    /// The memory budget, such as 4GiB (ringlog.memory.bytes)
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
}

impl ConfigFlags {
    /// The sources to load: the file and the flags given here, and the environment of this process.
    ///
    /// Errors: an `--override` without `=`, or a data directory whose name is not UTF-8.
    pub fn sources(&self) -> Result<ConfigSources, String> {
        let mut flags = Vec::new();
        for given in &self.overrides {
            let (key, value) =
                given.split_once('=').ok_or_else(|| format!("--override {given}: expected KEY=VALUE"))?;
            flags.push((key.trim().to_owned(), value.to_owned()));
        }
        let mut set = |key: &str, value: String| flags.push((key.to_owned(), value));
        if let Some(dir) = &self.data_dir {
            let dir = dir.to_str().ok_or_else(|| format!("--data-dir {}: not UTF-8", dir.display()))?;
            set("log.dirs", dir.to_owned());
        }
        if let Some(address) = &self.listen {
            let named = address.contains("://");
            set("listeners", if named { address.clone() } else { format!("PLAINTEXT://{address}") });
        }
        if let Some(cores) = &self.cores {
            set("ringlog.cores", cores.clone());
        }
        if let Some(memory) = &self.memory {
            set("ringlog.memory.bytes", memory.clone());
        }
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment =
            std::env::vars_os().filter_map(text).filter(|(name, _)| name.starts_with("KAFKA_")).collect();
        Ok(ConfigSources { file: self.properties.clone(), environment, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_for_keys() {
        let flags = ConfigFlags {
            overrides: vec!["num.partitions=3".to_owned(), "listeners=PLAINTEXT://x:1".to_owned()],
            data_dir: Some("/data".into()),
            listen: Some(":9093".to_owned()),
            cores: Some("1".to_owned()),
            memory: Some("1GiB".to_owned()),
            ..ConfigFlags::default()
        };
        let mut sources = flags.sources().expect("valid");
        sources.environment.clear();
        let config = super::super::load(&sources).expect("valid").config;
        assert_eq!(
            (config.partition_count_default, config.cores.len(), config.memory_bytes),
            (3, 1, 1 << 30)
        );
        assert_eq!((config.data_dir, config.listeners[0].port), ("/data".into(), 9093));
        let wrong = ConfigFlags { overrides: vec!["num.partitions".to_owned()], ..ConfigFlags::default() };
        assert!(wrong.sources().is_err());
    }
}
