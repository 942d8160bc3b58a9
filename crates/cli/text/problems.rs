//! Where a text method's prompts come from: files, or a synthetic world with known answers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use rayon::prelude::*;
use savi_data::{BadRows, Data, PromptFormat, read_prompts};
use savi_schema::{Message, PromptRecord, Role};
use savi_worlds::arithmetic::{LEVELS, NAME, Problem, Split, Style, problem_of_level, solution};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

/// Prompts in files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    /// A path, or a list of paths and of tables with `path`, `layout`, `fraction` and `max_samples`.
    pub(crate) data: Data,
    /// Their layout: savi, verl, trl or question; told by each row's keys where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layout: Option<String>,
    /// What is done with rows that cannot be used: `error` or `skip`.
    #[serde(default, skip_serializing_if = "BadRows::is_error")]
    pub(crate) bad_rows: BadRows,
}

/// Problems of a synthetic world, drawn for the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct World {
    /// Its name: arithmetic.
    pub(crate) name: String,
    /// Seed of its problems.
    #[serde(default)]
    pub(crate) seed: u64,
    /// Levels (numbers of sums) of its problems.
    #[serde(default = "all_levels")]
    pub(crate) levels: Vec<usize>,
    /// Problems of each level to learn from.
    pub(crate) train: u64,
    /// Problems of each level to measure by.
    pub(crate) held_out: u64,
    /// The part that is measured by: dev or test. Opening `test` is logged.
    #[serde(default = "dev")]
    pub(crate) split: Split,
}

fn all_levels() -> Vec<usize> {
    (1..=LEVELS).collect()
}

fn dev() -> Split {
    Split::Dev
}

impl World {
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.name == NAME, "world.name: {:?} is unknown, only {NAME}", self.name);
        let known = |level: &usize| (1..=LEVELS).contains(level);
        ensure!(
            !self.levels.is_empty() && self.levels.iter().all(known),
            "world.levels: from 1 to {LEVELS}"
        );
        ensure!(self.split != Split::Train, "world.split: dev or test");
        Ok(())
    }

    /// Problems to learn from, and those to measure by.
    pub(crate) fn problems(&self) -> (Vec<PromptRecord>, Vec<PromptRecord>) {
        if self.split == Split::Test && self.held_out > 0 {
            tracing::info!("opening the test split of {NAME}");
        }
        let drawn = |split, each: u64| -> Vec<PromptRecord> {
            // One of each level in turn, so that the first ones are of all.
            let places: Vec<(u64, usize)> = (0..each)
                .flat_map(|at| self.levels.iter().map(move |&level| (at, level)))
                .collect();
            let problem = |(at, level)| record(&problem_of_level(split, self.seed, at, level));
            places.into_par_iter().map(problem).collect()
        };
        (drawn(Split::Train, self.train), drawn(self.split, self.held_out))
    }
}

/// A problem with its answer and a worked solution beside it.
fn record(problem: &Problem) -> PromptRecord {
    let columns = json!({
        "answer": problem.answer.to_string(),
        "solution": solution(problem, Style::Normal),
        "family": format!("level-{}", problem.level()),
    });
    PromptRecord {
        id: problem.id.clone(),
        prompt: vec![Message::text(Role::User, problem.text())],
        columns: columns.as_object().cloned().unwrap_or_else(Map::new),
    }
}

/// What is said to the model with every prompt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Wording {
    /// What the system says, where a prompt has no system's words of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    /// What is added to a prompt's last turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instruction: Option<String>,
}

impl Wording {
    pub(crate) fn apply(&self, prompts: &mut [PromptRecord]) {
        for PromptRecord { prompt, .. } in prompts {
            if let (Some(words), Some(last)) = (&self.instruction, prompt.last_mut()) {
                last.content.push(savi_schema::Part::Text { text: words.clone() });
            }
            if let Some(words) = &self.system
                && prompt.first().is_none_or(|turn| turn.role != Role::System)
            {
                prompt.insert(0, Message::text(Role::System, words.clone()));
            }
        }
    }
}

impl Files {
    pub(crate) fn validate(&self, key: &str) -> anyhow::Result<()> {
        self.data.validate().map_err(|reason| anyhow::anyhow!("{key}.data: {reason}"))?;
        for source in self.data.sources() {
            self.format(source.layout.as_deref()).context(key.to_owned())?;
        }
        Ok(())
    }

    fn format(&self, name: Option<&str>) -> anyhow::Result<Option<PromptFormat>> {
        let Some(name) = name.or(self.layout.as_deref()) else { return Ok(None) };
        let found = PromptFormat::ALL.into_iter().find(|format| format.name() == name);
        let names = PromptFormat::ALL.map(PromptFormat::name).join(", ");
        found.map(Some).with_context(|| format!("layout = {name:?}: expected one of {names}"))
    }

    /// Reads and mixes them.
    pub(crate) fn read(&self, seed: u64) -> anyhow::Result<Vec<PromptRecord>> {
        crate::train::mixture(&self.data, "prompts", seed, |source| {
            let format = self.format(source.layout.as_deref())?;
            Ok(read_prompts(&source.path, format, self.bad_rows, |_| Ok(()))?)
        })
    }

    /// The files by name, with their hashes.
    pub(crate) fn hashes(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let hash = |path: &Path| Ok((path.display().to_string(), savi_run::file_hash(path)?));
        self.data.sources().iter().map(|source| hash(&source.path)).collect()
    }
}
