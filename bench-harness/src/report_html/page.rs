//! The page around the phases: head, summary, manifest, how to read it.
//!
//! Owner: `report_html`.

use std::fmt::Write;

use super::{phase, tables};
use crate::chart::escape;
use crate::compare::{self, Comparison, Verdict};
use crate::runs::{Run, leaves};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The whole page.
pub(super) fn page(title: &str, runs: &[Run], comparisons: &[Comparison], wanted: &[String]) -> String {
    let mut out = String::new();
    let title = escape(title);
    // Writing to a String cannot fail.
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body>\n<header><p class=\"kind\">load report</p>\
         <h1>{title}</h1>\n<p class=\"sub\">{}</p>\n{}</header>\n<main>\n",
        subtitle(runs),
        legend(runs)
    )
    .ok();
    let mut names: Vec<String> = Vec::new();
    for name in runs.iter().flat_map(Run::phase_names) {
        if !names.contains(&name) && (wanted.is_empty() || wanted.contains(&name)) {
            names.push(name);
        }
    }
    // Bare files are one phase each, whatever they are called.
    let single = runs.len() > 1 && runs.iter().all(|run| run.phase_names().len() == 1);
    if single {
        names.truncate(1);
    }
    let of = |run: &Run, name: &str| {
        if single { run.phase_names().remove(0) } else { name.to_owned() }
    };
    for comparison in comparisons {
        out += &verdict(comparison, runs);
    }
    out += &tables::overview(runs, &names, &of);
    if names.len() > 1 {
        let links: Vec<String> =
            names.iter().map(|name| format!("<a href=\"#{0}\">{0}</a>", escape(name))).collect();
        writeln!(out, "<nav>{}</nav>", links.join("")).ok();
    }
    for name in &names {
        out += &phase::section(runs, name, &|run| of(run, name), comparisons);
    }
    out += &tables::limits(runs);
    out += &manifest(runs);
    out += HOW_TO_READ;
    write!(out, "</main>\n<div id=\"tip\" hidden></div>\n<script>\n{SCRIPT}</script>\n</body></html>\n").ok();
    out
}

fn subtitle(runs: &[Run]) -> String {
    let mut parts = Vec::new();
    let manifests: Vec<_> = runs.iter().map(|run| leaves(&run.manifest)).collect();
    if let Some(first) = manifests.iter().find(|leaves| !leaves.is_empty()) {
        let say = |name: &str| first.get(name).cloned();
        parts.extend(say("started_unix_s").and_then(|text| text.parse().ok()).map(date));
        parts.extend(say("cpu_model").zip(say("cores")).map(|(cpu, cores)| format!("{cpu}, {cores} cores")));
        parts.extend(say("kernel").map(|kernel| format!("Linux {kernel}")));
        parts.extend(say("data_dir.file_system"));
        parts.extend(say("git_commit").map(|commit| format!("commit {}", &commit[..commit.len().min(10)])));
    }
    escape(&parts.join(" · "))
}

/// The day of a Unix time, by the calendar's cycle of 400 years (days counted from March, so that a leap day is last).
fn date(unix_s: i64) -> String {
    let days = unix_s.div_euclid(86_400) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", unix_s % 86_400 / 3600, unix_s % 3600 / 60)
}

fn legend(runs: &[Run]) -> String {
    if runs.len() < 2 {
        return String::new();
    }
    let mut out = "<p class=\"legend\" aria-label=\"runs\">".to_owned();
    for (index, run) in runs.iter().enumerate() {
        write!(
            out,
            "<button type=\"button\" data-run=\"{index}\" aria-pressed=\"true\" title=\"{}\"><svg width=\"30\" \
             height=\"10\" aria-hidden=\"true\"><line class=\"curve s{index}\" x1=\"1\" y1=\"5\" x2=\"29\" y2=\"5\"/>\
             </svg>{}<small>{} round{}</small></button>",
            escape(&run.source),
            escape(&run.name),
            run.rounds.len(),
            if run.rounds.len() == 1 { "" } else { "s" },
        )
        .ok();
    }
    out + "</p>\n"
}

/// The verdict of one comparison: a sentence, what stands against it, and every figure on demand.
fn verdict(comparison: &Comparison, runs: &[Run]) -> String {
    let class = match comparison.overall {
        _ if comparison.forced => "not",
        _ if comparison.method == compare::Method::WithinRuns => "open",
        Some(Verdict::Slower) => "slower",
        Some(Verdict::Faster) => "faster",
        _ => "open",
    };
    let label = if comparison.forced { "<strong>Not comparable.</strong> " } else { "" };
    let mut out = format!(
        "<section class=\"verdict {class}\"><h2>Verdict</h2><p class=\"big\">{label}{}</p>\n<p>{} {}</p>\n",
        escape(&compare::phrase(comparison)),
        escape(&compare::sentence(comparison)),
        escape(&compare::method_words(comparison)),
    );
    if !comparison.differences.is_empty() {
        let refused = comparison.refused();
        let open = if refused { " open" } else { "" };
        let what = if refused { "What differs and matters" } else { "What is said and refuses nothing" };
        write!(
            out,
            "<details{open}><summary>{what}</summary><div class=\"scroll\"><table><thead><tr><th></th><th>{}</th>\
             <th>{}</th></tr></thead><tbody>",
            escape(&comparison.base),
            escape(&comparison.other)
        )
        .ok();
        for difference in &comparison.differences {
            let cell = |value: &Option<String>| value.as_deref().map_or("not known".to_owned(), escape);
            let mark = if difference.refuses { " class=\"differs\"" } else { "" };
            write!(
                out,
                "<tr{mark}><th>{}</th><td>{}</td><td>{}</td></tr>",
                escape(&difference.what),
                cell(&difference.base),
                cell(&difference.other)
            )
            .ok();
        }
        out += "</tbody></table></div></details>\n";
    }
    let base = runs.first().map_or("", |run| run.name.as_str());
    writeln!(
        out,
        "<p class=\"aside\">Every figure with its interval stands with its workload below. The base is {}.</p>\
         </section>",
        escape(base)
    )
    .ok();
    out
}

/// Every leaf of the manifests, a column for each run; what differs is marked.
fn manifest(runs: &[Run]) -> String {
    let all: Vec<_> = runs.iter().map(|run| leaves(&run.manifest)).collect();
    let mut names: Vec<&String> = all.iter().flat_map(|leaves| leaves.keys()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return String::new();
    }
    // One column when all come from the same folder.
    let same = all.iter().all(|leaves| *leaves == all[0]);
    let columns = if same { &all[..1] } else { &all[..] };
    let mut out =
        "<section id=\"manifest\"><h2>Manifest</h2>\n<div class=\"scroll\"><table class=\"wide\">".to_owned();
    if !same {
        let heads: String = runs.iter().map(|run| format!("<th>{}</th>", escape(&run.name))).collect();
        write!(out, "<thead><tr><th></th>{heads}</tr></thead>").ok();
    }
    out += "<tbody>";
    for name in names {
        let cells: Vec<Option<&String>> = columns.iter().map(|leaves| leaves.get(name)).collect();
        let mark = if cells.iter().all(|cell| *cell == cells[0]) { "" } else { " class=\"differs\"" };
        let text: String =
            cells.iter().map(|cell| format!("<td>{}</td>", cell.map_or("–".into(), |c| escape(c)))).collect();
        write!(out, "<tr{mark}><th>{}</th>{text}</tr>", escape(name)).ok();
    }
    out + "</tbody></table></div></section>\n"
}

const HOW_TO_READ: &str = "<section id=\"reading\"><h2>How to read this</h2><dl>\
<dt>response</dt><dd>from the moment a request was <em>meant</em> to leave to its acknowledgement: what a user feels. \
When the endpoint stalls, everything due meanwhile waits, and counts.</dd>\
<dt>service</dt><dd>from the actual send: blind to the waiting before it. Response far above service means \
stalls.</dd>\
<dt>lag, own-lag</dt><dd>intended to actual send, and the part of it that is the generator’s own.</dd>\
<dt>e2e</dt><dd>from the intended send to the last byte of the batch at a consumer.</dd>\
<dt>percentile axis</dt><dd>1/(1−p), logarithmic: each step to the right is ten times rarer. Histograms are merged \
over threads, seconds and rounds; quantiles are never averaged. Thin lines are single rounds.</dd>\
<dt>share of a limit</dt><dd>what was reached, in percent of what this machine gave to a program that does only what \
cannot be avoided, over the same connections in the same run. The one nearest to 100 % binds.</dd>\
<dt>interval</dt><dd>where the true ratio lies, with 95 % over all judged figures together.</dd></dl></section>\n";

#[cfg(test)]
mod tests {
    #[test]
    fn days_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_826_200, "2000-02-29 12:10 UTC"),
            (1_795_172_100, "2026-11-20 10:55 UTC"),
        ] {
            assert_eq!(super::date(unix_s), text);
        }
    }
}
