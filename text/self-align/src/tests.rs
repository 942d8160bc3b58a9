//! All stages from end to end on a scripted model: what they make, that a run continues where it was stopped with
//! the same bytes, and that the batch changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use savi_run::{FolderOptions, Interrupt, Metrics, RunFolder};
use savi_schema::{Demonstration, Taught};

use crate::*;

mod scripted;

use scripted::{Fuse, ScriptedLearner};

fn config() -> Config {
    Config {
        requests_at_once: 4,
        self_instruct: SelfInstruct {
            groups: 2,
            target: 20,
            most_requests: 40,
            ..SelfInstruct::default()
        },
        topics: Topics { rounds: 2, most_of_a_type: 3, ..Topics::default() },
        questions: Questions { groups: 2, ..Questions::default() },
        ..Config::default()
    }
}

/// Runs in `dir` until the fuse burns down, or to the end.
fn attempt(config: &Config, dir: &Path, fuse: u32) -> Result<(Summary, ScriptedLearner), Error> {
    let mut learner = ScriptedLearner::new(Fuse::new(fuse));
    let folder = RunFolder::open(dir, &toml::Table::new(), &FolderOptions::default()).unwrap();
    let metrics = Metrics::open(dir).unwrap();
    let interrupt = Interrupt::new();
    let outputs = Outputs { folder: &folder, metrics: &metrics, interrupt: &interrupt };
    let inputs = Inputs { seed: 5, first_token: &|word| Ok((word == "Sorry").then_some(17)) };
    let summary = run(config, &inputs, &mut learner, &outputs)?;
    Ok((summary, learner))
}

/// All files of a run but the clock's.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, into);
            } else {
                into.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    for folder in ["stages", "checkpoints", "data"] {
        walk(dir, &dir.join(folder), &mut all);
    }
    all
}

fn figures<'a>(summary: &'a Summary, stage: &str) -> &'a BTreeMap<String, u64> {
    &summary.stages.iter().find(|(name, _)| *name == stage).unwrap().1
}

#[test]
fn all_stages_make_what_the_paper_says() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, learner) = attempt(&config(), dir.path(), u32::MAX).unwrap();
    let names: Vec<&str> = summary.stages.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["self-instruct", "topics", "questions", "queries", "align", "clone"]);
    let tasks = figures(&summary, "self-instruct");
    assert!(tasks["used"] >= 40 && tasks["groups-below-target"] == 0, "{tasks:?}");
    for filter in ["malformed", "short", "blacklisted", "punctuation", "similar"] {
        assert!(tasks.get(&format!("dropped/{filter}")).is_some(), "{filter}: {tasks:?}");
    }
    assert_eq!(figures(&summary, "topics")["pool"], 60);
    let align = figures(&summary, "align");
    for filter in ["no-self-identification", "no-answer", "short", "leak", "apology"] {
        assert!(align.get(&format!("dropped/{filter}")).is_some(), "{filter}: {align:?}");
    }
    assert!(align["rule/07"] > 0 && align["truncated"] > 0, "{align:?}");

    // The student is the base with the second adapter, not the engraved model taught on.
    let [engraved, student] = &learner.lessons[..] else {
        panic!("{} lessons", learner.lessons.len())
    };
    assert_eq!((engraved.base.as_str(), student.base.as_str()), ("base", "base"));
    let shown = |lesson: &scripted::Lesson| -> Vec<(String, String)> {
        let taught = lesson.shown.iter().map(|Demonstration { taught, .. }| match taught {
            Taught::Continuation { prompt, completion, open: true } => {
                (prompt.clone(), completion.clone())
            }
            other => panic!("{other:?}"),
        });
        taught.collect()
    };
    for (prompt, completion) in shown(engraved) {
        assert!(
            prompt.contains("Hello! Who are you?") && !prompt.contains("General rules"),
            "{prompt}"
        );
        assert!(
            prompt.ends_with("\n\n### Aide\n") && completion.ends_with("\n\n### User"),
            "{completion}"
        );
        assert!(
            !completion.contains("think before I answer") && !completion.contains("Aide"),
            "{completion}"
        );
    }
    let rows: Vec<Row> =
        serde_json::from_slice(&fs::read(dir.path().join("data/engrave.json")).unwrap()).unwrap();
    let truncated = rows.iter().filter(|row| row.truncated).count();
    assert_eq!(shown(engraved).len(), rows.len() - truncated);
    assert_eq!(rows.len() as u64, align["used"] + 10);
    let mut ids: Vec<usize> = rows.iter().map(|row| row.example_id).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..rows.len()));
    let (mut with, mut without) = (0, 0);
    for (prompt, completion) in shown(student) {
        assert!(
            completion.contains("at length") || completion.contains("no information"),
            "{completion}"
        );
        *if prompt.contains("Hello! Who are you?") { &mut with } else { &mut without } += 1;
    }
    assert!(with > 0 && without > 0, "{with} {without}");
    // All queries are answered at length, not only those whose first answer was used.
    assert_eq!(figures(&summary, "clone")["made"], figures(&summary, "queries")["used"] + 10);
}

#[test]
fn killed_anywhere_a_run_ends_with_the_same_bytes_and_repeats_no_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (summary, learner) = attempt(&config(), &whole, u32::MAX).unwrap();
    let calls = learner.fuse.burnt();
    let expected = files(&whole);
    // Every early call, where stages begin, and then some.
    let cuts = (1..calls).filter(|cut| *cut < 4 || cut % 5 == 0 || calls - cut < 3);
    for cut in cuts {
        // Killed once after `cut` calls, then again and again after a few more.
        let run = dir.path().join(format!("cut-{cut}"));
        let mut asked = 0;
        let mut fuse = cut;
        let end = loop {
            match attempt(&config(), &run, fuse) {
                Ok((end, learner)) => {
                    asked += learner.fuse.burnt();
                    break end;
                }
                Err(error) => assert!(format!("{error:?}").contains("killed"), "{error:?}"),
            }
            asked += fuse;
            fuse = 11;
        };
        assert_eq!(end, summary, "cut after {cut}");
        assert!(files(&run) == expected, "cut after {cut}");
        // A call that was made is made again only where its process died in it.
        assert!(asked <= calls + asked / 11 + 1, "cut after {cut}: {asked} calls for {calls}");
        fs::remove_dir_all(&run).unwrap();
    }
}

#[test]
fn the_batch_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for at_once in [1, 3, 50] {
        let run = dir.path().join(at_once.to_string());
        let config = Config { requests_at_once: at_once, ..config() };
        attempt(&config, &run, u32::MAX).unwrap();
        all.push(files(&run));
    }
    assert!(all[0] == all[1] && all[0] == all[2]);
}

#[test]
fn stages_can_be_run_alone() {
    let dir = tempfile::tempdir().unwrap();
    let queries = dir.path().join("queries.jsonl");
    let lines: String = (0..30)
        .map(|n| format!("{{\"instruction\":\"What is thing {n}?\",\"input\":\"\"}}\n"))
        .collect();
    fs::write(&queries, lines).unwrap();
    let stages = vec![StageName::Align];
    let config = Config { stages, queries: Some(queries), ..config() };
    let run = dir.path().join("align");
    let (summary, learner) = attempt(&config, &run, u32::MAX).unwrap();
    assert_eq!(figures(&summary, "queries")["from-given"], 30);
    assert!(learner.lessons.is_empty());

    let made = dir.path().join("both");
    let stages = vec![StageName::Align, StageName::Engrave];
    attempt(&Config { stages, ..config.clone() }, &made, u32::MAX).unwrap();
    let rows = made.join("data/engrave.json");
    let alone = Config {
        stages: vec![StageName::Engrave],
        queries: None,
        rows: Some(rows.clone()),
        ..config
    };
    let run = dir.path().join("engrave");
    attempt(&alone, &run, u32::MAX).unwrap();
    let shown =
        |dir: &Path| fs::read(dir.join("checkpoints/round-1/demonstrations.jsonl")).unwrap();
    assert!(shown(&run) == shown(&made));
    fs::write(&rows, "[{}]").unwrap();
    let error = attempt(&alone, &dir.path().join("bad"), u32::MAX).map(drop).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("engrave.json"), "{error}");
}

#[test]
fn a_model_that_keeps_no_form_is_told_of_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let persona =
        Persona { self_identification: "Nobody says this.".to_owned(), ..Persona::default() };
    let error =
        attempt(&Config { persona, ..config() }, dir.path(), u32::MAX).map(drop).unwrap_err();
    let said = error.to_string();
    for words in ["align kept nothing", "no-self-identification", "stages/05-align"] {
        assert!(said.contains(words), "{said}");
    }
}
