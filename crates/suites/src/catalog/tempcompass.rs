//! TempCompass (Liu et al., ACL Findings 2024): action, direction, speed, order and change of attributes, asked about
//! 410 clips in four ways: with options, for a yes or a no, for the caption that fits, and for a caption.
//!
//! Carriers: the authors' `questions/<task>.json`, `{clip: {aspect: [{question, answer}]}}`, and the parquet of
//! `lmms-lab/TempCompass` (`video_id, dim, question, answer`). Options stand inside the text of a question and are
//! taken out of it. The answer is `B. text`, `yes`, or `Caption A: text` (also `Option 1`, `Sentence A`);
//! `more.answer` keeps it whole and `more.labels` the names of captions. Rows have no ids: an item is named by its
//! clip, its aspect and its place among the clip's questions on that aspect, from 0. The clip is the cluster.
//!
//! Captions are judged by a question with options, the first on the same clip and aspect (`more.mc_question` and
//! `more.mc_answer`: from `multi-choice.json`, or columns of the parquet). A row's own answer says which piece of
//! information is true, and is only the judge's reference: in 112 rows its words are not those of the question with
//! options, and in 5 not those under its letter (one is misspelt, four name another piece). One clip is asked one
//! question for a yes or a no twice, and one list of options has a line that begins with a blank.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use savi_data::{DataError, Row, Rows};
use serde_json::Value;

use super::shapes::{inner, members};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, greedy, plain_words, yes_no_words};
use crate::{Gold, Item};

/// Questions with options.
pub(super) const CHOICE: Suite = Suite {
    name: "tempcompass-mc",
    manifest: include_str!("../../../../datasets/tempcompass-mc/manifest.toml"),
    marks: &[("test", include_str!("../../../../datasets/tempcompass-mc/test.marks"))],
    load: |files, _| load(files, choice),
    categories: &["aspect"],
    ..Suite::CHOICE
};

/// Questions for a yes or a no.
pub(super) const YES_NO: Suite = Suite {
    name: "tempcompass-yn",
    manifest: include_str!("../../../../datasets/tempcompass-yn/manifest.toml"),
    marks: &[("test", include_str!("../../../../datasets/tempcompass-yn/test.marks"))],
    load: |files, _| load(files, yes_no),
    words: yes_no_words,
    ask: Ask::Reply { sampling: greedy::<16> },
    ..CHOICE
};

/// Which of two captions fits.
pub(super) const CAPTION_MATCHING: Suite = Suite {
    name: "tempcompass-cm",
    manifest: include_str!("../../../../datasets/tempcompass-cm/manifest.toml"),
    marks: &[("test", include_str!("../../../../datasets/tempcompass-cm/test.marks"))],
    load: |files, _| load(files, matching),
    words: matching_words,
    ask: Ask::Reply { sampling: greedy::<64> },
    ..CHOICE
};

/// A caption that says what is true.
pub(super) const CAPTIONING: Suite = Suite {
    name: "tempcompass-cap",
    manifest: include_str!("../../../../datasets/tempcompass-cap/manifest.toml"),
    marks: &[("test", include_str!("../../../../datasets/tempcompass-cap/test.marks"))],
    load: captioning,
    words: plain_words,
    ask: Ask::Reply { sampling: greedy::<256> },
    ..CHOICE
};

const ASPECTS: [&str; 5] = ["action", "direction", "speed", "order", "attribute_change"];

/// A row with its clip and its aspect.
struct Asked {
    clip: String,
    aspect: String,
    row: Row,
}

fn asked(path: &Path) -> Result<Vec<Asked>, DataError> {
    let mut all = Vec::new();
    if path.extension().is_none_or(|ending| ending != "json") {
        for row in Rows::open(path)? {
            let row = row?;
            let cells = Cells::of(&row)?;
            let (clip, aspect) = (cells.trimmed(&["video_id"])?, cells.trimmed(&["dim"])?);
            all.push(Asked { clip, aspect, row });
        }
        return Ok(all);
    }
    for (clip, aspects) in members(path)? {
        let number = all.len() as u64 + 1;
        let bad = |what: &str| {
            inner(path, number, &aspects).bad(format!("what {clip:?} holds is no {what}"))
        };
        for (aspect, rows) in aspects.as_object().ok_or_else(|| bad("object of aspects"))? {
            for row in rows.as_array().ok_or_else(|| bad("object of lists"))? {
                let row = inner(path, all.len() as u64 + 1, row);
                all.push(Asked { clip: clip.clone(), aspect: aspect.clone(), row });
            }
        }
    }
    Ok(all)
}

/// Reads the first file; `finish` makes an item of a row, out of one with the question as it stands and the answer's
/// text.
fn load(
    files: &[PathBuf],
    finish: impl Fn(&Cells<'_>, Item) -> Result<Item, DataError>,
) -> Result<Vec<Found>, DataError> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut found = Vec::new();
    for path in files.iter().take(1) {
        for Asked { clip, aspect, row } in asked(path)? {
            let cells = Cells::of(&row)?;
            if !ASPECTS.contains(&aspect.as_str()) {
                return Err(cells.bad(format!("{aspect:?} is no aspect of TempCompass's")));
            }
            let place = places.entry((clip.clone(), aspect.clone())).or_default();
            let id = format!("{clip}-{aspect}-{place}");
            *place += 1;
            let gold = Gold::Text(cells.trimmed(&["answer"])?);
            let item = Item::new(id, cells.trimmed(&["question"])?, gold);
            let item = finish(&cells, item.about(clip).within("aspect", aspect))?;
            found.push(Found::new(item, &row));
        }
    }
    Ok(found)
}

fn choice(cells: &Cells<'_>, item: Item) -> Result<Item, DataError> {
    let text = item.question.clone();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let first = lines.iter().position(|line| line.starts_with("A.")).unwrap_or(lines.len());
    let (question, lines) = lines.split_at(first);
    let options = lines
        .iter()
        .zip('A'..='Z')
        .map(|(line, letter)| Some(line.strip_prefix(letter)?.strip_prefix('.')?.trim().to_owned()))
        .collect::<Option<Vec<String>>>()
        .filter(|options| options.len() == lines.len())
        .ok_or_else(|| cells.bad("the options are not lines under letters, in their order"))?;
    let question = question.join("\n");
    with_options(cells, item, question, lines, options)
}

fn matching(cells: &Cells<'_>, item: Item) -> Result<Item, DataError> {
    let text = item.question.clone();
    let mut lines = text.lines().map(str::trim);
    let question = lines.next().unwrap_or_default().to_owned();
    let lines: Vec<&str> = lines.collect();
    let (labels, options): (Vec<&str>, Vec<String>) = lines
        .iter()
        .map(|line| line.split_once(':').map(|(label, text)| (label, text.trim().to_owned())))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| cells.bad("a caption has no name before it"))?
        .into_iter()
        .unzip();
    let labels = Value::from(labels);
    let mut item = with_options(cells, item, question, &lines, options)?;
    item.more.insert("labels".to_owned(), labels);
    Ok(item)
}

/// The item with options, of which the one is right whose line is the answer.
fn with_options(
    cells: &Cells<'_>,
    item: Item,
    question: String,
    lines: &[&str],
    options: Vec<String>,
) -> Result<Item, DataError> {
    let answer = item.target();
    let Some(place) = lines.iter().position(|line| *line == answer) else {
        return Err(cells.bad(format!("the answer {answer:?} is none of the options")));
    };
    let mut item = Item { question, options, gold: Gold::Option(place), ..item };
    item.more.insert("answer".to_owned(), answer.into());
    Ok(item)
}

fn yes_no(cells: &Cells<'_>, item: Item) -> Result<Item, DataError> {
    match item.target().as_str() {
        "yes" | "no" => Ok(item),
        other => Err(cells.bad(format!("the answer is {other:?}, neither yes nor no"))),
    }
}

fn captioning(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    let mut judges: HashMap<(String, String), (String, String)> = HashMap::new();
    for path in files.iter().skip(1) {
        for Asked { clip, aspect, row } in asked(path)? {
            let cells = Cells::of(&row)?;
            let judge = (cells.trimmed(&["question"])?, cells.trimmed(&["answer"])?);
            judges.entry((clip, aspect)).or_insert(judge);
        }
    }
    load(files, |cells, item| {
        let key = (item.cluster.clone(), item.categories["aspect"].clone());
        let (question, answer) = match (judges.get(&key), files.len()) {
            (Some(judge), _) => judge.clone(),
            (None, 1) => (cells.trimmed(&["mc_question"])?, cells.trimmed(&["mc_answer"])?),
            (None, _) => {
                return Err(cells.bad(format!("no question with options is on {key:?}")));
            }
        };
        let mut item = Item { gold: Gold::Judged(vec![item.target()]), ..item };
        item.more.insert("mc_question".to_owned(), question.into());
        item.more.insert("mc_answer".to_owned(), answer.into());
        Ok(item)
    })
}

/// The question, the captions under their names, and the wish for one of the names.
fn matching_words(item: &Item) -> String {
    let labels = item.more.get("labels").and_then(Value::as_array);
    let labels: Vec<&str> = labels.into_iter().flatten().filter_map(Value::as_str).collect();
    let mut words = item.question.clone();
    for (label, option) in labels.iter().zip(&item.options) {
        words.push_str(&format!("\n{label}: {option}"));
    }
    words.push_str(&format!("\nReply with {} and nothing else.", labels.join(" or ")));
    words
}

#[cfg(test)]
#[path = "tempcompass/tests.rs"]
mod tests;
