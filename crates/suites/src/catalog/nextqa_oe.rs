//! NExT-QA, open-ended (Xiao et al., CVPR 2021): the questions of NExT-QA answered in a few words, which WUPS
//! compares.
//!
//! Carriers: the authors' `val.csv`, and `test.csv` with `add_reference_answer_test.json` (`{video: {qid: answer}}`,
//! a second answer to about half of the questions), or the parquet of `lmms-lab/NExTQA` (`OE`), which has that one in
//! `additional_ref_answer`. Columns: `video, frame_count, width, height, question, answer, qid, type`. The types are
//! those of the multiple choice and DB, questions for a yes or a no. `more.references` holds the second answer. Ids
//! and clusters are those of the multiple choice.

use std::path::PathBuf;

use savi_data::DataError;
use serde_json::Value;

use super::shapes::members;
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, each_row, greedy, short_words};
use crate::{Gold, Item};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "nextqa-oe",
    manifest: include_str!("../../../../datasets/nextqa-oe/manifest.toml"),
    marks: &[
        ("test", include_str!("../../../../datasets/nextqa-oe/test.marks")),
        ("val", include_str!("../../../../datasets/nextqa-oe/val.marks")),
    ],
    load,
    words: short_words,
    ask: Ask::Reply { sampling: greedy::<64> },
    categories: &["group", "type"],
    ..Suite::CHOICE
};

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    let (rows, second) = match files {
        [rows @ .., second] if second.extension().is_some_and(|ending| ending == "json") => {
            (rows, Some((second, members(second)?)))
        }
        rows => (rows, None),
    };
    let mut used = 0;
    let found = each_row(rows, |row| {
        let cells = Cells::of(row)?;
        let (video, qid) = (cells.trimmed(&["video"])?, cells.trimmed(&["qid"])?);
        let kind = cells.trimmed(&["type"])?;
        let group = match kind.chars().next() {
            Some('C') => "causal",
            Some('T') => "temporal",
            Some('D') => "descriptive",
            _ => return Err(cells.bad(format!("{kind:?} is no type of NExT-QA's"))),
        };
        let more = match &second {
            Some((_, all)) => all.get(&video).and_then(|of| of.get(&qid)),
            None => cells.get(&["additional_ref_answer"]),
        };
        let gold = Gold::Text(cells.trimmed(&["answer"])?);
        let mut item =
            Item::new(format!("{video}-{kind}-{qid}"), cells.trimmed(&["question"])?, gold)
                .about(video)
                .within("group", group)
                .within("type", kind);
        if let Some(text) =
            more.and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
        {
            used += 1;
            item.more.insert("references".to_owned(), vec![text].into());
        }
        Ok(Some(item))
    })?;
    if let Some((path, all)) = second {
        let count: usize = all.values().map(|of| of.as_object().map_or(1, |of| of.len())).sum();
        if count != used {
            let reason = format!("{used} of its {count} answers belong to questions");
            return Err(DataError::File { path: path.clone(), reason });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};

    const ROWS: &str = "video,frame_count,width,height,question,answer,qid,type
12,90,6,4,is it dark,no,4,DB
12,90,6,4,why does she wave, to greet them,3,CW
";

    #[test]
    fn second_answers_come_from_either_carrier() {
        let second = r#"{"12":{"3":" to say hello"}}"#;
        let files = [("test.csv", ROWS), ("add_reference_answer_test.json", second)];
        let items = load("nextqa-oe", "test", &files);
        assert_eq!(
            (items[1].id.as_str(), items[1].target()),
            ("12-CW-3", "to greet them".to_owned())
        );
        assert_eq!(items[1].more["references"], serde_json::json!(["to say hello"]));
        assert!(items[0].more.is_empty());
        let row = r#"{"video":12,"question":"why does she wave","answer":"to greet them","qid":3,"type":"CW","additional_ref_answer":"to say hello"}"#;
        assert_eq!(load("nextqa-oe", "test", &[("OE/test-0.jsonl", row)])[0], items[1]);
        assert!(load("nextqa-oe", "val", &[("val.csv", ROWS)])[1].more.is_empty());
    }

    #[test]
    fn rows_that_cannot_be() {
        let files = [("test.csv", ROWS), ("add_reference_answer_test.json", r#"{"12":{"7":"a"}}"#)];
        refused("nextqa-oe", "test", &files, "0 of its 1 answers belong to questions");
        for (rows, message) in [
            (ROWS.replace(",DB", ",XB"), "row 1: \"XB\" is no type"),
            (ROWS.replace(",no,", ",,"), "row 1: missing key \"answer\""),
            (ROWS.replace("3,CW", "4,DB"), "row 2: id \"12-DB-4\" was used in row 1"),
        ] {
            refused("nextqa-oe", "val", &[("val.csv", &rows)], message);
        }
    }
}
