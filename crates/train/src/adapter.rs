//! The adapter that a training fits: attached to the decoder, saved and merged.

use std::path::Path;

use savi_engine::Engine;
use savi_models::{LoraConfig, attach_adapter, write_adapter};

use crate::{TrainError, checkpoint};

/// The name that PEFT gives an adapter where nobody named it.
const NAME: &str = "default";

/// Attaches a fresh adapter to the decoder; what sees stays frozen.
pub(crate) fn attach(engine: &Engine, config: &LoraConfig, seed: u64) -> Result<(), TrainError> {
    let (model, params) = (engine.model(), engine.model().params());
    if params.adapters().iter().any(|name| name == NAME) {
        // Left by a training that was stopped: what it learnt is in its checkpoint.
        params.remove_adapter(NAME)?;
    }
    attach_adapter(model, NAME, config, seed, |name| model.in_decoder(name))?;
    // It is merged in the end: better refused now than then.
    Ok(params.check_mergeable(NAME)?)
}

/// Writes the trained adapter to `dir/adapter` and makes it part of the weights.
pub(crate) fn save_and_merge(
    engine: &mut Engine,
    config: &LoraConfig,
    dir: &Path,
) -> Result<(), TrainError> {
    write_adapter(engine.model(), NAME, config, &dir.join("adapter"))?;
    Ok(engine.merge_attached()?)
}

/// Ends a training: its adapter is saved and merged, and checkpoints go; without one the weights themselves are new.
pub(crate) fn finish(
    engine: &mut Engine,
    lora: Option<&LoraConfig>,
    dir: &Path,
) -> Result<(), TrainError> {
    engine.model().params().set_trains(|_| false);
    match lora {
        Some(lora) => {
            save_and_merge(engine, lora, dir)?;
            checkpoint::clear(dir)
        }
        None => Ok(engine.weights_changed()?),
    }
}
