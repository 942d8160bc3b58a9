//! What the losses are made of: log-ratios, scores, averages, logits.

use candle_core::{Result, Tensor};

use super::{PairLogps, Preference, PreferenceLoss, SideLogps};

/// Inputs and settings together, after both have been checked.
pub(crate) struct Terms<'a> {
    pub(crate) logps: &'a PairLogps<'a>,
    pub(crate) settings: &'a Preference,
}

/// A tensor for the chosen side and one for the rejected side.
pub(crate) type Sides = (Tensor, Tensor);

impl Terms<'_> {
    fn sides(&self, of: impl Fn(&SideLogps<'_>) -> Result<Tensor>) -> Result<Sides> {
        Ok((of(&self.logps.chosen)?, of(&self.logps.rejected)?))
    }

    /// Log-probs under the reference, or under the geometric mixture of it and the previous policy;
    /// 0 where there is none.
    pub(crate) fn anchors(&self) -> Result<Sides> {
        let share = self.settings.mixture_ratio;
        self.sides(|side| match (side.reference, side.previous) {
            (Some(reference), _) if self.settings.reference_free => reference.zeros_like(),
            (Some(reference), Some(previous)) if share < 1.0 => {
                (reference.detach() * share)? + (previous.detach() * (1.0 - share))?
            }
            (Some(reference), _) => Ok(reference.detach()),
            (None, _) => side.policy.zeros_like(),
        })
    }

    /// `log pi - log pi_ref`.
    pub(crate) fn ratios(&self) -> Result<Sides> {
        let (chosen, rejected) = self.anchors()?;
        Ok(((self.logps.chosen.policy - chosen)?, (self.logps.rejected.policy - rejected)?))
    }

    /// The log-ratios times beta.
    pub(crate) fn rewards(&self) -> Result<Sides> {
        let ratios = self.ratios()?;
        Ok(((ratios.0 * self.settings.beta)?, (ratios.1 * self.settings.beta)?))
    }

    /// What takes the place of the log-ratios under the divergence that is set.
    pub(crate) fn scores(&self) -> Result<Sides> {
        let (divergence, alpha) =
            (self.settings.f_divergence_type, self.settings.f_alpha_divergence_coef);
        let ratios = self.ratios()?;
        Ok((divergence.score(&ratios.0, alpha)?, divergence.score(&ratios.1, alpha)?))
    }

    /// Averages over the tokens of each side; an empty one counts as one token.
    pub(crate) fn averages(&self, of: &Sides) -> Result<Sides> {
        let per = |values: &Tensor, side: &SideLogps<'_>| match side.lengths {
            Some(lengths) => values / lengths.detach().maximum(1.0)?.to_dtype(values.dtype())?,
            None => candle_core::bail!("lengths are missing"),
        };
        Ok((per(&of.0, &self.logps.chosen)?, per(&of.1, &self.logps.rejected)?))
    }

    /// Log-probs of an average token.
    pub(crate) fn average_logps(&self) -> Result<Sides> {
        self.averages(&self.sides(|side| Ok(side.policy.clone()))?)
    }

    /// `beta * difference + margin`.
    pub(crate) fn logit(&self, of: &Sides) -> Result<Tensor> {
        let logit = ((&of.0 - &of.1)? * self.settings.beta)?;
        match self.logps.margins {
            Some(margins) => logit + margins.detach(),
            None => Ok(logit),
        }
    }

    /// Win rates of both sides.
    pub(crate) fn win_rates(&self) -> Result<Sides> {
        self.sides(|side| match side.win_rates {
            Some(rates) => Ok(rates.detach()),
            None => candle_core::bail!("win_rates are missing"),
        })
    }

    /// The rewards that are logged: those of the first loss. Margins are left out, as they are not
    /// about the policy.
    pub(crate) fn logged_rewards(&self) -> Result<Sides> {
        let scaled = |of: Sides| -> Result<Sides> {
            Ok(((of.0 * self.settings.beta)?, (of.1 * self.settings.beta)?))
        };
        match self.settings.loss_type.first() {
            Some(PreferenceLoss::Simpo | PreferenceLoss::Orpo) => scaled(self.average_logps()?),
            Some(PreferenceLoss::Cpo) => scaled(self.sides(|side| Ok(side.policy.clone()))?),
            _ => self.rewards(),
        }
    }
}
