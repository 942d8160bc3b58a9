//! The table at the end of a run.

use std::collections::BTreeSet;
use std::fmt::Write;

use savi_run::Evaluation;

/// Base and rounds with intervals, and a column for each family: accuracies in percent.
pub(crate) fn render(evaluations: &[Evaluation]) -> String {
    let rows: Vec<&Evaluation> =
        evaluations.iter().filter(|evaluation| evaluation.metric == "accuracy").collect();
    if rows.is_empty() {
        return "no held-out questions were asked\n".to_owned();
    }
    let families: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.by.keys()).map(String::as_str).collect();
    let mut header =
        vec!["round".to_owned(), "n".to_owned(), "accuracy".to_owned(), "95 %".to_owned()];
    header.extend(families.iter().map(|family| (*family).to_owned()));
    let mut table = vec![header];
    for row in &rows {
        let round = match row.round {
            0 => "base".to_owned(),
            round => round.to_string(),
        };
        let interval = format!("{} to {}", percent(row.ci95[0]), percent(row.ci95[1]));
        let mut cells = vec![round, row.n.to_string(), percent(row.value), interval];
        let of = |family: &&str| row.by.get(*family).map_or("-".to_owned(), |s| percent(s.value));
        cells.extend(families.iter().map(of));
        table.push(cells);
    }
    let suites: BTreeSet<&str> = rows.iter().map(|row| row.suite.as_str()).collect();
    let suites: Vec<&str> = suites.into_iter().collect();
    let mut text = format!("{}: accuracy in percent on held-out questions\n", suites.join(", "));
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
    for row in &table {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

#[cfg(test)]
mod tests {
    use savi_run::Slice;

    use super::*;

    #[test]
    fn base_and_rounds_with_families() {
        let row = |round, value: f64, metric: &str| Evaluation {
            round,
            suite: "moving-shapes".to_owned(),
            metric: metric.to_owned(),
            value,
            ci95: [value - 0.05, value + 0.05],
            n: 300,
            by: [("direction".to_owned(), Slice { value, ci95: [0.0, 1.0], n: 10 })].into(),
        };
        let rows = [row(0, 0.5, "accuracy"), row(0, 0.1, "unparsed"), row(1, 0.625, "accuracy")];
        let expected = "moving-shapes: accuracy in percent on held-out questions\n\
                        round    n  accuracy          95 %  direction\n \
                        base  300      50.0  45.0 to 55.0       50.0\n    \
                        1  300      62.5  57.5 to 67.5       62.5\n";
        assert_eq!(render(&rows), expected);
        assert!(render(&[]).contains("no held-out questions"));
    }
}
