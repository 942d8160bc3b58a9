//! `savi train dpo` from the outside: what it writes, that it goes on where it was stopped, and what it
//! refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::training;

const CONFIG: &str = r#"
model = "builtin:tiny"
data = "pairs.jsonl"
device = "cpu"
save_merged = true

[dpo]
loss_type = ["bco_pair", "sft"]
loss_weights = [1.0, 0.1]
lora_r = 2
lora_alpha = 8.0

[dpo.optim]
learning_rate = 1e-3
per_device_train_batch_size = 2
max_steps = 24
save_steps = 1
"#;

/// A folder with a config and text pairs in TRL's conversational layout.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("small.toml"), CONFIG).unwrap();
    let turn = |role: &str, words: &str| json!([{"role": role, "content": words}]);
    let row = |(chosen, rejected): (&str, &str)| {
        let row = json!({
            "prompt": turn("user", "Where does the red circle move?"),
            "chosen": turn("assistant", chosen), "rejected": turn("assistant", rejected),
        });
        format!("{row}\n")
    };
    let rows = [("left", "right of it"), ("It moves up.", "down"), ("right", "nowhere at all")];
    std::fs::write(dir.path().join("pairs.jsonl"), rows.map(row).concat()).unwrap();
    dir
}

fn command(dir: &Path, args: &[&str]) -> Command {
    training::command(dir, "dpo", "small.toml", args)
}

fn done(dir: &Path, args: &[&str]) -> String {
    training::done(command(dir, args))
}

fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    training::refused(command(dir, args), words);
}

fn metrics(run: &Path) -> Vec<Value> {
    training::rows(&run.join("metrics.jsonl"))
}

/// What has to be the same, whatever happened on the way.
fn results(run: &Path) -> (Vec<u8>, Vec<u8>, Vec<[Value; 4]>) {
    let read = |name: &str| std::fs::read(run.join(name)).unwrap();
    let figures = ["step", "loss", "grad_norm", "rewards/margins"];
    let figures = |line: Value| figures.map(|name| line[name].clone());
    (
        read("adapter/adapter_model.safetensors"),
        read("model/model.safetensors"),
        metrics(run).into_iter().map(figures).collect(),
    )
}

#[test]
fn pairs_are_learnt_and_a_stopped_run_ends_with_the_same_bytes() {
    let dir = folder();
    let told: Value = serde_json::from_str(&done(dir.path(), &["--json"])).unwrap();
    assert_eq!((&told["steps"], &told["pairs"]), (&json!(24), &json!(3)));
    assert_eq!(told["adapter"], "runs/small/adapter");
    let run = dir.path().join("runs/small");
    let lines = metrics(&run);
    assert_eq!(lines.len(), 24);
    for name in ["loss", "nll_loss", "rewards/chosen", "rewards/accuracies", "logps/rejected"] {
        assert!(lines[0][name].is_number(), "{name}: {}", lines[0]);
    }
    let margin = |line: &Value| line["rewards/margins"].as_f64().unwrap();
    assert!(margin(&lines[0]).abs() < 1e-6 && margin(&lines[23]) > 0.0, "{}", lines[23]);
    let read = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
    let manifest: Value = serde_json::from_str(&read("manifest.json")).unwrap();
    assert_eq!(manifest["command"], "train dpo");
    assert!(manifest["inputs"]["pairs.jsonl"].is_string(), "{manifest}");
    assert!(read("config.toml").contains("bco_pair"));
    assert!(read("adapter/adapter_config.json").contains("LORA"));
    assert!(run.join("trainer_state.json").exists());
    // Finished: nothing is done again, and another config or other pairs are not mixed in.
    let finished = results(&run);
    done(dir.path(), &[]);
    assert_eq!(results(&run), finished);
    let changed = ["--set", "dpo.beta=0.5"];
    refused(dir.path(), &changed, &["runs/small", "dpo.beta", "--fresh"]);

    let fresh = [&changed[..], &["--set", "dpo.optim.max_steps=1", "--fresh"]].concat();
    done(dir.path(), &fresh);
    assert_eq!(metrics(&run).len(), 1);

    let stopped = dir.path().join("stopped");
    let args = ["--run-dir", "stopped"];
    training::interrupt(command(dir.path(), &args), &stopped, 2..4);
    let data: PathBuf = dir.path().join("pairs.jsonl");
    let pairs = std::fs::read_to_string(&data).unwrap();
    std::fs::write(&data, pairs.replace("nowhere", "somewhere")).unwrap();
    refused(dir.path(), &args, &["pairs.jsonl has changed", "--fresh"]);
    std::fs::write(&data, pairs).unwrap();
    done(dir.path(), &args);
    assert_eq!(results(&stopped), finished);
}

/// Training of a few steps with a checkpoint after each, from a shell that sets limits first.
#[cfg(unix)]
fn limited(dir: &Path, run: &str, before: &str) -> Output {
    let savi = env!("CARGO_BIN_EXE_savi");
    let keys = "--set dpo.optim.max_steps=4 --set save_merged=false";
    let script =
        format!("{before}; exec '{savi}' train dpo --config small.toml --run-dir {run} {keys}");
    Command::new("sh").args(["-c", &script]).current_dir(dir).output().unwrap()
}

/// A disk that takes no more while a checkpoint is written (a limit on the size of files stands for it).
#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_a_run_that_goes_on() {
    let dir = folder();
    let adapter = |run: &str| {
        std::fs::read(dir.path().join(run).join("adapter/adapter_model.safetensors")).unwrap()
    };
    assert!(limited(dir.path(), "whole", "true").status.success());
    // In blocks of 512 bytes, and the signal that comes with it is not wanted.
    let full = limited(dir.path(), "full", "trap '' XFSZ; ulimit -f 16");
    let told = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{told}");
    for words in ["could not be saved", "checkpoint-1.partial", "make room and run again"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!dir.path().join("full/checkpoint-1.partial").exists());
    let again = limited(dir.path(), "full", "true");
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(adapter("full"), adapter("whole"));
}

/// SIGTERM as soon as a checkpoint is being written: it is finished, and the run goes on from it. What a process
/// that was killed at that moment leaves behind is cleared away.
#[test]
fn a_termination_while_a_checkpoint_is_written_loses_nothing() {
    let dir = folder();
    let args = ["--set", "dpo.optim.max_steps=12", "--set", "save_merged=false", "--run-dir"];
    let run = |name: &str| command(dir.path(), &[&args[..], &[name]].concat());
    let adapter = |run: &str| {
        std::fs::read(dir.path().join(run).join("adapter/adapter_model.safetensors")).unwrap()
    };
    assert!(run("whole").output().unwrap().status.success());
    let mut child = run("stopped").stderr(Stdio::piped()).spawn().unwrap();
    let stopped = dir.path().join("stopped");
    let begun = Instant::now();
    while !stopped.join("checkpoint-1.partial").exists() && !stopped.join("checkpoint-1").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint came");
        std::hint::spin_loop();
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told).unwrap();
    assert!(told.contains("run the same command again to continue"), "{told}");
    let partial = stopped.join("checkpoint-7.partial");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("trainable.safetensors"), "half").unwrap();
    let output = run("stopped").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!partial.exists());
    assert_eq!(adapter("stopped"), adapter("whole"));
}

#[test]
fn mistakes_name_file_row_and_key() {
    let dir = folder();
    let known = ["kto_pair", "sigmoid, ", "bco_pair", "aot_unpaired", "small.toml"];
    refused(dir.path(), &["--set", "dpo.loss_type=kto_pair"], &known);
    refused(
        dir.path(),
        &["--set", "dpo.loss_type=dno", "--set", "dpo.loss_weights=[]"],
        &["loss_type = \"dno\"", "win rates"],
    );
    refused(dir.path(), &["--set", "dpo.losstype=ipo"], &["did you mean `loss_type`?"]);
    refused(dir.path(), &["--set", "data=none.jsonl"], &["none.jsonl"]);
    refused(dir.path(), &["--set", "eval_data=pairs.jsonl"], &["eval_data", "eval_strategy"]);
    refused(
        dir.path(),
        &["--set", "layout=csv"],
        &["layout", "llava-hound, llama-factory, ms-swift, trl"],
    );
    refused(dir.path(), &["--set", "model=no/such/model"], &["no/such/model"]);
    let data = dir.path().join("pairs.jsonl");
    let pairs = std::fs::read_to_string(&data).unwrap();
    let rows: Vec<&str> = pairs.lines().collect();
    let lacking = rows[1].replace("\"rejected\"", "\"refused\"");
    std::fs::write(&data, format!("{}\n{lacking}\n", rows[0])).unwrap();
    refused(dir.path(), &[], &["pairs.jsonl, row 2", "missing key \"rejected\""]);
    let clip = json!({"id": "c1", "video": "no.mp4", "prompt": "<video>\nwhere",
        "chosen": "left", "rejected": "right"});
    std::fs::write(&data, format!("{clip}\n")).unwrap();
    let words = ["pairs.jsonl", "c1", "clips/no.mp4", "no such file"];
    refused(dir.path(), &["--set", "media_root=clips"], &words);
    // Nothing but the model is asked for after the folder is made.
    assert!(!dir.path().join("runs/small/adapter").exists());
}
