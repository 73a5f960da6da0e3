//! Published loads. Every figure is the one that was published; what was not is chosen, and said.
//!
//! Owner: the main thread. Must not: claim that a scaled load is the original.

use super::dist::Sizes;
use super::{BatchRule, Course, Published, Rate, Workload};

/// Names, in the order of their publication.
pub(crate) const NAMES: [&str; 5] = ["kreps-2014", "linkedin-2015", "line", "omb-1kb", "petabyte-day"];

/// The preset of that name.
pub(crate) fn find(name: &str) -> Option<Workload> {
    let workload = match name {
        // Three producers on three machines, acks=1, 8 KB batches; the consumer was measured at the same time.
        "kreps-2014" => Workload {
            partitions: 6,
            sizes: Sizes::Fixed { bytes: 100 },
            producers: 3,
            consumers: 1,
            rate: Rate::PerS(2_024_032.0),
            batch: BatchRule::Bytes(8_196),
            acks: 1,
            published: Some(Published {
                records_per_s: 2_024_032.0,
                source: "J. Kreps, Benchmarking Apache Kafka: 2 million writes per second, 2014: 193 MB/s, 3 brokers",
            }),
            ..Workload::default()
        },
        // 212 bytes a message with its framing; 175 TB in and 650 TB out a day, so 3.7 readers of everything.
        "linkedin-2015" => Workload {
            partitions: 10,
            sizes: Sizes::Fixed { bytes: 202 },
            producers: 4,
            consumers: 1,
            groups: 3.7,
            rate: Rate::PerS(13e6),
            batch: BatchRule::Bytes(1 << 20),
            course: Some(Course::LinkedinDay),
            published: Some(Published {
                records_per_s: 13e6,
                source: "LinkedIn 2015, peak of 1,100 brokers: 13 M msg/s, 2.75 GB/s in; 175 TB in, 650 TB out a day",
            }),
            ..Workload::default()
        },
        // 840 bytes a message with its framing.
        "line" => Workload {
            partitions: 16,
            sizes: Sizes::Fixed { bytes: 830 },
            producers: 4,
            consumers: 4,
            rate: Rate::PerS(5e6),
            batch: BatchRule::Bytes(1 << 20),
            published: Some(Published { records_per_s: 5e6, source: "LINE: 5 M msg/s, 4 GB/s" }),
            ..Workload::default()
        },
        "omb-1kb" => Workload {
            partitions: 100,
            sizes: Sizes::Fixed { bytes: 1024 },
            producers: 4,
            consumers: 4,
            rate: Rate::PerS(1e9 / 1024.0),
            batch: BatchRule::Linger { linger_ms: 1.0, bytes: 1 << 20 },
            published: Some(Published {
                records_per_s: 1e9 / 1024.0,
                source: "the 1 GB/s target of published OpenMessaging Benchmark runs, 100 partitions, 1 KB",
            }),
            ..Workload::default()
        },
        "petabyte-day" => Workload {
            partitions: 16,
            sizes: Sizes::Fixed { bytes: 1024 },
            producers: 4,
            consumers: 4,
            rate: Rate::PerS(1e15 / 86_400.0 / 1034.0),
            batch: BatchRule::Bytes(1 << 20),
            published: Some(Published {
                records_per_s: 1e15 / 86_400.0 / 1034.0,
                source: "1 PB a day is 11.6 GB/s",
            }),
            ..Workload::default()
        },
        _ => return None,
    };
    Some(Workload { name: name.to_owned(), ..workload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_carry_their_published_bytes() {
        for (name, gb_per_s) in
            [("linkedin-2015", 2.75), ("line", 4.2), ("petabyte-day", 11.57), ("omb-1kb", 1.01)]
        {
            let preset = find(name).unwrap();
            preset.check().unwrap();
            let Rate::PerS(rate) = preset.rate else { panic!("{name} has a rate") };
            let bytes = rate * preset.record_bytes() / 1e9;
            assert!((bytes / gb_per_s - 1.0).abs() < 0.01, "{name}: {bytes} GB/s");
        }
        assert!(NAMES.iter().all(|name| find(name).is_some()) && find("nobody").is_none());
    }

    #[test]
    fn batches_follow_rate_and_linger() {
        let preset = find("omb-1kb").unwrap();
        assert_eq!(preset.batch_records(Some(100_000.0)), 25, "a millisecond of one of four connections");
        assert_eq!(preset.batch_records(Some(100.0)), 1);
        assert!(preset.batch_records(None) > 1_000);
        let mut half = preset.clone();
        half.scale(0.5);
        assert_eq!(half.rate, Rate::PerS(0.5e9 / 1024.0));
    }
}
