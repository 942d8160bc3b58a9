//! Log-probabilities of given tokens, without ever holding all logits.
//!
//! `logp[i] = (w h[i])[target[i]] - logsumexp(w h[i])`. Rows are taken in chunks, forward and
//! backward; the backward pass computes a chunk's logits again.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};

use crate::collect;
use crate::gemm::{Mat, gemm};
use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};
use crate::simd::{Real, simd, soften};

/// Rows whose logits are held at a time.
pub const LOGP_CHUNK: usize = 256;

/// Natural log-probability of `targets[i]` at row i: hidden `[rows, width]`, head `[vocab, width]`,
/// result `[rows]`. With `softcap`, of logits kept below it: `cap tanh(logit / cap)`.
pub fn gathered_logps(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    softcap: Option<f64>,
) -> Result<Tensor> {
    gathered_logps_at(hidden, head, targets, softcap, 1.0)
}

/// [`gathered_logps`] of logits divided by `temperature` after the cap.
pub fn gathered_logps_at(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    softcap: Option<f64>,
    temperature: f64,
) -> Result<Tensor> {
    let ((rows, width), (vocab, inputs)) = (hidden.dims2()?, head.dims2()?);
    if rows != targets.len() || width != inputs {
        bail!(
            "log-probabilities: {rows} rows of {width}, head {:?}, {} targets",
            head.dims(),
            targets.len()
        );
    }
    if let Some(&bad) = targets.iter().find(|&&t| t as usize >= vocab) {
        bail!("log-probabilities: token {bad} is outside the vocabulary of {vocab}");
    }
    if !hidden.device().is_cpu() || hidden.dtype() == DType::BF16 {
        let mut parts = Vec::new();
        for start in (0..rows).step_by(LOGP_CHUNK) {
            let len = LOGP_CHUNK.min(rows - start);
            let logits = super::linear_transposed(&hidden.narrow(0, start, len)?, head)?;
            let mut logits = super::softcap(&logits.to_dtype(DType::F32)?, softcap)?;
            if temperature != 1.0 {
                logits = (logits / temperature)?;
            }
            let index =
                Tensor::from_slice(&targets[start..start + len], (len, 1), hidden.device())?;
            parts.push(
                candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&index, 1)?.squeeze(1)?,
            );
        }
        return Tensor::cat(&parts, 0);
    }
    // The head is linear: states divided by the temperature give logits divided by it, also under the cap,
    // `cap tanh(x / cap) / t = (cap / t) tanh((x / t) / (cap / t))`.
    let scaled = if temperature == 1.0 { hidden.clone() } else { (hidden / temperature)? };
    let softcap = softcap.map(|cap| cap / temperature);
    let op = GatheredLogps { targets: Arc::from(targets), softcap };
    scaled.contiguous()?.apply_op2(&head.contiguous()?, op)
}

/// Maximum and log of the sum of exponentials above it: `x - max - log_sum` is the log-probability
/// of a logit `x` of this row, with the bits that [`gathered_logps`] gives.
pub fn log_normaliser(row: &[f32]) -> (f32, f32) {
    let mut copy = row.to_vec();
    let mut out = [0f32; 2];
    normaliser(&mut copy, &mut out);
    (out[0], out[1])
}

simd! {
    fn normaliser<T>(row: &mut [T], out: &mut [T]) {
        let (max, sum) = sum_exp(row);
        out[0] = max;
        out[1] = sum.ln();
    }
}

struct GatheredLogps {
    targets: Arc<[u32]>,
    softcap: Option<f64>,
}

simd! {
    /// Turns each row of logits into the log-probability of its target.
    fn rows_forward<T>(logits: &mut [T], vocab: usize, targets: &[u32], cap: Option<T>, out: &mut [T]) {
        for ((row, &target), out) in logits.chunks_exact_mut(vocab).zip(targets).zip(out) {
            if let Some(cap) = cap {
                soften(row, cap);
            }
            let chosen = row[target as usize];
            let (max, sum) = sum_exp(row);
            *out = chosen - max - sum.ln();
        }
    }
}

simd! {
    /// Turns each row of logits into the gradient of `g * logp` with respect to them.
    fn rows_backward<T>(logits: &mut [T], vocab: usize, targets: &[u32], cap: Option<T>, grads: &[T]) {
        let mut slopes = Vec::new();
        for ((row, &target), &g) in logits.chunks_exact_mut(vocab).zip(targets).zip(grads) {
            if let Some(cap) = cap {
                soften(row, cap);
                let inverse = T::of(1.0) / cap;
                slopes.clear();
                slopes.extend(row.iter().map(|&x| T::of(1.0) - (x * inverse) * (x * inverse)));
            }
            let (_, sum) = sum_exp(row);
            let factor = -g / sum;
            for x in row.iter_mut() {
                *x *= factor;
            }
            row[target as usize] += g;
            for (x, &slope) in row.iter_mut().zip(&slopes) {
                *x *= slope;
            }
        }
    }
}

/// Replaces the row by `exp(row - max)`; gives the maximum and the sum.
#[inline(always)]
fn sum_exp<T: Real>(row: &mut [T]) -> (T, T) {
    let mut max = row[0];
    for &x in row.iter() {
        max = max.larger(x);
    }
    let mut lanes = [T::default(); 16];
    for chunk in row.chunks_mut(16) {
        for (l, x) in chunk.iter_mut().enumerate() {
            let e = Real::exp(*x - max);
            *x = e;
            lanes[l] += e;
        }
    }
    let mut sum = lanes[0];
    for &l in &lanes[1..] {
        sum += l;
    }
    (max, sum)
}

impl CustomOp2 for GatheredLogps {
    fn name(&self) -> &'static str {
        "gathered-logps"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, width), (vocab, _)) = (l1.shape().dims2()?, l2.shape().dims2()?);
        by_dtype!(host_dtype(s1), self.name(), T => {
            let (h, w) = (slice::<T>(s1, l1, self.name())?, slice::<T>(s2, l2, self.name())?);
            let mut out = zeros::<T>(rows);
            for start in (0..rows).step_by(LOGP_CHUNK) {
                let len = LOGP_CHUNK.min(rows - start);
                let mut logits = zeros::<T>(len * vocab);
                let part = Mat::row_major(&h[start * width..(start + len) * width], width);
                gemm(len, vocab, width, part, Mat::row_major(w, width).transposed(), &mut logits, true);
                let cap = self.softcap.map(T::of);
                rows_forward(&mut logits, vocab, &self.targets[start..start + len], cap, &mut out[start..start + len]);
            }
            Ok((T::to_cpu_storage_owned(out), rows.into()))
        })
    }

    fn bwd(
        &self,
        h: &Tensor,
        w: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, width), vocab) = (h.dims2()?, w.dim(0)?);
        by_dtype!(h.dtype(), self.name(), T => with_slices::<T, _>(&[h, w, grad], self.name(), |s| {
            let mut dh = zeros::<T>(rows * width);
            let mut back = |mut dw: Option<&mut [T]>| for start in (0..rows).step_by(LOGP_CHUNK) {
                let len = LOGP_CHUNK.min(rows - start);
                let mut logits = zeros::<T>(len * vocab);
                let part = Mat::row_major(&s[0][start * width..(start + len) * width], width);
                let head = Mat::row_major(s[1], width);
                gemm(len, vocab, width, part, head.transposed(), &mut logits, true);
                let cap = self.softcap.map(T::of);
                rows_backward(&mut logits, vocab, &self.targets[start..start + len], cap, &s[2][start..start + len]);
                let d = Mat::row_major(&logits, vocab);
                gemm(len, width, vocab, d, head, &mut dh[start * width..(start + len) * width], true);
                if let Some(dw) = &mut dw {
                    gemm(vocab, width, len, d.transposed(), part, dw, true);
                }
            };
            let dw = if w.track_op() {
                collect::gradient::<T>(w, |sum| {
                    let mut sum = sum.unwrap_or_else(|| zeros::<T>(width * vocab));
                    back(Some(&mut sum));
                    sum
                })?
            } else {
                back(None);
                None
            };
            Ok((Some(Tensor::from_vec(dh, h.shape(), h.device())?), dw))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    #[test]
    fn values_and_gradients_are_right() -> Result<()> {
        let h = check::normal(&[5, 6], "h", DType::F64)?;
        let w = check::normal(&[19, 6], "w", DType::F64)?;
        let targets = [0, 18, 7, 7, 3];
        let index = Tensor::from_slice(&targets, (5, 1), h.device())?;
        for (cap, temperature) in [(None, 1.0), (Some(2.5), 1.0), (None, 0.7), (Some(2.5), 1.3)] {
            let logits = (super::super::softcap(&h.matmul(&w.t()?)?, cap)? / temperature)?;
            let want =
                candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&index, 1)?.squeeze(1)?;
            let logps = gathered_logps_at(&h, &w, &targets, cap, temperature)?;
            check::close(&logps, &want, 1e-12)?;
            let weight = check::normal(&[5], "weight", DType::F64)?;
            check::gradient(&[h.clone(), w.clone()], 1e-7, |t| {
                let logps = gathered_logps_at(&t[0], &t[1], &targets, cap, temperature)?;
                (logps * &weight)?.sum_all()
            })?;
        }
        Ok(())
    }
}
