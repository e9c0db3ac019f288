//! `graft models`: the architectures and what they cost, counted from their layers. `docs/models.md` shows the same table.

use graft_crds::Architecture;
use graft_trainer::models::{self, ModelError};

const TITLES: [&str; 5] = ["architecture", "parameters", "GMACs", "features", "input"];

/// The table as lines, for a terminal.
///
/// # Errors
/// torch failed.
pub fn table() -> Result<String, ModelError> {
    let rows = rows()?;
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(TITLES[column].len());
    let widths: [usize; 5] = std::array::from_fn(width);
    let titles = TITLES.map(str::to_owned);
    let lines = std::iter::once(&titles).chain(&rows).map(|row| {
        let right = row.iter().zip(widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}")).collect::<String>();
        format!("{:<width$}{right}\n", row[0], width = widths[0])
    });
    Ok(lines.collect())
}

/// One row for each architecture, in the order of the API.
fn rows() -> Result<Vec<[String; 5]>, ModelError> {
    let row = |&architecture: &Architecture| {
        let facts = models::facts(architecture, architecture.input_size())?;
        Ok([
            architecture.name().to_owned(),
            format!("{:.2} M", facts.parameters as f64 / 1e6),
            format!("{:.2}", facts.macs as f64 / 1e9),
            architecture.feature_width().to_string(),
            architecture.input_size().to_string(),
        ])
    };
    Architecture::ALL.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_architecture_has_a_line() {
        let table = table().unwrap();
        assert_eq!(table.lines().count(), 1 + Architecture::ALL.len());
        assert!(table.contains("resnet50                     23.51 M    4.09      2048    224\n"), "{table}");
    }

    /// `GRAFT_BLESS=1` writes the page's table anew.
    #[test]
    fn the_page_shows_the_same_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = ("<!-- architectures: begin -->\n", "<!-- architectures: end -->");
        let (before, rest) = page.split_once(begin).unwrap();
        let (shown, after) = rest.split_once(end).unwrap();
        let cells = |row: &[String]| format!("| {} |\n", row.join(" | "));
        let rows: String = rows().unwrap().iter().map(|row| cells(row)).collect();
        let expected = format!("{}| --- | ---: | ---: | ---: | ---: |\n{rows}", cells(&TITLES.map(str::to_owned)));
        if std::env::var_os("GRAFT_BLESS").is_some() {
            std::fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).unwrap();
        } else {
            assert_eq!(shown, expected, "docs/models.md is stale: run this test with GRAFT_BLESS=1");
        }
    }
}
