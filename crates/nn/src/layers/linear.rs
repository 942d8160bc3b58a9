//! A linear layer and the adapters on it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Result, Tensor};

use super::Mode;
use super::lora::{Lora, LoraShape};
use crate::Weight;
use crate::ops::{add_bias, linear};

/// `x w + bias`, plus `scale (x a) b` of the active adapter while it is on.
#[derive(Debug)]
pub struct Linear {
    name: String,
    weight: Arc<Weight>,
    bias: Option<Arc<Weight>>,
    /// By the adapters' numbers.
    loras: RwLock<BTreeMap<usize, Lora>>,
}

impl Linear {
    pub(crate) fn new(name: &str, weight: Arc<Weight>, bias: Option<Arc<Weight>>) -> Self {
        Self { name: name.to_owned(), weight, bias, loras: RwLock::default() }
    }

    /// Its name in checkpoints, without `.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The layer on `[tokens, in]`.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut y = linear(x, &self.weight.value(mode)?)?;
        if let Some(bias) = &self.bias {
            y = add_bias(&y, &bias.value(mode)?)?;
        }
        if mode.adapter
            && let Some(lora) = self.weight.switch().applied().and_then(|id| self.lora(id))
        {
            y = lora.add(&self.name, x, &y, mode)?;
        }
        Ok(y)
    }

    /// Its weight, where the layer is a product with it and nothing else.
    pub fn alone(&self, mode: Mode) -> Result<Option<Tensor>> {
        let applied = self.weight.switch().applied().filter(|_| mode.adapter);
        let adapted = applied.and_then(|id| self.lora(id)).is_some();
        if self.bias.is_some() || adapted { Ok(None) } else { self.weight.value(mode).map(Some) }
    }

    fn lora(&self, adapter: usize) -> Option<Lora> {
        self.loras.read().unwrap_or_else(PoisonError::into_inner).get(&adapter).cloned()
    }

    /// Its bias, if it has one.
    pub fn bias(&self) -> Option<&Arc<Weight>> {
        self.bias.as_ref()
    }

    pub(crate) fn weight(&self) -> &Arc<Weight> {
        &self.weight
    }

    pub(crate) fn add_lora(&self, adapter: usize, shape: &LoraShape, seed: u64) -> Result<()> {
        let lora = Lora::new(&self.name, &self.weight.tensor(false), shape, seed)?;
        self.loras.write().unwrap_or_else(PoisonError::into_inner).insert(adapter, lora);
        Ok(())
    }

    pub(crate) fn remove_lora(&self, adapter: usize) {
        self.loras.write().unwrap_or_else(PoisonError::into_inner).remove(&adapter);
    }

    /// The two matrices of the adapter of this number, none where it leaves the layer alone.
    pub(crate) fn lora_weights(&self, adapter: usize) -> Vec<Arc<Weight>> {
        self.lora(adapter).map_or_else(Vec::new, |lora| lora.weights().to_vec())
    }

    /// The factor on what the adapter of this number gives.
    pub(crate) fn lora_scale(&self, adapter: usize) -> f64 {
        self.lora(adapter).map_or(1.0, |lora| lora.scale())
    }

    /// The weight with the adapter of this number added, f32.
    pub(crate) fn merged(&self, adapter: usize) -> Result<Option<Tensor>> {
        let Some(lora) = self.lora(adapter) else { return Ok(None) };
        Ok(Some((self.weight.tensor(false).to_dtype(DType::F32)? + lora.delta()?)?))
    }
}
