//! Our side of `benches/peers/train`: trains on the same tokens as the peers, a step whenever it is asked.
//!
//! `train_worker MODEL DIR ROW`: MODEL is a Hugging Face directory, or `-` for a random Llama of 6 layers, 256 wide, which is
//! written to DIR/model. ROW says what to train, as JSON. DIR/data.json is written: the tokens, for the peers. Then
//! every line of standard input asks for one step of `sft`, `dpo` or `grpo`, and is answered with a line of JSON.
//! Completions of GRPO are drawn once; all steps learn from them.

#![allow(clippy::print_stdout, reason = "the answers go to whoever asked")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use savi_engine::testing::random_text_engine;
use savi_engine::{Engine, EngineOptions, StoredDType};
use savi_nn::optim::Schedule;
use savi_run::{Interrupt, Metrics, peak_memory};
use savi_schema::{
    Completed, Example, GenerateError, Message, Pair, PromptRecord, Reward, Role, SCHEMA_VERSION,
    Score, Verdict,
};
use savi_train::{DpoConfig, GrpoConfig, OptimConfig, Ranks, SftConfig, TrainIo};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Words of the tokenizer of random models, which others know as well.
const WORDS: [&str; 6] = ["which", "way", "red", "circle", "move", "left"];

/// What may be a single token.
const PIECES: [&str; 6] = [" a", "a", " left", ".", "e", " red"];

/// More tokens than a word has.
const OF_A_WORD: usize = 12;

/// Steps without end.
const ENDLESS: u64 = 1_000_000;

/// What is trained.
#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    trainer: Trainer,
    lora_r: usize,
    learning_rate: f64,
    #[serde(default)]
    checkpointing: bool,
}

#[derive(Deserialize)]
#[serde(tag = "trainer", rename_all = "lowercase")]
enum Trainer {
    Sft { rows: usize, tokens: usize },
    Dpo { prompt: usize, answer: usize, cached: bool },
    Grpo { prompt: usize, answer: usize, branches: usize },
}

/// Who asks for steps.
#[derive(Clone)]
struct Asker(Arc<Mutex<Instant>>);

impl Asker {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Says that all is prepared, and waits.
    fn ready(&self) {
        println!("{}", json!({"ready": true}));
        self.wait();
    }

    /// Tells of the step that was asked for, and waits.
    fn answer(&self, figures: &Map<String, Value>) {
        let begin = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = begin.elapsed().as_secs_f64();
        let peak_kib = peak_memory().map(|bytes| bytes / 1024);
        println!("{}", json!({"seconds": seconds, "peak_kib": peak_kib, "figures": figures}));
        self.wait();
    }

    /// Waits for the next request; the process ends with the requests.
    fn wait(&self) {
        if !std::io::stdin().read_line(&mut String::new()).is_ok_and(|read| read > 0) {
            std::process::exit(0);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A text of random words that makes exactly so many tokens.
fn fit(
    tokens: usize,
    seed: u64,
    count: impl Fn(&str) -> anyhow::Result<usize>,
) -> anyhow::Result<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::from("a");
    loop {
        let known = count(&text)?;
        if known == tokens {
            return Ok(text);
        }
        for _ in 0..tokens.saturating_sub(known) / OF_A_WORD {
            text = format!("{text} {}", WORDS[rng.next_u32() as usize % WORDS.len()]);
        }
        if known + OF_A_WORD <= tokens {
            continue;
        }
        // The last few one by one, where a piece is found that is a single token.
        let longer = PIECES.iter().map(|piece| format!("{text}{piece}"));
        let fits = |n: usize| (known + 1..=tokens).contains(&n);
        text = longer
            .into_iter()
            .find(|longer| count(longer).is_ok_and(fits))
            .with_context(|| format!("no text of {tokens} tokens was found after {known}"))?;
    }
}

/// A question of exactly so many tokens, the template's included.
fn prompt(engine: &Engine, tokens: usize) -> anyhow::Result<(Vec<Message>, Vec<u32>)> {
    let turn = |text: &str| vec![Message::text(Role::User, text)];
    let text = fit(tokens, 0, |text| Ok(engine.prompt(&turn(text))?.ids.len()))?;
    let ids = engine.prompt(&turn(&text))?.ids;
    Ok((turn(&text), ids))
}

/// An answer of exactly so many tokens, its end included.
fn answer(engine: &Engine, tokens: usize, seed: u64) -> anyhow::Result<(String, Vec<u32>)> {
    let text = fit(tokens, seed, |text| Ok(engine.text().completion(text)?.len()))?;
    let ids = engine.text().completion(&text)?;
    Ok((text, ids))
}

fn write(data: &Path, value: &Value) -> anyhow::Result<()> {
    std::fs::write(data, serde_json::to_vec(value)?).context(data.display().to_string())
}

/// Judges completions by their place, and writes them down once all have the length that is wanted.
struct Recorder {
    asker: Asker,
    data: PathBuf,
    prompt: Vec<u32>,
    tokens: usize,
    recorded: AtomicBool,
}

impl Reward for Recorder {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let &[Completed { prompt, completions }] = groups else {
            return Err(GenerateError::Backend("one prompt a step is expected".to_owned()));
        };
        let failed = |reason: String| GenerateError::BadRequest { id: prompt.id.clone(), reason };
        if completions.iter().any(|completion| completion.token_ids.len() != self.tokens) {
            return Err(failed("a completion is too short".to_owned()));
        }
        let answers: Vec<&[u32]> = completions.iter().map(|c| c.token_ids.as_slice()).collect();
        let logps: Vec<&[f32]> = completions.iter().map(|c| c.logps.as_slice()).collect();
        let rewards: Vec<f64> = (0..completions.len()).map(|at| at as f64).collect();
        let told =
            json!({"prompt": self.prompt, "answers": answers, "logps": logps, "rewards": rewards});
        write(&self.data, &told).map_err(|error| failed(format!("{error:#}")))?;
        self.recorded.store(true, Ordering::SeqCst);
        self.asker.ready();
        let verdict = |score| Verdict { score, criteria: Map::new(), raw: String::new() };
        Ok(vec![rewards.into_iter().map(|score| Some(verdict(score))).collect()])
    }
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, dir, row] = args.as_slice() else {
        anyhow::bail!("train_worker MODEL DIR ROW");
    };
    let (dir, row): (&Path, Row) = (Path::new(dir), serde_json::from_str(row)?);
    let data = dir.join("data.json");
    let mut engine = if model == "-" {
        let shape = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4, "vocab_size": 4096, "max_position_embeddings": 4096, "tie_word_embeddings": true,
        });
        let engine = random_text_engine(1, &shape)?;
        engine.save(&dir.join("model"), StoredDType::F32)?;
        engine
    } else {
        Engine::load(model, &EngineOptions { device: "cpu".into(), ..EngineOptions::default() })?
    };
    let asker = Asker::new();
    let listener = asker.clone();
    let run = dir.join("run");
    let metrics = Metrics::open(&run)?.heard_by(move |line| listener.answer(line));
    let interrupt = Interrupt::new();
    let io = TrainIo { dir: &run, metrics: &metrics, interrupt: &interrupt, ranks: Ranks::alone() };
    let optim = |records: usize| OptimConfig {
        learning_rate: row.learning_rate,
        lr_scheduler_type: Schedule::Constant,
        per_device_train_batch_size: records,
        max_steps: ENDLESS,
        save_steps: ENDLESS,
        gradient_checkpointing: row.checkpointing,
        ..OptimConfig::default()
    };
    let lora_r = row.lora_r;
    match row.trainer {
        Trainer::Sft { rows, tokens } => {
            let question = vec![Message::text(Role::User, "which way")];
            let asked = engine.prompt(&question)?.ids;
            let (mut examples, mut told) = (Vec::new(), Vec::new());
            for at in 0..rows {
                let (text, ids) = answer(&engine, tokens - asked.len(), at as u64)?;
                let reply = Message::text(Role::Assistant, text);
                let conversations = vec![[question.clone(), vec![reply]].concat()];
                examples.push(Example {
                    schema: SCHEMA_VERSION,
                    id: at.to_string(),
                    conversations,
                });
                let ids = [asked.clone(), ids].concat();
                told.push(json!({"ids": ids, "targets": asked.len()}));
            }
            write(&data, &json!({"rows": told}))?;
            asker.ready();
            let config = SftConfig { lora_r, optim: optim(rows), ..SftConfig::default() };
            savi_train::sft(&mut engine, &examples, &config, &io)?;
        }
        Trainer::Dpo { prompt: asked, answer: replied, cached } => {
            let (question, ids) = prompt(&engine, asked)?;
            let (chosen, rejected) = (answer(&engine, replied, 1)?, answer(&engine, replied, 2)?);
            write(&data, &json!({"prompt": ids, "answers": [chosen.1, rejected.1]}))?;
            asker.ready();
            let pair = Pair {
                schema: SCHEMA_VERSION,
                id: "pair".to_owned(),
                prompt: question,
                chosen: chosen.0,
                rejected: rejected.0,
                chosen_score: None,
                rejected_score: None,
                margin: 0.0,
                provenance: Map::new(),
            };
            let config = DpoConfig {
                precompute_ref_log_probs: cached,
                lora_r,
                optim: optim(1),
                ..DpoConfig::default()
            };
            savi_train::dpo(&mut engine, &[pair], &config, &io)?;
        }
        Trainer::Grpo { prompt: asked, answer: tokens, branches } => {
            let (question, ids) = prompt(&engine, asked)?;
            let record =
                PromptRecord { id: "prompt".to_owned(), prompt: question, columns: Map::new() };
            let recorded = AtomicBool::new(false);
            let recorder = Recorder { asker, data, prompt: ids, tokens, recorded };
            let rewards: [(String, &(dyn Reward + Sync)); 1] = [("place".to_owned(), &recorder)];
            let mut config = GrpoConfig {
                num_generations: branches,
                max_completion_length: tokens,
                num_iterations: ENDLESS,
                log_completions: false,
                lora_r,
                optim: optim(branches),
                ..GrpoConfig::default()
            };
            // A completion may end early; some seed has none that does.
            let prompts = [record];
            while let Err(error) = savi_train::grpo(&mut engine, &prompts, &rewards, &config, &io) {
                if recorder.recorded.load(Ordering::SeqCst) {
                    return Err(error.into());
                }
                config.optim.seed += 1;
                anyhow::ensure!(config.optim.seed < 200, "completions are too short: {error}");
            }
        }
    }
    Ok(())
}
