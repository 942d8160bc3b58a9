//! SmolLM2-135M-Instruct (Q4_1) from its GGUF file: perplexities and a greedy answer, against an implementation in NumPy that
//! read the same file. Opt in with the file's path; the texts that are not ours come from files, too.

// A test that is skipped says so, and one that measures what it found.
#![allow(clippy::print_stderr)]

use std::path::{Path, PathBuf};

use savi_engine::{Engine, EngineOptions, Prompt};
use savi_schema::{Generate, Message, Request, Role, Sampling};

/// The file itself.
const MODEL: &str = "SAVI_SMOLLM2_GGUF";
/// GSM8K's `test.jsonl`.
const GSM8K: &str = "SAVI_GSM8K_TEST";
/// Tiny Shakespeare's `input.txt`.
const SHAKESPEARE: &str = "SAVI_TINY_SHAKESPEARE";
/// Largest relative difference of a perplexity.
const TOLERANCE: f64 = 0.005;
const ENGLISH: &str = "The quick development of machine learning has changed the way that people work with computers. \
    In recent years, large language models have become able to answer questions, write code and translate between languages.";

fn file(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: {variable} names no file");
    }
    path
}

/// Without a token before the text: its first one is given.
fn perplexity(engine: &Engine, text: &str) -> (usize, f64) {
    let mut ids = engine.text().encode(text).unwrap();
    let rest = ids.split_off(1);
    let count = rest.len();
    let scored = engine.score_tokens(&Prompt { ids, ..Prompt::default() }, vec![rest]).unwrap();
    (count + 1, (-scored[0].sum() / count as f64).exp())
}

fn check(engine: &Engine, what: &str, text: &str, tokens: Option<usize>, told: f64) {
    let (count, got) = perplexity(engine, text);
    eprintln!("{what}: {count} tokens, perplexity {got:.4}, expected {told}");
    assert!(tokens.is_none_or(|tokens| tokens == count), "{what}: {count} tokens");
    assert!((got / told - 1.0).abs() < TOLERANCE, "{what}: {got}, expected {told}");
}

#[test]
fn perplexities_and_an_answer() {
    let Some(path) = file(MODEL) else { return };
    let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
    let engine = Engine::load(path.to_str().unwrap(), &options).unwrap();
    let ids = engine.text().encode("Hello, world! 12345").unwrap();
    assert_eq!(ids, [19556, 28, 905, 17, 216, 33, 34, 35, 36, 37]);
    check(&engine, "an English paragraph", ENGLISH, None, 26.0993);
    if let Some(path) = file(GSM8K) {
        let rows = std::fs::read_to_string(path).unwrap();
        let row: serde_json::Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
        let (question, answer) =
            (row["question"].as_str().unwrap(), row["answer"].as_str().unwrap());
        let text = format!("Question: {question}\nAnswer: {answer}");
        check(&engine, "GSM8K, row 0", &text, Some(132), 14.2898);
    }
    if let Some(path) = file(SHAKESPEARE) {
        let text: String = std::fs::read_to_string(path).unwrap().chars().take(1500).collect();
        check(&engine, "Tiny Shakespeare, 1,500 characters", &text, Some(422), 38.9146);
    }
    // The file's own template would put words of the system first; the figure was taken without them.
    let prompt =
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
    let mut ids = engine.text().encode(prompt).unwrap();
    let mut answer = Vec::new();
    for _ in 0..16 {
        let next = greedy(&engine, &ids);
        if engine.text().ends().contains(&next) {
            break;
        }
        ids.push(next);
        answer.push(next);
    }
    let answer = engine.text().decode(&answer).unwrap();
    eprintln!("{answer}");
    assert_eq!(answer, "The capital of France is Paris.");
    // And with the template.
    let question = Message::text(Role::User, "What is the capital of France?");
    let sampling = Sampling { max_tokens: 16, ..Sampling::default() };
    let request = Request {
        id: "france".into(),
        messages: vec![question],
        raw: None,
        samplings: vec![sampling],
        seed: 0,
    };
    let told = engine.generate(&[request]).unwrap();
    eprintln!("with the template: {}", told[0][0].text);
    assert!(told[0][0].text.contains("Paris"));
}

/// Token for token what transformers' `generate` makes of the same file (`tests/goldens/smollm2/make.py`).
#[test]
fn greedy_answers_equal_transformers() {
    #[derive(serde::Deserialize)]
    struct Greedy {
        question: String,
        prompt: Vec<u32>,
        tokens: Vec<u32>,
        lead: f64,
    }
    let Some(path) = file(MODEL) else { return };
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/smollm2/greedy.json");
    let told: Vec<Greedy> = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
    let engine = Engine::load(path.to_str().unwrap(), &options).unwrap();
    let request = |told: &Greedy| Request {
        id: told.question.clone(),
        messages: vec![Message::text(Role::User, told.question.clone())],
        samplings: vec![Sampling { max_tokens: 64, ignore_eos: true, ..Sampling::default() }],
        ..Request::default()
    };
    let requests: Vec<Request> = told.iter().map(request).collect();
    let answers = engine.generate(&requests).unwrap();
    assert_eq!(told.len(), 3);
    for ((told, request), answers) in told.iter().zip(&requests).zip(&answers) {
        assert_eq!(engine.prompt(&request.messages).unwrap().ids, told.prompt, "{}", told.question);
        assert_eq!((told.tokens.len(), told.lead > 1e-3), (64, true));
        assert_eq!(answers[0].token_ids, told.tokens, "{}", told.question);
    }
}

/// The likeliest next token.
fn greedy(engine: &Engine, ids: &[u32]) -> u32 {
    use savi_nn::layers::Mode;
    let model = engine.model();
    let forest = std::sync::Arc::new(savi_nn::Forest::sequence(ids.len()));
    let embeds = model.embed(ids, &[], Mode::INFER).unwrap();
    let hidden = model.hidden(&embeds, &forest, Mode::INFER).unwrap();
    let last = hidden.narrow(0, ids.len() - 1, 1).unwrap();
    let logits = model.logits(&last, Mode::INFER).unwrap().squeeze(0).unwrap();
    logits.argmax(0).unwrap().to_scalar().unwrap()
}
