//! `x w` with w stored `[in, out]`, and its bias. The gradient of an operand is computed only where the operand
//! is tracked, on every device and in every type: a frozen weight costs nothing in the backward pass.

use candle_core::backend::BackendStorage;
use candle_core::op::Add;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, MetalStorage, Result, Shape,
    Tensor, WithDType, bail,
};

use crate::collect;
use crate::gemm::{Mat, gemm, product};
use crate::host::{by_dtype, host_dtype, slice, with_slices};
use crate::simd::Real;

/// `[rows, in] x [in, out] -> [rows, out]`, on the CPU in f32 and f64 with the fixed order of
/// summation of [`crate::gemm`].
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((_, inputs), (rows, _)) = (x.dims2()?, weight.dims2()?);
    if inputs != rows {
        bail!("linear: input {:?} does not fit weight {:?}", x.dims(), weight.dims());
    }
    if x.elem_count() == 0 {
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
    if x.elem_count() == 0 {
        return x.matmul(&weight.t()?);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear { transposed: true })
}

/// Adds a bias `[out]` to every row of `[rows, out]`.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if x.dim(1)? != bias.dims1()? || x.elem_count() == 0 {
        return x.broadcast_add(bias);
    }
    x.contiguous()?.apply_op2(&bias.contiguous()?, Bias)
}

/// `y + a b`, of a sum `[rows, out]` and a product of few steps (`[rows, r]` with `[r, out]`), whose chains go on from y.
pub fn add_product(y: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((rows, out), (m, k), (steps, n)) = (y.dims2()?, a.dims2()?, b.dims2()?);
    if !ours(y) || rows != m || k != steps || out != n || m * n * k == 0 {
        return y + linear(a, b)?;
    }
    y.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, AddProduct)
}

struct AddProduct;

impl CustomOp3 for AddProduct {
    fn name(&self) -> &'static str {
        "add-product"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((m, n), (_, k)) = (l1.shape().dims2()?, l2.shape().dims2()?);
        by_dtype!(host_dtype(s1), self.name(), T => {
            let mut y = slice::<T>(s1, l1, self.name())?.to_vec();
            let (a, b) = (slice::<T>(s2, l2, self.name())?, slice::<T>(s3, l3, self.name())?);
            gemm(m, n, k, Mat::row_major(a, k), Mat::row_major(b, n), &mut y, true);
            Ok((T::to_cpu_storage_owned(y), (m, n).into()))
        })
    }

    fn bwd(
        &self,
        y: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _sum: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = y.track_op().then(|| grad.clone());
        let (da, db) = Linear { transposed: false }.bwd(a, b, grad, grad)?;
        Ok((dy, da, db))
    }
}

struct Linear {
    transposed: bool,
}

struct Bias;

impl Bias {
    fn sum<S: BackendStorage>(s1: &S, l1: &Layout, s2: &S, l2: &Layout) -> Result<(S, Shape)> {
        let l2 = l2.broadcast_as(l1.shape().clone())?;
        Ok((s1.binary_impl::<Add>(s2, l1, &l2)?, l1.shape().clone()))
    }
}

impl CustomOp2 for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::sum(s1, l1, s2, l2)
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Self::sum(s1, l1, s2, l2)
    }

    fn metal_fwd(
        &self,
        s1: &MetalStorage,
        l1: &Layout,
        s2: &MetalStorage,
        l2: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        Self::sum(s1, l1, s2, l2)
    }

    fn bwd(
        &self,
        x: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = x.track_op().then(|| grad.clone());
        let db = if bias.track_op() { Some(grad.sum(0)?) } else { None };
        Ok((dx, db))
    }
}

/// A product, added to what is known already.
pub(super) fn added<T: Real>(
    known: Option<Vec<T>>,
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
) -> Vec<T> {
    match known {
        None => product(m, n, k, a, b),
        Some(mut c) => {
            gemm(m, n, k, a, b, &mut c, true);
            c
        }
    }
}

/// Whether our own product computes it; candle's computes all else.
pub(super) fn ours(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

impl Linear {
    /// candle's product of the stored operands.
    fn product<S: BackendStorage>(
        &self,
        s1: &S,
        l1: &Layout,
        s2: &S,
        l2: &Layout,
    ) -> Result<(S, Shape)> {
        let (m, k) = l1.shape().dims2()?;
        let l2 = if self.transposed { l2.transpose(0, 1)? } else { l2.clone() };
        let (_, n) = l2.shape().dims2()?;
        Ok((s1.matmul(s2, (1, m, n, k), l1, &l2)?, (m, n).into()))
    }

    /// The gradients of the operands that are tracked, by candle's product.
    fn gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // Detached, or the products would remember the pass that they come from.
        let (of_x, of_w) = (x.track_op(), w.track_op());
        let (x, w, grad) = (x.detach(), w.detach(), grad.detach().contiguous()?);
        let dx = match (of_x, self.transposed) {
            (false, _) => None,
            (true, true) => Some(grad.matmul(&w)?),
            (true, false) => Some(grad.matmul(&w.t()?)?),
        };
        let dw = match (of_w, self.transposed) {
            (false, _) => None,
            (true, true) => Some(grad.t()?.matmul(&x)?),
            (true, false) => Some(x.t()?.matmul(&grad)?),
        };
        Ok((dx, dw))
    }
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
        if !matches!(host_dtype(s1), DType::F32 | DType::F64) {
            return self.product(s1, l1, s2, l2);
        }
        let (m, k) = l1.shape().dims2()?;
        let (rows, columns) = l2.shape().dims2()?;
        let n = if self.transposed { rows } else { columns };
        by_dtype!(host_dtype(s1), self.name(), T => {
            let (x, w) = (slice::<T>(s1, l1, "linear")?, slice::<T>(s2, l2, "linear")?);
            let w = Mat::row_major(w, columns);
            let w = if self.transposed { w.transposed() } else { w };
            let y = product(m, n, k, Mat::row_major(x, k), w);
            Ok((T::to_cpu_storage_owned(y), (m, n).into()))
        })
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.product(s1, l1, s2, l2)
    }

    fn metal_fwd(
        &self,
        s1: &MetalStorage,
        l1: &Layout,
        s2: &MetalStorage,
        l2: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.product(s1, l1, s2, l2)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if !ours(x) {
            return self.gradients(x, w, grad);
        }
        let ((m, k), n) = (x.dims2()?, w.elem_count() / x.dim(1)?.max(1));
        by_dtype!(x.dtype(), self.name(), T => with_slices::<T, _>(&[x, w, grad], "linear", |s| {
            let grad = Mat::row_major(s[2], n);
            let dx = if x.track_op() {
                let w = if self.transposed {
                    Mat::row_major(s[1], k)
                } else {
                    Mat::row_major(s[1], n).transposed()
                };
                let dx = product(m, k, n, grad, w);
                Some(Tensor::from_vec(dx, (m, k), x.device())?)
            } else {
                None
            };
            let rows = Mat::row_major(s[0], k);
            let dw = collect::gradient::<T>(w, |sum| match self.transposed {
                true => added(sum, n, k, m, grad.transposed(), rows),
                false => added(sum, k, n, m, rows.transposed(), grad),
            })?;
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
        let bias = check::normal(&[7], "bias", DType::F64)?;
        check::close(&add_bias(&x, &bias)?, &x.broadcast_add(&bias)?, 0.0)?;
        check::gradient(&[x.clone(), bias], 1e-7, |t| add_bias(&t[0], &t[1])?.sqr()?.sum_all())?;
        let low = check::normal(&[7, 2], "low", DType::F64)?;
        let b = check::normal(&[2, 3], "b", DType::F64)?;
        let (y, a) = (linear_transposed(&x, &t)?, linear(&x, &low)?);
        check::close(&add_product(&y, &a, &b)?, &(&y + linear(&a, &b)?)?, 1e-12)?;
        check::gradient(&[y, a, b], 1e-7, |t| add_product(&t[0], &t[1], &t[2])?.sqr()?.sum_all())?;
        check::gradient(&[x, t], 1e-7, |t| (linear_transposed(&t[0], &t[1])? * &weight)?.sum_all())
    }

    /// In every type, also those that candle multiplies: neither the frozen weight nor a frozen input
    /// is among the gradients.
    #[test]
    fn frozen_operands_get_no_gradient() -> Result<()> {
        type Op = fn(&Tensor, &Tensor) -> Result<Tensor>;
        let ops: [(Op, [usize; 2]); 2] = [(linear, [7, 3]), (linear_transposed, [3, 7])];
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for (op, shape) in ops {
                let x = Var::from_tensor(&check::normal(&[5, 7], "x", dtype)?)?;
                let w = Var::from_tensor(&check::normal(&shape, "w", dtype)?)?;
                let grads = op(&x, &w.as_detached_tensor())?.sum_all()?.backward()?;
                assert!(grads.get(&x).is_some());
                assert_eq!(grads.get_ids().count(), 1, "{dtype:?}");
                let grads = op(&x.as_detached_tensor(), &w)?.sum_all()?.backward()?;
                assert!(grads.get(&w).is_some());
                assert_eq!(grads.get_ids().count(), 1, "{dtype:?}");
                let b = Var::from_tensor(&check::normal(&[7], "b", dtype)?)?;
                let grads = add_bias(&x, &b.as_detached_tensor())?.sum_all()?.backward()?;
                assert_eq!(grads.get_ids().count(), 1, "{dtype:?}");
            }
        }
        Ok(())
    }

    /// What candle multiplies has the gradients of f64 within the rounding of bf16 (2^-8), and the
    /// values of candle's own product.
    #[test]
    fn bf16_has_the_values_and_gradients_of_f64() -> Result<()> {
        let at = |dtype: DType, transposed: bool| -> Result<[Tensor; 3]> {
            let round = |x: Tensor| x.to_dtype(DType::BF16)?.to_dtype(dtype);
            let shape = if transposed { [3, 7] } else { [7, 3] };
            let x = Var::from_tensor(&round(check::normal(&[5, 7], "x", DType::F64)?)?)?;
            let w = Var::from_tensor(&round(check::normal(&shape, "w", DType::F64)?)?)?;
            let weight = round(check::normal(&[5, 3], "weight", DType::F64)?)?;
            let y = if transposed { linear_transposed(&x, &w)? } else { linear(&x, &w)? };
            let grads = (&y * weight)?.sum_all()?.backward()?;
            let grad = |v: &Var| grads.get(v).cloned().expect("a gradient");
            Ok([y.detach(), grad(&x), grad(&w)])
        };
        for transposed in [false, true] {
            let (got, want) = (at(DType::BF16, transposed)?, at(DType::F64, transposed)?);
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.dtype(), DType::BF16);
                check::close(got, want, 1.0 / 128.0)?;
            }
        }
        let (x, w) =
            (check::normal(&[5, 7], "x", DType::BF16)?, check::normal(&[7, 3], "w", DType::BF16)?);
        let bits = |x: Tensor| x.to_dtype(DType::F32)?.to_vec2::<f32>();
        assert_eq!(bits(linear(&x, &w)?)?, bits(x.matmul(&w)?)?);
        Ok(())
    }
}
