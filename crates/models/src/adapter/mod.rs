//! LoRA adapters with PEFT's options, attached to a model under names and kept in PEFT's files.
//!
//! An adapter is low-rank matrices on linear layers and, with `bias` and `modules_to_save`, copies of
//! weights that stand in their place while it is on. Unlike in PEFT, biases are copies, too: with the
//! adapter off, or another one on, the model is the base to the bit.

mod config;
mod files;
mod select;
#[cfg(test)]
mod tests;

use std::path::Path;

use savi_nn::Params;

pub use config::{
    InitLoraWeights, LoraBias, LoraConfig, LoraOptions, Modules, OneOrMore, Patterns,
};
pub use files::{read_adapter, write_adapter};

use self::select::{Naming, Selection, select};
use crate::{Model, ModelError};

/// Attaches a fresh adapter to the layers that its options name among those that `within` lets
/// through, freezes the base and gives the layers' names. It becomes the active adapter.
pub fn attach_adapter(
    model: &Model,
    adapter: &str,
    config: &LoraConfig,
    seed: u64,
    within: impl Fn(&str) -> bool,
) -> Result<Vec<String>, ModelError> {
    let selection = select(model, config, Path::new("LoRA"), Naming::Either, &within)?;
    model.params().set_trains(|_| false);
    attach(model, adapter, &selection, seed)?;
    Ok(selection.targets.iter().map(|(linear, _)| linear.name().to_owned()).collect())
}

fn attach(
    model: &Model,
    adapter: &str,
    selection: &Selection,
    seed: u64,
) -> Result<(), ModelError> {
    let params = model.params();
    params.add_adapter(adapter)?;
    for (linear, shape) in &selection.targets {
        params.add_lora(adapter, linear, shape, seed)?;
    }
    for weight in &selection.copies {
        params.add_copy(adapter, weight)?;
    }
    Ok(())
}

/// Adds the active adapter to the weights for good and removes all adapters.
pub fn merge_adapters(params: &Params) -> Result<(), ModelError> {
    Ok(params.merge_and_unload()?)
}
