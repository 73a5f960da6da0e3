//! Percentile tables: what wrk2, HistogramLogProcessor and the HdrHistogram plotter call `.hgrm`.
//!
//! Owner: `hlog`. A table has lines `value percentile count 1/(1-percentile)`, or the same with commas, whose count
//! runs up to all samples; text around it (wrk2's report) is skipped. Turned back into a histogram its listed
//! percentiles are exact, those between them steps. Must not: invent time; a table has none.

use std::collections::BTreeMap;

use super::{Counts, Interval, Log};

/// Whether the text holds a percentile table.
pub(super) fn is_table(text: &str) -> bool {
    text.lines().any(is_heading)
}

fn is_heading(line: &str) -> bool {
    let words: Vec<String> = words(line).map(|word| word.trim_matches('"').to_lowercase()).collect();
    words.len() >= 3 && words[0] == "value" && words[1] == "percentile" && words[2] == "totalcount"
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split([',', ' ', '\t']).filter(|word| !word.is_empty())
}

/// Reads the first table of the text.
pub(super) fn parse(text: &str, unit_ns: f64) -> Result<Log, String> {
    let mut counts = Counts::new();
    let mut seen = 0u64;
    let mut last_percentile = 0.0;
    for line in text.lines().skip_while(|line| !is_heading(line)).skip(1) {
        if line.trim_start().starts_with('#') {
            break;
        }
        let fields: Vec<&str> = words(line).collect();
        let [value, percentile, count, ..] = fields[..] else { continue };
        let wrong = || format!("line {line:?} is no row of a percentile table");
        let value: f64 = value.parse().map_err(|_| wrong())?;
        let percentile: f64 = percentile.parse().map_err(|_| wrong())?;
        let count: u64 = count.parse().map_err(|_| wrong())?;
        if !(value.is_finite() && value >= 0.0 && count >= seen && percentile >= last_percentile) {
            return Err(wrong());
        }
        if count > seen {
            let value_ns = (value * unit_ns).round() as u64;
            match counts.last_mut() {
                Some(last) if last.0 == value_ns => last.1 += count - seen,
                _ => counts.push((value_ns, count - seen)),
            }
        }
        seen = count;
        last_percentile = percentile;
    }
    if counts.is_empty() {
        return Err("the percentile table is empty".into());
    }
    let interval = Interval { start_s: 0.0, length_s: 0.0, counts };
    Ok(Log { tags: BTreeMap::from([(String::new(), vec![interval])]), timed: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::merged;

    const WRK2: &str = "Running 30s test\n  Latency Distribution (HdrHistogram - Recorded Latency)\n 50.000%    1.10ms\n\
  Detailed Percentile spectrum:\n       Value   Percentile   TotalCount 1/(1-Percentile)\n\n\
       0.500     0.000000            1         1.00\n       1.100     0.500000          500         2.00\n\
       2.000     0.900000          900        10.00\n       8.000     1.000000         1000          inf\n\
#[Mean    =        1.3, StdDeviation   =        0.7]\n#[Max     =        8.0, Total count    =         1000]\n";

    #[test]
    fn tables_of_wrk2_and_of_the_log_processor_are_read() {
        let csv = "\"Value\",\"Percentile\",\"TotalCount\",\"1/(1-Percentile)\"\n0.5,0.0,1,1.0\n1.1,0.5,500,2.0\n\
                   2.0,0.9,900,10.0\n8.0,1.0,1000,Infinity\n";
        for text in [WRK2, csv] {
            assert!(is_table(text));
            let log = parse(text, 1e6).unwrap();
            assert!(!log.timed);
            let (values, _) = merged(&log.tags[""]);
            assert_eq!(values.len(), 1000);
            for (q, ms) in [(0.5, 1.1), (0.9, 2.0), (0.95, 8.0), (1.0, 8.0)] {
                let got = values.value_at_quantile(q) as f64 / 1e6;
                assert!((got / ms - 1.0).abs() < 0.001, "{q}: {got}");
            }
        }
    }

    #[test]
    fn tables_that_run_backwards_are_refused() {
        let heading = "Value Percentile TotalCount 1/(1-Percentile)\n";
        for rows in ["1 0.5 10 2\n2 0.9 5 10\n", "x 0.5 10 2\n", "-1 0 1 1\n", "NaN 0 1 1\n", ""] {
            assert!(parse(&format!("{heading}{rows}"), 1.0).is_err(), "{rows}");
        }
    }
}
