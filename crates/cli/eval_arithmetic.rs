//! `savi eval run --suite arithmetic`: word problems of every level, drawn as they are asked, and what
//! says how little their answers say without reading: the commonest answer of each level, and the
//! question without its story.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use rayon::prelude::*;
use savi_run::{Interrupt, Key, Progress, RunFolder, Stage};
use savi_schema::{Generate, GenerateError, Message, Request, Role, SCHEMA_VERSION, Sampling};
use savi_suites::extract::Unparsed;
use savi_suites::{Answered, Format, View};
use savi_worlds::arithmetic::{
    LEVELS, NAME, Problem, Split, VERSION, problem_of_level, stated_answer,
};

use crate::exit::Interrupted;

/// The suite's name.
pub(crate) const SUITE: &str = NAME;

/// What is asked.
pub(crate) struct Asking<'a> {
    pub(crate) split: &'a str,
    /// Problems of each level.
    pub(crate) each: usize,
    pub(crate) view: View,
    pub(crate) seed: u64,
    pub(crate) max_tokens: usize,
    pub(crate) chunk: usize,
}

impl Asking<'_> {
    /// Problems of all levels, the same number of each.
    fn problems(&self) -> anyhow::Result<Vec<Problem>> {
        let split = Split::parse(self.split).context("expected train, dev or test")?;
        Ok(drawn(split, self.seed, self.each))
    }

    /// The commonest answer of each level in as many problems of the train split as there are at
    /// least a thousand of, the smaller one where two are as common.
    pub(crate) fn majority(&self) -> anyhow::Result<Vec<Answered>> {
        let mut counts: BTreeMap<(usize, i64), usize> = BTreeMap::new();
        for problem in drawn(Split::Train, self.seed, self.each.max(1000)) {
            *counts.entry((problem.level(), problem.answer)).or_default() += 1;
        }
        let commonest = |level| {
            let of_level = counts.iter().filter(|((of, _), _)| *of == level);
            let best = of_level.max_by_key(|((_, answer), count)| (**count, -answer));
            best.map_or(String::new(), |((_, answer), _)| answer.to_string())
        };
        let answers: Vec<String> = (0..=LEVELS).map(commonest).collect();
        let problems = self.problems()?;
        Ok(problems.iter().map(|p| answered(p, None, answers[p.level()].clone())).collect())
    }

    /// Greedy replies of a model; what an earlier start has asked is read back.
    pub(crate) fn ask(
        &self,
        model: &dyn Generate,
        folder: &RunFolder,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Vec<Answered>> {
        ensure!(
            matches!(self.view, View::Normal | View::Blind),
            "--view: problems are shown as they are (normal) or by their question alone (blind)"
        );
        let problems = self.problems()?;
        let key = Key::new("evaluate")
            .with("model", &model.fingerprint())
            .with("world", &(NAME, VERSION, self.split, self.each, self.seed))
            .with("view", &self.view.name())
            .with("max_tokens", &self.max_tokens)
            .finish();
        let mut stage: Stage<Answered> = Stage::open(folder, "09-evaluate", &key)?;
        let mut progress = Progress::new("problems", problems.len() as u64);
        let sampling = Sampling { max_tokens: self.max_tokens, ..Sampling::default() };
        for chunk in problems.chunks(self.chunk.max(1)) {
            interrupt.check().map_err(|_| Interrupted)?;
            let ids: Vec<&str> = chunk.iter().map(|problem| problem.id.as_str()).collect();
            stage.run(&ids, |missing| {
                let requests: Vec<Request> = missing
                    .iter()
                    .map(|&at| Request {
                        id: chunk[at].id.clone(),
                        messages: self.shown(&chunk[at]),
                        samplings: vec![sampling.clone()],
                        seed: self.seed,
                        ..Request::default()
                    })
                    .collect();
                let replies = model.generate(&requests).map_err(|error| match error {
                    GenerateError::Interrupted => anyhow::Error::new(Interrupted),
                    error => error.into(),
                })?;
                let replies = missing.iter().zip(replies).map(|(&at, replies)| {
                    let reply = replies.into_iter().next().map(|reply| reply.text);
                    vec![answered(&chunk[at], Some(self.view), reply.unwrap_or_default())]
                });
                Ok::<_, anyhow::Error>(replies.collect())
            })?;
            progress.reach(progress_of(&problems, chunk));
        }
        progress.finish();
        Ok(stage.finish(|answered| {
            let correct = answered.iter().filter(|answered| answered.correct).count();
            [("asked", answered.len()), ("correct", correct)]
                .map(|(name, count)| (name.to_owned(), count as u64))
                .into()
        })?)
    }

    fn shown(&self, problem: &Problem) -> Vec<Message> {
        let words = match self.view {
            View::Blind => problem.question.clone(),
            _ => problem.text(),
        };
        vec![Message::text(Role::User, words)]
    }
}

/// How many problems are done after a chunk of them.
fn progress_of(problems: &[Problem], chunk: &[Problem]) -> u64 {
    let last = chunk.last().map(|problem| &problem.id);
    let at = problems.iter().position(|problem| Some(&problem.id) == last);
    at.map_or(0, |at| at as u64 + 1)
}

fn drawn(split: Split, seed: u64, each: usize) -> Vec<Problem> {
    (1..=LEVELS)
        .flat_map(|level| (0..each as u64).map(move |index| (level, index)))
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(level, index)| problem_of_level(split, seed, index, level))
        .collect()
}

/// A problem with the reply to it; a problem is a cluster of its own for intervals.
fn answered(problem: &Problem, view: Option<View>, reply: String) -> Answered {
    let stated = stated_answer(&reply);
    let empty = reply.trim().is_empty();
    Answered {
        schema: SCHEMA_VERSION,
        id: problem.id.clone(),
        clip_id: problem.id.clone(),
        family: format!("level-{}", problem.level()),
        format: Format::Open,
        temporal: false,
        novel: false,
        view,
        question: problem.text(),
        answer: problem.answer.to_string(),
        replies: vec![reply],
        extracted: stated.map(|answer| answer.to_string()),
        unparsed: match stated {
            Some(_) => None,
            None if empty => Some(Unparsed::Empty),
            None => Some(Unparsed::NoAnswer),
        },
        correct: stated == Some(problem.answer),
    }
}
