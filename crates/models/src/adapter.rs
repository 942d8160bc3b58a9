//! LoRA adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use savi_nn::Params;
use savi_nn::layers::LoraConfig;
use serde_json::{Value, json};

use crate::{ModelError, write_safetensors};

/// What PEFT writes before every name.
const PREFIX: &str = "base_model.model.";

/// Attaches a fresh adapter to every linear layer whose name `targets` accepts, freezes everything
/// else and gives the names.
pub fn attach_adapter(
    params: &Params,
    config: &LoraConfig,
    seed: u64,
    targets: impl Fn(&str) -> bool,
) -> Result<Vec<String>, ModelError> {
    params.set_trains(|_| false);
    let mut names = Vec::new();
    for linear in params.linears() {
        if targets(linear.name()) {
            linear.attach_lora(config, seed)?;
            names.push(linear.name().to_owned());
        }
    }
    Ok(names)
}

/// Adds every adapter to its weights and removes it.
pub fn merge_adapters(params: &Params) -> Result<(), ModelError> {
    for linear in params.linears() {
        linear.merge_lora()?;
    }
    Ok(())
}

/// Writes the attached adapter as PEFT does. The folder appears whole or not at all.
pub fn write_adapter(params: &Params, config: &LoraConfig, dir: &Path) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { path: dir.to_owned(), source };
    let partial = dir.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io)?;
    }
    fs::create_dir_all(&partial).map_err(io)?;
    let mut tensors = BTreeMap::new();
    let mut modules = Vec::new();
    for linear in params.linears() {
        let weights = linear.adapter_weights();
        if !weights.is_empty() {
            modules.push(linear.name().to_owned());
        }
        for weight in weights {
            let value = weight.exported()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
            tensors.insert(format!("{PREFIX}{}", weight.name()), value);
        }
    }
    write_safetensors(&partial.join("adapter_model.safetensors"), &tensors)?;
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": config.r, "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false, "inference_mode": true,
        "target_modules": modules, "use_rslora": false, "use_dora": false,
        "base_model_name_or_path": null,
    });
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    fs::write(partial.join("adapter_config.json"), text).map_err(io)?;
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(io)?;
    }
    fs::rename(&partial, dir).map_err(io)
}

/// Attaches the adapter of a PEFT folder.
pub fn read_adapter(params: &Params, dir: &Path) -> Result<(), ModelError> {
    let path = dir.join("adapter_config.json");
    let text = fs::read_to_string(&path).map_err(|source| ModelError::Io { path: path.clone(), source })?;
    let bad = |reason: String| ModelError::Malformed { path: path.clone(), reason };
    let config: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    for key in ["use_rslora", "use_dora", "fan_in_fan_out"] {
        if config.get(key).and_then(Value::as_bool).unwrap_or(false) {
            return Err(ModelError::Unsupported {
                key: format!("adapter: {key}"),
                value: "true".to_owned(),
                supported: "false".to_owned(),
            });
        }
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if config.get(key).and_then(Value::as_object).is_some_and(|map| !map.is_empty()) {
            return Err(ModelError::Unsupported {
                key: format!("adapter: {key}"),
                value: config[key].to_string(),
                supported: "{}".to_owned(),
            });
        }
    }
    let r = config.get("r").and_then(Value::as_u64).filter(|&r| r > 0);
    let alpha = config.get("lora_alpha").and_then(Value::as_f64);
    let (Some(r), Some(lora_alpha)) = (r, alpha) else {
        return Err(bad("r and lora_alpha must be numbers".to_owned()));
    };
    let lora = LoraConfig { r: r as usize, lora_alpha };
    let file = dir.join("adapter_model.safetensors");
    let bytes = fs::read(&file).map_err(|source| ModelError::Io { path: file.clone(), source })?;
    let malformed = |reason: String| ModelError::Malformed { path: file.clone(), reason };
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| malformed(e.to_string()))?;
    for linear in params.linears() {
        let mut take = |which: &str| -> Option<Tensor> {
            tensors.remove(&format!("{PREFIX}{}.{which}.weight", linear.name()))
        };
        match (take("lora_A"), take("lora_B")) {
            (None, None) => {}
            (Some(a), Some(b)) => {
                linear.attach_lora(&lora, 0)?;
                let weights = linear.adapter_weights();
                weights[0].import(&a)?;
                weights[1].import(&b)?;
            }
            _ => return Err(malformed(format!("{} has only one of lora_A and lora_B", linear.name()))),
        }
    }
    match tensors.keys().min() {
        None => Ok(()),
        Some(name) => Err(malformed(format!("{name} fits no layer of the model"))),
    }
}
