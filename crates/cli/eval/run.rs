//! `savi eval run`: puts every item of a suite to a model, view by view, and writes the results.

use std::path::{Path, PathBuf};

use anyhow::Context;
use savi_endpoint::EndpointOptions;
use savi_engine::{Engine, EngineOptions};
use savi_run::{FolderOptions, Interrupt, Key, Progress, RunFolder, Stage};
use savi_schema::{
    CountRule, FrameSampling, Generate, GenerateError, MediaPolicy, Score, Tokenize,
};
use savi_suites::{AskError, AskOptions, Asking, Item, PLACE, Sample, View};

use super::bench::Bench;
use super::config::Config;
use super::{finish, worlds};
use crate::Global;
use crate::exit::{BadInput, Interrupted};

/// The name that asks no model: the most frequent answer of each family in the train split.
pub(crate) const MAJORITY_CLASS: &str = "floor:majority-class";

/// Ask a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A Hugging Face folder, a name on the hub, a GGUF file, builtin:tiny, or floor:majority-class for the floor
    /// that answers with the train split's most frequent answer (of moving-shapes and arithmetic).
    #[arg(long, required_unless_present = "endpoint", conflicts_with = "endpoint")]
    model: Option<String>,
    /// Address of an OpenAI-compatible server to ask in place of a model here.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Name of its model, where it serves several.
    #[arg(long, value_name = "NAME", requires = "endpoint", default_value = "")]
    endpoint_model: String,
    /// Environment variable with its key; without one, no key is sent.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    endpoint_key_env: Option<String>,
    /// Frames of each clip, in place of the model's own number (a server is sent 8).
    #[arg(long, visible_alias = "endpoint-frames", value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..))]
    frames: Option<u16>,
    /// The suite: see `savi eval list`.
    #[arg(long, default_value = "moving-shapes")]
    suite: String,
    /// The folder of the suite's annotation files (of moving-shapes: as `savi data make` wrote it); arithmetic has
    /// none.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The folder of its clips, searched for their names, where it is another.
    #[arg(long, value_name = "DIR")]
    videos: Option<PathBuf>,
    /// Which part of it, in place of the suite's own. Of moving-shapes and arithmetic: train, dev (the default) or
    /// test; each use of test is logged in the data set.
    #[arg(long)]
    split: Option<String>,
    /// What of each clip is shown; several are rows of one table. By default the clip and every floor: the question
    /// alone, the middle frame, the frames shuffled, the frames backwards.
    #[arg(long = "view", value_enum, value_name = "VIEW")]
    views: Vec<ViewName>,
    /// Draw K replies to each question and let them vote.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1000))]
    majority: Option<u64>,
    /// Ask about the first N clips only; of suites without clips the first N items, of arithmetic N problems of each
    /// level (default: 100).
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Ask a part only, for several machines: I/N, from 1/N to N/N. `savi eval merge` puts them together.
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Longest reply, in tokens, in place of the suite's.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Answer choice questions by the likeliest letter in place of a written reply.
    #[arg(long)]
    letters: bool,
    /// Prompts are plain texts without the chat template, for base models.
    #[arg(long)]
    plain: bool,
    /// What ends a reply to a plain prompt; repeatable.
    #[arg(long, value_name = "TEXT", requires = "plain")]
    stop: Vec<String>,
    /// The system turn.
    #[arg(long, value_name = "TEXT", conflicts_with = "plain")]
    system: Option<String>,
    /// A file whose text stands before every prompt.
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// A file whose text stands around every item's words, which go where it says {question}; where options are scored
    /// it is the question alone, and they follow the text.
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Worked examples before every prompt: the first N of the training split.
    #[arg(long, value_name = "N", default_value_t = 0)]
    shots: usize,
    /// Take rows that are not the published ones; results say so.
    #[arg(long)]
    any_rows: bool,
    /// Leave out items whose clips are missing, and count them, in place of stopping.
    #[arg(long)]
    skip_missing: bool,
    /// Clips asked about together; it changes the speed and nothing else.
    #[arg(long, value_name = "N", default_value_t = 8)]
    chunk: usize,
    /// Seed of sampling, shuffled views, guesses and intervals.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// A folder of an earlier run of the same items: its row and the paired difference stand in the table.
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
    /// Folder for replies, samples and results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Discard what an earlier start left in the folder.
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
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

impl Args {
    /// What the answers depend on. Views are settled once it is known whether there are clips.
    fn config(&self) -> anyhow::Result<Config> {
        let of_world = worlds::NAMES.contains(&self.suite.as_str());
        let default_split = if of_world { "dev" } else { "" };
        let data = match &self.data {
            None if self.suite == worlds::ARITHMETIC.name => PathBuf::new(),
            None => {
                let message = format!("--suite {} needs --data DIR", self.suite);
                return Err(BadInput(anyhow::anyhow!(message)).into());
            }
            Some(data) => whole(data)?,
        };
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| path.display().to_string())
                .map_err(BadInput)
        };
        let template = self.template.as_ref().map(read).transpose()?;
        if template.as_ref().is_some_and(|text| !text.contains(PLACE)) {
            let message = format!("--template: it does not say where {PLACE} goes");
            return Err(BadInput(anyhow::anyhow!(message)).into());
        }
        Ok(Config {
            model: self.model.clone().unwrap_or_else(|| self.endpoint_model.clone()),
            endpoint: self.endpoint.clone(),
            suite: self.suite.clone(),
            data,
            videos: self.videos.as_deref().map(whole).transpose()?,
            split: self.split.clone().unwrap_or_else(|| default_split.to_owned()),
            views: self.views.iter().map(|&view| view.into()).collect(),
            limit: self.limit,
            shard: self.shard.clone(),
            frames: self.frames.or(self.endpoint.as_ref().map(|_| 8)),
            majority: self.majority.map(|k| k as usize),
            max_tokens: self.max_tokens,
            letters: self.letters,
            plain: self.plain.then(|| self.stop.clone()),
            system: self.system.clone(),
            before: self.before.as_ref().map(read).transpose()?.unwrap_or_default(),
            template,
            shots: self.shots,
            any_rows: self.any_rows,
            skip_missing: self.skip_missing,
            seed: self.seed,
            dtype: self.dtype.clone(),
        })
    }

    fn open_folder(&self, config: &Config) -> anyhow::Result<RunFolder> {
        let options = FolderOptions {
            command: "eval run".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fresh: self.fresh,
            seed: self.seed,
            device: self.device.clone(),
            dtype: self.dtype.clone(),
        };
        open_folder(&self.out, config, &options)
    }
}

/// Opens the folder of a config.
pub(crate) fn open_folder(
    dir: &Path,
    config: &Config,
    options: &FolderOptions,
) -> anyhow::Result<RunFolder> {
    let table = toml::Table::try_from(config)?;
    RunFolder::open(dir, &table, options).map_err(|error| match error.is_bad_input() {
        true => BadInput(error.into()).into(),
        false => error.into(),
    })
}

fn whole(path: &Path) -> anyhow::Result<PathBuf> {
    let whole = path.canonicalize().with_context(|| path.display().to_string());
    Ok(whole.map_err(BadInput)?)
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let mut config = args.config()?;
    let opened_for = Key::new("eval").with("config", &config).finish();
    let bench = Bench::open(&config, &opened_for)?;
    config.split.clone_from(&bench.facts.split);
    if config.views.is_empty() {
        let floors = bench.clips.is_some() && config.model != MAJORITY_CLASS;
        config.views = if floors { View::ALL.to_vec() } else { vec![View::Normal] };
    }
    check(&config, &bench).map_err(BadInput)?;
    let clusters = bench.clusters(&config)?;
    let clusters = present(clusters, &bench, &config)?;
    let baseline = args.baseline.as_deref().map(|dir| finish::Baseline::read(dir, &bench));
    let baseline = baseline.transpose()?;
    let mut folder = args.open_folder(&config)?;
    let watch = || Interrupt::on_signals().context("cannot watch for signals");
    if let Some(url) = &args.endpoint {
        let policy = policy_of(&config, MediaPolicy::count(8, CountRule::MidSegment));
        let options = EndpointOptions {
            api_key_env: args.endpoint_key_env.clone(),
            frames: policy.clone(),
            cache: Some(folder.path("answers-of-endpoint.jsonl")),
            ..EndpointOptions::new(url, &args.endpoint_model)
        };
        let interrupt = watch()?;
        let endpoint = crate::endpoint::open(options, &interrupt)?;
        folder.record_model(endpoint.model(), &endpoint.fingerprint())?;
        let asked = Subject { model: &endpoint, scorer: None, interrupt: &interrupt }
            .ask(args, &config, policy, &bench, &clusters, &folder);
        crate::endpoint::log_usage(&endpoint);
        asked?;
    } else if config.model == MAJORITY_CLASS {
        folder.record_model(MAJORITY_CLASS, &bench.facts.hash)?;
        reply_with_the_commonest(&config, &bench, &clusters, &folder)?;
    } else {
        let interrupt = watch()?;
        let engine = open_engine(args, &config.model, &interrupt)?;
        folder.record_model(&config.model, &engine.fingerprint())?;
        let policy = policy_of(&config, engine.processor().policy.clone());
        let scorer: Option<(&dyn Score, &dyn Tokenize)> = Some((&engine, &engine));
        let subject = Subject { model: &engine, scorer, interrupt: &interrupt };
        subject.ask(args, &config, policy, &bench, &clusters, &folder)?;
        let counts = engine.counts();
        tracing::info!(
            "{} clips through the tower; of {} tokens of prompts {} were found computed",
            counts.clips_encoded,
            counts.prompt_tokens,
            counts.cached_tokens
        );
    }
    finish::write(&folder, &config, &bench, baseline.as_ref(), global)
}

/// Refuses what a suite cannot do.
fn check(config: &Config, bench: &Bench) -> anyhow::Result<()> {
    let about_clips = bench.clips.is_some();
    let blind = |item: &Item| item.more.contains_key("blind");
    for view in &config.views {
        let possible = about_clips
            || *view == View::Normal
            || *view == View::Blind && bench.items.iter().all(blind);
        if !possible {
            anyhow::bail!("--view {}: {} shows no clips", view.name(), bench.suite.name);
        }
    }
    if config.model == MAJORITY_CLASS && bench.train.is_empty() {
        anyhow::bail!("{MAJORITY_CLASS}: {} has no train split to count in", bench.suite.name);
    }
    if config.letters && bench.items.iter().any(|item| item.options.is_empty()) {
        anyhow::bail!("--letters: not all items of {} have options", bench.suite.name);
    }
    Ok(())
}

/// The clusters whose clips are there: all of them, unless those that are missing may be skipped.
fn present<'a>(
    clusters: Vec<Vec<&'a Item>>,
    bench: &Bench,
    config: &Config,
) -> anyhow::Result<Vec<Vec<&'a Item>>> {
    let Some(clips) = &bench.clips else { return Ok(clusters) };
    let is_there = |item: &&Item| item.clip.as_ref().is_none_or(|clip| clips.find(clip).is_some());
    let missing: Vec<&Item> =
        clusters.iter().flatten().copied().filter(|item| !is_there(item)).collect();
    let needed = config.views.iter().any(|view| *view != View::Blind);
    match missing.first() {
        Some(first) if needed && config.model != MAJORITY_CLASS => {
            let name = first.clip.as_ref().map_or("", |clip| &clip.name);
            let message = format!(
                "clips of {} items are missing, the first is {name:?} (item {})",
                missing.len(),
                first.id
            );
            if !config.skip_missing {
                let hint = "--videos names their folder, --skip-missing leaves them out";
                return Err(BadInput(anyhow::anyhow!("{message}; {hint}")).into());
            }
            tracing::warn!("{message}; they are left out");
            let kept =
                clusters.into_iter().map(|items| items.into_iter().filter(is_there).collect());
            Ok(kept.filter(|items: &Vec<&Item>| !items.is_empty()).collect())
        }
        _ => Ok(clusters),
    }
}

fn policy_of(config: &Config, mut policy: MediaPolicy) -> MediaPolicy {
    if let Some(count) = config.frames {
        let count = usize::from(count);
        match &mut policy.sampling {
            FrameSampling::Count { frames, .. } => *frames = count,
            other => *other = FrameSampling::Count { frames: count, rule: CountRule::MidSegment },
        }
    }
    policy
}

fn open_engine(args: &Args, model: &str, interrupt: &Interrupt) -> anyhow::Result<Engine> {
    let options = EngineOptions {
        device: args.device.clone(),
        dtype: args.dtype.clone(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    crate::hub::fetch(model)?;
    Engine::load(model, &options)
        .with_context(|| format!("model {model}"))
        .map_err(|error| BadInput(error).into())
}

/// The stage that holds the replies of a view.
pub(crate) fn stage_name(view: View) -> String {
    format!("01-ask-{}", view.name())
}

/// The key of that stage: what the replies of any part of the items depend on.
fn stage_key(
    config: &Config,
    bench: &Bench,
    model: &str,
    options: &AskOptions,
    view: View,
) -> String {
    Key::new("ask")
        .with("model", model)
        .with("items", &bench.facts.hash)
        .with("suite", bench.suite.name)
        .with("limit", &config.limit)
        .with("options", options)
        .with("view", &view.name())
        .finish()
}

/// Who is asked.
struct Subject<'a> {
    model: &'a dyn Generate,
    scorer: Option<(&'a dyn Score, &'a dyn Tokenize)>,
    interrupt: &'a Interrupt,
}

impl Subject<'_> {
    /// Asks view by view and cluster by cluster; what an earlier start has asked is read back.
    fn ask(
        &self,
        args: &Args,
        config: &Config,
        policy: MediaPolicy,
        bench: &Bench,
        clusters: &[Vec<&Item>],
        folder: &RunFolder,
    ) -> anyhow::Result<()> {
        let options = AskOptions {
            seed: config.seed,
            max_tokens: config.max_tokens,
            votes: config.majority,
            letters: config.letters,
            plain: config.plain.clone(),
            system: config.system.clone(),
            before: bench.before(config),
            template: config.template.clone(),
            ..AskOptions::new(policy)
        };
        let asking = Asking {
            suite: bench.suite,
            model: self.model,
            scorer: self.scorer,
            clips: bench.clips.as_ref(),
            options: &options,
        };
        let size = if bench.clips.is_some() { args.chunk.max(1) } else { args.chunk.max(32) };
        for &view in &config.views {
            let key = stage_key(config, bench, &self.model.fingerprint(), &options, view);
            let mut stage: Stage<Sample> = Stage::open(folder, &stage_name(view), &key)?;
            let label = if bench.clips.is_some() { "clips" } else { "items" };
            let mut progress =
                Progress::new(format!("{label}, {}", view.name()), clusters.len() as u64);
            let name = |items: &Vec<&Item>| items[0].cluster.clone();
            progress.resume_at(clusters.iter().filter(|c| stage.has(&name(c))).count() as u64);
            for (number, chunk) in clusters.chunks(size).enumerate() {
                self.interrupt.check().map_err(|_| Interrupted)?;
                let names: Vec<String> = chunk.iter().map(name).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                stage.run(&names, |missing| {
                    let asked: Vec<Vec<&Item>> =
                        missing.iter().map(|&at| chunk[at].clone()).collect();
                    asking.ask(&asked, view).map_err(|error| match error {
                        AskError::Generate(GenerateError::Interrupted) => {
                            anyhow::Error::new(Interrupted)
                        }
                        error => error.into(),
                    })
                })?;
                progress.reach((number * size + chunk.len()) as u64);
            }
            progress.finish();
            finish_stage(stage)?;
        }
        Ok(())
    }
}

/// Closes a stage of replies.
pub(crate) fn finish_stage(stage: Stage<Sample>) -> anyhow::Result<Vec<Sample>> {
    Ok(stage.finish(|samples| {
        let cut_off = samples.iter().filter(|sample| sample.cut_off).count();
        [("asked", samples.len()), ("cut_off", cut_off)]
            .map(|(name, count)| (name.to_owned(), count as u64))
            .into()
    })?)
}

/// The floor that asks nobody.
fn reply_with_the_commonest(
    config: &Config,
    bench: &Bench,
    clusters: &[Vec<&Item>],
    folder: &RunFolder,
) -> anyhow::Result<()> {
    let replies = worlds::majority(bench);
    let key =
        Key::new("majority").with("items", &bench.facts.hash).with("limit", &config.limit).finish();
    let mut stage: Stage<Sample> = Stage::open(folder, &stage_name(View::Normal), &key)?;
    for items in clusters {
        if stage.has(&items[0].cluster) {
            continue;
        }
        let sample = |item: &&Item| {
            let place = bench.items.iter().position(|other| other.id == item.id);
            let reply = place.map(|place| replies[place].clone());
            Sample { replies: reply.into_iter().collect(), ..Sample::new(item, "") }
        };
        stage.add_unit(&items[0].cluster, items.iter().map(sample).collect())?;
    }
    finish_stage(stage)?;
    Ok(())
}
