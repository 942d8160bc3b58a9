//! IntentQA (Li et al., ICCV 2023): why and how people act, and what they do before and after, five options each.
//!
//! Carrier: the authors' `val.csv` and `test.csv` (`video_id, question, answer, qid, type, a0..a4, action, lemma,
//! lemma_id`, the answer from 0). The clips are NExT-QA's, and so are the types: CW, CH, TN, TP. A clip's questions
//! are numbered within the clip; clips are the clusters. SlowFast-LLaVA and those who compare with it ask `val`. One
//! question of `val` has an option twice; neither is the answer.

use std::path::PathBuf;

use savi_data::DataError;

use crate::cells::Cells;
use crate::suite::{Found, Suite, each_row};
use crate::{Gold, Item};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "intentqa",
    manifest: include_str!("../../../../datasets/intentqa/manifest.toml"),
    marks: &[
        ("val", include_str!("../../../../datasets/intentqa/val.marks")),
        ("test", include_str!("../../../../datasets/intentqa/test.marks")),
    ],
    load,
    categories: &["group", "type"],
    ..Suite::CHOICE
};

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let video = cells.trimmed(&["video_id"])?;
        let kind = cells.trimmed(&["type"])?;
        let group = match kind.as_str() {
            "CW" => "why",
            "CH" => "how",
            "TN" | "TP" => "before and after",
            _ => return Err(cells.bad(format!("{kind:?} is no type of IntentQA's"))),
        };
        let id = format!("{video}-{kind}-{}", cells.trimmed(&["qid"])?);
        let gold = Gold::Option(cells.index(&["answer"])?);
        let options = cells.numbered("a", 5)?;
        let item = Item::new(id, cells.trimmed(&["question"])?, gold)
            .about(video)
            .with_options(options.iter().map(|option| option.trim().to_owned()).collect())
            .within("group", group)
            .within("type", kind);
        Ok(Some(item))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const ROWS: &str = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4,action,lemma,lemma_id
12,90,6,4,why does she wave,4,3,CW,tired,cold ,bored,angry,to greet them,waving,wave,7
";

    #[test]
    fn rows_and_what_is_wrong_with_them() {
        let items = load("intentqa", "val", &[("val.csv", ROWS)]);
        assert_eq!((items[0].id.as_str(), items[0].cluster.as_str()), ("12-CW-3", "12"));
        assert_eq!((items[0].options[1].as_str(), &items[0].gold), ("cold", &Gold::Option(4)));
        assert_eq!(items[0].categories["group"], "why");
        for (rows, message) in [
            (ROWS.replace("wave,4,3", "wave,5,3"), "row 1: the answer is option 6 of 5"),
            (ROWS.replace("CW", "DL"), "row 1: \"DL\" is no type"),
            (ROWS.replace(",bored", ","), "row 1: missing key \"a2\""),
            (ROWS.replace(",wave,7", ""), "14 cells under 16 columns"),
        ] {
            refused("intentqa", "val", &[("val.csv", &rows)], message);
        }
    }
}
