//! `x w` with w stored `[in, out]`. The gradient of an operand is computed only where the operand
//! is tracked: a frozen weight costs nothing in the backward pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::gemm::{Mat, gemm};
use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};

/// `[rows, in] x [in, out] -> [rows, out]` with the fixed order of summation of [`crate::gemm`].
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((_, inputs), (rows, _)) = (x.dims2()?, weight.dims2()?);
    if inputs != rows {
        bail!("linear: input {:?} does not fit weight {:?}", x.dims(), weight.dims());
    }
    if !x.device().is_cpu() || x.dtype() == candle_core::DType::BF16 {
        return x.matmul(weight);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear { transposed: false })
}

/// The same with the weight stored `[out, in]` (embeddings that serve as the head).
pub fn linear_transposed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((_, inputs), (_, columns)) = (x.dims2()?, weight.dims2()?);
    if inputs != columns {
        bail!("linear: input {:?} does not fit weight {:?} transposed", x.dims(), weight.dims());
    }
    if !x.device().is_cpu() || x.dtype() == candle_core::DType::BF16 {
        return x.matmul(&weight.t()?);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear { transposed: true })
}

struct Linear {
    transposed: bool,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (m, k) = l1.shape().dims2()?;
        let (rows, columns) = l2.shape().dims2()?;
        let n = if self.transposed { rows } else { columns };
        by_dtype!(host_dtype(s1), self.name(), T => {
            let (x, w) = (slice::<T>(s1, l1, "linear")?, slice::<T>(s2, l2, "linear")?);
            let mut y = zeros::<T>(m * n);
            let w = Mat::row_major(w, columns);
            let w = if self.transposed { w.transposed() } else { w };
            gemm(m, n, k, Mat::row_major(x, k), w, &mut y, true);
            Ok((T::to_cpu_storage_owned(y), (m, n).into()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((m, k), n) = (x.dims2()?, w.elem_count() / x.dim(1)?.max(1));
        by_dtype!(x.dtype(), self.name(), T => with_slices::<T, _>(&[x, w, grad], "linear", |s| {
            let grad = Mat::row_major(s[2], n);
            let dx = if x.track_op() {
                let mut dx = zeros::<T>(m * k);
                let w = if self.transposed {
                    Mat::row_major(s[1], k)
                } else {
                    Mat::row_major(s[1], n).transposed()
                };
                gemm(m, k, n, grad, w, &mut dx, true);
                Some(Tensor::from_vec(dx, (m, k), x.device())?)
            } else {
                None
            };
            let dw = if w.track_op() {
                let mut dw = zeros::<T>(k * n);
                if self.transposed {
                    gemm(n, k, m, grad.transposed(), Mat::row_major(s[0], k), &mut dw, true);
                } else {
                    gemm(k, n, m, Mat::row_major(s[0], k).transposed(), grad, &mut dw, true);
                }
                Some(Tensor::from_vec(dw, w.shape(), w.device())?)
            } else {
                None
            };
            Ok((dx, dw))
        }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::check;

    #[test]
    fn gradient_is_right() -> Result<()> {
        let x = check::normal(&[5, 7], "x", DType::F64)?;
        let w = check::normal(&[7, 3], "w", DType::F64)?;
        let weight = check::normal(&[5, 3], "weight", DType::F64)?;
        let t = w.t()?.contiguous()?;
        check::gradient(&[x.clone(), w], 1e-7, |t| (linear(&t[0], &t[1])? * &weight)?.sum_all())?;
        check::gradient(&[x, t], 1e-7, |t| (linear_transposed(&t[0], &t[1])? * &weight)?.sum_all())
    }

    #[test]
    fn frozen_weights_get_no_gradient() -> Result<()> {
        let x = Var::from_tensor(&check::normal(&[5, 7], "x", DType::F32)?)?;
        let w = Var::from_tensor(&check::normal(&[7, 3], "w", DType::F32)?)?;
        let grads = linear(&x, &w.as_detached_tensor())?.sum_all()?.backward()?;
        assert!(grads.get(&x).is_some());
        assert_eq!(grads.get_ids().count(), 1);
        Ok(())
    }
}
