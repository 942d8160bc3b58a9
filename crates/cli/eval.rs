//! `savi eval`: asks a suite's questions and compares what came of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use savi_endpoint::EndpointOptions;
use savi_engine::{Engine, EngineOptions};
use savi_run::{
    Evaluation, FolderOptions, Interrupt, Key, Progress, RunFolder, Stage, write_atomic,
    write_evaluations,
};
use savi_schema::{CountRule, Generate, MediaPolicy};
use savi_suites::stats::Bootstrap;
use savi_suites::{Answered, EvalOptions, EvaluateError, QuestionRecord, View, by_clip};
use savi_suites::{evaluate_clips, evaluations, majority_class};
use savi_worlds::moving_shapes::{Split, open_split};
use serde::Serialize;

use crate::Global;
use crate::exit::{BadInput, Interrupted};
use crate::{eval_arithmetic, eval_compare};

/// The suite about clips.
const MOVING_SHAPES: &str = "moving-shapes";
/// The name that asks no model: the most frequent answer of each family in the train split.
const MAJORITY_CLASS: &str = "floor:majority-class";

/// Ask a suite's questions, and compare results.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask a model the questions of a suite; started again, it continues where it was.
    Run(Box<Run>),
    /// Paired differences between results, with intervals clustered by clip and seed.
    Compare(eval_compare::Args),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// A Hugging Face folder, builtin:tiny, or floor:majority-class for the floor that answers with
    /// the train split's most frequent answer.
    #[arg(long, required_unless_present = "endpoint", conflicts_with = "endpoint")]
    model: Option<String>,
    /// Address of an OpenAI-compatible server to ask in place of a model here.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Name of its model, where it serves several.
    #[arg(long, value_name = "NAME", requires = "endpoint", default_value = "")]
    endpoint_model: String,
    /// Environment variable with its key.
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    endpoint_key_env: Option<String>,
    /// Frames that it is shown of each clip.
    #[arg(long, value_name = "N", requires = "endpoint", default_value_t = 8,
        value_parser = clap::value_parser!(u16).range(1..))]
    endpoint_frames: u16,
    /// The suite: moving-shapes, or arithmetic (word problems, without clips).
    #[arg(long, default_value = MOVING_SHAPES)]
    suite: String,
    /// The suite's folder, as `savi data make` wrote it; arithmetic has none.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Which questions: train, dev or test. Each use of test is logged in the data set.
    #[arg(long, default_value = "dev", value_parser = split)]
    split: Split,
    /// What of each clip is shown.
    #[arg(long, value_enum, default_value_t = ViewName::Normal)]
    view: ViewName,
    /// Draw K replies to each question and let them vote.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1000))]
    majority: Option<u64>,
    /// Ask about N clips only, the first by id; of arithmetic N problems of each level (default: 100).
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Longest reply, in tokens [default: 32, of arithmetic 512].
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Clips asked about together; it changes the speed and nothing else.
    #[arg(long, value_name = "N", default_value_t = 8)]
    chunk: usize,
    /// Seed of sampling, shuffled views and intervals.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Folder for answers.jsonl and evaluations.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Discard what an earlier start left in the folder.
    #[arg(long)]
    fresh: bool,
}

impl Run {
    /// The model that is asked.
    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(&self.endpoint_model)
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens.unwrap_or(if self.suite == eval_arithmetic::SUITE { 512 } else { 32 })
    }

    fn arithmetic(&self) -> eval_arithmetic::Asking<'_> {
        eval_arithmetic::Asking {
            split: self.split.name(),
            each: self.limit.unwrap_or(100),
            view: self.view.into(),
            seed: self.seed,
            max_tokens: self.max_tokens(),
            chunk: self.chunk.max(64),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ViewName {
    /// The clip as it is.
    Normal,
    /// The question alone.
    Blind,
    /// The middle frame.
    OneFrame,
    /// The frames in a random order.
    Shuffled,
    /// The frames backwards.
    Reversed,
}

impl From<ViewName> for View {
    fn from(name: ViewName) -> Self {
        match name {
            ViewName::Normal => Self::Normal,
            ViewName::Blind => Self::Blind,
            ViewName::OneFrame => Self::OneFrame,
            ViewName::Shuffled => Self::Shuffled,
            ViewName::Reversed => Self::Reversed,
        }
    }
}

fn split(name: &str) -> Result<Split, String> {
    match Split::parse(name) {
        Some(Split::Unlabelled) | None => Err("expected train, dev or test".to_owned()),
        Some(split) => Ok(split),
    }
}

/// What the answers depend on; the folder refuses to continue another.
#[derive(Debug, Serialize)]
struct Config<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_frames: Option<u16>,
    suite: &'a str,
    data: String,
    split: &'a str,
    view: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    majority: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    max_tokens: usize,
    seed: u64,
    dtype: &'a str,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Run(args) => evaluate(&args, global),
        Command::Compare(args) => eval_compare::run(&args, global),
    }
}

fn evaluate(args: &Run, global: &Global) -> anyhow::Result<()> {
    let (folder, answered) = match args.suite.as_str() {
        MOVING_SHAPES => about_clips(args)?,
        eval_arithmetic::SUITE => arithmetic(args)?,
        other => {
            let message = format!("no suite {other:?}, only {MOVING_SHAPES} and arithmetic");
            return Err(BadInput(anyhow::anyhow!(message)).into());
        }
    };
    let mut text = String::new();
    for answer in &answered {
        text.push_str(&serde_json::to_string(answer)?);
        text.push('\n');
    }
    write_atomic(&folder.path("answers.jsonl"), text.as_bytes())?;
    let bootstrap = Bootstrap { seed: args.seed, ..Bootstrap::default() };
    let rows = evaluations(0, &args.suite, &answered, &bootstrap);
    write_evaluations(folder.dir(), &rows)?;
    if global.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_rows(&rows);
    }
    Ok(())
}

/// Word problems: no clips and no folder of data.
fn arithmetic(args: &Run) -> anyhow::Result<(RunFolder, Vec<Answered>)> {
    if args.data.is_some() || args.majority.is_some() || args.limit == Some(0) {
        let message = "--suite arithmetic draws its problems itself: it takes no --data and no \
                       --majority, and a --limit of at least 1";
        return Err(BadInput(anyhow::anyhow!(message)).into());
    }
    let mut folder = open_folder(args, Path::new(""))?;
    let asking = args.arithmetic();
    let watch = || Interrupt::on_signals().context("cannot watch for signals");
    let answered = if let Some(url) = &args.endpoint {
        let options = EndpointOptions {
            api_key_env: args.endpoint_key_env.clone(),
            cache: Some(folder.path("answers-of-endpoint.jsonl")),
            ..EndpointOptions::new(url, &args.endpoint_model)
        };
        let interrupt = watch()?;
        let endpoint = crate::endpoint::open(options, &interrupt)?;
        folder.record_model(endpoint.model(), &endpoint.fingerprint())?;
        let answered = asking.ask(&endpoint, &folder, &interrupt);
        crate::endpoint::log_usage(&endpoint);
        answered?
    } else if args.model() == MAJORITY_CLASS {
        asking.majority()?
    } else {
        let engine = open_engine(args)?;
        folder.record_model(args.model(), &engine.fingerprint())?;
        asking.ask(&engine, &folder, &watch()?)?
    };
    Ok((folder, answered))
}

fn open_engine(args: &Run) -> anyhow::Result<Engine> {
    let options = EngineOptions {
        device: args.device.clone(),
        dtype: args.dtype.clone(),
        ..EngineOptions::default()
    };
    crate::hub::fetch(args.model())?;
    Engine::load(args.model(), &options)
        .with_context(|| format!("model {}", args.model()))
        .map_err(|error| BadInput(error).into())
}

/// Questions about the clips of a folder.
fn about_clips(args: &Run) -> anyhow::Result<(RunFolder, Vec<Answered>)> {
    let Some(data) = &args.data else {
        let message = format!("--suite {} needs --data DIR", args.suite);
        return Err(BadInput(anyhow::anyhow!(message)).into());
    };
    let data = data.canonicalize().with_context(|| data.display().to_string());
    let data = data.map_err(BadInput)?;
    let mut folder = open_folder(args, &data)?;
    let hash = folder.manifest().config_hash.clone();
    let mut questions =
        open_split(&data, args.split, &hash).map_err(|e| BadInput(e.into()))?.questions;
    if let Some(limit) = args.limit {
        questions =
            by_clip(&questions).into_iter().take(limit).flat_map(|(_, q)| q).cloned().collect();
    }
    if questions.is_empty() {
        return Err(BadInput(anyhow::anyhow!("{} has no questions", data.display())).into());
    }

    let watch = || Interrupt::on_signals().context("cannot watch for signals");
    let answered = if let Some(url) = &args.endpoint {
        let policy = MediaPolicy::count(usize::from(args.endpoint_frames), CountRule::MidSegment);
        let options = EndpointOptions {
            api_key_env: args.endpoint_key_env.clone(),
            frames: policy.clone(),
            cache: Some(folder.path("answers-of-endpoint.jsonl")),
            ..EndpointOptions::new(url, &args.endpoint_model)
        };
        let interrupt = watch()?;
        let endpoint = crate::endpoint::open(options, &interrupt)?;
        folder.record_model(endpoint.model(), &endpoint.fingerprint())?;
        let answered = ask(args, &endpoint, policy, &data, &questions, &folder, &interrupt);
        crate::endpoint::log_usage(&endpoint);
        answered?
    } else if args.model() == MAJORITY_CLASS {
        let train = open_split(&data, Split::Train, &hash).map_err(|e| BadInput(e.into()))?;
        majority_class(&train.questions, &questions)
    } else {
        let engine = open_engine(args)?;
        folder.record_model(args.model(), &engine.fingerprint())?;
        let policy = engine.processor().policy.clone();
        ask(args, &engine, policy, &data, &questions, &folder, &watch()?)?
    };

    Ok((folder, answered))
}

fn open_folder(args: &Run, data: &Path) -> anyhow::Result<RunFolder> {
    let config = Config {
        model: args.model(),
        endpoint: args.endpoint.as_deref(),
        endpoint_frames: args.endpoint.as_ref().map(|_| args.endpoint_frames),
        suite: &args.suite,
        data: data.display().to_string(),
        split: args.split.name(),
        view: View::from(args.view).name(),
        majority: args.majority,
        limit: args.limit,
        max_tokens: args.max_tokens(),
        seed: args.seed,
        dtype: &args.dtype,
    };
    let options = FolderOptions {
        command: "eval run".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fresh: args.fresh,
        seed: args.seed,
        device: args.device.clone(),
        dtype: args.dtype.clone(),
    };
    let table = toml::Table::try_from(&config)?;
    RunFolder::open(&args.out, &table, &options).map_err(|error| match error.is_bad_input() {
        true => BadInput(error.into()).into(),
        false => error.into(),
    })
}

/// Asks clip by clip; what an earlier start has asked is read back.
fn ask(
    args: &Run,
    model: &dyn Generate,
    policy: MediaPolicy,
    data: &Path,
    questions: &[QuestionRecord],
    folder: &RunFolder,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Answered>> {
    let options = EvalOptions {
        view: args.view.into(),
        max_tokens: args.max_tokens(),
        seed: args.seed,
        chunk: args.chunk,
        majority: args.majority.map(|k| k as usize),
        ..EvalOptions::new(policy)
    };
    let key = Key::new("evaluate")
        .with("model", &model.fingerprint())
        .with("questions", questions)
        .with("rules", &savi_suites::extract::RULES)
        .with("options", &EvalOptions { chunk: 0, ..options.clone() })
        .finish();
    let mut stage: Stage<Answered> = Stage::open(folder, "09-evaluate", &key)?;
    let clips = by_clip(questions);
    let mut progress = Progress::new("clips", clips.len() as u64);
    progress.resume_at(clips.iter().filter(|(clip, _)| stage.has(clip)).count() as u64);
    for (number, chunk) in clips.chunks(args.chunk.max(1)).enumerate() {
        interrupt.check().map_err(|_| Interrupted)?;
        let ids: Vec<&str> = chunk.iter().map(|(clip, _)| *clip).collect();
        stage.run(&ids, |missing| {
            let asked: Vec<Vec<&QuestionRecord>> =
                missing.iter().map(|&at| chunk[at].1.clone()).collect();
            evaluate_clips(model, &asked, data, &options).map_err(|error| match error {
                EvaluateError::Generate(savi_schema::GenerateError::Interrupted) => {
                    anyhow::Error::new(Interrupted)
                }
                error => error.into(),
            })
        })?;
        let done = (number * args.chunk.max(1) + chunk.len()).min(clips.len());
        progress.reach(done as u64);
    }
    progress.finish();
    let answered = stage.finish(|answered| {
        let correct = answered.iter().filter(|answered| answered.correct).count();
        [("asked", answered.len()), ("correct", correct)]
            .map(|(name, count)| (name.to_owned(), count as u64))
            .into()
    })?;
    if answered.len() != questions.len() {
        bail!("{} answers to {} questions", answered.len(), questions.len());
    }
    Ok(answered)
}

fn print_rows(rows: &[Evaluation]) {
    println!("{:<24} {:>7}  {:>15}  {:>9}", "", "percent", "95 % interval", "questions");
    let line = |name: &str, value: f64, [low, high]: [f64; 2], n: usize| {
        let interval = format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high);
        println!("{name:<24} {:>7.1}  {interval:>15}  {n:>9}", 100.0 * value);
    };
    for row in rows {
        line(&row.metric, row.value, row.ci95, row.n);
        if row.metric == "accuracy" {
            for (family, slice) in &row.by {
                line(&format!("  {family}"), slice.value, slice.ci95, slice.n);
            }
        }
    }
}
