//! The completions of some groups in one pass: what both objectives see of them.

use candle_core::{D, DType, Tensor};
use savi_engine::Engine;
use savi_nn::checkpoint::Tape;
use savi_nn::layers::Mode;
use savi_nn::ops::LOGP_CHUNK;
use savi_objectives::policy::CompletionTokens;

use super::Session;
use super::rollout::Group;
use crate::{Packed, TrainError};

/// Packed groups with the numbers of their tokens; tensors are `[tokens]`.
pub(super) struct Pass {
    pub(super) packed: Packed,
    clips: Vec<Tensor>,
    pub(super) segments: Tensor,
    pub(super) weights: Tensor,
    /// Log-probs under the policy that drew them.
    pub(super) old_logps: Tensor,
}

impl Pass {
    /// Packs groups. At least one token is expected.
    pub(super) fn pack(
        engine: &Engine,
        session: &Session<'_>,
        groups: &[&Group],
    ) -> Result<Self, TrainError> {
        let trees = groups
            .iter()
            .map(|group| group.tree(engine, &session.prompts[group.prompt]))
            .collect::<Result<Vec<_>, _>>()?;
        let packed = Packed::new(&trees);
        let clips = packed.clips.iter().map(|shown| engine.clip(shown));
        let clips = clips.collect::<Result<Vec<_>, _>>()?;
        let device = engine.model().params().device();
        let vector = |values: Vec<f32>| Tensor::from_slice(&values, values.len(), device);
        let weights = groups.iter().flat_map(|group| group.weights().map(|w| w as f32)).collect();
        let old = groups.iter().flat_map(|group| group.old_logps.iter().copied()).collect();
        Ok(Self {
            segments: Tensor::from_slice(&packed.branch_of, packed.branch_of.len(), device)?,
            weights: vector(weights)?,
            old_logps: vector(old)?,
            packed,
            clips,
        })
    }

    /// Lets layers of the adapter drop out, where it is told to.
    pub(super) fn with_dropout(
        mut self,
        session: &Session<'_>,
        step: u64,
    ) -> Result<Self, TrainError> {
        let settings = &session.settings;
        if settings.lora.as_ref().is_some_and(|lora| lora.options.lora_dropout > 0.0) {
            self.packed = self.packed.with_dropout(settings.optim.seed, step)?;
        }
        Ok(self)
    }

    /// Where the tokens belong.
    pub(super) fn layout(&self) -> CompletionTokens<'_> {
        CompletionTokens {
            segments: &self.segments,
            completions: self.packed.branches,
            weights: &self.weights,
        }
    }

    /// The states before the tokens, `[tokens, width]`.
    pub(super) fn states<'a>(
        &self,
        engine: &'a Engine,
        mode: Mode,
        tape: &Tape<'a>,
    ) -> Result<Tensor, TrainError> {
        Ok(self.packed.states_on(engine, &self.clips, mode, tape)?)
    }

    /// Log-probs of the tokens after these states, at the temperature of sampling.
    pub(super) fn logps(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        states: &Tensor,
        mode: Mode,
    ) -> Result<Tensor, TrainError> {
        let temperature = session.settings.sampling.temperature;
        let logps = engine.model().logps_at(states, &self.packed.targets, temperature, mode)?;
        Ok(logps.to_dtype(DType::F32)?)
    }

    /// Log-probs under the policy as it is, without gradients.
    pub(super) fn look(
        &self,
        engine: &Engine,
        session: &Session<'_>,
    ) -> Result<Tensor, TrainError> {
        let states = self.states(engine, Mode::INFER, &Tape::default())?;
        self.logps(engine, session, &states, Mode::INFER)
    }

    /// Log-probs under the reference.
    pub(super) fn reference(
        &self,
        engine: &Engine,
        session: &Session<'_>,
    ) -> Result<Tensor, TrainError> {
        let states = self.states(engine, Mode::REFERENCE, &Tape::default())?;
        self.logps(engine, session, &states, Mode::REFERENCE)
    }

    /// Entropies of the policy after these states, a part of the logits at a time. Without gradients in
    /// [`Mode::INFER`]; with them, parts are segments of the tape: where it runs segments again, logits are not kept.
    pub(super) fn entropies<'a>(
        &self,
        engine: &'a Engine,
        session: &Session<'_>,
        states: &Tensor,
        mode: Mode<'static>,
        tape: &Tape<'a>,
    ) -> Result<Tensor, TrainError> {
        let temperature = session.settings.sampling.temperature;
        let rows = states.dim(0)?;
        let states = if mode.train { states.clone() } else { states.detach() };
        let entropies = move |states: &Tensor| {
            let logits = engine.model().logits(states, mode)?.to_dtype(DType::F32)?;
            let logits = (logits / temperature)?;
            let above = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
            let weights = above.exp()?;
            let sum = weights.sum(D::Minus1)?;
            // H = log sum - (sum of w x) / (sum of w), for w = exp(x).
            sum.log()? - ((weights * above)?.sum(D::Minus1)? / sum)?
        };
        let mut parts = Vec::new();
        for start in (0..rows).step_by(LOGP_CHUNK) {
            let part = states.narrow(0, start, LOGP_CHUNK.min(rows - start))?;
            parts.push(match mode.train {
                true => tape.segment(&part, entropies)?,
                false => entropies(&part)?,
            });
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Sum and maximum of how far log-probs of the tokens that count are from those of the policy that drew them.
    pub(super) fn apart(&self, logps: &Tensor) -> Result<(f64, f64), TrainError> {
        let (own, old) = (logps.detach().to_vec1::<f32>()?, self.old_logps.to_vec1::<f32>()?);
        let weights = self.weights.to_vec1::<f32>()?;
        let apart = own.iter().zip(&old).zip(&weights).filter(|(_, weight)| **weight > 0.0);
        Ok(apart.fold((0.0, 0f64), |(sum, most), ((own, old), _)| {
            let apart = f64::from((own - old).abs());
            (sum + apart, most.max(apart))
        }))
    }
}
