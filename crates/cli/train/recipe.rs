//! `savi train sft`: a complete recipe of a small model from scratch on a synthetic world.

mod arithmetic;
mod shapes;

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use rayon::prelude::*;
use savi_engine::{
    Engine, EngineOptions, Processor, StoredDType, TextFiles, TextModel, train_tokenizer,
};
use savi_models::Processors;
use savi_nn::Weights;
use savi_run::{Interrupt, Metrics};
use savi_train::{
    OptimConfig, Ranks, Sample, SftConfig, TrainError, TrainIo, perceive, sft_stream,
};
use savi_videosavi::Prompts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::arithmetic::{Decoder, Exercises};
use self::shapes::{Lessons, Shape, Stage};
use crate::Global;
use crate::exit::{BadInput, Interrupted};
use crate::run_args::{self, RunArgs};

/// A complete recipe of a model from scratch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    /// `random`: fresh weights from the seed, in the shape of `model`. Else the model to go on from:
    /// a Hugging Face directory.
    init: String,
    /// Seed of weights, scenes and lessons.
    seed: u64,
    /// Entries of the tokenizer that is trained on the lessons' words.
    #[serde(default)]
    vocab_size: usize,
    /// Scenes, or problems and dialogues, that the tokenizer sees.
    #[serde(default)]
    tokenizer_scenes: u64,
    /// Sight first: every cell of single pictures is labelled, before any words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    perception: Option<OptimConfig>,
    /// Steps of `sft` in which only tracks, descriptions and readings are learnt.
    #[serde(default, skip_serializing_if = "is_zero")]
    dense_steps: u64,
    /// Lessons of a clip: the world is moving-shapes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lessons: Option<Lessons>,
    /// Exercises without clips: the world is arithmetic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exercises: Option<Exercises>,
    /// Shape of a fresh model that sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<Shape>,
    /// Shape of a fresh model that reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decoder: Option<Decoder>,
    /// The trainer.
    sft: SftConfig,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The built-in models' chat template: turns in the ChatML manner, clips before words.
const TEMPLATE: &str = include_str!("chat_template.jinja");

/// Where a recipe's records come from.
enum World<'a> {
    Shapes { lessons: &'a Lessons, prompts: Box<Prompts> },
    Arithmetic(&'a Exercises),
}

impl Recipe {
    /// Refuses what does not go together, naming the key.
    fn validate(&self) -> anyhow::Result<()> {
        self.sft.validate().context("sft")?;
        match (&self.lessons, &self.exercises) {
            (Some(lessons), None) => lessons.validate().context("lessons")?,
            (None, Some(exercises)) => {
                exercises.validate().context("exercises")?;
                ensure!(self.perception.is_none(), "[perception] goes with [lessons]");
                ensure!(self.dense_steps == 0, "dense_steps goes with [lessons]");
            }
            _ => anyhow::bail!("a recipe has either [lessons] or [exercises]"),
        }
        let shapes = [("model", self.model.is_some()), ("decoder", self.decoder.is_some())];
        match (self.init.as_str(), self.exercises.is_some()) {
            ("random", false) => ensure!(shapes[0].1, "init = \"random\" needs a [model]"),
            ("random", true) => ensure!(shapes[1].1, "init = \"random\" needs a [decoder]"),
            _ => {}
        }
        for (of_lessons, (name, given)) in [true, false].into_iter().zip(shapes) {
            let fresh = self.init == "random" && of_lessons == self.lessons.is_some();
            ensure!(
                fresh || !given,
                "[{name}] is the shape of a fresh model ([model] with [lessons], [decoder] with \
                 [exercises]): leave it out, or set init = \"random\""
            );
        }
        Ok(())
    }

    fn world(&self) -> anyhow::Result<World<'_>> {
        match (&self.lessons, &self.exercises) {
            (Some(lessons), _) => {
                Ok(World::Shapes { lessons, prompts: Box::new(Prompts::builtin()?) })
            }
            (None, Some(exercises)) => Ok(World::Arithmetic(exercises)),
            (None, None) => Err(anyhow!("a recipe has either [lessons] or [exercises]")),
        }
    }

    fn stage(&self, step: u64) -> Stage {
        if step < self.dense_steps { Stage::Dense } else { Stage::Mixed }
    }

    /// The model that training begins with.
    fn engine(&self, world: &World<'_>, dir: &Path, device: &str) -> anyhow::Result<Engine> {
        let options = EngineOptions { device: device.to_owned(), ..EngineOptions::default() };
        if self.init != "random" {
            crate::hub::fetch(&self.init)?;
            return Engine::load(&self.init, &options).map_err(|e| BadInput(e.into()).into());
        }
        let tokenizer = tokenizer(self, world, dir)?;
        let (config, processor) = match (&self.model, &self.decoder) {
            (Some(shape), _) => {
                let placeholder = special(&tokenizer, "<video>")?;
                (shape.config(self.vocab_size, placeholder), Some(Processor::default()))
            }
            (None, Some(decoder)) => (decoder.config(self.vocab_size), None),
            (None, None) => return Err(BadInput(anyhow!("the recipe has no shape")).into()),
        };
        let text = TextFiles::chatml(tokenizer, TEMPLATE);
        let (weights, processors) = (Weights::Random(self.seed), Processors::default());
        Ok(Engine::build(&config, weights, text, &processors, processor, &options)?)
    }
}

impl World<'_> {
    /// The records of a step; `length` counts the tokens of one.
    fn step(
        &self,
        recipe: &Recipe,
        step: u64,
        count: usize,
        length: &(dyn Fn(&Sample) -> anyhow::Result<usize> + Sync),
    ) -> anyhow::Result<Vec<Sample>> {
        match self {
            Self::Shapes { lessons, prompts } => {
                let stage = recipe.stage(step);
                let first = step * count as u64;
                (first..first + count as u64)
                    .into_par_iter()
                    .map(|index| shapes::sample(recipe.seed, lessons.plan(stage), prompts, index))
                    .collect()
            }
            Self::Arithmetic(exercises) => {
                let (mut samples, mut tokens) = (Vec::new(), 0);
                // Drawn by the dozen, for the sake of the cores; what is too much is left out.
                for dozen in 0.. {
                    let first = step * STEP_RECORDS + dozen * 12;
                    let drawn: Vec<(Sample, usize)> = (first..first + 12)
                        .into_par_iter()
                        .map(|index| {
                            let sample = exercises.sample(recipe.seed, index, step);
                            let length = length(&sample)?;
                            Ok((sample, length))
                        })
                        .collect::<anyhow::Result<_>>()?;
                    for (sample, length) in drawn {
                        tokens += length;
                        samples.push(sample);
                        if tokens >= exercises.tokens_per_step {
                            return Ok(samples);
                        }
                    }
                }
                Ok(samples)
            }
        }
    }

    /// The words that the tokenizer learns from, turn by turn.
    fn words(&self, recipe: &Recipe, index: u64) -> anyhow::Result<Vec<Vec<String>>> {
        match self {
            Self::Shapes { lessons, prompts } => {
                shapes::words(recipe.seed, &lessons.plan(Stage::Mixed), prompts, index)
            }
            Self::Arithmetic(exercises) => {
                // Words of the last steps: all levels are among them.
                let sample = exercises.sample(recipe.seed, index, u64::MAX);
                let words = |turns: Vec<_>| turns.iter().map(savi_schema::Message::words).collect();
                Ok(sample.example.conversations.into_iter().map(words).collect())
            }
        }
    }
}

/// Numbers of records that a step may draw.
const STEP_RECORDS: u64 = 1 << 20;

/// About as many tokens as a record takes in a pass: its first conversation, and the answers of the others.
fn length(text: &TextModel, sample: &Sample) -> anyhow::Result<usize> {
    let mut tokens = 0;
    for (number, turns) in sample.example.conversations.iter().enumerate() {
        let own = if number == 0 { 0 } else { turns.len().saturating_sub(1) };
        for turn in &turns[own..] {
            // The marks of a turn come with it.
            tokens += text.encode(&turn.words())?.len() + 4;
        }
    }
    Ok(tokens)
}

pub(super) fn run(args: &RunArgs, global: &Global, ranks: &Ranks) -> anyhow::Result<()> {
    if !ranks.is_alone() {
        let message = "a model from scratch is trained by one rank alone";
        return Err(BadInput(anyhow!(message)).into());
    }
    if args.fresh || args.dtype.is_some() {
        let message = "--fresh and --dtype are for trainings on files, whose configs name `data`";
        return Err(BadInput(anyhow!(message)).into());
    }
    let device = args.device.clone().unwrap_or_else(run_args::auto);
    let loaded =
        savi_run::load::<Recipe>(&args.config, &args.set).map_err(|e| BadInput(e.into()))?;
    let recipe = loaded.value;
    recipe.validate().map_err(BadInput)?;
    let dir = args.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(&loaded.name));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let resolved = loaded.resolved.to_string();
    let kept = dir.join("config.toml");
    if kept.exists() && std::fs::read_to_string(&kept)? != resolved {
        let message = format!(
            "{}: the folder holds a run of another config; name a new --run-dir",
            dir.display()
        );
        return Err(BadInput(anyhow::anyhow!(message)).into());
    }
    savi_run::write_atomic(&kept, resolved.as_bytes())?;
    let world = recipe.world()?;
    let mut engine = recipe.engine(&world, &dir, &device)?;
    let parameters: usize = engine.model().params().weights().iter().map(|w| w.elements()).sum();
    tracing::info!("{parameters} parameters");
    let metrics = Metrics::open(&dir)?;
    let interrupt = Interrupt::on_signals()?;
    let interrupted = |error| match error {
        TrainError::Interrupted => anyhow::Error::from(Interrupted),
        other => other.into(),
    };
    if let Some(perception) = &recipe.perception {
        let dir = dir.join("perception");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let metrics = Metrics::open(&dir)?;
        let io = TrainIo { dir: &dir, metrics: &metrics, interrupt: &interrupt, ranks };
        let frames = shapes::frames(&engine)?;
        perceive(&mut engine, &shapes::heads(frames), perception, &io, |step, count| {
            let first = step * count as u64;
            let records = (first..first + count as u64).into_par_iter();
            Ok(records.map(|index| shapes::pictures(recipe.seed, frames, index)).collect())
        })
        .map_err(interrupted)?;
    }
    let io = TrainIo { dir: &dir, metrics: &metrics, interrupt: &interrupt, ranks };
    // The engine is the trainer's meanwhile.
    let text = match &world {
        World::Arithmetic(_) => Some(TextModel::new(engine.text_files(), None)?),
        World::Shapes { .. } => None,
    };
    let length = |sample: &Sample| text.as_ref().map_or(Ok(0), |text| length(text, sample));
    let summary = sft_stream(&mut engine, &recipe.sft, &io, |step, count| {
        world.step(&recipe, step, count, &length).map_err(|e| TrainError::Record {
            id: format!("step {step}"),
            reason: format!("{e:#}"),
        })
    })
    .map_err(interrupted)?;
    metrics.write_trainer_state()?;
    let model = dir.join("model");
    engine.save(&model, StoredDType::BF16)?;
    if global.json {
        println!("{}", json!({"model": model, "steps": summary.steps, "parameters": parameters}));
    } else {
        println!("{} steps, {parameters} parameters, model in {}", summary.steps, model.display());
    }
    Ok(())
}

/// The recipe's tokenizer, trained on the words of its first records.
fn tokenizer(recipe: &Recipe, world: &World<'_>, dir: &Path) -> anyhow::Result<Vec<u8>> {
    let path = dir.join("tokenizer.json");
    if path.exists() {
        return Ok(std::fs::read(&path)?);
    }
    let mut corpus = Vec::new();
    for index in 0..recipe.tokenizer_scenes {
        for words in world.words(recipe, index)? {
            corpus.push("user\n".to_owned());
            corpus.push("assistant\n".to_owned());
            corpus.extend(words);
        }
    }
    let bytes = train_tokenizer(corpus.into_iter(), recipe.vocab_size)?;
    savi_run::write_atomic(&path, &bytes)?;
    Ok(bytes)
}

fn special(tokenizer: &[u8], token: &str) -> anyhow::Result<u32> {
    let value: Value = serde_json::from_slice(tokenizer)?;
    value["added_tokens"]
        .as_array()
        .and_then(|tokens| tokens.iter().find(|t| t["content"] == token))
        .and_then(|t| t["id"].as_u64())
        .map(|id| id as u32)
        .with_context(|| format!("the tokenizer has no token {token}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/models");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let loaded = savi_run::load::<Recipe>(&path, &[]).unwrap();
            loaded.value.validate().unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/models");
        let path = folder.join("builtin-tiny-text.toml");
        for (set, expected) in [
            ("init=some/model", "[decoder]"),
            ("dense_steps=5", "dense_steps"),
            ("exercises.first_level=9", "first_level 9"),
            ("exercises.dialogue_share=1.5", "dialogue_share 1.5"),
        ] {
            let loaded = savi_run::load::<Recipe>(&path, &[set.to_owned()]).unwrap();
            let refused = format!("{:#}", loaded.value.validate().unwrap_err());
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn a_step_has_its_tokens_and_is_the_same_again() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/models");
        let recipe: Recipe =
            savi_run::load(&folder.join("builtin-tiny-text.toml"), &[]).unwrap().value;
        let world = recipe.world().unwrap();
        let length = |sample: &Sample| {
            let words = sample.example.conversations.iter().flatten();
            Ok(words.map(|turn| turn.words().split(' ').count()).sum())
        };
        let ids = |step| {
            let samples = world.step(&recipe, step, 1, &length).unwrap();
            let tokens: usize = samples.iter().map(|sample| length(sample).unwrap()).sum();
            assert!((8192..10_000).contains(&tokens), "{tokens}");
            samples.into_iter().map(|sample| sample.example.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(3), ids(3));
        assert_ne!(ids(3), ids(4));
    }
}
