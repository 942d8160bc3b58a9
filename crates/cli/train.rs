//! `savi train`: the trainers on their own. Supervised fine-tuning is here, preferences are in `dpo`, what learns from
//! its own completions in `grpo` and `ppo`.

mod dpo;
mod grpo;
mod online;
mod ppo;
mod prompts;

use std::path::{Path, PathBuf};

use anyhow::Context;
use rayon::prelude::*;
use savi_engine::{Engine, EngineOptions, Processor, StoredDType, TextFiles, train_tokenizer};
use savi_models::Processors;
use savi_nn::Weights;
use savi_run::{Interrupt, Metrics};
use savi_schema::{FrameSampling, Media, MediaPolicy};
use savi_train::{
    Head, LabelledFrames, OptimConfig, Sample, SftConfig, TrainError, TrainIo, perceive, sft_stream,
};
use savi_videosavi::Prompts;
use savi_worlds::moving_shapes::{
    self, CELLS, LessonPlan, Split, cell_answers, cell_labels, lessons, random_moment,
    sample_frames,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Global;
use crate::exit::{BadInput, Interrupted};

/// Train a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Preference training of an adapter on files of pairs.
    Dpo(dpo::Dpo),
    /// Group-relative policy optimisation: completions of a prompt are compared by rewards.
    Grpo(online::Args),
    /// Proximal policy optimisation: completions by rewards, with a value head.
    Ppo(online::Args),
    /// Supervised fine-tuning of a fresh model on a synthetic world.
    Sft(Sft),
}

#[derive(Debug, clap::Args)]
struct Sft {
    /// The run's config.
    #[arg(long)]
    config: PathBuf,
    /// Override a config key: key.sub=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where the run goes (default: runs/NAME, NAME being the config's). The model is in its `model` folder.
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
}

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
    /// Scenes that the tokenizer sees.
    #[serde(default)]
    tokenizer_scenes: u64,
    /// Sight first: every cell of single pictures is labelled, before any words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    perception: Option<OptimConfig>,
    /// Steps of `sft` in which only tracks, descriptions and readings are learnt.
    #[serde(default)]
    dense_steps: u64,
    /// Lessons of a clip.
    lessons: Lessons,
    /// Shape of a fresh model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<Shape>,
    /// The trainer.
    sft: SftConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lessons {
    /// In the dense stage twice as many.
    readings: usize,
    /// Things followed through all frames; in the dense stage twice as many.
    #[serde(default)]
    tracks: usize,
    asks: usize,
    /// Share of the questions that are asked by a description of the clip.
    caption_share: f64,
    /// As many critiques and revisions come with them.
    answers: usize,
    uncriticised_answers: usize,
    judgements: usize,
    choice_share: f64,
    /// Share of answers that say what is seen first.
    grounded_share: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    text_hidden_size: usize,
    text_intermediate_size: usize,
    text_layers: usize,
    text_heads: usize,
    text_kv_heads: usize,
    vision_hidden_size: usize,
    vision_intermediate_size: usize,
    vision_layers: usize,
    vision_heads: usize,
    image_size: usize,
    patch_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "theta")]
    rope_theta: f64,
}

fn theta() -> f64 {
    10000.0
}

/// What a step teaches; each stage stands on the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Whole clips, described and read frame by frame.
    Dense,
    /// Everything.
    Mixed,
}

impl Recipe {
    fn stage(&self, step: u64) -> Stage {
        if step < self.dense_steps { Stage::Dense } else { Stage::Mixed }
    }
}

/// The built-in models' chat template: turns in the ChatML manner, clips before words.
const TEMPLATE: &str = include_str!("chat_template.jinja");

impl Lessons {
    /// Refuses shares that are none.
    fn validate(&self) -> anyhow::Result<()> {
        for (key, share) in [
            ("caption_share", self.caption_share),
            ("choice_share", self.choice_share),
            ("grounded_share", self.grounded_share),
        ] {
            anyhow::ensure!((0.0..=1.0).contains(&share), "{key} {share} is not between 0 and 1");
        }
        Ok(())
    }

    fn plan(&self, stage: Stage) -> LessonPlan {
        let policy = Processor::default().policy;
        if stage == Stage::Dense {
            let none = LessonPlan { policy, asks: 0, answers: 0, ..LessonPlan::default() };
            return LessonPlan {
                readings: self.readings * 2,
                tracks: self.tracks * 2,
                uncriticised_answers: 0,
                judgements: 0,
                ..none
            };
        }
        LessonPlan {
            policy,
            readings: self.readings,
            tracks: self.tracks,
            asks: self.asks,
            caption_share: self.caption_share,
            answers: self.answers,
            uncriticised_answers: self.uncriticised_answers,
            judgements: self.judgements,
            choice_share: self.choice_share,
            grounded_share: self.grounded_share,
            ..LessonPlan::default()
        }
    }
}

impl Shape {
    fn config(&self, vocab: usize, placeholder: u32) -> Value {
        json!({
            "architectures": ["LlavaOnevisionForConditionalGeneration"],
            "model_type": "llava_onevision",
            "dtype": "bfloat16",
            "image_token_index": placeholder,
            "video_token_index": placeholder,
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": true,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": [[self.image_size, self.image_size]],
            "tie_word_embeddings": true,
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": self.text_hidden_size,
                "intermediate_size": self.text_intermediate_size,
                "num_hidden_layers": self.text_layers,
                "num_attention_heads": self.text_heads,
                "num_key_value_heads": self.text_kv_heads,
                "vocab_size": vocab,
                "max_position_embeddings": self.max_position_embeddings,
                "rms_norm_eps": 1e-6,
                "rope_theta": self.rope_theta,
                "hidden_act": "silu",
                "use_sliding_window": false,
                "tie_word_embeddings": true,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": self.vision_hidden_size,
                "intermediate_size": self.vision_intermediate_size,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "num_channels": 3,
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "layer_norm_eps": 1e-6,
                "hidden_act": "gelu_pytorch_tanh",
                "vision_use_head": false,
            },
        })
    }
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Dpo(dpo) => dpo::run(&dpo, global),
        Command::Grpo(args) => grpo::run(&args, global),
        Command::Ppo(args) => ppo::run(&args, global),
        Command::Sft(sft) => run_sft(&sft, global),
    }
}

fn run_sft(args: &Sft, global: &Global) -> anyhow::Result<()> {
    let loaded =
        savi_run::load::<Recipe>(&args.config, &args.set).map_err(|e| BadInput(e.into()))?;
    let recipe = loaded.value;
    recipe.sft.validate().context("sft").map_err(BadInput)?;
    recipe.lessons.validate().context("lessons").map_err(BadInput)?;
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
    let prompts = Prompts::builtin()?;
    let options = EngineOptions { device: args.device.clone(), ..EngineOptions::default() };
    let mut engine = match (&recipe.model, recipe.init.as_str()) {
        (Some(shape), "random") => {
            let tokenizer = tokenizer(&recipe, &prompts, &dir)?;
            let placeholder = special(&tokenizer, "<video>")?;
            Engine::build(
                &shape.config(recipe.vocab_size, placeholder),
                Weights::Random(recipe.seed),
                TextFiles::chatml(tokenizer, TEMPLATE),
                &Processors::default(),
                Some(Processor::default()),
                &options,
            )?
        }
        (None, "random") => {
            return Err(BadInput(anyhow::anyhow!("init = \"random\" needs a [model]")).into());
        }
        (Some(_), _) => {
            let message =
                "[model] is the shape of a fresh model: leave it out, or set init = \"random\"";
            return Err(BadInput(anyhow::anyhow!(message)).into());
        }
        (None, name) => {
            crate::hub::fetch(name)?;
            Engine::load(name, &options).map_err(|e| BadInput(e.into()))?
        }
    };
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
        let io = TrainIo { dir: &dir, metrics: &metrics, interrupt: &interrupt };
        let frames = frames(&engine)?;
        perceive(&mut engine, &heads(frames), perception, &io, |step, count| {
            let first = step * count as u64;
            let records = (first..first + count as u64).into_par_iter();
            Ok(records.map(|index| pictures(&recipe, frames, index)).collect())
        })
        .map_err(interrupted)?;
    }
    let io = TrainIo { dir: &dir, metrics: &metrics, interrupt: &interrupt };
    let summary = sft_stream(&mut engine, &recipe.sft, &io, |step, count| {
        let stage = recipe.stage(step);
        let first = step * count as u64;
        (first..first + count as u64)
            .into_par_iter()
            .map(|index| sample(&recipe, &prompts, index, stage))
            .collect::<anyhow::Result<Vec<_>>>()
            .map_err(|e| TrainError::Record {
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

/// Frames that the model takes of a clip.
fn frames(engine: &Engine) -> anyhow::Result<usize> {
    match engine.processor().policy.sampling {
        FrameSampling::Count { frames, .. } => Ok(frames),
        _ => Err(BadInput(anyhow::anyhow!("perception needs a fixed number of frames")).into()),
    }
}

/// What is asked of every visual token; its frame's number only where others can be seen.
fn heads(frames: usize) -> Vec<Head> {
    let words = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
    let cells = cell_answers().into_iter();
    let cells = cells.map(|(name, w)| Head { name, answers: words(w), before_decoder: true });
    let numbers = (1..=frames).map(|number| number.to_string()).collect();
    cells.chain([Head { name: "frame", answers: numbers, before_decoder: false }]).collect()
}

/// Pictures of as many scenes, in place of a clip.
fn pictures(recipe: &Recipe, frames: usize, index: u64) -> LabelledFrames {
    let policy = Processor::default().policy;
    let mut images = Vec::with_capacity(frames);
    let cells = cell_answers().len();
    let mut labels = vec![Vec::new(); cells + 1];
    for frame in 0..frames {
        let number = index * frames as u64 + frame as u64;
        let scene = moving_shapes::scene(Split::Train, recipe.seed, PICTURES + number);
        let mut rng = savi_nn::rng::stream(recipe.seed, &["pictures", &number.to_string()]);
        let seconds = random_moment(&scene, &policy, &mut rng);
        let sampling = FrameSampling::Times { times: vec![seconds] };
        images.extend(sample_frames(&scene, &MediaPolicy { sampling, ..policy.clone() }));
        for (all, of_frame) in labels.iter_mut().zip(cell_labels(&scene, seconds)) {
            all.extend(of_frame);
        }
        labels[cells].extend([(frame as u32, 1.0); CELLS * CELLS]);
    }
    LabelledFrames { id: format!("pictures-{index}"), frames: images, labels }
}

/// Scenes from here on are for pictures; those of clips come before.
const PICTURES: u64 = 1 << 32;

fn sample(recipe: &Recipe, prompts: &Prompts, index: u64, stage: Stage) -> anyhow::Result<Sample> {
    let plan = recipe.lessons.plan(stage);
    let scene = moving_shapes::scene(Split::Train, recipe.seed, index);
    let mut rng = savi_nn::rng::stream(recipe.seed, &["lessons", &index.to_string()]);
    let lessons = lessons(&scene, &mut rng, &plan);
    let policy = plan.policy;
    let id = format!("train-{index}");
    let media = Media { source: id.clone(), policy: Some(policy.clone()) };
    let example = crate::lessons::example(prompts, &id, media, &lessons)?;
    let kinds = lessons.iter().map(crate::lessons::kind).collect();
    Ok(Sample { example, clips: vec![sample_frames(&scene, &policy)], kinds })
}

/// The recipe's tokenizer, trained on the words of the lessons of its first scenes.
fn tokenizer(recipe: &Recipe, prompts: &Prompts, dir: &Path) -> anyhow::Result<Vec<u8>> {
    let path = dir.join("tokenizer.json");
    if path.exists() {
        return Ok(std::fs::read(&path)?);
    }
    let plan = recipe.lessons.plan(Stage::Mixed);
    let mut corpus = Vec::new();
    for index in 0..recipe.tokenizer_scenes {
        let scene = moving_shapes::scene(Split::Train, recipe.seed, index);
        let mut rng = savi_nn::rng::stream(recipe.seed, &["lessons", &index.to_string()]);
        let media = Media { source: String::new(), policy: None };
        let example = crate::lessons::example(
            prompts,
            "tokenizer",
            media,
            &lessons(&scene, &mut rng, &plan),
        )?;
        for conversation in example.conversations {
            corpus.push("user\n".to_owned());
            corpus.push("assistant\n".to_owned());
            corpus.extend(conversation.iter().map(savi_schema::Message::words));
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
    fn shares_that_are_none_are_refused_by_key() {
        let good = Lessons {
            readings: 0,
            tracks: 0,
            asks: 0,
            caption_share: 0.0,
            answers: 0,
            uncriticised_answers: 0,
            judgements: 0,
            choice_share: 1.0,
            grounded_share: 0.5,
        };
        assert!(good.validate().is_ok());
        for share in [-0.1, 1.5, f64::NAN] {
            let refused = |bad: Lessons| bad.validate().unwrap_err().to_string();
            let caption = refused(Lessons { caption_share: share, ..good.clone() });
            let choice = refused(Lessons { choice_share: share, ..good.clone() });
            let grounded = refused(Lessons { grounded_share: share, ..good.clone() });
            assert!(caption.contains("caption_share"), "{caption}");
            assert!(choice.contains("choice_share"), "{choice}");
            assert!(grounded.contains("grounded_share"), "{grounded}");
        }
    }
}
