//! What training promises: packed rows equal separate rows, accumulation equals one batch, a
//! stopped training continues to the same bytes, the reference is the base, NaN names its records.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use savi_engine::{Engine, testing::random_engine};
use savi_models::{LoraConfig, LoraOptions, attach_adapter};
use savi_nn::check;
use savi_nn::layers::Mode;
use savi_run::{Interrupt, Metrics, TrainerState};
use savi_schema::{Example, Generate, Media, Message, Pair, Role, SCHEMA_VERSION};
use savi_train::{
    DpoConfig, EvalStrategy, OptimConfig, Packed, Ranks, SftConfig, TrainError, TrainIo, Tree, dpo,
    dpo_evaluated, sft, sft_evaluated,
};

fn clip(dir: &Path, shade: u8) -> Media {
    let folder = dir.join(format!("clip-{shade}"));
    std::fs::create_dir_all(&folder).unwrap();
    for i in 0..2u8 {
        image::RgbImage::from_fn(16, 16, |x, y| {
            image::Rgb([shade * (i + 1), (x * 9) as u8, (y * 5) as u8])
        })
        .save(folder.join(format!("{i}.png")))
        .unwrap();
    }
    Media { source: folder.to_string_lossy().into_owned(), policy: None }
}

fn pairs(dir: &Path) -> Vec<Pair> {
    (0..6u8)
        .map(|i| Pair {
            schema: SCHEMA_VERSION,
            id: format!("p{i}"),
            prompt: vec![Message::about_video(
                clip(dir, 10 + i * 20),
                "which way does the red circle move",
            )],
            chosen: ["left", "right", "up"][i as usize % 3].to_owned(),
            rejected: ["the red circle", "down left", "circle"][i as usize % 3].to_owned(),
            chosen_score: None,
            rejected_score: None,
            margin: 0.0,
            provenance: serde_json::Map::default(),
        })
        .collect()
}

fn optim(batch: usize, accumulation: usize) -> OptimConfig {
    OptimConfig {
        learning_rate: 5e-3,
        per_device_train_batch_size: batch,
        gradient_accumulation_steps: accumulation,
        max_steps: 6,
        save_steps: 2,
        ..OptimConfig::default()
    }
}

fn dpo_config(batch: usize, accumulation: usize) -> DpoConfig {
    DpoConfig {
        lora_r: 4,
        lora_alpha: 8.0,
        rpo_alpha: 0.1,
        optim: optim(batch, accumulation),
        ..DpoConfig::default()
    }
}

/// Trains in `dir` and gives the engine and the logged losses.
fn run_dpo(dir: &Path, data: &Path, config: &DpoConfig) -> Result<(Engine, Vec<f64>), TrainError> {
    let mut engine = random_engine(1, 2).unwrap();
    let metrics = Metrics::open(dir).unwrap();
    let interrupt = Interrupt::new();
    let io = TrainIo { dir, metrics: &metrics, interrupt: &interrupt, ranks: Ranks::alone() };
    dpo(&mut engine, &pairs(data), config, &io)?;
    let losses = metrics.lines().iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    Ok((engine, losses))
}

/// With dropout as well: a record's masks do not depend on how it is packed.
#[test]
fn packed_rows_equal_separate_rows_in_values_and_gradients() {
    for lora_dropout in [0.0, 0.3] {
        packed_equals_separate(lora_dropout);
    }
}

fn packed_equals_separate(lora_dropout: f64) {
    let dir = tempfile::tempdir().unwrap();
    let engine = random_engine(1, 2).unwrap();
    let params = engine.model().params();
    let options = LoraOptions { lora_dropout, ..LoraOptions::default() };
    let config = LoraConfig { options, ..LoraConfig::default() };
    attach_adapter(engine.model(), "it", &config, 1, |name| engine.model().in_decoder(name))
        .unwrap();
    for (i, weight) in params.trainable().iter().enumerate() {
        let noise =
            check::normal(weight.tensor(false).dims(), &i.to_string(), candle_core::DType::F32)
                .unwrap();
        weight.set(&(noise * 0.1).unwrap()).unwrap();
    }
    let (mut packed_trees, mut separate_trees) = (Vec::new(), Vec::new());
    for pair in pairs(dir.path()).iter().take(3) {
        let turns = [
            (pair.prompt.as_slice(), pair.chosen.as_str()),
            (&pair.prompt, pair.rejected.as_str()),
        ];
        packed_trees.push(Tree::new(&engine, &pair.id, &turns).unwrap());
        for turn in turns {
            separate_trees.push(Tree::new(&engine, &pair.id, &[turn]).unwrap());
        }
    }
    let compute = |trees: &[Tree]| -> (Vec<f32>, HashMap<String, Tensor>, usize) {
        let packed = Packed::new(trees).with_dropout(5, 1).unwrap();
        let clips: Vec<Tensor> = packed.clips.iter().map(|m| engine.clip(m).unwrap()).collect();
        let logps = packed.logps(&engine, &clips, Mode::TRAIN).unwrap();
        let grads = logps.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let by_name = params
            .trainable()
            .iter()
            .map(|w| (w.name().to_owned(), grads.get(&w.tensor(true)).unwrap().clone()))
            .collect();
        (logps.to_vec1().unwrap(), by_name, packed.ids.len())
    };
    let (packed, packed_grads, packed_tokens) = compute(&packed_trees);
    let (separate, separate_grads, separate_tokens) = compute(&separate_trees);
    // Values have the same bits: a token's sums do not depend on how rows are cut.
    assert_eq!(packed, separate);
    assert!(packed_tokens < separate_tokens * 2 / 3);
    for (name, want) in separate_grads {
        let size = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let scale = 1.0 / f64::from(size.max(1e-6));
        check::close(&(&packed_grads[&name] * scale).unwrap(), &(want * scale).unwrap(), 1e-5)
            .unwrap();
    }
}

/// Accumulation and checkpointing change nothing, dropout or not; dropout does, and is the same again.
#[test]
fn dropout_and_checkpointing_do_not_depend_on_the_batch() {
    let data = tempfile::tempdir().unwrap();
    let losses = |batch, accumulation, lora_dropout, gradient_checkpointing| {
        let dir = tempfile::tempdir().unwrap();
        let plain = dpo_config(batch, accumulation);
        let config = DpoConfig {
            lora: LoraOptions { lora_dropout, ..LoraOptions::default() },
            optim: OptimConfig { gradient_checkpointing, ..plain.optim.clone() },
            ..plain
        };
        run_dpo(dir.path(), data.path(), &config).unwrap().1
    };
    let close = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4 * a.abs().max(1.0))
    };
    let (plain, dropped) = (losses(6, 1, 0.0, false), losses(6, 1, 0.3, false));
    assert!(!close(&plain, &dropped));
    assert!(close(&plain, &losses(6, 1, 0.0, true)));
    assert!(close(&dropped, &losses(2, 3, 0.3, true)));
    // One by one as all together.
    assert!(close(&plain, &losses(1, 6, 0.0, false)));
}

/// Options reach the adapter: its folder holds the layers and copies that they name.
#[test]
fn options_of_the_adapter_are_carried_out() {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lora: LoraOptions = serde_json::from_value(serde_json::json!({
        "target_modules": ["q_proj", "down_proj"], "layers_to_transform": 1, "bias": "lora_only",
        "modules_to_save": ["norm"], "use_rslora": true, "rank_pattern": {"down_proj": 2},
    }))
    .unwrap();
    let config = DpoConfig { lora, ..dpo_config(6, 1) };
    let (engine, _) = run_dpo(dir.path(), data.path(), &config).unwrap();
    let file = dir.path().join("adapter/adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    let at = |name: &str| {
        let name = format!("base_model.model.model.language_model.{name}");
        tensors.get(&name).unwrap_or_else(|| panic!("{name}: {:?}", tensors.keys())).dims().to_vec()
    };
    assert_eq!(at("layers.1.mlp.down_proj.lora_A.weight")[0], 2);
    assert_eq!(at("layers.1.self_attn.q_proj.lora_A.weight")[0], 4);
    at("layers.1.self_attn.q_proj.base_layer.bias");
    at("layers.0.input_layernorm.weight");
    at("norm.weight");
    assert!(tensors.keys().all(|name| !name.contains("layers.0.mlp")));
    let mut again = random_engine(1, 2).unwrap();
    let base = again.fingerprint();
    again.attach_adapter("it", &dir.path().join("adapter")).unwrap();
    let attached = again.fingerprint();
    again.switch_adapter(None).unwrap();
    assert_eq!(again.fingerprint(), base);
    assert_ne!(attached, base);
    again.merge_adapter(&dir.path().join("adapter")).unwrap();
    assert_eq!(again.fingerprint(), engine.fingerprint());

    let mut engine = random_engine(1, 2).unwrap();
    let metrics = Metrics::open(data.path()).unwrap();
    let io = TrainIo {
        dir: data.path(),
        metrics: &metrics,
        interrupt: &Interrupt::new(),
        ranks: Ranks::alone(),
    };
    let tied = LoraOptions {
        modules_to_save: Some(vec!["embed_tokens".to_owned()]),
        ..LoraOptions::default()
    };
    let config = DpoConfig { lora: tied, ..dpo_config(6, 1) };
    let refused = dpo(&mut engine, &pairs(data.path()), &config, &io).unwrap_err().to_string();
    assert!(refused.contains("embed_tokens"), "{refused}");
    let none = SftConfig {
        lora_r: 0,
        lora: LoraOptions { use_rslora: true, ..LoraOptions::default() },
        ..SftConfig::default()
    };
    assert!(none.validate().unwrap_err().to_string().contains("lora_r = 0"));
}

#[test]
fn dpo_starts_at_ln_2_and_learns() {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = DpoConfig {
        rpo_alpha: 0.0,
        optim: OptimConfig { max_steps: 20, ..optim(6, 1) },
        ..dpo_config(6, 1)
    };
    let before = random_engine(1, 2).unwrap().fingerprint();
    let (engine, losses) = run_dpo(dir.path(), data.path(), &config).unwrap();
    assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-6, "{}", losses[0]);
    assert!(losses[19] < losses[0] - 0.05, "{losses:?}");
    assert_ne!(engine.fingerprint(), before);
    // The adapter folder gives the same merged model again.
    let mut again = random_engine(1, 2).unwrap();
    again.merge_adapter(&dir.path().join("adapter")).unwrap();
    assert_eq!(again.fingerprint(), engine.fingerprint());
}

#[test]
fn accumulation_equals_one_batch() {
    let data = tempfile::tempdir().unwrap();
    let losses = |batch, accumulation| {
        let dir = tempfile::tempdir().unwrap();
        run_dpo(dir.path(), data.path(), &dpo_config(batch, accumulation)).unwrap().1
    };
    for (a, b) in losses(6, 1).iter().zip(losses(2, 3)) {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn a_stopped_training_continues_to_the_same_bytes() {
    let data = tempfile::tempdir().unwrap();
    let whole = tempfile::tempdir().unwrap();
    let (engine, losses) = run_dpo(whole.path(), data.path(), &dpo_config(3, 1)).unwrap();
    let read = |dir: &Path| std::fs::read(dir.join("adapter/adapter_model.safetensors")).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let interrupt = Interrupt::new();
    for _ in 0..3 {
        // Every start makes at most a few steps: the flag is set from another thread.
        let mut stopped = random_engine(1, 2).unwrap();
        let metrics = Metrics::open(dir.path()).unwrap();
        let flag = interrupt.clone();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            flag.set();
        });
        let io = TrainIo {
            dir: dir.path(),
            metrics: &metrics,
            interrupt: &interrupt,
            ranks: Ranks::alone(),
        };
        let result = dpo(&mut stopped, &pairs(data.path()), &dpo_config(3, 1), &io);
        stopper.join().unwrap();
        assert!(matches!(result, Ok(_) | Err(TrainError::Interrupted)), "{result:?}");
    }
    let (again, resumed) = run_dpo(dir.path(), data.path(), &dpo_config(3, 1)).unwrap();
    assert_eq!(read(whole.path()), read(dir.path()));
    assert_eq!(again.fingerprint(), engine.fingerprint());
    assert_eq!(resumed, losses);
    assert!(!dir.path().join("checkpoint-4").exists());
}

fn examples(dir: &Path) -> Vec<Example> {
    pairs(dir)
        .into_iter()
        .map(|pair| {
            let turn = |reply: String| {
                let mut conversation = pair.prompt.clone();
                conversation.push(Message::text(Role::Assistant, reply));
                conversation
            };
            let conversations = vec![turn(pair.chosen.clone()), turn(pair.rejected.clone())];
            Example { schema: SCHEMA_VERSION, id: pair.id.clone(), conversations }
        })
        .collect()
}

#[test]
fn sft_learns_its_targets() {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = random_engine(1, 2).unwrap();
    let metrics = Metrics::open(dir.path()).unwrap();
    let interrupt = Interrupt::new();
    let io = TrainIo {
        dir: dir.path(),
        metrics: &metrics,
        interrupt: &interrupt,
        ranks: Ranks::alone(),
    };
    let config = SftConfig {
        optim: OptimConfig { max_steps: 30, learning_rate: 1e-2, ..optim(6, 1) },
        ..SftConfig::default()
    };
    sft(&mut engine, &examples(data.path()), &config, &io).unwrap();
    let losses: Vec<f64> =
        metrics.lines().iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    assert!(losses[29] < losses[0] - 0.3, "{losses:?}");
}

#[test]
fn a_loss_that_is_not_a_number_names_the_records() {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = random_engine(1, 2).unwrap();
    let weight =
        engine.model().params().weights().into_iter().find(|w| w.name().contains("norm")).unwrap();
    let nan = Tensor::full(f32::NAN, weight.tensor(false).shape(), weight.tensor(false).device())
        .unwrap();
    weight.set(&nan).unwrap();
    let metrics = Metrics::open(dir.path()).unwrap();
    let io = TrainIo {
        dir: dir.path(),
        metrics: &metrics,
        interrupt: &Interrupt::new(),
        ranks: Ranks::alone(),
    };
    let error =
        dpo(&mut engine, &pairs(data.path()), &dpo_config(2, 1), &io).unwrap_err().to_string();
    assert!(error.contains("step 1") && error.contains('p'), "{error}");
}

#[test]
fn what_cannot_be_learnt_is_refused() {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = random_engine(1, 2).unwrap();
    let metrics = Metrics::open(dir.path()).unwrap();
    let io = TrainIo {
        dir: dir.path(),
        metrics: &metrics,
        interrupt: &Interrupt::new(),
        ranks: Ranks::alone(),
    };
    let nothing = dpo(&mut engine, &[], &dpo_config(2, 1), &io).unwrap_err().to_string();
    assert!(nothing.contains("pairs"), "{nothing}");
    let bad = DpoConfig { lora_alpha: -1.0, ..dpo_config(2, 1) };
    let refused = dpo(&mut engine, &pairs(data.path()), &bad, &io).unwrap_err().to_string();
    assert!(refused.contains("lora_alpha"), "{refused}");
}

/// Evaluated every step, and held to be the better the less it has learnt.
fn evaluated(patience: u64) -> OptimConfig {
    OptimConfig {
        eval_strategy: EvalStrategy::Steps,
        eval_steps: 1,
        per_device_eval_batch_size: 4,
        load_best_model_at_end: true,
        early_stopping_patience: patience,
        save_total_limit: 2,
        greater_is_better: Some(true),
        ..optim(2, 1)
    }
}

fn lines_of(metrics: &Metrics, name: &str) -> Vec<f64> {
    metrics.lines().iter().filter_map(|line| line.get(name)?.as_f64()).collect()
}

#[test]
fn the_best_state_is_taken_and_patience_ends_a_training() {
    let data = tempfile::tempdir().unwrap();
    let held_out = &pairs(data.path())[..4];
    let config = DpoConfig { optim: evaluated(2), ..dpo_config(2, 1) };
    let run = |dir: &Path, interrupt: &Interrupt| {
        let mut engine = random_engine(1, 2).unwrap();
        let metrics = Metrics::open(dir).unwrap();
        let io = TrainIo { dir, metrics: &metrics, interrupt, ranks: Ranks::alone() };
        let summary = dpo_evaluated(&mut engine, held_out, held_out, &config, &io);
        (summary, engine.fingerprint(), metrics)
    };
    let whole = tempfile::tempdir().unwrap();
    let (summary, fingerprint, metrics) = run(whole.path(), &Interrupt::new());
    let steps = summary.unwrap().steps;
    let losses = lines_of(&metrics, "eval_loss");
    let best = (0..losses.len()).rev().max_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap();
    let stopped = 6.min(best as u64 + 1 + 2);
    assert_eq!((steps, losses.len() as u64), (stopped, stopped), "{losses:?}");
    assert!(stopped < 6, "patience did not end it: {losses:?}");
    let state = TrainerState::read(&whole.path().join("trainer_state.json")).unwrap().unwrap();
    assert_eq!(state.best_global_step, Some(best as u64 + 1));
    assert_eq!((state.best_metric, state.patience_counter()), (Some(losses[best]), 2));
    assert!(lines_of(&metrics, "num_tokens").windows(2).all(|pair| pair[0] < pair[1]));
    for name in ["eval_rewards/margins", "epoch", "memory/peak_rss_gib", "tokens_per_second"] {
        assert!(!lines_of(&metrics, name).is_empty(), "{name}");
    }

    // Stopped again and again, it ends the same; so does the look at a finished one.
    let dir = tempfile::tempdir().unwrap();
    let interrupt = Interrupt::new();
    for wait in [10, 60] {
        let flag = interrupt.clone();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(wait));
            flag.set();
        });
        let (result, ..) = run(dir.path(), &interrupt);
        stopper.join().unwrap();
        assert!(matches!(result, Ok(_) | Err(TrainError::Interrupted)), "{result:?}");
    }
    for _ in 0..2 {
        let (summary, again, metrics) = run(dir.path(), &Interrupt::new());
        assert_eq!((summary.unwrap().steps, again), (steps, fingerprint.clone()));
        assert_eq!(lines_of(&metrics, "eval_loss"), losses);
    }

    // What the best state gives is what it was evaluated at.
    let mut engine = random_engine(1, 2).unwrap();
    engine.merge_adapter(&whole.path().join("adapter")).unwrap();
    let again = tempfile::tempdir().unwrap();
    let metrics = Metrics::open(again.path()).unwrap();
    let io = TrainIo {
        dir: again.path(),
        metrics: &metrics,
        interrupt: &Interrupt::new(),
        ranks: Ranks::alone(),
    };
    let examples = examples(data.path());
    let config =
        SftConfig { optim: OptimConfig { max_steps: 2, ..evaluated(0) }, ..SftConfig::default() };
    sft_evaluated(&mut engine, &examples[..4], &examples[4..], &config, &io).unwrap();
    assert_eq!(lines_of(&metrics, "eval_loss").len(), 2);
    let missing = sft(&mut engine, &examples, &config, &TrainIo { dir: data.path(), ..io });
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("eval_strategy"), "{missing}");
}

/// A pair whose loss is not a number is named, alone; mended, the run goes on to the bytes of an undisturbed one.
#[test]
fn a_damaged_record_is_named_and_the_run_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let config =
        DpoConfig { optim: OptimConfig { save_steps: 1, ..optim(2, 1) }, ..dpo_config(2, 1) };
    let run = |dir: &Path, margin: f64| {
        let mut engine = random_engine(1, 2).unwrap();
        let metrics = Metrics::open(dir).unwrap();
        let io =
            TrainIo { dir, metrics: &metrics, interrupt: &Interrupt::new(), ranks: Ranks::alone() };
        let mut pairs = pairs(data.path());
        pairs[3].margin = margin;
        dpo(&mut engine, &pairs, &config, &io).map(|_| engine.fingerprint())
    };
    let (whole, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let error = run(dir.path(), f64::NAN).unwrap_err();
    let TrainError::NotFinite { step, ids, .. } = &error else { panic!("{error}") };
    assert_eq!(ids, &["p3"]);
    assert_eq!(*step > 1, dir.path().join(format!("checkpoint-{}", step - 1)).exists());
    assert_eq!(run(dir.path(), 0.0).unwrap(), run(whole.path(), 0.0).unwrap());
}
