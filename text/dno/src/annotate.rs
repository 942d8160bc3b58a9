//! The annotator: points and win rates of a prompt's candidates (paper, section 4.1 and appendix).
//!
//! Candidates that say the same are shown once and share the verdict; those that run in circles are not shown: they have
//! no points and lose against all others.

mod pairwise;
mod programmatic;
mod rubric;

use savi_judge::wins::{Wins, duels};
use savi_schema::{Generate, PromptRecord, SCHEMA_VERSION, Score};

use crate::config::{Annotator, AnnotatorKind};
use crate::prompts::Prompts;
use crate::{Annotation, Candidate, Error, Reading};

/// Whoever judges, and on whose behalf.
pub(crate) struct Judge<'a> {
    pub(crate) config: &'a Annotator,
    pub(crate) prompts: &'a Prompts,
    pub(crate) generate: &'a dyn Generate,
    pub(crate) score: &'a dyn Score,
    /// The model that learns: some rewards ask it.
    pub(crate) policy: &'a dyn Score,
    pub(crate) seed: u64,
    pub(crate) iteration: u32,
    pub(crate) stage: &'static str,
}

/// Different texts after one prompt.
pub(crate) struct Task<'a> {
    pub(crate) record: &'a PromptRecord,
    pub(crate) texts: Vec<&'a str>,
}

/// What is said of a task's texts.
#[derive(Debug, Default)]
pub(crate) struct Opinion {
    /// Points of each, from 0 to 6; `None` without a verdict.
    pub(crate) scores: Option<Vec<f64>>,
    /// Chances of each against each other, where the annotator compares; else they follow from the points.
    pub(crate) wins: Option<Wins>,
    pub(crate) readings: Vec<Reading>,
}

impl Judge<'_> {
    /// One opinion for each task.
    pub(crate) fn opinions(&self, tasks: &[Task]) -> Result<Vec<Opinion>, Error> {
        match self.config.kind {
            AnnotatorKind::Rubric => rubric::opinions(self, tasks),
            AnnotatorKind::Pairwise => pairwise::opinions(self, tasks),
            AnnotatorKind::Programmatic => programmatic::opinions(self, tasks),
        }
    }

    /// One annotation for each prompt, over all its candidates.
    pub(crate) fn annotate(
        &self,
        records: &[&PromptRecord],
        candidates: &[&Vec<Candidate>],
    ) -> Result<Vec<Vec<Annotation>>, Error> {
        let mut shown = Vec::with_capacity(records.len());
        let mut tasks = Vec::with_capacity(records.len());
        for (record, candidates) in records.iter().zip(candidates) {
            let (texts, places) = different(candidates);
            tasks.push(Task { record, texts });
            shown.push(places);
        }
        let opinions = self.opinions(&tasks)?;
        let all = records.iter().zip(candidates).zip(shown.iter().zip(opinions));
        Ok(all
            .map(|((record, candidates), (places, opinion))| {
                vec![Annotation {
                    schema: SCHEMA_VERSION,
                    id: record.id.clone(),
                    candidates: candidates.iter().map(|candidate| candidate.id.clone()).collect(),
                    scores: opinion.scores.as_ref().map(|scores| points(scores, places)),
                    wins: opinion.scores.as_ref().map(|scores| {
                        let wins = opinion.wins.unwrap_or_else(|| Wins::of_scores(scores));
                        spread(&wins, places)
                    }),
                    readings: opinion.readings,
                }]
            })
            .collect())
    }
}

/// The different texts of candidates that are shown, and which of them each candidate is; `None` where it is not shown.
fn different(candidates: &[Candidate]) -> (Vec<&str>, Vec<Option<usize>>) {
    let mut texts: Vec<&str> = Vec::new();
    let place = |candidate: &'_ Candidate, texts: &Vec<&str>| {
        texts.iter().position(|text| *text == candidate.text)
    };
    let mut places = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        places.push(match (candidate.degenerate, place(candidate, &texts)) {
            (true, _) => None,
            (false, Some(known)) => Some(known),
            (false, None) => {
                texts.push(&candidate.text);
                Some(texts.len() - 1)
            }
        });
    }
    (texts, places)
}

fn points(scores: &[f64], places: &[Option<usize>]) -> Vec<f64> {
    places.iter().map(|place| place.map_or(0.0, |place| scores[place])).collect()
}

/// Chances of candidates from those of their texts.
fn spread(wins: &Wins, places: &[Option<usize>]) -> Wins {
    let mut all = Wins::even(places.len());
    for (i, j) in duels(places.len()) {
        let chance = match (places[i], places[j]) {
            (Some(one), Some(other)) => wins.chance(one, other),
            (Some(_), None) => 1.0,
            (None, Some(_)) => 0.0,
            (None, None) => 0.5,
        };
        all.set(i, j, chance);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;

    #[test]
    fn same_words_share_a_verdict_and_circles_lose() {
        let candidate = |text: &str, degenerate| Candidate {
            schema: 1,
            id: String::new(),
            prompt: String::new(),
            writer: Writer::Student,
            text: text.to_owned(),
            degenerate,
            finish_reason: None,
            tokens: None,
            logp: None,
            model: None,
        };
        let all = [
            candidate("a", false),
            candidate("loop", true),
            candidate("b", false),
            candidate("a", false),
        ];
        let (texts, places) = different(&all);
        assert_eq!(
            (texts, places.clone()),
            (vec!["a", "b"], vec![Some(0), None, Some(1), Some(0)])
        );
        assert_eq!(points(&[5.0, 2.0], &places), [5.0, 0.0, 2.0, 5.0]);
        let wins = spread(&Wins::of_scores(&[5.0, 2.0]), &places);
        assert_eq!([wins.chance(0, 3), wins.chance(0, 1), wins.chance(2, 3)], [0.5, 1.0, 0.0]);
        assert_eq!(wins.rates()[1], 0.0);
    }
}
