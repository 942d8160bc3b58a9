//! Layers built on [`crate::ops`].

mod linear;
mod lora;

pub use linear::Linear;
pub use lora::{LoraInit, LoraShape};

use crate::Noise;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode<'a> {
    /// Track gradients of the weights that train.
    pub train: bool,
    /// Use the active adapter, if there is one. Off, the model is exactly its base.
    pub adapter: bool,
    /// Where dropout's masks come from, in training. A decoder takes it from the pass's forest.
    pub noise: Option<&'a Noise>,
}

impl Mode<'_> {
    /// Differentiable, adapter on.
    pub const TRAIN: Self = Self { train: true, adapter: true, noise: None };
    /// Detached, adapter on.
    pub const INFER: Self = Self { train: false, adapter: true, noise: None };
    /// Detached, adapter off: the reference model of a round.
    pub const REFERENCE: Self = Self { train: false, adapter: false, noise: None };
}
