//! What trainings on files have in common: the arguments, the keys of their configs beside the trainer's own,
//! the run folder, the media of records, resume on the same inputs, and what is written at the end.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use savi_data::{BadRows, Data, DataSource, Named, Read, read_mixture};
use savi_engine::{Engine, EngineError, EngineOptions, FeatureFolder, ModelDir, StoredDType};
use savi_run::{Interrupt, Loaded, Metrics, RunFolder, file_hash};
use savi_schema::{Generate, Media, MediaPolicy, Message, Part};
use savi_train::{EvalStrategy, OptimConfig, Plan, Ranks, TrainError, TrainIo};
use savi_video_ingest::IngestOptions;
use serde_json::json;

use crate::Global;
use crate::exit::{BadInput, Interrupted};
use crate::run_args::RunArgs;

/// Defines the config of a training: the keys that all have, then its own. (serde's `flatten` would pass
/// over keys that nobody knows.)
macro_rules! recipe {
    ($(#[$about:meta])* struct $name:ident { $($(#[$meta:meta])* $key:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            /// A Hugging Face directory, a name on the hub, or a built-in model.
            model: String,
            /// Files of records: a path, or a list of paths and of tables with `path`, `layout`, `fraction` and
            /// `max_samples`.
            data: savi_data::Data,
            /// Files of held-out records, looked at when `eval_strategy` says so.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            eval_data: Option<savi_data::Data>,
            /// Their layout; told by their first rows where it is not given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            layout: Option<String>,
            /// What is done with rows that cannot be used: `error` or `skip`.
            #[serde(default, skip_serializing_if = "savi_data::BadRows::is_error")]
            bad_rows: savi_data::BadRows,
            /// Where the clips and pictures of records are that have no whole path.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            media_root: Option<std::path::PathBuf>,
            /// How a clip becomes frames where its record does not say it; the model's own way where it is not
            /// given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            frames: Option<savi_schema::MediaPolicy>,
            /// What reading allows a clip's file: sizes, lengths, time, protocols.
            #[serde(default)]
            ingest: savi_video_ingest::IngestOptions,
            /// Where visual tokens are kept for other runs about the same clips.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            feature_cache: Option<savi_engine::FeatureFolder>,
            /// `auto`, `cpu`, `cuda` or `cuda:N`.
            #[serde(default = "crate::run_args::auto")]
            device: String,
            /// `f32` or `bf16`.
            #[serde(default = "crate::run_args::f32")]
            dtype: String,
            /// Writes the model with the adapter merged as well, to `model` in the run folder.
            #[serde(default)]
            save_merged: bool,
            $($(#[$meta])* $key: $kind,)*
        }

        impl $name {
            /// The keys that all trainings have.
            fn common(&self) -> $crate::train::common::Common<'_> {
                $crate::train::common::Common {
                    model: &self.model,
                    data: &self.data,
                    eval_data: self.eval_data.as_ref(),
                    layout: self.layout.as_deref(),
                    bad_rows: self.bad_rows,
                    media_root: self.media_root.as_deref(),
                    frames: self.frames.as_ref(),
                    ingest: &self.ingest,
                    feature_cache: self.feature_cache.as_ref(),
                    device: &self.device,
                    dtype: &self.dtype,
                    save_merged: self.save_merged,
                }
            }
        }
    };
}
pub(super) use recipe;

/// The keys that all trainings have, as [`recipe`] describes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common<'a> {
    pub(super) model: &'a str,
    pub(super) data: &'a Data,
    pub(super) eval_data: Option<&'a Data>,
    pub(super) layout: Option<&'a str>,
    pub(super) bad_rows: BadRows,
    pub(super) media_root: Option<&'a Path>,
    pub(super) frames: Option<&'a MediaPolicy>,
    pub(super) ingest: &'a IngestOptions,
    pub(super) feature_cache: Option<&'a FeatureFolder>,
    pub(super) device: &'a str,
    pub(super) dtype: &'a str,
    pub(super) save_merged: bool,
}

impl Common<'_> {
    /// Refuses what cannot be carried out, naming the key. `optim` is the trainer's, of the config's `section`.
    pub(super) fn validate(&self, section: &str, optim: &OptimConfig) -> anyhow::Result<()> {
        for (key, data) in [("data", Some(self.data)), ("eval_data", self.eval_data)] {
            data.map_or(Ok(()), Data::validate).map_err(|reason| anyhow!("{key}: {reason}"))?;
        }
        ensure!(
            (optim.eval_strategy != EvalStrategy::No) == self.eval_data.is_some(),
            "eval_data goes with {section}.optim.eval_strategy = \"steps\" or \"epoch\": give both or neither"
        );
        if let Some(policy) = self.frames {
            policy.validate().context("frames")?;
        }
        Ok(())
    }

    /// The files of all records, those held out last.
    pub(super) fn sources(&self) -> impl Iterator<Item = &DataSource> {
        self.data.sources().iter().chain(self.eval_data.iter().flat_map(|data| data.sources()))
    }

    /// The layout of all sources that name none, among those called `known`.
    pub(super) fn layout<L: Copy>(
        &self,
        name: Option<&str>,
        known: &[(&str, L)],
    ) -> anyhow::Result<Option<L>> {
        let Some(name) = name.or(self.layout) else { return Ok(None) };
        let found = known.iter().find(|(known, _)| *known == name).map(|&(_, layout)| layout);
        let names: Vec<&str> = known.iter().map(|&(name, _)| name).collect();
        let expected = || format!("layout = {name:?}: expected one of {}", names.join(", "));
        found.with_context(expected).map(Some)
    }

    /// Reads all files with `read`, mixes them and says what was left out: the records, and those held out. Where
    /// there are several files, ids name theirs; those of held-out records always do.
    pub(super) fn records<T: Named>(
        &self,
        what: &str,
        seed: u64,
        read: impl Fn(&DataSource) -> anyhow::Result<Read<T>>,
    ) -> anyhow::Result<(Vec<T>, Vec<T>)> {
        let records = mixture(self.data, what, seed, &read)?;
        let Some(data) = self.eval_data else { return Ok((records, Vec::new())) };
        let mut held_out = mixture(data, what, seed, &read)?;
        if let [source] = data.sources() {
            for record in &mut held_out {
                let id = record.id_mut();
                *id = format!("{}: {id}", source.path.display());
            }
        }
        Ok((records, held_out))
    }

    /// Finds the files of a conversation's clips and pictures (better missed now than in the middle of an
    /// epoch), and gives clips the run's policy where they have none of their own.
    pub(super) fn place(&self, turns: &mut [Message]) -> Result<(), String> {
        for part in turns.iter_mut().flat_map(|turn| &mut turn.content) {
            if let Part::Video(media) | Part::Image(media) = part {
                self.find(media)?;
            }
            if let Part::Video(clip) = part
                && clip.policy.is_none()
            {
                clip.policy = self.frames.cloned();
            }
        }
        Ok(())
    }

    fn find(&self, media: &mut Media) -> Result<(), String> {
        if let Some(path) = media.source.strip_prefix("file://") {
            media.source = path.to_owned();
        }
        if let Some(root) = self.media_root {
            media.source = root.join(&media.source).to_string_lossy().into_owned();
        }
        let path = media.source.split_once("#t=").map_or(media.source.as_str(), |(path, _)| path);
        if Path::new(path).exists() { Ok(()) } else { Err(format!("{path}: no such file")) }
    }

    /// Opens the run's folder.
    pub(super) fn open_folder<T>(
        &self,
        command: &str,
        args: &RunArgs,
        loaded: &Loaded<T>,
        seed: u64,
        ranks: &Ranks,
    ) -> anyhow::Result<RunFolder> {
        ranks.in_turn(|| match ranks.is_first() {
            true => args.open_folder(command, loaded, seed, (self.device, self.dtype)),
            false => Ok(RunFolder::of_another(&args.dir(loaded))),
        })
    }

    pub(super) fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            device: self.device.to_owned(),
            dtype: self.dtype.to_owned(),
            ingest: self.ingest.clone(),
            feature_folder: self.feature_cache.cloned(),
            ..EngineOptions::default()
        }
    }

    /// Loads the model for a look at what training on it takes.
    pub(super) fn plan(
        &self,
        trainer: &'static str,
        memory: Option<u64>,
        plan: impl FnOnce(&Engine) -> Result<Plan, TrainError>,
    ) -> anyhow::Result<Plan> {
        let (engine, weights) = look(self.model, &self.engine_options(), memory)?;
        let mut plan = plan(&engine).map_err(|error| self.explain(error, trainer))?;
        if self.save_merged {
            plan.disk_bytes += weights;
        }
        Ok(plan)
    }

    /// Loads the model, and notes in the folder what the run is made from.
    pub(super) fn engine(
        &self,
        folder: &mut RunFolder,
        interrupt: &Interrupt,
        ranks: &Ranks,
    ) -> anyhow::Result<Engine> {
        let options = EngineOptions { interrupt: Some(interrupt.flag()), ..self.engine_options() };
        ranks.in_turn(|| crate::hub::fetch(self.model))?;
        let engine = Engine::load(self.model, &options).map_err(|e| BadInput(e.into()))?;
        self.record(folder, &engine.fingerprint())?;
        Ok(engine)
    }

    /// Notes what the run is made from. What a checkpoint has learnt from is what the rest has to be learnt
    /// from: on resume, another model or other records are refused.
    fn record(&self, folder: &mut RunFolder, fingerprint: &str) -> anyhow::Result<()> {
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
        for source in self.sources() {
            let (name, hash) = (source.path.display().to_string(), file_hash(&source.path)?);
            changed(&name, manifest.inputs.get(&name).filter(|_| resumed), &hash)?;
            inputs.push((name, hash));
        }
        let model = manifest.models.get(self.model).filter(|_| resumed);
        changed(self.model, model, fingerprint)?;
        for (name, hash) in inputs {
            folder.record_input(&name, &hash)?;
        }
        Ok(folder.record_model(self.model, fingerprint)?)
    }

    /// Ends a run: writes the whole model where that is what was trained or is asked for, and says what there is.
    pub(super) fn finish(
        &self,
        engine: &Engine,
        folder: &RunFolder,
        told: Told<'_>,
        global: &Global,
    ) -> anyhow::Result<()> {
        if !folder.is_ours() {
            return Ok(());
        }
        let model = (self.save_merged || !told.adapter).then(|| folder.path("model"));
        // A model's folder is there whole or not at all.
        if let Some(model) = model.as_ref().filter(|model| !model.exists()) {
            // In the type that was computed in: nothing of what was learnt is lost.
            let dtype = if self.dtype == "bf16" { StoredDType::BF16 } else { StoredDType::F32 };
            engine.save(model, dtype)?;
        }
        let adapter = told.adapter.then(|| folder.path("adapter"));
        let places = [("adapter", &adapter), ("model", &model)];
        let places = places.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?)));
        let Told { steps, count, what, .. } = told;
        if global.json {
            let mut line = json!({"steps": steps, what: count});
            for (name, path) in places {
                line[name] = json!(path);
            }
            println!("{line}");
        } else {
            let places = places.map(|(name, path)| format!(", {name} in {}", path.display()));
            println!("{steps} steps on {count} {what}{}", places.collect::<String>());
        }
        Ok(())
    }

    /// Gives an error of the trainer its exit status; a record is named with its file. `section` is the
    /// trainer's part of the config.
    pub(super) fn explain(&self, error: TrainError, section: &'static str) -> anyhow::Error {
        match error {
            TrainError::Interrupted => Interrupted.into(),
            TrainError::Setting { .. } | TrainError::Objective(_) => {
                BadInput(anyhow::Error::from(error).context(section)).into()
            }
            TrainError::Record { .. } | TrainError::Engine(EngineError::Media { .. }) => {
                let mut held_out = self.eval_data.iter().flat_map(|data| data.sources());
                // A held-out record names its file; of media it is not known whose they are.
                let told = match &error {
                    TrainError::Record { id, .. } => {
                        held_out.any(|source| id.starts_with(&*source.path.to_string_lossy()))
                    }
                    _ => self.eval_data.is_some(),
                };
                let error = anyhow::Error::from(error);
                match self.data.sources() {
                    [source] if !told => {
                        BadInput(error.context(source.path.display().to_string())).into()
                    }
                    _ => BadInput(error).into(),
                }
            }
            error => error.into(),
        }
    }
}

/// Loads a model for a look at what a run on it takes, with the bytes of its weights. One whose weights alone are more
/// than `memory` is not opened.
pub(crate) fn look(
    model: &str,
    options: &EngineOptions,
    memory: Option<u64>,
) -> anyhow::Result<(Engine, u64)> {
    crate::hub::fetch(model)?;
    let dir = ModelDir::find(model).map_err(|e| BadInput(e.into()))?;
    let values = |shape: Vec<usize>| shape.into_iter().map(|n| n as u64).product::<u64>();
    let values: u64 = dir.files.tensors.shapes().into_iter().map(|(.., s)| values(s)).sum();
    let weights = values * if options.dtype == "bf16" { 2 } else { 4 };
    if let Some(memory) = memory.filter(|memory| weights > *memory) {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let message = format!(
            "it cannot fit: the weights of {model} take {:.2} GiB in {}, {:.2} GiB of memory are there",
            gib(weights),
            options.dtype,
            gib(memory)
        );
        return Err(BadInput(anyhow!(message)).into());
    }
    let engine = Engine::from_dir(dir, options).map_err(|e| BadInput(e.into()))?;
    Ok((engine, weights))
}

/// What a finished run has to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// Whether an adapter was trained, or all weights.
    pub(super) adapter: bool,
    pub(super) steps: u64,
    pub(super) count: usize,
    /// What was learnt from, in the plural.
    pub(super) what: &'a str,
}

/// One data set of several files.
pub(crate) fn mixture<T: Named>(
    data: &Data,
    what: &str,
    seed: u64,
    read: impl Fn(&DataSource) -> anyhow::Result<Read<T>>,
) -> anyhow::Result<Vec<T>> {
    let Read { records, skipped } = read_mixture(data, seed, |source| {
        let found = read(source)?;
        let path = source.path.display();
        for reason in found.skipped.iter().take(SHOWN) {
            tracing::warn!("left out: {reason}");
        }
        if found.skipped.len() > SHOWN {
            tracing::warn!("{path}: and {} rows more", found.skipped.len() - SHOWN);
        }
        ensure!(!found.records.is_empty(), "{path}: holds no {what} that can be used");
        Ok(found)
    })?;
    if !skipped.is_empty() {
        tracing::warn!("{} rows left out, {} {what} kept", skipped.len(), records.len());
    }
    Ok(records)
}

/// Rows of a file that are told one by one when they are left out.
const SHOWN: usize = 10;

/// Says that a run begins, or goes on.
pub(crate) fn announce(folder: &RunFolder, count: usize, records: &str) {
    let doing = if folder.resumed() { "continuing" } else { "running" };
    tracing::info!("{doing} in {}, {count} {records}", folder.dir().display());
}

/// The run's metrics, written where the folder is this process's.
pub(super) fn metrics(folder: &RunFolder) -> anyhow::Result<Metrics> {
    Ok(if folder.is_ours() { Metrics::open(folder.dir())? } else { Metrics::unwritten() })
}

/// Where a training writes.
pub(super) fn io<'a>(
    folder: &'a RunFolder,
    metrics: &'a Metrics,
    interrupt: &'a Interrupt,
    ranks: &'a Ranks,
) -> TrainIo<'a> {
    TrainIo { dir: folder.dir(), metrics, interrupt, ranks }
}

#[cfg(test)]
pub(super) mod testing;
