//! WinoGrande (Sakaguchi et al., AAAI 2020): sentences with a gap that one of two names fills.
//!
//! What is compared is not the names but the words after the gap, after the sentence up to it with either name in it.
//! Carriers: the authors' `dev.jsonl` and `train_xl.jsonl`, and the parquet of `allenai/winogrande` (`sentence, option1,
//! option2, answer`, the answer `1` or `2`).

use std::path::PathBuf;

use savi_data::DataError;

use super::{options, published};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, each_row, plain_words};
use crate::{Gold, Item, Shots};

/// The suite.
pub(super) const WINOGRANDE: Suite = Suite {
    name: "winogrande",
    manifest: published!("winogrande/manifest.toml"),
    marks: &[],
    load,
    words: plain_words,
    ask: Ask::LogProbs { pairs, figures: options::accuracy },
    scorers: &[],
    categories: &[],
    shot: Some(Shots::new("train", worked)),
};

fn pairs(item: &Item) -> Vec<(String, String)> {
    let (before, after) = item.question.split_once('_').unwrap_or((&item.question, ""));
    let filled = |option: &String| (format!("{before}{option}"), format!(" {}", after.trim()));
    item.options.iter().map(filled).collect()
}

/// The sentence with the right name in its gap.
fn worked(item: &Item) -> String {
    let Gold::Option(at) = item.gold else { return String::new() };
    let (before, after) = pairs(item).swap_remove(at);
    before + &after
}

fn load(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let sentence = cells.text(&["sentence"])?;
        if !sentence.contains('_') {
            return Err(cells.bad("the sentence has no gap"));
        }
        let gold = match cells.text(&["answer"])?.as_str() {
            "1" => Gold::Option(0),
            "2" => Gold::Option(1),
            other => return Err(cells.bad(format!("the answer is {other:?}, not \"1\" or \"2\""))),
        };
        let names = vec![cells.text(&["option1"])?, cells.text(&["option2"])?];
        let id = format!("{split}-{}", row.number);
        Ok(Some(Item::new(id, sentence, gold).with_options(names)))
    })
}
