//! Rewards that follow from lengths.

use super::bounds::not_negative;
use crate::{ObjectiveError, check};

/// Settings of the soft overlong punishment (verl's `overlong_buffer`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlong {
    /// The most tokens that a completion may have.
    pub max_length: f64,
    /// Over how many of its last tokens the punishment grows.
    pub buffer: f64,
    /// The punishment at the end.
    pub penalty_factor: f64,
}

/// DAPO's soft overlong punishment (Yu et al., arXiv 2503.14476, equation 13): 0 up to `max_length -
/// buffer` tokens, then falling in a line to `-penalty_factor` at `max_length`, and flat after it.
///
/// verl goes on along the line beyond `max_length`; the paper and we do not.
pub fn overlong_punishment(
    lengths: &[usize],
    settings: &Overlong,
) -> Result<Vec<f64>, ObjectiveError> {
    let Overlong { max_length, buffer, penalty_factor } = *settings;
    check::positive("max_length", max_length)?;
    check::positive("overlong_buffer.len", buffer)?;
    not_negative("overlong_buffer.penalty_factor", penalty_factor)?;
    if buffer > max_length {
        let (name, expected) = ("overlong_buffer.len", "at most the longest completion");
        return Err(ObjectiveError::Setting { name, value: buffer, expected });
    }
    let excess = |length: &usize| (*length as f64 - (max_length - buffer)) / buffer;
    Ok(lengths.iter().map(|length| -excess(length).clamp(0.0, 1.0) * penalty_factor).collect())
}
