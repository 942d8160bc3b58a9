//! `savi text rain`: answers by search with self-evaluation.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use savi_engine::{Engine, EngineOptions, HiddenMean, SentenceEncoder};
use savi_judge::rewards::RewardFunction;
use savi_rain::judge::{Graded, Judge, SelfJudge};
use savi_rain::{Config, Error, Inputs, Models, Prompts, Summary};
use savi_run::{Evaluation, Interrupt, Key, RunFolder, Stage};
use savi_schema::{
    Completed, Embed, Generate, GenerateError, Message, PromptRecord, Reward, Role, SCHEMA_VERSION,
};
use savi_suites::stats::{Bootstrap, Estimate, mean};
use savi_suites::{Solved, solve_outcomes};
use serde::{Deserialize, Serialize};

use super::problems::{Files, Wording, World};
use super::table;
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
    #[serde(default = "crate::run_args::auto")]
    pub(crate) device: String,
    /// `f32` or `bf16`.
    #[serde(default = "crate::run_args::f32")]
    pub(crate) dtype: String,
    /// Prompts to answer, in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<Files>,
    /// Questions to answer, as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) questions: Vec<String>,
    /// Problems of a synthetic world: those it holds out are answered, and how many are right is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) world: Option<World>,
    /// A judge that knows the answers and is wrong now and then, in place of the model's own judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) graded: Option<GradedJudge>,
    /// What is said with every prompt.
    #[serde(default)]
    pub(crate) wording: Wording,
    /// A sentence encoder's directory, or `hidden-mean` for the mean of the model's own states. Without one no node counts
    /// as similar and none is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) embedder: Option<PathBuf>,
    /// The method.
    #[serde(default)]
    pub(crate) method: Config,
}

/// The embedder that is the model itself.
const HIDDEN_MEAN: &str = "hidden-mean";

/// A judge of known accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GradedJudge {
    /// Who knows which answers are right.
    pub(crate) verifier: RewardFunction,
    /// How often the judge says so.
    pub(crate) accuracy: f64,
}

impl RunConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        match (&self.prompts, &self.world) {
            (Some(files), None) => {
                ensure!(self.questions.is_empty(), "questions and prompts exclude each other");
                files.validate("prompts")?;
            }
            (None, Some(world)) => {
                ensure!(self.questions.is_empty(), "questions and world exclude each other");
                world.validate()?;
                ensure!(world.held_out > 0, "world.held_out: at least 1");
            }
            (Some(_), Some(_)) => bail!("prompts and world exclude each other"),
            (None, None) => {
                ensure!(!self.questions.is_empty(), "give [prompts], [world] or questions");
            }
        }
        if let Some(graded) = &self.graded {
            graded.verifier.build().context("graded.verifier")?;
            let accuracy = graded.accuracy;
            ensure!((0.0..=1.0).contains(&accuracy), "graded.accuracy = {accuracy}: from 0 to 1");
        }
        self.method.validate().map_err(|problem| anyhow!("method.{problem}"))
    }

    fn prompts(&self) -> anyhow::Result<Vec<PromptRecord>> {
        let mut prompts = match (&self.prompts, &self.world) {
            (Some(files), _) => files.read(self.seed)?,
            (None, Some(world)) => world.problems().1,
            (None, None) => {
                let asked = |(at, words): (usize, &String)| PromptRecord {
                    id: format!("question-{:03}", at + 1),
                    prompt: vec![Message::text(Role::User, words)],
                    columns: serde_json::Map::new(),
                };
                self.questions.iter().enumerate().map(asked).collect()
            }
        };
        ensure!(!prompts.is_empty(), "there is nothing to answer");
        if let Some(graded) = &self.graded {
            let unknown = prompts.iter().find(|prompt| !graded.verifier.can_judge(prompt));
            if let Some(prompt) = unknown {
                bail!("graded.verifier: the answer to {} is not known", prompt.id);
            }
        }
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
    let own_states = config.embedder.as_deref() == Some(Path::new(HIDDEN_MEAN));
    let states = HiddenMean(&engine);
    let encoder = match &config.embedder {
        Some(_) if own_states => None,
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
    let embedder = match own_states {
        true => states.fingerprint(),
        false => encoder.as_ref().map(|e| e.fingerprint().to_owned()).unwrap_or_default(),
    };
    if let (Some(dir), Some(encoder)) = (&config.embedder, &encoder) {
        folder.record_model(&dir.display().to_string(), encoder.fingerprint())?;
    }
    if let Some(files) = &config.prompts {
        for (name, hash) in files.hashes()? {
            folder.record_input(&name, &hash)?;
        }
    }
    let own = SelfJudge { scorer: &engine, prompts: &wording, config: &method.judge };
    let verifier = config.graded.as_ref().map(|graded| graded.verifier.build()).transpose()?;
    let graded = config.graded.as_ref().zip(verifier.as_ref()).map(|(graded, verifier)| Graded {
        verifier,
        policy: &engine,
        prompts: &prompts,
        accuracy: graded.accuracy,
        seed: config.seed,
    });
    let judge = graded.as_ref().map_or(&own as &dyn Judge, |graded| graded);
    let models = Models {
        generator: &engine,
        tokens: &engine,
        scorer: &engine,
        judge,
        embedder: match own_states {
            true => Some(&states as &dyn Embed),
            false => encoder.as_ref().map(|encoder| encoder as &dyn Embed),
        },
    };
    let inputs = Inputs {
        seed: config.seed,
        prompts: &prompts,
        models,
        embedder: &embedder,
        wording: &wording,
    };
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
    if config.world.is_some() {
        let right = right(config, &prompts, &engine, &folder, &summaries)?;
        savi_run::write_evaluations(folder.dir(), &right)?;
        if !global.json {
            print!("\n{}", table::render(&right));
        }
    }
    savi_report::write(folder.dir()).context("report")?;
    tracing::info!("answers: {}", folder.path("stages").display());
    Ok(())
}

/// How many answers of each way are right; which ones is kept in a stage.
fn right(
    config: &RunConfig,
    prompts: &[PromptRecord],
    engine: &Engine,
    folder: &RunFolder,
    summaries: &[Summary],
) -> anyhow::Result<Vec<Evaluation>> {
    let verifier = match &config.graded {
        Some(graded) => graded.verifier.clone(),
        None => RewardFunction::MathMatch { column: None, find: Default::default() },
    };
    let verifier = verifier.build()?;
    let key = Key::new("right").with("verifier", &config.graded).with("problems", prompts);
    let mut key = key.with("seed", &config.seed);
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for summary in summaries {
        let name = summary.method.name();
        let answers = savi_rain::answers(folder.dir(), summary.method)?;
        key = key.with(name, &answers);
        let solved = answers.iter().map(|answer| {
            let prompt = prompts.iter().find(|prompt| prompt.id == answer.id);
            let prompt =
                prompt.with_context(|| format!("{}: there is no such prompt", answer.id))?;
            let completion = answer.completion();
            let group = Completed { prompt, completions: std::slice::from_ref(&completion) };
            let verdict = verifier.judge(&[group], engine)?.into_iter().flatten().next().flatten();
            let verdict = verdict.with_context(|| format!("{}: no answer is known", answer.id))?;
            Ok(Solved {
                schema: SCHEMA_VERSION,
                id: format!("{name}/{}", answer.id),
                family: name.to_owned(),
                reply: answer.answer.clone(),
                tokens: answer.token_ids.len(),
                cut_off: !answer.ended,
                score: verdict.score,
            })
        });
        let solved = solved.collect::<anyhow::Result<Vec<Solved>>>()?;
        let outcomes = solve_outcomes(&solved, |solved| Some(solved.score));
        let bootstrap = Bootstrap { seed: config.seed, ..Bootstrap::default() };
        if let Some(Estimate { value, ci95, n, .. }) = mean(&outcomes, &bootstrap) {
            rows.push(Evaluation {
                round: 0,
                suite: config.world.as_ref().map(|world| world.name.clone()).unwrap_or_default(),
                metric: format!("accuracy/{name}"),
                value,
                ci95,
                n,
                by: Default::default(),
            });
        }
        all.extend(solved);
    }
    let mut stage: Stage<Solved> = Stage::open(folder, "05-right", &key.finish())?;
    let ids: Vec<String> = all.iter().map(|solved| solved.id.clone()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    stage.run(&ids, |missing| {
        Ok::<_, anyhow::Error>(missing.iter().map(|&at| vec![all[at].clone()]).collect())
    })?;
    stage.finish(|solved| [("answers".to_owned(), solved.len() as u64)].into())?;
    Ok(rows)
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
