//! Our side of `benches/peers/train`: trains on the same tokens as the peer, a step whenever it is asked.
//!
//! `train_worker MODEL DATA TOKENS ROWS [LORA_R]`: MODEL is a Hugging Face directory or `-` for a random Llama
//! of 6 layers, 256 wide. DATA is written: the tokens of all rows, for the peer. Then every line of standard input asks
//! for one step of supervised fine-tuning, and is answered with a line of JSON.

#![allow(clippy::print_stdout, reason = "the answers go to whoever asked")]

use std::io::BufRead;
use std::time::Instant;

use anyhow::Context;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use savi_engine::testing::random_text_engine;
use savi_engine::{Engine, EngineOptions};
use savi_run::{Interrupt, Metrics};
use savi_schema::{Example, Message, Role, SCHEMA_VERSION};
use savi_train::{OptimConfig, Packed, Sample, SftConfig, TrainIo, Tree, sft_stream};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Words of the tokenizer of random models, which others know as well.
const WORDS: [&str; 6] = ["which", "way", "red", "circle", "move", "left"];

/// What may be a single token.
const PIECES: [&str; 6] = [" a", "a", " left", ".", "e", " red"];

/// A short question with an answer that fills the row up to exactly so many tokens.
fn example(engine: &Engine, row: usize, tokens: usize) -> anyhow::Result<(Example, String)> {
    let mut rng = ChaCha8Rng::seed_from_u64(row as u64);
    let mut answer = String::from("a");
    loop {
        let turns = vec![
            Message::text(Role::User, "which way"),
            Message::text(Role::Assistant, answer.as_str()),
        ];
        let known = count(engine, &turns[..1], &answer)?;
        if known == tokens {
            let id = row.to_string();
            return Ok((
                Example { schema: SCHEMA_VERSION, id, conversations: vec![turns] },
                answer,
            ));
        }
        if known + 12 < tokens {
            let word = WORDS[rng.next_u32() as usize % WORDS.len()];
            answer = format!("{answer} {word}");
            continue;
        }
        // The last few one by one, where a piece is found that is a single token.
        let longer = |piece: &str| {
            let answer = format!("{answer}{piece}");
            let fits = count(engine, &turns[..1], &answer)
                .is_ok_and(|n| (known + 1..=tokens).contains(&n));
            fits.then_some(answer)
        };
        let found = PIECES.iter().find_map(|piece| longer(piece));
        answer = found
            .with_context(|| format!("no answer of {tokens} tokens was found after {known}"))?;
    }
}

fn count(engine: &Engine, prompt: &[Message], answer: &str) -> anyhow::Result<usize> {
    Ok(Packed::new([&Tree::new(engine, "row", &[(prompt, answer)])?]).ids.len())
}

fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
    })
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
    let [model, data, tokens, rows, more @ ..] = args.as_slice() else {
        anyhow::bail!("train_worker MODEL DATA TOKENS ROWS [LORA_R]");
    };
    let (tokens, rows): (usize, usize) = (tokens.parse()?, rows.parse()?);
    let lora_r = more.first().map_or(Ok(0), |r| r.parse())?;
    let mut engine = if model == "-" {
        let shape = json!({
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
            "num_key_value_heads": 4, "vocab_size": 4096, "tie_word_embeddings": true,
        });
        random_text_engine(1, &shape)?
    } else {
        let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
        Engine::load(model, &options)?
    };
    let examples =
        (0..rows).map(|row| example(&engine, row, tokens)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut told = Vec::new();
    for (example, answer) in &examples {
        let conversation = &example.conversations[0];
        let tree = Tree::new(&engine, &example.id, &[(&conversation[..1], answer)])?;
        let packed = Packed::new([&tree]);
        told.push(json!({"ids": packed.ids, "targets": packed.rows[0] + 1}));
    }
    std::fs::write(data, serde_json::to_vec(&told)?).context(data.clone())?;

    let dir = tempfile::tempdir()?;
    let metrics = Metrics::open(dir.path())?;
    let interrupt = Interrupt::new();
    let optim = OptimConfig {
        learning_rate: 1e-5,
        per_device_train_batch_size: rows,
        max_steps: 1_000_000,
        ..OptimConfig::default()
    };
    let config = SftConfig { lora_r, optim, ..SftConfig::default() };
    println!("{}", json!({"ready": true}));
    let mut lines = std::io::stdin().lock().lines();
    let mut begin: Option<Instant> = None;
    let io = TrainIo { dir: dir.path(), metrics: &metrics, interrupt: &interrupt };
    let ended = sft_stream(&mut engine, &config, &io, |_, _| {
        if let Some(begin) = begin {
            let seconds = begin.elapsed().as_secs_f64();
            println!(
                "{}",
                json!({"seconds": seconds, "tokens": tokens * rows, "peak_kib": peak_kib()})
            );
        }
        if lines.next().is_none() {
            interrupt.set();
        }
        begin = Some(Instant::now());
        let sample = |(example, _): &(Example, String)| Sample {
            example: example.clone(),
            clips: Vec::new(),
            kinds: Vec::new(),
        };
        Ok(examples.iter().map(sample).collect())
    });
    match ended {
        Ok(_) => Ok(()),
        Err(_) if interrupt.is_set() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
