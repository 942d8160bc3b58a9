//! Video-MME (Fu et al., CVPR 2025): 2,700 questions about 900 videos of less than two minutes to an hour, four
//! options each.
//!
//! Carrier: the parquet of `lmms-lab/Video-MME` or the same rows as JSON Lines (`video_id, duration, domain,
//! sub_category, url, videoID, question_id, task_type, question, options, answer`); options begin with letters, which
//! are taken off, and the answer is a letter. A clip is named by its YouTube id, `videoID`, and is the cluster.
//!
//! `more.subtitles` names the file below the folder of clips that the release keeps a clip's subtitles in, which not every
//! clip has. With [`crate::AskOptions::subtitles`] all its lines stand before the question, as the authors have it;
//! lmms-eval takes those of the moments that are shown.

use std::path::PathBuf;

use savi_data::DataError;

use super::shapes::{place_of_letter, without_letters};
use crate::cells::Cells;
use crate::suite::{Found, Suite, each_row};
use crate::{Gold, Item};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "videomme",
    manifest: include_str!("../../../../datasets/videomme/manifest.toml"),
    marks: &[],
    load,
    categories: KINDS,
    ..Suite::CHOICE
};

const KINDS: &[&str] = &["duration", "domain", "sub_category", "task_type"];

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let letter = cells.trimmed(&["answer"])?;
        let Some(place) = place_of_letter(&letter) else {
            return Err(cells.bad(format!("the answer {letter:?} is no letter")));
        };
        let video = cells.trimmed(&["videoID"])?;
        let subtitles = format!("subtitle/{video}.srt");
        let id = cells.trimmed(&["question_id"])?;
        let mut item = Item::new(id, cells.trimmed(&["question"])?, Gold::Option(place))
            .about(video)
            .with_options(without_letters(cells.texts(&["options"])?));
        for kind in KINDS {
            item = item.within(kind, cells.trimmed(&[kind])?);
        }
        item.more.insert("subtitles".to_owned(), subtitles.into());
        Ok(Some(item))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const ROW: &str = r#"{"video_id":"001","duration":"short","domain":"Knowledge","sub_category":"Law","url":"u","videoID":"xY_","question_id":"001-2","task_type":"Counting","question":"How many?","options":["A. One.","B. Two.","C. B. B. King.","D. None."],"answer":"C"}"#;

    #[test]
    fn rows_and_what_is_wrong_with_them() {
        let items = load("videomme", "test", &[("videomme.jsonl", ROW)]);
        assert_eq!(
            (items[0].options[2].as_str(), &items[0].gold),
            ("B. B. King.", &Gold::Option(2))
        );
        assert_eq!(
            (items[0].cluster.as_str(), &items[0].more["subtitles"]),
            ("xY_", &"subtitle/xY_.srt".into())
        );
        assert_eq!(items[0].categories.len(), 4);
        for (row, message) in [
            (
                ROW.replace("\"answer\":\"C\"", "\"answer\":\"E\""),
                "row 1: the answer is option 5 of 4",
            ),
            (
                ROW.replace("\"answer\":\"C\"", "\"answer\":2"),
                "row 1: the answer \"2\" is no letter",
            ),
            (ROW.replace("\"task_type\":\"Counting\",", ""), "row 1: missing key \"task_type\""),
            (ROW.replace("\"answer\":\"C\"}", ""), "row 1: "),
            (format!("{ROW}\n{ROW}"), "row 2: id \"001-2\" was used in row 1"),
        ] {
            refused("videomme", "test", &[("videomme.jsonl", &row)], message);
        }
    }
}
