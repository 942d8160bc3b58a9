//! Hugging Face directories out of Hugging Face directories: shards and their index, types of values,
//! the files beside them, adapters merged.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use savi_engine::{SaveOptions, StoredDType, convert, merge};
use savi_models::{LoraConfig, attach_adapter, read_directory, write_adapter};
use serde_json::Value;

use crate::drawn::{apart, asked, drawn, open, write};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap();
    names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn shards_and_their_index_are_those_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    write(&source, "qwen2", StoredDType::F32, None);
    let options = SaveOptions { max_shard_size: 60_000, ..SaveOptions::default() };
    convert(&text(&source), &out, &options).unwrap();

    let index = json(&out.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let tensors = read_directory(&source).unwrap().tensors;
    let sizes: u64 =
        tensors.shapes().iter().map(|(.., s)| 4 * s.iter().product::<usize>() as u64).sum();
    assert_eq!(index["metadata"]["total_size"], sizes);
    assert_eq!(index["metadata"]["total_parameters"], sizes / 4);
    let shards: BTreeSet<&str> = map.values().map(|shard| shard.as_str().unwrap()).collect();
    assert!(shards.len() > 3, "{shards:?}");
    for (i, shard) in shards.iter().enumerate() {
        assert_eq!(*shard, format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()));
        // What is larger than a shard stands alone in one.
        let held = map.values().filter(|held| held.as_str() == Some(shard)).count();
        let length = fs::metadata(out.join(shard)).unwrap().len();
        assert!(length < 62_000 || held == 1, "{shard}: {length} bytes, {held} tensors");
    }
    let (before, after) = (open(&source, "f32"), open(&out, "f32"));
    assert_eq!(asked(&before), asked(&after));

    // Everything else is byte for byte what it was, but for what is no part of the model.
    let mut expected = names(&source);
    expected.remove("model.safetensors");
    expected.remove("README.md");
    let mut got = names(&out);
    got.retain(|name| !name.starts_with("model"));
    assert_eq!(got, expected);
    for name in got.iter().filter(|name| *name != "config.json") {
        assert_eq!(
            fs::read(source.join(name)).unwrap(),
            fs::read(out.join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(json(&out.join("config.json")), json(&source.join("config.json")));
}

#[test]
fn types_of_values_are_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    write(&source, "llama", StoredDType::F32, None);
    let whole = read_directory(&source).unwrap().tensors;
    let expected = asked(&open(&source, "f32"));
    for (dtype, name, tolerance) in [
        (StoredDType::F16, "f16", 5e-3),
        (StoredDType::BF16, "bf16", 4e-2),
        (StoredDType::F32, "f32", 0.0),
    ] {
        let out = dir.path().join(name);
        let options = SaveOptions { dtype: Some(dtype), ..SaveOptions::default() };
        convert(&text(&source), &out, &options).unwrap();
        assert_eq!(json(&out.join("config.json"))["dtype"], dtype.name());
        let tensors = read_directory(&out).unwrap().tensors;
        for (tensor, kind, _) in tensors.shapes() {
            assert_eq!(kind, name);
            let value = tensors.load(&tensor).unwrap().unwrap();
            let want = whole.load(&tensor).unwrap().unwrap().to_dtype(dtype.dtype()).unwrap();
            let list = |x: Tensor| {
                let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                x.to_vec1::<f32>().unwrap()
            };
            assert_eq!(list(value), list(want), "{tensor}");
        }
        // Computed in f32 and in bf16.
        let (_, _, logps) = asked(&open(&out, "f32"));
        let off = apart(&logps, &expected.2);
        assert!(off <= tolerance, "{name}: log-probabilities differ by {off}");
        let (_, _, logps) = asked(&open(&out, "bf16"));
        let off = apart(&logps, &expected.2);
        assert!(off < 0.25, "{name} in bf16: log-probabilities differ by {off}");
        // And from there back to f32, by the model that runs.
        let again = dir.path().join(format!("{name}-again"));
        open(&out, "f32").save(&again, StoredDType::F32).unwrap();
        assert_eq!(asked(&open(&again, "f32")), asked(&open(&out, "f32")));
        assert_eq!(names(&again), names(&out));
        let same = ["tokenizer_config.json", "generation_config.json", "preprocessor_config.json"];
        for name in same {
            assert_eq!(fs::read(again.join(name)).unwrap(), fs::read(source.join(name)).unwrap());
        }
    }
}

#[test]
fn what_f16_cannot_hold_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    write(&source, "qwen3", StoredDType::F32, None);
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut tensors = read_directory(&source).unwrap().tensors.load_all().unwrap();
    let large = (&tensors[name] * 1e6).unwrap();
    tensors.insert(name.to_owned(), large);
    let sorted = tensors.into_iter().collect();
    savi_models::write_safetensors(&source.join("model.safetensors"), &sorted).unwrap();
    let options = SaveOptions { dtype: Some(StoredDType::F16), ..SaveOptions::default() };
    let error = convert(&text(&source), &out, &options).unwrap_err().to_string();
    for part in ["model.safetensors", name, "65504", "bf16"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(names(dir.path()), BTreeSet::from(["source".to_owned()]));
}

#[test]
fn what_is_there_is_replaced_only_when_asked_and_never_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    write(&source, "qwen2", StoredDType::BF16, None);
    let keep = SaveOptions::default();
    let replace = SaveOptions { overwrite: true, ..keep };
    convert(&text(&source), &out, &keep).unwrap();
    let error = convert(&text(&source), &out, &keep).unwrap_err().to_string();
    assert!(error.contains("--overwrite"), "{error}");
    convert(&text(&source), &out, &replace).unwrap();
    for inside in [source.clone(), dir.path().to_owned()] {
        assert!(convert(&text(&source), &inside, &replace).is_err());
    }
    let error = convert(&text(&source), &source, &replace).unwrap_err().to_string();
    assert!(error.contains("while"), "{error}");
    assert_eq!(names(dir.path()), BTreeSet::from(["out".to_owned(), "source".to_owned()]));
    assert_eq!(asked(&open(&source, "f32")), asked(&open(&out, "f32")));
}

/// Adapters one after the other: the weights of an engine that has merged them.
#[test]
fn merged_adapters_are_in_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    write(&base, "qwen3", StoredDType::F32, None);
    let mut adapters = Vec::new();
    for (i, part) in ["q_proj", "mlp"].into_iter().enumerate() {
        let engine = open(&base, "f32");
        let params = engine.model().params();
        let config = LoraConfig { r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
        attach_adapter(engine.model(), part, &config, 3, |name| name.contains(part)).unwrap();
        for weight in params.trainable() {
            let name = format!("{i}{}", weight.name());
            weight.set(&drawn(&name, weight.tensor(false).dims())).unwrap();
        }
        let adapter = dir.path().join(part);
        write_adapter(engine.model(), part, &config, &adapter).unwrap();
        adapters.push(adapter);
    }
    let mut engine = open(&base, "f32");
    let plain = asked(&engine);
    adapters.iter().for_each(|adapter| engine.merge_adapter(adapter).unwrap());

    let out = dir.path().join("merged");
    merge(&text(&base), &adapters, &out, &SaveOptions::default()).unwrap();
    let merged = asked(&open(&out, "f32"));
    assert_eq!(merged, asked(&engine));
    assert!(apart(&merged.2, &plain.2) > 0.1);

    // In bf16 as well, and the order of stored types is kept without a word.
    let half = dir.path().join("half");
    let options = SaveOptions { dtype: Some(StoredDType::BF16), ..SaveOptions::default() };
    merge(&text(&base), &adapters, &half, &options).unwrap();
    let off = apart(&asked(&open(&half, "f32")).2, &merged.2);
    assert!(off < 4e-2, "{off}");
    let missing = [dir.path().join("nowhere")];
    let error = merge(&text(&base), &missing, &dir.path().join("x"), &SaveOptions::default());
    assert!(error.unwrap_err().to_string().contains("nowhere"));
}
