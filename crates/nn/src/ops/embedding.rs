//! Rows of a table, by their numbers.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::collect;
use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};

/// `table[ids[i]]` of a table `[entries, width]`, as `[ids, width]`. The table's gradient is summed in the order of
/// `ids`.
pub fn embedding(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (entries, _) = table.dims2()?;
    if let Some(bad) = ids.iter().find(|&&id| id as usize >= entries) {
        bail!("embedding: token {bad} is outside the table of {entries}");
    }
    if !table.device().is_cpu() || !matches!(table.dtype(), DType::F32 | DType::F64) {
        return table.index_select(&Tensor::from_slice(ids, ids.len(), table.device())?, 0);
    }
    table.contiguous()?.apply_op1(Rows { ids: Arc::from(ids) })
}

struct Rows {
    ids: Arc<[u32]>,
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        by_dtype!(host_dtype(storage), self.name(), T => {
            let table = slice::<T>(storage, layout, self.name())?;
            let mut rows = Vec::<T>::with_capacity(self.ids.len() * width);
            for &id in &*self.ids {
                rows.extend_from_slice(&table[id as usize * width..][..width]);
            }
            Ok((T::to_cpu_storage_owned(rows), (self.ids.len(), width).into()))
        })
    }

    fn bwd(&self, table: &Tensor, _rows: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = table.dims2()?;
        by_dtype!(table.dtype(), self.name(), T => with_slices::<T, _>(&[grad], self.name(), |s| {
            collect::gradient::<T>(table, |sum| {
                let mut sum = sum.unwrap_or_else(|| zeros::<T>(table.elem_count()));
                for (&id, grad) in self.ids.iter().zip(s[0].chunks_exact(width)) {
                    for (sum, &g) in sum[id as usize * width..][..width].iter_mut().zip(grad) {
                        *sum += g;
                    }
                }
                sum
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    #[test]
    fn rows_and_gradients_are_right() -> Result<()> {
        let table = check::normal(&[5, 3], "table", DType::F64)?;
        let ids = [4, 0, 4, 2];
        let index = Tensor::from_slice(&ids, ids.len(), table.device())?;
        check::close(&embedding(&table, &ids)?, &table.index_select(&index, 0)?, 0.0)?;
        let weight = check::normal(&[4, 3], "weight", DType::F64)?;
        check::gradient(std::slice::from_ref(&table), 1e-7, |t| {
            (embedding(&t[0], &ids)?.sqr()? * &weight)?.sum_all()
        })?;
        assert!(embedding(&table, &[5]).unwrap_err().to_string().contains("token 5"));
        Ok(())
    }
}
