//! What the answers of an evaluation depend on: stored in its folder, which continues no other.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use savi_suites::View;
use serde::{Deserialize, Serialize};

use crate::exit::BadInput;

/// One evaluation, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    pub(crate) suite: String,
    pub(crate) data: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) videos: Option<PathBuf>,
    pub(crate) split: String,
    pub(crate) views: Vec<View>,
    /// Clips, or items of suites without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
    /// The part of the clusters that is asked: `i/n`, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frames: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) majority: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) letters: bool,
    /// Prompts without the chat template, with what ends replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plain: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    /// What stands before every prompt, beside worked examples.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) before: String,
    /// What stands around every item's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) template: Option<String>,
    /// What is said in clips stands before questions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) subtitles: bool,
    /// Worked examples before every prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) shots: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) any_rows: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) skip_missing: bool,
    pub(crate) seed: u64,
    pub(crate) dtype: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Config {
    /// That of a folder which an evaluation was run in; `data` says where the annotation files are now.
    pub(crate) fn of_folder(dir: &Path, data: Option<&Path>) -> anyhow::Result<Self> {
        let path = dir.join("config.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: is it a folder of `eval run`?", path.display()))
            .map_err(BadInput)?;
        let config = toml::from_str(&text).with_context(|| path.display().to_string());
        let config: Self = config.map_err(BadInput)?;
        Ok(match data {
            Some(data) => Self { data: data.to_owned(), videos: None, ..config },
            None => config,
        })
    }

    /// The shard as `(i, n)`, from 1; the whole is `(1, 1)`.
    pub(crate) fn shard(&self) -> anyhow::Result<(usize, usize)> {
        let Some(text) = &self.shard else { return Ok((1, 1)) };
        let parts =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (i, n): (usize, usize) = parts
            .with_context(|| format!("--shard {text}: expected I/N, as 1/4"))
            .map_err(BadInput)?;
        let inside = || -> anyhow::Result<()> {
            ensure!((1..=n).contains(&i), "--shard {text}: the shards of {n} are 1/{n} to {n}/{n}");
            Ok(())
        };
        inside().map_err(BadInput)?;
        Ok((i, n))
    }
}
