//! One turn of the loop: the model as it is now, the prompts of the turn, and the order of its stages.

use std::collections::{BTreeMap, HashMap};

use savi_run::{Interrupt, Key, Progress, Record, RunFolder, Stage};
use savi_schema::{Generate, PromptRecord, Score};
use serde::Serialize;

use crate::annotate::Judge;
use crate::candidates::{answer, sample, teacher_key};
use crate::dynamics::{Dynamics, dynamics};
use crate::pair::pair;
use crate::prompts::Prompts;
use crate::{Annotation, Candidate, Config, Decision, Error, PairKind};

/// Where the teacher's answers come from.
#[derive(Clone, Copy)]
pub enum Teacher<'a> {
    /// There is no teacher.
    Nobody,
    /// Answers that are there, by prompt.
    Answers(&'a HashMap<String, String>),
    /// A model is asked.
    Model(&'a dyn Generate),
}

/// A model that judges in place of the one that learns. It stays as it is while that one learns.
#[derive(Clone, Copy)]
pub struct Other<'a> {
    /// For rubrics.
    pub generate: &'a dyn Generate,
    /// For comparisons.
    pub score: &'a dyn Score,
}

/// What the stages of one iteration share.
pub(crate) struct Iteration<'a> {
    pub(crate) number: u32,
    pub(crate) seed: u64,
    pub(crate) config: &'a Config,
    pub(crate) prompts: &'a Prompts,
    /// The prompts of this iteration.
    pub(crate) records: Vec<&'a PromptRecord>,
    pub(crate) model: &'a dyn Generate,
    pub(crate) scorer: &'a dyn Score,
    pub(crate) fingerprint: String,
    pub(crate) teacher: Teacher<'a>,
    /// Who judges, if it is not the model itself.
    pub(crate) annotator: Option<Other<'a>>,
    pub(crate) folder: &'a RunFolder,
    pub(crate) interrupt: &'a Interrupt,
}

impl Iteration<'_> {
    /// The key on which stages build: what the iteration is about, but not the model.
    pub(crate) fn key(&self, stage: &str) -> Key {
        Key::new(stage)
            .with("iteration", &self.number)
            .with("seed", &self.seed)
            .with("prompts", &self.records)
    }

    /// Adds to a key what a verdict depends on.
    pub(crate) fn judged(&self, key: Key) -> Key {
        let judge = match self.annotator {
            Some(other) => other.generate.fingerprint(),
            None => self.fingerprint.clone(),
        };
        key.with("annotator", &self.config.annotator)
            .with("judge", &judge)
            .with("wording", self.prompts.ids())
            .with("rules", &savi_judge::RULES)
    }

    /// Whoever judges, for a stage of this name.
    pub(crate) fn judge(&self, stage: &'static str) -> Judge<'_> {
        Judge {
            config: &self.config.annotator,
            prompts: self.prompts,
            generate: self.annotator.map_or(self.model, |other| other.generate),
            score: self.annotator.map_or(self.scorer, |other| other.score),
            policy: self.scorer,
            seed: self.seed,
            iteration: self.number,
            stage,
        }
    }

    pub(crate) fn stage<R: Record>(
        &self,
        place: u32,
        name: &str,
        key: &Key,
    ) -> Result<Stage<R>, Error> {
        Ok(Stage::open(self.folder, &stage_name(self.number, place, name), &key.clone().finish())?)
    }
}

/// Makes an iteration's pairs: the teacher's answers, the iterate's samples, what the annotator says of them, the pairs.
/// A few prompts at a time go through all stages, and each stage marks each prompt done, so that a killed run continues
/// at the prompts where it was.
pub(crate) fn generate(at: &Iteration) -> Result<(Vec<Decision>, Dynamics), Error> {
    let config = at.config;
    let teaching_key = teacher_key(at);
    let mut teaching: Stage<Candidate> = at.stage(1, "teacher", &teaching_key)?;
    let key = at
        .key("sample")
        .with("model", &at.fingerprint)
        .with("samples", &(config.samples, &config.sampling, config.repetition));
    let mut sampling: Stage<Candidate> = at.stage(2, "sample", &key)?;
    let key = at.judged(key.with("teacher", &teaching_key.finish()));
    let mut annotating: Option<Stage<Annotation>> = match config.annotates() {
        true => Some(at.stage(3, "annotate", &key)?),
        false => None,
    };
    let key = key.with("pairs", &(config.mode, &config.pairs, config.targets));
    let mut pairing: Stage<Decision> = at.stage(4, "pairs", &key)?;

    let label = format!("iteration {}, prompts", at.number);
    let mut progress = Progress::new(label, at.records.len() as u64);
    progress.resume_at(at.records.iter().filter(|record| pairing.has(&record.id)).count() as u64);
    let (mut candidates, mut annotations) = (Vec::new(), Vec::new());
    for records in at.records.chunks(config.prompts_at_once) {
        let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
        let step = |words: &str, progress: &mut Progress| {
            progress.note(words);
            at.interrupt.check()
        };
        step("teacher", &mut progress)?;
        let taught = teaching.run(&ids, |missing| answer(at, &pick(records, missing)))?;
        step("sampling", &mut progress)?;
        let sampled = sampling.run(&ids, |missing| sample(at, &pick(records, missing)))?;
        let all: Vec<Vec<Candidate>> =
            sampled.into_iter().zip(taught).map(|(own, taught)| [own, taught].concat()).collect();
        let judged: Vec<Option<Annotation>> = match &mut annotating {
            Some(annotating) => {
                step("annotating", &mut progress)?;
                let judged = annotating.run(&ids, |missing| {
                    let (records, all) = (pick(records, missing), borrow(&all, missing));
                    at.judge("annotate").annotate(&records, &all)
                })?;
                judged.into_iter().map(|of_prompt| of_prompt.into_iter().next()).collect()
            }
            None => vec![None; records.len()],
        };
        pairing.run(&ids, |missing| {
            let decide = |&place: &usize| {
                vec![pair(at, records[place], &all[place], judged[place].as_ref())]
            };
            Ok::<_, Error>(missing.iter().map(decide).collect())
        })?;
        candidates.extend(all);
        annotations.extend(judged);
        progress.reach(candidates.len() as u64);
    }
    progress.finish();

    teaching.finish(count_candidates)?;
    sampling.finish(count_candidates)?;
    if let Some(annotating) = annotating {
        annotating.finish(count_annotations)?;
    }
    let decisions = pairing.finish(count_decisions)?;
    let key = key.with("then", "dynamics");
    let mut telling: Stage<Dynamics> = at.stage(5, "dynamics", &key)?;
    let told = telling.run(&["dynamics"], |_| {
        Ok::<_, Error>(vec![vec![dynamics(at.number, &candidates, &annotations, &decisions)]])
    })?;
    telling.finish(|_| BTreeMap::new())?;
    let dynamics = told.into_iter().flatten().next();
    // The stage holds the one record that was just made or read back.
    let dynamics = dynamics.ok_or_else(|| Error::Inputs("stage dynamics is empty".to_owned()))?;
    Ok((decisions, dynamics))
}

/// `<iteration><place>-<name>`: the number orders the stages of a run.
pub(crate) fn stage_name(iteration: u32, place: u32, name: &str) -> String {
    format!("{iteration}{place}-{name}")
}

/// The records at `places`.
pub(crate) fn pick<'a, T>(items: &[&'a T], places: &[usize]) -> Vec<&'a T> {
    places.iter().map(|&place| items[place]).collect()
}

fn borrow<'a, T>(items: &'a [T], places: &[usize]) -> Vec<&'a T> {
    places.iter().map(|&place| &items[place]).collect()
}

fn counters<N: Into<String>>(
    counts: impl IntoIterator<Item = (N, usize)>,
) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, count)| (name.into(), count as u64)).collect()
}

fn count_candidates(made: &[Candidate]) -> BTreeMap<String, u64> {
    let degenerate = made.iter().filter(|candidate| candidate.degenerate).count();
    counters([("made", made.len()), ("degenerate", degenerate)])
}

fn count_annotations(made: &[Annotation]) -> BTreeMap<String, u64> {
    let used = made.iter().filter(|annotation| annotation.scores.is_some()).count();
    let readings = || made.iter().flat_map(|annotation| &annotation.readings);
    let unread = readings().filter(|reading| reading.parsed.is_none()).count();
    let mut counted = counters([
        ("made", made.len()),
        ("used", used),
        ("dropped/unannotated", made.len() - used),
        ("readings", readings().count()),
        ("readings/unread", unread),
    ]);
    for repair in readings().flat_map(|reading| reading.repairs()) {
        *counted.entry(format!("repairs/{}", repair.name())).or_default() += 1;
    }
    counted
}

pub(crate) fn count_decisions(made: &[Decision]) -> BTreeMap<String, u64> {
    let used = made.iter().filter(|decision| decision.dropped.is_none()).count();
    let mut counted = counters([("made", made.len()), ("used", used)]);
    for kind in PairKind::ALL {
        let of_kind = made.iter().flat_map(|decision| &decision.pairs).filter(|m| m.kind == kind);
        counted.insert(format!("pairs/{}", kind.name()), of_kind.count() as u64);
    }
    for dropped in made.iter().filter_map(|decision| decision.dropped) {
        *counted.entry(format!("dropped/{}", dropped.name())).or_default() += 1;
    }
    counted
}

/// A part of a key that is hashed rather than kept.
pub(crate) fn fingerprint<T: Serialize>(name: &str, part: &T) -> String {
    Key::new(name).with(name, part).finish()
}
