//! RMSNorm (Zhang & Sennrich 2019, eq. 4) and LayerNorm (Ba et al. 2016, eq. 4) with their
//! gradients. Sums run in 16 lanes by column, so a row's result does not depend on other rows.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

use crate::collect;
use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};
use crate::simd::{Real, simd};

/// Rows per task.
const ROWS: usize = 32;
const LANES: usize = 16;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension of `[rows, width]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() || x.dtype() == candle_core::DType::BF16 {
        let wide = x.to_dtype(candle_core::DType::F32)?;
        let scale = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        return wide.broadcast_div(&scale)?.to_dtype(x.dtype())?.broadcast_mul(weight);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the last dimension of `[rows, width]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !x.device().is_cpu() || x.dtype() == candle_core::DType::BF16 {
        let wide = x.to_dtype(candle_core::DType::F32)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        let unit = centred.broadcast_div(&scale)?.to_dtype(x.dtype())?;
        return unit.broadcast_mul(weight)?.broadcast_add(bias);
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps })
}

#[inline(always)]
fn lane_sum<T: Real>(x: &[T], mut f: impl FnMut(T, T) -> T) -> T {
    let mut lanes = [T::default(); LANES];
    for chunk in x.chunks(LANES) {
        for (l, &value) in chunk.iter().enumerate() {
            lanes[l] = f(value, lanes[l]);
        }
    }
    let mut sum = lanes[0];
    for &l in &lanes[1..] {
        sum += l;
    }
    sum
}

simd! {
    fn rms_rows<T>(x: &[T], w: &[T], eps: f64, y: &mut [T]) {
        let width = w.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let square = lane_sum(x, |v, acc| v.fma(v, acc));
            let r = T::of(1.0) / (square / T::of(width as f64) + T::of(eps)).sqrt();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = x * r * w;
            }
        }
    }
}

simd! {
    /// `dx` for each row; the weight's gradient is added to `dw`.
    fn rms_rows_backward<T>(x: &[T], w: &[T], g: &[T], eps: f64, dx: &mut [T], dw: &mut [T]) {
        let width = w.len();
        for ((x, g), dx) in x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let square = lane_sum(x, |v, acc| v.fma(v, acc));
            let r = T::of(1.0) / (square / T::of(width as f64) + T::of(eps)).sqrt();
            for i in 0..width {
                dx[i] = g[i] * w[i];
                dw[i] = (g[i] * r).fma(x[i], dw[i]);
            }
            let mut lanes = [T::default(); LANES];
            for (d, x) in dx.chunks(LANES).zip(x.chunks(LANES)) {
                for (l, (&d, &x)) in d.iter().zip(x).enumerate() {
                    lanes[l] = d.fma(x, lanes[l]);
                }
            }
            let mut dot = T::default();
            for l in lanes {
                dot += l;
            }
            let factor = dot * r * r * r / T::of(width as f64);
            for (d, &x) in dx.iter_mut().zip(x) {
                *d = (-factor).fma(x, *d * r);
            }
        }
    }
}

simd! {
    fn layer_rows<T>(x: &[T], w: &[T], b: &[T], eps: f64, y: &mut [T]) {
        let width = w.len();
        let n = T::of(width as f64);
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let mean = lane_sum(x, |v, acc| acc + v) / n;
            let square = lane_sum(x, |v, acc| (v - mean).fma(v - mean, acc));
            let r = T::of(1.0) / (square / n + T::of(eps)).sqrt();
            for i in 0..width {
                y[i] = ((x[i] - mean) * r).fma(w[i], b[i]);
            }
        }
    }
}

simd! {
    fn layer_rows_backward<T>(
        x: &[T], w: &[T], g: &[T], eps: f64, dx: &mut [T], dw: &mut [T], db: &mut [T],
    ) {
        let width = w.len();
        let n = T::of(width as f64);
        let mut unit = vec![T::default(); width];
        for ((x, g), dx) in x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let mean = lane_sum(x, |v, acc| acc + v) / n;
            let square = lane_sum(x, |v, acc| (v - mean).fma(v - mean, acc));
            let r = T::of(1.0) / (square / n + T::of(eps)).sqrt();
            for i in 0..width {
                unit[i] = (x[i] - mean) * r;
                dx[i] = g[i] * w[i];
                dw[i] = g[i].fma(unit[i], dw[i]);
                db[i] += g[i];
            }
            let total = lane_sum(dx, |v, acc| acc + v) / n;
            let mut lanes = [T::default(); LANES];
            for (d, u) in dx.chunks(LANES).zip(unit.chunks(LANES)) {
                for (l, (&d, &u)) in d.iter().zip(u).enumerate() {
                    lanes[l] = d.fma(u, lanes[l]);
                }
            }
            let mut dot = T::default();
            for l in lanes {
                dot += l;
            }
            let dot = dot / n;
            for (d, &u) in dx.iter_mut().zip(&unit) {
                *d = r * (*d - total - u * dot);
            }
        }
    }
}

/// Sums per-task partial gradients of a parameter in task order, so that the result has fixed bits.
fn join<T: Real>(parts: Vec<Vec<T>>, of: &Tensor) -> Result<Option<Tensor>> {
    collect::gradient::<T>(of, |known| {
        let mut total = known.unwrap_or_else(|| zeros::<T>(of.elem_count()));
        for part in parts {
            for (t, p) in total.iter_mut().zip(part) {
                *t += p;
            }
        }
        total
    })
}

struct RmsNorm {
    eps: f64,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_dtype!(host_dtype(s1), self.name(), T => {
            let (x, w) = (slice::<T>(s1, l1, "rms-norm")?, slice::<T>(s2, l2, "rms-norm")?);
            let mut y = zeros::<T>(x.len());
            let rows = ROWS * w.len();
            y.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| rms_rows(x, w, self.eps, y));
            Ok((T::to_cpu_storage_owned(y), l1.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        by_dtype!(x.dtype(), self.name(), T => with_slices::<T, _>(&[x, w, grad], "rms-norm", |s| {
            let width = s[1].len();
            let mut dx = zeros::<T>(s[0].len());
            let rows = ROWS * width;
            let parts: Vec<Vec<T>> = dx
                .par_chunks_mut(rows)
                .zip(s[0].par_chunks(rows).zip(s[2].par_chunks(rows)))
                .map(|(dx, (x, g))| {
                    let mut dw = zeros::<T>(width);
                    rms_rows_backward(x, s[1], g, self.eps, dx, &mut dw);
                    dw
                })
                .collect();
            Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), join(parts, w)?))
        }))
    }
}

struct LayerNorm {
    eps: f64,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
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
        by_dtype!(host_dtype(s1), self.name(), T => {
            let x = slice::<T>(s1, l1, "layer-norm")?;
            let (w, b) = (slice::<T>(s2, l2, "layer-norm")?, slice::<T>(s3, l3, "layer-norm")?);
            let mut y = zeros::<T>(x.len());
            let rows = ROWS * w.len();
            y.par_chunks_mut(rows)
                .zip(x.par_chunks(rows))
                .for_each(|(y, x)| layer_rows(x, w, b, self.eps, y));
            Ok((T::to_cpu_storage_owned(y), l1.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        by_dtype!(x.dtype(), self.name(), T => with_slices::<T, _>(&[x, w, grad], "layer-norm", |s| {
            let width = s[1].len();
            let mut dx = zeros::<T>(s[0].len());
            let rows = ROWS * width;
            let (dws, dbs): (Vec<Vec<T>>, Vec<Vec<T>>) = dx
                .par_chunks_mut(rows)
                .zip(s[0].par_chunks(rows).zip(s[2].par_chunks(rows)))
                .map(|(dx, (x, g))| {
                    let (mut dw, mut db) = (zeros::<T>(width), zeros::<T>(width));
                    layer_rows_backward(x, s[1], g, self.eps, dx, &mut dw, &mut db);
                    (dw, db)
                })
                .unzip();
            Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), join(dws, w)?, join(dbs, b)?))
        }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::check;

    #[test]
    fn gradients_are_right() -> Result<()> {
        let x = check::normal(&[3, 37], "x", DType::F64)?;
        let w = check::normal(&[37], "w", DType::F64)?;
        let b = check::normal(&[37], "b", DType::F64)?;
        let weight = check::normal(&[3, 37], "weight", DType::F64)?;
        check::gradient(&[x.clone(), w.clone()], 1e-7, |t| {
            (rms_norm(&t[0], &t[1], 1e-6)? * &weight)?.sum_all()
        })?;
        check::gradient(&[x, w, b], 1e-7, |t| {
            (layer_norm(&t[0], &t[1], &t[2], 1e-6)? * &weight)?.sum_all()
        })
    }
}
