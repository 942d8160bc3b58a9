//! Logistic functions that neither overflow nor lose their gradient, for any finite argument.

use candle_core::{Result, Tensor};

/// Exponents are cut here, as in TRL: `exp` of more leaves `f32` soon after.
const LARGEST_EXPONENT: f64 = 80.0;

/// `log(1 + exp(x))`, which is `-log sigmoid(-x)`.
///
/// The maximum is taken out as a constant. Written with `relu` and `abs` instead, the gradient at 0
/// would come out as 0 rather than 1/2, and 0 is exactly where every run starts.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    let max = x.detach().relu()?;
    (&max + (max.neg()?.exp()? + (x - &max)?.exp()?)?.log()?)?.reshape(x.shape())
}

/// `log(1 / (1 + exp(-x)))`.
pub(crate) fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    softplus(&x.neg()?)?.neg()
}

/// `1 / (1 + exp(-x))`; its logarithm is never positive, so that the exponential is safe.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    log_sigmoid(x)?.exp()
}

/// `exp(x)`, constant where `x` is above 80.
pub(crate) fn exp_cut(x: &Tensor) -> Result<Tensor> {
    x.minimum(LARGEST_EXPONENT)?.exp()
}

/// `log(1 - exp(x))` for `x` below 0; 0 itself is moved to the next number, where the result is finite.
///
/// With `s = tanh(-x / 2)`, `1 - exp(x) = 2 s / (1 + s)`: nothing cancels near 0, and no branch is
/// needed for the far end.
pub(crate) fn log_one_minus_exp(x: &Tensor) -> Result<Tensor> {
    let s = (x.minimum(-1e-30)? * -0.5)?.tanh()?;
    (s.log()? - (&s + 1.0)?.log()?)? + std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    fn check(function: impl Fn(&Tensor) -> Result<Tensor>, rows: &[(f64, f64, f64)]) {
        for dtype in [DType::F64, DType::F32] {
            let tolerance = if dtype == DType::F64 { 1e-14 } else { 1e-6 };
            for &(x, value, slope) in rows {
                let x = Tensor::new(&[x], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let x = Var::from_tensor(&x).unwrap();
                let y = function(&x).unwrap();
                let grads = y.backward().unwrap();
                for (ours, expected) in [(&y, value), (grads.get(&x).unwrap(), slope)] {
                    let ours = ours.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0];
                    let gap = (ours - expected).abs();
                    assert!(gap <= tolerance * expected.abs().max(1.0), "{x}: {ours} {expected}");
                }
            }
        }
    }

    #[test]
    fn values_and_slopes_at_the_middle_and_in_the_tails() {
        let ln2 = std::f64::consts::LN_2;
        check(softplus, &[(0.0, ln2, 0.5), (5000.0, 5000.0, 1.0), (-5000.0, 0.0, 0.0)]);
        check(log_sigmoid, &[(0.0, -ln2, 0.5), (-5000.0, -5000.0, 1.0), (5000.0, 0.0, 0.0)]);
        check(sigmoid, &[(0.0, 0.5, 0.25), (-5000.0, 0.0, 0.0), (5000.0, 1.0, 0.0)]);
        check(exp_cut, &[(0.0, 1.0, 1.0), (5000.0, 80f64.exp(), 0.0), (-5000.0, 0.0, 0.0)]);
        // log(1 - 1/2) and -(1/2) / (1 - 1/2); log(1 - exp(-5000)) is 0 to the last digit.
        check(log_one_minus_exp, &[(-ln2, -ln2, -1.0), (-5000.0, 0.0, 0.0)]);
        // 1 - exp(-1e-12) is 1e-12 (1 - 5e-13): a difference of 1 would have four digits left.
        let near = |x: &Tensor| log_one_minus_exp(x)? * 1e-12;
        check(near, &[(-1e-12, 1e-12 * 1e-12f64.ln(), -1.0 + 5e-13)]);
    }

    #[test]
    fn certain_answers_have_finite_odds() {
        let x = Var::from_tensor(&Tensor::new(&[0f32], &Device::Cpu).unwrap()).unwrap();
        let y = log_one_minus_exp(&x).unwrap();
        assert!(y.to_vec1::<f32>().unwrap()[0] < -60.0);
        let grads = y.backward().unwrap();
        assert!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap()[0].is_finite());
    }
}
