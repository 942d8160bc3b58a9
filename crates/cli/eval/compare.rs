//! `savi eval compare`: paired differences between arms.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use savi_run::read_records;
use savi_suites::stats::{Bootstrap, Outcome};
use savi_suites::{Answered, Solved, View, outcomes, solve_outcomes};
use serde::Serialize;

use super::bench::Bench;
use super::config::Config;
use super::finish::Scored;
use super::run::stage_name;
use super::tested::{Tested, correct, shown, tested};
use crate::Global;
use crate::exit::BadInput;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The arm that the others are compared with. An arm is a folder of `eval run` or of a run;
    /// several seeds of it are separated by commas; `FOLDER@N` takes round N of a run (the last if
    /// not given); `NAME=FOLDER` names it.
    #[arg(value_name = "A")]
    base: String,
    /// The other arms.
    #[arg(required = true, value_name = "B")]
    others: Vec<String>,
    /// Show families too (they are always in the machine-readable form).
    #[arg(long)]
    families: bool,
    /// What is compared; length (in tokens) and cut-off are of runs on problems.
    #[arg(long, value_enum, default_value_t = Metric::Accuracy)]
    metric: Metric,
    /// Seed of the intervals.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Compare also where the same items were put in other words.
    #[arg(long)]
    other_words: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Metric {
    Accuracy,
    Length,
    CutOff,
}

impl Metric {
    /// What figures are shown in: shares in percent, lengths as they are.
    fn scale(self) -> f64 {
        if self == Self::Length { 1.0 } else { 100.0 }
    }

    fn of(self, solved: &Solved) -> f64 {
        match self {
            Self::Accuracy => solved.score,
            Self::Length => solved.tokens as f64,
            Self::CutOff => f64::from(solved.cut_off),
        }
    }
}

/// A question or problem with its figure.
struct Graded {
    family: String,
    outcome: Outcome,
    /// Names what was asked, what is right and by which words, where that was kept.
    asked: Option<String>,
}

/// An arm as it was named, with what was graded for each seed.
struct Arm {
    name: String,
    runs: Vec<Vec<Graded>>,
}

#[derive(Debug, Serialize)]
struct Row {
    arm: String,
    against: String,
    /// `None` for all questions.
    family: Option<String>,
    #[serde(flatten)]
    tested: Tested,
    clear: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let base = Arm::read(&args.base, args.metric).map_err(BadInput)?;
    let bootstrap = Bootstrap { seed: args.seed, ..Bootstrap::default() };
    let mut rows = Vec::new();
    for text in &args.others {
        let arm = Arm::read(text, args.metric).map_err(BadInput)?;
        if !args.other_words {
            base.same_questions(&arm).map_err(BadInput)?;
        }
        let families: BTreeSet<&str> =
            base.runs.iter().flatten().map(|graded| graded.family.as_str()).collect();
        for family in std::iter::once(None).chain(families.into_iter().map(Some)) {
            let tested = tested(&base.outcomes(family), &arm.outcomes(family), &bootstrap)
                .with_context(|| format!("{} against {}", arm.name, base.name))
                .map_err(BadInput)?;
            rows.push(Row {
                arm: arm.name.clone(),
                against: base.name.clone(),
                family: family.map(str::to_owned),
                clear: tested.difference.is_clear(),
                tested,
            });
        }
    }
    // Arms stand together, and apart from them what they are like in parts.
    for overall in [true, false] {
        let family = rows.iter_mut().filter(|row| row.family.is_none() == overall);
        correct(family.map(|row| &mut row.tested));
    }
    if global.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_rows(&rows, &base.name, args.families, args.metric.scale());
    }
    Ok(())
}

impl Arm {
    fn read(text: &str, metric: Metric) -> anyhow::Result<Self> {
        let (name, folders) = text.split_once('=').unwrap_or((text, text));
        let runs = folders.split(',').map(|folder| read_graded(folder, metric));
        Ok(Self { name: name.to_owned(), runs: runs.collect::<Result<_, _>>()? })
    }

    /// Refuses arms that were not asked the very same: equal ids are not enough.
    fn same_questions(&self, other: &Self) -> anyhow::Result<()> {
        let asked = |arm: &'_ Self| -> BTreeMap<String, String> {
            let known = arm.runs.iter().flatten();
            let known = known.filter_map(|g| Some((g.outcome.id.clone(), g.asked.clone()?)));
            known.collect()
        };
        let (ours, theirs) = (asked(self), asked(other));
        let differs = ours.iter().find(|(id, hash)| theirs.get(*id).is_some_and(|h| h != *hash));
        match differs {
            None => Ok(()),
            Some((id, _)) => bail!(
                "item {id} was put to {} and {} in other words; --other-words compares them all the same",
                self.name,
                other.name
            ),
        }
    }

    fn outcomes(&self, family: Option<&str>) -> Vec<Vec<Outcome>> {
        let is = |graded: &&Graded| family.is_none_or(|family| graded.family == family);
        let kept = |run: &Vec<Graded>| run.iter().filter(is).map(|g| g.outcome.clone()).collect();
        self.runs.iter().map(kept).collect()
    }
}

/// What was graded in `FOLDER` or `FOLDER@ROUND`.
fn read_graded(text: &str, metric: Metric) -> anyhow::Result<Vec<Graded>> {
    let (folder, round) = match text.rsplit_once('@') {
        Some((folder, round)) if !Path::new(text).exists() => {
            let round: u32 =
                round.parse().with_context(|| format!("{text}: {round:?} is not a round"))?;
            (folder, Some(round))
        }
        _ => (text, None),
    };
    let dir = Path::new(folder);
    if round.is_none() && dir.join("stages").join(stage_name(View::Normal)).exists() {
        return read_samples(dir, metric);
    }
    let (path, solved) = match round {
        None if dir.join("answers.jsonl").exists() => (dir.join("answers.jsonl"), false),
        _ => records_of_round(dir, round)?,
    };
    let graded: Vec<Graded> = if solved {
        let all: Vec<Solved> = read_records(&path)?;
        let outcomes = solve_outcomes(&all, |solved| Some(metric.of(solved)));
        let families = all.into_iter().map(|solved| solved.family);
        families
            .zip(outcomes)
            .map(|(family, outcome)| Graded { family, outcome, asked: None })
            .collect()
    } else {
        if metric != Metric::Accuracy {
            bail!("{}: answers about clips have an accuracy alone", path.display());
        }
        let all: Vec<Answered> = read_records(&path)?;
        let outcomes = outcomes(&all);
        let families = all.into_iter().map(|answered| answered.family);
        families
            .zip(outcomes)
            .map(|(family, outcome)| Graded { family, outcome, asked: None })
            .collect()
    };
    if graded.is_empty() {
        bail!("{} holds no answers", path.display());
    }
    Ok(graded)
}

/// What `eval run` left: the suite's first metric, or what replies were like.
fn read_samples(dir: &Path, metric: Metric) -> anyhow::Result<Vec<Graded>> {
    let config = Config::of_folder(dir, None)?;
    let bench = Bench::open(&config, "compared")?;
    let scored = Scored::read(dir, View::Normal, &bench, config.seed)?;
    let first = scored.metrics.first();
    if metric == Metric::Accuracy && first.is_none() {
        bail!("{}: its replies wait for a judge", dir.display());
    }
    let kind = bench.suite.categories.first();
    let pairs = scored.items.iter().zip(&scored.samples).enumerate();
    let graded = pairs.filter_map(|(at, (item, sample))| {
        let value = match metric {
            Metric::Accuracy => first?.graded[at].value?,
            Metric::Length => sample.tokens as f64,
            Metric::CutOff => f64::from(sample.cut_off),
        };
        let family = kind.and_then(|kind| item.categories.get(*kind)).cloned().unwrap_or_default();
        let (id, cluster) = (item.id.clone(), item.cluster.clone());
        let asked = Some(format!("{} {}", sample.doc_hash, sample.prompt_hash));
        Some(Graded { family, outcome: Outcome { id, cluster, value }, asked })
    });
    Ok(graded.collect())
}

/// The finished evaluation of a round, or of the last one, and whether it is of problems.
fn records_of_round(dir: &Path, round: Option<u32>) -> anyhow::Result<(PathBuf, bool)> {
    let stages = dir.join("stages");
    let mut rounds: Vec<(u32, (PathBuf, bool))> = Vec::new();
    for entry in std::fs::read_dir(&stages)
        .with_context(|| format!("{} has neither answers.jsonl nor stages", dir.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let records = entry.path().join("records.jsonl");
        for (suffix, solved) in [("9-evaluate", false), ("9-solve", true)] {
            if let Some(number) = name.strip_suffix(suffix).and_then(|number| number.parse().ok())
                && records.exists()
            {
                rounds.push((number, (records.clone(), solved)));
            }
        }
    }
    rounds.sort();
    let found = match round {
        None => rounds.pop(),
        Some(round) => rounds.into_iter().find(|(number, _)| *number == round),
    };
    let wanted = round.map_or_else(|| "finished evaluation".to_owned(), |r| format!("round {r}"));
    Ok(found.with_context(|| format!("{} has no {wanted}", dir.display()))?.1)
}

fn print_rows(rows: &[Row], base: &str, families: bool, scale: f64) {
    if let Some(first) = rows.first() {
        let d = &first.tested.difference;
        println!(
            "against {base}: {:.1} on {} questions over {} clusters",
            scale * d.base,
            d.n,
            d.clusters
        );
    }
    let width = rows.iter().map(|row| row.arm.len()).max().unwrap_or(0).max(12);
    println!(
        "{:<width$}  {:>7}  {:>10}  {:>16}  {:>7}  of each seed",
        "",
        if scale == 1.0 { "tokens" } else { "percent" },
        "difference",
        "95 % interval",
        "p"
    );
    for row in rows.iter().filter(|row| families || row.family.is_none()) {
        let d = &row.tested.difference;
        let name = match &row.family {
            None => row.arm.clone(),
            Some(family) => format!("  {family}"),
        };
        let interval = format!("{:+.1} to {:+.1}", scale * d.ci95[0], scale * d.ci95[1]);
        let by_seed: Vec<String> =
            d.by_seed.iter().map(|seed| format!("{:+.1}", scale * seed)).collect();
        println!(
            "{name:<width$}  {:>7.1}  {:>+10.1}  {interval:>16}  {:>7}  {}{}",
            scale * d.other,
            scale * d.difference,
            shown(row.tested.p_holm),
            by_seed.join(" "),
            if row.clear { "  clear of zero" } else { "" }
        );
    }
}
