//! The loop from end to end on a scripted model: what it makes, that it continues where it was stopped with the same
//! bytes and draws nothing twice, and that the modes are what they claim to be.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::rc::Rc;

use savi_run::{FolderOptions, Interrupt, Metrics, RunFolder, read_records};
use savi_schema::{Message, Pair, PromptRecord, Role};
use serde_json::{Value, json};

use crate::*;

mod scripted;

use scripted::{Scripted, ScriptedLearner, truth};

const START: f64 = 0.4;

fn prompts(name: &str, count: u64) -> Vec<PromptRecord> {
    let record = |at: u64| {
        let (a, b) = (10 + at, 3 + name.len() as u64);
        let words = format!("What is {a} + {b}?");
        PromptRecord {
            id: format!("{name}-{at:02}"),
            prompt: vec![Message::text(Role::User, &words)],
            columns: [
                ("answer".to_owned(), json!(a + b)),
                ("kind".to_owned(), json!(["odd", "even"][(at % 2) as usize])),
            ]
            .into_iter()
            .collect(),
        }
    };
    (0..count).map(record).collect()
}

fn config(more: Value) -> Config {
    let mut keys = json!({
        "iterations": 2, "prompts_at_once": 4,
        "evaluation": {"correct": {"func": "number_match"}, "part_column": "kind", "resamples": 100},
    });
    for (key, value) in more.as_object().unwrap() {
        match (keys[key].as_object_mut(), value.as_object()) {
            (Some(own), Some(more)) => own.extend(more.clone()),
            _ => keys[key] = value.clone(),
        }
    }
    serde_json::from_value(keys).unwrap()
}

/// A run in `dir` on prompts of its own, and the ids of the requests that its model has answered.
struct Start<'a> {
    dir: &'a Path,
    config: &'a Config,
    fuse: u32,
    answered: Rc<RefCell<Vec<String>>>,
    pairs: Vec<Pair>,
}

impl<'a> Start<'a> {
    fn new(dir: &'a Path, config: &'a Config) -> Self {
        let (answered, pairs) = (Rc::default(), Vec::new());
        Self { dir, config, fuse: u32::MAX, answered, pairs }
    }

    fn run(&self) -> Result<Outcome, Error> {
        let table = toml::Table::try_from(self.config).unwrap();
        let folder = RunFolder::open(self.dir, &table, &FolderOptions::default())?;
        let metrics = Metrics::open(self.dir)?;
        let (learnt, held_out) = (prompts("learn", 24), prompts("held", 20));
        let answer = |record: &PromptRecord| {
            let right = truth(&record.prompt[0].words()).unwrap();
            (record.id.clone(), format!("It is {right}."))
        };
        // The teacher says nothing to the first prompt.
        let answers: HashMap<String, String> =
            learnt.iter().skip(1).chain(&held_out).map(answer).collect();
        let exam = Exam { suite: "sums".to_owned(), prompts: held_out };
        let fuse = Rc::new(Cell::new(self.fuse));
        let name = "base".to_owned();
        let model = Scripted { skill: START, name, fuse, answered: self.answered.clone() };
        let inputs = Inputs {
            seed: 5,
            prompts: &learnt,
            pairs: &self.pairs,
            exam: &exam,
            teacher: Teacher::Answers(&answers),
            annotator: None,
        };
        let interrupt = Interrupt::new();
        let outputs = Outputs { folder: &folder, metrics: &metrics, interrupt: &interrupt };
        run(self.config, &inputs, &mut ScriptedLearner { model, start: START }, &outputs)
    }
}

/// Runs undisturbed; gives what was found and the folder.
fn whole(more: Value) -> (Outcome, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let outcome = Start::new(dir.path(), &config(more)).run().unwrap();
    (outcome, dir)
}

fn records<T: serde::de::DeserializeOwned>(dir: &Path, stage: &str) -> Vec<T> {
    read_records(&dir.join("stages").join(stage).join("records.jsonl")).unwrap()
}

fn pairs(dir: &Path, round: u32) -> Vec<Pair> {
    read_records(&dir.join(format!("checkpoints/round-{round}/pairs.jsonl"))).unwrap()
}

/// Every file of a run folder but the manifest and the times of metrics.
fn snapshot(dir: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() {
                walk(root, &path, into);
            } else if !name.starts_with("tensorboard") && name != "manifest.json" {
                into.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(dir, dir, &mut files);
    files
}

fn accuracy(outcome: &Outcome) -> Vec<f64> {
    let rows = outcome.evaluations.iter().filter(|row| row.metric == "accuracy");
    rows.map(|row| row.value).collect()
}

#[test]
fn iterations_work_on_prompts_of_their_own_and_learn_from_both_writers() {
    let (outcome, dir) = whole(json!({}));
    let dir = dir.path();
    let allotted: Vec<Allotted> = records(dir, "00-prompts");
    for iteration in [1, 2] {
        assert_eq!(allotted.iter().filter(|one| one.iteration == iteration).count(), 12);
    }
    let candidates: Vec<Candidate> = records(dir, "12-sample");
    assert_eq!(candidates.len(), 60);
    let samples: HashSet<&str> = candidates.iter().map(|one| one.prompt.as_str()).collect();
    let later: Vec<Candidate> = records(dir, "22-sample");
    assert!(later.iter().all(|one| !samples.contains(one.prompt.as_str())));

    let dynamics = &outcome.dynamics[0];
    assert_eq!((dynamics.inputs, outcome.dynamics.len()), (12, 2));
    assert_eq!(dynamics.teacher_score, Some(6.0));
    assert!(dynamics.pairs[&PairKind::TeacherOverStudent] > 0);
    assert!(dynamics.pairs[&PairKind::StudentOverStudent] > 0);
    // Nobody is above a teacher who is right.
    assert_eq!(dynamics.pairs[&PairKind::StudentOverTeacher], 0);
    assert!(outcome.dynamics[1].student_score > dynamics.student_score);

    for round in [1, 2] {
        for pair in pairs(dir, round) {
            let right = format!("It is {}.", truth(&pair.prompt[0].words()).unwrap());
            assert_eq!(pair.chosen, right);
            assert!(pair.chosen_score.unwrap() >= 5.0 && pair.rejected != right);
        }
    }
    // Of the first iteration's pairs 30 % are learnt again.
    let first: HashSet<String> = pairs(dir, 1).into_iter().map(|pair| pair.id).collect();
    let again = pairs(dir, 2).iter().filter(|pair| first.contains(&pair.id)).count();
    assert_eq!(again, first.len() * 3 / 10);

    let figures = accuracy(&outcome);
    assert!(figures.len() == 3 && figures[2] > figures[0], "{figures:?}");
    let wins: Vec<(u32, usize)> = outcome
        .evaluations
        .iter()
        .filter(|row| row.metric == "win_rate")
        .map(|row| (row.round, row.by.len()))
        .collect();
    assert_eq!(wins, [(1, 2), (2, 2)]);
    let best = outcome.best.unwrap();
    assert_eq!((best.metric.as_str(), best.adapters.len()), ("accuracy", best.iteration as usize));
    let kept: Best =
        serde_json::from_str(&fs::read_to_string(dir.join("best.json")).unwrap()).unwrap();
    assert_eq!(kept, best);
}

#[test]
fn what_cannot_be_read_is_asked_for_again_and_counted() {
    let (_, dir) = whole(json!({"annotator": {"retries": 0}}));
    let annotations: Vec<Annotation> = records(dir.path(), "13-annotate");
    let unread = annotations.iter().filter(|one| one.scores.is_none()).count();
    let decisions: Vec<Decision> = records(dir.path(), "14-pairs");
    let dropped = decisions.iter().filter(|one| one.dropped == Some(Dropped::Unannotated)).count();
    assert!(unread > 0 && unread == dropped);
    let done = fs::read_to_string(dir.path().join("stages/13-annotate/done.json")).unwrap();
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["counters"]["readings/unread"], unread);
    assert_eq!(done["counters"]["dropped/unannotated"], unread);

    let (_, dir) = whole(json!({"annotator": {"retries": 6}}));
    let annotations: Vec<Annotation> = records(dir.path(), "13-annotate");
    assert!(annotations.iter().all(|one| one.scores.is_some()));
    let retried = annotations.iter().filter(|one| one.readings.len() > 1).collect::<Vec<_>>();
    assert!(!retried.is_empty());
    let mended = annotations.iter().flat_map(|one| &one.readings).flat_map(Reading::repairs);
    assert!(mended.count() > 0);
    // What runs in circles was not shown, and has no points.
    let samples: Vec<Candidate> = records(dir.path(), "12-sample");
    let circles: HashSet<&str> =
        samples.iter().filter(|one| one.degenerate).map(|one| one.id.as_str()).collect();
    assert!(!circles.is_empty());
    for annotation in &annotations {
        for (id, score) in annotation.candidates.iter().zip(annotation.scores.iter().flatten()) {
            assert!(!circles.contains(id.as_str()) || *score == 0.0);
        }
    }
}

/// Killed after a few calls again and again and continued, a run ends with the same bytes, and no sample is drawn twice.
#[test]
fn killed_anywhere_it_ends_with_the_same_bytes() {
    for more in [
        json!({}),
        json!({"mode": "lookahead", "annotator": {"kind": "pairwise"},
        "pairs": {"positive": 4.0, "student_margin": 0.5}}),
    ] {
        let (_, undisturbed) = whole(more.clone());
        let expected = snapshot(undisturbed.path());
        let dir = tempfile::tempdir().unwrap();
        let config = config(more);
        let mut start = Start::new(dir.path(), &config);
        let mut kills = 0;
        for fuse in (1..).cycle() {
            // A start takes up what was learnt, at a call a round, before it goes on.
            start.fuse = 4 + fuse % 5;
            match start.run() {
                Ok(_) => break,
                Err(error) => {
                    assert!(format!("{error:?}").contains("killed"), "{error:?}");
                    kills += 1;
                }
            }
            assert!(kills < 100, "it does not get on");
        }
        assert!(kills > 5, "{kills}");
        assert_eq!(snapshot(dir.path()), expected);
        let answered = start.answered.borrow();
        let samples: Vec<&String> = answered
            .iter()
            .filter(|id| id.contains("/sample/") || id.contains("/reply/"))
            .collect();
        let different: HashSet<&&String> = samples.iter().collect();
        assert_eq!(samples.len(), different.len(), "something was drawn twice");
        // A finished run asks nothing.
        let before = answered.len();
        drop(answered);
        start.fuse = 4;
        start.run().unwrap();
        assert_eq!(start.answered.borrow().len(), before);
    }
}

#[test]
fn modes_are_what_they_claim_to_be() {
    let (_, dir) = whole(json!({"mode": "restrictive"}));
    let kinds: HashSet<Value> =
        pairs(dir.path(), 1).into_iter().map(|mut pair| pair.provenance["kind"].take()).collect();
    assert_eq!(kinds, HashSet::from([json!("teacher-over-student")]));

    // Without an annotator right samples are rejected too, unless they say what the teacher says.
    let (outcome, dir) = whole(json!({"mode": "spin", "pairs": {"distinct": false}}));
    assert!(!dir.path().join("stages/13-annotate").exists());
    assert!(outcome.dynamics[0].teacher_score.is_none());
    assert!(pairs(dir.path(), 1).iter().all(|pair| pair.chosen_score.is_none()));

    let (outcome, dir) = whole(json!({"mode": "lookahead"}));
    let pool = pairs(dir.path(), 3);
    let new: HashSet<String> =
        [1, 2].iter().flat_map(|&round| pairs(dir.path(), round)).map(|pair| pair.id).collect();
    assert_eq!(pool.into_iter().map(|pair| pair.id).collect::<HashSet<_>>(), new);
    assert_eq!(accuracy(&outcome).len(), 4);

    let (_, dir) = whole(json!({"mode": "sft-on-positives"}));
    let examples =
        fs::read_to_string(dir.path().join("checkpoints/round-1/examples.jsonl")).unwrap();
    assert!(examples.lines().count() > 4);

    let config = config(json!({"mode": "offline", "iterations": 1}));
    let dir = tempfile::tempdir().unwrap();
    let mut start = Start::new(dir.path(), &config);
    assert!(start.run().unwrap_err().to_string().contains("needs pairs"));
    start.pairs = vec![Pair {
        schema: 1,
        id: "p".to_owned(),
        prompt: vec![Message::text(Role::User, "What is 1 + 1?")],
        chosen: "It is 2.".to_owned(),
        rejected: "It is 3.".to_owned(),
        chosen_score: None,
        rejected_score: None,
        margin: 0.0,
        provenance: serde_json::Map::default(),
    }];
    let outcome = start.run().unwrap();
    assert_eq!((pairs(dir.path(), 1), accuracy(&outcome).len()), (start.pairs.clone(), 2));
}

#[test]
fn win_rates_are_targets_of_all_pairs() {
    let more = json!({
        "targets": "win-rates", "pairs": {"rule": "all"},
        "annotator": {"kind": "programmatic", "rewards": [{"func": "number_match"}]},
    });
    let (_, dir) = whole(more);
    let made = pairs(dir.path(), 1);
    assert!(made.len() > 12);
    for pair in made {
        let (chosen, rejected) = (pair.chosen_score.unwrap(), pair.rejected_score.unwrap());
        assert!((0.0..=1.0).contains(&chosen) && rejected >= 0.0 && chosen >= rejected);
    }
    let annotations: Vec<Annotation> = records(dir.path(), "13-annotate");
    assert!(annotations.iter().all(|one| one.readings.is_empty()));
}

#[test]
fn an_iteration_without_pairs_stops_or_passes() {
    let dir = tempfile::tempdir().unwrap();
    let never = json!({"pairs": {"positive": 7.0}});
    let error = Start::new(dir.path(), &config(never.clone())).run().unwrap_err().to_string();
    assert!(error.contains("no-positive") && error.contains("iteration 1"), "{error}");
    let mut passes = never;
    passes["no_pairs"] = json!("skip");
    let (outcome, _) = whole(passes);
    let figures = accuracy(&outcome);
    assert_eq!(figures.len(), 3);
    assert_eq!(outcome.best.unwrap().adapters, Vec::<String>::new());
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_key() {
    for (more, words) in [
        (json!({"prompts_per_iteration": 13}), "2 iterations of 13"),
        (
            json!({"annotator": {"kind": "programmatic", "rewards": [{"func": "exact_match", "column": "x"}]}}),
            "column x",
        ),
        (json!({"evaluation": {"correct": {"func": "exact_match", "column": "y"}}}), "column y"),
        (json!({"iterations": 0}), "iterations"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = Start::new(dir.path(), &config(more)).run().unwrap_err();
        assert!(matches!(&error, Error::Inputs(told) if told.contains(words)), "{error}");
    }
}
