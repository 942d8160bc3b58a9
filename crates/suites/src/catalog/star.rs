//! STAR (Wu et al., NeurIPS 2021): situated reasoning about clips of Charades, four options each.
//!
//! Carrier: the authors' `STAR_val.json`, a list of `question_id, question, video_id, start, end, answer, choices`
//! (and programs and graphs of the situation, which are not read); `choices` are `{choice_id, choice}` and `answer`
//! is the right one's text. A question's id names its kind (`Interaction`, `Sequence`, `Prediction`, `Feasibility`)
//! and its template: `Interaction_T1_13`. A clip is a part of a video between two moments; the video is the cluster.

use std::path::PathBuf;

use savi_data::DataError;
use serde_json::Value;

use super::shapes::place_of;
use crate::cells::Cells;
use crate::suite::{Found, Suite, each_row};
use crate::{Gold, Item, ItemClip};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "star",
    manifest: include_str!("../../../../datasets/star/manifest.toml"),
    marks: &[],
    load,
    categories: &["type", "template"],
    ..Suite::CHOICE
};

const KINDS: [&str; 4] = ["Interaction", "Sequence", "Prediction", "Feasibility"];

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let id = cells.trimmed(&["question_id"])?;
        let mut parts = id.split('_');
        let (kind, template) = match (parts.next(), parts.next(), parts.next()) {
            (Some(kind), Some(template), Some(_)) if KINDS.contains(&kind) => (kind, template),
            _ => return Err(cells.bad(format!("the id {id:?} names no kind and template"))),
        };
        let options = choices(&cells)?;
        let answer = cells.trimmed(&["answer"])?;
        let Some(place) = place_of(&options, &answer) else {
            return Err(cells.bad(format!("the answer {answer:?} is none of the choices")));
        };
        let video = cells.trimmed(&["video_id"])?;
        let (start, end) = (Some(cells.number(&["start"])?), Some(cells.number(&["end"])?));
        let item = Item::new(&*id, cells.trimmed(&["question"])?, Gold::Option(place))
            .about(video.clone())
            .with_options(options)
            .within("type", kind)
            .within("template", format!("{kind} {template}"));
        Ok(Some(Item { clip: Some(ItemClip { name: video, start, end }), ..item }))
    })
}

/// The texts of the choices, in the order of their ids.
fn choices(cells: &Cells<'_>) -> Result<Vec<String>, DataError> {
    let bad = || cells.bad("\"choices\" is not a list of choices with ids");
    let list = cells.get(&["choices"]).and_then(Value::as_array).ok_or_else(bad)?;
    let mut choices = list
        .iter()
        .map(|choice| {
            let text = choice.get("choice").and_then(Value::as_str)?;
            Some((choice.get("choice_id").and_then(Value::as_u64)?, text.trim().to_owned()))
        })
        .collect::<Option<Vec<(u64, String)>>>()
        .ok_or_else(bad)?;
    choices.sort_by_key(|(id, _)| *id);
    Ok(choices.into_iter().map(|(_, text)| text).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const ROW: &str = r#"[{"question_id":"Sequence_T3_5","question":"What did she do next?","video_id":"AB1","start":2.1,"end":9,
"answer":"Sat down.","question_program":[],"choices":[{"choice_id":1,"choice":"Left."},{"choice_id":0,"choice":"Sat down."}]}]"#;

    #[test]
    fn rows_and_what_is_wrong_with_them() {
        let items = load("star", "val", &[("STAR_val.json", ROW)]);
        assert_eq!(items[0].options, ["Sat down.", "Left."]);
        assert_eq!((&items[0].gold, items[0].cluster.as_str()), (&Gold::Option(0), "AB1"));
        assert_eq!(items[0].clip.as_ref().unwrap().end, Some(9.0));
        assert_eq!(items[0].categories["template"], "Sequence T3");
        for (rows, message) in [
            (
                ROW.replace("\"Sat down.\",\"question", "\"Ran.\",\"question"),
                "row 1: the answer \"Ran.\"",
            ),
            (ROW.replace("Sequence_", "Riddle_"), "row 1: the id \"Riddle_T3_5\""),
            (ROW.replace("\"end\":9,", ""), "row 1: missing key \"end\""),
            (ROW.replace("\"choice_id\":1", "\"choice_id\":-1"), "row 1: \"choices\" is not"),
            (ROW.replace("}]}]", "}]}"), "row 2: the file ends inside its array"),
        ] {
            refused("star", "val", &[("STAR_val.json", &rows)], message);
        }
    }
}
