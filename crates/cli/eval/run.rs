//! `savi eval run`: puts every item of a suite to a model, view by view, and writes the results.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use savi_endpoint::EndpointOptions;
use savi_engine::{Engine, EngineOptions};
use savi_run::{FolderOptions, Interrupt, Key, Progress, RunFolder, Stage, write_json_atomic};
use savi_schema::{
    CountRule, FrameSampling, Generate, GenerateError, MediaPolicy, Score, Tokenize,
};
use savi_suites::{AskError, AskOptions, Asking, Item, Sample, View};

use super::args::Args;
use super::bench::Bench;
use super::config::Config;
use super::{finish, worlds};
use crate::Global;
use crate::exit::{BadInput, Interrupted};

/// The name that asks no model: the most frequent answer of each family in the train split.
pub(crate) const MAJORITY_CLASS: &str = "floor:majority-class";

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
    if config.subtitles && !bench.items.iter().any(|item| item.more.contains_key("subtitles")) {
        anyhow::bail!("--subtitles: {} has none", bench.suite.name);
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

/// The file that says how items were put.
pub(crate) const SETTINGS: &str = "asked.json";

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
            before: config.before.clone(),
            shots: config.shots,
            template: config.template.clone(),
            subtitles: config.subtitles,
            ..AskOptions::new(policy)
        };
        // What clips were shown as, resolved: results name it.
        let settings = AskOptions { before: String::new(), ..options.clone() };
        write_json_atomic(&folder.path(SETTINGS), &settings)?;
        let asking = Asking {
            suite: bench.suite,
            model: self.model,
            scorer: self.scorer,
            clips: bench.clips.as_ref(),
            examples: &bench.train,
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
    let ids = bench.items.iter().map(|item| item.id.as_str());
    let replies: HashMap<&str, String> = ids.zip(worlds::majority(bench)).collect();
    let key =
        Key::new("majority").with("items", &bench.facts.hash).with("limit", &config.limit).finish();
    let mut stage: Stage<Sample> = Stage::open(folder, &stage_name(View::Normal), &key)?;
    for items in clusters {
        if stage.has(&items[0].cluster) {
            continue;
        }
        let sample = |item: &&Item| {
            let reply = replies.get(item.id.as_str()).cloned();
            Sample { replies: reply.into_iter().collect(), ..Sample::new(item, "") }
        };
        stage.add_unit(&items[0].cluster, items.iter().map(sample).collect())?;
    }
    finish_stage(stage)?;
    Ok(())
}
