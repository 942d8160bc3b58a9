//! EgoSchema (Mangalam et al., NeurIPS 2023): what three minutes of an egocentric video are about, five options each.
//!
//! Split `subset`, the 500 questions with published answers. Carriers: IG-VLM's `EgoSchema.csv` (`video_name,
//! question, answer, a0..a4`, the answer as the option's text), the authors' `questions.json` (`q_uid, question,
//! option 0..option 4`) with `subset_answers.json` (`{q_uid: place}`), and the parquet of `lmms-lab/egoschema`
//! (`video_idx, question, option, answer`), whose options begin with letters that are taken off. Split `full`: all
//! questions, whose answers only the authors' server knows. There is one question to a clip, so its name is the
//! item's id and the cluster.

use std::collections::HashSet;
use std::path::PathBuf;

use savi_data::{DataError, Row};
use serde_json::{Map, Value};

use super::shapes::{members, without_letters};
use crate::cells::Cells;
use crate::suite::{Found, Suite, each_row};
use crate::{Gold, Item};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "egoschema",
    manifest: include_str!("../../../../datasets/egoschema/manifest.toml"),
    marks: &[("subset", include_str!("../../../../datasets/egoschema/subset.marks"))],
    load,
    categories: &[],
    ..Suite::CHOICE
};

fn load(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    if let ("subset", [questions, answers]) = (split, files) {
        let places = members(answers)?;
        let mut seen = HashSet::new();
        let found =
            each_row(std::slice::from_ref(questions), |row| answered(row, &places, &mut seen))?;
        return match places.keys().find(|name| !seen.contains(*name)) {
            Some(name) => {
                let reason =
                    format!("the answer to {name:?} is to no question in {}", questions.display());
                Err(DataError::File { path: answers.clone(), reason })
            }
            None => Ok(found),
        };
    }
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let item = item(&cells)?;
        let gold = match split {
            "full" => Gold::Hidden,
            _ => Gold::Option(place(&cells, &item.options)?),
        };
        Ok(Some(Item { gold, ..item }))
    })
}

/// The item of a row whose answer is among `places`; other questions are not of the subset.
fn answered(
    row: &Row,
    places: &Map<String, Value>,
    seen: &mut HashSet<String>,
) -> Result<Option<Item>, DataError> {
    let item = item(&Cells::of(row)?)?;
    let Some(place) = places.get(&item.id) else { return Ok(None) };
    let Some(place) = place.as_u64().and_then(|place| usize::try_from(place).ok()) else {
        return Err(row.bad(format!("its answer is {place}, no place from 0")));
    };
    seen.insert(item.id.clone());
    Ok(Some(Item { gold: Gold::Option(place), ..item }))
}

fn item(cells: &Cells<'_>) -> Result<Item, DataError> {
    let options = if cells.get(&["option"]).is_some() {
        cells.texts(&["option"])?
    } else if cells.get(&["option 0"]).is_some() {
        cells.numbered("option ", 5)?
    } else {
        cells.numbered("a", 5)?
    };
    let video = cells.trimmed(&["q_uid", "video_idx", "video_name"])?;
    let item = Item::new(video.clone(), cells.trimmed(&["question"])?, Gold::Hidden);
    Ok(item.about(video).with_options(without_letters(options)))
}

/// The answer's place: a number in one carrier, an option's text in the other.
fn place(cells: &Cells<'_>, options: &[String]) -> Result<usize, DataError> {
    let answer = cells.trimmed(&["answer"])?;
    let same: Vec<usize> = (0..options.len()).filter(|&at| options[at] == answer).collect();
    match same[..] {
        [place] => Ok(place),
        [] => answer
            .parse()
            .map_err(|_| cells.bad(format!("the answer {answer:?} is none of the options"))),
        _ => Err(cells.bad(format!("the answer {answer:?} is more than one of the options"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const CSV: &str = ",video_name,question_id,question,answer,a0,a1,a2,a3,a4
1,ab-1,drive1,What does c do?,C cooks.,C rests.,C cooks.,C reads.,C runs.,C rests.
";
    const JSON: &str = r#"[{"q_uid":"ab-1","google_drive_id":"d","question":"What does c do?","option 0":"C rests.","option 1":"C cooks.","option 2":"C reads.","option 3":"C runs.","option 4":"C rests."},
{"q_uid":"ab-2","google_drive_id":"d","question":"Why does c go out?","option 0":"a","option 1":"b","option 2":"c","option 3":"d","option 4":"e"}]"#;

    #[test]
    fn three_carriers_give_the_same_item() {
        let items = load("egoschema", "subset", &[("EgoSchema.csv", CSV)]);
        assert_eq!(
            (items.len(), &items[0].gold, items[0].id.as_str()),
            (1, &Gold::Option(1), "ab-1")
        );
        let files = [("questions.json", JSON), ("subset_answers.json", r#"{"ab-1": 1}"#)];
        assert_eq!(load("egoschema", "subset", &files), items);
        let row = r#"{"question_idx":"3","question":"What does c do?","video_idx":"ab-1","option":["A. C rests.","B. C cooks.","C. C reads.","D. C runs.","E. C rests."],"answer":"1"}"#;
        assert_eq!(load("egoschema", "subset", &[("Subset/test-0.jsonl", row)]), items);
        let full = load("egoschema", "full", &[("questions.json", JSON)]);
        assert_eq!((full.len(), &full[1].gold), (2, &Gold::Hidden));
    }

    #[test]
    fn rows_that_cannot_be() {
        for (rows, message) in [
            (
                CSV.replace("C cooks.,C rests.", "C eats.,C rests."),
                "row 1: the answer \"C eats.\" is none",
            ),
            (
                CSV.replace("C cooks.,C rests.", "C rests.,C rests."),
                "row 1: the answer \"C rests.\" is more than one",
            ),
            (CSV.replace(",C runs.", ","), "row 1: missing key \"a3\""),
        ] {
            refused("egoschema", "subset", &[("EgoSchema.csv", &rows)], message);
        }
        for (answers, message) in [
            (r#"{"ab-1": 5}"#, "row 1: the answer is option 6 of 5"),
            (r#"{"ab-1": "x"}"#, "row 1: its answer is \"x\""),
            (r#"{"ab-3": 0}"#, "the answer to \"ab-3\" is to no question"),
        ] {
            let files = [("questions.json", JSON), ("subset_answers.json", answers)];
            refused("egoschema", "subset", &files, message);
        }
        let files = [("questions.json", &JSON[..80]), ("subset_answers.json", "{}")];
        refused("egoschema", "subset", &files, "row 1: the file ends inside its array");
    }
}
