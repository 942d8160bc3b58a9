//! MT-Bench (Zheng et al., NeurIPS 2023), 80 questions of two turns in eight categories, and the 80 questions of one turn
//! that Vicuna was first compared on. Replies are for a judge.
//!
//! Carriers are FastChat's: `question.jsonl` (`question_id, category, turns`; the older Vicuna file has `text`) and, for
//! MT-Bench, the answers by GPT-4 that its judge is given for mathematics, reasoning and code (`question_id, choices`).
//! Temperatures by category and the length of replies are FastChat's, too.

use std::collections::HashMap;
use std::path::PathBuf;

use savi_data::{DataError, Row, Rows};
use savi_schema::Sampling;
use serde_json::Value;

use super::published;
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, each_row, plain_words};
use crate::{Gold, Item};

/// Vicuna's questions.
pub(super) const VICUNA: Suite = Suite {
    name: "vicuna-80",
    manifest: published!("vicuna-80/manifest.toml"),
    marks: &[("test", published!("vicuna-80/test.marks"))],
    load: |files, _| each_row(files, |row| question(&Cells::of(row)?, 1).map(Some)),
    words: plain_words,
    ask: Ask::Reply { sampling },
    scorers: &[],
    categories: &["category"],
    shot: None,
};

/// MT-Bench.
pub(super) const MT_BENCH: Suite = Suite {
    name: "mt-bench",
    manifest: published!("mt-bench/manifest.toml"),
    marks: &[("test", published!("mt-bench/test.marks"))],
    load,
    ..VICUNA
};

/// Categories whose questions have one right answer, which the judge is told.
const WITH_REFERENCE: [&str; 3] = ["math", "reasoning", "coding"];

/// 1,024 tokens; the freer the category, the warmer.
fn sampling(item: &Item) -> Sampling {
    let temperature = match item.categories.get("category").map(String::as_str) {
        Some("extraction" | "math" | "coding" | "reasoning") => 0.0,
        Some("stem" | "humanities") => 0.1,
        _ => 0.7,
    };
    Sampling { temperature, max_tokens: 1024, ..Sampling::default() }
}

fn question(cells: &Cells<'_>, turns: usize) -> Result<Item, DataError> {
    let mut texts = match cells.get(&["turns"]) {
        Some(_) => cells.texts(&["turns"])?,
        None => vec![cells.text(&["text", "turns"])?],
    };
    if texts.len() != turns {
        return Err(cells.bad(format!("{} turns where {turns} are needed", texts.len())));
    }
    let id = cells.index(&["question_id"])?.to_string();
    let item = Item::new(id, texts.remove(0), Gold::Judged(Vec::new()));
    Ok(Item { turns: texts, ..item }.within("category", cells.text(&["category"])?))
}

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    let mut references = HashMap::new();
    for path in &files[1.min(files.len())..] {
        for row in Rows::open(path)? {
            let row = row?;
            let (id, answers) = reference(&Cells::of(&row)?)?;
            references.insert(id, (answers, row));
        }
    }
    let found = each_row(&files[..1.min(files.len())], |row| {
        let cells = Cells::of(row)?;
        let item = question(&cells, 2)?;
        let answers = references.remove(&item.id).map(|(answers, _)| answers);
        let category = item.categories.get("category").map_or("", String::as_str);
        if answers.is_none() && WITH_REFERENCE.contains(&category) {
            return Err(cells.bad(format!("question {} has no reference answer", item.id)));
        }
        Ok(Some(Item { gold: Gold::Judged(answers.unwrap_or_default()), ..item }))
    })?;
    match references.into_values().map(|(_, row)| row).min_by_key(|row: &Row| row.number) {
        Some(row) => Err(row.bad("a reference answer to no question")),
        None => Ok(found),
    }
}

/// The question that is answered, and the answers turn by turn.
fn reference(cells: &Cells<'_>) -> Result<(String, Vec<String>), DataError> {
    let turns = cells.get(&["choices"]).and_then(|choices| choices.pointer("/0/turns"));
    let texts: Option<Vec<String>> = turns
        .and_then(Value::as_array)
        .and_then(|turns| turns.iter().map(|turn| Some(turn.as_str()?.to_owned())).collect());
    match texts {
        Some(texts) if texts.len() == 2 => Ok((cells.index(&["question_id"])?.to_string(), texts)),
        _ => Err(cells.bad("\"choices\" has no answers to two turns")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_have_their_temperature() {
        let of = |category: &str| {
            let item = Item::new("i", "q", Gold::Judged(Vec::new())).within("category", category);
            sampling(&item).temperature
        };
        let named = ["writing", "roleplay", "stem", "humanities", "math", "coding", "extraction"];
        assert_eq!(named.map(of), [0.7, 0.7, 0.1, 0.1, 0.0, 0.0, 0.0]);
        // Vicuna's own categories are in none of FastChat's lists.
        assert_eq!(of("generic"), 0.7);
    }
}
