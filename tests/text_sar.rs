//! `savi text sar` from the outside: what it writes, that both trainers take both rewards, that it ends with the same
//! records however often it is killed, and what it refuses.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::training::{self, rows};

const CONFIG: &str = r#"
seed = 3
model = "builtin:tiny-text"
device = "cpu"
world = { name = "arithmetic", levels = [1, 2], train = 3, held_out = 3 }

[method]
verifier = { func = "math_match", find = "marked" }
exam = { max_tokens = 48, chunk = 2 }
resamples = 100
"#;

const GRPO: &str = "
[grpo]
num_generations = 3
max_completion_length = 32
scale_rewards = 'none'
lora_r = 2
[grpo.optim]
per_device_train_batch_size = 6
max_steps = 3
save_steps = 1
";

const PPO: &str = "
[ppo]
response_length = 32
lora_r = 2
num_ppo_epochs = 1
[ppo.optim]
per_device_train_batch_size = 4
max_steps = 2
save_steps = 1
";

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
    command.args(["text", "sar", "--config", "sar.toml"]).args(args).current_dir(dir);
    command
}

fn folder(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("sar.toml"), config).unwrap();
    dir
}

/// What has to be the same, whatever happened on the way.
fn results(run: &Path) -> (Vec<Vec<u8>>, Vec<Value>, Vec<[Value; 4]>) {
    let files = [
        "stages/09-solve/records.jsonl",
        "stages/19-solve/records.jsonl",
        "evaluations.json",
        "adapter/adapter_model.safetensors",
    ];
    let figures = ["step", "loss", "grad_norm", "rewards/self_aligned/mean"];
    let figures = |line: Value| figures.map(|name| line[name].clone());
    (
        files.map(|file| std::fs::read(run.join(file)).unwrap()).to_vec(),
        rows(&run.join("completions.jsonl")),
        rows(&run.join("metrics.jsonl")).into_iter().map(figures).collect(),
    )
}

#[test]
fn a_killed_run_ends_with_the_same_records() {
    let dir = folder(&format!("{CONFIG}{GRPO}"));
    let begun = Instant::now();
    let told = training::done(command(dir.path(), &["--json"]));
    let time = begun.elapsed();
    let told: Vec<Value> = serde_json::from_str(&told).unwrap();
    for (round, metric) in [(0, "accuracy"), (1, "accuracy"), (1, "mean_length"), (1, "cut_off")] {
        let is = |row: &&Value| row["round"] == round && row["metric"] == metric;
        let row = told.iter().find(is).unwrap_or_else(|| panic!("no {metric} of round {round}"));
        assert_eq!(row["n"], 6, "{row}");
    }
    let run = dir.path().join("runs/sar");
    let lines = rows(&run.join("metrics.jsonl"));
    assert_eq!(lines.len(), 3);
    for figure in [
        "rewards/math_match/mean",
        "rewards/math_match/frac_zero_std",
        "rewards/self_aligned/mean",
        "rewards/self_aligned/ppl_conditional/mean",
        "rewards/self_aligned/ppl_standalone/mean",
        "rewards/self_aligned/clipped/mean",
        "completions/mean_length",
    ] {
        assert!(lines[0][figure].is_number(), "{figure}: {}", lines[0]);
    }
    assert!(run.join("report.html").exists());
    let undisturbed = results(&run);
    let again = || command(dir.path(), &["--run-dir", "killed"]);
    training::killed_on_the_way(again, time, 5, 7);
    assert_eq!(results(&dir.path().join("killed")), undisturbed);
}

#[test]
fn both_trainers_and_every_reward_beside_the_verifier_run() {
    let dir = folder(&format!("{CONFIG}{GRPO}"));
    for (beside, figure) in [
        ("nothing", "rewards/math_match/mean"),
        ("o1_pruner", "rewards/o1_pruner/mean"),
        ("efficient_reasoning", "rewards/efficient_reasoning/mean"),
        ("entropy_minimisation", "rewards/entropy_minimisation/mean"),
    ] {
        let beside_key = format!("method.beside={beside}");
        let args = ["--run-dir", beside, "--set", "grpo.optim.max_steps=1", "--set", &beside_key];
        training::done(command(dir.path(), &args));
        let lines = rows(&dir.path().join(beside).join("metrics.jsonl"));
        assert!(lines[0][figure].is_number(), "{}", lines[0]);
        assert!(lines[0]["rewards/self_aligned/mean"].is_null());
    }
    let ppo = CONFIG.replace("[method]", "[method]\nalgorithm = 'ppo'\nstandalone = 'bos'");
    let dir = folder(&format!("{ppo}{PPO}"));
    training::done(command(dir.path(), &[]));
    let lines = rows(&dir.path().join("runs/sar/metrics.jsonl"));
    assert!(lines[0]["loss/value_avg"].is_number() && lines.len() == 2);
    assert!(lines[0]["rewards/self_aligned/mean"].is_number());
}

#[test]
fn questions_in_files_are_learnt_from_and_mistakes_are_named() {
    let files = "prompts = { data = 'train.jsonl' }\nheld_out = { data = 'test.jsonl' }";
    let world = CONFIG.lines().find(|line| line.starts_with("world")).unwrap();
    let wording = "[wording]\ninstruction = ' Give only the number.'\n\n[method]";
    let config = CONFIG.replace(world, files).replace("[method]", wording);
    let dir = folder(&format!("{config}{GRPO}"));
    let row = r#"{"question": "How much is 3 + 4?", "answer": "3 + 4 = 7\n#### 7"}"#;
    std::fs::write(dir.path().join("train.jsonl"), format!("{row}\n{row}\n")).unwrap();
    std::fs::write(dir.path().join("test.jsonl"), format!("{row}\n")).unwrap();
    training::done(command(dir.path(), &["--set", "grpo.optim.max_steps=1"]));
    let drawn = rows(&dir.path().join("runs/sar/completions.jsonl"));
    assert_eq!(drawn[0]["prompt"], "How much is 3 + 4? Give only the number.");

    // Two prompts of three completions, each as long as it may be.
    let plan = |memory: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
        command.args(["plan", "--json", "--config", "sar.toml", "--memory", memory]);
        command.current_dir(dir.path());
        command
    };
    let told: Value = serde_json::from_str(&training::done(plan("8"))).unwrap();
    assert_eq!((&told["records"], &told["steps"]), (&Value::from(2), &Value::from(3)), "{told}");
    assert!(told["longest_record"].as_u64().unwrap() > 3 * 32);
    assert!(told["memory"]["sampling"].as_u64().unwrap() > 0);
    training::refused(plan("0.01"), &["cannot fit"]);

    let refused = |args: &[&str], words: &[&str]| {
        training::refused(command(dir.path(), args), words);
    };
    refused(&["--set", "method.alpha=-1"], &["method.alpha", "sar.toml"]);
    refused(&["--set", "method.verifier.column='gold'"], &["no answer in a column gold"]);
    std::fs::write(dir.path().join("test.jsonl"), "{\"question\": 3}\n").unwrap();
    refused(&["--fresh"], &["test.jsonl", "question"]);
}
