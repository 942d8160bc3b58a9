//! Asking a model every question, clip by clip.

use std::path::Path;

use savi_schema::{Generate, GenerateError, MediaPolicy, Request, SCHEMA_VERSION, Sampling};
use savi_video_ingest::IngestOptions;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::extract::Unparsed;
use crate::{Format, Grade, QuestionPrompt, QuestionRecord, View, ViewError, vote};

/// How a suite is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalOptions {
    /// How a clip becomes frames.
    pub policy: MediaPolicy,
    /// What of it is shown.
    pub view: View,
    /// The wording.
    pub prompt: QuestionPrompt,
    /// Longest reply, in tokens.
    pub max_tokens: usize,
    /// Seed of sampling and of shuffled views.
    pub seed: u64,
    /// Clips that are asked about in one call of the model.
    pub chunk: usize,
    /// Draw this many replies and let them vote; `None` takes one greedy reply.
    pub majority: Option<usize>,
    /// Temperature of the replies that vote.
    pub majority_temperature: f64,
    /// How clips are read.
    pub ingest: IngestOptions,
}

impl EvalOptions {
    /// Greedy replies of at most 32 tokens about the clip as `policy` shows it.
    pub fn new(policy: MediaPolicy) -> Self {
        Self {
            policy,
            view: View::Normal,
            prompt: QuestionPrompt::default(),
            max_tokens: 32,
            seed: 0,
            chunk: 8,
            majority: None,
            majority_temperature: 0.7,
            ingest: IngestOptions::default(),
        }
    }

    fn samplings(&self) -> Vec<Sampling> {
        let base = Sampling { max_tokens: self.max_tokens, ..Sampling::default() };
        match self.majority {
            None => vec![base],
            Some(votes) => {
                vec![Sampling { temperature: self.majority_temperature, ..base }; votes.max(1)]
            }
        }
    }
}

/// A question with what the model replied and how that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Record version.
    pub schema: u32,
    /// Id of the question.
    pub id: String,
    /// The clip it is about.
    pub clip_id: String,
    /// What kind of thing is asked.
    pub family: String,
    /// How the answer is given.
    pub format: Format,
    /// Whether it needs more than one frame.
    pub temporal: bool,
    /// Whether it shows a combination that training never shows.
    pub novel: bool,
    /// What of the clip was shown; `None` where no model was asked.
    pub view: Option<View>,
    /// The question.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// What was replied, untouched; several for a vote.
    pub replies: Vec<String>,
    /// The answer that was read from the reply, or won the vote.
    pub extracted: Option<String>,
    /// Why there is none.
    pub unparsed: Option<Unparsed>,
    /// Whether it is right.
    pub correct: bool,
}

impl Answered {
    /// Reads the replies to a question; several vote.
    pub fn new(question: &QuestionRecord, view: Option<View>, replies: Vec<String>) -> Self {
        let grades: Vec<Grade> = replies.iter().map(|reply| Grade::of(question, reply)).collect();
        let grade = match vote(&grades) {
            Some(vote) => grades[vote.winner].clone(),
            None => Grade { extracted: Err(Unparsed::Empty), correct: false },
        };
        Self {
            schema: SCHEMA_VERSION,
            id: question.id.clone(),
            clip_id: question.clip_id.clone(),
            family: question.family.clone(),
            format: question.format,
            temporal: question.temporal,
            novel: question.novel,
            view,
            question: question.question.clone(),
            answer: question.answer.clone(),
            replies,
            unparsed: grade.extracted.as_ref().err().copied(),
            extracted: grade.extracted.ok(),
            correct: grade.correct,
        }
    }
}

impl savi_run::Record for Answered {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.clip_id
    }
}

/// Why a suite could not be asked.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// The view of a clip cannot be had.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The model failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The model returned another number of replies than it was asked for.
    #[error("question {id}: {got} replies where {asked} were asked for")]
    WrongCount {
        /// The question, or the first of the call.
        id: String,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
}

/// Asks the questions of some clips in one call, so that the model reads each clip once; one list of answers for each
/// clip. Clips lie under `root`.
pub fn evaluate_clips(
    generator: &dyn Generate,
    clips: &[Vec<&QuestionRecord>],
    root: &Path,
    options: &EvalOptions,
) -> Result<Vec<Vec<Answered>>, EvaluateError> {
    let samplings = options.samplings();
    let mut requests = Vec::new();
    for questions in clips {
        let Some(first) = questions.first() else { continue };
        let path = root.join(&first.clip);
        let EvalOptions { view, policy, seed, ingest, .. } = options;
        let media = view.media(&path, policy, *seed, &first.clip_id, ingest)?;
        requests.extend(questions.iter().map(|question| Request {
            id: format!("{}/{}", question.id, options.view.name()),
            messages: options.prompt.messages(question, media.clone()),
            raw: None,
            samplings: samplings.clone(),
            seed: options.seed,
        }));
    }
    let completions = generator.generate(&requests)?;
    let wrong_count =
        |id: &str, asked, got| EvaluateError::WrongCount { id: id.to_owned(), asked, got };
    if completions.len() != requests.len() {
        let id = requests.first().map_or("", |request| &request.id);
        return Err(wrong_count(id, requests.len(), completions.len()));
    }
    let mut completions = completions.into_iter();
    let mut answered = Vec::with_capacity(clips.len());
    for questions in clips {
        let mut of_clip = Vec::with_capacity(questions.len());
        for question in questions {
            let replies: Vec<String> =
                completions.next().unwrap_or_default().into_iter().map(|c| c.text).collect();
            if replies.len() != samplings.len() {
                return Err(wrong_count(&question.id, samplings.len(), replies.len()));
            }
            of_clip.push(Answered::new(question, Some(options.view), replies));
        }
        answered.push(of_clip);
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use savi_schema::{Completion, CountRule, FinishReason, Part};

    use super::*;
    use crate::by_clip;
    use crate::question::tests::{choice, question};

    /// Replies by request id; remembers what it was asked.
    struct Scripted {
        reply: fn(&Request, usize) -> String,
        calls: RefCell<Vec<Vec<Request>>>,
    }

    impl Scripted {
        fn new(reply: fn(&Request, usize) -> String) -> Self {
            Self { reply, calls: RefCell::default() }
        }
    }

    impl Generate for Scripted {
        fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
            self.calls.borrow_mut().push(requests.to_vec());
            let completion = |text: String| Completion {
                text,
                token_ids: Vec::new(),
                logps: Vec::new(),
                sampling_logps: Vec::new(),
                top_logps: Vec::new(),
                finish_reason: FinishReason::Stop,
            };
            let replies = |request: &Request| {
                (0..request.samplings.len()).map(|k| completion((self.reply)(request, k))).collect()
            };
            Ok(requests.iter().map(replies).collect())
        }

        fn fingerprint(&self) -> String {
            "scripted".to_owned()
        }
    }

    fn questions() -> Vec<QuestionRecord> {
        vec![
            question("b-q0", "b", "direction", "left"),
            choice("a-q0", "a", &["up", "down"], "down"),
            question("a-q1", "a", "count", "2"),
            question("c-q0", "c", "count", "3"),
        ]
    }

    /// All questions, two clips a call.
    fn evaluate(
        model: &Scripted,
        questions: &[QuestionRecord],
        root: &str,
        options: &EvalOptions,
    ) -> Result<Vec<Answered>, EvaluateError> {
        let clips: Vec<Vec<&QuestionRecord>> =
            by_clip(questions).into_iter().map(|(_, questions)| questions).collect();
        let mut answered = Vec::new();
        for chunk in clips.chunks(options.chunk) {
            answered.extend(evaluate_clips(model, chunk, Path::new(root), options)?.concat());
        }
        Ok(answered)
    }

    fn options() -> EvalOptions {
        EvalOptions { chunk: 2, ..EvalOptions::new(MediaPolicy::count(8, CountRule::MidSegment)) }
    }

    #[test]
    fn asks_clip_by_clip_and_grades() {
        let model = Scripted::new(|request, _| match request.id.as_str() {
            "a-q0/normal" => "B. down".to_owned(),
            "a-q1/normal" => "Two.".to_owned(),
            "b-q0/normal" => "right".to_owned(),
            _ => String::new(),
        });
        let answered = evaluate(&model, &questions(), "data", &options()).unwrap();
        let read: Vec<(&str, Option<&str>, bool)> =
            answered.iter().map(|a| (a.id.as_str(), a.extracted.as_deref(), a.correct)).collect();
        assert_eq!(
            read,
            [
                ("a-q0", Some("down"), true),
                ("a-q1", Some("2"), true),
                ("b-q0", Some("right"), false),
                ("c-q0", None, false),
            ]
        );
        assert_eq!(answered[3].unparsed, Some(Unparsed::Empty));
        let calls = model.calls.borrow();
        assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
        let Part::Video(media) = &calls[0][0].messages[0].content[0] else { panic!("no clip") };
        assert_eq!(media.source, "data/dev/clips/a.mp4");
        assert_eq!(media.policy, Some(options().policy));
    }

    #[test]
    fn blind_shows_nothing() {
        let model = Scripted::new(|_, _| "left".to_owned());
        let blind = EvalOptions { view: View::Blind, ..options() };
        evaluate(&model, &questions(), "nowhere", &blind).unwrap();
        let calls = model.calls.borrow();
        let parts = calls.iter().flatten().flat_map(|r| &r.messages).flat_map(|m| &m.content);
        assert!(parts.into_iter().all(|part| matches!(part, Part::Text { .. })));
    }

    #[test]
    fn a_vote_draws_k_replies_at_the_stated_temperature() {
        let model = Scripted::new(|_, k| ["up", "left", "left"][k].to_owned());
        let vote = EvalOptions { majority: Some(3), ..options() };
        let answered = evaluate(&model, &questions()[..1], "", &vote).unwrap();
        assert_eq!(answered[0].replies, ["up", "left", "left"]);
        assert!(answered[0].correct);
        let calls = model.calls.borrow();
        assert!(calls[0][0].samplings.iter().all(|s| s.temperature == 0.7 && s.max_tokens == 32));
    }

    #[test]
    fn a_missing_clip_is_named() {
        let model = Scripted::new(|_, _| String::new());
        let reversed = EvalOptions { view: View::Reversed, ..options() };
        let error = evaluate(&model, &questions(), "/nowhere", &reversed);
        assert!(error.unwrap_err().to_string().contains("/nowhere/dev/clips/a.mp4"));
    }
}
