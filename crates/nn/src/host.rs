//! Access to tensors' memory for the CPU kernels.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};

use crate::simd::Real;

/// The contiguous elements behind a layout.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<&'a [T]> {
    let data = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("{op}: needs contiguous tensors, got strides {:?}", layout.stride()),
    }
}

/// Runs `f` on the elements of contiguous CPU tensors of one type.
pub(crate) fn with_slices<T: Real, R>(
    tensors: &[&Tensor],
    op: &'static str,
    f: impl FnOnce(&[&[T]]) -> Result<R>,
) -> Result<R> {
    let tensors: Vec<Tensor> = tensors.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        match &**storage {
            Storage::Cpu(cpu) => slices.push(slice::<T>(cpu, layout, op)?),
            _ => bail!("{op}: a CPU kernel was given a tensor on another device"),
        }
    }
    f(&slices)
}

/// A vector of `len` zeros; every kernel that uses it then overwrites or adds.
pub(crate) fn zeros<T: Real>(len: usize) -> Vec<T> {
    vec![T::default(); len]
}

/// Calls `$body` with `$t` bound to f32 or f64 by the tensor's type.
macro_rules! by_dtype {
    ($dtype:expr, $op:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => {
                candle_core::bail!("{}: computes in f32 or f64 on the CPU, got {other:?}", $op)
            }
        }
    };
}
pub(crate) use by_dtype;

/// Element type of a CPU storage.
pub(crate) fn host_dtype(storage: &CpuStorage) -> DType {
    candle_core::backend::BackendStorage::dtype(storage)
}
