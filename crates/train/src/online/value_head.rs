//! The value of a state: one number from the policy's last hidden state, by a linear layer of its own.
//!
//! The trunk is the policy's: what the value loss teaches reaches it. The head trains beside the policy, goes with the
//! checkpoints and is no part of the model that is saved.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use savi_nn::ops::linear;
use savi_nn::{Init, Params, Weight, Weights};

/// The deviation of fresh weights, as transformers draws a head of sequence classification.
const DEVIATION: f64 = 0.02;

pub(super) struct ValueHead {
    weight: Arc<Weight>,
}

impl ValueHead {
    /// A fresh head on states of this width.
    pub(super) fn new(width: usize, seed: u64, device: &Device) -> Result<Self> {
        let params = Params::new(Weights::Random(seed), DType::F32, device);
        let weight =
            params.get_matrix("value_head.score.weight", width, 1, Init::Normal(DEVIATION))?;
        weight.set_trains(true);
        Ok(Self { weight })
    }

    pub(super) fn weight(&self) -> &Arc<Weight> {
        &self.weight
    }

    /// Values of states, `[tokens]` of f32.
    pub(super) fn values(&self, states: &Tensor, train: bool) -> Result<Tensor> {
        linear(&states.to_dtype(DType::F32)?, &self.weight.tensor(train))?.squeeze(1)
    }
}
