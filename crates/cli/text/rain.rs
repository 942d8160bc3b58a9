//! `savi text rain`: answers by search with self-evaluation.

use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use savi_engine::{Engine, EngineOptions, SentenceEncoder};
use savi_rain::judge::SelfJudge;
use savi_rain::{Config, Error, Inputs, Models, Prompts, Summary};
use savi_run::Interrupt;
use savi_schema::{Embed, Generate, GenerateError, Message, PromptRecord, Role};
use serde::{Deserialize, Serialize};

use super::problems::{Files, Wording};
use crate::Global;
use crate::exit::{BadInput, Interrupted};
use crate::run_args::RunArgs;

/// One complete run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// Seed of everything that is random.
    #[serde(default)]
    pub(crate) seed: u64,
    /// A Hugging Face directory, a name on the hub, a GGUF file, or a built-in model.
    pub(crate) model: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "auto")]
    pub(crate) device: String,
    /// `f32` or `bf16`.
    #[serde(default = "f32")]
    pub(crate) dtype: String,
    /// Prompts to answer, in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<Files>,
    /// Questions to answer, as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) questions: Vec<String>,
    /// What is said with every prompt.
    #[serde(default)]
    pub(crate) wording: Wording,
    /// A sentence encoder's directory. Without one no node counts as similar and none is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) embedder: Option<PathBuf>,
    /// The method.
    #[serde(default)]
    pub(crate) method: Config,
}

fn auto() -> String {
    "auto".to_owned()
}

fn f32() -> String {
    "f32".to_owned()
}

impl RunConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        match &self.prompts {
            Some(files) => {
                ensure!(self.questions.is_empty(), "questions and prompts exclude each other");
                files.validate("prompts")?;
            }
            None => ensure!(!self.questions.is_empty(), "give [prompts] or questions"),
        }
        self.method.validate().map_err(|problem| anyhow!("method.{problem}"))
    }

    fn prompts(&self) -> anyhow::Result<Vec<PromptRecord>> {
        let mut prompts = match &self.prompts {
            Some(files) => files.read(self.seed)?,
            None => {
                let asked = |(at, words): (usize, &String)| PromptRecord {
                    id: format!("question-{:03}", at + 1),
                    prompt: vec![Message::text(Role::User, words)],
                    columns: serde_json::Map::new(),
                };
                self.questions.iter().enumerate().map(asked).collect()
            }
        };
        ensure!(!prompts.is_empty(), "there is nothing to answer");
        self.wording.apply(&mut prompts);
        Ok(prompts)
    }
}

pub(crate) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<()> {
    let loaded = args.load::<RunConfig>()?;
    let config = &loaded.value;
    let whose = || format!("config {}", args.config.display());
    config.validate().with_context(whose).map_err(BadInput)?;
    // Prompts that cannot be read leave no folder behind.
    let prompts = config.prompts().with_context(whose).map_err(BadInput)?;
    let method = &config.method;
    let wording = Prompts::load(&method.prompts, method.form, &method.judge)
        .map_err(|error| BadInput(error.into()))?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let place = (config.device.as_str(), config.dtype.as_str());
    let mut folder = args.open_folder("text rain", &loaded, config.seed, place)?;
    crate::train::announce(&folder, prompts.len(), "prompts");
    crate::hub::fetch(&config.model)?;
    let options = EngineOptions {
        device: config.device.clone(),
        dtype: config.dtype.clone(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    let engine = Engine::load(&config.model, &options).map_err(|e| BadInput(e.into()))?;
    folder.record_model(&config.model, &engine.fingerprint())?;
    let encoder = match &config.embedder {
        Some(dir) => Some(SentenceEncoder::load(dir).map_err(|error| BadInput(error.into()))?),
        None => {
            if method.search.embeds() {
                tracing::warn!(
                    "no embedder: neither similar siblings nor additional nodes; \
                     method.search.similarity and method.search.addition have no effect"
                );
            }
            None
        }
    };
    let embedder = encoder.as_ref().map(SentenceEncoder::fingerprint).unwrap_or_default();
    if let (Some(dir), Some(encoder)) = (&config.embedder, &encoder) {
        folder.record_model(&dir.display().to_string(), encoder.fingerprint())?;
    }
    if let Some(files) = &config.prompts {
        for (name, hash) in files.hashes()? {
            folder.record_input(&name, &hash)?;
        }
    }
    let judge = SelfJudge { scorer: &engine, prompts: &wording, config: &method.judge };
    let models = Models {
        generator: &engine,
        tokens: &engine,
        scorer: &engine,
        judge: &judge,
        embedder: encoder.as_ref().map(|encoder| encoder as &dyn Embed),
    };
    let inputs =
        Inputs { seed: config.seed, prompts: &prompts, models, embedder, wording: &wording };
    let summaries = savi_rain::run(method, &inputs, &folder, &interrupt).map_err(explain)?;
    let counts = engine.counts();
    tracing::info!(
        "{} tokens went through the model; {} tokens of prompts were found computed",
        counts.computed_tokens + counts.decoded_tokens,
        counts.cached_tokens
    );
    match global.json {
        true => println!("{}", serde_json::to_string_pretty(&summaries)?),
        false => print!("{}", render(&summaries)),
    }
    tracing::info!("answers: {}", folder.path("stages").display());
    Ok(())
}

/// A row for each way of answering.
fn render(summaries: &[Summary]) -> String {
    let mut text = format!(
        "{:8}  {:>7}  {:>10}  {:>6}  {:>13}  {:>12}  {:>13}\n",
        "method", "answers", "mean score", "good", "answer tokens", "drawn tokens", "judge prompts"
    );
    for of in summaries {
        text.push_str(&format!(
            "{:8}  {:>7}  {:>10.3}  {:>4.0} %  {:>13.1}  {:>12.1}  {:>13.1}\n",
            of.method.name(),
            of.answers,
            of.mean_score,
            100.0 * of.good,
            of.answer_tokens,
            of.drawn_tokens,
            of.judge_prompts
        ));
    }
    text
}

/// Gives an error of the method its exit status.
fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::Interrupted => Interrupted.into(),
        error @ (Error::Config(_)
        | Error::Prompt(_)
        | Error::Question { .. }
        | Error::Model {
            source:
                GenerateError::BadRequest { .. }
                | GenerateError::TooLong { .. }
                | GenerateError::Media { .. },
            ..
        }) => BadInput(error.into()).into(),
        error => error.into(),
    }
}
