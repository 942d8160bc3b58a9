//! What `savi train grpo` and `savi train ppo` share: prompts and rewards in, a run folder with an adapter or a model
//! out.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use savi_engine::{Engine, EngineError, EngineOptions, StoredDType};
use savi_judge::rewards::{Ready, RewardFunction};
use savi_run::{FolderOptions, Interrupt, Loaded, Metrics, RunFolder, file_hash};
use savi_schema::{Generate, Reward};
use savi_train::{PolicyPrompt, Rewards, TrainError, TrainIo, TrainSummary};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::prompts;
use crate::Global;
use crate::exit::{BadInput, Interrupted};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's config.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a config key, for example grpo.beta=0.04.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run folder [default: runs/NAME, NAME being the config's].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Discard what an earlier run left in the run folder.
    #[arg(long)]
    fresh: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N. Short for --set device=...
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// What to compute in: f32 or bf16. Short for --set dtype=...
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
}

/// One file or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
pub(super) enum Files {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

impl Files {
    fn all(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths,
        }
    }
}

/// A recipe's part that does not depend on the objective.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common<'a> {
    pub(super) model: &'a str,
    pub(super) data: &'a Files,
    pub(super) rewards: &'a [RewardFunction],
    pub(super) reward_weights: &'a [f64],
    pub(super) device: &'a str,
    pub(super) dtype: &'a str,
    pub(super) save_merged: bool,
    pub(super) seed: u64,
    /// Whether an adapter is trained, and not the weights themselves.
    pub(super) adapter: bool,
}

/// A complete recipe of a training that draws its own completions.
pub(super) trait Recipe: DeserializeOwned + Serialize {
    /// The command's name.
    const NAME: &'static str;

    fn common(&self) -> Common<'_>;

    /// Refuses settings of the trainer that cannot be carried out.
    fn validate(&self) -> Result<(), TrainError>;

    fn train(
        &self,
        engine: &mut Engine,
        prompts: &[PolicyPrompt],
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError>;
}

pub(super) fn auto() -> String {
    "auto".to_owned()
}

pub(super) fn f32() -> String {
    "f32".to_owned()
}

/// Refuses what cannot be carried out, naming the key.
pub(super) fn validate<R: Recipe>(recipe: &R) -> anyhow::Result<()> {
    let common = recipe.common();
    ensure!(!common.data.all().is_empty(), "data: give at least one file of prompts");
    ensure!(!common.rewards.is_empty(), "rewards: give at least one");
    built(common.rewards)?;
    let (weights, count) = (common.reward_weights, common.rewards.len());
    ensure!(
        weights.is_empty() || weights.len() == count,
        "{}: reward_weights = {weights:?}: there has to be one for each of {count} rewards",
        R::NAME
    );
    recipe.validate().context(R::NAME)
}

/// Rewards under their names; where one comes again, with its number.
fn built(functions: &[RewardFunction]) -> anyhow::Result<Vec<(String, Ready)>> {
    let mut all: Vec<(String, Ready)> = Vec::new();
    for function in functions {
        let name = function.name();
        let ready = function.build().with_context(|| format!("rewards: {name}"))?;
        let again = functions.iter().take(all.len()).filter(|other| other.name() == name).count();
        let name = if again > 0 { format!("{name}_{}", again + 1) } else { name.to_owned() };
        all.push((name, ready));
    }
    Ok(all)
}

/// The prompts of all files, in order. Where there are several files, ids name theirs. A column that a reward reads has to
/// be in some row.
fn all_prompts(common: &Common<'_>) -> anyhow::Result<Vec<PolicyPrompt>> {
    let files = common.data.all();
    let mut all = Vec::new();
    for file in files {
        let mut prompts = prompts::read(file)?;
        ensure!(!prompts.is_empty(), "{}: holds no prompts", file.display());
        if files.len() > 1 {
            for prompt in &mut prompts {
                prompt.id = format!("{}: {}", file.display(), prompt.id);
            }
        }
        all.extend(prompts);
    }
    for function in common.rewards {
        if let Some(column) = function.column()
            && !all.iter().any(|prompt| prompt.columns.contains_key(column))
        {
            let name = function.name();
            let message = format!("rewards: {name}: no prompt has a column {column:?}");
            return Err(anyhow!(message));
        }
    }
    Ok(all)
}

pub(super) fn run<R: Recipe>(args: &Args, global: &Global) -> anyhow::Result<()> {
    let loaded: Loaded<R> = load(args)?;
    let recipe = &loaded.value;
    let common = recipe.common();
    // Prompts that cannot be read leave no folder behind.
    let prompts = all_prompts(&common).map_err(BadInput)?;
    let functions = built(common.rewards).map_err(BadInput)?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let dir = args.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(&loaded.name));
    let mut folder = open_folder(&dir, args, &loaded)?;
    tracing::info!(
        "{} in {}, {} prompts",
        if folder.resumed() { "continuing" } else { "running" },
        dir.display(),
        prompts.len()
    );
    let options = EngineOptions {
        device: common.device.to_owned(),
        dtype: common.dtype.to_owned(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    crate::hub::fetch(common.model)?;
    let mut engine = Engine::load(common.model, &options).map_err(|e| BadInput(e.into()))?;
    record(&mut folder, &common, &engine.fingerprint())?;
    let metrics = Metrics::open(folder.dir())?;
    let io = TrainIo { dir: folder.dir(), metrics: &metrics, interrupt: &interrupt };
    let rewards: Vec<(String, &(dyn Reward + Sync))> =
        functions.iter().map(|(name, ready)| (name.clone(), ready as _)).collect();
    let summary = recipe
        .train(&mut engine, &prompts, &rewards, &io)
        .map_err(|error| explain(error, R::NAME))?;
    metrics.write_trainer_state()?;
    let adapter = common.adapter.then(|| folder.path("adapter"));
    let model = (common.save_merged || !common.adapter).then(|| folder.path("model"));
    // A model's folder is there whole or not at all.
    if let Some(model) = model.as_ref().filter(|model| !model.exists()) {
        // In the type that was computed in: nothing of what was learnt is lost.
        let dtype = if common.dtype == "bf16" { StoredDType::BF16 } else { StoredDType::F32 };
        engine.save(model, dtype)?;
    }
    let (steps, count) = (summary.steps, prompts.len());
    let results = [("adapter", &adapter), ("model", &model)];
    if global.json {
        let mut told = json!({"steps": steps, "prompts": count});
        for (name, path) in results {
            if let Some(path) = path {
                told[name] = json!(path);
            }
        }
        println!("{told}");
    } else {
        let where_ = |(name, path): (&str, &Option<PathBuf>)| {
            path.as_ref().map(|path| format!(", {name} in {}", path.display())).unwrap_or_default()
        };
        println!("{steps} steps on {count} prompts{}", results.map(where_).concat());
    }
    Ok(())
}

fn load<R: Recipe>(args: &Args) -> anyhow::Result<Loaded<R>> {
    let mut overrides = args.set.clone();
    for (key, value) in [("device", &args.device), ("dtype", &args.dtype)] {
        overrides.extend(value.iter().map(|value| format!("{key}={value}")));
    }
    let loaded: Loaded<R> =
        savi_run::load(&args.config, &overrides).map_err(|error| BadInput(error.into()))?;
    let whose = || format!("config {}", args.config.display());
    validate(&loaded.value).with_context(whose).map_err(BadInput)?;
    Ok(loaded)
}

fn open_folder<R: Recipe>(
    dir: &Path,
    args: &Args,
    loaded: &Loaded<R>,
) -> anyhow::Result<RunFolder> {
    let common = loaded.value.common();
    let options = FolderOptions {
        command: format!("train {}", R::NAME),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fresh: args.fresh,
        seed: common.seed,
        device: common.device.to_owned(),
        dtype: common.dtype.to_owned(),
    };
    RunFolder::open(dir, &loaded.resolved, &options).map_err(|error| match error.is_bad_input() {
        true => BadInput(error.into()).into(),
        false => error.into(),
    })
}

/// Notes what the run is made from; on resume, another model or other prompts are refused.
fn record(folder: &mut RunFolder, common: &Common<'_>, fingerprint: &str) -> anyhow::Result<()> {
    let changed = |name: &str, before: Option<&String>, now: &str| match before {
        Some(before) if before != now => {
            let message = format!(
                "{name} has changed since the run in {} began; choose another --run-dir, or --fresh to \
                 discard that run",
                folder.dir().display()
            );
            Err(anyhow::Error::from(BadInput(anyhow!(message))))
        }
        _ => Ok(()),
    };
    let (manifest, resumed) = (folder.manifest(), folder.resumed());
    let mut inputs = Vec::new();
    for file in common.data.all() {
        let (name, hash) = (file.display().to_string(), file_hash(file)?);
        changed(&name, manifest.inputs.get(&name).filter(|_| resumed), &hash)?;
        inputs.push((name, hash));
    }
    let before = manifest.models.get(common.model).filter(|_| resumed);
    changed(common.model, before, fingerprint)?;
    for (name, hash) in inputs {
        folder.record_input(&name, &hash)?;
    }
    Ok(folder.record_model(common.model, fingerprint)?)
}

/// Gives an error of the trainer its exit status.
fn explain(error: TrainError, name: &'static str) -> anyhow::Error {
    match error {
        TrainError::Interrupted => Interrupted.into(),
        TrainError::Setting { .. } | TrainError::Objective(_) => {
            BadInput(anyhow::Error::from(error).context(name)).into()
        }
        TrainError::Record { .. } | TrainError::Engine(EngineError::Media { .. }) => {
            BadInput(error.into()).into()
        }
        error => error.into(),
    }
}
