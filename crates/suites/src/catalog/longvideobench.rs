//! LongVideoBench (Wu et al., NeurIPS 2024): questions that refer to a moment of a clip of seconds to an hour, two to
//! five options each.
//!
//! Carriers, both of `longvideobench/LongVideoBench` (asked for by a form): `lvb_val.json` (`id, video_id,
//! video_path, subtitle_path, question, candidates, correct_choice, duration_group, question_category,
//! topic_category, starting_timestamp_for_subtitles`) and its parquet, which has `option0..option4` in place of
//! `candidates`, `N/A` where there is none. The answer counts from 0; the clip is the cluster. Items are asked from
//! the clip alone; `more.subtitles` names the file of its subtitles and `more.subtitles_from` the second of it at
//! which the clip begins.

use std::path::PathBuf;

use savi_data::DataError;

use crate::cells::Cells;
use crate::suite::{Found, Suite, each_row};
use crate::{Gold, Item, ItemClip};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "longvideobench",
    manifest: include_str!("../../../../datasets/longvideobench/manifest.toml"),
    marks: &[],
    load,
    categories: &["duration", "question", "topic"],
    ..Suite::CHOICE
};

const MOST: usize = 5;

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let options = match cells.get(&["candidates"]) {
            Some(_) => cells.texts(&["candidates"])?,
            None => cells.numbered("option", MOST)?,
        };
        let there = options.iter().position(|option| option == "N/A").unwrap_or(options.len());
        if options[there..].iter().any(|option| option != "N/A") {
            return Err(cells.bad("an option comes after one that is N/A"));
        }
        let options = options[..there].iter().map(|option| option.trim().to_owned()).collect();
        let video = cells.trimmed(&["video_id"])?;
        let gold = Gold::Option(cells.index(&["correct_choice"])?);
        let mut item = Item::new(cells.trimmed(&["id"])?, cells.trimmed(&["question"])?, gold)
            .about(video)
            .with_options(options)
            .within("duration", cells.trimmed(&["duration_group"])?)
            .within("question", cells.trimmed(&["question_category"])?)
            .within("topic", cells.trimmed(&["topic_category"])?);
        let name = cells.trimmed(&["video_path"])?;
        item.clip = Some(ItemClip { name, start: None, end: None });
        if cells.get(&["subtitle_path"]).is_some() {
            item.more.insert("subtitles".to_owned(), cells.trimmed(&["subtitle_path"])?.into());
            let from = cells.number(&["starting_timestamp_for_subtitles"])?;
            item.more.insert("subtitles_from".to_owned(), from.into());
        }
        Ok(Some(item))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const REST: &str = r#""id":"ab_0","video_id":"ab","video_path":"ab.mp4","subtitle_path":"ab_en.json","duration":9.5,"duration_group":15,"question_category":"S2E","topic_category":"NP","starting_timestamp_for_subtitles":0,"question":"What is shown then?","correct_choice":1,"#;

    #[test]
    fn both_carriers_give_the_same_items() {
        let json = format!(r#"[{{{REST}"level":"L1","candidates":["a dog","a tree"]}}]"#);
        let items = load("longvideobench", "val", &[("lvb_val.json", &json)]);
        assert_eq!((&items[0].gold, items[0].options.len()), (&Gold::Option(1), 2));
        assert_eq!(
            (items[0].cluster.as_str(), items[0].clip.as_ref().unwrap().name.as_str()),
            ("ab", "ab.mp4")
        );
        assert_eq!(
            (items[0].categories["duration"].as_str(), &items[0].more["subtitles"]),
            ("15", &"ab_en.json".into())
        );
        let row = r#""option0":"a dog","option1":"a tree","option2":"N/A","option3":"N/A","option4":"N/A""#;
        let flat = format!("{{{REST}{row}}}");
        assert_eq!(load("longvideobench", "val", &[("validation-0.jsonl", &flat)]), items);
        for (rows, message) in [
            (flat.replace("choice\":1", "choice\":2"), "row 1: the answer is option 3 of 2"),
            (flat.replace("\"a tree\"", "\"N/A\""), "row 1: 1 options where 2 to 26"),
            (flat.replace("option4\":\"N/A", "option4\":\"a cow"), "row 1: an option comes after"),
            (flat.replace("\"option2\"", "\"option7\""), "row 1: missing key \"option2\""),
            (flat.replace("\"correct_choice\":1,", ""), "row 1: missing key \"correct_choice\""),
            (
                flat.replace("\"duration_group\":15", "\"duration_group\":[]"),
                "\"duration_group\" is not a text",
            ),
        ] {
            refused("longvideobench", "val", &[("validation-0.jsonl", &rows)], message);
        }
    }
}
