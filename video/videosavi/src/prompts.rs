//! The wording of every request, as Jinja templates in `prompts/` that a config can replace.
//!
//! The authors' prompts are not published; these are this project's own. The clip comes first and
//! the words after, without a system turn, so that all requests about one clip share their start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Environment, Value, context};
use savi_schema::{Media, Message, Part, Role};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The names of the templates and their built-in text.
const BUILTIN: [(&str, &str); 6] = [
    ("answer", include_str!("../prompts/answer.jinja")),
    ("ask", include_str!("../prompts/ask.jinja")),
    ("critique", include_str!("../prompts/critique.jinja")),
    ("describe", include_str!("../prompts/describe.jinja")),
    ("judge", include_str!("../prompts/judge.jinja")),
    ("revise", include_str!("../prompts/revise.jinja")),
];

/// What kind of question is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuestionKind {
    /// Begins with "What" (judge form).
    What,
    /// Begins with "Why" (judge form).
    Why,
    /// Begins with "How" (judge form).
    How,
    /// About positions, relations and looks (critique form).
    Spatial,
    /// About movement, change and order (critique form).
    Temporal,
}

impl QuestionKind {
    /// Its name in prompts, records and configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::What => "what",
            Self::Why => "why",
            Self::How => "how",
            Self::Spatial => "spatial",
            Self::Temporal => "temporal",
        }
    }
}

/// What a request is about: a clip, and its caption where it has one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Subject {
    /// The clip; `None` asks without showing anything (a blind control).
    pub video: Option<Media>,
    /// A caption, given to asking and judging only.
    pub caption: Option<String>,
}

impl Subject {
    /// A clip without a caption.
    pub fn video(media: Media) -> Self {
        Self { video: Some(media), caption: None }
    }
}

/// Files that replace built-in templates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptFiles {
    /// Replaces `answer` in the loop; held-out questions keep the wording of their suite.
    pub answer: Option<PathBuf>,
    /// Replaces `ask`.
    pub ask: Option<PathBuf>,
    /// Replaces `critique`.
    pub critique: Option<PathBuf>,
    /// Replaces `describe`.
    pub describe: Option<PathBuf>,
    /// Replaces `judge`.
    pub judge: Option<PathBuf>,
    /// Replaces `revise`.
    pub revise: Option<PathBuf>,
}

impl PromptFiles {
    fn get(&self, name: &str) -> Option<&Path> {
        match name {
            "answer" => self.answer.as_deref(),
            "ask" => self.ask.as_deref(),
            "critique" => self.critique.as_deref(),
            "describe" => self.describe.as_deref(),
            "judge" => self.judge.as_deref(),
            "revise" => self.revise.as_deref(),
            _ => None,
        }
    }
}

/// A template that cannot be used.
#[derive(Debug, Error)]
pub enum PromptError {
    /// A file cannot be read.
    #[error("prompt {name}: {path}: {source}")]
    Read {
        /// Which prompt.
        name: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A template is malformed or uses a name that it is not given.
    #[error("prompt {name}: {source}")]
    Template {
        /// Which prompt.
        name: String,
        /// What the template engine said.
        source: Box<minijinja::Error>,
    },
}

/// The templates, ready to be filled.
#[derive(Debug)]
pub struct Prompts {
    environment: Environment<'static>,
    ids: BTreeMap<&'static str, String>,
}

impl Prompts {
    /// The built-in wording.
    pub fn builtin() -> Result<Self, PromptError> {
        Self::load(&PromptFiles::default())
    }

    /// The built-in wording with some templates replaced. Each is tried once, so that a mistake in
    /// a template is found before a run begins.
    pub fn load(files: &PromptFiles) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let mut ids = BTreeMap::new();
        for (name, builtin) in BUILTIN {
            let text = match files.get(name) {
                Some(path) => std::fs::read_to_string(path)
                    .map_err(|source| PromptError::Read { name, path: path.to_owned(), source })?,
                None => builtin.to_owned(),
            };
            let hash = blake3::hash(text.as_bytes()).to_hex();
            ids.insert(name, format!("{name}@{}", &hash[..12]));
            environment
                .add_template_owned(name, text)
                .map_err(|error| template_error(name, error))?;
        }
        let prompts = Self { environment, ids };
        let subject = Subject::default();
        prompts.describe(&subject)?;
        prompts.ask(&subject, QuestionKind::What)?;
        prompts.answer(&subject, "q", Some(&["a".to_owned()]))?;
        prompts.answer(&subject, "q", None)?;
        prompts.critique(&subject, "q", "a")?;
        prompts.revise(&subject, "q", "a", "c")?;
        prompts.judge(&subject, "q", &["a".to_owned()])?;
        Ok(prompts)
    }

    /// Name and content hash of a template, as records keep it: `ask@0123456789ab`.
    pub fn id(&self, name: &'static str) -> &str {
        self.ids.get(name).map_or(name, String::as_str)
    }

    /// The ids of all templates, by name.
    pub fn ids(&self) -> &BTreeMap<&'static str, String> {
        &self.ids
    }

    /// Asks for a description of the clip.
    pub fn describe(&self, subject: &Subject) -> Result<Vec<Message>, PromptError> {
        self.fill("describe", subject, context! {})
    }

    /// Asks for a question of a kind. The caption is shown where there is one.
    pub fn ask(&self, subject: &Subject, kind: QuestionKind) -> Result<Vec<Message>, PromptError> {
        self.fill("ask", subject, context! { kind => kind.name(), caption => subject.caption })
    }

    /// Puts a question, with its options where it has any. The caption is never shown.
    pub fn answer(
        &self,
        subject: &Subject,
        question: &str,
        options: Option<&[String]>,
    ) -> Result<Vec<Message>, PromptError> {
        self.fill("answer", subject, context! { question, options, letters => letters() })
    }

    /// Asks for a critique of an answer: evidence first, then the verdict.
    pub fn critique(
        &self,
        subject: &Subject,
        question: &str,
        answer: &str,
    ) -> Result<Vec<Message>, PromptError> {
        self.fill("critique", subject, context! { question, answer })
    }

    /// Asks for a better answer in the light of a critique.
    pub fn revise(
        &self,
        subject: &Subject,
        question: &str,
        answer: &str,
        critique: &str,
    ) -> Result<Vec<Message>, PromptError> {
        self.fill("revise", subject, context! { question, answer, critique })
    }

    /// Asks for scores of several candidates side by side. The caption is shown where there is one.
    pub fn judge(
        &self,
        subject: &Subject,
        question: &str,
        candidates: &[String],
    ) -> Result<Vec<Message>, PromptError> {
        let caption = &subject.caption;
        let values = context! { question, candidates, caption, letters => letters() };
        self.fill("judge", subject, values)
    }

    fn fill(
        &self,
        name: &str,
        subject: &Subject,
        values: Value,
    ) -> Result<Vec<Message>, PromptError> {
        let text = self
            .environment
            .get_template(name)
            .and_then(|template| template.render(values))
            .map_err(|error| template_error(name, error))?;
        let text = text.trim();
        Ok(vec![match &subject.video {
            Some(media) => Message::about_video(media.clone(), text),
            None => {
                Message { role: Role::User, content: vec![Part::Text { text: text.to_owned() }] }
            }
        }])
    }
}

fn template_error(name: &str, error: minijinja::Error) -> PromptError {
    PromptError::Template { name: name.to_owned(), source: Box::new(error) }
}

fn letters() -> Vec<String> {
    ('A'..='Z').map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(messages: Result<Vec<Message>, PromptError>) -> String {
        messages.unwrap()[0].words()
    }

    #[test]
    fn builtin_wording() {
        let prompts = Prompts::builtin().unwrap();
        let subject = Subject { video: None, caption: Some("Two discs meet.".to_owned()) };
        let bare = Subject::default();
        let check = |actual: Result<Vec<Message>, PromptError>, expected: &str| {
            assert_eq!(words(actual), expected);
        };
        check(
            prompts.ask(&subject, QuestionKind::Why),
            "The video is described as: Two discs meet.\n\
             Ask one question about this video that starts with \"Why\".",
        );
        check(
            prompts.ask(&bare, QuestionKind::Spatial),
            "Ask one question about this video: where things are or how they look.",
        );
        check(prompts.answer(&subject, "Which way?", None), "Which way?\nAnswer with a few words.");
        check(
            prompts.answer(&bare, "Which way?", Some(&["left".to_owned(), "up".to_owned()])),
            "Which way?\nA. left\nB. up\nAnswer with the text of one option.",
        );
        check(
            prompts.critique(&subject, "Which way?", "left"),
            "Question: Which way?\nAnswer: left\nCheck the answer against the video. Write \
             \"Evidence:\" and what the video shows, then \"Verdict: right.\" or \"Verdict: wrong.\"",
        );
        check(
            prompts.revise(&bare, "Which way?", "left", "Evidence: up. Verdict: wrong."),
            "Question: Which way?\nAnswer: left\nCritique: Evidence: up. Verdict: wrong.\n\
             Answer the question again in the light of the critique, with a few words.",
        );
        check(
            prompts.judge(&subject, "Which way?", &["left".to_owned(), "{{ up }}".to_owned()]),
            "The video is described as: Two discs meet.\nQuestion: Which way?\nA: left\n\
             B: {{ up }}\nWrite \"Evidence:\" and what the video shows. Then rate each answer from \
             1 to 5 in a line like \"A: relevance 4, accuracy 2, temporal grounding 3, clarity 5\".",
        );
    }

    #[test]
    fn the_clip_comes_before_the_words_and_nothing_else_does() {
        let media = Media { source: "a.mp4".to_owned(), policy: None };
        let prompts = Prompts::builtin().unwrap();
        let messages = prompts.ask(&Subject::video(media), QuestionKind::How).unwrap();
        assert_eq!(messages.len(), 1);
        assert!(matches!(messages[0].content[..], [Part::Video(_), Part::Text { .. }]));
    }

    #[test]
    fn a_replaced_template_has_another_id_and_is_tried_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ask.jinja");
        std::fs::write(&path, "Invent a {{ kind }} question.\n").unwrap();
        let files = PromptFiles { ask: Some(path.clone()), ..Default::default() };
        let (builtin, other) = (Prompts::builtin().unwrap(), Prompts::load(&files).unwrap());
        assert_eq!(
            words(other.ask(&Subject::default(), QuestionKind::How)),
            "Invent a how question."
        );
        assert_ne!(builtin.id("ask"), other.id("ask"));
        assert_eq!(builtin.id("judge"), other.id("judge"));
        for (text, expected) in [("{{ kind", "prompt ask"), ("{{ knid }}", "prompt ask")] {
            std::fs::write(&path, text).unwrap();
            let error = Prompts::load(&files).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
