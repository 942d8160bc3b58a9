//! Two products of one input that meet in a SwiGLU, as one operation: what is between stays out of candle's graph, which
//! would add every gradient to a tensor of zeros.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

use super::activation::{CHUNK, swiglu_back_over, swiglu_chunk};
use super::linear::{added, ours};
use super::{linear, swiglu_owned};
use crate::collect;
use crate::gemm::{Mat, gemm, product};
use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};
use crate::simd::Real;

/// `silu(x gate) * (x up)` of `[rows, in]` and two weights `[in, out]`.
pub fn gated_linear(x: &Tensor, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let learns = x.track_op() || gate.track_op() || up.track_op();
    if !learns || !ours(x) || x.elem_count() == 0 {
        return swiglu_owned(linear(x, gate)?, &linear(x, up)?);
    }
    if gate.dims() != up.dims() || x.dim(1)? != gate.dim(0)? {
        bail!(
            "gated linear: input {:?} does not fit weights {:?} and {:?}",
            x.dims(),
            gate.dims(),
            up.dims()
        );
    }
    let op = GatedLinear { products: Mutex::new(None) };
    x.contiguous()?.apply_op3(&gate.contiguous()?, &up.contiguous()?, op)
}

/// The two products as `(Vec<T>, Vec<T>)`, from the forward pass to the backward pass, which makes its gradients of them.
struct GatedLinear {
    products: Mutex<Option<Box<dyn Any + Send>>>,
}

impl GatedLinear {
    fn products<T: Real>(
        x: &[T],
        gate: &[T],
        up: &[T],
        (m, k, n): (usize, usize, usize),
    ) -> [Vec<T>; 2] {
        let x = Mat::row_major(x, k);
        [gate, up].map(|w| product(m, n, k, x, Mat::row_major(w, n)))
    }

    fn products_again<T: Real>(&self) -> Option<[Vec<T>; 2]> {
        let kept = self.products.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.and_then(|kept| kept.downcast().ok()).map(|kept| *kept)
    }
}

impl CustomOp3 for GatedLinear {
    fn name(&self) -> &'static str {
        "gated-linear"
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
        let ((m, k), (_, n)) = (l1.shape().dims2()?, l2.shape().dims2()?);
        by_dtype!(host_dtype(s1), self.name(), T => {
            let x = slice::<T>(s1, l1, self.name())?;
            let (gate, up) = (slice::<T>(s2, l2, self.name())?, slice::<T>(s3, l3, self.name())?);
            let [g, u] = Self::products(x, gate, up, (m, k, n));
            let mut y = zeros::<T>(m * n);
            y.par_chunks_mut(CHUNK)
                .zip(g.par_chunks(CHUNK).zip(u.par_chunks(CHUNK)))
                .for_each(|(y, (g, u))| swiglu_chunk(g, u, y));
            *self.products.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new([g, u]));
            Ok((T::to_cpu_storage_owned(y), (m, n).into()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((m, k), n) = (x.dims2()?, gate.dim(1)?);
        let all = [x, gate, up, grad];
        by_dtype!(x.dtype(), self.name(), T => with_slices::<T, _>(&all, self.name(), |s| {
            // A second backward pass over the same graph finds them gone.
            let kept = self.products_again::<T>();
            let [mut dg, mut du] =
                kept.unwrap_or_else(|| Self::products(s[0], s[1], s[2], (m, k, n)));
            dg.par_chunks_mut(CHUNK)
                .zip(du.par_chunks_mut(CHUNK).zip(s[3].par_chunks(CHUNK)))
                .for_each(|(g, (u, grad))| swiglu_back_over(g, u, grad));
            let (dg, du) = (Mat::row_major(&dg, n), Mat::row_major(&du, n));
            let dx = if x.track_op() {
                let turned = |w| Mat::row_major(w, n).transposed();
                let mut dx = product(m, k, n, dg, turned(s[1]));
                gemm(m, k, n, du, turned(s[2]), &mut dx, true);
                Some(Tensor::from_vec(dx, (m, k), x.device())?)
            } else {
                None
            };
            let rows = Mat::row_major(s[0], k).transposed();
            let of = |w: &Tensor, grad| collect::gradient::<T>(w, |sum| added(sum, k, n, m, rows, grad));
            Ok((dx, of(gate, dg)?, of(up, du)?))
        }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::check;

    #[test]
    fn equals_the_composed_form_and_has_its_gradient() -> Result<()> {
        for (dtype, off) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let var = |shape: &[usize], name| Var::from_tensor(&check::normal(shape, name, dtype)?);
            let (x, gate, up) = (var(&[5, 7], "x")?, var(&[7, 3], "g")?, var(&[7, 3], "u")?);
            let weight = check::normal(&[5, 3], "weight", dtype)?;
            let ours = gated_linear(&x, &gate, &up)?;
            let composed = crate::ops::swiglu(&linear(&x, &gate)?, &linear(&x, &up)?)?;
            check::close(&ours, &composed, 0.0)?;
            let want = (composed * &weight)?.sum_all()?.backward()?;
            let loss = (ours * &weight)?.sum_all()?;
            // The second time without what the forward pass has left.
            for _ in 0..2 {
                let got = loss.backward()?;
                for var in [&x, &gate, &up] {
                    check::close(got.get(var).expect("got"), want.get(var).expect("want"), off)?;
                }
            }
        }
        let x = check::normal(&[4, 6], "x", DType::F64)?;
        let (gate, up) =
            (check::normal(&[6, 5], "g", DType::F64)?, check::normal(&[6, 5], "u", DType::F64)?);
        check::gradient(&[x, gate, up], 1e-7, |t| {
            gated_linear(&t[0], &t[1], &t[2])?.sqr()?.sum_all()
        })
    }

    #[test]
    fn frozen_operands_get_no_gradient() -> Result<()> {
        let var =
            |shape: &[usize], name| Var::from_tensor(&check::normal(shape, name, DType::F32)?);
        let (x, gate, up) = (var(&[5, 7], "x")?, var(&[7, 3], "g")?, var(&[7, 3], "u")?);
        let frozen = |var: &Var| var.as_detached_tensor();
        let grads = gated_linear(&x, &frozen(&gate), &frozen(&up))?.sum_all()?.backward()?;
        assert_eq!((grads.get_ids().count(), grads.get(&x).is_some()), (1, true));
        let grads = gated_linear(&frozen(&x), &frozen(&gate), &up)?.sum_all()?.backward()?;
        assert_eq!((grads.get_ids().count(), grads.get(&up).is_some()), (1, true));
        Ok(())
    }
}
