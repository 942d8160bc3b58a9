//! What a round learns from, and the border to whoever does the learning.

use std::collections::BTreeMap;
use std::path::Path;

use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_run::{Interrupt, Metrics};
use savi_schema::{Example, Generate, Pair};

use crate::{Config, Decision, Error, Learn, NoPairs};

/// A model that can be asked and taught.
pub trait Learner {
    /// The model as it is now: the base with all rounds learnt so far.
    fn generator(&self) -> &dyn Generate;

    /// Names everything that learning depends on besides the material (its config, say).
    fn key(&self) -> String;

    /// Learns one round. Called again with the same folder it continues where it was, and where it
    /// had finished it only takes up the result.
    fn learn(&mut self, material: Material<'_>, at: &Training<'_>) -> Result<Learnt, LearnError>;
}

/// What is learnt.
#[derive(Debug, Clone, Copy)]
pub enum Material<'a> {
    /// Preferences, by DPO.
    Pairs(&'a [Pair]),
    /// Targets, by supervised fine-tuning.
    Examples(&'a [Example]),
}

/// Where and under what a round is learnt.
#[derive(Debug)]
pub struct Training<'a> {
    /// Which round, from 1.
    pub round: u32,
    /// The round's own folder for checkpoints.
    pub dir: &'a Path,
    /// Where figures go; steps count from 1 in each round.
    pub metrics: &'a Metrics,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

/// What learning a round took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learnt {
    /// Steps of the optimiser.
    pub steps: u64,
}

/// Why a round was not learnt.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// It was asked to stop; its state is saved.
    #[error("interrupted")]
    Interrupted,
    /// It failed.
    #[error(transparent)]
    Failed(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// The material of a round as it is stored and taught.
#[derive(Debug, PartialEq)]
pub(crate) enum Lesson {
    Pairs(Vec<Pair>),
    Examples(Vec<Example>),
    Nothing,
}

impl Lesson {
    /// Picks what the round learns, under `pairs_per_round`.
    pub(crate) fn of(
        config: &Config,
        decisions: &[Decision],
        labelled: &[Example],
        seed: u64,
        round: u32,
    ) -> Result<Self, Error> {
        let paired: Vec<&Pair> =
            decisions.iter().filter_map(|decision| decision.pair.as_ref()).collect();
        let limit = config.pairs_per_round;
        let names = ["lesson", &round.to_string()];
        let take = |items: usize, most: Option<usize>| -> Vec<usize> {
            let mut places: Vec<usize> = (0..items).collect();
            if let Some(most) = most.filter(|&most| most < items) {
                places.shuffle(&mut seeded_rng(seed, &names));
                places.truncate(most);
                places.sort_unstable();
            }
            places
        };
        let lesson = match config.learn {
            Learn::Nothing => return Ok(Self::Nothing),
            Learn::Dpo => {
                let places = take(paired.len(), limit);
                Self::Pairs(places.into_iter().map(|at| paired[at].clone()).collect())
            }
            Learn::SftInitial => {
                // As many as there would be pairs, but not those of the pairs: in the critique form
                // these are the very answers that the critic rejects.
                let unjudged: Vec<&Example> =
                    decisions.iter().filter_map(|decision| decision.initial.as_ref()).collect();
                let most = limit.map_or(paired.len(), |limit| limit.min(paired.len()));
                let places = take(unjudged.len(), Some(most));
                Self::Examples(places.into_iter().map(|at| unjudged[at].clone()).collect())
            }
            Learn::SftLabelled => {
                let places = take(labelled.len(), Some(limit.unwrap_or(paired.len())));
                Self::Examples(places.into_iter().map(|at| labelled[at].clone()).collect())
            }
        };
        if !lesson.is_empty() {
            return Ok(lesson);
        }
        let error = Error::NothingToLearn { round, counts: reasons(decisions) };
        match config.no_pairs {
            NoPairs::Fail => Err(error),
            NoPairs::Skip => {
                tracing::warn!("{error}; the model stays as it is");
                Ok(Self::Nothing)
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Pairs(pairs) => pairs.is_empty(),
            Self::Examples(examples) => examples.is_empty(),
            Self::Nothing => false,
        }
    }
}

/// `margin 12, one-candidate 3`: what became of the questions that gave no pair.
fn reasons(decisions: &[Decision]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in decisions.iter().filter_map(|decision| decision.dropped) {
        *counts.entry(reason.name()).or_default() += 1;
    }
    if counts.is_empty() {
        return "no usable question".to_owned();
    }
    let counts: Vec<String> =
        counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    counts.join(", ")
}
