//! Rotary position embedding (Su et al. 2021, eq. 34) in Hugging Face's half-split layout.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};
use crate::simd::Real;

/// Cosines and sines of the tokens of one pass, `[tokens, half]` each: the first `2 half` elements
/// of every head are rotated, the rest stays.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
    half: usize,
    head_dim: usize,
}

impl RopeTable {
    /// Given angles, `[tokens, half]`.
    pub fn of_angles(angles: &[f32], half: usize, head_dim: usize, gain: f32) -> Self {
        Self {
            cos: Arc::new(angles.iter().map(|angle| angle.cos() * gain).collect()),
            sin: Arc::new(angles.iter().map(|angle| angle.sin() * gain).collect()),
            half,
            head_dim,
        }
    }
}

/// Rotates every head of `[tokens, heads * head_dim]`.
pub fn rope(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    if table.cos.len() != tokens * table.half
        || 2 * table.half > table.head_dim
        || width % table.head_dim.max(1) != 0
    {
        bail!("rope: {:?} does not fit {} angles of {}", x.dims(), table.cos.len(), table.half);
    }
    if table.half == 0 {
        return Ok(x.clone());
    }
    if !x.device().is_cpu() || x.dtype() == DType::BF16 {
        return composed(x, table, x.device());
    }
    x.contiguous()?.apply_op1(Rope { table: table.clone(), sign: 1.0 })
}

fn composed(x: &Tensor, table: &RopeTable, device: &Device) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (half, heads) = (table.half, width / table.head_dim);
    let angles = |values: &Arc<Vec<f32>>| {
        Tensor::from_slice(values, (tokens, 1, half), device)?.to_dtype(x.dtype())
    };
    let (cos, sin) = (angles(&table.cos)?, angles(&table.sin)?);
    let x = x.reshape((tokens, heads, table.head_dim))?;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let rest = x.narrow(2, 2 * half, table.head_dim - 2 * half)?;
    Tensor::cat(&[first, second, rest], 2)?.reshape((tokens, width))
}

struct Rope {
    table: RopeTable,
    sign: f64,
}

impl Rope {
    fn rotate<T: Real>(&self, x: &[T], tokens: usize) -> Vec<T> {
        let (half, dim) = (self.table.half, self.table.head_dim);
        let width = x.len() / tokens.max(1);
        let mut y = zeros::<T>(x.len());
        let sign = T::of(self.sign);
        y.par_chunks_mut(width.max(1))
            .zip(x.par_chunks(width.max(1)))
            .enumerate()
            .with_min_len(64)
            .for_each(|(token, (y, x))| {
                let cos = &self.table.cos[token * half..(token + 1) * half];
                let sin = &self.table.sin[token * half..(token + 1) * half];
                for (y, x) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
                    for i in 0..half {
                        let (c, s) = (T::of(f64::from(cos[i])), T::of(f64::from(sin[i])) * sign);
                        y[i] = x[i] * c - x[half + i] * s;
                        y[half + i] = x[half + i] * c + x[i] * s;
                    }
                    y[2 * half..].copy_from_slice(&x[2 * half..]);
                }
            });
        y
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        by_dtype!(host_dtype(storage), self.name(), T => {
            let x = slice::<T>(storage, layout, "rope")?;
            Ok((T::to_cpu_storage_owned(self.rotate(x, tokens)), layout.shape().clone()))
        })
    }

    /// A rotation's gradient is the opposite rotation.
    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Rope { table: self.table.clone(), sign: -self.sign };
        by_dtype!(x.dtype(), self.name(), T => {
            let dx = with_slices::<T, _>(&[grad], "rope", |s| Ok(back.rotate(s[0], x.dim(0)?)))?;
            Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    #[test]
    fn equals_the_composed_form_and_has_its_gradient() -> Result<()> {
        let x = check::normal(&[3, 16], "x", DType::F64)?;
        for (inverse, gain) in [(&[1.0, 0.1, 0.01, 0.001][..], 1.0), (&[1.0, 0.3, 0.1], 1.25)] {
            let angles = [0.0f32, 5.0, 9.0].iter().flat_map(|p| inverse.iter().map(move |f| p * f));
            let table = RopeTable::of_angles(&angles.collect::<Vec<_>>(), inverse.len(), 8, gain);
            check::close(&rope(&x, &table)?, &composed(&x, &table, &Device::Cpu)?, 1e-12)?;
            let weight = check::normal(&[3, 16], "weight", DType::F64)?;
            check::gradient(std::slice::from_ref(&x), 1e-7, |t| {
                (rope(&t[0], &table)? * &weight)?.sum_all()
            })?;
        }
        Ok(())
    }
}
