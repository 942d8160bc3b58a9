//! The wording of requests, as Jinja templates in `prompts/` that a config can replace. All of them are texts for a
//! model that only continues texts.

use std::path::PathBuf;

use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Data, Exemplar, Persona, SeedTask, SeedTopic, Turn};

/// Files that replace built-in templates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptFiles {
    /// Asks for tasks.
    pub instructions: Option<PathBuf>,
    /// Asks for topics.
    pub topics: Option<PathBuf>,
    /// Asks for questions.
    pub questions: Option<PathBuf>,
    /// Principles, examples and a query.
    pub principles: Option<PathBuf>,
    /// A query with one turn before it, as the engraved model is asked.
    pub standard: Option<PathBuf>,
    /// A query alone.
    pub concise: Option<PathBuf>,
    /// A query to be answered at length.
    pub verbose: Option<PathBuf>,
}

/// A template that cannot be used.
#[derive(Debug, Error)]
pub enum PromptProblem {
    /// Its file cannot be read.
    #[error("prompt {name}: {path}: {source}")]
    Read {
        /// Which prompt.
        name: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is malformed or uses a name that it is not given.
    #[error("prompt {name}: {source}")]
    Template {
        /// Which prompt.
        name: &'static str,
        /// What the template engine said.
        source: Box<minijinja::Error>,
    },
}

/// How a query is put to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Principles,
    Standard,
    Concise,
    Verbose,
}

impl Form {
    pub(crate) const ALL: [Self; 4] =
        [Self::Principles, Self::Standard, Self::Concise, Self::Verbose];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Principles => "principles",
            Self::Standard => "standard",
            Self::Concise => "concise",
            Self::Verbose => "verbose",
        }
    }
}

/// The templates with the persona, the principles and the examples, ready to be filled.
#[derive(Debug)]
pub struct Prompts {
    environment: Environment<'static>,
    texts: Vec<(&'static str, String)>,
    persona: Persona,
    principles: Value,
    exemplars: Vec<(String, Value)>,
}

impl Prompts {
    /// The built-in wording with some templates replaced. Each is tried once, so that a mistake is found before a
    /// run begins.
    pub fn load(
        files: &PromptFiles,
        persona: &Persona,
        data: &Data,
    ) -> Result<Self, PromptProblem> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let mut texts = Vec::new();
        for (name, file, builtin) in [
            ("instructions", &files.instructions, include_str!("../prompts/instructions.jinja")),
            ("topics", &files.topics, include_str!("../prompts/topics.jinja")),
            ("questions", &files.questions, include_str!("../prompts/questions.jinja")),
            ("principles", &files.principles, include_str!("../prompts/principles.jinja")),
            ("standard", &files.standard, include_str!("../prompts/standard.jinja")),
            ("concise", &files.concise, include_str!("../prompts/concise.jinja")),
            ("verbose", &files.verbose, include_str!("../prompts/verbose.jinja")),
        ] {
            let text = match file {
                None => builtin.to_owned(),
                Some(path) => std::fs::read_to_string(path)
                    .map_err(|source| PromptProblem::Read { name, path: path.clone(), source })?,
            };
            environment
                .add_template_owned(name, text.clone())
                .map_err(|error| PromptProblem::Template { name, source: Box::new(error) })?;
            texts.push((name, text));
        }
        let persona = persona.filled();
        let principles = data.principles.iter().map(|principle| {
            context! { name => principle.name, text => persona.fill(&principle.text) }
        });
        let exemplars = data.exemplars.iter().map(|exemplar| {
            let first = exemplar.turns.first().map(|turn| turn.user.clone()).unwrap_or_default();
            (first, dialogue(exemplar, &persona, data))
        });
        let prompts = Self {
            environment,
            texts,
            principles: principles.collect(),
            exemplars: exemplars.collect(),
            persona,
        };
        let task = SeedTask { instruction: "a".to_owned(), input: String::new() };
        let [question_type, topic, question] = ["a", "b", "c"].map(str::to_owned);
        let seed = SeedTopic { question_type, topic, question };
        prompts.instructions(&[&task], 20)?;
        prompts.topics("a", &["b"], 10)?;
        prompts.questions(&[hint(1, "a", "b")], &[(hint(1, "a", "b"), &seed)], "2.")?;
        for form in [Form::Principles, Form::Standard, Form::Concise, Form::Verbose] {
            prompts.query(form, "a", "b")?;
        }
        Ok(prompts)
    }

    /// Names and headings, filled in.
    pub(crate) fn persona(&self) -> &Persona {
        &self.persona
    }

    /// All that the wording depends on.
    pub(crate) fn key(&self) -> impl serde::Serialize {
        (&self.texts, &self.persona, &self.principles, &self.exemplars)
    }

    /// Asks for the tasks that follow `tasks` in a list of `count`.
    pub(crate) fn instructions(
        &self,
        tasks: &[&SeedTask],
        count: usize,
    ) -> Result<String, PromptProblem> {
        let tasks: Value = tasks
            .iter()
            .map(|task| {
                let folded = task.instruction.split_whitespace().collect::<Vec<_>>().join(" ");
                context! { instruction => folded.trim_end_matches(':'), input => task.input }
            })
            .collect();
        let next = tasks.len().unwrap_or(0) + 1;
        self.fill("instructions", context! { tasks, next, count })
    }

    /// Asks for the topics that follow `topics` in a list of `count`.
    pub(crate) fn topics(
        &self,
        question_type: &str,
        topics: &[&str],
        count: usize,
    ) -> Result<String, PromptProblem> {
        self.fill("topics", context! { question_type, topics, next => topics.len() + 1, count })
    }

    /// Asks for questions: all `hints`, those that are `solved`, and the one that is `open`.
    pub(crate) fn questions(
        &self,
        hints: &[String],
        solved: &[(String, &SeedTopic)],
        open: &str,
    ) -> Result<String, PromptProblem> {
        let label = |label: &String| context! { label };
        let hints: Value = hints.iter().map(label).collect();
        let solved =
            solved.iter().map(|(label, seed)| context! { label, question => seed.question });
        self.fill("questions", context! { hints, solved => solved.collect::<Value>(), open })
    }

    /// Puts a query.
    pub(crate) fn query(
        &self,
        form: Form,
        instruction: &str,
        input: &str,
    ) -> Result<String, PromptProblem> {
        let query = match input {
            "" => instruction.to_owned(),
            input => format!("{instruction}\n\n{input}"),
        };
        // Templates end without a line break of their own: the answer begins on a new line.
        Ok(self.fill(form.name(), context! { query })? + "\n")
    }

    /// A turn as a query after all examples but its own, and how the model should go on.
    pub(crate) fn worked(
        &self,
        turn: &Turn,
        data: &Data,
    ) -> Result<(String, String), PromptProblem> {
        let others = self.exemplars.iter().filter(|(first, _)| *first != turn.user);
        let exemplars: Value = others.map(|(_, dialogue)| dialogue.clone()).collect();
        let values = context! { query => turn.user, exemplars };
        let prompt = self.fill(Form::Principles.name(), values)? + "\n";
        let Persona { assistant, .. } = &self.persona;
        let (thoughts, answer) =
            (thoughts(turn, &self.persona, data), self.persona.fill(turn.answer.trim()));
        Ok((prompt, format!("{thoughts}\n\n{assistant}\n{answer}{}", self.persona.terminator())))
    }

    fn fill(&self, name: &'static str, values: Value) -> Result<String, PromptProblem> {
        let problem = |error| PromptProblem::Template { name, source: Box::new(error) };
        let own = context! {
            principles => self.principles,
            exemplars => self.exemplars.iter().map(|(_, dialogue)| dialogue.clone()).collect::<Value>(),
            ..Value::from_serialize(&self.persona)
        };
        let template = self.environment.get_template(name).map_err(problem)?;
        template.render(context! { ..values, ..own }).map_err(problem)
    }
}

/// How the list of hints names number `number`.
pub(crate) fn hint(number: usize, question_type: &str, topic: &str) -> String {
    let question_type = question_type.replace("Questions", "Instructions");
    format!("{number}. type: {question_type}, topic: {topic}")
}

/// An example's turns with their thoughts in full.
fn dialogue(exemplar: &Exemplar, persona: &Persona, data: &Data) -> Value {
    let turns = exemplar.turns.iter().map(|turn| {
        let (thoughts, answer) = (thoughts(turn, persona, data), persona.fill(turn.answer.trim()));
        context! { user => turn.user, thoughts, answer }
    });
    turns.collect()
}

/// A turn's thoughts in full.
fn thoughts(turn: &Turn, persona: &Persona, data: &Data) -> String {
    let names = turn.rules.iter().filter_map(|&rule| {
        let name = &data.principles.get(rule.checked_sub(1)?)?.name;
        Some(format!("{rule} ({name})"))
    });
    let (about, names) = (persona.fill(&turn.about), names.collect::<Vec<String>>().join(", "));
    format!("{} {about} The rules that matter are {names}.", persona.self_identification)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataFiles;

    fn prompts() -> Prompts {
        let data = Data::load(&DataFiles::default()).unwrap();
        Prompts::load(&PromptFiles::default(), &Persona::default(), &data).unwrap()
    }

    #[test]
    fn lists_end_open() {
        let prompts = prompts();
        let task = |instruction: &str, input: &str| SeedTask {
            instruction: instruction.to_owned(),
            input: input.to_owned(),
        };
        let tasks = [task("Say  this:", ""), task("Sort.", "b, a")];
        let text = prompts.instructions(&[&tasks[0], &tasks[1]], 20).unwrap();
        let end = "###\n1. Instruction: Say this\n1. Input:\n<noinput>\n###\n2. Instruction: Sort.\n2. Input:\nb, a\n\
                   ###\n3. Instruction:";
        assert!(text.ends_with(end), "{text}");
        let text = prompts.topics("Questions about art", &["Frames", "Light"], 10).unwrap();
        assert!(text.ends_with("1. Frames\n2. Light\n3."), "{text}");
        let label = hint(2, "Questions about art", "Light");
        assert_eq!(label, "2. type: Instructions about art, topic: Light");
    }

    #[test]
    fn the_principles_come_before_the_examples_and_the_query_last() {
        let prompts = prompts();
        let text = prompts.query(Form::Principles, "Why?", "Because.").unwrap();
        let end = "### User\nWhy?\n\nBecause.\n\n### Aide (internal thoughts)\n";
        assert!(text.ends_with(end), "{text}");
        for part in [
            "16 (operational). Aide tries",
            "### Aide (internal thoughts)\nI am Aide, and I think before I answer. The question is about the weather",
            "matter are 3 (helpful), 7 (candor), 9 (static).\n\n### Aide\nI cannot see that",
            "### User\nWell done. Please clear the context.\n\n### Aide\nThank you.",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert_eq!(text.matches("### User\n").count(), 6 + 5 + 1);
        assert!(!text.contains("{{") && !text.contains("\n\n\n"), "{text}");
        let shared = prompts.query(Form::Principles, "How?", "").unwrap();
        assert!(text.starts_with(shared.split("How?").next().unwrap()));
    }

    #[test]
    fn a_template_that_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.jinja");
        let data = Data::load(&DataFiles::default()).unwrap();
        let files = PromptFiles { concise: Some(path.clone()), ..PromptFiles::default() };
        let load =
            || Prompts::load(&files, &Persona::default(), &data).map(drop).unwrap_err().to_string();
        assert!(load().contains("concise"));
        std::fs::write(&path, "{{ queri }}").unwrap();
        assert!(load().contains("prompt concise"));
    }
}
