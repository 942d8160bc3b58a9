//! Settings of preference training, with TRL's names. What is not set is not written, so that configs
//! which were resolved before a key was there stay as they are.

use savi_models::{LoraConfig, LoraOptions};
use savi_objectives::{Divergence, Preference, PreferenceLoss, ld_weights};
use savi_schema::Pair;
use serde::{Deserialize, Serialize};

use super::{OptimConfig, Overlong, check_adapter, check_length, is_default, positive};
use crate::TrainError;

mod names;

/// Settings of preference training. Unknown keys are refused by the run's config loader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// The losses that are added up: a name, or a list of names.
    #[serde(with = "names::losses", skip_serializing_if = "names::is_sigmoid")]
    pub loss_type: Vec<PreferenceLoss>,
    /// A weight for each of several losses; 1 where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loss_weights: Vec<f64>,
    /// How strongly the policy is kept near the reference.
    pub beta: f64,
    /// Share of the labels taken to be wrong.
    pub label_smoothing: f64,
    /// Weight of the chosen answers' negative log-likelihood.
    pub rpo_alpha: f64,
    /// Distance between policy and reference.
    #[serde(with = "names::divergence", skip_serializing_if = "is_default")]
    pub f_divergence_type: Divergence,
    /// Alpha of `alpha_divergence`.
    #[serde(skip_serializing_if = "is_half")]
    pub f_alpha_divergence_coef: f64,
    /// Takes the reference to think all answers equally likely, and does not ask it.
    #[serde(skip_serializing_if = "is_default")]
    pub reference_free: bool,
    /// Weighs pairs by how likely the policy is to write them (WPO, arXiv 2406.11827).
    #[serde(skip_serializing_if = "is_default")]
    pub use_weighting: bool,
    /// Weight of the tokens that the longer answer of a pair has more, from 0 to 1 (LD-DPO, arXiv
    /// 2409.06411).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ld_alpha: Option<f64>,
    /// Temperature of `discopop`'s blend.
    #[serde(skip_serializing_if = "is_twentieth")]
    pub discopop_tau: f64,
    /// Difference of rewards that `simpo` aims at.
    #[serde(skip_serializing_if = "is_half")]
    pub simpo_gamma: f64,
    /// Weight of the likelihood in `cpo`.
    #[serde(skip_serializing_if = "is_one")]
    pub cpo_alpha: f64,
    /// What `dno` multiplies win rates with before it compares them (arXiv 2404.03715: 1).
    #[serde(skip_serializing_if = "is_one")]
    pub dno_scale: f64,
    /// Share of the reference in the geometric mixture of it and the weights that a round began with (`tau / eta` of
    /// INPO and of DNO's regularised form). Below 1 it needs a reference of its own beside these weights
    /// ([`dpo_against`](crate::dpo_against)).
    #[serde(skip_serializing_if = "is_one")]
    pub mixture_ratio: f64,
    /// Computes what the reference says of all pairs once, before the first step, and keeps it in the run's
    /// folder: steps then ask the policy alone.
    #[serde(skip_serializing_if = "is_default")]
    pub precompute_ref_log_probs: bool,
    /// Most tokens of a prompt and either of its answers, media included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// What is done with longer pairs. With `truncate` the ends of answers are cut, as with TRL's `keep_start`: the
    /// prompt, which both share, stays.
    #[serde(skip_serializing_if = "is_default")]
    pub overlong: Overlong,
    /// Lets the reference follow the weights, where all of them train (TR-DPO, arXiv 2404.09656).
    #[serde(skip_serializing_if = "is_default")]
    pub sync_ref_model: bool,
    /// How much of the weights the reference becomes each time: 1 is all of them.
    #[serde(skip_serializing_if = "is_three_fifths")]
    pub ref_model_mixup_alpha: f64,
    /// After how many steps each.
    #[serde(skip_serializing_if = "is_usual_sync")]
    pub ref_model_sync_steps: u64,
    /// Adapter rank; 0 trains all weights of the decoder, with a copy of them for reference unless its
    /// log-probs are computed before.
    pub lora_r: usize,
    /// Adapter scale is `lora_alpha / lora_r`.
    pub lora_alpha: f64,
    /// The adapter's other options, with PEFT's names. Layers are looked for in the decoder alone:
    /// what sees runs once for each clip and stays as it is.
    #[serde(skip_serializing_if = "is_default")]
    pub lora: LoraOptions,
    /// Optimiser and data order.
    pub optim: OptimConfig,
}

impl Default for DpoConfig {
    fn default() -> Self {
        let usual = Preference::default();
        Self {
            loss_type: usual.loss_type,
            loss_weights: usual.loss_weights,
            beta: usual.beta,
            label_smoothing: usual.label_smoothing,
            rpo_alpha: usual.rpo_alpha,
            f_divergence_type: usual.f_divergence_type,
            f_alpha_divergence_coef: 0.5,
            reference_free: usual.reference_free,
            use_weighting: usual.use_weighting,
            ld_alpha: None,
            discopop_tau: 0.05,
            simpo_gamma: 0.5,
            cpo_alpha: 1.0,
            dno_scale: 1.0,
            mixture_ratio: 1.0,
            precompute_ref_log_probs: false,
            max_length: None,
            overlong: Overlong::Error,
            sync_ref_model: false,
            ref_model_mixup_alpha: 0.6,
            ref_model_sync_steps: 512,
            lora_r: 8,
            lora_alpha: 32.0,
            lora: LoraOptions::default(),
            optim: OptimConfig::default(),
        }
    }
}

fn is_half(value: &f64) -> bool {
    *value == 0.5
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

fn is_three_fifths(value: &f64) -> bool {
    *value == 0.6
}

fn is_usual_sync(value: &u64) -> bool {
    *value == 512
}

fn is_twentieth(value: &f64) -> bool {
    *value == 0.05
}

impl DpoConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), TrainError> {
        positive("beta", self.beta)?;
        positive("lora_alpha", self.lora_alpha)?;
        check_adapter(self.adapter().as_ref(), &self.lora)?;
        check_length(self.max_length, self.overlong)?;
        for (key, value, most) in [
            ("label_smoothing", self.label_smoothing, 0.5),
            ("rpo_alpha", self.rpo_alpha, f64::MAX),
        ] {
            if !(0.0..=most).contains(&value) {
                let reason = "must be a number from 0 up (label_smoothing: to 0.5)";
                return Err(TrainError::Setting { key, value: value.to_string(), reason });
            }
        }
        if self.has(PreferenceLoss::Inpo) && !self.mixes() {
            let (key, value) = ("loss_type", PreferenceLoss::Inpo.name().to_owned());
            let reason = "reads the policy that a round began with beside a reference: needs mixture_ratio below 1 \
                          (ipo_sum is the loss against one of them)";
            return Err(TrainError::Setting { key, value, reason });
        }
        self.preference(0.0).validate()?;
        if let Some(alpha) = self.ld_alpha {
            ld_weights(&[], 0, alpha)?;
        }
        // The running mean of BCO is about rewards as they are logged, which are the first loss's.
        if self.has(PreferenceLoss::BcoPair)
            && let Some(first) = self.loss_type.first()
            && !first.reads_reference()
            && *first != PreferenceLoss::Sft
        {
            let (key, value) = ("loss_type", first.name().to_owned());
            let reason = "has rewards of its own kind: name bco_pair, which follows the mean of the \
                          first loss's rewards, before it";
            return Err(TrainError::Setting { key, value, reason });
        }
        self.check_sync()?;
        self.optim.validate()
    }

    /// Refuses a reference that is to follow the weights and cannot.
    fn check_sync(&self) -> Result<(), TrainError> {
        let setting = |key, value: String, reason| Err(TrainError::Setting { key, value, reason });
        if !(0.0..=1.0).contains(&self.ref_model_mixup_alpha) {
            let value = self.ref_model_mixup_alpha.to_string();
            return setting("ref_model_mixup_alpha", value, "from 0 to 1");
        }
        if self.ref_model_sync_steps == 0 {
            return setting("ref_model_sync_steps", "0".to_owned(), "at least 1");
        }
        let reason = match self {
            Self { sync_ref_model: false, .. } => return Ok(()),
            Self { precompute_ref_log_probs: true, .. } => {
                "what precompute_ref_log_probs has computed would be that of a reference long past"
            }
            Self { lora_r: 1.., .. } => {
                "with an adapter the reference is the model without it, which does not move: needs lora_r = 0"
            }
            _ if !self.reads_reference() => "the losses ask no reference",
            _ => return Ok(()),
        };
        setting("sync_ref_model", "true".to_owned(), reason)
    }

    /// Refuses margins that a loss would pass over.
    pub(crate) fn check_margins(&self, pairs: &[Pair]) -> Result<(), TrainError> {
        let Some(loss) = self.loss_type.iter().find(|loss| !adds_margins(**loss)) else {
            return Ok(());
        };
        match pairs.iter().find(|pair| pair.margin != 0.0) {
            Some(pair) => Err(TrainError::Record {
                id: pair.id.clone(),
                reason: format!(
                    "margin {} cannot be used with loss_type = {:?}, which has no logit to add it to",
                    pair.margin,
                    loss.name()
                ),
            }),
            None => Ok(()),
        }
    }

    /// Refuses pairs without win rates where a loss learns from them: they are what such pairs have for scores.
    pub(crate) fn check_win_rates(&self, pairs: &[Pair]) -> Result<(), TrainError> {
        let Some(loss) = self.loss_type.iter().find(|loss| loss.reads_win_rates()) else {
            return Ok(());
        };
        let is_rate = |score: Option<f64>| score.is_some_and(|score| (0.0..=1.0).contains(&score));
        match pairs.iter().find(|pair| !is_rate(pair.chosen_score) || !is_rate(pair.rejected_score))
        {
            Some(pair) => Err(TrainError::Record {
                id: pair.id.clone(),
                reason: format!(
                    "loss_type = {:?} learns from win rates: chosen_score and rejected_score have to be there, from 0 \
                     to 1",
                    loss.name()
                ),
            }),
            None => Ok(()),
        }
    }

    /// Whether any loss learns from win rates.
    pub(crate) fn reads_win_rates(&self) -> bool {
        self.loss_type.iter().any(|loss| loss.reads_win_rates())
    }

    /// Whether the reference is mixed with the weights that the round began with.
    pub(crate) fn mixes(&self) -> bool {
        self.mixture_ratio < 1.0
    }

    /// Whether pairs' margins are part of the loss.
    pub(crate) fn takes_margins(&self) -> bool {
        self.loss_type.iter().all(|loss| adds_margins(*loss))
    }

    /// Whether `loss` is one of the losses.
    pub(crate) fn has(&self, loss: PreferenceLoss) -> bool {
        self.loss_type.contains(&loss)
    }

    /// Whether pairs are matched by their rank in the step.
    pub(crate) fn sorts(&self) -> bool {
        self.loss_type.iter().any(|loss| loss.sorts())
    }

    /// Whether any loss asks the reference.
    pub(crate) fn reads_reference(&self) -> bool {
        !self.reference_free && self.loss_type.iter().any(|loss| loss.reads_reference())
    }

    /// The objective, with BCO's baseline as it is before a step.
    pub(crate) fn preference(&self, bco_delta: f64) -> Preference {
        Preference {
            loss_type: self.loss_type.clone(),
            loss_weights: self.loss_weights.clone(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            rpo_alpha: self.rpo_alpha,
            f_divergence_type: self.f_divergence_type,
            f_alpha_divergence_coef: self.f_alpha_divergence_coef,
            reference_free: self.reference_free,
            use_weighting: self.use_weighting,
            discopop_tau: self.discopop_tau,
            simpo_gamma: self.simpo_gamma,
            cpo_alpha: self.cpo_alpha,
            bco_delta,
            mixture_ratio: self.mixture_ratio,
            dno_scale: self.dno_scale,
        }
    }

    pub(crate) fn adapter(&self) -> Option<LoraConfig> {
        let (r, lora_alpha, options) = (self.lora_r, self.lora_alpha, self.lora.clone());
        (r > 0).then_some(LoraConfig { r, lora_alpha, options })
    }
}

/// The likelihood of chosen answers stands beside losses with margins and is not about them.
fn adds_margins(loss: PreferenceLoss) -> bool {
    loss.takes_margins() || loss == PreferenceLoss::Sft
}
