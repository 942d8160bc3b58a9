//! Training with every preference loss: a step's loss is the objective of log-probs that are computed
//! apart, a step lowers it, and what is carried from step to step survives an interruption.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use savi_engine::{Engine, testing::random_engine};
use savi_nn::layers::Mode;
use savi_objectives::{
    ChosenTokens, PairLogps, Preference, PreferenceLoss, PreferenceOutput, RewardBaseline,
    SideLogps, Totals, ld_weights, preference, sequence_logps, wpo_weights,
};
use savi_run::{Interrupt, Metrics};
use savi_schema::{Generate, Message, Pair, Role, SCHEMA_VERSION};
use savi_train::{DpoConfig, Packed, Ranks, TrainError, TrainIo, Tree, dpo, dpo_evaluated};
use serde_json::{Value, json};

/// Log-probs of an answer's tokens, and the logs of the sums of squares beside them.
type Logps = (Vec<f64>, Vec<f64>);

/// Answers of several lengths, so that averages and LD-DPO's weights have a say.
const ANSWERS: [(&str, &str); 6] = [
    ("left", "the red circle"),
    ("right up", "down"),
    ("up", "down left right"),
    ("which way does the circle move", "circle"),
    ("move left", "move right"),
    ("down", "user assistant"),
];

fn pairs() -> Vec<Pair> {
    let pair = |(i, (chosen, rejected)): (usize, &(&str, &str))| Pair {
        schema: SCHEMA_VERSION,
        id: format!("p{i}"),
        prompt: vec![Message::text(Role::User, "which way does the red circle move")],
        chosen: (*chosen).to_owned(),
        rejected: (*rejected).to_owned(),
        // Win rates, for the losses that learn from them.
        chosen_score: Some(0.9 - 0.1 * i as f64),
        rejected_score: Some(0.2 + 0.05 * i as f64),
        margin: 0.0,
        provenance: serde_json::Map::default(),
    };
    ANSWERS.iter().enumerate().map(pair).collect()
}

/// All pairs in every step, at a rate that does not depend on the number of steps.
fn config(more: &Value, steps: u64) -> DpoConfig {
    let mut keys = json!({
        "lora_r": 4, "lora_alpha": 8.0,
        "optim": {
            "learning_rate": 2e-3, "lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.0,
            "per_device_train_batch_size": 6, "max_steps": steps, "save_steps": 2,
            "max_grad_norm": 0.0,
        },
    });
    for (key, value) in more.as_object().unwrap() {
        match (keys[key].as_object_mut(), value.as_object()) {
            (Some(own), Some(more)) => own.extend(more.clone()),
            _ => keys[key] = value.clone(),
        }
    }
    serde_json::from_value(keys).unwrap()
}

fn losses(metrics: &Metrics) -> Vec<f64> {
    metrics.lines().iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// Trains in `dir`; gives the merged model and the metrics.
fn train(dir: &Path, config: &DpoConfig) -> Result<(Engine, Metrics), TrainError> {
    let mut engine = random_engine(1, 2).unwrap();
    let metrics = Metrics::open(dir).unwrap();
    let io =
        TrainIo { dir, metrics: &metrics, interrupt: &Interrupt::new(), ranks: Ranks::alone() };
    dpo(&mut engine, &pairs(), config, &io)?;
    Ok((engine, metrics))
}

fn trained(config: &DpoConfig) -> (Engine, Metrics) {
    train(tempfile::tempdir().unwrap().path(), config).unwrap()
}

/// Log-probs of the tokens of every answer, and the logs of the sums of squares of what else could
/// have been said; every answer in a pass of its own.
fn tokens(engine: &Engine) -> Vec<[Logps; 2]> {
    let of = |pair: &Pair, answer: &str| {
        let tree = Tree::new(engine, "", &[(&pair.prompt, answer)]).unwrap();
        let packed = Packed::new([&tree]);
        let model = engine.model();
        let embeds = model.embed(&packed.ids, &[], Mode::INFER).unwrap();
        let hidden = model.hidden(&embeds, &packed.forest, Mode::INFER).unwrap();
        let rows = Tensor::new(packed.rows.as_slice(), &Device::Cpu).unwrap();
        let hidden = hidden.index_select(&rows, 0).unwrap();
        let logits = model.logits(&hidden, Mode::INFER).unwrap().to_dtype(DType::F64).unwrap();
        let above = logits.broadcast_sub(&logits.max_keepdim(D::Minus1).unwrap()).unwrap();
        let probs = above.exp().unwrap();
        let probs = probs.broadcast_div(&probs.sum_keepdim(D::Minus1).unwrap()).unwrap();
        let probs = probs.to_vec2::<f64>().unwrap();
        let logps = packed.targets.iter().zip(&probs).map(|(&t, row)| row[t as usize].ln());
        let squares = probs.iter().map(|row| row.iter().map(|p| p * p).sum::<f64>().ln());
        (logps.collect(), squares.collect())
    };
    pairs().iter().map(|pair| [of(pair, &pair.chosen), of(pair, &pair.rejected)]).collect()
}

/// The objective over all pairs, in f64.
fn objective(
    policy: &Engine,
    reference: &Engine,
    settings: &Preference,
    ld_alpha: Option<f64>,
) -> PreferenceOutput {
    let (policy, reference) = (tokens(policy), tokens(reference));
    let tensor = |values: Vec<f64>| Tensor::new(values, &Device::Cpu).unwrap();
    let count = policy.len();
    let segments: Vec<u32> = policy
        .iter()
        .flatten()
        .enumerate()
        .flat_map(|(branch, (logps, _))| std::iter::repeat_n(branch as u32, logps.len()))
        .collect();
    let ld = tensor(ld_weights(&segments, count, ld_alpha.unwrap_or(1.0)).unwrap());
    let of_tokens = Tensor::new(segments.as_slice(), &Device::Cpu).unwrap();
    let flat = |all: &[[Logps; 2]], of: fn(&Logps) -> Vec<f64>| {
        tensor(all.iter().flatten().flat_map(of).collect())
    };
    let sides = |branches: &Tensor| {
        let both = branches.reshape((count, 2)).unwrap();
        [0, 1].map(|side| both.narrow(1, side, 1).unwrap().flatten_all().unwrap())
    };
    let sums = |tokens: &Tensor| sequence_logps(tokens, &of_tokens, 2 * count).unwrap();
    let policy_tokens = flat(&policy, |(logps, _)| logps.clone());
    let squares = flat(&policy, |(_, squares)| squares.clone());
    let policy_sums = sides(&sums(&(&policy_tokens * &ld).unwrap()));
    let reference_tokens = flat(&reference, |(logps, _)| logps.clone());
    let reference_sums = sides(&sums(&(reference_tokens * &ld).unwrap()));
    let lengths = sides(&sums(&policy_tokens.ones_like().unwrap()));
    let weights = wpo_weights(&policy_tokens, &squares, &of_tokens, 2 * count).unwrap();
    let weights = sides(&weights);
    let chosen = segments.iter().map(|s| if s % 2 == 0 { 1.0 } else { 0.0 });
    let chosen: Vec<f64> = chosen.collect();
    let totals = Totals { pairs: count as f64, chosen_tokens: chosen.iter().sum() };
    // A loss without a reference is given none: the figures beside it know none either.
    let reads = !settings.reference_free && settings.loss_type.iter().any(|l| l.reads_reference());
    let rates = |of: fn(&Pair) -> Option<f64>| tensor(pairs().iter().filter_map(of).collect());
    let rates = [rates(|pair| pair.chosen_score), rates(|pair| pair.rejected_score)];
    let side = |at: usize| SideLogps {
        win_rates: Some(&rates[at]),
        reference: reads.then_some(&reference_sums[at]),
        lengths: Some(&lengths[at]),
        weights: Some(&weights[at]),
        ..SideLogps::alone(&policy_sums[at])
    };
    let tokens = ChosenTokens { logps: &policy_tokens, weights: &tensor(chosen) };
    preference(&PairLogps::new(side(0), side(1)), Some(&tokens), &totals, settings).unwrap()
}

fn settings(config: &DpoConfig, bco_delta: f64) -> Preference {
    Preference {
        loss_type: config.loss_type.clone(),
        loss_weights: config.loss_weights.clone(),
        beta: config.beta,
        label_smoothing: config.label_smoothing,
        rpo_alpha: config.rpo_alpha,
        f_divergence_type: config.f_divergence_type,
        f_alpha_divergence_coef: config.f_alpha_divergence_coef,
        reference_free: config.reference_free,
        use_weighting: config.use_weighting,
        discopop_tau: config.discopop_tau,
        simpo_gamma: config.simpo_gamma,
        cpo_alpha: config.cpo_alpha,
        bco_delta,
        ..Preference::default()
    }
}

fn close(ours: f64, expected: f64) -> bool {
    (ours - expected).abs() <= 1e-5 * expected.abs().max(1.0)
}

/// Trains for one step and for two; the loss of the second has to be that of the model after the first.
fn second_step_is_the_objective(more: &Value) -> f64 {
    let reference = random_engine(1, 2).unwrap();
    let (policy, _) = trained(&config(more, 1));
    let two = config(more, 2);
    let (_, metrics) = trained(&two);
    let logged = losses(&metrics);
    let settings = settings(&two, 0.0);
    let first = objective(&reference, &reference, &settings, two.ld_alpha);
    let second = objective(&policy, &reference, &settings, two.ld_alpha);
    let expected = [first, second.clone()].map(|o| o.loss.to_scalar::<f64>().unwrap());
    assert!(close(logged[0], expected[0]), "{more}: {logged:?}, expected {expected:?}");
    assert!(close(logged[1], expected[1]), "{more}: {logged:?}, expected {expected:?}");
    assert!(logged[1] < logged[0], "{more}: a step raised the loss: {logged:?}");
    for (name, value) in second.metrics.named() {
        let ours = metrics.lines()[1][name].as_f64().unwrap();
        assert!(
            (ours - value).abs() <= 1e-4 * value.abs().max(1.0),
            "{more}: {name} {ours} {value}"
        );
    }
    if two.loss_type == [PreferenceLoss::Sigmoid] && *more == json!({}) {
        assert!((logged[0] - std::f64::consts::LN_2).abs() < 1e-6, "{logged:?}");
    }
    logged.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn every_loss_is_the_objective_of_separate_log_probs() {
    let mut worst = second_step_is_the_objective(&json!({}));
    for loss in PreferenceLoss::ALL {
        let more = match loss {
            PreferenceLoss::ExoPair => json!({"loss_type": "exo_pair", "label_smoothing": 0.1}),
            other => json!({"loss_type": other.name()}),
        };
        if loss == PreferenceLoss::Inpo {
            let error = config(&more, 1).validate().unwrap_err().to_string();
            assert!(error.contains(loss.name()), "{error}");
            continue;
        }
        worst = worst.max(second_step_is_the_objective(&more));
    }
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn every_setting_reaches_the_objective() {
    for more in [
        json!({"loss_type": "ipo", "ld_alpha": 0.3}),
        json!({"use_weighting": true, "rpo_alpha": 0.5}),
        json!({"reference_free": true, "beta": 0.3}),
        json!({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
        json!({"f_divergence_type": "js_divergence", "label_smoothing": 0.1}),
        json!({"loss_type": "aot", "reference_free": true}),
        json!({"loss_type": "simpo", "simpo_gamma": 1.5, "beta": 2.0}),
        json!({"loss_type": "cpo", "cpo_alpha": 0.2, "label_smoothing": 0.2}),
        json!({"loss_type": "discopop", "discopop_tau": 0.4}),
        json!({"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}),
        json!({"loss_type": "sigmoid", "optim": {"gradient_checkpointing": true}, "use_weighting": true}),
    ] {
        second_step_is_the_objective(&more);
    }
}

/// The loss of the third step is told the mean of the rewards of the two before it.
#[test]
fn bco_is_told_the_mean_of_earlier_rewards() {
    let more = json!({"loss_type": "bco_pair", "beta": 2.0});
    let reference = random_engine(1, 2).unwrap();
    let policies: Vec<Engine> = (1..=2).map(|steps| trained(&config(&more, steps)).0).collect();
    let three = config(&more, 3);
    let (_, metrics) = trained(&three);
    let seen =
        |policy: &Engine, delta: f64| objective(policy, &reference, &settings(&three, delta), None);
    let baseline = RewardBaseline::default()
        .after(&seen(&reference, 0.0).metrics)
        .after(&seen(&policies[0], 0.0).metrics);
    assert!(baseline.mean.abs() > 1e-3, "{baseline:?}");
    let expected = seen(&policies[1], baseline.mean).loss.to_scalar::<f64>().unwrap();
    let without = seen(&policies[1], 0.0).loss.to_scalar::<f64>().unwrap();
    let logged = losses(&metrics)[2];
    assert!(close(logged, expected), "{logged} {expected}");
    assert!(!close(logged, without), "{logged} {without}");
}

/// What a pair is matched with depends on the whole step, however it is cut.
#[test]
fn matching_by_rank_does_not_depend_on_micro_batches() {
    for loss in ["aot", "aot_unpaired"] {
        let run = |batch: usize, accumulation: usize| {
            let optim = json!({
                "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
                "learning_rate": 5e-3,
            });
            losses(&trained(&config(&json!({"loss_type": loss, "optim": optim}), 4)).1)
        };
        let whole = run(6, 1);
        for (a, b) in whole.iter().zip(run(1, 6)) {
            assert!((a - b).abs() < 1e-5, "{loss}: {a} {b}");
        }
    }
}

/// Trains until some steps are made, then is stopped.
fn stopped(dir: &Path, config: &DpoConfig) {
    for _ in 0..20 {
        let mut engine = random_engine(1, 2).unwrap();
        let metrics = Metrics::open(dir).unwrap();
        let interrupt = Interrupt::new();
        let (watched, flag) = (dir.join("metrics.jsonl"), interrupt.clone());
        let watcher = std::thread::spawn(move || {
            for _ in 0..60_000 {
                let text = std::fs::read_to_string(&watched).unwrap_or_default();
                if text.lines().count() >= 3 {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            flag.set();
        });
        let io = TrainIo { dir, metrics: &metrics, interrupt: &interrupt, ranks: Ranks::alone() };
        let result = dpo(&mut engine, &pairs(), config, &io);
        watcher.join().unwrap();
        match result {
            Err(TrainError::Interrupted) => return,
            // The watcher came too late: once more from the start.
            Ok(_) => {
                std::fs::remove_dir_all(dir).unwrap();
                std::fs::create_dir_all(dir).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it was never stopped in time");
}

fn checkpoint(dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_checkpoint = |path: &std::path::PathBuf| path.to_string_lossy().contains("checkpoint-");
    entries.into_iter().find(is_checkpoint).expect("a checkpoint")
}

#[test]
fn what_is_carried_survives_an_interruption() {
    for (loss, carries) in [("bco_pair", true), ("aot", false)] {
        // Dropout as well: a pass that only looks draws the masks of the pass that learns.
        let more = json!({
            "loss_type": loss, "beta": 1.0, "lora": {"lora_dropout": 0.2},
            "optim": {"per_device_train_batch_size": 4, "learning_rate": 5e-3},
        });
        let config = config(&more, 16);
        let (whole, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (engine, metrics) = train(whole.path(), &config).unwrap();
        stopped(dir.path(), &config);
        let carried = checkpoint(dir.path()).join("carried.json");
        assert_eq!(carried.exists(), carries, "{loss}");
        if carries {
            let kept = std::fs::read(&carried).unwrap();
            let baseline: Value = serde_json::from_slice(&kept).unwrap();
            assert!(baseline["mean"].as_f64().unwrap() != 0.0, "{baseline}");
            std::fs::remove_file(&carried).unwrap();
            let error = train(dir.path(), &config).unwrap_err().to_string();
            assert!(error.contains("carried.json"), "{error}");
            std::fs::write(&carried, kept).unwrap();
        }
        let (again, resumed) = train(dir.path(), &config).unwrap();
        let adapter =
            |dir: &Path| std::fs::read(dir.join("adapter/adapter_model.safetensors")).unwrap();
        assert_eq!(adapter(whole.path()), adapter(dir.path()), "{loss}");
        assert_eq!(again.fingerprint(), engine.fingerprint(), "{loss}");
        assert_eq!(losses(&resumed), losses(&metrics), "{loss}");
    }
}

/// TR-DPO: a training that was stopped finds the reference where it had moved to.
#[test]
fn a_reference_that_follows_survives_an_interruption() {
    let more = json!({
        "lora_r": 0, "lora_alpha": 1.0, "sync_ref_model": true, "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 0.5, "optim": {"per_device_train_batch_size": 4},
    });
    let config = config(&more, 16);
    let (whole, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (engine, metrics) = train(whole.path(), &config).unwrap();
    stopped(dir.path(), &config);
    let reference = checkpoint(dir.path()).join("reference.safetensors");
    let kept = std::fs::read(&reference).unwrap();
    std::fs::remove_file(&reference).unwrap();
    let error = train(dir.path(), &config).unwrap_err().to_string();
    assert!(error.contains("reference.safetensors"), "{error}");
    std::fs::write(&reference, kept).unwrap();
    let (again, resumed) = train(dir.path(), &config).unwrap();
    assert_eq!(losses(&resumed), losses(&metrics));
    assert_eq!(again.fingerprint(), engine.fingerprint());
    let (_, fixed) = trained(&DpoConfig { sync_ref_model: false, ..config });
    let same = losses(&fixed).into_iter().zip(losses(&metrics)).take_while(|(a, b)| a == b);
    assert_eq!(same.count(), 2, "the third step is the first to see that it moved");
}

/// Where the reference becomes the weights themselves, nothing is apart: in the next step and before it, in the
/// evaluation.
#[test]
fn an_evaluation_sees_the_reference_that_has_moved() {
    let more = json!({
        "lora_r": 0, "lora_alpha": 1.0, "sync_ref_model": true, "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 1.0, "optim": {"eval_strategy": "steps", "eval_steps": 1},
    });
    let (config, dir) = (config(&more, 3), tempfile::tempdir().unwrap());
    let metrics = Metrics::open(dir.path()).unwrap();
    let (interrupt, ranks) = (&Interrupt::new(), Ranks::alone());
    let io = TrainIo { dir: dir.path(), metrics: &metrics, interrupt, ranks };
    dpo_evaluated(&mut random_engine(1, 2).unwrap(), &pairs(), &pairs(), &config, &io).unwrap();
    let lines = metrics.lines();
    let told = |name: &str| -> Vec<bool> {
        let losses = lines.iter().filter_map(|line| line.get(name)?.as_f64());
        losses.map(|loss| (loss - std::f64::consts::LN_2).abs() < 1e-6).collect()
    };
    assert_eq!(told("loss"), [true, false, true]);
    assert_eq!(told("eval_loss"), [false, true, false]);
}

#[test]
fn margins_that_no_logit_takes_are_refused() {
    let mut pairs = pairs();
    pairs[4].margin = 0.5;
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::open(dir.path()).unwrap();
    let io = TrainIo {
        dir: dir.path(),
        metrics: &metrics,
        interrupt: &Interrupt::new(),
        ranks: Ranks::alone(),
    };
    let mut engine = random_engine(1, 2).unwrap();
    let mut run =
        |loss: &str| dpo(&mut engine, &pairs, &config(&json!({"loss_type": loss}), 1), &io);
    let error = run("ipo").unwrap_err().to_string();
    assert!(error.contains("p4") && error.contains("ipo") && error.contains("0.5"), "{error}");
    run("hinge").unwrap();
    pairs[4].margin = 0.0;
    for score in [None, Some(1.5)] {
        pairs[3].rejected_score = score;
        let dno = config(&json!({"loss_type": ["sigmoid", "dno"]}), 1);
        let error = dpo(&mut engine, &pairs, &dno, &io).unwrap_err().to_string();
        assert!(error.contains("p3") && error.contains("win rates"), "{error}");
    }
}

/// Tokens of a pair's longer side.
fn longer_side(engine: &Engine, pair: &Pair) -> usize {
    let of = |answer: &str| {
        let tree = Tree::new(engine, "", &[(&pair.prompt, answer)]).unwrap();
        tree.root.ids.len() + tree.branches[0].ids.len()
    };
    of(&pair.chosen).max(of(&pair.rejected))
}

/// What is longer than `max_length` is named, left out, or learnt without its end.
#[test]
fn pairs_beyond_max_length_are_refused_dropped_or_cut() {
    let engine = random_engine(1, 2).unwrap();
    let lengths: Vec<usize> = pairs().iter().map(|pair| longer_side(&engine, pair)).collect();
    let most = *lengths.iter().max().unwrap() - 1;
    let long = lengths.iter().filter(|length| **length > most).count();
    assert!((1..lengths.len()).contains(&long));
    let with = |overlong: &str| config(&json!({"max_length": most, "overlong": overlong}), 1);
    let error = train(tempfile::tempdir().unwrap().path(), &with("error")).unwrap_err();
    assert!(matches!(&error, TrainError::Record { .. }), "{error}");
    assert!(error.to_string().contains(&format!("max_length = {most}")), "{error}");
    let tokens = |config: &DpoConfig| {
        let (_, metrics) = trained(config);
        metrics.lines()[0]["num_tokens"].as_f64().unwrap()
    };
    let whole = tokens(&config(&json!({}), 1));
    let cut = tokens(&with("truncate"));
    assert!(whole - cut >= long as f64 && whole - cut <= 2.0 * long as f64, "{whole} {cut}");
    // A batch is what there is: all six places are filled from fewer pairs.
    let dir = tempfile::tempdir().unwrap();
    let (_, metrics) = train(dir.path(), &with("drop")).unwrap();
    assert!(metrics.lines()[0]["loss"].is_number());
    let nothing = config(&json!({"max_length": 2, "overlong": "drop"}), 1);
    let error = train(tempfile::tempdir().unwrap().path(), &nothing).unwrap_err();
    assert!(error.to_string().contains("within max_length"), "{error}");
    let nothing = config(&json!({"overlong": "drop"}), 1);
    let error = train(tempfile::tempdir().unwrap().path(), &nothing).unwrap_err();
    assert!(error.to_string().contains("goes with max_length"), "{error}");
}
