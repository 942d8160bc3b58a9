//! `savi text rain` from the outside: what it writes, that it ends with the same bytes however often it is killed, that
//! its traces can be replayed, and what it refuses.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::training::{self, rows};

const CONFIG: &str = r#"
seed = 3
model = "builtin:tiny-text"
device = "cpu"
embedder = "hidden-mean"
questions = ["Ann has 3 apples and gets 4 more. How many apples does she have?", "What is 2 plus 2?"]

[method.search]
iterations = 5
extra_iterations = 2
min_visits = 1
candidates = 4
draws = 3
max_new_tokens = 14
simulation_tokens = 6

[method.judge]
score = "soft"

[method.baselines]
greedy = true
sampled = true
best_of = 2
"#;

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
    command.args(["text", "rain", "--config", "rain.toml"]).args(args).current_dir(dir);
    command
}

fn folder(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rain.toml"), config).unwrap();
    dir
}

/// Every file of the stages.
fn results(run: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), vec![run.join("stages")]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(run).unwrap().display().to_string();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_killed_search_ends_with_the_same_bytes() {
    let dir = folder(CONFIG);
    let begun = Instant::now();
    let told = training::done(command(dir.path(), &["--json"]));
    let time = begun.elapsed();
    let told: Vec<Value> = serde_json::from_str(&told).unwrap();
    let methods: Vec<&str> = told.iter().filter_map(|row| row["method"].as_str()).collect();
    assert_eq!(methods, ["rain", "greedy", "sampled", "best-of"]);
    assert!(told.iter().all(|row| row["answers"] == 2));
    let run = dir.path().join("runs/rain");
    let undisturbed = results(&run);
    let traces: Vec<&str> = undisturbed
        .iter()
        .filter(|(name, _)| name.contains("traces"))
        .map(|(_, bytes)| std::str::from_utf8(bytes).unwrap())
        .collect();
    // Embeddings decide where nodes are added: some were offered.
    assert!(traces.iter().any(|trace| trace.contains("\"offered\"")));
    let answers: Vec<String> =
        traces.iter().map(|trace| savi_rain::replay(trace).unwrap().text).collect();
    let records = rows(&run.join("stages/01-rain/records.jsonl"));
    assert_eq!((answers.len(), records.len()), (2, 2));
    for record in &records {
        let text = record["answer"].as_str().unwrap();
        assert!(answers.iter().any(|answer| answer == text), "{text}");
        assert!(record["token_ids"].as_array().unwrap().len() <= 14);
        assert!((-1.0..=1.0).contains(&record["score"].as_f64().unwrap()));
    }
    let again = || command(dir.path(), &["--run-dir", "killed"]);
    training::killed_on_the_way(again, time, 6, 11);
    assert_eq!(results(&dir.path().join("killed")), undisturbed);
}

#[test]
fn mistakes_are_refused() {
    let dir = folder(CONFIG);
    for (at, (set, word)) in [
        ("method.search.draws=1", "method.search.draws"),
        ("method.search.max_length=4", "search.max_length is 4"),
        ("method.prompts.plain=nothing.jinja", "nothing.jinja"),
        ("embedder=nowhere", "nowhere"),
        ("questions=[]", "[world] or questions"),
    ]
    .into_iter()
    .enumerate()
    {
        let run = format!("bad-{at}");
        training::refused(command(dir.path(), &["--run-dir", &run, "--set", set]), &[word]);
    }
}

#[test]
fn a_prompt_is_answered_by_search() {
    let dir = folder("[search]\niterations = 4\nextra_iterations = 2\ncandidates = 3\ndraws = 2\n");
    let generate = |file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
        command
            .args(["generate", "--model", "builtin:tiny-text", "--device", "cpu", "--json"])
            .args([
                "--prompt",
                "What is 2 plus 2?",
                "--rain",
                file,
                "--n",
                "2",
                "--max-tokens",
                "6",
            ])
            .current_dir(dir.path());
        command
    };
    let told: Value = serde_json::from_str(&training::done(generate("rain.toml"))).unwrap();
    let completions = told["completions"].as_array().unwrap();
    assert_eq!(completions.len(), 2);
    for completion in completions {
        let tokens = completion["token_ids"].as_array().unwrap().len();
        assert!((1..=6).contains(&tokens), "{completion}");
        assert_eq!(completion["logps"].as_array().unwrap().len(), tokens);
    }
    std::fs::write(dir.path().join("bad.toml"), "[search]\nsearches = 4\n").unwrap();
    training::refused(generate("bad.toml"), &["searches"]);
}
