//! Perception Test, multiple choice (Pătrăucean et al., NeurIPS 2023): memory, abstraction, physics and semantics in
//! filmed experiments, three options each.
//!
//! Carriers: the parquet of `lmms-lab/PerceptionTest_Val` (`video_name, question, question_id, options, answer_id,
//! area, reasoning, tag`) and the authors' `mc_question_valid.json`, `{video: {mc_question: [{id, question, options,
//! answer_id, area, reasoning, tag}]}}`; the answer from 0. A clip's questions have numbers of their own; the clip is
//! the cluster. The test split's answers are not published.

use std::path::{Path, PathBuf};

use savi_data::{DataError, Row, Rows};
use serde_json::Value;

use super::shapes::{inner, members, without_letters};
use crate::cells::Cells;
use crate::suite::{Found, Suite};
use crate::{Gold, Item};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "perceptiontest",
    manifest: include_str!("../../../../datasets/perceptiontest/manifest.toml"),
    marks: &[],
    load,
    categories: &["area", "reasoning"],
    ..Suite::CHOICE
};

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for path in files {
        if path.extension().is_some_and(|ending| ending == "json") {
            for (video, row) in by_video(path)? {
                found.push(Found::new(item(&Cells::of(&row)?, video)?, &row));
            }
        } else {
            for row in Rows::open(path)? {
                let row = row?;
                let cells = Cells::of(&row)?;
                let video = cells.trimmed(&["video_name"])?;
                found.push(Found::new(item(&cells, video)?, &row));
            }
        }
    }
    Ok(found)
}

fn by_video(path: &Path) -> Result<Vec<(String, Row)>, DataError> {
    let mut rows = Vec::new();
    for (video, held) in members(path)? {
        let number = rows.len() as u64 + 1;
        let Some(questions) = held.get("mc_question").and_then(Value::as_array) else {
            return Err(
                inner(path, number, &held).bad(format!("{video:?} has no list \"mc_question\""))
            );
        };
        for question in questions {
            rows.push((video.clone(), inner(path, rows.len() as u64 + 1, question)));
        }
    }
    Ok(rows)
}

fn item(cells: &Cells<'_>, video: String) -> Result<Item, DataError> {
    let id = format!("{video}-{}", cells.trimmed(&["question_id", "id"])?);
    let gold = Gold::Option(cells.index(&["answer_id"])?);
    let item = Item::new(id, cells.trimmed(&["question"])?, gold)
        .about(video)
        .with_options(without_letters(cells.texts(&["options"])?))
        .within("area", cells.trimmed(&["area"])?)
        .within("reasoning", cells.trimmed(&["reasoning"])?);
    Ok(item)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const ROWS: &str = r#"{"video_5":{"metadata":{"split":"valid"},"mc_question":[
{"id":0,"question":"What falls?","options":["a cup","a pen","nothing"],"answer_id":2,"area":"physics","reasoning":"predictive","tag":["fall"]},
{"id":4,"question":"Is it moved?","options":["yes","no","unclear"],"answer_id":0,"area":"memory","reasoning":"descriptive","tag":[]}]}}"#;

    #[test]
    fn both_carriers_give_the_same_items() {
        let items = load("perceptiontest", "val", &[("mc_question_valid.json", ROWS)]);
        assert_eq!((items[1].id.as_str(), items[1].cluster.as_str()), ("video_5-4", "video_5"));
        assert_eq!(
            (&items[0].gold, items[0].categories["area"].as_str()),
            (&Gold::Option(2), "physics")
        );
        let row = r#"{"video_name":"video_5","question":"What falls?","question_id":"0","options":["a cup","a pen","nothing"],"answer_id":"2","area":"physics","reasoning":"predictive","tag":["fall"]}"#;
        assert_eq!(load("perceptiontest", "val", &[("validation-0.jsonl", row)])[0], items[0]);
    }

    #[test]
    fn rows_that_cannot_be() {
        for (rows, message) in [
            (
                ROWS.replace("\"answer_id\":2", "\"answer_id\":3"),
                "row 1: the answer is option 4 of 3",
            ),
            (ROWS.replace("\"area\":\"memory\",", ""), "row 2: missing key \"area\""),
            (ROWS.replace("\"id\":4", "\"id\":0"), "row 2: id \"video_5-0\" was used in row 1"),
            (ROWS.replace("mc_question", "questions"), "row 1: \"video_5\" has no list"),
            (ROWS.replace("}]}}", "}]"), "row 1: EOF while parsing"),
        ] {
            refused("perceptiontest", "val", &[("mc_question_valid.json", &rows)], message);
        }
    }
}
