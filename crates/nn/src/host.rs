//! Access to tensors' memory for the CPU kernels.

use std::cell::RefCell;

use candle_core::{
    CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail,
};

use rayon::prelude::*;

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

/// Whether a tensor can be changed where it lies.
pub(crate) fn in_place(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous()
}

/// `sum += part`, elementwise.
pub(crate) fn add_to(sum: &mut [f32], part: &[f32]) {
    const CHUNK: usize = 16_384;
    sum.par_chunks_mut(CHUNK).zip(part.par_chunks(CHUNK)).for_each(|(sum, part)| {
        for (sum, &part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    });
}

/// Runs `f` on the elements of a contiguous f32 tensor of the CPU, to change them in place.
pub(crate) fn with_slice_mut<R>(
    tensor: &Tensor,
    f: impl FnOnce(&mut [f32]) -> Result<R>,
) -> Result<R> {
    struct Change<F, R>(RefCell<Option<F>>, RefCell<Option<R>>);
    impl<R, F: FnOnce(&mut [f32]) -> Result<R>> InplaceOp1 for Change<F, R> {
        fn name(&self) -> &'static str {
            "change"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            match (storage, layout.contiguous_offsets(), self.0.take()) {
                (CpuStorage::F32(data), Some((start, end)), Some(f)) => {
                    self.1.replace(Some(f(&mut data[start..end])?));
                    Ok(())
                }
                _ => bail!("only contiguous tensors of f32 are changed in place"),
            }
        }
    }
    let change = Change(RefCell::new(Some(f)), RefCell::new(None));
    tensor.inplace_op1(&change)?;
    match change.1.into_inner() {
        Some(result) => Ok(result),
        None => bail!("only tensors of the CPU are changed in place"),
    }
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
