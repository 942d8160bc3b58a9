//! What a round learns from.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_schema::{Example, Pair};
use savi_train::Material;

use crate::{Config, Decision, Error, Learn, NoPairs};

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

    /// What of it is taught, if anything.
    pub(crate) fn material(&self) -> Option<Material<'_>> {
        match self {
            Self::Pairs(pairs) => Some(Material::Pairs(pairs)),
            Self::Examples(examples) => Some(Material::Examples(examples)),
            Self::Nothing => None,
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
