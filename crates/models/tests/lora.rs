//! LoRA as PEFT computes it: options, files and gradients of `tests/goldens/lora-options`, whose
//! `make.py` made the data.

mod drawn;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use savi_models::{
    LoraConfig, LoraOptions, Model, Modules, attach_adapter, merge_adapters, read_adapter,
    read_directory, write_adapter,
};
use savi_nn::check::Drawn;
use savi_nn::layers::Mode;
use savi_nn::{Forest, TensorSource, Weight, Weights, check};
use serde_json::{Value, json};

use drawn::{cases, difference, ids, io, model};

/// Of the largest logit.
const LOGITS: f64 = 1e-4;
/// Of the largest element of a gradient.
const GRADIENTS: f64 = 1e-3;

const PREFIX: &str = "base_model.model.";
const BASE: &str = "qwen2-plain";
const OPTIONS: [&str; 4] = ["ranks", "biases", "regex", "layers"];
const FAMILIES: [&str; 6] = [
    "llama-biased",
    "mistral-windowed",
    "qwen2-plain",
    "qwen3-plain",
    "phi3-plain",
    "gemma3-pattern",
];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/lora-options").join(path)
}

fn load(path: &str) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(golden(path), &Device::Cpu)
}

fn base() -> Model {
    model(&cases()[BASE], DType::F32)
}

fn logits(model: &Model, tokens: &[u32], mode: Mode) -> Result<Tensor> {
    let forest = Arc::new(Forest::sequence(tokens.len()));
    let hidden = model.hidden(&model.embed(tokens, &[], mode)?, &forest, mode)?;
    model.logits(&hidden, mode)
}

/// Log-probabilities of the last 8 tokens, with what dropout needs.
fn logps(model: &Model, tokens: &[u32], mode: Mode) -> Result<Tensor> {
    let forest = Arc::new(Forest::sequence(tokens.len()));
    let hidden = model.hidden(&model.embed(tokens, &[], mode)?, &forest, mode)?;
    let n = tokens.len();
    model.logps(&hidden.narrow(0, n - 9, 8)?, &tokens[n - 8..], mode)
}

fn bits(x: &Tensor) -> Vec<Vec<f32>> {
    x.to_vec2().unwrap()
}

/// The name of an adapter's weight in files.
fn key<T>(weight: &Weight, files: &HashMap<String, T>, before: &str) -> String {
    let name = weight.name();
    let wrapped = name.replace(".bias", ".base_layer.bias");
    let candidates = [name, &wrapped].map(|name| format!("{before}{PREFIX}{name}"));
    candidates.into_iter().find(|key| files.contains_key(key)).unwrap()
}

fn compare_gradients(
    case: &str,
    model: &Model,
    tokens: &[u32],
    io: &HashMap<String, Tensor>,
    before: &str,
) -> Result<()> {
    let logps = logps(model, tokens, Mode::TRAIN)?;
    let grads = logps.sum_all()?.backward()?;
    let trainable = model.params().trainable();
    let wanted = io.keys().filter(|key| key.starts_with(before)).count();
    assert_eq!(trainable.len(), wanted, "{case}");
    // No frozen weight has one. Four sums with one side that nothing trains have: the first layer's
    // queries, keys and values with what the adapter adds, and its input with what attention adds.
    let all = grads.get_ids().count();
    assert!(all <= wanted + 4, "{case}: {all} gradients for {wanted} weights that train");
    for weight in trainable {
        let key = key(&weight, io, before);
        let grad = weight.in_checkpoint_layout(grads.get(&weight.tensor(true)).unwrap())?;
        let off = difference(&grad, &io[&key])?;
        assert!(off < GRADIENTS, "{case}: {key} differs by {off:e}");
    }
    Ok(())
}

/// The file's options without its dropout: PEFT's numbers are those of evaluation.
fn without_dropout(case: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(golden(case).join("adapter_config.json")).unwrap())
            .unwrap();
    config["lora_dropout"] = json!(0.0);
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let file = "adapter_model.safetensors";
    std::fs::copy(golden(case).join(file), dir.path().join(file)).unwrap();
    dir
}

#[test]
fn options_and_files_follow_peft() -> Result<()> {
    for case in OPTIONS {
        let io = load(&format!("{case}/io.safetensors"))?;
        let tokens = ids(&io["input_ids"])?;
        let model = base();
        let without = bits(&logits(&model, &tokens, Mode::INFER)?);
        let stored = model.export(DType::F32)?;
        read_adapter(&model, "it", without_dropout(case).path()).unwrap();
        let on = logits(&model, &tokens, Mode::INFER)?;
        let off = difference(&on.narrow(0, tokens.len() - 4, 4)?, &io["logits"])?;
        assert!(off < LOGITS, "{case}: logits differ by {off:e}");
        let off = difference(&logps(&model, &tokens, Mode::INFER)?, &io["logps"])?;
        assert!(off < LOGITS, "{case}: log-probabilities differ by {off:e}");
        compare_gradients(case, &model, &tokens, &io, "grad.")?;
        assert_eq!(without, bits(&logits(&model, &tokens, Mode::REFERENCE)?), "{case}");

        let tied = matches!(case, "biases" | "layers");
        assert_eq!(model.params().merge_adapter("it").is_err(), tied, "{case}");
        if !tied {
            let off = difference(&logits(&model, &tokens, Mode::INFER)?, &on)?;
            assert!(off < LOGITS, "{case}: merged differs by {off:e}");
            assert_eq!(without, bits(&logits(&model, &tokens, Mode::REFERENCE)?), "{case}");
            model.params().unmerge_adapter()?;
        }
        assert_eq!(bits(&on), bits(&logits(&model, &tokens, Mode::INFER)?), "{case}");
        for (name, value) in model.export(DType::F32)? {
            check::close(&value, &stored[&name], 0.0)?;
        }
    }
    Ok(())
}

#[test]
fn gradients_of_every_target_follow_autograd_in_every_family() -> Result<()> {
    let io_all = load("families.safetensors")?;
    let cases = cases();
    for case in FAMILIES {
        let (model, tokens) = (model(&cases[case], DType::F32), ids(&io(case)?["input_ids"])?);
        let config = LoraConfig { r: 2, lora_alpha: 1.0, ..LoraConfig::default() };
        let names = attach_adapter(&model, "it", &config, 1, |_| true).unwrap();
        for weight in model.params().trainable() {
            let shape: Vec<usize> = weight.tensor(false).dims().iter().rev().copied().collect();
            let name = format!("{PREFIX}{}", weight.name());
            weight.import(&Drawn.tensor(&name, &shape)?.unwrap())?;
        }
        let off =
            difference(&logps(&model, &tokens, Mode::INFER)?, &io_all[&format!("{case}.logps")])?;
        assert!(off < LOGITS, "{case}: log-probabilities differ by {off:e}");
        let before = format!("{case}.grad.");
        assert_eq!(names.len() * 2, io_all.keys().filter(|k| k.starts_with(&before)).count());
        compare_gradients(case, &model, &tokens, &io_all, &before)?;
    }
    Ok(())
}

/// What PEFT wrote, read and written again: the same tensors, and the same options.
#[test]
fn what_is_written_is_what_peft_writes() -> Result<()> {
    for case in OPTIONS {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("adapter");
        let model = base();
        let config = read_adapter(&model, "it", &golden(case)).unwrap();
        write_adapter(&model, "it", &config, &dir).unwrap();
        let theirs = load(&format!("{case}/adapter_model.safetensors"))?;
        let ours =
            candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu)?;
        let keys = |tensors: &HashMap<String, Tensor>| -> BTreeSet<String> {
            tensors.keys().cloned().collect()
        };
        assert_eq!(keys(&ours), keys(&theirs), "{case}");
        for (name, value) in &ours {
            check::close(value, &theirs[name], 0.0)?;
        }
        let read = |dir: &Path| -> BTreeMap<String, Value> {
            let text = std::fs::read(dir.join("adapter_config.json")).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let theirs = read(&golden(case));
        for (key, value) in read(&dir) {
            assert_eq!(value, theirs[&key], "{case}: {key}");
        }
        assert_eq!(read_adapter(&base(), "it", &dir).unwrap(), config, "{case}");
    }
    Ok(())
}

/// Adapters side by side: each gives what it gives alone, and none gives the base.
#[test]
fn adapters_are_switched() -> Result<()> {
    let tokens = ids(&load("ranks/io.safetensors")?["input_ids"])?;
    let alone = |case: &str| -> Result<Vec<Vec<f32>>> {
        let model = base();
        read_adapter(&model, case, &golden(case)).unwrap();
        Ok(bits(&logits(&model, &tokens, Mode::INFER)?))
    };
    let model = base();
    let without = bits(&logits(&model, &tokens, Mode::INFER)?);
    for case in OPTIONS {
        read_adapter(&model, case, &golden(case)).unwrap();
    }
    assert_eq!(model.params().adapters(), OPTIONS);
    for case in OPTIONS {
        model.params().set_active_adapter(Some(case))?;
        assert_eq!(bits(&logits(&model, &tokens, Mode::INFER)?), alone(case)?, "{case}");
    }
    model.params().set_active_adapter(None)?;
    assert_eq!(bits(&logits(&model, &tokens, Mode::INFER)?), without);
    model.params().set_active_adapter(Some("ranks"))?;
    model.params().remove_adapter("regex")?;
    let on = logits(&model, &tokens, Mode::INFER)?;
    merge_adapters(model.params()).unwrap();
    assert!(model.params().adapters().is_empty());
    let off = difference(&logits(&model, &tokens, Mode::REFERENCE)?, &on)?;
    assert!(off < LOGITS, "merged differs by {off:e}");
    Ok(())
}

/// In a video-language model an adapter of the decoder is listed layer by layer, under the names of
/// transformers: the options alone would put PEFT on the tower, too.
#[test]
fn a_decoders_adapter_is_listed_under_the_modules_names() -> Result<()> {
    let files = read_directory(&golden("../llava-onevision/model")).unwrap();
    let weights = Weights::Checkpoint(Box::new(files.tensors));
    let model =
        Model::new(&files.config, &files.processors, weights, DType::F32, &Device::Cpu).unwrap();
    let options = LoraOptions {
        target_modules: Some(Modules::Names(vec!["q_proj".to_owned()])),
        ..LoraOptions::default()
    };
    let config = LoraConfig { r: 2, lora_alpha: 4.0, options };
    let names = attach_adapter(&model, "it", &config, 1, |name| model.in_decoder(name)).unwrap();
    assert_eq!(names.len(), 2);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("adapter");
    write_adapter(&model, "it", &config, &dir).unwrap();
    let text = std::fs::read(dir.join("adapter_config.json")).unwrap();
    let written: Value = serde_json::from_slice(&text).unwrap();
    let modules = [0, 1].map(|i| format!("model.language_model.layers.{i}.self_attn.q_proj"));
    assert_eq!(written["target_modules"], json!(modules));
    let tensors =
        candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu)?;
    assert!(tensors.contains_key(&format!("{PREFIX}{}.lora_B.weight", modules[1])));
    model.params().remove_adapter("it")?;
    read_adapter(&model, "again", &dir).unwrap();
    // The names of the checkpoint serve as well.
    model.params().remove_adapter("again")?;
    let renamed =
        |name: &str| name.replace("model.model.language_model.", "model.language_model.model.");
    let tensors: BTreeMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (renamed(&name), tensor)).collect();
    savi_models::write_safetensors(&dir.join("adapter_model.safetensors"), &tensors).unwrap();
    read_adapter(&model, "again", &dir).unwrap();
    Ok(())
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let model = base();
    let text = std::fs::read(golden("ranks").join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    let refused = |key: &str, value: Value| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config.clone();
        config[key] = value;
        std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
        let file = "adapter_model.safetensors";
        std::fs::copy(golden("ranks").join(file), dir.path().join(file)).unwrap();
        read_adapter(&model, "it", dir.path()).unwrap_err().to_string()
    };
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("use_qalora", json!(true)),
        ("ensure_weight_tying", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!(false)),
        ("lora_dropout", json!(1.0)),
        ("layer_replication", json!([[0, 1], [0, 1]])),
        ("trainable_token_indices", json!([1, 2])),
        ("target_parameters", json!(["a"])),
        ("alora_invocation_tokens", json!([1])),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("something_new", json!(1)),
        ("bias", json!("some")),
        ("r", json!(0)),
        ("rank_pattern", json!({"(": 2})),
        ("target_modules", json!("(")),
        ("target_modules", json!(["lm_head", "q_proj"])),
        ("target_modules", json!(["embed_tokens"])),
        ("target_modules", json!(".*mlp.*")),
        ("target_modules", json!(["nothing"])),
        ("target_modules", Value::Null),
        ("layers_pattern", json!("layers")),
        ("modules_to_save", json!(["classifier"])),
        ("modules_to_save", json!(["proj"])),
    ] {
        let error = refused(key, value.clone());
        assert!(error.contains(key), "{key} = {value}: {error}");
    }
    // Tensors that are missing or too many, and ranks that are others.
    let error = refused("target_modules", json!(["q_proj"]));
    assert!(error.contains("down_proj") && error.contains("fits no layer"), "{error}");
    let error = refused("r", json!(5));
    assert!(error.contains("shape"), "{error}");
    assert!(model.params().adapters().is_empty());
}

/// With SAVI_LORA_OUT=DIR, folders for `tests/goldens/lora/check.py`, which loads them in PEFT.
#[test]
fn adapters_for_peft() -> Result<()> {
    let Some(out) = std::env::var_os("SAVI_LORA_OUT").map(PathBuf::from) else { return Ok(()) };
    let tokens = ids(&io(BASE)?["input_ids"])?;
    for case in OPTIONS {
        let model = base();
        let config = {
            let read = base();
            read_adapter(&read, "it", &golden(case)).unwrap()
        };
        attach_adapter(&model, "it", &config, 3, |_| true).unwrap();
        for weight in model.params().trainable() {
            let value = weight.tensor(false);
            let noise = check::normal(value.dims(), weight.name(), DType::F32)?;
            weight.set(&(value + (noise * 0.2)?)?)?;
        }
        let dir = out.join(case);
        std::fs::create_dir_all(&dir).unwrap();
        write_adapter(&model, "it", &config, &dir.join("adapter")).unwrap();
        let on = logits(&model, &tokens, Mode::INFER)?;
        let row = Tensor::from_slice(&tokens, tokens.len(), &Device::Cpu)?.to_dtype(DType::I64)?;
        let tensors = BTreeMap::from([("input_ids".to_owned(), row), ("logits".to_owned(), on)]);
        savi_models::write_safetensors(&dir.join("logits.safetensors"), &tensors).unwrap();
    }
    Ok(())
}
