//! MVBench (Li et al., CVPR 2024): 20 tasks of 200 questions each that a single frame should not answer.
//!
//! Carrier: `json/<task>.json` of `OpenGVLab/MVBench`, a list of `video, question, candidates, answer`, the answer as
//! the option's text; rows of five tasks say by `start` and `end` (in seconds) which part of the clip is meant. The
//! rows have no ids: an item is named by its task and its place in the file, from 0. A clip's name has the folder
//! that the release keeps it in, since clips of CLEVRER and of Perception Test share names; it is the cluster.
//!
//! The branch `video` has the clips of those five tasks cut, under names that end with the bounds; such a clip is
//! taken whole. On the main branch `episodic_reasoning` is folders of frames, three to a second. We read a folder as
//! one frame a second, so its bounds count in those.

use std::path::PathBuf;

use savi_data::{DataError, Rows};
use savi_video_ingest::FOLDER_FPS;

use super::shapes::{place_of, stem};
use crate::cells::Cells;
use crate::suite::{Found, Suite};
use crate::{Gold, Item, ItemClip};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "mvbench",
    manifest: include_str!("../../../../datasets/mvbench/manifest.toml"),
    marks: &[],
    load,
    categories: &["task"],
    ..Suite::CHOICE
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

/// Frames per second of the folders of `episodic_reasoning`.
const FRAME_RATE: f64 = 3.0;

/// Where a row's clip lies, and how its bounds are to be taken.
pub(super) struct Place {
    /// The folder.
    pub(super) folder: String,
    /// Seconds of the clip to a second of the row's bounds; `None` where it was cut already.
    pub(super) bounds: Option<f64>,
}

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    load_tasks(files, |task, video, bounded| {
        let (_, whole, cut) = TASKS.iter().find(|(name, ..)| *name == task)?;
        if !cut.is_empty() && (!bounded || names_bounds(video)) {
            return Some(Place { folder: (*cut).to_owned(), bounds: None });
        }
        let frames = task == "episodic_reasoning";
        let rate = if frames { FRAME_RATE / FOLDER_FPS } else { 1.0 };
        Some(Place { folder: (*whole).to_owned(), bounds: Some(rate) })
    })
}

/// Whether a file is called by its bounds, as those are that were cut: `AB1CD_2.5_14.mp4`.
fn names_bounds(video: &str) -> bool {
    let stem =
        video.rsplit_once('.').filter(|(_, end)| end.starts_with('m')).map_or(video, |s| s.0);
    let mut parts = stem.rsplitn(3, '_');
    let mut number = || parts.next().is_some_and(|part| part.parse::<f64>().is_ok());
    number() && number() && parts.next().is_some()
}

/// Reads a file for each task. `place` knows a task, a row's clip and whether the row has bounds; it says `None` to
/// what is no task.
pub(super) fn load_tasks(
    files: &[PathBuf],
    place: impl Fn(&str, &str, bool) -> Option<Place>,
) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for path in files {
        for (at, row) in Rows::open(path)?.enumerate() {
            let row = row?;
            let item = item(&Cells::of(&row)?, at, &place)?;
            found.push(Found::new(item, &row));
        }
    }
    Ok(found)
}

fn item(
    cells: &Cells<'_>,
    at: usize,
    place: impl Fn(&str, &str, bool) -> Option<Place>,
) -> Result<Item, DataError> {
    let task = stem(cells.path());
    let video = cells.trimmed(&["video"])?;
    let bound = |name: &str| cells.get(&[name]).map(|_| cells.number(&[name])).transpose();
    let (start, end) = (bound("start")?, bound("end")?);
    let Place { folder, bounds } = place(&task, &video, start.is_some() || end.is_some())
        .ok_or_else(|| cells.bad(format!("{task:?} is none of the tasks")))?;
    let seconds = |bound: Option<f64>| Some(bound? * bounds?);
    let options: Vec<String> =
        cells.texts(&["candidates"])?.iter().map(|option| option.trim().to_owned()).collect();
    let answer = cells.trimmed(&["answer"])?;
    let Some(right) = place_of(&options, &answer) else {
        return Err(cells.bad(format!("the answer {answer:?} is none of the options")));
    };
    let name = format!("{folder}/{video}");
    let question = cells.trimmed(&["question"])?;
    let item = Item::new(format!("{task}-{at}"), question, Gold::Option(right))
        .about(name.clone())
        .with_options(options)
        .within("task", task);
    let clip = ItemClip { name, start: seconds(start), end: seconds(end) };
    Ok(Item { clip: Some(clip), ..item })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use super::*;

    const ROW: &str = r#"{"video":"v_1.mp4","question":"Where does the ball go?","candidates":["Up.","Down."],"answer":"Down."}"#;

    #[test]
    fn rows_of_both_branches() {
        let bounded = ROW.replace(r#""video""#, r#""start":1.5,"end":"4","video""#);
        let cut = bounded.replace("v_1.mp4", "AB_1.5_4.mp4");
        let frames = bounded.replace("v_1.mp4", "show_s02_clip_05");
        let items = load(
            "mvbench",
            "test",
            &[
                ("json/action_sequence.json", &format!("[{bounded},{ROW},{cut}]")),
                ("json/episodic_reasoning.json", &format!("[{frames}]")),
                ("json/moving_count.json", &format!("[{}]", ROW.replace(r#""Up.""#, "3"))),
            ],
        );
        assert_eq!(items[0].clip.as_ref().unwrap().name, "star/Charades_v1_480/v_1.mp4");
        assert_eq!(items[0].clip.as_ref().unwrap().start, Some(1.5));
        assert_eq!(items[0].clip.as_ref().unwrap().end, Some(4.0));
        assert_eq!(items[1].cluster, "star/Charades_segment/v_1.mp4");
        assert_eq!((items[1].id.as_str(), &items[1].gold), ("action_sequence-1", &Gold::Option(1)));
        let clip = |name: &str, start, end| ItemClip { name: name.to_owned(), start, end };
        assert_eq!(items[2].clip, Some(clip("star/Charades_segment/AB_1.5_4.mp4", None, None)));
        let frames = clip("tvqa/frames_fps3_hq/show_s02_clip_05", Some(4.5), Some(12.0));
        assert_eq!(items[3].clip, Some(frames));
        assert_eq!(items[4].options, ["3", "Down."]);
        assert_eq!(items[4].categories["task"], "moving_count");
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
