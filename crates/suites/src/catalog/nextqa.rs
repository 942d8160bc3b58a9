//! NExT-QA, multiple choice (Xiao et al., CVPR 2021): why, how, when and what of everyday clips, five options each.
//!
//! Carriers: the authors' `test.csv` and `val.csv` (`video, frame_count, width, height, question, answer, qid, type,
//! a0..a4`, the answer from 0), and the parquet of `lmms-lab/NExTQA`, which has the same columns. A clip's questions
//! are numbered within the clip and its type. Types: causal (CW, CH), temporal (TN, TC, TP), descriptive (DC, DL, DO).

use std::path::PathBuf;

use savi_data::DataError;

use crate::cells::Cells;
use crate::suite::{Found, Suite, each_row};
use crate::{Gold, Item};

/// The suite.
pub(super) const MULTIPLE_CHOICE: Suite = Suite {
    name: "nextqa-mc",
    manifest: include_str!("../../../../datasets/nextqa-mc/manifest.toml"),
    marks: &[
        ("test", include_str!("../../../../datasets/nextqa-mc/test.marks")),
        ("val", include_str!("../../../../datasets/nextqa-mc/val.marks")),
    ],
    load,
    categories: &["group", "type"],
    ..Suite::CHOICE
};

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let video = cells.text(&["video", "video_id"])?;
        let kind = cells.text(&["type"])?;
        let group = match kind.chars().next() {
            Some('C') => "causal",
            Some('T') => "temporal",
            Some('D') => "descriptive",
            _ => return Err(cells.bad(format!("{kind:?} is no type of NExT-QA's"))),
        };
        let id = format!("{video}-{kind}-{}", cells.text(&["qid"])?);
        let gold = Gold::Option(cells.index(&["answer"])?);
        let item = Item::new(id, cells.text(&["question"])?, gold)
            .about(video)
            .with_options(cells.numbered("a", 5)?)
            .within("group", group)
            .within("type", kind);
        Ok(Some(item))
    })
}
