//! Checkpoints of a training in progress: trainable weights, optimiser, step and what else is carried
//! from step to step, whole or absent.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use savi_models::write_safetensors;
use savi_nn::Weight;
use savi_nn::optim::AdamW;
use serde_json::Value;

use crate::TrainError;

/// What is carried from step to step beside weights and optimiser.
const CARRIED: &str = "carried.json";

fn fail(path: &Path) -> impl Fn(String) -> TrainError + '_ {
    move |reason| TrainError::Checkpoint { path: path.to_owned(), reason }
}

fn folder(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("checkpoint-{step}"))
}

/// Saves the state after `step` steps and removes older ones.
pub(crate) fn save(
    dir: &Path,
    step: u64,
    weights: &[Arc<Weight>],
    optimiser: &AdamW,
    carried: &Value,
) -> Result<(), TrainError> {
    let target = folder(dir, step);
    let partial = dir.join(format!("checkpoint-{step}.partial"));
    let failed = fail(&partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|e| failed(e.to_string()))?;
    }
    fs::create_dir_all(&partial).map_err(|e| failed(e.to_string()))?;
    let values = weights
        .iter()
        .map(|w| Ok((w.name().to_owned(), w.exported()?.to_device(&Device::Cpu)?)))
        .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    write_safetensors(&partial.join("trainable.safetensors"), &values)?;
    let state = optimiser
        .state()
        .into_iter()
        .map(|(name, value)| Ok((name, value.to_device(&Device::Cpu)?)))
        .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    write_safetensors(&partial.join("optimizer.safetensors"), &state)?;
    if !carried.is_null() {
        fs::write(partial.join(CARRIED), carried.to_string()).map_err(|e| failed(e.to_string()))?;
    }
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|e| failed(e.to_string()))?;
    }
    fs::rename(&partial, &target).map_err(|e| failed(e.to_string()))?;
    for (old, path) in list(dir)? {
        if old < step {
            fs::remove_dir_all(&path).map_err(|e| fail(&path)(e.to_string()))?;
        }
    }
    Ok(())
}

/// Takes up the newest state; gives its step, 0 where there is none. `carried` is read where it is
/// anything but null, and stays as it is at step 0.
pub(crate) fn restore(
    dir: &Path,
    weights: &[Arc<Weight>],
    optimiser: &mut AdamW,
    device: &Device,
    carried: &mut Value,
) -> Result<u64, TrainError> {
    let Some((step, path)) = list(dir)?.into_iter().max() else { return Ok(0) };
    let read = |name: &str| -> Result<HashMap<String, Tensor>, TrainError> {
        let file = path.join(name);
        candle_core::safetensors::load(&file, device).map_err(|e| fail(&file)(e.to_string()))
    };
    let values = read("trainable.safetensors")?;
    for weight in weights {
        match values.get(weight.name()) {
            Some(value) => weight.import(value)?,
            None => return Err(fail(&path)(format!("has no weight {}", weight.name()))),
        }
    }
    optimiser.restore(step, &read("optimizer.safetensors")?)?;
    if !carried.is_null() {
        let file = path.join(CARRIED);
        let text = fs::read_to_string(&file).map_err(|e| fail(&file)(e.to_string()))?;
        *carried = serde_json::from_str(&text).map_err(|e| fail(&file)(e.to_string()))?;
    }
    Ok(step)
}

/// Removes all states: the training is finished and its result saved.
pub(crate) fn clear(dir: &Path) -> Result<(), TrainError> {
    for (_, path) in list(dir)? {
        fs::remove_dir_all(&path).map_err(|e| fail(&path)(e.to_string()))?;
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(dir)(error.to_string())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| fail(dir)(e.to_string()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix("checkpoint-").and_then(|n| n.parse().ok()) {
            found.push((step, entry.path()));
        } else if name.starts_with("checkpoint-") {
            // Left by a start that was killed while it saved.
            fs::remove_dir_all(entry.path()).map_err(|e| fail(dir)(e.to_string()))?;
        }
    }
    Ok(found)
}
