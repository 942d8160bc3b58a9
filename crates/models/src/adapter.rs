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
    let text = fs::read_to_string(&path)
        .map_err(|source| ModelError::Io { path: path.clone(), source })?;
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
            _ => {
                return Err(malformed(format!(
                    "{} has only one of lora_A and lora_B",
                    linear.name()
                )));
            }
        }
    }
    match tensors.keys().min() {
        None => Ok(()),
        Some(name) => Err(malformed(format!("{name} fits no layer of the model"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use candle_core::{IndexOp, Result};
    use savi_nn::layers::Mode;
    use savi_nn::{Forest, Weights, check};

    use super::*;
    use crate::{Model, Processors, read_directory};

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/lora")
    }

    fn base() -> Model {
        let files = read_directory(&golden().join("base")).unwrap();
        let weights = Weights::Checkpoint(Box::new(files.tensors));
        Model::new(&files.config, &Processors::default(), weights, DType::F32, &Device::Cpu)
            .unwrap()
    }

    /// PEFT's adapter: on, off and merged, in values and gradients.
    #[test]
    fn adapters_follow_peft() -> Result<()> {
        let io = candle_core::safetensors::load(golden().join("io.safetensors"), &Device::Cpu)?;
        let model = base();
        let params = model.params();
        params.set_trains(|_| false);
        read_adapter(params, &golden().join("adapter")).unwrap();
        let ids = io["input_ids"].to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let forest = Arc::new(Forest::sequence(ids[0].len()));
        let logits = |row: &[u32], mode: Mode| {
            let hidden = model.hidden(&model.embed(row, &[], mode)?, &forest, mode)?;
            model.logits(&hidden, mode)
        };
        for (i, row) in ids.iter().enumerate() {
            check::close(&logits(row, Mode::INFER)?, &io["logits.adapter"].i(i)?, 1e-4)?;
            check::close(&logits(row, Mode::REFERENCE)?, &io["logits.base"].i(i)?, 1e-4)?;
        }
        let mut total: Option<Tensor> = None;
        for (i, row) in ids.iter().enumerate() {
            let hidden =
                model.hidden(&model.embed(row, &[], Mode::TRAIN)?, &forest, Mode::TRAIN)?;
            let logps =
                model.logps(&hidden.narrow(0, 0, row.len() - 1)?, &row[1..], Mode::TRAIN)?;
            check::close(&logps, &io["logps"].i(i)?, 1e-4)?;
            let sum = logps.sum_all()?;
            total = Some(match total {
                None => sum,
                Some(total) => (total + sum)?,
            });
        }
        let grads = total.unwrap().backward()?;
        let mut compared = 0;
        for weight in params.trainable() {
            let want = &io[&format!("grad.{PREFIX}{}", weight.name())];
            let grad = weight.in_checkpoint_layout(grads.get(&weight.tensor(true)).unwrap())?;
            check::close(&grad, want, 1e-3)?;
            compared += 1;
        }
        assert_eq!(compared, 28);
        merge_adapters(params).unwrap();
        for (i, row) in ids.iter().enumerate() {
            check::close(&logits(row, Mode::REFERENCE)?, &io["logits.merged"].i(i)?, 1e-4)?;
        }
        Ok(())
    }

    #[test]
    fn a_written_adapter_is_read_back_bit_for_bit() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let config = LoraConfig { r: 3, lora_alpha: 5.0 };
        let model = base();
        let params = model.params();
        attach_adapter(params, &config, 4, |name| name.contains("mlp")).unwrap();
        for (i, weight) in params.trainable().iter().enumerate() {
            weight.set(&check::normal(weight.tensor(false).dims(), &i.to_string(), DType::F32)?)?;
        }
        write_adapter(params, &config, &dir.path().join("adapter")).unwrap();
        let other = base();
        let again = other.params();
        again.set_trains(|_| false);
        read_adapter(again, &dir.path().join("adapter")).unwrap();
        let (a, b) = (params.trainable(), again.trainable());
        assert_eq!((a.len(), b.len()), (12, 12));
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a.tensor(false).to_vec2::<f32>()?, b.tensor(false).to_vec2::<f32>()?);
        }
        Ok(())
    }
}
