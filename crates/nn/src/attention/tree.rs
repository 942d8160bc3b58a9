//! The differentiable attention of a whole pass: backward by recomputation, no N x N matrix.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::kernel::{Backward, Span, attend, attend_backward};
use super::{Heads, dense};
use crate::Forest;
use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};
use crate::simd::Real;

/// Queries that one task takes.
const QUERIES: usize = 64;

/// Attention of every token over what it sees in `forest`; `[tokens, heads * head_dim]`.
pub fn tree(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    forest: &Arc<Forest>,
) -> Result<Tensor> {
    let tokens = forest.len();
    if q.dims() != [tokens, heads.heads * heads.head_dim]
        || k.dims() != [tokens, heads.kv_heads * heads.head_dim]
        || v.dims() != k.dims()
    {
        bail!(
            "attention: shapes {:?}, {:?}, {:?} do not fit {tokens} tokens and {heads:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    if !q.device().is_cpu() {
        return dense(q, k, v, heads, forest);
    }
    if q.dtype() == DType::BF16 {
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        return tree(&wide(q)?, &wide(k)?, &wide(v)?, heads, forest)?.to_dtype(DType::BF16);
    }
    let op = TreeAttention { heads, forest: forest.clone() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

struct TreeAttention {
    heads: Heads,
    forest: Arc<Forest>,
}

/// Key ranges that token `at` (of a segment with these ancestors) sees.
fn visible(
    ancestors: &[Range<usize>],
    own: &Range<usize>,
    causal: bool,
    at: usize,
    window: Option<usize>,
) -> Vec<Range<usize>> {
    let mut ranges = ancestors.to_vec();
    ranges.push(own.start..if causal { at + 1 } else { own.end });
    if let Some(window) = window {
        let total: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        let mut hidden = total.saturating_sub(window);
        for range in &mut ranges {
            let cut = hidden.min(range.len());
            range.start += cut;
            hidden -= cut;
        }
        ranges.retain(|range| !range.is_empty());
    }
    ranges
}

/// Cells of one output, for tasks that write different ones.
pub(super) struct Out<T>(*mut T);
// SAFETY: tasks write disjoint (token, head) cells.
unsafe impl<T> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Out<T> {}

impl<T> Out<T> {
    pub(super) fn new(cells: &mut [T]) -> Self {
        Self(cells.as_mut_ptr())
    }

    /// # Safety
    /// The cell lies inside the allocation and no other task touches it.
    #[allow(clippy::mut_from_ref, reason = "disjoint cells of one output")]
    pub(super) unsafe fn cell<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Head `h` of `[tokens, heads * dim]` as `[dim][tokens]`.
fn transpose_head<T: Real>(
    x: &[T],
    heads: usize,
    h: usize,
    dim: usize,
    range: &Range<usize>,
) -> Vec<T> {
    let len = range.len();
    let mut out = zeros::<T>(dim * len);
    for (j, token) in range.clone().enumerate() {
        let row = &x[(token * heads + h) * dim..(token * heads + h + 1) * dim];
        for (d, &value) in row.iter().enumerate() {
            out[d * len + j] = value;
        }
    }
    out
}

impl TreeAttention {
    fn forward<T: Real>(&self, q: &[T], k: &[T], v: &[T]) -> Vec<T> {
        let Heads { heads, kv_heads, head_dim: dim, scale, window, softcap } = self.heads;
        let tokens = self.forest.len();
        let (scale, cap) = (T::of(scale), softcap.map(T::of));
        let mut out = zeros::<T>(q.len());
        let target = Out(out.as_mut_ptr());
        let keys: Vec<Vec<T>> = (0..kv_heads)
            .into_par_iter()
            .map(|h| transpose_head(k, kv_heads, h, dim, &(0..tokens)))
            .collect();
        let mut tasks = Vec::new();
        for (index, segment) in self.forest.segments().iter().enumerate() {
            for start in segment.range.clone().step_by(QUERIES) {
                for h in 0..heads {
                    tasks.push((index, start, h));
                }
            }
        }
        tasks.into_par_iter().for_each(|(index, start, h)| {
            let segment = &self.forest.segments()[index];
            let ancestors = self.forest.ancestors(index);
            let g = h / (heads / kv_heads);
            let mut scores = Vec::new();
            let mut spans = Vec::new();
            for token in start..(start + QUERIES).min(segment.range.end) {
                spans.clear();
                for range in visible(&ancestors, &segment.range, segment.causal, token, window) {
                    spans.push(Span {
                        keys: &keys[g][range.start..],
                        k_stride: tokens,
                        values: &v[(range.start * kv_heads + g) * dim..],
                        v_stride: kv_heads * dim,
                        len: range.len(),
                    });
                }
                scores.resize(spans.iter().map(|s| s.len).sum(), T::default());
                let at = (token * heads + h) * dim;
                // SAFETY: cell (token, h) belongs to this task alone.
                let cell = unsafe { target.cell(at, dim) };
                attend(&q[at..at + dim], &spans, scale, cap, &mut scores, cell);
            }
        });
        out
    }

    /// Gradients of q, k and v. One task per tree and key head, so sums have a fixed order.
    fn backward<T: Real>(&self, q: &[T], k: &[T], v: &[T], grad: &[T]) -> [Vec<T>; 3] {
        let Heads { heads, kv_heads, head_dim: dim, scale, window, softcap } = self.heads;
        let (scale, cap) = (T::of(scale), softcap.map(T::of));
        let group = heads / kv_heads;
        let (mut dq, mut dk, mut dv) =
            (zeros::<T>(q.len()), zeros::<T>(k.len()), zeros::<T>(v.len()));
        let (out_q, out_k, out_v) =
            (Out(dq.as_mut_ptr()), Out(dk.as_mut_ptr()), Out(dv.as_mut_ptr()));
        let segments = self.forest.segments();
        let mut trees: Vec<(usize, Range<usize>, Vec<usize>)> = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            match trees.iter_mut().rev().find(|(root, ..)| *root == segment.root) {
                Some((_, range, members)) => {
                    range.end = segment.range.end;
                    members.push(index);
                }
                None => trees.push((segment.root, segment.range.clone(), vec![index])),
            }
        }
        let tasks: Vec<_> =
            trees.iter().flat_map(|tree| (0..kv_heads).map(move |g| (tree, g))).collect();
        tasks.into_par_iter().for_each(|((_, span, members), g)| {
            let len = span.len();
            let keys_t = transpose_head(k, kv_heads, g, dim, span);
            let values_t = transpose_head(v, kv_heads, g, dim, span);
            let mut keys = zeros::<T>(len * dim);
            for (j, token) in span.clone().enumerate() {
                let at = (token * kv_heads + g) * dim;
                keys[j * dim..(j + 1) * dim].copy_from_slice(&k[at..at + dim]);
            }
            let (mut grad_keys, mut grad_values) = (zeros::<T>(len * dim), zeros::<T>(len * dim));
            let mut work = Backward {
                keys_t: &keys_t,
                values_t: &values_t,
                stride: len,
                keys: &keys,
                grad_keys: &mut grad_keys,
                grad_values: &mut grad_values,
                weights: Vec::new(),
                grads: Vec::new(),
                slopes: Vec::new(),
            };
            for &index in members {
                let segment = &segments[index];
                let ancestors = self.forest.ancestors(index);
                for token in segment.range.clone() {
                    let ranges: Vec<Range<usize>> =
                        visible(&ancestors, &segment.range, segment.causal, token, window)
                            .into_iter()
                            .map(|r| r.start - span.start..r.end - span.start)
                            .collect();
                    for h in g * group..(g + 1) * group {
                        let at = (token * heads + h) * dim;
                        // SAFETY: query head h of this token belongs to this task alone.
                        let cell = unsafe { out_q.cell(at, dim) };
                        attend_backward(
                            &mut work,
                            &q[at..at + dim],
                            &ranges,
                            scale,
                            cap,
                            &grad[at..at + dim],
                            cell,
                        );
                    }
                }
            }
            for (j, token) in span.clone().enumerate() {
                let at = (token * kv_heads + g) * dim;
                // SAFETY: key head g of this tree's tokens belongs to this task alone.
                let (cell_k, cell_v) = unsafe { (out_k.cell(at, dim), out_v.cell(at, dim)) };
                cell_k.copy_from_slice(&grad_keys[j * dim..(j + 1) * dim]);
                cell_v.copy_from_slice(&grad_values[j * dim..(j + 1) * dim]);
            }
        });
        [dq, dk, dv]
    }
}

impl CustomOp3 for TreeAttention {
    fn name(&self) -> &'static str {
        "tree-attention"
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
            let q = slice::<T>(s1, l1, self.name())?;
            let k = slice::<T>(s2, l2, self.name())?;
            let v = slice::<T>(s3, l3, self.name())?;
            Ok((candle_core::WithDType::to_cpu_storage_owned(self.forward(q, k, v)), l1.shape().clone()))
        })
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        by_dtype!(q.dtype(), self.name(), T => {
            let [dq, dk, dv] = with_slices::<T, _>(&[q, k, v, grad], self.name(), |s| {
                Ok(self.backward(s[0], s[1], s[2], s[3]))
            })?;
            Ok((
                Some(Tensor::from_vec(dq, q.shape(), q.device())?),
                Some(Tensor::from_vec(dk, k.shape(), k.device())?),
                Some(Tensor::from_vec(dv, v.shape(), v.device())?),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{Parent, check};

    fn forest() -> Arc<Forest> {
        let mut forest = Forest::new();
        let prompt = forest.push(Parent::Root, 70);
        let a = forest.push(Parent::Segment(prompt), 5);
        forest.push(Parent::Segment(prompt), 18);
        forest.push(Parent::Segment(a), 3);
        let other = forest.push(Parent::Root, 4);
        forest.push(Parent::Segment(other), 2);
        Arc::new(forest)
    }

    #[test]
    fn equals_dense_attention_in_value_and_gradient() -> Result<()> {
        let plain = Heads::new(4, 2, 40);
        let softcap = Some(1.5);
        for (heads, forest) in [
            (plain, forest()),
            (plain, Arc::new(Forest::full(3, 17))),
            (Heads::new(2, 1, 80), Arc::new(Forest::full_of([64, 1, 32, 32, 7]))),
            (Heads { window: Some(9), ..plain }, forest()),
            (Heads { window: Some(71), softcap, ..plain }, forest()),
            (Heads { softcap, ..plain }, Arc::new(Forest::full(2, 33))),
        ] {
            let n = forest.len();
            let draw = |name: &str, width| {
                Var::from_tensor(&check::normal(&[n, width], name, DType::F64)?)
            };
            let (q, k, v) = (draw("q", 160)?, draw("k", 80)?, draw("v", 80)?);
            let weight = check::normal(&[n, 160], "w", DType::F64)?;
            let ours = tree(&q, &k, &v, heads, &forest)?;
            let reference = dense(&q, &k, &v, heads, &forest)?;
            check::close(&ours, &reference, 1e-12)?;
            let g1 = (ours * &weight)?.sum_all()?.backward()?;
            let g2 = (reference * &weight)?.sum_all()?.backward()?;
            for x in [&q, &k, &v] {
                check::close(g1.get(x).unwrap(), g2.get(x).unwrap(), 1e-11)?;
            }
        }
        Ok(())
    }

    /// A branch of a packed row has the bits that it has alone.
    #[test]
    fn packed_equals_separate_bit_for_bit() -> Result<()> {
        for window in [None, Some(20)] {
            packed_equals_separate(Heads { window, ..Heads::new(4, 2, 32) })?;
        }
        Ok(())
    }

    fn packed_equals_separate(heads: Heads) -> Result<()> {
        let forest = forest();
        let n = forest.len();
        let q = check::normal(&[n, 128], "q", DType::F32)?;
        let k = check::normal(&[n, 64], "k", DType::F32)?;
        let v = check::normal(&[n, 64], "v", DType::F32)?;
        let packed = tree(&q, &k, &v, heads, &forest)?.to_vec2::<f32>()?;
        let rows: Vec<u32> = (0..70).chain(75..93).collect();
        let index = Tensor::from_vec(rows.clone(), rows.len(), &Device::Cpu)?;
        let pick = |x: &Tensor| x.index_select(&index, 0);
        let single = Arc::new(Forest::sequence(rows.len()));
        let alone = tree(&pick(&q)?, &pick(&k)?, &pick(&v)?, heads, &single)?.to_vec2::<f32>()?;
        for (i, &row) in rows.iter().enumerate() {
            assert_eq!(alone[i], packed[row as usize]);
        }
        Ok(())
    }
}
