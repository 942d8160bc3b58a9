//! Trainings that follow TRL's, step for step: losses, gradient norms, learning rates and rewards of every
//! run of `tests/goldens/trajectories`, whose `make.py` recorded them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use savi_engine::{Engine, EngineOptions, TextFiles};
use savi_models::{LoraConfig, Processors, attach_adapter};
use savi_nn::check::Drawn;
use savi_nn::{TensorSource, Weights};
use savi_run::{Interrupt, Metrics};
use savi_schema::{Example, Message, Pair, Role, SCHEMA_VERSION};
use savi_train::{DpoConfig, SftConfig, TrainIo, Tree, dpo, sft};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Of a loss, relative to it; of losses under a tenth and of rewards as of 0.1.
const LOSS: f64 = 1e-4;
/// Of a gradient's norm, likewise.
const NORM: f64 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    config: Value,
    template: String,
    sft: Vec<Row>,
    dpo: Vec<Row>,
    runs: BTreeMap<String, Run>,
}

#[derive(Deserialize)]
struct Row {
    prompt: String,
    #[serde(default, alias = "completion")]
    chosen: String,
    #[serde(default)]
    rejected: String,
    prompt_ids: Vec<u32>,
    #[serde(alias = "completion_ids")]
    chosen_ids: Vec<u32>,
    #[serde(default)]
    rejected_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Run {
    trainer: String,
    settings: Map<String, Value>,
    steps: BTreeMap<String, Vec<f64>>,
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/trajectories").join(file)
}

impl Golden {
    fn read() -> Self {
        serde_json::from_slice(&std::fs::read(golden("runs.json")).unwrap()).unwrap()
    }

    fn engine(&self) -> Engine {
        let tokenizer = std::fs::read(golden("tokenizer.json")).unwrap();
        let text = TextFiles::chatml(tokenizer, self.template.as_str());
        let weights = Weights::Checkpoint(Box::new(Drawn));
        let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
        let none = Processors::default();
        Engine::build(&self.config, weights, text, &none, None, &options).unwrap()
    }

    fn pairs(&self) -> Vec<Pair> {
        let pair = |(i, row): (usize, &Row)| Pair {
            schema: SCHEMA_VERSION,
            id: i.to_string(),
            prompt: vec![Message::text(Role::User, row.prompt.as_str())],
            chosen: row.chosen.clone(),
            rejected: row.rejected.clone(),
            chosen_score: None,
            rejected_score: None,
            margin: 0.0,
            provenance: Map::default(),
        };
        self.dpo.iter().enumerate().map(pair).collect()
    }

    fn examples(&self) -> Vec<Example> {
        let example = |(i, row): (usize, &Row)| Example {
            schema: SCHEMA_VERSION,
            id: i.to_string(),
            conversations: vec![vec![
                Message::text(Role::User, row.prompt.as_str()),
                Message::text(Role::Assistant, row.chosen.as_str()),
            ]],
        };
        self.sft.iter().enumerate().map(example).collect()
    }
}

/// A run's settings as those of a trainer of ours.
fn settings(run: &Run, more: &Value) -> Value {
    let (mut own, mut optim) = (Map::new(), Map::new());
    optim.insert("train_sampling_strategy".to_owned(), json!("sequential"));
    for (key, value) in &run.settings {
        match key.as_str() {
            "target_modules" => own.insert("lora".to_owned(), json!({ "target_modules": value })),
            key if serde_json::to_value(savi_train::OptimConfig::default()).unwrap()[key]
                != Value::Null =>
            {
                optim.insert(key.to_owned(), value.clone())
            }
            key => own.insert(key.to_owned(), value.clone()),
        };
    }
    own.entry("lora_r").or_insert(json!(0));
    own.extend(more.as_object().unwrap().clone());
    if let Some(Value::Object(more)) = own.remove("optim") {
        optim.extend(more);
    }
    own.insert("optim".to_owned(), Value::Object(optim));
    Value::Object(own)
}

/// Puts an adapter that is drawn from its names where the trainer looks for what it began before: a
/// checkpoint after no steps.
fn begin(engine: &Engine, adapter: &LoraConfig, warm: bool, dir: &Path) {
    attach_adapter(engine.model(), "default", adapter, 0, |_| true).unwrap();
    let params = engine.model().params();
    for weight in params.trainable() {
        let drawn = Drawn.tensor(weight.name(), weight.stored_shape()).unwrap().unwrap();
        let factor = match (weight.name().contains("lora_B"), warm) {
            (false, _) => 1.0,
            (true, true) => 0.1,
            (true, false) => 0.0,
        };
        weight.import(&(drawn * factor).unwrap()).unwrap();
    }
    let folder = dir.join("checkpoint-0");
    std::fs::create_dir_all(&folder).unwrap();
    let values: std::collections::HashMap<String, Tensor> = params
        .trainable()
        .iter()
        .map(|w| (w.name().to_owned(), w.exported().unwrap().contiguous().unwrap()))
        .collect();
    candle_core::safetensors::save(&values, folder.join("trainable.safetensors")).unwrap();
    let none = std::collections::HashMap::<String, Tensor>::new();
    candle_core::safetensors::save(&none, folder.join("optimizer.safetensors")).unwrap();
    // Of a training that carries a mean of rewards: none yet.
    std::fs::write(folder.join("carried.json"), r#"{"mean": 0.0, "count": 0.0}"#).unwrap();
    params.remove_adapter("default").unwrap();
}

/// The lines that a run of ours logs.
fn replay(golden: &Golden, name: &str, more: &Value) -> Vec<Value> {
    let run = &golden.runs[name];
    let (mut engine, dir) = (golden.engine(), tempfile::tempdir().unwrap());
    let metrics = Metrics::open(dir.path()).unwrap();
    let io = TrainIo { dir: dir.path(), metrics: &metrics, interrupt: &Interrupt::new() };
    let settings = settings(run, more);
    let own: SftConfig = serde_json::from_value(json!({
        "lora_r": settings["lora_r"], "lora_alpha": settings.get("lora_alpha").unwrap_or(&json!(1)),
        "lora": settings.get("lora").unwrap_or(&json!({})),
    }))
    .unwrap();
    if own.lora_r > 0 {
        let (r, lora_alpha, options) = (own.lora_r, own.lora_alpha, own.lora);
        let adapter = LoraConfig { r, lora_alpha, options };
        begin(&engine, &adapter, name.ends_with("-warm"), dir.path());
    }
    if run.trainer == "sft" {
        let config: SftConfig = serde_json::from_value(settings).unwrap();
        sft(&mut engine, &golden.examples(), &config, &io).unwrap();
    } else {
        let config: DpoConfig = serde_json::from_value(settings).unwrap();
        dpo(&mut engine, &golden.pairs(), &config, &io).unwrap();
    }
    metrics.lines().iter().map(|line| json!(line)).collect()
}

/// How far a run's figures are from those that were recorded, the farthest of each kind.
fn distances(golden: &Golden, name: &str, lines: &[Value]) -> BTreeMap<String, f64> {
    let steps = &golden.runs[name].steps;
    let mut farthest = BTreeMap::new();
    // The likelihood alone has no reference to compare with: we do not ask one, TRL logs rewards all the same.
    let told = |figure: &str| name != "dpo-sft" || !figure.starts_with("rewards/");
    for (figure, wanted) in steps.iter().filter(|(figure, _)| told(figure)) {
        assert_eq!(lines.len(), wanted.len(), "{name}");
        // TRL has left the running mean of rewards out of bco_pair (arXiv 2404.04656), which is 0 as long as
        // the policy is the reference.
        let steps = if name == "dpo-bco_pair" { 3 } else { wanted.len() };
        let off = lines.iter().zip(wanted).take(steps).map(|(line, want)| {
            let got = line[figure].as_f64().unwrap_or_else(|| panic!("{name}: {figure} in {line}"));
            let least = if figure == "learning_rate" { 1e-9 } else { 0.1 };
            (got - want).abs() / want.abs().max(least)
        });
        farthest.insert(figure.clone(), off.fold(0.0, f64::max));
    }
    farthest
}

fn follows(golden: &Golden, name: &str, more: &Value) {
    let lines = replay(golden, name, more);
    let off = distances(golden, name, &lines);
    for (figure, off) in off {
        let most = if figure == "grad_norm" { NORM } else { LOSS };
        assert!(off < most, "{name} {more}: {figure} is {off:e} off");
    }
}

#[test]
fn tokens_are_those_of_trl() {
    let golden = Golden::read();
    let engine = golden.engine();
    for (pair, row) in golden.pairs().iter().zip(&golden.dpo) {
        let turns =
            [(pair.prompt.as_slice(), pair.chosen.as_str()), (&pair.prompt, &pair.rejected)];
        let tree = Tree::new(&engine, &pair.id, &turns).unwrap();
        for (branch, answer) in tree.branches.iter().zip([&row.chosen_ids, &row.rejected_ids]) {
            let prompt = [&tree.root.ids, &branch.ids[..branch.targets]].concat();
            assert_eq!((&prompt, &branch.ids[branch.targets..]), (&row.prompt_ids, &answer[..]));
        }
    }
}

#[test]
fn fine_tuning_follows_trl() {
    let golden = Golden::read();
    for (name, _) in golden.runs.iter().filter(|(_, run)| run.trainer == "sft") {
        follows(&golden, name, &json!({}));
    }
}

#[test]
fn preference_training_follows_trl() {
    let golden = Golden::read();
    for (name, _) in golden.runs.iter().filter(|(_, run)| run.trainer == "dpo") {
        follows(&golden, name, &json!({}));
    }
}

/// However a step is cut and whatever is kept of it, it is TRL's: records one by one (losses that match pairs
/// by rank see all of them), layers run again, the reference asked before.
#[test]
fn ways_of_making_a_step_follow_trl_as_well() {
    let golden = Golden::read();
    let single = json!({"optim": {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8,
    }});
    let again = json!({"optim": {"gradient_checkpointing": true}});
    for name in ["sft", "dpo-several", "dpo-aot"] {
        follows(&golden, name, &single);
    }
    for name in ["dpo-weighted", "dpo-sppo_hard"] {
        follows(&golden, name, &again);
    }
    for name in ["dpo-hinge", "dpo-aot", "dpo-ld"] {
        let before = replay(&golden, name, &json!({"precompute_ref_log_probs": true}));
        let live = replay(&golden, name, &json!({}));
        for (a, b) in before.iter().zip(&live) {
            assert_eq!((&a["loss"], &a["grad_norm"]), (&b["loss"], &b["grad_norm"]), "{name}");
        }
    }
}
