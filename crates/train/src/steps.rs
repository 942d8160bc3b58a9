//! The loop: steps, clipping, metrics, checkpoints, resume.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use candle_core::backprop::GradStore;
use rayon::prelude::*;
use savi_nn::Weight;
use savi_nn::optim::{AdamW, global_norm};
use savi_run::{Interrupt, Metrics, Progress};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{OptimConfig, TrainError, checkpoint};

/// Where training writes and when it stops.
#[derive(Debug, Clone, Copy)]
pub struct TrainIo<'a> {
    /// Its own folder: checkpoints while it runs, the result at the end. Called again with the same
    /// folder, training goes on exactly where it was, or returns at once when it is finished.
    pub dir: &'a Path,
    /// Where figures go.
    pub metrics: &'a Metrics,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

/// What training took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainSummary {
    /// Steps of the optimiser, those of earlier starts included.
    pub steps: u64,
}

/// Figures by their names in the metrics.
pub(crate) type Figures = Vec<(Cow<'static, str>, f64)>;

/// One step's gradients and figures.
pub(crate) struct StepOutput {
    pub(crate) grads: GradStore,
    pub(crate) loss: f64,
    pub(crate) tokens: usize,
    pub(crate) figures: Figures,
    pub(crate) ids: Vec<String>,
}

/// Parts of a batch that the CPU works on side by side: its cores are better used by a part each
/// than by all of them on one small operation. Fixed, so that sums do not depend on the machine.
const CPU_PARTS: usize = 4;

/// Runs `f` on `items` in parts of at most `size`, on the CPU smaller ones side by side; the
/// results come in order.
pub(crate) fn in_parts<T: Sync, R: Send>(
    device: &Device,
    items: &[T],
    size: usize,
    f: impl Fn(&[T]) -> Result<R, TrainError> + Send + Sync,
) -> Result<Vec<R>, TrainError> {
    let size = part_size(device, size);
    if device.is_cpu() {
        items.par_chunks(size).map(f).collect()
    } else {
        items.chunks(size).map(f).collect()
    }
}

/// Items of one part, where a batch has `size` of them.
pub(crate) fn part_size(device: &Device, size: usize) -> usize {
    if device.is_cpu() { size.div_ceil(CPU_PARTS).max(1) } else { size.max(1) }
}

/// Makes all steps that are still to do; `step` computes the gradients of one, numbered from 0.
pub(crate) fn run(
    label: &str,
    config: &OptimConfig,
    weights: &[Arc<Weight>],
    total: u64,
    io: &TrainIo<'_>,
    device: &Device,
    mut step: impl FnMut(u64) -> Result<StepOutput, TrainError>,
) -> Result<TrainSummary, TrainError> {
    let training = Training { label, config, weights, total, io, device };
    training.run(&mut (), |at, ()| step(at))
}

/// What is trained, how, for how long and where.
pub(crate) struct Training<'a> {
    pub(crate) label: &'a str,
    pub(crate) config: &'a OptimConfig,
    pub(crate) weights: &'a [Arc<Weight>],
    pub(crate) total: u64,
    pub(crate) io: &'a TrainIo<'a>,
    pub(crate) device: &'a Device,
}

impl Training<'_> {
    /// Makes all steps that are still to do. `carried` goes from step to step and with checkpoints,
    /// unless its form in JSON is null.
    pub(crate) fn run<C: Serialize + DeserializeOwned>(
        &self,
        carried: &mut C,
        mut step: impl FnMut(u64, &mut C) -> Result<StepOutput, TrainError>,
    ) -> Result<TrainSummary, TrainError> {
        let &Self { label, config, weights, total, io, device } = self;
        if weights.is_empty() {
            return Err(TrainError::Nothing("trainable weights"));
        }
        let mut optimiser = AdamW::new(config.adamw());
        let failed = |error: serde_json::Error| TrainError::Checkpoint {
            path: io.dir.to_owned(),
            reason: format!("what steps carry: {error}"),
        };
        let kept = |carried: &C| serde_json::to_value(carried).map_err(failed);
        let mut read = kept(carried)?;
        let first = checkpoint::restore(io.dir, weights, &mut optimiser, device, &mut read)?;
        *carried = serde_json::from_value(read).map_err(failed)?;
        io.metrics.cut_after(first)?;
        let warmup = match config.warmup_steps {
            0 => (config.warmup_ratio * total as f64).ceil() as u64,
            steps => steps,
        };
        let mut progress = Progress::new(label, total);
        progress.resume_at(first);
        let mut window = Window::new();
        for at in first..total {
            if io.interrupt.is_set() {
                checkpoint::save(io.dir, at, weights, &optimiser, &kept(carried)?)?;
                return Err(TrainError::Interrupted);
            }
            let output = match step(at, carried) {
                Err(TrainError::Interrupted) => {
                    checkpoint::save(io.dir, at, weights, &optimiser, &kept(carried)?)?;
                    return Err(TrainError::Interrupted);
                }
                output => output?,
            };
            let not_finite = |what: String| TrainError::NotFinite {
                step: at + 1,
                what,
                ids: output.ids.clone(),
            };
            if !output.loss.is_finite() {
                return Err(not_finite("the loss".to_owned()));
            }
            let norm =
                global_norm(weights, &output.grads).map_err(|e| not_finite(e.to_string()))?;
            let clip = if config.max_grad_norm > 0.0 && norm > config.max_grad_norm {
                config.max_grad_norm / (norm + 1e-6)
            } else {
                1.0
            };
            let schedule = config.lr_scheduler_type;
            let lr =
                config.learning_rate * schedule.factor(at, warmup, config.num_decay_steps, total);
            optimiser.step(weights, &output.grads, lr, clip)?;
            window.add(&output);
            let done = at + 1;
            if done % config.logging_steps.max(1) == 0 || done == total {
                let mut line = window.take();
                line.insert("grad_norm".to_owned(), json!(norm));
                line.insert("learning_rate".to_owned(), json!(lr));
                progress.note(format!("loss {:.4}", output.loss));
                io.metrics.log(done, &line)?;
            }
            if config.save_steps > 0 && (done % config.save_steps == 0 || done == total) {
                checkpoint::save(io.dir, done, weights, &optimiser, &kept(carried)?)?;
            }
            progress.set(done);
        }
        progress.finish();
        Ok(TrainSummary { steps: total })
    }
}

/// Means over the steps since the last line of metrics; a figure that a step lacks is the mean of
/// the other steps.
struct Window {
    start: Instant,
    tokens: usize,
    sums: Vec<(Cow<'static, str>, f64, f64)>,
}

impl Window {
    fn new() -> Self {
        Self { start: Instant::now(), tokens: 0, sums: Vec::new() }
    }

    fn add(&mut self, output: &StepOutput) {
        self.tokens += output.tokens;
        for (name, value) in [("loss".into(), output.loss)].iter().chain(&output.figures) {
            match self.sums.iter_mut().find(|(known, ..)| known == name) {
                Some((_, sum, steps)) => (*sum, *steps) = (*sum + value, *steps + 1.0),
                None => self.sums.push((name.clone(), *value, 1.0)),
            }
        }
    }

    fn take(&mut self) -> Map<String, Value> {
        let mut line: Map<String, Value> = self
            .sums
            .iter()
            .map(|(name, sum, steps)| (name.clone().into_owned(), json!(sum / steps)))
            .collect();
        let rate = self.tokens as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        line.insert("tokens_per_second".to_owned(), json!(rate.round()));
        *self = Self::new();
        line
    }
}
