//! Result files in the schema of lm-evaluation-harness: `results.json` with figures, configs and hashes, and a line
//! for each item and scorer in `samples_<suite>.jsonl`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::score::{Metric, Row};
use crate::suite::Suite;
use crate::{Item, Sample};

/// What a result file says of the run as a whole; keys of lm-evaluation-harness where it has them.
#[derive(Debug, Clone, Serialize)]
pub struct RunFacts {
    /// Who was asked.
    pub model: String,
    /// Names the weights.
    pub model_fingerprint: String,
    /// `auto`, `cpu`, `cuda`.
    pub device: String,
    /// `f32` or `bf16`.
    pub dtype: String,
    /// How many clusters at most.
    pub limit: Option<usize>,
    /// Seed of sampling, views and guesses.
    pub seed: u64,
    /// How replies were drawn.
    pub gen_kwargs: Value,
    /// How clips became frames; null for suites without clips.
    pub media_policy: Value,
    /// The program.
    pub savi_version: String,
    /// The commit of the program's tree, where it is known.
    pub git_hash: Option<String>,
    /// When the run began, in seconds since 1970.
    pub date: f64,
}

/// The items that were asked, and what is known of them.
#[derive(Debug, Clone, Serialize)]
pub struct SuiteFacts {
    /// Its split.
    pub split: String,
    /// Names all items of the split.
    pub hash: String,
    /// Whether they are the published ones, where that is known.
    pub published: Option<bool>,
    /// Items of the split.
    pub original: usize,
    /// Worked examples before each.
    pub shots: usize,
}

/// The file's text for one suite. `views` has rows by view, the plain one under `normal`.
pub fn results(
    suite: &Suite,
    facts: &SuiteFacts,
    run: &RunFacts,
    views: &BTreeMap<String, Vec<Row>>,
    more: Map<String, Value>,
) -> Value {
    let name = suite.name;
    let mut by_task = Map::new();
    let mut subtasks: Vec<Value> = Vec::new();
    let mut higher = Map::new();
    for (view, rows) in views {
        let task = if view == "normal" { name.to_owned() } else { format!("{name}_{view}") };
        let mut of_task = figures(rows);
        of_task.insert("alias".to_owned(), json!(task));
        by_task.insert(task.clone(), Value::Object(of_task));
        for row in rows.iter().filter(|_| view == "normal") {
            higher.insert(row.metric.clone(), json!(true));
            for (kind, categories) in &row.by {
                for (category, row) in categories {
                    let subtask = format!("{name}:{kind}={category}");
                    if !subtasks.contains(&json!(subtask)) {
                        subtasks.push(json!(subtask));
                    }
                    let entry = by_task.entry(subtask.clone()).or_insert_with(|| json!({}));
                    if let Value::Object(entry) = entry {
                        entry.insert("alias".to_owned(), json!(format!(" - {kind} {category}")));
                        entry.extend(figures(std::slice::from_ref(row)));
                    }
                }
            }
        }
    }
    let effective = views.values().flatten().map(|row| row.counts.asked).max().unwrap_or(0);
    let mut file = json!({
        "results": by_task,
        "group_subtasks": {name: subtasks},
        "configs": {name: {"task": name, "test_split": facts.split, "num_fewshot": facts.shots,
            "metric_list": higher.keys().map(|metric| json!({"metric": metric})).collect::<Vec<_>>()}},
        "versions": {name: 1},
        "n-shot": {name: facts.shots},
        "higher_is_better": {name: higher},
        "n-samples": {name: {"original": facts.original, "effective": effective}},
        "config": {"model": run.model, "model_fingerprint": run.model_fingerprint, "device": run.device,
            "model_dtype": run.dtype, "limit": run.limit, "random_seed": run.seed,
            "gen_kwargs": run.gen_kwargs, "media_policy": run.media_policy},
        "git_hash": run.git_hash,
        "savi_version": run.savi_version,
        "date": run.date,
        "task_hashes": {name: facts.hash},
        "published_items": {name: facts.published},
    });
    if let Value::Object(file) = &mut file {
        file.extend(more);
    }
    file
}

/// `acc,strict`, `acc_stderr,strict` and so on.
fn figures(rows: &[Row]) -> Map<String, Value> {
    let mut map = Map::new();
    for row in rows {
        let Row { metric, filter, counts, .. } = row;
        let mut set = |what: &str, value: Value| {
            map.insert(format!("{metric}{what},{filter}"), value);
        };
        if let Some(estimate) = &row.estimate {
            set("", json!(estimate.value));
            set("_stderr", json!(row.stderr));
            set("_ci95", json!(estimate.ci95));
            set("_clusters", json!(estimate.clusters));
            set("_counted", json!(estimate.n));
        }
        for (what, count) in [
            ("_unparsed", counts.unparsed),
            ("_guessed", counts.guessed),
            ("_needs_judge", counts.needs_judge),
            ("_left_out", counts.left_out),
        ] {
            if count > 0 {
                set(what, json!(count));
            }
        }
    }
    map
}

/// The lines of a samples file, in the order of the items, one for each metric.
pub fn sample_lines(
    items: &[&Item],
    samples: &[&Sample],
    metrics: &[Metric],
) -> serde_json::Result<String> {
    let mut text = String::new();
    for (at, (item, sample)) in items.iter().zip(samples).enumerate() {
        for metric in metrics {
            let graded = &metric.graded[at];
            // A pair is told at its first item.
            if metric.name == "pair_acc" && graded.value.is_none() {
                continue;
            }
            let read = graded.reading.as_ref().and_then(|reading| reading.answer.clone());
            let scores: Vec<f64> = sample.scores.iter().map(|score| score.logp).collect();
            let resps =
                if sample.scores.is_empty() { json!([sample.replies]) } else { json!([scores]) };
            let mut line = json!({
                "doc_id": at,
                "doc": item,
                "target": item.target(),
                "resps": resps,
                "filtered_resps": [read],
                "filter": metric.filter,
                "metrics": [metric.name],
                "doc_hash": sample.doc_hash,
                "prompt_hash": sample.prompt_hash,
                "target_hash": sample.target_hash,
                "cluster": sample.cluster,
                "tokens": sample.tokens,
                "cut_off": sample.cut_off,
            });
            line[metric.name] = json!(graded.value);
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
    }
    Ok(text)
}
