//! TruthfulQA (Lin et al., ACL 2022): questions that many people answer wrongly.
//!
//! - `truthfulqa-mc1`: the best answer against all false ones; right where it is the likeliest.
//! - `truthfulqa-mc2`: all true answers against all false ones; the share of probability that true ones have.
//! - `truthfulqa-binary`: the best answer against the best false one (the authors' choice since 2025).
//! - `truthfulqa-gen`: an answer in the model's own words, for a judge.
//!
//! Carriers: the authors' `TruthfulQA.csv` (`Type, Category, Question, Best Answer, Best Incorrect Answer, Correct Answers,
//! Incorrect Answers`; answers of a list are apart by semicolons), and the parquet of `truthfulqa/truthful_qa`: its
//! `generation` has lists in the same columns, its `multiple_choice` the options with labels. The authors' revision of
//! 2025 dropped 27 of 817 questions; the hub still has all. As in the hub's options, no full stop is put after answers;
//! the authors' own scorer puts one.

use std::path::PathBuf;

use savi_data::{DataError, Row};
use serde_json::Value;

use super::{options, published};
use crate::cells::Cells;
use crate::suite::{Ask, Figure, Found, OptionScore, Suite, each_row, greedy, plain_words};
use crate::{Gold, Item};

/// The best answer against all false ones.
pub(super) const MC1: Suite = Suite {
    name: "truthfulqa-mc1",
    manifest: published!("truthfulqa-mc1/manifest.toml"),
    marks: &[("2025", published!("truthfulqa-mc1/2025.marks"))],
    load: load_mc1,
    words,
    ask: Ask::LogProbs { pairs, figures: mc1 },
    scorers: &[],
    categories: &["category", "type"],
    shot: None,
};

/// All true answers against all false ones.
pub(super) const MC2: Suite = Suite {
    name: "truthfulqa-mc2",
    manifest: published!("truthfulqa-mc2/manifest.toml"),
    marks: &[("2025", published!("truthfulqa-mc2/2025.marks"))],
    load: load_mc2,
    ask: Ask::LogProbs { pairs, figures: mc2 },
    ..MC1
};

/// The best answer against the best false one.
pub(super) const BINARY: Suite = Suite {
    name: "truthfulqa-binary",
    manifest: published!("truthfulqa-binary/manifest.toml"),
    marks: &[("2025", published!("truthfulqa-binary/2025.marks"))],
    load: load_binary,
    ask: Ask::LogProbs { pairs, figures: options::accuracy },
    ..MC1
};

/// In the model's own words.
pub(super) const GENERATION: Suite = Suite {
    name: "truthfulqa-gen",
    manifest: published!("truthfulqa-gen/manifest.toml"),
    marks: &[("2025", published!("truthfulqa-gen/2025.marks"))],
    load: load_generation,
    words: plain_words,
    ask: Ask::Reply { sampling: greedy::<256> },
    ..MC1
};

fn words(item: &Item) -> String {
    format!("Q: {}\nA:", item.question)
}

fn pairs(item: &Item) -> Vec<(String, String)> {
    options::after(&words(item), &item.options)
}

fn mc1(item: &Item, scores: &[OptionScore]) -> Vec<Figure> {
    options::figure("mc1", item, scores.iter().map(|score| score.logp)).into_iter().collect()
}

/// The probability of true options over that of all. The largest is taken out before, so that none is lost below the
/// smallest number.
fn mc2(item: &Item, scores: &[OptionScore]) -> Vec<Figure> {
    let Gold::Options(right) = &item.gold else { return Vec::new() };
    let top = scores.iter().map(|score| score.logp).fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = scores.iter().map(|score| (score.logp - top).exp()).collect();
    let all: f64 = shares.iter().sum();
    let of_right: f64 = right.iter().filter_map(|&at| shares.get(at)).sum();
    vec![("mc2", of_right / all)]
}

fn load_mc1(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    read(files, split, |cells, item| {
        let (texts, right) = match labelled(cells, "mc1_targets")? {
            Some(labelled) => labelled,
            None => (best_first(cells, answers(cells, &FALSE)?)?, vec![0]),
        };
        let &[right] = right.as_slice() else {
            return Err(cells.bad(format!("{} options are labelled 1, not one", right.len())));
        };
        Ok(Item { gold: Gold::Option(right), ..item.with_options(texts) })
    })
}

fn load_mc2(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    read(files, split, |cells, item| {
        let (texts, right) = match labelled(cells, "mc2_targets")? {
            Some(labelled) => labelled,
            None => {
                let (mut texts, wrong) = (answers(cells, &TRUE)?, answers(cells, &FALSE)?);
                let right = (0..texts.len()).collect();
                texts.extend(wrong);
                (texts, right)
            }
        };
        Ok(Item { gold: Gold::Options(right), ..item.with_options(texts) })
    })
}

fn load_binary(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    read(files, split, |cells, item| {
        let wrong = cells.text(&["Best Incorrect Answer"])?.trim().to_owned();
        Ok(Item { gold: Gold::Option(0), ..item.with_options(best_first(cells, vec![wrong])?) })
    })
}

fn load_generation(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    read(files, split, |cells, mut item| {
        item.gold = Gold::Judged(best_first(cells, Vec::new())?);
        item.more.insert("true".to_owned(), answers(cells, &TRUE)?.into());
        item.more.insert("false".to_owned(), answers(cells, &FALSE)?.into());
        Ok(item)
    })
}

/// Names of the columns with true answers.
const TRUE: [&str; 2] = ["Correct Answers", "correct_answers"];
/// Names of the columns with false answers.
const FALSE: [&str; 2] = ["Incorrect Answers", "incorrect_answers"];

/// Reads every row: its question, and with `finish` what is held against it.
fn read(
    files: &[PathBuf],
    split: &str,
    finish: impl Fn(&Cells<'_>, Item) -> Result<Item, DataError>,
) -> Result<Vec<Found>, DataError> {
    each_row(files, |row: &Row| {
        let cells = Cells::of(row)?;
        let question = cells.text(&["Question", "question"])?.trim().to_owned();
        let mut item = Item::new(format!("{split}-{}", row.number), question, Gold::Hidden);
        for (kind, names) in [("category", ["Category", "category"]), ("type", ["Type", "type"])] {
            if cells.get(&names).is_some() {
                item = item.within(kind, cells.text(&names)?);
            }
        }
        finish(&cells, item).map(Some)
    })
}

/// The answers of a list, or of a text that semicolons divide.
fn answers(cells: &Cells<'_>, names: &[&str]) -> Result<Vec<String>, DataError> {
    let parts = match cells.get(names) {
        Some(Value::Array(_)) => cells.texts(names)?,
        _ => cells.text(names)?.split(';').map(str::to_owned).collect(),
    };
    let parts = parts.iter().map(|part| part.trim().to_owned());
    Ok(parts.filter(|part| !part.is_empty()).collect())
}

/// The best answer and `others` after it.
fn best_first(cells: &Cells<'_>, others: Vec<String>) -> Result<Vec<String>, DataError> {
    let mut texts = vec![cells.text(&["Best Answer", "best_answer"])?.trim().to_owned()];
    texts.extend(others);
    Ok(texts)
}

/// Options, and the places of those that are true.
type Labelled = (Vec<String>, Vec<usize>);

/// The options of a row that has them with labels, 1 for what is true.
fn labelled(cells: &Cells<'_>, column: &str) -> Result<Option<Labelled>, DataError> {
    if cells.get(&[column]).is_none() {
        return Ok(None);
    }
    let targets = cells.within(&[column])?;
    let texts = targets.texts(&["choices"])?;
    let labels = targets.get(&["labels"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if labels.len() != texts.len() {
        return Err(cells.bad(format!("{} options, {} labels", texts.len(), labels.len())));
    }
    let right = labels.iter().enumerate().filter(|(_, label)| label.as_i64() == Some(1));
    Ok(Some((texts, right.map(|(at, _)| at).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_true_options_is_counted_in_probability() {
        let texts = ["a", "b", "c"].map(str::to_owned).to_vec();
        let item = Item::new("i", "q", Gold::Options(vec![0, 2])).with_options(texts);
        let score = |logp| OptionScore { logp, tokens: 1, characters: 1 };
        let share = |scores: [f64; 3]| mc2(&item, &scores.map(score))[0].1;
        // 0.2 and 0.3 of 0.2 + 0.5 + 0.3, whatever all are multiplied with.
        let logs = [0.2f64, 0.5, 0.3].map(f64::ln);
        assert!((share(logs) - 0.5).abs() < 1e-12);
        assert!((share(logs.map(|log| log - 2000.0)) - 0.5).abs() < 1e-9);
    }
}
