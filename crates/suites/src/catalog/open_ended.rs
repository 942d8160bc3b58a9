//! MSVD-QA and MSRVTT-QA (Xu et al., ACM MM 2017), TGIF-QA's FrameQA (Jang et al., CVPR 2017) and ActivityNet-QA (Yu
//! et al., AAAI 2019): questions with one short answer, whose replies a judge compares with it.
//!
//! Zero-shot work since Video-ChatGPT asks MSVD's and MSRVTT's *validation* questions, FrameQA's test questions and
//! ActivityNet-QA's test questions. Carriers:
//!
//! * IG-VLM's csv: `video_id, answer, question, video_name, question_id, question_type`.
//! * `test_q.json` (`video_name, question, question_id`) with `test_a.json` (`answer, type, question_id`), as
//!   ActivityNet-QA's authors publish theirs and Video-LLaVA all four; SlowFast-LLaVA writes `val_q.json` and
//!   `val_a.json` for MSVD and MSRVTT. They are joined by `question_id`, never by place: each question has its answer
//!   and each answer its question, and files of FrameQA that have the clip's number for an id, which several
//!   questions share, are refused.
//! * One list of `video_id, question, answer, id`, as MSVD-QA's and MSRVTT-QA's authors publish it; MSVD's clips get
//!   their names from `youtube_mapping.txt` (`name vid123`). The parquet of `lmms-lab/ActivityNetQA` has the columns
//!   of both parts of the second carrier.
//!
//! Ids are those of the authors: the number of a question (IG-VLM's csv has the clip's before it for MSVD), TGIF's
//! `FRAMEQA123` (its `question_id` there is the clip's number), ActivityNet's `v_clip_3`. Clips are the clusters.
//! Kinds: the first word for MSVD and MSRVTT, FrameQA's four and ActivityNet-QA's nine by name. Questions are not
//! always unique within a clip, and a clip's answers to one question differ at times (MSVD and MSRVTT were made from
//! captions). Three questions of ActivityNet-QA begin with a line break, after which IG-VLM's csv has the number of a
//! row, which is taken off; many end in blanks, and none with a question mark, which the wording adds.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use savi_data::{DataError, Row, Rows};
use serde_json::{Map, Value};

use super::shapes::text_of;
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, greedy};
use crate::{Gold, Item};

/// MSVD-QA.
pub(super) const MSVD: Suite = Suite {
    name: "msvd-qa",
    manifest: include_str!("../../../../datasets/msvd-qa/manifest.toml"),
    marks: &[("val", include_str!("../../../../datasets/msvd-qa/val.marks"))],
    load: |files, _| load(files, msvd),
    words,
    ask: Ask::Reply { sampling: greedy::<64> },
    categories: &["type"],
    ..Suite::CHOICE
};

/// MSRVTT-QA.
pub(super) const MSRVTT: Suite = Suite {
    name: "msrvtt-qa",
    manifest: include_str!("../../../../datasets/msrvtt-qa/manifest.toml"),
    marks: &[("val", include_str!("../../../../datasets/msrvtt-qa/val.marks"))],
    load: |files, _| load(files, msrvtt),
    ..MSVD
};

/// FrameQA of TGIF-QA.
pub(super) const TGIF: Suite = Suite {
    name: "tgif-frameqa",
    manifest: include_str!("../../../../datasets/tgif-frameqa/manifest.toml"),
    marks: &[("test", include_str!("../../../../datasets/tgif-frameqa/test.marks"))],
    load: |files, _| load(files, tgif),
    ..MSVD
};

/// ActivityNet-QA.
pub(super) const ACTIVITYNET: Suite = Suite {
    name: "activitynet-qa",
    manifest: include_str!("../../../../datasets/activitynet-qa/manifest.toml"),
    marks: &[("test", include_str!("../../../../datasets/activitynet-qa/test.marks"))],
    load: |files, _| load(files, activitynet),
    ..MSVD
};

const FIRST_WORDS: [&str; 5] = ["what", "who", "how", "when", "where"];
const TGIF_KINDS: [&str; 4] = ["object", "number", "color", "location"];
const ACTIVITYNET_KINDS: [&str; 9] = [
    "motion",
    "spatial relation",
    "temporal relation",
    "yes or no",
    "color",
    "object",
    "location",
    "number",
    "other",
];

/// What is particular to a benchmark: a question's id, its clip and its kind.
struct Particular {
    id: String,
    clip: String,
    kind: String,
}

/// Names of clips by the numbers that MSVD's files have for them.
type Names = HashMap<String, String>;

fn load(
    files: &[PathBuf],
    particular: impl Fn(&Cells<'_>, &Names) -> Result<Particular, DataError>,
) -> Result<Vec<Found>, DataError> {
    let (rows, names) = match files {
        [questions, second] if second.extension().is_some_and(|ending| ending == "txt") => {
            (plain(questions)?, names(second)?)
        }
        [questions, answers] => (joined(questions, answers)?, Names::new()),
        files => {
            let rows: Result<Vec<Vec<Row>>, DataError> = files.iter().map(|f| plain(f)).collect();
            (rows?.concat(), Names::new())
        }
    };
    let found = |row: &Row| {
        let cells = Cells::of(row)?;
        let Particular { id, clip, kind } = particular(&cells, &names)?;
        let gold = Gold::Text(cells.trimmed(&["answer"])?);
        let item = Item::new(id, question(&cells)?, gold).about(clip).within("type", kind);
        Ok(Found::new(item, row))
    };
    rows.iter().map(found).collect()
}

fn plain(path: &Path) -> Result<Vec<Row>, DataError> {
    Rows::open(path)?.collect()
}

/// The rows of `questions`, each with what the row of `answers` with its id says.
fn joined(questions: &Path, answers: &Path) -> Result<Vec<Row>, DataError> {
    let id = |row: &Row| Cells::of(row)?.trimmed(&["question_id"]);
    let mut by_id: HashMap<String, (u64, Map<String, Value>)> = HashMap::new();
    for row in Rows::open(answers)? {
        let row = row?;
        let id = id(&row)?;
        if let Some((first, _)) = by_id.insert(id.clone(), (row.number, row.object()?)) {
            let (path, row) = (row.path, row.number);
            return Err(DataError::DuplicateId { path, row, first, id });
        }
    }
    let mut rows = Vec::new();
    for row in Rows::open(questions)? {
        let row = row?;
        let id = id(&row)?;
        let Some((_, mut whole)) = by_id.remove(&id) else {
            return Err(row.bad(format!("no answer in {} is to {id:?}", answers.display())));
        };
        whole.extend(row.object()?);
        rows.push(Row { text: Value::Object(whole).to_string(), ..row });
    }
    match by_id.iter().min_by_key(|(_, (number, _))| *number) {
        Some((id, (number, _))) => Err(DataError::Row {
            path: answers.to_owned(),
            row: *number,
            reason: format!("no question in {} is {id:?}", questions.display()),
        }),
        None => Ok(rows),
    }
}

fn names(path: &Path) -> Result<Names, DataError> {
    let text = text_of(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let pair = |(at, line): (usize, &str)| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, number] => Ok((number.to_owned(), name.to_owned())),
        _ => Err(DataError::Row {
            path: path.to_owned(),
            row: at as u64 + 1,
            reason: "not a clip's name and its number".to_owned(),
        }),
    };
    lines.map(pair).collect()
}

/// The question, without the number of a row that one csv has before three of them.
fn question(cells: &Cells<'_>) -> Result<String, DataError> {
    let question = cells.trimmed(&["question"])?;
    Ok(match question.split_once(',') {
        Some((number, rest))
            if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            rest.trim().to_owned()
        }
        _ => question,
    })
}

const ID: &[&str] = &["question_id", "id", "qid"];

fn msvd(cells: &Cells<'_>, names: &Names) -> Result<Particular, DataError> {
    let clip = if cells.get(&["video_name"]).is_some() {
        cells.trimmed(&["video_name"])?
    } else {
        let number = format!("vid{}", cells.trimmed(&["video_id"])?);
        let unnamed = || cells.bad(format!("{number:?} is no clip of the mapping"));
        names.get(&number).cloned().ok_or_else(unnamed)?
    };
    let id = cells.trimmed(ID)?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = match id.split_once('_') {
        Some((clip, number)) if digits(clip) && digits(number) => number.to_owned(),
        _ => id,
    };
    Ok(Particular { id, clip, kind: first_word(cells)? })
}

fn msrvtt(cells: &Cells<'_>, _: &Names) -> Result<Particular, DataError> {
    let clip = match cells.get(&["video_name"]) {
        Some(_) => cells.trimmed(&["video_name"])?,
        None => format!("video{}", cells.trimmed(&["video_id"])?),
    };
    Ok(Particular { id: cells.trimmed(ID)?, clip, kind: first_word(cells)? })
}

fn tgif(cells: &Cells<'_>, _: &Names) -> Result<Particular, DataError> {
    let named = cells.text_or(&["video_id"], "")?;
    let id = if named.starts_with("FRAMEQA") { named } else { cells.trimmed(ID)? };
    let kind = kind(cells, &TGIF_KINDS)?;
    Ok(Particular { id, clip: cells.trimmed(&["video_name", "gif_name"])?, kind })
}

fn activitynet(cells: &Cells<'_>, _: &Names) -> Result<Particular, DataError> {
    // A clip's file is `v_` and its YouTube id of eleven characters; some carriers name the id alone.
    let name = cells.trimmed(&["video_name"])?;
    let whole = name.starts_with("v_") && name.chars().count() == 13;
    let clip = if whole { name } else { format!("v_{name}") };
    Ok(Particular { id: cells.trimmed(ID)?, clip, kind: kind(cells, &ACTIVITYNET_KINDS)? })
}

fn kind(cells: &Cells<'_>, kinds: &[&str]) -> Result<String, DataError> {
    let number = cells.index(&["question_type", "type"])?;
    let unknown = || cells.bad(format!("type {number} is none of {}", kinds.len()));
    kinds.get(number).map(|&kind| kind.to_owned()).ok_or_else(unknown)
}

fn first_word(cells: &Cells<'_>) -> Result<String, DataError> {
    let question = question(cells)?.to_lowercase();
    let word = question.split_whitespace().next().unwrap_or_default();
    Ok(FIRST_WORDS.iter().find(|&&known| known == word).map_or("other", |&word| word).to_owned())
}

/// The question as a sentence, and the wish for a short reply.
fn words(item: &Item) -> String {
    let mut letters = item.question.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    let mark = if item.question.ends_with('?') { "" } else { "?" };
    format!("{first}{}{mark}\nReply with one word or a short phrase.", letters.as_str())
}

#[cfg(test)]
#[path = "open_ended/tests.rs"]
mod tests;
