//! What holds for every benchmark, and what its own tests use.

use std::collections::HashSet;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{SUITES, suite};
use crate::{Ask, Gold, Item, OpenSuite};

/// Reads files of these names and texts as a split's, and checks the items.
fn open(name: &str, split: &str, files: &[(&str, &str)]) -> Result<OpenSuite, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut paths: Vec<PathBuf> = Vec::new();
    for (file, text) in files {
        paths.push(dir.path().join(file));
        std::fs::create_dir_all(paths[paths.len() - 1].parent().unwrap()).unwrap();
        std::fs::write(&paths[paths.len() - 1], text).unwrap();
    }
    let suite = suite(name).unwrap();
    let found = (suite.load)(&paths, split).map_err(|error| error.to_string())?;
    let manifest = suite.manifest().unwrap();
    let open = suite.check(found, paths, split, &manifest.splits[split], true);
    open.map_err(|error| error.to_string())
}

/// The items of these files.
pub(super) fn load(name: &str, split: &str, files: &[(&str, &str)]) -> Vec<Item> {
    open(name, split, files).unwrap().items
}

/// The files are refused with this message, which names a file.
pub(super) fn refused(name: &str, split: &str, files: &[(&str, &str)], message: &str) {
    let refused = open(name, split, files).unwrap_err();
    assert!(refused.contains(message), "{refused}\nwhere this was expected: {message}");
    let named = |(file, _): &(&str, &str)| refused.contains(file.rsplit('/').next().unwrap());
    assert!(files.iter().any(named), "{refused}");
}

#[test]
fn names_are_unique_and_wordings_put_the_question() {
    let names: HashSet<&str> = SUITES.iter().map(|suite| suite.name).collect();
    assert_eq!(names.len(), SUITES.len());
    let options = ["a pear", "a plum"].map(str::to_owned).to_vec();
    let item = Item::new("1", "What is it?", Gold::Option(0)).with_options(options);
    for suite in SUITES.iter().filter(|suite| matches!(suite.ask, Ask::Reply { .. })) {
        let words = (suite.words)(&item);
        assert!(words.contains("What is it?"), "{}: {words}", suite.name);
        let kinds: HashSet<&&str> = suite.categories.iter().collect();
        assert_eq!(kinds.len(), suite.categories.len(), "{}", suite.name);
    }
}

/// Keys that some carrier has, so that made-up rows come far.
const KEYS: [&str; 38] = [
    "7",
    "12",
    "action",
    "speed",
    "answer",
    "answer_id",
    "area",
    "basic",
    "candidates",
    "choices",
    "correct_choice",
    "dim",
    "duration",
    "end",
    "hallucination",
    "id",
    "mc_answer",
    "mc_question",
    "option",
    "option0",
    "option 0",
    "options",
    "q_uid",
    "qid",
    "question",
    "question_id",
    "question_type",
    "reasoning",
    "start",
    "type",
    "video",
    "videoID",
    "video_id",
    "video_idx",
    "video_name",
    "video_path",
    "a0",
    "additional_ref_answer",
];

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("yes".to_owned()),
        Just("A. x".to_owned()),
        Just("q?\nA. x\nB. y".to_owned()),
        Just("Interaction_T1_1".to_owned()),
        ".{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 12, |inner| {
        let key = prop_oneof![9 => prop::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => ".{0,4}"];
        let object = prop::collection::vec((key, inner.clone()), 0..12)
            .prop_map(|members| Value::Object(Map::from_iter(members)));
        prop_oneof![object, prop::collection::vec(inner, 0..4).prop_map(Value::from)]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn no_loader_panics_on_rows_that_mean_nothing(
        first in value(),
        second in value(),
        layout in 0..3,
        cut in 0usize..400,
    ) {
        let text = match layout {
            0 => first.to_string(),
            1 => Value::from(vec![first, second]).to_string(),
            _ => format!("{first}\n{second}").chars().take(cut).collect(),
        };
        for suite in SUITES {
            for (split, about) in &suite.manifest().unwrap().splits {
                for carrier in &about.files {
                    // Parquet is read elsewhere; here its rows come as lines. No loader looks at more than two
                    // files together.
                    let names = carrier.iter().take(2).map(|name| name.replace("*.parquet", "0.jsonl"));
                    let names: Vec<String> = names.collect();
                    let files: Vec<(&str, &str)> =
                        names.iter().map(|name| (name.as_str(), text.as_str())).collect();
                    let _ = open(suite.name, split, &files);
                }
            }
        }
    }
}
