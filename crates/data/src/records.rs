//! Records of this project, read back with the checks that training relies on.

use std::collections::HashMap;
use std::path::Path;

use savi_schema::{Example, Message, Pair, Role, Rollout, SCHEMA_VERSION};
use serde::de::DeserializeOwned;

use crate::{DataError, Row, Rows};

/// A record that has a version and an id.
pub trait Record: DeserializeOwned {
    /// Version of the record's form.
    fn schema(&self) -> u32;

    /// Unique within a file.
    fn id(&self) -> &str;

    /// What is wrong with the record's content, if anything.
    fn fault(&self) -> Option<String>;
}

impl Record for Pair {
    fn schema(&self) -> u32 {
        self.schema
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn fault(&self) -> Option<String> {
        if let Some(fault) = prompt_fault(&self.prompt) {
            return Some(fault);
        }
        if self.chosen == self.rejected {
            return Some("chosen and rejected are the same text".to_owned());
        }
        (!self.margin.is_finite()).then(|| format!("margin is {}", self.margin))
    }
}

impl Record for Example {
    fn schema(&self) -> u32 {
        self.schema
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn fault(&self) -> Option<String> {
        if self.conversations.is_empty() {
            return Some("no conversations".to_owned());
        }
        let unfinished = self
            .conversations
            .iter()
            .position(|turns| turns.last().is_none_or(|turn| turn.role != Role::Assistant))?;
        Some(format!("conversation {} does not end with an assistant turn", unfinished + 1))
    }
}

impl Record for Rollout {
    fn schema(&self) -> u32 {
        self.schema
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn fault(&self) -> Option<String> {
        if let Some(fault) = prompt_fault(&self.prompt) {
            return Some(fault);
        }
        (!self.reward.is_finite()).then(|| format!("reward is {}", self.reward))
    }
}

fn prompt_fault(prompt: &[Message]) -> Option<String> {
    prompt.is_empty().then(|| "the prompt has no turns".to_owned())
}

/// Reads all records of a file, refusing unknown versions, repeated ids and unusable content.
pub fn read_records<T: Record>(path: &Path) -> Result<Vec<T>, DataError> {
    let mut records = Vec::new();
    let mut ids = Ids::default();
    for row in Rows::open(path)? {
        let row = row?;
        let record: T = known_version(&row)?;
        ids.take(&row, record.id())?;
        if let Some(fault) = record.fault() {
            return Err(row.bad(fault));
        }
        records.push(record);
    }
    Ok(records)
}

/// A row as a record of a version that is known.
pub(crate) fn known_version<T: Record>(row: &Row) -> Result<T, DataError> {
    let record: T = row.parse()?;
    if record.schema() != SCHEMA_VERSION {
        let (found, known) = (record.schema(), SCHEMA_VERSION);
        return Err(row.bad(format!("schema {found}, this program reads {known}")));
    }
    Ok(record)
}

/// The ids of a file's rows so far.
#[derive(Default)]
pub(crate) struct Ids(HashMap<String, u64>);

impl Ids {
    /// Notes an id; refuses one that was seen before.
    pub(crate) fn take(&mut self, row: &Row, id: &str) -> Result<(), DataError> {
        match self.0.insert(id.to_owned(), row.number) {
            None => Ok(()),
            Some(first) => Err(DataError::DuplicateId {
                path: row.path.clone(),
                row: row.number,
                first,
                id: id.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Record>(text: &str) -> Result<Vec<T>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        std::fs::write(&path, text).unwrap();
        let strip = format!("{}, ", path.display());
        read_records(&path).map_err(|e| e.to_string().replace(&strip, ""))
    }

    const TURN: &str = r#"{"role":"user","content":[{"type":"text","text":"Why?"}]}"#;

    fn pair(id: &str, schema: u32, chosen: &str) -> String {
        format!(
            r#"{{"schema":{schema},"id":"{id}","prompt":[{TURN}],"chosen":"{chosen}","rejected":"no"}}"#
        )
    }

    #[test]
    fn pairs_come_back() {
        let pairs: Vec<Pair> =
            read(&format!("{}\n{}\n", pair("a", 1, "x"), pair("b", 1, "y"))).unwrap();
        assert_eq!(pairs.len(), 2);
        assert_eq!((pairs[1].id.as_str(), pairs[1].chosen.as_str()), ("b", "y"));
        assert_eq!(pairs[0].prompt[0].words(), "Why?");
    }

    #[test]
    fn unusable_records_are_refused_by_row() {
        let two = |second: &str| format!("{}\n{second}\n", pair("a", 1, "x"));
        for (text, error) in [
            (two(&pair("a", 1, "y")), "row 2: id \"a\" was used in row 1 already"),
            (two(&pair("b", 9, "y")), "row 2: schema 9, this program reads 1"),
            (two(&pair("b", 1, "no")), "row 2: chosen and rejected are the same text"),
            (two(r#"{"schema":1,"id":"b"}"#), "row 2: missing key \"prompt\""),
            (
                two(r#"{"schema":1,"id":"b","prompt":[],"chosen":"a","rejected":"b"}"#),
                "row 2: the prompt has no turns",
            ),
        ] {
            assert_eq!(read::<Pair>(&text).unwrap_err(), error);
        }
    }

    #[test]
    fn examples_end_with_the_assistant() {
        let text = format!(r#"{{"schema":1,"id":"e","conversations":[[{TURN}]]}}"#);
        let error = read::<Example>(&text).unwrap_err();
        assert_eq!(error, "row 1: conversation 1 does not end with an assistant turn");
    }
}
