//! ARC, the AI2 Reasoning Challenge (Clark et al., arXiv 1803.05457): science questions of school exams, the easy ones and
//! those that retrieval and co-occurrence got wrong.
//!
//! Carriers: the parquet of `allenai/ai2_arc` (`id, question, choices {text, label}, answerKey`), and the authors' JSONL,
//! where the question is an object (`stem`, `choices`, a list of `text` and `label`). Labels are A to E or 1 to 5; most
//! questions have four options.

use std::path::PathBuf;

use savi_data::DataError;
use serde_json::Value;

use super::{options, published};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, each_row};
use crate::{Gold, Item, Shots};

/// The easy part.
pub(super) const EASY: Suite = suite("arc-easy", published!("arc-easy/manifest.toml"));

/// The challenge.
pub(super) const CHALLENGE: Suite =
    suite("arc-challenge", published!("arc-challenge/manifest.toml"));

const fn suite(name: &'static str, manifest: &'static str) -> Suite {
    Suite {
        name,
        manifest,
        marks: &[],
        load,
        words,
        ask: Ask::LogProbs {
            pairs: |item| options::after(&words(item), &item.options),
            figures: options::accuracies,
        },
        scorers: &[],
        categories: &[],
        shot: Some(Shots::new("train", |item| options::worked(&words(item), item))),
    }
}

fn words(item: &Item) -> String {
    format!("Question: {}\nAnswer:", item.question)
}

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let (question, texts, labels) = match cells.get(&["question"]) {
            Some(Value::Object(_)) => {
                let question = cells.within(&["question"])?;
                let (texts, labels) = listed(&question)?;
                (question.text(&["stem"])?, texts, labels)
            }
            _ => {
                let choices = cells.within(&["choices"])?;
                let question = cells.text(&["question"])?;
                (question, choices.texts(&["text"])?, choices.texts(&["label"])?)
            }
        };
        let key = cells.text(&["answerKey"])?;
        if texts.len() != labels.len() {
            return Err(cells.bad(format!("{} options, {} labels", texts.len(), labels.len())));
        }
        let Some(at) = labels.iter().position(|label| *label == key) else {
            return Err(cells.bad(format!("the answer {key:?} is none of {labels:?}")));
        };
        let item = Item::new(cells.text(&["id"])?, question, Gold::Option(at));
        Ok(Some(item.with_options(texts)))
    })
}

/// Texts and labels of the options, which are a list of both.
fn listed(question: &Cells<'_>) -> Result<(Vec<String>, Vec<String>), DataError> {
    let bad = || question.bad("\"choices\" is not a list of texts with labels");
    let list = question.get(&["choices"]).and_then(Value::as_array).ok_or_else(bad)?;
    let part = |option: &Value, key: &str| {
        option.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(bad)
    };
    list.iter().map(|option| Ok((part(option, "text")?, part(option, "label")?))).collect()
}
