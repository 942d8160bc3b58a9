//! Weights that preference losses put on tokens or on continuations.

use candle_core::Tensor;

use crate::{ObjectiveError, check, sequence_logps};

/// LD-DPO's weights of tokens: 1 up to the length of the shorter answer of a pair, `ld_alpha` beyond.
///
/// Liu et al., "Length Desensitization in DPO" (arXiv 2409.06411): what a longer answer has more of
/// counts less. `segments` names the continuation of each token, in order: `2 p` is the chosen one of
/// pair `p` and `2 p + 1` the rejected one; `ld_alpha` goes from 0 to 1, and 1 changes nothing.
/// Multiplied with token log-probs, of the policy and of the reference, before they are summed.
pub fn ld_weights(
    segments: &[u32],
    pairs: usize,
    ld_alpha: f64,
) -> Result<Vec<f64>, ObjectiveError> {
    check::within("ld_alpha", ld_alpha, 0.0..=1.0, "from 0 to 1")?;
    let mut lengths = vec![0usize; 2 * pairs];
    let last = (2 * pairs) as f64 - 1.0;
    for &segment in segments {
        match lengths.get_mut(segment as usize) {
            Some(length) => *length += 1,
            None => {
                let expected = "continuations of the pairs";
                check::within("segments", f64::from(segment), 0.0..=last, expected)?;
            }
        }
    }
    let mut seen = vec![0usize; 2 * pairs];
    let weight = |&segment: &u32| {
        let own = segment as usize;
        seen[own] += 1;
        if seen[own] <= lengths[own].min(lengths[own ^ 1]) { 1.0 } else { ld_alpha }
    };
    Ok(segments.iter().map(weight).collect())
}

/// WPO's weights of continuations, `[count]`, as constants.
///
/// Zhou et al., "WPO" (arXiv 2406.11827), equation 2 with its alignment of probabilities: the
/// exponential of the mean over tokens of `log p(token) - log sum_v p(v)^2`. `token_logps` and
/// `log_sum_sq_probs` are `[tokens]`, under the policy; `segments` is `[tokens]` of `u32` below
/// `count`. A continuation without tokens has weight 1.
pub fn wpo_weights(
    token_logps: &Tensor,
    log_sum_sq_probs: &Tensor,
    segments: &Tensor,
    count: usize,
) -> Result<Tensor, ObjectiveError> {
    let tokens = check::logps("token_logps", token_logps)?;
    check::shape("log_sum_sq_probs", log_sum_sq_probs, &[tokens])?;
    check::logps("log_sum_sq_probs", log_sum_sq_probs)?;
    let aligned = (token_logps.detach() - log_sum_sq_probs.detach())?;
    let sums = sequence_logps(&aligned, segments, count)?;
    let lengths = sequence_logps(&aligned.ones_like()?, segments, count)?;
    Ok((sums / lengths.maximum(1.0)?)?.exp()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn what_is_longer_counts_less() {
        // Pair 0 has 3 and 1 tokens, pair 1 has 1 and 2; the order of continuations is free.
        let segments = [1, 0, 0, 0, 3, 3, 2];
        let weights = ld_weights(&segments, 2, 0.25).unwrap();
        assert_eq!(weights, [1.0, 1.0, 0.25, 0.25, 1.0, 0.25, 1.0]);
        assert_eq!(ld_weights(&segments, 2, 1.0).unwrap(), [1.0; 7]);
        let error = ld_weights(&segments, 1, 0.5).unwrap_err();
        assert_eq!(error.to_string(), "segments is 3, expected continuations of the pairs");
        let error = ld_weights(&segments, 2, 1.5).unwrap_err();
        assert_eq!(error.to_string(), "ld_alpha is 1.5, expected from 0 to 1");
    }

    #[test]
    fn certain_tokens_weigh_one() {
        let device = Device::Cpu;
        let logps = Tensor::new(&[0f64, -1.0, -3.0], &device).unwrap();
        let sums = Tensor::new(&[0f64, -2.0, -2.0], &device).unwrap();
        let segments = Tensor::new(&[0u32, 1, 1], &device).unwrap();
        let weights = wpo_weights(&logps, &sums, &segments, 3).unwrap();
        // The mean of 1 and -1 is 0.
        assert_eq!(weights.to_vec1::<f64>().unwrap(), [1.0, 1.0, 1.0]);
    }
}
