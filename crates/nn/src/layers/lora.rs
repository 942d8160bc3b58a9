//! What an adapter adds to one linear layer (LoRA, Hu et al. 2021, eq. 3).

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use super::Mode;
use crate::Weight;
use crate::ops::{add_product, linear};
use crate::params::{Init, fresh};

/// How the first matrix of a fresh adapter is drawn; the second is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoraInit {
    /// Uniform in ±1 / sqrt(in): Kaiming's bound with a = sqrt(5), as PEFT does by default.
    #[default]
    Kaiming,
    /// Normal with standard deviation 1 / r.
    Gaussian,
}

/// The adapter of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraShape {
    /// Rank.
    pub r: usize,
    /// Factor on what the adapter gives.
    pub scale: f64,
    /// Share of the adapter's inputs that is dropped in training.
    pub dropout: f64,
    /// How it is drawn.
    pub init: LoraInit,
}

/// `scale (x a) b`.
#[derive(Debug, Clone)]
pub(crate) struct Lora {
    a: Arc<Weight>,
    b: Arc<Weight>,
    scale: f64,
    dropout: f64,
}

impl Lora {
    /// A fresh one, which changes nothing: b is zero.
    pub(crate) fn new(name: &str, weight: &Tensor, shape: &LoraShape, seed: u64) -> Result<Self> {
        let (inputs, outputs) = weight.dims2()?;
        if shape.r == 0 || !(0.0..1.0).contains(&shape.dropout) {
            bail!("{name}: an adapter of rank {} with dropout {}", shape.r, shape.dropout);
        }
        let init = match shape.init {
            LoraInit::Kaiming => Init::Uniform(1.0 / (inputs as f64).sqrt()),
            LoraInit::Gaussian => Init::Normal(1.0 / shape.r as f64),
        };
        let part = |which: &str, shape: [usize; 2], init| {
            fresh(&format!("{name}.{which}.weight"), &shape, init, seed, weight.device())
        };
        Ok(Self {
            a: part("lora_A", [inputs, shape.r], init)?,
            b: part("lora_B", [shape.r, outputs], Init::Constant(0.0))?,
            scale: shape.scale,
            dropout: shape.dropout,
        })
    }

    pub(crate) fn weights(&self) -> [Arc<Weight>; 2] {
        [self.a.clone(), self.b.clone()]
    }

    pub(crate) fn scale(&self) -> f64 {
        self.scale
    }

    /// Adds what it gives for the inputs `[tokens, in]` of the layer `name` to what the layer gives.
    pub(crate) fn add(&self, name: &str, x: &Tensor, y: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut inputs = x.to_dtype(DType::F32)?;
        if mode.train && self.dropout > 0.0 {
            let Some(noise) = mode.noise else {
                bail!("{name}: dropout needs the tokens' keys (Forest::with_noise)");
            };
            let (rows, width) = inputs.dims2()?;
            let mask = noise.mask(name, rows, width, self.dropout)?;
            inputs = (inputs * mask.to_device(x.device())?)?;
        }
        // Scaled where it is small.
        let low = (linear(&inputs, &self.a.tensor(mode.train))? * self.scale)?;
        let b = self.b.tensor(mode.train);
        if y.dtype() == DType::F32 {
            return add_product(y, &low, &b);
        }
        y + linear(&low, &b)?.to_dtype(y.dtype())?
    }

    /// What it adds to the weight, f32.
    pub(crate) fn delta(&self) -> Result<Tensor> {
        linear(&self.a.tensor(false), &self.b.tensor(false))? * self.scale
    }
}
