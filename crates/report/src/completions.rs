//! Completions of online training, from the first step and from the last: what was written, and what it was worth.

use std::fs;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::load::Run;
use crate::words::number;

/// Completions shown of a step.
const SAMPLE: usize = 6;
/// Longest text shown, in characters.
const LONGEST: usize = 1500;

/// A completion as the page shows it.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionRow {
    step: u64,
    prompt: String,
    completion: String,
    tokens: u64,
    cut_off: bool,
    rewards: Vec<String>,
    advantage: Option<String>,
}

/// Those of the first and of the last step that are in `completions.jsonl`; none where it is not there.
pub(crate) fn completions(run: &Run) -> Vec<CompletionRow> {
    let Ok(text) = fs::read_to_string(run.dir.join("completions.jsonl")) else { return Vec::new() };
    let rows: Vec<Map<String, Value>> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let step = |row: &&Map<String, Value>| row.get("step").and_then(Value::as_u64).unwrap_or(0);
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Vec::new() };
    let mut steps = vec![step(&first), step(&last)];
    steps.dedup();
    let of_step = |at: u64| rows.iter().filter(move |row| step(row) == at).take(SAMPLE).map(row);
    steps.into_iter().flat_map(of_step).collect()
}

fn row(row: &Map<String, Value>) -> CompletionRow {
    let text = |key: &str| {
        let text = row.get(key).and_then(Value::as_str).unwrap_or_default();
        text.chars().take(LONGEST).collect::<String>()
    };
    let count = |key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(0);
    let rewards = row.get("rewards").and_then(Value::as_object);
    let reward = |(name, value): (&String, &Value)| {
        Some(format!("{} {}", name.replace('_', " "), number(value.as_f64()?)))
    };
    CompletionRow {
        step: count("step"),
        prompt: text("prompt"),
        completion: text("completion"),
        tokens: count("tokens"),
        cut_off: row.get("cut_off").and_then(Value::as_bool).unwrap_or(false),
        rewards: rewards.into_iter().flatten().filter_map(reward).collect(),
        advantage: row.get("advantage").and_then(Value::as_f64).map(number),
    }
}
