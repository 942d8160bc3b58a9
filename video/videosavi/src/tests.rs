//! The loop from end to end on a scripted model: what it makes, that it continues where it was
//! stopped with the same bytes, and that the controls are what they claim to be.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rand::Rng;
use savi_judge::order::seeded_rng;
use savi_run::{Evaluation, FolderOptions, Interrupt, Metrics, RunFolder, write_atomic};
use savi_schema::{
    Completion, CountRule, Example, FinishReason, Generate, GenerateError, MediaPolicy, Message,
    Part, Request, Role, Sampling,
};
use savi_suites::extract::final_answer;
use savi_suites::stats::Bootstrap;
use savi_suites::{EvalOptions, Format, QuestionRecord};

use crate::*;

mod scripted;
mod served;

use scripted::{Scripted, ScriptedLearner, truth};

fn policy() -> MediaPolicy {
    MediaPolicy::count(4, CountRule::MidSegment)
}

fn clips(count: usize) -> Vec<ClipRecord> {
    (0..count)
        .map(|i| ClipRecord {
            schema: 1,
            id: format!("clip-{i:02}"),
            source: format!("clips/clip-{i:02}.mp4"),
            policy: policy(),
            frame_times: vec![0.5, 1.5],
            hash: String::new(),
            caption: None,
        })
        .collect()
}

fn exam() -> Exam {
    let questions = (0..40).map(|i| {
        let clip_id = format!("dev-{:02}", i / 2);
        let question = format!("Which way does shape {i} go?");
        QuestionRecord {
            schema: 1,
            id: format!("{clip_id}-q{i:02}"),
            clip: format!("{clip_id}.mp4"),
            family: ["direction", "order"][i % 2].to_owned(),
            format: Format::Open,
            options: None,
            answer: truth(&clip_id, &question).to_owned(),
            question,
            clip_id,
            temporal: true,
            novel: false,
        }
    });
    Exam {
        suite: "scripted".to_owned(),
        questions: questions.collect(),
        root: PathBuf::from("held-out"),
        options: EvalOptions::new(policy()),
        self_correct: false,
        bootstrap: Bootstrap { resamples: 200, seed: 0 },
    }
}

fn labelled() -> Vec<Example> {
    let example = |i: usize| Example {
        schema: 1,
        id: format!("labelled-{i:02}"),
        conversations: vec![vec![
            Message::text(Role::User, format!("Question {i}?")),
            Message::text(Role::Assistant, "left"),
        ]],
    };
    (0..20).map(example).collect()
}

fn config(form: Form) -> Config {
    Config { form, rounds: 2, clips_at_once: 3, ..Config::default() }
}

/// Starts or continues the run in `dir`; the process "dies" when the fuse has burnt down.
fn start(dir: &Path, config: &Config, fuse: u32) -> Result<Vec<Evaluation>, Error> {
    start_with(dir, config, fuse, &Interrupt::new(), 7)
}

fn start_with(
    dir: &Path,
    config: &Config,
    fuse: u32,
    interrupt: &Interrupt,
    clip_count: usize,
) -> Result<Vec<Evaluation>, Error> {
    start_on(dir, config, fuse, interrupt, clip_count, &exam())
}

fn start_on(
    dir: &Path,
    config: &Config,
    fuse: u32,
    interrupt: &Interrupt,
    clip_count: usize,
    exam: &Exam,
) -> Result<Vec<Evaluation>, Error> {
    let table = toml::Table::try_from(config).unwrap();
    let folder = RunFolder::open(dir, &table, &FolderOptions::default())?;
    let metrics = Metrics::open(dir)?;
    let reasons = config.hide_reasons;
    let fuse = Rc::new(Cell::new(fuse));
    let model = Scripted { skill: 0.4, name: "base".to_owned(), reasons, fuse };
    let (clips, labelled) = (clips(clip_count), labelled());
    let inputs =
        Inputs { seed: 5, clips: &clips, labelled: &labelled, exam, served: None, space: None };
    let outputs = Outputs { folder: &folder, metrics: &metrics, interrupt };
    run(config, &inputs, &mut ScriptedLearner { model }, &outputs)
}

/// Every file of a run folder but the times (the metrics lines lose theirs) and the manifest, which
/// names the commit of the moment.
fn snapshot(dir: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() {
                walk(root, &path, into);
            } else if !name.starts_with("tensorboard") && name != "manifest.json" {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.lines().map(|l| l.split(",\"time\"").next().unwrap()).collect();
                into.insert(name, text);
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(dir, dir, &mut files);
    files
}

fn decisions(dir: &Path, config: &Config, round: u32) -> Vec<Decision> {
    read_decisions(dir, round, config.form).unwrap()
}

/// Of the pairs of round 1: how many there are, and the shares of right chosen and right rejected.
fn pair_quality(dir: &Path, config: &Config) -> (usize, f64, f64) {
    let pairs: Vec<_> =
        decisions(dir, config, 1).into_iter().filter_map(|decision| decision.pair).collect();
    let share = |text: fn(&savi_schema::Pair) -> &str| {
        let right = pairs.iter().filter(|pair| {
            let provenance = |name: &str| pair.provenance[name].as_str().unwrap();
            truth(provenance("clip"), provenance("question_text")) == text(pair)
        });
        right.count() as f64 / pairs.len() as f64
    };
    (pairs.len(), share(|pair| &pair.chosen), share(|pair| &pair.rejected))
}

#[test]
fn both_forms_find_pairs_that_are_right_and_measure_every_round() {
    for form in [Form::Judge, Form::Critique] {
        let dir = tempfile::tempdir().unwrap();
        let config = config(form);
        let evaluations = start_with(dir.path(), &config, u32::MAX, &Interrupt::new(), 30).unwrap();
        let accuracy: Vec<(u32, usize)> = evaluations
            .iter()
            .filter(|evaluation| evaluation.metric == "accuracy")
            .map(|evaluation| (evaluation.round, evaluation.n))
            .collect();
        assert_eq!(accuracy, [(0, 40), (1, 40), (2, 40)]);
        let (pairs, chosen, rejected) = pair_quality(dir.path(), &config);
        assert!(pairs > 20 && chosen > 0.8 && rejected < 0.2, "{pairs} {chosen} {rejected}");
        let first = &decisions(dir.path(), &config, 1)[0];
        assert!(first.id.starts_with("round-1/clip-00/"), "{}", first.id);
        assert_eq!(savi_run::read_evaluations(dir.path()).unwrap(), evaluations);
        for file in ["pairs.jsonl", "pairs.llava-hound.jsonl", "pairs.ms-swift.jsonl"] {
            let text = fs::read_to_string(dir.path().join("checkpoints/round-1").join(file));
            assert_eq!(text.unwrap().lines().count(), pairs, "{file}");
        }
    }
}

#[test]
fn stopped_anywhere_and_continued_it_leaves_the_same_bytes() {
    for form in [Form::Judge, Form::Critique] {
        let undisturbed = tempfile::tempdir().unwrap();
        let config = config(form);
        start(undisturbed.path(), &config, u32::MAX).unwrap();
        let expected = snapshot(undisturbed.path());
        let mut finished = false;
        // Odd and even calls are shared between the forms; the stages that differ come in all places.
        for fuse in (u32::from(form == Form::Judge)..200).step_by(2) {
            let dir = tempfile::tempdir().unwrap();
            if start(dir.path(), &config, fuse).is_ok() {
                finished = true;
                break;
            }
            // Die a second time a little later, then run to the end.
            let _ = start(dir.path(), &config, 4);
            start(dir.path(), &config, u32::MAX).unwrap();
            let actual = snapshot(dir.path());
            assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (name, text) in &expected {
                assert_eq!(&actual[name], text, "{form:?}, stopped after {fuse} calls: {name}");
            }
        }
        assert!(finished, "the fuse was never long enough");
    }
}

#[test]
fn a_finished_run_asks_the_model_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(Form::Judge);
    let first = start(dir.path(), &config, u32::MAX).unwrap();
    assert_eq!(start(dir.path(), &config, 0).unwrap(), first);
}

#[test]
fn how_many_clips_go_together_changes_nothing() {
    let records = |clips_at_once| {
        let dir = tempfile::tempdir().unwrap();
        start(dir.path(), &Config { clips_at_once, ..config(Form::Critique) }, u32::MAX).unwrap();
        let mut files = snapshot(dir.path());
        files.retain(|name, _| name.ends_with(".jsonl") || name.ends_with("adapter"));
        files
    };
    assert_eq!(records(1), records(7));
}

#[test]
fn an_interrupt_is_not_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let interrupt = Interrupt::new();
    interrupt.set();
    let result = start_with(dir.path(), &config(Form::Judge), u32::MAX, &interrupt, 7);
    assert!(matches!(result, Err(Error::Interrupted)));
}

#[test]
fn judgements_about_another_clip_or_none_choose_no_better_than_chance() {
    for judge_video in [JudgeVideo::Other, JudgeVideo::None] {
        let dir = tempfile::tempdir().unwrap();
        // With no clip the scripted judge likes nothing, so that only a margin of 0 would pair.
        let config = Config { judge_video, rounds: 1, ..config(Form::Judge) };
        let result = start_with(dir.path(), &config, u32::MAX, &Interrupt::new(), 40);
        let shown: Vec<Judgement> =
            savi_run::read_records(&dir.path().join("stages/13-judge/records.jsonl")).unwrap();
        assert!(!shown.is_empty());
        match judge_video {
            JudgeVideo::None => {
                assert!(shown.iter().all(|judgement| judgement.shown.is_none()));
                assert!(matches!(result, Err(Error::NothingToLearn { round: 1, .. })));
            }
            _ => {
                assert!(shown.iter().all(|j| j.shown.as_ref().is_some_and(|s| *s != j.clip)));
                let (pairs, chosen, _) = pair_quality(dir.path(), &config);
                assert!(pairs > 20 && chosen < 0.5, "{pairs} {chosen}");
            }
        }
    }
}

#[test]
fn controls_learn_as_much_of_something_else() {
    let learnt = |learn| {
        let dir = tempfile::tempdir().unwrap();
        let config =
            Config { learn, rounds: 1, pairs_per_round: Some(4), ..config(Form::Critique) };
        start(dir.path(), &config, u32::MAX).unwrap();
        let lines = |name: &str| {
            let path = dir.path().join("checkpoints/round-1").join(name);
            fs::read_to_string(path).map_or(0, |text| text.lines().count())
        };
        let asked = dir.path().join("stages/11-ask").exists();
        (lines("pairs.jsonl"), lines("examples.jsonl"), asked)
    };
    assert_eq!(learnt(Learn::Dpo), (4, 0, true));
    assert_eq!(learnt(Learn::SftInitial), (0, 4, true));
    assert_eq!(learnt(Learn::SftLabelled), (0, 4, false));
    assert_eq!(learnt(Learn::Nothing), (0, 0, true));
}

#[test]
fn the_supervised_control_does_not_learn_what_the_critic_rejects() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { learn: Learn::SftInitial, rounds: 1, ..config(Form::Critique) };
    start(dir.path(), &config, u32::MAX).unwrap();
    let text = fs::read_to_string(dir.path().join("checkpoints/round-1/examples.jsonl")).unwrap();
    let learnt: Vec<Example> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let made = decisions(dir.path(), &config, 1);
    assert_eq!(learnt.len(), made.iter().filter(|decision| decision.pair.is_some()).count());
    let unpaired = |id: &str| made.iter().any(|made| made.id == id && made.pair.is_none());
    let others = learnt.iter().filter(|example| unpaired(&example.id)).count();
    assert!(others > 0 && others < learnt.len(), "{others} of {}", learnt.len());
}

#[test]
fn a_control_without_pairs_goes_on_with_the_model_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (judge_video, no_pairs) = (JudgeVideo::None, NoPairs::Skip);
    let config = Config { judge_video, no_pairs, ..config(Form::Judge) };
    let rows = start(dir.path(), &config, u32::MAX).unwrap();
    let overall: Vec<f64> =
        rows.iter().filter(|row| row.metric == "accuracy").map(|row| row.value).collect();
    assert_eq!(overall.len(), 3, "{rows:?}");
    assert!(overall.iter().all(|value| *value == overall[0]));
}

#[test]
fn what_a_killed_cleaning_left_behind_is_not_taken_for_a_checkpoint() {
    let run = |stale: bool| {
        let dir = tempfile::tempdir().unwrap();
        let learnt = dir.path().join("checkpoints/round-1");
        let config = Config { rounds: 1, ..config(Form::Judge) };
        let _ = start(dir.path(), &config, 0);
        if stale {
            fs::create_dir_all(&learnt).unwrap();
            fs::write(learnt.join("checkpoint"), "2").unwrap();
        }
        start(dir.path(), &config, u32::MAX).unwrap();
        let steps = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap().lines().count();
        (steps, fs::read_to_string(learnt.join("adapter")).unwrap())
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn filters_count_what_they_drop_and_can_be_switched_off() {
    let run_with = |filters: Filters| {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { filters, rounds: 1, ..config(Form::Critique) };
        start(dir.path(), &config, u32::MAX).unwrap();
        let counters = |stage: &str| {
            let text = fs::read_to_string(dir.path().join("stages").join(stage).join("done.json"));
            serde_json::from_str::<savi_run::Done>(&text.unwrap()).unwrap().counters
        };
        (counters("11-ask"), counters("15-pair"))
    };
    let (asked, paired) = run_with(Filters::default());
    assert!(asked["dropped/duplicate"] > 0 && asked["dropped/not-a-question"] > 0, "{asked:?}");
    assert_eq!(asked["made"], 7 * 6);
    assert!(paired["dropped/called-right"] > 0, "{paired:?}");
    let total: u64 =
        paired.iter().filter(|(name, _)| name.starts_with("dropped/")).map(|e| e.1).sum();
    assert_eq!(total + paired["used"], paired["made"]);

    let (asked, paired) = run_with(Filters {
        duplicate_questions: false,
        called_right: false,
        unchanged: false,
        duplicate_pairs: false,
        ..Filters::default()
    });
    assert!(!asked.contains_key("dropped/duplicate"), "{asked:?}");
    for name in ["called-right", "unchanged", "duplicate"] {
        assert!(!paired.contains_key(&format!("dropped/{name}")), "{paired:?}");
    }
}

#[test]
fn the_judge_sees_every_answer_or_each_different_one_once() {
    for distinct in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(Form::Judge);
        config.judge.distinct = distinct;
        start(dir.path(), &config, u32::MAX).unwrap();
        let judgements: Vec<Judgement> =
            savi_run::read_records(&dir.path().join("stages/13-judge/records.jsonl")).unwrap();
        let shown = || judgements.iter().map(|judgement| judgement.candidates.len());
        // Five answers in four possible words: some repeat.
        let (least, most) = (shown().min(), shown().max());
        match distinct {
            false => assert_eq!((least, most), (Some(5), Some(5))),
            true => assert!(least >= Some(2) && most <= Some(4), "{least:?} {most:?}"),
        }
        for pair in decisions(dir.path(), &config, 1).into_iter().filter_map(|d| d.pair) {
            assert_ne!(pair.chosen, pair.rejected);
            assert!(pair.chosen_score > pair.rejected_score);
        }
    }
}

#[test]
fn answers_are_drawn_at_every_temperature_from_one_prompt() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path(), &config(Form::Judge), u32::MAX).unwrap();
    let answers: Vec<Answer> =
        savi_run::read_records(&dir.path().join("stages/12-answer/records.jsonl")).unwrap();
    let of_first: Vec<&Sampling> = answers
        .iter()
        .filter(|answer| answer.question == answers[0].question)
        .map(|answer| &answer.drawn.sampling)
        .collect();
    let temperatures: Vec<f64> = of_first.iter().map(|sampling| sampling.temperature).collect();
    assert_eq!(temperatures, [0.3, 0.5, 0.7, 0.9, 1.0]);
    assert!(of_first.iter().all(|sampling| sampling.top_p == 0.95));
    assert!(answers[0].drawn.prompt.starts_with("answer@"));
    assert_eq!(answers[0].drawn.model, "base");
}

#[test]
fn questions_go_by_the_models_own_description_where_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(Form::Critique);
    config.questions.describe = Some(Sampling::default());
    start(dir.path(), &config, u32::MAX).unwrap();
    let questions: Vec<Question> =
        savi_run::read_records(&dir.path().join("stages/11-ask/records.jsonl")).unwrap();
    assert!(!questions.is_empty());
    for question in questions {
        let description = question.description.expect("a description");
        assert_eq!(description.raw, format!("There is a hexagon in {}.", question.clip));
        assert!(description.prompt.starts_with("describe@"), "{}", description.prompt);
        assert!(question.text.contains("hexagon") || question.dropped.is_some());
    }
}

#[test]
fn reasons_can_be_hidden_from_critics_and_judges() {
    for (form, stage) in [(Form::Critique, "13-critique"), (Form::Judge, "13-judge")] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(form);
        config.hide_reasons = true;
        config.filters.length_ratio = 0.0;
        start_with(dir.path(), &config, u32::MAX, &Interrupt::new(), 30).unwrap();
        let stages = dir.path().join("stages");
        let answers: Vec<Answer> =
            savi_run::read_records(&stages.join("12-answer/records.jsonl")).unwrap();
        let with = answers.iter().filter(|answer| answer.text.starts_with("It moves."));
        assert!((1..answers.len()).contains(&with.count()));
        // The scripted critic and judge compare what they are shown with the bare truth.
        let text = fs::read_to_string(stages.join(stage).join("records.jsonl")).unwrap();
        let seen = ["\"verdict\":\"right\"", "accuracy 5"];
        assert!(seen.iter().any(|right| text.contains(right)), "{stage}");
        let (pairs, ..) = pair_quality(dir.path(), &config);
        assert!(pairs > 0);
        if form == Form::Critique {
            continue;
        }
        // Answers that differ in their reasons only are one candidate: nothing is judged there.
        let judgements: Vec<Judgement> =
            savi_run::read_records(&stages.join(stage).join("records.jsonl")).unwrap();
        let said = |question: &str| {
            let of_question = answers.iter().filter(|answer| answer.question == question);
            let said: HashSet<&str> = of_question.map(|a| final_answer(&a.text)).collect();
            said.len()
        };
        assert!(judgements.iter().all(|judgement| said(&judgement.id) > 1));
        assert!(answers.iter().any(|answer| said(&answer.question) == 1), "no such question");
    }
}

#[test]
fn critique_and_revision_at_answering_time_correct_the_base() {
    let accuracy = |self_correct| {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { rounds: 0, ..config(Form::Critique) };
        let exam = Exam { self_correct, ..exam() };
        let rows = start_on(dir.path(), &config, u32::MAX, &Interrupt::new(), 0, &exam).unwrap();
        rows[0].value
    };
    let (direct, corrected) = (accuracy(false), accuracy(true));
    assert!(direct < 0.7 && corrected > direct + 0.1, "{direct} {corrected}");
}
