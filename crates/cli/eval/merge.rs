//! `savi eval merge`: shards become one run.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use savi_run::{FolderOptions, Stage, read_records, write_atomic};
use savi_suites::{Sample, View};
use serde::Deserialize;

use super::bench::Bench;
use super::config::Config;
use super::finish;
use super::run::{SETTINGS, finish_stage, open_folder, stage_name};
use crate::Global;
use crate::exit::BadInput;

/// Put shards together.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folders of all shards.
    #[arg(required = true, value_name = "DIR")]
    shards: Vec<PathBuf>,
    /// The folder of the suite's annotation files, where it is no longer the one of the run.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder for the whole.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Discard what an earlier start left in the folder.
    #[arg(long)]
    fresh: bool,
}

/// What a finished stage says of itself.
#[derive(Deserialize)]
struct Done {
    key: String,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let (config, first) = whole(args).map_err(BadInput)?;
    let bench = Bench::open(&config, "merged")?;
    let text = std::fs::read_to_string(first.join("manifest.json"))?;
    let manifest: savi_run::Manifest = serde_json::from_str(&text)?;
    let options = FolderOptions {
        command: "eval run".to_owned(),
        version: manifest.version,
        fresh: args.fresh,
        seed: config.seed,
        device: manifest.device,
        dtype: config.dtype.clone(),
    };
    let mut folder = open_folder(&args.out, &config, &options)?;
    for (name, fingerprint) in &manifest.models {
        folder.record_model(name, fingerprint)?;
    }
    let settings = first.join(SETTINGS);
    if settings.exists() {
        write_atomic(&folder.path(SETTINGS), &std::fs::read(&settings)?)?;
    }
    let clusters = bench.clusters(&config)?;
    for &view in &config.views {
        let (key, samples) = read(args, view).map_err(BadInput)?;
        let mut by_cluster: HashMap<String, Vec<Sample>> = HashMap::new();
        for sample in samples {
            by_cluster.entry(sample.cluster.clone()).or_default().push(sample);
        }
        let mut stage: Stage<Sample> = Stage::open(&folder, &stage_name(view), &key)?;
        for items in &clusters {
            let name = &items[0].cluster;
            if stage.has(name) {
                continue;
            }
            let of_cluster = by_cluster.remove(name).unwrap_or_default();
            if of_cluster.is_empty() && !config.skip_missing {
                let message = format!("cluster {name} is in none of the shards");
                return Err(BadInput(anyhow::anyhow!(message)).into());
            }
            stage.add_unit(name, of_cluster)?;
        }
        finish_stage(stage)?;
    }
    finish::write(&folder, &config, &bench, None, global)
}

/// The config of the whole, and the first shard's folder; all shards have to be there, once each.
fn whole(args: &Args) -> anyhow::Result<(Config, PathBuf)> {
    let mut whole: Option<(Config, PathBuf)> = None;
    let mut seen = Vec::new();
    let mut count = 0;
    for dir in &args.shards {
        let config = Config::of_folder(dir, args.data.as_deref())?;
        ensure!(config.shard.is_some(), "{} is no shard", dir.display());
        let (shard, shards) = config.shard()?;
        let config = Config { shard: None, ..config };
        match &whole {
            None => whole = Some((config, dir.clone())),
            // Machines may keep their files in places of their own; the items have hashes.
            Some((other, first)) => ensure!(
                *other
                    == Config { data: other.data.clone(), videos: other.videos.clone(), ..config }
                    && shards == count,
                "{} and {} are shards of different runs",
                first.display(),
                dir.display()
            ),
        }
        count = shards;
        ensure!(!seen.contains(&shard), "shard {shard}/{shards} is named twice");
        seen.push(shard);
    }
    let missing = (1..=count).find(|shard| !seen.contains(shard));
    ensure!(missing.is_none(), "shard {}/{count} is missing", missing.unwrap_or(0));
    whole.context("no shards")
}

/// The replies of all shards in a view, and the key that they share.
fn read(args: &Args, view: View) -> anyhow::Result<(String, Vec<Sample>)> {
    let mut key: Option<String> = None;
    let mut samples = Vec::new();
    for dir in &args.shards {
        let stage = dir.join("stages").join(stage_name(view));
        let done = std::fs::read_to_string(stage.join("done.json"))
            .with_context(|| format!("{} is not finished ({})", dir.display(), view.name()))?;
        let done: Done = serde_json::from_str(&done)?;
        ensure!(
            key.as_ref().is_none_or(|key| *key == done.key),
            "{}: its replies are of another model or other items",
            dir.display()
        );
        key = Some(done.key);
        samples.extend(read_records::<Sample>(&stage.join("records.jsonl"))?);
    }
    Ok((key.context("no shards")?, samples))
}
