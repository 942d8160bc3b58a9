//! The table of an evaluation on a terminal.

use std::collections::BTreeMap;

use savi_suites::{Row, View, chance};

use super::bench::Bench;
use super::finish::{Baseline, CORRELATION, Scored};
use super::tested::{Tested, shown};

pub(crate) fn print(
    bench: &Bench,
    views: &[Scored<'_>],
    rows: &BTreeMap<String, Vec<Row>>,
    floors: &[(View, Tested)],
    baseline: Option<&Baseline>,
    against: &[(String, Tested)],
) {
    println!("{:<34} {:>7}  {:>15}  {:>7}", bench.suite.name, "percent", "95 % interval", "items");
    for scored in views {
        let Some(rows) = rows.get(scored.view.name()) else { continue };
        for (at, row) in rows.iter().enumerate() {
            let name = match scored.view {
                View::Normal => format!("{} ({})", row.metric, row.filter),
                view if at == 0 => format!("floor: {} ({})", view.name(), row.filter),
                _ => continue,
            };
            line(&name, row);
            if at == 0 {
                for (kind, categories) in &row.by {
                    for (category, row) in categories {
                        line(&format!("  {kind} {category}"), row);
                    }
                }
            }
        }
    }
    let normal = views.iter().find(|scored| scored.view == View::Normal);
    if let Some(chance) = normal.and_then(|normal| chance(&normal.items)) {
        println!("{:<34} {:>7.1}", "chance", 100.0 * chance);
    }
    for (view, difference) in floors {
        print_difference(&format!("over {}", view.name()), difference);
    }
    if let Some(baseline) = baseline {
        for (metric, difference) in against {
            println!(
                "{:<34} {:>7.1}",
                format!("{} ({metric})", baseline.name),
                100.0 * difference.difference.base
            );
            print_difference("  difference to it", difference);
        }
    }
    if let Some((normal, metric)) = normal.and_then(|n| Some((n, n.metrics.first()?))) {
        if let Some(letters) = metric.letters(&normal.items) {
            let counts = letters.counts.iter();
            let counts: Vec<String> =
                counts.map(|(l, (got, right))| format!("{l} {got}/{right}")).collect();
            let p = shown(letters.bias.p);
            println!("letters, chosen/right: {}; p = {p} that they go together", counts.join(", "));
        }
        if let Some(least) = normal.least(metric) {
            println!(
                "Another run has to differ by {:.1} points to be told apart in four of five cases (correlation {CORRELATION}).",
                100.0 * least
            );
        }
    }
    if bench.facts.published == Some(false) {
        println!("The items are not the published ones.");
    }
}

fn line(name: &str, row: &Row) {
    let Some(estimate) = &row.estimate else {
        println!("{name:<34} {:>7}", "-");
        return;
    };
    let interval = format!("{:.1} to {:.1}", 100.0 * estimate.ci95[0], 100.0 * estimate.ci95[1]);
    let counts = &row.counts;
    let mut notes = Vec::new();
    for (count, what) in [
        (counts.unparsed, "unparsed"),
        (counts.guessed, "guessed"),
        (counts.needs_judge, "for a judge"),
        (counts.left_out, "left out"),
    ] {
        if count > 0 {
            notes.push(format!("{count} {what}"));
        }
    }
    let notes = if notes.is_empty() { String::new() } else { format!("  {}", notes.join(", ")) };
    println!(
        "{name:<34} {:>7.1}  {interval:>15}  {:>7}{notes}",
        100.0 * estimate.value,
        estimate.n
    );
}

fn print_difference(name: &str, tested: &Tested) {
    let difference = &tested.difference;
    let [low, high] = difference.ci95;
    let interval = format!("{:+.1} to {:+.1}", 100.0 * low, 100.0 * high);
    println!(
        "{name:<34} {:>+7.1}  {interval:>15}  {:>7}  p = {}",
        100.0 * difference.difference,
        difference.n,
        shown(tested.p_holm)
    );
}
