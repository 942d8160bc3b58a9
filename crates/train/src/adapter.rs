//! The adapter that a training fits: attached to the decoder, saved and merged.

use savi_engine::Engine;
use savi_models::{LoraConfig, attach_adapter, write_adapter};

use crate::{TrainError, TrainIo, checkpoint};

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

/// Ends a training: its adapter is saved in `adapter` and merged, and checkpoints go; without one the weights
/// themselves are new.
pub(crate) fn finish(
    engine: &mut Engine,
    lora: Option<&LoraConfig>,
    io: &TrainIo<'_>,
) -> Result<(), TrainError> {
    engine.model().params().set_trains(|_| false);
    match lora {
        Some(lora) => {
            if io.ranks.is_first() {
                write_adapter(engine.model(), NAME, lora, &io.dir.join("adapter"))?;
            }
            engine.merge_attached()?;
            if io.ranks.is_first() {
                checkpoint::clear(io.dir)?;
            }
        }
        None => engine.weights_changed()?,
    }
    io.ranks.barrier()
}
