//! `savi eval judge`: a model judges stored replies; what it says is stored and counted, and nothing is asked twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use savi_endpoint::EndpointOptions;
use savi_engine::{Engine, EngineOptions};
use savi_run::{Interrupt, Key, Progress, Stage, write_json_atomic};
use savi_schema::{Generate, GenerateError};
use savi_suites::judged::{Figures, JudgedError, Judgement, Protocol, RULES, Replies, judge};
use savi_suites::stats::{Estimate, Outcome, estimate};
use savi_suites::{Item, View};
use serde::Serialize;

use super::bench::Bench;
use super::config::Config;
use super::finish::Scored;
use crate::Global;
use crate::exit::{BadInput, Interrupted};

/// Judge stored replies.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder of `eval run` or `eval merge`.
    dir: PathBuf,
    /// The judge: a Hugging Face folder, a name on the hub, a GGUF file or a built-in model.
    #[arg(
        long,
        value_name = "MODEL",
        required_unless_present = "endpoint",
        conflicts_with = "endpoint"
    )]
    judge: Option<String>,
    /// Address of an OpenAI-compatible server whose model judges.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Name of its model: name a dated version, as another version is another judge.
    #[arg(long, value_name = "NAME", requires = "endpoint", default_value = "")]
    endpoint_model: String,
    /// Environment variable with its key; without one, no key is sent.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    endpoint_key_env: Option<String>,
    /// The folder of the suite's annotation files, where it is no longer the one of the run.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A folder with another model's replies to the same items, for judges of pairs.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Items judged together; it changes the speed and nothing else.
    #[arg(long, value_name = "N", default_value_t = 16)]
    chunk: usize,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
}

/// `judged.json`, and `judged-against.json` for pairs.
#[derive(Serialize)]
struct File<'a> {
    suite: &'a str,
    /// The judge's name and fingerprint; figures of other judges are not comparable.
    judge: &'a str,
    judge_fingerprint: String,
    rules: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<String>,
    /// Replies that the judge was asked about.
    judged: usize,
    figures: Figures,
    /// Credit by rule where one could read the reply, and by the judge for the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<Estimate>,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let config = Config::of_folder(&args.dir, args.data.as_deref())?;
    let bench = Bench::open(&config, "judged")?;
    let pairs = args.against.is_some();
    let no_protocol = || {
        let (how, other) = match pairs {
            true => ("with --against", "without"),
            false => ("without --against", "with"),
        };
        match Protocol::of(bench.suite.name, !pairs).is_some() {
            true => anyhow::anyhow!("{} is judged {other} --against DIR", bench.suite.name),
            false => anyhow::anyhow!("{} has no judge {how}", bench.suite.name),
        }
    };
    let protocol =
        Protocol::of(bench.suite.name, pairs).with_context(no_protocol).map_err(BadInput)?;
    let scored = Scored::read(&args.dir, View::Normal, &bench, config.seed)?;
    let other = args.against.as_deref().map(|dir| Scored::read(dir, View::Normal, &bench, 0));
    let other = other.transpose()?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    if let Some(url) = &args.endpoint {
        let cache = args.dir.join("answers-of-judge.jsonl");
        let options = EndpointOptions {
            api_key_env: args.endpoint_key_env.clone(),
            cache: Some(cache),
            ..EndpointOptions::new(url, &args.endpoint_model)
        };
        let endpoint = crate::endpoint::open(options, &interrupt)?;
        let name = endpoint.model().to_owned();
        let case = Case { args, bench: &bench, protocol, scored: &scored, other: other.as_ref() };
        let told = case.judged_by(&endpoint, &name, &interrupt, global);
        crate::endpoint::log_usage(&endpoint);
        return told;
    }
    let name = args.judge.clone().unwrap_or_default();
    let options = EngineOptions {
        device: args.device.clone(),
        dtype: args.dtype.clone(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    crate::hub::fetch(&name)?;
    let engine = Engine::load(&name, &options).with_context(|| format!("judge {name}"));
    let engine = engine.map_err(BadInput)?;
    let case = Case { args, bench: &bench, protocol, scored: &scored, other: other.as_ref() };
    case.judged_by(&engine, &name, &interrupt, global)
}

/// What is judged.
struct Case<'a> {
    args: &'a Args,
    bench: &'a Bench,
    protocol: Protocol,
    scored: &'a Scored<'a>,
    other: Option<&'a Scored<'a>>,
}

impl Case<'_> {
    /// The items to judge with their replies.
    fn asked(&self) -> anyhow::Result<Vec<(&Item, Replies<'_>)>> {
        let others: HashMap<&str, &[String]> = self.other.map_or_else(HashMap::new, |other| {
            let pairs = other.items.iter().zip(&other.samples);
            pairs.map(|(item, sample)| (item.id.as_str(), &sample.replies[..])).collect()
        });
        let rule = self.scored.metrics.first().filter(|_| self.protocol.rest);
        let mut asked = Vec::new();
        for (at, (item, sample)) in self.scored.items.iter().zip(&self.scored.samples).enumerate() {
            let read = rule.and_then(|rule| rule.graded[at].reading.as_ref());
            if read.is_some_and(|reading| !reading.needs_judge) {
                continue;
            }
            let other = others.get(item.id.as_str()).copied();
            ensure!(
                other.is_some() || self.other.is_none(),
                "--against: item {} was not asked there",
                item.id
            );
            let replies = Replies { model: &sample.replies, other: other.unwrap_or_default() };
            asked.push((*item, replies));
        }
        Ok(asked)
    }

    fn judged_by(
        &self,
        model: &dyn Generate,
        name: &str,
        interrupt: &Interrupt,
        global: &Global,
    ) -> anyhow::Result<()> {
        let asked = self.asked().map_err(BadInput)?;
        let hashes = |scored: &Scored<'_>| -> Vec<String> {
            let named = scored.samples.iter().map(|s| Key::new("replies").with("r", &s.replies));
            named.map(|key| key.finish()).collect()
        };
        let key = Key::new("judge")
            .with("judge", &model.fingerprint())
            .with("rules", &RULES)
            .with("judged", self.protocol.judged)
            .with("items", &self.bench.facts.hash)
            .with("replies", &hashes(self.scored))
            .with("other", &self.other.map(hashes))
            .finish();
        let place = if self.protocol.pairs { "03-judge-against" } else { "02-judge" };
        let dir = self.args.dir.join("stages").join(place);
        let mut stage: Stage<Judgement> = Stage::open_in(&dir, place, &key)?;
        // A unit is a cluster: its items go to the judge together.
        let mut units: Vec<(&str, Vec<(&Item, Replies<'_>)>)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (item, replies) in asked {
            let place = *places.entry(&item.cluster).or_insert(units.len());
            match units.get_mut(place) {
                Some((_, items)) => items.push((item, replies)),
                None => units.push((&item.cluster, vec![(item, replies)])),
            }
        }
        let mut progress = Progress::new("judging", units.len() as u64);
        progress.resume_at(units.iter().filter(|(name, _)| stage.has(name)).count() as u64);
        let size = self.args.chunk.max(1);
        for (number, chunk) in units.chunks(size).enumerate() {
            interrupt.check().map_err(|_| Interrupted)?;
            let names: Vec<&str> = chunk.iter().map(|(name, _)| *name).collect();
            stage.run(&names, |missing| {
                let items: Vec<(&Item, Replies<'_>)> =
                    missing.iter().flat_map(|&at| chunk[at].1.iter().copied()).collect();
                let told = judge(model, self.protocol.judged, &items, 0);
                let mut told = told.map_err(explain)?.into_iter();
                let per_item = self.protocol.judged.len();
                let of_unit = |&at: &usize| {
                    told.by_ref().take(per_item * chunk[at].1.len()).collect::<Vec<_>>()
                };
                Ok::<_, anyhow::Error>(missing.iter().map(of_unit).collect())
            })?;
            progress.reach((number * size + chunk.len()) as u64);
        }
        progress.finish();
        let judgements = stage.finish(|all| {
            let unparsed = all.iter().filter(|judgement| judgement.opinion.unparsed).count();
            [("asked", all.len()), ("unparsed", unparsed)]
                .map(|(name, count)| (name.to_owned(), count as u64))
                .into()
        })?;
        let file = File {
            suite: self.bench.suite.name,
            judge: name,
            judge_fingerprint: model.fingerprint(),
            rules: RULES,
            against: self.args.against.as_ref().map(|dir| dir.display().to_string()),
            judged: judgements.len(),
            figures: (self.protocol.figures)(&judgements),
            accuracy: self.protocol.rest.then(|| self.combined(&judgements)).flatten(),
        };
        let path = if self.protocol.pairs { "judged-against.json" } else { "judged.json" };
        write_json_atomic(&self.args.dir.join(path), &file)?;
        match global.json {
            true => println!("{}", serde_json::to_string_pretty(&file)?),
            false => print(&file, &self.args.dir.join(path)),
        }
        Ok(())
    }

    /// Accuracy by rule, and by the judge where no rule could read.
    fn combined(&self, judgements: &[Judgement]) -> Option<Estimate> {
        let rule = self.scored.metrics.first()?;
        let said: HashMap<&str, f64> = judgements
            .iter()
            .map(|judgement| (judgement.item.as_str(), judgement.opinion.score.unwrap_or(0.0)))
            .collect();
        let outcome = |(item, graded): (&&Item, &savi_suites::Graded)| {
            let value = graded.value.or_else(|| said.get(item.id.as_str()).copied())?;
            Some(Outcome { id: item.id.clone(), cluster: item.cluster.clone(), value })
        };
        let pairs = self.scored.items.iter().zip(&rule.graded);
        estimate(&pairs.filter_map(outcome).collect::<Vec<_>>())
    }
}

fn explain(error: JudgedError) -> anyhow::Error {
    match error {
        JudgedError::Generate(GenerateError::Interrupted) => Interrupted.into(),
        error @ JudgedError::Missing { .. } => BadInput(error.into()).into(),
        error => error.into(),
    }
}

fn print(file: &File<'_>, path: &Path) {
    println!("{} judged by {} ({} verdicts)", file.suite, file.judge, file.judged);
    let line = |name: &str, estimate: &Estimate| {
        let [low, high] = estimate.ci95;
        let interval = format!("{low:.3} to {high:.3}");
        println!("{name:<34} {:>8.3}  {interval:>18}  {:>7}", estimate.value, estimate.n);
    };
    for figure in &file.figures.0 {
        line(&figure.metric, &figure.estimate);
    }
    if let Some(accuracy) = &file.accuracy {
        line("accuracy, by rule or judge", accuracy);
    }
    tracing::info!("{}", path.display());
}
