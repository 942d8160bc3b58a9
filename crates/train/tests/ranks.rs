//! Ranks that train together, as threads of one process: they end with the weights of one rank within a tolerance, and
//! all of them with the same bits; they stop together and go on together; what one finds wrong does not hang the others.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use savi_engine::Engine;
use savi_engine::testing::random_text_engine;
use savi_run::{Interrupt, Metrics};
use savi_schema::{
    Completed, Completion, Example, Generate, GenerateError, Message, Pair, PromptRecord, Reward,
    Role, SCHEMA_VERSION, Score, Verdict, judge_each,
};
use savi_train::{
    DpoConfig, EvalStrategy, GrpoConfig, OptimConfig, PpoConfig, Ranks, SftConfig, TrainError,
    TrainIo, TrainSummary, dpo_evaluated, grpo, ppo, sft_evaluated,
};
use serde_json::{Value, json};

/// A training: on its own thread for each rank.
type Train<'t> = &'t (dyn Fn(&mut Engine, &TrainIo<'_>) -> Result<TrainSummary, TrainError> + Sync);

/// What a rank ends with.
struct End {
    result: Result<TrainSummary, TrainError>,
    /// Its weights, by name, and a name for all their bits.
    weights: BTreeMap<String, Vec<f32>>,
    fingerprint: String,
    lines: Vec<Value>,
}

/// Trains with so many ranks, of which the last one alone is told when to stop.
fn run(size: usize, dir: &Path, interrupt: &Interrupt, train: Train<'_>) -> Vec<End> {
    let one = |ranks: Ranks| {
        let mut engine = random_text_engine(3, &json!({})).unwrap();
        let metrics = match ranks.is_first() {
            true => Metrics::open(dir).unwrap(),
            false => Metrics::unwritten(),
        };
        let (others, last) = (Interrupt::new(), ranks.rank() + 1 == size);
        let interrupt = if last { interrupt } else { &others };
        let io = TrainIo { dir, metrics: &metrics, interrupt, ranks: &ranks };
        let result = train(&mut engine, &io);
        drop(ranks);
        let value = |weight: &std::sync::Arc<savi_nn::Weight>| {
            let value = weight.tensor(false).flatten_all().unwrap().to_vec1().unwrap();
            (weight.name().to_owned(), value)
        };
        End {
            result,
            weights: engine.model().params().weights().iter().map(value).collect(),
            fingerprint: engine.fingerprint(),
            lines: metrics.lines().into_iter().map(Value::Object).collect(),
        }
    };
    let ranks = Ranks::in_process(size).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(|| one(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn whole(size: usize, train: Train<'_>) -> Vec<End> {
    let dir = tempfile::tempdir().unwrap();
    run(size, dir.path(), &Interrupt::new(), train)
}

/// Figures that ranks have to agree on with one rank, and how far apart they may be, beside `1e-5` of their size.
fn close(name: &str, got: f64, want: f64) {
    let apart = (got - want).abs();
    assert!(apart <= 2e-5 + 2e-4 * want.abs(), "{name}: {got} with ranks, {want} with one");
}

/// Holds trainings with several ranks to that of one.
fn check(train: Train<'_>) {
    let alone = whole(1, train).remove(0);
    let summary = alone.result.unwrap();
    for size in [2, 3] {
        let ends = whole(size, train);
        for end in &ends {
            assert_eq!(end.result.as_ref().unwrap(), &summary);
            assert_eq!(end.fingerprint, ends[0].fingerprint, "ranks have come apart");
        }
        assert_eq!(ends[0].lines.len(), alone.lines.len());
        for (got, want) in ends[0].lines.iter().zip(&alone.lines) {
            for (name, value) in want.as_object().unwrap() {
                let varies = ["time", "tokens_per_second", "eval_runtime"].contains(&name.as_str());
                if varies || name.starts_with("memory/") {
                    continue;
                }
                let number = |of: &Value| of.as_f64().unwrap_or_else(|| panic!("{name}: {of}"));
                close(
                    &format!("{name} of step {}", want["step"]),
                    number(&got[name]),
                    number(value),
                );
            }
        }
        let start = random_text_engine(3, &json!({})).unwrap();
        assert_ne!(start.fingerprint(), alone.fingerprint, "nothing was learnt");
        for (name, want) in &alone.weights {
            for (got, want) in ends[0].weights[name].iter().zip(want) {
                close(name, f64::from(*got), f64::from(*want));
            }
        }
    }
}

/// Stops the last of two ranks once there is a checkpoint, and goes on; the end is that of an undisturbed training.
fn check_resume(train: Train<'_>) {
    let undisturbed = whole(2, train);
    let dir = tempfile::tempdir().unwrap();
    let interrupt = Interrupt::new();
    let stopped = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while !dir.path().join("checkpoint-2").exists() {
                assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint came");
                std::thread::sleep(Duration::from_millis(1));
            }
            interrupt.set();
        });
        run(2, dir.path(), &interrupt, train)
    });
    for end in &stopped {
        assert!(matches!(end.result, Err(TrainError::Interrupted)), "{:?}", end.result);
    }
    let again = run(2, dir.path(), &Interrupt::new(), train);
    for (end, undisturbed) in again.iter().zip(&undisturbed) {
        assert_eq!(end.result.as_ref().unwrap(), undisturbed.result.as_ref().unwrap());
        assert_eq!(end.fingerprint, undisturbed.fingerprint);
    }
}

/// Batches that no number of ranks above one divides, and the last rank of three without any record.
fn optim(batch: usize, steps: u64) -> OptimConfig {
    OptimConfig {
        learning_rate: 5e-3,
        // Where a gradient is nothing but rounding, AdamW would take its sign for a direction.
        adam_epsilon: 1e-4,
        per_device_train_batch_size: batch,
        max_steps: steps,
        save_steps: 1,
        ..OptimConfig::default()
    }
}

const WORDS: [[&str; 3]; 5] = [
    ["left right", "left", "the red circle"],
    ["up", "right up", "down"],
    ["which way", "up", "down left right"],
    ["down down", "which way does the circle move", "circle"],
    ["move", "move left", "move right right"],
];

fn pairs() -> Vec<Pair> {
    let pair = |(i, [prompt, chosen, rejected]): (usize, &[&str; 3])| Pair {
        schema: SCHEMA_VERSION,
        id: format!("p{i}"),
        prompt: vec![Message::text(Role::User, *prompt)],
        chosen: (*chosen).to_owned(),
        rejected: (*rejected).to_owned(),
        chosen_score: None,
        rejected_score: None,
        margin: 0.0,
        provenance: serde_json::Map::default(),
    };
    WORDS.iter().enumerate().map(pair).collect()
}

fn examples() -> Vec<Example> {
    let example = |pair: Pair| {
        let said = Message::text(Role::Assistant, pair.chosen);
        let conversations = vec![[pair.prompt, vec![said]].concat()];
        Example { schema: SCHEMA_VERSION, id: pair.id, conversations }
    };
    pairs().into_iter().map(example).collect()
}

fn prompts() -> Vec<PromptRecord> {
    let prompt = |pair: Pair| PromptRecord {
        id: pair.id,
        prompt: pair.prompt,
        columns: serde_json::Map::new(),
    };
    pairs().into_iter().map(prompt).collect()
}

/// Share of a completion's tokens that are even.
struct Even;

impl Reward for Even {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let score = |_: &PromptRecord, completion: &Completion| {
            let even = completion.token_ids.iter().filter(|&&id| id % 2 == 0).count();
            let score = even as f64 / completion.token_ids.len() as f64;
            Some(Verdict { score, criteria: serde_json::Map::default(), raw: String::new() })
        };
        Ok(judge_each(groups, score))
    }
}

fn rewards() -> [(String, &'static (dyn Reward + Sync)); 1] {
    [("even".to_owned(), &Even)]
}

fn sft(
    config: SftConfig,
) -> impl Fn(&mut Engine, &TrainIo<'_>) -> Result<TrainSummary, TrainError> {
    move |engine, io| sft_evaluated(engine, &examples()[..4], &examples()[2..], &config, io)
}

fn sft_config() -> SftConfig {
    SftConfig { lora_r: 4, lora_alpha: 8.0, optim: optim(3, 4), ..SftConfig::default() }
}

#[test]
fn examples_are_learnt_as_by_one_rank() {
    let held_out = OptimConfig {
        eval_strategy: EvalStrategy::Steps,
        eval_steps: 2,
        per_device_eval_batch_size: 1,
        load_best_model_at_end: true,
        ..optim(3, 4)
    };
    check(&sft(SftConfig { optim: held_out, ..sft_config() }));
    // All weights, and fewer records than ranks.
    let single = SftConfig { lora_r: 0, optim: optim(1, 4), ..sft_config() };
    check(&sft(single));
    let accumulated =
        OptimConfig { gradient_accumulation_steps: 2, gradient_checkpointing: true, ..optim(2, 4) };
    check(&sft(SftConfig { length_exponent: 0.5, optim: accumulated, ..sft_config() }));
}

fn dpo(more: Value) -> impl Fn(&mut Engine, &TrainIo<'_>) -> Result<TrainSummary, TrainError> {
    let mut config = DpoConfig { lora_r: 4, lora_alpha: 8.0, ..DpoConfig::default() };
    let mut keys = json!(config);
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config = serde_json::from_value(keys).unwrap();
    config.optim = OptimConfig {
        eval_strategy: EvalStrategy::Steps,
        eval_steps: 3,
        per_device_eval_batch_size: 2,
        ..optim(5, 4)
    };
    move |engine, io| dpo_evaluated(engine, &pairs(), &pairs()[1..], &config, io)
}

#[test]
fn pairs_are_learnt_as_by_one_rank() {
    check(&dpo(json!({"rpo_alpha": 0.5})));
    check(&dpo(json!({"lora_r": 0, "precompute_ref_log_probs": true})));
    // What matches pairs by rank sees all ranks', and a running mean is one of all.
    check(&dpo(json!({"loss_type": ["aot_unpaired", "bco_pair"]})));
}

fn grpo_config() -> GrpoConfig {
    GrpoConfig {
        num_generations: 4,
        max_completion_length: 6,
        beta: 0.05,
        num_iterations: 2,
        scale_rewards: savi_train::Scale::Batch,
        lora_r: 4,
        lora_alpha: 16.0,
        optim: optim(12, 4),
        ..GrpoConfig::default()
    }
}

#[test]
fn completions_are_drawn_and_learnt_as_by_one_rank() {
    let config = grpo_config();
    check(&|engine, io| grpo(engine, &prompts(), &rewards(), &config, io));
    let config = PpoConfig {
        response_length: 6,
        num_ppo_epochs: 2,
        num_mini_batches: 1,
        missing_eos_penalty: Some(0.5),
        whiten_rewards: true,
        lora_r: 4,
        lora_alpha: 16.0,
        optim: optim(5, 4),
        ..PpoConfig::default()
    };
    check(&|engine, io| ppo(engine, &prompts(), &rewards(), &config, io));
}

#[test]
fn ranks_stop_together_and_go_on_to_the_same_bytes() {
    check_resume(&sft(SftConfig { optim: optim(3, 40), ..sft_config() }));
    let config = GrpoConfig { optim: optim(12, 20), ..grpo_config() };
    check_resume(&|engine, io| grpo(engine, &prompts(), &rewards(), &config, io));
}

#[test]
fn what_is_wrong_with_one_rank_is_told_by_all() {
    // Other settings.
    let config =
        |ranks: &Ranks| SftConfig { optim: optim(3, 4 + ranks.rank() as u64), ..sft_config() };
    for end in whole(2, &|engine, io| sft(config(io.ranks))(engine, io)) {
        let told = end.result.unwrap_err().to_string();
        assert!(
            told.contains("rank 1 has another trainer or other settings than rank 0"),
            "{told}"
        );
    }
    // Another model.
    let changed = |engine: &mut Engine, io: &TrainIo<'_>| {
        if io.ranks.rank() == 1 {
            let weights = engine.model().params().weights();
            let weight = weights.iter().find(|w| w.name().contains("norm")).unwrap();
            weight.set(&(weight.tensor(false) * 1.5).unwrap()).unwrap();
        }
        sft(SftConfig { lora_r: 0, ..sft_config() })(engine, io)
    };
    for end in whole(2, &changed) {
        let told = end.result.unwrap_err().to_string();
        assert!(told.contains("rank 1 has another model than rank 0"), "{told}");
    }
    // One that fails leaves, and the others say so instead of waiting.
    let ends = whole(2, &|engine, io| match io.ranks.rank() {
        1 => Err(TrainError::Nothing("examples")),
        _ => sft(sft_config())(engine, io),
    });
    let told = ends[0].result.as_ref().unwrap_err().to_string();
    assert!(told.contains("another rank has left"), "{told}");
    // A weight that is no number: all name the records, wherever they were.
    let nan = |engine: &mut Engine, io: &TrainIo<'_>| {
        let weights = engine.model().params().weights();
        let weight = weights.iter().find(|w| w.name().contains("norm")).unwrap();
        weight.set(&(weight.tensor(false) * f64::NAN).unwrap()).unwrap();
        sft(sft_config())(engine, io)
    };
    for end in whole(2, &nan) {
        match end.result {
            Err(TrainError::NotFinite { step: 1, ids, .. }) => assert_eq!(ids.len(), 3, "{ids:?}"),
            other => panic!("{other:?}"),
        }
    }
}
