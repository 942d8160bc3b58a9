//! SwiGLU (Shazeer 2020), the tanh form of GELU (Hendrycks & Gimpel 2016) and soft caps (Gemma 2).

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType,
};
use rayon::prelude::*;

use crate::host::{
    add_to, by_dtype, host_dtype, in_place, slice, with_slice_mut, with_slices, zeros,
};
use crate::simd::{Real, simd, soften};

/// Elements of a task.
pub(super) const CHUNK: usize = 8192;

/// `silu(gate) * up`, elementwise.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !gate.device().is_cpu() || gate.dtype() == DType::BF16 {
        return gate.silu()? * up;
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

/// [`swiglu`] of a gate whose memory nobody else holds, `up` neither: where nothing is differentiated, the result takes
/// its place.
pub fn swiglu_owned(gate: Tensor, up: &Tensor) -> Result<Tensor> {
    if !in_place(&gate) || gate.track_op() || up.track_op() || gate.dims() != up.dims() {
        return swiglu(&gate, up);
    }
    with_slices::<f32, _>(&[up], "swiglu", |s| {
        with_slice_mut(&gate, |gate| {
            gate.par_chunks_mut(CHUNK)
                .zip(s[0].par_chunks(CHUNK))
                .for_each(|(g, u)| swiglu_over(g, u));
            Ok(())
        })
    })?;
    Ok(gate)
}

/// `x + y`, as at the end of a block's two halves, of a `y` whose memory nobody else holds: where nothing is differentiated,
/// the sum takes its place.
pub fn residual(x: &Tensor, y: Tensor) -> Result<Tensor> {
    if !in_place(&y) || x.track_op() || y.track_op() || x.dims() != y.dims() {
        return x + y;
    }
    with_slices::<f32, _>(&[x], "residual", |s| {
        with_slice_mut(&y, |y| {
            add_to(y, s[0]);
            Ok(())
        })
    })?;
    Ok(y)
}

/// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() || x.dtype() == DType::BF16 {
        return x.gelu();
    }
    x.contiguous()?.apply_op1(Elementwise::GeluTanh)
}

/// `cap tanh(x / cap)`, elementwise; `x` itself without a cap.
pub fn softcap(x: &Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        None => Ok(x.clone()),
        Some(cap) if !x.device().is_cpu() || x.dtype() == DType::BF16 => (x / cap)?.tanh()? * cap,
        Some(cap) => x.contiguous()?.apply_op1(Elementwise::SoftCap(cap)),
    }
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::of(1.0) / (T::of(1.0) + Real::exp(-x))
}

simd! {
    pub(super) fn swiglu_chunk<T>(gate: &[T], up: &[T], y: &mut [T]) {
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * sigmoid(g) * u;
        }
    }
}

simd! {
    fn swiglu_over<T>(gate: &mut [T], up: &[T]) {
        for (g, &u) in gate.iter_mut().zip(up) {
            *g = *g * sigmoid(*g) * u;
        }
    }
}

simd! {
    /// Gradients in the places of what they are gradients of.
    pub(super) fn swiglu_back_over<T>(gate: &mut [T], up: &mut [T], grad: &[T]) {
        for ((gate, up), &grad) in gate.iter_mut().zip(up).zip(grad) {
            let (g, u, s) = (*gate, *up, sigmoid(*gate));
            *up = grad * g * s;
            *gate = grad * u * s * (T::of(1.0) + g * (T::of(1.0) - s));
        }
    }
}

const ROOT: f64 = 0.797_884_560_802_865_4;
const CUBE: f64 = 0.044_715;

simd! {
    fn gelu_chunk<T>(x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            // 0.5 (1 + tanh(u)) = sigmoid(2u)
            let u = T::of(2.0 * ROOT) * x * (T::of(1.0) + T::of(CUBE) * x * x);
            *y = x * sigmoid(u);
        }
    }
}

simd! {
    fn gelu_back<T>(x: &[T], grad: &[T], dx: &mut [T]) {
        for ((d, &x), &g) in dx.iter_mut().zip(x).zip(grad) {
            let u = T::of(2.0 * ROOT) * x * (T::of(1.0) + T::of(CUBE) * x * x);
            let s = sigmoid(u);
            let slope = T::of(2.0 * ROOT) * (T::of(1.0) + T::of(3.0 * CUBE) * x * x);
            *d = g * (s + x * s * (T::of(1.0) - s) * slope);
        }
    }
}

simd! {
    fn cap_chunk<T>(cap: T, y: &mut [T]) {
        soften(y, cap);
    }
}

simd! {
    fn cap_back<T>(cap: T, x: &[T], grad: &[T], dx: &mut [T]) {
        let inverse = T::of(1.0) / cap;
        for ((d, &x), &g) in dx.iter_mut().zip(x).zip(grad) {
            let t = Real::tanh(x * inverse);
            *d = g * (T::of(1.0) - t * t);
        }
    }
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_dtype!(host_dtype(s1), self.name(), T => {
            let (g, u) = (slice::<T>(s1, l1, "swiglu")?, slice::<T>(s2, l2, "swiglu")?);
            let mut y = zeros::<T>(g.len());
            y.par_chunks_mut(CHUNK)
                .zip(g.par_chunks(CHUNK).zip(u.par_chunks(CHUNK)))
                .for_each(|(y, (g, u))| swiglu_chunk(g, u, y));
            Ok((T::to_cpu_storage_owned(y), l1.shape().clone()))
        })
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        by_dtype!(gate.dtype(), self.name(), T => with_slices::<T, _>(&[gate, up, grad], "swiglu", |s| {
            let (mut dg, mut du) = (s[0].to_vec(), s[1].to_vec());
            dg.par_chunks_mut(CHUNK)
                .zip(du.par_chunks_mut(CHUNK).zip(s[2].par_chunks(CHUNK)))
                .for_each(|(g, (u, grad))| swiglu_back_over(g, u, grad));
            Ok((
                Some(Tensor::from_vec(dg, gate.shape(), gate.device())?),
                Some(Tensor::from_vec(du, up.shape(), up.device())?),
            ))
        }))
    }
}

#[derive(Debug, Clone, Copy)]
enum Elementwise {
    GeluTanh,
    SoftCap(f64),
}

impl Elementwise {
    fn forward<T: Real>(self, x: &[T], y: &mut [T]) {
        match self {
            Self::GeluTanh => gelu_chunk(x, y),
            Self::SoftCap(cap) => {
                y.copy_from_slice(x);
                cap_chunk(T::of(cap), y);
            }
        }
    }

    fn backward<T: Real>(self, x: &[T], grad: &[T], dx: &mut [T]) {
        match self {
            Self::GeluTanh => gelu_back(x, grad, dx),
            Self::SoftCap(cap) => cap_back(T::of(cap), x, grad, dx),
        }
    }
}

impl CustomOp1 for Elementwise {
    fn name(&self) -> &'static str {
        match self {
            Self::GeluTanh => "gelu-tanh",
            Self::SoftCap(_) => "softcap",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_dtype!(host_dtype(storage), self.name(), T => {
            let x = slice::<T>(storage, layout, self.name())?;
            let mut y = zeros::<T>(x.len());
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| self.forward(x, y));
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        by_dtype!(x.dtype(), self.name(), T => with_slices::<T, _>(&[x, grad], self.name(), |s| {
            let mut dx = zeros::<T>(s[0].len());
            dx.par_chunks_mut(CHUNK)
                .zip(s[0].par_chunks(CHUNK).zip(s[1].par_chunks(CHUNK)))
                .for_each(|(dx, (x, g))| self.backward(x, g, dx));
            Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    #[test]
    fn values_and_gradients_are_right() -> Result<()> {
        let x = check::normal(&[3, 11], "x", DType::F64)?;
        let y = check::normal(&[3, 11], "y", DType::F64)?;
        check::close(&swiglu(&x, &y)?, &(x.silu()? * &y)?, 1e-12)?;
        check::close(&gelu_tanh(&x)?, &x.gelu()?, 1e-12)?;
        check::gradient(&[x.clone(), y.clone()], 1e-7, |t| {
            (swiglu(&t[0], &t[1])? * &y)?.sum_all()
        })?;
        check::gradient(std::slice::from_ref(&x), 1e-7, |t| (gelu_tanh(&t[0])? * &y)?.sum_all())?;
        check::close(&softcap(&x, Some(1.2))?, &((&x / 1.2)?.tanh()? * 1.2)?, 1e-12)?;
        check::gradient(&[x], 1e-7, |t| (softcap(&t[0], Some(1.2))? * &y)?.sum_all())
    }
}
