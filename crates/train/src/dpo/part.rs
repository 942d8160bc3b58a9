//! A part of a step of preference training: its forward passes, its share of the loss, its gradients.

use candle_core::{D, DType, Device, Tensor};
use savi_engine::Engine;
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_nn::ops::LOGP_CHUNK;
use savi_objectives::{
    ChosenTokens, PairLogps, Preference, PreferenceMetrics, PreferenceOutput, SideLogps, StepLogps,
    Totals, ld_weights, preference, sequence_logps, wpo_weights,
};
use savi_schema::Pair;

use crate::backward::Passed;
use crate::{DpoConfig, Packed, TrainError, Tree};

/// A pair's place in its step and among all pairs.
pub(super) type Place = (usize, usize);

/// A step: what all its parts share.
pub(super) struct Step<'a> {
    pub(super) engine: &'a Engine,
    pub(super) pairs: &'a [Pair],
    pub(super) trees: &'a [Tree],
    pub(super) config: &'a DpoConfig,
    pub(super) settings: Preference,
    pub(super) totals: Totals,
    pub(super) step: u64,
    /// What the reference says of all pairs, where that is known.
    pub(super) precomputed: Option<&'a [Reference]>,
}

/// Log-probs of a pair's answers under the reference.
pub(super) type Reference = [f64; 2];

/// What is told of a part of a step.
pub(super) struct Outcome {
    pub(super) loss: f64,
    pub(super) tokens: usize,
    pub(super) metrics: PreferenceMetrics,
}

/// Log-probs of a pair as plain numbers: chosen and rejected under the policy, then under the
/// reference.
pub(super) type Numbers = [f64; 4];

/// Log-probs of all pairs of a step.
pub(super) struct Whole {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    reference_chosen: Vec<f64>,
    reference_rejected: Vec<f64>,
}

impl From<Vec<Numbers>> for Whole {
    fn from(pairs: Vec<Numbers>) -> Self {
        let column = |at: usize| pairs.iter().map(|pair| pair[at]).collect();
        Self {
            chosen: column(0),
            rejected: column(1),
            reference_chosen: column(2),
            reference_rejected: column(3),
        }
    }
}

/// A number for the chosen answers and one for the rejected ones, `[pairs]` each.
type Sides = (Tensor, Tensor);

/// The trees of a part in one pass.
struct Row {
    packed: Packed,
    clips: Vec<Tensor>,
    /// The branch of each target.
    segments: Tensor,
    /// LD-DPO's weight of each target.
    ld: Option<Tensor>,
}

impl Row {
    fn new(
        step: &Step<'_>,
        part: &[Place],
        device: &Device,
        trains: bool,
    ) -> Result<Self, TrainError> {
        let mut packed = Packed::new(part.iter().map(|&(_, i)| &step.trees[i]));
        if trains && step.config.lora.lora_dropout > 0.0 {
            packed = packed.with_dropout(step.config.optim.seed, step.step)?;
        }
        let clips = packed.clips.iter().map(|shown| step.engine.clip(shown));
        let clips = clips.collect::<Result<Vec<_>, _>>()?;
        let segments = Tensor::from_slice(&packed.branch_of, packed.branch_of.len(), device)?;
        let ld = match step.config.ld_alpha {
            Some(alpha) => {
                // Branches alternate, as the weights want them: chosen, rejected.
                let weights = ld_weights(&packed.branch_of, part.len(), alpha)?;
                let weights: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
                Some(Tensor::from_slice(&weights, weights.len(), device)?)
            }
            None => None,
        };
        Ok(Self { packed, clips, segments, ld })
    }

    /// Log-probs of answers from those of their tokens.
    fn sums(&self, tokens: &Tensor) -> Result<Sides, TrainError> {
        let sums = match &self.ld {
            Some(weights) => sequence_logps(&(tokens * weights)?, &self.segments, self.branches())?,
            None => sequence_logps(tokens, &self.segments, self.branches())?,
        };
        self.sides(&sums)
    }

    fn branches(&self) -> usize {
        self.packed.branches
    }

    /// Numbers of branches, by side.
    fn sides(&self, of: &Tensor) -> Result<Sides, TrainError> {
        let pairs = of.reshape((self.branches() / 2, 2))?;
        Ok((pairs.narrow(1, 0, 1)?.flatten_all()?, pairs.narrow(1, 1, 1)?.flatten_all()?))
    }

    /// The states before the targets, and their log-probs under the policy.
    fn policy<'a>(
        &self,
        engine: &'a Engine,
        mode: Mode<'a>,
        tape: &Tape<'a>,
    ) -> Result<(Tensor, Tensor), TrainError> {
        let states = self.packed.states_on(engine, &self.clips, mode, tape)?;
        let logps = engine.model().logps(&states, &self.packed.targets, mode)?;
        Ok((states, logps.to_dtype(DType::F32)?))
    }

    /// Log-probs of answers under the reference: as they are known, or by a pass.
    fn reference(&self, step: &Step<'_>, part: &[Place]) -> Result<Sides, TrainError> {
        if let Some(known) = step.precomputed {
            let side = |at: usize| -> Result<Tensor, TrainError> {
                let logps: Vec<f32> = part.iter().map(|&(_, i)| known[i][at] as f32).collect();
                Ok(Tensor::from_slice(&logps, logps.len(), self.segments.device())?)
            };
            return Ok((side(0)?, side(1)?));
        }
        self.untrained(step)
    }

    /// Log-probs of answers under the engine's weights as they were before the training, by a pass.
    fn untrained(&self, step: &Step<'_>) -> Result<Sides, TrainError> {
        let tokens = self.packed.logps(step.engine, &self.clips, Mode::REFERENCE)?;
        self.sums(&tokens.to_dtype(DType::F32)?)
    }

    /// Win rates of answers, which are these pairs' scores; 0 where a pair has none.
    fn win_rates(&self, step: &Step<'_>, part: &[Place]) -> Result<Sides, TrainError> {
        let side = |of: fn(&Pair) -> Option<f64>| -> Result<Tensor, TrainError> {
            let rate = |&(_, i): &Place| of(&step.pairs[i]).unwrap_or_default() as f32;
            let rates: Vec<f32> = part.iter().map(rate).collect();
            Ok(Tensor::from_slice(&rates, rates.len(), self.segments.device())?)
        };
        Ok((side(|pair| pair.chosen_score)?, side(|pair| pair.rejected_score)?))
    }

    /// Numbers of tokens.
    fn lengths(&self) -> Result<Sides, TrainError> {
        let lengths: Vec<f32> = self.packed.lengths().into_iter().map(|n| n as f32).collect();
        self.sides(&Tensor::from_slice(&lengths, lengths.len(), self.segments.device())?)
    }

    /// WPO's weights of answers.
    fn weights(
        &self,
        engine: &Engine,
        states: &Tensor,
        logps: &Tensor,
    ) -> Result<Sides, TrainError> {
        let squares = log_sum_sq_probs(engine, states)?;
        self.sides(&wpo_weights(logps, &squares, &self.segments, self.branches())?)
    }
}

/// `log sum_v p(v)^2` after each state, without gradients and never with all logits at once.
fn log_sum_sq_probs(engine: &Engine, states: &Tensor) -> Result<Tensor, TrainError> {
    let (rows, states) = (states.dim(0)?, states.detach());
    let mut parts = Vec::new();
    for start in (0..rows).step_by(LOGP_CHUNK) {
        let chunk = states.narrow(0, start, LOGP_CHUNK.min(rows - start))?;
        let logits = engine.model().logits(&chunk, Mode::INFER)?.to_dtype(DType::F32)?;
        let above = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        let log_sum = |x: Tensor| x.exp()?.sum(D::Minus1)?.log();
        // The maximum cancels between the two.
        let all = (log_sum(above.clone())? * 2.0)?;
        parts.push((log_sum((above * 2.0)?)? - all)?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

fn numbers(of: &Tensor) -> Result<Vec<f64>, TrainError> {
    Ok(of.detach().to_dtype(DType::F64)?.to_vec1()?)
}

impl<'a> Step<'a> {
    fn device(&self) -> &Device {
        self.engine.model().params().device()
    }

    /// Log-probs of a part's pairs under the reference.
    pub(super) fn ask(&self, part: &[Place]) -> Result<Vec<Reference>, TrainError> {
        let (chosen, rejected) =
            Row::new(self, part, self.device(), false)?.reference(self, part)?;
        Ok(numbers(&chosen)?.into_iter().zip(numbers(&rejected)?).map(|(c, r)| [c, r]).collect())
    }

    /// Log-probs of a part's pairs, without gradients.
    pub(super) fn look(&self, part: &[Place]) -> Result<Vec<Numbers>, TrainError> {
        let row = Row::new(self, part, self.device(), true)?;
        // The pass that learns, dropout and all, of which nothing is kept but its numbers.
        let tape = self.config.optim.tape();
        let (_, tokens) = row.policy(self.engine, Mode::TRAIN, &tape)?;
        let policy = row.sums(&tokens)?;
        let policy = (numbers(&policy.0)?, numbers(&policy.1)?);
        let reference = match self.config.reads_reference() {
            true => {
                let (chosen, rejected) = row.reference(self, part)?;
                (numbers(&chosen)?, numbers(&rejected)?)
            }
            false => (vec![0.0; part.len()], vec![0.0; part.len()]),
        };
        let policy = policy.0.into_iter().zip(policy.1);
        let reference = reference.0.into_iter().zip(reference.1);
        Ok(policy.zip(reference).map(|((a, b), (c, d))| [a, b, c, d]).collect())
    }

    /// A part's share of the loss.
    pub(super) fn learn<'t>(
        &self,
        part: &[Place],
        whole: Option<&Whole>,
        tape: Tape<'t>,
    ) -> Result<Passed<'t, Outcome>, TrainError>
    where
        'a: 't,
    {
        let row = Row::new(self, part, self.device(), true)?;
        let output = self.objective(part, whole, &row, Mode::TRAIN, &tape)?;
        let told = Outcome {
            loss: f64::from(output.loss.to_scalar::<f32>()?),
            tokens: row.packed.ids.len(),
            metrics: output.metrics,
        };
        Ok(Passed { loss: Some((output.loss, tape)), told })
    }

    /// The loss of held-out pairs and their figures, without dropout and gradients.
    pub(super) fn evaluate(&self, part: &[Place]) -> Result<(f64, PreferenceMetrics), TrainError> {
        let row = Row::new(self, part, self.device(), false)?;
        let output = self.objective(part, None, &row, Mode::INFER, &Tape::default())?;
        Ok((f64::from(output.loss.to_scalar::<f32>()?), output.metrics))
    }

    /// A part's share of the loss.
    fn objective<'t>(
        &self,
        part: &[Place],
        whole: Option<&Whole>,
        row: &Row,
        mode: Mode<'t>,
        tape: &Tape<'t>,
    ) -> Result<PreferenceOutput, TrainError>
    where
        'a: 't,
    {
        let (engine, config) = (self.engine, self.config);
        let (states, tokens) = row.policy(engine, mode, tape)?;
        let policy = row.sums(&tokens)?;
        let start = part.first().map_or(0, |&(place, _)| place);
        let own = |column: &[f64]| -> Result<Tensor, TrainError> {
            let own: Vec<f32> =
                column.iter().skip(start).take(part.len()).map(|&logp| logp as f32).collect();
            Ok(Tensor::from_slice(&own, own.len(), self.device())?)
        };
        let reference = match (config.reads_reference(), whole) {
            (false, _) => None,
            (true, None) => Some(row.reference(self, part)?),
            (true, Some(step)) => {
                Some((own(&step.reference_chosen)?, own(&step.reference_rejected)?))
            }
        };
        let previous = match config.mixes() && config.reads_reference() {
            true => Some(row.untrained(self)?),
            false => None,
        };
        let win_rates = match config.reads_win_rates() {
            true => Some(row.win_rates(self, part)?),
            false => None,
        };
        let lengths = row.lengths()?;
        let weights = match config.use_weighting {
            true => Some(row.weights(engine, &states, &tokens)?),
            false => None,
        };
        let margins: Vec<f32> = part.iter().map(|&(_, i)| self.pairs[i].margin as f32).collect();
        let margins = Tensor::from_slice(&margins, margins.len(), self.device())?;
        let is_chosen = |branch: &u32| if branch.is_multiple_of(2) { 1.0 } else { 0.0 };
        let is_chosen: Vec<f32> = row.packed.branch_of.iter().map(is_chosen).collect();
        let is_chosen = Tensor::from_slice(&is_chosen, is_chosen.len(), self.device())?;
        let logps = PairLogps {
            chosen: SideLogps {
                reference: reference.as_ref().map(|sides| &sides.0),
                previous: previous.as_ref().map(|sides| &sides.0),
                win_rates: win_rates.as_ref().map(|sides| &sides.0),
                lengths: Some(&lengths.0),
                weights: weights.as_ref().map(|sides| &sides.0),
                ..SideLogps::alone(&policy.0)
            },
            rejected: SideLogps {
                reference: reference.as_ref().map(|sides| &sides.1),
                previous: previous.as_ref().map(|sides| &sides.1),
                win_rates: win_rates.as_ref().map(|sides| &sides.1),
                lengths: Some(&lengths.1),
                weights: weights.as_ref().map(|sides| &sides.1),
                ..SideLogps::alone(&policy.1)
            },
            margins: config.takes_margins().then_some(&margins),
            step: whole.map(|step| StepLogps {
                chosen: &step.chosen,
                rejected: &step.rejected,
                reference_chosen: &step.reference_chosen,
                reference_rejected: &step.reference_rejected,
                start,
            }),
        };
        let chosen = ChosenTokens { logps: &tokens, weights: &is_chosen };
        Ok(preference(&logps, Some(&chosen), &self.totals, &self.settings)?)
    }
}
