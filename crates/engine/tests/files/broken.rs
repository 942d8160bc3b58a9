//! Checkpoints that are damaged or do not fit: each error names file, tensor and what was expected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use savi_engine::{Engine, EngineOptions, StoredDType};
use savi_models::{read_directory, write_safetensors};
use serde_json::{Value, json};

use crate::drawn::{drawn, write};

const UP: &str = "model.layers.1.mlp.up_proj.weight";

fn refused(dir: &Path) -> String {
    let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
    let loaded = Engine::load(&dir.to_string_lossy(), &options);
    match loaded {
        Ok(_) => panic!("a broken model was opened"),
        Err(error) => error.to_string(),
    }
}

fn names(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{error:?} does not name {part:?}");
    }
}

fn cut(path: &Path, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - bytes).unwrap();
}

fn tensors(dir: &Path) -> BTreeMap<String, Tensor> {
    read_directory(dir).unwrap().tensors.load_all().unwrap().into_iter().collect()
}

fn changed(path: PathBuf, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
}

#[test]
fn one_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    write(&model, "qwen2", StoredDType::F32, None);
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let path = weights.display().to_string();

    // Cut within the values, within the header, within its length.
    cut(&weights, 10);
    let last = "model.norm.weight";
    names(&refused(&model), &[&path, last, "cut off", "by its header"]);
    for (length, told) in [(200, "its header alone"), (5, "5 bytes"), (0, "0 bytes")] {
        fs::write(&weights, &whole[..length]).unwrap();
        names(&refused(&model), &[&path, told]);
    }
    fs::write(&weights, b"a page that says: not found").unwrap();
    names(&refused(&model), &[&path]);
    fs::remove_file(&weights).unwrap();
    names(&refused(&model), &[&path]);
    fs::write(&weights, &whole).unwrap();

    let all = tensors(&model);
    let mut without = all.clone();
    without.remove(UP);
    write_safetensors(&weights, &without).unwrap();
    names(&refused(&model), &[&path, UP, "[96, 64]"]);
    let mut other = all.clone();
    other.insert(UP.to_owned(), drawn(UP, &[64, 96]));
    write_safetensors(&weights, &other).unwrap();
    names(&refused(&model), &[&path, UP, "[64, 96]", "[96, 64]"]);
    let mut more = all;
    more.insert("model.layers.2.mlp.up_proj.weight".to_owned(), drawn(UP, &[96, 64]));
    write_safetensors(&weights, &more).unwrap();
    names(&refused(&model), &["model.layers.2.mlp.up_proj.weight", "no place"]);
}

#[test]
fn shards() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    write(&model, "llama", StoredDType::F16, Some(30_000));
    let index = model.join("model.safetensors.index.json");
    let kept = fs::read(&index).unwrap();
    let value: Value = serde_json::from_slice(&kept).unwrap();
    let shard = value["weight_map"][UP].as_str().unwrap().to_owned();
    let path = model.join(&shard);
    let whole = fs::read(&path).unwrap();
    let place = path.display().to_string();

    cut(&path, 1);
    names(&refused(&model), &[&place, "cut off"]);
    fs::remove_file(&path).unwrap();
    names(&refused(&model), &["index.json", &place, "does not exist"]);
    fs::write(&path, &whole).unwrap();

    for outside in ["../model.safetensors", "/etc/passwd", "..", "a/b.safetensors", ""] {
        changed(index.clone(), |value| value["weight_map"][UP] = json!(outside));
        names(&refused(&model), &["index.json", UP, "outside"]);
    }
    changed(index.clone(), |value| value["weight_map"][UP] = json!(7));
    names(&refused(&model), &["index.json", UP]);
    let other = value["weight_map"]["model.embed_tokens.weight"].as_str().unwrap();
    changed(index.clone(), |value| value["weight_map"][UP] = json!(other));
    names(&refused(&model), &["index.json", UP, other]);
    changed(index.clone(), |value| {
        value["weight_map"].as_object_mut().unwrap().remove(UP);
    });
    names(&refused(&model), &["index.json", UP, "[96, 64]"]);
    fs::write(&index, b"{}").unwrap();
    names(&refused(&model), &["index.json", "weight_map"]);
}

#[test]
fn what_goes_with_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    write(&model, "qwen2", StoredDType::BF16, None);
    let config = model.join("config.json");
    let kept = fs::read(&config).unwrap();
    changed(config.clone(), |value| value["model_type"] = json!("mamba"));
    names(&refused(&model), &["config.json", "model_type = mamba", "llama", "qwen3"]);
    changed(config.clone(), |value| {
        value.as_object_mut().unwrap().remove("model_type");
    });
    names(&refused(&model), &["config.json", "model_type"]);
    fs::write(&config, "{").unwrap();
    names(&refused(&model), &[&config.display().to_string()]);
    fs::remove_file(&config).unwrap();
    names(&refused(&model), &[&config.display().to_string()]);
    fs::write(&config, kept).unwrap();

    let template = model.join("chat_template.jinja");
    fs::write(&template, "{% for message in messages %}{{ message.role }").unwrap();
    names(&refused(&model), &["chat template"]);
    fs::remove_file(&template).unwrap();
    fs::write(model.join("chat_template.json"), r#"{"chat_template": "{% if %}"}"#).unwrap();
    names(&refused(&model), &["chat template"]);
    fs::remove_file(model.join("chat_template.json")).unwrap();

    let tokenizer = model.join("tokenizer.json");
    fs::write(&tokenizer, "{}").unwrap();
    names(&refused(&model), &["tokenizer.json"]);
    fs::remove_file(&tokenizer).unwrap();
    names(&refused(&model), &[&tokenizer.display().to_string()]);
}
