//! The world against itself: truth, questions, lessons, floors, files.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use savi_judge::{critique, listwise};
use savi_run::Interrupt;
use savi_schema::{CountRule, MediaPolicy};
use savi_worlds::WorldError;
use savi_worlds::moving_shapes::{
    self, CELLS, DatasetConfig, Family, Lesson, LessonPlan, OPENED_LOG, Qa, QuestionKind, Scene,
    Split, UNCRITICISED, cell_answers, cell_labels, conclusion, floors, is_correct, lessons,
    open_audit, open_split, oracle, questions, sample_frames, sample_times, scene,
};

fn asked(scene: &Scene) -> Vec<Qa> {
    questions(scene, &mut ChaCha8Rng::seed_from_u64(scene.index))
}

fn taught(scene: &Scene) -> Vec<Lesson> {
    let plan = LessonPlan { tracks: 2, ..LessonPlan::default() };
    lessons(scene, &mut ChaCha8Rng::seed_from_u64(scene.index), &plan)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_oracle_knows_every_question(seed in any::<u64>(), index in any::<u64>()) {
        let scene = scene(Split::Test, seed, index);
        for qa in asked(&scene) {
            // Whatever the case, the blanks and the marks.
            let shouted = qa.question.to_uppercase().replace('?', " !").replace(' ', "  ");
            for text in [&qa.question, &shouted] {
                let truth = oracle(&scene, text).expect("a question of ours");
                prop_assert_eq!(&truth.answer, &qa.answer, "{}", text);
                prop_assert_eq!((truth.family, truth.novel), (qa.family, qa.novel));
            }
            prop_assert!(is_correct(&qa, &qa.target()), "{:?}", qa);
            if let Some(options) = &qa.options {
                let right = options.iter().filter(|option| **option == qa.answer).count();
                let distinct: HashSet<_> = options.iter().collect();
                prop_assert!(right == 1 && distinct.len() == options.len() && options.len() > 1);
                for (i, option) in options.iter().enumerate().filter(|(_, o)| **o != qa.answer) {
                    let letter = char::from(b'A' + i as u8);
                    let wrong = format!("{letter}. {option}");
                    prop_assert!(!is_correct(&qa, &wrong), "{}", wrong);
                }
            }
        }
    }

    #[test]
    fn scenes_survive_json(seed in any::<u64>(), index in 0u64..1000) {
        let scene = scene(Split::Dev, seed, index);
        let text = serde_json::to_string(&scene).unwrap();
        prop_assert_eq!(serde_json::from_str::<Scene>(&text).unwrap(), scene);
    }

    #[test]
    fn any_text_is_answered_or_not(text in "\\PC{0,60}") {
        prop_assert!(oracle(&scene(Split::Dev, 0, 0), &text).is_none());
    }
}

#[test]
fn cells_tell_what_the_scene_holds() {
    let policy = MediaPolicy::count(8, CountRule::MidSegment);
    for index in 0..100 {
        let scene = scene(Split::Train, 4, index);
        let seconds = sample_times(&scene, &policy)[index as usize % 8];
        let labels = cell_labels(&scene, seconds);
        let answers = cell_answers();
        assert_eq!(labels.len(), answers.len());
        for ((name, words), cells) in answers.iter().zip(&labels) {
            assert_eq!(cells.len(), CELLS * CELLS, "{name}");
            assert!(cells.iter().all(|(label, _)| (*label as usize) < words.len()), "{name}");
        }
        // Whoever stands in a cell, nearer to its centre than others, gives it its colour and shape.
        let time = seconds / scene.duration();
        let there: Vec<_> =
            scene.objects.iter().filter_map(|o| Some((o, o.state(time)?))).collect();
        let cell = |v: f64| ((v * CELLS as f64) as usize).min(CELLS - 1);
        for (object, state) in &there {
            let at = cell(state.y) * CELLS + cell(state.x);
            let alone = there.iter().all(|(other, s)| {
                other.shape == object.shape && s.colour == state.colour
                    || (s.x - state.x).abs().max((s.y - state.y).abs()) > 0.4
            });
            if alone {
                assert_eq!(labels[0][at], (state.colour as u32 + 1, 1.0));
                assert_eq!(labels[1][at], (object.shape as u32 + 1, 1.0));
                assert_eq!(labels[5][at].0, u32::from(state.flashing));
            }
        }
        let empty = labels[0].iter().filter(|(label, _)| *label == 0).count();
        assert!(empty >= CELLS * CELLS - there.len() * 4, "an object reaches four cells at most");
    }
}

#[test]
fn the_oracle_refuses_what_the_scene_does_not_hold() {
    let mut refused = 0;
    for index in 0..200 {
        let scene = scene(Split::Train, 3, index);
        for colour in moving_shapes::Colour::ALL {
            if !scene.objects.iter().any(|object| object.ever(*colour)) {
                assert!(oracle(&scene, &format!("What shape is the {colour} object?")).is_none());
                refused += 1;
            }
        }
        for object in scene.objects.iter().filter(|object| object.track.direction().is_none()) {
            let name = format!("{} {}", object.colour, object.shape);
            assert!(oracle(&scene, &format!("Why does the {name} start to move?")).is_none());
            assert!(oracle(&scene, &format!("How does the {name} move?")).is_none());
        }
    }
    assert!(refused > 200);
    for text in ["", "What?", "What shape is the red object", "Where is the red circle?"] {
        let answered = oracle(&scene(Split::Train, 3, 0), text);
        assert!(answered.is_none_or(|qa| qa.family == Family::Shape), "{text}");
    }
}

#[test]
fn splits_differ_and_only_dev_and_test_hold_novel_combinations() {
    let mut seen = HashMap::new();
    let mut novel: BTreeMap<Split, usize> = BTreeMap::new();
    for split in Split::ALL {
        for index in 0..400 {
            let scene = scene(split, 1, index);
            let look = serde_json::to_string(&(&scene.objects, &scene.background)).unwrap();
            assert_eq!(seen.insert(look, scene.id.clone()), None, "{}", scene.id);
            *novel.entry(split).or_default() +=
                usize::from(scene.objects.iter().any(|object| object.is_novel()));
            // What is drawn stays inside the picture, and every event is one of its objects'.
            for object in &scene.objects {
                for step in 0..=40 {
                    if let Some(state) = object.state(f64::from(step) / 40.0) {
                        let inside = |v: f64| (0.13..=0.87).contains(&v);
                        assert!(inside(state.x) && inside(state.y), "{}", scene.id);
                    }
                }
            }
            assert!(scene.events.iter().all(|e| e.object < scene.objects.len()));
        }
    }
    assert_eq!((novel[&Split::Train], novel[&Split::Unlabelled]), (0, 0));
    assert!(novel[&Split::Dev] > 100 && novel[&Split::Test] > 100, "{novel:?}");
}

#[test]
fn every_clip_can_be_asked_in_every_way() {
    for index in 0..300 {
        let kinds: HashSet<QuestionKind> = taught(&scene(Split::Train, 2, index))
            .into_iter()
            .filter_map(|lesson| match lesson {
                Lesson::Ask { kind, target, .. } => {
                    let scene = scene(Split::Train, 2, index);
                    assert!(oracle(&scene, &target).is_some(), "{target}");
                    Some(kind)
                }
                _ => None,
            })
            .collect();
        for kind in [QuestionKind::What, QuestionKind::Why, QuestionKind::Spatial] {
            assert!(kinds.contains(&kind), "{index}: {kind:?}");
        }
        assert!(kinds.contains(&QuestionKind::Temporal), "{index}");
    }
}

#[test]
fn lessons_keep_to_their_formats_and_shares() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut verdicts: HashMap<Family, (usize, usize)> = HashMap::new();
    let mut words = 0;
    const CLIPS: u64 = 600;
    for index in 0..CLIPS {
        let scene = scene(Split::Train, 4, index);
        for lesson in taught(&scene) {
            words += format!("{lesson:?}").split_whitespace().count();
            match lesson {
                Lesson::Answer { qa, target } => {
                    let spared = UNCRITICISED.contains(&qa.family);
                    *counts.entry(if spared { "spared" } else { "answer" }).or_default() += 1;
                    assert!(is_correct(&qa, &qa.target()) && is_correct(&qa, &target), "{target}");
                }
                Lesson::Critique { qa, answer, target } => {
                    *counts.entry("critique").or_default() += 1;
                    assert!(!UNCRITICISED.contains(&qa.family) && qa.options.is_none());
                    let parsed = critique::parse(&target).expect("our own format");
                    let right = parsed.verdict == critique::Verdict::Right;
                    let so = conclusion(&parsed.evidence).expect("a conclusion");
                    assert!(is_correct(&qa, so), "{target}");
                    assert_eq!(right, is_correct(&qa, &answer), "{target}");
                    let (rights, all) = verdicts.entry(qa.family).or_default();
                    (*rights, *all) = (*rights + usize::from(right), *all + 1);
                    assert!(target.split_whitespace().count() <= 110, "{target}");
                }
                Lesson::Revise { qa, critique, target, .. } => {
                    *counts.entry("revision").or_default() += 1;
                    assert!(!UNCRITICISED.contains(&qa.family));
                    assert!(critique::parse(&critique).is_ok() && is_correct(&qa, &target));
                }
                Lesson::Judge { qa, candidates, target } => {
                    assert!(!UNCRITICISED.contains(&qa.family));
                    let parsed = listwise::parse(&target, candidates.len()).expect("our format");
                    for (candidate, scores) in candidates.iter().zip(parsed.scores) {
                        assert_eq!(scores.accuracy == 5, is_correct(&qa, candidate), "{target}");
                    }
                }
                Lesson::Describe { target } => {
                    assert!(target.split_whitespace().count() <= 120, "{target}");
                }
                Lesson::Track { answer, .. } => {
                    let track = answer.split(". ").next().unwrap_or_default();
                    assert_eq!(track.split(", ").count(), 8, "{answer}");
                }
                Lesson::Ask { target, .. } => {
                    let asked = oracle(&scene, &target).expect("a question of ours");
                    assert!(!UNCRITICISED.contains(&asked.family), "{target}");
                }
                Lesson::Locate { .. } => {}
            }
        }
    }
    assert_eq!(counts["answer"], counts["critique"]);
    assert_eq!(counts["answer"], counts["revision"]);
    for (family, (rights, all)) in verdicts {
        let share = rights as f64 / all as f64;
        // Four standard errors of a fair coin.
        assert!((share - 0.5).abs() < 2.0 / (all as f64).sqrt(), "{family:?}: {share}");
    }
    assert!(words / (CLIPS as usize) < 2000, "{words} words in {CLIPS} clips");
}

#[test]
fn no_family_is_answered_blindly() {
    let floors = floors::measure(Split::Dev, 0, floors::SCENES);
    assert_eq!(floors.len(), Family::ALL.len());
    for floor in floors {
        let family = floor.family;
        assert!(floor.is_sound(), "{floor:?}");
        // No family's questions give the answer away, and eight frames hold it.
        assert!(floor.question_only <= floor.chance + floors::MARGIN, "{floor:?}");
        assert!(floor.in_order > 0.98, "{floor:?}");
        if family.is_temporal() && family != Family::Speed {
            assert!(floor.reversed < 0.6 && floor.shuffled < 0.7, "{floor:?}");
        }
    }
}

#[test]
fn a_leaking_family_is_rejected() {
    let mut floor = floors::measure(Split::Dev, 0, 300).remove(Family::Direction as usize);
    floor.one_frame = floor.chance + floors::MARGIN + 0.01;
    assert!(!floor.is_sound());
}

#[test]
fn frames_come_at_the_size_and_number_of_the_policy() {
    let scene = scene(Split::Train, 1, 0);
    let policy = MediaPolicy::count(8, CountRule::MidSegment).with_size(64, 64);
    let frames = sample_frames(&scene, &policy);
    assert_eq!(frames.len(), 8);
    assert!(frames.iter().all(|frame| (frame.width, frame.height) == (64, 64)));
    assert_eq!(frames, sample_frames(&scene, &policy));
    let times = sample_times(&scene, &policy);
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]) && times[7] < scene.duration());
}

#[cfg(feature = "video")]
#[test]
fn rendered_frames_are_those_of_the_file() {
    use savi_schema::{FrameSampling, RgbImage};
    use savi_video_ingest::{IngestOptions, read_clip};

    let folder = tempfile::tempdir().unwrap();
    let difference = |a: &RgbImage, b: &RgbImage| {
        let pairs = a.data.iter().zip(b.data.iter());
        let sum: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        sum / a.data.len() as f64
    };
    let policies = [
        MediaPolicy::count(8, CountRule::MidSegment).with_size(64, 64),
        MediaPolicy::count(7, CountRule::Linspace),
        MediaPolicy::count(5, CountRule::Endpoint),
        MediaPolicy::new(FrameSampling::Fps {
            fps: 3.0,
            min_frames: 4,
            max_frames: 16,
            multiple_of: 2,
            rule: CountRule::SegmentStart,
        }),
    ];
    for index in 0..8 {
        let scene = scene(Split::Dev, 6, index);
        let path = folder.path().join(format!("{}.mp4", scene.id));
        moving_shapes::write_clip(&scene, &path).unwrap();
        for policy in &policies {
            let clip =
                read_clip(path.to_str().unwrap(), policy, &IngestOptions::default()).unwrap();
            let rendered = sample_frames(&scene, policy);
            assert_eq!(clip.frames.len(), rendered.len());
            for (decoded, (ours, time)) in
                clip.frames.iter().zip(rendered.iter().zip(sample_times(&scene, policy)))
            {
                assert!((decoded.time - time).abs() < 1e-3, "{} and {time}", decoded.time);
                // Levels of 255; x264 at this quality, and halved colour planes.
                let loss = difference(&decoded.image, ours);
                assert!(loss < 6.0, "{}: {loss}", scene.id);
            }
        }
    }
}

#[cfg(feature = "video")]
#[test]
fn a_data_set_is_made_once_and_the_test_split_is_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let clips: BTreeMap<Split, u64> = Split::ALL.into_iter().zip([2, 2, 1, 2]).collect();
    let make = |dir: &std::path::Path, seed: u64, fresh: bool| {
        let config = DatasetConfig::new(seed, clips.clone());
        moving_shapes::make(&config, dir, fresh, &Interrupt::new(), &|_| ())
    };
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let manifest = make(&one, 1, false).unwrap();
    assert_eq!(manifest.splits.len(), 4);
    assert!(!one.join("making.json").exists());
    make(&other, 1, false).unwrap();
    for file in [
        "manifest.json",
        "train/scenes.jsonl",
        "dev/questions.jsonl",
        "audit/unlabelled-scenes.jsonl",
        "train/clips/train-00000.mp4",
    ] {
        let read = |dir: &std::path::Path| std::fs::read(dir.join(file)).unwrap();
        assert_eq!(read(&one), read(&other), "{file}");
    }
    assert!(!one.join("unlabelled/questions.jsonl").exists());

    // Stopped and started again, it goes on; another configuration is refused unless fresh.
    let clip = one.join("dev/clips/dev-00000.mp4");
    let before = std::fs::read(&clip).unwrap();
    std::fs::rename(one.join("manifest.json"), folder.path().join("away")).unwrap();
    std::fs::write(one.join("making.json"), serde_json::to_vec(&manifest.config).unwrap()).unwrap();
    std::fs::remove_file(&clip).unwrap();
    assert_eq!(make(&one, 1, false).unwrap(), manifest);
    assert_eq!(std::fs::read(&clip).unwrap(), before);
    let refused = make(&one, 2, false).unwrap_err();
    assert!(matches!(refused, WorldError::Occupied { .. }), "{refused}");
    assert!(refused.to_string().contains("seed 1 instead of 2"), "{refused}");
    make(&one, 2, true).unwrap();
    let strange = folder.path().join("strange");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join("diary.txt"), "mine").unwrap();
    assert!(matches!(make(&strange, 1, true), Err(WorldError::Occupied { .. })));
    assert!(strange.join("diary.txt").exists());

    let log = one.join("test").join(OPENED_LOG);
    for split in [Split::Train, Split::Unlabelled, Split::Dev] {
        open_split(&one, split, "abc").unwrap();
    }
    assert!(!log.exists());
    assert_eq!(open_split(&one, Split::Unlabelled, "abc").unwrap().clips.len(), 2);
    assert_eq!(open_audit(&one).unwrap().len(), 2);
    let opened = open_split(&one, Split::Test, "abc").unwrap();
    assert_eq!((opened.clips.len(), opened.scenes.len()), (2, 2));
    open_split(&one, Split::Test, "def").unwrap();
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.lines().next().is_some_and(|line| line.contains("\"config\":\"abc\"")));
    for record in &opened.questions {
        let scene = opened.scenes.iter().find(|scene| scene.id == record.clip_id).unwrap();
        let truth = oracle(scene, &record.question).unwrap();
        assert_eq!((truth.answer, truth.novel), (record.answer.clone(), record.novel));
    }
}
