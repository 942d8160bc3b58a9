//! `savi text dno` from the outside: killed at any moment and started again it ends with the same records, and what it
//! refuses, and how it says so.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Every kind of stage, two iterations, small.
const CONFIG: &str = r#"
seed = 3
model = "builtin:tiny-text"
device = "cpu"

[world]
name = "arithmetic"
levels = [1, 2]
train = 8
held_out = 3

[teacher]
column = "solution"

[method]
iterations = 2
prompts_at_once = 2
samples = 3
targets = "win-rates"
sampling = { temperature = 1.2, max_tokens = 48 }

[method.pairs]
rule = "all"

[method.annotator]
kind = "programmatic"
rewards = [{ func = "number_match" }]

[method.evaluation]
sampling = { max_tokens = 48 }
correct = { func = "number_match" }
resamples = 200

[dpo]
loss_type = "dno"
lora_r = 2
lora_alpha = 8.0

[dpo.optim]
per_device_train_batch_size = 4
max_steps = 3
save_steps = 1
"#;

fn start(dir: &Path, run: &str, sets: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
    command.args(["text", "dno", "--log", "warn", "--config", "small.toml", "--run-dir", run]);
    for set in sets {
        command.args(["--set", set]);
    }
    command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

/// What must be equal: stages, what was learnt from, adapters, and what was found.
fn results(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(root, &path, into),
                false if path.ends_with("trainer_state.json") => {}
                false => {
                    into.insert(
                        path.strip_prefix(root).unwrap().to_owned(),
                        fs::read(&path).unwrap(),
                    );
                }
            }
        }
    }
    let mut files = BTreeMap::new();
    for part in ["stages", "checkpoints"] {
        walk(run_dir, &run_dir.join(part), &mut files);
    }
    for name in ["evaluations.json", "dynamics.json", "best.json"] {
        files.insert(name.into(), fs::read(run_dir.join(name)).unwrap());
    }
    files
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("small.toml"), CONFIG).unwrap();
    dir
}

#[test]
fn killed_at_random_moments_it_ends_with_the_same_bytes() {
    let dir = folder();
    let begun = Instant::now();
    let output = start(dir.path(), "whole", &[]).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let time = begun.elapsed();
    let expected = results(&dir.path().join("whole"));
    for stage in ["11-teacher", "12-sample", "13-annotate", "14-pairs", "15-dynamics", "18-versus"]
    {
        let path = format!("stages/{stage}/records.jsonl");
        assert!(expected.contains_key(Path::new(&path)), "no {path}");
    }
    for kept in ["stages/29-evaluate/done.json", "checkpoints/round-2/pairs.jsonl"] {
        assert!(expected.contains_key(Path::new(kept)), "no {kept}");
    }
    assert!(dir.path().join("whole/report.html").exists());

    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut kills = 0;
    loop {
        let mut child = start(dir.path(), "disturbed", &[]);
        let share = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        let end = Instant::now() + time.mul_f64(share * 0.7);
        let mut ended = None;
        while ended.is_none() && (kills >= 5 || Instant::now() < end) {
            ended = child.try_wait().unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        match ended {
            Some(status) => {
                assert!(status.success(), "after {kills} kills");
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    let actual = results(&dir.path().join("disturbed"));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&actual), names(&expected), "after {kills} kills");
    for (name, bytes) in &expected {
        assert!(actual[name] == *bytes, "after {kills} kills: {} differs", name.display());
    }
}

#[test]
fn mistakes_in_the_config_name_the_key() {
    let dir = folder();
    for (set, words) in [
        ("method.iteration=2", "did you mean `iterations`?"),
        ("method.targets=scores", "method.targets"),
        ("world.levels=[12]", "world.levels"),
        ("model=no/such/model", "no/such/model"),
        ("method.prompts_per_iteration=100", "2 iterations of 100"),
    ] {
        let output = start(dir.path(), "refused", &[set]).wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{set}: {stderr}");
        assert!(stderr.contains(words), "{set}: {stderr}");
        let _ = fs::remove_dir_all(dir.path().join("refused"));
    }
}

#[test]
fn what_its_configs_and_those_of_self_align_take_is_planned() {
    for (name, records) in [("dno", 80), ("self-align", 40)] {
        let config = format!("configs/text/{name}.toml");
        let output = Command::new(env!("CARGO_BIN_EXE_savi"))
            .args(["plan", "--json", "--config", &config, "--memory", "8"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        assert!(told.contains("planned is"), "{told}");
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(plan["records"], records, "{plan}");
        let epochs = plan["epochs"].as_f64().unwrap();
        assert!((epochs - if name == "dno" { 1.0 } else { 3.0 }).abs() < 0.01, "{plan}");
    }
}
