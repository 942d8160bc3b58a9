//! How an iterate is measured: its answers to held-out prompts against the start's or the teacher's by the annotator of
//! the run, and against known answers where there are any.

use std::collections::{BTreeMap, BTreeSet};

use savi_judge::wins::Wins;
use savi_run::{Evaluation, Progress, Slice, Stage};
use savi_schema::{Completed, Completion, FinishReason, PromptRecord, Reward, SCHEMA_VERSION};
use savi_suites::extract::Unparsed;
use savi_suites::stats::{Bootstrap, Outcome, mean};
use savi_suites::{Answered, Format};
use serde_json::Value;

use crate::annotate::Task;
use crate::candidates::{answer, draw, teacher_key};
use crate::config::Opponent;
use crate::iteration::{Iteration, pick};
use crate::{Candidate, Duel, Error, HeldOut};

/// The figure for wins against the opponent.
pub(crate) const WIN_RATE: &str = "win_rate";
/// The figure for right answers.
pub(crate) const ACCURACY: &str = "accuracy";

/// What iterates are compared with: answers to held-out prompts, in their order.
pub(crate) type Answers = Vec<Option<String>>;

/// The iterate's answers to the held-out prompts, which are the iteration's.
pub(crate) fn reply(at: &Iteration) -> Result<Vec<HeldOut>, Error> {
    let sampling = &at.config.evaluation.sampling;
    let key = at.key("reply").with("model", &at.fingerprint).with("sampling", sampling);
    let mut stage: Stage<HeldOut> = at.stage(7, "reply", &key)?;
    let mut progress = Progress::new(
        format!("iteration {}, held-out prompts", at.number),
        at.records.len() as u64,
    );
    let mut replies = Vec::with_capacity(at.records.len());
    for records in at.records.chunks(at.config.prompts_at_once) {
        at.interrupt.check()?;
        let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
        let made = stage.run(&ids, |missing| {
            let records = pick(records, missing);
            let samplings = std::slice::from_ref(sampling);
            let drawn = draw(at.model, (at.number, "reply"), &records, samplings, at.seed)?;
            let of_prompt = |(record, drawn): (&&PromptRecord, Vec<Completion>)| {
                let reply = |completion: Completion| HeldOut {
                    schema: SCHEMA_VERSION,
                    id: record.id.clone(),
                    text: completion.text,
                    finish_reason: completion.finish_reason,
                };
                drawn.into_iter().map(reply).collect()
            };
            Ok::<_, Error>(records.iter().zip(drawn).map(of_prompt).collect())
        })?;
        replies.extend(made.into_iter().flatten());
        progress.add(records.len() as u64);
    }
    progress.finish();
    stage.finish(|made| {
        let cut = made.iter().filter(|reply| reply.finish_reason == FinishReason::Length).count();
        [("made", made.len()), ("cut off", cut)].map(|(n, c)| (n.to_owned(), c as u64)).into()
    })?;
    Ok(replies)
}

/// The teacher's answers to the held-out prompts; they are asked for once in a run.
pub(crate) fn teacher_answers(at: &Iteration) -> Result<Answers, Error> {
    let mut stage: Stage<Candidate> = at.stage(6, "teacher", &teacher_key(at))?;
    let mut answers = Vec::with_capacity(at.records.len());
    for records in at.records.chunks(at.config.prompts_at_once) {
        at.interrupt.check()?;
        let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
        let made = stage.run(&ids, |missing| answer(at, &pick(records, missing)))?;
        answers
            .extend(made.into_iter().map(|of_prompt| of_prompt.into_iter().next().map(|c| c.text)));
    }
    stage.finish(|made| [("made".to_owned(), made.len() as u64)].into())?;
    Ok(answers)
}

/// The rows of an iterate: wins against `opponent`, and accuracy.
pub(crate) fn measure(
    at: &Iteration,
    suite: &str,
    replies: &[HeldOut],
    opponent: Option<&Answers>,
) -> Result<Vec<Evaluation>, Error> {
    let bootstrap = Bootstrap { resamples: at.config.evaluation.resamples, seed: 0 };
    let mut rows = accuracy(at, suite, replies, &bootstrap)?;
    if let Some(opponent) = opponent {
        let duels = duel(at, replies, opponent)?;
        let outcomes: Vec<(&PromptRecord, Outcome)> = duels
            .iter()
            .filter_map(|duel| {
                let record = *at.records.iter().find(|record| record.id == duel.id)?;
                let (id, cluster) = (duel.id.clone(), duel.id.clone());
                Some((record, Outcome { id, cluster, value: duel.win? }))
            })
            .collect();
        rows.extend(row(at, suite, WIN_RATE, &outcomes, &bootstrap));
    }
    Ok(rows)
}

/// The iterate's answers against the opponent's.
fn duel(at: &Iteration, replies: &[HeldOut], opponent: &Answers) -> Result<Vec<Duel>, Error> {
    let key = at.judged(at.key("versus").with("replies", &replies).with("opponent", opponent));
    let mut stage: Stage<Duel> = at.stage(8, "versus", &key)?;
    let judge = at.judge("versus");
    let places: Vec<usize> = (0..replies.len()).collect();
    for places in places.chunks(at.config.prompts_at_once) {
        at.interrupt.check()?;
        let ids: Vec<&str> = places.iter().map(|&place| replies[place].id.as_str()).collect();
        stage.run(&ids, |missing| {
            let missing: Vec<usize> = missing.iter().map(|&at| places[at]).collect();
            let asked = |place: &usize| {
                let (own, other) = (&replies[*place].text, opponent.get(*place)?.as_ref()?);
                let texts = vec![own.as_str(), other.as_str()];
                (own != other).then_some(Task { record: at.records[*place], texts })
            };
            let tasks: Vec<Task> = missing.iter().filter_map(asked).collect();
            let mut opinions = judge.opinions(&tasks)?.into_iter();
            let decide = |place: &usize| {
                let mut duel = Duel {
                    schema: SCHEMA_VERSION,
                    id: replies[*place].id.clone(),
                    win: None,
                    scores: None,
                    readings: Vec::new(),
                };
                match opponent.get(*place).and_then(Option::as_ref) {
                    None => {}
                    Some(other) if *other == replies[*place].text => duel.win = Some(0.5),
                    Some(_) => {
                        let opinion = opinions.next().unwrap_or_default();
                        if let Some([own, other]) = opinion.scores.as_deref() {
                            let wins = opinion.wins;
                            let wins = wins.unwrap_or_else(|| Wins::of_scores(&[*own, *other]));
                            duel.win = Some(wins.chance(0, 1));
                            duel.scores = Some([*own, *other]);
                        }
                        duel.readings = opinion.readings;
                    }
                }
                vec![duel]
            };
            Ok::<_, Error>(missing.iter().map(decide).collect())
        })?;
    }
    Ok(stage.finish(|made| {
        let used = made.iter().filter(|duel| duel.win.is_some()).count();
        [("made", made.len()), ("used", used)].map(|(n, c)| (n.to_owned(), c as u64)).into()
    })?)
}

/// The iterate's answers against known ones.
fn accuracy(
    at: &Iteration,
    suite: &str,
    replies: &[HeldOut],
    bootstrap: &Bootstrap,
) -> Result<Vec<Evaluation>, Error> {
    let Some(correct) = &at.config.evaluation.correct else { return Ok(Vec::new()) };
    let ready = correct.build().map_err(|error| Error::Inputs(error.to_string()))?;
    let completions: Vec<[Completion; 1]> = replies.iter().map(completion).collect();
    let groups: Vec<Completed> = at
        .records
        .iter()
        .zip(&completions)
        .map(|(prompt, completions)| Completed { prompt, completions })
        .collect();
    let verdicts = ready
        .judge(&groups, at.scorer)
        .map_err(|source| Error::of_model(at.number, "evaluate", source))?;
    let key = at.key("evaluate").with("replies", &replies).with("correct", correct);
    let mut stage: Stage<Answered> = at.stage(9, "evaluate", &key)?;
    let mut graded = Vec::new();
    for ((record, reply), verdicts) in at.records.iter().zip(replies).zip(verdicts) {
        let Some(verdict) = verdicts.into_iter().next().flatten() else { continue };
        let grade = |_: &[usize]| {
            Ok::<_, Error>(vec![vec![answered(at, record, &reply.text, verdict.score > 0.5)]])
        };
        graded.extend(stage.run(&[record.id.as_str()], grade)?.into_iter().flatten());
    }
    stage.finish(|graded| {
        let correct = graded.iter().filter(|answered| answered.correct).count();
        [("asked", graded.len()), ("correct", correct)]
            .map(|(n, c)| (n.to_owned(), c as u64))
            .into()
    })?;
    Ok(savi_suites::evaluations(at.number, suite, &graded, bootstrap))
}

fn answered(at: &Iteration, record: &PromptRecord, reply: &str, correct: bool) -> Answered {
    let known = record.columns.get("answer");
    Answered {
        schema: SCHEMA_VERSION,
        id: record.id.clone(),
        clip_id: record.id.clone(),
        family: part(at, record),
        format: Format::Open,
        temporal: false,
        novel: false,
        view: None,
        question: record.prompt.iter().map(savi_schema::Message::words).collect(),
        answer: known.map(words).unwrap_or_default(),
        replies: vec![reply.to_owned()],
        extracted: None,
        unparsed: reply.trim().is_empty().then_some(Unparsed::Empty),
        correct,
    }
}

fn part(at: &Iteration, record: &PromptRecord) -> String {
    let column = at.config.evaluation.part_column.as_ref();
    column.and_then(|column| record.columns.get(column)).map_or("all".to_owned(), words)
}

/// A column's value as text.
fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn completion(reply: &HeldOut) -> [Completion; 1] {
    [Completion {
        text: reply.text.clone(),
        token_ids: Vec::new(),
        logps: Vec::new(),
        sampling_logps: Vec::new(),
        top_logps: Vec::new(),
        finish_reason: reply.finish_reason,
    }]
}

/// A figure with its interval, over all and by part; `None` for no outcomes.
fn row(
    at: &Iteration,
    suite: &str,
    metric: &str,
    outcomes: &[(&PromptRecord, Outcome)],
    bootstrap: &Bootstrap,
) -> Option<Evaluation> {
    let figure = |of_part: Option<&str>| {
        let kept =
            outcomes.iter().filter(|(record, _)| of_part.is_none_or(|p| p == part(at, record)));
        let kept: Vec<Outcome> = kept.map(|(_, outcome)| outcome.clone()).collect();
        mean(&kept, bootstrap)
    };
    let whole = figure(None)?;
    let parts: BTreeSet<String> = outcomes.iter().map(|(record, _)| part(at, record)).collect();
    let by: BTreeMap<String, Slice> = parts
        .into_iter()
        .filter_map(|part| {
            let figure = figure(Some(&part))?;
            Some((part, Slice { value: figure.value, ci95: figure.ci95, n: figure.n }))
        })
        .collect();
    Some(Evaluation {
        round: at.number,
        suite: suite.to_owned(),
        metric: metric.to_owned(),
        value: whole.value,
        ci95: whole.ci95,
        n: whole.n,
        by,
    })
}

/// Whether the opponent is another than the start, against which the start itself is even.
pub(crate) fn meets(opponent: Opponent, iteration: u32) -> bool {
    match opponent {
        Opponent::Nobody => false,
        Opponent::Start => iteration > 0,
        Opponent::Teacher => true,
    }
}
