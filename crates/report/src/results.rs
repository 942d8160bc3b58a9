//! The table that a run is made for: base and rounds, with intervals.

use std::collections::{BTreeMap, BTreeSet};

use savi_run::Evaluation;
use savi_suites::stats::{Bootstrap, Difference, Outcome, paired_difference};
use savi_suites::{Answered, Solved, outcomes, solve_outcomes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::load::Run;
use crate::words::{number, percent, points};

/// One suite's tables.
#[derive(Debug, Serialize)]
pub(crate) struct SuiteTable {
    suite: String,
    /// One row for each round that was measured.
    rounds: Vec<RoundRow>,
    /// Ends of the drawn scale.
    scale: [String; 2],
    /// Whether changes against the base could be computed.
    has_changes: bool,
    families: Vec<FamilyRow>,
    others: Vec<FamilyRow>,
    round_names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RoundRow {
    name: String,
    value: String,
    interval: String,
    n: usize,
    /// Places on the drawn scale, in percent of its width.
    at: f64,
    low: f64,
    high: f64,
    change: Option<Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    points: String,
    interval: String,
    clear: bool,
}

#[derive(Debug, Serialize)]
struct FamilyRow {
    name: String,
    n: usize,
    cells: Vec<Option<Cell>>,
}

#[derive(Debug, Serialize)]
struct Cell {
    value: String,
    interval: String,
}

/// The tables of all suites of the run, in the order of their names.
pub(crate) fn results(run: &mut Run) -> Vec<SuiteTable> {
    let suites: BTreeSet<String> = run.evaluations.iter().map(|row| row.suite.clone()).collect();
    // Answers are stored by round, not by suite: with one suite they are its answers.
    let changes = if suites.len() == 1 { changes(run) } else { BTreeMap::new() };
    suites.into_iter().map(|suite| suite_table(run, suite, &changes)).collect()
}

fn suite_table(run: &Run, suite: String, changes: &BTreeMap<u32, Difference>) -> SuiteTable {
    let rows: Vec<&Evaluation> = run.evaluations.iter().filter(|row| row.suite == suite).collect();
    let mut main: Vec<&Evaluation> =
        rows.iter().copied().filter(|row| row.metric == "accuracy").collect();
    main.sort_by_key(|row| row.round);
    let numbers: BTreeSet<u32> = rows.iter().map(|row| row.round).collect();

    let least = main.iter().map(|row| row.ci95[0]).fold(1.0, f64::min);
    let most = main.iter().map(|row| row.ci95[1]).fold(0.0, f64::max);
    // Whole steps of five points around all intervals.
    let least = (least * 20.0).floor().max(0.0) / 20.0;
    let most = ((most * 20.0).ceil() / 20.0).max(least + 0.05);
    let place = |value: f64| 100.0 * (value - least) / (most - least);

    let rounds = main
        .iter()
        .map(|row| RoundRow {
            name: round_name(row.round),
            value: percent(row.value),
            interval: interval(row.ci95),
            n: row.n,
            at: place(row.value),
            low: place(row.ci95[0]),
            high: place(row.ci95[1]),
            change: changes.get(&row.round).map(|difference| Change {
                points: points(difference.difference),
                interval: format!(
                    "{} to {}",
                    points(difference.ci95[0]),
                    points(difference.ci95[1])
                ),
                clear: difference.is_clear(),
            }),
        })
        .collect();

    let families: BTreeSet<&String> = main.iter().flat_map(|row| row.by.keys()).collect();
    let families = families
        .into_iter()
        .map(|family| {
            let slices: Vec<_> = numbers
                .iter()
                .map(|&round| main.iter().find(|row| row.round == round)?.by.get(family))
                .collect();
            FamilyRow {
                name: family.clone(),
                n: slices.iter().flatten().map(|slice| slice.n).max().unwrap_or(0),
                cells: slices
                    .into_iter()
                    .map(|slice| slice.map(|slice| cell(slice.value, slice.ci95)))
                    .collect(),
            }
        })
        .collect();

    let metrics: BTreeSet<&str> =
        rows.iter().map(|row| row.metric.as_str()).filter(|name| *name != "accuracy").collect();
    let others = metrics
        .into_iter()
        .map(|metric| {
            let found: Vec<Option<&&Evaluation>> = numbers
                .iter()
                .map(|&round| rows.iter().find(|row| row.round == round && row.metric == metric))
                .collect();
            FamilyRow {
                name: metric_name(metric),
                n: found.iter().flatten().map(|row| row.n).max().unwrap_or(0),
                cells: found
                    .into_iter()
                    .map(|row| {
                        row.map(|row| match row.is_share() {
                            true => cell(row.value, row.ci95),
                            false => plain_cell(row.value, row.ci95),
                        })
                    })
                    .collect(),
            }
        })
        .collect();

    SuiteTable {
        suite,
        rounds,
        scale: [percent(least), percent(most)],
        has_changes: !changes.is_empty(),
        families,
        others,
        round_names: numbers.into_iter().map(round_name).collect(),
    }
}

fn cell(value: f64, ci95: [f64; 2]) -> Cell {
    Cell { value: percent(value), interval: interval(ci95) }
}

/// A length or a score.
fn plain_cell(value: f64, [low, high]: [f64; 2]) -> Cell {
    let interval = match low == high && low == value {
        true => String::new(),
        false => format!("{} to {}", number(low), number(high)),
    };
    Cell { value: number(value), interval }
}

fn interval([low, high]: [f64; 2]) -> String {
    format!("{} to {}", percent(low), percent(high))
}

pub(crate) fn round_name(round: u32) -> String {
    if round == 0 { "base".to_owned() } else { format!("round {round}") }
}

fn metric_name(metric: &str) -> String {
    match metric {
        "accuracy/temporal" => "questions that need time".to_owned(),
        "accuracy/novel" => "combinations never trained on".to_owned(),
        "unparsed" => "replies without an answer".to_owned(),
        "mean_length" => "tokens of a reply".to_owned(),
        "mean_length/right" => "tokens of a right reply".to_owned(),
        "mean_length/ended" => "tokens of a reply that ended".to_owned(),
        "cut_off" => "replies that were cut off".to_owned(),
        other => other.to_owned(),
    }
}

fn read<T: DeserializeOwned>(records: &[Value]) -> Result<Vec<T>, serde_json::Error> {
    records.iter().map(|record| serde_json::from_value(record.clone())).collect()
}

/// The change of each round against the base on the same questions, clustered by clip, from the
/// stored answers. Rounds that cannot be paired are said in a note.
fn changes(run: &mut Run) -> BTreeMap<u32, Difference> {
    let mut rounds: BTreeMap<u32, Vec<Outcome>> = BTreeMap::new();
    for stage in &run.stages {
        let found = match stage.title.as_str() {
            "evaluate" => read::<Answered>(&stage.records).map(|answered| outcomes(&answered)),
            "solve" => read::<Solved>(&stage.records)
                .map(|solved| solve_outcomes(&solved, |solved| Some(solved.score))),
            _ => continue,
        };
        match found {
            Ok(outcomes) if !outcomes.is_empty() => {
                rounds.insert(stage.round, outcomes);
            }
            Ok(_) => {}
            Err(error) => {
                run.notes.push(format!("Answers of stage {} cannot be read: {error}.", stage.name));
            }
        }
    }
    let Some(base) = rounds.remove(&0) else { return BTreeMap::new() };
    let mut changes = BTreeMap::new();
    for (round, answered) in rounds {
        let base = std::slice::from_ref(&base);
        match paired_difference(base, &[answered], &Bootstrap::default()) {
            Ok(difference) => {
                changes.insert(round, difference);
            }
            Err(error) => run.notes.push(format!("Round {round} and the base: {error}.")),
        }
    }
    changes
}
