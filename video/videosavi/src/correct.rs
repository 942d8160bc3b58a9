//! Critique and revision at answering time, without any training: the baseline that says how much
//! of the critique form's gain is there before the model has learnt anything.

use std::collections::HashMap;

use savi_judge::critique::{self, Verdict};
use savi_run::Key;
use savi_schema::{Completion, Generate, GenerateError, Part, Request, Sampling};
use savi_suites::QuestionRecord;
use savi_suites::extract::grade;

use crate::{Config, Prompts, Subject};

/// Answers held-out questions as `inner` does, then criticises each answer and revises those that
/// the critique calls wrong. Where a critique cannot be read, or a revision gives no answer that can
/// be graded, the answer stands: correction must not lose to its form.
pub(crate) struct SelfCorrecting<'a> {
    inner: &'a dyn Generate,
    prompts: &'a Prompts,
    critique: Sampling,
    revise: Sampling,
    config: &'a Config,
    questions: HashMap<&'a str, &'a QuestionRecord>,
}

impl<'a> SelfCorrecting<'a> {
    /// Corrects answers to `questions`. Critiques and revisions are greedy, as answers are.
    pub(crate) fn new(
        inner: &'a dyn Generate,
        prompts: &'a Prompts,
        config: &'a Config,
        questions: &'a [QuestionRecord],
    ) -> Self {
        let greedy = |sampling: &Sampling| Sampling { temperature: 0.0, ..sampling.clone() };
        Self {
            inner,
            prompts,
            config,
            critique: greedy(&config.critique.sampling),
            revise: greedy(&config.revise.sampling),
            questions: questions.iter().map(|q| (q.id.as_str(), q)).collect(),
        }
    }

    /// The question of a request of the suites, whose id is `<question>/<view>`.
    fn question(&self, request: &Request) -> Result<&'a QuestionRecord, GenerateError> {
        let id = request.id.rsplit_once('/').map_or(request.id.as_str(), |(id, _)| id);
        self.questions.get(id).copied().ok_or_else(|| GenerateError::BadRequest {
            id: request.id.clone(),
            reason: "it asks none of the held-out questions".to_owned(),
        })
    }
}

/// One answer on its way through critique and revision.
struct Open {
    request: usize,
    sample: usize,
    critique: String,
}

impl Generate for SelfCorrecting<'_> {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let mut answers = self.inner.generate(requests)?;
        let failed = |error: crate::PromptError| GenerateError::Backend(error.to_string());
        let follow_up = |name: &str, open: &Open, messages, sampling: &Sampling| Request {
            id: format!("{}/{name}-{}", requests[open.request].id, open.sample),
            messages,
            raw: None,
            samplings: vec![sampling.clone()],
            seed: requests[open.request].seed,
        };
        let mut open: Vec<Open> = Vec::new();
        for (request, completions) in answers.iter().enumerate() {
            open.extend((0..completions.len()).map(|sample| Open {
                request,
                sample,
                critique: String::new(),
            }));
        }
        let ask = |open: &[Open], answers: &[Vec<Completion>], name: &str| {
            let mut follow_ups = Vec::with_capacity(open.len());
            for open in open {
                let request = &requests[open.request];
                let (subject, question) = (subject(request), self.question(request)?);
                let question = &with_options(question);
                let answer = &answers[open.request][open.sample].text;
                let answer = without_letter(self.config.judged_text(answer));
                let (messages, sampling) = match name {
                    "critique" => {
                        (self.prompts.critique(&subject, question, answer), &self.critique)
                    }
                    _ => (
                        self.prompts.revise(&subject, question, answer, &open.critique),
                        &self.revise,
                    ),
                };
                follow_ups.push(follow_up(name, open, messages.map_err(failed)?, sampling));
            }
            let made = self.inner.generate(&follow_ups)?;
            Ok::<Vec<Completion>, GenerateError>(made.into_iter().flatten().collect())
        };
        let critiques = ask(&open, &answers, "critique")?;
        for (open, critique) in open.iter_mut().zip(critiques) {
            open.critique = critique.text.trim().to_owned();
        }
        open.retain(|open| {
            critique::parse(&open.critique).is_ok_and(|parsed| parsed.verdict == Verdict::Wrong)
        });
        let revisions = ask(&open, &answers, "revise")?;
        for (open, revision) in open.iter().zip(revisions) {
            let question = self.question(&requests[open.request])?;
            let graded =
                grade(question.format, question.options(), &question.answer, &revision.text);
            if graded.is_ok() {
                answers[open.request][open.sample] = revision;
            }
        }
        Ok(answers)
    }

    fn fingerprint(&self) -> String {
        let how = Key::new("self-correction")
            .with("prompts", &[self.prompts.id("critique"), self.prompts.id("revise")])
            .with("critique", &self.critique)
            .with("revise", &self.revise)
            .with("hide_reasons", &self.config.hide_reasons);
        format!("{}+{}", self.inner.fingerprint(), how.finish())
    }
}

/// A question with what there is to choose from: a revision that never saw the options would name
/// others.
fn with_options(question: &QuestionRecord) -> String {
    let lines = question.options().iter().zip('A'..='Z');
    let lines = lines.map(|(option, letter)| format!("\n{letter}. {option}"));
    question.question.clone() + &lines.collect::<String>()
}

/// The clip that a request shows.
fn subject(request: &Request) -> Subject {
    let mut parts = request.messages.iter().flat_map(|message| &message.content);
    let video = parts.find_map(|part| match part {
        Part::Video(media) => Some(media.clone()),
        Part::Text { .. } | Part::Image(_) => None,
    });
    Subject { video, caption: None }
}

/// `left` of `B. left`: critiques are about what an option says.
fn without_letter(reply: &str) -> &str {
    let reply = reply.trim();
    match reply.split_once(". ") {
        Some((letter, rest)) if letter.len() == 1 && !rest.is_empty() => rest,
        _ => reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use savi_schema::{FinishReason, Message, Role};
    use savi_suites::Format;

    /// Calls every answer wrong and revises it to the same words.
    struct Stubborn(&'static str);

    impl Generate for Stubborn {
        fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
            let reply = |request: &Request| {
                let words = request.messages[0].words();
                let text = match () {
                    () if words.contains("Check the answer") => {
                        assert!(words.contains("Which way?\nA. left\nB. up\nAnswer: left\n"));
                        "Evidence: it rises. Verdict: wrong."
                    }
                    () if words.contains("again") => self.0,
                    () => "A. left",
                };
                vec![Completion {
                    text: text.to_owned(),
                    token_ids: Vec::new(),
                    logps: Vec::new(),
                    sampling_logps: Vec::new(),
                    top_logps: Vec::new(),
                    finish_reason: FinishReason::Stop,
                }]
            };
            Ok(requests.iter().map(reply).collect())
        }

        fn fingerprint(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn a_revision_counts_where_it_names_an_option() {
        let question = QuestionRecord {
            schema: 1,
            id: "q".to_owned(),
            clip_id: "c".to_owned(),
            clip: "c.mp4".to_owned(),
            family: "direction".to_owned(),
            format: Format::Choice,
            question: "Which way?".to_owned(),
            options: Some(vec!["left".to_owned(), "up".to_owned()]),
            answer: "up".to_owned(),
            temporal: true,
            novel: false,
        };
        let prompts = Prompts::builtin().unwrap();
        let config = Config::default();
        let questions = [question];
        let request = Request {
            id: "q/normal".to_owned(),
            messages: vec![Message::text(Role::User, "Which way?")],
            raw: None,
            samplings: vec![Sampling::default()],
            seed: 0,
        };
        for (revised, expected) in [("up", "up"), ("upper left", "A. left"), ("", "A. left")] {
            let model = Stubborn(revised);
            let correcting = SelfCorrecting::new(&model, &prompts, &config, &questions);
            let made = correcting.generate(std::slice::from_ref(&request)).unwrap();
            assert_eq!(made[0][0].text, expected);
        }
    }
}
