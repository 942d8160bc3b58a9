//! Self-judgement (judge form): the model scores its own candidates side by side, in shuffled
//! order, for relevance, accuracy, temporal grounding and clarity.

use std::collections::{HashMap, HashSet};

use savi_judge::listwise;
use savi_judge::order::Order;
use savi_schema::SCHEMA_VERSION;

use crate::answer::usable;
use crate::round::{Draw, DrawKind, Round};
use crate::text::normalise;
use crate::{Answer, ClipRecord, Config, Drawn, Error, Judgement, Question, Reading};

/// A judgement that is being made.
struct Open<'a> {
    clip: &'a ClipRecord,
    question: &'a Question,
    candidates: Vec<&'a Answer>,
    readings: Vec<Reading>,
}

/// Judges the candidates of some clips; one list for each clip, one judgement for each question
/// that has at least two candidates that differ.
pub(crate) fn judge(
    round: &Round,
    clips: &[&ClipRecord],
    questions: &[&Vec<Question>],
    answers: &[&Vec<Answer>],
) -> Result<Vec<Vec<Judgement>>, Error> {
    let config = &round.config.judge;
    let mut open = Vec::new();
    for ((clip, questions), answers) in clips.iter().zip(questions).zip(answers) {
        for question in usable(questions) {
            let mut candidates = usable_answers(question, answers);
            let first = first_of_each(&candidates, round.config);
            if config.distinct {
                candidates = first.iter().map(|&place| candidates[place]).collect();
            }
            if first.len() > 1 {
                open.push(Open { clip, question, candidates, readings: Vec::new() });
            }
        }
    }
    // Every judgement is tried once in an order of its own; those that could not be read are drawn
    // again, in yet another order, all in one call.
    for sample in 0..config.judgements {
        let mut pending: Vec<usize> = (0..open.len()).collect();
        for attempt in 0..=config.retries {
            let asked: Vec<&Open> = pending.iter().map(|&place| &open[place]).collect();
            let readings = read(round, &asked, sample, attempt)?;
            let mut unread = Vec::new();
            for (&place, reading) in pending.iter().zip(readings) {
                if reading.parsed.is_none() {
                    unread.push(place);
                }
                open[place].readings.push(reading);
            }
            pending = unread;
        }
    }
    let mut judged: Vec<Vec<Judgement>> = vec![Vec::new(); clips.len()];
    for open in open {
        let clip = clips.iter().position(|clip| clip.id == open.clip.id).unwrap_or_default();
        judged[clip].push(Judgement {
            schema: SCHEMA_VERSION,
            id: open.question.id.clone(),
            clip: open.clip.id.clone(),
            shown: round.judged_subject(open.clip).1,
            candidates: open.candidates.iter().map(|answer| answer.id.clone()).collect(),
            scores: mean_scores(&open.readings, &open.candidates, round.config),
            readings: open.readings,
        });
    }
    Ok(judged)
}

/// The usable answers to a question, in the order of drawing.
pub(crate) fn usable_answers<'a>(question: &Question, answers: &'a [Answer]) -> Vec<&'a Answer> {
    let of_question = answers.iter().filter(|answer| answer.question == question.id);
    of_question.filter(|answer| answer.dropped.is_none()).collect()
}

/// The places at which something is said for the first time, as far as the judge is shown it.
pub(crate) fn first_of_each(answers: &[&Answer], config: &Config) -> Vec<usize> {
    let mut seen = HashSet::new();
    let mut new = |answer: &Answer| seen.insert(normalise(config.judged_text(&answer.text)));
    (0..answers.len()).filter(|&place| new(answers[place])).collect()
}

fn read(
    round: &Round,
    open: &[&Open],
    sample: usize,
    attempt: usize,
) -> Result<Vec<Reading>, Error> {
    let mut draws = Vec::new();
    let mut orders = Vec::new();
    for open in open {
        let texts: Vec<String> =
            open.candidates.iter().map(|a| round.config.judged_text(&a.text).to_owned()).collect();
        let names = [
            "judge-order",
            &round.number.to_string(),
            &open.question.id,
            &sample.to_string(),
            &attempt.to_string(),
        ];
        let order = Order::shuffled(texts.len(), round.seed, &names);
        let shown: Vec<String> = order.candidates().iter().map(|&c| texts[c].clone()).collect();
        let (subject, _) = round.judged_subject(open.clip);
        draws.push(Draw {
            id: format!("{}/{sample}.{attempt}", open.question.id),
            messages: round.prompts.judge(&subject, &open.question.text, &shown)?,
            samplings: vec![round.config.judge.sampling.clone()],
        });
        orders.push(order);
    }
    let drawn: Vec<Drawn> = round.draw(DrawKind::Judge, draws)?.into_iter().flatten().collect();
    let read = orders.into_iter().zip(drawn).map(|(order, drawn)| {
        let parsed = listwise::parse(&drawn.raw, order.candidates().len());
        Reading {
            order: order.candidates().to_vec(),
            problem: parsed.as_ref().err().map(ToString::to_string),
            parsed: parsed.ok(),
            drawn,
        }
    });
    Ok(read.collect())
}

/// The mean of the criteria for each candidate, over all readings that could be read and over all
/// candidates that say the same to the judge.
fn mean_scores(readings: &[Reading], candidates: &[&Answer], config: &Config) -> Option<Vec<f64>> {
    let said = |answer: &&Answer| normalise(config.judged_text(&answer.text));
    let texts: Vec<String> = candidates.iter().map(said).collect();
    let mut sums: HashMap<&str, (f64, u32)> = HashMap::new();
    for reading in readings {
        let Some(parsed) = &reading.parsed else { continue };
        for (&candidate, scores) in reading.order.iter().zip(&parsed.scores) {
            let (sum, count) = sums.entry(&texts[candidate]).or_default();
            *sum += scores.mean();
            *count += 1;
        }
    }
    texts.iter().map(|text| sums.get(text.as_str()).map(|(sum, n)| sum / f64::from(*n))).collect()
}
