//! `report`: runs as one self-contained HTML file that a person would show to a colleague.
//!
//! Owner: the main thread. Invariants: no external resource, no script needed to read it (the script adds a pointer's
//! values and switches runs off); every curve comes from merged histograms; what is missing is left out, not zero.
//! Must not: say more than the run's own files say.

mod page;
mod phase;
mod tables;

use std::path::PathBuf;

use clap::Args;

use crate::compare::{self, Comparison, Rules, Unit};
use crate::error::{BenchError, Result, io_err};
use crate::runs::{self, Run};

/// `report`
#[derive(Debug, Args)]
pub(crate) struct ReportCommand {
    /// What `compare` reads; the first run is the base of the verdicts.
    #[arg(required = true, value_name = "[NAME=]RUN")]
    pub(crate) runs: Vec<String>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Heading of the page.
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// Only these phases.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) phases: Vec<String>,
    /// Unit of bare histogram files.
    #[arg(long, value_enum, default_value = "ns")]
    pub(crate) unit: Unit,
}

/// Every other run against the first. Runs that may not be compared are compared all the same and labelled: a report
/// shows what there is.
fn comparisons(runs: &[Run], wanted: &[String]) -> Vec<Comparison> {
    let rules = Rules::default();
    let Some((base, others)) = runs.split_first() else { return Vec::new() };
    others.iter().filter_map(|other| compare::compare(base, other, wanted, None, &rules, true).ok()).collect()
}

/// `report`
pub(crate) fn command(command: &ReportCommand) -> Result<()> {
    let runs = runs::open(&command.runs, command.unit.ns())?;
    if runs.is_empty() {
        return Err(BenchError::Usage("there is nothing to report".into()));
    }
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = command.title.clone().unwrap_or_else(|| names.join(" and "));
    let html = page::page(&title, &runs, &comparisons(&runs, &command.phases), &command.phases);
    std::fs::write(&command.out, html).map_err(io_err(format!("write {}", command.out.display())))?;
    eprintln!("{} written", command.out.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(runs: &[Run]) -> String {
        page::page("a <title>", runs, &comparisons(runs, &[]), &[])
    }

    #[test]
    fn the_page_stands_alone_and_has_every_part() {
        let path = format!("{}/../results/2026-11-30-baseline-durable", env!("CARGO_MANIFEST_DIR"));
        let html = html(&runs::open(&[path], 1.0).unwrap());
        for part in [
            "<!doctype html>",
            "a &lt;title&gt;",
            "open-1k",
            "curve s1",
            "of the sink",
            "Verdict",
            "kafka.Kafka",
            "class=\"heat\"",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for outside in ["http://", "https://", "url(", "@import", "src=", "NaN", "inf "] {
            let rest = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!rest.contains(outside), "{outside}");
        }
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
        assert_eq!(html.matches("<table").count(), html.matches("</table>").count());
    }

    #[test]
    fn a_series_gives_throughput_lag_and_cores() {
        let folder = tempfile::tempdir().unwrap();
        let source = format!("{}/../results/2026-11-30-baseline-durable/", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(source + "kafka-1-e2e-1k.hlog", folder.path().join("e2e.hlog")).unwrap();
        let mut csv = "second,intended_records,acked_records,acked_bytes,failed_records,consumed_records,consumed_bytes,\
                       lag_records,server_cores,harness_cores,cpu0,cpu1\n"
            .to_owned();
        for second in 0..4 {
            csv += &format!("{second},20000,19990,1,0,19980,1,{second},0.5,0.7,0.25,\n");
        }
        csv = csv.replace("0.25,\n", "0.25,0.75\n");
        std::fs::write(folder.path().join("e2e.series.csv"), csv).unwrap();
        let path = folder.path().display().to_string();
        let html = html(&runs::open(std::slice::from_ref(&path), 1.0).unwrap());
        for part in ["class=\"heat\"", "core 1", "cores used", "records behind", "records/s"] {
            assert!(html.contains(part), "{part}");
        }
    }

    #[test]
    fn a_bare_percentile_table_makes_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrk2.hgrm");
        let text =
            "Value Percentile TotalCount 1/(1-Percentile)\n1.0 0.5 50 2\n2.0 0.99 99 100\n9.0 1.0 100 inf\n";
        std::fs::write(&path, text).unwrap();
        let html = html(&runs::open(&[path.display().to_string()], 1e6).unwrap());
        assert!(html.contains("curve s0") && html.contains("wrk2"));
    }
}
