//! HellaSwag (Zellers et al., ACL 2019): how a description of everyday doings goes on; four endings, three of them
//! written by a machine to mislead.
//!
//! Carriers: the authors' `hellaswag_val.jsonl` and the parquet of `Rowan/hellaswag`, with the same columns
//! (`activity_label, ctx_a, ctx_b, endings, label`, the label from 0). Texts are cleaned up as lm-evaluation-harness does,
//! since traces of WikiHow's mark-up are in them ([`clean`]).

use std::path::PathBuf;

use savi_data::DataError;

use super::{options, published};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, each_row, plain_words};
use crate::{Gold, Item, Shots};

/// The suite.
pub(super) const HELLASWAG: Suite = Suite {
    name: "hellaswag",
    manifest: published!("hellaswag/manifest.toml"),
    marks: &[],
    load,
    words: plain_words,
    ask: Ask::LogProbs {
        pairs: |item| options::after(&item.question, &item.options),
        figures: options::accuracies,
    },
    scorers: &[],
    categories: &["type"],
    shot: Some(Shots::new("train", |item| options::worked(&item.question, item))),
};

fn load(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let endings = cells.texts(&["endings"])?;
        if endings.len() != 4 {
            return Err(cells.bad(format!("{} endings where 4 are needed", endings.len())));
        }
        let begun = capitalised(&cells.text_or(&["ctx_b"], "")?);
        let context = format!("{} {begun}", cells.text(&["ctx_a"])?);
        let question = clean(&format!("{}: {context}", cells.text(&["activity_label"])?));
        let gold = Gold::Option(cells.index(&["label"])?);
        let mut item = Item::new(format!("{split}-{}", row.number), question, gold)
            .with_options(endings.iter().map(|ending| clean(ending)).collect());
        item.cluster = cells.text_or(&["source_id"], &item.id)?;
        if cells.get(&["split_type"]).is_some() {
            item = item.within("type", cells.text(&["split_type"])?);
        }
        Ok(Some(item))
    })
}

/// A text without WikiHow's mark-up: no space around it, ` [title]` as the end of a sentence, nothing else in square
/// brackets that close on the same line, and of two spaces one (so of four two).
fn clean(text: &str) -> String {
    let text = text.trim_matches(is_space).replace(" [title]", ". ");
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let line = rest[open..].find('\n').map_or(rest.len(), |end| open + end);
        let close = rest[open..line].find(']').map(|close| open + close);
        // An opening bracket that nothing closes stays.
        let (until, from) = close.map_or((open + 1, open + 1), |close| (open, close + 1));
        kept.push_str(&rest[..until]);
        rest = &rest[from..];
    }
    kept.push_str(rest);
    kept.replace("  ", " ")
}

/// The first letter in upper case, all others in lower case.
fn capitalised(text: &str) -> String {
    let lower = text.to_lowercase();
    let Some(first) = text.chars().next() else { return lower };
    let mut upper = first.to_uppercase();
    let title = upper.next().unwrap_or(first);
    // A letter that becomes two (the German sharp s) is in upper case in its first part alone.
    let tail: String = upper.flat_map(char::to_lowercase).collect();
    let skipped: usize = first.to_lowercase().map(char::len_utf8).sum();
    format!("{title}{tail}{}", lower.get(skipped..).unwrap_or(""))
}

/// White space in Python's sense, which has four separators more.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cleaned by lm_eval's own function and capitalised by Python; `make.py` beside the file made it.
    #[test]
    fn texts_are_cleaned_up_as_the_harness_does() {
        let rows = include_str!("../../../../../tests/goldens/suites/hellaswag/cleaned.jsonl");
        let mut seen = 0;
        for row in rows.lines() {
            let [text, cleaned, capital]: [String; 3] = serde_json::from_str(row).unwrap();
            assert_eq!(clean(&text), cleaned, "{text:?}");
            assert_eq!(capitalised(&text), capital, "{text:?}");
            seen += 1;
        }
        assert!(seen >= 300, "{seen}");
    }
}
