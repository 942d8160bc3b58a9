//! What identifies a model: config, text files and the values of its weights.

use candle_core::{DType, Device, Tensor};
use savi_models::{Model, Processors};
use serde_json::Value;

use crate::{EngineError, TextFiles};

/// A hash of everything that a model's answers depend on.
pub(crate) fn of(model: &Model, files: &TextFiles) -> Result<String, EngineError> {
    let mut hash = blake3::Hasher::new();
    hash.update(without_dtype(model.raw_config()).to_string().as_bytes());
    hash.update(&files.tokenizer);
    for words in [&files.template, &files.bos, &files.eos] {
        hash.update(words.as_deref().unwrap_or_default().as_bytes());
    }
    for end in &files.eos_ids {
        hash.update(&end.to_le_bytes());
    }
    for weight in model.params().weights() {
        hash.update(weight.name().as_bytes());
        hash_values(&mut hash, &weight.tensor(false))?;
    }
    for (weight, scale) in model.params().active_adapter_weights() {
        hash.update(weight.name().as_bytes());
        hash.update(&scale.to_le_bytes());
        hash_values(&mut hash, &weight.tensor(false))?;
    }
    Ok(hash.finalize().to_hex()[..16].to_owned())
}

/// A hash of everything that visual tokens depend on beside the pixels of the file.
pub(crate) fn of_tower(model: &Model, processors: &Processors) -> Result<String, EngineError> {
    let mut hash = blake3::Hasher::new();
    hash.update(model.raw_config().to_string().as_bytes());
    hash.update(format!("{processors:?}").as_bytes());
    hash.update(format!("{:?}", model.params().dtype()).as_bytes());
    let sees = |name: &str| !model.in_decoder(name);
    for weight in model.params().weights().iter().filter(|weight| sees(weight.name())) {
        hash.update(weight.name().as_bytes());
        hash_values(&mut hash, &weight.tensor(false))?;
    }
    for (weight, scale) in model.params().active_adapter_weights() {
        if sees(weight.name()) {
            hash.update(weight.name().as_bytes());
            hash.update(&scale.to_le_bytes());
            hash_values(&mut hash, &weight.tensor(false))?;
        }
    }
    Ok(hash.finalize().to_hex()[..32].to_owned())
}

/// A config without what it says of how weights are stored, which is no part of what they are.
fn without_dtype(config: &Value) -> Value {
    let Some(map) = config.as_object() else { return config.clone() };
    let kept = map.iter().filter(|(key, _)| *key != "dtype" && *key != "torch_dtype");
    Value::Object(kept.map(|(key, value)| (key.clone(), without_dtype(value))).collect())
}

/// Values as f32, piece by piece: never more than a piece is copied.
fn hash_values(hash: &mut blake3::Hasher, tensor: &Tensor) -> Result<(), EngineError> {
    const PIECE: usize = 1 << 18;
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    let mut bytes = Vec::new();
    for start in (0..flat.elem_count()).step_by(PIECE) {
        let piece = flat.narrow(0, start, PIECE.min(flat.elem_count() - start))?;
        let values = piece.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        bytes.clear();
        bytes.extend(values.into_iter().flat_map(f32::to_le_bytes));
        hash.update(&bytes);
    }
    Ok(())
}
