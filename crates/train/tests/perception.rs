//! Pre-training of sight: it learns its labels, goes on where it was stopped, and refuses labels
//! that do not fit.

use std::path::Path;

use savi_engine::{Engine, testing::random_engine};
use savi_run::{Interrupt, Metrics};
use savi_schema::{Generate, RgbImage};
use savi_train::{Head, LabelledFrames, OptimConfig, Ranks, TrainError, TrainIo, perceive};

fn heads() -> Vec<Head> {
    let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
    vec![
        Head { name: "bright", answers: words(["down", "up"]), before_decoder: true },
        Head { name: "frame", answers: words(["left", "right"]), before_decoder: false },
    ]
}

/// Two frames of four cells, some of them bright; which, is to be said of each cell.
fn record(number: u64) -> LabelledFrames {
    let bright = |frame: u64, cell: u64| (number * 7 + frame * 3 + cell * 5).is_multiple_of(3);
    let frame = |frame: u64| {
        let pixels = (0..16 * 16u64).flat_map(|at| {
            let cell = at / 16 / 8 * 2 + at % 16 / 8;
            [if bright(frame, cell) { 220 } else { 30 }; 3]
        });
        RgbImage { width: 16, height: 16, data: pixels.collect::<Vec<u8>>().into() }
    };
    let cells = || (0..2u64).flat_map(|frame| (0..4u64).map(move |cell| (frame, cell)));
    LabelledFrames {
        id: format!("r{number}"),
        frames: vec![frame(0), frame(1)],
        labels: vec![
            cells().map(|(frame, cell)| (u32::from(bright(frame, cell)), 1.0)).collect(),
            cells().map(|(frame, _)| (frame as u32, 1.0)).collect(),
        ],
    }
}

fn config(max_steps: u64) -> OptimConfig {
    OptimConfig {
        learning_rate: 1e-2,
        per_device_train_batch_size: 4,
        max_steps,
        save_steps: 3,
        ..OptimConfig::default()
    }
}

fn run(dir: &Path, max_steps: u64, interrupt: &Interrupt) -> Result<(Engine, Metrics), TrainError> {
    let mut engine = random_engine(1, 2).unwrap();
    let metrics = Metrics::open(dir).unwrap();
    let io = TrainIo { dir, metrics: &metrics, interrupt, ranks: Ranks::alone() };
    perceive(&mut engine, &heads(), &config(max_steps), &io, |step, count| {
        Ok((0..count as u64).map(|i| record(step * count as u64 + i)).collect())
    })?;
    Ok((engine, metrics))
}

#[test]
fn every_token_learns_its_labels() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, metrics) = run(dir.path(), 60, &Interrupt::new()).unwrap();
    let lines = metrics.lines();
    for head in ["bright", "frame"] {
        let loss = |line: usize| lines[line][head].as_f64().unwrap();
        // An untrained head knows nothing: ln 2.
        assert!((loss(0) - std::f64::consts::LN_2).abs() < 0.2, "{head} {}", loss(0));
        assert!(loss(59) < 0.1, "{head} {}", loss(59));
    }
    assert_ne!(engine.fingerprint(), random_engine(1, 2).unwrap().fingerprint());
    // A finished folder gives its weights again.
    let (again, _) = run(dir.path(), 60, &Interrupt::new()).unwrap();
    assert_eq!(again.fingerprint(), engine.fingerprint());
}

#[test]
fn a_stopped_one_goes_on_to_the_same_weights() {
    let [whole, parts] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (engine, _) = run(whole.path(), 8, &Interrupt::new()).unwrap();
    let stopped = Interrupt::new();
    stopped.set();
    assert!(matches!(run(parts.path(), 8, &stopped), Err(TrainError::Interrupted)));
    // Stopped in the middle: a checkpoint of step 3 is what is left.
    run(parts.path(), 8, &Interrupt::new()).unwrap();
    let last = parts.path().join("checkpoint-8");
    assert!(last.exists());
    std::fs::rename(whole.path().join("checkpoint-8"), whole.path().join("kept")).unwrap();
    assert_eq!(
        std::fs::read(whole.path().join("kept/trainable.safetensors")).unwrap(),
        std::fs::read(last.join("trainable.safetensors")).unwrap()
    );
    let (again, _) = run(parts.path(), 8, &Interrupt::new()).unwrap();
    assert_eq!(again.fingerprint(), engine.fingerprint());
}

#[test]
fn labels_that_do_not_fit_are_refused_by_record() {
    let dir = tempfile::tempdir().unwrap();
    let check = |change: fn(&mut LabelledFrames), expected: &str| {
        let mut engine = random_engine(1, 2).unwrap();
        let metrics = Metrics::open(dir.path()).unwrap();
        let io = TrainIo {
            dir: dir.path(),
            metrics: &metrics,
            interrupt: &Interrupt::new(),
            ranks: Ranks::alone(),
        };
        let error = perceive(&mut engine, &heads(), &config(2), &io, |_, _| {
            let mut bad = record(5);
            change(&mut bad);
            Ok(vec![bad])
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("r5") && message.contains(expected), "{message}");
    };
    check(|r| r.labels.truncate(1), "2 heads have 1 labels");
    check(|r| r.labels[1].truncate(7), "frame: 7 labels for 8 tokens");
    check(|r| r.labels[0][3].0 = 2, "bright: label 2 of 2 answers");
}
