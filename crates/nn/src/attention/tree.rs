//! The differentiable attention of a whole pass: backward by recomputation, no N x N matrix.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::backward::{Given, backward, padded};
use super::chains::attend_chains;
use super::kernel::{Span, attend};
use super::tiles::Node;
use super::{Heads, dense};
use crate::Forest;
use crate::forest::Parent;
use crate::gemm::block::transpose;
use crate::host::{by_dtype, host_dtype, slice, with_slices, zeros};
use crate::simd::{Real, level};

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

impl TreeAttention {
    /// Keys of all heads, `[kv_heads][dim][tokens]`, and the step between rows.
    fn turned<T: Real>(&self, k: &[T]) -> (Vec<T>, usize) {
        let Heads { kv_heads, head_dim: dim, .. } = self.heads;
        let (tokens, step) = (self.forest.len(), padded(self.forest.len()));
        let mut keys = zeros::<T>(kv_heads * dim * step);
        keys.par_chunks_mut(dim * step).enumerate().for_each(|(g, keys)| {
            transpose(tokens, dim, &k[g * dim..], kv_heads * dim, keys, step);
        });
        (keys, step)
    }

    /// [`forward`](Self::forward) of causal segments, with the same bits, in tiles of queries.
    fn tiled(&self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let Heads { kv_heads, head_dim: dim, .. } = self.heads;
        let segments = self.forest.segments();
        let mut chains: Vec<Vec<(usize, usize)>> = Vec::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            let mut chain = match segment.parent {
                Parent::Segment(above) => chains[above].clone(),
                _ => Vec::new(),
            };
            chain.push((index, segment.range.len()));
            chains.push(chain);
        }
        chains.iter_mut().for_each(|chain| chain.retain(|&(_, seen)| seen > 0));
        let (keys, step) = self.turned(k);
        let width = kv_heads * dim;
        attend_chains(level(), q, self.heads, &self.forest, &chains, |number, g| {
            let segment = &segments[number];
            Node {
                keys: &keys[g * dim * step + segment.range.start..],
                k_step: step,
                values: &v[segment.range.start * width + g * dim..],
                v_step: width,
                first: segment.offset,
            }
        })
    }

    fn forward<T: Real>(&self, q: &[T], k: &[T], v: &[T]) -> Vec<T> {
        let Heads { heads, kv_heads, head_dim: dim, scale, window, softcap } = self.heads;
        let (scale, cap) = (T::of(scale), softcap.map(T::of));
        let mut out = zeros::<T>(q.len());
        let target = Out(out.as_mut_ptr());
        let (keys, step) = self.turned(k);
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
                        keys: &keys[g * dim * step + range.start..],
                        k_stride: step,
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
        let causal = self.forest.segments().iter().all(|segment| segment.causal);
        if host_dtype(s1) == DType::F32 && causal {
            let q = slice::<f32>(s1, l1, self.name())?;
            let k = slice::<f32>(s2, l2, self.name())?;
            let v = slice::<f32>(s3, l3, self.name())?;
            return Ok((CpuStorage::F32(self.tiled(q, k, v)), l1.shape().clone()));
        }
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
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        by_dtype!(q.dtype(), self.name(), T => {
            let [dq, dk, dv] = with_slices::<T, _>(&[q, k, v, res, grad], self.name(), |s| {
                let given = Given { q: s[0], k: s[1], v: s[2], out: s[3], grad: s[4] };
                Ok(backward(self.heads, &self.forest, &given))
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

    /// A prompt of several parts and shares, with branches of it.
    fn long() -> Arc<Forest> {
        let mut forest = Forest::new();
        let prompt = forest.push(Parent::Root, 700);
        forest.push(Parent::Segment(prompt), 3);
        forest.push(Parent::Segment(prompt), 130);
        forest.push(Parent::Root, 1);
        Arc::new(forest)
    }

    fn gradients(
        of: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
        heads: Heads,
        n: usize,
        dtype: DType,
    ) -> Result<Vec<Tensor>> {
        let draw = |name: &str, heads: usize| {
            check::normal(&[n, heads * 40], name, DType::F32)?.to_dtype(dtype)
        };
        let vars = [
            Var::from_tensor(&draw("q", heads.heads)?)?,
            Var::from_tensor(&draw("k", heads.kv_heads)?)?,
            Var::from_tensor(&draw("v", heads.kv_heads)?)?,
        ];
        let out = of(&vars[0], &vars[1], &vars[2])?;
        let grads = (&out * draw("w", heads.heads)?)?.sum_all()?.backward()?;
        let of_vars = vars.iter().filter_map(|var| grads.get(var).cloned());
        std::iter::once(out).chain(of_vars).map(|x| x.to_dtype(DType::F64)).collect()
    }

    /// In f32, which goes through the tiles, and in every number of threads the same bits.
    #[test]
    fn tiles_are_close_to_dense_attention_in_f64_whatever_the_threads() -> Result<()> {
        let plain = Heads::new(6, 2, 40);
        for (heads, forest) in [
            (plain, long()),
            (plain, forest()),
            (Heads { window: Some(300), ..plain }, long()),
            (Heads { softcap: Some(1.5), ..plain }, long()),
            (plain, Arc::new(Forest::full_of([300, 1, 20]))),
        ] {
            let n = forest.len();
            let ours = || gradients(|q, k, v| tree(q, k, v, heads, &forest), heads, n, DType::F32);
            let want = gradients(|q, k, v| dense(q, k, v, heads, &forest), heads, n, DType::F64)?;
            let got = ours()?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
            let again = pool.map_err(candle_core::Error::wrap)?.install(ours)?;
            assert_eq!(got.len(), 4);
            for ((got, want), again) in got.iter().zip(&want).zip(&again) {
                check::close(got, want, 2e-5)?;
                assert_eq!(got.to_vec2::<f64>()?, again.to_vec2::<f64>()?);
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
