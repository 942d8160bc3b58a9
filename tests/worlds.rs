//! `savi data`: data sets are made, listed and refused by the program, and the rows beside the
//! manifest of moving-shapes are what it writes.

use std::path::Path;
use std::process::Command;

use savi_suites::QuestionRecord;
use savi_worlds::moving_shapes::{Scene, oracle, question_records};

fn savi(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_savi")).args(args).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_data_set_is_made_and_another_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("shapes");
    let out = out.to_str().unwrap();
    let make = |seed: &str, clips: &str| {
        savi(&[
            "data",
            "make",
            "moving-shapes",
            "--seed",
            seed,
            "--split-clips",
            clips,
            "--out",
            out,
        ])
    };
    let (code, stdout, stderr) = make("3", "train=1,dev=1");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("train") && stdout.contains("dev"), "{stdout}");
    assert!(Path::new(out).join("dev/clips/dev-00000.mp4").exists());
    let (code, _, stderr) = make("4", "train=1,dev=1");
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("seed 3 instead of 4"), "{stderr}");
    let (code, _, stderr) = make("4", "training=1");
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no split \"training\""), "{stderr}");
}

#[test]
fn worlds_are_listed_and_unknown_ones_refused() {
    let (code, stdout, _) = savi(&["data", "list"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("moving-shapes"), "{stdout}");
    let (code, _, stderr) =
        savi(&["data", "make", "moving-shade", "--clips", "1", "--out", "nowhere"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("moving-shapes"), "{stderr}");
}

#[test]
fn rows_beside_the_manifest_are_ours() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/moving-shapes");
    let manifest = savi_data::Manifest::load(&folder).unwrap();
    assert!(manifest.splits["test"].sealed && !manifest.splits["dev"].sealed);
    let scenes: Vec<Scene> = savi_data::Rows::open(&folder.join("scenes.jsonl"))
        .unwrap()
        .map(|row| row.unwrap().parse().unwrap())
        .collect();
    let questions = savi_suites::read_questions(&folder.join("questions.jsonl")).unwrap();
    assert!(!scenes.is_empty());
    let fresh: Vec<QuestionRecord> = scenes.iter().flat_map(question_records).collect();
    assert_eq!(questions, fresh);
    for scene in &scenes {
        let again = savi_worlds::moving_shapes::scene(scene.split, scene.seed, scene.index);
        assert_eq!(*scene, again, "the world changed: raise its VERSION and renew the rows");
    }
    for question in &questions {
        let scene = scenes.iter().find(|scene| scene.id == question.clip_id).unwrap();
        assert_eq!(oracle(scene, &question.question).unwrap().answer, question.answer);
    }
}
