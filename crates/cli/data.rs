//! `savi data`: makes data sets and says which there are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use savi_run::{Interrupt, Progress};
use savi_worlds::WorldError;
use savi_worlds::moving_shapes::{self, DatasetConfig, DatasetManifest, Split};

use crate::Global;
use crate::exit::{BadInput, Interrupted};

/// Makes data sets and says which there are.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a synthetic data set.
    Make(Make),
    /// List the data sets that this program knows.
    List,
}

#[derive(Debug, clap::Args)]
struct Make {
    /// The world to draw from: moving-shapes.
    world: String,
    /// Number of clips, shared out: 50 % train, 30 % unlabelled, 10 % dev, 10 % test.
    #[arg(long, required_unless_present = "split_clips")]
    clips: Option<u64>,
    /// Number of clips of each split, in place of shares: train=N,unlabelled=N,dev=N,test=N.
    #[arg(long, value_delimiter = ',', conflicts_with = "clips", value_parser = split_clips)]
    split_clips: Vec<(Split, u64)>,
    /// Seed of all scenes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder to write to.
    #[arg(long)]
    out: PathBuf,
    /// Replace an older data set of this world in the folder.
    #[arg(long)]
    fresh: bool,
}

fn split_clips(text: &str) -> Result<(Split, u64), String> {
    let (name, number) = text.split_once('=').ok_or("expected SPLIT=NUMBER")?;
    let split = Split::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Split::ALL.iter().map(|split| split.name()).collect();
        format!("no split {name:?}, only {}", known.join(", "))
    })?;
    Ok((split, number.parse().map_err(|error| format!("{number:?}: {error}"))?))
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Make(make) => run_make(&make, global),
        Command::List => list(global),
    }
}

fn run_make(args: &Make, global: &Global) -> anyhow::Result<()> {
    if args.world != moving_shapes::NAME {
        let known = moving_shapes::NAME;
        return Err(BadInput(anyhow::anyhow!("no world {:?}, only {known}", args.world)).into());
    }
    let config = match args.clips {
        Some(total) => DatasetConfig::shared(args.seed, total),
        None => DatasetConfig::new(args.seed, args.split_clips.iter().copied().collect()),
    };
    if config.total() == 0 {
        return Err(BadInput(anyhow::anyhow!("a data set of no clips")).into());
    }
    let manifest = make_moving_shapes(&config, &args.out, args.fresh)?;
    if global.json {
        println!("{}", serde_json::to_string_pretty(&manifest)?);
    } else {
        print_summary(&args.out, &manifest);
    }
    Ok(())
}

/// Makes a moving-shapes data set, with progress on stderr; nothing is done where it is already
/// there.
pub(crate) fn make_moving_shapes(
    config: &DatasetConfig,
    out: &Path,
    fresh: bool,
) -> anyhow::Result<DatasetManifest> {
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let progress = Mutex::new(Progress::new("clips", config.total()));
    let report = |done: u64| {
        if let Ok(mut progress) = progress.lock() {
            progress.reach(done);
        }
    };
    match moving_shapes::make(config, out, fresh, &interrupt, &report) {
        Ok(manifest) => {
            if let Ok(progress) = progress.into_inner() {
                progress.finish();
            }
            Ok(manifest)
        }
        Err(WorldError::Interrupted(_)) => Err(Interrupted.into()),
        Err(error @ WorldError::Occupied { .. }) => Err(BadInput(error.into()).into()),
        Err(error) => Err(error.into()),
    }
}

fn print_summary(out: &Path, manifest: &DatasetManifest) {
    println!("{}", out.display());
    println!("{:<12}{:>7}{:>11}{:>7}{:>9}", "split", "clips", "questions", "novel", "seconds");
    for (split, summary) in &manifest.splits {
        println!(
            "{:<12}{:>7}{:>11}{:>7}{:>9.0}",
            split.name(),
            summary.clips,
            summary.questions,
            summary.novel,
            summary.seconds
        );
    }
}

/// Manifests of the known data sets, by name.
const KNOWN: [(&str, &str); 1] =
    [("moving-shapes", include_str!("../../datasets/moving-shapes/manifest.toml"))];

fn list(global: &Global) -> anyhow::Result<()> {
    let mut known = BTreeMap::new();
    for (name, text) in KNOWN {
        let manifest: savi_data::Manifest =
            toml::from_str(text).with_context(|| format!("manifest of {name}"))?;
        known.insert(name, manifest);
    }
    if global.json {
        let rows: Vec<_> = known
            .values()
            .map(|manifest| {
                serde_json::json!({
                    "name": manifest.name,
                    "description": manifest.description,
                    "license": manifest.license,
                    "splits": manifest.splits.keys().collect::<Vec<_>>(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for manifest in known.values() {
            let splits: Vec<&str> = manifest.splits.keys().map(String::as_str).collect();
            println!("{}  ({})", manifest.name, splits.join(", "));
            println!("    {}", manifest.description);
        }
    }
    Ok(())
}
