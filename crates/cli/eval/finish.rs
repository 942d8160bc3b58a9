//! From stored replies to figures: `results.json`, `samples_<suite>.jsonl`, `evaluations.json` and a table.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use savi_run::{
    Evaluation, RunFolder, Slice, read_records, write_atomic, write_evaluations, write_json_atomic,
};
use savi_suites::stats::{Bootstrap, Comparison, clustered};
use savi_suites::{
    Gold, Graded, Item, Metric, Row, RunFacts, Sample, View, chance, results, sample_lines,
};
use serde_json::{Map, Value, json};

use super::bench::Bench;
use super::config::Config;
use super::run::{SETTINGS, stage_name};
use super::table;
use super::tested::{Tested, correct, tested};
use crate::Global;
use crate::exit::BadInput;

/// Score stored replies again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder of `eval run` or `eval merge`.
    dir: PathBuf,
    /// The folder of the suite's annotation files, where it is no longer the one of the run.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A folder of an earlier run of the same items: its row and the paired difference stand in the table.
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let config = Config::of_folder(&args.dir, args.data.as_deref())?;
    let bench = Bench::open(&config, "scored again")?;
    let baseline = args.baseline.as_deref().map(|dir| Baseline::read(dir, &bench)).transpose()?;
    let folder = RunFolder::of_another(&args.dir);
    write(&folder, &config, &bench, baseline.as_ref(), global)
}

/// A view with what was said and how it was graded.
pub(crate) struct Scored<'a> {
    pub(crate) view: View,
    pub(crate) items: Vec<&'a Item>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) metrics: Vec<Metric>,
}

impl<'a> Scored<'a> {
    /// Reads the replies of a view below `dir` and scores them; items that were not asked are left out.
    pub(crate) fn read(
        dir: &Path,
        view: View,
        bench: &'a Bench,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let path = dir.join("stages").join(stage_name(view)).join("records.jsonl");
        let stored: Vec<Sample> = read_records(&path)
            .with_context(|| format!("{} has no finished replies ({})", dir.display(), view.name()))
            .map_err(BadInput)?;
        let mut by_id: HashMap<String, Sample> =
            stored.into_iter().map(|sample| (sample.id.clone(), sample)).collect();
        let mut items = Vec::new();
        let mut samples = Vec::new();
        for item in &bench.items {
            if let Some(sample) = by_id.remove(&item.id) {
                let same = || -> anyhow::Result<()> {
                    ensure!(
                        sample.doc_hash == item.hash(),
                        "{}: item {} is another than the one that was asked",
                        dir.display(),
                        item.id
                    );
                    Ok(())
                };
                same().map_err(BadInput)?;
                items.push(item);
                samples.push(sample);
            }
        }
        if let Some(id) = by_id.keys().min() {
            let message = format!("{}: item {id} was asked, and the suite has none", dir.display());
            return Err(BadInput(anyhow::anyhow!(message)).into());
        }
        let metrics = bench.suite.score(&items, &samples.iter().collect::<Vec<_>>(), seed);
        Ok(Self { view, items, samples, metrics })
    }

    pub(crate) fn rows(&self, bench: &Bench) -> Vec<Row> {
        let kinds = if self.view == View::Normal { bench.suite.categories } else { &[] };
        self.metrics.iter().map(|metric| metric.row(&self.items, kinds)).collect()
    }
}

/// How far the figures of a run to come are taken to go with those of this one, item by item.
pub(crate) const CORRELATION: f64 = 0.5;

impl Scored<'_> {
    /// The options that were chosen, from 0, by item, as the first way to read finds them; those that it cannot read are
    /// not there.
    fn submission(&self) -> BTreeMap<&str, usize> {
        let Some(metric) = self.metrics.first() else { return BTreeMap::new() };
        let chosen = |graded: &Graded| {
            let letter = graded.reading.as_ref()?.answer.as_ref()?.bytes().next()?;
            let item = self.items[graded.at];
            let at = usize::from(letter.checked_sub(b'A')?);
            (at < item.options.len()).then_some((item.id.as_str(), at))
        };
        metric.graded.iter().filter_map(chosen).collect()
    }

    /// The smallest true difference to another run on these items that a test at the 5 % level finds four times of five,
    /// if its figures have [`CORRELATION`] with these.
    pub(crate) fn least(&self, metric: &Metric) -> Option<f64> {
        let mean = clustered(&metric.outcomes(&self.items))?;
        let least = Comparison::before(&mean, CORRELATION).minimum_detectable(0.8);
        Some(least).filter(|least| least.is_finite())
    }
}

/// An earlier run that this one is held against.
pub(crate) struct Baseline {
    pub(crate) name: String,
    metrics: Vec<(Metric, Vec<Item>)>,
}

impl Baseline {
    pub(crate) fn read(dir: &Path, bench: &Bench) -> anyhow::Result<Self> {
        let config = Config::of_folder(dir, None)?;
        let scored = Scored::read(dir, View::Normal, bench, config.seed)?;
        let items: Vec<Item> = scored.items.iter().map(|item| (*item).clone()).collect();
        let metrics = scored.metrics.iter().map(|metric| (metric.clone(), items.clone())).collect();
        Ok(Self { name: config.model, metrics })
    }

    /// This run's difference to it on the items of both, by metric.
    pub(crate) fn differences(
        &self,
        scored: &Scored<'_>,
        bootstrap: &Bootstrap,
    ) -> anyhow::Result<Vec<(String, Tested)>> {
        let mut differences = Vec::new();
        for metric in &scored.metrics {
            let is_same = |other: &&(Metric, Vec<Item>)| {
                other.0.name == metric.name && other.0.filter == metric.filter
            };
            let Some((base, items)) = self.metrics.iter().find(is_same) else { continue };
            let items: Vec<&Item> = items.iter().collect();
            let difference =
                tested(&[base.outcomes(&items)], &[metric.outcomes(&scored.items)], bootstrap)
                    .context("--baseline")
                    .map_err(BadInput)?;
            differences.push((format!("{},{}", metric.name, metric.filter), difference));
        }
        correct(differences.iter_mut().map(|(_, tested)| tested));
        Ok(differences)
    }
}

/// Scores all views of a folder and writes and prints what came of it.
pub(crate) fn write(
    folder: &RunFolder,
    config: &Config,
    bench: &Bench,
    baseline: Option<&Baseline>,
    global: &Global,
) -> anyhow::Result<()> {
    let dir = folder.dir();
    let bootstrap = Bootstrap { seed: config.seed, ..Bootstrap::default() };
    let views: Vec<Scored<'_>> = config
        .views
        .iter()
        .map(|&view| Scored::read(dir, view, bench, config.seed))
        .collect::<Result<_, _>>()?;
    let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for scored in &views {
        rows.insert(scored.view.name().to_owned(), scored.rows(bench));
        let samples: Vec<&Sample> = scored.samples.iter().collect();
        let lines = sample_lines(&scored.items, &samples, &scored.metrics)?;
        let name = match scored.view {
            View::Normal => format!("samples_{}.jsonl", bench.suite.name),
            view => format!("samples_{}_{}.jsonl", bench.suite.name, view.name()),
        };
        write_atomic(&folder.path(name), lines.as_bytes())?;
    }
    let normal = views.iter().find(|scored| scored.view == View::Normal);
    let mut more = Map::new();
    let mut floors = Vec::new();
    if let Some(normal) = normal {
        for floor in views.iter().filter(|scored| scored.view != View::Normal) {
            if let (Some(metric), Some(of_floor)) = (normal.metrics.first(), floor.metrics.first())
            {
                let base = [of_floor.outcomes(&floor.items)];
                let with = [metric.outcomes(&normal.items)];
                if let Ok(difference) = tested(&base, &with, &bootstrap) {
                    floors.push((floor.view, difference));
                }
            }
        }
        correct(floors.iter_mut().map(|(_, tested)| tested));
        let difference =
            |(view, difference): &(View, Tested)| (view.name().to_owned(), json!(difference));
        if !floors.is_empty() {
            let floors: Map<String, Value> = floors.iter().map(difference).collect();
            more.insert("over_floors".to_owned(), Value::Object(floors));
        }
        let chosen: usize = bench.clusters(config)?.iter().map(Vec::len).sum();
        let skipped = chosen.saturating_sub(normal.items.len());
        more.insert("skipped".to_owned(), json!(skipped));
        more.insert("chance".to_owned(), json!(chance(&normal.items)));
        if let Some(metric) = normal.metrics.first() {
            more.insert("letters".to_owned(), json!(metric.letters(&normal.items)));
            more.insert("minimum_detectable".to_owned(), json!(normal.least(metric)));
        }
    }
    let against = match (baseline, normal) {
        (Some(baseline), Some(normal)) => baseline.differences(normal, &bootstrap)?,
        _ => Vec::new(),
    };
    if let Some(baseline) = baseline {
        let of_metric = |(name, difference): &(String, Tested)| (name.clone(), json!(difference));
        let by_metric: Map<String, Value> = against.iter().map(of_metric).collect();
        more.insert("paired_baseline".to_owned(), json!({"model": baseline.name, "by": by_metric}));
    }
    if let Some(normal) = normal
        && normal.items.iter().all(|item| item.gold == Gold::Hidden)
    {
        let submission = normal.submission();
        write_json_atomic(&folder.path("submission.json"), &submission)?;
        tracing::info!(
            "the answers are not published: {} of {} are in {}",
            submission.len(),
            normal.items.len(),
            folder.path("submission.json").display()
        );
    }
    let facts = run_facts(folder, config)?;
    let file = results(bench.suite, &bench.facts, &facts, &rows, more);
    write_json_atomic(&folder.path("results.json"), &file)?;
    let evaluations = evaluations(bench, &rows, &views);
    write_evaluations(dir, &evaluations)?;
    if global.json {
        println!("{}", serde_json::to_string_pretty(&file)?);
    } else {
        table::print(bench, &views, &rows, &floors, baseline, &against);
        if let Some(skipped) = file["skipped"].as_u64().filter(|&skipped| skipped > 0) {
            println!("{skipped} items were skipped: their clips are missing.");
        }
    }
    Ok(())
}

fn run_facts(folder: &RunFolder, config: &Config) -> anyhow::Result<RunFacts> {
    let path = folder.path("manifest.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let manifest: savi_run::Manifest = serde_json::from_str(&text)?;
    let fingerprint = manifest.models.values().next().cloned().unwrap_or_default();
    // A floor that asks nobody has none.
    let settings = std::fs::read_to_string(folder.path(SETTINGS)).ok();
    let settings: Value =
        settings.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default();
    let date = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    Ok(RunFacts {
        model: config.model.clone(),
        model_fingerprint: fingerprint,
        device: manifest.device,
        dtype: config.dtype.clone(),
        limit: config.limit,
        seed: config.seed,
        gen_kwargs: json!({"max_tokens": config.max_tokens, "majority": config.majority,
            "letters": config.letters, "plain": config.plain, "system": config.system,
            "subtitles": config.subtitles, "template": config.template}),
        media_policy: json!({"views": config.views, "policy": settings["policy"]}),
        savi_version: manifest.version,
        git_hash: manifest.working_tree_commit,
        date,
    })
}

/// The rows that reports read: `accuracy` is the first metric, of the clip as it is where it was shown.
fn evaluations(
    bench: &Bench,
    rows: &BTreeMap<String, Vec<Row>>,
    views: &[Scored<'_>],
) -> Vec<Evaluation> {
    let mut evaluations = Vec::new();
    let only = views.len() == 1;
    for (view, rows) in rows {
        for (at, row) in rows.iter().enumerate() {
            let Some(estimate) = row.estimate else { continue };
            let shown = view == View::Normal.name() || only;
            let metric = match (at, shown) {
                (0, true) => "accuracy".to_owned(),
                (0, false) => format!("accuracy/{view}"),
                (_, true) => format!("{}/{}", row.metric, row.filter),
                (_, false) => continue,
            };
            let slices = bench.suite.categories.first().and_then(|kind| row.by.get(*kind));
            let slice = |(name, row): (&String, &Row)| {
                let estimate = row.estimate?;
                let (value, ci95, n) = (estimate.value, estimate.ci95, estimate.n);
                Some((name.clone(), Slice { value, ci95, n }))
            };
            let by = slices.into_iter().flatten().filter_map(slice).collect();
            let suite = bench.suite.name.to_owned();
            let (value, ci95, n) = (estimate.value, estimate.ci95, estimate.n);
            evaluations.push(Evaluation { round: 0, suite, metric, value, ci95, n, by });
        }
    }
    // The accuracy first, whatever the views are called.
    evaluations.sort_by_key(|row| row.metric != "accuracy");
    evaluations
}
