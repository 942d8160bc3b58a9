//! Layers built on [`crate::ops`].

mod linear;

pub use linear::{Linear, LoraConfig};

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Track gradients of the weights that train.
    pub train: bool,
    /// Use the adapter, if there is one. Off, the model is exactly its base.
    pub adapter: bool,
}

impl Mode {
    /// Differentiable, adapter on.
    pub const TRAIN: Self = Self { train: true, adapter: true };
    /// Detached, adapter on.
    pub const INFER: Self = Self { train: false, adapter: true };
    /// Detached, adapter off: the reference model of a round.
    pub const REFERENCE: Self = Self { train: false, adapter: false };
}
