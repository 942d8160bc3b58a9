//! GSM8K (Cobbe et al., arXiv 2110.14168), word problems of grade school, and GSM-Symbolic (Mirzadeh et al., ICLR 2025),
//! a hundred of them as templates, fifty times each with other names and numbers; P1 and P2 have one and two clauses more.
//!
//! Carriers: the authors' JSONL and the parquet of `openai/gsm8k` (`question, answer`); the JSONL of `apple/GSM-Symbolic`
//! (also `id`, the template's, and `instance`). A solution ends with `#### ` and the number. The prompt and the strings
//! that end a reply are those of lm-evaluation-harness; it takes five examples by default and replies of 256 tokens.

use std::path::PathBuf;

use savi_data::DataError;
use savi_schema::Sampling;
use serde_json::Value;

use super::{lm_eval, math, published};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Scorer, Suite, each_row};
use crate::{Gold, Item, Shots};

/// GSM8K.
pub(super) const GSM8K: Suite = Suite {
    name: "gsm8k",
    manifest: published!("gsm8k/manifest.toml"),
    marks: &[("test", published!("gsm8k/test.marks")), ("train", published!("gsm8k/train.marks"))],
    load: load_plain,
    words,
    ask: Ask::Reply { sampling },
    scorers: SCORERS,
    categories: &[],
    shot: Some(Shots::new("train", worked)),
};

/// GSM-Symbolic.
pub(super) const SYMBOLIC: Suite = Suite {
    name: "gsm-symbolic",
    manifest: published!("gsm-symbolic/manifest.toml"),
    marks: &[],
    load: load_symbolic,
    ..GSM8K
};

const SCORERS: &[Scorer] = &[
    Scorer { name: "strict", read: math::verified },
    Scorer { name: "strict-match", read: lm_eval::strict_match },
    Scorer { name: "flexible-extract", read: lm_eval::flexible_extract },
];

fn words(item: &Item) -> String {
    format!("Question: {}\nAnswer:", item.question)
}

fn sampling(_: &Item) -> Sampling {
    let stop = ["Question:", "</s>", "<|im_end|>"].map(str::to_owned).to_vec();
    Sampling { max_tokens: 512, stop, ..Sampling::default() }
}

fn worked(item: &Item) -> String {
    let solution = item.more.get("solution").and_then(Value::as_str).unwrap_or_default();
    format!("{} {solution}", words(item))
}

fn load_plain(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| solved(&Cells::of(row)?, format!("{split}-{}", row.number)).map(Some))
}

fn load_symbolic(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let template = cells.index(&["id"])?;
        let id = format!("{split}-{template}-{}", cells.index(&["instance"])?);
        let cluster = format!("{split}-{template}");
        Ok(Some(Item { cluster, ..solved(&cells, id)? }))
    })
}

/// An item whose answer is the number at the end of the solution.
fn solved(cells: &Cells<'_>, id: String) -> Result<Item, DataError> {
    let solution = cells.text(&["answer"])?;
    let Some((_, answer)) = solution.rsplit_once("#### ") else {
        return Err(cells.bad("the answer has no \"#### \" before its number"));
    };
    let gold = Gold::Text(answer.trim().to_owned());
    let mut item = Item::new(id, cells.text(&["question"])?, gold);
    item.more.insert("solution".to_owned(), solution.into());
    Ok(item)
}
