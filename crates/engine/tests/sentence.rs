//! The sentence encoder against transformers, and a real one where it is at hand.
//! `tests/goldens/sentence/make.py` made the data.

// A test that is skipped says so, and one that measures what it found.
#![allow(clippy::print_stderr)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use savi_engine::SentenceEncoder;
use savi_nn::TensorSource;
use savi_nn::check::Drawn;
use savi_schema::{Embed, RgbImage};
use serde_json::{Value, json};

/// Largest difference in a component of a unit vector.
const TOLERANCE: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/sentence").join(name)
}

/// A weight from its name and shape, as `make.py` draws it.
fn drawn(name: &str, shape: &[usize]) -> Tensor {
    Drawn.tensor(name, shape).unwrap().unwrap()
}

/// A sentence-transformers directory with the golden's weights.
fn directory(io: &Value, pooling: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    };
    write("config.json", &io["config"]);
    write("sentence_bert_config.json", &json!({"max_seq_length": io["longest"]}));
    let module = |kind: &str, path: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules =
        [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2")];
    write("modules.json", &json!(modules));
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    write("1_Pooling/config.json", pooling);
    std::fs::copy(golden("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let shapes: HashMap<String, Vec<usize>> = serde_json::from_value(io["shapes"].clone()).unwrap();
    let weights: HashMap<String, Tensor> =
        shapes.iter().map(|(name, shape)| (name.clone(), drawn(name, shape))).collect();
    candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn io() -> Value {
    serde_json::from_slice(&std::fs::read(golden("io.json")).unwrap()).unwrap()
}

#[test]
fn embeddings_are_those_of_transformers() {
    let io = io();
    let texts: Vec<String> = serde_json::from_value(io["texts"].clone()).unwrap();
    for (kind, pooling) in [
        ("mean", json!({"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true})),
        ("cls", json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false})),
        ("mean", json!({"pooling_mode": "mean"})),
    ] {
        let dir = directory(&io, &pooling);
        let encoder = SentenceEncoder::load(dir.path()).unwrap();
        let got = encoder.embed_texts(&texts).unwrap();
        let told: Vec<Vec<f64>> = serde_json::from_value(io[kind].clone()).unwrap();
        assert_eq!(got.len(), told.len());
        for ((got, told), text) in got.iter().zip(&told).zip(&texts) {
            let off = got.iter().zip(told).map(|(&a, b)| (f64::from(a) - b).abs());
            let worst = off.fold(0.0, f64::max);
            assert!(worst < TOLERANCE, "{kind}, {text:?}: {worst}");
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let io = io();
    let mean = json!({"pooling_mode_mean_tokens": true});
    let error =
        |dir: &tempfile::TempDir| SentenceEncoder::load(dir.path()).unwrap_err().to_string();
    let dir = directory(&io, &json!({"pooling_mode_max_tokens": true}));
    assert!(error(&dir).contains("max_tokens"), "{}", error(&dir));
    let dir = directory(&io, &mean);
    let encoder = SentenceEncoder::load(dir.path()).unwrap();
    let image = RgbImage { width: 1, height: 1, data: vec![0, 0, 0].into() };
    assert!(encoder.embed_images(&[image]).unwrap_err().to_string().contains("not pictures"));
    for (key, value) in [("model_type", "roberta"), ("hidden_act", "relu6")] {
        let mut changed = io["config"].clone();
        changed[key] = json!(value);
        std::fs::write(dir.path().join("config.json"), changed.to_string()).unwrap();
        assert!(error(&dir).contains(value), "{}", error(&dir));
    }
    let dir = directory(&io, &mean);
    let modules = json!([{"path": "", "type": "a.Transformer"}, {"path": "2", "type": "a.Dense"}]);
    std::fs::write(dir.path().join("modules.json"), modules.to_string()).unwrap();
    assert!(error(&dir).contains("Dense"), "{}", error(&dir));
}

/// all-MiniLM-L6-v2: opt in with its directory.
#[test]
fn cosines_of_all_minilm() {
    const VARIABLE: &str = "SAVI_MINILM";
    let Some(dir) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        eprintln!("skipped: {VARIABLE} names no sentence-transformers directory");
        return;
    };
    let encoder = SentenceEncoder::load(&dir).unwrap();
    let texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ];
    let vectors = encoder.embed_texts(&texts.map(str::to_owned)).unwrap();
    for (other, told) in [(1, 0.695), (2, 0.943), (3, 0.257)] {
        let cosine: f32 = vectors[0].iter().zip(&vectors[other]).map(|(a, b)| a * b).sum();
        eprintln!("{:?}: {cosine:.4}, expected {told}", texts[other]);
        assert!((cosine - told).abs() < 1e-3, "{:?}: {cosine}, expected {told}", texts[other]);
    }
}
