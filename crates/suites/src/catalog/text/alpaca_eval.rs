//! AlpacaEval 2 (Li et al. 2023; Dubois et al., arXiv 2404.04475): 805 instructions of five data sets. A judge compares
//! replies with those of a baseline.
//!
//! Carriers of `tatsu-lab/alpaca_eval`: `alpaca_eval_gpt4_baseline.json`, whose outputs are the baseline's, and
//! `alpaca_eval.json`, whose outputs are the first AlpacaEval's (`dataset, instruction, output, generator`). The order of
//! rows matters to whoever corrects win rates for length: how hard an instruction is is looked up by its row.

use std::path::PathBuf;

use savi_data::DataError;

use super::published;
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, each_row, greedy, plain_words};
use crate::{Gold, Item};

/// The suite.
pub(super) const ALPACA_EVAL: Suite = Suite {
    name: "alpaca-eval-2",
    manifest: published!("alpaca-eval-2/manifest.toml"),
    marks: &[],
    load,
    words: plain_words,
    ask: Ask::Reply { sampling: greedy::<2048> },
    scorers: &[],
    categories: &["dataset"],
    shot: None,
};

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let gold = Gold::Judged(Vec::new());
        let mut item = Item::new(row.number.to_string(), cells.text(&["instruction"])?, gold)
            .within("dataset", cells.text(&["dataset"])?);
        for (key, names) in [("baseline", ["output"]), ("baseline_name", ["generator"])] {
            item.more.insert(key.to_owned(), cells.text(&names)?.into());
        }
        Ok(Some(item))
    })
}
