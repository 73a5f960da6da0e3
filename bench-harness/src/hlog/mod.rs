//! Reads histograms of this harness and of other tools: HdrHistogram logs (`.hlog`) and percentile tables (`.hgrm`).
//!
//! Owner: the main thread. Invariants: everything becomes `(value in ns, count)` pairs, so that histograms of other
//! ranges, digits and units can be added; a value is the highest one of its bucket, as HdrHistogram's own tools
//! print it. Must not: trust a length or a count in a file.

mod codec;
mod hgrm;

use std::collections::BTreeMap;
use std::path::Path;

use hdrhistogram::Histogram;

use crate::error::{BenchError, Result, io_err};
use crate::limits::{HISTOGRAM_FILE_BYTES_MAX, HISTOGRAM_INTERVALS_MAX, HISTOGRAM_NS_MAX};
use crate::record::new_histogram;

/// Value in nanoseconds and how often it occurred, ascending.
pub(crate) type Counts = Vec<(u64, u64)>;

/// Start times above this are seconds since 1970, not since the start of the run.
const ABSOLUTE_SECONDS: f64 = 1e8;

/// One interval of a log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interval {
    /// Start in seconds since the start of the log.
    pub(crate) start_s: f64,
    /// Length in seconds.
    pub(crate) length_s: f64,
    /// The samples.
    pub(crate) counts: Counts,
}

/// The intervals of each tag; the tag of a log without tags is empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    /// In order of time.
    pub(crate) tags: BTreeMap<String, Vec<Interval>>,
    /// Whether there is more than one moment: a percentile table has no time.
    pub(crate) timed: bool,
}

/// All samples of some intervals in one histogram, and how many lie above its range.
pub(crate) fn merged<'a>(intervals: impl IntoIterator<Item = &'a Interval>) -> (Histogram<u64>, u64) {
    let mut sum = new_histogram();
    let mut overflow = 0;
    for (value, count) in intervals.into_iter().flat_map(|interval| &interval.counts) {
        if *value > HISTOGRAM_NS_MAX || sum.record_n(*value, *count).is_err() {
            overflow += count;
        }
    }
    (sum, overflow)
}

/// All samples of some intervals as one ascending list.
pub(crate) fn pooled<'a>(intervals: impl IntoIterator<Item = &'a Interval>) -> Counts {
    let mut all: Counts =
        intervals.into_iter().flat_map(|interval| interval.counts.iter().copied()).collect();
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        kept.1 += if same { next.1 } else { 0 };
        same
    });
    all
}

/// The value at a quantile of an ascending list, as HdrHistogram defines it; 0 of an empty one.
pub(crate) fn quantile(counts: &[(u64, u64)], quantile: f64) -> u64 {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let wanted = ((total as f64 * quantile).ceil() as u64).max(1);
    let mut seen = 0;
    let found = counts.iter().find(|(_, count)| {
        seen += count;
        seen >= wanted
    });
    found.map_or(0, |(value, _)| *value)
}

/// Reads a log or a percentile table, whichever it is. `unit_ns` is what a value of 1 stands for.
///
/// # Errors
/// When the file cannot be read, is neither, or is damaged.
pub(crate) fn read(path: &Path, unit_ns: f64) -> Result<Log> {
    let name = path.display().to_string();
    let length = std::fs::metadata(path).map_err(io_err(format!("read {name}")))?.len();
    if length > HISTOGRAM_FILE_BYTES_MAX {
        return Err(BenchError::Usage(format!("{name}: {length} bytes are too many")));
    }
    let bytes = std::fs::read(path).map_err(io_err(format!("read {name}")))?;
    let text = String::from_utf8_lossy(&bytes);
    let parsed = if hgrm::is_table(&text) { hgrm::parse(&text, unit_ns) } else { parse(&text, unit_ns) };
    parsed.map_err(|problem| BenchError::Usage(format!("{name}: {problem}")))
}

fn parse(text: &str, unit_ns: f64) -> std::result::Result<Log, String> {
    let mut log = Log { tags: BTreeMap::new(), timed: true };
    let mut intervals = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        // Comments and the legend; start and base time only shift what is printed as relative below.
        if line.is_empty() || line.starts_with('#') || line.starts_with('"') {
            continue;
        }
        let (tag, interval) =
            parse_interval(line, unit_ns).map_err(|problem| format!("line {}: {problem}", number + 1))?;
        intervals += 1;
        if intervals > HISTOGRAM_INTERVALS_MAX {
            return Err(format!("more than {HISTOGRAM_INTERVALS_MAX} intervals"));
        }
        log.tags.entry(tag.to_owned()).or_default().push(interval);
    }
    if log.tags.is_empty() {
        return Err("neither a histogram log nor a percentile table".into());
    }
    // Some tools stamp intervals with the wall clock, others with the time since the base time.
    let first = log.tags.values().flatten().map(|interval| interval.start_s).fold(f64::INFINITY, f64::min);
    let shift = if first > ABSOLUTE_SECONDS { first } else { 0.0 };
    for intervals in log.tags.values_mut() {
        intervals.iter_mut().for_each(|interval| interval.start_s -= shift);
        intervals.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    }
    Ok(log)
}

/// `[Tag=NAME,]start,length,max,base64`
fn parse_interval(line: &str, unit_ns: f64) -> std::result::Result<(&str, Interval), String> {
    let (tag, rest) = match line.strip_prefix("Tag=") {
        Some(rest) => rest.split_once(',').ok_or("a tag and nothing else")?,
        None => ("", line),
    };
    let mut fields = rest.splitn(4, ',').map(str::trim);
    let mut number = |what: &str| {
        let field = fields.next().ok_or(format!("no {what}"))?;
        field.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or(format!("{what} {field:?}"))
    };
    let (start_s, length_s) = (number("start time")?, number("interval length")?);
    number("maximum")?;
    let payload = fields.next().ok_or("no histogram")?;
    let counts = codec::decode(payload, unit_ns)?;
    Ok((tag, Interval { start_s, length_s, counts }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};

    fn base64(bytes: &[u8]) -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for chunk in bytes.chunks(3) {
            let bits =
                chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for k in 0..4 {
                let letter = alphabet[(bits >> (18 - 6 * k)) as usize & 63] as char;
                out.push(if k <= chunk.len() { letter } else { '=' });
            }
        }
        out
    }

    fn encoded(values: &Histogram<u64>, deflate: bool) -> String {
        let mut bytes = Vec::new();
        if deflate {
            V2DeflateSerializer::new().serialize(values, &mut bytes).unwrap();
        } else {
            V2Serializer::new().serialize(values, &mut bytes).unwrap();
        }
        base64(&bytes)
    }

    #[test]
    fn logs_of_other_tools_units_and_versions_are_read() {
        // As OMB and wrk2 do it: microseconds, two digits, another range, no tag.
        let mut micros = Histogram::<u64>::new_with_bounds(1, 60_000_000, 2).unwrap();
        for value in 1..=1000u64 {
            micros.record_n(value * 100, value).unwrap();
        }
        let payloads = [encoded(&micros, true), encoded(&micros, false)];
        let text = format!(
            "#[Logged with something]\n#[Histogram log format version 1.2]\n\
             #[StartTime: 1700000000.000 (seconds since epoch), Tue Nov 14 22:13:20 UTC 2023]\n\
             \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n\
             1700000000.100,1.000,100.0,{}\n1700000001.100,0.900,100.0,{}\n",
            payloads[0], payloads[1]
        );
        let log = parse(&text, 1000.0).unwrap();
        let intervals = &log.tags[""];
        assert_eq!(intervals.len(), 2);
        assert!(intervals[0].start_s.abs() < 1e-6 && (intervals[1].start_s - 1.0).abs() < 1e-6);
        let (sum, overflow) = merged(intervals);
        assert_eq!((sum.len(), overflow), (2 * micros.len(), 0));
        for q in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let (ours, theirs) =
                (sum.value_at_quantile(q) as f64, micros.value_at_quantile(q) as f64 * 1000.0);
            assert!((ours / theirs - 1.0).abs() < 0.001, "{q}: {ours} {theirs}");
        }
    }

    #[test]
    fn merged_intervals_are_the_histogram_of_all_samples() {
        let mut random = crate::random::Random(5);
        let mut all = new_histogram();
        let mut text = "#[Histogram log format version 1.3]\n#[BaseTime: 1700000000.000]\n".to_owned();
        for second in 0..7 {
            let mut part = new_histogram();
            for _ in 0..5000 {
                let value = (random.unit() * 22.0).exp() as u64 + 1;
                part.record(value).unwrap();
                all.record(value).unwrap();
            }
            text += &format!("Tag=response,{second}.000,1.000,1.0,{}\n", encoded(&part, true));
        }
        let log = parse(&text, 1.0).unwrap();
        let (sum, overflow) = merged(&log.tags["response"]);
        assert_eq!(overflow, 0);
        assert_eq!(sum, all);
        let list = pooled(&log.tags["response"]);
        for q in [0.0, 0.001, 0.5, 0.99, 0.9999, 1.0] {
            assert_eq!(quantile(&list, q), all.value_at_quantile(q), "{q}");
        }
    }

    #[test]
    fn damage_is_reported_with_its_line() {
        for wrong in [
            "1,2",
            "Tag=x",
            "a,1,1,HIST",
            "0,1,1,HISTFAAAA",
            "0,1,1,!!!!",
            "0,NaN,1,HISTFAAAA",
            "0,1,1,HISTEwAAAAAAAAAA",
            "",
        ] {
            assert!(parse(wrong, 1.0).is_err(), "{wrong}");
        }
        let mut values = new_histogram();
        values.record(5).unwrap();
        let whole = encoded(&values, true);
        for cut in (4..whole.len()).step_by(4) {
            assert!(parse(&format!("0,1,1,{}", &whole[..cut]), 1.0).is_err(), "{cut}");
        }
    }
}
