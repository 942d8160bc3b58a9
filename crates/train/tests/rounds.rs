//! Rounds of preference training: against the weights that a round began with, against the base, and against a mixture
//! of both.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use savi_engine::{Engine, testing::random_engine};
use savi_nn::layers::Mode;
use savi_objectives::{PairLogps, Preference, PreferenceLoss, SideLogps, Totals, preference};
use savi_run::{FolderOptions, Interrupt, Metrics, RunFolder};
use savi_schema::{Message, Pair, Role, SCHEMA_VERSION};
use savi_train::{
    DpoConfig, EngineLearner, Learner, Material, Packed, Ranks, Rounds, SftConfig, TrainIo, Tree,
    dpo, teach,
};
use serde_json::{Value, json};

fn pairs() -> Vec<Pair> {
    let answers = [("left", "the red circle"), ("right up", "down"), ("up", "down left right")];
    let pair = |(i, (chosen, rejected)): (usize, (&str, &str))| Pair {
        schema: SCHEMA_VERSION,
        id: format!("p{i}"),
        prompt: vec![Message::text(Role::User, "which way does the red circle move")],
        chosen: chosen.to_owned(),
        rejected: rejected.to_owned(),
        chosen_score: Some(0.75),
        rejected_score: Some(0.25),
        margin: 0.0,
        provenance: serde_json::Map::default(),
    };
    answers.into_iter().enumerate().map(pair).collect()
}

fn config(more: Value) -> DpoConfig {
    let mut keys = json!({
        "lora_r": 4, "lora_alpha": 8.0,
        "optim": {
            "learning_rate": 5e-3, "lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.0,
            "per_device_train_batch_size": 3, "max_steps": 2,
        },
    });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(keys).unwrap()
}

/// A learner on a small random model and its run folder.
struct Run {
    dir: tempfile::TempDir,
    learner: EngineLearner,
}

impl Run {
    fn new(more: Value, change: fn(EngineLearner) -> EngineLearner) -> Self {
        let load = || Ok(random_engine(1, 2).unwrap());
        let learner = EngineLearner::new(load, &config(more), &SftConfig::default(), 3).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), learner: change(learner) }
    }

    /// Teaches a round and gives its losses.
    fn teach(&mut self, round: u32) -> Result<Vec<f64>, String> {
        let folder =
            RunFolder::open(self.dir.path(), &Default::default(), &FolderOptions::default())
                .unwrap();
        let metrics = Metrics::open(self.dir.path()).unwrap();
        let at = Rounds { folder: &folder, metrics: &metrics, interrupt: &Interrupt::new() };
        let before = u64::from(round - 1) * 2;
        let pairs = pairs();
        teach(&mut self.learner, Material::Pairs(&pairs), round, before, &at)
            .map_err(|error| error.to_string())?;
        let lines = metrics.lines();
        let of_round = lines.iter().filter(|line| line["round"] == round);
        Ok(of_round.map(|line| line["loss"].as_f64().unwrap()).collect())
    }
}

/// Log-probs of all answers, by side; every answer in a pass of its own, its end included.
fn logps(engine: &Engine) -> [Vec<f64>; 2] {
    let of = |pair: &Pair, answer: &str| -> f64 {
        let tree = Tree::new(engine, "", &[(&pair.prompt, answer)]).unwrap();
        let packed = Packed::new([&tree]);
        let model = engine.model();
        let embeds = model.embed(&packed.ids, &[], Mode::INFER).unwrap();
        let hidden = model.hidden(&embeds, &packed.forest, Mode::INFER).unwrap();
        let rows = Tensor::new(packed.rows.as_slice(), &Device::Cpu).unwrap();
        let logits = model.logits(&hidden.index_select(&rows, 0).unwrap(), Mode::INFER).unwrap();
        let logits = logits.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        let logp = |(row, &target): (&Vec<f64>, &u32)| {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = row.iter().map(|logit| (logit - most).exp()).sum();
            row[target as usize] - most - total.ln()
        };
        logits.iter().zip(&packed.targets).map(logp).sum()
    };
    [
        pairs().iter().map(|pair| of(pair, &pair.chosen)).collect(),
        pairs().iter().map(|pair| of(pair, &pair.rejected)).collect(),
    ]
}

/// The loss that `settings` give for these log-probs.
fn loss(
    policy: &[Vec<f64>; 2],
    reference: &[Vec<f64>; 2],
    previous: &[Vec<f64>; 2],
    settings: &Preference,
) -> f64 {
    let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
    let all: Vec<[Tensor; 4]> = (0..2)
        .map(|side| {
            let rate = if side == 0 { 0.75 } else { 0.25 };
            [&policy[side], &reference[side], &previous[side], &vec![rate; 3]].map(|of| tensor(of))
        })
        .collect();
    let side = |at: usize| SideLogps {
        previous: Some(&all[at][2]),
        win_rates: Some(&all[at][3]),
        ..SideLogps::new(&all[at][0], &all[at][1])
    };
    let totals = Totals { pairs: 3.0, chosen_tokens: 0.0 };
    let output = preference(&PairLogps::new(side(0), side(1)), None, &totals, settings).unwrap();
    output.loss.to_scalar::<f64>().unwrap()
}

fn close(ours: f64, expected: f64) {
    assert!(
        (ours - expected).abs() < 2e-5 * expected.abs().max(1.0),
        "{ours}, expected {expected}"
    );
}

fn base() -> Engine {
    random_engine(1, 2).unwrap()
}

#[test]
fn every_round_begins_at_its_own_reference() {
    let mut run = Run::new(json!({}), |learner| learner);
    for round in [1, 2] {
        close(run.teach(round).unwrap()[0], std::f64::consts::LN_2);
    }
}

/// The reference of the second round is the base: what it says of pairs is what the base says, and the first loss
/// is that of the model after the first round against it.
#[test]
fn rounds_against_the_base_are_against_the_base() {
    let mut run = Run::new(json!({}), EngineLearner::against_base);
    close(run.teach(1).unwrap()[0], std::f64::consts::LN_2);
    let policy = logps(run.learner.engine());
    let second = run.teach(2).unwrap()[0];
    let base = logps(&base());
    let settings = Preference::of(PreferenceLoss::Sigmoid);
    close(second, loss(&policy, &base, &policy, &settings));
    assert!((second - std::f64::consts::LN_2).abs() > 1e-4, "the first round taught nothing");
    let path = run.dir.path().join("checkpoints/round-2/reference/records.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    for (at, line) in lines.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        close(line["chosen"].as_f64().unwrap(), base[0][at]);
        close(line["rejected"].as_f64().unwrap(), base[1][at]);
    }
    assert_eq!(lines.lines().count(), 3);
}

#[test]
fn a_mixture_is_of_the_base_and_the_round_s_own_start() {
    for name in ["dno", "inpo"] {
        let more = json!({"loss_type": name, "mixture_ratio": 0.25, "dno_scale": 2.0});
        let mut run = Run::new(more, EngineLearner::against_base);
        run.teach(1).unwrap();
        let policy = logps(run.learner.engine());
        let second = run.teach(2).unwrap()[0];
        let settings = Preference {
            mixture_ratio: 0.25,
            dno_scale: 2.0,
            ..Preference::of(name.parse().unwrap())
        };
        close(second, loss(&policy, &logps(&base()), &policy, &settings));
    }
    let error = Run::new(json!({"mixture_ratio": 0.25}), |learner| learner).teach(1).unwrap_err();
    assert!(error.contains("mixture_ratio = 0.25"), "{error}");
}

#[test]
fn rounds_have_rates_of_their_own() {
    fn trained(rates: &'static [f64]) -> String {
        let mut run = Run::new(json!({}), |learner| learner);
        run.learner = run.learner.with_rates(rates);
        for round in [1, 2] {
            run.teach(round).unwrap();
        }
        run.learner.generator().fingerprint()
    }
    assert_eq!(trained(&[5e-3]), trained(&[]));
    assert_eq!(trained(&[5e-3, 5e-3]), trained(&[]));
    assert_ne!(trained(&[5e-3, 1e-3]), trained(&[]));
}

/// A round that is killed and taken up again under other settings is learnt again, under the same it is not.
#[test]
fn what_a_round_is_learnt_against_is_part_of_its_key() {
    let key =
        |change: fn(EngineLearner) -> EngineLearner| Run::new(json!({}), change).learner.key();
    let keys = [
        key(|learner| learner),
        key(EngineLearner::against_base),
        key(|learner| learner.with_rates(&[1e-3])),
    ];
    assert_eq!(key(|learner| learner), keys[0]);
    assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
}

#[test]
fn the_same_model_for_a_reference_changes_nothing() {
    let train = |dir: &Path, other: bool| {
        let metrics = Metrics::open(dir).unwrap();
        let io =
            TrainIo { dir, metrics: &metrics, interrupt: &Interrupt::new(), ranks: Ranks::alone() };
        let mut engine = base();
        match other {
            true => {
                savi_train::dpo_against(&mut engine, &base(), &pairs(), &config(json!({})), &io)
            }
            false => dpo(&mut engine, &pairs(), &config(json!({})), &io),
        }
        .unwrap();
        logps(&engine)
    };
    let [one, two] = [false, true].map(|other| train(tempfile::tempdir().unwrap().path(), other));
    for (one, two) in one.iter().flatten().zip(two.iter().flatten()) {
        close(*one, *two);
    }
}
