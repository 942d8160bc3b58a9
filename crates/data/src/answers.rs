//! Answers to prompts by id: what a teacher wrote beforehand.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::{DataError, Rows};

#[derive(Deserialize)]
struct Answer {
    id: String,
    answer: String,
}

/// Reads rows with `id` and `answer`; other keys are passed over.
pub fn read_answers(path: &Path) -> Result<HashMap<String, String>, DataError> {
    let mut answers: HashMap<String, (u64, String)> = HashMap::new();
    for row in Rows::open(path)? {
        let row = row?;
        let Answer { id, answer } = row.parse()?;
        if let Some((first, _)) = answers.get(&id) {
            let (path, row, first) = (row.path, row.number, *first);
            return Err(DataError::DuplicateId { path, row, first, id });
        }
        answers.insert(id, (row.number, answer));
    }
    Ok(answers.into_iter().map(|(id, (_, answer))| (id, answer)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_by_id_and_mistakes_by_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("{\"id\":\"a\",\"answer\":\"x\",\"more\":1}\n{\"id\":\"b\",\"answer\":\"\"}\n");
        let answers = read_answers(&path).unwrap();
        assert_eq!((answers["a"].as_str(), answers["b"].as_str()), ("x", ""));
        for (text, words) in [
            ("{\"id\":\"a\",\"answer\":\"x\"}\n{\"id\":\"a\",\"answer\":\"y\"}\n", "row 2"),
            ("{\"id\":\"a\"}\n", "missing key \"answer\""),
        ] {
            write(text);
            let error = read_answers(&path).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
