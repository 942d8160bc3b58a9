//! MVBench (Li et al., CVPR 2024): 20 tasks of 200 questions each that a single frame should not answer.
//!
//! Carrier: `json/<task>.json` of `OpenGVLab/MVBench`, a list of `video, question, candidates, answer`, the answer as
//! the option's text; rows of five tasks say by `start` and `end` (in seconds) which part of the clip is meant. The
//! rows have no ids: an item is named by its task and its place in the file, from 0. A clip's name has the folder
//! that the release keeps it in, since clips of CLEVRER and of Perception Test share names; it is the cluster. Rows
//! of those five tasks without bounds are about clips that were cut already, in the folders of the branch `video`.

use std::path::PathBuf;

use savi_data::{DataError, Rows};

use super::shapes::{place_of, stem};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, choice_words, greedy};
use crate::{Gold, Item, ItemClip};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "mvbench",
    manifest: include_str!("../../../../datasets/mvbench/manifest.toml"),
    marks: &[],
    load,
    words: choice_words,
    ask: Ask::Reply { sampling: greedy::<32> },
    scorers: super::CHOICE,
    categories: &["task"],
};

/// A task, where its clips lie, and where those lie that were cut already.
const TASKS: [(&str, &str, &str); 20] = [
    ("action_antonym", "ssv2_video", ""),
    ("action_count", "perception/videos", ""),
    ("action_localization", "sta/sta_video", "sta/sta_video_segment"),
    ("action_prediction", "star/Charades_v1_480", "star/Charades_segment"),
    ("action_sequence", "star/Charades_v1_480", "star/Charades_segment"),
    ("character_order", "perception/videos", ""),
    ("counterfactual_inference", "clevrer/video_validation", ""),
    ("egocentric_navigation", "vlnqa", ""),
    ("episodic_reasoning", "tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
    ("fine_grained_action", "Moments_in_Time_Raw/videos", ""),
    ("fine_grained_pose", "nturgbd", ""),
    ("moving_attribute", "clevrer/video_validation", ""),
    ("moving_count", "clevrer/video_validation", ""),
    ("moving_direction", "clevrer/video_validation", ""),
    ("object_existence", "clevrer/video_validation", ""),
    ("object_interaction", "star/Charades_v1_480", "star/Charades_segment"),
    ("object_shuffle", "perception/videos", ""),
    ("scene_transition", "scene_qa/video", ""),
    ("state_change", "perception/videos", ""),
    ("unexpected_action", "FunQA_test/test", ""),
];

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    load_tasks(files, |task, bounded| {
        let (_, whole, cut) = TASKS.iter().find(|(name, ..)| *name == task)?;
        Some(if bounded || cut.is_empty() { whole } else { cut }.to_string())
    })
}

/// Reads a file for each task. `folder` names that of a task's clips, `None` for what is no task; it is told whether
/// the row has bounds.
pub(super) fn load_tasks(
    files: &[PathBuf],
    folder: impl Fn(&str, bool) -> Option<String>,
) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for path in files {
        for (at, row) in Rows::open(path)?.enumerate() {
            let row = row?;
            let item = item(&Cells::of(&row)?, at, &folder)?;
            found.push(Found::new(item, &row));
        }
    }
    Ok(found)
}

fn item(
    cells: &Cells<'_>,
    at: usize,
    folder: impl Fn(&str, bool) -> Option<String>,
) -> Result<Item, DataError> {
    let task = stem(cells.path());
    let bound = |name: &str| cells.get(&[name]).map(|_| cells.number(&[name])).transpose();
    let (start, end) = (bound("start")?, bound("end")?);
    let folder = folder(&task, start.is_some() || end.is_some())
        .ok_or_else(|| cells.bad(format!("{task:?} is none of the tasks")))?;
    let options: Vec<String> =
        cells.texts(&["candidates"])?.iter().map(|option| option.trim().to_owned()).collect();
    let answer = cells.trimmed(&["answer"])?;
    let Some(place) = place_of(&options, &answer) else {
        return Err(cells.bad(format!("the answer {answer:?} is none of the options")));
    };
    let video = format!("{folder}/{}", cells.trimmed(&["video"])?);
    let question = cells.trimmed(&["question"])?;
    let item = Item::new(format!("{task}-{at}"), question, Gold::Option(place))
        .about(video.clone())
        .with_options(options)
        .within("task", task);
    Ok(Item { clip: Some(ItemClip { name: video, start, end }), ..item })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const ROW: &str = r#"{"video":"v_1.mp4","question":"Where does the ball go?","candidates":["Up.","Down."],"answer":"Down."}"#;

    #[test]
    fn rows_of_both_branches() {
        let bounded = ROW.replace(r#""video""#, r#""start":1.5,"end":"4","video""#);
        let items = load(
            "mvbench",
            "test",
            &[
                ("json/action_sequence.json", &format!("[{bounded},{ROW}]")),
                ("json/moving_count.json", &format!("[{}]", ROW.replace(r#""Up.""#, "3"))),
            ],
        );
        assert_eq!(items[0].clip.as_ref().unwrap().name, "star/Charades_v1_480/v_1.mp4");
        assert_eq!(items[0].clip.as_ref().unwrap().start, Some(1.5));
        assert_eq!(items[0].clip.as_ref().unwrap().end, Some(4.0));
        assert_eq!(items[1].cluster, "star/Charades_segment/v_1.mp4");
        assert_eq!((items[1].id.as_str(), &items[1].gold), ("action_sequence-1", &Gold::Option(1)));
        assert_eq!(items[2].options, ["3", "Down."]);
        assert_eq!(items[2].categories["task"], "moving_count");
    }

    #[test]
    fn rows_that_cannot_be() {
        for (file, row, message) in [
            (
                "action_count.json",
                ROW.replace(r#""answer":"Down.""#, r#""answer":"Left""#),
                "row 1: the answer \"Left\" is none",
            ),
            (
                "action_count.json",
                ROW.replace("\"question\"", "\"query\""),
                "row 1: missing key \"question\"",
            ),
            (
                "action_count.json",
                ROW.replace(r#"["Up.","Down."]"#, r#"["Up.",{}]"#),
                "row 1: \"candidates\" is not a list",
            ),
            (
                "action_count.json",
                ROW.replace("\"video\"", "\"start\":\"soon\",\"video\""),
                "row 1: \"start\" is \"soon\"",
            ),
            ("dancing.json", ROW.to_owned(), "\"dancing\" is none of the tasks"),
        ] {
            refused("mvbench", "test", &[(file, &format!("[{row}]"))], message);
        }
        refused(
            "mvbench",
            "test",
            &[("action_count.json", &format!("[{ROW}"))],
            "row 2: the file ends",
        );
    }
}
