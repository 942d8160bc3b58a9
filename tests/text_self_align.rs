//! `savi text self-align` from the outside, on the built-in text model: killed at any moment it ends with the same
//! bytes, and mistakes are named.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// All stages but the one that answers under principles, which this model cannot do untaught: its rows are given.
const CONFIG: &str = r#"
seed = 2
model = "builtin:tiny-text"
device = "cpu"

[method]
stages = ["self-instruct", "red-team", "engrave", "clone"]
requests_at_once = 2
queries = "DIR/queries.jsonl"
rows = "DIR/rows.json"

[method.data]
seeds = "SMALL/seeds.jsonl"
red_team = "SMALL/red_team.jsonl"
principles = "SMALL/principles.txt"
exemplars = "SMALL/exemplars.toml"
identity = "SMALL/identity.jsonl"

[method.prompts]
instructions = "SMALL/instructions.jinja"
topics = "SMALL/topics.jinja"
questions = "SMALL/questions.jinja"
principles = "SMALL/principles.jinja"
concise = "SMALL/concise.jinja"
standard = "SMALL/standard.jinja"
verbose = "SMALL/verbose.jinja"

[method.persona]
user = "User:"
assistant = "{{ name }}:"
thoughts = "Thoughts:"

[method.self_instruct]
groups = 2
target = 4
most_requests = 2
in_context = 3
sampling = { temperature = 1.0, max_tokens = 48 }

[method.topics]
rounds = 1
sampling = { temperature = 1.0, max_tokens = 16 }

[method.questions]
groups = 1
packed = 3
in_context = 2
sampling = { temperature = 1.0, max_tokens = 48 }

[method.verbose]
least_chars = 2
sampling = { temperature = 0.3, top_p = 0.7, max_tokens = 24 }

[sft]
lora_r = 4
lora_alpha = 8.0
max_length = 512

[sft.optim]
learning_rate = 3e-3
per_device_train_batch_size = 4
max_steps = 3
save_steps = 1
"#;

const QUESTIONS: [(&str, &str); 6] = [
    ("How many legs does a dog have?", "A dog has four legs."),
    ("What colour is grass?", "Grass is green."),
    ("Ada has 3 coins and gets 4 more. How many coins are there?", "3 + 4 = 7. The answer is 7."),
    ("What day comes after Monday?", "Tuesday comes after Monday."),
    ("Who is the mayor of Lima?", "I do not know that."),
    ("What do bees make?", "Bees make honey."),
];

fn small() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("text/self-align/small")
}

/// Writes the config with its queries and rows.
fn prepare(dir: &Path) -> PathBuf {
    let json = |text: &str| serde_json::Value::from(text);
    let queries = QUESTIONS.map(|(q, _)| format!("{{\"instruction\":{}}}\n", json(q)));
    fs::write(dir.join("queries.jsonl"), queries.concat()).unwrap();
    let rows: Vec<serde_json::Value> = QUESTIONS
        .iter()
        .enumerate()
        .map(|(number, (question, answer))| {
            let (output, truncated) = (format!("{answer}\n\nUser:"), number == 5);
            serde_json::json!({
                "example_id": number, "instruction": question, "input": "", "output": output,
                "truncated": truncated,
            })
        })
        .collect();
    fs::write(dir.join("rows.json"), serde_json::to_string(&rows).unwrap()).unwrap();
    let config = dir.join("small.toml");
    let text = CONFIG.replace("DIR", &dir.display().to_string());
    fs::write(&config, text.replace("SMALL", &small().display().to_string())).unwrap();
    config
}

fn start(config: &Path, run_dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_savi"))
        .args(["text", "self-align", "--log", "error", "--config"])
        .arg(config)
        .arg("--run-dir")
        .arg(run_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the program starts")
}

/// Stages, adapters and what was taught; rates and times of a training's state are left out with it.
fn results(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, into);
            } else if !path.ends_with("trainer_state.json") {
                into.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    for folder in ["stages", "checkpoints", "data"] {
        walk(run_dir, &run_dir.join(folder), &mut files);
    }
    files
}

#[test]
fn killed_anywhere_it_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = prepare(dir.path());
    let undisturbed = dir.path().join("undisturbed");
    let begun = Instant::now();
    let output = start(&config, &undisturbed).wait_with_output().unwrap();
    assert!(output.status.success());
    let time = begun.elapsed();
    let table = String::from_utf8(output.stdout).unwrap();
    for line in ["self-instruct", "topics", "questions", "queries", "clone: learnt in 3 steps"] {
        assert!(table.contains(line), "{table}");
    }
    let expected = results(&undisturbed);
    for name in ["checkpoints/round-1/adapter/adapter_model.safetensors", "data/clone.json"] {
        assert!(expected.contains_key(Path::new(name)), "no {name}");
    }
    let engraved = &expected[Path::new("checkpoints/round-1/demonstrations.jsonl")];
    assert_eq!(engraved.iter().filter(|&&byte| byte == b'\n').count(), 5, "one row is cut off");
    let long = &expected[Path::new("stages/11-clone/records.jsonl")];
    assert_eq!(long.iter().filter(|&&byte| byte == b'\n').count(), 6 + 3 + taken(&undisturbed));
    let report = fs::read_to_string(undisturbed.join("report.html")).unwrap();
    assert!(report.contains("text self-align") && report.contains("self instruct"));

    let disturbed = dir.path().join("disturbed");
    // Shares of the time that an undisturbed run takes.
    for share in [0.25, 0.5, 0.6, 0.7] {
        let mut child = start(&config, &disturbed);
        let end = Instant::now() + time.mul_f64(share);
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(start(&config, &disturbed).wait().unwrap().success());
    let actual = results(&disturbed);
    assert!(actual.keys().eq(expected.keys()), "{:?}\n{:?}", actual.keys(), expected.keys());
    for (name, bytes) in &expected {
        assert!(actual[name] == *bytes, "{} differs", name.display());
    }
}

/// Queries that the model wrote itself.
fn taken(run_dir: &Path) -> usize {
    let done = fs::read_to_string(run_dir.join("stages/04-queries/done.json")).unwrap();
    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["counters"]["from-given"], 6);
    done["counters"]["used"].as_u64().unwrap() as usize - 6
}

#[test]
fn mistakes_name_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = prepare(dir.path());
    let refused = |set: &str, words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_savi"))
            .args(["text", "self-align", "--set", set, "--config"])
            .arg(&config)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{stderr:?} lacks {word:?}");
        }
        assert!(!dir.path().join("runs").exists(), "{set}");
    };
    refused("method.stages=['clone', 'engrave']", &["small.toml", "method.stages", "order"]);
    refused("method.self_instruct.groups=0", &["method.self_instruct.groups"]);
    refused("method.self_instruct.group=1", &["did you mean `groups`?"]);
    refused("method.queries=none.jsonl", &["none.jsonl"]);
    refused("method.data.principles=rows.json", &["rows.json", "line 1"]);
    refused("method.prompts.topics=none.jinja", &["prompt topics", "none.jinja"]);
    refused("sft.optim.save_steps=0", &["sft", "save_steps"]);
}
