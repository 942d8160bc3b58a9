//! A run that is killed at any moment and started again with the same command ends with the same
//! records, checkpoints and evaluations as one that was left alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A small loop over every kind of stage: clips, questions, judging, two rounds of DPO.
const CONFIG: &str = r#"
seed = 3
model = "builtin:tiny"
device = "cpu"

[world]
name = "moving-shapes"
seed = 2
clips = { unlabelled = 6, dev = 3 }

[method]
form = "FORM"
rounds = 2
clips_at_once = 2

[method.questions]
sampling = { temperature = 1.0, top_p = 0.95, max_tokens = 24 }

[method.answers]
temperatures = [0.5, 0.7, 0.9, 1.0, 1.3]
max_tokens = 48

[method.judge]
margin = 0.25
sampling = { temperature = 0.3, top_p = 0.95, max_tokens = 256 }

[method.critique]
sampling = { temperature = 0.3, top_p = 0.95, max_tokens = 192 }

[method.revise]
all = true
sampling = { temperature = 0.7, top_p = 0.95, max_tokens = 160 }

# A weak model on six clips: whatever can be paired is paired.
[method.filters]
called_right = false
length_ratio = 0.0

[dpo]
lora_r = 2
lora_alpha = 8.0

[dpo.optim]
per_device_train_batch_size = 2
max_steps = 4
save_steps = 1

[evaluation]
max_tokens = 8
clips_at_once = 1
resamples = 200
"#;

const KILLS: usize = 10;

fn start(config: &Path, world: &Path, run_dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_savi"))
        .args(["video", "run", "--log", "warn", "--config"])
        .arg(config)
        .arg("--run-dir")
        .arg(run_dir)
        .arg("--set")
        .arg(format!("world.dir={}", world.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the program starts")
}

/// A trainer's state without what was measured on the way: rates and memory.
fn unmeasured(state: &[u8]) -> Vec<u8> {
    let mut state: serde_json::Value = serde_json::from_slice(state).unwrap();
    let history = state["log_history"].as_array_mut().unwrap();
    assert!(!history.is_empty());
    for line in history.iter_mut().map(|line| line.as_object_mut().unwrap()) {
        assert!(line.contains_key("loss") && line.contains_key("num_tokens"), "{line:?}");
        line.retain(|name, _| name != "tokens_per_second" && !name.starts_with("memory/"));
    }
    serde_json::to_vec(&state).unwrap()
}

/// Everything that must be equal: stages, checkpoints, evaluations, and the figures of training by
/// step, without their times.
fn results(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, into);
            } else {
                let bytes = fs::read(&path).unwrap();
                let bytes = match path.ends_with("trainer_state.json") {
                    true => unmeasured(&bytes),
                    false => bytes,
                };
                into.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(run_dir, &run_dir.join("stages"), &mut files);
    walk(run_dir, &run_dir.join("checkpoints"), &mut files);
    files.insert("evaluations.json".into(), fs::read(run_dir.join("evaluations.json")).unwrap());
    let metrics = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let losses: Vec<String> = metrics
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {} {} {}", line["round"], line["step"], line["loss"], line["grad_norm"])
        })
        .collect();
    files.insert("losses".into(), losses.join("\n").into_bytes());
    files
}

fn assert_same(actual: &Path, expected: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    let actual = results(actual);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&actual), names(expected), "{what}");
    for (name, bytes) in expected {
        assert!(actual[name] == *bytes, "{what}: {} differs", name.display());
    }
}

/// A config file and an undisturbed run of it, with the time that it took.
struct Undisturbed {
    dir: tempfile::TempDir,
    config: PathBuf,
    results: BTreeMap<PathBuf, Vec<u8>>,
    time: Duration,
}

impl Undisturbed {
    fn run(form: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("small.toml");
        fs::write(&config, CONFIG.replace("FORM", form)).unwrap();
        let world = dir.path().join("world");
        let run_dir = dir.path().join("undisturbed");
        let start_time = Instant::now();
        assert!(start(&config, &world, &run_dir).wait().unwrap().success());
        let time = start_time.elapsed();
        let results = results(&run_dir);
        for stage in ["stages/11-ask/records.jsonl", "checkpoints/round-2/pairs.jsonl"] {
            assert!(results.contains_key(Path::new(stage)), "no {stage}");
        }
        Self { dir, config, results, time }
    }

    fn start(&self, run_dir: &Path) -> Child {
        start(&self.config, &self.dir.path().join("world"), run_dir)
    }
}

#[test]
fn killed_at_random_moments_a_run_ends_with_the_same_bytes() {
    for (form, seed) in [("judge", 1), ("critique", 2)] {
        let undisturbed = Undisturbed::run(form);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut kills, mut run) = (0, 0);
        loop {
            let run_dir = undisturbed.dir.path().join(format!("disturbed-{run}"));
            let mut child = undisturbed.start(&run_dir);
            let ended = if kills < KILLS / 2 {
                let share = f64::from(rng.next_u32()) / f64::from(u32::MAX);
                wait_at_most(&mut child, undisturbed.time.mul_f64(share * 0.6))
            } else {
                Some(child.wait().unwrap())
            };
            match ended {
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    kills += 1;
                }
                Some(status) => {
                    assert!(status.success(), "after {kills} kills");
                    let what = format!("{form}, run {run}, after {kills} kills");
                    assert_same(&run_dir, &undisturbed.results, &what);
                    run += 1;
                    if kills >= KILLS / 2 {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn ctrl_c_saves_exits_130_and_continues() {
    let undisturbed = Undisturbed::run("judge");
    let run_dir = undisturbed.dir.path().join("interrupted");
    // Once while it generates, once while it learns.
    for sign in ["stages/12-answer/records.jsonl.partial", "checkpoints/round-1/key"] {
        let mut child = undisturbed.start(&run_dir);
        let begun = Instant::now();
        while !run_dir.join(sign).exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {sign} was there");
            assert!(begun.elapsed() < Duration::from_secs(300), "{sign} never came");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{sign}");
        assert!(!run_dir.join("report.html").exists());
    }
    assert!(undisturbed.start(&run_dir).wait().unwrap().success());
    assert_same(&run_dir, &undisturbed.results, "after two interrupts");
}

fn wait_at_most(child: &mut Child, time: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}
