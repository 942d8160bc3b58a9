//! `savi train sft` on files, from the outside: what it writes, that it goes on where it was stopped, and what it refuses.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::training;

const CONFIG: &str = r#"
model = "builtin:tiny"
data = ["talk.jsonl", {path = "sums.csv", fraction = 0.5}]
device = "cpu"

[sft]
lora_r = 2
lora_alpha = 8.0

[sft.optim]
learning_rate = 1e-3
per_device_train_batch_size = 2
max_steps = 24
save_steps = 1
"#;

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("small.toml", CONFIG);
    let turn = |role: &str, words: &str| json!({"role": role, "content": words});
    let talk = json!({"weight": 2.0, "messages": [turn("user", "Where does the red circle move?"),
        turn("assistant", "left"), turn("user", "And then?"), turn("assistant", "It moves up.")]});
    write("talk.jsonl", &format!("{talk}\n{}\n", json!({"text": "The red circle moves left."})));
    write("sums.csv", "instruction,output\nWhat moves?,a circle\nWhat is red?,a square\n");
    dir
}

fn command(dir: &Path, args: &[&str]) -> Command {
    training::command(dir, "sft", "small.toml", args)
}

fn done(dir: &Path, args: &[&str]) -> String {
    training::done(command(dir, args))
}

fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    training::refused(command(dir, args), words);
}

/// What has to be the same, whatever happened on the way.
fn results(run: &Path) -> (Vec<u8>, Vec<[Value; 3]>) {
    let lines = training::rows(&run.join("metrics.jsonl")).into_iter();
    let figures = lines.map(|line| ["step", "loss", "grad_norm"].map(|name| line[name].clone()));
    (std::fs::read(run.join("adapter/adapter_model.safetensors")).unwrap(), figures.collect())
}

#[test]
fn files_are_learnt_and_a_stopped_run_ends_with_the_same_bytes() {
    let dir = folder();
    let told: Value = serde_json::from_str(&done(dir.path(), &["--json"])).unwrap();
    assert_eq!((&told["steps"], &told["examples"]), (&json!(24), &json!(3)));
    let finished = results(&dir.path().join("runs/small"));
    let loss = |at: usize| finished.1[at][1].as_f64().unwrap();
    assert!(loss(22) + loss(23) < loss(0) + loss(1), "{:?}", finished.1);

    let stopped = dir.path().join("stopped");
    let args = ["--run-dir", "stopped"];
    training::interrupt(command(dir.path(), &args), &stopped, 2..4);
    done(dir.path(), &args);
    assert_eq!(results(&stopped), finished);
}

#[test]
fn what_is_wrong_with_a_row_is_told_before_anything_is_computed() {
    let dir = folder();
    refused(dir.path(), &["--set", "layout=alpaca"], &["savi, trl, llama-factory, ms-swift, qwen"]);
    refused(
        dir.path(),
        &["--set", "sft.max_length=8"],
        &["record talk.jsonl: row-1", "max_length = 8"],
    );
    let user = json!({"role": "user", "content": "Q"});
    let said = |words: &str| json!({"role": "assistant", "content": words});
    let clip = json!([user, said("x")]);
    for (row, words) in [
        (json!({"messages": [user]}), "there is no turn of the assistant to learn"),
        (json!({"messages": [user, said("")]}), "answer, is empty"),
        (json!({"messages": clip, "videos": ["no.mp4"]}), "no.mp4: no such file"),
    ] {
        let good = json!({"text": "The red circle moves left."});
        std::fs::write(dir.path().join("talk.jsonl"), format!("{good}\n{row}\n")).unwrap();
        refused(dir.path(), &[], &["talk.jsonl, row 2", words]);
    }
    // Left out, and what is too long dropped: the run goes on with the others.
    let args = ["--json", "--set", "bad_rows=skip", "--set", "sft.max_length=24", "--set"];
    let args = [&args[..], &["sft.overlong=drop", "--set", "sft.optim.max_steps=1"]].concat();
    let told: Value = serde_json::from_str(&done(dir.path(), &args)).unwrap();
    assert_eq!((&told["steps"], &told["examples"]), (&json!(1), &json!(2)));
}

#[test]
fn held_out_files_are_looked_at() {
    let dir = folder();
    let text = json!({"text": "The blue circle moves left."});
    std::fs::write(dir.path().join("held.jsonl"), format!("{text}\n")).unwrap();
    let held_out = ["--set", "eval_data=held.jsonl", "--set"];
    refused(dir.path(), &held_out[..2], &["eval_data goes with sft.optim.eval_strategy"]);
    let args = ["sft.optim.eval_strategy=steps", "--set", "sft.optim.max_steps=2"];
    done(dir.path(), &[&held_out[..], &args].concat());
    let run = dir.path().join("runs/small");
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(text.matches("\"eval_loss\"").count(), 2, "{text}");
    let manifest = std::fs::read_to_string(run.join("manifest.json")).unwrap();
    assert!(manifest.contains("held.jsonl"), "{manifest}");
}
