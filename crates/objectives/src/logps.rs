//! From log-probabilities of tokens to log-probabilities of continuations.

use candle_core::{DType, Tensor};

use crate::{ObjectiveError, check};

/// Sums token log-probs over continuations: `out[s] = sum of token_logps[t] where segments[t] = s`.
///
/// `token_logps` is `[tokens]`, `segments` is `[tokens]` of `u32` below `count`; the result is
/// `[count]`. Tokens are added in their order, so the sum does not depend on how continuations are
/// packed into rows. A continuation without tokens has log-probability 0.
pub fn sequence_logps(
    token_logps: &Tensor,
    segments: &Tensor,
    count: usize,
) -> Result<Tensor, ObjectiveError> {
    let tokens = check::logps("token_logps", token_logps)?;
    check::shape("segments", segments, &[tokens])?;
    if segments.dtype() != DType::U32 {
        let got = segments.dtype();
        return Err(ObjectiveError::DType { what: "segments", expected: "u32", got });
    }
    let sums = Tensor::zeros(count, token_logps.dtype(), token_logps.device())?;
    if tokens == 0 {
        return Ok(sums);
    }
    Ok(sums.index_add(segments, token_logps, 0)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn sums_tokens_of_each_continuation_and_spreads_the_gradient() {
        let device = Device::Cpu;
        let logps = Var::new(&[-1f32, -2.0, -4.0, -8.0, -16.0], &device).unwrap();
        let segments = Tensor::new(&[0u32, 2, 0, 2, 3], &device).unwrap();
        let sums = sequence_logps(&logps, &segments, 4).unwrap();
        assert_eq!(sums.to_vec1::<f32>().unwrap(), [-5.0, 0.0, -10.0, -16.0]);
        let above = Tensor::new(&[1f32, 10.0, 100.0, 1000.0], &device).unwrap();
        let grads = (sums * above).unwrap().sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&logps).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(grad, [1.0, 100.0, 1.0, 100.0, 1000.0]);
    }

    #[test]
    fn refuses_segments_that_do_not_fit() {
        let device = Device::Cpu;
        let logps = Tensor::new(&[-1f32, -2.0], &device).unwrap();
        let short = Tensor::new(&[0u32], &device).unwrap();
        let error = sequence_logps(&logps, &short, 1).unwrap_err();
        assert_eq!(error.to_string(), "segments: shape [1], expected [2]");
        let beyond = Tensor::new(&[0u32, 5], &device).unwrap();
        assert!(sequence_logps(&logps, &beyond, 2).is_err());
        let half = logps.to_dtype(DType::BF16).unwrap();
        let error = sequence_logps(&half, &beyond, 6).unwrap_err();
        assert_eq!(error.to_string(), "token_logps: BF16, expected f32 or f64");
    }

    #[test]
    fn nothing_sums_to_zero() {
        let device = Device::Cpu;
        let logps = Tensor::zeros(0, DType::F32, &device).unwrap();
        let segments = Tensor::zeros(0, DType::U32, &device).unwrap();
        let sums = sequence_logps(&logps, &segments, 2).unwrap();
        assert_eq!(sums.to_vec1::<f32>().unwrap(), [0.0, 0.0]);
    }
}
