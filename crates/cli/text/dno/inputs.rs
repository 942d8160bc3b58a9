//! What `savi text dno` works on: prompts, pairs and answers out of files, and models beside the one that learns.

use std::collections::{HashMap, HashSet};

use anyhow::ensure;
use savi_data::{BadRows, read_answers, read_mixture, read_pairs_with};
use savi_dno::Exam;
use savi_endpoint::{Endpoint, EndpointOptions};
use savi_engine::{Engine, EngineOptions};
use savi_run::{Interrupt, RunFolder, file_hash};
use savi_schema::{Generate, Pair, PromptRecord, Score};

use super::config::{ModelConfig, RunConfig};
use crate::exit::BadInput;

/// What a run learns from and is measured on.
pub(super) struct Sources {
    pub(super) prompts: Vec<PromptRecord>,
    pub(super) pairs: Vec<Pair>,
    pub(super) exam: Exam,
    pub(super) answers: Option<HashMap<String, String>>,
}

/// The prompts alone.
pub(super) fn prompts(config: &RunConfig) -> anyhow::Result<Vec<PromptRecord>> {
    match (&config.world, &config.prompts) {
        (Some(world), _) => Ok(world.problems().0),
        (None, Some(files)) => files.read(config.seed),
        (None, None) => Ok(Vec::new()),
    }
}

/// Reads all files, or draws the world's problems.
pub(super) fn gather(config: &RunConfig, folder: &mut RunFolder) -> anyhow::Result<Sources> {
    let (mut prompts, mut held_out) = match &config.world {
        Some(world) => world.problems(),
        None => (Vec::new(), Vec::new()),
    };
    for (files, into) in [(&config.prompts, &mut prompts), (&config.held_out, &mut held_out)] {
        let Some(files) = files else { continue };
        *into = files.read(config.seed)?;
        for (name, hash) in files.hashes()? {
            folder.record_input(&name, &hash)?;
        }
    }
    set_apart(&prompts, &mut held_out);
    let mut pairs = Vec::new();
    if let Some(data) = &config.pairs {
        pairs = read_mixture(data, config.seed, |source| {
            folder.record_input(&source.path.display().to_string(), &file_hash(&source.path)?)?;
            Ok::<_, anyhow::Error>(read_pairs_with(&source.path, None, BadRows::Error, |_| Ok(()))?)
        })?
        .records;
        let all = pairs.len();
        if let Some(least) = config.least_difference {
            pairs.retain(|pair| match (pair.chosen_score, pair.rejected_score) {
                (Some(chosen), Some(rejected)) => chosen - rejected >= least,
                _ => true,
            });
        }
        tracing::info!("{} of {all} pairs are kept", pairs.len());
    }
    let answers = answers(config, folder, &prompts, &held_out)?;
    let suite = config.world.as_ref().map_or("held-out prompts", |world| world.name.as_str());
    let exam = Exam { suite: suite.to_owned(), prompts: held_out };
    Ok(Sources { prompts, pairs, exam, answers })
}

/// Files may count their rows alike: then the ids of held-out prompts say what they are.
fn set_apart(prompts: &[PromptRecord], held_out: &mut [PromptRecord]) {
    let known: HashSet<&str> = prompts.iter().map(|record| record.id.as_str()).collect();
    if held_out.iter().any(|record| known.contains(record.id.as_str())) {
        for record in held_out {
            record.id.insert_str(0, "held-out: ");
        }
    }
}

/// The teacher's answers that are there: in a file or in a column of the prompts.
fn answers(
    config: &RunConfig,
    folder: &mut RunFolder,
    prompts: &[PromptRecord],
    held_out: &[PromptRecord],
) -> anyhow::Result<Option<HashMap<String, String>>> {
    let Some(teacher) = &config.teacher else { return Ok(None) };
    let (answers, whose) = match (&teacher.answers, &teacher.column) {
        (Some(path), _) => {
            folder.record_input(&path.display().to_string(), &file_hash(path)?)?;
            (read_answers(path)?, path.display().to_string())
        }
        (None, Some(column)) => {
            let told = |record: &PromptRecord| {
                let answer = record.columns.get(column)?.as_str()?;
                Some((record.id.clone(), answer.to_owned()))
            };
            let answers = prompts.iter().chain(held_out).filter_map(told).collect();
            (answers, format!("teacher.column = {column:?}"))
        }
        (None, None) => return Ok(None),
    };
    let known = prompts.iter().filter(|record| answers.contains_key(&record.id)).count();
    ensure!(
        known > 0 || prompts.is_empty(),
        "{whose}: answers none of the {} prompts",
        prompts.len()
    );
    tracing::info!("the teacher answers {known} of {} prompts", prompts.len());
    Ok(Some(answers))
}

/// A model beside the one that learns.
pub(super) enum Beside {
    Local(Box<Engine>),
    Served(Box<Endpoint>),
}

impl Beside {
    /// Who writes.
    pub(super) fn generate(&self) -> &dyn Generate {
        match self {
            Self::Local(engine) => &**engine,
            Self::Served(endpoint) => &**endpoint,
        }
    }

    /// Who is asked for probabilities.
    pub(super) fn score(&self) -> &dyn Score {
        match self {
            Self::Local(engine) => &**engine,
            Self::Served(endpoint) => &**endpoint,
        }
    }

    /// Says what a server was asked.
    pub(super) fn log_usage(&self) {
        if let Self::Served(endpoint) = self {
            crate::endpoint::log_usage(endpoint);
        }
    }
}

/// How models beside the one that learns are opened.
pub(super) struct Others<'a> {
    pub(super) folder: &'a mut RunFolder,
    pub(super) interrupt: &'a Interrupt,
    pub(super) options: &'a EngineOptions,
}

impl Others<'_> {
    /// Opens the model of this role, and notes it in the folder.
    pub(super) fn open(
        &mut self,
        role: &str,
        config: Option<&ModelConfig>,
    ) -> anyhow::Result<Option<Beside>> {
        let Some(config) = config else { return Ok(None) };
        let opened = match (&config.model, &config.endpoint) {
            (Some(name), _) => {
                crate::hub::fetch(name)?;
                let engine =
                    Engine::load(name, self.options).map_err(|error| BadInput(error.into()))?;
                (format!("{name} ({role})"), Beside::Local(Box::new(engine)))
            }
            (None, Some(options)) => {
                let mut options: EndpointOptions = options.clone();
                let cache = self.folder.path(format!("answers-of-{role}.jsonl"));
                options.cache.get_or_insert(cache);
                let endpoint = crate::endpoint::open(options, self.interrupt)?;
                (format!("{} ({role})", endpoint.model()), Beside::Served(Box::new(endpoint)))
            }
            (None, None) => return Ok(None),
        };
        let (name, model) = opened;
        self.folder.record_model(&name, &model.generate().fingerprint())?;
        Ok(Some(model))
    }
}
