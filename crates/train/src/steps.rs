//! The loop: steps, clipping, metrics, evaluations, checkpoints, resume.

mod watch;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use candle_core::backprop::GradStore;
use rayon::prelude::*;
use savi_nn::optim::{AdamW, Course, global_norm};
use savi_nn::{Params, Weight};
use savi_run::{Interrupt, Metrics, Progress, TrainerState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use self::watch::Window;
use crate::checkpoint::{self, Snapshot};
use crate::{OptimConfig, Ranks, TrainError};

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
    /// Who else trains the same model: the records of a step are shared out among all ranks, of which the first
    /// alone writes. All see the same files, and are given the same model, records and settings.
    pub ranks: &'a Ranks,
}

/// What training took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainSummary {
    /// Steps of the optimiser, those of earlier starts included.
    pub steps: u64,
}

/// Figures by their names in the metrics.
pub(crate) type Figures = Vec<(Cow<'static, str>, f64)>;

/// One step's gradients and figures, and of this rank its share of the loss, its tokens and the ids of its records.
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
/// The same where many weights train: every part has gradients of its own for all of them.
const LARGE_PARTS: usize = 2;
/// Elements of trained weights that are many.
const LARGE: usize = 1 << 24;

/// Runs `f` on `items` in parts of at most `size`, on the CPU smaller ones side by side; the
/// results come in order.
pub(crate) fn in_parts<T: Sync, R: Send>(
    params: &Params,
    items: &[T],
    size: usize,
    f: impl Fn(&[T]) -> Result<R, TrainError> + Send + Sync,
) -> Result<Vec<R>, TrainError> {
    in_batches(params.device(), items, part_size(params, size), f)
}

/// Runs `f` on `items` in batches of `size`, on the CPU side by side; the results come in order.
pub(crate) fn in_batches<T: Sync, R: Send>(
    device: &Device,
    items: &[T],
    size: usize,
    f: impl Fn(&[T]) -> Result<R, TrainError> + Send + Sync,
) -> Result<Vec<R>, TrainError> {
    if device.is_cpu() {
        items.par_chunks(size).map(f).collect()
    } else {
        items.chunks(size).map(f).collect()
    }
}

/// This rank's share of `items`, in whole batches of `size`.
pub(crate) fn shared_batches<'i, T>(ranks: &Ranks, items: &'i [T], size: usize) -> &'i [T] {
    let own = ranks.share(items.len().div_ceil(size));
    &items[own.start * size..(own.end * size).min(items.len())]
}

/// Items of one part, where a batch has `size` of them.
pub(crate) fn part_size(params: &Params, size: usize) -> usize {
    if !params.device().is_cpu() {
        return size.max(1);
    }
    let trained: usize = params.trainable().iter().map(|weight| weight.elements()).sum();
    size.div_ceil(if trained > LARGE { LARGE_PARTS } else { CPU_PARTS }).max(1)
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
    let (records, reference) = (None, None);
    let training = Training { label, config, weights, total, records, io, device, reference };
    training.run(&mut (), |at, ()| step(at))
}

/// What is trained, how, for how long and where.
pub(crate) struct Training<'a> {
    pub(crate) label: &'a str,
    pub(crate) config: &'a OptimConfig,
    pub(crate) weights: &'a [Arc<Weight>],
    pub(crate) total: u64,
    /// Records of one pass over the data; none where they are without end.
    pub(crate) records: Option<usize>,
    pub(crate) io: &'a TrainIo<'a>,
    pub(crate) device: &'a Device,
    /// Whose reference goes with the checkpoints, where that moves.
    pub(crate) reference: Option<&'a Params>,
}

/// Figures of held-out records, given what is carried.
pub(crate) type Evaluate<'h, C> =
    dyn FnMut(&C) -> Result<Vec<(&'static str, f64)>, TrainError> + 'h;

/// Loss and gradients of one record of a step, given by its place in this rank's share, without the others.
pub(crate) type Alone<'h> = dyn FnMut(u64, usize) -> Result<(f64, GradStore), TrainError> + 'h;

/// What the loop asks for beside steps.
pub(crate) struct Hooks<'h, C> {
    /// Makes an evaluation, where there are records for it.
    pub(crate) evaluate: Option<&'h mut Evaluate<'h, C>>,
    /// Asked where a step is not finite, to name the records that are at fault.
    pub(crate) alone: Option<&'h mut Alone<'h>>,
}

impl Training<'_> {
    /// Makes all steps that are still to do. `carried` goes from step to step and with checkpoints,
    /// unless its form in JSON is null.
    pub(crate) fn run<C: Serialize + DeserializeOwned>(
        &self,
        carried: &mut C,
        step: impl FnMut(u64, &mut C) -> Result<StepOutput, TrainError>,
    ) -> Result<TrainSummary, TrainError> {
        self.run_with(carried, Hooks { evaluate: None, alone: None }, step)
    }

    /// [`run`](Self::run) with what evaluates and what finds faults.
    pub(crate) fn run_with<C: Serialize + DeserializeOwned>(
        &self,
        carried: &mut C,
        mut hooks: Hooks<'_, C>,
        mut step: impl FnMut(u64, &mut C) -> Result<StepOutput, TrainError>,
    ) -> Result<TrainSummary, TrainError> {
        let &Self { config, weights, total, io, device, reference, .. } = self;
        if weights.is_empty() {
            return Err(TrainError::Nothing("trainable weights"));
        }
        self.check(&hooks)?;
        let ranks = io.ranks;
        let mut optimiser = AdamW::new(config.adamw());
        let failed = |error: serde_json::Error| TrainError::Checkpoint {
            path: io.dir.to_owned(),
            reason: format!("what steps carry: {error}"),
        };
        let kept = |carried: &C| serde_json::to_value(carried).map_err(failed);
        let mut read = kept(carried)?;
        // What an earlier start has left unfinished is removed by the first rank.
        let restore =
            || checkpoint::restore(io.dir, weights, &mut optimiser, device, &mut read, reference);
        let mut state = ranks.in_turn(restore)?;
        *carried = serde_json::from_value(read).map_err(failed)?;
        self.check_ranks(&state)?;
        io.metrics.cut_after(state.global_step)?;
        self.describe(&mut state);
        let save = |state: &TrainerState, optimiser: &AdamW, carried: &C| {
            self.check_weights("other weights")?;
            if !ranks.is_first() {
                return ranks.barrier();
            }
            let state = io.metrics.note_state(state);
            let carried = &kept(carried)?;
            let best = state.best_global_step.filter(|_| config.load_best_model_at_end);
            let snapshot = Snapshot { weights, optimiser, carried, state: &state, reference };
            checkpoint::save(io.dir, &snapshot, config.save_total_limit, best)?;
            ranks.barrier()
        };
        let course = Course {
            warmup: config.warmup(total),
            decay: config.num_decay_steps,
            total,
            floor: config.floor(),
        };
        let mut progress = Progress::new(self.label, total);
        progress.resume_at(state.global_step);
        let mut window = Window::new(device);
        // The step whose state lies on the disk just as it is.
        let mut saved = state.global_step;
        loop {
            let at = state.global_step;
            let mut due = at > 0 && (at.is_multiple_of(config.save_steps) || at == total);
            if state.should_evaluate() {
                let start = Instant::now();
                let better = match self.evaluate(&mut state, carried, &mut hooks) {
                    Err(TrainError::Interrupted) => {
                        save(&state, &optimiser, carried)?;
                        return Err(TrainError::Interrupted);
                    }
                    better => better?,
                };
                window.skip(start.elapsed());
                saved = 0;
                due |= better && config.load_best_model_at_end || self.stops(&state);
            }
            if due && saved != at {
                save(&state, &optimiser, carried)?;
            }
            progress.set(at);
            if at >= total || self.stops(&state) {
                break;
            }
            if ranks.any(io.interrupt.is_set())? {
                save(&state, &optimiser, carried)?;
                return Err(TrainError::Interrupted);
            }
            let mut output = match step(at, carried) {
                Err(TrainError::Interrupted) => {
                    save(&state, &optimiser, carried)?;
                    return Err(TrainError::Interrupted);
                }
                output => output?,
            };
            let [loss, tokens] = ranks.totals([output.loss, output.tokens as f64])?;
            (output.loss, output.tokens) = (loss, tokens as usize);
            if !output.loss.is_finite() {
                return Err(self.blame(
                    &mut hooks,
                    at,
                    "the loss is not finite".to_owned(),
                    &output.ids,
                )?);
            }
            let norm = match global_norm(weights, &output.grads) {
                Ok(norm) => norm,
                Err(error) => {
                    return Err(self.blame(&mut hooks, at, error.to_string(), &output.ids)?);
                }
            };
            let clip = if config.max_grad_norm > 0.0 && norm > config.max_grad_norm {
                config.max_grad_norm / (norm + 1e-6)
            } else {
                1.0
            };
            let lr = config.learning_rate * config.lr_scheduler_type.factor(at, &course);
            optimiser.step(weights, &output.grads, lr, clip)?;
            window.add(&output);
            let done = at + 1;
            state.global_step = done;
            state.num_input_tokens_seen += output.tokens as u64;
            state.epoch = self.epoch(done);
            if done.is_multiple_of(config.logging_steps) || done == total {
                let mut line = window.take();
                line.insert("grad_norm".to_owned(), json!(norm));
                line.insert("learning_rate".to_owned(), json!(lr));
                line.insert("num_tokens".to_owned(), json!(state.num_input_tokens_seen));
                if self.records.is_some() {
                    line.insert("epoch".to_owned(), json!(state.epoch));
                }
                progress.note(format!("loss {:.4}", output.loss));
                io.metrics.log(done, &line)?;
            }
            if config.evaluates_after(done, self.records) {
                state.set_control(true, false);
            }
        }
        progress.finish();
        let steps = state.global_step;
        if let Some(best) = state.best_global_step
            && config.load_best_model_at_end
        {
            tracing::info!("{} is the best of {steps} steps", checkpoint::name(best));
            checkpoint::restore_weights(io.dir, best, weights, device)?;
        }
        // Of a result that is taken up later, this file says how many steps it took.
        let state = io.metrics.note_state(&state);
        if ranks.is_first() {
            savi_run::write_json_atomic(&io.dir.join(STATE), &state)?;
        }
        Ok(TrainSummary { steps })
    }
}

/// Where a finished training says where it stands.
const STATE: &str = "trainer_state.json";

/// Steps of the finished training in `dir`; `planned` where it does not say so.
pub(crate) fn finished_steps(dir: &Path, planned: u64) -> Result<u64, TrainError> {
    let state = TrainerState::read(&dir.join(STATE))?;
    Ok(state.map_or(planned, |state| state.global_step))
}
