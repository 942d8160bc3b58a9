//! `savi train dpo`: preference training of an adapter on files of pairs.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use savi_data::{PairFormat, read_pairs};
use savi_engine::{Engine, EngineError, EngineOptions, FeatureFolder, ModelDir, StoredDType};
use savi_run::{FolderOptions, Interrupt, Loaded, Metrics, RunFolder, file_hash};
use savi_schema::{Generate, Media, MediaPolicy, Pair, Part};
use savi_train::{DpoConfig, EvalStrategy, Plan, TrainError, TrainIo};
use savi_video_ingest::IngestOptions;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Global;
use crate::exit::{BadInput, Interrupted};

#[derive(Debug, clap::Args)]
pub(super) struct Dpo {
    /// The run's config.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a config key, for example dpo.loss_type=ipo.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run folder [default: runs/NAME, NAME being the config's]. The adapter is in its `adapter` folder.
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

/// One complete training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    /// A Hugging Face directory, a name on the hub, or `builtin:tiny`.
    model: String,
    /// Files of pairs, JSONL or JSON.
    data: Files,
    /// Files of held-out pairs, looked at when `eval_strategy` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eval_data: Option<Files>,
    /// Their layout; told by their first rows where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layout: Option<String>,
    /// Where the clips and pictures of pairs are that have no whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_root: Option<PathBuf>,
    /// How a clip becomes frames where its pair does not say it; the model's own way where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<MediaPolicy>,
    /// What reading allows a clip's file: sizes, lengths, time, protocols.
    #[serde(default)]
    ingest: IngestOptions,
    /// Where visual tokens are kept for other runs about the same clips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    feature_cache: Option<FeatureFolder>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "auto")]
    device: String,
    /// `f32` or `bf16`.
    #[serde(default = "f32")]
    dtype: String,
    /// Writes the model with the adapter merged as well, to `model` in the run folder.
    #[serde(default)]
    save_merged: bool,
    /// The trainer.
    #[serde(default)]
    dpo: DpoConfig,
}

/// One file or several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
enum Files {
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

fn auto() -> String {
    "auto".to_owned()
}

fn f32() -> String {
    "f32".to_owned()
}

impl Recipe {
    /// Refuses what cannot be carried out, naming the key.
    fn validate(&self) -> anyhow::Result<()> {
        ensure!(!self.data.all().is_empty(), "data: give at least one file of pairs");
        self.format()?;
        if let Some(policy) = &self.frames {
            policy.validate().context("frames")?;
        }
        self.dpo.validate().context("dpo")?;
        let evaluates = self.dpo.optim.eval_strategy != EvalStrategy::No;
        ensure!(
            evaluates == self.eval_data.is_some(),
            "eval_data goes with dpo.optim.eval_strategy = \"steps\" or \"epoch\": give both or neither"
        );
        Ok(())
    }

    fn format(&self) -> anyhow::Result<Option<PairFormat>> {
        let Some(name) = &self.layout else { return Ok(None) };
        let known = PairFormat::ALL.map(PairFormat::name).join(", ");
        let format = PairFormat::from_name(name);
        format.with_context(|| format!("layout = {name:?}: expected one of {known}")).map(Some)
    }

    fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            device: self.device.clone(),
            dtype: self.dtype.clone(),
            ingest: self.ingest.clone(),
            feature_folder: self.feature_cache.clone(),
            ..EngineOptions::default()
        }
    }

    fn eval_files(&self) -> &[PathBuf] {
        self.eval_data.as_ref().map_or(&[], Files::all)
    }

    /// The pairs of all files, in order. Where there are several files, ids name theirs.
    fn pairs(&self, files: &[PathBuf]) -> anyhow::Result<Vec<Pair>> {
        let mut all = Vec::new();
        for file in files {
            let pairs = read_pairs(file, self.format()?)?;
            ensure!(!pairs.is_empty(), "{}: holds no pairs", file.display());
            for mut pair in pairs {
                for part in pair.prompt.iter_mut().flat_map(|turn| &mut turn.content) {
                    if let Part::Video(media) | Part::Image(media) = part {
                        self.place(media)
                            .with_context(|| format!("{}: pair {}", file.display(), pair.id))?;
                    }
                    if let Part::Video(clip) = part
                        && clip.policy.is_none()
                    {
                        clip.policy.clone_from(&self.frames);
                    }
                }
                if files.len() > 1 {
                    pair.id = format!("{}: {}", file.display(), pair.id);
                }
                all.push(pair);
            }
        }
        Ok(all)
    }

    /// Finds a clip's or a picture's file: better missed now than in the middle of an epoch.
    fn place(&self, media: &mut Media) -> anyhow::Result<()> {
        if let Some(root) = &self.media_root {
            media.source = root.join(&media.source).to_string_lossy().into_owned();
        }
        let path = media.source.split_once("#t=").map_or(media.source.as_str(), |(path, _)| path);
        ensure!(Path::new(path).exists(), "{path}: no such file");
        Ok(())
    }
}

pub(super) fn run(args: &Dpo, global: &Global) -> anyhow::Result<()> {
    let loaded = load(args)?;
    let recipe = &loaded.value;
    // Pairs that cannot be read leave no folder behind.
    let pairs = recipe.pairs(recipe.data.all()).map_err(BadInput)?;
    let held_out = recipe.pairs(recipe.eval_files()).map_err(BadInput)?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let dir = args.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(&loaded.name));
    let mut folder = open_folder(&dir, args, &loaded)?;
    tracing::info!(
        "{} in {}, {} pairs",
        if folder.resumed() { "continuing" } else { "running" },
        dir.display(),
        pairs.len()
    );
    let options = EngineOptions { interrupt: Some(interrupt.flag()), ..recipe.engine_options() };
    crate::hub::fetch(&recipe.model)?;
    let mut engine = Engine::load(&recipe.model, &options).map_err(|e| BadInput(e.into()))?;
    record(&mut folder, recipe, &engine.fingerprint())?;
    let metrics = Metrics::open(folder.dir())?;
    let io = TrainIo { dir: folder.dir(), metrics: &metrics, interrupt: &interrupt };
    let summary = savi_train::dpo_evaluated(&mut engine, &pairs, &held_out, &recipe.dpo, &io)
        .map_err(|error| explain(error, recipe))?;
    metrics.write_trainer_state()?;
    let model = recipe.save_merged.then(|| folder.path("model"));
    // A model's folder is there whole or not at all.
    if let Some(model) = model.as_ref().filter(|model| !model.exists()) {
        // In the type that was computed in: nothing of what was learnt is lost.
        let dtype = if recipe.dtype == "bf16" { StoredDType::BF16 } else { StoredDType::F32 };
        engine.save(model, dtype)?;
    }
    let adapter = folder.path("adapter");
    if global.json {
        let (steps, count) = (summary.steps, pairs.len());
        let mut told = json!({"adapter": adapter, "steps": steps, "pairs": count});
        if let Some(model) = &model {
            told["model"] = json!(model);
        }
        println!("{told}");
    } else {
        let model = model.map(|model| format!(", model in {}", model.display()));
        println!(
            "{} steps on {} pairs, adapter in {}{}",
            summary.steps,
            pairs.len(),
            adapter.display(),
            model.unwrap_or_default()
        );
    }
    Ok(())
}

/// What the training of a config will take. A model whose weights alone are more than `memory` is not opened.
pub(crate) fn plan(config: &Path, set: &[String], memory: Option<u64>) -> anyhow::Result<Plan> {
    let recipe = read(config, set)?.value;
    let pairs = recipe.pairs(recipe.data.all()).map_err(BadInput)?;
    crate::hub::fetch(&recipe.model)?;
    let dir = ModelDir::find(&recipe.model).map_err(|e| BadInput(e.into()))?;
    let elements = |shape: Vec<usize>| shape.into_iter().map(|n| n as u64).product::<u64>();
    let values: u64 = dir.files.tensors.shapes().into_iter().map(|(.., s)| elements(s)).sum();
    let weights = values * if recipe.dtype == "bf16" { 2 } else { 4 };
    if let Some(memory) = memory.filter(|memory| weights > *memory) {
        let message = format!(
            "it cannot fit: the weights of {} take {:.2} GiB in {}, {:.2} GiB of memory are there",
            recipe.model,
            weights as f64 / (1u64 << 30) as f64,
            recipe.dtype,
            memory as f64 / (1u64 << 30) as f64
        );
        return Err(BadInput(anyhow!(message)).into());
    }
    let engine = Engine::from_dir(dir, &recipe.engine_options()).map_err(|e| BadInput(e.into()))?;
    let mut plan = savi_train::plan_dpo(&engine, &pairs, &recipe.dpo)
        .map_err(|error| explain(error, &recipe))?;
    if recipe.save_merged {
        plan.disk_bytes += weights;
    }
    Ok(plan)
}

fn load(args: &Dpo) -> anyhow::Result<Loaded<Recipe>> {
    let mut overrides = args.set.clone();
    for (key, value) in [("device", &args.device), ("dtype", &args.dtype)] {
        overrides.extend(value.iter().map(|value| format!("{key}={value}")));
    }
    read(&args.config, &overrides)
}

fn read(config: &Path, overrides: &[String]) -> anyhow::Result<Loaded<Recipe>> {
    let loaded: Loaded<Recipe> =
        savi_run::load(config, overrides).map_err(|error| BadInput(error.into()))?;
    let whose = || format!("config {}", config.display());
    loaded.value.validate().with_context(whose).map_err(BadInput)?;
    Ok(loaded)
}

fn open_folder(dir: &Path, args: &Dpo, loaded: &Loaded<Recipe>) -> anyhow::Result<RunFolder> {
    let options = FolderOptions {
        command: "train dpo".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fresh: args.fresh,
        seed: loaded.value.dpo.optim.seed,
        device: loaded.value.device.clone(),
        dtype: loaded.value.dtype.clone(),
    };
    RunFolder::open(dir, &loaded.resolved, &options).map_err(|error| match error.is_bad_input() {
        true => BadInput(error.into()).into(),
        false => error.into(),
    })
}

/// Notes what the run is made from. What a checkpoint has learnt from is what the rest has to be learnt
/// from: on resume, another model or other pairs are refused.
fn record(folder: &mut RunFolder, recipe: &Recipe, fingerprint: &str) -> anyhow::Result<()> {
    let changed = |name: &str, before: Option<&String>, now: &str| match before {
        Some(before) if before != now => {
            let message = format!(
                "{name} has changed since the run in {} began; choose another --run-dir, or --fresh \
                 to discard that run",
                folder.dir().display()
            );
            Err(anyhow::Error::from(BadInput(anyhow!(message))))
        }
        _ => Ok(()),
    };
    let (manifest, resumed) = (folder.manifest(), folder.resumed());
    let mut inputs = Vec::new();
    for file in recipe.data.all().iter().chain(recipe.eval_files()) {
        let (name, hash) = (file.display().to_string(), file_hash(file)?);
        changed(&name, manifest.inputs.get(&name).filter(|_| resumed), &hash)?;
        inputs.push((name, hash));
    }
    changed(&recipe.model, manifest.models.get(&recipe.model).filter(|_| resumed), fingerprint)?;
    for (name, hash) in inputs {
        folder.record_input(&name, &hash)?;
    }
    Ok(folder.record_model(&recipe.model, fingerprint)?)
}

/// Gives an error of the trainer its exit status; a record is named with its file.
fn explain(error: TrainError, recipe: &Recipe) -> anyhow::Error {
    match error {
        TrainError::Interrupted => Interrupted.into(),
        TrainError::Setting { .. } | TrainError::Objective(_) => {
            BadInput(anyhow::Error::from(error).context("dpo")).into()
        }
        TrainError::Record { .. } | TrainError::Engine(EngineError::Media { .. }) => {
            let error = anyhow::Error::from(error);
            match recipe.data.all() {
                [file] => BadInput(error.context(file.display().to_string())).into(),
                _ => BadInput(error).into(),
            }
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_config_of_the_trainer_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/train");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let loaded = savi_run::load::<Recipe>(&path, &[]).unwrap();
            loaded.value.validate().unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
            // What is saved is what was loaded.
            let saved = toml::to_string(&loaded.resolved).unwrap();
            let again = savi_run::load_str::<Recipe>(&saved, &path, &[]).unwrap();
            assert_eq!(again.value, loaded.value);
            seen += 1;
        }
        assert!(seen >= 1);
    }

    #[test]
    fn mistakes_are_refused_by_key() {
        for (text, expected) in [
            ("model = 'm'", "missing field `data`"),
            ("model = 'm'\ndata = 3", "a list of paths"),
            ("model = 'm'\ndata = []", "data"),
            ("model = 'm'\ndata = 'p.jsonl'\nlayout = 'csv'", "llava-hound"),
            ("model = 'm'\ndata = 'p.jsonl'\nmodle = 'x'", "did you mean `model`?"),
            ("model = 'm'\ndata = 'p.jsonl'\ndpo.loss_type = 'dno'", "loss_type = dno"),
            ("model = 'm'\ndata = 'p.jsonl'\ndpo.loss_tipe = 'ipo'", "`loss_type`?"),
        ] {
            let loaded = savi_run::load_str::<Recipe>(text, Path::new("x.toml"), &[]);
            let refused = match loaded {
                Ok(loaded) => loaded.value.validate().map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.to_string()),
            };
            let message = refused.unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
