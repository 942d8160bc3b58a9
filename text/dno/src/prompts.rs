//! The wording of what an annotator is asked, as Jinja templates in `prompts/` that a config can replace. The points of
//! the rubric are those of the paper's annotator, in our own words.

use std::path::{Path, PathBuf};

use minijinja::{Environment, Value, context};
use savi_schema::{Message, Role};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const RUBRIC: (&str, &str) = ("rubric", include_str!("../prompts/rubric.jinja"));
const COMPARE: (&str, &str) = ("compare", include_str!("../prompts/compare.jinja"));

/// Files that replace built-in templates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptFiles {
    /// Replaces `rubric`, which sees `prompt`, `candidates` and `count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rubric: Option<PathBuf>,
    /// Replaces `compare`, which sees `prompt`, `first` and `second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<PathBuf>,
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
        name: &'static str,
        /// What the template engine said.
        source: Box<minijinja::Error>,
    },
}

/// The templates, ready to be filled.
#[derive(Debug)]
pub(crate) struct Prompts {
    environment: Environment<'static>,
    ids: [String; 2],
}

impl Prompts {
    /// The built-in wording with some templates replaced. Each is tried once, so that a mistake is found before a run
    /// begins.
    pub(crate) fn load(files: &PromptFiles) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let mut add = |(name, builtin): (&'static str, &str), file: Option<&Path>| {
            let text = match file {
                Some(path) => std::fs::read_to_string(path)
                    .map_err(|source| PromptError::Read { name, path: path.to_owned(), source })?,
                None => builtin.to_owned(),
            };
            let id = format!("{name}@{}", &blake3::hash(text.as_bytes()).to_hex()[..12]);
            let added = environment.add_template_owned(name, text);
            added.map_err(|error| template_error(name, error)).map(|()| id)
        };
        let ids = [add(RUBRIC, files.rubric.as_deref())?, add(COMPARE, files.compare.as_deref())?];
        let prompts = Self { environment, ids };
        let request = [Message::text(Role::User, "request")];
        prompts.rubric(&request, &["reply"])?;
        prompts.compare(&request, "one", "other")?;
        Ok(prompts)
    }

    /// Name and content hash of both templates, as keys and records keep them.
    pub(crate) fn ids(&self) -> &[String; 2] {
        &self.ids
    }

    /// Asks for points for all candidates side by side.
    pub(crate) fn rubric(
        &self,
        prompt: &[Message],
        candidates: &[&str],
    ) -> Result<Vec<Message>, PromptError> {
        let count = candidates.len();
        self.fill(RUBRIC.0, context! { prompt => request(prompt), candidates, count })
    }

    /// Asks which of two is better.
    pub(crate) fn compare(
        &self,
        prompt: &[Message],
        first: &str,
        second: &str,
    ) -> Result<Vec<Message>, PromptError> {
        self.fill(COMPARE.0, context! { prompt => request(prompt), first, second })
    }

    fn fill(&self, name: &'static str, values: Value) -> Result<Vec<Message>, PromptError> {
        let text = self.environment.get_template(name).and_then(|filled| filled.render(values));
        let text = text.map_err(|error| template_error(name, error))?;
        Ok(vec![Message::text(Role::User, text.trim())])
    }
}

/// A conversation as an annotator reads it: the words alone where there is one turn, else with who says them.
fn request(prompt: &[Message]) -> String {
    let said = |turn: &Message| {
        let who = match turn.role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        };
        format!("{who}: {}", turn.words())
    };
    match prompt {
        [turn] => turn.words(),
        turns => turns.iter().map(said).collect::<Vec<_>>().join("\n"),
    }
}

fn template_error(name: &'static str, error: minijinja::Error) -> PromptError {
    PromptError::Template { name, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_text_and_no_template() {
        let prompts = Prompts::load(&PromptFiles::default()).unwrap();
        let turns = [Message::text(Role::System, "Be kind."), Message::text(Role::User, "Hello?")];
        let asked = prompts.rubric(&turns, &["{{ up }}", "[End]"]).unwrap()[0].words();
        for part in
            ["System: Be kind.\nUser: Hello?", "[Reply 1]\n{{ up }}\n", "[Reply 2]", "2 replies"]
        {
            assert!(asked.contains(part), "{asked}");
        }
        let asked = prompts.compare(&turns[1..], "left", "right").unwrap()[0].words();
        assert!(asked.contains("[Request]\nHello?\n") && asked.contains("[Reply B]\nright\n"));
    }

    #[test]
    fn a_replaced_template_has_another_id_and_is_tried_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.jinja");
        std::fs::write(&path, "{{ prompt }}: {{ count }}").unwrap();
        let files = PromptFiles { rubric: Some(path.clone()), compare: None };
        let (usual, mine) =
            (Prompts::load(&PromptFiles::default()).unwrap(), Prompts::load(&files).unwrap());
        assert_ne!(usual.ids()[0], mine.ids()[0]);
        assert_eq!(usual.ids()[1], mine.ids()[1]);
        std::fs::write(&path, "{{ promt }}").unwrap();
        assert!(Prompts::load(&files).unwrap_err().to_string().contains("prompt rubric"));
    }
}
