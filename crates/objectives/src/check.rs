//! What every objective refuses, checked before anything is computed.

use candle_core::{DType, Tensor};
use thiserror::Error;

/// Why a loss cannot be computed.
#[derive(Debug, Error)]
pub enum ObjectiveError {
    /// A tensor has the wrong shape.
    #[error("{what}: shape {got:?}, expected {expected:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        got: Vec<usize>,
    },
    /// A tensor has the wrong type of numbers.
    #[error("{what}: {got:?}, expected {expected}")]
    DType {
        /// Which tensor.
        what: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        got: DType,
    },
    /// A setting or a total is out of its range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The values it may have.
        expected: &'static str,
    },
    /// A setting has a name that is not among those known.
    #[error("{name} is {value:?}, expected {expected}")]
    Name {
        /// Which one.
        name: &'static str,
        /// The name it has.
        value: String,
        /// The names it may have.
        expected: &'static str,
    },
    /// A setting needs something that was not given.
    #[error("{what} is missing, needed by {by}")]
    Missing {
        /// What was not given.
        what: &'static str,
        /// The setting that needs it.
        by: &'static str,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Refuses `tensor` unless it has `expected` shape.
pub(crate) fn shape(
    what: &'static str,
    tensor: &Tensor,
    expected: &[usize],
) -> Result<(), ObjectiveError> {
    if tensor.dims() == expected {
        return Ok(());
    }
    Err(ObjectiveError::Shape { what, expected: expected.to_vec(), got: tensor.dims().to_vec() })
}

/// Length of a vector of log-probabilities; refuses other ranks and types. Half-precision sums of
/// log-probabilities lose the differences that preference losses live on.
pub(crate) fn logps(what: &'static str, tensor: &Tensor) -> Result<usize, ObjectiveError> {
    let [len] = *tensor.dims() else {
        let got = tensor.dims().to_vec();
        return Err(ObjectiveError::Shape { what, expected: vec![tensor.elem_count()], got });
    };
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(len),
        got => Err(ObjectiveError::DType { what, expected: "f32 or f64", got }),
    }
}

/// Refuses a divisor that is not a positive number.
pub(crate) fn positive(name: &'static str, value: f64) -> Result<(), ObjectiveError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(ObjectiveError::Setting { name, value, expected: "a positive number" })
}
