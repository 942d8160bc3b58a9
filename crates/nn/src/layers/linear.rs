//! A linear layer and its low-rank adapter (LoRA, Hu et al. 2021, eq. 3).

use std::sync::{Arc, RwLock};

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::Mode;
use crate::ops::linear;
use crate::params::{Init, Weight, fresh};

/// Size of an adapter, with PEFT's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The adapter's output is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { r: 8, lora_alpha: 32.0 }
    }
}

#[derive(Debug, Clone)]
struct Lora {
    a: Arc<Weight>,
    b: Arc<Weight>,
    scale: f64,
}

/// `x w + bias`, plus `scale (x a) b` while an adapter is attached and on.
#[derive(Debug)]
pub struct Linear {
    name: String,
    weight: Arc<Weight>,
    bias: Option<Arc<Weight>>,
    lora: RwLock<Option<Lora>>,
}

impl Linear {
    pub(crate) fn new(name: &str, weight: Arc<Weight>, bias: Option<Arc<Weight>>) -> Self {
        Self { name: name.to_owned(), weight, bias, lora: RwLock::new(None) }
    }

    /// Its name in checkpoints, without `.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The layer on `[tokens, in]`.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut y = linear(x, &self.weight.tensor(mode.train))?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(&bias.tensor(mode.train))?;
        }
        if mode.adapter
            && let Some(lora) = self.lora()
        {
            let low = linear(&x.to_dtype(DType::F32)?, &lora.a.tensor(mode.train))?;
            let delta = (linear(&low, &lora.b.tensor(mode.train))? * lora.scale)?;
            y = (y + delta.to_dtype(x.dtype())?)?;
        }
        Ok(y)
    }

    fn lora(&self) -> Option<Lora> {
        self.lora.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set_lora(&self, lora: Option<Lora>) {
        *self.lora.write().unwrap_or_else(std::sync::PoisonError::into_inner) = lora;
    }

    /// Attaches a fresh adapter: a random, b zero, so that the layer is unchanged. `a` is drawn
    /// as PEFT does (Kaiming uniform with a = sqrt(5) has standard deviation 1 / sqrt(3 in)).
    pub fn attach_lora(&self, config: &LoraConfig, seed: u64) -> Result<()> {
        let weight = self.weight.tensor(false);
        let (inputs, outputs) = weight.dims2()?;
        let part = |which: &str| format!("{}.{which}.weight", self.name);
        let std = 1.0 / (3.0 * inputs as f64).sqrt();
        let a = fresh(part("lora_A"), &[inputs, config.r], Init::Normal(std), seed, &weight)?;
        let b = fresh(part("lora_B"), &[config.r, outputs], Init::Constant(0.0), seed, &weight)?;
        self.set_lora(Some(Lora { a, b, scale: config.lora_alpha / config.r as f64 }));
        Ok(())
    }

    /// The adapter's two matrices, none without an adapter.
    pub fn adapter_weights(&self) -> Vec<Arc<Weight>> {
        self.lora().map_or_else(Vec::new, |lora| vec![lora.a, lora.b])
    }

    /// Removes the adapter.
    pub fn detach_lora(&self) {
        self.set_lora(None);
    }

    /// Adds the adapter to the weight and removes it.
    pub fn merge_lora(&self) -> Result<()> {
        if let Some(lora) = self.lora() {
            let delta = (linear(&lora.a.tensor(false), &lora.b.tensor(false))? * lora.scale)?;
            let merged = (self.weight.tensor(false).to_dtype(DType::F32)? + delta)?;
            self.weight.set(&merged)?;
            self.detach_lora();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{Params, Weights, check};

    #[test]
    fn adapter_starts_neutral_merges_exactly_and_switches_off() -> Result<()> {
        let params = Params::new(Weights::Random(3), DType::F32, &Device::Cpu);
        let layer = params.linear("l", 12, 7, true)?;
        let x = check::normal(&[4, 12], "x", DType::F32)?;
        let base = layer.forward(&x, Mode::INFER)?;
        layer.attach_lora(&LoraConfig { r: 3, lora_alpha: 6.0 }, 1)?;
        assert_eq!(base.to_vec2::<f32>()?, layer.forward(&x, Mode::INFER)?.to_vec2::<f32>()?);
        assert_eq!(params.trainable().len(), 2);
        let weights = layer.adapter_weights();
        weights[1].set(&check::normal(&[3, 7], "b", DType::F32)?)?;
        let on = layer.forward(&x, Mode::INFER)?;
        assert!(check::close(&on, &base, 1e-3).is_err());
        let off = layer.forward(&x, Mode::REFERENCE)?;
        assert_eq!(base.to_vec2::<f32>()?, off.to_vec2::<f32>()?);
        layer.merge_lora()?;
        check::close(&layer.forward(&x, Mode::REFERENCE)?, &on, 1e-5)
    }
}
