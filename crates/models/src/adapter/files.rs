//! Adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use savi_nn::Weight;
use serde_json::{Value, json};

use super::attach;
use super::config::{LoraConfig, LoraOptions, Patterns};
use super::select::{Naming, Selection, ancestors, select};
use crate::reader::Reader;
use crate::{Model, ModelError, write_safetensors};

/// What PEFT writes before every name.
pub(super) const PREFIX: &str = "base_model.model.";

/// The names that an adapter's copy of a weight may have in files, the one that PEFT writes first:
/// a bias beside an adapter is that of the wrapped layer.
fn copy_names(model: &Model, on: &BTreeSet<String>, weight: &str) -> [String; 2] {
    let wrapped = ancestors(weight).next().filter(|module| on.contains(*module));
    [model.module_name(weight), weight.to_owned()].map(|name| {
        match (wrapped, name.rsplit_once('.')) {
            (Some(_), Some((module, last))) => format!("{PREFIX}{module}.base_layer.{last}"),
            _ => format!("{PREFIX}{name}"),
        }
    })
}

/// The same of a low-rank matrix.
fn lora_names(model: &Model, weight: &str) -> [String; 2] {
    [model.module_name(weight), weight.to_owned()].map(|name| format!("{PREFIX}{name}"))
}

/// Writes an attached adapter as PEFT does. The folder appears whole or not at all.
pub fn write_adapter(
    model: &Model,
    adapter: &str,
    config: &LoraConfig,
    dir: &Path,
) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { path: dir.to_owned(), source };
    let partial = dir.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io)?;
    }
    fs::create_dir_all(&partial).map_err(io)?;
    let mut tensors = BTreeMap::new();
    let mut put = |name: &str, weight: &Weight| -> Result<(), ModelError> {
        let value = weight.exported()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        tensors.insert(name.to_owned(), value);
        Ok(())
    };
    let mut on = BTreeSet::new();
    for (linear, weights) in model.params().lora_weights(adapter)? {
        for weight in &weights {
            put(&lora_names(model, weight.name())[0], weight)?;
        }
        on.insert(linear.name().to_owned());
    }
    let copies = model.params().copies(adapter)?;
    for copy in &copies {
        put(&copy_names(model, &on, copy.name())[0], copy)?;
    }
    write_safetensors(&partial.join("adapter_model.safetensors"), &tensors)?;
    let config = config_json(model, config, &on, &copies.iter().map(|c| c.name()).collect())?;
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    fs::write(partial.join("adapter_config.json"), text + "\n").map_err(io)?;
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(io)?;
    }
    fs::rename(&partial, dir).map_err(io)
}

/// `adapter_config.json` of an adapter on the layers `on`. Where the options alone would lead PEFT to
/// other layers than these (they are looked for in a part of the model only), the layers are listed.
fn config_json(
    model: &Model,
    config: &LoraConfig,
    on: &BTreeSet<String>,
    copies: &BTreeSet<&str>,
) -> Result<Value, ModelError> {
    let LoraOptions {
        lora_dropout,
        target_modules,
        exclude_modules,
        layers_to_transform,
        layers_pattern,
        rank_pattern,
        alpha_pattern,
        use_rslora,
        bias,
        modules_to_save,
        init_lora_weights,
        fan_in_fan_out,
        use_dora,
    } = &config.options;
    let whole = select(model, config, Path::new("LoRA"), Naming::Peft, &|_| true);
    let (mut same_targets, mut same_copies) = (false, false);
    if let Ok(Selection { targets, copies: all }) = whole {
        same_targets = targets.iter().map(|(linear, _)| linear.name()).eq(model
            .params()
            .linears()
            .iter()
            .map(|linear| linear.name())
            .filter(|name| on.contains(*name)));
        same_copies = all.iter().map(|copy| copy.name()).collect::<BTreeSet<_>>() == *copies;
    }
    let listed = |names: &mut dyn Iterator<Item = &str>| -> Value {
        names.map(|name| model.module_name(name)).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let given = target_modules.as_ref().filter(|t| same_targets && !t.is_all_linear());
    let (targets, exclude, layers, pattern) = match given {
        Some(targets) => (
            json!(targets),
            json!(exclude_modules),
            json!(layers_to_transform),
            json!(layers_pattern),
        ),
        None => (listed(&mut on.iter().map(String::as_str)), Value::Null, Value::Null, Value::Null),
    };
    let saved = match modules_to_save {
        Some(_) if !same_copies => {
            let wrapped = |name: &str| ancestors(name).any(|module| on.contains(module));
            let copies = copies.iter().filter(|name| !wrapped(name) && !name.ends_with(".bias"));
            listed(&mut copies.filter_map(|name| ancestors(name).next()))
        }
        given => json!(given),
    };
    // Where PEFT has whole numbers, they are written as such.
    let whole = |x: f64| if x.fract() == 0.0 { json!(x as i64) } else { json!(x) };
    let alphas = alpha_pattern.0.iter().map(|(pattern, alpha)| (pattern.clone(), whole(*alpha)));
    let (alpha, alphas) = (whole(config.lora_alpha), Patterns(alphas.collect()));
    Ok(json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": null,
        "inference_mode": true, "r": config.r, "lora_alpha": alpha, "lora_dropout": lora_dropout,
        "target_modules": targets, "exclude_modules": exclude, "layers_to_transform": layers,
        "layers_pattern": pattern, "rank_pattern": rank_pattern, "alpha_pattern": alphas,
        "use_rslora": use_rslora, "bias": bias, "modules_to_save": saved,
        "init_lora_weights": init_lora_weights, "fan_in_fan_out": fan_in_fan_out, "use_dora": use_dora,
    }))
}

/// Attaches the adapter of a PEFT folder, which becomes the active one, and gives its options.
pub fn read_adapter(model: &Model, adapter: &str, dir: &Path) -> Result<LoraConfig, ModelError> {
    let path = dir.join("adapter_config.json");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io { path, source }
    };
    let text = fs::read_to_string(&path).map_err(io(&path))?;
    let malformed =
        |path: &Path, reason: String| ModelError::Malformed { path: path.to_owned(), reason };
    let value: Value = serde_json::from_str(&text).map_err(|e| malformed(&path, e.to_string()))?;
    let config = parse(&value).map_err(|error| match error {
        ModelError::Malformed { reason, .. } => malformed(&path, reason),
        ModelError::Unsupported { key, value, supported } => {
            super::config::refused(&path, &key, value, supported)
        }
        other => other,
    })?;
    let selection = select(model, &config, &path, Naming::Either, &|_| true)?;
    let file = dir.join("adapter_model.safetensors");
    let bytes = fs::read(&file).map_err(io(&file))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| malformed(&file, e.to_string()))?;
    let before = model.params().active_adapter();
    attach(model, adapter, &selection, 0)?;
    let filled = fill(model, adapter, tensors).map_err(|reason| malformed(&file, reason));
    if filled.is_err() {
        model.params().remove_adapter(adapter)?;
        model.params().set_active_adapter(before.as_deref())?;
    }
    filled.map(|()| config)
}

/// Puts a file's tensors into a fresh adapter.
fn fill(model: &Model, adapter: &str, mut tensors: HashMap<String, Tensor>) -> Result<(), String> {
    let mut take = |names: [String; 2], weight: &Weight| -> Result<(), String> {
        match names.iter().find_map(|name| tensors.remove(name)) {
            Some(value) => weight.import(&value).map_err(|e| e.to_string()),
            None => Err(format!("has no tensor {}", names[0])),
        }
    };
    let loras = model.params().lora_weights(adapter).map_err(|e| e.to_string())?;
    for weight in loras.iter().flat_map(|(_, weights)| weights) {
        take(lora_names(model, weight.name()), weight)?;
    }
    let on = loras.iter().map(|(linear, _)| linear.name().to_owned()).collect();
    for copy in model.params().copies(adapter).map_err(|e| e.to_string())? {
        take(copy_names(model, &on, copy.name()), &copy)?;
    }
    // With `bias`, PEFT writes the biases of copied modules three times.
    tensors.retain(|name, _| {
        !["original_module.bias", "modules_to_save.bias"].iter().any(|end| name.ends_with(end))
    });
    match tensors.keys().min() {
        None => Ok(()),
        Some(name) => Err(format!("{name} fits no layer of the model with an adapter")),
    }
}

/// The options of an `adapter_config.json`.
fn parse(value: &Value) -> Result<LoraConfig, ModelError> {
    let reader = Reader::new(value)?;
    reader.only("peft_type", "LORA".to_owned())?;
    // What else changes the computation, or the weights that the adapter is for.
    for key in [
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "eva_config",
        "kasa_config",
        "layer_replication",
        "lora_ga_config",
        "megatron_config",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "velora_config",
    ] {
        reader.never(key)?;
    }
    for key in ["ensure_weight_tying", "lora_bias", "use_qalora"] {
        reader.only(key, false)?;
    }
    reader.only("loftq_config", Value::Object(serde_json::Map::new()))?;
    reader.ignore(&[
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    ]);
    let config = LoraConfig {
        r: reader.size("r", None)?,
        lora_alpha: reader.require("lora_alpha")?,
        options: LoraOptions {
            lora_dropout: reader.get("lora_dropout")?.unwrap_or_default(),
            target_modules: Some(reader.require("target_modules")?),
            exclude_modules: reader.get("exclude_modules")?,
            layers_to_transform: reader.get("layers_to_transform")?,
            layers_pattern: reader.get("layers_pattern")?,
            rank_pattern: reader.get("rank_pattern")?.unwrap_or_default(),
            alpha_pattern: reader.get("alpha_pattern")?.unwrap_or_default(),
            use_rslora: reader.get("use_rslora")?.unwrap_or_default(),
            bias: reader.get("bias")?.unwrap_or_default(),
            modules_to_save: reader.get("modules_to_save")?,
            init_lora_weights: reader.get("init_lora_weights")?.unwrap_or_default(),
            fan_in_fan_out: reader.get("fan_in_fan_out")?.unwrap_or_default(),
            use_dora: reader.get("use_dora")?.unwrap_or_default(),
        },
    };
    reader.finish()?;
    Ok(config)
}
