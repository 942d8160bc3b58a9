//! Candidates: the teacher's answer and the iterate's own samples (section 2, steps 3 and 4 of the paper's algorithm 2).

use std::collections::BTreeMap;

use savi_run::Key;
use savi_schema::{
    Completion, Generate, GenerateError, PromptRecord, Request, SCHEMA_VERSION, Sampling,
};

use crate::iteration::{Iteration, Teacher, fingerprint};
use crate::{Candidate, Error, Writer};

/// Completions of prompts, `samplings.len()` of each.
pub(crate) fn draw(
    model: &dyn Generate,
    (iteration, stage): (u32, &'static str),
    records: &[&PromptRecord],
    samplings: &[Sampling],
    seed: u64,
) -> Result<Vec<Vec<Completion>>, Error> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let request = |record: &&PromptRecord| Request {
        id: format!("iteration-{iteration}/{stage}/{}", record.id),
        messages: record.prompt.clone(),
        samplings: samplings.to_vec(),
        seed,
        ..Request::default()
    };
    let requests: Vec<Request> = records.iter().map(request).collect();
    ask(model, (iteration, stage), &requests)
}

/// What a model answers, with its numbers checked.
pub(crate) fn ask(
    model: &dyn Generate,
    (iteration, stage): (u32, &'static str),
    requests: &[Request],
) -> Result<Vec<Vec<Completion>>, Error> {
    let failed = |source: GenerateError| Error::of_model(iteration, stage, source);
    let completions = model.generate(requests).map_err(failed)?;
    let wrong = |asked, got| Err(Error::WrongCount { iteration, stage, asked, got });
    if completions.len() != requests.len() {
        return wrong(requests.len(), completions.len());
    }
    for (request, completions) in requests.iter().zip(&completions) {
        if request.samplings.len() != completions.len() {
            return wrong(request.samplings.len(), completions.len());
        }
    }
    Ok(completions)
}

/// The iterate's samples.
pub(crate) fn sample(
    at: &Iteration,
    records: &[&PromptRecord],
) -> Result<Vec<Vec<Candidate>>, Error> {
    let samplings = vec![at.config.sampling.clone(); at.config.samples];
    let drawn = draw(at.model, (at.number, "sample"), records, &samplings, at.seed)?;
    let of_prompt = |(record, drawn): (&&PromptRecord, Vec<Completion>)| {
        let own = |(place, completion)| {
            let id = format!("{}/s{place}", record.id);
            candidate(at, record, id, Writer::Student, completion, &at.fingerprint)
        };
        drawn.into_iter().enumerate().map(own).collect()
    };
    Ok(records.iter().zip(drawn).map(of_prompt).collect())
}

/// The teacher's answers; none where it has none.
pub(crate) fn answer(
    at: &Iteration,
    records: &[&PromptRecord],
) -> Result<Vec<Vec<Candidate>>, Error> {
    let id = |record: &PromptRecord| format!("{}/teacher", record.id);
    match at.teacher {
        Teacher::Nobody => Ok(vec![Vec::new(); records.len()]),
        Teacher::Answers(answers) => {
            let of_prompt = |record: &&PromptRecord| {
                let answer = answers.get(&record.id)?;
                Some(Candidate {
                    schema: SCHEMA_VERSION,
                    id: id(record),
                    prompt: record.id.clone(),
                    writer: Writer::Teacher,
                    degenerate: answer.trim().is_empty(),
                    text: answer.clone(),
                    finish_reason: None,
                    tokens: None,
                    logp: None,
                    model: None,
                })
            };
            Ok(records.iter().map(|record| of_prompt(record).into_iter().collect()).collect())
        }
        Teacher::Model(model) => {
            let sampling = [at.config.teacher_sampling.clone()];
            let drawn = draw(model, (at.number, "teacher"), records, &sampling, at.seed)?;
            let name = model.fingerprint();
            let of_prompt = |(record, drawn): (&&PromptRecord, Vec<Completion>)| {
                let own = |completion| {
                    candidate(at, record, id(record), Writer::Teacher, completion, &name)
                };
                drawn.into_iter().map(own).collect()
            };
            Ok(records.iter().zip(drawn).map(of_prompt).collect())
        }
    }
}

/// What the teacher's answers depend on; the model that learns is no part of it, so that another iterate asks nothing
/// again.
pub(crate) fn teacher_key(at: &Iteration) -> Key {
    let key = at.key("teacher");
    match at.teacher {
        Teacher::Nobody => key,
        Teacher::Answers(answers) => {
            let of_prompts: BTreeMap<&str, Option<&String>> =
                at.records.iter().map(|r| (r.id.as_str(), answers.get(&r.id))).collect();
            key.with("answers", &fingerprint("answers", &of_prompts))
        }
        Teacher::Model(model) => key
            .with("model", &model.fingerprint())
            .with("sampling", &(&at.config.teacher_sampling, at.config.repetition)),
    }
}

fn candidate(
    at: &Iteration,
    record: &PromptRecord,
    id: String,
    writer: Writer,
    completion: Completion,
    model: &str,
) -> Candidate {
    let degenerate =
        completion.text.trim().is_empty() || at.config.repetition.is_degenerate(&completion.text);
    Candidate {
        schema: SCHEMA_VERSION,
        id,
        prompt: record.id.clone(),
        writer,
        degenerate,
        finish_reason: Some(completion.finish_reason),
        tokens: Some(completion.token_ids.len()),
        logp: Some(completion.logps.iter().map(|&logp| f64::from(logp)).sum()),
        model: Some(model.to_owned()),
        text: completion.text,
    }
}
