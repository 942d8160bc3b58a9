//! Ranges that keep exponentials finite, and checks of settings.

use candle_core::Tensor;

use crate::{ObjectiveError, check};

/// A closed range that values are clamped to; beyond it there is no gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The least value, or minus infinity.
    pub low: f64,
    /// The greatest value, or infinity.
    pub high: f64,
}

impl Bounds {
    /// No clamp.
    pub const NONE: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };
    /// The widest range for a logarithm whose exponential has to be finite in `f32`. TRL clamps
    /// nothing; inside this range the numbers are TRL's.
    pub const WIDE: Self = Self { low: -80.0, high: 80.0 };
    /// verl's clamp of log-ratios.
    pub const VERL: Self = Self { low: -20.0, high: 20.0 };
    /// verl's cap of GSPO's log-ratios, from above only.
    pub const GSPO: Self = Self { low: f64::NEG_INFINITY, high: 10.0 };

    /// Clamps a tensor. At a bound itself the gradient is whole, as in PyTorch; candle's `clamp`
    /// would halve it there.
    pub(crate) fn clamp(self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut out = x.clone();
        if self.low.is_finite() {
            let floor = (x.zeros_like()? + self.low)?;
            out = out.ge(self.low)?.where_cond(&out, &floor)?;
        }
        if self.high.is_finite() {
            let ceiling = (x.zeros_like()? + self.high)?;
            out = out.le(self.high)?.where_cond(&out, &ceiling)?;
        }
        Ok(out)
    }

    /// Clamps a number.
    pub(crate) fn clamp_number(self, x: f64) -> f64 {
        x.max(self.low).min(self.high)
    }

    /// Refuses a range that is empty or, for logarithms, whose exponential overflows.
    pub(crate) fn check(self, name: &'static str, logarithm: bool) -> Result<(), ObjectiveError> {
        let most = if logarithm { Self::WIDE.high } else { f64::INFINITY };
        if self.low > self.high || self.low.is_nan() || self.high.is_nan() {
            let expected = "a range whose low is not above its high";
            return Err(ObjectiveError::Setting { name, value: self.low, expected });
        }
        if self.high > most {
            let expected = "at most 80, beyond which exponentials overflow";
            return Err(ObjectiveError::Setting { name, value: self.high, expected });
        }
        Ok(())
    }
}

/// Refuses a number that is negative or not finite.
pub(crate) fn not_negative(name: &'static str, value: f64) -> Result<(), ObjectiveError> {
    check::within(name, value, 0.0.., "a number of at least 0")
}

/// Refuses a number outside of 0 to 1.
pub(crate) fn fraction(name: &'static str, value: f64) -> Result<(), ObjectiveError> {
    check::within(name, value, 0.0..=1.0, "from 0 to 1")
}

/// Refuses a number that is not finite.
pub(crate) fn finite(name: &'static str, value: f64) -> Result<(), ObjectiveError> {
    check::within(name, value, .., "a finite number")
}

/// Refuses a slice of another length, or with a number in it that is not finite.
pub(crate) fn numbers(
    what: &'static str,
    values: &[f64],
    len: usize,
) -> Result<(), ObjectiveError> {
    length(what, values.len(), len)?;
    values.iter().try_for_each(|value| finite(what, *value))
}

/// Refuses another length.
pub(crate) fn length(what: &'static str, got: usize, len: usize) -> Result<(), ObjectiveError> {
    if got == len {
        return Ok(());
    }
    Err(ObjectiveError::Shape { what, expected: vec![len], got: vec![got] })
}

/// Refuses weights that are not 0 or 1.
pub(crate) fn zeros_and_ones(values: &[f64]) -> Result<(), ObjectiveError> {
    match values.iter().find(|w| **w != 0.0 && **w != 1.0) {
        None => Ok(()),
        Some(value) => Err(ObjectiveError::Setting {
            name: "weights",
            value: *value,
            expected: "0 or 1 for every token",
        }),
    }
}

/// Refuses segments that name no completion.
pub(crate) fn segments(segments: &[u32], completions: usize) -> Result<(), ObjectiveError> {
    match segments.iter().find(|s| **s as usize >= completions) {
        None => Ok(()),
        Some(value) => Err(ObjectiveError::Setting {
            name: "segments",
            value: f64::from(*value),
            expected: "below the number of completions",
        }),
    }
}
