//! Trainings that follow TRL's, step for step: losses, gradient norms, learning rates and rewards of every
//! run of `tests/goldens/trajectories`, whose `make.py` recorded them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::Tensor;
use savi_engine::{Engine, EngineOptions, TextFiles};
use savi_models::{LoraConfig, Processors, attach_adapter};
use savi_nn::check::Drawn;
use savi_nn::{TensorSource, Weights};
use savi_run::{Interrupt, Metrics};
use savi_schema::{
    Completed, Completion, Example, FinishReason, Generate, GenerateError, Message, Pair,
    PromptRecord, Request, Reward, Role, SCHEMA_VERSION, Score, Verdict, judge_each,
};
use savi_train::{
    DpoConfig, GrpoConfig, Ranks, SftConfig, TrainIo, Tree, dpo, grpo_sampled_by, sft,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Of a loss, relative to it; of losses under a tenth and of rewards as of 0.1.
const LOSS: f64 = 1e-4;
/// Of a gradient's norm, likewise.
const NORM: f64 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    /// The model's config and chat template, where it has no file of its own.
    #[serde(default)]
    config: Value,
    #[serde(default)]
    template: String,
    #[serde(skip)]
    model: Option<PathBuf>,
    sft: Vec<Row>,
    dpo: Vec<Row>,
    grpo: Vec<Asked>,
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

/// A prompt and what is taken for completions of it.
#[derive(Deserialize)]
struct Asked {
    prompt: String,
    prompt_ids: Vec<u32>,
    completion_ids: Vec<Vec<u32>>,
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
        Self::of("runs.json", None)
    }

    fn of(file: &str, model: Option<PathBuf>) -> Self {
        let read: Self = serde_json::from_slice(&std::fs::read(golden(file)).unwrap()).unwrap();
        Self { model, ..read }
    }

    fn engine(&self) -> Engine {
        if let Some(path) = &self.model {
            let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
            return Engine::load(path.to_str().unwrap(), &options).unwrap();
        }
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

    fn prompts(&self) -> Vec<PromptRecord> {
        let prompt = |(i, row): (usize, &Asked)| PromptRecord {
            id: i.to_string(),
            prompt: vec![Message::text(Role::User, row.prompt.as_str())],
            columns: Map::default(),
        };
        self.grpo.iter().enumerate().map(prompt).collect()
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

/// What was recorded, in place of a sampler: a prompt that comes again goes on where it was.
struct Recorded<'a> {
    rows: &'a [Asked],
    visits: Mutex<HashMap<String, usize>>,
}

impl Generate for Recorded<'_> {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let mut visits = self.visits.lock().unwrap();
        let completion = |ids: &Vec<u32>| Completion {
            text: String::new(),
            token_ids: ids.clone(),
            logps: Vec::new(),
            sampling_logps: Vec::new(),
            top_logps: Vec::new(),
            finish_reason: if ids.ends_with(&[END]) {
                FinishReason::Stop
            } else {
                FinishReason::Length
            },
        };
        let drawn = requests.iter().map(|request| {
            let words = request.messages[0].words();
            let row = self.rows.iter().find(|row| row.prompt == words).unwrap();
            let count = request.samplings.len();
            let visits = visits.entry(words).or_default();
            *visits += 1;
            let from = row.completion_ids.iter().cycle().skip((*visits - 1) * count);
            from.take(count).map(completion).collect()
        });
        Ok(drawn.collect())
    }

    fn fingerprint(&self) -> String {
        "recorded".to_owned()
    }
}

/// `<|im_end|>`.
const END: u32 = 2;

/// The share of tokens whose number is even.
struct Even;

impl Reward for Even {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let score = |_: &PromptRecord, completion: &Completion| {
            let even = completion.token_ids.iter().filter(|id| id.is_multiple_of(2)).count();
            let score = even as f64 / completion.token_ids.len() as f64;
            Some(Verdict { score, criteria: Map::default(), raw: String::new() })
        };
        Ok(judge_each(groups, score))
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
    if run.trainer == "rloo" {
        // The mean over completions of what their whole ratios give.
        let more = json!({
            "adv_estimator": "rloo", "use_kl_in_reward": true, "loss_type": "grpo",
            "importance_sampling_level": "sequence_sum",
        });
        own.extend(more.as_object().unwrap().clone());
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
    let io = TrainIo {
        dir: dir.path(),
        metrics: &metrics,
        interrupt: &Interrupt::new(),
        ranks: Ranks::alone(),
    };
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
    match run.trainer.as_str() {
        "sft" => {
            let config: SftConfig = serde_json::from_value(settings).unwrap();
            sft(&mut engine, &golden.examples(), &config, &io).unwrap();
        }
        "dpo" => {
            let config: DpoConfig = serde_json::from_value(settings).unwrap();
            dpo(&mut engine, &golden.pairs(), &config, &io).unwrap();
        }
        _ => {
            let config: GrpoConfig = serde_json::from_value(settings).unwrap();
            let recorded = Recorded { rows: &golden.grpo, visits: Mutex::default() };
            let rewards = [("even".to_owned(), &Even as &(dyn Reward + Sync))];
            let prompts = golden.prompts();
            grpo_sampled_by(&recorded, &mut engine, &prompts, &rewards, &config, &io).unwrap();
        }
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

/// What is farther from the recorded figures than it may be.
fn faults(off: &BTreeMap<String, f64>, golden: &Golden, run: &str, name: &str) -> Vec<String> {
    // On SmolLM2 losses and norms are held to the same; figures of one side of a pair drift farther, and the loss of one
    // run does.
    let most = |figure: &str| match (figure, golden.model.is_some()) {
        ("grad_norm", _) => NORM,
        ("loss", true) if run == "grpo-lora-beta" => 3.0 * LOSS,
        ("loss", _) | (_, false) => LOSS,
        (_, true) => NORM,
    };
    let faults = off.iter().filter(|(figure, off)| **off >= most(figure));
    faults.map(|(figure, off)| format!("{name}: {figure} is {off:.1e} off")).collect()
}

fn follow<'a>(golden: &Golden, names: impl IntoIterator<Item = &'a str>, more: &Value) {
    let faults = names.into_iter().flat_map(|name| {
        let lines = replay(golden, name, more);
        faults(&distances(golden, name, &lines), golden, name, &format!("{name} {more}"))
    });
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

impl Golden {
    fn runs_of<'a>(&'a self, trainers: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let chosen = self.runs.iter().filter(|(_, run)| trainers.contains(&run.trainer.as_str()));
        chosen.map(|(name, _)| name.as_str())
    }
}

#[test]
fn tokens_are_those_of_trl() {
    tokens_are_the_same(&Golden::read());
}

fn tokens_are_the_same(golden: &Golden) {
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
    for (prompt, row) in golden.prompts().iter().zip(&golden.grpo) {
        assert_eq!(engine.prompt(&prompt.prompt).unwrap().ids, row.prompt_ids);
    }
}

#[test]
fn fine_tuning_follows_trl() {
    let golden = Golden::read();
    follow(&golden, golden.runs_of(&["sft"]), &json!({}));
}

#[test]
fn preference_training_follows_trl() {
    let golden = Golden::read();
    follow(&golden, golden.runs_of(&["dpo"]), &json!({}));
}

#[test]
fn learning_from_completions_follows_trl() {
    let golden = Golden::read();
    follow(&golden, golden.runs_of(&["grpo", "rloo"]), &json!({}));
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
    let halves = json!({"optim": {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    }});
    follow(&golden, ["sft", "dpo-several", "dpo-aot"], &single);
    follow(&golden, ["grpo-lora-beta"], &halves);
    follow(&golden, ["dpo-weighted", "dpo-sppo_hard", "grpo-beta", "grpo-entropy"], &again);
    for name in ["dpo-hinge", "dpo-aot", "dpo-ld"] {
        let before = replay(&golden, name, &json!({"precompute_ref_log_probs": true}));
        let live = replay(&golden, name, &json!({}));
        for (a, b) in before.iter().zip(&live) {
            assert_eq!((&a["loss"], &a["grad_norm"]), (&b["loss"], &b["grad_norm"]), "{name}");
        }
    }
}

/// The same on SmolLM2-135M-Instruct, all weights and LoRA. Its file is not here: opt in with the path of
/// `SmolLM2-135M-Instruct.Q4_1.gguf`. Losses are within 1e-4 and norms within 1e-3, but for the loss of GRPO with LoRA and a KL
/// term, 1.9e-4 off; log-probs and rewards of chosen answers are up to 3.7e-4 off.
///
/// ```sh
/// SAVI_SMOLLM2_GGUF=FILE cargo test --locked --workspace --test trajectories -- --ignored smollm2
/// ```
fn follow_on_smollm2(trainer: &str) {
    let path = std::env::var_os("SAVI_SMOLLM2_GGUF").expect("SAVI_SMOLLM2_GGUF names the file");
    let golden = Golden::of("smollm2.json", Some(path.into()));
    tokens_are_the_same(&golden);
    follow(&golden, golden.runs_of(&[trainer]), &json!({}));
}

#[test]
#[ignore = "needs SAVI_SMOLLM2_GGUF and some minutes"]
fn smollm2_fine_tuning_follows_trl() {
    follow_on_smollm2("sft");
}

#[test]
#[ignore = "needs SAVI_SMOLLM2_GGUF and some minutes"]
fn smollm2_preference_training_follows_trl() {
    follow_on_smollm2("dpo");
}

#[test]
#[ignore = "needs SAVI_SMOLLM2_GGUF and some minutes"]
fn smollm2_learning_from_completions_follows_trl() {
    follow_on_smollm2("grpo");
}
