//! `savi eval compare`: paired differences between arms.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use savi_run::read_records;
use savi_suites::stats::{Bootstrap, Difference, Outcome, paired_difference};
use savi_suites::{Answered, outcomes};
use serde::Serialize;

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
    /// Seed of the intervals.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// An arm as it was named, with the answers of each seed.
struct Arm {
    name: String,
    runs: Vec<Vec<Answered>>,
}

#[derive(Debug, Serialize)]
struct Row {
    arm: String,
    against: String,
    /// `None` for all questions.
    family: Option<String>,
    #[serde(flatten)]
    difference: Difference,
    clear: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let base = Arm::read(&args.base).map_err(BadInput)?;
    let bootstrap = Bootstrap { seed: args.seed, ..Bootstrap::default() };
    let mut rows = Vec::new();
    for text in &args.others {
        let arm = Arm::read(text).map_err(BadInput)?;
        let families: BTreeSet<&str> =
            base.runs.iter().flatten().map(|answered| answered.family.as_str()).collect();
        for family in std::iter::once(None).chain(families.into_iter().map(Some)) {
            let difference =
                paired_difference(&base.outcomes(family), &arm.outcomes(family), &bootstrap)
                    .with_context(|| format!("{} against {}", arm.name, base.name))
                    .map_err(BadInput)?;
            rows.push(Row {
                arm: arm.name.clone(),
                against: base.name.clone(),
                family: family.map(str::to_owned),
                clear: difference.is_clear(),
                difference,
            });
        }
    }
    if global.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_rows(&rows, &base.name, args.families);
    }
    Ok(())
}

impl Arm {
    fn read(text: &str) -> anyhow::Result<Self> {
        let (name, folders) = text.split_once('=').unwrap_or((text, text));
        let runs = folders.split(',').map(read_answers).collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), runs })
    }

    fn outcomes(&self, family: Option<&str>) -> Vec<Vec<Outcome>> {
        let kept = |run: &Vec<Answered>| {
            let kept: Vec<Answered> = run
                .iter()
                .filter(|answered| family.is_none_or(|family| answered.family == family))
                .cloned()
                .collect();
            outcomes(&kept)
        };
        self.runs.iter().map(kept).collect()
    }
}

/// The answers in `FOLDER` or `FOLDER@ROUND`.
fn read_answers(text: &str) -> anyhow::Result<Vec<Answered>> {
    let (folder, round) = match text.rsplit_once('@') {
        Some((folder, round)) if !Path::new(text).exists() => {
            let round: u32 =
                round.parse().with_context(|| format!("{text}: {round:?} is not a round"))?;
            (folder, Some(round))
        }
        _ => (text, None),
    };
    let dir = Path::new(folder);
    let path = match round {
        None if dir.join("answers.jsonl").exists() => dir.join("answers.jsonl"),
        _ => records_of_round(dir, round)?,
    };
    let answered: Vec<Answered> = read_records(&path)?;
    if answered.is_empty() {
        bail!("{} holds no answers", path.display());
    }
    Ok(answered)
}

/// The finished evaluation of a round, or of the last one.
fn records_of_round(dir: &Path, round: Option<u32>) -> anyhow::Result<PathBuf> {
    let stages = dir.join("stages");
    let mut rounds: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&stages)
        .with_context(|| format!("{} has neither answers.jsonl nor stages", dir.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_suffix("9-evaluate").and_then(|number| number.parse().ok());
        let records = entry.path().join("records.jsonl");
        if let Some(number) = number
            && records.exists()
        {
            rounds.push((number, records));
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

fn print_rows(rows: &[Row], base: &str, families: bool) {
    if let Some(first) = rows.first() {
        let d = &first.difference;
        println!(
            "against {base}: {:.1} % of {} questions over {} clips",
            100.0 * d.base,
            d.n,
            d.clusters
        );
    }
    let width = rows.iter().map(|row| row.arm.len()).max().unwrap_or(0).max(12);
    println!(
        "{:<width$}  {:>7}  {:>10}  {:>16}  of each seed",
        "", "percent", "difference", "95 % interval"
    );
    for row in rows.iter().filter(|row| families || row.family.is_none()) {
        let d = &row.difference;
        let name = match &row.family {
            None => row.arm.clone(),
            Some(family) => format!("  {family}"),
        };
        let interval = format!("{:+.1} to {:+.1}", 100.0 * d.ci95[0], 100.0 * d.ci95[1]);
        let by_seed: Vec<String> =
            d.by_seed.iter().map(|seed| format!("{:+.1}", 100.0 * seed)).collect();
        println!(
            "{name:<width$}  {:>7.1}  {:>+10.1}  {interval:>16}  {}{}",
            100.0 * d.other,
            100.0 * d.difference,
            by_seed.join(" "),
            if row.clear { "  clear of zero" } else { "" }
        );
    }
}
