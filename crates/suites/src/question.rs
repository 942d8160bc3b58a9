//! The questions of a suite, one JSON object per line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// In words of the model's own.
    Open,
    /// By choosing one of the options.
    Choice,
}

/// One question about one clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionRecord {
    /// Record version.
    pub schema: u32,
    /// Unique within the suite.
    pub id: String,
    /// The clip it is about; questions of one clip are one cluster.
    pub clip_id: String,
    /// Path of the clip, relative to the suite's folder.
    pub clip: String,
    /// What kind of thing is asked.
    pub family: String,
    /// How the answer is given.
    pub format: Format,
    /// The question.
    pub question: String,
    /// The options, for choice questions.
    #[serde(default)]
    pub options: Option<Vec<String>>,
    /// The right answer; for choice questions the text of the right option.
    pub answer: String,
    /// Whether it cannot be answered from a single frame.
    #[serde(default)]
    pub temporal: bool,
    /// Whether it shows a combination that training never shows.
    #[serde(default)]
    pub novel: bool,
}

impl QuestionRecord {
    /// The options as a slice; empty for open questions.
    pub fn options(&self) -> &[String] {
        self.options.as_deref().unwrap_or_default()
    }

    fn problem(&self) -> Option<String> {
        if self.schema != savi_schema::SCHEMA_VERSION {
            return Some(format!("schema {} is not {}", self.schema, savi_schema::SCHEMA_VERSION));
        }
        match self.format {
            Format::Open if !self.options().is_empty() => {
                Some("an open question has options".to_owned())
            }
            Format::Choice if !(2..=26).contains(&self.options().len()) => {
                Some(format!("{} options where 2 to 26 are needed", self.options().len()))
            }
            Format::Choice if self.options().iter().filter(|o| **o == self.answer).count() != 1 => {
                Some(format!("the answer {:?} is not exactly one of the options", self.answer))
            }
            Format::Open | Format::Choice => None,
        }
    }
}

/// Why a questions file cannot be used.
#[derive(Debug, Error)]
pub enum QuestionError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a usable question.
    #[error("{path} line {line}: {reason}")]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// Reads a questions file (JSON Lines; blank lines are skipped) and checks every record.
pub fn read_questions(path: &Path) -> Result<Vec<QuestionRecord>, QuestionError> {
    let text = fs::read_to_string(path)
        .map_err(|source| QuestionError::Io { path: path.to_owned(), source })?;
    let mut seen = std::collections::HashSet::new();
    let mut questions = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |reason: String| QuestionError::BadLine {
            path: path.to_owned(),
            line: index + 1,
            reason,
        };
        let question: QuestionRecord =
            serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        if let Some(problem) = question.problem() {
            return Err(bad(format!("question {}: {problem}", question.id)));
        }
        if !seen.insert(question.id.clone()) {
            return Err(bad(format!("a second question has the id {}", question.id)));
        }
        questions.push(question);
    }
    Ok(questions)
}

/// Groups questions by clip: clips in the order of their ids, questions in the order given.
pub fn by_clip(questions: &[QuestionRecord]) -> Vec<(&str, Vec<&QuestionRecord>)> {
    let mut clips: BTreeMap<&str, Vec<&QuestionRecord>> = BTreeMap::new();
    for question in questions {
        clips.entry(&question.clip_id).or_default().push(question);
    }
    clips.into_iter().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn question(id: &str, clip: &str, family: &str, answer: &str) -> QuestionRecord {
        QuestionRecord {
            schema: 1,
            id: id.to_owned(),
            clip_id: clip.to_owned(),
            clip: format!("dev/clips/{clip}.mp4"),
            family: family.to_owned(),
            format: Format::Open,
            question: format!("What is the {family}?"),
            options: None,
            answer: answer.to_owned(),
            temporal: false,
            novel: false,
        }
    }

    pub(crate) fn choice(id: &str, clip: &str, options: &[&str], answer: &str) -> QuestionRecord {
        QuestionRecord {
            format: Format::Choice,
            options: Some(options.iter().map(|&o| o.to_owned()).collect()),
            ..question(id, clip, "choice", answer)
        }
    }

    const LINE: &str = r#"{"schema":1,"id":"dev-1-q3","clip_id":"dev-1","clip":"dev/clips/dev-1.mp4","family":"direction","format":"choice","question":"Where to?","options":["left","up"],"answer":"left","temporal":true,"novel":false}"#;

    fn read(text: &str) -> Result<Vec<QuestionRecord>, QuestionError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("questions.jsonl");
        fs::write(&path, text).unwrap();
        read_questions(&path)
    }

    #[test]
    fn reads_lines() {
        let open = LINE.replace("choice", "open").replace(r#"["left","up"]"#, "null");
        let questions = read(&format!("{LINE}\n\n{}\n", open.replace("q3", "q4"))).unwrap();
        assert_eq!(questions.len(), 2);
        assert_eq!(questions[0].options(), ["left", "up"]);
        assert!(questions[1].options().is_empty() && questions[1].temporal);
    }

    #[test]
    fn names_the_bad_line() {
        for (text, message) in [
            (format!("{LINE}\n{LINE}"), "line 2: a second question has the id dev-1-q3"),
            (LINE.replace("\"answer\":\"left\"", "\"answer\":\"down\""), "\"down\" is not exactly"),
            (LINE.replace("choice", "open"), "an open question has options"),
            (LINE.replace(r#"["left","up"]"#, r#"["left"]"#), "1 options"),
            (LINE.replace("\"schema\":1", "\"schema\":2"), "schema 2 is not 1"),
            ("{".to_owned(), "line 1"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn groups_by_clip() {
        let questions =
            [question("3", "b", "x", ""), question("2", "a", "x", ""), question("1", "b", "x", "")];
        let groups: Vec<(&str, Vec<&str>)> = by_clip(&questions)
            .into_iter()
            .map(|(clip, qs)| (clip, qs.iter().map(|q| q.id.as_str()).collect()))
            .collect();
        assert_eq!(groups, [("a", vec!["2"]), ("b", vec!["3", "1"])]);
    }
}
