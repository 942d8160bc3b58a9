//! A run: prompts in, answers out, by the search and by what it is compared with.
//!
//! Each way of answering is a stage, each prompt a unit of it. A search that is killed in the middle of a prompt
//! continues from the prompt's trace, `stages/01-rain/traces/HASH.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use savi_run::{Interrupt, Key, Progress, Record, RunError, RunFolder, Stage};
use savi_schema::{
    Completion, FinishReason, Message, PromptRecord, RawPrompt, Request, SCHEMA_VERSION, Sampling,
};
use serde::{Deserialize, Serialize};

use crate::trace::{Costs, Journal};
use crate::{Config, Error, Judgement, Models, Prompts, Rain};

/// A way of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The search.
    Rain,
    /// The likeliest token each time.
    Greedy,
    /// One draw.
    Sampled,
    /// The best of several draws by the judge's score.
    BestOf,
}

impl Method {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rain => "rain",
            Self::Greedy => "greedy",
            Self::Sampled => "sampled",
            Self::BestOf => "best-of",
        }
    }

    fn stage(self) -> &'static str {
        match self {
            Self::Rain => "01-rain",
            Self::Greedy => "02-greedy",
            Self::Sampled => "03-sampled",
            Self::BestOf => "04-best-of",
        }
    }
}

/// An answer in a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Record version.
    pub schema: u32,
    /// Id of the prompt.
    pub id: String,
    /// How it was found.
    pub method: Method,
    /// The conversation that it answers.
    pub prompt: Vec<Message>,
    /// The answer.
    pub answer: String,
    /// Its tokens, the ending one included where there is one.
    pub token_ids: Vec<u32>,
    /// Whether it ended by itself.
    pub ended: bool,
    /// The judge's score of the whole answer.
    pub score: f64,
    /// Scores of the draws that it was chosen from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<f64>,
    /// Tokens drawn to find it, everything included, and prompts that the judge was asked.
    pub drawn_tokens: u64,
    /// See `drawn_tokens`.
    pub judge_prompts: u64,
    /// What the search did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<Costs>,
}

impl Record for AnswerRecord {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.id
    }
}

impl AnswerRecord {
    /// The answer as a completion, without what its tokens cost.
    pub fn completion(&self) -> Completion {
        Completion {
            text: self.answer.clone(),
            token_ids: self.token_ids.clone(),
            logps: Vec::new(),
            sampling_logps: Vec::new(),
            top_logps: Vec::new(),
            finish_reason: if self.ended { FinishReason::Stop } else { FinishReason::Length },
        }
    }
}

/// Reads back the answers that a finished run found in one way.
pub fn answers(run_dir: &Path, method: Method) -> Result<Vec<AnswerRecord>, RunError> {
    let stage = run_dir.join("stages").join(method.stage());
    savi_run::read_records(&stage.join("records.jsonl"))
}

/// How one way of answering did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Which.
    pub method: Method,
    /// Answers.
    pub answers: usize,
    /// Mean of the judge's scores.
    pub mean_score: f64,
    /// Share of answers with a score above 0.
    pub good: f64,
    /// Mean number of tokens of an answer.
    pub answer_tokens: f64,
    /// Mean number of tokens drawn for an answer.
    pub drawn_tokens: f64,
    /// Mean number of prompts that the judge was asked for an answer.
    pub judge_prompts: f64,
}

impl Summary {
    /// Of the answers of one method.
    pub fn of(method: Method, answers: &[AnswerRecord]) -> Self {
        let mean = |of: &dyn Fn(&AnswerRecord) -> f64| {
            answers.iter().map(of).sum::<f64>() / answers.len().max(1) as f64
        };
        Self {
            method,
            answers: answers.len(),
            mean_score: mean(&|answer| answer.score),
            good: mean(&|answer| f64::from(u8::from(answer.score > 0.0))),
            answer_tokens: mean(&|answer| answer.token_ids.len() as f64),
            drawn_tokens: mean(&|answer| answer.drawn_tokens as f64),
            judge_prompts: mean(&|answer| answer.judge_prompts as f64),
        }
    }
}

/// What a run works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The prompts; ids are to be unique.
    pub prompts: &'a [PromptRecord],
    /// The models.
    pub models: Models<'a>,
    /// Names the embedder; empty where there is none.
    pub embedder: &'a str,
    /// The wording.
    pub wording: &'a Prompts,
}

/// Answers all prompts in all ways that the config asks for, or what of it is not done yet.
pub fn run(
    config: &Config,
    inputs: &Inputs<'_>,
    folder: &RunFolder,
    interrupt: &Interrupt,
) -> Result<Vec<Summary>, Error> {
    config.validate()?;
    let Inputs { models, embedder, wording, .. } = *inputs;
    let rain = Rain { models, embedder, config, prompts: wording, interrupt };
    let baselines = &config.baselines;
    let methods = [
        (Method::Rain, true),
        (Method::Greedy, baselines.greedy),
        (Method::Sampled, baselines.sampled),
        (Method::BestOf, baselines.best_of > 0),
    ];
    let mut summaries = Vec::new();
    for (method, wanted) in methods {
        if wanted {
            let answers = Run { rain, inputs, folder, interrupt }.stage(method)?;
            summaries.push(Summary::of(method, &answers));
        }
    }
    Ok(summaries)
}

struct Run<'a> {
    rain: Rain<'a>,
    inputs: &'a Inputs<'a>,
    folder: &'a RunFolder,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    fn stage(&self, method: Method) -> Result<Vec<AnswerRecord>, Error> {
        let name = method.stage();
        let key = Key::new(name).with("rain", &self.rain.key()).with("seed", &self.inputs.seed);
        let key = key.with("baselines", &self.rain.config.baselines);
        let ids: Vec<(&str, &[Message])> =
            self.inputs.prompts.iter().map(|p| (p.id.as_str(), p.prompt.as_slice())).collect();
        let key = key.with("prompts", &ids).finish();
        let mut stage: Stage<AnswerRecord> = Stage::open(self.folder, name, &key)?;
        let missing: Vec<&PromptRecord> =
            self.inputs.prompts.iter().filter(|prompt| !stage.has(&prompt.id)).collect();
        let total = self.inputs.prompts.len();
        let mut progress = Progress::new(method.name(), total as u64);
        progress.resume_at((total - missing.len()) as u64);
        for (done, prompt) in missing.iter().enumerate() {
            self.interrupt.check()?;
            let record = match method {
                Method::Rain => self.searched(prompt)?,
                _ => self.drawn(method, prompt)?,
            };
            stage.add_unit(&prompt.id, vec![record])?;
            progress.set((total - missing.len() + done + 1) as u64);
        }
        progress.finish();
        let count = |answers: &[AnswerRecord]| {
            let sum = |of: &dyn Fn(&AnswerRecord) -> u64| answers.iter().map(of).sum();
            BTreeMap::from([
                ("answers".to_owned(), answers.len() as u64),
                ("good".to_owned(), sum(&|answer| u64::from(answer.score > 0.0))),
                ("drawn_tokens".to_owned(), sum(&|answer| answer.drawn_tokens)),
                ("judge_prompts".to_owned(), sum(&|answer| answer.judge_prompts)),
            ])
        };
        Ok(stage.finish(count)?)
    }

    fn searched(&self, prompt: &PromptRecord) -> Result<AnswerRecord, Error> {
        let seed = self.inputs.seed;
        let tokens = self.rain.prompt(&prompt.id, &prompt.prompt)?;
        let begin = self.rain.begin(&prompt.id, seed, &prompt.prompt, &tokens);
        let traces = self.folder.path("stages").join(Method::Rain.stage()).join("traces");
        fs::create_dir_all(&traces)
            .map_err(|source| RunError::Io { path: traces.clone(), source })?;
        let name = &blake3::hash(prompt.id.as_bytes()).to_hex()[..16];
        let mut journal = Journal::open(&traces.join(format!("{name}.jsonl")), &begin)?;
        let answer = self.rain.answer(&begin, seed, &prompt.prompt, &tokens, &mut journal)?;
        Ok(AnswerRecord {
            schema: SCHEMA_VERSION,
            id: prompt.id.clone(),
            method: Method::Rain,
            prompt: prompt.prompt.clone(),
            answer: answer.text,
            token_ids: answer.token_ids,
            ended: answer.ended,
            score: answer.score,
            scores: Vec::new(),
            drawn_tokens: answer.costs.candidate_tokens + answer.costs.simulated_tokens,
            judge_prompts: answer.costs.judge_prompts,
            costs: Some(answer.costs),
        })
    }

    /// An answer that is drawn as a whole.
    fn drawn(&self, method: Method, prompt: &PromptRecord) -> Result<AnswerRecord, Error> {
        let Config { search, baselines, .. } = self.rain.config;
        let tokens = self.rain.prompt(&prompt.id, &prompt.prompt)?;
        let (count, temperature) = match method {
            Method::Greedy => (1, 0.0),
            Method::BestOf => (baselines.best_of, baselines.temperature),
            _ => (1, baselines.temperature),
        };
        let sampling = Sampling {
            temperature,
            max_tokens: search.max_new_tokens.min(search.max_length - tokens.len()),
            stop: search.stop.clone(),
            ..Sampling::default()
        };
        let request = Request {
            id: format!("{}/{}", prompt.id, method.name()),
            raw: Some(RawPrompt::Tokens(tokens)),
            samplings: vec![sampling; count],
            seed: self.inputs.seed,
            ..Request::default()
        };
        let Models { generator, judge, .. } = self.inputs.models;
        let drawn = generator.generate(std::slice::from_ref(&request));
        let drawn = drawn.map_err(|source| Error::model("answers", &prompt.id, source))?;
        let drawn: Vec<Completion> = drawn.into_iter().flatten().collect();
        let texts: Vec<String> = drawn.iter().map(|completion| completion.text.clone()).collect();
        let judged = judge.judge(&prompt.id, &prompt.prompt, &texts)?;
        let better = |best: (usize, &Judgement), next: (usize, &Judgement)| -> bool {
            next.1.score > best.1.score
        };
        let all = judged.iter().enumerate();
        let best = all.reduce(|best, next| if better(best, next) { next } else { best });
        let Some((best, completion)) = best.and_then(|(at, _)| Some((at, drawn.get(at)?))) else {
            let reason = "nothing was drawn".to_owned();
            return Err(Error::Answer { what: "answers", id: prompt.id.clone(), reason });
        };
        let scores: Vec<f64> = judged.iter().map(|judgement| judgement.score).collect();
        Ok(AnswerRecord {
            schema: SCHEMA_VERSION,
            id: prompt.id.clone(),
            method,
            prompt: prompt.prompt.clone(),
            answer: completion.text.clone(),
            token_ids: completion.token_ids.clone(),
            ended: completion.finish_reason == FinishReason::Stop,
            score: scores[best],
            drawn_tokens: drawn.iter().map(|completion| completion.token_ids.len() as u64).sum(),
            judge_prompts: judged.iter().map(|judgement| judgement.asked.len() as u64).sum(),
            scores: if method == Method::BestOf { scores } else { Vec::new() },
            costs: None,
        })
    }
}
