//! Checkpoints of a training in progress: trainable weights, optimiser, step and what else is carried
//! from step to step, whole or absent.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use savi_models::write_safetensors;
use savi_nn::optim::AdamW;
use savi_nn::{Params, Weight};
use savi_run::{TrainerState, write_json_atomic};
use serde_json::Value;

use crate::TrainError;

/// What is carried from step to step beside weights and optimiser.
const CARRIED: &str = "carried.json";
/// Where the training stands.
const STATE: &str = "trainer_state.json";
/// A reference that moves.
const REFERENCE: &str = "reference.safetensors";
/// The weights that train.
const TRAINABLE: &str = "trainable.safetensors";

fn fail(path: &Path) -> impl Fn(String) -> TrainError + '_ {
    move |reason| TrainError::Checkpoint { path: path.to_owned(), reason }
}

fn folder(dir: &Path, step: u64) -> PathBuf {
    dir.join(name(step))
}

/// What a checkpoint holds.
pub(crate) struct Snapshot<'a> {
    pub(crate) weights: &'a [Arc<Weight>],
    pub(crate) optimiser: &'a AdamW,
    pub(crate) carried: &'a Value,
    pub(crate) state: &'a TrainerState,
    /// Whose reference goes with it, where that moves.
    pub(crate) reference: Option<&'a Params>,
}

/// The name of the checkpoint after `step` steps.
pub(crate) fn name(step: u64) -> String {
    format!("checkpoint-{step}")
}

/// Saves the state after its step and removes older ones but the newest `keep` and that of step `best`. Where it
/// cannot be written, what was saved before stays.
pub(crate) fn save(
    dir: &Path,
    snapshot: &Snapshot<'_>,
    keep: usize,
    best: Option<u64>,
) -> Result<(), TrainError> {
    let step = snapshot.state.global_step;
    let (target, partial) = (folder(dir, step), dir.join(format!("{}.partial", name(step))));
    if let Err(error) = write(&partial, snapshot) {
        // Half a state is of no use, and its space may be what is lacking.
        let _ = fs::remove_dir_all(&partial);
        let last = list(dir)?.into_iter().map(|(step, _)| step).max();
        return Err(TrainError::Unsaved { step, reason: error.to_string(), last });
    }
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|e| fail(&target)(e.to_string()))?;
    }
    fs::rename(&partial, &target).map_err(|e| fail(&partial)(e.to_string()))?;
    let mut older = list(dir)?;
    older.retain(|(old, _)| *old < step && Some(*old) != best);
    older.sort();
    let too_many = older.len().saturating_sub(keep.saturating_sub(1));
    for (_, path) in older.into_iter().take(too_many) {
        fs::remove_dir_all(&path).map_err(|e| fail(&path)(e.to_string()))?;
    }
    Ok(())
}

fn write(partial: &Path, snapshot: &Snapshot<'_>) -> Result<(), TrainError> {
    let failed = fail(partial);
    if partial.exists() {
        fs::remove_dir_all(partial).map_err(|e| failed(e.to_string()))?;
    }
    fs::create_dir_all(partial).map_err(|e| failed(e.to_string()))?;
    let values = snapshot
        .weights
        .iter()
        .map(|w| Ok((w.name().to_owned(), w.exported()?.to_device(&Device::Cpu)?)))
        .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    write_safetensors(&partial.join(TRAINABLE), &values)?;
    if let Some(params) = snapshot.reference {
        let kept = params.reference()?.into_iter();
        let kept = kept
            .map(|(name, value)| Ok((name, value.to_device(&Device::Cpu)?)))
            .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
        write_safetensors(&partial.join(REFERENCE), &kept)?;
    }
    let state = snapshot
        .optimiser
        .state()
        .into_iter()
        .map(|(name, value)| Ok((name, value.to_device(&Device::Cpu)?)))
        .collect::<candle_core::Result<BTreeMap<_, _>>>()?;
    write_safetensors(&partial.join("optimizer.safetensors"), &state)?;
    if !snapshot.carried.is_null() {
        let text = snapshot.carried.to_string();
        fs::write(partial.join(CARRIED), text).map_err(|e| failed(e.to_string()))?;
    }
    Ok(write_json_atomic(&partial.join(STATE), snapshot.state)?)
}

/// Takes up the newest state, with the `reference` of params where it moves; gives where the training stood, at step 0 where there is none. `carried` is
/// read where it is anything but null, and stays as it is at step 0.
pub(crate) fn restore(
    dir: &Path,
    weights: &[Arc<Weight>],
    optimiser: &mut AdamW,
    device: &Device,
    carried: &mut Value,
    reference: Option<&Params>,
) -> Result<TrainerState, TrainError> {
    let Some((step, path)) = list(dir)?.into_iter().max() else {
        return Ok(TrainerState::default());
    };
    restore_weights(dir, step, weights, device)?;
    optimiser.restore(step, &read(&path.join("optimizer.safetensors"), device)?)?;
    if let Some(params) = reference {
        params.set_reference(&read(&path.join(REFERENCE), device)?)?;
    }
    if !carried.is_null() {
        let file = path.join(CARRIED);
        let text = fs::read_to_string(&file).map_err(|e| fail(&file)(e.to_string()))?;
        *carried = serde_json::from_str(&text).map_err(|e| fail(&file)(e.to_string()))?;
    }
    let state = TrainerState::read(&path.join(STATE))?.unwrap_or_default();
    Ok(TrainerState { global_step: step, ..state })
}

/// Takes up the weights alone of the state after `step` steps.
pub(crate) fn restore_weights(
    dir: &Path,
    step: u64,
    weights: &[Arc<Weight>],
    device: &Device,
) -> Result<(), TrainError> {
    let path = folder(dir, step);
    let values = read(&path.join(TRAINABLE), device)?;
    for weight in weights {
        match values.get(weight.name()) {
            Some(value) => weight.import(value)?,
            None => return Err(fail(&path)(format!("has no weight {}", weight.name()))),
        }
    }
    Ok(())
}

fn read(file: &Path, device: &Device) -> Result<HashMap<String, Tensor>, TrainError> {
    candle_core::safetensors::load(file, device).map_err(|e| fail(file)(e.to_string()))
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
