//! Pre-training of sight: every visual token is labelled with words.
//!
//! What a frame shows is learnt far sooner from labels at every visual token than from sentences
//! about the clip, as towers of published models are trained before they meet a language model.
//! Tokens are asked as the projector gives them (what is in this cell?) and after every block of the
//! decoder: what is known after the first block can be asked for in the second.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use savi_engine::{Engine, PromptVisual};
use savi_models::{Pixels, Visual};
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_nn::ops::{gathered_logps, rms_norm};
use savi_nn::{Forest, Parent};
use savi_objectives::nll;
use savi_schema::{Media, Message, RgbImage};

use crate::backward::{Backward, Passed};
use crate::steps::{StepOutput, run};
use crate::{OptimConfig, TrainError, TrainIo, TrainSummary};

/// One question that is put to every visual token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its name; the loss is logged under it.
    pub name: &'static str,
    /// The answers in words. A token says one by pointing where the embeddings of its words point:
    /// so what is seen comes to stand where what is said of it stands, and words find it.
    pub answers: Vec<String>,
    /// Asked of the projector's tokens too, or of the decoder's states alone: a frame does not know
    /// its own number.
    pub before_decoder: bool,
}

/// Frames with the answers of all their visual tokens.
#[derive(Debug, Clone)]
pub struct LabelledFrames {
    /// Names the record in errors.
    pub id: String,
    /// The frames, as many as the model takes of a clip.
    pub frames: Vec<RgbImage>,
    /// For each head, the answer and its weight at each visual token, frame by frame and row by
    /// row. Weight 0 leaves a token out.
    pub labels: Vec<Vec<(u32, f32)>>,
}

/// The heads, ready to be asked.
struct Heads {
    heads: Vec<Head>,
    /// The tokens of all answers, and for each head its answers as sums of them, `[answers, tokens]`:
    /// "top left" is said by what says "top" and says "left".
    ids: Vec<u32>,
    sums: Vec<Tensor>,
    /// Of ones: tokens are compared by direction, as the decoder's own norms see them.
    scale: Tensor,
}

impl Heads {
    fn new(engine: &Engine, heads: &[Head]) -> Result<Self, TrainError> {
        let device = engine.model().params().device();
        let width = engine.model().config().hidden_size;
        let mut ids = Vec::new();
        let mut spans: Vec<Vec<std::ops::Range<usize>>> = Vec::new();
        for head in heads {
            let mut of_head = Vec::new();
            for answer in &head.answers {
                // Within a sentence.
                let tokens = engine.text().encode(&format!(" {answer}"))?;
                of_head.push(ids.len()..ids.len() + tokens.len());
                ids.extend(tokens);
            }
            spans.push(of_head);
        }
        let sums = spans.iter().map(|spans| {
            let mut sums = vec![0f32; spans.len() * ids.len()];
            for (row, span) in spans.iter().enumerate() {
                for at in span.clone() {
                    sums[row * ids.len() + at] = 1.0;
                }
            }
            Tensor::from_vec(sums, (spans.len(), ids.len()), device)
        });
        let sums = sums.collect::<Result<_, _>>()?;
        let scale = Tensor::ones(width, DType::F32, device)?;
        Ok(Self { heads: heads.to_vec(), ids, sums, scale })
    }

    /// How many times a step asks, with this many blocks.
    fn places(&self, blocks: usize) -> usize {
        self.heads.iter().map(|head| blocks + usize::from(head.before_decoder)).sum()
    }
}

/// Trains tower, projector and decoder on labelled frames, which `source` makes for each step (its
/// number, and the config's batch size). The folder keeps the last checkpoint: called again with a
/// finished folder, the weights are taken from there.
pub fn perceive(
    engine: &mut Engine,
    heads: &[Head],
    config: &OptimConfig,
    io: &TrainIo<'_>,
    source: impl Fn(u64, usize) -> Result<Vec<LabelledFrames>, TrainError>,
) -> Result<TrainSummary, TrainError> {
    config.validate()?;
    if config.max_steps == 0 {
        return Err(TrainError::Setting {
            key: "max_steps",
            value: "0".to_owned(),
            reason: "a stream has no epochs: name the number of steps",
        });
    }
    let heads = Heads::new(engine, heads)?;
    // Nothing is said here, and nothing comes after the clip.
    engine.model().params().set_trains(|name| {
        !(name.contains(".post_layernorm.")
            || name.contains("image_newline")
            || name.contains("lm_head")
            || name == "language_model.model.norm.weight")
    });
    let weights = engine.model().params().trainable();
    let device = engine.model().params().device().clone();
    if !io.ranks.is_alone() {
        return Err(TrainError::Ranks("labelled frames are learnt by one rank alone".to_owned()));
    }
    let records = config.step_records();
    let backward = Backward::new(io.ranks, &weights);
    let summary = run("perception", config, &weights, config.max_steps, io, &device, |step| {
        let batch: Vec<(LabelledFrames, Pixels)> = source(step, records)?
            .into_par_iter()
            .map(|record| {
                let pixels = engine.model().pixels(&Visual::frames(record.frames.clone()))?;
                check(engine, &heads, &record)?;
                Ok((record, pixels))
            })
            .collect::<Result<_, TrainError>>()?;
        let share = Share::of(&batch, &heads);
        let size = batch.len().div_ceil(config.gradient_accumulation_steps.max(1));
        let params = engine.model().params();
        let (grads, parts) = backward.learn(params, config, (&batch, size), |part, tape| {
            pass(engine, &heads, part, &share, tape)
        })?;
        let (mut loss, mut tokens) = (0.0, 0);
        let mut figures = vec![0.0; heads.heads.len()];
        for part in parts {
            loss += part.loss;
            tokens += part.tokens;
            for (sum, value) in figures.iter_mut().zip(part.by_head) {
                *sum += value;
            }
        }
        let figures = heads.heads.iter().map(|head| head.name.into()).zip(figures).collect();
        let ids = batch.iter().map(|(record, _)| record.id.clone()).collect();
        Ok(StepOutput { grads, loss, tokens, figures, ids })
    })?;
    engine.model().params().set_trains(|_| false);
    engine.weights_changed()?;
    Ok(summary)
}

/// Refuses labels that do not fit the frames or the heads.
fn check(engine: &Engine, heads: &Heads, record: &LabelledFrames) -> Result<(), TrainError> {
    let fail = |reason: String| Err(TrainError::Record { id: record.id.clone(), reason });
    let Some(plan) = engine.model().plan_of_count(record.frames.len()) else {
        return fail("the model gives frames no fixed number of tokens".to_owned());
    };
    let tokens = plan.len() - 1;
    if record.labels.len() != heads.heads.len() {
        return fail(format!("{} heads have {} labels", heads.heads.len(), record.labels.len()));
    }
    for (head, labels) in heads.heads.iter().zip(&record.labels) {
        if labels.len() != tokens {
            return fail(format!("{}: {} labels for {tokens} tokens", head.name, labels.len()));
        }
        if let Some((label, _)) =
            labels.iter().find(|(label, _)| *label as usize >= head.answers.len())
        {
            let answers = head.answers.len();
            return fail(format!("{}: label {label} of {answers} answers", head.name));
        }
    }
    Ok(())
}

/// The weights of a step's labels, by head: a head's loss is the mean over its labels, whatever
/// part of the batch they are in; the loss is the mean over heads and places.
struct Share {
    totals: Vec<f64>,
}

impl Share {
    fn of(batch: &[(LabelledFrames, Pixels)], heads: &Heads) -> Self {
        let total = |head: usize| {
            let labels = batch.iter().flat_map(|(record, _)| &record.labels[head]);
            labels.map(|(_, weight)| f64::from(*weight)).sum::<f64>()
        };
        Self { totals: (0..heads.heads.len()).map(total).collect() }
    }
}

struct Part {
    loss: f64,
    tokens: usize,
    /// Losses after the last block.
    by_head: Vec<f64>,
}

fn pass<'a>(
    engine: &'a Engine,
    heads: &Heads,
    part: &[(LabelledFrames, Pixels)],
    share: &Share,
    tape: Tape<'a>,
) -> Result<Passed<'a, Part>, TrainError> {
    let model = engine.model();
    let pixels: Vec<Pixels> = part.iter().map(|(_, pixels)| pixels.clone()).collect();
    let clips = model.encode(&pixels, Mode::TRAIN)?;
    // What stands before a clip in every prompt, and the clip without its newline.
    let (mut ids, mut rows, mut forest) = (Vec::new(), Vec::new(), Forest::new());
    for (record, _) in part {
        let media = Media { source: record.id.clone(), policy: None };
        let prompt = engine.prompt(&[Message::about_video(media, "")])?;
        let Some(PromptVisual { range, .. }) = prompt.visuals.first() else {
            return Err(TrainError::Nothing("clips"));
        };
        let start = ids.len();
        forest.push(Parent::Root, range.end);
        ids.extend(&prompt.ids[..range.end]);
        rows.extend((range.start..range.end - 1).map(|at| (start + at) as u32));
    }
    let embeds = model.embed(&ids, &clips, Mode::TRAIN)?;
    let index = Tensor::from_slice(&rows, rows.len(), embeds.device())?;
    let projected = embeds.index_select(&index, 0)?;
    let projected = rms_norm(&projected, &heads.scale, 1e-6)?;
    let states = model.block_states(&embeds, &Arc::new(forest), Mode::TRAIN, &tape)?;
    let states = states
        .iter()
        .map(|x| rms_norm(&x.index_select(&index, 0)?, &heads.scale, 1e-6))
        .collect::<Result<Vec<_>, _>>()?;

    let places = heads.places(states.len()) as f64;
    let words = model.embed(&heads.ids, &[], Mode::TRAIN)?;
    let mut total: Option<Tensor> = None;
    let mut by_head = Vec::with_capacity(heads.heads.len());
    for (i, head) in heads.heads.iter().enumerate() {
        let labels = part.iter().flat_map(|(record, _)| &record.labels[i]);
        let (kept, labels): (Vec<u32>, Vec<(u32, f32)>) = labels
            .enumerate()
            .filter(|(_, (_, weight))| *weight > 0.0)
            .map(|(row, label)| (row as u32, *label))
            .unzip();
        by_head.push(0.0);
        if kept.is_empty() {
            continue;
        }
        let (targets, weights): (Vec<u32>, Vec<f32>) = labels.into_iter().unzip();
        let kept = Tensor::from_slice(&kept, kept.len(), embeds.device())?;
        let weights = Tensor::from_slice(&weights, weights.len(), embeds.device())?;
        let answers = heads.sums[i].matmul(&words)?;
        let mut add = |tokens: &Tensor| -> Result<f64, TrainError> {
            let logps = gathered_logps(&tokens.index_select(&kept, 0)?, &answers, &targets, None)?;
            let loss = nll(&logps.to_dtype(DType::F32)?, &weights, share.totals[i])?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            let loss = (loss / places)?;
            total = Some(match total.take() {
                Some(sum) => (sum + loss)?,
                None => loss,
            });
            Ok(value)
        };
        if head.before_decoder {
            add(&projected)?;
        }
        for state in &states {
            by_head[i] = add(state)?;
        }
    }
    let Some(total) = total else { return Err(TrainError::Nothing("labels")) };
    let loss = f64::from(total.to_scalar::<f32>()?);
    Ok(Passed { loss: Some((total, tape)), told: Part { loss, tokens: ids.len(), by_head } })
}
