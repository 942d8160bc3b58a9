//! `savi train grpo` and `savi train ppo` from the outside: what they write, that they go on where they were stopped, and
//! what they refuse.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::training::{self, rows};

const START: &str = r#"
model = "builtin:tiny"
data = "prompts.jsonl"
device = "cpu"

[[rewards]]
func = "exact_match"

[[rewards]]
func = "format"
pattern = "^[a-z ]*[.]?$"
"#;

const OPTIM: &str = "
learning_rate = 1e-3
per_device_train_batch_size = 4
max_steps = 8
save_steps = 1
";

/// A folder with prompts in TRL's and in verl's layout and a config for each command.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let grpo =
        "[grpo]\nnum_generations = 4\nmax_completion_length = 6\nnum_iterations = 2\nlora_r = 2\n";
    let ppo = "[ppo]\nresponse_length = 6\nnum_ppo_epochs = 2\nnum_mini_batches = 2\nlora_r = 2\n";
    for (name, own) in [("grpo", grpo), ("ppo", ppo)] {
        let config = format!("{START}\n{own}\n[{name}.optim]{OPTIM}");
        std::fs::write(dir.path().join(format!("{name}.toml")), config).unwrap();
    }
    let ask = "Where does the red circle move?";
    let rows = [
        json!({"prompt": ask, "answer": "left"}),
        json!({"prompt": [{"role": "user", "content": ask}], "data_source": "shapes",
            "reward_model": {"style": "rule", "ground_truth": "up"}}),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(dir.path().join("prompts.jsonl"), text).unwrap();
    dir
}

fn command(dir: &Path, name: &str, args: &[&str]) -> Command {
    training::command(dir, name, &format!("{name}.toml"), args)
}

fn done(dir: &Path, name: &str, args: &[&str]) -> String {
    training::done(command(dir, name, args))
}

/// What has to be the same, whatever happened on the way.
fn results(run: &Path) -> (Vec<u8>, Vec<Value>, Vec<[Value; 4]>) {
    let figures = ["step", "loss", "grad_norm", "reward"];
    let figures = |line: Value| figures.map(|name| line[name].clone());
    (
        std::fs::read(run.join("adapter/adapter_model.safetensors")).unwrap(),
        rows(&run.join("completions.jsonl")),
        rows(&run.join("metrics.jsonl")).into_iter().map(figures).collect(),
    )
}

#[test]
fn completions_are_learnt_from_and_a_stopped_run_ends_with_the_same_bytes() {
    let dir = folder();
    for (name, figures, drawn) in [
        ("grpo", ["kl", "reward_std", "clip_ratio/low_mean"], 4 * 4),
        ("ppo", ["objective/kl", "loss/value_avg", "val/clipfrac_avg"], 2 * 8),
    ] {
        let args = if name == "grpo" { &["--set", "grpo.beta=0.1"][..] } else { &[] };
        let told = done(dir.path(), name, &[args, &["--json"]].concat());
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&told["steps"], &told["prompts"]), (&json!(8), &json!(2)), "{told}");
        let run = dir.path().join("runs").join(name);
        let lines = rows(&run.join("metrics.jsonl"));
        let own = ["reward", "entropy", "completions/mean_length", "rewards/format/mean"];
        let own = own.map(|figure| match (name, figure) {
            ("ppo", "entropy") => "policy/entropy_avg",
            _ => figure,
        });
        for figure in own.iter().chain(&figures) {
            assert!(lines[0][figure].is_number(), "{figure}: {}", lines[0]);
        }
        let completions = rows(&run.join("completions.jsonl"));
        assert_eq!(completions.len(), drawn);
        assert!(completions[0]["rewards"]["exact_match"].is_number(), "{}", completions[0]);
        // The value head is no part of what is saved.
        let adapter = std::fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
        assert!(!String::from_utf8_lossy(&adapter).contains("value_head"));
        let finished = results(&run);
        done(dir.path(), name, args);
        assert_eq!(results(&run), finished);

        let stopped = dir.path().join("stopped").join(name);
        let place = format!("stopped/{name}");
        let args = [args, &["--run-dir", &place]].concat();
        // In the middle of a generation.
        training::interrupt(command(dir.path(), name, &args), &stopped, 1..4);
        done(dir.path(), name, &args);
        assert_eq!(results(&stopped), finished);
    }
}

#[test]
fn mistakes_name_file_row_and_key() {
    let dir = folder();
    let refused = |name: &str, args: &[&str], words: &[&str]| {
        training::refused(command(dir.path(), name, args), words);
    };
    refused("grpo", &["--set", "grpo.loss_type=gspo"], &["gspo", "dr_grpo", "grpo.toml"]);
    refused("grpo", &["--set", "grpo.reward_weights=[1.0]"], &["reward_weights"]);
    refused("ppo", &["--set", "ppo.kl_coef=-1"], &["kl_coef", "from 0 up"]);
    refused("ppo", &["--set", "data=none.jsonl"], &["none.jsonl"]);
    std::fs::write(dir.path().join("prompts.jsonl"), "{\"prompt\": \"a\"}\n{\"words\": \"b\"}\n")
        .unwrap();
    refused("grpo", &[], &["prompts.jsonl, row 2", "missing key \"prompt\""]);
    std::fs::write(dir.path().join("prompts.jsonl"), "{\"prompt\": \"a\"}\n").unwrap();
    refused("ppo", &[], &["exact_match", "no prompt has an answer"]);
    assert!(!dir.path().join("runs").exists());
}
