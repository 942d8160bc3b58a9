//! AdamW (Loshchilov & Hutter 2019, algorithm 2) with saved state, gradient clipping by global norm
//! and the learning-rate schedules of Hugging Face's trainer.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Weight;
use crate::host::{self, in_place, with_slice_mut, with_slices};

/// Elements that one task takes.
const CHUNK: usize = 16_384;

/// Settings of the optimiser, with the names of Hugging Face's trainer.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub adam_beta1: f64,
    /// Decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Decoupled weight decay of matrices. Vectors are never decayed, nor is what is called a bias or a norm,
    /// as in Hugging Face's trainer (some norms are matrices: one row for each head).
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimiser with its moments, f32 like the weights that it trains.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl AdamW {
    /// No steps made yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, moments: BTreeMap::new() }
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One step with this learning rate. Gradients are multiplied by `scale` (clipping,
    /// normalisation) on the way.
    pub fn step(
        &mut self,
        weights: &[Arc<Weight>],
        grads: &GradStore,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        self.step += 1;
        for weight in weights {
            let value = weight.tensor(true);
            let Some(grad) = grads.get(&value) else {
                bail!("{} trains but got no gradient", weight.name());
            };
            let decay =
                if decays(weight.name(), value.rank()) { self.config.weight_decay } else { 0.0 };
            let (m, v) = match self.moments.remove(weight.name()) {
                Some(moments) => moments,
                None => (value.zeros_like()?, value.zeros_like()?),
            };
            let rule = Rule::new(&self.config, self.step, lr, scale, decay);
            let moments = if in_place(&value) {
                rule.update_in_place(&value, grad, &m, &v)?;
                (m, v)
            } else {
                let (new, m, v) = rule.update(&value.detach(), grad, &m, &v)?;
                weight.set(&new)?;
                (m, v)
            };
            self.moments.insert(weight.name().to_owned(), moments);
        }
        Ok(())
    }

    /// The moments as named tensors, to save beside a checkpoint.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.moments
            .iter()
            .flat_map(|(name, (m, v))| {
                [(format!("{name}.m"), m.clone()), (format!("{name}.v"), v.clone())]
            })
            .collect()
    }

    /// Takes up saved moments after `steps` steps.
    pub fn restore(
        &mut self,
        steps: u64,
        state: &std::collections::HashMap<String, Tensor>,
    ) -> Result<()> {
        self.step = steps;
        self.moments.clear();
        for (name, m) in state {
            if let Some(base) = name.strip_suffix(".m") {
                let Some(v) = state.get(&format!("{base}.v")) else {
                    bail!("optimiser state has {name:?} without its second moment");
                };
                self.moments.insert(base.to_owned(), (m.clone(), v.clone()));
            }
        }
        Ok(())
    }
}

/// What a step does to the elements of a weight.
struct Rule {
    b1: f64,
    b2: f64,
    eps: f64,
    /// What the moments are divided by, as they begin at zero.
    c1: f64,
    c2: f64,
    lr: f64,
    /// Factor on the gradient.
    scale: f64,
    /// What weight decay leaves.
    keep: f64,
}

impl Rule {
    fn new(config: &AdamWConfig, step: u64, lr: f64, scale: f64, decay: f64) -> Self {
        let AdamWConfig { adam_beta1: b1, adam_beta2: b2, adam_epsilon: eps, .. } = *config;
        let (c1, c2) = (1.0 - b1.powf(step as f64), 1.0 - b2.powf(step as f64));
        Self { b1, b2, eps, c1, c2, lr, scale, keep: 1.0 - lr * decay }
    }

    /// New value and moments.
    fn update(
        &self,
        value: &Tensor,
        grad: &Tensor,
        m: &Tensor,
        v: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let &Self { b1, b2, eps, c1, c2, lr, scale, keep } = self;
        // A gradient may remember the pass that it comes from; moments must not keep it alive.
        let grad = (grad.detach() * scale)?;
        let m = ((m * b1)? + (&grad * (1.0 - b1))?)?;
        let v = ((v * b2)? + (grad.sqr()? * (1.0 - b2))?)?;
        let root = ((&v / c2)?.sqrt()? + eps)?;
        let kept = (value * keep)?;
        let new = (kept - ((&m / root)? * (lr / c1))?)?;
        Ok((new, m, v))
    }

    /// The same in one pass over the CPU's memory.
    fn update_in_place(&self, value: &Tensor, grad: &Tensor, m: &Tensor, v: &Tensor) -> Result<()> {
        let &Self { b1, b2, eps, c1, c2, lr, scale, keep } = self;
        let (b1, b2, keep) = (b1 as f32, b2 as f32, keep as f32);
        let (rate, root, eps, scale) =
            ((lr / c1) as f32, c2.sqrt().recip() as f32, eps as f32, scale as f32);
        let run = |value: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]| {
            value
                .par_chunks_mut(CHUNK)
                .zip(grad.par_chunks(CHUNK))
                .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
                .for_each(|((value, grad), (m, v))| {
                    for (((value, &grad), m), v) in value.iter_mut().zip(grad).zip(m).zip(v) {
                        let g = grad * scale;
                        *m = b1 * *m + (1.0 - b1) * g;
                        *v = b2 * *v + (1.0 - b2) * g * g;
                        *value = *value * keep - rate * *m / (v.sqrt() * root + eps);
                    }
                });
        };
        if value.dims() != grad.dims() || value.dims() != m.dims() || value.dims() != v.dims() {
            bail!("moments {:?} do not fit a weight {:?}", m.dims(), value.dims());
        }
        with_slices::<f32, _>(&[grad], "adamw", |s| {
            with_slice_mut(m, |m| {
                with_slice_mut(v, |v| {
                    with_slice_mut(value, |value| {
                        run(value, s[0], m, v);
                        Ok(())
                    })
                })
            })
        })
    }
}

/// Adds gradients to others of the same step, on the CPU in place.
pub fn add_gradients(sums: &mut GradStore, parts: GradStore) -> Result<()> {
    let mut rest = GradStore::default();
    for &id in parts.get_ids() {
        let Some(part) = parts.get_id(id) else { continue };
        match sums.get_id(id) {
            Some(sum) if in_place(sum) && sum.dims() == part.dims() => {
                with_slices::<f32, _>(&[part], "add_gradients", |s| {
                    with_slice_mut(sum, |sum| {
                        host::add_to(sum, s[0]);
                        Ok(())
                    })
                })?;
            }
            _ => {
                rest.insert_id(id, part.clone());
            }
        }
    }
    sums.extend(rest)
}

/// Adds a gradient, of any shape, to as many first elements of `sum`. One thread does it, so that threads outside the
/// pool need not wait for those in it.
pub fn add_to(sum: &mut [f32], grad: &Tensor) -> Result<()> {
    let grad = grad.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    if grad.elem_count() > sum.len() {
        bail!("a gradient {:?} does not fit {} elements", grad.dims(), sum.len());
    }
    with_slices::<f32, _>(&[&grad], "add_to", |s| {
        for (sum, &grad) in sum.iter_mut().zip(s[0]) {
            *sum += grad;
        }
        Ok(())
    })
}

/// Whether a weight belongs to the group that decays.
fn decays(name: &str, rank: usize) -> bool {
    let is_norm = |part: &str| part == "norm" || part.ends_with("_norm");
    let name = name.to_ascii_lowercase();
    let spared = ["bias", "layernorm", "rmsnorm"].iter().any(|word| name.contains(word));
    rank >= 2 && !spared && !name.split('.').any(is_norm)
}

/// Euclidean norm of all gradients together; names the first weight whose gradient is missing or
/// not finite.
pub fn global_norm(weights: &[Arc<Weight>], grads: &GradStore) -> Result<f64> {
    let mut squares = vec![0.0; weights.len()];
    let (mut places, mut pending) = (Vec::new(), Vec::new());
    for (place, weight) in weights.iter().enumerate() {
        let Some(grad) = grads.get(&weight.tensor(true)) else {
            bail!("{} trains but got no gradient", weight.name());
        };
        if grad.device().is_cpu() && grad.dtype() == DType::F32 {
            squares[place] = with_slices::<f32, _>(&[grad], "norm", |s| {
                // Fixed chunks, summed in order: the same bits with any number of threads.
                let parts: Vec<f64> = s[0]
                    .par_chunks(CHUNK)
                    .map(|c| c.iter().map(|&g| f64::from(g) * f64::from(g)).sum())
                    .collect();
                Ok(parts.into_iter().sum::<f64>())
            })?;
        } else {
            places.push(place);
            pending.push(grad.to_dtype(DType::F32)?.sqr()?.sum_all()?);
        }
    }
    // Other devices are waited for once.
    if !pending.is_empty() {
        let sums = Tensor::stack(&pending, 0)?.to_vec1::<f32>()?;
        for (place, sum) in places.into_iter().zip(sums) {
            squares[place] = f64::from(sum);
        }
    }
    for (weight, square) in weights.iter().zip(&squares) {
        if !square.is_finite() {
            bail!("the gradient of {} is not finite", weight.name());
        }
    }
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// Shape of the learning rate over a run, with the names of Hugging Face's trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Down to zero in a straight line.
    #[default]
    Linear,
    /// Down to zero along half a cosine.
    Cosine,
    /// Along half a cosine down to a share of the peak that the config names.
    CosineWithMinLr,
    /// No change at all, and no warm-up.
    Constant,
    /// No change after the warm-up.
    ConstantWithWarmup,
    /// No change after the warm-up, and at the end down to zero along half a cosine: a run can be
    /// made longer or shorter without a change to what comes before its end.
    WarmupStableDecay,
}

/// The lengths that a schedule is laid out over.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Course {
    /// Steps over which the rate rises.
    pub warmup: u64,
    /// Steps at the end of [`Schedule::WarmupStableDecay`].
    pub decay: u64,
    /// All steps.
    pub total: u64,
    /// The share of the peak that [`Schedule::CosineWithMinLr`] ends at.
    pub floor: f64,
}

impl Schedule {
    /// Factor on the learning rate at `step` (0 for the first).
    pub fn factor(self, step: u64, course: &Course) -> f64 {
        let Course { warmup, decay, total, floor } = *course;
        if self == Self::Constant {
            return 1.0;
        }
        if step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let cosine = |from: u64| {
            let part = step.saturating_sub(from) as f64 / total.saturating_sub(from).max(1) as f64;
            (0.5 * (1.0 + (std::f64::consts::PI * part).cos())).max(0.0)
        };
        match self {
            Self::Linear => {
                let rest = total.saturating_sub(warmup).max(1) as f64;
                ((total as f64 - step as f64) / rest).max(0.0)
            }
            Self::Cosine => cosine(warmup),
            Self::CosineWithMinLr => cosine(warmup) * (1.0 - floor) + floor,
            Self::Constant | Self::ConstantWithWarmup => 1.0,
            Self::WarmupStableDecay => cosine(total.saturating_sub(decay).max(warmup)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::decays;

    #[test]
    fn biases_and_norms_do_not_decay() {
        for (name, rank, expected) in [
            ("model.layers.0.mlp.up_proj.weight", 2, true),
            ("model.embed_tokens.weight", 2, true),
            ("model.norm.weight", 1, false),
            ("model.layers.0.self_attn.q_norm.weight", 2, false),
            ("model.layers.0.input_layernorm.weight", 1, false),
            ("model.layers.0.attn.relative_attention_bias.weight", 2, false),
            ("model.layers.0.normaliser.weight", 2, true),
        ] {
            assert_eq!(decays(name, rank), expected, "{name}");
        }
    }
}
