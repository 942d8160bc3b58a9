//! What a training will take, before it begins: tokens, steps, memory, time and disk.
//!
//! Memory is counted from what the process holds already (program, weights, tokenizer, records) and from shapes:
//! the moments of AdamW, a gradient for every part of a step, and the tensors that the backward pass asks for again,
//! which are all that the forward pass computes. Time is that of one measured forward pass, scaled.

use std::time::Instant;

use savi_engine::Engine;
use savi_models::{DecoderConfig, LoraConfig};
use savi_nn::layers::Mode;
use savi_nn::ops::LOGP_CHUNK;
use savi_run::resident_memory;
use savi_schema::{Demonstration, Pair};
use serde::Serialize;

use crate::dpo::grow;
use crate::sft::Order;
use crate::steps::part_size;
use crate::{DpoConfig, OptimConfig, Packed, SftConfig, TrainError, Tree};

mod online;

pub use online::{plan_grpo, plan_ppo};

/// What a training will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Records of one pass over the data.
    pub records: usize,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Passes over the data.
    pub epochs: f64,
    /// Tokens of one pass over the data, a shared prompt once.
    pub tokens_per_epoch: u64,
    /// Tokens of all steps.
    pub tokens: u64,
    /// Tokens of the longest record.
    pub longest_record: usize,
    /// Weights of the model.
    pub parameters: u64,
    /// Weights that train.
    pub trainable: u64,
    /// The most memory at once.
    pub memory: PlannedMemory,
    /// Seconds for all steps, roughly.
    pub seconds: f64,
    /// Bytes of checkpoints, of which one more is there while it is written.
    pub checkpoint_bytes: u64,
    /// Bytes that the run folder will hold at most.
    pub disk_bytes: u64,
}

/// Bytes of memory, by what takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PlannedMemory {
    /// The program, the model's weights, the tokenizer and the records.
    pub loaded: u64,
    /// Both moments of AdamW.
    pub optimiser: u64,
    /// Gradients, one set for each part of a step.
    pub gradients: u64,
    /// What the backward pass asks for again, of the parts that are under way at once.
    pub activations: u64,
    /// Logits of those parts, a chunk each.
    pub logits: u64,
    /// Keys and values of the completions that are drawn at once; 0 where nothing is drawn.
    pub sampling: u64,
    /// All of it.
    pub total: u64,
}

/// What the allocator keeps back of large blocks that come and go, on top of what is asked of it: measured, see
/// `benches/plan.sh`.
const SLACK: f64 = 1.06;

/// What kind of training it is.
struct Kind<'a> {
    optim: &'a OptimConfig,
    lora: Option<LoraConfig>,
    /// Whether frozen weights are asked as well.
    reference: bool,
    /// Completions that are drawn.
    drawn: Option<Drawn>,
}

/// What is drawn from the policy itself.
struct Drawn {
    /// Steps that learn from the same completions.
    passes: u64,
    /// Bytes of their keys and values.
    sampling: u64,
}

/// Plans [`dpo`](crate::dpo()). The engine gets the adapter that training would attach.
pub fn plan_dpo(engine: &Engine, pairs: &[Pair], config: &DpoConfig) -> Result<Plan, TrainError> {
    config.validate()?;
    let lora = crate::dpo::prepare(engine, config)?;
    let reference = config.reads_reference();
    let (_, trees) = grow(engine, pairs, config)?;
    plan(engine, &trees, &Kind { optim: &config.optim, lora, reference, drawn: None })
}

/// Plans [`sft_demonstrations`](crate::sft_demonstrations()). The engine is set up as training would set it up.
pub fn plan_sft(
    engine: &Engine,
    demonstrations: &[Demonstration],
    config: &SftConfig,
) -> Result<Plan, TrainError> {
    config.validate()?;
    let lora = crate::sft::prepare(engine, config)?;
    let trees = crate::sft::trees(engine, demonstrations, config)?;
    plan(engine, &trees, &Kind { optim: &config.optim, lora, reference: false, drawn: None })
}

fn plan(engine: &Engine, trees: &[Tree], kind: &Kind<'_>) -> Result<Plan, TrainError> {
    if trees.is_empty() {
        return Err(TrainError::Nothing("records"));
    }
    let (optim, params) = (kind.optim, engine.model().params());
    let device = params.device();
    let again = kind.drawn.as_ref().map_or(1, |drawn| drawn.passes);
    let steps = optim.total_steps(trees.len() * again as usize);
    let sizes: Vec<usize> = trees.iter().map(size).collect();
    let targets: Vec<usize> = trees.iter().map(answers).collect();
    let of_part = part_size(params, optim.per_device_train_batch_size);
    let at_once = if device.is_cpu() { rayon::current_num_threads() } else { 1 };
    let mut order =
        Order::new(trees.len(), optim.step_records(), optim.seed).by(optim.train_sampling_strategy);
    let (mut tokens, mut widest, mut widest_targets) = (0, 0, 0);
    for step in 0..steps {
        let chosen = order.of_step(step);
        tokens += chosen.iter().map(|&i| sizes[i] as u64).sum::<u64>();
        let largest = |of: &[usize]| -> usize {
            let part = |part: &[usize]| part.iter().map(|&i| of[i]).sum::<usize>();
            let mut parts: Vec<usize> = chosen.chunks(of_part).map(part).collect();
            parts.sort_unstable_by(|a, b| b.cmp(a));
            parts.into_iter().take(at_once).sum()
        };
        widest = widest.max(largest(&sizes));
        widest_targets = widest_targets.max(largest(&targets));
    }
    let count = |elements: usize| elements as u64;
    let parameters: u64 = params.weights().iter().map(|weight| count(weight.elements())).sum();
    let trainable: u64 = params.trainable().iter().map(|weight| count(weight.elements())).sum();
    let width = params.trainable().first().map_or(4, |w| w.tensor(false).dtype().size_in_bytes());
    let decoder = engine.model().config();
    let parts = optim.step_records().div_ceil(of_part);
    let per_layer = retained(decoder, kind.lora.as_ref().map(|_| engine));
    let layers = decoder.layers.len();
    let of_token = match optim.gradient_checkpointing {
        // What goes into every segment, and all of one segment.
        true => {
            let span = optim.gradient_checkpointing_layers.min(layers);
            layers.div_ceil(span) * decoder.hidden_size + span * per_layer
        }
        // All of every layer, and about one more for the gradients on their way.
        false => (layers + 1) * per_layer,
    };
    // A layer of the reference, whose pass comes while the policy's waits for its loss.
    let of_token = of_token + if kind.reference { per_layer } else { 0 };
    let ends = 3 * decoder.hidden_size;
    let value = decoder_bytes(engine);
    let chunk = LOGP_CHUNK.min(widest_targets.div_ceil(at_once.max(1)).max(1));
    // Measured first: a pass also brings in what of the program was not yet there.
    let forward = seconds_per_token(engine, trees, &sizes)?;
    let memory = PlannedMemory {
        loaded: resident_memory().unwrap_or(parameters * value),
        optimiser: trainable * 8,
        gradients: trainable * width as u64 * parts as u64,
        activations: ((widest * (of_token + ends)) as f64 * SLACK) as u64 * value,
        logits: (at_once.min(parts) * chunk * decoder.vocab_size) as u64 * value,
        sampling: kind.drawn.as_ref().map_or(0, |drawn| drawn.sampling),
        total: 0,
    };
    let total = memory.loaded
        + memory.optimiser
        + memory.gradients
        + memory.activations
        + memory.logits
        + memory.sampling;
    // Drawing a token takes about as long as a pass over it, once for all steps that learn from it.
    let passes = 3.0
        + kind.drawn.as_ref().map_or(0.0, |drawn| 1.0 / drawn.passes as f64)
        + f64::from(u8::from(optim.gradient_checkpointing))
        + f64::from(u8::from(kind.reference));
    let checkpoint_bytes = trainable * (width as u64 + 8);
    let kept = optim.save_total_limit as u64 + u64::from(optim.load_best_model_at_end);
    Ok(Plan {
        records: trees.len(),
        steps,
        epochs: steps as f64 * optim.step_records() as f64 / (trees.len() as u64 * again) as f64,
        tokens_per_epoch: sizes.iter().map(|&size| size as u64).sum(),
        tokens,
        longest_record: sizes.iter().copied().max().unwrap_or(0),
        parameters,
        trainable,
        memory: PlannedMemory { total, ..memory },
        seconds: tokens as f64 * passes * forward,
        checkpoint_bytes,
        disk_bytes: checkpoint_bytes * (kept + 1) + trainable * width as u64,
    })
}

fn size(tree: &Tree) -> usize {
    tree.root.ids.len() + tree.branches.iter().map(|branch| branch.ids.len()).sum::<usize>()
}

fn answers(tree: &Tree) -> usize {
    tree.branches.iter().map(|branch| branch.ids.len() - branch.targets).sum()
}

fn decoder_bytes(engine: &Engine) -> u64 {
    let weights = engine.model().params().weights();
    let first = weights.iter().find(|weight| engine.model().in_decoder(weight.name()));
    first.map_or(4, |weight| weight.tensor(false).dtype().size_in_bytes() as u64)
}

/// Values that a layer keeps of a token until the backward pass: every result but views.
fn retained(decoder: &DecoderConfig, adapted: Option<&Engine>) -> usize {
    let (h, inner) = (decoder.hidden_size, decoder.intermediate_size);
    let q = decoder.num_attention_heads * decoder.head_dim;
    let kv = decoder.num_key_value_heads * decoder.head_dim;
    // Two norms, what attention and MLP give, and the sums with what went in.
    let mut values = 6 * h;
    // Queries before and after their rotation and what attention gives; keys twice, values once.
    values += 3 * q + 3 * kv;
    // Gate, up, their product.
    values += 3 * inner;
    if decoder.head_norm {
        values += q + kv;
    }
    if decoder.sandwich {
        values += 2 * h;
    }
    if decoder.bias.qkv {
        values += q + 2 * kv;
    }
    let Some(engine) = adapted else { return values };
    // An adapter's narrow product, the same scaled, and the sum with what the layer gives.
    let trainable = engine.model().params().trainable();
    let low: usize = trainable
        .iter()
        .map(|weight| match (weight.name().contains("lora_"), weight.tensor(false).dims()) {
            (true, &[out, inputs]) if out > inputs => out + 2 * inputs,
            _ => 0,
        })
        .sum();
    values + low / decoder.layers.len().max(1)
}

/// Seconds of a forward pass for each token, measured on a few records of middling length.
fn seconds_per_token(engine: &Engine, trees: &[Tree], sizes: &[usize]) -> Result<f64, TrainError> {
    let mut by_size: Vec<usize> = (0..trees.len()).collect();
    by_size.sort_by_key(|&i| sizes[i]);
    let tree = &trees[by_size[by_size.len() / 2]];
    let packed = Packed::new([tree]);
    let clips = packed.clips.iter().map(|shown| engine.clip(shown));
    let clips = clips.collect::<Result<Vec<_>, _>>()?;
    // The first pass wakes threads and fills caches.
    packed.logps(engine, &clips, Mode::REFERENCE)?;
    let start = Instant::now();
    packed.logps(engine, &clips, Mode::REFERENCE)?;
    Ok(start.elapsed().as_secs_f64() / packed.ids.len().max(1) as f64)
}
