//! Synthetic worlds with known truth.
//!
//! A world draws scenes from a seed, renders them, asks questions about them whose answers are
//! exact, and knows the truth for a question that somebody else asked. There are two:
//! [`moving_shapes`] and [`arithmetic`]. Worlds hold words, pictures and numbers; they know no prompt and no method.

pub mod arithmetic;
mod error;
pub mod moving_shapes;

pub use error::WorldError;
