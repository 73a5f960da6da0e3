//! `<phase>.series.csv`: one line a second, written while the phase runs.
//!
//! Owner: `runs`. An empty cell is unknown. Must not: depend on columns in an order, or on all of them.

use std::path::Path;

use crate::limits::HISTOGRAM_INTERVALS_MAX;

/// The columns that were found, each with a cell a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Series {
    /// Seconds since the start of the measured time.
    pub(crate) second: Vec<f64>,
    columns: Vec<(String, Vec<Option<f64>>)>,
}

impl Series {
    /// A column with at least one known cell.
    pub(crate) fn column(&self, name: &str) -> Option<&[Option<f64>]> {
        let (_, cells) = self.columns.iter().find(|(known, _)| known == name)?;
        cells.iter().any(Option::is_some).then_some(cells)
    }

    /// Busy shares, a list of seconds for each core.
    pub(crate) fn cores(&self) -> Vec<&[Option<f64>]> {
        (0..).map_while(|core| self.column(&format!("cpu{core}"))).collect()
    }

    /// Reads the file, if it is there and in order.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next()?.split(',').map(str::trim).collect();
        let at = names.iter().position(|name| *name == "second")?;
        let columns = names.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        let mut series = Self { second: Vec::new(), columns };
        for line in lines.filter(|line| !line.trim().is_empty()).take(HISTOGRAM_INTERVALS_MAX) {
            let cells: Vec<Option<f64>> = line
                .split(',')
                .map(|cell| cell.trim().parse().ok().filter(|value: &f64| value.is_finite()))
                .collect();
            let Some(Some(second)) = cells.get(at).copied() else { continue };
            series.second.push(second);
            for (index, (_, column)) in series.columns.iter_mut().enumerate() {
                column.push(cells.get(index).copied().flatten());
            }
        }
        (!series.second.is_empty()).then_some(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_gaps_stay_gaps() {
        let text = "second,acked_records,server_cores,cpu0,cpu1\n0,10,,0.5,0.25\n1,,,0.75,1\n\nx,1,1,1,1\n";
        let series = Series::parse(text).unwrap();
        assert_eq!(series.second, [0.0, 1.0]);
        assert_eq!(series.column("acked_records"), Some(&[Some(10.0), None][..]));
        assert_eq!(series.column("server_cores"), None);
        assert_eq!(series.cores().len(), 2);
        assert!(Series::parse("").is_none() && Series::parse("a,b\n1,2\n").is_none());
    }
}
