//! Layers with two modes, and what trains them.
//!
//! A forward pass works on a flat run of tokens whose masks and positions a [`Forest`] gives; the
//! same code serves training (differentiable) and inference (detached weights, key-value cache).
//! This crate owns the [`gemm`] with its fixed order of summation, [`attention`] over forests, the
//! fused [`ops`], [`Params`] with LoRA, the optimiser and the seeded random streams. It knows no
//! model family, no file of records and no tokenizer.

mod adapters;
pub mod attention;
mod awake;
pub mod check;
pub mod checkpoint;
mod collect;
pub mod device;
mod forest;
pub mod gemm;
mod host;
pub mod layers;
mod noise;
pub mod ops;
pub mod optim;
mod params;
mod reference;
pub mod rng;
pub mod simd;
mod weight;

pub use adapters::LoraWeights;
pub use awake::awake;
pub use forest::{Forest, Parent, Segment};
pub use noise::Noise;
pub use params::{Fresh, Init, Params, TensorSource, Weights, normal};
pub use weight::Weight;
