//! A suite with its items, ready to be asked and scored.

use std::path::PathBuf;

use anyhow::Context;
use savi_suites::{Clips, Item, Suite, SuiteFacts, catalog};

use super::config::Config;
use super::worlds;
use crate::exit::BadInput;

/// A suite that was opened.
pub(crate) struct Bench {
    pub(crate) suite: &'static Suite,
    /// All items of the split, in its order.
    pub(crate) items: Vec<Item>,
    /// Items that worked examples are made of, and that floors are counted from.
    pub(crate) train: Vec<Item>,
    pub(crate) facts: SuiteFacts,
    /// Where clips are.
    pub(crate) clips: Option<Clips>,
}

impl Bench {
    /// Opens what a config names. `opened_for` is written into the log of sealed splits.
    pub(crate) fn open(config: &Config, opened_for: &str) -> anyhow::Result<Self> {
        if let Some(bench) = worlds::open(config, opened_for)? {
            return Ok(bench);
        }
        let suite = find(&config.suite)?;
        let split = Some(config.split.as_str()).filter(|split| !split.is_empty());
        let open = suite
            .open(split, &config.data, config.any_rows)
            .map_err(|error| BadInput(error.into()))?;
        if open.published == Some(false) {
            tracing::warn!("the items are not the published ones; results say so");
        }
        let manifest = suite.manifest().map_err(|error| BadInput(error.into()))?;
        let split = split.unwrap_or(&manifest.split).to_owned();
        let train = match config.shots {
            0 => Vec::new(),
            _ => worked_examples(suite, config)?,
        };
        let about_clips = open.items.iter().any(|item| item.clip.is_some());
        let clips = about_clips.then(|| clips_below(config)).transpose()?;
        let facts = SuiteFacts {
            split,
            hash: open.hash,
            published: open.published,
            original: open.items.len(),
            shots: config.shots,
        };
        Ok(Self { suite, items: open.items, train, facts, clips })
    }

    /// Clusters in the order of their first items, those of the config's limit and shard.
    pub(crate) fn clusters(&self, config: &Config) -> anyhow::Result<Vec<Vec<&Item>>> {
        let (shard, shards) = config.shard()?;
        let clusters = savi_suites::clusters(&self.items);
        // Of a world that draws its items, the limit says how many are drawn.
        let limit = config.limit.filter(|_| config.suite != worlds::ARITHMETIC.name);
        let kept = clusters.into_iter().take(limit.unwrap_or(usize::MAX));
        let of_shard = kept.enumerate().filter(|(at, _)| at % shards == shard - 1);
        Ok(of_shard.map(|(_, items)| items).collect())
    }
}

/// The clips of `--videos`, or of the folder of annotations.
pub(crate) fn clips_below(config: &Config) -> anyhow::Result<Clips> {
    let root: &PathBuf = config.videos.as_ref().unwrap_or(&config.data);
    Ok(Clips::below(root).with_context(|| root.display().to_string()).map_err(BadInput)?)
}

/// The items that worked examples are made of.
fn worked_examples(suite: &Suite, config: &Config) -> anyhow::Result<Vec<Item>> {
    let Some(shots) = suite.shot else {
        let message = format!("--shots: {} has no worked examples", suite.name);
        return Err(BadInput(anyhow::anyhow!(message)).into());
    };
    let open = suite.open(Some(shots.split), &config.data, config.any_rows);
    Ok(open.map_err(|error| BadInput(error.into()))?.items)
}

/// The suite of a name, or an error with the names that are near.
pub(crate) fn find(name: &str) -> anyhow::Result<&'static Suite> {
    let unknown = || {
        let names: Vec<&str> = worlds::NAMES.into_iter().chain(catalog::names()).collect();
        anyhow::anyhow!("no suite {name:?}; there are {}", names.join(", "))
    };
    Ok(catalog::suite(name).with_context(unknown).map_err(BadInput)?)
}

/// The folder of a suite's annotation files on the hub, downloaded where it is not in the cache.
pub(crate) fn of_hub(name: &str, split: Option<&str>) -> anyhow::Result<PathBuf> {
    let needs = |why: &str| BadInput(anyhow::anyhow!("--suite {name} needs --data DIR{why}"));
    if worlds::NAMES.contains(&name) {
        return Err(needs(", as `savi data make` wrote it").into());
    }
    let suite = find(name)?;
    let manifest = suite.manifest().map_err(|error| BadInput(error.into()))?;
    let Some(hub) = &manifest.hub else {
        return Err(needs(&format!(": its files are at {}", manifest.page)).into());
    };
    let split = split.unwrap_or(&manifest.split);
    let Some(split) = manifest.splits.get(split) else {
        return Err(BadInput(anyhow::anyhow!("{name} has no split {split:?}")).into());
    };
    crate::hub::dataset(hub, &|dir| split.is_below(dir), &|paths| split.wanted(paths))
        .with_context(|| format!("--suite {name} without --data"))
}
