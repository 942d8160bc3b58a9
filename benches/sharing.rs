//! What packing branches after one prompt gains in training, against the same branches as separate rows, and which
//! share of the gain that operations counted promise is reached.
//!
//! `sharing MODEL [ROUNDS [BRANCHESxPROMPT+ANSWER ...]]`: MODEL is a Hugging Face directory, or `-` for a random Llama of 6 layers,
//! 256 wide. A pass is forward and backward of all weights; both ways take turns after one round that warms up.

#![allow(clippy::print_stdout, reason = "it is its result")]

use std::time::Instant;

use anyhow::Context;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use savi_engine::testing::random_text_engine;
use savi_engine::{Engine, EngineOptions, Prompt};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_train::{Branch, Packed, Tree};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Preference pairs and groups, at short, middling and long answers.
const SHAPES: [&str; 6] =
    ["2x1024+64", "2x1024+256", "2x1024+1024", "8x512+64", "8x512+256", "8x512+1024"];

#[derive(Clone, Copy)]
struct Shape {
    branches: usize,
    prompt: usize,
    answer: usize,
}

impl Shape {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let parts = text.split_once('x').and_then(|(branches, rest)| {
            let (prompt, answer) = rest.split_once('+')?;
            Some([branches.parse().ok()?, prompt.parse().ok()?, answer.parse().ok()?])
        });
        let [branches, prompt, answer] =
            parts.with_context(|| format!("{text:?} is no shape such as 8x512+64"))?;
        Ok(Self { branches, prompt, answer })
    }

    /// The branches in one tree, or each with a prompt of its own.
    fn trees(self, vocabulary: usize, packed: bool) -> Vec<Tree> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut draw = |len: usize| -> Vec<u32> {
            (0..len).map(|_| rng.next_u32() % vocabulary as u32).collect()
        };
        // The last token of a prompt stays in its branch: it predicts the first target.
        let (prompt, last) = (draw(self.prompt - 1), draw(1));
        let branches: Vec<Branch> = (0..self.branches)
            .map(|_| Branch { ids: [last.clone(), draw(self.answer)].concat(), targets: 1 })
            .collect();
        let tree = |branches: &[Branch]| Tree {
            id: "row".to_owned(),
            root: Prompt { ids: prompt.clone(), ..Prompt::default() },
            branches: branches.to_vec(),
        };
        if packed { vec![tree(&branches)] } else { branches.chunks(1).map(tree).collect() }
    }
}

/// Multiplications and additions of the matrix products and the attention of a pass.
fn operations(engine: &Engine, trees: &[Tree]) -> f64 {
    let decoder = engine.model().config();
    let (q, kv) = (
        decoder.num_attention_heads * decoder.head_dim,
        decoder.num_key_value_heads * decoder.head_dim,
    );
    let (h, layers) = (decoder.hidden_size, decoder.layers.len() as f64);
    let of_layer = (h * (2 * q + 2 * kv) + 3 * h * decoder.intermediate_size) as f64;
    let (mut tokens, mut targets, mut seen) = (0.0, 0.0, 0.0);
    for tree in trees {
        let root = tree.root.ids.len() as f64;
        tokens += root;
        seen += root * (root + 1.0) / 2.0;
        for branch in &tree.branches {
            let own = branch.ids.len() as f64;
            tokens += own;
            targets += own - branch.targets as f64;
            seen += own * root + own * (own + 1.0) / 2.0;
        }
    }
    // A product forward and two backward; the logits are computed again in the backward pass. Attention has two products
    // forward and five backward.
    // The last layer's work after attention is done for what predicts a target.
    let after = (h * q + 3 * h * decoder.intermediate_size) as f64;
    6.0 * (tokens * of_layer * layers - (tokens - targets) * after)
        + 8.0 * targets * (h * decoder.vocab_size) as f64
        + 14.0 * seen * q as f64 * layers
}

fn pass(engine: &Engine, trees: &[Tree]) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let packed = Packed::new(trees);
    let tape = Tape::default();
    let loss = packed.logps_on(engine, &[], Mode::TRAIN, &tape)?.sum_all()?;
    tape.backward(&loss)?;
    Ok(begin.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> anyhow::Result<()> {
    // As the program itself does.
    // SAFETY: there is no other thread yet.
    unsafe {
        std::env::set_var("CANDLE_NUM_THREADS", "1");
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, more @ ..] = args.as_slice() else {
        anyhow::bail!("sharing MODEL [ROUNDS [SHAPE ...]]");
    };
    let rounds: usize = more.first().map_or(Ok(5), |rounds| rounds.parse())?;
    let shapes: Vec<&str> = match more.get(1..) {
        None | Some([]) => SHAPES.to_vec(),
        Some(shapes) => shapes.iter().map(String::as_str).collect(),
    };
    let engine = if model == "-" {
        let shape = json!({
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
            "num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 4096, "tie_word_embeddings": true,
        });
        random_text_engine(1, &shape)?
    } else {
        Engine::load(model, &EngineOptions { device: "cpu".into(), ..EngineOptions::default() })?
    };
    engine.model().params().set_trains(|_| true);
    for shape in shapes {
        let parsed = Shape::parse(shape)?;
        let [packed, separate] =
            [true, false].map(|packed| parsed.trees(engine.model().config().vocab_size, packed));
        let bound = operations(&engine, &separate) / operations(&engine, &packed);
        let (mut shared, mut alone) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let times = [pass(&engine, &packed)?, pass(&engine, &separate)?];
            if round > 0 {
                shared.push(times[0]);
                alone.push(times[1]);
            }
        }
        let (shared, alone) = (median(shared), median(alone));
        let gain = alone / shared;
        println!(
            "{shape:14} packed {shared:8.3} s, separate {alone:8.3} s: {gain:.2} times, of {bound:.2} by operations: {:.3}",
            gain / bound
        );
    }
    Ok(())
}
