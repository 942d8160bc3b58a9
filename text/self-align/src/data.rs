//! What people write: seeds, principles, examples and identity, as files that a config can replace.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Files that replace the built-in ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataFiles {
    /// Seed tasks, one JSON object a line: `instruction`, and `input` where there is one.
    pub seeds: Option<PathBuf>,
    /// Types of question, each with a seed: one JSON object a line, `question_type`, `topic`, `question`.
    pub red_team: Option<PathBuf>,
    /// The principles, one a line: `name: what it asks for`.
    pub principles: Option<PathBuf>,
    /// The worked dialogues, as TOML.
    pub exemplars: Option<PathBuf>,
    /// What the assistant says of itself, one JSON object a line: `user`, `assistant`.
    pub identity: Option<PathBuf>,
}

/// A task to learn the form from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedTask {
    /// What is to be done.
    pub instruction: String,
    /// What it is done to; empty where there is nothing.
    #[serde(default)]
    pub input: String,
}

/// A type of question with one topic and one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedTopic {
    /// The type, which has no second line.
    pub question_type: String,
    /// A topic of it.
    pub topic: String,
    /// A question about the topic.
    pub question: String,
}

/// A rule for answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Principle {
    /// Its short name, by which thoughts cite it.
    pub name: String,
    /// What it asks for.
    pub text: String,
}

/// A worked dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exemplar {
    /// Words of its own content, found in it; where none is given, those words of its first question that no seed
    /// has.
    #[serde(default)]
    pub leaks: Vec<String>,
    /// Questions that name a leak get its first answer when answers are made longer.
    #[serde(default)]
    pub canned: bool,
    /// Its turns.
    #[serde(rename = "turn")]
    pub turns: Vec<Turn>,
}

/// A question with thoughts and answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// What the user says.
    pub user: String,
    /// What is asked, as the assistant notes it for itself.
    pub about: String,
    /// The principles that it weighs, counted from 1.
    pub rules: Vec<usize>,
    /// What it answers.
    pub answer: String,
}

/// A question and an answer about the assistant itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Utterance {
    /// What the user says.
    pub user: String,
    /// What the assistant answers; `{{ name }}` and `{{ product }}` stand for its names.
    pub assistant: String,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Data {
    /// Tasks.
    pub seeds: Vec<SeedTask>,
    /// Types of question, in the order in which they are asked for.
    pub red_team: Vec<SeedTopic>,
    /// Rules; the first is number 1.
    pub principles: Vec<Principle>,
    /// Worked dialogues.
    pub exemplars: Vec<Exemplar>,
    /// Identity.
    pub identity: Vec<Utterance>,
}

/// A file that cannot be used.
#[derive(Debug, Error)]
pub enum DataProblem {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its content is wrong.
    #[error("{file}{}: {reason}", line.map_or(String::new(), |line| format!(", line {line}")))]
    Content {
        /// Which file.
        file: String,
        /// Which line, where one is to blame.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exemplars {
    exemplar: Vec<Exemplar>,
}

impl Data {
    /// The built-in files with some replaced; checked as a whole.
    pub fn load(files: &DataFiles) -> Result<Self, DataProblem> {
        let seeds =
            Text::of(&files.seeds, "data/seeds.jsonl", include_str!("../data/seeds.jsonl"))?;
        let red_team = Text::of(
            &files.red_team,
            "data/red_team.jsonl",
            include_str!("../data/red_team.jsonl"),
        )?;
        let principles = Text::of(
            &files.principles,
            "data/principles.txt",
            include_str!("../data/principles.txt"),
        )?;
        let exemplars = Text::of(
            &files.exemplars,
            "data/exemplars.toml",
            include_str!("../data/exemplars.toml"),
        )?;
        let identity = Text::of(
            &files.identity,
            "data/identity.jsonl",
            include_str!("../data/identity.jsonl"),
        )?;
        let mut data = Self {
            seeds: seeds.rows()?,
            red_team: red_team.rows()?,
            principles: principles.principles()?,
            exemplars: exemplars.exemplars()?,
            identity: identity.rows()?,
        };
        check(&data.exemplars, data.principles.len(), &exemplars)?;
        data.derive_leaks();
        Ok(data)
    }

    /// Dialogues of another file, laid out as the examples are.
    pub(crate) fn dialogues(&self, path: &Path) -> Result<Vec<Exemplar>, DataProblem> {
        let text = Text::of(&Some(path.to_owned()), "", "")?;
        let dialogues = text.exemplars()?;
        check(&dialogues, self.principles.len(), &text)?;
        Ok(dialogues)
    }

    /// Where an example names no leaks: the longer words of its first question that no seed uses.
    fn derive_leaks(&mut self) {
        const LEAST_LETTERS: usize = 5;
        let of = |text: &str| savi_judge::rouge::words(text);
        let common: std::collections::HashSet<String> = self
            .seeds
            .iter()
            .flat_map(|seed| of(&seed.instruction).into_iter().chain(of(&seed.input)))
            .collect();
        for exemplar in self.exemplars.iter_mut().filter(|exemplar| exemplar.leaks.is_empty()) {
            let Some(turn) = exemplar.turns.first() else { continue };
            let own = |word: &String| word.len() >= LEAST_LETTERS && !common.contains(word);
            exemplar.leaks = of(&turn.user).into_iter().filter(own).collect();
        }
    }
}

/// Refuses dialogues without turns, rules that are not there, and leaks that the dialogue does not have.
fn check(exemplars: &[Exemplar], principles: usize, file: &Text) -> Result<(), DataProblem> {
    let wrong = |reason: String| Err(file.wrong(None, reason));
    for (number, exemplar) in exemplars.iter().enumerate() {
        let number = number + 1;
        if exemplar.turns.is_empty() {
            return wrong(format!("exemplar {number} has no turn"));
        }
        let mut rules = exemplar.turns.iter().flat_map(|turn| &turn.rules);
        if let Some(rule) = rules.find(|&&rule| !(1..=principles).contains(&rule)) {
            return wrong(format!("exemplar {number} cites rule {rule}, there are {principles}"));
        }
        let said = exemplar.turns.iter().flat_map(|turn| [&turn.user, &turn.answer]);
        let said: String = said.map(|text| text.to_lowercase() + "\n").collect();
        let missing =
            |leak: &&String| leak.trim().is_empty() || !said.contains(&leak.to_lowercase());
        if let Some(leak) = exemplar.leaks.iter().find(missing) {
            return wrong(format!("exemplar {number} does not have its leak {leak:?}"));
        }
    }
    Ok(())
}

/// Reads a file of one JSON object a line.
pub(crate) fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, DataProblem> {
    Text::of(&Some(path.to_owned()), "", "")?.rows()
}

/// A file's text and the name under which it is spoken of.
struct Text {
    name: String,
    text: String,
}

impl Text {
    fn of(path: &Option<PathBuf>, name: &str, builtin: &str) -> Result<Self, DataProblem> {
        match path {
            None => Ok(Self { name: name.to_owned(), text: builtin.to_owned() }),
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Self { name: path.display().to_string(), text }),
                Err(source) => Err(DataProblem::Read { path: path.clone(), source }),
            },
        }
    }

    fn wrong(&self, line: Option<usize>, reason: String) -> DataProblem {
        DataProblem::Content { file: self.name.clone(), line, reason }
    }

    /// Lines that say something, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        lines.filter(|(_, line)| !line.is_empty())
    }

    fn rows<T: DeserializeOwned>(&self) -> Result<Vec<T>, DataProblem> {
        let rows = self.lines().map(|(at, line)| {
            serde_json::from_str(line).map_err(|error| self.wrong(Some(at), error.to_string()))
        });
        let rows: Vec<T> = rows.collect::<Result<_, _>>()?;
        if rows.is_empty() { Err(self.wrong(None, "it is empty".to_owned())) } else { Ok(rows) }
    }

    fn exemplars(&self) -> Result<Vec<Exemplar>, DataProblem> {
        let read: Result<Exemplars, _> = toml::from_str(&self.text);
        Ok(read.map_err(|error| self.wrong(None, error.to_string()))?.exemplar)
    }

    fn principles(&self) -> Result<Vec<Principle>, DataProblem> {
        let lines = self.lines().map(|(at, line)| match line.split_once(": ") {
            Some((name, text)) => {
                Ok(Principle { name: name.to_owned(), text: text.trim().to_owned() })
            }
            None => Err(self.wrong(Some(at), "expected `name: what it asks for`".to_owned())),
        });
        let principles: Vec<Principle> = lines.collect::<Result<_, _>>()?;
        match principles.is_empty() {
            true => Err(self.wrong(None, "it is empty".to_owned())),
            false => Ok(principles),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_fewer_than_three_hundred_lines() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let lines = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap().lines().count());
        let lines: usize = lines.sum();
        assert!((200..300).contains(&lines), "{lines}");
        let data = Data::load(&DataFiles::default()).unwrap();
        let counts =
            [data.seeds.len(), data.red_team.len(), data.principles.len(), data.exemplars.len()];
        assert_eq!(counts, [175, 20, 16, 5]);
    }

    /// Seeds pass the filters that what the model writes has to pass, and no two are alike.
    #[test]
    fn seeds_are_what_they_ask_for() {
        let data = Data::load(&DataFiles::default()).unwrap();
        let config = crate::SelfInstruct::default();
        let mut pool = savi_judge::rouge::Pool::default();
        for seed in &data.seeds {
            assert_eq!(
                crate::tasks::fault(&seed.instruction, &seed.input, &config),
                None,
                "{seed:?}"
            );
            assert!(pool.compare(&seed.instruction).most <= 0.7, "{seed:?}");
            pool.push(&seed.instruction);
        }
        let types: std::collections::HashSet<&str> =
            data.red_team.iter().map(|seed| seed.question_type.as_str()).collect();
        assert_eq!(types.len(), 20);
        for seed in &data.red_team {
            assert!(
                crate::topics::fault(&seed.topic, &crate::Topics::default()).is_none(),
                "{seed:?}"
            );
        }
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own");
        let check = |text: &str, files: fn(PathBuf) -> DataFiles, words: &str| {
            std::fs::write(&path, text).unwrap();
            let problem = Data::load(&files(path.clone())).unwrap_err().to_string();
            assert!(problem.contains("own") && problem.contains(words), "{problem}");
        };
        let seeds = |path| DataFiles { seeds: Some(path), ..DataFiles::default() };
        check("{\"instruction\":\"a\"}\n{\"instrucion\":\"b\"}\n", seeds, "line 2");
        check("\n", seeds, "empty");
        let principles = |path| DataFiles { principles: Some(path), ..DataFiles::default() };
        check("kind: be kind\nbe brief\n", principles, "line 2");
        let exemplars = |path| DataFiles { exemplars: Some(path), ..DataFiles::default() };
        let turn =
            "[[exemplar.turn]]\nuser='Who rules Ruritania?'\nabout='a'\nanswer='I do not know.'\n";
        check(&format!("[[exemplar]]\n{turn}rules=[17]"), exemplars, "rule 17");
        check(&format!("[[exemplar]]\nleaks=['king']\n{turn}rules=[1]"), exemplars, "king");
        check("[[exemplar]]\nturn=[]", exemplars, "no turn");
        std::fs::write(&path, format!("[[exemplar]]\n{turn}rules=[1]")).unwrap();
        let data = Data::load(&exemplars(path.clone())).unwrap();
        assert_eq!(data.exemplars[0].leaks, ["rules", "ruritania"][1..]);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Data::load(&seeds(path)), Err(DataProblem::Read { .. })));
    }
}
