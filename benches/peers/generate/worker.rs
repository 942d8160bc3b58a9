//! Our side of `benches/peers/generate`: does the tasks that are named on its standard input and tells how
//! long each took.
//!
//! `generate_worker MODEL` reads lines `branches SEED`, `single SEED`, `prefill SEED`, with MODEL also
//! `sharing` and `alone`, and answers each with a line of JSON.

#![allow(clippy::print_stdout, reason = "the answers go to whoever asked")]

use std::io::BufRead;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use savi_engine::testing::random_clip_engine;
use savi_engine::{Branch, Engine, EngineOptions, Prompt};
use savi_run::peak_memory;
use savi_schema::{Generate, Media, Message, Request, Sampling};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Frames of the clip of the VideoSAVi pattern; each is 64 visual tokens.
const FRAMES: usize = 32;

/// Words that no other task has seen, so that nothing is found computed.
fn prompt(len: usize, seed: u64) -> Prompt {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let ids = (0..len).map(|_| 100 + rng.next_u32() % 40_000).collect();
    Prompt { ids, ..Prompt::default() }
}

/// Exactly so many tokens.
fn sampling(temperature: f64, tokens: usize) -> Sampling {
    Sampling { temperature, max_tokens: tokens, ignore_eos: true, ..Sampling::default() }
}

fn draw(engine: &Engine, prompt: Prompt, samplings: Vec<Sampling>) -> anyhow::Result<usize> {
    let node = engine.open(prompt)?;
    let branch = Branch { node, samplings, id: "bench".to_owned(), seed: 1 };
    let drawn = engine.branch(&[branch])?;
    Ok(drawn.iter().flatten().map(|completion| completion.token_ids.len()).sum())
}

/// Six questions about a clip, five candidates to each, a verdict on each: each a request of its own.
fn pattern(engine: &Engine, dir: &std::path::Path, seed: u64) -> anyhow::Result<usize> {
    let source = dir.join(format!("clip{seed}"));
    std::fs::create_dir_all(&source)?;
    for i in 0..FRAMES {
        let pixels = image::RgbImage::from_fn(64, 64, |x, y| {
            image::Rgb([(x * 4) as u8 ^ seed as u8, (y * 4) as u8, (i * 8) as u8])
        });
        pixels.save(source.join(format!("{i:03}.png")))?;
    }
    let media = Media { source: source.to_string_lossy().into_owned(), policy: None };
    let request = |name: String, words: String, tokens: usize| Request {
        id: name,
        messages: vec![Message::about_video(media.clone(), words)],
        samplings: vec![sampling(1.0, tokens)],
        seed,
        ..Request::default()
    };
    let words = |i: usize| format!("question {i}: which way does the red circle move");
    let candidates: Vec<Request> =
        (0..30).map(|i| request(format!("c{i}"), words(i / 5), 48)).collect();
    let mut tokens = 0;
    let mut verdicts = Vec::new();
    for (i, drawn) in engine.generate(&candidates)?.chunks(5).enumerate() {
        let told: Vec<&str> = drawn.iter().flatten().map(|c| c.text.as_str()).collect();
        tokens += drawn.iter().flatten().map(|c| c.token_ids.len()).sum::<usize>();
        let told: String = told.join(" / ").chars().filter(char::is_ascii_alphanumeric).collect();
        verdicts.push(request(format!("v{i}"), format!("judge {i}: {told}"), 24));
    }
    let judged = engine.generate(&verdicts)?;
    Ok(tokens + judged.iter().flatten().map(|c| c.token_ids.len()).sum::<usize>())
}

fn main() -> anyhow::Result<()> {
    let model = std::env::args().nth(1).unwrap_or_default();
    let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
    let shared = match model.as_str() {
        "-" => None,
        model => Some(Engine::load(model, &options)?),
    };
    let dir = tempfile::tempdir()?;
    println!("{}", json!({"ready": true}));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (what, seed) = line.split_once(' ').unwrap_or((&line, "0"));
        let seed: u64 = seed.trim().parse()?;
        let text = || shared.as_ref().ok_or_else(|| anyhow::anyhow!("no model"));
        let clips = |prefix_sharing: bool| {
            let feature_budget = if prefix_sharing { options.feature_budget } else { 0 };
            let options = EngineOptions { prefix_sharing, feature_budget, ..options.clone() };
            random_clip_engine(1, FRAMES, options)
        };
        let engine = match what {
            "sharing" => Some(clips(true)?),
            "alone" => Some(clips(false)?),
            _ => None,
        };
        let begin = Instant::now();
        let mut more = Value::Null;
        let tokens = match (what, engine) {
            ("branches", _) => draw(text()?, prompt(512, seed), vec![sampling(1.0, 64); 16])?,
            ("single", _) => draw(text()?, prompt(32, seed), vec![sampling(0.0, 128)])?,
            ("prefill", _) => {
                text()?.open(prompt(2048, seed))?;
                2048
            }
            (_, Some(engine)) => {
                let tokens = pattern(&engine, dir.path(), seed)?;
                more = serde_json::to_value(engine.counts())?;
                tokens
            }
            (other, None) => anyhow::bail!("no task {other:?}"),
        };
        let seconds = begin.elapsed().as_secs_f64();
        let peak_kib = peak_memory().map(|bytes| bytes / 1024);
        println!(
            "{}",
            json!({"seconds": seconds, "tokens": tokens, "peak_kib": peak_kib, "counts": more})
        );
    }
    Ok(())
}
