//! Differentiable operations with fused CPU kernels. On other devices each falls back to candle's
//! own operations, which also serve as the reference in tests.

mod activation;
mod embedding;
mod gated;
mod linear;
mod logp;
mod norm;
mod rope;

pub use activation::{gelu_tanh, residual, softcap, swiglu, swiglu_owned};
pub use embedding::embedding;
pub use gated::gated_linear;
pub use linear::{add_bias, add_product, linear, linear_transposed};
pub use logp::{LOGP_CHUNK, gathered_logps, gathered_logps_at, log_normaliser};
pub use norm::{layer_norm, rms_norm};
pub use rope::{RopeTable, rope};
