//! The wording of prompts: templates in `prompts/`, replaceable by files. The words are our own.

use std::path::{Path, PathBuf};

use minijinja::{Environment, Value, context};
use savi_schema::{Continuation, Message, RawPrompt, Role, ScoreRequest};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{JudgeConfig, JudgeForm, PromptForm};

const BUILTIN: [(&str, &str); 3] = [
    ("judge-letters", include_str!("../prompts/judge-letters.jinja")),
    ("judge-yes-no", include_str!("../prompts/judge-yes-no.jinja")),
    ("plain", include_str!("../prompts/plain.jinja")),
];

/// Files that replace built-in templates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PromptFiles {
    /// Replaces `judge-letters`: given `criterion`, `demonstrations`, `turns`, `answer`, `letters`, `options`
    /// and `plain`.
    pub judge_letters: Option<PathBuf>,
    /// Replaces `judge-yes-no`: given `question` and `labels` in place of `letters` and `options`.
    pub judge_yes_no: Option<PathBuf>,
    /// Replaces `plain`: given `turns`, each with `speaker` and `words`.
    pub plain: Option<PathBuf>,
}

impl PromptFiles {
    fn get(&self, name: &str) -> Option<&Path> {
        match name {
            "judge-letters" => self.judge_letters.as_deref(),
            "judge-yes-no" => self.judge_yes_no.as_deref(),
            "plain" => self.plain.as_deref(),
            _ => None,
        }
    }
}

/// A template or a file of examples that cannot be used.
#[derive(Debug, Error)]
pub enum PromptError {
    /// A file cannot be read.
    #[error("{name}: {path}: {source}")]
    Read {
        /// What it is for.
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
    /// The examples cannot be read.
    #[error(transparent)]
    Demonstrations(#[from] savi_data::DataError),
}

/// An example that the judge is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demonstration {
    /// What the user says.
    pub question: String,
    /// The reply.
    pub answer: String,
    /// Whether it is good.
    pub good: bool,
    /// Why.
    #[serde(default)]
    pub why: String,
}

/// The templates and the examples, ready to be filled.
#[derive(Debug)]
pub struct Prompts {
    environment: Environment<'static>,
    form: PromptForm,
    judge: JudgeConfig,
    demonstrations: Vec<Demonstration>,
    hash: String,
}

impl Prompts {
    /// Reads templates and examples. Each template is tried once, so that a mistake in it is found before a run
    /// begins.
    pub fn load(
        files: &PromptFiles,
        form: PromptForm,
        judge: &JudgeConfig,
    ) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let mut hasher = blake3::Hasher::new();
        for (name, builtin) in BUILTIN {
            let text = match files.get(name) {
                Some(path) => std::fs::read_to_string(path)
                    .map_err(|source| PromptError::Read { name, path: path.to_owned(), source })?,
                None => builtin.to_owned(),
            };
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
            environment
                .add_template_owned(name, text)
                .map_err(|error| template_error(name, error))?;
        }
        let mut demonstrations = Vec::new();
        if let Some(path) = &judge.demonstrations {
            for row in savi_data::Rows::open(path)? {
                demonstrations.push(row?.parse::<Demonstration>()?);
            }
        }
        hasher.update(format!("{demonstrations:?}").as_bytes());
        let hash = hasher.finalize().to_hex()[..32].to_owned();
        let prompts = Self { environment, form, judge: judge.clone(), demonstrations, hash };
        let question = [Message::text(Role::User, "q")];
        prompts.judge_requests(&question, "a", &[])?;
        prompts.raw(&question)?;
        Ok(prompts)
    }

    /// Hash of the templates and the examples.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The conversation as plain text; none where the chat template puts it.
    pub fn raw(&self, question: &[Message]) -> Result<Option<RawPrompt>, PromptError> {
        match self.form {
            PromptForm::Chat => Ok(None),
            PromptForm::Plain => {
                let text = self.fill("plain", context! { turns => turns(question) })?;
                Ok(Some(RawPrompt::Text(text)))
            }
        }
    }

    /// What the judge is asked about an answer: for letters two prompts, in the second of which the descriptions
    /// are swapped; for yes and no one. Each is to be scored with `continuations`.
    pub fn judge_requests(
        &self,
        question: &[Message],
        answer: &str,
        continuations: &[Continuation],
    ) -> Result<Vec<ScoreRequest>, PromptError> {
        let JudgeConfig { good, bad, letters, .. } = &self.judge;
        let (criterion, plain) = (&self.judge.criterion, self.form == PromptForm::Plain);
        let turns = turns(question);
        let answer = answer.trim();
        let texts = match self.judge.form {
            JudgeForm::Letters => {
                let orders = [[good, bad], [bad, good]];
                // The order of descriptions takes turns from one example to the next.
                let shown = |(at, shown): (usize, &Demonstration)| {
                    let options = orders[at % 2];
                    let label = &letters[usize::from(shown.good != (at % 2 == 0))];
                    let Demonstration { question, answer, why, .. } = shown;
                    context! { question, answer, why, options, label }
                };
                let demonstrations: Vec<Value> =
                    self.demonstrations.iter().enumerate().map(shown).collect();
                let text = |options: &[&String; 2]| {
                    let values = context! {
                        criterion, demonstrations, turns, answer, letters, options, plain
                    };
                    self.fill("judge-letters", values)
                };
                orders.iter().map(text).collect::<Result<Vec<_>, _>>()?
            }
            JudgeForm::YesNo => {
                let labels: Vec<&String> = [&self.judge.yes, &self.judge.no]
                    .into_iter()
                    .filter_map(|l| l.first())
                    .collect();
                let shown = |shown: &Demonstration| {
                    let label = labels.get(usize::from(!shown.good));
                    let Demonstration { question, answer, why, .. } = shown;
                    context! { question, answer, why, label }
                };
                let demonstrations: Vec<Value> = self.demonstrations.iter().map(shown).collect();
                let question = &self.judge.question;
                let values = context! {
                    criterion, demonstrations, turns, answer, question, labels, plain
                };
                vec![self.fill("judge-yes-no", values)?]
            }
        };
        let request = |text: String| {
            let continuations = continuations.to_vec();
            match plain {
                true => {
                    let raw = Some(RawPrompt::Text(text));
                    ScoreRequest { raw, continuations, ..ScoreRequest::default() }
                }
                false => {
                    let messages = vec![Message::text(Role::User, text)];
                    ScoreRequest { messages, continuations, ..ScoreRequest::default() }
                }
            }
        };
        Ok(texts.into_iter().map(request).collect())
    }

    fn fill(&self, name: &str, values: Value) -> Result<String, PromptError> {
        let text = self
            .environment
            .get_template(name)
            .and_then(|template| template.render(values))
            .map_err(|error| template_error(name, error))?;
        Ok(text.trim().to_owned())
    }
}

fn template_error(name: &str, error: minijinja::Error) -> PromptError {
    PromptError::Template { name: name.to_owned(), source: Box::new(error) }
}

fn turns(messages: &[Message]) -> Vec<Value> {
    let turn = |message: &Message| {
        let speaker = match message.role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        };
        context! { speaker, words => message.words() }
    };
    messages.iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Vec<Message> {
        vec![Message::text(Role::User, "How do locks work?")]
    }

    fn words(request: &ScoreRequest) -> String {
        match &request.raw {
            Some(RawPrompt::Text(text)) => text.clone(),
            _ => request.messages[0].words(),
        }
    }

    #[test]
    fn letters_are_asked_in_both_orders() {
        let judge = JudgeConfig { criterion: "Be kind.".to_owned(), ..JudgeConfig::default() };
        let prompts = Prompts::load(&PromptFiles::default(), PromptForm::Chat, &judge).unwrap();
        let requests = prompts.judge_requests(&asked(), " By pins. ", &["A".into()]).unwrap();
        assert_eq!(requests.len(), 2);
        let (good, bad) = (&judge.good, &judge.bad);
        let start = "You check what an assistant said. Be kind.\n";
        let end = "Conversation:\nUser: How do locks work?\nAssistant: By pins.\n\n\
                   Reply with the letter of what is true, and nothing else.";
        assert_eq!(words(&requests[0]), format!("{start}\nA. {good}\nB. {bad}\n{end}"));
        assert_eq!(words(&requests[1]), format!("{start}\nA. {bad}\nB. {good}\n{end}"));
        assert_eq!(requests[0].continuations, ["A".into()]);
    }

    #[test]
    fn examples_show_both_orders_and_the_right_label() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shown.jsonl");
        let row = |good: bool| format!("{{\"question\":\"q\",\"answer\":\"a\",\"good\":{good}}}\n");
        std::fs::write(&path, row(true) + &row(true) + &row(false) + &row(false)).unwrap();
        let judge = JudgeConfig { demonstrations: Some(path.clone()), ..JudgeConfig::default() };
        let load = |form, judge: &JudgeConfig| Prompts::load(&PromptFiles::default(), form, judge);
        let prompts = load(PromptForm::Plain, &judge).unwrap();
        let text = words(&prompts.judge_requests(&asked(), "a", &[]).unwrap()[0]);
        let labels: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("Letter: ")).collect();
        assert_eq!(labels, ["A", "B", "B", "A"]);
        assert!(text.ends_with("\nLetter:"), "{text}");
        let judge = JudgeConfig { form: JudgeForm::YesNo, ..judge };
        let prompts = load(PromptForm::Plain, &judge).unwrap();
        let requests = prompts.judge_requests(&asked(), "a", &[]).unwrap();
        assert_eq!(requests.len(), 1);
        assert_eq!(words(&requests[0]).matches("harmless? no").count(), 2);
        std::fs::write(&path, "{\"question\":\"q\"}\n").unwrap();
        let said = load(PromptForm::Chat, &judge).unwrap_err().to_string();
        assert!(said.contains("shown.jsonl"), "{said}");
    }

    #[test]
    fn plain_conversations_end_where_the_assistant_speaks() {
        let judge = JudgeConfig::default();
        let prompts = Prompts::load(&PromptFiles::default(), PromptForm::Plain, &judge).unwrap();
        let expected = "User: How do locks work?\nAssistant:".to_owned();
        assert_eq!(prompts.raw(&asked()).unwrap(), Some(RawPrompt::Text(expected)));
    }

    #[test]
    fn a_replaced_template_is_tried_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("letters.jinja");
        let files = PromptFiles { judge_letters: Some(path.clone()), ..PromptFiles::default() };
        let load = || Prompts::load(&files, PromptForm::Chat, &JudgeConfig::default());
        std::fs::write(&path, "{{ answer }}?").unwrap();
        let builtin =
            Prompts::load(&PromptFiles::default(), PromptForm::Chat, &JudgeConfig::default());
        assert_ne!(load().unwrap().hash(), builtin.unwrap().hash());
        std::fs::write(&path, "{{ anwser }}").unwrap();
        assert!(load().unwrap_err().to_string().contains("prompt judge-letters"));
    }
}
