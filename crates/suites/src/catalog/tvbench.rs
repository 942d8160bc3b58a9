//! TVBench (Cores et al., 2024): ten tasks that neither text nor a single frame answers better than chance.
//!
//! Carrier: `json/<task>.json` of `FunAILab/TVBench`, in MVBench's layout; rows of two tasks have bounds. The authors
//! revised the rows after the first release and its files carry no version, so their number is not held. Items are
//! named by task and place in the file, from 0; clips by task and file, as `video/<task>/` keeps them, and they are
//! the clusters.

use std::path::PathBuf;

use savi_data::DataError;

use super::mvbench::{Place, load_tasks};
use crate::suite::{Found, Suite};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "tvbench",
    manifest: include_str!("../../../../datasets/tvbench/manifest.toml"),
    marks: &[],
    load,
    categories: &["task"],
    ..Suite::CHOICE
};

const TASKS: [&str; 10] = [
    "action_antonym",
    "action_count",
    "action_localization",
    "action_sequence",
    "egocentric_sequence",
    "moving_direction",
    "object_count",
    "object_shuffle",
    "scene_transition",
    "unexpected_action",
];

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    load_tasks(files, |task, _, _| {
        TASKS.contains(&task).then(|| Place { folder: task.to_owned(), bounds: Some(1.0) })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};
    use crate::Gold;

    const ROW: &str = r#"{"video":"7.mp4","question":"What comes first?","candidates":["a door","a cup"],"answer":"a door","start":0,"end":2.5}"#;

    #[test]
    fn rows_are_read_as_those_of_mvbench() {
        let items = load("tvbench", "test", &[("json/action_sequence.json", ROW)]);
        let clip = items[0].clip.as_ref().unwrap();
        assert_eq!((clip.name.as_str(), clip.end), ("action_sequence/7.mp4", Some(2.5)));
        assert_eq!(items[0].gold, Gold::Option(0));
        refused("tvbench", "test", &[("state_change.json", ROW)], "none of the tasks");
    }
}
