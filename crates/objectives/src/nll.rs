//! Supervised fine-tuning: the negative log-likelihood of the tokens to learn.

use candle_core::Tensor;

use crate::{ObjectiveError, check};

/// Weighted negative log-likelihood, `-sum_t weights[t] * token_logps[t] / total_weight`.
///
/// `token_logps` and `weights` are `[tokens]`; the result is a scalar. `total_weight` is the sum of
/// the weights over the whole optimiser step (all micro-batches and ranks), so that with weights 1
/// the accumulated loss is the mean over the step's tokens, as transformers' `ForCausalLMLoss` with
/// `num_items_in_batch` is.
pub fn nll(
    token_logps: &Tensor,
    weights: &Tensor,
    total_weight: f64,
) -> Result<Tensor, ObjectiveError> {
    let tokens = check::logps("token_logps", token_logps)?;
    check::shape("weights", weights, &[tokens])?;
    check::positive("total_weight", total_weight)?;
    let weights = weights.to_dtype(token_logps.dtype())?.detach();
    Ok(((token_logps * weights)?.sum_all()? * (-1.0 / total_weight))?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{D, DType, Device, Var};

    use super::*;

    fn golden() -> HashMap<String, Tensor> {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/objectives/sft.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()
    }

    fn scalar(tensor: &Tensor) -> f32 {
        tensor.to_scalar().unwrap()
    }

    #[test]
    fn agrees_with_transformers_in_value_and_gradient() {
        let golden = golden();
        let logits = Var::from_tensor(&golden["logits"]).unwrap();
        // Log-softmax from plain operations, then the log-probability of each next token.
        let shifted = logits.narrow(1, 0, 6).unwrap();
        let sums = shifted.exp().unwrap().sum_keepdim(D::Minus1).unwrap().log().unwrap();
        let all = shifted.broadcast_sub(&sums).unwrap();
        let next = golden["labels"].narrow(1, 1, 6).unwrap().contiguous().unwrap();
        let weights = golden["weights"].flatten_all().unwrap();
        let learnt = next.ge(0i64).unwrap();
        let next = (next * learnt.to_dtype(DType::I64).unwrap()).unwrap().unsqueeze(2).unwrap();
        let logps = all.gather(&next, 2).unwrap().flatten_all().unwrap();

        let total = f64::from(scalar(&weights.sum_all().unwrap()));
        let loss = nll(&logps, &weights, total).unwrap();
        assert!((scalar(&loss) - scalar(&golden["loss"])).abs() < 1e-5);
        let grads = loss.backward().unwrap();
        let gap = (grads.get(&logits).unwrap() - &golden["grad"]).unwrap().abs().unwrap();
        assert!(scalar(&gap.max_all().unwrap()) < 1e-6);

        let by_items = nll(&logps, &weights, 16.0).unwrap();
        assert!((scalar(&by_items) - scalar(&golden["loss.items"])).abs() < 1e-5);
    }

    #[test]
    fn weights_scale_tokens() {
        // (0.5 * 2 + 1 * 4) / 8 = 0.625
        let device = Device::Cpu;
        let logps = Tensor::new(&[-2f32, -4.0, -9.0], &device).unwrap();
        let weights = Tensor::new(&[0.5f32, 1.0, 0.0], &device).unwrap();
        assert_eq!(scalar(&nll(&logps, &weights, 8.0).unwrap()), 0.625);
    }

    #[test]
    fn micro_batches_add_up() {
        let device = Device::Cpu;
        let logps = Tensor::new(&[-2f64, -4.0, -9.0, -0.5], &device).unwrap();
        let weights = Tensor::ones(4, DType::F64, &device).unwrap();
        let whole = nll(&logps, &weights, 4.0).unwrap().to_scalar::<f64>().unwrap();
        let part = |start, len| {
            let cut = |t: &Tensor| t.narrow(0, start, len).unwrap();
            nll(&cut(&logps), &cut(&weights), 4.0).unwrap().to_scalar::<f64>().unwrap()
        };
        assert!((whole - (part(0, 3) + part(3, 1))).abs() < 1e-12);
    }

    #[test]
    fn refuses_an_empty_step() {
        let logps = Tensor::new(&[-2f32], &Device::Cpu).unwrap();
        let error = nll(&logps, &logps, 0.0).unwrap_err();
        assert_eq!(error.to_string(), "total_weight is 0, expected a positive number");
    }
}
