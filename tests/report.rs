//! `savi report` on run folders of both forms (tests/fixtures/report/make.py).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A copy of a fixture, so that reports are not written into the tree.
fn fixture(name: &str) -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join(name);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/report").join(name);
    copy(&from, &run);
    (temp, run)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn savi(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_savi")).args(args).output().unwrap()
}

fn report(run: &Path, more: &[&str]) -> String {
    let output = savi(&[&["report", run.to_str().unwrap()], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = run.join("report.html");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), path.to_str().unwrap());
    fs::read_to_string(path).unwrap()
}

#[track_caller]
fn contains(html: &str, parts: &[&str]) {
    for part in parts {
        assert!(html.contains(part), "{part:?} is not on the page");
    }
}

#[test]
fn the_judge_form_is_told_whole() {
    let (_temp, run) = fixture("judge");
    let html = report(&run, &[]);
    contains(
        &html,
        &[
            // Figures of evaluations.json, and the paired change from the stored answers.
            ">60.8<",
            ">79.2<",
            "70.4 to 87.9",
            "+18.3",
            "class=\"clear\"",
            ">direction<",
            "combinations never trained on",
            // Every curve.
            "Loss",
            "Reward margin",
            "Reward accuracy",
            "Log-probabilities",
            "Gradient norm",
            // Yields and rejections.
            "best and worst too close",
            "judgement or critique unreadable",
            "13 of 24",
            // A record with its frames.
            "data:image/png;base64,",
            "temperature 0.3",
            "accuracy 5",
            "What the judge wrote",
            "Cosines of the clip",
            // An audit that was stored beside the stages.
            "The world's answer",
            "in truth right",
            "in truth wrong",
        ],
    );
    assert_eq!(html.matches("<article").count(), 12);
    assert!(!html.contains("not complete"), "a whole folder is told to be incomplete");
}

#[test]
fn the_critique_form_is_told_and_what_is_missing_too() {
    let (_temp, run) = fixture("critique");
    let html = report(&run, &[]);
    contains(
        &html,
        &[
            "evaluations.json is missing",
            "metrics.jsonl is missing",
            "Nothing has been measured yet",
            "No training step has been logged",
            "Critique",
            "Revision",
            "the critique calls the answer right",
            "What the critic wrote",
            "No thumbnails of this clip are stored",
        ],
    );
}

#[test]
fn the_page_needs_nothing_else_and_escapes_everything() {
    let (_temp, run) = fixture("judge");
    let html = report(&run, &[]);
    for outside in
        ["<script", "http://", "https://", "@import", "url(", "<link", "onerror=alert(1)>"]
    {
        assert!(!html.contains(outside), "{outside} is on the page");
    }
    contains(&html, &["&lt;script&gt;document.title"]);
    let images = html.matches("<img ").count();
    assert!(images > 0);
    assert_eq!(images, html.matches("alt=\"Frame ").count(), "a picture has no description");
    assert_eq!(html.matches("<img src=\"data:").count(), images);
}

#[test]
fn one_record_can_be_asked_for() {
    let (_temp, run) = fixture("judge");
    let html = report(&run, &["--record", "unlabelled-00005/why-0"]);
    // One decision of each round.
    assert_eq!(html.matches("<article").count(), 2);
    let output = savi(&["report", run.to_str().unwrap(), "--record", "nobody"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"nobody\""));
}

#[test]
fn damage_is_told_and_a_folder_of_something_else_is_refused() {
    let (_temp, run) = fixture("judge");
    fs::write(run.join("evaluations.json"), "[{\"round\": 0").unwrap();
    fs::write(run.join("stages/14-pair/records.jsonl"), "{\"id\": 7}\nnot json\n").unwrap();
    fs::remove_file(run.join("stages/21-ask/done.json")).unwrap();
    fs::remove_file(run.join("manifest.json")).unwrap();
    let html = report(&run, &[]);
    contains(
        &html,
        &[
            "evaluations.json cannot be read",
            "1 records of stage 14-pair",
            "21-ask is not finished",
            "manifest.json is missing",
            "unfinished",
        ],
    );
    let other = tempfile::tempdir().unwrap();
    let output = savi(&["report", other.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!other.path().join("report.html").exists());
}
