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
    /// A name is not known.
    #[error("{what} is {value:?}, expected one of {known}")]
    Unknown {
        /// What it should name.
        what: &'static str,
        /// What was written.
        value: String,
        /// The names there are.
        known: String,
    },
    /// Something is not given that is read.
    #[error("{by} cannot be computed without {what}")]
    Missing {
        /// What is not given.
        what: &'static str,
        /// What reads it.
        by: &'static str,
    },
    /// Something is given or set that would have no part in what is computed, or a wrong one.
    #[error("{what} cannot be used with {with}")]
    Conflict {
        /// What is given or set.
        what: &'static str,
        /// What it does not go with.
        with: &'static str,
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

/// Refuses a setting outside of a range; NaN is outside of every one.
pub(crate) fn within(
    name: &'static str,
    value: f64,
    range: impl std::ops::RangeBounds<f64>,
    expected: &'static str,
) -> Result<(), ObjectiveError> {
    if value.is_finite() && range.contains(&value) {
        return Ok(());
    }
    Err(ObjectiveError::Setting { name, value, expected })
}
