//! Results of a text method as a table.

use savi_run::Evaluation;

/// A row for each metric, a column for each round.
pub(crate) fn render(evaluations: &[Evaluation]) -> String {
    let mut metrics: Vec<(&str, &str)> = Vec::new();
    let mut rounds: Vec<u32> = Vec::new();
    for row in evaluations {
        let metric = (row.suite.as_str(), row.metric.as_str());
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
        if !rounds.contains(&row.round) {
            rounds.push(row.round);
        }
    }
    let name = |(suite, metric): &(&str, &str)| format!("{suite} {metric}");
    let width = metrics.iter().map(|metric| name(metric).len()).max().unwrap_or(0);
    let head: String = rounds.iter().map(|round| format!("  {:>24}", title(*round))).collect();
    let mut text = format!("{:width$}{head}\n", "");
    for metric in &metrics {
        text.push_str(&format!("{:width$}", name(metric)));
        for &round in &rounds {
            let of = |row: &&Evaluation| {
                row.round == round && (row.suite.as_str(), row.metric.as_str()) == *metric
            };
            let cell = evaluations.iter().find(of).map_or(String::new(), cell);
            text.push_str(&format!("  {cell:>24}"));
        }
        text.push('\n');
    }
    text
}

fn title(round: u32) -> String {
    if round == 0 { "base".to_owned() } else { format!("round {round}") }
}

/// Shares in percent, lengths and scores as they are.
fn cell(row: &Evaluation) -> String {
    let (scale, unit) = if row.is_share() { (100.0, " %") } else { (1.0, "") };
    let [low, high] = row.ci95;
    let value = row.value * scale;
    match low == high && low == row.value {
        true => format!("{value:.2}{unit}"),
        false => format!("{value:.1}{unit} ({:.1} to {:.1})", low * scale, high * scale),
    }
}
